"""Answers to one question become pairs of a chosen and a rejected one; length is watched."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from scipy.stats import binomtest

from synthray.errors import GateRefused, InputError, RunFailed
from synthray.generate.pair import Pair
from synthray.operator import Context
from synthray.query import Query
from synthray.recipe import load
from synthray.run import Run

if TYPE_CHECKING:
    from synthray.pipeline import Pipeline

Answer = tuple[str, str, str | None, float | None]


def rows(*held: Answer, prompts: dict[str, Any] | None = None) -> pa.Table:
    """Return rows of (row_id, parent_id, text, score)."""
    ids, parents, texts, scores = (list(one) for one in zip(*held, strict=True))
    return pa.table(
        {
            "row_id": ids,
            "parent_id": pa.array(parents, pa.string()),
            "round": pa.array([0] * len(held), pa.int32()),
            "question": [(prompts or {}).get(one, f"q of {one}") for one in parents],
            "text": pa.array(texts, pa.string()),
            "score": pa.array(scores, pa.float64()),
        }
    )


def many(groups: int = 30, seed: int = 0) -> pa.Table:
    drawn = random.Random(seed)
    held = []
    for group, place in itertools.product(range(groups), range(6)):
        text = "x" * drawn.randrange(1, 6) + f"{place % 5}"
        held.append((f"r{group:02}{place}", f"g{group % (groups - 3)}", text, float(drawn.randrange(4))))
    return rows(*held)


def pair(**settings: Any) -> Pair:
    return Pair(**{"answer": "text", "score": "score", "prompt": "question", **settings})


def parents(table: pa.Table) -> set[tuple[str, str]]:
    return {tuple(one) for one in table["parents"].to_pylist()}


def by_force(table: pa.Table, margin: float) -> dict[str, list[tuple[str, str]]]:
    """Return all pairs (chosen, rejected) of each question, the formula written out."""
    found: dict[str, list[tuple[str, str]]] = {}
    held = table.to_pylist()
    for one, other in itertools.permutations(held, 2):
        if one["parent_id"] == other["parent_id"] and one["text"] != other["text"]:
            more = one["score"] - other["score"]
            if more > 0 and more >= margin:
                found.setdefault(one["parent_id"], []).append((one["row_id"], other["row_id"]))
    return found


def measured(operator: Pair, table: pa.Table, pairs: pa.Table) -> dict[str, dict[str, Any]]:
    with Query({"rows": table, "pairs": pairs}) as query:
        return {one["metric"]: one for one in operator.measured(query).to_pylist()}


def test_a_pair_holds_what_was_asked_both_answers_and_its_parents() -> None:
    table = rows(("a", "p", "good", 0.9), ("b", "p", "fair", 0.5), ("c", "p", "bad", 0.1))
    out = pair()(table)
    row = out.to_pylist()[0]
    assert len(out) == 1
    assert row.pop("margin") == pytest.approx(0.8)
    assert len(row.pop("row_id")) == 24
    assert row == {
        "parent_id": None,
        "round": 0,
        "question": "q of p",
        "chosen": "good",
        "rejected": "bad",
        "chosen_score": 0.9,
        "rejected_score": 0.1,
        "parents": ["a", "c"],
    }
    assert out.schema == pair().schema(table.schema)


@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_the_pairs_are_those_of_the_formula(margin: float) -> None:
    table = many()
    expected = by_force(table, margin)
    score = dict(zip(table["row_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    assert parents(pair(pairs="all", margin=margin)(table)) == {p for held in expected.values() for p in held}
    best = {
        group: min((one for one, _ in held), key=lambda one: (-score[one], one))
        for group, held in by_force(table, 0).items()
    }
    against = {
        group: [other for one, other in held if one == best[group]] for group, held in expected.items()
    }
    worst = {
        (best[group], min(held, key=lambda one: (score[one], one))) for group, held in against.items() if held
    }
    assert parents(pair(margin=margin)(table)) == worst
    drawn = parents(pair(pairs="best_random", margin=margin)(table))
    assert {one for one, _ in drawn} == {one for one, _ in worst}
    assert all(other in next(v for v in against.values() if other in v) for _, other in drawn)
    assert drawn != worst


def test_the_best_by_chance_is_drawn_by_the_seed_and_evenly() -> None:
    held = [
        (f"g{group:03}-{n}", f"g{group:03}", f"text {n}", float(n)) for group in range(300) for n in range(4)
    ]
    found = [
        pair(pairs="best_random", context=Context(seed=seed, step="pair"))(rows(*held)) for seed in (0, 0, 1)
    ]
    assert found[0] == found[1]
    assert parents(found[0]) != parents(found[2])
    counts = [sum(one[1].endswith(f"-{n}") for one in parents(found[0])) for n in range(4)]
    assert counts[3] == 0
    assert all(70 < count < 130 for count in counts[:3]), counts


def test_equal_scores_equal_texts_and_what_is_no_answer_make_no_pair() -> None:
    ties = rows(("a", "p", "x", 1.0), ("b", "p", "y", 1.0))
    same = rows(("a", "p", "x", 1.0), ("b", "p", "x", 0.0))
    empty = rows(("a", "p", "x", 1.0), ("b", "p", " \n", 0.0), ("c", "p", None, 0.0), ("d", "p", "z", None))
    odd = rows(
        ("a", "p", "x", 1.0), ("b", "p", "y", math.nan), ("c", "p", "z", -math.inf), ("d", "q", "w", 0.0)
    )
    orphans = rows(("a", None, "x", 1.0), ("b", None, "y", 0.0))  # type: ignore[arg-type]
    for table in (ties, same, empty, odd, orphans, ties.slice(0, 0)):
        for which in ("best_worst", "best_random", "all"):
            assert len(pair(pairs=which)(table)) == 0
    assert all(
        math.isnan(one["value"]) and one["n"] == 0 for one in measured(pair(), ties, pair()(ties)).values()
    )


def test_a_margin_that_rounding_misses_is_reached() -> None:
    assert 0.3 - 0.1 < 0.2
    table = rows(("a", "p", "x", 0.3), ("b", "p", "y", 0.1))
    assert len(pair(margin=0.2)(table)) == 1
    assert len(pair(margin=0.21)(table)) == 0


def test_of_equal_best_answers_the_smaller_row_id_is_chosen_whatever_the_order() -> None:
    held = [("b", "p", "y", 1.0), ("a", "p", "x", 1.0), ("d", "p", "w", 0.0), ("c", "p", "v", 0.0)]
    for order in itertools.permutations(held):
        assert parents(pair()(rows(*order))) == {("a", "c")}


def test_other_columns_may_say_what_is_one_question() -> None:
    table = rows(("a", "p", "x", 1.0), ("b", "q", "y", 0.0), prompts={"p": "why?", "q": "why?"})
    out = Pair(answer="text", score="score", by="question")(table)
    assert out.select(["question", "parents"]).to_pylist() == [{"question": "why?", "parents": ["a", "b"]}]


def test_answers_to_different_questions_are_found_with_their_rows() -> None:
    table = rows(("a", "p", "x", 1.0), ("b", "p", "y", 0.0), ("c", "p", "z", 0.5))
    mixed = table.set_column(3, "question", pa.array(["one", "one", "two"]))
    with pytest.raises(
        RunFailed, match=r"pair: the rows 'a' and 'c' have one parent_id, but differ in question"
    ):
        pair()(mixed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": ()}, r"a pair needs what was asked; name its columns, such as prompt: instruction"),
        ({"by": ()}, "by names no column"),
        ({"score": "text"}, "score: column 'text' must hold numbers, but is string"),
        ({"answer": "score"}, "column 'score' must hold text, but is double"),
        ({"prompt": "row_id"}, "prompt: 'row_id' is a column of the pair itself"),
    ],
)
def test_what_cannot_be_paired_is_refused_before_any_work(settings: dict[str, Any], message: str) -> None:
    table = rows(("a", "p", "x", 1.0))
    with pytest.raises(InputError, match=message):
        pair(**settings).check(table.schema)


# Length.


def test_whether_length_is_preferred_is_measured() -> None:
    held = []
    for group in range(40):
        longer = group < 30
        held += [
            (f"{group}a", f"g{group}", "x" * (9 if longer else 2), 1.0),
            (f"{group}b", f"g{group}", "y" * 4, 0.0),
        ]
    held += [("ta", "t", "same", 1.0), ("tb", "t", "size", 0.0)]
    table = rows(*held)
    found = measured(pair(), table, pair()(table))
    wilson = binomtest(30, 40).proportion_ci(0.95, method="wilson")
    longer = found["chosen_longer"]
    assert (longer["value"], longer["n"]) == (0.75, 40), "a pair of one length says nothing"
    assert (longer["ci_low"], longer["ci_high"]) == pytest.approx((wilson.low, wilson.high))
    more = found["length_difference"]
    assert (more["value"], more["n"]) == (pytest.approx((30 * 5 - 10 * 2) / 41), 41)
    assert more["ci_low"] < more["value"] < more["ci_high"]


def test_many_pairs_of_few_questions_are_no_more_sure() -> None:
    held = [
        (f"{group}-{n}", f"g{group}", "x" * (n + 1 if group % 2 else 40 - n), float(n))
        for group in range(8)
        for n in range(10)
    ]
    table = rows(*held)
    every, one = (
        measured(pair(pairs=which), table, pair(pairs=which)(table)) for which in ("all", "best_worst")
    )
    for found in (every, one):
        assert found["chosen_longer"]["value"] == 0.5
    assert every["chosen_longer"]["n"] == 8 * 45
    for bound in ("ci_low", "ci_high"):
        assert every["chosen_longer"][bound] == pytest.approx(one["chosen_longer"][bound])


# In a run.

RECIPE = """
name: pairs
seed: 3
steps:
  - source.table: {path: answers.jsonl}
  - generate.pair: {answer: text, score: score, by: question, margin: 2, pairs: best_random}
