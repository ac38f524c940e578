"""Blocks of labelled probabilities, in any partition, add up to what cleanlab finds in all rows at once."""

from __future__ import annotations

import functools
import operator
import warnings
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest

from synthray.label import confident
from synthray.label.confident import Cut, End, FilterBy, Items, Joint, Lowest, Numbers, Score, Sums

FILTERS, SCORES = get_args(FilterBy), get_args(Score)


def problem(seed: int, rounded: bool = False) -> Items:
    """Return a few classes of which the last may be of no row; `rounded` probabilities are tied often."""
    random = np.random.default_rng(seed)
    classes, size = int(random.integers(2, 12)), int(random.integers(100, 1500))
    true = random.integers(0, classes, size)
    held = random.dirichlet(np.full(classes, 0.4), size)
    held[np.arange(size), true] += random.random(size) * 1.5
    if rounded:
        held = np.round(held * 4) + 0.25
    held /= held.sum(axis=1, keepdims=True)
    given = np.where(random.random(size) < 0.15, random.integers(0, classes, size), true)
    if seed % 4 == 1 and classes > 2:
        given[given == classes - 1] = 0
    return Items(given, held)


def block(items: Items, places: Any) -> Items:
    return Items(items.given[places], items.probabilities[places])


def found(items: Items, parts: list[Numbers], by: Any, share: float = 1.0, least: int = 1) -> Numbers:
    """Return the mask that states of `parts` of the items lead to."""
    blocks = [block(items, part) for part in parts]
    sums: Sums = functools.reduce(operator.add, map(Sums.of, blocks))
    joint: Joint = functools.reduce(operator.add, (Joint.of(one, sums.thresholds) for one in blocks))
    made = confident.cuts(by, sums.counts, joint, share, least)
    states = []
    for one in blocks:
        states.append(Lowest([cut.number for cut in made]))
        for place, _, values in confident.values(one, made):
            states[-1].add(place, values)
    ends = functools.reduce(operator.add, states).ends()
    tied: dict[int, set[int]] = {}
    for place, where, values in confident.values(items, made):
        if ends[place].tied:
            tied[place] = {*where[confident.tie(values, made[place].number, ends[place])].tolist()}
    mask = np.zeros(len(items), bool)
    for part, one in zip(parts, blocks, strict=True):

        def taken(place: int, where: Numbers, values: Numbers, part: Numbers = part) -> Numbers:
            chosen = np.array([item in tied.get(place, ()) for item in part[where].tolist()], bool)
            off: Numbers = values <= ends[place].value
            return off & (chosen | (values < ends[place].value)) if ends[place].tied else off

        mask[part] = confident.doubted(one, by, sums.thresholds, made, taken)
    return mask


