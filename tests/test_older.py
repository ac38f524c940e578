"""Older data are found by name, as tables, runs or files, and give texts with ids that stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray import older
from synthray.duplicate import SOURCES
from synthray.errors import InputError, RunError
from synthray.older import MarksDuplicates, Older
from synthray.operator import Context
from synthray.record import StageRecord, StepCount
from synthray.run import FORMAT, Run
from synthray.table import Table


def parquet(path: Path, **columns: list[object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose last stage has marks beside its rows, and whose stage before had more rows."""
    root = tmp_path / "runs" / "old"
    run = Run.claim(root, "old")
    run.save(format=FORMAT, name="old", stages=["1-source-a", "2-mark-b"])
    run.release()
    for folder, rows in (("1-source-a", ["a", "b", "c"]), ("2-mark-b", ["a", "b"])):
        parquet(root / f"stages/{folder}/rows.parquet", row_id=rows, text=[f"text {one}" for one in rows])
        parquet(root / f"stages/{folder}/columns-0.parquet", row_id=["b"], note=["marked b"])
        StageRecord(
            folder=folder,
            fingerprint=folder,
            before=None,
            steps=(StepCount("source", "source.table", rows_made=len(rows), rows_kept=len(rows)),),
            files=(f"stages/{folder}/rows.parquet",),
            added=((f"stages/{folder}/columns-0.parquet",),),
        ).write(root)
    return root


def written(older: Older, column: str, tmp_path: Path) -> list[dict[str, object]]:
    path = tmp_path / "written.parquet"
    count = older.write(column, path, tmp_path, 100)
    held = pq.read_table(path).sort_by("row_id")
    assert (held.column_names, len(held)) == (["row_id", column], count)
    return held.to_pylist()


def found(name: str, tmp_path: Path, tables: dict[str, Table] | None = None) -> Older:
    (older,) = Older.find([name], tables or {}, tmp_path)
    assert older.name == name
    return older


# What a name stands for.


def test_a_named_table_comes_before_a_run_and_a_run_before_files(tmp_path: Path, run: Path) -> None:
    parquet(tmp_path / "runs" / "old" / "stray.parquet", row_id=["x"], text=["stray"])
    table = Table.find(parquet(tmp_path / "table.parquet", row_id=["t"], text=["of the table"]), tmp_path)
    named = found("runs/old", tmp_path, {"runs/old": table})
    assert written(named, "text", tmp_path) == [{"row_id": "t", "text": "of the table"}]
    of_the_run = found("runs/old", tmp_path)
    assert written(of_the_run, "text", tmp_path) == [{"row_id": one, "text": f"text {one}"} for one in "ab"]


def test_a_run_gives_the_rows_and_marks_that_its_last_stage_kept(tmp_path: Path, run: Path) -> None:
    for name in ("runs/old", str(run)):
        older = found(name, tmp_path)
        older.check("note")
        assert written(older, "note", tmp_path) == [
            {"row_id": "a", "note": None},
            {"row_id": "b", "note": "marked b"},
        ]


def test_files_folders_and_globs_are_relative_to_the_recipe(tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "one.parquet", row_id=["a"], text=["one"])
    parquet(tmp_path / "data" / "two.parquet", row_id=["b"], text=["two"])
    for name, texts in (
        ("data", ["one", "two"]),
        ("data/*.parquet", ["one", "two"]),
        ("data/two.parquet", ["two"]),
    ):
        assert [row["text"] for row in written(found(name, tmp_path), "text", tmp_path)] == texts


