"""Annotations from columns and from a table are one relation, and what contradicts itself is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from synthray.annotation import Annotations, voted
from synthray.errors import InputError, RunFailed
from synthray.operator import Context
from synthray.query import Query

ROWS = pa.table(
    {
        "row_id": ["r1", "r2", "r3", "r4"],
        "model": ["a", "b", None, None],
        "human": ["a", None, None, "c"],
    }
)
TABLE = {
    "row_id": ["r1", "r1", "r3", "r3", "r9", "r8", "r8"],
    "annotator": ["w1", "w2", "w1", "w1", "w1", "w1", "w2"],
    "label": ["b", "a", "c", "c", "a", "a", None],
}


def held(**columns: list[Any]) -> Iterator[Query]:
    with Query({"rows": ROWS, "crowd": pa.table({**TABLE, **columns})}) as query:
        yield query


def votes(annotations: Annotations, *classes: str, **columns: list[Any]) -> dict[str, dict[str, str]]:
    for query in held(**columns):
        found = query.arrow(f"{annotations.votes(query, classes)} ORDER BY row_id").to_pylist()
    return {row["row_id"]: {one["annotator"]: one["label"] for one in row["votes"]} for row in found}


BOTH = Annotations("step", ["model", "human"], "crowd")


def test_columns_and_table_are_read_together_and_no_label_is_none() -> None:
    assert votes(BOTH) == {
        "r1": {"human": "a", "model": "a", "w1": "b", "w2": "a"},
        "r2": {"model": "b"},
        "r3": {"w1": "c"},
        "r4": {"human": "c"},
    }
    assert votes(Annotations("step", ["model"], None)) == {"r1": {"model": "a"}, "r2": {"model": "b"}}
    assert votes(Annotations("step", [], "crowd")) == {"r1": {"w1": "b", "w2": "a"}, "r3": {"w1": "c"}}


def test_ids_of_no_row_are_counted() -> None:
    for query in held():
        assert BOTH.unknown(query) == 2
        assert Annotations("step", ["model"], None).unknown(query) == 0


def test_ids_and_labels_of_a_file_may_be_numbers() -> None:
    rows = pa.table({"row_id": ["1", "2"]})
    table = pa.table({"row_id": [1, 2], "annotator": [7, 7], "label": [0, 1]})
    with Query({"rows": rows, "crowd": table}) as query:
        found = query.arrow(Annotations("step", [], "crowd").votes(query)).to_pylist()
    assert sorted(found, key=str) == [
        {"row_id": "1", "votes": [{"annotator": "7", "label": "0"}]},
        {"row_id": "2", "votes": [{"annotator": "7", "label": "1"}]},
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": ["b", "a", "c", "a", "a", "a", None]},
            "step: the annotator 'w1' gave row_id 'r3' several labels: 'a', 'c'; keep one of them",
        ),
        (
            {"annotator": ["w1", None, "w1", "w1", "w1", "w1", "w2"]},
            "step: the table 'crowd' has a label of row_id 'r1' with no annotator",
        ),
        (
            {"annotator": ["model", "w2", "w1", "w1", "w1", "w1", "w2"]},
            "the annotator 'model' gave row_id 'r1' several labels: 'a', 'b'",
        ),
    ],
)
def test_contradictions_are_told_with_the_row(columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(RunFailed, match=message):
        votes(BOTH, **columns)


def test_a_label_that_is_none_of_the_classes_is_told_with_the_row() -> None:
    message = (
        "the annotator 'human' gave row_id 'r4' the label 'c', which is no class; there is a, b; mend it"
    )
    rows_only = Annotations("step", ["model", "human"], None)
    with pytest.raises(RunFailed, match=message):
        votes(rows_only, "a", "b")
    assert votes(rows_only, "a", "b", "c") == votes(rows_only)


def test_what_cannot_be_annotations_is_found_before_any_work() -> None:
    schema = pa.schema([("row_id", pa.string()), ("worker", pa.string()), ("label", pa.string())])
    context = Context(schemas={"crowd": schema})
    for wrong, message in (
        (
            Annotations("step", [], None),
            "needs annotations: name columns by labels, or by annotations a table",
        ),
        (Annotations("step", ["a", "b", "a"], None), "labels names the column 'a' twice"),
        (Annotations("step", [], "crowd"), "the table 'crowd' has no column 'annotator'"),
    ):
        with pytest.raises(InputError, match=message):
            wrong.check(context, ROWS.schema)


def test_votes_are_places_among_names_and_classes() -> None:
    for query in held():
        sql = f"SELECT votes, count(*) AS size FROM ({BOTH.votes(query)}) GROUP BY votes ORDER BY votes"
        patterns = query.arrow(sql)
    made = voted(patterns)
    assert (made.annotators, made.classes) == (["human", "model", "w1", "w2"], ["a", "b", "c"])
    assert made.weight.tolist() == [1] * 4
    first = slice(0, int(made.starts[1]))
    assert [made.annotators[one] for one in made.annotator[first]] == ["human", "model", "w1", "w2"]
    assert [made.classes[one] for one in made.label[first]] == ["a", "a", "b", "a"]
    assert voted(patterns, ["c", "b", "a", "z"]).label[first].tolist() == [2, 2, 1, 2]
    empty = voted(patterns.slice(0, 0))
    assert (len(empty.weight), list(empty.classes)) == (0, [])
