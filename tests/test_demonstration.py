"""What a row is shown is, of the candidates, what the rule by hand gives; and draws are fair and its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray import vectors
from synthray.candidate import Candidates, Held
from synthray.demonstration import Choice, mixed
from synthray.errors import RunFailed

VECTOR = pa.list_(pa.float64())
KINDS = pa.schema([("text", pa.string()), ("label", pa.string())])
POOL = Candidates("demonstrations", 3, KINDS, ("text",))
LABELS = ("a", "b", "c")


def many(count: int, prefix: str = "p", size: int = 6) -> pa.Table:
    """Return rows with a vector and one of three labels."""
    held, count = count, max(count, 1)  # of no rows the types would be lost
    generator = np.random.default_rng(count)
    table = pa.table(
        {
            "row_id": [f"{prefix}{number:04}" for number in range(count)],
            "text": [f"{prefix} says {number}" for number in range(count)],
            "label": [LABELS[number % 3] for number in range(count)],
            "vector": pa.array(list(generator.normal(size=(count, size)).round(1)), VECTOR),
        }
    )
    return table.slice(0, held)


def held(folder: Path, candidates: Candidates = POOL, **pools: pa.Table) -> Held:
    candidates.write(pools, {}, folder)
    return Held(folder)


def ids(choice: Choice, rows: pa.Table, pool: Held) -> list[list[str]]:
    found: list[list[str]] = choice.of(rows, pool)["demos_row_ids"].to_pylist()
    return found


def nearest(row: dict[str, Any], pool: Sequence[dict[str, Any]], k: int, by: str | None = None) -> set[str]:
    """Return the row_ids of the nearest, or by turns those of each label, by comparing each with each."""

    def like(one: dict[str, Any]) -> float:
        left, right = np.array(row["vector"]), np.array(one["vector"])
        return float(round(left @ right / np.linalg.norm(left) / np.linalg.norm(right), 6))

    others = [one for one in pool if one["row_id"] != row["row_id"] and one["text"] != row["text"]]
    others.sort(key=lambda one: (-like(one), one["row_id"]))
    if by is None:
        return {one["row_id"] for one in others[:k]}
    turn: Counter[str] = Counter()
    turns = []
    for one in others:
        turns.append((turn[one[by]], -like(one), one[by], one["row_id"]))
        turn[one[by]] += 1
    return {row_id for *_, row_id in sorted(turns)[:k]}


@pytest.mark.parametrize("balance", [None, "label"])
@pytest.mark.parametrize("k", [1, 5, 6])
def test_the_nearest_are_those_of_comparing_each_with_each(
    tmp_path: Path, balance: str | None, k: int
) -> None:
    pool = many(70)
    names, texts = pool["row_id"].to_pylist(), pool["text"].to_pylist()
    # Nearest to each is the row of its name, then the row that says what it says: both are itself.
    rows = pool.slice(0, 25)
    says = [texts[names.index(*nearest(row, pool.to_pylist(), 1))] for row in rows.to_pylist()]
    rows = rows.set_column(1, "text", pa.array(says))
    candidates = replace(POOL, embedding="vector", searched=True, balance=balance)
    choice = Choice(candidates, "demonstrations", (k,))
    found = ids(choice, rows, held(tmp_path, candidates, pool=pool))
    given = pool.to_pylist()
    assert [set(one) for one in found] == [nearest(row, given, k, balance) for row in rows.to_pylist()]
    assert [len(one) for one in found] == [k] * 25


def test_the_nearest_of_each_value_are_looked_for_among_its_own(tmp_path: Path) -> None:
    rows, pool = many(20, "r"), many(70)
    candidates = replace(POOL, embedding="vector", searched=True, match="label")
    found = ids(Choice(candidates, "demonstrations", (4,)), rows, held(tmp_path, candidates, pool=pool))
    for row, own in zip(rows.to_pylist(), found, strict=True):
        same = [one for one in pool.to_pylist() if one["label"] == row["label"]]
        assert set(own) == nearest(row, same, 4)


def test_spelling_is_compared_where_there_is_no_embedding(tmp_path: Path) -> None:
    pool = pa.table({"row_id": ["x", "y"], "text": ["the cats purr", "stocks fell"], "label": ["a", "b"]})
    candidates = replace(POOL, searched=True)
    rows = pa.table({"row_id": ["1", "2", "3"], "text": ["a cat purrs", "the stock falls", None]})
    found = ids(Choice(candidates, "demonstrations", (1,)), rows, held(tmp_path, candidates, pool=pool))
    assert found == [["x"], ["y"], []]


def test_rows_without_a_vector_have_none_and_another_size_is_told(tmp_path: Path) -> None:
    candidates = replace(POOL, embedding="vector", searched=True)
    pool = held(tmp_path, candidates, pool=many(5))
    choice = Choice(candidates, "demonstrations", (2,))
    rows = pa.table({"row_id": ["1", "2"], "vector": pa.array([None, [0.0] * 6], VECTOR)})
    assert ids(choice, rows, pool) == [[], []]
    with pytest.raises(RunFailed, match="row_id '1' has 3 numbers, but what it is compared with has 6"):
        choice.of(pa.table({"row_id": ["1"], "vector": pa.array([[1.0, 2, 3]], VECTOR)}), pool)


def test_many_vectors_are_looked_for_in_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, rows = many(600), many(40, "r")
    exact = replace(POOL, embedding="vector", searched=True)
    choice = Choice(exact, "demonstrations", (5,))
    expected = [set(one) for one in ids(choice, rows, held(tmp_path / "exact", exact, pool=pool))]
    monkeypatch.setattr(vectors, "EXACT", 500)
    shares = {}
    for probes in (1, 20):
        some = replace(exact, probes=probes)
        found = ids(replace(choice, candidates=some), rows, held(tmp_path / str(probes), some, pool=pool))
        shares[probes] = np.mean([len({*own} & one) / 5 for own, one in zip(found, expected, strict=True)])
    assert shares[1] < 0.9 < shares[20]


def test_random_ones_are_fair_and_differ_from_row_to_row(tmp_path: Path) -> None:
    rows = pa.table({"row_id": [f"r{number}" for number in range(4_000)]})
    found = ids(Choice(POOL, "demonstrations", (3,)), rows, held(tmp_path, pool=many(10)))
    assert all(len(set(one)) == 3 for one in found)
    counts = Counter(one for own in found for one in own)
    # Each of ten rows is drawn 1,200 times of 4,000 by chance: a standard deviation is 29.
    assert {row for row, count in counts.items() if abs(count - 1_200) < 5 * 29} == set(counts)
    assert len(counts) == 10
    # In every place alike too: they are shuffled.
    first = Counter(own[0] for own in found)
    assert all(abs(count - 400) < 5 * 19 for count in first.values())


def test_each_label_comes_as_often_and_the_one_more_is_drawn(tmp_path: Path) -> None:
    pool = many(90)
    candidates = replace(POOL, balance="label")
    rows = pa.table({"row_id": [f"r{number}" for number in range(600)]})
    demos = Choice(candidates, "demonstrations", (7,)).of(rows, held(tmp_path, candidates, pool=pool))
    more: Counter[str] = Counter()
    for own in demos["demos"].to_pylist():
        labels = Counter(one["label"] for one in own)
        assert sorted(labels.values()) == [2, 2, 3]
        more[labels.most_common(1)[0][0]] += 1
    assert all(abs(count - 200) < 5 * 12 for count in more.values())


def test_a_label_with_too_few_is_filled_up_from_the_others(tmp_path: Path) -> None:
    pool = many(9).slice(0, 4)  # a b c a
    candidates = replace(POOL, balance="label")
    rows = pa.table({"row_id": ["r"]})
    [own] = (
        Choice(candidates, "demonstrations", (9,))
        .of(rows, held(tmp_path, candidates, pool=pool))["demos"]
        .to_pylist()
    )
    assert Counter(one["label"] for one in own) == {"a": 2, "b": 1, "c": 1}


def test_a_row_is_never_its_own_demonstration(tmp_path: Path) -> None:
    pool = pa.table(
        {"row_id": ["x", "y", "z"], "text": ["Stocks  fell", "cats purr", "it rains"], "label": ["a"] * 3}
    )
    own = held(tmp_path, pool=pool)
    choice = Choice(POOL, "demonstrations", (3,))
    rows = pa.table({"row_id": ["x", "1", "2"], "text": ["other", " stocks fell", "\uff53tocks fell\n"]})
    assert [set(one) for one in ids(choice, rows, own)] == [{"y", "z"}] * 3
    # Without the text only the name tells.
    assert [set(one) for one in ids(choice, rows.select(["row_id"]), own)] == [{"y", "z"}, *[{*"xyz"}] * 2]


def test_rows_are_of_the_rows_own_value(tmp_path: Path) -> None:
    pool = many(30).append_column("leaf", pa.array([number % 5 for number in range(30)]))
    candidates = replace(POOL, match="leaf")
    rows = pa.table({"row_id": list("uvwx"), "leaf": pa.array([3, 0, None, 9], pa.int32())})
    found = ids(Choice(candidates, "demonstrations", (8,)), rows, held(tmp_path, candidates, pool=pool))
    assert [set(one) for one in found] == [
        {f"p{number:04}" for number in range(30) if number % 5 == value} for value in (3, 0)
    ] + [set(), set()]


def test_a_text_of_two_groups_is_a_candidate_in_both_and_its_own_rows_in_neither(tmp_path: Path) -> None:
    pool = pa.table({"row_id": list("wxyz"), "text": ["u", "U", "v", "v "], "label": ["a", "b", "a", "a"]})
    candidates = replace(POOL, match="label")
    rows = pa.table({"row_id": list("123"), "text": ["U", "t", "u"], "label": ["b", "b", "a"]})
    found = ids(Choice(candidates, "demonstrations", (8,)), rows, held(tmp_path, candidates, pool=pool))
    assert found == [[], ["x"], ["y"]]


def test_the_share_of_rows_is_what_was_asked_for_and_the_same_rows(tmp_path: Path) -> None:
    rows = pa.table({"row_id": [f"r{number}" for number in range(2_000)]})
    pool = held(tmp_path, pool=many(20))
    some = ids(Choice(POOL, "demonstrations", (2,), share=0.5), rows, pool)
    assert {len(one) for one in some} == {0, 2}
    assert abs(sum(map(bool, some)) - 1_000) < 5 * 22
    whole = ids(Choice(POOL, "demonstrations", (2,)), rows, pool)
    assert all(not one or one == other for one, other in zip(some, whole, strict=True))
    assert not any(ids(Choice(POOL, "demonstrations", (2,), share=0.0), rows, pool))


def test_a_draw_is_of_the_row_the_step_and_the_seed_alone(tmp_path: Path) -> None:
    rows = pa.table({"row_id": [f"r{number}" for number in range(40)]})
    pool = held(tmp_path / "one", pool=many(50))
    choice = Choice(POOL, "demonstrations", (4,))
    found = dict(zip(rows["row_id"].to_pylist(), ids(choice, rows, pool), strict=True))
    shuffled = many(50).take(pa.array(np.random.default_rng(1).permutation(50)))
    other = held(tmp_path / "other", pool=shuffled)
    for row_id in ("r7", "r39"):
        alone = pa.table({"row_id": [row_id]})
        assert ids(choice, alone, other) == [found[row_id]]
    for changed in (
        replace(choice, origin="demonstrations@2"),
        replace(choice, candidates=replace(POOL, seed=4)),
    ):
        assert ids(changed, rows, pool) != list(found.values())


def test_pools_are_mixed_in_the_stated_ratio(tmp_path: Path) -> None:
    pools = held(tmp_path, seeds=many(30, "s"), pool=many(30, "m"))
    rows = pa.table({"row_id": [f"r{number}" for number in range(50)]})
    found = ids(Choice(POOL, "demonstrations", (6, 2)), rows, pools)
    assert {tuple(sorted(Counter(one[0] for one in own).items())) for own in found} == {(("m", 2), ("s", 6))}
    assert len({"".join(one[0] for one in own) for own in found}) > 5, "they are shuffled"


@pytest.mark.parametrize(
    ("seeds", "made", "expected"), [(30, 0, (8, 0)), (30, 1, (7, 1)), (3, 30, (3, 5)), (3, 2, (3, 2))]
)
def test_what_one_pool_lacks_the_other_gives(
    tmp_path: Path, seeds: int, made: int, expected: tuple[int, int]
) -> None:
    pools = held(tmp_path, seeds=many(seeds, "s"), pool=many(made, "m"))
    [own] = ids(Choice(POOL, "demonstrations", (6, 2)), pa.table({"row_id": ["r"]}), pools)
    counts = Counter(one[0] for one in own)
    assert (counts["s"], counts["m"]) == expected


def test_mixed_takes_turns() -> None:
    assert mixed([[1, 2, 3, 4], [7, 8]], [2, 2]) == [1, 7, 2, 8]
    assert mixed([[1], [7, 8], [9]], [3, 1, 1]) == [1, 7, 9, 8]
    assert mixed([[], []], [3, 1]) == []


def test_what_is_too_long_is_cut_from_the_end(tmp_path: Path) -> None:
    pool = pa.table(
        {
            "row_id": list("abcd"),
            "text": ["x" * 10, "y" * 20, "z" * 30, "w" * 5],
            "label": ["long", "é", "l", ""],
            "vector": pa.array([[1, 0.0], [1, 0.1], [1, 0.2], [1, 0.3]], VECTOR),
        }
    )
    candidates = replace(POOL, embedding="vector", searched=True)
    own = held(tmp_path, candidates, pool=pool)
    row = pa.table({"row_id": ["r"], "vector": pa.array([[1, 0.0]], VECTOR)})
    for most, expected in ((13, ""), (14, "a"), (34, "a"), (35, "ab"), (66, "abc"), (71, "abcd")):
        choice = Choice(candidates, "demonstrations", (4,), max_characters=most)
        assert set(ids(choice, row, own)[0]) == set(expected), most


def test_empty_pools_and_no_rows_give_empty_lists(tmp_path: Path) -> None:
    for number, candidates in enumerate((POOL, replace(POOL, embedding="vector", searched=True, medoids=2))):
        empty = held(tmp_path / str(number), candidates, pool=many(0))
        choice = Choice(candidates, "demonstrations", (4,))
        made = choice.of(many(2), empty)
        assert made["demos"].to_pylist() == made["demos_row_ids"].to_pylist() == [[], []]
        assert made["demos"].type == pa.list_(pa.struct(list(KINDS)))
        assert len(choice.of(many(0), empty)) == 0
