"""A choice is worth what it does beyond random ones of the same size, whose own chance is in the interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from synthray.statistic.control import over_chance, spread
from synthray.statistic.paired import Resamples, Score


def right(
    random: np.random.Generator, rows: int, models: int, drawn: float, noise: float
) -> np.ndarray[Any, Any]:
    """Return how right models are: rows differ, models by their draw, and each pair by noise."""
    of_rows = random.normal(0, 0.5, (rows, 1))
    result: np.ndarray[Any, Any] = (
        0.5 + of_rows + random.normal(0, drawn, models) + random.normal(0, noise, (rows, models))
    )
    return result


def judged(held: np.ndarray[Any, Any], seed: int, resamples: int = 400) -> Score:
    """Return the first column over the others."""
    scores = Resamples(len(held), resamples, seed).means(held)
    number, once = held.shape[1] - 1, np.ones((resamples, 1))
    chosen = scores.mean(np.array([[0]]), once)
    others = scores.mean(np.arange(1, number + 1)[:, None], once)
    return over_chance(chosen, others, held[:, 1:], np.random.default_rng(seed))


def test_the_spread_is_that_of_the_draws_and_of_the_test_rows() -> None:
    random = np.random.default_rng(1)
    found = np.array([spread(right(random, 50, 6, 0.1, 0.6)) for _ in range(600)])
    between, noise = found.mean(axis=0)
    assert noise == pytest.approx(0.6**2 / 50, rel=0.02)
    assert between - noise == pytest.approx(0.1**2, abs=0.0012), "the component of the draws"
    assert spread(np.repeat(random.random((30, 1)), 4, axis=1)) == pytest.approx((0, 0))


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (0, 5)])
def test_of_one_row_or_one_control_there_is_no_spread(shape: tuple[int, int]) -> None:
    assert all(math.isnan(one) for one in spread(np.ones(shape)))


@pytest.mark.parametrize(
    ("drawn", "noise", "controls"),
    [(0.05, 0.3, 5), (0.1, 0.1, 5), (0, 0.4, 5), (0.05, 0.3, 2), (0.05, 0.3, 20)],
)
def test_the_interval_of_a_random_choice_leaves_0_out_as_rarely_as_it_says(
    drawn: float, noise: float, controls: int
) -> None:
    outside = 0
    for trial in range(500):
        held = right(np.random.default_rng([7, trial]), 60, controls + 1, drawn, noise)
        low, high = judged(held, trial, 200).interval(0.95)
        outside += low > 0 or high < 0
    # 5 %, of 500 trials with a standard error of 1 %.
    assert 0.025 <= outside / 500 <= 0.08


def test_the_interval_of_a_choice_that_errs_on_other_rows_covers_what_it_is_worth() -> None:
    inside = 0
    for trial in range(300):
        random = np.random.default_rng([9, trial])
        held = right(random, 60, 6, 0.02, 0.05)
        held[:, 0] += 0.1 + random.normal(0, 0.5, 60)
        low, high = judged(held, trial, 200).interval(0.95)
        inside += low <= 0.1 <= high
    assert 0.9 <= inside / 300 <= 0.98


def test_a_choice_that_is_better_is_found() -> None:
    held = right(np.random.default_rng(5), 400, 6, 0.02, 0.2)
    held[:, 0] += 0.2
    found = judged(held, 1)
    assert found.value == pytest.approx(held[:, 0].mean() - held[:, 1:].mean())
    low, high = found.interval(0.95)
    assert 0 < low < found.value < high


def test_controls_that_are_all_the_same_add_no_chance() -> None:
    held = np.repeat(right(np.random.default_rng(5), 80, 1, 0.1, 0.2), 4, axis=1)
    held[:, 0] += 0.1
    assert judged(held, 1).resampled == pytest.approx(0.1)
