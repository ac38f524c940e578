"""The cross product: each combination once, whatever its size, and columns that belong to others within it."""

from __future__ import annotations

import itertools
from collections import Counter

import pyarrow as pa
import pytest

from synthray.errors import InputError
from synthray.product import Product, permuted
from synthray.provider import Listed, Pool, Provider, Range, Sample

SALT = ("step", 5)


def listed(name: str, *values: str, by: str | None = None, **pools: list[str]) -> Listed:
    held = {key: Pool(tuple(one)) for key, one in pools.items()} if by else {None: Pool(values)}
    return Listed(name, SALT, pa.string(), by, held)


def product(*providers: Provider) -> Product:
    made = Product({one.name: one for one in providers}, SALT)
    made.check()
    return made


def combinations(made: Product) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in made.rows(range(made.size)).to_pylist()]


def test_every_combination_comes_once_in_a_shuffled_order() -> None:
    made = product(listed("a", "x", "y", "x"), listed("b", *"pqr"), Range("n", SALT, pa.int64(), None, 1, 4))
    found = combinations(made)
    assert made.size == 24, "a value that is there twice is crossed once"
    assert sorted(found) == sorted(itertools.product("xy", "pqr", range(1, 5)))
    assert found != sorted(found)


def test_columns_by_columns_are_crossed_within_their_keys() -> None:
    topics = {"World": ["war", "vote"], "Sports": ["golf", "judo", "chess"], "Business": ["oil"]}
    sides = {topic: [f"{topic}{n}" for n in range(len(topic))] for one in topics.values() for topic in one}
    made = product(
        listed("label", *topics),
        listed("topic", by="label", **topics),
        listed("tone", "dry", "warm"),
        listed("side", by="topic", **sides),
    )
    expected = {
        (label, topic, tone, side)
        for label, held in topics.items()
        for topic in held
        for tone in ("dry", "warm")
        for side in sides[topic]
    }
    counts = Counter(combinations(made))
    assert set(counts) == expected
    assert made.size == len(expected) == sum(counts.values())


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 10_001, 16_384, 20_000])
def test_a_permutation_hits_every_place_once(size: int) -> None:
    assert sorted(permuted(place, size, SALT) for place in range(size)) == list(range(size))


def test_a_large_permutation_looks_shuffled_and_needs_no_memory() -> None:
    size = 10**15
    first = [permuted(place, size, SALT) for place in range(400)]
    assert len(set(first)) == 400
    # Of 400 even draws each tenth of the range has about 40; five standard deviations are 30.
    assert all(abs(count - 40) < 30 for count in Counter(10 * one // size for one in first).values())
    assert first != [permuted(place, size, ("step", 6)) for place in range(400)]


def test_a_huge_product_is_never_held() -> None:
    made = product(*(Range(name, SALT, pa.int64(), None, 1, 10**6) for name in "abc"))
    assert made.size == 10**18
    assert len(set(combinations_of(made, 50))) == 50


def combinations_of(made: Product, count: int) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in made.rows(range(count)).to_pylist()]


def test_an_empty_pool_of_null_leaves_null() -> None:
    by = Listed("b", SALT, pa.string(), "a", {"x": Pool(("p", "q"))})
    a = Listed("a", SALT, pa.string(), None, {None: Pool(("x", None))})
    assert set(combinations(product(a, by))) == {("x", "p"), ("x", "q"), (None, None)}


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        ([Sample("s", SALT, pa.list_(pa.string()))], "column 's' has no list of values to cross"),
        ([Listed("w", SALT, pa.string(), None, {None: Pool(("a",), (1.0,))})], "column 'w' has no list"),
        ([listed("t", by="label", A=["x"])], "'t' is by 'label', which is not crossed; cross both"),
    ],
    ids=["sample", "weights", "by outside"],
)
def test_columns_that_cannot_be_crossed_are_refused(providers: list[Provider], message: str) -> None:
    with pytest.raises(InputError, match=message):
        product(*providers)
