import datetime
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import QueryError, SourceError
from synthray.query import Query
from synthray.table import Table


def write(folder: Path, **files: str) -> Path:
    """Write NAME_suffix='text' as NAME.suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
    return folder


def names(table: Table) -> list[str]:
    return [Path(path).name for path in table.files]


def rows(table: Table) -> list[dict[str, object]]:
    with Query({"given": table}) as query:
        return query.arrow("SELECT * FROM given").to_pylist()


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("a.csv", ["a.csv"]),
        ("*.csv", ["a.csv", "b.csv"]),
        ("**/*.csv", ["a.csv", "b.csv", "c.csv"]),
        ("deep", ["c.csv"]),
        (["deep/c.csv", "a.csv"], ["c.csv", "a.csv"]),
    ],
    ids=["file", "glob", "recursive", "folder", "list"],
)
def test_files_are_found_relative_to_the_recipe(
    tmp_path: Path, where: str | list[str], found: list[str]
) -> None:
    write(tmp_path, b_csv="n\n2\n", a_csv="n\n1\n", note_txt="no table")
    write(tmp_path / "deep", c_csv="n\n3\n", note_txt="no table")
    table = Table.find(where, tmp_path)
    assert names(table) == found
    assert all(Path(path).is_absolute() for path in table.files)


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, a_csv="n\n1\n")
    assert names(Table.find(str(tmp_path / "a.csv"), Path("/elsewhere"))) == ["a.csv"]


def test_a_folder_takes_its_files_and_no_folder_that_is_named_like_one(tmp_path: Path) -> None:
    write(tmp_path, a_csv="n\n1\n")
    (tmp_path / "old.csv").mkdir()
    assert names(Table.find(".", tmp_path)) == ["a.csv"]


@pytest.mark.parametrize("where", ["none.csv", "*.jsonl", "empty"], ids=["file", "glob", "empty folder"])
def test_what_is_not_there_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        Table.find(where, tmp_path)
    assert str(tmp_path / where) in str(caught.value)


def test_an_empty_file_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, a_csv="n\n1\n", b_csv="")
    with pytest.raises(SourceError, match=r"b\.csv is empty"):
        Table.find("*.csv", tmp_path)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a_csv": "n\n1\n", "b_jsonl": '{"n": 1}\n'}, "csv, json"),
        ({"a_txt": "hello"}, ".txt"),
    ],
    ids=["mixed", "unknown"],
)
def test_files_must_be_of_one_known_kind(tmp_path: Path, files: dict[str, str], found: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(SourceError, match=r"must be all Parquet, JSON lines, CSV or YAML") as caught:
        Table.find("*", tmp_path)
    assert str(caught.value).endswith(f"are {found}")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a_csv": 'n,text\n1,"x, ""y"""\n2,"two\nlines"\n'}, [(1, 'x, "y"'), (2, "two\nlines")]),
        ({"a_csv": "n;text\n1;x, y\n"}, [(1, "x, y")]),
        ({"a_tsv": "n\ttext\n1\tx, y\n"}, [(1, "x, y")]),
        ({"a_csv": "n,text\n1,#one\n2,two # three\n"}, [(1, "#one"), (2, "two # three")]),
        ({"a_csv": "n,text\n1,x\n# 2,y\n"}, [("1", "x"), ("# 2", "y")]),
        ({"a_jsonl": '{"n": 1, "text": "x"}\n\n{"text": "y", "n": 2}\n'}, [(1, "x"), (2, "y")]),
        ({"a_json": '{"n": 1, "text": "x"}\n'}, [(1, "x")]),
        ({"a_yaml": "- {n: 1, text: x}\n- {text: y, n: 2}\n"}, [(1, "x"), (2, "y")]),
    ],
    ids=["csv", "semicolons", "tsv", "hash in a value", "hash at the start", "jsonl", "json", "yaml"],
)
def test_every_kind_gives_its_rows(
    tmp_path: Path, files: dict[str, str], found: list[tuple[object, str]]
) -> None:
    table = Table.find(".", write(tmp_path, **files))
    assert [(row["n"], row["text"]) for row in rows(table)] == found


