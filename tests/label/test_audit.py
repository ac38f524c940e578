"""A label's trail keeps every earlier entry, and has one more for each row that was judged."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray.errors import InputError
from synthray.label.audit import AUDIT, COLUMN, appended, check

OLD = {"step": "first", "old": None, "new": "a", "who": "anna", "why": "because"}


def rows(*trails: list[dict[str, Any]] | None) -> pa.Table:
    return pa.table({"row_id": [f"r{n}" for n in range(len(trails))], COLUMN: pa.array(trails, AUDIT)})


def test_judged_rows_have_one_entry_more_and_the_others_what_they_had() -> None:
    table = rows(None, [OLD], [], [OLD, OLD], [OLD])
    made = appended(
        table,
        [True, True, False, False, True],
        step="again",
        old=["x", None, "y", "z", "v"],
        new=pa.chunked_array([["a"], ["b", "c", "d", "e"]]),
        who="berta",
        why=["1", "2", "3", "4", None],
    )
    new = {"step": "again", "who": "berta"}
    assert made.to_pylist() == [
        [{**new, "old": "x", "new": "a", "why": "1"}],
        [OLD, {**new, "old": None, "new": "b", "why": "2"}],
        [],
        [OLD, OLD],
        [OLD, {**new, "old": "v", "new": "e", "why": None}],
    ]
    assert made.type == AUDIT


def test_rows_that_bring_no_trail_begin_one() -> None:
    table = pa.table({"row_id": ["a", "b"]})
    made = appended(table, [False, True], step="s", old=None, new="n", who="w", why=None)
    assert made.to_pylist() == [None, [{"step": "s", "old": None, "new": "n", "who": "w", "why": None}]]
    nothing = appended(table.slice(0, 0), [], step="s", old=None, new="n", who="w", why=None)
    assert nothing.to_pylist() == []


def test_it_is_what_appending_row_by_row_gives() -> None:
    draw = random.Random(3)
    trails = [draw.choice([None, [OLD] * draw.randrange(4)]) for _ in range(200)]
    judged = np.array([draw.random() < 0.5 for _ in trails])
    # A slice in chunks: offsets that do not begin at 0.
    table = pa.concat_tables([rows(*trails[:90]).slice(3), rows(*trails[90:])])
    judged, trails = judged[3:], trails[3:]
    new = [f"label {n}" for n in range(len(trails))]
    made = appended(table, judged, step="s", old=None, new=new, who=None, why=None)
    entry = dict.fromkeys(("step", "old", "new", "who", "why")) | {"step": "s"}
    expected = [
        [*(trail or []), {**entry, "new": label}] if one else trail
        for trail, one, label in zip(trails, judged, new, strict=True)
    ]
    assert made.to_pylist() == expected


def test_a_column_that_is_no_trail_is_refused() -> None:
    check(pa.schema([("text", pa.string()), (COLUMN, AUDIT)]))
    with pytest.raises(InputError, match=r"column 'label_audit' must be list<.*but is string"):
        check(pa.schema([(COLUMN, pa.string())]))