def test_several_names_are_found_in_their_order(tmp_path: Path, run: Path) -> None:
    file = parquet(tmp_path / "file.parquet", row_id=["f"], text=["f"])
    tables = {"held": Table.find(file, tmp_path)}
    names = ["runs/old", "held", "file.parquet", "runs/old"]
    assert [one.name for one in Older.find(names, tables, tmp_path)] == names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("helt", "against 'helt' is no table of the recipe; did you mean 'held'?; no run; no file"),
        ("none.parquet", "against 'none.parquet' is no table of the recipe; there is held; no run; no file"),
        ("folder", "no run; no file"),
        ("note.txt", "no run; note.txt: files must be all Parquet, JSON lines, CSV or YAML"),
    ],
    ids=["misspelt", "no file", "no data in it", "no data"],
)
def test_a_name_that_stands_for_nothing_says_what_it_might_be(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "note.txt").write_text("no table")
    held = Table.find(parquet(tmp_path / "held.parquet", row_id=["a"], text=["x"]), tmp_path)
    with pytest.raises(InputError) as caught:
        found(name, tmp_path, {"held": held})
    assert message in str(caught.value)


def test_a_run_without_a_finished_stage_has_nothing_to_stand_against(tmp_path: Path) -> None:
    run = Run.claim(tmp_path / "begun", "old")
    run.save(format=FORMAT, name="old", stages=[])
    run.release()
    with pytest.raises(RunError, match="against 'begun': the run has no finished stage yet"):
        found("begun", tmp_path)


# What it must hold.


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("text", None),
        (
            "txt",
            "against 'old.parquet' has no column 'txt'; did you mean 'text'?; its columns are row_id, text, n",
        ),
        ("n", "against 'old.parquet': 'n' must hold text, but is int64"),
    ],
    ids=["text", "misspelt", "a number"],
)
def test_its_column_must_be_there_and_hold_text(tmp_path: Path, column: str, message: str | None) -> None:
    parquet(tmp_path / "old.parquet", row_id=["a"], text=["x"], n=[1])
    older = found("old.parquet", tmp_path)
    if message is None:
        older.check(column)
        return
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        older.check(column)


def test_large_strings_are_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["x"], pa.large_string())}), tmp_path / "old.parquet")
    found("old.parquet", tmp_path).check("text")


# Ids.


def by_id(rows: list[dict[str, object]]) -> dict[object, object]:
    return {row["row_id"]: row["text"] for row in rows}


def as_csv(folder: Path) -> str:
    (folder / "old.csv").write_text("text,n\nx,1\ny,2\nx,1\nx,3\n")
    return "old.csv"


def as_jsonl(folder: Path) -> str:
    (folder / "old.jsonl").write_text(
        "".join(f'{{"n": {n}, "text": "{one}"}}\n' for one, n in zip("xyxx", (1, 2, 1, 3), strict=True))
    )
    return "old.jsonl"


def as_yaml(folder: Path) -> str:
    (folder / "old.yaml").write_text(
        "- {text: x, n: 1}\n- {text: y, n: 2}\n- {n: 1, text: x}\n- {text: x, n: 3}\n"
    )
    return "old.yaml"


@pytest.mark.parametrize("form", [as_csv, as_jsonl, as_yaml])
def test_rows_without_an_id_get_one_by_content_and_occurrence(
    tmp_path: Path, form: Callable[[Path], str]
) -> None:
    older = found(form(tmp_path), tmp_path)
    rows = written(older, "text", tmp_path)
    assert sorted(str(row["text"]) for row in rows) == list("xxxy")
    assert len({row["row_id"] for row in rows}) == 4, "equal rows are told apart by their number"
    assert by_id(written(older, "text", tmp_path)) == by_id(rows), "and it stays"


def test_an_id_does_not_depend_on_the_kind_of_file_or_the_order_of_columns(tmp_path: Path) -> None:
    forms = [
        by_id(written(found(form(tmp_path), tmp_path), "text", tmp_path))
        for form in (as_csv, as_jsonl, as_yaml)
    ]
    assert forms[0] == forms[1] == forms[2]


def test_a_column_of_any_name_is_written(tmp_path: Path) -> None:
    parquet(tmp_path / "old.parquet", **{'a "text", row_id': ["x"], "n": [1]})
    older = found("old.parquet", tmp_path)
    older.check('a "text", row_id')
    assert [row['a "text", row_id'] for row in written(older, 'a "text", row_id', tmp_path)] == ["x"]


