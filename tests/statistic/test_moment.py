"""Sums tell of all pairs what the pairs tell, however the vectors are divided."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import Any

import numpy as np
import pytest

from synthray.statistic.moment import Moments

Numbers = np.ndarray[Any, np.dtype[Any]]

random = np.random.default_rng(4)
UNIT = random.normal(size=(211, 12)) + 0.7
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)
LABELS = [None if number % 11 == 0 else "abc"[int(random.integers(3))] for number in range(211)]
MOMENTS = Moments.of(UNIT, LABELS)


def by_force(chosen: Any) -> float:
    pairs = [
        UNIT[one] @ UNIT[other]
        for one, other in itertools.combinations(range(len(UNIT)), 2)
        if chosen(LABELS[one], LABELS[other])
    ]
    return float(np.mean(pairs))


def test_the_mean_cosine_is_that_of_sklearn_over_all_pairs() -> None:
    from sklearn.metrics.pairwise import cosine_similarity

    cosine = cosine_similarity(UNIT)[np.triu_indices(len(UNIT), 1)]
    assert MOMENTS.similarity().value == pytest.approx(cosine.mean(), abs=1e-12)
    assert MOMENTS.similarity().n == 211


def test_within_and_between_labels_are_those_of_the_pairs() -> None:
    within = by_force(lambda one, other: one is not None and one == other)
    between = by_force(lambda one, other: None not in (one, other) and one != other)
    assert MOMENTS.within().value == pytest.approx(within, abs=1e-12)
    assert MOMENTS.between().value == pytest.approx(between, abs=1e-12)
    assert MOMENTS.within().n == MOMENTS.between().n == sum(one is not None for one in LABELS)
    for label in "abc":
        own = by_force(lambda one, other, own=label: one == other == own)
        others = by_force(
            lambda one, other, own=label: None not in (one, other) and (one == own) != (other == own)
        )
        assert MOMENTS.within(label).value == pytest.approx(own, abs=1e-12)
        assert MOMENTS.between(label).value == pytest.approx(others, abs=1e-12)
        assert MOMENTS.within(label).n == LABELS.count(label)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of what the package imports
@pytest.mark.parametrize("order", [0.5, 1, 1.5, 2])
def test_the_vendi_score_is_that_of_its_authors(order: float) -> None:
    from vendi_score import vendi

    assert MOMENTS.vendi(order) == pytest.approx(vendi.score_dual(UNIT, q=order, normalize=False), abs=1e-9)
    # The eigenvalues that the n x n form has too many are nothing but rounding: seen by low orders alone.
    force = vendi.score_K(UNIT @ UNIT.T, q=order)
    assert MOMENTS.vendi(order) == pytest.approx(force, abs=1e-9 if order >= 1 else 1e-3)


def test_the_vendi_score_counts_what_is_entirely_different() -> None:
    basis = np.eye(5)
    for order in (0.5, 1, 2, math.inf):
        assert Moments.of(np.repeat(basis, 7, axis=0)).vendi(order) == pytest.approx(5)
        assert Moments.of(basis[[0] * 9]).vendi(order) == pytest.approx(1)
    uneven = Moments.of(basis[[0] * 8 + [1, 2]])
    assert uneven.vendi(math.inf) == pytest.approx(10 / 8)
    assert uneven.vendi(0.5) > uneven.vendi(1) > uneven.vendi(2) > uneven.vendi(math.inf)


@pytest.mark.parametrize("blocks", [1, 7, 64])
def test_parts_add_up_to_the_whole(blocks: int) -> None:
    order = np.random.default_rng(blocks).permutation(len(UNIT))
    parts = [Moments.of(UNIT[part], [LABELS[one] for one in part]) for part in np.array_split(order, blocks)]
    added = functools.reduce(operator.add, parts)
    for name in ("similarity", "within", "between"):
        assert getattr(added, name)().value == pytest.approx(getattr(MOMENTS, name)().value, abs=1e-12)
    assert added.vendi() == pytest.approx(MOMENTS.vendi(), abs=1e-11)
    assert {name: sums.count for name, sums in added.labels.items()} == {
        name: sums.count for name, sums in MOMENTS.labels.items()
    }


def test_vectors_of_float32_are_summed_in_float64() -> None:
    single = Moments.of(np.tile(UNIT.astype(np.float32), (50, 1)))
    double = Moments.of(np.tile(UNIT.astype(np.float32).astype(np.float64), (50, 1)))
    assert single.vendi() == double.vendi()
    assert single.similarity() == double.similarity()


def test_without_pairs_a_mean_is_nan() -> None:
    one = Moments.of(UNIT[:1], ["a"])
    assert math.isnan(one.similarity().value) and one.similarity().n == 1
    assert math.isnan(one.within().value) and math.isnan(one.between().value)
    assert one.vendi() == pytest.approx(1)
    assert math.isnan(Moments.of(UNIT[:5], ["a"] * 5).between("a").value), "one label"
    unlabelled = Moments.of(UNIT[:5])
    assert math.isnan(unlabelled.within().value) and unlabelled.between().n == 0
    assert math.isnan(Moments.of(UNIT[:0]).vendi())
    assert Moments.of(UNIT[:2], ["", None]).within("").n == 1, "an empty label is one"
