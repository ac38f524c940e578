"""A verdict names the nearest kept row before it; twins, older rows, preferences and clusters are respected."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from synthray.duplicate.choice import Pairs
from synthray.duplicate.search import Found
from synthray.duplicate.verdict import places, verdicts
from synthray.query import Query

NONE = np.zeros(0, np.int64)
Similar = dict[tuple[int, int], float]


def found(
    pairs: Similar, twins: dict[int, int] | None = None, old: int = 0, crowd: list[int] | None = None
) -> Found:
    """Return what a search found: pairs of numbers, twins and whose they are, one crowd."""
    one, other = np.array(list(pairs) or np.zeros((0, 2)), np.int64).T
    twins, members = twins or {}, crowd or []
    return Found(
        Pairs(one, other, np.array(list(pairs.values()), float)),
        np.zeros(len(members), np.int64),
        np.array(members, np.int64),
        np.array(list(twins), np.int64),
        np.array(list(twins.values()), np.int64),
        old,
    )


def ids(rows: np.ndarray) -> pa.Array:
    return pa.array([f"r{row:03}" for row in rows], pa.string())


def judged(
    given: Found, threshold: float = 0.5, order: list[int] | None = None, similar: Similar | None = None
) -> dict[str, tuple[object, ...]]:
    """Return of, similarity and cluster by row; `order` are all rows, the preferred first."""
    rows = given.involved()
    place = np.argsort([(order or rows.tolist()).index(row) for row in rows.tolist()])
    at = np.empty(len(rows), np.int64)
    at[place] = np.arange(len(rows))

    def compare(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        held = zip(one.tolist(), other.tolist(), strict=True)
        return np.array([(similar or {}).get((min(pair), max(pair)), 0.0) for pair in held], float)

    table = verdicts(given, threshold, at, ids(rows), compare)
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "double", "string", "int64"]
    said = table.to_pylist()
    for one in said:
        assert one["number"] == (None if one["of"] is None else int(one["of"][1:])), (
            "the number is that of `of`"
        )
    return {one["row"]: (one["of"], one["similarity"], one["cluster"]) for one in said}


# The nearest kept row.


def test_the_nearest_kept_row_before_it_is_named() -> None:
    assert judged(found({(0, 3): 0.6, (1, 3): 0.8, (2, 3): 0.7})) == {
        "r000": (None, None, "r000"),
        "r001": (None, None, "r000"),
        "r002": (None, None, "r000"),
        "r003": ("r001", 0.8, "r000"),
    }


def test_of_two_that_are_as_near_the_preferred_one_is_named() -> None:
    pairs = {(0, 2): 0.75, (1, 2): 0.75}
    assert judged(found(pairs))["r002"][0] == "r000"
    assert judged(found(pairs), order=[1, 0, 2])["r002"][0] == "r001"


def test_one_that_is_gone_is_never_named_however_near_it_is() -> None:
    said = judged(found({(0, 1): 0.6, (1, 2): 0.99, (0, 2): 0.5}))
    assert (said["r001"][:2], said["r002"][:2]) == (("r000", 0.6), ("r000", 0.5))


def test_a_kept_row_that_comes_later_is_not_named_though_it_is_nearer() -> None:
    # 1 is gone by 0; 2 is kept, and nearer to 1, but 1 comes before it.
    said = judged(found({(0, 1): 0.6, (1, 2): 0.9}))
    assert (said["r001"][:2], said["r002"][:2]) == (("r000", 0.6), (None, None))


def test_pairs_below_the_threshold_say_nothing() -> None:
    pairs = {(0, 1): 0.6, (1, 2): 0.7, (4, 5): 0.61}
    assert judged(found(pairs), 0.65) == {"r001": (None, None, "r001"), "r002": ("r001", 0.7, "r001")}
    assert judged(found(pairs), 0.9) == {}
    assert judged(found({})) == {}


# Twins.


def test_twins_are_duplicates_of_the_preferred_one_among_them() -> None:
    given = found({}, {3: 1, 7: 1})
    assert judged(given) == {
        "r001": (None, None, "r001"),
        "r003": ("r001", 1.0, "r001"),
        "r007": ("r001", 1.0, "r001"),
    }
    assert {row: of for row, (of, _, _) in judged(given, order=[7, 3, 1]).items()} == {
        "r001": "r007",
        "r003": "r007",
        "r007": None,
    }


def test_twins_share_what_is_known_of_one_of_them() -> None:
    # 1 and 4 are twins; 2 is near them, and so is 0.
    given = found({(0, 1): 0.8, (1, 2): 0.9}, {4: 1})
    assert judged(given) == {
        "r000": (None, None, "r000"),
        "r001": ("r000", 0.8, "r000"),
        "r002": (None, None, "r000"),
        # 2 is kept, comes before it and is nearer than what its twin is a duplicate of.
        "r004": ("r002", 0.9, "r000"),
    }


def test_clusters_do_not_tell_twins_from_what_they_are_twins_of() -> None:
    given = found({(2, 9): 0.7}, {0: 9, 5: 2})
    assert {row: name for row, (_, _, name) in judged(given, order=[9, 5, 2, 0]).items()} == dict.fromkeys(
        ["r000", "r002", "r005", "r009"], "r000"
    )


# Older rows.


def test_older_rows_are_kept_and_named_and_get_no_verdict() -> None:
    given = found({(0, 3): 0.7, (1, 3): 0.9, (2, 4): 0.8, (3, 4): 0.95}, {5: 1, 6: 4}, old=3)
    assert judged(given) == {
        "r003": ("r001", 0.9, "r000"),
        "r004": ("r002", 0.8, "r000"),
        "r005": ("r001", 1.0, "r000"),
        "r006": ("r002", 0.8, "r000"),
    }


def test_a_row_that_two_older_ones_are_near_has_the_nearer_one() -> None:
    assert judged(found({(0, 2): 0.6, (1, 2): 0.61}, old=2))["r002"][:2] == ("r001", 0.61)


# All of it, by force.


@pytest.mark.parametrize("crowded", [False, True], ids=["pairs", "a crowd"])
@pytest.mark.parametrize("seed", range(30))
def test_verdicts_are_those_of_comparing_each_with_each(seed: int, crowded: bool) -> None:
    generator = random.Random(seed)
    count = 60
    old = generator.choice([0, 12])
    share = generator.choice([0.02, 0.1])
    kinds = list(range(count))
    for row in range(1, count):  # a twin is a twin of one that is no twin itself
        if generator.random() < 0.3:
            of = generator.randrange(row)
            kinds[row] = kinds[of]
    leaders = [row for row in range(count) if kinds[row] == row]
    similar = {
        pair: generator.choice([0.4, 0.5, 0.7, 0.7, 0.9])
        for pair in combinations(leaders, 2)
        if generator.random() < share
    }
    twins = {row: kinds[row] for row in range(max(old, 1), count) if kinds[row] != row}
    order = [*range(old), *generator.sample(range(old, count), count - old)]

    def near(one: int, other: int) -> float:
        low, high = sorted((kinds[one], kinds[other]))
        return 1.0 if low == high else similar.get((low, high), 0.0)

    given = found(
        {} if crowded else {pair: value for pair, value in similar.items() if pair[1] >= old},
        twins,
        old,
        leaders if crowded else None,
    )
    kept: list[int] = [row for row in order if row < old]
    expected: dict[str, tuple[object, object]] = {}
    for row in order[old:]:
        nearest = max(kept, key=lambda one: (near(one, row), -order.index(one)), default=None)
        if nearest is None or near(nearest, row) < 0.5:
            kept.append(row)
        else:
            expected[f"r{row:03}"] = (nearest, near(nearest, row))
    said = judged(given, 0.5, order, similar)
    assert {row for row, (of, _, _) in said.items() if of is not None} == set(expected)
    for row, (nearest, similarity) in expected.items():
        of, by, _ = said[row]
        assert by == similarity
        # Of older twins only the first is in the search.
        assert of == f"r{kinds[nearest] if nearest < old else nearest:03}", row
    involved = given.involved().tolist()
    cluster = {row: row for row in involved}
    # A new twin of an older row is tied by what that row is tied by, and two older rows are not compared.
    ties = [
        (one, other)
        for one, other in combinations(involved, 2)
        if near(one, other) >= 0.5 and (kinds[one] == kinds[other] or max(kinds[one], kinds[other]) >= old)
    ]
    for _ in range(count):
        for pair in ties:
            cluster[pair[0]] = cluster[pair[1]] = min(cluster[one] for one in pair)
    tied = {row for pair in ties for row in pair if row >= old}
    assert {row: name for row, (_, _, name) in said.items()} == {
        f"r{row:03}": f"r{cluster[row]:03}" for row in tied
    }


# The order.

TABLE = pa.table(
    {
        "row_id": ["d", "a", "c", "b", "e"],
        "score": [1.0, 2.0, 2.0, None, 5.0],
        "length": [1, 1, 2, 3, 3],
    }
)


def placed(prefer: str, names: list[str], source: list[int], new: int) -> list[str]:
    """Return the names in the order of their places."""
    with Query({"rows": TABLE}) as query:
        found = places(query, prefer, pa.array(names, pa.string()), np.array(source), new)
    assert sorted(found.tolist()) == list(range(len(names)))
    return [names[at] for at in np.argsort(found).tolist()]


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("", "abcde"),
        ("  ", "abcde"),
        ("score DESC", "eacdb"),
        ("score", "daceb"),
        ("length DESC, score", "ebcda"),
        ("row_id DESC", "edcba"),
    ],
)
def test_rows_are_placed_by_what_is_preferred_then_by_row_id(prefer: str, expected: str) -> None:
    assert "".join(placed(prefer, list("dacbe"), [0] * 5, 0)) == expected
    assert "".join(placed(prefer, list("ebacd"), [0] * 5, 0)) == expected, "however they are given"
    some = [name for name in expected if name in "ade"]
    assert placed(prefer, list("dea"), [0] * 3, 0) == some, "or some of them alone"


def test_no_names_have_no_places() -> None:
    assert placed("score DESC", [], [], 0) == []


def test_older_rows_come_first_in_the_order_of_their_sources_then_by_row_id() -> None:
    names = ["e", "z", "y", "a", "x", "e", "b"]
    source = [1, 1, 0, 2, 0, 2, 2]
    # 'e' is a name of an older row and of a new one.
    assert placed("score DESC", names, source, 2) == ["x", "y", "e", "z", "e", "a", "b"]
    assert placed("", names, source, 2) == ["x", "y", "e", "z", "a", "b", "e"]
