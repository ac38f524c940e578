"""Magpie: nothing but the chat format is sent; what comes back is an instruction, and most repeats go."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ray.cloudpickle

from synthray.errors import ModelError
from synthray.model.fake import Fake
from synthray.model.language import Request, Response
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

PREFIX = "<|im_start|>user\n"
TOPICS = ("yeast and flour", "owls at night", "a bicycle chain", "the tides of the sea", "old roof tiles")
SAID: tuple[str | Response | ModelError, ...] = (
    *(f"Could you please tell me how {topic} work and why anybody should care?" for topic in TOPICS),
    "Answer the question that follows this line:",
    "Hi",
    ModelError("scripted", "HTTP400"),
    Response("What would you say if this never came to its", "length"),
    "What may never be answered in full, and how would you begin it?",
    "Tell me something that makes you silent, in as many words as you like.",
)


def answered(request: Request) -> str | Response | ModelError:
    if request.prompt is not None:
        return SAID[request.seed % len(SAID)]
    asked = request.messages[-1]["content"]
    if "never be answered" in asked:
        return Response("It begins with", "length")
    return "" if "silent" in asked else f"An answer to: {asked}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    pipeline = load("magpie", settings=["conditions.rows=60", "max_failed=0.5"])
    out = tmp_path_factory.mktemp("magpie") / "run"
    return dataclasses.replace(pipeline, model=Fake(script=answered)).run(out, quiet=True)


def test_nothing_but_the_chat_format_is_sent(made: Run) -> None:
    asked = made.sql("SELECT request FROM calls WHERE step = 'pre_query'").to_pylist()
    assert len(asked) == 60 - made.sql("SELECT count(*) AS n FROM failures").to_pylist()[0]["n"]
    for row in asked:
        request = json.loads(row["request"])
        assert request["prompt"] == PREFIX
        assert not request["messages"]
        assert "<|im_end|>" in request["stop"]
        assert (request["temperature"], request["top_p"]) == (1, 1)


def test_what_is_kept_is_answered_at_temperature_0_and_nothing_else_is(made: Run) -> None:
    kept = made.sql("SELECT instruction, response, answer_call FROM dataset").to_pylist()
    assert {row["instruction"] for row in kept} == set(SAID[: len(TOPICS)])
    assert all(row["response"] == f"An answer to: {row['instruction']}" for row in kept)
    answers = made.sql("SELECT request FROM calls WHERE step = 'answer'").to_pylist()
    # Those of the dataset, and the two whose answers were no good: one each, after the repeats are gone.
    assert len(answers) == len(TOPICS) + 2
    assert {json.loads(row["request"])["temperature"] for row in answers} == {0}


def test_a_repeated_instruction_is_dropped_and_the_first_of_its_group_stays(made: Run) -> None:
    rows = made.sql(
        "SELECT row_id, instruction, near_duplicate_of, reject_reason AS why FROM rows"
    ).to_pylist()
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["why"] in (None, "repeated", "answer_cut"):
            groups.setdefault(row["instruction"], []).append(row)
    assert any(len(group) > 2 for group in groups.values())
    for group in groups.values():
        first, *others = sorted(group, key=lambda row: row["row_id"])
        assert first["why"] != "repeated"
        assert all(row["why"] == "repeated" and row["near_duplicate_of"] == first["row_id"] for row in others)


def test_every_bad_instruction_has_its_reason(made: Run) -> None:
    found = made.sql(
        "SELECT DISTINCT instruction, reject_reason AS why FROM rejects WHERE reject_reason <> 'repeated'"
    )
    why = {row["instruction"]: row["why"] for row in found.to_pylist()}
    assert why == {
        "Answer the question that follows this line:": "colon",
        "Hi": "length",
        "What would you say if this never came to its": "cut",
        SAID[-2]: "answer_cut",
        SAID[-1]: "answer_cut",
    }
    assert made.sql("SELECT DISTINCT error FROM failures").to_pylist() == [{"error": "HTTP400"}]


def test_the_nearest_neighbour_is_measured_and_one_too_near_goes(made: Run, tmp_path: Path) -> None:
    rows = made.sql(
        "SELECT row_id, min_neighbour_distance AS d, neighbours, instruction FROM dataset"
    ).to_pylist()
    assert all(0.05 <= row["d"] <= 1 for row in rows)
    # With a threshold on words that lets all pass, spelling that is nearly the same is what is left to see.
    pipeline = load(
        "magpie", settings=["conditions.rows=12", "near_duplicate.threshold=1.0", "max_failed=0.5"]
    )
    alike = dataclasses.replace(pipeline, model=Fake(script=nearly)).run(tmp_path / "run", quiet=True)
    sql = "SELECT row_id, reject_reason AS why, min_neighbour_distance AS d, neighbours[1] AS near FROM rows"
    marked = [row for row in alike.sql(sql).to_pylist() if row["d"] is not None]
    assert {row["why"] for row in marked} == {None, "too_near"}
    for row in marked:
        assert (row["why"] == "too_near") == (row["d"] < 0.05 and row["near"] < row["row_id"])


def nearly(request: Request) -> str:
    if request.prompt is None:
        return "Yes."
    end = "abcdef"[request.seed % 6]
    return f"How do I tell the keeper of the old lighthouse on the rocks that the boat is late today, dear {end}?"


def test_the_export_is_a_chat_of_one_turn(made: Run) -> None:
    lines = [
        json.loads(line)
        for file in (made.root / "dataset" / "data").glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) == len(TOPICS)
    assert all([one["role"] for one in line["messages"]] == ["user", "assistant"] for line in lines)


@pytest.mark.model
def test_the_embedded_model_asks_itself(tmp_path: Path) -> None:
    settings = ["conditions.rows=8", "pre_query.max_tokens=48", "answer.max_tokens=32", "max_failed=1.0"]
    run = load("magpie", settings=settings).run(tmp_path / "run", quiet=True)
    calls = run.sql("SELECT step, request FROM calls").to_pylist()
    assert [json.loads(row["request"])["prompt"] for row in calls if row["step"] == "pre_query"] == [
        PREFIX
    ] * 8
    rows = run.sql("SELECT instruction, reject_reason FROM rows").to_pylist()
    assert len(rows) == 8
    # No token of the format stands in a text, whatever the text is worth.
    assert not any("<|im" in row["instruction"] for row in rows)
