"""The audit trail of a label: who proposed which label in place of which, in which step, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthray.errors import InputError
from synthray.spelling import quoted

SOURCE = Path(__file__)
"""For the fingerprints of operators that keep the trail."""

COLUMN = "label_audit"
"""The one column of all steps."""

ENTRY = pa.struct([(name, pa.string()) for name in ("step", "old", "new", "who", "why")])
AUDIT = pa.list_(ENTRY)


def check(before: pa.Schema) -> None:
    """Raise an InputError when the rows bring a column of the trail's name that is none."""
    if COLUMN in before.names and before.field(COLUMN).type != AUDIT:
        raise InputError(
            f"column {COLUMN!r} must be {AUDIT}, an earlier step's trail, but is "
            f"{before.field(COLUMN).type}; give it another name before this step"
        )


def appended(
    table: pa.Table, judged: Sequence[bool] | np.ndarray, *, step: str, old: Any, new: Any, who: Any, why: Any
) -> pa.Array:
    """Return the trail of the rows of `table`: what is there, and an entry more where `judged`.

    `old`, `new`, `who` and `why` are a text, a null or a value for each row. A row without entries has null.
    """
    size = len(table)
    earlier = pa.nulls(size, AUDIT)
    if COLUMN in table.column_names:
        earlier = table[COLUMN].combine_chunks().cast(AUDIT)
    mask = np.asarray(judged, bool)
    columns = [_column(value, size).filter(pa.array(mask)) for value in (step, old, new, who, why)]
    fresh = pa.StructArray.from_arrays(columns, fields=list(ENTRY))
    counts = pc.fill_null(pc.list_value_length(earlier), 0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(counts + mask)])
    # Where each entry comes from, in the order in which they shall stand.
    source = np.empty(ends[-1], np.int64)
    behind = np.cumsum(mask) - mask
    source[np.arange(counts.sum()) + np.repeat(behind, counts)] = np.arange(counts.sum())
    source[ends[1:][mask] - 1] = counts.sum() + np.arange(mask.sum())
    entries = pa.concat_arrays([earlier.flatten(), fresh]).take(pa.array(source))
    none = earlier.is_null().to_numpy(zero_copy_only=False) & ~mask
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), entries, type=AUDIT, mask=pa.array(none, pa.bool_())
    )


def appended_sql(before: Sequence[str], *, step: str, old: str, new: str, who: str, why: str) -> str:
    """Return SQL for the trail of rows with the columns `before`: an entry more where `new` is not null.

    `old`, `new`, `who` and `why` are SQL expressions.
    """
    values = {"step": quoted(step), "old": old, "new": new, "who": who, "why": why}
    entry = ", ".join(f"{name} := CAST({value} AS VARCHAR)" for name, value in values.items())
    earlier = COLUMN if COLUMN in before else f"CAST(NULL AS {_SQL})"
    added = f"list_append(CAST({earlier} AS {_SQL}), struct_pack({entry}))"
    return f"CASE WHEN ({new}) IS NULL THEN {earlier} ELSE {added} END"


_SQL = f"STRUCT({', '.join(f'{one.name} VARCHAR' for one in ENTRY)})[]"


def _column(value: Any, size: int) -> pa.Array:
    if value is None or isinstance(value, str):
        return pa.array([value] * size, pa.string())
    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    array = value if isinstance(value, pa.Array) else pa.array(value, pa.string())
    return array.cast(pa.string())
