"""Rows of files get their ids from content, so that their order and their files do not matter."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from synthray.errors import InputError, SynthrayError
from synthray.operator import Context
from synthray.source.table import Table
from synthray.table import Table as Files

ROWS = [{"text": f"text {n % 7}", "label": "ab"[n % 2]} for n in range(30)]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes rows to a file of the kind its name says."""

    def write(name: str, rows: Sequence[dict[str, Any]]) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(list(rows)), path)
        elif path.suffix == ".csv":
            pyarrow.csv.write_csv(pa.Table.from_pylist(list(rows)), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def read(operator: Table) -> list[dict[str, Any]]:
    return sorted(operator.first(1000).to_pylist(), key=lambda row: row["row_id"])


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv", "rows.jsonl"])
def test_every_kind_of_file_gives_the_same_rows_with_the_same_ids(
    written: Callable[..., str], name: str
) -> None:
    operator = Table(path=written(name, ROWS))
    operator.check(pa.schema([]))
    kinds = {"row_id": pa.string(), "parent_id": pa.string(), "round": pa.int32()}
    texts = {"text": pa.string(), "label": pa.string()}
    assert operator.schema(pa.schema([])) == pa.schema({**kinds, **texts})
    found = read(operator)
    assert len({row["row_id"] for row in found}) == len(found) == 30
    assert {(row["parent_id"], row["round"]) for row in found} == {(None, 0)}
    key = sorted((row["text"], row["label"]) for row in found)
    assert key == sorted((row["text"], row["label"]) for row in ROWS)
    assert found[0]["row_id"] == "09b6d5b9b083971572445dad", "a new version must find the rows of an old one"


def test_ids_do_not_depend_on_the_order_of_rows_columns_or_files(written: Callable[..., str]) -> None:
    shuffled = [dict(reversed(row.items())) for row in random.Random(1).sample(ROWS, 30)]
    written("parts/b.jsonl", shuffled[:11])
    folder = Path(written("parts/a.jsonl", shuffled[11:])).parent
    assert read(Table(path=str(folder))) == read(Table(path=written("rows.jsonl", ROWS)))


def test_equal_rows_are_numbered_and_another_row_changes_no_id(written: Callable[..., str]) -> None:
    twice = [{"text": "a"}, {"text": "b"}, {"text": "a"}]
    ids = {row["row_id"] for row in read(Table(path=written("rows.jsonl", twice)))}
    assert len(ids) == 3
    more = {row["row_id"] for row in read(Table(path=written("more.jsonl", [{"text": "c"}, *twice])))}
    assert ids < more


def test_the_first_rows_are_the_same_for_any_order_of_the_file(written: Callable[..., str]) -> None:
    one = read(Table(path=written("one.jsonl", ROWS), rows=8))
    assert len(one) == 8
    assert read(Table(path=written("other.jsonl", ROWS[::-1]), rows=8)) == one
    assert one == read(Table(path=written("one.jsonl", ROWS)))[:8]


def test_rows_that_bring_their_ids_keep_them_and_their_lineage(written: Callable[..., str]) -> None:
    given = [
        {"row_id": "x", "parent_id": "p", "round": 2, "text": "a"},
        {"row_id": "y", "parent_id": None, "round": 0, "text": "a"},
    ]
    assert read(Table(path=written("rows.parquet", given))) == given
    bare = [{"row_id": "x", "text": "a"}]
    assert read(Table(path=written("bare.jsonl", bare))) == [
        {"parent_id": None, "round": None, "row_id": "x", "text": "a"}
    ]


@pytest.mark.parametrize(
    ("ids", "named"),
    [(["x", "y", "x"], "'x' repeats"), (["x", None, "y"], "None repeats")],
    ids=["twice", "null"],
)
def test_ids_that_are_no_ids_are_refused(written: Callable[..., str], ids: list[Any], named: str) -> None:
    path = written("rows.jsonl", [{"row_id": one, "text": "a"} for one in ids])
    with pytest.raises(InputError, match=f"row_id must be there and differ in each row, but {named}"):
        Table(path=path).check(pa.schema([]))


def test_a_file_without_rows_is_refused_by_name(written: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text("text,label\n")
    with pytest.raises(InputError, match=r"none\.csv has no rows"):
        Table(path=str(path)).check(pa.schema([]))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('{"text": "a"}\n{"text": "b\n', id="cut off"),
        pytest.param('{"text": "a"}\n5\n', id="no object"),
    ],
)
def test_a_bad_row_at_the_end_is_found_before_anything_is_paid(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' * 5000 + content)
    with pytest.raises(SynthrayError) as caught:
        Table(path=str(path)).check(pa.schema([]))
    assert isinstance(caught.value, InputError)


def test_a_damaged_value_is_found_before_anything_is_paid(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"row_id": [f"{n}" for n in range(9)], "text": [f"a text {n}" for n in range(9)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    Table(path=str(path)).check(pa.schema([]))
    path.write_bytes(path.read_bytes().replace(b"a text 7", b"a \xff\xfe\xfft 7"))
    with pytest.raises(InputError, match="Invalid string encoding"):
        Table(path=str(path)).check(pa.schema([]))


@pytest.mark.parametrize("settings", [{}, {"path": "a.csv", "table": "a"}], ids=["neither", "both"])
def test_rows_come_from_a_path_or_a_table(settings: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"needs one of path \(files\), table"):
        Table(**settings).check(pa.schema([]))


def test_a_path_is_relative_to_the_base_and_a_missing_one_is_named(
    written: Callable[..., str], tmp_path: Path
) -> None:
    written("data/rows.jsonl", ROWS)
    assert len(read(Table(path="data/*.jsonl", base=str(tmp_path)))) == 30
    with pytest.raises(InputError, match=r"no file '.*data/row\.jsonl'"):
        Table(path="data/row.jsonl", base=str(tmp_path)).check(pa.schema([]))


def test_a_named_table_is_read_like_its_files(written: Callable[..., str], tmp_path: Path) -> None:
    written("rows.jsonl", ROWS)
    tables = {"mine": Files.find("rows.jsonl", tmp_path)}
    operator = Table(table="mine", context=Context(tables=tables))
    assert operator.table_names == ("mine",)
    assert read(operator) == read(Table(path=str(tmp_path / "rows.jsonl")))


def test_a_table_that_is_made_later_has_its_schema_now() -> None:
    made = pa.schema([("text", pa.string()), ("n", pa.int64())])
    operator = Table(table="mine", context=Context(schemas={"mine": made}))
    operator.check(pa.schema([]))
    schema = operator.schema(pa.schema([]))
    assert schema.names == ["row_id", "parent_id", "round", "text", "n"]
    assert schema.field("n").type == pa.int64()


def test_where_files_lie_is_no_setting_but_their_content_counts(written: Callable[..., str]) -> None:
    path = written("rows.jsonl", ROWS)
    operator = Table(path=path, rows=3)
    assert operator.settings() == {"rows": 3, "table": "", "sql": "", "children": False}
    assert operator.files() == (Path(path),)
    assert operator.makes() == "rows"


@pytest.mark.parametrize("name", ["failed", "reject_reason", "parent_id"])
def test_a_file_may_not_bring_a_reserved_column_without_its_row_id(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"text": "a", "{name}": "x"}}\n')
    operator = Table(path="rows.jsonl", base=str(tmp_path))
    with pytest.raises(InputError, match=f"column '{name}', which is reserved"):
        operator.check(pa.schema([]))
