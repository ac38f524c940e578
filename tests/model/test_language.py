"""A call's key is its content and, where answers are drawn, the draw."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

from synthray.errors import InputError
from synthray.model.language import Choice, Language, Request, Response, call_key

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
        pytest.param({"n": 2}, id="n"),
        pytest.param({"prompt": "Say é."}, id="raw"),
        pytest.param({"prompt": ""}, id="raw and empty"),
        pytest.param({"prefill": "{"}, id="prefill"),
        pytest.param({"logprobs": 0}, id="logprobs"),
        pytest.param({"logprobs": 5}, id="more logprobs"),
        pytest.param({"logit_bias": {"7": -100}}, id="logit_bias"),
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


def test_what_a_request_does_not_use_is_no_part_of_its_content() -> None:
    every = Request(n=3, prompt="Once", prefill=" upon", logprobs=2, logit_bias={"7": 1.5})
    content = json.loads(json.dumps(every.content()))
    used = {"n": 3, "prompt": "Once", "prefill": " upon", "logprobs": 2, "logit_bias": {"7": 1.5}}
    assert content == {**json.loads(json.dumps(Request().content())), **used}
    for name, value in used.items():
        assert replace(Request(), **{name: value}).content().keys() - Request().content().keys() == {name}


def test_every_setting_of_a_request_but_the_seed_is_in_its_content() -> None:
    other = {
        "messages": ({"role": "user", "content": "x"},),
        "max_tokens": 1,
        "temperature": 0.5,
        "top_p": 0.5,
        "stop": ("x",),
        "schema": {},
        "n": 2,
        "prompt": "x",
        "prefill": "x",
        "logprobs": 1,
        "logit_bias": {"1": 1.0},
    }
    assert {one.name for one in fields(Request)} == {*other, "seed"}
    contents = [replace(Request(), **{name: value}).content() for name, value in other.items()]
    keys = {call_key(IDENTITY, replace(Request(), **{name: value}), DRAW) for name, value in other.items()}
    assert all(content != Request().content() for content in contents)
    assert len(keys | {call_key(IDENTITY, Request(), DRAW)}) == len(other) + 1


def test_all_answers_of_a_call_are_its_choices() -> None:
    more = (Choice("b", "length"), Choice("c"))
    assert Response("a", logprobs=[{"token": "a"}], more=more).choices() == (
        Choice("a", "stop", [{"token": "a"}]),
        *more,
    )


@dataclass(frozen=True)
class Plain(Language):
    """Can do nothing but chat."""

    @property
    def lacks(self) -> frozenset[str]:
        return frozenset({"raw completion", "n", "prefill", "logprobs", "logit_bias", "schema", "stop"})


@pytest.mark.parametrize(
    ("asked", "feature"),
    [
        ({"prompt": ""}, "raw completion"),
        ({"n": 2}, "n"),
        ({"prefill": "{"}, "prefill"),
        ({"logprobs": 0}, "logprobs"),
        ({"logit_bias": {"7": 1.0}}, "logit_bias"),
        ({"schema": {"type": "object"}}, "schema"),
        ({"stop": ("x",)}, "stop"),
    ],
)
def test_what_a_model_cannot_do_is_told_before_any_call(asked: dict[str, Any], feature: str) -> None:
    request = Request(**asked)
    Language().check_request(request)
    Plain().check_request(Request(logit_bias={}))
    with pytest.raises(InputError) as caught:
        Plain().check_request(request)
    assert str(caught.value) == (
        f"model: {Plain().kind} has no {feature}; choose another model or leave it out"
    )


def test_a_budget_in_dollars_needs_a_price() -> None:
    Language(budget_tokens=5).check_limits()
    Language(budget_usd=5, price={"input": 1, "output": 2}).check_limits()
    with pytest.raises(InputError, match=r"budget_usd needs the model's price.*; add price: \{input: 0.15"):
        Language(budget_usd=5).check_limits()
    with pytest.raises(InputError, match="price must say input and output"):
        Language(price={"input": 1}).check_limits()


@pytest.mark.parametrize("name", ["budget_usd", "budget_tokens", "tokens_per_minute"])
def test_no_limit_on_tokens_holds_for_answers_of_any_length(name: str) -> None:
    language = Language(**{name: 1000})
    language.check_request(Request(max_tokens=1000))
    Language(requests_per_minute=1).check_request(Request(max_tokens=None))
    with pytest.raises(InputError, match=f"^{name} cannot be kept without max_tokens: "):
        language.check_request(Request(max_tokens=None))


def test_limits_that_no_answer_could_keep_are_all_named() -> None:
    both = Language(budget_usd=1, budget_tokens=1, tokens_per_minute=1)
    with pytest.raises(
        InputError, match=r"^budget_usd and budget_tokens and tokens_per_minute cannot be kept"
    ):
        both.check_request(Request(max_tokens=None))


def test_a_call_that_no_minute_could_hold_is_told_before_it_is_sent() -> None:
    language = Language(tokens_per_minute=1000)
    language.check_request(Request(max_tokens=500, n=2))
    with pytest.raises(InputError, match=r"max_tokens x n is 1002, more than tokens_per_minute \(1000\)"):
        language.check_request(Request(max_tokens=501, n=2))


def test_a_process_more_asks_for_every_256_calls_in_flight_as_far_as_there_are_cores() -> None:
    asking = [Language(in_flight=calls).workers(nodes=1, cores=4) for calls in (1, 256, 257, 1024, 10_000)]
    assert asking == [1, 1, 2, 4, 4]
    assert Language().workers(nodes=1, cores=0) == 1
