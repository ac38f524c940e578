"""Wrong and lacking labels among several are those that cleanlab finds class by class."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from synthray.curate.multilabel_issue import MultilabelIssue, averaged
from synthray.errors import InputError, RunFailed
from synthray.label.confident import FilterBy, Score

CLASSES = ("art", "law", "sport", "war")
OPERATOR = MultilabelIssue(label="labels", probabilities="probabilities", classes=CLASSES)
LISTS = pa.list_(pa.string())


def problem(seed: int, rounded: bool = False, size: int = 300) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """Return which labels rows are given, the probabilities, and both as rows in another order."""
    random = np.random.default_rng(seed)
    true = random.random((size, 4)) < 0.4
    held = np.clip(np.where(true, 0.75, 0.25) + random.normal(0, 0.25, true.shape), 0, 1)
    held = np.round(held * 5) / 5 if rounded else held
    given = np.where(random.random(true.shape) < 0.1, ~true, true)
    order = random.permutation(size)
    table = pa.table(
        {
            "row_id": [f"row{place:03}" for place in order],
            "labels": pa.array([names(given[place]) for place in order], LISTS),
            "probabilities": held[order].tolist(),
        }
    )
    return given, held, table


def names(mask: np.ndarray) -> list[str]:
    return [CLASSES[place] for place in np.flatnonzero(mask)]


@pytest.mark.parametrize("rule", get_args(FilterBy))
@pytest.mark.parametrize("rounded", [False, True], ids=["no ties", "ties"])
def test_issues_of_rows_and_of_classes_are_cleanlabs(rule: Any, rounded: bool) -> None:
    from cleanlab.multilabel_classification import filter as cleanlab

    for seed in range(3):
        given, held, table = problem(seed, rounded)
        labels = [np.flatnonzero(row).tolist() for row in given]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = cleanlab.find_label_issues(labels, held, filter_by=rule, n_jobs=1)
            classes = cleanlab.find_multilabel_issues_per_class(labels, held, filter_by=rule, n_jobs=1)
        out = replace(OPERATOR, filter_by=rule)(table).sort_by("row_id")
        assert out["label_issue"].to_pylist() == rows.tolist()
        assert out["issue_labels"].to_pylist() == [names(row) for row in classes]
        assert 0 < rows.sum() < len(rows)


@pytest.mark.parametrize("score", get_args(Score))
def test_quality_is_cleanlabs_and_suggested_are_the_likely_labels(score: Any) -> None:
    from cleanlab.multilabel_classification import get_label_quality_scores

    given, held, table = problem(4)
    labels = [np.flatnonzero(row).tolist() for row in given]
    out = replace(OPERATOR, score=score)(table).sort_by("row_id")
    expected = get_label_quality_scores(labels, held, method=score)
    np.testing.assert_array_equal(out["label_quality"].to_numpy(), expected)
    assert out["suggested_label"].to_pylist() == [names(row > 0.5) for row in held]
    if score != "confidence_weighted_entropy":
        expected = get_label_quality_scores(labels, held, method=score, adjust_pred_probs=True)
        out = replace(OPERATOR, score=score, adjusted=True)(table).sort_by("row_id")
        np.testing.assert_allclose(out["label_quality"].to_numpy(), expected, rtol=1e-12)


def test_the_lowest_score_weighs_most() -> None:
    assert averaged(np.array([[0.9, 0.1, 0.5], [1.0, 1.0, 1.0]])).tolist() == pytest.approx(
        [0.8 * 0.1 + 0.2 * (0.8 * 0.5 + 0.2 * 0.9), 1.0]
    )


def test_a_label_that_all_rows_have_or_none_is_no_error() -> None:
    given, held, _ = problem(5)
    given[:, 0], given[:, 1] = True, False
    table = pa.table(
        {
            "row_id": [f"{place}" for place in range(len(given))],
            "labels": pa.array([names(row) for row in given], LISTS),
            "probabilities": held.tolist(),
        }
    )
    assert any("sport" in found for found in OPERATOR(table)["issue_labels"].to_pylist())


def test_no_row_has_a_label() -> None:
    nothing = pa.array([[], []], pa.list_(pa.null()))
    table = pa.table({"row_id": ["0", "1"], "labels": nothing, "probabilities": [[0.9, 0.1], [0.2, 0.1]]})
    operator = MultilabelIssue(label="labels", probabilities="probabilities", classes=["art", "law"])
    operator.check(table.schema)
    assert operator(table)["suggested_label"].to_pylist() == [["art"], []]


def test_no_labels_are_a_label_set_but_a_null_is_none() -> None:
    given, _, table = problem(6)
    assert not given.any(axis=1).all()
    lacking = pa.table(
        {
            "row_id": ["x", "y"],
            "labels": pa.array([None, []], LISTS),
            "probabilities": pa.array([[0.5] * 4, None], pa.list_(pa.float64())),
        }
    )
    out = OPERATOR(pa.concat_tables([lacking, table]))
    assert out.slice(0, 2).select(list(OPERATOR.adds())).to_pylist() == [dict.fromkeys(OPERATOR.adds())] * 2
    assert out.slice(2) == OPERATOR(table)


@pytest.mark.parametrize(
    ("labels", "held", "told"),
    [
        ([["art"], ["wa"]], [[0.5] * 4] * 2, "'wa', which is none of the classes.*mean 'war'"),
        ([["art"], ["art", None]], [[0.5] * 4] * 2, "row_id '1' holds a null label"),
        ([["art"], []], [[0.5] * 4, [0.5] * 3], "row_id '1' holds 3 probabilities, but there are 4 classes"),
        ([["art"], []], [[0.5] * 4, [0.5, 2.0, 0.5, 0.5]], r"row_id '1' holds 2\.0, which is no probability"),
    ],
)
def test_bad_values_are_told(labels: Any, held: Any, told: str) -> None:
    table = pa.table({"row_id": ["0", "1"], "labels": pa.array(labels, LISTS), "probabilities": held})
    with pytest.raises(RunFailed, match=f"multilabel_issue: .*{told}"):
        OPERATOR(table)


def test_columns_of_one_label_are_refused() -> None:
    fine = {"labels": LISTS, "probabilities": pa.list_(pa.float64())}
    OPERATOR.check(pa.schema(fine))
    with pytest.raises(InputError, match="'labels' must hold lists of labels, but is string"):
        OPERATOR.check(pa.schema({**fine, "labels": pa.string()}))
    with pytest.raises(InputError, match="'probabilities' must hold lists of floating-point numbers"):
        OPERATOR.check(pa.schema({**fine, "probabilities": pa.float64()}))
