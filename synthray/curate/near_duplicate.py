"""Mark rows whose text is nearly that of a row that is kept."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from annotated_types import Ge, Gt, Le

from synthray.lineage import connected
from synthray.operator import Operator
from synthray.query import SQL, Query, shipped

if TYPE_CHECKING:
    from synthray.stage import Stage

_WORD = re.compile(r"\w+")
_MISSED = 0.001
_PAIRS = "marks/near_duplicate_pairs.sql"


@dataclass(frozen=True)
class NearDuplicate(Operator):
    """Add `near_duplicate_of` (null: keep), `near_duplicate_similarity` and `near_duplicate_cluster`.

    MinHash signatures (datasketch, `permutations` of them) over runs of `words` words find candidates by
    band; each is verified by the true Jaccard similarity of the two texts' runs. In the order of row_id a
    row is kept unless a kept row is at or above `threshold`, so `near_duplicate_of` always names a kept row.
    A cluster is what such pairs connect; rows in none have a null. Null texts are never duplicates.
    """

    text: str
    threshold: Annotated[float, Gt(0), Le(1)] = 0.8
    words: Annotated[int, Ge(1), Le(50)] = 3
    permutations: Annotated[int, Ge(16), Le(1024)] = 128

    @property
    def reads(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return {
            "near_duplicate_of": pa.string(),
            "near_duplicate_similarity": pa.float64(),
            "near_duplicate_cluster": pa.string(),
        }

    def files(self) -> tuple[Path, ...]:
        """Return the SQL that pairs."""
        return (SQL / _PAIRS,)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the column holds no text."""
        self.require_text(before, self.text)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        return self.attach(table, self.marks({"signatures": self.signatures(table)}))

    def apply(self, stage: Stage) -> None:
        """Sign in a map pass, pair over the narrow signatures, mark in a second pass."""
        signed = stage.narrow(
            stage.dataset(["row_id", self.text]), self.signatures, stage.path / "signatures"
        )
        stage.added(self.marks({"signatures": signed}))

    def signatures(self, table: pa.Table) -> pa.Table:
        """Return row_id, the band hashes and the hashed word runs of each text that has words."""
        from datasketch import MinHash

        width = band_width(self.threshold, self.permutations)
        rows = [
            (row_id, shingles(text, self.words))
            for row_id, text in zip(table["row_id"].to_pylist(), table[self.text].to_pylist(), strict=True)
            if text and _WORD.search(text)
        ]
        signed = MinHash.bulk([runs for _, runs in rows], num_perm=self.permutations) if rows else []
        bands = [
            [
                _hash(values[start : start + width].tobytes())
                for start in range(0, self.permutations - width + 1, width)
            ]
            for values in (one.hashvalues for one in signed)
        ]
        runs = [sorted({_hash(run) for run in runs}) for _, runs in rows]
        return pa.table(
            {
                "row_id": pa.array([row_id for row_id, _ in rows], pa.string()),
                "bands": pa.array(bands, pa.list_(pa.int64())),
                "runs": pa.array(runs, pa.list_(pa.int64())),
            }
        )

    def marks(self, relations: Mapping[str, Any]) -> pa.Table:
        """Return row_id and the marks of all rows that are in a pair at or above the threshold."""
        with Query(relations) as query:
            sql = shipped(_PAIRS)
            pairs = query.rows(f"SELECT * FROM ({sql}) WHERE similarity >= {self.threshold!r}")
        return _decide(pairs)


def shingles(text: str, words: int) -> list[bytes]:
    """Return the runs of `words` words of a text, lower-cased; a shorter text is one run."""
    found = _WORD.findall(text.lower())
    runs = [" ".join(found[place : place + words]) for place in range(max(1, len(found) - words + 1))]
    return [run.encode() for run in dict.fromkeys(runs)]


def _hash(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest()) >> 1


@functools.cache
def band_width(threshold: float, permutations: int) -> int:
    """Return the widest band by which a pair at `threshold` is missed in at most one of 1,000 cases."""
    for width in range(permutations, 1, -1):
        if (1 - threshold**width) ** (permutations // width) <= _MISSED:
            return width
    return 1


def _decide(pairs: list[tuple[str, str, float]]) -> pa.Table:
    """Keep rows greedily in the order of row_id; name for each other row the nearest kept one."""
    partners: dict[str, list[tuple[str, float]]] = {}
    for one, other, similarity in pairs:
        partners.setdefault(one, []).append((other, similarity))
        partners.setdefault(other, []).append((one, similarity))
    find = connected((one, other) for one, other, _ in pairs)
    marks: dict[str, tuple[str | None, float | None]] = {}
    for row in sorted(partners):
        kept = [(s, o) for o, s in partners[row] if o < row and marks[o][0] is None]
        best = min(kept, key=lambda pair: (-pair[0], pair[1])) if kept else (None, None)
        marks[row] = (best[1], best[0])
    return pa.table(
        {
            "row_id": pa.array(list(marks), pa.string()),
            "near_duplicate_of": pa.array([mark[0] for mark in marks.values()], pa.string()),
            "near_duplicate_similarity": pa.array([mark[1] for mark in marks.values()], pa.float64()),
            "near_duplicate_cluster": pa.array([find(row) for row in marks], pa.string()),
        }
    )
