"""Shares of rows that come in families."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from synthray.statistic import share
from synthray.statistic.share import chance, interval


def test_an_interval_covers_as_often_as_it_says_where_siblings_share_a_fate() -> None:
    random, inside, naive = np.random.default_rng(1), 0, 0
    families = [str(number // 5) for number in range(300)]
    for trial in range(200):
        right = np.repeat(random.random(60) < 0.7, 5)
        low, high = interval(right, families, 0.9, np.random.default_rng(trial), 200)
        inside += low <= 0.7 <= high
        alone = [str(number) for number in range(300)]
        low, high = interval(right, alone, 0.9, np.random.default_rng(trial), 200)
        naive += low <= 0.7 <= high
    assert 0.83 <= inside / 200 <= 0.96
    assert naive / 200 < 0.7, "rows that are counted as strangers promise too much"


def test_parts_do_not_show_in_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values, families = np.arange(40) % 3, [str(number) for number in range(40)]
    whole = interval(values, families, 0.95, np.random.default_rng(0), 150)
    monkeypatch.setattr(share, "_AT_ONCE", 400)
    assert interval(values, families, 0.95, np.random.default_rng(0), 150) == whole


def test_one_family_has_no_interval() -> None:
    assert np.isnan(interval(np.ones(5), ["a"] * 5, 0.95, np.random.default_rng(0), 100)).all()


def test_for_strangers_chance_is_the_binomials() -> None:
    right = np.arange(400) < 215
    exact = binom.sf(214, 400, 0.5)
    assert chance(right, [str(number) for number in range(400)]) == pytest.approx(exact, abs=0.01)
    assert chance(np.arange(10) < 5, [str(number) for number in range(10)]) == 0.5


def test_siblings_do_not_make_chance_unlikely() -> None:
    random, families = np.random.default_rng(2), [str(number // 6) for number in range(360)]
    found = [chance(np.repeat(random.random(60) < 0.5, 6), families) for _ in range(1000)]
    assert 0.03 < np.mean(np.array(found) < 0.05) < 0.07
