"""What `synthray.open(RUN)` gives: each view as Arrow, pandas, polars, DuckDB and Ray Data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import reported

from synthray.errors import InputError

if TYPE_CHECKING:
    from synthray.run import Run

ROOT = Path(__file__).parent.parent
VIEWS = ("dataset", "rows", "rejects", "failures", "calls", "stages", "steps", "funnel", "reasons", "metrics")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reported.run(tmp_path_factory.mktemp("views") / "run")


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_the_same_in_every_form(run: Run, view: str) -> None:
    table = run.arrow(view)
    assert table.num_rows == run.sql(f"SELECT count(*) AS n FROM {view}").to_pylist()[0]["n"]
    assert list(run.pandas(view).columns) == run.polars(view).columns == table.column_names
    assert len(run.pandas(view)) == len(run.polars(view)) == table.num_rows
    connection = run.duckdb()
    assert connection.sql(f"FROM {view}").to_arrow_table().num_rows == table.num_rows
    connection.close()


@pytest.mark.ray
def test_ray_data_has_the_views_too(run: Run, ray_session: None) -> None:
    for view in ("dataset", "rows", "failures", "metrics"):
        dataset = run.ray(view)
        assert dataset.count() == run.arrow(view).num_rows, view
        assert dataset.schema().names == run.arrow(view).column_names, view
    ids = {row["row_id"] for row in run.ray().take_all()}
    assert ids == set(run.arrow()["row_id"].to_pylist())


@pytest.mark.ray
def test_ray_sees_columns_that_stand_beside_the_rows(tmp_path: Path, ray_session: None) -> None:
    maker = reported.Maker(tmp_path / "run", "beside")
    schema = pa.schema([*reported.IDENTITY, ("text", pa.string())])
    rows = [{"row_id": f"r{n}", "round": 0, "text": f"t{n}"} for n in range(5)]
    first = maker.file(maker.next(), "rows", pa.Table.from_pylist(rows, schema))
    maker.stage("table", "source.table", (first,), made=5)
    marks = pa.table({"row_id": ["r1", "r3"], "mark": [1, 3]})
    beside = maker.file(maker.next(), "columns", marks)
    maker.stage("mark", "curate.mark", added=((beside,),))
    found = {row["row_id"]: row["mark"] for row in maker.end(name="beside").ray().take_all()}
    assert found == {"r0": None, "r1": 1, "r2": None, "r3": 3, "r4": None}


def test_an_unknown_view_is_refused_with_the_nearest(run: Run) -> None:
    for opened in (run.arrow, run.pandas, run.polars, run.ray):
        with pytest.raises(InputError, match="no view 'reject'; did you mean 'rejects'"):
            opened("reject")


def test_the_connection_reaches_nothing_but_the_run(run: Run, tmp_path: Path) -> None:
    import duckdb

    connection = run.duckdb()
    (tmp_path / "other.csv").write_text("a\n1\n")
    for statement in (
        f"SELECT * FROM read_csv('{tmp_path}/other.csv')",
        f"COPY dataset TO '{tmp_path}/out.parquet'",
        f"ATTACH '{tmp_path}/new.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ):
        with pytest.raises(duckdb.Error):
            connection.sql(statement).fetchall()
    assert {path.name for path in tmp_path.iterdir()} == {"other.csv"}
    connection.register("mine", pa.table({"row_id": ["row000"]}))
    assert connection.sql("SELECT count(*) FROM rows SEMI JOIN mine USING (row_id)").fetchall() == [(1,)]
    connection.close()


def test_without_polars_the_cure_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InputError, match=r"pip install 'synthray\[polars\]'"):
        run.polars()