def test_parquet_gives_its_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, None]}), tmp_path / "a.parquet")
    assert rows(Table.find("a.parquet", tmp_path)) == [{"n": 1}, {"n": None}]


@pytest.mark.parametrize("name", ["it's.csv", "a[1].csv", "x y.csv"])
def test_a_file_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("n\n1\n")
    assert rows(Table.find(name, tmp_path)) == [{"n": 1}]


def test_files_with_other_columns_make_one_table_with_nulls(tmp_path: Path) -> None:
    write(tmp_path, a_csv="n,x\n1,p\n", b_csv="y,n\nq,2\n")
    assert rows(Table.find("*.csv", tmp_path)) == [
        {"n": 1, "x": "p", "y": None},
        {"n": 2, "x": None, "y": "q"},
    ]


def test_a_type_is_decided_by_all_rows_and_not_by_the_first(tmp_path: Path) -> None:
    write(tmp_path, a_csv="n\n" + "1\n" * 30_000 + "x\n")
    assert rows(Table.find("a.csv", tmp_path))[-1] == {"n": "x"}


@pytest.mark.parametrize(
    ("files", "line", "wrong"),
    [
        ({"a_csv": "n,m\n1,2\n3\n"}, 3, "1 values, but the header names 2 columns"),
        ({"a_csv": "n,m\n1,2\n3,4,5\n6,7\n"}, 3, "3 values, but the header names 2 columns"),
        ({"a_csv": 'n,m\n1,"open\n'}, 2, "unexpected end of data"),
        ({"a_jsonl": '{"n": 1}\nnope\n{"n": 2}\n'}, 2, "not JSON"),
        ({"a_jsonl": '{"n": 1}\n{"n":\n'}, 2, "not JSON"),
        ({"a_jsonl": '{"n": 1}\n' * 30_000 + "nope\n"}, 30_001, "not JSON"),
        ({"a_json": '[{"n": 1}, {"n": 2}]\n'}, 1, "each line must be a JSON object"),
        ({"a_json": '{\n  "n": 1\n}\n'}, 1, "not JSON"),
    ],
    ids=["short", "long", "quote", "no json", "torn", "late json", "array", "over lines"],
)
def test_a_malformed_line_is_named_with_its_file(
    tmp_path: Path, files: dict[str, str], line: int, wrong: str
) -> None:
    table = Table.find(".", write(tmp_path, **files))
    with pytest.raises(QueryError) as caught:
        rows(table)
    assert str(caught.value).startswith(f"{table.files[0]}, line {line}: {wrong}")


def test_a_malformed_line_far_down_is_named_too(tmp_path: Path) -> None:
    write(tmp_path, a_csv="n,m\n" + "1,2\n" * 30_000 + "3,4,5\n")
    with pytest.raises(QueryError, match="30002") as caught:
        rows(Table.find("a.csv", tmp_path))
    assert str(tmp_path / "a.csv") in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.yaml"])
def test_a_file_that_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"n\n\xff\xfe\n")
    with pytest.raises((QueryError, SourceError)) as caught:
        rows(Table.find(name, tmp_path))
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    write(tmp_path, a_parquet="not parquet")
    with pytest.raises(QueryError, match=r"a\.parquet"):
        rows(Table.find("a.parquet", tmp_path))


def test_a_yaml_mapping_of_lists_is_a_row_for_each_item(tmp_path: Path) -> None:
    write(tmp_path, a_yaml="Sports: [football, chess]\nWorld: [votes]\nNone: []\n")
    assert rows(Table.find("a.yaml", tmp_path)) == [
        {"key": "Sports", "value": "football"},
        {"key": "Sports", "value": "chess"},
        {"key": "World", "value": "votes"},
    ]


