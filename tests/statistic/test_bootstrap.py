"""Bootstrap samples draw units with all their rows, and intervals cover what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from synthray.statistic.bootstrap import Bootstrap, ratio


def bootstrap(units: list[int], resamples: int = 400, seed: int = 1) -> Bootstrap:
    return Bootstrap(np.array(units, np.int64), resamples, 0.95, seed)


def test_rows_of_a_unit_are_drawn_together_and_as_many_units_as_there_are() -> None:
    for weight in bootstrap([0, 0, 1, 2, 2, 2]).samples():
        assert weight[0] == weight[1]
        assert weight[3] == weight[4] == weight[5]
        assert weight[0] + weight[2] + weight[3] == 3


def test_the_seed_alone_decides_the_samples() -> None:
    one, again, other = (np.array([*bootstrap([0, 1, 2], seed=seed).samples()]) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


def test_of_fewer_than_two_units_there_is_no_interval() -> None:
    for units in ([], [0], [0, 0, 0]):
        held = bootstrap(units)
        drawn = held.drawn(lambda weight: weight.sum())
        assert not len(drawn)
        assert all(math.isnan(bound) for bound in held.interval(drawn))
        assert all(math.isnan(bound) for bound in held.share(0.5, drawn, len(set(units))))


def test_an_interval_of_what_is_not_defined_on_each_sample_is_not_defined() -> None:
    held = bootstrap([0, 1])
    low, high = held.interval(held.drawn(lambda weight: np.nan if weight[0] == 2 else 1.0).ravel())
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_share_of_independent_rows_has_wilsons_interval() -> None:
    hits = np.array([1.0] * 30 + [0.0] * 70)
    held = bootstrap(list(range(100)), 20_000)
    low, high = held.share(0.3, held.drawn(lambda weight: weight @ hits / weight.sum()).ravel(), 100)
    middle, half = (0.3 + 1.96**2 / 200) / (1 + 1.96**2 / 100), 0.0
    half = 1.96 / (1 + 1.96**2 / 100) * math.sqrt(0.21 / 100 + 1.96**2 / 40_000)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=0.002)


@pytest.mark.parametrize(("share", "size", "family"), [(0.5, 40, 1), (0.95, 40, 1), (0.8, 60, 4)])
def test_intervals_of_shares_cover_also_near_one_and_of_rows_in_families(
    share: float, size: int, family: int
) -> None:
    random = np.random.default_rng(3)
    units = np.repeat(np.arange(size), family)
    hit, trials = 0, 300
    for trial in range(trials):
        # Half of the families are of one mind: their rows count as one.
        own = random.random(size) < share
        alone = random.random((size, family)) < share
        rows = np.where((random.random(size) < 0.5)[:, None], own[:, None], alone).ravel()
        held = Bootstrap(units, 100, 0.95, trial)
        drawn = held.drawn(lambda weight, rows=rows: weight @ rows / weight.sum()).ravel()
        low, high = held.share(rows.mean(), drawn, size)
        hit += low <= share <= high
    assert 0.91 <= hit / trials <= 0.995


def test_where_all_rows_are_alike_a_share_is_not_certain() -> None:
    held = bootstrap(list(range(10)))
    low, high = held.share(1.0, np.ones(400), 10)
    assert high == 1.0
    assert low == pytest.approx(1 / (1 + 1.96**2 / 10), abs=1e-3)


def test_a_ratio_by_nothing_is_not_a_number() -> None:
    assert ratio([1.0, 0.0, 3.0], [2.0, 0.0, 0.0]) == pytest.approx([0.5, np.nan, np.nan], nan_ok=True)
