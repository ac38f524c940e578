"""All models are scored on the same samples of the test rows, so that a difference is that of one sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import f1_score, recall_score

from synthray.statistic import paired
from synthray.statistic.interval import percentiles
from synthray.statistic.paired import Resamples, Score, balanced, f1, macro_f1, subset_draws

RANDOM = np.random.default_rng(3)
TRUTH = RANDOM.integers(0, 4, 200)
SAID = np.where(RANDOM.random(200) < 0.6, TRUTH, RANDOM.integers(-1, 4, 200))
OTHER = np.where(RANDOM.random(200) < 0.8, SAID, RANDOM.integers(-1, 4, 200))
RIGHT = np.stack([SAID == TRUTH, OTHER == TRUTH], axis=1).astype(float)


def drawn(resamples: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 200, (resamples, 200))


@pytest.mark.parametrize("at_once", [2_000_000, 3_000, 1])
def test_scores_are_those_of_sklearn_on_each_sample_however_many_are_held(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "_AT_ONCE", at_once)
    held = Resamples(200, 120, 9)
    means, macro = held.means(RIGHT), held.answers(macro_f1, TRUTH, [SAID, OTHER, None], 4)
    samples = drawn(120, 9)
    for column, said in enumerate((SAID, OTHER)):
        assert (means.resampled[:, column] == [(said == TRUTH)[sample].mean() for sample in samples]).all()
        expected = [
            f1_score(TRUTH[sample], said[sample], labels=range(4), average="macro", zero_division=0)
            for sample in samples
        ]
        assert macro.resampled[:, column] == pytest.approx(expected, abs=1e-12)
        whole = f1_score(TRUTH, said, labels=range(4), average="macro", zero_division=0)
        assert macro.values[column] == pytest.approx(whole, abs=1e-12)
    assert means.values == pytest.approx(RIGHT.mean(axis=0), abs=1e-15)
    assert np.isnan(macro.values[2]) and np.isnan(macro.resampled[:, 2]).all()


def test_a_class_that_is_neither_there_nor_said_has_f1_of_0() -> None:
    found = f1(np.ones((1, 3)), np.array([0, 0, 1]), np.array([0, 0, -1]), 3)
    assert found.tolist() == [[1.0, 0.0, 0.0]]


def test_a_paired_difference_has_the_interval_of_scipys_bootstrap() -> None:
    scores = Resamples(200, 20_000, 1).means(RIGHT)
    first, second = (scores.mean(np.array([[column]]), np.ones((20_000, 1))) for column in (0, 1))
    low, high = (first - second).interval(0.95)
    expected = bootstrap(
        (RIGHT[:, 0], RIGHT[:, 1]),
        lambda one, other, axis: one.mean(axis=axis) - other.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=5,
    ).confidence_interval
    # Differences of 200 rows are in steps of 0.005; the two draw other samples.
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.0051)
    unpaired = np.hypot(*(np.std(one.resampled) for one in (first, second)))
    assert np.std((first - second).resampled) < 0.8 * unpaired, "the models err on the same rows"


def test_the_mean_over_subsets_is_resampled_with_them() -> None:
    right = np.random.default_rng(0).random((100, 6)) < np.array([0.5, 0.7, 0.9, 0.4, 0.6, 0.8])
    scores = Resamples(100, 4000, 2).means(right.astype(float))
    draws = subset_draws(3, 4000, np.random.default_rng(4))
    assert draws.sum(axis=1) == pytest.approx(1)
    assert set(np.unique(draws * 3).round(9)) == {0, 1, 2, 3}
    both = scores.mean(np.array([[0, 1, 2], [3, 4, 5]]), draws)
    assert both.value == pytest.approx(right.mean())
    # By force: rows are drawn, and subsets are drawn, of which each student learned from the same.
    random = np.random.default_rng(11)
    forced = []
    for _ in range(4000):
        rows, subsets = random.integers(0, 100, 100), random.integers(0, 3, 3)
        forced.append(right[rows][:, [*subsets, *(subsets + 3)]].mean())
    assert np.std(both.resampled) == pytest.approx(np.std(forced), rel=0.06)
    assert both.interval(0.95) == pytest.approx(percentiles(forced, 0.95), abs=0.01)
    alone = scores.mean(np.array([[0], [3]]), draws)
    assert np.std(alone.resampled) < 0.5 * np.std(both.resampled), "one subset is not drawn"


def test_without_rows_nothing_is_defined() -> None:
    held = Resamples(0, 100, 1)
    scores = held.means(np.empty((0, 2)))
    assert np.isnan(scores.values).all() and np.isnan(scores.resampled).all()
    assert scores.resampled.shape == (100, 2)
    assert np.isnan(held.answers(macro_f1, np.empty(0, int), [np.empty(0, int)], 0).values).all()


def test_a_difference_is_taken_sample_by_sample() -> None:
    found = Score(0.7, np.array([0.6, 0.8])) - Score(0.5, np.array([0.5, 0.4]))
    assert found.value == pytest.approx(0.2)
    assert found.resampled == pytest.approx([0.1, 0.4])


def test_balanced_accuracy_is_scikit_learns_on_each_sample() -> None:
    counts = np.random.default_rng(3).multinomial(len(TRUTH), np.full(len(TRUTH), 1 / len(TRUTH)), 20)
    found = balanced(counts.astype(float), TRUTH, SAID, 4)
    for one, drawn in zip(found, counts, strict=True):
        expected = np.mean(
            [
                np.average(SAID[k == TRUTH] == k, weights=drawn[k == TRUTH])
                for k in range(4)
                if drawn[k == TRUTH].any()
            ]
        )
        assert one == pytest.approx(expected, abs=1e-12)
    whole = balanced(np.ones((1, len(TRUTH))), TRUTH, SAID, 4)[0]
    assert whole == pytest.approx(
        recall_score(TRUTH, SAID, labels=np.unique(TRUTH), average="macro"), abs=1e-12
    )


def test_a_constant_answer_has_the_balanced_accuracy_of_chance() -> None:
    truth = np.repeat([0, 1, 2], [80, 15, 5])
    found = balanced(np.ones((1, 100)), truth, np.zeros(100, np.int64), 3)
    assert found == pytest.approx(1 / 3)
