"""A student shows which labels it would not have given, which losses are small, and which rows teach what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from learning import rows
from sklearn.metrics import roc_auc_score

from synthray.curate.embedding import Embedding
from synthray.curate.student import Student
from synthray.errors import InputError, RunFailed
from synthray.label.softmax import Head
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.table import Table

CLASSES = ["food", "money", "pets"]
OPERATOR = Student(text="text", label="label", folds=3, context=Context(seed=1))


def columns(table: pa.Table, *names: str) -> list[np.ndarray[Any, Any]]:
    return [np.array(table[name].to_pylist()) for name in names]


def validation(tmp_path: Path, table: pa.Table) -> Student:
    """Return the operator with a validation table of rows that are labelled truly."""
    clean = table.set_column(3, "label", table["true"]).drop_columns(["row_id", "parent_id", "true"])
    pq.write_table(clean, tmp_path / "clean.parquet")
    held = Table((str(tmp_path / "clean.parquet"),), "parquet")
    context = Context(seed=1, tables={"clean": held}, schemas={"clean": clean.schema})
    return replace(OPERATOR, validation="clean", context=context)


def test_the_student_says_the_true_label_and_its_loss_is_that_of_the_given_one() -> None:
    made = OPERATOR(rows())
    said, true, given, loss, found = columns(
        made, "student_label", "true", "label", "student_loss", "student_probabilities"
    )
    assert (said == true).mean() > 0.95
    assert [CLASSES[place] for place in found.argmax(axis=1)] == said.tolist()
    own = found[np.arange(len(found)), [CLASSES.index(one) for one in given]]
    np.testing.assert_allclose(loss, -np.log(own))


def test_small_losses_are_of_rows_with_their_true_label() -> None:
    made = OPERATOR(rows(300, 60))
    clean, given, true, loss = columns(made, "student_clean", "label", "true", "student_loss")
    right = given == true
    assert ((clean > 0.7) == right).mean() > 0.9
    assert ((clean >= 0) & (clean <= 1)).all()
    order = loss.argsort()
    assert (np.diff(clean[order]) <= 1e-12).all(), "a larger loss is never cleaner"


def test_equal_losses_are_all_clean() -> None:
    judged = pa.table(
        {
            "row_id": ["a", "b"],
            "label": ["x", "y"],
            "probabilities": pa.array([[0.8, 0.2], [0.2, 0.8]], pa.list_(pa.float64())),
        }
    )
    settled = OPERATOR.settled(["x", "y"], [judged])
    assert OPERATOR.marks(settled, judged)["student_clean"].to_pylist() == [1.0, 1.0]


def test_a_label_without_any_chance_has_a_finite_loss() -> None:
    table = rows(60, 0)
    table = table.set_column(3, "label", pa.array(["rare", *table["label"].to_pylist()[1:]]))
    loss = OPERATOR(table)["student_loss"].to_pylist()
    assert loss[0] == pytest.approx(-np.log(1e-12))


def test_dynamics_are_those_of_the_probabilities_after_each_epoch() -> None:
    table = rows(90, 18)
    made = replace(OPERATOR, epochs=4)(table)
    narrow = OPERATOR.narrowed(table).sort_by("row_id")
    head = replace(OPERATOR, epochs=4).head(narrow)
    held = OPERATOR.headed(narrow, head.features, head.classes)
    each = np.stack([held.probabilities(coefficients) for coefficients in head.epochs])
    assert each.shape == (4, 90, 3)
    own = each[:, np.arange(90), held.given]
    for name, expected in {
        "student_confidence": own.mean(axis=0),
        "student_variability": own.std(axis=0),
        "student_aleatoric": (own * (1 - own)).mean(axis=0),
        "student_max_variability": each.std(axis=0).max(axis=1),
    }.items():
        np.testing.assert_allclose(made[name].to_pylist(), expected, atol=1e-9)


def test_wrong_labels_are_learned_later_than_right_ones() -> None:
    made = replace(OPERATOR, epochs=5)(rows(300, 60))
    confidence, given, true = columns(made, "student_confidence", "label", "true")
    assert roc_auc_score(given == true, confidence) > 0.9


def reverse_cross_entropy(probabilities: np.ndarray[Any, Any], given: np.ndarray[Any, Any]) -> Any:
    """Return -sum_k p_k log q_k with q the softmax of ten times the one-hot label, as it is written down."""
    logits = 10.0 * np.eye(probabilities.shape[1])[given]
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -(probabilities * np.log(q)).sum(axis=1)


def cross_entropy(probabilities: np.ndarray[Any, Any], given: np.ndarray[Any, Any]) -> Any:
    return -np.log(probabilities[np.arange(len(given)), given])


@pytest.mark.parametrize("of_rows", [cross_entropy, reverse_cross_entropy], ids=lambda one: one.__name__)
def test_influence_is_what_leaving_a_row_out_does_to_the_loss(tmp_path: Path, of_rows: Any) -> None:
    operator = replace(validation(tmp_path, rows(30, 0)), influence_loss=of_rows.__name__)
    table = rows(60, 12)
    influence = np.array(operator(table)["student_influence"].to_pylist())
    narrow = operator.narrowed(table).sort_by("row_id")
    learned = operator.head(narrow)
    clean = operator.narrowed(rows(30, 0))
    others = operator.headed(clean, learned.features, learned.classes)
    held = operator.headed(narrow, learned.features, learned.classes)

    def loss(weights: np.ndarray[Any, Any]) -> float:
        found = others.probabilities(Head(held, weights, 1e-4).optimum())
        return float(of_rows(found, others.given).mean())

    whole = loss(np.ones(60))
    change = []
    for row in range(12):
        weights = np.ones(60)
        weights[row] -= 1e-3
        change.append((loss(weights) - whole) / -1e-3 * 60)
    np.testing.assert_allclose(influence[:12], change, rtol=0.02, atol=1e-3)


def test_wrong_labels_harm_and_right_ones_help(tmp_path: Path) -> None:
    made = validation(tmp_path, rows(90, 0))(rows(240, 48))
    influence, given, true = columns(made, "student_influence", "label", "true")
    assert roc_auc_score(given != true, influence) > 0.9
    assert influence[given == true].mean() < 0 < influence[given != true].mean()


def test_reverse_cross_entropy_bounds_what_wrong_validation_rows_do(tmp_path: Path) -> None:
    """ProGen: of a validation set with wrong labels the loss that is bounded still tells which rows harm."""
    wrong = rows(90, 30)
    wrong = wrong.set_column(wrong.schema.get_field_index("true"), "true", wrong["label"])
    scores = {}
    for loss in ("cross_entropy", "reverse_cross_entropy"):
        made = replace(validation(tmp_path, wrong), influence_loss=loss)(rows(240, 48))  # type: ignore[arg-type]
        influence, given, true = columns(made, "student_influence", "label", "true")
        scores[loss] = roc_auc_score(given != true, influence)
    assert scores["reverse_cross_entropy"] > scores["cross_entropy"]


def test_a_loss_without_a_table_is_refused() -> None:
    with pytest.raises(InputError, match="influence_loss is that of the rows of a table; name the table by"):
        replace(OPERATOR, influence_loss="reverse_cross_entropy").check(rows().schema)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_named_table_may_hold_the_influence_of_its_rows(tmp_path: Path) -> None:
    """ProGen's pool: a small pipeline over a table, whose rows are then ranked."""
    pq.write_table(rows(), tmp_path / "rows.parquet")
    mine = {"mine": Table((str(tmp_path / "rows.parquet"),), "parquet")}
    operator = validation(tmp_path, rows(30, 0))
    tables: dict[str, Any] = {**mine, **operator.context.tables}
    ranked = Pipeline([Source(table="mine"), operator], name="ranked", seed=1, tables=tables)
    done = Pipeline([Source(table="ranked")], name="all", seed=1, tables={**tables, "ranked": ranked}).run(
        tmp_path / "run", quiet=True
    )
    found = done.sql("SELECT row_id, student_influence FROM dataset ORDER BY row_id")
    expected = operator(rows()).sort_by("row_id").select(["row_id", "student_influence"])
    assert found.to_pylist() == expected.to_pylist()


