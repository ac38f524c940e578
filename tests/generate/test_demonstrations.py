"""Rows get demonstrations of pools as the settings say, and no row of a test set is ever one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import InputError, RecipeError, RunFailed
from synthray.generate.demonstrations import Demonstrations
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.recipe import load
from synthray.source.table import Table as Source
from synthray.table import Table

VECTOR = pa.list_(pa.float64())
LABELS = ("a", "b", "c")


def many(count: int, prefix: str = "p") -> pa.Table:
    held, count = count, max(count, 1)  # of no rows the types would be lost
    generator = np.random.default_rng(count)
    table = pa.table(
        {
            "row_id": [f"{prefix}{number:04}" for number in range(count)],
            "text": [f"{prefix} says {number}" for number in range(count)],
            "label": [LABELS[number % 3] for number in range(count)],
            "score": generator.normal(size=count),
            "vector": pa.array(generator.normal(size=(count, 6)).tolist(), VECTOR),
        }
    )
    return table.slice(0, held)


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Context]:
    """Return a function that writes tables and returns the context that has them."""

    def made(seed: int = 1, held_out: tuple[str, ...] = (), **tables: pa.Table) -> Context:
        files = {}
        for name, table in tables.items():
            pq.write_table(table, tmp_path / f"{name}.parquet")
            files[name] = Table((str(tmp_path / f"{name}.parquet"),), "parquet")
        schemas = {name: table.schema for name, table in tables.items()}
        return Context(seed=seed, tables=files, schemas=schemas, held_out=held_out)

    return made


def demonstrations(context: Context, **settings: Any) -> Demonstrations:
    given = {"pool": "pool", "columns": ["text", "label"], "text": "text", "context": context}
    return Demonstrations(**{**given, **settings})


def test_a_row_gets_the_columns_and_the_names_of_its_demonstrations(given: Any) -> None:
    operator = demonstrations(given(pool=many(30)), columns=["label", "text", "score"], k=4)
    rows = many(5, "r")
    operator.check(rows.schema)
    made = operator(rows)
    assert made.schema.equals(operator.schema(rows.schema))
    assert operator.adds()["demos"] == pa.list_(
        pa.struct([("label", pa.string()), ("text", pa.string()), ("score", pa.float64())])
    )
    by_id = {row["row_id"]: row for row in many(30).to_pylist()}
    for row in made.to_pylist():
        assert len({*row["demos_row_ids"]}) == 4
        expected = [by_id[one] for one in row["demos_row_ids"]]
        assert row["demos"] == [{name: one[name] for name in ("label", "text", "score")} for one in expected]


def test_progen_ranks_by_influence_of_the_rows_own_label_and_gives_half_of_the_rows_any(given: Any) -> None:
    pool = many(300)
    operator = demonstrations(given(pool=pool), match="label", order="score ASC", top=20, k=8, share=0.5)
    rows = many(200, "r").drop_columns(["text", "vector"])
    operator.check(rows.schema)
    made = operator(rows).to_pylist()
    best = {
        label: {
            row["row_id"]
            for row in sorted(
                (row for row in pool.to_pylist() if row["label"] == label), key=lambda row: row["score"]
            )[:20]
        }
        for label in LABELS
    }
    assert all(set(row["demos_row_ids"]) <= best[row["label"]] for row in made)
    assert {len(row["demos"]) for row in made} == {0, 8}
    assert 70 < sum(bool(row["demos"]) for row in made) < 130
    seen = {one for row in made for one in row["demos_row_ids"]}
    assert seen == set().union(*best.values()), "they are drawn anew for each row"


def test_freeal_takes_the_nearest_medoids_of_each_class(given: Any) -> None:
    operator = demonstrations(
        given(pool=many(90)), by="nearest", embedding="vector", balance="label", medoids=5, k=6
    )
    rows = many(40, "r")
    operator.check(rows.schema)
    made = operator(rows).to_pylist()
    assert all(Counter(one["label"] for one in row["demos"]) == dict.fromkeys(LABELS, 2) for row in made)
    assert len({one for row in made for one in row["demos_row_ids"]}) <= 15


def test_self_prompting_takes_the_nearest_of_each_cluster(given: Any) -> None:
    pool = many(60).append_column("cluster", pa.array([number % 5 for number in range(60)], pa.int32()))
    operator = demonstrations(
        given(pool=pool),
        columns=["text", "cluster"],
        by="nearest",
        embedding="vector",
        balance="cluster",
        k=5,
    )
    [row] = operator(many(1, "r")).to_pylist()
    assert sorted(one["cluster"] for one in row["demos"]) == [0, 1, 2, 3, 4]


def test_the_text_that_a_row_is_known_by_is_no_label(given: Any) -> None:
    operator = demonstrations(given(pool=many(30)), columns=["label", "text"], balance="label", text=None)
    rows = many(4, "r")
    operator.check(rows.schema)
    # Rows that were known by their label would be three, and none of them of the row's own label.
    assert [len({*one}) for one in operator(rows)["demos_row_ids"].to_pylist()] == [8] * 4


# The guard.


def test_a_table_that_is_evaluated_against_is_no_pool(given: Any) -> None:
    context = given(pool=many(5), test=many(3, "t"), held_out=("test",))
    with pytest.raises(InputError, match="'test' may not be a pool, since the recipe evaluates against it"):
        demonstrations(context, pool="test").check(many(2).schema)
    with pytest.raises(InputError, match="'pool' may not be a pool, since never names it"):
        demonstrations(context, pool={"pool": 4, "test": 4}, never=["pool"]).check(many(2).schema)


@pytest.mark.parametrize("settings", [{"held_out": True}, {"never": ["test"]}], ids=str)
def test_rows_that_say_what_a_test_row_says_are_never_shown(given: Any, settings: dict[str, Any]) -> None:
    pool = many(30)
    leaked = pool.slice(0, 27)
    test = pa.table({"sentence": [text.upper() + " " for text in leaked["text"].to_pylist()]})
    context = given(pool=pool, test=test, held_out=("test",) if settings.pop("held_out", False) else ())
    operator = demonstrations(context, k=8, **settings)
    assert operator.table_names == ("pool", "test")
    made = operator(many(20, "r"))
    assert {one for row in made["demos_row_ids"].to_pylist() for one in row} == {"p0027", "p0028", "p0029"}


def test_a_pool_of_test_rows_alone_ends_the_run(given: Any) -> None:
    context = given(pool=many(5), test=many(5), held_out=("test",))
    with pytest.raises(
        RunFailed, match="all 5 rows of the pool 'pool' are held out: their text is a text of test"
    ):
        demonstrations(context)(many(2, "r"))
    looped = replace(context, round=1)
    assert demonstrations(looped)(many(2, "r"))["demos"].to_pylist() == [[], []]


def test_a_test_set_that_is_not_made_yet_is_not_passed_over(given: Any) -> None:
    context = given(pool=many(5), test=many(5), held_out=("test",))
    without = replace(context, tables={"pool": context.tables["pool"]})
    with pytest.raises(RunFailed, match="the table 'test', whose rows must not enter a prompt, is not made"):
        demonstrations(without)(many(2, "r"))
    unknown = replace(without, schemas={"pool": context.schemas["pool"]})
    with pytest.raises(
        InputError, match="the table 'test', whose rows must not enter a prompt, is not there"
    ):
        demonstrations(unknown).check(many(2).schema)


# Empty pools.


def test_an_empty_pool_is_nothing_in_a_loop_and_an_error_elsewhere(given: Any) -> None:
    context = given(pool=many(0), seeds=many(9, "s"))
    rows = many(3, "r")
    for settings in ({}, {"by": "nearest", "embedding": "vector"}, {"medoids": 3}, {"balance": "label"}):
        with pytest.raises(RunFailed, match="demonstrations: the pool 'pool' has no rows"):
            demonstrations(context, **settings)(rows)
        looped = demonstrations(replace(context, round=1), **settings)
        looped.check(rows.schema)
        made = looped(rows)
        assert made["demos"].to_pylist() == made["demos_row_ids"].to_pylist() == [[], [], []]
    both = {"seeds": 6, "pool": 2}
    with pytest.raises(RunFailed, match="the pool 'pool' has no rows"):
        demonstrations(context, pool=both)(rows)
    made = demonstrations(replace(context, round=1), pool=both)(rows)
    assert [len(one) for one in made["demos"].to_pylist()] == [8, 8, 8]


@pytest.mark.parametrize("table", [None, Table((), "parquet")], ids=["not there", "no file"])
def test_a_pool_of_which_the_columns_alone_are_known_is_empty(given: Any, table: Table | None) -> None:
    context = replace(given(), schemas={"pool": many(0).schema}, round=1)
    if table is not None:
        context = replace(context, tables={"pool": table})
    operator = demonstrations(context)
    operator.check(many(1).schema)
    assert operator(many(2, "r"))["demos"].to_pylist() == [[], []]


def test_no_rows_and_a_pool_that_lacks_what_is_needed(given: Any) -> None:
    assert len(demonstrations(given(pool=many(3)))(many(0, "r"))) == 0
    nulls = many(3).set_column(2, "label", pa.nulls(3, pa.string()))
    with pytest.raises(
        RunFailed, match=r"none of the 3 rows of the pool 'pool' can be chosen: 0 .* lack label"
    ):
        demonstrations(given(pool=nulls), balance="label")(many(2, "r"))


# Bad settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "pol"}, "no table 'pol'; did you mean 'pool'"),
        ({"columns": ["txt"]}, "the table 'pool' has no column 'txt'; did you mean 'text'"),
        ({"columns": []}, "columns must name at least one column"),
        ({"columns": ["text", "text"]}, "each once"),
        (
            {"columns": ["score"], "text": None},
            "columns hold no text; name by text the column, or those, that a row is",
        ),
        ({"columns": ["label"], "match": "label", "text": None}, "columns hold no text; name by text"),
        ({"text": None}, r"columns hold several texts \(text, label\); name by text the column"),
        ({"text": []}, "text names no column"),
        ({"text": "score"}, "the table 'pool' has 'score' as double, but it must hold text"),
        ({"pool": {"pool": 3, "other": 1}}, "pool asks for 4 demonstrations .* but k is 8"),
        ({"pool": {}}, "pool names no table"),
        ({"pool": {"pool": 4, "other": 4}}, "the pools pool, other hold columns of different types"),
        ({"top": 5}, "top and order go together"),
        ({"order": "score"}, "top and order go together"),
        ({"order": "scores DESC", "top": 5}, "order, over the table 'pool'.*scores"),
        ({"order": "random()", "top": 5}, "order, over the table 'pool'.*volatile"),
        ({"match": "score"}, "column 'score' must hold text, whole numbers or booleans, but is double"),
        ({"balance": "lable"}, "the table 'pool' has no column 'lable'; did you mean 'label'"),
        ({"by": "nearest", "embedding": "text"}, "column 'text' must hold lists of numbers"),
        ({"by": "nearest", "embedding": "vectors"}, "no column 'vectors'; did you mean 'vector'"),
        ({"embedding": "vector"}, "embedding is for by: nearest or medoids"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(given: Any, settings: dict[str, Any], message: str) -> None:
    other = pa.table({"text": ["u"], "label": [1]})
    operator = demonstrations(given(pool=many(5), other=other), **settings)
    with pytest.raises(InputError, match=message):
        operator.check(many(2).schema)


def test_rows_must_have_what_is_compared(given: Any) -> None:
    context = given(pool=many(5))
    assert demonstrations(context).reads == ()
    assert demonstrations(context, by="nearest", match="label").reads == ("label", "text")
    assert demonstrations(context, by="nearest", embedding="vector").reads == ("vector",)
    wrong = pa.schema([("text", pa.int64()), ("vector", pa.string()), ("label", pa.float64())])
    for settings, message in (
        ({"by": "nearest"}, "column 'text' must hold text, but is int64"),
        ({"by": "nearest", "embedding": "vector"}, "'vector' must hold lists of numbers"),
        ({"match": "label"}, "the rows: column 'label' must hold text, whole numbers or booleans"),
    ):
        with pytest.raises(InputError, match=message):
            demonstrations(context, **settings).check(wrong)  # type: ignore[arg-type]


def test_a_recipes_evaluation_is_known_to_its_prompts(given: Any, write: Any) -> None:
    given(test=many(9, "t"), pool=many(9))
    recipe = """