def test_a_yaml_row_may_leave_out_what_others_have(tmp_path: Path) -> None:
    write(tmp_path, a_yaml="- {n: 1}\n- {n: 2, day: 2024-01-02}\n")
    assert rows(Table.find("a.yaml", tmp_path)) == [
        {"n": 1, "day": None},
        {"n": 2, "day": datetime.date(2024, 1, 2)},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "must be a list of mappings"),
        ("- a\n", "must be a list of mappings"),
        ("[]\n", "must be a list of mappings"),
        ("{}\n", "must be a list of mappings"),
        ("- {}\n", "must be a list of mappings"),
        ("a: []\n", "must be a list of mappings"),
        ("- {1: a}\n", "must be a list of mappings"),
        ("a: [\n", "line 2"),
        ("- {n: 1}\n- {n: x}\n", "the rows do not make columns"),
        ("- {n: 99999999999999999999}\n", "the rows do not make columns"),
        ("- !!python/object:os.system {}\n", "could not determine a constructor"),
    ],
)
def test_yaml_that_is_no_table_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, a_yaml=text)
    with pytest.raises(SourceError, match=message) as caught:
        Table.find("a.yaml", tmp_path).from_yaml()
    assert str(caught.value).startswith(str(tmp_path / "a.yaml"))


def test_a_digest_follows_content_and_not_place(tmp_path: Path) -> None:
    write(tmp_path / "one", a_csv="n\n1\n")
    write(tmp_path / "two", other_csv="n\n1\n")
    before = Table.find("one", tmp_path).digest()
    assert Table.find("two", tmp_path).digest() == before
    write(tmp_path / "one", a_csv="n\n2\n")
    assert Table.find("one", tmp_path).digest() != before


def test_a_digest_tells_where_one_file_ends(tmp_path: Path) -> None:
    write(tmp_path / "one", a_csv="n\n1\n", b_csv="2\n3\n")
    write(tmp_path / "two", a_csv="n\n1\n2\n", b_csv="3\n")
    assert Table.find("one", tmp_path).digest() != Table.find("two", tmp_path).digest()


# Columns beside the rows.


