"""Runs of words that texts share: against every pair of texts, by force."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from synthray.statistic.span import Words, copies

Text = list[int]


def words(texts: Sequence[Text]) -> Words:
    tokens = np.array([word for text in texts for word in text], np.uint64)
    return Words(tokens, np.cumsum([0, *map(len, texts)]))


def runs(text: Text, size: int) -> list[tuple[int, ...]]:
    return [tuple(text[place : place + size]) for place in range(len(text) - size + 1)]


def leaking(one: Text, other: Text, span: int, least: int) -> set[int]:
    """The places in `one` whose word stands in a run that leaks."""
    size = min(span, len(one), len(other))
    if size == 0 or (size < least and one != other):
        return set()
    shared = set(runs(other, size))
    return {
        place + step for place, run in enumerate(runs(one, size)) if run in shared for step in range(size)
    }


def longest(one: Text, other: Text, least: int) -> int:
    sizes = range(min(len(one), len(other)), 0, -1)
    found = next((size for size in sizes if set(runs(one, size)) & set(runs(other, size))), 0)
    return found if found >= least or one == other else 0


@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_comparing_every_pair_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    letters = int(random.integers(2, 5))

    def made(count: int) -> list[Text]:
        return [random.integers(0, letters, random.integers(0, 14)).tolist() for _ in range(count)]

    texts, others = made(7), made(6)
    span = int(random.integers(2, 9))
    least = int(random.integers(1, span + 1))
    found = copies(words(texts), words(others), span, least)

    held = words(texts)
    for number, text in enumerate(texts):
        own = found.copied[held.starts[number] : held.starts[number + 1]]
        assert set(np.flatnonzero(own)) == set().union(*(leaking(text, one, span, least) for one in others))
        sizes = [longest(text, one, least) for one in others]
        assert found.longest[number] == max(sizes)
        if not max(sizes):
            assert found.of[number] == -1
            continue
        first = sizes.index(max(sizes))
        shared = runs(others[first], max(sizes))
        places = [place for place, run in enumerate(runs(text, max(sizes))) if run in shared]
        assert (found.of[number], found.place[number]) == (first, places[0])
    exposed = [any(leaking(one, text, span, least) for text in texts) for one in others]
    assert found.exposed.tolist() == exposed


def test_equal_hashes_alone_are_no_match() -> None:
    # Runs of any words have one hash when these are all 0 modulo 2^64 but for what is compared.
    texts, others = words([[1, 2, 3, 4]]), words([[5, 6, 7, 8]])
    for held in (texts, others):
        held.__dict__["_sums"] = (np.zeros(5, np.uint64), np.ones(5, np.uint64))
    found = copies(texts, others, 3, 2)
    assert (found.longest.tolist(), found.copied.any(), found.exposed.any()) == ([0], False, False)


def test_a_run_that_all_texts_share_costs_no_pairs() -> None:
    # 400 x 400 texts with one prefix: pairs of places would be 160,000 for each word of it.
    shared = list(range(20))
    texts = [[*shared, 100 + number] for number in range(400)]
    others = [[*shared, 1000 + number] for number in range(400)]
    found = copies(words(texts), words(others), 13, 8)
    assert set(found.longest.tolist()) == {20}
    assert found.exposed.all()


@pytest.mark.parametrize(("texts", "others"), [([], [[1, 2]]), ([[1, 2]], []), ([[]], [[]])])
def test_nothing_copies_nothing(texts: list[Text], others: list[Text]) -> None:
    found = copies(words(texts), words(others), 2, 1)
    assert (len(found.longest), len(found.exposed)) == (len(texts), len(others))
    assert not found.longest.any()
    assert not found.exposed.any()
