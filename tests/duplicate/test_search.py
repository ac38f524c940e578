"""A search finds the true pairs among new rows, and between them and old ones; what it found is read back."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import synthray.duplicate.search as module
from synthray.duplicate.choice import Pairs
from synthray.duplicate.pair import CROWD
from synthray.duplicate.search import Found, Search
from synthray.duplicate.shingle import Shingles
from synthray.duplicate.signature import Signatures, signed

WIDTH, PERMUTATIONS, FLOOR = 1, 32, 0.4
"""Bands of one value miss one pair in ten million at this floor."""


def one_by_one(function: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [function(*one) for one in given]


def searched(texts: list[str], old: int = 0, each: Any = one_by_one) -> Search:
    table = pa.table({"row_id": [f"r{number}" for number in range(len(texts))], "text": texts})
    signatures = Signatures((signed(table, "text", Shingles("words", 1), PERMUTATIONS),))
    return Search(signatures, PERMUTATIONS, WIDTH, each, old)


def random_texts(seed: int, count: int = 60) -> list[str]:
    """Return texts of up to 6 of many words, half of them edits of earlier ones, some of them twins."""
    generator = random.Random(seed)
    texts = [[f"w{generator.randrange(10_000)}" for _ in range(6)] for _ in range(count // 2)]
    while len(texts) < count:
        words = list(generator.choice(texts))
        if generator.random() < 0.7:
            words[generator.randrange(6)] = f"w{generator.randrange(10_000)}"
        texts.append(words)
    generator.shuffle(texts)
    return [" ".join(words) for words in texts]


def expected(texts: list[str], old: int) -> tuple[dict[tuple[int, int], float], dict[int, int]]:
    """Return the pairs at or above FLOOR among all that are no twins, and the twins that matter to a new one."""
    sets = [frozenset(text.split()) for text in texts]
    leaders = [number for number, held in enumerate(sets) if sets.index(held) == number]
    pairs = {}
    for one, other in combinations(leaders, 2):
        similarity = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        if similarity >= FLOOR and other >= old:
            pairs[one, other] = similarity
    twins = {number: sets.index(held) for number, held in enumerate(sets) if sets.index(held) < number}
    met = {number for pair in pairs for number in pair} | {twins[new] for new in twins if new >= old}
    return pairs, {number: of for number, of in twins.items() if number >= old or of in met}


def held(found: Found) -> tuple[dict[tuple[int, int], float], dict[int, int]]:
    pairs = zip(found.pairs.one.tolist(), found.pairs.other.tolist(), strict=True)
    twins = zip(found.twins.tolist(), found.of.tolist(), strict=True)
    return dict(zip(pairs, found.pairs.similarity.tolist(), strict=True)), dict(twins)


@pytest.mark.parametrize("old", [0, 25, 60], ids=["none old", "some old", "all old"])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_found_is_what_is_there(seed: int, old: int) -> None:
    texts = random_texts(seed)
    found = searched(texts, old).found(FLOOR)
    pairs, twins = expected(texts, old)
    assert held(found) == (pairs, twins)
    assert found.old == old
    assert len(found.members) == 0
    assert old == 60 or (pairs and twins)
    rows = {row for pair in pairs for row in pair} | set(twins) | set(twins.values())
    assert found.involved().tolist() == sorted(rows)


def test_a_crowd_is_left_to_the_choice_and_its_members_are_involved() -> None:
    shared = " ".join(f"most{number}" for number in range(30))
    texts = [f"{shared} w{number}" for number in range(100)]
    # In each band nearly all have the value of a shared word.
    found = searched(texts).found(FLOOR)
    assert found.involved().tolist() == list(range(100))
    assert np.bincount(found.crowd).min() > CROWD
    assert len(found.pairs.one) == 0, "nobody has been compared yet"
    assert len(searched(texts, old=100).found(FLOOR).members) == 0, "of old ones nothing is asked"


@pytest.mark.parametrize("old", [0, 30])
def test_what_is_written_is_read(tmp_path: Path, old: int) -> None:
    found = Found(
        Pairs(np.array([1, 2]), np.array([3, 40]), np.array([0.5, 1 / 3])),
        crowd=np.array([0, 0, 1]),
        members=np.array([5, 6, 7]),
        twins=np.array([8]),
        of=np.array([2]),
        old=old,
    )
    found.write(tmp_path)
    read = Found.read(tmp_path, old)
    assert held(read) == held(found)
    assert (read.crowd.tolist(), read.members.tolist(), read.old) == ([0, 0, 1], [5, 6, 7], old)
    assert read.involved().tolist() == found.involved().tolist() == [1, 2, 3, 5, 6, 7, 8, 40]


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b"]], ids=["none", "one", "two that share nothing"])
def test_where_nothing_is_near_nothing_is_found_written_and_read(tmp_path: Path, texts: list[str]) -> None:
    found = searched(texts).found(FLOOR)
    found.write(tmp_path)
    for one in (found, Found.read(tmp_path, 0)):
        assert held(one) == ({}, {})
        assert len(one.involved()) == 0


def test_comparisons_are_cut_into_tasks_and_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_texts(9)
    one, other = np.array(list(combinations(range(len(texts)), 2))).T
    whole = searched(texts).compare(one, other).tolist()
    tasks: list[int] = []

    def each(function: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
        tasks.extend(len(numbers) for _, numbers, _ in given)
        return one_by_one(function, given)

    monkeypatch.setattr(module, "_PAIRS_A_TASK", 500)
    assert searched(texts, each=each).compare(one, other).tolist() == whole
    assert tasks == [500, 500, 500, 270]


def test_a_band_is_a_task() -> None:
    tasks: list[tuple[Any, ...]] = []

    def each(function: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
        tasks.extend(given if function.__name__ == "banded" else [])
        return one_by_one(function, given)

    searched(random_texts(1), 7, each).found(FLOOR)
    assert [(band, width, old) for _, band, width, _, old in tasks] == [(band, 1, 7) for band in range(32)]
