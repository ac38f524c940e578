"""UltraChat: two models in turns, each with a view and settings of its own, opened from a tree."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray.cloudpickle
import yaml

from synthray import cookbook
from synthray.errors import ModelError
from synthray.model.fake import Fake
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.model.language import Request
    from synthray.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

SYSTEM = "You are a person who wants to learn about"


def proposed(request: Request) -> str | ModelError:
    field, _, topic = request.messages[0]["content"].partition("\n")[0].rstrip(".").partition(": ")
    assert field
    if "violin" in topic:
        return "no JSON"
    if "moons" in topic:
        return ModelError("scripted", "HTTP400")
    second = {
        "mending clothes": "Why?",
        "sleeping well": "Tell me something about it, please.",
        "why ice floats": "What does one have to know about why ice floats?",
    }.get(topic, f"Who was the first that thought of {topic}, and when was that?")
    return json.dumps({"questions": [f"What does one have to know about {topic}?", second]})


def as_user(request: Request) -> str | ModelError:
    system, told, *heard = request.messages
    assert system["role"] == "system"
    assert system["content"].startswith(SYSTEM)
    assert told["role"] == "user"
    assert "Play a person" in told["content"]
    # What it said itself is the assistant's to it.
    assert [one["role"] for one in heard] == ["assistant", "user"] * (len(heard) // 2)
    assert all(one["content"].startswith("Answer") for one in heard[1::2])
    assert request.max_tokens == 48
    opening = heard[0]["content"]
    if "ice" in opening:
        return ""
    if "search engine" in opening:
        return opening  # goes round in circles
    return f"Asked again {len(heard) // 2} about: {opening}"


def as_assistant(request: Request) -> str:
    assert not any(SYSTEM in one["content"] or "Play a person" in one["content"] for one in request.messages)
    assert [one["role"] for one in request.messages] == (["user", "assistant"] * 9)[: len(request.messages)]
    assert len(request.messages) % 2
    assert request.max_tokens == 128
    return f"Answer {len(request.messages) // 2}: {request.messages[0]['content']}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    pipeline = load("ultrachat")
    pipeline = dataclasses.replace(
        pipeline,
        model=Fake(script=proposed),
        models={"user": Fake(script=as_user), "assistant": Fake(script=as_assistant)},
    )
    return pipeline.run(tmp_path_factory.mktemp("ultrachat") / "run", quiet=True)


def leaves() -> list[dict[str, str]]:
    path = cookbook.SHIPPED / "data" / "ultrachat_topics.yaml"
    held: list[dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return held


def kept(made: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = made.sql("SELECT * FROM dataset").to_pylist()
    assert rows
    return rows


def test_roles_alternate_for_two_to_four_rounds(made: Run) -> None:
    for row in kept(made):
        roles = [one["role"] for one in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert len(roles) == 2 * row["dialogue_turns"]
        assert row["dialogue_end"] == "turns"
        assert row["messages"][0]["content"] == row["question"]
        # A call for each message but the opening.
        assert len(row["dialogue_call"]) == len(roles) - 1
    assert {row["dialogue_turns"] for row in kept(made)} == {2, 3, 4}


def test_each_side_is_played_by_its_own_model_which_sees_its_own_view_alone(made: Run) -> None:
    # What each sees is asserted where it answers: see as_user and as_assistant.
    for row in kept(made):
        for place, one in enumerate(row["messages"][1:], start=1):
            begins = f"Answer {place // 2}: " if place % 2 else f"Asked again {place // 2} about: "
            assert one["content"] == begins + row["question"]


def test_questions_come_from_the_leaves_of_the_tree(made: Run) -> None:
    paths = {(row["parent"], row["child"]) for row in leaves()}
    topics = {tuple(row["topic"]) for row in kept(made)}
    assert topics <= paths
    lost = {child for _, child in paths - topics}
    assert lost == {
        "learning to play the violin",
        "the moons of the planets",
        "why ice floats",
        "how a search engine orders pages",
    }


def test_every_bad_branch_has_its_reason(made: Run) -> None:
    rows = made.sql("SELECT question, reject_reason AS why FROM rejects").to_pylist()
    why = {(row["question"], row["why"]) for row in rows}
    assert ("Why?", "length") in why
    assert ("Tell me something about it, please.", "no_question") in why
    same = "What does one have to know about why ice floats?"
    assert {reason for question, reason in why if question == same} == {"near_duplicate", "one_round"}
    assert {question for question, reason in why if reason == "repeats"} == {
        "What does one have to know about how a search engine orders pages?",
        "Who was the first that thought of how a search engine orders pages, and when was that?",
    }
    failed = made.sql("SELECT error FROM failures ORDER BY 1").to_pylist()
    assert [row["error"] for row in failed] == ["HTTP400", "InvalidAnswer"]


def test_both_formats_are_written(made: Run) -> None:
    rows = {row["row_id"]: row for row in kept(made)}
    chat, sharegpt = (lines(made.root / "dataset" / part) for part in ("data", "sharegpt"))
    assert {line["row_id"] for line in chat} == {line["row_id"] for line in sharegpt} == set(rows)
    assert all(line["messages"] == rows[line["row_id"]]["messages"] for line in chat)
    for line in sharegpt:
        assert [one["from"] for one in line["conversations"]] == ["human", "gpt"] * (
            len(line["conversations"]) // 2
        )


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [
        line for file in folder.rglob("*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert found
    return [json.loads(line) for line in found]


@pytest.mark.model
def test_the_embedded_model_talks_with_itself(tmp_path: Path) -> None:
    settings = ["conditions.rows=3", "dialogue.turns=2", "dialogue.user.max_tokens=24"]
    settings += ["dialogue.assistant.max_tokens=24", "ask.max_tokens=80", "max_failed=1.0"]
    run = load("ultrachat", settings=settings).run(tmp_path / "run", quiet=True)
    rows = run.sql(
        "SELECT messages, dialogue_call, question FROM rows WHERE messages IS NOT NULL"
    ).to_pylist()
    for row in rows:
        roles = [one["role"] for one in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert row["messages"][0]["content"] == row["question"]
        assert len(row["dialogue_call"]) >= len(roles) - 1
    asked = run.sql("SELECT count(*) AS n FROM calls WHERE step = 'ask'").to_pylist()
    assert asked[0]["n"] >= 3
