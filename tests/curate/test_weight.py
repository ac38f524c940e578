"""Rows whose label is wrong weigh little, whoever says so: other rows, gold rows, or their own probabilities."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import roc_auc_score

from synthray import Context
from synthray.curate.embedding import Embedding
from synthray.curate.label_issue import LabelIssue
from synthray.curate.weight import Weight
from synthray.errors import InputError, RunFailed
from synthray.model.student import Student
from synthray.recipe import load
from synthray.table import Table

WORDS = {
    "money": ["stock", "bank", "share", "profit", "market", "trade", "loan", "price", "bond", "fund"],
    "pets": ["cat", "dog", "fur", "purr", "bark", "leash", "paw", "kitten", "puppy", "vet"],
    "food": ["soup", "bread", "salt", "oven", "bake", "taste", "cheese", "onion", "cook", "spoon"],
}
COMMON = ["the", "a", "of", "and", "to", "in", "it", "is", "was", "on"]


def texts(size: int, flipped: float, seed: int = 2) -> pa.Table:
    """Return texts with labels, some of which are not the true ones."""
    generator = random.Random(seed)
    true = [list(WORDS)[number % 3] for number in range(size)]
    wrong = set(generator.sample(range(size), int(flipped * size)))
    return pa.table(
        {
            "row_id": [f"row{number:04}" for number in range(size)],
            "text": [
                " ".join(generator.choices(WORDS[label], k=2) + generator.choices(COMMON, k=4))
                for label in true
            ],
            "label": [
                generator.choice([other for other in WORDS if other != label]) if number in wrong else label
                for number, label in enumerate(true)
            ],
            "true": true,
        }
    )


ROWS = texts(300, 0.2)
GOLD = texts(30, 0.0, seed=8)


def gold(table: pa.Table, path: Path) -> Context:
    pq.write_table(table, path / "gold.parquet")
    held = Table((str(path / "gold.parquet"),), "parquet")
    return Context(seed=1, tables={"gold": held}, schemas={"gold": table.schema})


def weight(path: Path | None = None, table: pa.Table = GOLD, **settings: Any) -> Weight:
    context = gold(table, path) if path else Context(seed=1)
    named = {} if "embedding" in settings or "quality" in settings else {"text": "text"}
    return Weight(label="label", context=context, **{**named, **settings})


def found(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights, and which labels are right."""
    right = np.asarray(table["label"].to_pylist()) == np.asarray(table["true"].to_pylist())
    return table["weight"].to_numpy(), right


METHODS: Mapping[str, dict[str, Any]] = {
    "sungen": {"by": "sungen"},
    "l2rw": {"by": "l2rw", "gold": "gold"},
    "confidence": {"by": "confidence"},
}


@pytest.mark.parametrize("by", METHODS)
def test_wrong_labels_weigh_little(by: str, tmp_path: Path) -> None:
    operator = weight(tmp_path, **METHODS[by])
    operator.check(ROWS.schema)
    out = operator(ROWS)
    assert out.drop_columns(["weight"]).equals(ROWS)
    assert out.schema.field("weight").type == pa.float64()
    weights, right = found(out)
    assert roc_auc_score(right, weights) > 0.9
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    assert weights.min() >= 0


@pytest.mark.parametrize("by", METHODS)
def test_a_student_of_the_weighted_rows_is_better(by: str, tmp_path: Path) -> None:
    rows, test = texts(240, 0.4, seed=3), texts(900, 0.0, seed=4)
    truth = test["true"].to_pylist()

    def accuracy(weights: Any) -> float:
        learned = Student("linear").fit(rows["text"].to_pylist(), rows["label"].to_pylist(), weights)
        return float(np.mean(np.asarray(learned.predict(test["text"].to_pylist())) == truth))

    weights, _ = found(weight(tmp_path, **METHODS[by])(rows))
    assert accuracy(weights) > accuracy(None) + 0.02