def cleanlab(items: Items, by: str, share: float = 1.0, least: int = 1) -> Numbers:
    from cleanlab.filter import find_label_issues

    settings = {"filter_by": by, "frac_noise": share, "min_examples_per_class": least, "n_jobs": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask: Numbers = find_label_issues(items.given, items.probabilities, **settings)
    return mask


@pytest.mark.parametrize("by", FILTERS)
@pytest.mark.parametrize("rounded", [False, True], ids=["no ties", "ties"])
def test_any_partition_gives_cleanlabs_mask(by: str, rounded: bool) -> None:
    marked = 0
    for seed in range(20):
        items = problem(seed, rounded)
        expected = cleanlab(items, by)
        marked += int(expected.sum())
        order = np.random.default_rng(seed + 100).permutation(len(items))
        for parts in (1, 7, 64):
            np.testing.assert_array_equal(found(items, np.array_split(order, parts), by), expected)
    assert marked > 500


@pytest.mark.parametrize("by", FILTERS[:3])
def test_shares_of_the_noise_and_rows_that_are_left_are_cleanlabs(by: str) -> None:
    different = 0
    for seed in range(8):
        items = problem(seed)
        parts = np.array_split(np.arange(len(items)), 3)
        for share, least in ((0.5, 1), (0.73, 40), (1.0, 0)):
            expected = cleanlab(items, by, share, least)
            np.testing.assert_array_equal(found(items, parts, by, share, least), expected)
            different += int((expected != cleanlab(items, by)).sum())
    assert different > 100


def test_joint_and_noise_are_cleanlabs_of_many_problems() -> None:
    from cleanlab.count import compute_confident_joint, estimate_latent

    for seed in range(200):
        items = problem(seed)
        sums = Sums.of(items)
        joint = Joint.of(items, sums.thresholds).calibrated(sums.counts)
        expected = compute_confident_joint(items.given, items.probabilities)
        np.testing.assert_array_equal(joint, expected)
        np.testing.assert_array_equal(
            confident.noise(joint, sums.counts), estimate_latent(expected, items.given)[1]
        )


def test_sums_are_exact_whatever_the_order() -> None:
    items = problem(3)
    order = np.random.default_rng(1).permutation(len(items))
    parts = [Sums.of(block(items, part)) for part in np.array_split(order, 13)]
    whole = Sums.of(items)
    assert functools.reduce(operator.add, parts) == whole
    assert functools.reduce(operator.add, reversed(parts)) == whole
    for place, threshold in enumerate(whole.thresholds.tolist()):
        own = items.probabilities[items.given == place, place].tolist()
        assert threshold == pytest.approx(float(sum(map(Fraction, own)) / len(own)), rel=1e-15)


def test_a_class_of_no_item_is_never_reached_and_a_hopeless_one_hardly() -> None:
    items = Items(np.array([0, 0, 2]), np.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]))
    assert Sums.of(items).thresholds.tolist() == [0.375, 2.0, 2e-6]


@pytest.mark.parametrize("by", SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_cleanlabs_and_of_each_item_alone(by: Any, seed: int) -> None:
    from cleanlab.rank import get_label_quality_scores

    items = problem(seed)
    expected = get_label_quality_scores(items.given, items.probabilities, method=by)
    np.testing.assert_array_equal(confident.score(items, by), expected)
    alone = [confident.score(block(items, [place]), by)[0] for place in range(50)]
    np.testing.assert_array_equal(alone, expected[:50])


@pytest.mark.parametrize("by", SCORES[:2])
def test_adjusted_scores_are_cleanlabs(by: Any) -> None:
    from cleanlab.rank import get_label_quality_scores

    for seed in (1, 2):
        items = problem(seed)
        expected = get_label_quality_scores(
            items.given, items.probabilities, method=by, adjust_pred_probs=True
        )
        np.testing.assert_allclose(
            confident.score(items, by, Sums.of(items).thresholds), expected, rtol=1e-12
        )
        assert not np.allclose(confident.score(items, by), expected)


def test_a_rounding_above_one_is_the_same_as_one() -> None:
    rounded, whole = ([[1.0000001, -1e-8]], [[1.0, 0.0]])
    scores = [
        confident.score(Items(np.array([1]), np.array(held)), "confidence_weighted_entropy").tolist()
        for held in (rounded, whole)
    ]
    assert scores[0] == scores[1]


def test_lowest_holds_what_a_sort_would_cut_off() -> None:
    random = np.random.default_rng(5)
    values = random.integers(0, 3000, 30_000).astype(float)
    for number in (1, 17, 9_999, 30_000, 40_000):
        shares = [Lowest([number]) for _ in range(4)]
        for at, part in enumerate(np.array_split(values, 60)):
            shares[at % 4].add(0, part)
        assert all(sum(map(len, one.shrunk().held[0])) <= number + 1 for one in shares)
        end = functools.reduce(operator.add, shares).ends()[0]
        ordered = np.sort(values)
        if number >= len(values):
            assert end == End(np.inf, tied=False)
        else:
            assert end == End(ordered[number - 1], tied=bool(ordered[number - 1] == ordered[number]))


def test_nothing_is_cut_of_a_class_that_is_too_small() -> None:
    joint = Joint(np.array([[5, 4], [1, 1]]), 3)
    made = confident.cuts("prune_by_class", (9, 2), joint, 1.0, 2)
    assert {cut.given for cut in made} == {0}
    assert confident.cuts("confident_learning", (9, 2), joint, 1.0, 1) == []
    assert confident.cuts("low_self_confidence", (9, 2), joint, 1.0, 1) == [Cut("self_confidence", 3)]
