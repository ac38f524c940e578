"""A trial is a student of some rows asked about others: the same whatever the order of either."""

from __future__ import annotations

import collections
import itertools
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray.errors import RunFailed
from synthray.model.student import Student
from synthray.query import Query
from synthray.trial import Bench, Part, Trial, classes, codes

WORDS = {"money": ["bank", "share", "loan"], "pets": ["cat", "dog", "fur"]}
BENCH = Bench("text", "label", None, 3, "utility")
WEIGHED = Bench("text", "label", "weight", 3, "utility")


def texts(seed: int, size: int) -> pa.Table:
    generator = random.Random(seed)
    labels = ["money" if number % 4 else "pets" for number in range(size)]
    made = [
        " ".join(generator.choices([*WORDS[one], "the", "a"], k=6)) + f" {seed}{n}"
        for n, one in enumerate(labels)
    ]
    return pa.table({"row_id": [f"{seed}-{n:03}" for n in range(size)], "text": made, "label": labels})


ROWS, TEST = texts(1, 80), texts(2, 40)


def said(trial: Trial, bench: Bench = BENCH, **relations: pa.Table) -> list[int] | None:
    with Query({"rows": ROWS, "test": TEST, **relations}) as query:
        found = bench.said(query, trial, "test")
        return None if found is None else found.tolist()


def learned(*parts: Part, kind: Any = "linear") -> Trial:
    return Trial(kind, parts)


def taken(part: Part, bench: Bench = BENCH, **relations: pa.Table) -> list[str]:
    with Query({"rows": ROWS, "test": TEST, **relations}) as query:
        found: list[str] = bench.part(query, part)["text"].to_pylist()
        return found


@pytest.mark.parametrize("kind", ["linear", "bayes"])
def test_it_says_what_a_student_of_the_sorted_rows_says(kind: Any) -> None:
    rows = ROWS.sort_by("text")
    student = Student(kind, 3).fit(rows["text"].to_pylist(), rows["label"].to_pylist())
    test = TEST.sort_by("text")
    expected = codes(student.predict(test["text"].to_pylist()), ["money", "pets"]).tolist()
    assert said(learned(Part("rows"), kind=kind)) == expected
    turned = {"rows": ROWS.take(list(range(80))[::-1]), "test": TEST.take(list(range(40))[::-1])}
    assert said(learned(Part("rows"), kind=kind), **turned) == expected
    assert set(expected) == {0, 1}


def test_parts_are_stratified_and_the_larger_holds_the_smaller() -> None:
    sizes = (8, 20, 40, 79)
    parts = [taken(Part("rows", size, ("subset", 0))) for size in sizes]
    label = dict(zip(ROWS["text"].to_pylist(), ROWS["label"].to_pylist(), strict=True))
    for size, part in zip(sizes, parts, strict=True):
        assert len(part) == size
        assert abs(collections.Counter(label[one] for one in part)["pets"] - size / 4) <= 1
    assert all(set(small) < set(large) for small, large in itertools.pairwise(parts))
    assert taken(Part("rows", 20, ("subset", 1))) != parts[1], "another draw is another part"
    assert taken(Part("rows", 80, ("subset", 0))) == taken(Part("rows", 99)) == taken(Part("rows"))
    other = Bench("text", "label", None, 4, "utility")
    assert taken(Part("rows", 20, ("subset", 0)), other) != parts[1], "so is another seed"


def test_a_random_part_does_not_look_at_labels() -> None:
    label = dict(zip(ROWS["text"].to_pylist(), ROWS["label"].to_pylist(), strict=True))
    drawn = [
        sum(label[one] == "pets" for one in taken(Part("rows", 40, ("control", n), stratified=False)))
        for n in range(30)
    ]
    # Hypergeometric: 10 of 40 with a standard deviation of 1.95.
    assert 1.2 < np.std(drawn) < 2.9
    assert np.mean(drawn) == pytest.approx(10, abs=1.5)


def test_parts_are_learned_from_together() -> None:
    halves = {"rows": ROWS.slice(0, 40), "real": ROWS.slice(40).drop_columns(["row_id"])}
    with Query({**halves, "test": TEST}) as query:
        both = BENCH.said(query, learned(Part("rows"), Part("real")), "test")
    assert both is not None
    # The order of rows is another than that of one table, which moves the last digits of a fit alone.
    assert both.tolist() == said(learned(Part("rows")))


