"""A block in a worker: checked against what its operator declares, written once, its errors kept."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from operators import Fails, Forgets, Upper
from ray.exceptions import RayTaskError

from synthray.block import Guarded, Sink, Write, cause, checked, guarded_task
from synthray.errors import ConservationError, ModelError, RunFailed

if TYPE_CHECKING:
    from synthray.operator import Operator

TABLE = pa.table(
    {
        "row_id": ["1", "2", "3"],
        "parent_id": pa.nulls(3, pa.string()),
        "round": pa.array([0, 0, 0], pa.int64()),
        "text": ["abc", "xyz", "axe"],
    }
)


def test_a_block_gets_the_declared_columns_and_types() -> None:
    out = checked(Upper(), TABLE)
    assert out.column_names == ["row_id", "parent_id", "round", "text", "upper"]
    assert out.schema.field("round").type == pa.int32()


def test_an_empty_block_does_not_reach_the_operator() -> None:
    assert checked(Forgets(), TABLE.slice(0, 0)).column_names[-1] == "promised"


def test_a_missing_column_names_the_operator() -> None:
    with pytest.raises(RunFailed, match="operators did not add promised"):
        checked(Forgets(), TABLE)


def test_fine_and_failed_rows_are_written_apart(tmp_path: Path) -> None:
    out = checked(Fails(), TABLE)
    fine = Fails().schema(TABLE.schema.set(2, pa.field("round", pa.int32())))
    line = Sink(tmp_path, fine)(out).to_pylist()[0]
    assert (line["rows"], line["failed"]) == (1, 2)
    assert pq.read_table(line["file"])["text"].to_pylist() == ["xyz"]
    failed = pq.read_table(line["failed_file"]).to_pylist()
    assert [row["failed"]["error"] for row in failed] == ["Starts", "Starts"]
    assert {row["reject_step"] for row in failed} == {"operators"}


def test_each_block_is_a_file_of_its_own(tmp_path: Path) -> None:
    files = {Write(tmp_path)(TABLE)["file"][0].as_py() for _ in range(3)}
    assert len(files) == 3
    assert all(pq.read_table(file).equals(TABLE) for file in files)


def broken(operator: Operator, table: pa.Table) -> pa.Table:
    return {}[len(table)]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConservationError("lost rows"), ConservationError, "step: lost rows"),
        (RunFailed("step: said already"), RunFailed, "step: said already"),
    ],
)
def test_a_workers_own_error_reaches_the_driver(
    tmp_path: Path, error: RunFailed, kind: type, message: str
) -> None:
    def fail(table: pa.Table) -> pa.Table:
        raise error

    with pytest.raises(kind):
        Guarded(fail, tmp_path)(TABLE)
    found = cause(RuntimeError("what Ray says"), tmp_path, "step")
    assert type(found) is kind
    assert str(found) == message


def test_a_defect_of_an_operator_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Guarded(functools.partial(broken, Upper()), tmp_path)(TABLE)
    assert "step: KeyError: 3 (test_block.py, line" in str(cause(RuntimeError("x"), tmp_path, "step"))


def test_a_models_error_keeps_what_it_carries(tmp_path: Path) -> None:
    def fail() -> None:
        raise ModelError("no key", "HTTP401", fatal=True, attempts=3)

    with pytest.raises(ModelError):
        guarded_task(tmp_path, None, fail)
    found = cause(RuntimeError("x"), tmp_path, "step")
    assert isinstance(found, ModelError)
    assert (found.kind, found.fatal, found.attempts, str(found)) == ("HTTP401", True, 3, "no key")


def test_without_a_left_error_the_driver_says_what_ray_says(tmp_path: Path) -> None:
    assert str(cause(RuntimeError("first\nlast line"), tmp_path, "step")) == "step: last line"


def test_what_another_task_told_is_not_told_again_as_a_trace(tmp_path: Path) -> None:
    def fails() -> None:
        raise RunFailed("the reason")

    def wants() -> None:
        raise RayTaskError("fails", "a trace of many lines", RunFailed("the reason"))

    for task in (wants, fails, wants):
        with pytest.raises((RunFailed, RayTaskError)):
            guarded_task(tmp_path, None, task)
    assert len(list(tmp_path.glob("error-*.json"))) == 1
    assert str(cause(RuntimeError("x"), tmp_path, "step")) == "step: the reason"
