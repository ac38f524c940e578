"""Agreement is what its definitions say: by another library, by published tables and by force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from voting import drawn, grouped, votes

from synthray.label.agreement import (
    Agreement,
    agreements,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    percent,
    sums_of,
)
from synthray.label.vote import Votes


def of_lines(lines: list[list[int | None]], classes: int) -> Votes:
    """Return votes of lines, an annotator each, with None where there is no label."""
    items = [
        {who: line[place] for who, line in enumerate(lines) if line[place] is not None}
        for place in range(len(lines[0]))
    ]
    made = votes(*[(1, item) for item in items if item], annotators=len(lines))
    return Votes(
        made.starts,
        made.annotator,
        made.label,
        made.weight,
        made.annotators,
        [str(n) for n in range(classes)],
    )


def of_counts(table: list[list[int]]) -> Votes:
    """Return votes of items of which so many annotators said each class."""
    lines = [[label for label, count in enumerate(row) for _ in range(count)] for row in table]
    return of_lines(np.array(lines).T.tolist(), len(table[0]))


def test_cohens_kappa_is_scikit_learns_and_the_textbooks() -> None:
    assert cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    random = np.random.default_rng(2)
    for classes in (2, 3, 7):
        one = random.integers(0, classes, 200)
        other = np.where(random.random(200) < 0.6, one, random.integers(0, classes, 200))
        table = np.zeros((classes, classes))
        np.add.at(table, (one, other), 1)
        assert cohen_kappa(table) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)


def test_fleiss_kappa_is_that_of_the_published_table() -> None:
    table = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    sums = sums_of(of_counts(table))
    assert percent(sums) == pytest.approx(0.378, abs=5e-4)
    assert fleiss_kappa(sums) == pytest.approx(0.210, abs=5e-4)


def test_krippendorffs_alpha_is_that_of_his_example_with_missing_labels() -> None:
    lines: list[list[int | None]] = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    assert krippendorff_alpha(sums_of(of_lines(lines, 6))) == pytest.approx(0.743, abs=5e-4)


def alpha_by_force(items: list[dict[int, int]]) -> float:
    """Return 1 - observed / expected disagreement from every ordered pair of labels."""
    pairs, values = [], []
    for item in items:
        if len(item) > 1:
            values += list(item.values())
            for one, other in itertools.permutations(item.values(), 2):
                pairs.append((one != other) / (len(item) - 1))
    observed = sum(pairs) / len(values)
    expected = sum(one != other for one, other in itertools.permutations(values, 2))
    return 1 - observed / (expected / (len(values) * (len(values) - 1)))


def fleiss_by_force(items: list[dict[int, int]]) -> float:
    several = [list(item.values()) for item in items if len(item) > 1]
    agree = np.mean(
        [np.mean([one == other for one, other in itertools.permutations(item, 2)]) for item in several]
    )
    labels = [label for item in several for label in item]
    chance = sum((labels.count(label) / len(labels)) ** 2 for label in set(labels))
    return float((agree - chance) / (1 - chance))


@pytest.mark.parametrize("seed", range(5))
def test_coefficients_with_missing_labels_are_those_of_all_pairs(seed: int) -> None:
    items = drawn(60, seed)
    sums = sums_of(grouped(items))
    assert krippendorff_alpha(sums) == pytest.approx(alpha_by_force(items), abs=1e-12)
    assert fleiss_kappa(sums) == pytest.approx(fleiss_by_force(items), abs=1e-12)


def test_what_is_not_defined_is_nan() -> None:
    same = grouped([{0: 1, 1: 1}] * 5)
    alone = grouped([{0: 1}, {1: 2}])
    for held in (same, alone):
        for coefficient in (fleiss_kappa, krippendorff_alpha):
            assert np.isnan(coefficient(sums_of(held)))
        assert np.isnan({one.name: one.value for one in found(held)}["cohen_kappa"])
    assert percent(sums_of(same)) == 1
    assert np.isnan(percent(sums_of(alone)))
    assert [one.rows for one in found(alone)] == [0] * 4


def found(held: Votes, **settings: Any) -> list[Agreement]:
    return agreements(
        held, **{"resamples": 500, "confidence": 0.95, "seed": 3, "most_pairs": 100, **settings}
    )


def test_pairs_are_of_the_rows_that_both_labelled_the_most_first() -> None:
    items = [item for item in drawn(400, seed=7) if not {0, 3} <= set(item)]
    pairs = [one for one in found(grouped(items)) if one.pair]
    shared = {}
    for one, other in itertools.combinations(range(4), 2):
        both = [(item[one], item[other]) for item in items if {one, other} <= set(item)]
        if both:
            shared[f"w{one}", f"w{other}"] = (len(both), cohen_kappa_score(*zip(*both, strict=True)))
    assert ("w0", "w3") not in shared
    assert {one.pair: (one.rows, pytest.approx(one.value)) for one in pairs} == shared
    assert [one.rows for one in pairs] == sorted((one.rows for one in pairs), reverse=True)
    mean = next(one for one in found(grouped(items)) if one.name == "cohen_kappa" and not one.pair)
    assert mean.value == pytest.approx(np.mean([kappa for _, kappa in shared.values()]))
    most = [one.pair for one in found(grouped(items), most_pairs=2) if one.pair]
    assert most == [one.pair for one in pairs][:2]


def test_intervals_are_those_of_drawing_rows() -> None:
    items = drawn(150, seed=4)
    held = {(one.name, one.pair): one for one in found(grouped(items), resamples=4000)}
    random = np.random.default_rng(11)
    by_name: dict[Any, list[float]] = {}
    for _ in range(1500):
        sample = grouped([items[place] for place in random.integers(0, len(items), len(items))])
        sums = sums_of(sample)
        by_name.setdefault(("krippendorff_alpha", None), []).append(float(krippendorff_alpha(sums)))
        one, other = sample.of(0), sample.of(1)
        both = (one >= 0) & (other >= 0)
        table = np.zeros((3, 3))
        np.add.at(table, (one[both], other[both]), sample.weight[both])
        by_name.setdefault(("cohen_kappa", ("w0", "w1")), []).append(float(cohen_kappa(table)))
    for key, drawn_ones in by_name.items():
        low, high = np.quantile(drawn_ones, [0.025, 0.975])
        width = high - low
        assert held[key].low == pytest.approx(low, abs=0.1 * width)
        assert held[key].high == pytest.approx(high, abs=0.1 * width)
        assert held[key].low < held[key].value < held[key].high


def test_neither_the_order_of_rows_nor_of_chunks_changes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    items = drawn(100, seed=5)
    first = found(grouped(items))
    assert found(grouped(items[::-1])) == first
    monkeypatch.setattr("synthray.label.agreement._CELLS", 1000)
    assert found(grouped(items)) == first
    assert found(grouped(items), seed=4) != first
