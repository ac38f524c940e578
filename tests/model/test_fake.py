"""The fake answers as scripted, so that a recipe is tested without a model."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from synthray.errors import InputError, ModelError
from synthray.model.calls import Calls
from synthray.model.fake import Fake
from synthray.model.language import Request, Response

REQUEST = Request(
    messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it now."})
)


def asked(fake: Fake, request: Request = REQUEST) -> Response:
    return asyncio.run(fake.open()(request))  # type: ignore[arg-type]


def shouted(request: Request) -> str | Response | ModelError:
    text = request.messages[-1]["content"]
    if request.seed == 1:
        return ModelError("no", "HTTP400")
    return Response(text, "length", 7, 8, 2) if request.seed == 2 else text.upper()


def test_the_seed_draws_one_of_the_answers() -> None:
    fake = Fake(answers=["one", "two", "three"])
    drawn = [asked(fake, replace(REQUEST, seed=seed)).text for seed in range(6)]
    assert drawn == ["one", "two", "three"] * 2
    assert Counter(drawn) == {"one": 2, "two": 2, "three": 2}


def test_tokens_are_counted_in_words_over_all_messages() -> None:
    answer = asked(Fake(answers=["one two three four"]))
    assert (answer.prompt_tokens, answer.completion_tokens) == (5, 4)
    assert (answer.finish_reason, answer.attempts) == ("stop", 1)


def test_a_mapping_is_answered_as_json() -> None:
    assert asked(Fake(answers=[{"b": 1, "a": "é"}])).text == '{"a":"é","b":1}'


def test_an_error_is_raised_with_its_kind_for_this_row_alone_and_is_not_tried_again() -> None:
    with pytest.raises(ModelError, match="scripted failure HTTP500") as caught:
        asked(Fake(answers=[{"error": "HTTP500"}]))
    assert (caught.value.kind, caught.value.fatal, caught.value.again) == ("HTTP500", False, False)


def test_a_failure_in_a_script_is_that_of_the_model_with_its_retries() -> None:
    failures = [ModelError("no", "HTTP503", again=True, after_s=0.0, billed=True)]
    fake = Fake(script=lambda _: failures.pop() if failures else "at last", retries=1)
    calls = Calls(fake, None)
    response = calls.run(calls.ask(REQUEST, ("row", "step", 0))).response
    assert (response.text, response.attempts) == ("at last", 2)


def test_a_script_sees_the_request_and_answers_text_response_or_error() -> None:
    fake = Fake(script=shouted)
    assert asked(fake).text == "SAY IT NOW."
    assert asked(fake, replace(REQUEST, seed=2)) == Response("Say it now.", "length", 7, 8, 2)
    with pytest.raises(ModelError) as caught:
        asked(fake, replace(REQUEST, seed=1))
    assert caught.value.kind == "HTTP400"


def test_who_answers_is_the_script_and_the_answers() -> None:
    assert Fake(script=shouted).identity()["script"] == "shouted"
    assert Fake(answers=["a"]).identity() != Fake(answers=["b"]).identity()
    assert Fake(answers=["a"], in_flight=1).identity() == Fake(answers=["a"]).identity()


def test_a_fake_without_answers_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"fake needs answers, such as answers: \[one, two\]"):
        Fake(answers=[]).check()
    Fake(answers=[], script=shouted).check()
    Fake().check()
