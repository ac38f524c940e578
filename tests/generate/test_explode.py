"""A list becomes rows and is folded again; who descends from whom is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from synthray import ancestry
from synthray.errors import InputError
from synthray.generate.explode import Explode
from synthray.lineage import child_id
from synthray.operator import Context
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.run import Run

ITEM = pa.struct([("q", pa.string()), ("n", pa.int32())])


def rows(**columns: Any) -> pa.Table:
    size = len(next(iter(columns.values())))
    return pa.table(
        {
            "row_id": [f"r{n}" for n in range(size)],
            "parent_id": pa.nulls(size, pa.string()),
            "round": pa.array([0] * size, pa.int32()),
            **columns,
        }
    )


def test_each_element_is_a_child_with_its_parents_columns() -> None:
    table = rows(topic=["a", "b"], texts=[["x", "y"], ["z"]])
    operator = Explode(column="texts", writes="text", ordinal="place")
    operator.check(table.schema)
    out = operator(table)
    ids = [child_id("r0", "explode", 0), child_id("r0", "explode", 1), child_id("r1", "explode", 0)]
    assert out.to_pydict() == {
        "row_id": ids,
        "parent_id": ["r0", "r0", "r1"],
        "round": [0, 0, 0],
        "topic": ["a", "a", "b"],
        "texts": [None, None, None],
        "text": ["x", "y", "z"],
        "place": [0, 1, 0],
    }
    assert out.schema == operator.schema(table.schema)
    assert operator.makes() == "children"


def test_a_null_element_has_no_child_and_leaves_the_others_their_places() -> None:
    operator = Explode(column="texts", writes="text", ordinal="n")
    out = operator(rows(texts=[["x", None, "y"], [], None, [None]]))
    assert out.select(["parent_id", "text", "n"]).to_pylist() == [
        {"parent_id": "r0", "text": "x", "n": 0},
        {"parent_id": "r0", "text": "y", "n": 2},
    ]
    assert out["row_id"].to_pylist() == [child_id("r0", "explode", n) for n in (0, 2)]
    assert operator(rows(texts=pa.array([[], None], pa.list_(pa.string())))).num_rows == 0


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2)], ids=str
)
def test_all_kinds_of_lists_in_slices_and_chunks(kind: pa.DataType) -> None:
    held = pa.chunked_array([pa.array([["a", "b"], ["c", "d"]], kind), pa.array([None, ["e", "f"]], kind)])
    out = Explode(column="texts", writes="text")(rows(texts=held).slice(1))
    assert out.select(["parent_id", "text"]).to_pydict() == {
        "parent_id": ["r1", "r1", "r3", "r3"],
        "text": ["c", "d", "e", "f"],
    }


def test_structs_are_a_column_or_their_fields_are() -> None:
    table = rows(items=pa.array([[{"q": "a", "n": 1}, None, {"q": None, "n": 2}]], pa.list_(ITEM)))
    whole = Explode(column="items", writes="item")
    assert whole(table)["item"].to_pylist() == [{"q": "a", "n": 1}, {"q": None, "n": 2}]
    fields = Explode(column="items", writes={"question": "q", "number": "n"})
    fields.check(table.schema)
    out = fields(table)
    assert out.select(["question", "number"]).to_pydict() == {"question": ["a", None], "number": [1, 2]}
    assert out.schema.field("number").type == pa.int32()
    assert out.schema == fields.schema(table.schema)


def test_lists_side_by_side_are_taken_apart_together_and_odd_ones_fail() -> None:
    table = rows(q=[["a", "b"], ["c"], None], a=[["1", None], ["2", "3"], []], x=[1, 2, 3])
    operator = Explode(column=["q", "a"], writes=["question", "answer"])
    operator.check(table.schema)
    out = operator(table)
    assert out.select(["parent_id", "question", "answer", "x"]).to_pylist()[:2] == [
        {"parent_id": "r0", "question": "a", "answer": "1", "x": 1},
        {"parent_id": "r0", "question": "b", "answer": None, "x": 1},
    ]
    odd = out.to_pylist()[2:]
    assert [(row["row_id"], row["question"], row["x"]) for row in odd] == [("r1", None, 2)]
    assert odd[0]["failed"] == {
        "error": "InvalidValue",
        "message": "the lists differ in length: q holds 1, a holds 2",
        "attempts": 1,
    }
    assert out["failed"].null_count == 2


def test_children_of_two_rounds_are_two_and_hold_their_round() -> None:
    table = rows(texts=[["x"]])
    out = Explode(column="texts", writes="text", context=Context(step="take", round=2))(table)
    assert out.select(["row_id", "round"]).to_pylist() == [
        {"row_id": child_id("r0", "take@2", 0), "round": 2}
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"column": "topic", "writes": "text"}, "column 'topic' must hold a list in each row, but is string"),
        ({"column": [], "writes": []}, "column names no list"),
        (
            {"column": "texts", "writes": ["a", "b"]},
            "writes must name a column for each of texts, but names a, b",
        ),
        ({"column": ["texts", "items"], "writes": ["a"]}, "for each of texts, items, but names a"),
        ({"column": "texts", "writes": {"a": "q"}}, "one list of structs, but 'texts' is of string"),
        ({"column": "items", "writes": {"a": "qq"}}, "have no field 'qq'; did you mean 'q'"),
        ({"column": "items", "writes": {}}, "writes names no column"),
        ({"column": "texts", "writes": "row_id"}, "cannot write 'row_id'"),
        ({"column": "texts", "writes": "texts"}, "is the list itself; name another column"),
        ({"column": "texts", "writes": "size"}, "is there as int64 and would become string; name another"),
        ({"column": "texts", "writes": "a", "ordinal": "a"}, "columns of different names"),
        ({"column": ["texts", "items"], "writes": ["a", "a"]}, "columns of different names"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused_before_any_work(
    settings: dict[str, Any], message: str
) -> None:
    table = rows(topic=["a"], texts=[["x"]], size=[1], items=pa.array([[{"q": "a", "n": 1}]], pa.list_(ITEM)))
    with pytest.raises(InputError, match=message):
        Explode(**settings).check(table.schema)


RECIPE = """
name: folded
steps:
  - source.table: {path: lists.jsonl}
  - generate.explode: {column: texts, writes: text, ordinal: place}
