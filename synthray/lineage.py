"""Who a row is and where it comes from: ids by lineage, never by position.

A source row's id comes from its content and occurrence number, a condition row's from its index in
its own table, a generated row's from its parent, the making step's name and its ordinal. So ids are
the same for any number of workers, blocks and shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from synthray.spelling import identifier

FAILED = pa.struct(
    [
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
        pa.field("attempts", pa.int32()),
    ]
)
"""Type of the reserved column `failed`; null means that the row is fine."""

IDENTITY: dict[str, pa.DataType] = {
    "row_id": pa.string(),
    "parent_id": pa.string(),
    "round": pa.int32(),
}
"""The reserved columns that every stored row has."""

RESERVED = frozenset({*IDENTITY, "failed", "parents", "reject_step", "reject_reason"})
"""Column names that no setting may claim."""


def canonical(value: Any) -> str:
    """Return JSON that is the same text for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def ordered(value: Any) -> str:
    """Return JSON that keeps the order of mappings, for settings in which order decides."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def connected(ties: Iterable[tuple[str, str]]) -> Callable[[str], str]:
    """Return a function from a name to the smallest name that `ties` connect it with."""
    root: dict[str, str] = {}

    def find(one: str) -> str:
        while root.setdefault(one, one) != one:
            root[one] = root[root[one]]
            one = root[one]
        return one

    for one, other in ties:
        low, high = sorted((find(one), find(other)))
        root[high] = low
    return find


def digest(*parts: Any) -> str:
    """Return 24 hex digits (96 bits) that stand for `parts`."""
    return hashlib.blake2b(canonical(parts).encode(), digest_size=12).hexdigest()


def condition_id(step: str, seed: int, index: int) -> str:
    """Return the id of a condition row; prefix-stable, since only its index counts."""
    return digest("condition", step, seed, index)


def child_id(parent: str, step: str, ordinal: int) -> str:
    """Return the id of the `ordinal`-th row that `step` makes from the row `parent`."""
    return digest("child", parent, step, ordinal)


def uniform(*parts: Any) -> float:
    """Return a number in [0, 1) that depends on `parts` alone."""
    return int(digest(*parts)[:13], 16) / 16**13


def content_ids(relation: str, columns: list[str], step: str = "", number: int = 0) -> str:
    """Return SQL that gives the rows of `relation` the reserved columns, ids from content and occurrence.

    Rows that bring a `row_id` keep it, so an exported dataset goes on with its lineage. A `step` that adds
    rows to others is part of the ids, so that equal rows from two places are two rows.
    """
    if "row_id" in columns:
        typed = {name: "INTEGER" if name == "round" else "VARCHAR" for name in IDENTITY}
        missing = [f"CAST(NULL AS {typed[name]}) AS {name}" for name in typed if name not in columns]
        held = ", ".join(f"CAST({name} AS {typed[name]}) AS {name}" for name in typed if name in columns)
        return f"SELECT {', '.join([*missing, f'* REPLACE ({held})'])} FROM ({relation})"
    own = ", ".join(identifier(name) for name in columns if name not in IDENTITY)
    origin = "'" + f"{step}#".replace("'", "''") + "' || " if step else ""
    return (
        f"SELECT md5({origin}_content || '#' || row_number() OVER (PARTITION BY _content))[:24] AS row_id, "
        f"CAST(NULL AS VARCHAR) AS parent_id, CAST({number} AS INTEGER) AS round, * EXCLUDE (_content) "
        f"FROM (SELECT {own}, {content(columns)} AS _content FROM ({relation}))"
    )


def content(columns: list[str]) -> str:
    """Return SQL for a row's content, from which its id comes: the same text for any order of columns."""
    names = [identifier(name) for name in sorted(columns) if name not in IDENTITY]
    packed = ", ".join(f"{name} := {name}" for name in names)
    return f"CAST(to_json(struct_pack({packed})) AS VARCHAR)"
