"""The scripted endpoint does what its script says: its faults are real, its counts are right, its answers fit."""

from __future__ import annotations

import http.client
import json
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import jsonschema
import openai
import pytest
from endpoint import ERRORS, Endpoint, Refusal, Script, Server

PROPERTIES = {
    "tone": {"type": "string", "enum": ["dry", "very warm"]},
    "score": {"type": "integer", "minimum": 3, "maximum": 5},
    "share": {"type": "number", "maximum": -1},
    "tags": {"type": "array", "items": {"type": "boolean"}},
    "inner": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": [*PROPERTIES]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


def ask(endpoint: Endpoint, text: str = "Say it.", timeout: float = 10, **body: Any) -> tuple[int, Any, str]:
    sent = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **body})
    with closing(http.client.HTTPConnection(endpoint.url.split("/")[2], timeout=timeout)) as connection:
        connection.request("POST", "/v1/chat/completions", sent, {"Authorization": "Bearer sesame"})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def content(answer: tuple[int, Any, str]) -> Any:
    return json.loads(answer[2])["choices"][0]["message"]["content"]


def test_a_reset_half_an_answer_and_silence_are_what_a_socket_sees() -> None:
    with Endpoint(first=["reset", "half", "hang"]) as endpoint:
        with pytest.raises(ConnectionResetError) as reset:
            ask(endpoint)
        assert reset.type is ConnectionResetError  # and no RemoteDisconnected, which a mere close is
        with pytest.raises(http.client.IncompleteRead) as half:
            ask(endpoint)
        assert abs(len(half.value.partial) - (half.value.expected or 0)) <= 1
        with pytest.raises(TimeoutError):
            ask(endpoint, timeout=0.2)
        assert [hit["status"] for hit in endpoint.hits()] == ["reset", "half", "hang"]
        assert endpoint.summary()["in_flight"] == 0


def test_an_error_has_its_status_and_an_error_object() -> None:
    with Endpoint(first=sorted(ERRORS), retry_after=0.25) as endpoint:
        for fault in sorted(ERRORS):
            status, headers, body = ask(endpoint)
            assert (f"{status}", json.loads(body)["error"]["param"]) == (fault, None)
            assert headers["retry-after"] == ("0.25" if fault == "429" else None)


def test_bad_answers_are_bad_in_their_own_way() -> None:
    faults = ["malformed", "html", "quota", "empty", "schema", "fenced", "no_usage", "long"]
    with Endpoint(first=faults) as endpoint:
        got = {fault: ask(endpoint, response_format=FORMAT, max_tokens=90) for fault in faults}
        assert endpoint.summary()["by_fault"] == dict.fromkeys(faults, 1)
    assert got["html"][1]["content-type"] == "text/html"
    with pytest.raises(json.JSONDecodeError):
        content(got["malformed"])
    assert (got["quota"][0], json.loads(got["quota"][2])["error"]["code"]) == (429, "insufficient_quota")
    assert content(got["empty"]) is None
    assert list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(json.loads(content(got["schema"]))))
    jsonschema.validate(json.loads(content(got["fenced"]).split("```json")[1].split("```")[0]), SCHEMA)
    assert "usage" not in json.loads(got["no_usage"][2])
    assert (len(content(got["long"]).split()), '"completion_tokens":900' in got["long"][2]) == (900, True)


def test_each_request_gets_its_own_row_of_faults() -> None:
    with Endpoint(per_request=["429", "500"]) as endpoint:
        assert [ask(endpoint, text)[0] for text in "abababa"] == [429, 429, 500, 500, 200, 200, 200]
        assert sorted(endpoint.counts().values()) == [3, 4]