name: leak
task: {labels: {a: first, b: second, c: third}}
tables: {test: test.parquet, pool: pool.parquet}
steps:
  - source.conditions: {rows: 4, columns: {label: task.labels}}
  - generate.demonstrations: {pool: POOL, columns: [text, label], text: text, k: 2}
  - derive: {text: "demos[1].text"}
  - evaluate.utility: {text: text, label: label, test: test}
"""
    load(write(recipe.replace("POOL", "pool"))).check()
    with pytest.raises(RecipeError, match=r"step 'demonstrations' .*'test' may not be a pool"):
        load(write(recipe.replace("POOL", "test"))).check()


# Over a stage.


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("settings", "cuts"),
    [
        ({"pool": {"pool": 3, "seeds": 1}, "k": 4, "balance": "label", "share": 0.7}, (1, 7, 64)),
        (
            {"by": "nearest", "embedding": "vector", "medoids": 9, "k": 5, "match": "label"}
            | {"order": "score", "top": 15},
            (7,),
        ),
    ],
    ids=["random", "nearest"],
)
def test_a_stage_chooses_the_same_for_any_blocks(
    given: Any, tmp_path: Path, settings: dict[str, Any], cuts: tuple[int, ...]
) -> None:
    test = pa.table({"words": many(60)["text"].slice(0, 6)})
    context = given(pool=many(60), seeds=many(20, "s"), test=test, mine=many(130, "r"))
    operator = demonstrations(context, never=["test"], **settings)
    expected = operator(many(130, "r"))
    names = ("row_id", "demos", "demos_row_ids")
    measured = []
    for blocks in cuts:
        done = Pipeline(
            [Source(table="mine"), operator], name="some", seed=1, tables=dict(context.tables), blocks=blocks
        ).run(tmp_path / f"run{blocks}", quiet=True)
        found = done.sql(f"SELECT {', '.join(names)} FROM dataset ORDER BY row_id")
        assert found.to_pylist() == expected.select(names).to_pylist()
        measured.append(done.sql("SELECT * FROM metrics ORDER BY ALL").to_pylist())
    assert all(one == measured[0] for one in measured)
    whole = {row["metric"]: row for row in measured[0] if row["slice"] is None}
    assert whole["held_out_rows"]["value"] == 6
    pools = 80 if isinstance(settings.get("pool"), dict) else 60
    assert whole["held_out_rows"]["n"] == whole["pool_rows"]["n"] == pools
    lengths = [len(one) for one in expected["demos"].to_pylist()]
    assert whole["demonstrations"]["value"] == pytest.approx(np.mean(lengths), abs=1e-9)
    assert whole["demonstrations"]["n"] == 130
    if pools == 80:
        sliced = {row["slice"]: row["value"] for row in measured[0] if row["metric"] == "pool_rows"}
        assert sliced == {None: 74.0, "pool=pool": 54.0, "pool=seeds": 20.0}


PROGEN = """
name: rounds
seed: 2
task: {labels: {good: "", bad: ""}}
model: {language: fake, answers: [ANSWERS]}
steps:
  - repeat:
      max: 3
      steps:
        - source.conditions: {rows: 8, columns: {label: task.labels}}
        - generate.demonstrations: {pool: pool, columns: [text], match: label, order: length(text), top: 3, k: 2}
        - generate.prompt:
            template: |
              {% for demo in demos %}Sample: {{ demo.text }}
              {% endfor %}A {{ label }} review:
            writes: text
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rounds_show_the_best_of_the_pool_that_is_there(write: Any, tmp_path: Path) -> None:
    """ProGen: nothing is shown in the first round, then the best rows of the row's label from the rounds before."""
    answers = ", ".join("very " * number + "fine" for number in range(1, 25))
    done = load(write(PROGEN.replace("ANSWERS", answers))).run(tmp_path / "run", quiet=True)
    rows = done.sql("SELECT row_id, round, label, text, demos, demos_row_ids FROM dataset").to_pylist()
    assert Counter(row["round"] for row in rows) == {1: 8, 2: 8, 3: 8}
    for row in rows:
        before = [one for one in rows if one["round"] < row["round"] and one["label"] == row["label"]]
        best = sorted({one["text"] for one in before}, key=len)[:3]
        assert len(row["demos"]) == min(2, len(best))
        assert {one["text"] for one in row["demos"]} <= set(best)
