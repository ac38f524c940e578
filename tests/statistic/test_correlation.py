"""Correlations are scipy's, and are not defined where a column does not vary."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from synthray.statistic.correlation import CORRELATIONS, kendall, pearson, spearman

ORACLES: dict[str, Callable[..., Any]] = {
    "pearson": stats.pearsonr,
    "spearman": stats.spearmanr,
    "kendall": stats.kendalltau,
}


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("values", [3, 1000])
def test_they_equal_scipy_with_ties_and_without(name: str, values: int) -> None:
    random = np.random.default_rng(values)
    for size in (2, 3, 10, 500):
        one = random.integers(0, values, size).astype(float)
        other = one + random.integers(-1, 2, size)
        if len(set(one)) > 1 and len(set(other)) > 1:
            expected = ORACLES[name](one, other).statistic
            assert CORRELATIONS[name](one, other) == pytest.approx(expected, abs=1e-12)


def test_kendalls_tau_b_is_its_formula() -> None:
    one, other = np.array([1, 2, 2, 3, 4.0]), np.array([1, 3, 2, 2, 5.0])
    score = [np.sign(one[i] - one[j]) * np.sign(other[i] - other[j]) for i in range(5) for j in range(i)]
    apart = [sum(held[i] != held[j] for i in range(5) for j in range(i)) for held in (one, other)]
    assert kendall(one, other) == pytest.approx(sum(score) / math.sqrt(apart[0] * apart[1]), abs=1e-12)


@pytest.mark.parametrize("correlation", [pearson, spearman, kendall])
def test_a_constant_one_row_and_no_row_have_none(correlation: Callable[..., float]) -> None:
    for one, other in (([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])):
        assert math.isnan(correlation(np.array(one), np.array(other)))


def test_numbers_of_any_size_are_taken_and_none_is_beyond_one() -> None:
    one = np.array([1e-200, 2e-200, 4e-200])
    assert pearson(one, one * 3) == pytest.approx(1.0, abs=1e-12)
    assert pearson(np.array([1e200, -1e200]), np.array([0.0, 1.0])) == -1.0
