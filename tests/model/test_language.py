"""A call's key is its content and, where answers are drawn, the draw."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from synthray.model.language import Language, Request, call_key

REQUEST = Request(messages=({"role": "user", "content": "Say é."},), schema={"type": "object"})
IDENTITY = {"language": "openai", "name": "m"}
DRAW = ("row", "step", 0)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"messages": ({"role": "user", "content": "Say e."},)}, id="prompt"),
        pytest.param({"messages": ({"role": "system", "content": "Say é."},)}, id="role"),
        pytest.param({"max_tokens": 257}, id="max_tokens"),
        pytest.param({"temperature": 0.9}, id="temperature"),
        pytest.param({"top_p": 0.9}, id="top_p"),
        pytest.param({"stop": ("\n",)}, id="stop"),
        pytest.param({"schema": {"type": "string"}}, id="schema"),
        pytest.param({"schema": None}, id="no schema"),
    ],
)
def test_a_key_changes_with_all_that_decides_the_answer(change: dict[str, Any]) -> None:
    assert call_key(IDENTITY, replace(REQUEST, **change), DRAW) != call_key(IDENTITY, REQUEST, DRAW)


def test_a_key_changes_with_the_model_and_with_the_draw() -> None:
    draws = [None, DRAW, ("other", "step", 0), ("row", "other", 0), ("row", "step", 1)]
    keys = {call_key(IDENTITY, REQUEST, draw) for draw in draws}
    assert len(keys) == len(draws)
    assert call_key({**IDENTITY, "name": "n"}, REQUEST, DRAW) not in keys


def test_a_key_is_the_same_for_the_same_call_whatever_its_seed_and_order_of_words() -> None:
    key = call_key(IDENTITY, REQUEST, DRAW)
    assert call_key(dict(reversed(IDENTITY.items())), replace(REQUEST, seed=99), DRAW) == key
    turned = replace(REQUEST, messages=({"content": "Say é.", "role": "user"},))
    assert call_key(IDENTITY, turned, DRAW) == key
    assert key == "d16bc3931b3cca322f37c663", "a new version must find the calls that an old one kept"


def test_the_content_of_a_request_is_json_without_the_seed() -> None:
    content = json.loads(json.dumps(replace(REQUEST, stop=("a", "b"), seed=3).content()))
    assert content == {
        "messages": [{"role": "user", "content": "Say é."}],
        "max_tokens": 256,
        "temperature": 1.0,
        "top_p": 1.0,
        "stop": ["a", "b"],
        "schema": {"type": "object"},
    }


def test_limits_are_no_part_of_who_answers() -> None:
    assert Language(in_flight=1, timeout_s=1, retries=0).identity() == Language().identity()


def test_a_language_that_opens_to_nothing_says_so() -> None:
    with pytest.raises(TypeError, match="Language defines no open"):
        Language().open()
