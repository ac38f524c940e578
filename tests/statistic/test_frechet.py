"""How far apart two normal distributions are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from synthray.statistic.frechet import frechet


def drawn(seed: int, count: int, dimensions: int, shift: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, dimensions)) @ random.normal(size=(dimensions, dimensions)) + shift


def printed(ones: np.ndarray, others: np.ndarray) -> float:
    """The formula as it is printed, by SciPy's root of a matrix."""
    covariance, other = np.cov(ones, rowvar=False), np.cov(others, rowvar=False)
    root = np.real(sqrtm(covariance @ other))
    apart = ones.mean(axis=0) - others.mean(axis=0)
    return float(apart @ apart + np.trace(covariance + other - 2 * root))


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_it_is_what_the_printed_formula_says(shift: float) -> None:
    ones, others = drawn(1, 200, 16), drawn(2, 150, 16, shift)
    assert frechet(ones, others) == pytest.approx(printed(ones, others), rel=1e-9)


def test_one_dimension_has_a_closed_form() -> None:
    ones, others = drawn(1, 50, 1), drawn(2, 40, 1, 3.0)
    expected = (ones.mean() - others.mean()) ** 2 + (ones.std(ddof=1) - others.std(ddof=1)) ** 2
    assert frechet(ones, others) == pytest.approx(expected, rel=1e-12)


def test_fewer_rows_than_dimensions_cost_no_accuracy() -> None:
    # Rows within few dimensions are as far apart when zeros are written beside them.
    ones, others = drawn(1, 30, 8), drawn(2, 25, 8, 1.0)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(64, 64)))[0]
    wide = [np.hstack([held, np.zeros((len(held), 56))]) @ turn for held in (ones, others)]
    assert frechet(*wide) == pytest.approx(printed(ones, others), rel=1e-9)


def test_a_sample_is_at_no_distance_from_itself_or_its_copies() -> None:
    ones = drawn(1, 20, 40)
    assert frechet(ones, ones) == pytest.approx(0, abs=1e-9)
    assert frechet(np.ones((5, 4)), np.ones((9, 4))) == 0, "identical vectors spread nowhere"


def test_the_order_of_rows_does_not_count() -> None:
    ones, others = drawn(1, 60, 8), drawn(2, 50, 8)
    assert frechet(ones[::-1], others) == pytest.approx(frechet(ones, others), abs=1e-9)
    assert frechet(others, ones) == pytest.approx(frechet(ones, others), abs=1e-9)
