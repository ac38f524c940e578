"""Distances and NovelSum are what their formulas say, pair by pair."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from synthray.statistic import dispersion
from synthray.statistic.dispersion import distances, novel_sum

Numbers = np.ndarray[Any, np.dtype[Any]]


def drawn(count: int, size: int = 8) -> Numbers:
    unit = np.random.default_rng(count).normal(size=(count, size)) + 0.4
    found: Numbers = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return found


@pytest.fixture(params=["at once", "in parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in parts":
        monkeypatch.setattr(dispersion, "_AT_ONCE", 300)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("count", [2, 3, 90])
def test_distances_are_those_of_scipy(count: int) -> None:
    from scipy.spatial.distance import pdist, squareform

    unit = drawn(count)
    apart = squareform(pdist(unit))
    np.fill_diagonal(apart, np.inf)
    clique, nearest = distances(unit)
    assert clique == pytest.approx(pdist(unit).mean(), abs=1e-9)
    assert nearest == pytest.approx(apart.min(axis=1).mean(), abs=1e-9)


def by_force(unit: Numbers, neighbours: int, density: float, proximity: float) -> float:
    total = 0.0
    for one in range(len(unit)):
        apart = sorted(0.0 if one == other else 1 - unit[one] @ unit[other] for other in range(len(unit)))
        near = apart[:neighbours]
        dense = 1 / (sum(near) / len(near)) ** density
        weights = [1 / rank**proximity for rank in range(1, len(apart) + 1)]
        novel = sum(weight * dense * far for weight, far in zip(weights, apart, strict=True))
        total += novel / sum(weights)
    return total / len(unit)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("count", [2, 5, 70])
@pytest.mark.parametrize("settings", [(10, 0.5, 1.0), (5, 0.25, 2.0), (10, 0.0, 0.0)])
def test_novel_sum_is_its_formula(count: int, settings: tuple[int, float, float]) -> None:
    unit = drawn(count)
    assert novel_sum(unit, *settings) == pytest.approx(by_force(unit, *settings), abs=1e-6)


def test_more_spread_is_more_novel() -> None:
    tight = drawn(50)
    tight = tight + 3 * tight.mean(axis=0)
    tight /= np.linalg.norm(tight, axis=1, keepdims=True)
    assert novel_sum(drawn(50)) > novel_sum(tight) + 0.1
    assert distances(drawn(50)) > distances(tight)


def test_equal_vectors_are_at_no_distance() -> None:
    unit = np.repeat(drawn(1, 300).astype(np.float32), 20, axis=0)
    assert distances(unit) == pytest.approx((0, 0), abs=1e-6)


def test_vectors_of_float32_keep_small_distances() -> None:
    unit = drawn(2, 300)
    unit[1] = unit[0] + 1e-4 * np.eye(300)[0]
    double = distances(unit.astype(np.float32).astype(np.float64))
    assert distances(unit.astype(np.float32)) == double
    assert double[0] == pytest.approx(1e-4, rel=0.01)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_have_no_distance(count: int) -> None:
    assert all(math.isnan(one) for one in (*distances(drawn(2)[:count]), novel_sum(drawn(2)[:count])))
