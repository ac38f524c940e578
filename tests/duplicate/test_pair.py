"""Candidates are exactly the pairs that share a band; what verifies them is the true similarity."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

import synthray.duplicate.pair as module
from synthray.duplicate.pair import CROWD, Candidates, band_width, banded, jaccard, same
from synthray.duplicate.shingle import Shingles
from synthray.duplicate.signature import Signatures, signed

NONE = np.zeros(0, np.int64)


def signatures(texts: list[str], permutations: int = 16, words: int = 1) -> Signatures:
    """Return the signatures of texts, in two tables."""
    table = pa.table({"row_id": [f"r{number:06}" for number in range(len(texts))], "text": texts})
    whole = signed(table, "text", Shingles("words", words), permutations)
    assert len(whole) == len(texts)
    half = len(texts) // 3
    return Signatures((whole.slice(0, half), whole.slice(half)))


def random_texts(seed: int, count: int, vocabulary: int = 40) -> list[str]:
    generator = random.Random(seed)
    return [
        " ".join(f"w{generator.randrange(vocabulary)}" for _ in range(generator.randrange(1, 9)))
        for _ in range(count)
    ]


def pairs(found: Candidates) -> list[tuple[int, int]]:
    return list(zip(found.one.tolist(), found.other.tolist(), strict=True))


def buckets_by_force(held: Signatures, band: int, width: int) -> list[list[int]]:
    """Return the texts that have the same values in a band, two or more of them."""
    columns = [held.column(f"s{place}").tolist() for place in range(band * width, (band + 1) * width)]
    buckets: dict[tuple[int, ...], list[int]] = {}
    for number, key in enumerate(zip(*columns, strict=True)):
        buckets.setdefault(key, []).append(number)
    return [bucket for bucket in buckets.values() if len(bucket) > 1]


def crowds(found: Candidates) -> list[list[int]]:
    numbers = range(int(found.crowd.max(initial=-1)) + 1)
    return sorted(sorted(found.members[found.crowd == number].tolist()) for number in numbers)


# How wide a band is.


@pytest.mark.parametrize(
    ("threshold", "permutations", "width"),
    [(0.7, 128, 5), (0.5, 128, 3), (1.0, 128, 128), (0.0001, 128, 1), (0.7, 16, 2), (0.8, 16, 2)],
)
def test_the_width_of_a_band_is_what_was_measured(threshold: float, permutations: int, width: int) -> None:
    assert band_width(threshold, permutations) == width


def found_at(similarity: float, width: int, permutations: int) -> float:
    """Return the share of pairs of a similarity that have a band in common (Broder 1997)."""
    return 1 - (1 - similarity**width) ** (permutations // width)


def test_25_bands_of_5_find_what_the_documentation_says() -> None:
    assert 128 // band_width(0.7, 128) == 25
    assert found_at(0.7, 5, 128) == pytest.approx(0.990, abs=0.0005)
    assert found_at(0.75, 5, 128) == pytest.approx(0.9988, abs=0.0001)


@pytest.mark.parametrize("permutations", [16, 64, 100, 128, 256, 1024])
def test_a_band_is_as_wide_as_may_be_and_no_wider(permutations: int) -> None:
    for threshold in np.arange(0.3, 1.0, 0.01).tolist():
        width = band_width(threshold, permutations)
        missed = {wide: 1 - found_at(threshold, wide, permutations) for wide in range(1, permutations + 1)}
        assert missed[width] <= 0.0125 or width == 1
        assert all(missed[wide] > 0.0125 for wide in range(width + 1, permutations + 1))


def test_the_share_of_pairs_found_is_what_the_law_says() -> None:
    generator = random.Random(3)
    texts = []
    for _ in range(1_500):
        held = [f"w{generator.randrange(10**9)}" for _ in range(34)]
        texts += [" ".join(held[:31]), " ".join(held[3:])]  # 28 of 34 words are shared
    true, width = 28 / 34, 4
    held = signatures(texts)
    bands = [banded(held, band, width, NONE, 0) for band in range(16 // width)]
    found = {pair for pair in pairs(Candidates.merged(bands)) if pair[1] == pair[0] + 1 and pair[0] % 2 == 0}
    # Three standard deviations of 1,500 draws are 0.023 here.
    assert len(found) / 1_500 == pytest.approx(found_at(true, width, 16), abs=0.025)


# Twins.


def test_twins_are_those_whose_shingles_are_all_those_of_an_earlier_text() -> None:
    texts = ["a b", "c", "b a", "a b c", "c c", "a a b", "d"]
    twins, of = same(signatures(texts))
    assert dict(zip(twins.tolist(), of.tolist(), strict=True)) == {2: 0, 5: 0, 4: 1}


def test_twins_by_force() -> None:
    texts = random_texts(1, 400, vocabulary=6)
    sets = [frozenset(text.split()) for text in texts]
    twins, of = same(signatures(texts))
    expected = {number: sets.index(one) for number, one in enumerate(sets) if sets.index(one) < number}
    assert dict(zip(twins.tolist(), of.tolist(), strict=True)) == expected
    assert 50 < len(expected) < 400


def test_among_no_texts_there_are_no_twins() -> None:
    assert [len(one) for one in same(Signatures(()))] == [0, 0]


# Candidates.


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("old", [0, 70, 150])
def test_candidates_are_the_pairs_that_share_a_band_and_are_not_both_old(width: int, old: int) -> None:
    texts = random_texts(width, 150, vocabulary=200)
    held = signatures(texts)
    without = np.array([3, 77, 140])
    for band in range(16 // width):
        expected = {
            pair
            for bucket in buckets_by_force(held, band, width)
            for pair in combinations(bucket, 2)
            if pair[1] >= old and not set(pair) & set(without.tolist())
        }
        found = banded(held, band, width, without, old)
        assert sorted(pairs(found)) == sorted(expected), "each once, the lower number first"
        assert len(found.members) == 0
        assert expected or old == 150 or width == 4


def twins_in_a_band(size: int) -> tuple[list[str], int]:
    """Return `size` different texts, all with the same smallest value of s0, and some that have another."""
    alone = signatures([f"w{number}" for number in range(4_000)])
    order = np.argsort(alone.column("s0")).tolist()
    smallest = f"w{order[0]}"
    return [f"{smallest} w{number}" for number in order[1 : size + 1]], order[-1]


@pytest.mark.parametrize(
    ("size", "crowded"), [(CROWD - 1, False), (CROWD, False), (CROWD + 1, True), (300, True)]
)
def test_a_bucket_with_more_texts_than_crowd_is_a_crowd_and_not_compared(size: int, crowded: bool) -> None:
    texts, _ = twins_in_a_band(size)
    held = signatures(texts)
    assert buckets_by_force(held, 0, 1) == [list(range(size))]
    found = banded(held, 0, 1, NONE, 0)
    if crowded:
        assert (pairs(found), crowds(found)) == ([], [list(range(size))])
    else:
        assert (sorted(pairs(found)), crowds(found)) == (list(combinations(range(size), 2)), [])


def test_several_crowds_and_pairs_in_one_band_are_told_apart() -> None:
    alone = signatures([f"w{number}" for number in range(4_000)])
    order = np.argsort(alone.column("s0")).tolist()
    groups = [(0, 70), (1, 2), (2, 65), (3, 64), (4, 200), (5, 1)]
    texts = [f"w{order[first]} w{order[1_000 + at]}" for first, size in groups for at in range(size)]
    random.Random(2).shuffle(texts)
    held = signatures(texts)
    buckets = buckets_by_force(held, 0, 1)
    found = banded(held, 0, 1, NONE, 0)
    assert crowds(found) == sorted(bucket for bucket in buckets if len(bucket) > CROWD)
    assert sorted(len(one) for one in crowds(found)) == [65, 70, 200]
    few = [bucket for bucket in buckets if len(bucket) <= CROWD]
    assert sorted(pairs(found)) == sorted(pair for bucket in few for pair in combinations(bucket, 2))


@pytest.mark.parametrize(("old", "found"), [(0, 70), (69, 70), (70, 0)], ids=["new", "one new", "all old"])
def test_a_crowd_of_old_texts_alone_says_nothing(old: int, found: int) -> None:
    texts, _ = twins_in_a_band(70)
    assert len(banded(signatures(texts), 0, 1, NONE, old).members) == found


def test_texts_that_are_left_out_make_no_crowd() -> None:
    texts, _ = twins_in_a_band(CROWD + 2)
    found = banded(signatures(texts), 0, 1, np.array([0, 1]), 0)
    assert (len(found.members), len(found.one)) == (0, CROWD * (CROWD - 1) // 2)


@pytest.mark.parametrize("count", [0, 1])
def test_where_there_are_no_two_texts_there_are_no_candidates(count: int) -> None:
    found = banded(signatures(["a"] * count) if count else Signatures((EMPTY,)), 0, 4, NONE, 0)
    assert [len(one) for one in vars(found).values()] == [0, 0, 0, 0]


EMPTY = signed(pa.table({"row_id": ["a"], "text": [""]}), "text", Shingles("words", 1), 16)


def test_the_candidates_of_bands_are_merged_each_pair_once_and_each_crowd_its_own() -> None:
    def candidates(given: list[tuple[int, int]], held: list[list[int]]) -> Candidates:
        numbers = np.array(given, np.int64).reshape(-1, 2)
        crowd = np.array([at for at, members in enumerate(held) for _ in members], np.int64)
        return Candidates(
            numbers[:, 0],
            numbers[:, 1],
            crowd,
            np.array([one for members in held for one in members], np.int64),
        )

    bands = [
        candidates([(4, 9), (1, 2)], [[1, 2, 3], [7, 8]]),
        candidates([], []),
        candidates([(1, 2), (1, 9)], [[1, 2, 3]]),
        candidates([(4, 9)], [[5, 6]]),
    ]
    found = Candidates.merged(bands)
    assert pairs(found) == [(1, 2), (1, 9), (4, 9)]
    assert crowds(found) == [[1, 2, 3], [1, 2, 3], [5, 6], [7, 8]]
    assert [len(one) for one in vars(Candidates.merged([])).values()] == [0, 0, 0, 0]


# The true similarity.


def jaccard_by_force(texts: list[str], one: np.ndarray, other: np.ndarray) -> list[float]:
    sets = [set(text.split()) for text in texts]
    return [
        len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        for a, b in zip(one.tolist(), other.tolist(), strict=True)
    ]


@pytest.mark.parametrize("at_once", [1, 50, 1 << 22], ids=["a pair at once", "a few", "as it is"])
def test_jaccard_is_exact(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    texts = random_texts(5, 60)
    generator = np.random.default_rng(6)
    one, other = generator.integers(0, 60, (2, 500))
    found = jaccard(signatures(texts), one, other).tolist()
    assert found == jaccard_by_force(texts, one, other), "the same division, to the last bit"
    assert {0.0, 1.0} < set(found)


def test_more_pairs_than_a_sort_key_holds_are_each_compared() -> None:
    texts = random_texts(7, 500)
    one, other = (np.array(list(combinations(range(500), 2))).T)[:, : (1 << 16) + 4_000]
    found = jaccard(signatures(texts), one, other)
    at = np.concatenate([np.arange(0, len(one), 997), np.arange((1 << 16) - 3, (1 << 16) + 3)])
    assert found[at].tolist() == jaccard_by_force(texts, one[at], other[at])
    assert (found > 0).mean() > 0.2


def test_a_pair_of_long_texts_is_compared_though_it_alone_is_more_than_a_turn() -> None:
    texts = [" ".join(f"w{n}" for n in range(at, at + 3_000)) for at in (0, 1_000)]
    assert module._AT_ONCE > 6_000
    assert jaccard(signatures(texts), np.array([0, 1, 0]), np.array([1, 0, 0])).tolist() == [0.5, 0.5, 1.0]


def test_of_no_pairs_there_is_no_similarity() -> None:
    assert len(jaccard(signatures(["a", "b"]), NONE, NONE)) == 0