def test_rows_of_weight_0_are_as_if_not_there_in_draws_too() -> None:
    weights = [0.0] * 20 + [None] * 30 + [2.0] * 30
    weighed = ROWS.append_column("weight", pa.array(weights))
    left = weighed.slice(20)
    for part in (Part("rows"), Part("rows", 30, ("subset", 0)), Part("rows", 30, ("x",), stratified=False)):
        assert taken(part, WEIGHED, rows=weighed) == taken(part, WEIGHED, rows=left)
        assert not set(taken(part, WEIGHED, rows=weighed)) & set(ROWS["text"].to_pylist()[:20])
    with Query({"rows": weighed, "plain": ROWS}) as query:
        found = WEIGHED.tally(query, "rows")
        assert (found.rows, found.number) == (80, 60)
        assert WEIGHED.tally(query, "plain").number == 80, "without the column each counts 1"


def test_weights_are_those_of_the_fit() -> None:
    # Half of the labels are turned round, and hardly count.
    turned = ["pets" if one == "money" else "money" for one in ROWS["label"].to_pylist()]
    labels = [*turned[:40], *ROWS["label"].to_pylist()[40:]]
    rows = ROWS.set_column(2, "label", pa.array(labels))
    rows = rows.append_column("weight", pa.array([0.01] * 40 + [1.0] * 40)).sort_by("text")
    student = Student("bayes", 3).fit(
        rows["text"].to_pylist(), rows["label"].to_pylist(), rows["weight"].to_numpy()
    )
    test = TEST.sort_by("text")["text"].to_pylist()
    expected = codes(student.predict(test), ["money", "pets"]).tolist()
    assert said(learned(Part("rows"), kind="bayes"), WEIGHED, rows=rows) == expected
    assert said(learned(Part("rows"), kind="bayes"), BENCH, rows=rows) != expected


@pytest.mark.parametrize("relation", ["rows", "real"])
def test_what_is_no_weight_is_told(relation: str) -> None:
    bad = ROWS.append_column("weight", pa.array([1.0] * 79 + [float("nan")]))
    if relation == "real":
        bad = bad.drop_columns(["row_id"])  # its rows are then named by their content
    with pytest.raises(
        RunFailed, match=r"utility: column 'weight' of row_id '[^']+' holds nan, which is no weight"
    ):
        said(learned(Part(relation)), WEIGHED, **{relation: bad})


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(ROWS.slice(0, 0), id="none"),
        pytest.param(ROWS.slice(0, 1), id="one row"),
        pytest.param(ROWS.set_column(2, "label", pa.array(["pets"] * 80)), id="one label"),
        pytest.param(ROWS.set_column(2, "label", pa.nulls(80, pa.string())), id="null labels"),
        pytest.param(ROWS.set_column(1, "text", pa.array(["?!"] * 80)), id="no word"),
        pytest.param(ROWS.set_column(1, "text", pa.array([""] * 80)), id="no text"),
    ],
)
def test_where_there_is_nothing_to_learn_nothing_is_said(rows: pa.Table) -> None:
    assert said(learned(Part("rows")), rows=rows) is None


def test_where_there_is_nothing_to_ask_nothing_is_said() -> None:
    assert said(learned(Part("rows")), test=TEST.slice(0, 0)) is None


def test_a_label_that_the_test_lacks_is_no_label_of_its() -> None:
    rows = ROWS.set_column(2, "label", pa.array(["money" if n % 4 else "food" for n in range(80)]))
    found = said(learned(Part("rows")), rows=rows)
    assert found is not None and -1 in found and 1 not in found


def test_a_tally_tells_rows_that_teach_something_else() -> None:
    def digest(table: pa.Table, bench: Bench = WEIGHED) -> Any:
        with Query({"rows": table}) as query:
            return bench.tally(query, "rows")

    own = digest(ROWS)
    assert own.counting == {"money": 60, "pets": 20}
    assert digest(ROWS.take(list(range(80))[::-1])) == own
    assert digest(ROWS.append_column("weight", pa.nulls(80, pa.float64()))) == own
    assert digest(ROWS.append_column("other", pa.array(range(80)))) == own
    swapped = ROWS["label"].to_pylist()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    assert digest(ROWS.set_column(2, "label", pa.array(swapped))) != own, "as many of each label"
    assert digest(ROWS.append_column("weight", pa.array([2.0] + [1.0] * 79))) != own
    assert digest(ROWS.set_column(1, "text", pa.array(["x y", *ROWS["text"].to_pylist()[1:]]))) != own


def test_codes_are_places_among_the_labels() -> None:
    assert classes(["b", "a", "b"]) == ["a", "b"]
    assert codes(["b", "z", "a"], ["a", "b"]).tolist() == [1, -1, 0]