@pytest.mark.parametrize("by", METHODS)
def test_vectors_do_as_well_as_texts(by: str, tmp_path: Path) -> None:
    embed = Embedding(text="text", dimensions=128)
    operator = weight(tmp_path, embed(GOLD), embedding="embedding", **METHODS[by])
    rows = embed(ROWS)
    operator.check(rows.schema)
    weights, right = found(operator(rows))
    assert roc_auc_score(right, weights) > 0.8
    if by != "confidence":
        both, _ = found(
            weight(tmp_path, embed(GOLD), text="text", embedding="embedding", **METHODS[by])(rows)
        )
        assert roc_auc_score(right, both) > 0.8
        assert (both != weights).any()


@pytest.mark.parametrize("by", METHODS)
def test_weights_do_not_depend_on_the_order_of_rows(by: str, tmp_path: Path) -> None:
    operator = weight(tmp_path, **METHODS[by])
    order = random.Random(4).sample(range(len(ROWS)), len(ROWS))
    assert operator(ROWS.take(order)).sort_by("row_id").equals(operator(ROWS))


@pytest.mark.parametrize("by", METHODS)
def test_rows_that_cannot_be_judged_keep_nulls_and_change_nothing(by: str, tmp_path: Path) -> None:
    operator = weight(tmp_path, **METHODS[by])
    lacking = pa.table(
        {
            "row_id": ["x", "y", "z"],
            "text": pa.array([None, "", "cat dog"]),
            "label": pa.array(["pets", "pets", None]),
            "true": ["pets"] * 3,
        }
    )
    out = operator(pa.concat_tables([ROWS, lacking]))
    assert out["weight"].to_pylist() == [*operator(ROWS)["weight"].to_pylist(), None, None, None]


def test_what_many_rows_do_is_learned_from_a_sample_and_said_of_all() -> None:
    whole, right = found(weight()(ROWS))
    part, _ = found(weight(train_rows=150)(ROWS))
    assert (part != whole).any()
    assert roc_auc_score(right, part) > 0.8
    assert part.mean() == pytest.approx(1, abs=1e-5)


def test_copies_are_in_one_half_so_that_they_do_not_vouch_for_each_other() -> None:
    copies = ROWS.set_column(0, "row_id", pa.array([f"copy{number:04}" for number in range(300)]))
    weights, right = found(weight()(pa.concat_tables([ROWS, copies])))
    np.testing.assert_allclose(weights[:300], weights[300:], atol=1e-5)
    assert roc_auc_score(right, weights) > 0.9


def test_confidence_is_cleanlabs_quality_of_the_students_probabilities() -> None:
    operator = weight(by="confidence")
    judged = operator.judged(ROWS).sort_by("row_id")
    probabilities = np.array(judged["probabilities"].to_pylist())
    given = np.unique(judged["label"].to_pylist(), return_inverse=True)[1]
    for score in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        quality = get_label_quality_scores(given, probabilities, method=score)
        weights = weight(by="confidence", score=score)(ROWS)["weight"]
        np.testing.assert_allclose(weights, quality / quality.mean(), atol=1e-6)


def test_confidence_may_be_a_column() -> None:
    judged = LabelIssue(label="label", text="text", context=Context(seed=1))(ROWS)
    operator = weight(by="confidence", quality="label_quality")
    operator.check(judged.schema)
    assert operator.reads == ("label", "label_quality")
    quality = judged["label_quality"].to_numpy()
    np.testing.assert_allclose(operator(judged)["weight"], quality / quality.mean(), atol=1e-6)


def test_a_row_of_weight_0_is_not_learned_from() -> None:
    zero = pa.array([float(number % 2) for number in range(300)])
    odd = [number % 2 == 1 for number in range(300)]
    other = ROWS.set_column(
        2,
        "label",
        pa.array([one if kept else "food" for one, kept in zip(ROWS["label"].to_pylist(), odd, strict=True)]),
    )
    weights, again = (
        weight(weight="known")(rows.append_column("known", zero))["weight"].to_numpy()[odd]
        for rows in (ROWS, other)
    )
    assert weights.std() > 0.2
    np.testing.assert_allclose(weights / weights.mean(), again / again.mean(), atol=1e-4)


