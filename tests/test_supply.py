"""Where values come from: tables, SELECTs, trees and lists; what is wrong with one is said before any row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import InputError
from synthray.operator import Context
from synthray.provider import Listed, Provider, Sample
from synthray.supply import named_tables, providers, tables_of
from synthray.table import Table
from synthray.task import Task

SALT = ("step", 1)
TABLES: Mapping[str, Any] = {
    "personas": {"persona": ["a nurse", "a pilot", "a cook"]},
    "topics": {"label": ["World", "World", "Sports"], "topic": ["war", "vote", "golf"], "n": [1, 2, 3]},
    "deficit": {"label": ["World", "Sports", "Arts"], "missing": [3, 1, 0]},
    "vocabulary": {"part_of_speech": ["noun", "noun", "verb"], "word": ["cat", "sun", "eat"]},
    "taxonomy": {
        "parent": [None, "Science", "Science", "Physics", "Arts"],
        "child": ["Science", "Physics", "Biology", "Optics", "Film"],
    },
    "empty": {"value": pa.array([], pa.string()), "key": pa.array([], pa.string())},
    "two_parents": {"parent": ["a", "b"], "child": ["c", "c"]},
    "round_tree": {"parent": ["a", "b"], "child": ["b", "a"]},
    "no_child": {"parent": ["a"], "child": pa.array([None], pa.string())},
    "bad_weight": {"value": ["a", "b"], "weight": [1.0, -2.0]},
    "made": {"row_id": ["3", "1", "2"], "value": ["c", "a", "b"]},
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("tables")
    for name, columns in TABLES.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    tables = {name: Table.find(f"{name}.parquet", folder) for name in TABLES}
    return Context(step="step", seed=1, task=Task(labels={"World": "", "Sports": ""}), tables=tables)


@pytest.fixture
def read(context: Context) -> Callable[..., dict[str, Provider]]:
    def read(columns: Mapping[str, Any], kinds: Any = None, **changes: Any) -> dict[str, Provider]:
        from dataclasses import replace

        return providers(columns, replace(context, **changes), SALT, {} if kinds is None else kinds)

    return read


def pools(provider: Provider) -> dict[Any, tuple[Any, ...]]:
    assert isinstance(provider, Listed | Sample)
    assert provider.pools is not None
    return {key: pool.values for key, pool in provider.pools.items()}


def test_a_select_answers_values_sorted_as_often_as_they_come(read: Callable[..., Any]) -> None:
    found = read({"x": {"sql": "SELECT label AS value FROM deficit, range(missing)"}})["x"]
    assert pools(found) == {None: ("Sports", "World", "World", "World")}
    alone = read({"x": {"sql": "SELECT topic FROM topics WHERE n > 1"}})["x"]
    assert pools(alone) == {None: ("golf", "vote")}, "a single column is the value, whatever its name"


def test_a_select_answers_weights_and_keys(read: Callable[..., Any]) -> None:
    sql = "SELECT label AS value, missing AS weight FROM deficit"
    weighted = read({"x": {"sql": sql}})["x"]
    assert pools(weighted) == {None: ("Sports", "World")}, "a weight of 0 is never drawn"
    assert weighted.pools[None].weights == (1.0, 3.0)
    by = read(
        {
            "label": ["World", "Sports"],
            "topic": {"by": "label", "sql": "SELECT topic, n AS weight, label FROM topics"},
        }
    )["topic"]
    assert pools(by) == {"World": ("vote", "war"), "Sports": ("golf",)}
    assert by.pools["World"].weights == (2.0, 1.0)


def test_a_select_does_not_see_how_rows_lie_in_files(
    read: Callable[..., Any], context: Context, tmp_path: Path
) -> None:
    pq.write_table(pa.table(TABLES["topics"]).take([2, 0, 1]), tmp_path / "topics.parquet")
    other = {**context.tables, "topics": Table.find("topics.parquet", tmp_path)}
    spec = {"x": {"sql": "SELECT topic FROM topics"}}
    assert read(spec)["x"] == read(spec, tables=other)["x"]


def test_a_table_with_row_ids_is_read_in_their_order(read: Callable[..., Any]) -> None:
    assert pools(read({"x": {"from": "made"}})["x"]) == {None: ("a", "b", "c")}


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({"sql": "SELECT n FROM topics"}, pa.int64()),
        ({"sql": "SELECT DATE '2020-01-01' AS value"}, pa.date32()),
        ({"ranges": [[1, 2]]}, pa.struct([("low", pa.int64()), ("high", pa.int64())])),
        ({"tree": {"a": {"b": None}}}, pa.list_(pa.string())),
        ({"sample": 2, "from": [1, 2, 3]}, pa.list_(pa.int64())),
        ({"words": 1, "from": "personas"}, None),
        ({"others": "label"}, pa.list_(pa.string())),
        ({"by": "label", "values": {"World": [1.5], "Sports": [2]}}, pa.float64()),
        ({"weights": {1: 2, 2: 1}, "sample": 1}, pa.list_(pa.int64())),
        ({"from": "personas"}, None),
    ],
    ids=str,
)
def test_values_are_columns_of_their_type(read: Callable[..., Any], spec: dict[str, Any], kind: Any) -> None:
    name = "persona" if kind is None else "x"
    kind = kind or (pa.list_(pa.string()) if "words" in spec else pa.string())
    assert read({"label": "task.labels", name: spec})[name].kind == kind


@pytest.mark.parametrize(
    "spec",
    [
        {"from": "personas"},
        {"sql": "SELECT persona FROM personas"},
        {"by": "label", "sql": "SELECT persona AS value, row_id AS label FROM personas"},
        {"sample": 2, "from": "personas"},
    ],
    ids=str,
)
def test_a_table_that_is_made_later_gives_its_type_and_no_values(
    read: Callable[..., Any], spec: dict[str, Any]
) -> None:
    later = {"personas": pa.schema([("row_id", pa.string()), ("persona", pa.int16())])}
    found = read({"label": "task.labels", "persona": spec}, tables={}, schemas=later)["persona"]
    assert found.pools is None
    assert found.kind == (pa.list_(pa.int16()) if "sample" in spec else pa.int16())


def test_a_tree_of_a_mapping_gives_the_path_of_each_leaf(read: Callable[..., Any]) -> None:
    tree = {
        "Science": {"Physics": ["Optics", "Waves"], "Biology": None, "Maths": []},
        "Arts": ["Film"],
        2024: "News",
    }
    whole = [["2024", "News"], ["Arts", "Film"], ["Science", "Biology"], ["Science", "Maths"]]
    whole += [["Science", "Physics", "Optics"], ["Science", "Physics", "Waves"]]
    assert list(pools(read({"x": {"tree": tree}})["x"])[None]) == whole
    cut = [["2024"], ["Arts"], ["Science"]]
    assert list(pools(read({"x": {"tree": tree, "depth": 1}})["x"])[None]) == cut


def test_a_tree_of_a_table_gives_the_path_of_each_leaf(read: Callable[..., Any]) -> None:
    found = list(pools(read({"x": {"tree": "taxonomy"}})["x"])[None])
    assert found == [["Arts", "Film"], ["Science", "Biology"], ["Science", "Physics", "Optics"]]


def test_words_of_a_vocabulary_are_by_part_of_speech(read: Callable[..., Any]) -> None:
    found = read({"x": {"words": {"noun": 2, "verb": 1}, "from": "vocabulary"}})["x"]
    assert pools(found) == {"noun": ("cat", "sun"), "verb": ("eat",)}
    inline = read({"x": {"words": {"noun": 1}, "values": {"noun": ["cat"]}}})["x"]
    assert pools(inline) == {"noun": ("cat",)}
    assert pools(read({"x": {"words": 3, "from": "vocabulary"}})["x"]) == {None: ("cat", "sun", "eat")}


def test_without_replacement_heavier_values_come_rather_earlier(read: Callable[..., Any]) -> None:
    spec = {
        "x": {
            "sql": "SELECT range AS value, range % 2 * 99 + 1 AS weight FROM range(100)",
            "replacement": False,
        }
    }
    order = pools(read(spec)["x"])[None]
    assert sorted(order) == list(range(100))
    assert sum(value % 2 for value in order[:50]) > 40


def test_the_tables_that_columns_name_are_found_in_any_case_and_not_in_a_with(context: Context) -> None:
    columns = {
        "a": {"from": "personas"},
        "b": {"tree": "taxonomy"},
        "c": {"sql": "WITH own AS (SELECT 1 AS n) SELECT label FROM DEFICIT, own"},
        "d": {"from": "task.labels"},
        "e": {"from": ["x"]},
        "f": {"tree": {"topics": None}},
    }
    assert named_tables(columns, context) == ("personas", "taxonomy", "deficit")
    assert tables_of("SELECT 1", context) == ()


LABEL = {"label": "task.labels"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": {"from": "empty"}}, r"columns\.x: the table 'empty' has no rows, so there is nothing to draw"),
        ({**LABEL, "x": {"by": "label", "from": "empty"}}, "the table 'empty' has no rows"),
        ({"x": {"sql": "SELECT value FROM empty"}}, r"columns\.x: the SELECT answers no rows"),
        ({"x": {"sql": "SELECT 'a' AS value, 0 AS weight"}}, "the SELECT answers only weights of 0"),
        ({"x": {"sql": "SELECT * FROM bad_weight"}}, "weight must be .* but that of 'b' is -2.0"),
        ({"x": {"sql": "SELECT 'a' AS value, 'b' AS weight"}}, "weight must be a number, but is string"),
        ({"x": {"sql": "SELECT 1 AS a, 2 AS b"}}, "neither a column 'x' nor 'value'; it has a, b"),
        ({"x": {"sql": "SELECT topc FROM topics"}}, '"topc" not found'),
        ({"x": {"sql": "SELECT a FROM topcs"}}, "topcs"),
        ({"x": {"sql": "SELECT random() AS value"}}, r"random\(\) is refused"),
        ({"x": {"sql": "SELECT * FROM read_csv('/etc/passwd')"}}, "read_csv|disabled"),
        ({"x": {"sql": "DROP TABLE topics"}}, "must be one SELECT, but is DROP"),
        ({"x": {"sql": 5}}, "sql must be a SELECT, but is 5"),
        ({"x": {"from": 5}}, "from must be a table, a list or task.labels, but is 5"),
        ({**LABEL, "x": {"by": "label", "from": ["a"]}}, "a list has no keys; use values: {key:"),
        (
            {**LABEL, "x": {"by": "label", "sql": "SELECT topic AS value, 'a' AS key FROM topics"}},
            "the SELECT has no x for label 'World'",
        ),
        ({**LABEL, "x": {"by": "label", "values": {"World": ["a"]}}}, "values has no x for label 'Sports'"),
        ({**LABEL, "x": {"by": "label", "values": {"World": []}}}, "a list that is not empty"),
        ({"x": {"values": {"World": ["a"]}}}, "values: .* needs by: COLUMN"),
        ({"x": {"by": "y", "from": "topics"}}, "by: 'y' must be a column above it"),
        (
            {"r": {"ranges": [[1, 2]]}, "x": {"by": "r", "from": "topics"}},
            "one plain value a row, but is struct",
        ),
        ({"x": {"ranges": [[3, 1]]}}, r"each of ranges must be \[low, high\] .* but is \[3, 1\]"),
        ({"x": {"ranges": []}}, r"ranges must be a list of \[low, high\], but is \[\]"),
        ({"x": {"tree": {}}}, "the tree is empty"),
        ({"x": {"tree": []}}, r"tree must be a nested mapping or a table .* but is \[\]"),
        ({"x": {"tree": {"a": [["b"]]}}}, "a list in a list under a"),
        ({"x": {"tree": {"a": None}, "depth": 0}}, "depth must be a whole number of at least 1, but is 0"),
        ({"x": {"tree": "topics"}}, "no column 'parent'; it has label, topic, n"),
        ({"x": {"tree": "two_parents"}}, "'c' has two parents, 'a' and 'b'"),
        ({"x": {"tree": "round_tree"}}, "'round_tree' goes round: a < b"),
        ({"x": {"tree": "no_child"}}, r"a row without a child \(of 'a'\)"),
        ({"x": {"tree": "taxonmy"}}, "no table 'taxonmy'; did you mean 'taxonomy'"),
        ({"x": {"sample": 4, "from": "personas"}}, "neither a column 'x' nor 'value'; it has persona"),
        ({"persona": {"sample": 4, "from": "personas"}}, "4 distinct values are wanted, but personas has 3"),
        ({"x": {"sample": 2, "from": ["a", "a"]}}, "2 distinct values are wanted, but the list has 1"),
        ({**LABEL, "topic": {"sample": 2, "by": "label", "from": "topics"}}, "topics has 1 for 'Sports'"),
        ({"x": {"sample": 0, "from": ["a"]}}, "sample must be a whole number of at least 1, but is 0"),
        ({"x": {"sample": 1, "words": 1, "from": ["a"]}}, "sample and words say the same"),
        ({"x": {"words": {"noun": 0}, "from": "vocabulary"}}, "words must be .* or {part of speech: number}"),
        (
            {"x": {"words": {"nuon": 1}, "from": "vocabulary"}},
            "vocabulary has no x for 'nuon'; did you mean 'noun'",
        ),
        ({**LABEL, "x": {"words": {"noun": 1}, "by": "label", "from": "vocabulary"}}, "have no by"),
        ({"x": {"sample": 1, "from": ["a"], "replacement": False}}, "replacement is for one value a row"),
        ({"x": {"from": ["a"], "replacement": 0}}, "replacement must be true or false, but is 0"),
        ({"x": {"from": ["a"], "sampel": 3}}, "no key 'sampel' beside from; did you mean 'sample'"),
        ({"x": {"others": "label"}}, "others: 'label' must be a column above it"),
        (
            {**LABEL, "x": {"others": "label", "k": 2}},
            "k is 2, but beside a value of label there are 1 others",
        ),
        ({**LABEL, "x": {"others": "label", "k": 0}}, "k must be a whole number of at least 1, but is 0"),
        ({"n": {"range": [1, 3]}, "x": {"others": "n"}}, "the values of 'n' have no list; add from"),
        ({"x": {"weights": ["a"]}}, r"weights must be {value: weight}, but is \['a'\]"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_what_cannot_be_drawn_is_said(
    read: Callable[..., Any], columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        read(columns)


def test_columns_of_the_rows_are_checked_by_their_type(read: Callable[..., Any]) -> None:
    topic = {"topic": {"by": "label", "from": "topics"}}
    assert read(topic, {"label": pa.string()})["topic"].by == "label"
    with pytest.raises(InputError, match="by: 'label' is int64, but the keys of topics are string"):
        read(topic, {"label": pa.int64()})
    with pytest.raises(
        InputError, match="must be a column of the rows or one above it; did you mean 'labels'"
    ):
        read(topic, {"labels": pa.string()})
    others = {"x": {"others": "label"}}
    with pytest.raises(
        InputError, match=r"which values 'label' may have is not known here; add from: task\.labels"
    ):
        read(others, {"label": pa.string()})