def test_vectors_and_both_have_dynamics_too() -> None:
    table = Embedding(text="text", dimensions=64)(rows(150, 30))
    for settings in ({"text": None, "embedding": "embedding"}, {"embedding": "embedding"}):
        made = replace(OPERATOR, epochs=5, **settings)(table)  # type: ignore[arg-type]
        confidence, given, true = columns(made, "student_confidence", "label", "true")
        assert roc_auc_score(given == true, confidence) > 0.8


def test_rows_without_text_keep_nulls() -> None:
    table = rows(60)
    lacking = table.slice(0, 1).set_column(2, "text", pa.array([None], pa.string()))
    made = replace(OPERATOR, epochs=2)(pa.concat_tables([lacking, table.slice(1)]))
    assert [made[name][0].as_py() for name in replace(OPERATOR, epochs=2).adds()] == [None] * 8
    assert made["student_loss"].null_count == 1


def test_a_validation_table_must_have_the_columns(tmp_path: Path) -> None:
    operator = validation(tmp_path, rows(9, 0))
    schemas = {"clean": pa.schema({"text": pa.string(), "labels": pa.string()})}
    wrong = replace(operator, context=replace(operator.context, schemas=schemas))
    with pytest.raises(InputError, match=r"the table 'clean' has no column 'label'.*'labels'"):
        wrong.check(pa.schema({"text": pa.string(), "label": pa.string()}))


def test_a_label_of_the_validation_table_that_no_row_has_is_told(tmp_path: Path) -> None:
    strange = rows(9, 0).set_column(4, "true", pa.array(["birds"] * 9))
    with pytest.raises(
        RunFailed, match=r"student: the table 'clean' has the label 'birds', which no row has"
    ):
        validation(tmp_path, strange)(rows())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_stage_says_the_same_for_any_blocks(tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "rows.parquet")
    operator = replace(validation(tmp_path, rows(30, 0)), epochs=3)
    expected = operator(rows()).sort_by("row_id")
    names = ["row_id", *operator.adds()]

    def run(blocks: int | None) -> Any:
        return Pipeline(
            [Source(table="mine"), operator],
            name="said",
            seed=1,
            tables={"mine": Table((str(tmp_path / "rows.parquet"),), "parquet"), **operator.context.tables},
            blocks=blocks,
        ).run(tmp_path / f"run{blocks}", quiet=True)

    for blocks in (None, 7):
        done = run(blocks)
        found = done.sql(f"SELECT {', '.join(names)} FROM dataset ORDER BY row_id")
        assert found.to_pylist() == expected.select(names).to_pylist()
    measured = {row["metric"]: row for row in done.sql("SELECT * FROM metrics").to_pylist()}
    said, given, clean, loss = columns(expected, "student_label", "label", "student_clean", "student_loss")
    assert measured["agreement"]["value"] == (said == given).mean()
    assert measured["clean"]["value"] == pytest.approx(clean.mean())
    assert measured["loss"]["value"] == pytest.approx(loss.mean())
    assert {row["n"] for row in measured.values()} == {120}