def test_gold_rows_that_no_row_agrees_with_leave_nothing(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "row_id": [f"{number:02}" for number in range(20)],
            "text": ["same words"] * 20,
            "label": ["a"] * 19 + ["b"],
        }
    )
    table = pa.table({"text": ["same words"], "label": ["b"]})
    weights = weight(tmp_path, table, **METHODS["l2rw"])(rows)["weight"].to_pylist()
    assert weights == [0.0] * 19 + [20.0], "the mean is 1, however few are left"
    lacking = weight(tmp_path, table, weight="known", **METHODS["l2rw"])
    known = pa.array([1.0] * 19 + [0.0])
    assert max(lacking(rows.append_column("known", known))["weight"].to_pylist()[:19]) == 0


# What cannot be.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "l2rw"}, "by: l2rw needs gold, a table"),
        ({"by": "sungen", "gold": "gold"}, r"gold \('gold'\) is for by: l2rw, but by is 'sungen'"),
        ({"quality": "label_quality"}, "quality .* is for by: confidence"),
        ({"by": "confidence", "quality": "q", "text": "text"}, "instead of a text or an embedding"),
        ({"by": "confidence", "quality": "row_id"}, "'row_id' must hold floating-point numbers from 0 to 1"),
        ({"text": None}, "there is nothing to learn from"),
        ({"embedding": "text"}, "column 'text' must hold lists of numbers"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        weight(tmp_path, **settings).check(ROWS.schema)


def test_a_gold_table_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the table 'gold' has no column 'label'; did you mean 'labels'"):
        weight(tmp_path, GOLD.rename_columns(["row_id", "text", "labels", "true"]), **METHODS["l2rw"]).check(
            ROWS.schema
        )
    with pytest.raises(RunFailed, match="weight: the table 'gold' has no row with all that is read"):
        weight(tmp_path, GOLD.slice(0, 0), **METHODS["l2rw"])(ROWS)
    unseen = GOLD.set_column(2, "label", pa.array(["moneys"] * len(GOLD)))
    with pytest.raises(RunFailed, match="has the label 'moneys', which no row has; did you mean 'money'"):
        weight(tmp_path, unseen, **METHODS["l2rw"])(ROWS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.slice(0, 9), "needs at least 10 rows to learn from, .* but found 9"),
        (ROWS.slice(0, 0), r"needs at least two labels in column 'label', but found \[\]"),
        (
            ROWS.set_column(2, "label", pa.array(["money"] * 300)),
            r"needs at least two labels .* found \['money'\]",
        ),
        (ROWS.set_column(1, "text", pa.array(["?!"] * 300)), "column 'text' has no word in any of 300 rows"),
        (ROWS.set_column(1, "text", pa.array(["one"] * 300)), "one content stay together"),
        (ROWS.append_column("parent_id", pa.array(["p"] * 300)), "rows of one parent or one content"),
    ],
    ids=["few", "none", "one label", "no word", "one text", "one parent"],
)
def test_rows_of_which_nothing_can_be_learned_are_told(rows: pa.Table, message: str) -> None:
    with pytest.raises(RunFailed, match=f"weight: .*{message}"):
        weight()(rows)


def test_values_that_cannot_be_are_told_with_their_row(tmp_path: Path) -> None:
    for value in (float("nan"), -0.1, 1.5):
        quality = pa.array([0.5] * 299 + [value])
        with pytest.raises(RunFailed, match=f"column 'q' of row_id 'row0299' holds {value}, which is no"):
            weight(by="confidence", quality="q")(ROWS.append_column("q", quality))
    vectors = [[1.0, 0.0]] * 298
    for odd, message in (([1.0], "must be all of one size"), ([1.0, float("nan")], "not a finite number")):
        table = ROWS.append_column("embedding", pa.array([*vectors, odd, [0.0, 0.0]]))
        with pytest.raises(RunFailed, match=message):
            weight(embedding="embedding")(table)
    with pytest.raises(RunFailed, match=r"'row0000' holds -1\.0, which is no weight"):
        weight(weight="known")(ROWS.append_column("known", pa.array([-1.0] + [1.0] * 299)))


