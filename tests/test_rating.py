"""Ratings: scales, what the tokens of an answer say, votes, and how far people agree."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from synthray.asker import Answer
from synthray.errors import InputError
from synthray.model.language import Choice
from synthray.query import Query
from synthray.rating import Rating, Scale, likely
from synthray.sample import Sample

FIVE = Scale.of([1, 5])
FOUR = Scale.of(["poor", "fair", "good", "excellent"])


def rating(scale: Scale = FIVE, **settings: Any) -> Rating:
    return Rating(scale, "Be good.", settings.pop("criteria", {}), **settings)


# Scales.


def test_a_scale_is_of_numbers_or_of_names_the_worst_first() -> None:
    assert FIVE.levels == ("1", "2", "3", "4", "5")
    assert Scale.of([-1, 1]).values == (-1, 0, 1)
    assert FOUR.values == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ([5, 1], r"scale \[5, 1\] must be \[lowest, highest\]; write \[1, 5\]"),
        ([3, 3], r"scale \[3, 3\] must be \[lowest, highest\]"),
        ([0, 5000], "has 5001 levels; at most 1000"),
        ([1, 2, 3], "must be .lowest, highest. of whole numbers"),
        (["good"], "two or more different names"),
        (["good", "good"], "two or more different names"),
        (["good", " "], "two or more different names"),
        ([], "two or more different names"),
    ],
)
def test_what_is_no_scale_is_refused(scale: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scale.of(scale)


@pytest.mark.parametrize(("score", "level"), [(1.5, "1"), (1.51, "2"), (4.9, "5"), (0.2, "1")])
def test_of_two_levels_equally_near_the_lower_is_taken(score: float, level: str) -> None:
    assert FIVE.nearest(score) == level


# Tokens.

Top = Mapping[str, float]


def tokens(*parts: tuple[str, Top] | str) -> list[dict[str, Any]]:
    """Return logprobs: a plain token is certain, one with alternatives (their chances) is the first of them."""
    found = []
    for part in parts:
        text, top = (part, {part: 1.0}) if isinstance(part, str) else part
        logs = {word: math.log(chance) for word, chance in top.items()}
        found.append({"token": text, "logprob": logs[text], "top": logs})
    return found


def test_the_chances_are_those_of_the_token_that_begins_the_level() -> None:
    given = tokens('{"', "score", '":', " ", ("4", {"4": 0.6, "5": 0.3, "2": 0.05, "x": 0.05}), "}")
    found = likely(given, "score", FIVE.levels, "4")
    assert found == pytest.approx({"1": 0, "2": 0.05, "3": 0, "4": 0.6, "5": 0.3})


@pytest.mark.parametrize(
    "given",
    [
        ['{"score":', (" 4", {" 4": 0.5, " 2": 0.5}), "}"],
        ['{"score"', (": 4}", {": 4}": 0.5, ": 2}": 0.5})],
        ['{"score": ', ("4}", {"4}": 0.5, "2,": 0.25, "2}": 0.25})],
        ['```json\n{"score":\n', ("4", {"4": 0.5, "2": 0.5, "\n": 0.0001}), "\n}"],
        ['{"reason": "\\"score\\": 1", "score": ', ("4", {"4": 0.5, "2": 0.5}), "}"],
    ],
)
def test_tokens_may_hold_more_than_the_level(given: Sequence[Any]) -> None:
    found = likely(tokens(*given), "score", FIVE.levels, "4")
    assert found == pytest.approx({"1": 0, "2": 0.5, "3": 0, "4": 0.5, "5": 0}, abs=1e-3)


def test_a_name_is_known_by_its_beginning() -> None:
    given = tokens('{"score": "', ("exc", {"exc": 0.7, "go": 0.2, "po": 0.1}), "ellent", '"}')
    found = likely(given, "score", FOUR.levels, "excellent")
    assert found == pytest.approx({"poor": 0.1, "fair": 0, "good": 0.2, "excellent": 0.7})


def test_where_a_token_begins_several_levels_the_next_one_decides() -> None:
    ten = Scale.of([1, 10]).levels
    after = ("0", {"0": 0.75, "}": 0.25})
    found = likely(tokens('{"score": ', ("1", {"1": 0.8, "9": 0.2}), after, "}"), "score", ten, "10")
    assert {level: chance for level, chance in found.items() if chance} == pytest.approx(
        {"10": 0.6, "1": 0.2, "9": 0.2}
    )
    ended = ("}", {"}": 0.25, "0": 0.75})
    again = likely(tokens('{"score": ', ("1", {"1": 0.8, "9": 0.2}), ended), "score", ten, "1")
    assert again == pytest.approx(found), "whichever of them was drawn"
    names = ("very poor", "very good", "fair")
    given = tokens(
        '{"score": "', ("very", {"very": 0.9, "fair": 0.1}), (" good", {" good": 0.6, " poor": 0.4})
    )
    assert likely(given, "score", names, "very good") == pytest.approx(
        {"very poor": 0.36, "very good": 0.54, "fair": 0.1}
    )


@pytest.mark.parametrize(
    "given", [[], tokens('{"other": 4}'), tokens('{"score": ', "5", "}"), tokens('{"score": ')]
)
def test_tokens_that_do_not_show_the_level_say_nothing(given: Any) -> None:
    assert likely(given, "score", FIVE.levels, "4") == {}


# Votes.


def answer(value: Mapping[str, Any] | None, logprobs: Any = None) -> Answer:
    if value is None:
        return Answer(failed={"error": "InvalidAnswer", "message": "bad", "attempts": 1}, call="c")
    return Answer(value=value, call="c", choice=Choice(json.dumps(value), logprobs=logprobs))


def test_votes_come_to_their_mean_and_the_reason_of_the_nearest() -> None:
    kind = rating(samples=4, reason=True)
    given = [
        answer({"score": "5", "reason": "a"}),
        answer(None),
        answer({"score": "3", "reason": "b"}),
        answer({"score": "2", "reason": "c"}),
    ]
    found = kind.columns(given)
    assert found["judge_score"] == pytest.approx(10 / 3)
    assert found["judge_rating"] == 3
    assert found["judge_votes"] == [5, None, 3, 2]
    assert found["judge_reason"] == "b"
    assert kind.columns([answer(None)])["failed"]["error"] == "InvalidAnswer"


def test_criteria_have_a_score_each_and_the_whole_is_their_mean() -> None:
    kind = rating(FOUR, criteria={"clear": "x", "true": ""})
    found = kind.columns([answer({"clear": "poor", "true": "excellent"})])
    assert found["judge_criteria"] == {"clear": 1.0, "true": 4.0}
    assert (found["judge_score"], found["judge_rating"]) == (2.5, "fair")


def test_with_logprobs_a_score_is_what_is_expected_of_those_that_are_levels() -> None:
    given = tokens('{"score": ', ("4", {"4": 0.5, "5": 0.3, "x": 0.2}), "}")
    found = rating().columns([answer({"score": "4"}, given)])
    assert found["judge_score"] == pytest.approx((4 * 0.5 + 5 * 0.3) / 0.8)
    unread = tokens('{"score": ', "x", "}")
    assert rating().columns([answer({"score": "4"}, unread)])["judge_score"] == 4


def test_an_answer_is_held_to_the_scale_and_read_as_levels() -> None:
    kind = rating(reason=True)
    assert kind.shape is not None
    assert list(kind.shape.schema["properties"]) == ["reason", "score"]
    assert kind.read('{"reason": "r", "score": 4.0}') == {"score": "4", "reason": "r"}
    for wrong in ('{"reason": "r", "score": 6}', '{"reason": "r", "score": 3.5}', '{"score": 3}', "4"):
        with pytest.raises(ValueError, match=r"."):
            kind.read(wrong)


def test_plain_words_may_mean_the_levels() -> None:
    kind = rating(Scale.of([1, 2]), says={"1": "bad", "2": "fine"})
    kind.check()
    assert kind.shape is None
    assert kind.read("Not bad: fine") == {"score": "2"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (rating(criteria={"reason": "x"}), "no criterion can be called 'reason'"),
        (rating(criteria={" ": "x"}), "no criterion can be called ' '"),
        (rating(says={"1": "x"}), r"says must give words for each level \(1, 2, 3, 4, 5\), but has 1"),
        (rating(says={"1": "x"}, criteria={"a": ""}), "says reads one score"),
    ],
)
def test_what_no_answer_could_hold_is_refused(kind: Rating, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind.check()


# Measures.


def sampled(rows: list[dict[str, Any]], kind: Rating, **kinds: Any) -> Sample:
    fields = {"row_id": pa.string(), **{name: kind.adds()[name] for name in kind.reading()}, **kinds}
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    columns = {name: sql.format(name) for name, sql in kind.reading().items()}
    with Query({"rows": table}) as query:
        return Sample.read(
            query,
            {**columns, **({"human": "human"} if "human" in kinds else {})},
            "judge_score IS NOT NULL",
            group=None,
            resamples=200,
            confidence=0.95,
            seed=1,
        )


def drawn(size: int, seed: int = 1) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    people = random.integers(1, 6, size)
    scores = np.clip(people + random.normal(0, 1, size), 1, 5)
    return [
        {
            "row_id": f"r{n:04}",
            "judge_score": float(score),
            "judge_rating": int(FIVE.nearest(score)),
            "human": int(person),
        }
        for n, (score, person) in enumerate(zip(scores, people, strict=True))
    ]


def by_name(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["slice"] or one["metric"]: one for one in found}


def test_agreement_with_people_is_scipys_and_sklearns() -> None:
    rows = drawn(80)
    kind = rating()
    found = by_name(kind.measured(sampled(rows, kind, human=pa.int64()), "judge", "human"))
    score, human, level = (
        np.array([row[name] for row in rows]) for name in ("judge_score", "human", "judge_rating")
    )
    expected = {
        "score": score.mean(),
        "rating=3": (level == 3).mean(),
        "spearman": stats.spearmanr(score, human).statistic,
        "kendall": stats.kendalltau(score, human).statistic,
        "pearson": stats.pearsonr(score, human).statistic,
        "cohen_kappa": cohen_kappa_score(level, human),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert found[name]["ci_low"] < value < found[name]["ci_high"], name
        assert found[name]["n"] == 80
    assert {one.split("=")[0] for one in found} >= set(kind.metrics(human=True)) - {"share"}


def test_only_rows_that_people_voted_on_and_levels_count() -> None:
    rows = drawn(40)
    for place, row in enumerate(rows):
        row["human"] = [None, [], [float(row["human"])], [3.0, 4.0]][place % 4]
    kind = rating()
    found = by_name(kind.measured(sampled(rows, kind, human=pa.list_(pa.float64())), "judge", "human"))
    assert found["score"]["n"] == 40
    assert found["spearman"]["n"] == 20
    assert found["cohen_kappa"]["n"] == 10, "3.5 is no level"
    asked = rows[2::4] + rows[3::4]
    means = [float(np.mean(row["human"])) for row in asked]
    score = [row["judge_score"] for row in asked]
    assert found["pearson"]["value"] == pytest.approx(stats.pearsonr(score, means).statistic, abs=1e-9)


def test_of_no_row_one_row_or_one_score_nothing_is_known_and_nothing_breaks() -> None:
    kind = rating(FOUR)
    for rows in ([], [{"row_id": "r", "judge_score": 3.0, "judge_rating": "good", "human": "good"}]):
        found = by_name(kind.measured(sampled(rows, kind, human=pa.string()), "judge", "human"))
        assert found["score"]["n"] == len(rows)
        for name in ("spearman", "kendall", "pearson", "cohen_kappa"):
            assert math.isnan(found[name]["value"])
    same = [{**row, "judge_score": 3.0} for row in drawn(20)]
    kind = rating()
    found = by_name(kind.measured(sampled(same, kind, human=pa.int64()), "judge", "human"))
    assert math.isnan(found["spearman"]["value"])
    assert found["score"]["ci_high"] == 3


def test_levels_by_name_and_criteria_have_slices() -> None:
    kind = rating(FOUR, criteria={"clear": "", "true": ""})
    rows = [
        {
            "row_id": f"{n}",
            "judge_score": 2.0,
            "judge_rating": "fair",
            "judge_criteria": {"clear": 1.0, "true": 3.0},
        }
        for n in range(4)
    ]
    found = by_name(kind.measured(sampled(rows, kind), "judge", None))
    assert found["criterion=clear"]["value"] == 1
    assert found["criterion=true"]["value"] == 3
    assert found["rating=fair"]["value"] == 1
    assert found["rating=poor"]["value"] == 0
