"""Votes of equal items are held once; counts, majorities and columns are those of the items written out."""

from __future__ import annotations

from voting import CLASSES, drawn, grouped, votes


def test_counts_and_columns_are_those_of_the_votes() -> None:
    held = votes((1, {0: 2, 1: 2, 3: 0}), (5, {2: 1}))
    assert held.counts.tolist() == [[1, 0, 2], [0, 1, 0]]
    assert [held.of(who).tolist() for who in range(4)] == [[2, -1], [2, -1], [-1, 1], [0, -1]]
    assert held.item.tolist() == [0, 0, 0, 1]


def test_the_majority_is_the_mode_and_of_equal_ones_the_most_frequent_of_all() -> None:
    held = votes((1, {0: 2, 1: 2, 2: 0}), (1, {0: 0, 1: 1}), (9, {0: 1}), (1, {0: 2, 1: 0}))
    # Over all rows b has 10 votes, c 3 and a 3: of equal ones b wins, else the first of the classes.
    assert [CLASSES[one] for one in held.majority()] == ["c", "b", "b", "a"]
    assert held.agreeing(held.majority()).tolist() == [2, 1, 1, 1]


def test_holding_equal_items_once_changes_nothing() -> None:
    items = drawn(300, seed=1)
    once, written_out = grouped(items), votes(*[(1, item) for item in items])
    assert len(once.weight) < len(items)
    by_votes = {
        tuple(sorted(item.items())): label for item, label in zip(items, written_out.majority(), strict=True)
    }
    for place, label in enumerate(once.majority()):
        own = slice(once.starts[place], once.starts[place + 1])
        key = tuple(zip(once.annotator[own].tolist(), once.label[own].tolist(), strict=True))
        assert by_votes[key] == label
    assert (once.counts * once.weight[:, None]).sum(axis=0).tolist() == written_out.counts.sum(
        axis=0
    ).tolist()
