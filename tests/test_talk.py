"""A talk asks its sides in turn and ends once, with what was answered; what generate.dialogue makes of it is told there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from synthray.asker import Answer, Question
from synthray.role import Role
from synthray.talk import Talk

Asked = list[tuple[int, str | None, bool]]


def talk(turns: int = 2, until: Callable[[Any, int], bool] = lambda message, turn: False) -> Talk:
    sides = (Role("user", model="person"), Role("assistant"))
    return Talk(sides, turns, {"user": (), "assistant": ()}, until)


def held(one: Talk, *answers: str | None, error: str = "InvalidAnswer") -> Asked:
    """Hold a talk in which so much is answered (None: a failure); return how each message was asked for."""
    asked: Asked = []

    async def ask(
        question: Question, place: int, model: str | None = None, *, retried: bool = True
    ) -> Answer:
        asked.append((place, model, retried))
        text = answers[len(asked) - 1]
        if text is None:
            return Answer(failed={"error": error, "message": "no", "attempts": 3})
        return Answer(value=question.read(text), call=f"call {place}")

    asyncio.run(one.held(ask))
    return asked


def test_sides_speak_in_turn_each_by_its_model_and_only_the_first_turn_is_retried() -> None:
    one = talk()
    assert held(one, " a ", "b", "c", "d") == [
        (0, "person", True),
        (1, None, True),
        (2, "person", False),
        (3, None, False),
    ]
    assert [(message["role"], message["content"]) for message in one.said] == [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]
    assert (one.end, one.failed) == ("turns", None)


@pytest.mark.parametrize(
    ("error", "end", "failed"),
    [
        ("InvalidAnswer", "assistant_empty", False),
        ("NoText", "assistant_no_text", False),
        ("ContextWindow", "assistant_context", False),
        ("HTTP500", None, True),
    ],
)
def test_a_model_that_has_no_more_ends_it_and_a_call_that_fails_does_not(
    error: str, end: str | None, failed: bool
) -> None:
    one = talk()
    held(one, "a", "b", "c", None, error=error)
    assert (one.end, one.failed is not None) == (end, failed)
    assert len(one.said) == (3 if failed else 2), "of a talk that may go on nothing is taken"
    assert len(one.answers) == 4


@pytest.mark.parametrize("answers", [(None,), ("a", None)])
def test_where_nothing_was_answered_it_fails(answers: tuple[str | None, ...]) -> None:
    one = talk()
    held(one, *answers)
    side = "user" if len(answers) == 1 else "assistant"
    assert one.failed == {"error": "InvalidAnswer", "message": f"{side}: no", "attempts": 3}


def test_an_empty_message_is_none() -> None:
    with pytest.raises(ValueError, match="an empty message"):
        talk().question().read(" \n")


def test_until_sees_each_message_with_its_turn() -> None:
    seen = []

    def until(message: Any, turn: int) -> bool:
        seen.append((message["content"], turn))
        return message["content"] == "c"

    one = talk(until=until)
    held(one, "a", "b", "c")
    assert seen == [("a", 1), ("b", 1), ("c", 2)]
    assert (one.end, [message["content"] for message in one.said]) == ("until", ["a", "b"])
