"""A ledger lists the files that are part of a stage: those that hold something, in the order they were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import QueryError
from synthray.ledger import Ledger
from synthray.lineage import FAILED
from synthray.query import Query

ROWS = pa.table({"row_id": ["a", "b", "c"], "n": [1, 2, 3]})


@pytest.fixture
def query(tmp_path: Path) -> Iterator[Query]:
    with Query({"rows": ROWS}, writable=tmp_path) as query:
        yield query


def conversion_error(query: Query) -> QueryError:
    with pytest.raises(QueryError) as caught:
        query.arrow("SELECT CAST('it''s x' AS INTEGER)")
    return caught.value


def test_an_empty_ledger_lists_nothing(tmp_path: Path) -> None:
    held = vars(Ledger(tmp_path))
    assert held.pop("path") == tmp_path
    assert list(held) == ["files", "added", "rejects", "failures", "metrics", "outputs"]
    assert not any(held.values())
    assert len({id(listed) for listed in [*held.values(), Ledger(tmp_path).files]}) == 7, "each is its own"


def test_an_answer_is_written_and_listed(tmp_path: Path, query: Query) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.write(query, "SELECT * FROM rows WHERE n > 1", "rows", ledger.files) == 2
    assert ledger.write(query, "SELECT row_id FROM rows", "rejects", ledger.rejects) == 3
    assert ledger.files == [str(tmp_path / "rows.parquet")]
    assert ledger.rejects == [str(tmp_path / "rejects.parquet")]
    assert pq.read_table(ledger.files[0]).to_pydict() == {"row_id": ["b", "c"], "n": [2, 3]}
    assert pq.read_table(ledger.rejects[0]).to_pydict() == {"row_id": ["a", "b", "c"]}


def test_an_answer_without_rows_is_not_listed(tmp_path: Path, query: Query) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.write(query, "SELECT * FROM rows WHERE n > 9", "rows", ledger.files) == 0
    assert ledger.files == []


def test_tables_that_are_kept_have_a_file_each(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for size in (3, 0, 2):
        ledger.keep(ROWS.slice(0, size), "columns", ledger.added)
    assert [Path(file).name for file in ledger.added] == [f"columns-{number}.parquet" for number in range(3)]
    assert [
        pq.read_table(file).equals(ROWS.slice(0, size))
        for file, size in zip(ledger.added, (3, 0, 2), strict=True)
    ] == [True] * 3, "one without rows too: its columns must stand somewhere"
    assert ledger.files == []


def test_rows_whose_values_raise_an_error_are_written_as_failed_rows(tmp_path: Path, query: Query) -> None:
    ledger = Ledger(tmp_path)
    error = conversion_error(query)
    assert ledger.fail(query, "SELECT * FROM rows WHERE n < 3", "it's a step", error, "failures-when") == 2
    assert ledger.failures == [str(tmp_path / "failures-when.parquet")]
    written = pq.read_table(ledger.failures[0])
    assert written.schema.field("failed").type == FAILED
    assert written.drop_columns("failed").to_pydict() == {
        "row_id": ["a", "b"],
        "n": [1, 2],
        "reject_step": ["it's a step"] * 2,
    }
    failed = written["failed"].to_pylist()
    assert {(one["error"], one["attempts"]) for one in failed} == {("ConversionError", 1)}
    assert all("it's x" in one["message"] and "\n" not in one["message"] for one in failed)


def test_where_no_row_fails_no_failure_is_listed(tmp_path: Path, query: Query) -> None:
    ledger = Ledger(tmp_path)
    error = conversion_error(query)
    assert ledger.fail(query, "SELECT * FROM rows WHERE n > 9", "step", error, "failures") == 0
    assert ledger.failures == []


def test_rows_that_passed_by_keep_what_they_have_of_the_same_columns_and_type(tmp_path: Path) -> None:
    passed = pa.table({"row_id": ["a", "b"], "mark": ["x", None], "size": ["big", "small"], "other": [1, 2]})
    made = pa.schema([("row_id", pa.string()), ("size", pa.int64()), ("mark", pa.string())])
    ledger = Ledger(tmp_path)
    with Query({"passed": passed, "made": made.empty_table()}, writable=tmp_path) as query:
        ledger.keep_passed(query, made)
    (file,) = ledger.added
    kept = pq.read_table(file).sort_by("row_id").to_pylist()
    assert kept == [{"row_id": "a", "size": None, "mark": "x"}, {"row_id": "b", "size": None, "mark": None}]
    ledger = Ledger(tmp_path)
    with Query({"passed": passed, "made": made.empty_table().select(["row_id", "size"])}) as query:
        ledger.keep_passed(query, pa.schema(list(made)[:2]))
    assert ledger.added == [], "nothing to keep is no file"