# What marks duplicates of them.


@dataclass(frozen=True)
class Same(MarksDuplicates):
    """Adds nothing."""

    by: str = "text"

    @property
    def cut(self) -> Mapping[str, Any]:
        return {"by": self.by}


SCHEMA = pa.schema([("row_id", pa.string()), ("text", pa.string()), ("score", pa.int64())])


def test_where_older_data_and_their_index_lie_decides_nothing(tmp_path: Path) -> None:
    one = Same("text", against=["old"], index="index", base=str(tmp_path))
    assert one.settings() == replace(one, index=None, base="elsewhere").settings()
    for other in (replace(one, against=["new"]), replace(one, prefer="score"), replace(one, by="words")):
        assert one.settings() != other.settings()


def test_older_files_decide_and_named_tables_are_named(tmp_path: Path, run: Path) -> None:
    file = parquet(tmp_path / "file.parquet", text=["f"])
    held = Table.find(parquet(tmp_path / "held.parquet", text=["h"]), tmp_path)
    context = Context(tables={"held": held}, schemas={"made": SCHEMA})
    operator = Same(
        "text", against=["made", "file.parquet", "held", "runs/old"], base=str(tmp_path), context=context
    )
    assert operator.reads == ("text",)
    assert operator.table_names == ("made", "held")
    stage = run / "stages" / "2-mark-b"
    listed = {Path(file), stage / "rows.parquet", stage / "columns-0.parquet"}
    assert set(operator.files()) == {Path(older.__file__), *SOURCES, *listed}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"against": ["held", "made"]}, None),
        ({"against": ["wrong"]}, "against 'wrong': 'text' must hold text, but is int64"),
        ({"against": ["other"]}, "against 'other' has no column 'text'; did you mean 'texts'"),
        ({"against": ["numbers"]}, "against 'numbers': 'text' must hold text, but is int64"),
        ({"prefer": "score DESC"}, None),
        ({"prefer": "score DESC; SELECT 1"}, "prefer: "),
        ({"index": "index"}, "index is .* name that data by against"),
        ({"against": ["held"], "index": "held.parquet"}, "held.parquet is no index"),
    ],
)
def test_older_data_preference_and_index_are_checked_before_any_work(
    tmp_path: Path, settings: dict[str, Any], message: str | None
) -> None:
    tables = {
        "held": Table.find(parquet(tmp_path / "held.parquet", text=["h"]), tmp_path),
        "numbers": Table.find(parquet(tmp_path / "numbers.parquet", text=[1]), tmp_path),
    }
    schemas = {"made": SCHEMA, "wrong": pa.schema([("text", pa.int64())]), "held": SCHEMA, "numbers": SCHEMA}
    schemas["other"] = pa.schema([("row_id", pa.string()), ("texts", pa.string())])
    operator = Same("text", base=str(tmp_path), context=Context(tables=tables, schemas=schemas), **settings)
    if message is None:
        operator.check(SCHEMA)
        return
    with pytest.raises(InputError, match=message):
        operator.check(SCHEMA)


def test_an_operator_must_say_what_it_makes_of_a_text() -> None:
    bare = MarksDuplicates("text")
    with pytest.raises(TypeError, match="MarksDuplicates defines no cut"):
        _ = bare.cut
    with pytest.raises(TypeError, match="MarksDuplicates defines no marks_of"):
        bare(pa.table({"row_id": ["a"], "text": ["x"]}))


def test_older_rows_without_a_row_id_are_refused_and_numbers_become_names(tmp_path: Path) -> None:
    parquet(tmp_path / "null.parquet", row_id=["a", None], text=["x", "y"])
    with pytest.raises(InputError, match="1 rows have no row_id; give them one, or leave the column out"):
        found("null.parquet", tmp_path).check("text")
    parquet(tmp_path / "number.parquet", row_id=[1, 2], text=["x", "y"])
    assert [row["row_id"] for row in written(found("number.parquet", tmp_path), "text", tmp_path)] == [
        "1",
        "2",
    ]
