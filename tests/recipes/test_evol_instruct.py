"""Evol-Instruct: a good evolution takes its parent's place, an eliminated one leaves it there with a reason."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
import ray.cloudpickle

from synthray.lineage import uniform
from synthray.model.fake import Fake
from synthray.model.language import Request, Response
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

OPERATIONS = {"constrain", "deepen", "concretise", "reason", "broaden"}
LONG_SORRY = "I am sorry to hear of it. " + "Here is what to do next. " * 20


def answered(request: Request) -> str | Response:
    asked = request.messages[0]["content"]
    if "10 to 20 words at most" in asked:
        return evolved(asked.rpartition("\n\n")[2], request.seed)
    if "Does the second instruction" in asked:
        second = asked.partition("Second instruction: ")[2].partition("\n")[0]
        return json.dumps({"gain": "no" if second.endswith("same.") else "yes"})
    # What must never be asked: it was eliminated before.
    assert not any(asked.endswith(end) for end in ("same.", "prompt.", "how it"))
    ends = {
        "refuse.": "Sorry, I can't do that.",
        "regret.": LONG_SORRY,
        "mumble.": "It is the, of - and the ...",
    }
    return next((said for end, said in ends.items() if asked.endswith(end)), f"An answer to: {asked}")


def evolved(instruction: str, seed: int) -> str | Response:
    kind = int(uniform("kind", seed) * 9)
    if kind == 0:
        return Response(f"{instruction} And say how it", "length")
    ends = ("same.", "refuse.", "regret.", "mumble.", "well.", "more.")
    if kind == 1:
        return f"{instruction.upper()} "
    if kind == 2:
        return f"{instruction} Do it as in the given prompt."
    return f"{instruction} {seed} {ends[kind - 3]}"


WHY = {"cut", "unchanged", "leaked", "no_gain", "sorry", "only_stop_words"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    out = tmp_path_factory.mktemp("evol") / "run"
    return dataclasses.replace(load("evol_instruct"), model=Fake(script=answered)).run(out, quiet=True)


@pytest.fixture(scope="module")
def rounds(made: Run) -> list[dict[str, dict[str, Any]]]:
    """The rows that each round left, by row_id; first those that came in."""
    found = [next((made.root / "stages").glob("02-derive-*"))]
    found += [sorted((made.root / "stages").glob(f"03.{number}.*"))[-1] for number in (1, 2, 3)]
    return [
        {
            row["row_id"]: row
            for file in sorted(folder.glob("rows*.parquet"))
            for row in pq.read_table(file).to_pylist()
        }
        for folder in found
    ]


def test_a_good_evolution_takes_its_parents_place_and_an_eliminated_one_does_not(
    rounds: list[dict[str, dict[str, Any]]],
) -> None:
    seen = set()
    for before, after in itertools.pairwise(rounds):
        assert before.keys() == after.keys()
        for row_id, row in after.items():
            last = row["evolutions"][-1]
            assert row["evolutions"][:-1] == before[row_id]["evolutions"]
            seen.add(last["eliminated"])
            if last["eliminated"] is None:
                assert row["instruction"] == last["instruction"] != before[row_id]["instruction"]
                assert last["instruction"].startswith(before[row_id]["instruction"])
                assert last["response"]
            else:
                assert row["instruction"] == before[row_id]["instruction"]
    assert seen == {None, *WHY}


def test_each_elimination_has_its_cause(rounds: list[dict[str, dict[str, Any]]]) -> None:
    ends = {
        "same.": "no_gain",
        "refuse.": "sorry",
        "mumble.": "only_stop_words",
        "prompt.": "leaked",
        "how it": "cut",
    }
    for row in rounds[-1].values():
        for one in row["evolutions"]:
            cause = next((why for end, why in ends.items() if one["instruction"].endswith(end)), None)
            if cause is None and one["instruction"].isupper():
                cause = "unchanged"
            assert one["eliminated"] == cause
            # What was eliminated before has no answer, also not that of the round before.
            assert (one["response"] is None) == (cause in {"cut", "unchanged", "leaked", "no_gain"})


def test_rows_and_rounds_draw_operations_of_their_own(
    rounds: list[dict[str, dict[str, Any]]], made: Run
) -> None:
    drawn = [[one["operation"] for one in row["evolutions"]] for row in rounds[-1].values()]
    assert {one for row in drawn for one in row} == OPERATIONS
    assert all([one["round"] for one in row["evolutions"]] == [1, 2, 3] for row in rounds[-1].values())
    assert any(len(set(row)) > 1 for row in drawn)
    for number in range(3):
        assert len({row[number] for row in drawn}) > 1
    prompts = made.sql("SELECT request->'messages'->0->>'content' AS x FROM calls WHERE step LIKE 'evolve%'")
    harder = sum(row["x"].startswith("Make the instruction harder") for row in prompts.to_pylist())
    assert harder == sum(one != "broaden" for row in drawn for one in row)


def test_only_what_was_not_eliminated_is_judged_and_answered(
    rounds: list[dict[str, dict[str, Any]]], made: Run
) -> None:
    attempts = [one for row in rounds[-1].values() for one in row["evolutions"]]
    judged = sum(one["eliminated"] not in {"cut", "unchanged", "leaked"} for one in attempts)
    answers = sum(one["response"] is not None for one in attempts)
    calls = made.sql(
        "SELECT regexp_replace(step, '@.*', '') AS step, count(*) AS n FROM calls GROUP BY 1"
    ).to_pylist()
    assert {row["step"]: row["n"] for row in calls} == {
        "evolve": 48, "judge": judged, "answer": answers, "answer_seed": 16,
    }  # fmt: skip


def test_the_data_are_the_seeds_and_all_generations_that_were_not_eliminated(
    rounds: list[dict[str, dict[str, Any]]], made: Run
) -> None:
    rows = made.sql(
        "SELECT parent_id, instruction, response, operation, evolved_in, seed FROM dataset"
    ).to_pylist()
    expected = {(row["seed"], 0, row["seed"]) for row in rounds[-1].values()}
    expected |= {
        (row["seed"], one["round"], one["instruction"])
        for row in rounds[-1].values()
        for one in row["evolutions"]
        if one["eliminated"] is None
    }
    assert {(row["seed"], row["evolved_in"], row["instruction"]) for row in rows} == expected
    assert len(rows) == len(expected) > 16
    for row in rows:
        assert rounds[-1][row["parent_id"]]["seed"] == row["seed"]
        said = (
            LONG_SORRY.strip()
            if row["instruction"].endswith("regret.")
            else f"An answer to: {row['instruction']}"
        )
        assert row["response"] == said


def test_a_round_that_eliminates_all_leaves_all_as_they_were(tmp_path: Path) -> None:
    pipeline = load("evol_instruct", settings=["table.rows=4", "repeat.max=2"])
    run = dataclasses.replace(pipeline, model=Fake(script=echo)).run(tmp_path / "run", quiet=True)
    rows = run.sql("SELECT instruction, seed, operation FROM dataset").to_pylist()
    assert len(rows) == 4
    assert all(row["instruction"] == row["seed"] and row["operation"] == "seed" for row in rows)


def echo(request: Request) -> str:
    return request.messages[0]["content"].rpartition("\n\n")[2]


@pytest.mark.model
def test_the_embedded_model_evolves(tmp_path: Path) -> None:
    settings = ["table.rows=3", "repeat.max=2", "evolve.max_tokens=40", "answer.max_tokens=24"]
    settings += ["answer_seed.max_tokens=24", "max_failed=1.0"]
    run = load("evol_instruct", settings=settings).run(tmp_path / "run", quiet=True)
    calls = run.sql("SELECT step, count(*) AS n FROM calls WHERE step LIKE 'evolve%' GROUP BY 1").to_pylist()
    asked = {row["step"]: row["n"] for row in calls}
    failed = run.sql("SELECT sum(rows_failed) AS n FROM steps WHERE step LIKE '%@1'")["n"][0].as_py()
    assert asked == {"evolve@1": 3, "evolve@2": 3 - failed}
    lost = run.sql("SELECT sum(rows_failed) AS n FROM steps")["n"][0].as_py()
    # A seed whose answer has no whole sentence is rejected, but not lost.
    seeds = run.sql("SELECT reject_reason FROM rows WHERE operation = 'seed'")["reject_reason"].to_pylist()
    assert len(seeds) == 3 - lost and {*seeds} <= {None, "no_answer"}
    rows = run.sql("SELECT instruction, response, operation, seed FROM dataset").to_pylist()
    assert all(row["response"] for row in rows)
    assert all((row["instruction"] == row["seed"]) == (row["operation"] == "seed") for row in rows)
