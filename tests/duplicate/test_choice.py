"""What is kept is what a plain greedy pass over all pairs keeps, and a crowd of copies stays cheap."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from synthray.duplicate.choice import GONE, KEPT, UNKNOWN, Choice, Pairs, components

Near = Callable[[int, int], float]
THRESHOLD = 0.5


def pairs(held: list[tuple[int, int, float]]) -> Pairs:
    one, other, similarity = zip(*held, strict=True) if held else ((), (), ())
    return Pairs(np.array(one, np.int64), np.array(other, np.int64), np.array(similarity, float))


def greedy(count: int, near: set[tuple[int, int]], old: int = 0) -> list[int]:
    """Return the state of each: taken in order, each is kept unless it is near one that is kept."""
    state: list[int] = []
    for late in range(count):
        gone = any(state[early] == KEPT and (early, late) in near for early in range(late))
        state.append(GONE if gone and late >= old else KEPT)
    return state


def random_pairs(generator: random.Random, count: int, share: float) -> list[tuple[int, int, float]]:
    """Return random pairs, in no order and either way round."""
    held = [pair for pair in combinations(range(count), 2) if generator.random() < share]
    generator.shuffle(held)
    return [(*generator.sample(pair, 2), generator.uniform(THRESHOLD, 1)) for pair in held]  # type: ignore[misc]


def unordered(held: list[tuple[int, int, float]]) -> set[tuple[int, int]]:
    return {(min(one, other), max(one, other)) for one, other, _ in held}


# Pairs that are known.


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_the_greedy_one(seed: int) -> None:
    generator = random.Random(seed)
    count = generator.randrange(1, 60)
    old = generator.choice([0, 0, count // 3, count])
    held = random_pairs(generator, count, generator.choice([0.01, 0.05, 0.2, 0.8]))
    choice = Choice(pairs(held), count, old)
    choice.settle()
    assert choice.state.tolist() == greedy(count, unordered(held), old)


def test_in_a_chain_every_second_one_is_kept_however_long_it_is() -> None:
    count = 3_001
    choice = Choice(pairs([(at + 1, at, 0.9) for at in range(count - 1)]), count)
    choice.settle()
    assert choice.state.tolist() == [KEPT, GONE] * (count // 2) + [KEPT]


def test_old_ones_are_kept_though_they_are_near_each_other() -> None:
    choice = Choice(pairs([(0, 1, 0.9), (1, 2, 0.8), (2, 3, 0.7)]), 4, old=2)
    choice.settle()
    assert choice.state.tolist() == [KEPT, KEPT, GONE, KEPT]


def test_a_blocked_one_is_not_kept_yet_but_may_be_gone() -> None:
    choice = Choice(pairs([(0, 1, 0.9), (2, 3, 0.9)]), 5)
    blocked = np.array([False, True, True, False, True])
    choice.settle(blocked)
    assert choice.state.tolist() == [KEPT, GONE, UNKNOWN, UNKNOWN, UNKNOWN]
    choice.settle()
    assert choice.state.tolist() == [KEPT, GONE, KEPT, GONE, KEPT]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_without_pairs_all_are_kept(count: int) -> None:
    choice = Choice(pairs([]), count)
    choice.settle()
    assert choice.state.tolist() == [KEPT] * count


def test_pairs_at_a_threshold_hold_it_itself() -> None:
    found = pairs([(0, 1, 0.5), (1, 2, 0.49), (2, 3, 0.51)]).at(0.5)
    assert (found.one.tolist(), found.other.tolist(), found.similarity.tolist()) == (
        [0, 2],
        [1, 3],
        [0.5, 0.51],
    )


# Crowds.


class Compare:
    """Compares by a function, and counts how often it was asked about which pair."""

    def __init__(self, near: Near) -> None:
        self.near = near
        self.asked: list[tuple[int, int]] = []

    def __call__(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        held = list(zip(one.tolist(), other.tolist(), strict=True))
        self.asked += held
        return np.array([self.near(*pair) for pair in held], float)


def crowded(
    count: int, crowds: list[list[int]], near: Near, known: Pairs, old: int = 0
) -> tuple[Choice, Compare]:
    choice, compare = Choice(known, count, old), Compare(near)
    numbers = np.array([at for at, members in enumerate(crowds) for _ in members], np.int64)
    choice.settle_crowds(
        numbers, np.array([one for held in crowds for one in held], np.int64), THRESHOLD, compare
    )
    choice.settle()
    return choice, compare


@pytest.mark.parametrize("small", [True, False], ids=["turns of two", "turns as they are"])
@pytest.mark.parametrize("seed", range(20))
def test_crowds_are_decided_as_if_all_their_pairs_were_known(
    seed: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        monkeypatch.setattr("synthray.duplicate.choice._PIVOTS", 2)
        monkeypatch.setattr("synthray.duplicate.choice._PAIRS_A_TURN", 1)
    generator = random.Random(seed)
    count = 140
    old = generator.choice([0, 40])
    # Crowds overlap, their members come in no order, and one of them twice.
    crowds = [generator.sample(range(count), generator.choice([2, 30, 80])) for _ in range(3)]
    crowds.append(crowds[0])
    share = generator.choice([0.005, 0.05, 0.5])
    alike = {pair: generator.random() for pair in combinations(range(count), 2)}
    limit = 1 - share
    known = random_pairs(generator, count, 0.01)

    def near(one: int, other: int) -> float:
        assert one < other, "the preferred one comes first"
        return THRESHOLD if alike[one, other] >= limit else THRESHOLD - 0.01

    choice, compare = crowded(count, crowds, near, pairs(known), old)
    true = unordered(known) | {
        pair
        for members in crowds
        for pair in combinations(sorted(members), 2)
        if near(*pair) >= THRESHOLD and pair[1] >= old
    }
    assert choice.state.tolist() == greedy(count, true, old)
    assert len(set(compare.asked)) == len(compare.asked), "no pair is compared twice"
    assert not [pair for pair in compare.asked if pair[1] < old], "no old one is compared with an old one"


def test_a_crowd_of_copies_takes_as_many_comparisons_as_it_has_members() -> None:
    for count in (2_000, 8_000):
        choice, compare = crowded(count, [list(range(count))], lambda *_: 1.0, pairs([]))
        assert choice.state.tolist() == [KEPT] + [GONE] * (count - 1)
        assert len(compare.asked) <= 32 * count, "32 of them are compared with all others"


def test_a_crowd_with_a_few_kinds_of_copies_stays_linear_too() -> None:
    count, kinds = 6_000, 100
    choice, compare = crowded(
        count, [list(range(count))], lambda one, other: float(one % kinds == other % kinds), pairs([])
    )
    assert choice.state.tolist() == [KEPT] * kinds + [GONE] * (count - kinds)
    assert len(compare.asked) < 2 * kinds * count < count**2 / 20


def test_a_crowd_that_others_have_decided_is_not_compared() -> None:
    known = [(0, late, 0.9) for late in range(1, 100)]
    choice, compare = crowded(100, [list(range(1, 100))], lambda *_: 1.0, pairs(known))
    assert (choice.state.tolist(), compare.asked) == ([KEPT] + [GONE] * 99, [])


def test_a_crowd_of_old_ones_and_new_ones_compares_the_new_ones_alone() -> None:
    old, count = 90, 100
    choice, compare = crowded(count, [list(range(count))], lambda one, _: float(one == 89), pairs([]), old)
    assert choice.state.tolist() == [KEPT] * old + [GONE] * (count - old)
    assert {other for _, other in compare.asked} == set(range(old, count))
    assert len(compare.asked) <= (count - old) * count


def test_crowds_in_which_nobody_is_near_are_compared_each_with_each_and_end() -> None:
    choice, compare = crowded(300, [list(range(300)), list(range(0, 300, 2))], lambda *_: 0.0, pairs([]))
    assert choice.state.tolist() == [KEPT] * 300
    assert sorted(compare.asked) == list(combinations(range(300), 2))


def test_what_crowds_have_found_is_among_the_pairs() -> None:
    choice, _ = crowded(70, [list(range(70))], lambda one, other: 0.75 if one == 3 else 0.0, pairs([]))
    found = choice.kept_beside()
    assert sorted(zip(found.one.tolist(), found.other.tolist(), strict=True)) == [
        (at, 3) for at in range(4, 70)
    ]
    assert set(found.similarity.tolist()) == {0.75}


# What is said of them.


def test_pairs_of_a_gone_one_and_a_kept_one_are_named_gone_first() -> None:
    choice = Choice(pairs([(1, 0, 0.9), (0, 2, 0.8), (1, 2, 0.7), (3, 2, 0.6)]), 4)
    choice.settle()
    assert choice.state.tolist() == [KEPT, GONE, GONE, KEPT]
    found = choice.kept_beside()
    held = zip(found.one.tolist(), found.other.tolist(), found.similarity.tolist(), strict=True)
    assert sorted(held) == [(1, 0, 0.9), (2, 0, 0.8), (2, 3, 0.6)]


@pytest.mark.parametrize("seed", range(10))
def test_components_are_what_pairs_connect_by_the_smallest_number(seed: int) -> None:
    generator = random.Random(seed)
    count = 80
    held = random_pairs(generator, count, 0.015)
    smallest = list(range(count))
    for _ in range(count):
        for one, other, _ in held:
            smallest[one] = smallest[other] = min(smallest[one], smallest[other])
    assert components(pairs(held).one, pairs(held).other, count).tolist() == smallest


def test_without_pairs_each_is_its_own_component() -> None:
    assert components(pairs([]).one, pairs([]).other, 3).tolist() == [0, 1, 2]
