"""Every combination once, rows that may not be, and how many rows there are: by a number or by a SELECT."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import InputError, RunFailed
from synthray.operator import Context
from synthray.recipe import load
from synthray.source.conditions import Conditions
from synthray.table import Table
from synthray.task import Task

LABELS = {"World": "abroad", "Sports": "games", "Business": "money"}
TOPICS = {"World": ["war", "vote"], "Sports": ["golf", "judo", "chess"], "Business": ["oil"]}
COLUMNS: Mapping[str, Any] = {
    "label": "task.labels",
    "topic": {"by": "label", "values": TOPICS},
    "tone": ["dry", "warm"],
    "length": {"weights": {"short": 3, "long": 1}},
}


@pytest.fixture
def context() -> Context:
    return Context(step="rows", seed=3, task=Task(labels=LABELS))


@pytest.fixture
def made(context: Context) -> Callable[..., pa.Table]:
    def rows(columns: Mapping[str, Any], rows: int) -> pa.Table:
        operator = Conditions(columns, rows, context=context)
        operator.check(pa.schema([]))
        return operator(pa.table({"id": range(rows)}))

    return rows


# Every combination, and rows that may not be.


def test_a_cross_product_has_every_combination_once(context: Context, made: Callable[..., pa.Table]) -> None:
    columns = {
        **{name: COLUMNS[name] for name in ("label", "topic", "tone")},
        "year": {"range": [1990, 1999]},
    }
    cross = ["label", "topic", "tone"]
    operator = Conditions(columns=columns, cross=cross, context=context)
    operator.check(pa.schema([]))
    assert operator.row_count() == 12
    whole = operator(pa.table({"id": range(12)}))
    rows = whole.to_pylist()
    pairs = {(label, topic) for label, topics in TOPICS.items() for topic in topics}
    found = Counter((row["label"], row["topic"], row["tone"]) for row in rows)
    assert found == Counter({(*pair, tone): 1 for pair in pairs for tone in ("dry", "warm")})
    assert len({row["year"] for row in rows}) > 3, "the others are drawn as ever"
    few = Conditions(columns=columns, rows=5, cross=cross, context=context)
    few.check(pa.schema([]))
    assert few(pa.table({"id": range(5)})) == whole.slice(0, 5)


def test_an_exclusion_leaves_combinations_out_and_rows_are_exact(context: Context) -> None:
    columns: Mapping[str, Any] = {"label": "task.labels", "tone": ["dry", "warm"], "n": {"range": [1, 5]}}
    made = functools.partial(
        Conditions,
        columns,
        cross=True,
        exclude="label = 'World' AND (n > 1 OR tone = 'dry')",
        context=context,
    )
    whole = made()
    whole.check(pa.schema([]))
    assert whole.row_count() == 30, "at most"
    rows = whole(pa.table({"id": range(30)}))
    assert len(rows) == 21
    assert [row["tone"] for row in rows.to_pylist() if row["label"] == "World"] == ["warm"]
    for count in (1, 7, 21):
        few = made(rows=count)
        few.check(pa.schema([]))
        span = few._require_enough(count)
        assert few(pa.table({"id": range(span)})) == rows.slice(0, count)
    with pytest.raises(InputError, match=r"rows is 22, but exclude .* leaves 21 of the 30 combinations"):
        made(rows=22).check(pa.schema([]))


def test_a_column_by_a_crossed_one_is_drawn_for_its_value(context: Context) -> None:
    columns = {name: COLUMNS[name] for name in ("label", "tone", "topic")}
    operator = Conditions(columns, cross=["label", "tone"], context=context)
    operator.check(pa.schema([]))
    rows = operator(pa.table({"id": range(6)})).to_pylist()
    assert all(row["topic"] in TOPICS[row["label"]] for row in rows)
    once = {**columns, "topic": {**COLUMNS["topic"], "replacement": False}}
    with pytest.raises(
        InputError, match="is a list drawn in cycles, with no by, weights or cross of its own"
    ):
        Conditions(once, cross=["label", "tone"], context=context).check(pa.schema([]))


def test_without_replacement_every_value_comes_at_most_once(
    made: Callable[..., pa.Table], context: Context
) -> None:
    names = [f"p{number}" for number in range(30)]
    columns = {"label": "task.labels", "persona": {"from": names, "replacement": False}}
    found = made(columns, 30)["persona"].to_pylist()
    assert sorted(found) == sorted(names)
    assert made(columns, 20)["persona"].to_pylist() == found[:20]
    facts = {
        "by": "label",
        "values": {key: [f"{key}{n}" for n in range(4)] for key in LABELS},
        "replacement": False,
    }
    rows = made({"label": "task.labels", "fact": facts}, 12).to_pylist()
    assert len({row["fact"] for row in rows}) == 12
    assert all(row["fact"].startswith(row["label"]) for row in rows)
    with pytest.raises(InputError, match=r"5 rows of label '.*' need as many values, but there are 4"):
        made({"label": "task.labels", "fact": facts}, 13)


def test_excluded_rows_are_drawn_again_and_a_prefix_stays_one(
    made: Callable[..., pa.Table], context: Context
) -> None:
    columns = {name: COLUMNS[name] for name in ("label", "topic", "tone", "length")}
    exclude = ["label = 'World' AND tone = 'dry'", "topic = 'golf' AND length = 'long'"]
    operator = Conditions(columns, 90, exclude=exclude, context=context)
    operator.check(pa.schema([]))
    whole = operator(pa.table({"id": range(90)}))
    assert set(Counter(whole["label"].to_pylist()).values()) == {30}
    for row in whole.to_pylist():
        assert not (row["label"] == "World" and row["tone"] == "dry")
        assert not (row["topic"] == "golf" and row["length"] == "long")
        assert row["topic"] in TOPICS[row["label"]]
    batches = [[0], range(1, 50), range(50, 90)]
    parts = pa.concat_tables(operator(pa.table({"id": list(batch)})) for batch in batches)
    assert parts == whole


# The number of rows from a SELECT.


def deficit(tmp_path: Path, *missing: int) -> Mapping[str, Table]:
    table = pa.table({"label": ["World", "Sports"][: len(missing)], "missing": pa.array(missing, pa.int64())})
    pq.write_table(table, tmp_path / "deficit.parquet")
    return {"deficit": Table.find("deficit.parquet", tmp_path)}


SUM = "SELECT sum(missing) * 2 FROM deficit"


def test_rows_from_a_select_and_exact_numbers_of_each_label(tmp_path: Path, context: Context) -> None:
    sql = "SELECT label AS value FROM deficit, range(missing)"
    held = replace(context, tables=deficit(tmp_path, 5, 2))
    operator = Conditions({"label": {"sql": sql}}, SUM, context=held)
    operator.check(pa.schema([]))
    assert operator.table_names == ("deficit",)
    assert operator.row_count() == 14
    found = operator(pa.table({"id": range(14)}))["label"].to_pylist()
    assert Counter(found) == {"World": 10, "Sports": 4}


def test_a_number_of_rows_that_a_later_table_decides_is_not_known_yet(context: Context) -> None:
    schema = pa.schema([("label", pa.string()), ("missing", pa.int64())])
    later = replace(context, tables={}, schemas={"deficit": schema})
    operator = Conditions({"label": {"sql": "SELECT label FROM deficit"}}, SUM, context=later)
    operator.check(pa.schema([]))
    assert operator.row_count() is None
    assert operator.schema(pa.schema([])).field("label").type == pa.string()


def test_no_rows_are_an_error_but_in_a_loop(tmp_path: Path, context: Context) -> None:
    empty = replace(context, tables=deficit(tmp_path))
    columns = {"label": {"sql": "SELECT label FROM deficit"}}
    with pytest.raises(InputError, match="the SELECT answers no rows"):
        Conditions(columns, SUM, context=empty).check(pa.schema([]))
    first = Conditions({"label": "task.labels"}, SUM, context=empty)
    with pytest.raises(InputError, match=r"rows \(SELECT sum.*\) answers 0: .* only inside of a repeat"):
        first.check(pa.schema([]))
    with pytest.raises(RunFailed, match=r"rows: rows .* answers 0"):
        first.apply(None)  # type: ignore[arg-type]
    looped = Conditions(columns, SUM, context=replace(empty, round=2))
    assert looped.row_count() == 0
    assert looped.apply(None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("SELECT missing FROM deficit", "must answer one number, but answers 2 rows"),
        ("SELECT 1, 2", "must answer one number, but answers 1, 2"),
        ("SELECT 2.5", r"must answer a whole number, but answers 2\.5: .* ceil"),
        ("SELECT 'a'", "must answer a whole number, but answers 'a'"),
        ("SELECT 3 - 5", "must answer from 0 to 1000000000, but answers -2: .* greatest"),
        ("SELECT sum(mising) FROM deficit", '"mising" not found'),
        ("SELECT random()", r"random\(\) is refused"),
    ],
)
def test_a_select_that_answers_no_number_of_rows_is_refused(
    tmp_path: Path, context: Context, rows: str, message: str
) -> None:
    held = replace(context, tables=deficit(tmp_path, 5, 2))
    with pytest.raises(InputError, match=f"(?s){message}"):
        Conditions({"label": "task.labels"}, rows, context=held).check(pa.schema([]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs the setting 'rows': .* \\(or cross: true"),
        ({"cross": True, "rows": 7}, "rows is 7, but the cross product has 6 combinations"),
        ({"cross": ["label", "tona"]}, "cross: no column 'tona'; did you mean 'tone'"),
        ({"cross": True, "exclude": "label IS NOT NULL"}, "leaves none of the 6 combinations"),
        (
            {"cross": ["label"], "exclude": "tone = 'dry'"},
            "beside cross, it is over the crossed columns alone",
        ),
        ({"rows": 5, "exclude": "label IS NOT NULL"}, "row 0: exclude .* allows none of 1000 draws"),
        ({"rows": 5, "exclude": "lable = 'a'"}, '"lable" not found'),
    ],
    ids=str,
)
def test_rows_that_cannot_be_made_are_refused_before_any(
    context: Context, settings: dict[str, Any], message: str
) -> None:
    columns = {"label": "task.labels", "tone": ["dry", "warm"]}
    with pytest.raises(InputError, match=f"(?s){message}"):
        Conditions(columns, context=context, **settings).check(pa.schema([]))


def test_a_table_that_the_run_made_too_small_fails_the_run_by_name(context: Context, tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": ["World"], "topic": ["war"]}), tmp_path / "topics.parquet")
    made = {"topics": Table.find("topics.parquet", tmp_path)}
    columns = {"label": "task.labels", "topic": {"by": "label", "from": "topics"}}
    operator = Conditions(columns, 3, context=replace(context, tables=made))
    with pytest.raises(RunFailed, match=r"rows: columns\.topic: topics has no topic for label 'Sports'"):
        operator(pa.table({"id": range(3)}))


GAPS = """
name: gaps
seed: 3
model: {language: fake, answers: []}
tables:
  deficit: {steps: [
    {source.conditions: {columns: {label: [World, Sports], n: [1, 2]}, cross: true}},
    {where: "n >= LEAST", reason: few}]}
