"""The first rows of the order are a stratified sample of all, whatever their number."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from synthray.statistic.strata import order

LABELS = np.random.default_rng(0).permutation([*["a"] * 60, *["b"] * 30, *["c"] * 9, "d"]).tolist()


def test_each_beginning_holds_the_labels_in_proportion() -> None:
    places = order(LABELS, np.random.default_rng(1))
    assert sorted(places.tolist()) == list(range(100))
    sizes = collections.Counter(LABELS)
    for first in range(1, 101):
        held = collections.Counter(LABELS[place] for place in places[:first])
        for label, size in sizes.items():
            assert abs(held[label] - size * first / 100) <= 1, (first, label)


def test_which_rows_of_a_label_come_first_is_chance() -> None:
    seen = collections.Counter(
        int(place) for seed in range(400) for place in order(LABELS, np.random.default_rng(seed))[:50]
    )
    assert sum(seen.values()) == 400 * 50
    # Half of 400, with a standard deviation of 10; the one row of `d` stands in the middle.
    assert all(150 < count < 250 for place, count in seen.items() if LABELS[place] != "d")
    assert len(seen) >= 99


@pytest.mark.parametrize(("labels", "expected"), [([], []), (["a"], [0])])
def test_of_no_rows_or_one_there_is_one_order(labels: list[str], expected: list[int]) -> None:
    assert order(labels, np.random.default_rng(1)).tolist() == expected
