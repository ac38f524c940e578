"""Draws: in cycles, by weights, without replacement and several at once, from seed and place alone."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from scipy import stats

from synthray.errors import InputError
from synthray.lineage import uniform
from synthray.provider import Listed, Others, Pool, Range, Sample, shuffled

SALT = ("step", 5)
TEXTS = pa.list_(pa.string())


def chances(place: int) -> Any:
    return lambda *parts: uniform("test", place, *parts)


def draws(provider: Any, count: int, row: dict[str, Any] | None = None) -> list[Any]:
    """Return values that are drawn freely, as on existing rows."""
    return [provider.draw(f"id{place}", row or {}, None, 0)[0] for place in range(count)]


def test_weights_are_met_by_chi_square() -> None:
    pool = Pool(("a", "b", "c"), (6, 3, 1))
    counts = Counter(pool.at(chances(place)()) for place in range(5000))
    assert stats.chisquare([counts[one] for one in "abc"], [3000, 1500, 500]).pvalue > 0.01


def test_the_highest_chance_there_is_still_draws_the_last_value() -> None:
    highest = 1 - 2**-52
    assert Pool(("a", "b"), (1e-300, 1e300)).at(highest) == "b"
    assert Pool(("a", "b")).at(highest) == "b"
    assert Pool(("a",), (5e-324,)).at(highest) == "a", "where the product is rounded up"


def test_a_random_order_is_uniform_over_all_orders() -> None:
    pool = Pool(("a", "b", "c"))
    orders = Counter(tuple(pool.by_chance(chances(place))) for place in range(3000))
    assert set(orders) == set(itertools.permutations("abc"))
    assert stats.chisquare(list(orders.values())).pvalue > 0.01


def test_a_weighted_order_is_that_of_successive_draws() -> None:
    weights = {"a": 5.0, "b": 3.0, "c": 2.0}
    pool = Pool(tuple(weights), tuple(weights.values()))
    orders = Counter(tuple(pool.by_chance(chances(place))) for place in range(4000))
    expected = {
        # P(first) = w / 10, P(second | first) = w / (10 - first's w)
        order: weights[order[0]] / 10 * weights[order[1]] / (10 - weights[order[0]])
        for order in itertools.permutations("abc")
    }
    found = [orders[order] for order in expected]
    assert stats.chisquare(found, [share * 4000 for share in expected.values()]).pvalue > 0.01


def test_a_pool_once_adds_up_the_weights_of_equal_values() -> None:
    assert Pool(("a", "b", "a"), (1.0, 2.0, 4.0)).once() == Pool(("a", "b"), (5.0, 2.0))
    assert Pool(({"low": 1}, {"low": 1})).once().values == ({"low": 1},)


def test_a_range_has_both_ends_evenly() -> None:
    counts = Counter(draws(Range("x", SALT, pa.int64(), None, -2, 2), 2000))
    assert sorted(counts) == [-2, -1, 0, 1, 2]
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_a_list_is_in_cycles_by_place_and_even_by_id() -> None:
    listed = Listed("x", SALT, pa.string(), None, {None: Pool(("a", "b", "c"))})
    cycled = [listed.draw(place, {}, {}, 0) for place in range(300)]
    assert all({value for value, _ in cycled[at : at + 3]} == set("abc") for at in range(0, 300, 3))
    assert [cycle for _, cycle in cycled] == [place // 3 for place in range(300)]
    free = Counter(draws(listed, 3000))
    assert stats.chisquare([free[one] for one in "abc"]).pvalue > 0.01
    again = [listed.draw(place, {}, {}, 1)[0] for place in range(300)]
    assert again != [value for value, _ in cycled], "another attempt draws another value"


def test_a_value_twice_in_a_list_comes_twice_as_often() -> None:
    listed = Listed("x", SALT, pa.string(), None, {None: Pool(("a", "a", "b"))})
    assert Counter(listed.draw(place, {}, {}, 0)[0] for place in range(30)) == {"a": 20, "b": 10}


def test_a_key_without_values_is_named_with_the_row_and_null_gives_null() -> None:
    by = Listed("topic", SALT, pa.string(), "label", {"World": Pool(("war",))}, "topics")
    assert by.draw("r1", {"label": None}, None, 0) == (None, None)
    with pytest.raises(
        InputError, match="row r1: topics has no topic for label 'Wrld'; did you mean 'World'"
    ):
        by.draw("r1", {"label": "Wrld"}, None, 0)


def test_a_sample_is_distinct_and_every_set_is_as_likely() -> None:
    sample = Sample("x", SALT, TEXTS, None, {None: Pool(tuple("abcd"))}, "x", {None: 2})
    found = draws(sample, 3000)
    assert all(len(set(one)) == 2 for one in found)
    counts = Counter(frozenset(one) for one in found)
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 0.01
    assert Counter(one[0] for one in found).keys() == set("abcd")


def test_words_come_by_part_of_speech_and_no_word_twice() -> None:
    pools = {"noun": Pool(("run", "cat")), "verb": Pool(("run", "eat"))}
    words = Sample("words", SALT, TEXTS, None, pools, "vocabulary", {"noun": 1, "verb": 1})
    found = draws(words, 300)
    assert {tuple(one) for one in found} == {("run", "eat"), ("cat", "run"), ("cat", "eat")}
    taken = {"noun": Pool(("run",)), "verb": Pool(("run",))}
    with pytest.raises(InputError, match="row id0: words needs 1 distinct values of 'verb', but only 0"):
        draws(Sample("words", SALT, TEXTS, None, taken, "v", {"noun": 1, "verb": 1}), 1)


def test_others_are_all_but_the_rows_own() -> None:
    values = ("a", "b", "c", "d")
    assert draws(Others("x", SALT, TEXTS, "label", values), 1, {"label": "b"}) == [["a", "c", "d"]]
    assert draws(Others("x", SALT, TEXTS, "label", values), 1, {"label": None}) == [None]
    two = draws(Others("x", SALT, TEXTS, "label", values, 2), 2000, {"label": "b"})
    counts = Counter(tuple(one) for one in two)
    assert set(counts) == set(itertools.permutations("acd", 2))
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_without_replacement_each_key_has_as_many_values_as_it_needs() -> None:
    label = Listed("label", SALT, pa.string(), None, {None: Pool(("A", "B", "C"))})
    last = shuffled(SALT, "label", None, 2, 3)[0]
    often = "ABC"[last]  # of 7 rows it has three, the others two
    sizes = {key: 3 if key == often else 2 for key in "ABC"}
    pools = {key: Pool(tuple(f"{key}{n}" for n in range(size))) for key, size in sizes.items()}
    fact = Listed("fact", SALT, pa.string(), "label", pools, "facts", replacement=False)
    fact.require(7, {"label": label})
    with pytest.raises(InputError, match=r"columns\.fact: 3 rows of label '[ABC]' need as many values, .* 2"):
        fact.require(8, {"label": label})


@pytest.mark.parametrize(
    "other",
    [
        Range("label", SALT, pa.int64(), None, 1, 3),
        Listed("label", SALT, pa.string(), None, {None: Pool(("A",), (1.0,))}),
        Listed("label", SALT, pa.string(), "else", {"x": Pool(("A",))}),
    ],
    ids=["range", "weights", "by"],
)
def test_without_replacement_by_a_column_needs_its_cycles(other: Any) -> None:
    fact = Listed("fact", SALT, pa.string(), "label", {"A": Pool(("x",))}, "facts", replacement=False)
    with pytest.raises(InputError, match="needs a column 'label' that is a list drawn in cycles"):
        fact.require(1, {"label": other})
    twice = Listed("label", SALT, pa.string(), None, {None: Pool(("A", "A"))})
    with pytest.raises(InputError, match="needs distinct values of 'label', but one repeats"):
        fact.require(1, {"label": twice})
    with pytest.raises(InputError, match="drawn in cycles"):
        fact.require(1, {"label": Listed("label", SALT, pa.string(), None, {None: Pool(("A",))})}, ["label"])
