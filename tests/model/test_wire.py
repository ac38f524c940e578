"""What goes over the wire in OpenAI's format, what comes back, and what each bad answer is called."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from odd import Odd, serving

from synthray.errors import ModelError
from synthray.model.language import Choice, Request, Response
from synthray.model.wire import Wire

if TYPE_CHECKING:
    from endpoint import Endpoint

USER = {"role": "user", "content": "Say é."}
REQUEST = Request(messages=(USER,), max_tokens=9, temperature=0.5, seed=3)
RAW = Request(prompt="Say", max_tokens=9, temperature=0.5)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CHOICE = {"message": {"role": "assistant", "content": "Été."}, "finish_reason": "stop"}
GOOD = {"choices": [CHOICE], "usage": USAGE}
KEY = "secret-key-1"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(scope="module")
def server() -> Iterator[Odd]:
    with serving(GOOD) as held:
        yield held


@pytest.fixture
def odd(server: Odd) -> Odd:
    server.answers.clear()
    server.requests.clear()
    return server


@pytest.fixture(autouse=True)
def no_proxy_of_a_developer_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)


def asked(url: str, *requests: Request, **settings: Any) -> list[Response]:
    async def in_turn() -> list[Response]:
        wire = Wire(url, "m-1", **settings)
        try:
            return [await wire.complete(request) for request in requests]
        finally:
            await wire.close()

    return asyncio.run(in_turn())


def ask(url: str, request: Request = REQUEST, **settings: Any) -> Response:
    return asked(url, request, **settings)[0]


def failed(url: str, request: Request = REQUEST, **settings: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        ask(url, request, **settings)
    return caught.value


def said(error: ModelError) -> tuple[bool, bool, bool]:
    return error.fatal, error.again, error.billed


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "content_filter"}]}


# What is sent.


def test_a_chat_is_sent_as_the_format_has_it_with_nothing_that_was_not_set_and_read(odd: Odd) -> None:
    assert ask(odd.url + "/") == Response("Été.", "stop", prompt_tokens=5, completion_tokens=2)
    (sent,) = odd.requests
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.headers["content-type"] == "application/json"
    assert "authorization" not in sent.headers
    sampling = {"max_tokens": 9, "temperature": 0.5, "top_p": 1.0}
    assert sent.body == {"model": "m-1", "messages": [USER], **sampling}


def test_every_setting_of_a_request_is_sent(odd: Odd) -> None:
    odd.answers = [(200, {"choices": [{**CHOICE, "logprobs": {"content": []}}] * 2})]
    every = replace(REQUEST, stop=("\n", "END"), schema=SCHEMA, n=2, logprobs=4, logit_bias={"7": -100})
    ask(odd.url, every, send_seed=True, limit_name="max_completion_tokens")
    body = odd.requests[0].body
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert (body["max_completion_tokens"], "max_tokens" in body) == (9, False)
    assert (body["stop"], body["seed"], body["response_format"]) == (["\n", "END"], 3, form)
    assert (body["n"], body["logit_bias"]) == (2, {"7": -100})
    assert (body["logprobs"], body["top_logprobs"]) == (True, 4)


def test_an_answer_of_any_length_is_asked_for_without_a_limit(odd: Odd) -> None:
    ask(odd.url, replace(REQUEST, max_tokens=None))
    assert not {"max_tokens", "max_completion_tokens"} & set(odd.requests[0].body)


def test_a_raw_prompt_is_completed_without_a_chat_around_it(odd: Odd) -> None:
    odd.answers = [(200, {"choices": [{"text": " it.", "finish_reason": "length"}], "usage": USAGE})]
    assert ask(odd.url, RAW) == Response(" it.", "length", 5, 2)
    (sent,) = odd.requests
    assert sent.path == "/v1/completions"
    assert (sent.body["prompt"], "messages" in sent.body) == ("Say", False)


@pytest.mark.parametrize("content", ["the rest", "Sure: the rest"], ids=["goes on", "repeats it"])
def test_a_prefill_is_the_assistants_last_message_and_the_text_begins_with_it_once(
    odd: Odd, content: str
) -> None:
    odd.answers = [(200, chat(content=content)), (200, {"choices": [{"text": content}]})]
    answers = asked(odd.url, replace(REQUEST, prefill="Sure: "), replace(RAW, prefill="Sure: "))
    assert [answer.text for answer in answers] == ["Sure: the rest"] * 2
    assert odd.requests[0].body["messages"] == [USER, {"role": "assistant", "content": "Sure: "}]
    assert odd.requests[1].body["prompt"] == "SaySure: "
    assert REQUEST.messages == (USER,)


def test_half_an_emoji_neither_stops_a_request_nor_stands_in_an_answer(odd: Odd) -> None:
    odd.answers = [(200, b'{"choices": [{"message": {"content": "cut \\ud83d"}}]}')]
    half = replace(REQUEST, messages=({"role": "user", "content": "é \ud83d"},))
    assert ask(odd.url, half).text == "cut ?"
    assert odd.requests[0].body["messages"][0]["content"] == "é ?"


# What comes back.


def test_tokens_that_the_endpoint_does_not_count_are_unknown(odd: Odd) -> None:
    usages: list[Any] = [None, {}, {"prompt_tokens": "5", "completion_tokens": -1}]
    usages += [{"prompt_tokens": 5, "completion_tokens": said} for said in (True, None, 0)]
    odd.answers = [(200, {"choices": [CHOICE]}), *((200, {"choices": [CHOICE], "usage": u}) for u in usages)]
    answers = asked(odd.url, *[REQUEST] * 7)
    tokens = [(one.prompt_tokens, one.completion_tokens) for one in answers]
    assert tokens == [*[(None, None)] * 4, *[(5, None)] * 2, (5, 0)]


def test_a_cut_answer_says_so(endpoint: Endpoint) -> None:
    answer = ask(endpoint.url, replace(REQUEST, max_tokens=3))
    assert (len(answer.text.split()), answer.finish_reason, answer.completion_tokens) == (3, "length", 3)


@pytest.mark.parametrize("message", [{"content": None}, {"content": ["a"]}, {"refusal": "no"}], ids=str)
def test_an_answer_without_text_is_an_answer_that_was_paid_for(odd: Odd, message: dict[str, Any]) -> None:
    odd.answers = [(200, {**chat(**message), "usage": USAGE})]
    assert ask(odd.url, replace(REQUEST, logprobs=1)) == Response("", "content_filter", 5, 2)


def test_an_answer_that_says_stop_and_nothing_else_is_told_apart(endpoint: Endpoint) -> None:
    endpoint.script(first=["empty"], words=[1, 2])
    assert ask(endpoint.url).choices() == (Choice("", "no_text"),)


def test_as_many_answers_come_as_were_asked_for(odd: Odd, endpoint: Endpoint) -> None:
    answer = ask(endpoint.url, replace(REQUEST, n=3))
    assert len({choice.text for choice in answer.choices()}) == 3
    odd.answers = [(200, {"choices": [chat(content=text)["choices"][0] for text in "abc"]})]
    assert [one.text for one in ask(odd.url, replace(REQUEST, n=2)).choices()] == ["a", "b"]


@pytest.mark.parametrize("ignored", ["n", "logprobs"])
def test_an_endpoint_that_passes_over_what_was_asked_for_is_of_no_use(
    endpoint: Endpoint, ignored: str
) -> None:
    endpoint.script(ignore=[ignored])
    error = failed(endpoint.url, replace(REQUEST, **{ignored: 3}))
    assert (error.kind, *said(error)) == ("Unsupported", True, False, True)
    assert f"{endpoint.url} has no {ignored}: it sent " in str(error)


def test_logprobs_have_one_form_wherever_they_come_from(endpoint: Endpoint) -> None:
    for request in (replace(REQUEST, logprobs=2), replace(RAW, logprobs=2)):
        answer = ask(endpoint.url, request)
        assert "".join(token["token"] for token in answer.logprobs or ()) == answer.text
        for token in answer.logprobs or ():
            assert set(token) == {"token", "logprob", "top"}
            assert len(token["top"]) == 2
            assert token["top"][token["token"]] == token["logprob"] < 0


def test_logprobs_without_alternatives_have_none(odd: Odd) -> None:
    plain = {"token": "Été", "logprob": -0.1, "bytes": None}
    legacy = {"tokens": ["Été"], "token_logprobs": [-0.1], "top_logprobs": [{"Été": -0.1}]}
    odd.answers = [
        (200, {"choices": [{"message": {"content": "Été"}, "logprobs": {"content": [plain]}}]}),
        (200, {"choices": [{"text": "Été", "logprobs": legacy}]}),
    ]
    for answer in asked(odd.url, replace(REQUEST, logprobs=0), replace(RAW, logprobs=0)):
        assert answer.logprobs == [{"token": "Été", "logprob": -0.1, "top": {}}]
    assert "top_logprobs" not in odd.requests[0].body
    assert odd.requests[1].body["logprobs"] == 1  # llama.cpp takes 0 for none at all


# What goes wrong.

REFUSED, AGAIN, OF_THE_ROW = (True, False, False), (False, True, False), (False, False, False)


@pytest.mark.parametrize(
    ("status", "means"),
    [
        *((status, REFUSED) for status in (301, 302, 304, 307, 308, 401, 403, 404)),
        *((status, AGAIN) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529, 599)),
        *((status, OF_THE_ROW) for status in (202, 400, 413, 418, 422, 451)),
    ],
)
def test_a_status_says_whether_it_is_for_this_row_for_now_or_for_all(
    odd: Odd, status: int, means: tuple[bool, bool, bool]
) -> None:
    body: Any = b"" if status == 304 else {"error": {"message": "because of this"}}
    odd.answers = [(status, body, {"Location": f"{odd.url}/elsewhere"})]
    error = failed(odd.url)
    # Whoever gave up waiting for an answer may have been charged for it.
    means = (*means[:2], status in (408, 504))
    assert (error.kind, *said(error), error.after_s) == (f"HTTP{status}", *means, None)
    assert f"{odd.url} answered {status} to model 'm-1'" in str(error)
    assert status == 304 or "because of this" in str(error)
    assert [sent.path for sent in odd.requests] == ["/v1/chat/completions"]


def test_an_account_without_credit_is_not_asked_again(endpoint: Endpoint) -> None:
    endpoint.script(first=["quota"])
    error = failed(endpoint.url)
    assert (error.kind, *said(error)) == ("HTTP429", *REFUSED)
    assert "no credit left" in str(error)


@pytest.mark.parametrize(
    ("status", "parameter", "code", "fatal"),
    [
        (400, "seed", None, True),
        (422, "response_format", None, True),
        (400, "temperature", "unsupported_value", True),
        (400, "max_tokens", "unsupported_parameter", True),
        (400, "max_tokens", None, False),
        (400, "stop", None, False),  # was not sent
        (413, "seed", None, False),
    ],
)
def test_a_setting_that_is_refused_is_refused_for_all_and_named(
    odd: Odd, status: int, parameter: str, code: str | None, fatal: bool
) -> None:
    odd.answers = [(status, {"error": {"message": "no", "param": parameter, "code": code}})]
    error = failed(odd.url, replace(REQUEST, schema=SCHEMA), send_seed=True)
    assert (error.kind, *said(error)) == (f"HTTP{status}", fatal, False, False)
    assert (f"the endpoint takes no {parameter}" in str(error)) is fatal


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "no", "code": "context_length_exceeded", "param": "messages"}),
        (
            400,
            {"message": "request (301 tokens) exceeds the available context size (256 tokens)", "code": 400},
        ),
        (400, {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000"}),
        (413, {"message": "prompt is too long: 200001 tokens > 200000 maximum"}),
    ],
)
def test_a_prompt_that_the_model_cannot_hold_is_one_rows_failure_and_its_cures_are_named(
    odd: Odd, status: int, error: dict[str, Any]
) -> None:
    odd.answers = [(status, {"error": error})]
    found = failed(odd.url, larger="raise context")
    assert (found.kind, *said(found)) == ("ContextWindow", False, False, False)
    assert str(error["message"])[:300] in str(found)
    assert re.search(r"make the prompt shorter .* lower max_tokens, or raise context$", str(found))


def test_words_about_context_in_another_refusal_change_nothing(odd: Odd) -> None:
    odd.answers = [(500, {"error": {"message": "context size"}}), (400, {"error": {"message": "no context"}})]
    assert [failed(odd.url).kind, failed(odd.url).kind] == ["HTTP500", "HTTP400"]


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "0.25"}, 0.25, 0.25),
        ({"retry-after-ms": "40", "Retry-After": "7"}, 0.04, 0.04),
        ({"retry-after-ms": "soon", "Retry-After": "7"}, 7, 7),
        ({"Retry-After": "-3"}, 0, 0),
        ({"Retry-After": "nan"}, 0, 0),
        ({"Retry-After": formatdate(time.time() + 36_000, usegmt=True)}, 30_000, 36_000),
        ({"Retry-After": formatdate(0, usegmt=True)}, 0, 0),
    ],
)
def test_an_endpoint_says_how_long_it_wants_to_be_left_alone(
    odd: Odd, headers: dict[str, str], least: float, most: float
) -> None:
    odd.answers = [(status, {}, headers) for status in (429, 503)]
    for _ in range(2):
        after = failed(odd.url).after_s
        assert after is not None
        assert least <= after <= most


def test_a_wish_that_is_none_is_passed_over(odd: Odd) -> None:
    odd.answers = [(429, {}, {"Retry-After": "later"})]
    assert failed(odd.url).after_s is None


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        pytest.param({"error": {"message": "in OpenAI's form"}}, "in OpenAI's form", id="error object"),
        pytest.param({"error": "a text"}, "a text", id="error text"),
        pytest.param({"detail": "FastAPI's form"}, "FastAPI's form", id="another object"),
        pytest.param({"error": {"code": 7}}, "'code': 7", id="no message"),
        pytest.param(["a list"], "a list", id="list"),
        pytest.param(b"<html>Bad gateway</html>", "<html>Bad gateway</html>", id="HTML"),
        pytest.param(b"\xff\xfe", "\ufffd", id="no text"),
        pytest.param(b"[" * 100_000, "[[[", id="deep"),
        pytest.param(b"", "answered 500", id="nothing"),
    ],
)
def test_an_endpoints_words_are_shown_and_not_all_of_them(odd: Odd, body: Any, shown: str) -> None:
    odd.answers = [(500, body)]
    error = str(failed(odd.url))
    assert shown in error
    assert len(error) < 400


NO_JSON = [b"<html>It works!</html>", b"", b'{"a": "\xff"}', b"[" * 99_999]
NO_CHOICES = [{"object": "list"}, {"choices": None}, {"choices": []}, {"choices": ["a"]}, [1, 2], None]
NO_MESSAGE = [{"choices": [{"text": "x"}]}, {"choices": [{"message": "x"}]}, {**GOOD, "usage": [1]}]


@pytest.mark.parametrize("body", [*NO_JSON, *NO_CHOICES, *NO_MESSAGE], ids=lambda body: str(body)[:30])
def test_an_answer_that_is_none_may_be_better_next_time_and_was_paid_for(odd: Odd, body: Any) -> None:
    odd.answers = [(200, body)]
    error = failed(odd.url)
    assert (error.kind, *said(error)) == ("BadResponse", False, True, True)
    assert ("sent no JSON: " if body in NO_JSON else f"sent no completion: {body}"[:60]) in str(error)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("malformed", "BadResponse", "sent no JSON"),
        ("html", "BadResponse", "sent no JSON"),
        ("hang", "Timeout", "gave no answer in 0.3 s"),
        ("reset", "Connection", "hung up"),
        ("half", "Connection", "hung up"),
    ],
)
def test_what_was_sent_and_got_no_answer_may_have_been_paid_for(
    endpoint: Endpoint, fault: str, kind: str, message: str
) -> None:
    endpoint.script(first=[fault])
    error = failed(endpoint.url, timeout_s=0.3 if fault == "hang" else 60)
    assert (error.kind, *said(error)) == (kind, False, True, True)
    assert endpoint.url in str(error)
    assert message in str(error)
    assert endpoint.summary()["total"] == 1


def test_an_answer_larger_than_any_is_not_read_to_its_end(odd: Odd) -> None:
    odd.answers = [(200, b" " * (8 << 20) + json.dumps(GOOD).encode()), (200, b" " * (7 << 20) + b'{"a": 1}')]
    assert "larger than 8 MiB" in str(failed(odd.url))
    assert "sent no completion" in str(failed(odd.url))


def test_an_endpoint_that_is_not_there_is_named_and_paid_nothing() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        error = failed(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert (error.kind, *said(error)) == ("Connection", *AGAIN)
    assert "/v1 cannot be reached: " in str(error)


def test_a_connection_that_is_not_made_in_time_has_sent_nothing() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):  # nobody accepts them: the next one gets no answer at all
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        error = failed(f"http://127.0.0.1:{full.getsockname()[1]}/v1", timeout_s=0.4)
    assert (error.kind, *said(error)) == ("Connection", *AGAIN)


@pytest.mark.parametrize("url", ["http:///v1", "http://[bad/v1", "http://a..b/v1", "http://x:99999/v1"])
def test_an_address_that_is_none_is_none_for_all(url: str) -> None:
    error = failed(url)
    assert (error.kind, *said(error)) == ("Connection", *REFUSED)
    assert f"{url} cannot be asked" in str(error)


# The key, and the environment.


def test_the_key_is_a_bearer_token_and_stands_in_no_error(odd: Odd) -> None:
    echoes: list[Any] = [
        (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}),
        (500, f"{'x' * (300 - len(KEY) // 2)}{KEY}".encode()),
        (200, {"echo": f"{KEY}"}),
        (200, {"echo": f"{'x' * (190 - len(KEY) // 2)}{KEY}"}),
    ]
    odd.answers = list(echoes)
    for _ in echoes:
        error = failed(odd.url, key=KEY)
        assert odd.requests.pop().headers["authorization"] == f"Bearer {KEY}"
        assert "secret" not in f"{error!r}{vars(error)}{pickle.dumps(error)!r}"
    assert said(failed(odd.url, key="two\nlines")) == REFUSED
    assert odd.requests == []


def test_an_answer_that_echoes_the_key_is_kept_without_it(odd: Odd) -> None:
    odd.answers = [(200, {"choices": [chat(content=f"You sent {KEY}!")["choices"][0]] * 2})]
    answer = ask(odd.url, replace(REQUEST, n=2), key=KEY)
    assert [choice.text for choice in answer.choices()] == ["You sent [key]!"] * 2


def test_a_proxy_that_refuses_has_not_seen_the_key_and_nothing_was_paid(
    odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", odd.url.removesuffix("/v1").replace("//", "//me:password@"))
    odd.answers = [(502, {})]
    error = failed("https://api.openai.com/v1", key=KEY)
    assert (error.kind, *said(error)) == ("Connection", *AGAIN)
    assert "the proxy answered 502" in str(error)
    assert "password" not in str(error)
    assert [(sent.method, sent.path) for sent in odd.requests] == [("CONNECT", "api.openai.com:443")]
    assert KEY not in str(odd.requests)


# Connections.


def test_one_connection_serves_call_after_call_and_keeps_no_cookies(odd: Odd) -> None:
    odd.answers = [(200, GOOD, {"Set-Cookie": "who=me; Path=/"})]
    url = odd.url.replace("127.0.0.1", "localhost")  # an address has no cookies anyway
    assert [answer.text for answer in asked(url, REQUEST, REQUEST, REQUEST)] == ["Été."] * 3
    assert len({sent.port for sent in odd.requests}) == 1
    assert not [sent for sent in odd.requests if "cookie" in sent.headers]


def test_a_wire_that_was_closed_connects_anew(odd: Odd) -> None:
    async def twice() -> list[Response]:
        wire = Wire(odd.url, "m-1")
        answers = []
        for _ in range(2):
            answers.append(await wire.complete(REQUEST))
            await wire.close()
        await wire.close()
        return answers

    assert asyncio.run(twice())[1].text == "Été."
    assert len({sent.port for sent in odd.requests}) == 2