def test_a_vector_of_zeros_has_no_weight() -> None:
    rows = Embedding(text="text", dimensions=64)(ROWS)
    held = [[0.0] * 64, *rows["embedding"].to_pylist()[1:]]
    at = rows.column_names.index("embedding")
    out = weight(embedding="embedding")(rows.set_column(at, "embedding", pa.array(held)))
    assert out["weight"].to_pylist()[0] is None
    assert out["weight"].null_count == 1


# Runs.

RECIPE = """
name: weights
seed: 3
tables: {some: some.parquet, gold: gold.parquet}
steps:
  - source.table: {table: some}
  - curate.weight: {text: text, label: label, train_rows: 100}
    as: sungen
  - curate.weight: {text: text, label: label, by: l2rw, gold: gold}
    as: l2rw
  - curate.weight: {text: text, label: label, by: confidence}
  - curate.weight: {label: label, by: confidence, quality: weight_share}
    as: column
gate:
  - sungen.effective_rows.value > 10
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_gives_what_calls_give_for_any_number_of_blocks(tmp_path: Path) -> None:
    lacking = {"text": [None], "label": ["pets"], "true": ["pets"], "weight_share": [None]}
    some = texts(150, 0.2).drop_columns(["row_id"])
    some = some.append_column("weight_share", pa.array(np.linspace(0, 1, 150)))
    some = pa.concat_tables([some, pa.table(lacking, schema=some.schema)])
    pq.write_table(some, tmp_path / "some.parquet")
    pq.write_table(GOLD.drop_columns(["row_id"]), tmp_path / "gold.parquet")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    runs = [
        load(tmp_path / "recipe.yaml", settings=[f"blocks={blocks}"]).run(
            tmp_path / f"run{blocks}", quiet=True
        )
        for blocks in (1, 5)
    ]
    one, five = (run.sql("SELECT * FROM dataset ORDER BY row_id").to_pylist() for run in runs)
    assert one == five
    called = runs[0].sql("SELECT row_id, parent_id, text, label, weight_share FROM dataset ORDER BY row_id")
    for checked in load(tmp_path / "recipe.yaml").check()[1:]:
        called = checked.step.work(called)  # type: ignore[operator]
    assert [{name: row[name] for name in called.column_names} for row in one] == called.to_pylist()
    assert [row["text"] for row in one if row["weight"] is None] == [None]
    measured = runs[0].sql("SELECT step, value, n FROM metrics WHERE metric = 'effective_rows'").to_pylist()
    weights = np.array([row["sungen_weight"] for row in one if row["text"]])
    effective = weights.sum() ** 2 / (weights**2).sum()
    assert next(row for row in measured if row["step"] == "sungen")["value"] == pytest.approx(effective)
    assert {row["n"] for row in measured} == {150}


# Real rows.


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_sungen_tells_a_fifth_of_flipped_labels_from_real_commands() -> None:
    table = pq.read_table(
        Path(os.environ["SYNTHRAY_DATA"]) / "snips.parquet", filters=[("split", "=", "train")]
    )
    table = table.take(np.random.default_rng(1).permutation(len(table))[:3_000])
    generator = np.random.default_rng(2)
    classes, given = np.unique(table["label"].to_pylist(), return_inverse=True)
    wrong = generator.random(len(given)) < 0.2
    given = np.where(wrong, (given + generator.integers(1, len(classes), len(given))) % len(classes), given)
    rows = pa.table(
        {
            "row_id": [f"{place:05}" for place in range(len(given))],
            "text": table["text"],
            "label": classes[given],
        }
    )
    assert roc_auc_score(~wrong, weight()(rows)["weight"]) > 0.95