steps:
  - source.conditions:
      rows: "SELECT sum(n) FROM deficit"
      columns: {label: {sql: "SELECT label AS value FROM deficit, range(n)"}}
"""


@pytest.mark.ray
def test_a_select_over_a_table_that_is_a_pipeline_decides_how_many_rows_are_made(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text(GAPS.replace("LEAST", "2"))
    run = load(tmp_path / "some.yaml").run(tmp_path / "run", quiet=True)
    assert Counter(run.sql("SELECT label FROM dataset")["label"].to_pylist()) == {"World": 2, "Sports": 2}
    (tmp_path / "none.yaml").write_text(GAPS.replace("LEAST", "3"))
    with pytest.raises(RunFailed, match=r"conditions: rows \(SELECT sum\(n\) FROM deficit\) answers 0"):
        load(tmp_path / "none.yaml").run(tmp_path / "empty", quiet=True)
    wrong = GAPS.replace("LEAST", "2").replace("sum(n)", "sum(n) / 8")
    (tmp_path / "wrong.yaml").write_text(wrong)
    with pytest.raises(RunFailed, match=r"conditions: rows must answer a whole number, but answers 0\.5"):
        load(tmp_path / "wrong.yaml").run(tmp_path / "wrong", quiet=True)


PROPOSED = """
name: proposed
seed: 3
task: {labels: [World, Sports]}
model: {language: fake, answers: []}
tables:
  words: {steps: [
    {source.conditions: {columns: {label: task.labels, topic: [war, vote, golf, judo]}, cross: true}},
    {where: "(label = 'World') = (topic IN ('war', 'vote'))", reason: other}]}
steps:
  - source.conditions:
      rows: 40
      columns:
        label: task.labels
        topic: {by: label, from: words}
        again: {by: label, sql: "SELECT topic AS value, label FROM words"}
  - generate.attributes: {columns: {other: {by: label, sql: "SELECT topic AS value, label FROM words"}}}
"""


@pytest.mark.ray
def test_values_of_a_table_that_is_a_pipeline_are_the_same_for_any_blocks(tmp_path: Path) -> None:
    found = []
    for blocks in (1, 5):
        folder = tmp_path / str(blocks)
        folder.mkdir()
        (folder / "recipe.yaml").write_text(f"blocks: {blocks}\n{PROPOSED}")
        run = load(folder / "recipe.yaml").run(folder / "run", quiet=True)
        found.append(run.sql("SELECT * FROM dataset ORDER BY row_id"))
    assert found[0] == found[1]
    rows = found[0].to_pylist()
    topics = {"World": {"war", "vote"}, "Sports": {"golf", "judo"}}
    for name in ("topic", "again", "other"):
        assert {(row["label"], row[name]) for row in rows} == {
            (k, v) for k, held in topics.items() for v in held
        }