"""
FOLD = """
  - where: place <> 1
  - sql: |
      SELECT topic, list(text ORDER BY row_id) AS texts, list(row_id) AS parents
      FROM rows GROUP BY parent_id, topic
"""


@pytest.fixture
def run(write: Callable[..., Path], tmp_path: Path) -> Callable[[str], Run]:
    """Return a function that runs the recipe over lists, of which some are empty."""
    texts: list[Any] = [["a", "b", "c"], [], None, [None], ["d", "e", "f"]]
    lines = [{"topic": n, "texts": texts[n % 5]} for n in range(20)]
    write("".join(f"{json.dumps(line)}\n" for line in lines), "lists.jsonl")
    return lambda more: load(write(RECIPE + more)).run(tmp_path / "run", quiet=True)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_taken_apart_and_folded_are_conserved_and_keep_their_lineage(run: Callable[[str], Run]) -> None:
    found = run(FOLD)
    rejects = found.sql("SELECT reject_reason, topic FROM rows WHERE reject_step = 'explode'").to_pylist()
    assert {row["topic"] % 5 for row in rejects} == {1, 2, 3}
    assert (len(rejects), {row["reject_reason"] for row in rejects}) == (12, {"no_children"})
    folded = found.sql("SELECT * FROM dataset ORDER BY topic").to_pylist()
    assert [row["topic"] for row in folded] == [n for n in range(20) if n % 5 in (0, 4)]
    for row in folded:
        assert sorted(row["texts"]) == (["a", "c"] if row["topic"] % 5 == 0 else ["d", "f"])
    parents = [one for row in folded for one in row["parents"]]
    assert len(set(parents)) == len(parents) == 16
    ties = dict(ancestry.parents(found, found.stages()))
    assert {ties[one] for one in parents} == {ties[ties[row["row_id"]]] for row in folded}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_that_when_lets_pass_keep_their_list(run: Callable[[str], Run]) -> None:
    found = run("    when: topic > 9\n").sql(
        "SELECT topic > 9 AS taken, texts IS NULL AS listless, text IS NULL AS textless, count(*) AS n "
        "FROM dataset WHERE topic % 5 = 0 GROUP BY ALL"
    )
    assert {tuple(row.values()) for row in found.to_pylist()} == {
        (True, True, False, 6),
        (False, False, True, 2),
    }