def test_answers_and_faults_are_drawn_from_the_request_alone() -> None:
    faults = {"500": 0.3, "429": 0.2}
    with Endpoint(faults=faults) as one, Endpoint(faults=faults) as other:
        answers = [ask(one, f"{number}") for number in range(40)]
        assert [ask(other, f"{number}")[2] for number in reversed(range(40))] == [a[2] for a in answers][::-1]
    texts = [content(answer) for answer in answers if answer[0] == 200]
    assert 0 < len(texts) == len(set(texts)) < 40
    drawn = [Script(faults=faults).fault(f"{number:x}", 1) for number in range(4000)]
    assert drawn.count("500") / 4000 == pytest.approx(0.3, abs=0.03)
    delays = sorted(Script(latency={"lognormal": [2, 5]}).delay(f"{n:x}", 1) for n in range(4000))
    assert (delays[2000], delays[3960]) == (pytest.approx(2, rel=0.1), pytest.approx(5, rel=0.15))


def test_what_is_in_flight_is_counted_and_limited() -> None:
    with Endpoint(latency=0.4, concurrency=6) as endpoint:
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda number: ask(endpoint, f"{number}")[0], range(8)))
        assert (statuses.count(200), statuses.count(429)) == (6, 2)
        assert 7 <= endpoint.summary()["max_in_flight"] <= 8
        with pytest.raises(TimeoutError):
            ask(endpoint, timeout=0.1)
        assert endpoint.hits()[-1]["status"] == "left"


def test_the_rate_is_limited_and_the_fullest_window_found() -> None:
    with Endpoint(requests_per_minute=6) as endpoint:
        assert [ask(endpoint, text)[0] for text in "abc"] == [200, 429, 429]
    server = Server(Script(requests_per_minute=600))
    assert [server.limit() for _ in range(10)] == [None] * 10  # a second's worth at once
    with pytest.raises(Refusal):
        server.limit()
    server.hits = [("id", at, 200, None, None, 0, 0, "", None) for at in (0, 50, 59.5, 60, 100, 200)]
    assert [server.summary(window)["max_in_window"] for window in (1, 10, 10.5, 60, 300)] == [2, 2, 3, 4, 6]


def test_keys_models_and_parameters_are_refused_or_passed_over() -> None:
    with Endpoint(require_key="other", record_headers=True) as endpoint:
        assert (ask(endpoint)[0], "sesame" in ask(endpoint)[2]) == (401, True)
        assert endpoint.hits()[0]["headers"]["authorization"] == "Bearer sesame"
        endpoint.script(require_key="sesame", models=["m"], refuse=["logit_bias"], ignore=["n"])
        assert json.loads(ask(endpoint, logit_bias={})[2])["error"]["param"] == "logit_bias"
        assert (ask(endpoint, model="x")[0], len(json.loads(ask(endpoint, n=3)[2])["choices"])) == (404, 1)


def test_the_openai_client_reads_every_kind_of_answer() -> None:
    sent: Any = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
    with Endpoint() as endpoint, openai.OpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client:
        for seed in range(50):
            answer = client.chat.completions.create(**sent, response_format=FORMAT, seed=seed)
            jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)
        chat = client.chat.completions.create(**sent, n=3, logprobs=True, top_logprobs=4, max_tokens=5)
        raw: Any = client.completions.create(model="m", prompt="one two", logprobs=2).choices[0]
    assert "".join(raw.logprobs.tokens) == raw.text
    assert len({choice.message.content for choice in chat.choices}) == 3
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (7, 15)
    for choice in chat.choices:
        assert choice.finish_reason == "length"
        assert "".join(one.token for one in choice.logprobs.content) == choice.message.content
        assert all(sum(math.exp(t.logprob) for t in o.top_logprobs) < 1 for o in choice.logprobs.content)


def test_it_ends_with_its_parent_and_takes_no_wrong_script() -> None:
    with Endpoint() as endpoint:
        endpoint.process.stdin.close()  # type: ignore[union-attr]
        assert endpoint.process.wait(timeout=10) == 0
    with pytest.raises(ValueError, match="no such faults"):
        Endpoint(first=["418"])
