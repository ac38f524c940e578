"""Contests: both orders come to one winner, the order's part is told, and people's verdicts are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import cohen_kappa_score

from synthray.asker import Answer
from synthray.contest import SIDES, Contest
from synthray.errors import InputError, RunFailed
from synthray.model.language import Choice
from synthray.query import Query
from synthray.sample import Sample

KIND = Contest("one", "other", "Be good.", {})


def answers(*better: str | None, reasons: Sequence[str] | None = None) -> list[Answer]:
    found = []
    for place, one in enumerate(better):
        if one is None:
            found.append(Answer(failed={"error": "InvalidAnswer", "message": "bad", "attempts": 2}))
            continue
        said = {"better": one, **({"reason": reasons[place]} if reasons else {})}
        found.append(Answer(value=said, choice=Choice("")))
    return found


def test_the_left_text_comes_first_at_even_places_and_second_at_odd_ones() -> None:
    row = {"one": "L", "other": "R"}
    shown = [(told["first"], told["second"]) for told in (KIND.told(row, place) for place in range(4))]
    assert shown == [("L", "R"), ("R", "L")] * 2


@pytest.mark.parametrize(
    ("said", "first", "second", "winner"),
    [
        (("first", "second"), "left", "left", "left"),
        (("second", "first"), "right", "right", "right"),
        (("tie", "tie"), "tie", "tie", "tie"),
        (("first", "first"), "left", "right", "tie"),  # for whoever comes first
        (("second", "second"), "right", "left", "tie"),
        (("first", "tie"), "left", "tie", "tie"),
    ],
)
def test_a_verdict_that_changes_with_the_order_is_a_tie(
    said: tuple[str, str], first: str, second: str, winner: str
) -> None:
    found = KIND.columns(answers(*said))
    assert (found["judge_first"], found["judge_second"], found["judge_winner"]) == (first, second, winner)
    assert found["judge_consistent"] == (first == second)


def test_in_each_order_most_votes_count_and_equal_ones_are_a_tie() -> None:
    # Votes of the left text first stand at even places.
    most = KIND.columns(answers("first", "second", "first", "second", "second", "tie"))
    assert (most["judge_first"], most["judge_second"]) == ("left", "left")
    assert most["judge_votes"] == ["left", "left", "left", "left", "right", "tie"]
    equal = KIND.columns(answers("first", "second", "second", "second"))
    assert (equal["judge_first"], equal["judge_second"], equal["judge_winner"]) == ("tie", "left", "tie")
    some = KIND.columns(answers("first", None, None, "second"))
    assert some["judge_winner"] == "left"
    assert some["judge_votes"] == ["left", None, None, "left"]


def test_a_row_of_which_an_order_has_no_verdict_fails() -> None:
    found = KIND.columns(answers("first", None, "first", None))
    assert found == {"failed": {"error": "InvalidAnswer", "message": "all 2 answers: bad", "attempts": 4}}


def test_the_reason_is_of_the_order_that_it_speaks_of() -> None:
    found = KIND.columns(answers("second", "first", "first", "second", "first", "x", reasons="abcdef"))
    assert (found["judge_first"], found["judge_reason"]) == ("left", "c")


@pytest.mark.parametrize(
    ("ties", "allowed"), [(True, ["first", "second", "tie"]), (False, ["first", "second"])]
)
def test_ties_may_be_left_out(ties: bool, allowed: list[str]) -> None:
    kind = Contest("one", "other", "", {}, ties=ties)
    assert kind.shape is not None
    assert kind.shape.schema["properties"]["better"]["enum"] == allowed
    assert kind.read('{"better": "first"}')["better"] == "first"
    if not ties:
        with pytest.raises(ValueError, match="'tie' is not one of"):
            kind.read('{"better": "tie"}')


def test_plain_words_may_mean_the_verdicts() -> None:
    kind = Contest("one", "other", "", {}, ties=False, says={"first": "[[A]]", "second": "[[B]]"})
    kind.check()
    assert kind.read("A is [[A]] ... no: [[B]]") == {"better": "second"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Contest("a", "a", "", {}), "text and against are the same column, 'a'"),
        (
            Contest("a", "b", "", {}, says={"first": "x", "second": "y"}),
            "must give words for first, second, tie, but has first, second; or set ties: false",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(kind: Contest, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind.check()


# Measures.


def sampled(verdicts: Sequence[tuple[str, str]], human: Any = None) -> Sample:
    columns = {
        "row_id": [f"r{n:04}" for n in range(len(verdicts))],
        "judge_first": [one for one, _ in verdicts],
        "judge_second": [other for _, other in verdicts],
        "judge_winner": [one if one == other else "tie" for one, other in verdicts],
    }
    table = pa.table({name: pa.array(held, pa.string()) for name, held in columns.items()})
    if human is not None:
        table = table.append_column("human", human)
    with Query({"rows": table}) as query:
        named = {name: name for name in table.column_names if name != "row_id"}
        return Sample.read(query, named, "true", group=None, resamples=200, confidence=0.95, seed=1)


def drawn(size: int, seed: int = 1) -> list[tuple[str, str]]:
    random = np.random.default_rng(seed)
    found = random.choice(SIDES, (size, 2), p=[0.5, 0.3, 0.2])
    found[: size // 2, 1] = found[: size // 2, 0]
    return [(str(one), str(other)) for one, other in found]


def by_name(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["slice"] or one["metric"]: one for one in found}


def test_rates_are_counts_by_counts() -> None:
    verdicts = drawn(100)
    found = by_name(KIND.measured(sampled(verdicts), "judge", None))
    winner = [one if one == other else "tie" for one, other in verdicts]
    won, lost = winner.count("left"), winner.count("right")
    expected = {
        "win_rate": won / 100,
        "loss_rate": lost / 100,
        "tie_rate": winner.count("tie") / 100,
        "beat_rate": won / (won + lost),
        "position_bias": sum(one != other for one, other in verdicts) / 100,
        "position=first": verdicts.count(("left", "right")) / 100,
        "position=second": verdicts.count(("right", "left")) / 100,
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-12), name
        assert found[name]["ci_low"] < value < found[name]["ci_high"]
    assert found["beat_rate"]["n"] == won + lost
    assert set(KIND.metrics(human=False)) <= set(found)


def test_a_judge_that_looks_at_the_place_alone_wins_nothing() -> None:
    found = by_name(KIND.measured(sampled([("left", "right")] * 20), "judge", None))
    assert found["position_bias"]["value"] == found["position=first"]["value"] == 1
    assert found["tie_rate"]["value"] == 1
    assert math.isnan(found["beat_rate"]["value"])


def test_people_agree_with_the_winner_with_each_order_and_beyond_chance() -> None:
    verdicts = drawn(90)
    random = np.random.default_rng(2)
    people = [one if random.random() < 0.7 else str(random.choice(SIDES)) for one, _ in verdicts]
    held: list[str | None] = [*people[:80], *[None] * 10]
    found = by_name(KIND.measured(sampled(verdicts, pa.array(held)), "judge", "human"))
    winner = [one if one == other else "tie" for one, other in verdicts]

    def share(said: Sequence[str]) -> float:
        return sum(one == other for one, other in zip(said[:80], people, strict=False)) / 80

    first, second = share([one for one, _ in verdicts]), share([other for _, other in verdicts])
    expected = {
        "agreement": share(winner),
        "verdict_agreement": (first + second) / 2,
        "order=left_first": first,
        "order=right_first": second,
        "cohen_kappa": cohen_kappa_score(winner[:80], people[:80]),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert found[name]["n"] == 80
        assert found[name]["ci_low"] < value < found[name]["ci_high"]


def test_of_several_people_most_count() -> None:
    human = pa.array([["left", "left", "right"], ["left", "right"], [], None])
    found = by_name(KIND.measured(sampled([("left", "left"), ("tie", "tie")] * 2, human), "judge", "human"))
    assert (found["agreement"]["value"], found["agreement"]["n"]) == (1, 2)


def test_a_verdict_of_people_that_is_none_is_named_with_its_row() -> None:
    human = pa.array(["left", "Left"])
    with pytest.raises(
        RunFailed, match="row_id 'r0001' holds 'Left', which is none of left, right, tie; did you"
    ):
        KIND.measured(sampled([("left", "left")] * 2, human), "judge", "human")


def test_no_row_and_one_row_are_defined() -> None:
    for verdicts in ([], [("left", "left")]):
        human = pa.array(["left"] * len(verdicts), pa.string())
        found = by_name(KIND.measured(sampled(verdicts, human), "judge", "human"))
        assert found["win_rate"]["n"] == len(verdicts)
        assert math.isnan(found["win_rate"]["value"]) == (not verdicts)
        assert "ci_low" not in found["win_rate"]
        assert math.isnan(found["cohen_kappa"]["value"])
