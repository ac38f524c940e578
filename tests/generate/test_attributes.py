"""Attributes are drawn for each row by its id alone, whatever rows are beside it."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from synthray.errors import InputError, RunFailed
from synthray.generate.attributes import Attributes
from synthray.operator import Context
from synthray.recipe import load
from synthray.table import Table
from synthray.task import Task

TOPICS = {"World": ["war", "vote"], "Sports": ["golf", "judo", "chess"]}
COLUMNS: Mapping[str, Any] = {
    "topic": {"by": "label", "from": "topics"},
    "tone": ["dry", "warm", "odd"],
    "similar": {"others": "label", "from": ["World", "Sports", "Arts"], "k": 1},
    "length": {"ranges": [[30, 80], [100, 150]]},
    "place": {"weights": {"Oslo": 3, "Rome": 1}},
    "year": {"range": [1990, 1999]},
    "side": {"by": "tone", "values": {"dry": [1], "warm": [2, 3], "odd": [4]}},
    "leaf": {"tree": {"a": {"b": ["c", "d"]}, "e": None}},
    "two": {"sample": 2, "by": "label", "from": "topics"},
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("tables")
    rows = [(label, topic) for label, held in TOPICS.items() for topic in held]
    table = pa.table({"label": [row[0] for row in rows], "topic": [row[1] for row in rows]})
    pq.write_table(table.append_column("two", table["topic"]), folder / "topics.parquet")
    tables = {"topics": Table.find("topics.parquet", folder)}
    return Context(step="attributes", seed=3, task=Task(labels=dict.fromkeys(TOPICS, "")), tables=tables)


def rows(count: int) -> pa.Table:
    return pa.table(
        {
            "row_id": [f"id{place}" for place in range(count)],
            "parent_id": pa.nulls(count, pa.string()),
            "round": pa.array([0] * count, pa.int32()),
            "label": [("World", "Sports")[place % 2] for place in range(count)],
        }
    )


def checked(columns: Mapping[str, Any], context: Context, before: pa.Table, **more: Any) -> Attributes:
    operator = Attributes(columns, context=context, **more)
    operator.check(before.schema)
    return operator


def test_every_attribute_is_a_typed_column_that_belongs_to_its_row(context: Context) -> None:
    before = rows(60)
    operator = checked(COLUMNS, context, before)
    found = operator(before)
    assert found.schema == operator.schema(before.schema)
    assert operator.reads == ("label",), "tone is an attribute itself"
    assert operator.table_names == ("topics",)
    span = pa.struct([("low", pa.int64()), ("high", pa.int64())])
    assert [found.schema.field(name).type for name in ("length", "similar", "side")] == [
        span,
        pa.list_(pa.string()),
        pa.int64(),
    ]
    for row in found.to_pylist():
        assert row["topic"] in TOPICS[row["label"]]
        assert set(row["two"]) <= set(TOPICS[row["label"]])
        assert len(set(row["two"])) == 2
        assert len(row["similar"]) == 1
        assert row["label"] not in row["similar"]
        assert row["side"] in {"dry": [1], "warm": [2, 3], "odd": [4]}[row["tone"]]
        assert row["leaf"] in (["a", "b", "c"], ["a", "b", "d"], ["e"])


def test_draws_do_not_depend_on_the_other_rows_or_on_workers(context: Context) -> None:
    before = rows(60)
    operator = checked(COLUMNS, context, before, exclude="tone = 'dry' AND label = 'World'")
    found = operator(before)
    parts = [operator(before.slice(start, size)) for start, size in ((0, 1), (1, 40), (41, 19))]
    assert pa.concat_tables(parts).combine_chunks() == found.combine_chunks()
    turned = pa.array(range(59, -1, -1))
    assert operator(before.take(turned)).take(turned) == found
    assert pickle.loads(pickle.dumps(operator))(before) == found


@pytest.mark.parametrize("change", [{"seed": 4}, {"step": "other"}, {"round": 2}], ids=str)
def test_another_seed_step_or_round_draws_others(context: Context, change: dict[str, Any]) -> None:
    before = rows(40)
    one = checked(COLUMNS, context, before)(before)
    other = checked(COLUMNS, replace(context, **change), before)(before)
    for name in COLUMNS:
        assert one[name].to_pylist() != other[name].to_pylist(), name


def test_values_are_as_likely_as_they_should_be(context: Context) -> None:
    before = rows(3000)
    found = checked({name: COLUMNS[name] for name in ("tone", "place")}, context, before)(before)
    tones, places = (Counter(found[name].to_pylist()) for name in ("tone", "place"))
    assert stats.chisquare([tones[one] for one in COLUMNS["tone"]]).pvalue > 0.01
    assert stats.chisquare([places["Oslo"], places["Rome"]], [2250, 750]).pvalue > 0.01


def test_an_exclusion_sees_the_rows_columns_and_named_tables(context: Context) -> None:
    before = rows(200)
    exclude = [
        "label = 'World' AND tone <> 'odd'",
        "topic IN (SELECT topic FROM topics WHERE topic = 'golf')",
    ]
    columns = {name: COLUMNS[name] for name in ("topic", "tone")}
    found = checked(columns, context, before, exclude=exclude)(before).to_pylist()
    assert {row["tone"] for row in found if row["label"] == "World"} == {"odd"}
    assert {row["tone"] for row in found if row["label"] == "Sports"} == {"dry", "warm", "odd"}
    assert {row["topic"] for row in found} == {"war", "vote", "judo", "chess"}


def test_what_is_not_named_by_an_exclusion_stays_as_it_was(context: Context) -> None:
    before = rows(80)
    columns = {name: COLUMNS[name] for name in ("tone", "year")}
    plain = checked(columns, context, before)(before)
    found = checked(columns, context, before, exclude="tone = 'dry'")(before)
    assert found["year"] == plain["year"]
    for one, other in zip(plain["tone"].to_pylist(), found["tone"].to_pylist(), strict=True):
        assert one == other or one == "dry"


def test_a_column_that_is_there_is_drawn_anew_and_null_leaves_null(context: Context) -> None:
    before = rows(4).append_column("tone", pa.array(["old"] * 4))
    before = before.set_column(3, "label", pa.array([None, "World", "Sports", None], pa.string()))
    found = checked(COLUMNS, context, before)(before)
    assert set(found["tone"].to_pylist()) <= {"dry", "warm", "odd"}
    assert found.column_names.count("tone") == 1
    for name in ("topic", "similar", "two"):
        assert [value is None for value in found[name].to_pylist()] == [True, False, False, True], name


def test_a_prefix_does_not_rename_the_columns(context: Context) -> None:
    before = rows(2)
    operator = checked({"tone": ["dry"]}, replace(context, prefix="again_"), before)
    assert operator(before)["tone"].to_pylist() == ["dry", "dry"]


def test_a_key_without_values_fails_the_run_with_row_table_and_key(context: Context) -> None:
    before = rows(2).set_column(3, "label", pa.array(["World", "Wrld"]))
    columns = {"topic": COLUMNS["topic"]}
    message = "attributes: row id1: topics has no topic for label 'Wrld'; did you mean 'World'"
    with pytest.raises(RunFailed, match=message):
        checked(columns, context, before)(before)


def test_a_table_that_the_run_made_empty_fails_the_run(context: Context, tmp_path: Path) -> None:
    pq.write_table(pa.table({"topic": pa.array([], pa.string())}), tmp_path / "topics.parquet")
    empty = replace(context, tables={"topics": Table.find("topics.parquet", tmp_path)})
    later = replace(context, tables={}, schemas={"topics": pa.schema([("topic", pa.string())])})
    columns = {"topic": {"from": "topics"}}
    checked(columns, later, rows(1))
    with pytest.raises(RunFailed, match=r"columns\.topic: the table 'topics' has no rows"):
        Attributes(columns, context=empty)(rows(1))


@pytest.mark.parametrize(
    ("columns", "more", "message"),
    [
        ({}, {}, "columns is empty; name at least one"),
        ({"row_id": ["a"]}, {}, "'row_id' is reserved for lineage"),
        (
            {"x": {"from": ["a"], "replacement": False}},
            {},
            "needs to know all rows; it is for source.conditions",
        ),
        (
            {"x": {"by": "lable", "from": "topics"}},
            {},
            "a column of the rows or one above it; did you mean 'label'",
        ),
        (
            {"x": {"by": "round", "values": {"a": [1]}}},
            {},
            "by: 'round' is int32, but the keys of values are string",
        ),
        ({"x": {"others": "label"}}, {}, "which values 'label' may have is not known here"),
        ({"x": ["a"]}, {"exclude": "y = 1"}, '"y" not found'),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_drawn_is_refused_before_any_work(
    context: Context, columns: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        checked(columns, context, rows(2), **more)


def test_an_impossible_exclusion_fails_the_run_and_names_the_row(context: Context) -> None:
    before = rows(2)
    with pytest.raises(RunFailed, match=r"attributes: row id0: exclude .* allows none of 1000 draws"):
        checked({"tone": ["dry"]}, context, before, exclude="tone = 'dry'")(before)


RECIPE = """
seed: 3
task: {labels: [World, Sports]}
tables: {topics: topics.yaml}
steps:
  - source.conditions: {rows: 30, columns: {label: task.labels}}
  - generate.attributes:
      columns: {tone: [dry, warm, odd], similar: {others: label, from: task.labels}}
      exclude: tone = 'dry' AND label = 'World'
    when: label = 'World'
  - generate.attributes: {columns: {topic: {by: label, from: topics}}}
    as: later
"""


@pytest.mark.ray
def test_a_recipe_draws_the_same_for_any_blocks(tmp_path: Path) -> None:
    (tmp_path / "topics.yaml").write_text("World: [war, vote]\nSports: [golf]\n")
    found = []
    for blocks in (1, 7):
        recipe = tmp_path / f"recipe{blocks}.yaml"
        recipe.write_text(f"blocks: {blocks}\n{RECIPE}")
        run = load(recipe).run(tmp_path / f"run{blocks}", quiet=True)
        found.append(run.sql("SELECT * FROM dataset ORDER BY row_id"))
    assert found[0] == found[1]
    by_label = {(row["label"], row["tone"], row["topic"]) for row in found[0].to_pylist()}
    assert {tone for label, tone, _ in by_label if label == "Sports"} == {None}
    assert {tone for label, tone, _ in by_label if label == "World"} == {"warm", "odd"}
    assert {topic for _, _, topic in by_label} == {"war", "vote", "golf"}
    assert {tuple(one) for one in found[0]["similar"].to_pylist() if one} == {("Sports",)}
