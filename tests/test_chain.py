"""Statements in a row are one pass over the rows, in which every row is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.chain import FIRST, Chain, of_a_value
from synthray.errors import QueryError, RunFailed
from synthray.ledger import Ledger
from synthray.query import Query
from synthray.statement import Derive, Select, Statement, Where

if TYPE_CHECKING:
    from synthray.record import StepCount

ROWS = pa.table(
    {
        "row_id": ["a", "b", "c", "d", "e", "f"],
        "parent_id": pa.nulls(6, pa.string()),
        "round": pa.array([0] * 6, pa.int32()),
        "n": pa.array([1, 2, 3, 4, 5, None], pa.int64()),
        "text": ["1", "x", "3", "4", "5", "6"],
    }
)


def ran(
    folder: Path, *statements: Statement, why: QueryError | None = None
) -> tuple[list[StepCount], Ledger, dict[str, list[dict[str, Any]]]]:
    with Query({"rows": ROWS.slice(0, 0)}) as empty:
        settled = [one.settle(empty) for one in statements]
    ledger = Ledger(folder)
    with Query({FIRST: ROWS}, writable=folder) as query:
        counts = Chain(settled, query, ledger, why).run(len(ROWS))
    listed = {
        "rows": ledger.files,
        "rejects": ledger.rejects,
        "failures": ledger.failures,
        "metrics": ledger.metrics,
    }
    found = {
        name: [row for file in files for row in pq.read_table(file).to_pylist()]
        for name, files in listed.items()
    }
    return counts, ledger, found


def test_each_statement_rejects_what_the_ones_before_have_left(tmp_path: Path) -> None:
    counts, _, found = ran(
        tmp_path, Where("n > 1", "small", step="one"), Where("row_id < 'e'", "late", step="two")
    )
    assert [(c.step, c.rows_in, c.rows_kept, c.rows_rejected) for c in counts] == [
        ("one", 6, 4, 2),
        ("two", 4, 3, 1),
    ]
    assert [row["row_id"] for row in found["rows"]] == ["b", "c", "d"]
    assert sorted((row["row_id"], row["step"], row["reason"]) for row in found["rejects"]) == [
        ("a", "one", "small"),
        ("e", "two", "late"),
        ("f", "one", "small:null"),
    ]


def test_a_measurement_leaves_the_rows(tmp_path: Path) -> None:
    counts, _, found = ran(tmp_path, Select("SELECT 'mean' AS metric, avg(n) AS value FROM rows", step="m"))
    assert (counts[0].rows_kept, counts[0].rows_rejected, len(found["rows"])) == (6, 0, 6)
    assert [(row["step"], row["metric"], row["value"]) for row in found["metrics"]] == [("m", "mean", 3.0)]


def test_a_value_that_raises_is_of_a_value_and_set_apart_in_the_second_attempt(tmp_path: Path) -> None:
    derive = Derive({"number": "text::INTEGER"}, step="cast")
    (tmp_path / "first").mkdir()
    with pytest.raises(QueryError) as caught:
        ran(tmp_path / "first", derive)
    assert of_a_value(caught.value)
    (tmp_path / "second").mkdir()
    counts, _, found = ran(tmp_path / "second", derive, why=caught.value)
    assert (counts[0].rows_kept, counts[0].rows_failed) == (5, 1)
    failure = found["failures"][0]
    assert (failure["row_id"], failure["failed"]["error"], failure["reject_step"]) == (
        "b",
        "ConversionError",
        "cast",
    )


def test_an_error_of_the_statement_is_of_no_value(tmp_path: Path) -> None:
    with Query({"rows": ROWS}) as query, pytest.raises(QueryError) as caught:
        query.rows("SELECT nothing FROM rows")
    assert not of_a_value(caught.value)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT row_id FROM rows UNION ALL SELECT row_id FROM rows", "answers a row twice"),
        ("SELECT 'z' AS row_id", "answers an unknown row"),
    ],
)
def test_a_statement_that_answers_for_no_row_or_twice_ends_the_run(
    tmp_path: Path, statement: str, message: str
) -> None:
    with pytest.raises(RunFailed, match=f"pick: {message}"):
        ran(tmp_path, Select(statement, step="pick"))