def parquet(path: Path, **columns: list[object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.fixture
def beside(tmp_path: Path) -> Table:
    """Five rows in two files; marks on three of them in two files; later marks, of which `mark` is again one."""
    return Table(
        (
            parquet(tmp_path / "one.parquet", row_id=["a", "b", "c"], n=[1, 2, 3], old=["x", "y", "z"]),
            parquet(tmp_path / "two.parquet", row_id=["d", "e"], n=[4, 5], old=["u", "v"]),
        ),
        "parquet",
        (
            (
                parquet(tmp_path / "m1.parquet", row_id=["e", "b"], mark=["e1", "b1"], score=[0.5, 0.2]),
                parquet(tmp_path / "m2.parquet", row_id=["c"], mark=["c1"], score=[0.3]),
            ),
            (parquet(tmp_path / "l1.parquet", row_id=["b", "d"], mark=["b2", "d2"], old=["new", None]),),
        ),
    )


def test_added_columns_are_joined_by_row_id_and_a_later_group_hides_its_namesakes(beside: Table) -> None:
    found = sorted(rows(beside), key=lambda row: str(row["row_id"]))
    assert list(found[0]) == ["row_id", "n", "score", "mark", "old"]
    assert [tuple(row.values()) for row in found] == [
        ("a", 1, None, None, None),
        ("b", 2, 0.2, "b2", "new"),
        ("c", 3, 0.3, None, None),
        ("d", 4, None, "d2", None),
        ("e", 5, 0.5, None, None),
    ]


def test_what_is_added_may_hide_all_columns_of_a_group(beside: Table, tmp_path: Path) -> None:
    all_of_it = parquet(tmp_path / "all.parquet", row_id=["a"], mark=["a3"], score=[1.0])
    found = rows(replace(beside, added=(beside.added[0], (all_of_it,))))
    assert sorted((str(row["row_id"]), row["mark"], row["score"]) for row in found if row["mark"]) == [
        ("a", "a3", 1.0)
    ]
    assert len(found) == 5


def test_marks_on_no_row_leave_nulls_under_their_names(beside: Table, tmp_path: Path) -> None:
    none = pa.schema([("row_id", pa.string()), ("mark", pa.string())]).empty_table()
    pq.write_table(none, tmp_path / "none.parquet")
    found = rows(replace(beside, added=((str(tmp_path / "none.parquet"),),)))
    assert sorted(str(row["row_id"]) for row in found) == list("abcde"), "and a mark makes no row"
    assert {row["mark"] for row in found} == {None}


@pytest.mark.parametrize("name", ['a "b"', "it's", "select", "n, m", "Größe", "*"])
def test_added_columns_and_files_may_have_any_name(tmp_path: Path, name: str) -> None:
    base = parquet(tmp_path / "it's" / "rows.parquet", row_id=["a"], **{name: ["old"], "n": [1]})
    first = parquet(tmp_path / "it's" / "m [1].parquet", row_id=["a"], **{name: ["new"]})
    last = parquet(tmp_path / "it's" / "m, 2.parquet", row_id=["a"], **{name: ["newest"], "m": [2]})
    table = Table((base,), "parquet", ((first,), (last,)))
    assert rows(table) == [{"row_id": "a", "n": 1, name: "newest", "m": 2}]


def test_a_scan_of_added_columns_can_stand_in_a_join(beside: Table) -> None:
    with Query({}, files=beside.paths) as query:
        sql = f"SELECT b.*, b.n AS again FROM {beside.scan()} b SEMI JOIN {beside.scan()} c USING (row_id) WHERE b.mark = 'b2'"
        found = query.arrow(sql).to_pylist()
    assert found == [{"row_id": "b", "n": 2, "score": 0.2, "mark": "b2", "old": "new", "again": 2}]


def test_paths_and_digest_hold_what_is_added(beside: Table, tmp_path: Path) -> None:
    assert [Path(path).name for path in beside.paths] == [
        *("one.parquet", "two.parquet"),
        *("m1.parquet", "m2.parquet", "l1.parquet"),
    ]
    assert replace(beside, added=()).paths == beside.files
    before = beside.digest()
    assert before != replace(beside, added=()).digest()
    assert before != replace(beside, added=(beside.added[1], beside.added[0])).digest(), "the later one hides"
    parquet(tmp_path / "l1.parquet", row_id=["b", "d"], mark=["b2", "d3"], old=["new", None])
    assert beside.digest() != before


def test_an_added_column_hides_its_namesake_in_any_file_of_the_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"row_id": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"row_id": ["b"], "n": [2], "x": ["old"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"row_id": ["a", "b"], "x": ["new", "newer"]}), tmp_path / "c.parquet")
    rows, added = (str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")), (str(tmp_path / "c.parquet"),)
    with Query({"held": Table(rows, "parquet", (added,))}) as query:
        assert query.arrow("SELECT * FROM held ORDER BY row_id").to_pylist() == [
            {"row_id": "a", "n": 1, "x": "new"},
            {"row_id": "b", "n": 2, "x": "newer"},
        ]
    assert Table((*rows, *added), "parquet").digest() != Table(rows, "parquet", (added,)).digest()


def test_files_of_one_schema_are_uniform_and_others_are_not(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, held in {"a": {"x": [1]}, "b": {"x": [2]}, "c": {"x": ["3"]}}.items():
        pq.write_table(pa.table(held), tmp_path / f"{name}.parquet")
    a, b, c = (str(tmp_path / f"{name}.parquet") for name in "abc")
    assert Table((a, b), "parquet").uniform()
    assert not Table((a, c), "parquet").uniform()
    assert not Table((a,), "parquet", ((b,),)).uniform()
    assert not Table((), "parquet").uniform()
