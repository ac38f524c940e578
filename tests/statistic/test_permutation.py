"""Tests by permutation keep what they promise: exact levels, units that move together, one correction for all."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import permutation_test

from synthray.statistic.permutation import Design, step_down


def drawn(design: Design, resamples: int) -> np.ndarray:
    """Return which parts the first side has; the second has the others."""
    blocks = [*design.draws(resamples, np.random.default_rng(0))]
    first, second = (np.concatenate(side) for side in zip(*blocks, strict=True))
    assert (first == ~second).all()
    return first


def test_the_first_line_is_as_observed_and_dealing_keeps_the_sizes() -> None:
    blocks = drawn(Design(3, 5), 500)
    assert blocks.shape == (501, 8)
    assert blocks[0].tolist() == [True] * 3 + [False] * 5
    assert (blocks.sum(axis=1) == 3).all()
    assert len({tuple(line) for line in blocks}) == math.comb(8, 3)


def test_paired_parts_swap_together_by_fair_coins() -> None:
    blocks = drawn(Design(4, 4, True), 4000)
    assert (blocks[:, :4] == ~blocks[:, 4:]).all()
    counts = np.unique(blocks[1:, :4], axis=0, return_counts=True)[1]
    assert len(counts) == 16
    assert counts.min() > 180 and counts.max() < 320


def test_what_both_have_is_dealt_as_well() -> None:
    design = Design(2, 1, both=3)
    first, second = design.observed
    assert first.tolist() == [True, True, False, True, True, True]
    assert second.tolist() == [False, False, True, True, True, True]
    blocks = [*design.draws(900, np.random.default_rng(0))]
    sides = [np.concatenate(side) for side in zip(*blocks, strict=True)]
    assert (sides[0].sum(axis=1) == 5).all() and (sides[1].sum(axis=1) == 4).all()
    assert (sides[0] | sides[1]).all()
    assert len({(*one, *other) for one, other in zip(*sides, strict=True)}) == 60


def test_pairs_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="paired samples of 2 and 3 parts"):
        Design(2, 3, True)


def test_p_is_that_of_scipy_and_of_all_permutations() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=7), random.normal(0.8, 1, size=6)
    values = np.concatenate([a, b])
    lines = drawn(Design(7, 6), 20_000)
    found = (~lines @ values) / 6 - (lines @ values) / 7
    # Two-sided by the distance from the permutations' mean, which is 0 here, as SciPy's is not for odd sizes.
    all_ = [
        abs(np.delete(values, list(one)).mean() - values[list(one)].mean())
        for one in itertools.combinations(range(13), 7)
    ]
    exact = np.mean(np.array(all_) >= abs(b.mean() - a.mean()) - 1e-12)
    p = step_down(found[:, None], np.array([False])).p[0]
    assert p == pytest.approx(exact, abs=0.01)
    above = step_down(found[:, None], np.array([True])).p[0]
    oracle = permutation_test(
        (b, a), lambda x, y: x.mean() - y.mean(), alternative="greater", n_resamples=np.inf
    )
    assert above == pytest.approx(oracle.pvalue, abs=0.01)


def test_step_down_is_westfall_and_youngs_by_hand() -> None:
    random = np.random.default_rng(5)
    lines = random.normal(size=(200, 6)) + random.normal(size=(200, 1))
    lines[0, :3] += 3
    scaled = np.abs((lines - lines.mean(axis=0)) / lines.std(axis=0))
    order = sorted(range(6), key=lambda one: -scaled[0, one])
    wanted, before = {}, 0.0
    for place, one in enumerate(order):
        left = order[place:]
        before = max(before, np.mean([line[left].max() >= scaled[0, one] for line in scaled]))
        wanted[one] = before
    found = step_down(lines, np.zeros(6, bool))
    assert found.adjusted.tolist() == pytest.approx([wanted[one] for one in range(6)])
    assert found.p.tolist() == pytest.approx((scaled >= scaled[0]).mean(axis=0))
    assert (found.adjusted >= found.p).all()


def test_what_depends_on_each_other_costs_nothing() -> None:
    random = np.random.default_rng(6)
    one = random.normal(size=(1000, 1))
    one[0] = 3
    same = step_down(np.repeat(one, 50, axis=1), np.zeros(50, bool))
    assert same.adjusted == pytest.approx(same.p)
    assert same.p[0] == pytest.approx(0.003, abs=0.003)


def test_the_chance_of_any_false_call_is_alpha_and_not_far_below() -> None:
    random = np.random.default_rng(7)
    any_, each = 0, 0
    for _ in range(1500):
        lines = random.normal(size=(100, 8)) + random.normal(size=(100, 1))
        found = step_down(lines, np.zeros(8, bool))
        any_ += found.adjusted.min() <= 0.05
        each += found.p.min() <= 0.05
    assert 0.035 < any_ / 1500 < 0.065
    assert each / 1500 > 0.15, "without a correction it is far more"


def test_ties_count_as_extreme_and_what_never_changes_is_not_tested() -> None:
    lines = np.array([[1.0, 2.0, np.nan], [1.0, 2.0, 1.0], [0.0, 2.0, 2.0], [1.0 - 1e-13, 2.0, 3.0]])
    found = step_down(lines, np.array([True, False, False]))
    assert found.p[0] == 0.75
    assert np.isnan(found.p[1:]).all() and np.isnan(found.adjusted[1:]).all()


def test_a_permutation_without_a_value_counts_against_the_difference() -> None:
    lines = np.concatenate([[5.0], np.random.default_rng(0).normal(size=99)])[:, None]
    assert step_down(lines, np.array([False])).p[0] == 0.01
    lines[1:31] = np.nan
    assert step_down(lines, np.array([False])).p[0] == 0.31
