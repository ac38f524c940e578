"""Persona Hub: personas of texts and of each other, none near another; each problem knows its persona."""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray.cloudpickle
from scripting import conserved, reasons, rows, scripted

from synthray.model.language import Request, Response
from synthray.recipe import load
from synthray.report.history import History, histories

if TYPE_CHECKING:
    from synthray.run import Run

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers do not see tests/
WORDS = [
    "baker",
    "nurse",
    "pilot",
    "ferry",
    "bread",
    "violin",
    "lambs",
    "bridge",
    "tide",
    "fractions",
    "loans",
    "bicycles",
    "gardens",
    "starlight",
    "maps",
    "harbour",
    "clinic",
    "orchard",
    "timber",
    "glaciers",
    "poems",
    "chess",
    "engines",
    "silk",
    "copper",
    "bees",
    "radio",
    "theatre",
    "marble",
    "salt",
]
SAME = "A baker who kneads bread at night and cares about her old oven and the boiler."
NEARLY = "A baker who kneads bread by night and cares about her old ovens and the boilers."


def write(request: Request) -> str | Response:
    """Describe, set and answer as a weak model does."""
    text, draw = request.messages[-1]["content"], random.Random(request.seed)
    kind = draw.random()
    if text.startswith(("Text:", "Here is a person")):
        if kind < 0.12:
            return "Sure! Let me think about who that could be."
        if kind < 0.3:
            return SAME
        if kind < 0.42:
            return NEARLY
        told = " ".join(draw.sample(WORDS, k=9))
        return f'"A person who knows {told}. And then some more."'
    if text.startswith("Write a short problem"):
        if kind < 0.1:
            return Response("A problem that was never told to its", "length")
        if kind < 0.2:
            return "Find x."
        if kind < 0.3:
            return "How many loaves fit into an oven of two shelves?"
        return (
            f"How many of {draw.randrange(10_000)} things are left when {draw.choice(WORDS)} are taken away?"
        )
    draw = random.Random(text)  # at temperature 0 all have one seed
    return (
        "I'm sorry, but I cannot help with that." if draw.random() < 0.2 else f"It is {draw.randrange(100)}."
    )


def alone(request: Request) -> str | Response:
    """Know of nobody beside those of the texts."""
    return "Nobody." if request.messages[-1]["content"].startswith("Here is") else write(request)


def _columns(history: History, row_id: str) -> dict[str, Any]:
    """Return what a row of a history got at last in each column, and the prompt that set its problem."""
    held: dict[str, Any] = {}
    for event in history.events:
        if event.row_id == row_id:
            held |= event.columns
            asked = event.columns.get("set_problem_call")
            for call in event.calls:
                if call["key"] == asked:
                    held["prompt"] = call["request"]
    return held


@pytest.fixture(scope="module", name="run")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return scripted("personahub", write).run(tmp_path_factory.mktemp("personahub") / "run", quiet=True)


@pytest.mark.ray
class TestPersonahub:
    def test_no_persona_is_told_twice_or_nearly_twice(self, run: Run) -> None:
        found = reasons(run)
        assert found["near_persona"] > 0
        assert found["semantic_persona"] > 0
        personas = {row["persona"] for row in rows(run, "SELECT DISTINCT persona FROM dataset")}
        assert len(personas & {SAME, NEARLY}) <= 1
        left = rows(
            run,
            "SELECT count(*) AS n, count(DISTINCT persona) AS personas FROM rows "
            "WHERE persona IS NOT NULL AND (reject_step IS NULL OR reject_step NOT LIKE '%persona') "
            "AND set_problem_call IS NOT NULL",
        )[0]
        assert left["n"] == 2 * left["personas"]

    def test_each_problem_goes_back_to_its_persona_and_to_a_text(self, run: Run) -> None:
        found = {row["row_id"]: row for row in rows(run, "SELECT row_id, parent_id, persona FROM dataset")}
        depths: Counter[int] = Counter()
        for history in histories(run, sorted(found)):
            line = list(dict.fromkeys(event.row_id for event in history.events))
            *others, persona, problem = (_columns(history, row_id) for row_id in line)
            assert line[-2] == found[line[-1]]["parent_id"]
            assert persona["persona"] == found[line[-1]]["persona"]
            assert persona["persona"] in problem["prompt"]
            for parent, child in itertools.pairwise([*others, persona]):
                assert child["known"] == parent["persona"]
            assert others[0]["text"] if others else persona["text"]
            depths[len(others)] += 1
        assert set(depths) == {0, 1, 2}, "of texts, and of personas of either round"

    def test_a_round_asks_of_the_personas_that_the_last_one_found(self, run: Run) -> None:
        asked = rows(
            run,
            "SELECT r.row_id, r.parent_id, r.known, r.relation, r.round, c.request->'messages'->0->>'content' AS prompt "
            "FROM rows r JOIN calls c ON c.key = r.persona_to_persona_call WHERE r.set_problem_call IS NULL",
        )
        assert {row["round"] for row in asked} == {1, 2}
        for row in asked:
            assert row["known"] in row["prompt"]
            assert f"who {row['relation']} this person" in row["prompt"]

    def test_what_is_no_persona_no_problem_or_no_answer_is_rejected(self, run: Run) -> None:
        assert {"no_persona", "no_problem", "same_problem", "refusal"} <= set(reasons(run))
        assert conserved(run)
        for row in rows(run, "SELECT persona, problem, answer FROM dataset"):
            assert row["persona"].startswith("A ")
            assert row["persona"].endswith(".")
            assert "And then" not in row["persona"]
            assert len(row["problem"]) >= 30
            assert not row["answer"].startswith("I'm sorry")

    def test_the_export_is_a_conversation_with_its_persona(self, run: Run) -> None:
        (path,) = (Path(run.root) / "dataset").rglob("*.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == len(rows(run, "SELECT 1 AS x FROM dataset"))
        assert [one["role"] for one in lines[0]["messages"]] == ["user", "assistant"]
        assert lines[0]["persona"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_round_that_finds_nobody_ends_the_loop_and_the_personas_of_the_texts_stay(tmp_path: Path) -> None:
    run = scripted("personahub", alone).run(tmp_path / "run", quiet=True)
    assert rows(run, "SELECT value FROM metrics WHERE metric = 'rounds' AND slice IS NULL") == [
        {"value": 1.0}
    ]
    assert rows(run, "SELECT DISTINCT coalesce(known, '') AS known FROM dataset") == [{"known": ""}]
    assert conserved(run)


@pytest.mark.ray
@pytest.mark.model
def test_on_the_embedded_model(ray_session: None, tmp_path: Path) -> None:
    settings = [
        "table.rows=4",
        "relatives.max=1",
        "answer_problem.max_tokens=16",
        "set_problem.max_tokens=40",
    ]
    run = load("personahub", settings=settings).run(tmp_path / "run", quiet=True)
    assert rows(run, "SELECT count(*) AS n FROM calls WHERE step = 'text_to_persona'") == [{"n": 4}]
    assert conserved(run)