gate:
  - pair.chosen_longer.n > 0
"""


@pytest.fixture
def recipe(write: Callable[..., Path]) -> Callable[..., Pipeline]:
    """Return a function that loads the recipe over scored answers."""
    drawn = random.Random(5)
    lines = [
        {"question": f"q{n % 15}", "text": "x" * drawn.randrange(1, 90), "score": drawn.randrange(5)}
        for n in range(60)
    ]
    write("".join(f"{json.dumps(line)}\n" for line in lines), "answers.jsonl")
    return lambda old="", new="", **settings: replace(load(write(RECIPE.replace(old, new))), **settings)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_every_answer_is_in_a_pair_or_rejected_for_any_number_of_blocks(
    recipe: Callable[..., Pipeline], tmp_path: Path
) -> None:
    found = []
    for blocks in (1, 7):
        run = recipe(blocks=blocks).run(tmp_path / f"run{blocks}", quiet=True)
        pairs = run.sql("SELECT * FROM dataset ORDER BY row_id")
        in_pairs = {one for held in pairs["parents"].to_pylist() for one in held}
        rejected = run.sql("SELECT row_id, reject_reason FROM rows WHERE reject_step = 'pair'").to_pylist()
        assert {one["reject_reason"] for one in rejected} == {"no_children"}
        assert not in_pairs & {one["row_id"] for one in rejected}
        assert len(in_pairs) + len(rejected) == 60
        assert len(in_pairs) == 2 * len(pairs) > 0
        assert {"text", "score"}.isdisjoint(pairs.column_names)
        assert min(pairs["margin"].to_pylist()) >= 2
        metrics = run.sql("SELECT * FROM metrics WHERE step = 'pair' ORDER BY metric")
        assert metrics["metric"].to_pylist() == ["chosen_longer", "length_difference"]
        found.append((pairs, metrics))
    assert found[0][0] == found[1][0]
    assert found[0][1] == found[1][1]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_no_pair_at_all_is_a_result_that_a_gate_can_refuse(
    recipe: Callable[..., Pipeline], tmp_path: Path
) -> None:
    with pytest.raises(GateRefused, match=r"pair\.chosen_longer\.n > 0"):
        recipe("margin: 2", "margin: 40").run(tmp_path / "run", quiet=True)
    run = Run.read(tmp_path / "run")
    assert run.sql("SELECT count(*) AS n FROM dataset").to_pylist() == [{"n": 0}]
    values = run.sql("SELECT value, n FROM metrics WHERE step = 'pair'").to_pylist()
    assert all(math.isnan(one["value"]) and one["n"] == 0 for one in values)


def test_it_says_that_it_takes_no_when(recipe: Callable[..., Pipeline]) -> None:
    with pytest.raises(InputError, match=r"'pair'.*: takes no `when`.*use a where before it"):
        recipe("best_random}", "best_random}\n    when: score > 1").check()
