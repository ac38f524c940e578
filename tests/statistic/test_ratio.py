"""A ratio of sums over clusters has the textbook's interval with one row a cluster, and covers with several."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, t

from synthray.statistic.ratio import Ratio


def of(a: list[float], b: list[float]) -> Ratio:
    above, below = np.array(a, float), np.array(b, float)
    return Ratio(
        int((below > 0).sum()),
        above.sum(),
        below.sum(),
        (above * above).sum(),
        (above * below).sum(),
        (below * below).sum(),
    )


@pytest.mark.parametrize(("won", "n"), [(0, 5), (3, 10), (10, 10), (71, 100)])
def test_of_single_rows_a_share_has_wilsons_interval(won: int, n: int) -> None:
    found = of([1.0] * won + [0.0] * (n - won), [1.0] * n)
    expected = binomtest(won, n).proportion_ci(0.9, method="wilson")
    assert found.value == won / n
    assert found.share(0.9) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_of_single_rows_a_mean_has_students_interval() -> None:
    values = np.random.default_rng(0).normal(3, 2, 23)
    error = values.std(ddof=1) / math.sqrt(23)
    assert of(list(values), [1.0] * 23).mean() == pytest.approx(
        t.interval(0.95, 22, values.mean(), error), abs=1e-12
    )


def test_copies_in_clusters_count_once() -> None:
    won = [1.0, 0.0, 1.0, 1.0, 0.0]
    alone, copied = of(won, [1.0] * 5), of([7 * one for one in won], [7.0] * 5)
    assert copied.share() == pytest.approx(alone.share(), abs=1e-12)
    assert copied.mean() == pytest.approx(alone.mean(), abs=1e-12)


def test_intervals_of_rows_in_clusters_cover() -> None:
    random = np.random.default_rng(1)
    covered = np.zeros(2)
    for _ in range(400):
        truth = random.beta(3, 2, 60)
        size = random.integers(1, 9, 60)
        won = random.binomial(size, truth)
        more = size * random.normal(1, 2, 60) + random.normal(0, 1, 60)
        share, mean = of(list(won), list(size)).share(), of(list(more), list(size)).mean()
        covered += [share[0] <= 0.6 <= share[1], mean[0] <= 1 <= mean[1]]
    assert (covered / 400 > 0.91).all(), covered / 400
    assert (covered / 400 < 0.99).all(), covered / 400


def test_less_than_two_clusters_say_nothing() -> None:
    for held in (of([], []), of([1.0], [1.0]), of([0.0, 1.0], [0.0, 1.0])):
        assert all(math.isnan(one) for one in (*held.share(), *held.mean()))
    assert math.isnan(of([], []).value)
    assert of([1.0], [2.0]).value == 0.5
