"""A table in memory is the same rows, of the same ids, from whatever library; a run keeps what it was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import synthray
from synthray import frame
from synthray.errors import InputError
from synthray.source.table import Table as Source

ROWS = pa.table(
    {
        "text": ["b", "a", None, "a", "c"],
        "label": pa.array(["x", "y", "x", "y", None]),
        "n": [3, 1, 2, 1, 5],
        "list": [[1.0, 2.0], [0.5], None, [0.5], []],
    }
)


def of_pandas(rows: pa.Table) -> pandas.DataFrame:
    """A frame whose index says which rows are left of a longer one, with a category."""
    held = rows.to_pandas().astype({"label": "category"})
    return pandas.concat([held.head(1), held])[1:].set_index(pandas.Index([7, 5, 3, 1, 0]))


FORMS: dict[str, Callable[[pa.Table], Any]] = {
    "pandas": of_pandas,
    "polars": polars.from_arrow,
    "Hugging Face": datasets.Dataset,
    "batches": pa.Table.to_reader,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_the_same_rows_and_the_same_file_from_any_library(form: str, tmp_path: Path) -> None:
    given = FORMS[form]
    rows = synthray.identified(given(ROWS))
    assert rows.equals(synthray.identified(ROWS))
    assert rows.drop_columns(["row_id", "parent_id", "round"]).to_pylist() == ROWS.to_pylist(), "in order"
    assert len(set(rows["row_id"].to_pylist())) == 5, "equal rows are two rows"
    assert frame.table(given(ROWS), "mine") == frame.table(ROWS, "mine")
    path = tmp_path / "rows.parquet"
    pq.write_table(ROWS, path)
    assert set(rows["row_id"].to_pylist()) == set(Source(path=str(path)).first(9)["row_id"].to_pylist())


def test_a_named_index_of_pandas_is_a_column() -> None:
    held = ROWS.select(["text", "n"]).to_pandas().set_index("n")
    assert synthray.identified(held)["n"].to_pylist() == ROWS["n"].to_pylist()


def test_class_labels_of_hugging_face_are_names_and_their_minus_one_is_null() -> None:
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["no", "yes"]), "text": datasets.Value("string")}
    )
    given = datasets.Dataset.from_dict({"label": [1, 0, -1], "text": ["a", "b", "c"]}, features=features)
    assert synthray.identified(given.select([2, 0]))["label"].to_pylist() == [None, "yes"]


def test_rows_that_bring_an_id_keep_it_as_text() -> None:
    rows = synthray.identified(pa.table({"text": ["a", "a"], "row_id": [7, 8]}))
    assert rows["row_id"].to_pylist() == ["7", "8"]
    assert rows["parent_id"].type == pa.string()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param([{"a": 1}], r"list; make it one: pyarrow.Table.from_pylist\(rows\)", id="rows"),
        pytest.param(polars.LazyFrame({"a": [1]}), r"LazyFrame; collect\(\) it", id="lazy"),
        pytest.param(
            datasets.DatasetDict(train=datasets.Dataset(ROWS), test=datasets.Dataset(ROWS)),
            "DatasetDict; take one of its splits: test, train",
            id="splits",
        ),
        pytest.param(pandas.DataFrame({"a": [1, "x"]}), "Could not convert 'x'.*column a", id="mixed types"),
        pytest.param(ROWS.slice(0, 0), "has no rows", id="no rows"),
        pytest.param(pa.table({}), "has no columns", id="no columns"),
        pytest.param(pa.table({"Text": ["a"], "text": ["b"]}), "differ in case.*Text, text", id="one name"),
        pytest.param(pa.table({"failed": [1]}), "'failed', which is reserved", id="reserved"),
        pytest.param(pa.table({"row_id": ["a", "a"]}), "'a' repeats", id="ids repeat"),
    ],
)
def test_what_is_no_table_is_refused_before_any_run(given: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        synthray.Pipeline([Source(table="mine")], tables={"mine": given}).run(tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_the_table_and_knows_it_again_by_its_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [Source(table="mine"), synthray.Where("n IN (SELECT n FROM good)", reason="bad")]

    def run(rows: pa.Table) -> tuple[synthray.Run, str]:
        given = {"mine": polars.from_arrow(rows), "good": ROWS.slice(0, 3).to_pandas()}
        made = synthray.Pipeline(steps, tables=given).run(tmp_path / "run")
        return made, capsys.readouterr().err

    first, said = run(ROWS)
    assert "unchanged" not in said
    assert first.sql("SELECT count(*) AS n FROM dataset").to_pylist() == [{"n": 4}]
    # The process that had the table may have ended: what the run reads is its own.
    frame._folder.cache_clear()
    assert all(
        Path(file).is_relative_to(tmp_path) for one in first.named_tables().values() for file in one.files
    )
    assert first.polars("mine").to_dicts() == ROWS.to_pylist()
    assert run(ROWS)[1].count("unchanged") == 2
    again, said = run(ROWS.slice(1))
    assert "unchanged" not in said
    assert again.sql("SELECT count(*) AS n FROM dataset").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    ("steps", "tables", "message"),
    [
        pytest.param([ROWS], {}, r'one is Table; a table is named, .*tables=\{"mine": table\}', id="a step"),
        pytest.param([Source(table="min")], {"mine": ROWS}, "did you mean 'mine'", id="misspelt"),
        pytest.param(
            [Source(table="mine")], ROWS, "tables maps names to tables, but is Table", id="no names"
        ),
        pytest.param(
            [synthray.Repeat(steps=[Source(table="mine")], max=2, tables={"mine": ROWS})],
            {},
            "'mine' is files; name it under the recipe's tables",
            id="in a loop",
        ),
    ],
)
def test_a_table_stands_under_its_name(steps: Any, tables: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthray.Pipeline(steps, tables=tables).check()
