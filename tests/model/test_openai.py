"""What goes over the wire to an OpenAI-compatible endpoint, and how each bad answer is called."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import certifi
import pytest

from synthray.errors import InputError, ModelError
from synthray.model.language import Request, Response
from synthray.model.openai import OpenAI

REQUEST = Request(messages=({"role": "user", "content": "Say é."},), max_tokens=9, temperature=0.5, seed=3)
GOOD = {
    "choices": [{"message": {"role": "assistant", "content": "Été."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
# What the openai client reads by itself; a developer's own must not decide a test.
OWN_VARIABLES = ("API_KEY", "ADMIN_KEY", "BASE_URL", "ORG_ID", "PROJECT_ID", "CUSTOM_HEADERS")


@dataclass
class Endpoint:
    """A server on loopback that answers each request with the next of `script`, the last one for ever.

    An answer is (status, body): JSON of a mapping or list, or raw bytes. `None` never answers, and a number
    sends that many bytes of a good answer and hangs up.
    """

    url: str = ""
    script: list[Any] = field(default_factory=lambda: [(200, GOOD)])
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def next(self) -> Any:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file with one of the known certificates; each client loads them all, which takes its time."""
    end = "-----END CERTIFICATE-----\n"
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(certifi.contents().partition(end)[0] + end)
    return str(path)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, certificate: str) -> Iterator[Endpoint]:
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    for name in OWN_VARIABLES:
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)
    held = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            held.requests.append((self.command, self.path, headers, json.loads(body) if body else None))
            answer = held.next()
            if answer is None:
                held.released.wait(10)
                return
            status, sent = answer if isinstance(answer, tuple) else (200, GOOD)
            raw = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(raw[:answer] if isinstance(answer, int) else raw)

        do_CONNECT = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield held
    held.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def model(endpoint: Endpoint) -> OpenAI:
    return OpenAI(name="m-1", base_url=endpoint.url, retries=0)


def ask(model: OpenAI, request: Request = REQUEST) -> Response:
    async def asked() -> Response:
        return await model.open()(request)

    return asyncio.run(asked())


def failed(model: OpenAI) -> ModelError:
    with pytest.raises(ModelError) as caught:
        ask(model)
    return caught.value


def test_a_good_answer_comes_with_its_usage(model: OpenAI) -> None:
    assert ask(model) == Response("Été.", "stop", prompt_tokens=5, completion_tokens=2, attempts=1)


def test_a_request_has_the_wire_format_of_chat_completions(endpoint: Endpoint, model: OpenAI) -> None:
    ask(model)
    method, path, headers, body = endpoint.requests[0]
    assert (method, path) == ("POST", "/v1/chat/completions")
    assert headers["content-type"] == "application/json"
    assert body == {
        "model": "m-1",
        "messages": [{"role": "user", "content": "Say é."}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 1.0,
    }


def test_stop_seed_and_schema_are_sent_when_they_are_set(endpoint: Endpoint, model: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    ask(replace(model, send_seed=True), replace(REQUEST, stop=("\n", "END"), schema=schema))
    body = endpoint.requests[0][3]
    assert body["stop"] == ["\n", "END"]
    assert body["seed"] == 3
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again_and_the_attempts_are_counted(
    endpoint: Endpoint, model: OpenAI, status: int
) -> None:
    endpoint.script[:0] = [(status, {"error": {"message": "busy"}})]
    assert ask(replace(model, retries=3)).attempts == 2
    assert len(endpoint.requests) == 2
    assert endpoint.requests[0][3] == endpoint.requests[1][3]


@pytest.mark.parametrize(
    ("status", "fatal"),
    [
        (400, False),
        (401, True),
        (403, True),
        (404, True),
        (413, False),
        (422, False),
        (429, False),
        (500, False),
    ],
)
def test_a_refusal_is_named_by_its_status_and_is_fatal_when_all_would_be_refused(
    endpoint: Endpoint, model: OpenAI, status: int, fatal: bool
) -> None:
    endpoint.script = [(status, {"error": {"message": "because of this"}})]
    error = failed(model)
    assert (error.kind, error.fatal, error.attempts) == (f"HTTP{status}", fatal, 1)
    assert endpoint.url in str(error)
    assert f"answered {status} to model 'm-1'" in str(error)
    assert "because of this" in str(error)


def test_errors_without_end_are_given_up_after_the_retries(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script = [(500, {"error": {"message": "down"}})]
    error = failed(replace(model, retries=2))
    assert (error.kind, error.attempts, len(endpoint.requests)) == ("HTTP500", 3, 3)


def test_a_wrong_request_is_sent_once(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script = [(400, {"error": {"message": "wrong"}})]
    assert failed(replace(model, retries=5)).attempts == len(endpoint.requests) == 1


def test_half_an_answer_is_no_answer(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script = [40]
    error = failed(model)
    assert (error.kind, error.fatal) == ("Connection", False)
    assert endpoint.url in str(error)


def test_half_an_answer_is_asked_for_again(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script[:0] = [40]
    assert ask(replace(model, retries=1)).attempts == 2


def choice(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "content_filter"}]}


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        pytest.param(b"<html>It works!</html>", "BadResponse", "sent no JSON", id="HTML"),
        pytest.param(b"", "BadResponse", "sent no JSON", id="nothing"),
        pytest.param(b'{"a": "\xff"}', "BadResponse", "sent no JSON", id="no UTF-8"),
        pytest.param({"object": "list"}, "BadResponse", "not a chat completion: .*'list'", id="no choices"),
        pytest.param({"choices": []}, "BadResponse", "not a chat completion", id="empty choices"),
        pytest.param({"choices": [{"text": "x"}]}, "BadResponse", "not a chat", id="no message"),
        pytest.param([1, 2], "BadResponse", "not a chat completion", id="a list"),
        pytest.param(None, "BadResponse", "not a chat completion: None", id="null"),
        pytest.param({**GOOD, "usage": [1]}, "BadResponse", "not a chat completion", id="usage a list"),
        pytest.param(choice(content=None), "NoText", "finish_reason 'content_filter'", id="content null"),
        pytest.param(choice(content=["a"]), "NoText", "no text", id="content a list"),
        pytest.param(choice(refusal="no"), "BadResponse", "not a chat completion", id="no content"),
    ],
)
def test_an_answer_that_is_no_chat_completion_fails_this_call_alone(
    endpoint: Endpoint, model: OpenAI, body: Any, kind: str, message: str
) -> None:
    endpoint.script = [(200, body)]
    with pytest.raises(ModelError, match=message) as caught:
        ask(model)
    assert (caught.value.kind, caught.value.fatal) == (kind, False)


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {}}], ids=["none", "null", "empty"])
def test_an_answer_without_usage_has_unknown_tokens(
    endpoint: Endpoint, model: OpenAI, usage: dict[str, Any]
) -> None:
    endpoint.script = [(200, {"choices": GOOD["choices"], **usage})]
    assert ask(model) == Response("Été.", "stop", prompt_tokens=None, completion_tokens=None)


def test_a_cut_answer_says_so(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script = [(200, {"choices": [{"message": {"content": "Ét"}, "finish_reason": "length"}]})]
    assert ask(model).finish_reason == "length"


def test_half_an_emoji_does_not_make_text_that_no_file_can_hold(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script = [(200, b'{"choices": [{"message": {"content": "cut \\ud83d"}}]}')]
    assert ask(model).text == "cut ?"


def test_an_endpoint_that_does_not_answer_in_time_is_a_timeout(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script = [None]
    error = failed(replace(model, timeout_s=0.1))
    assert (error.kind, error.fatal, error.attempts) == ("Timeout", False, 1)
    assert "gave no answer in 0.1 s" in str(error)


def test_an_endpoint_that_is_not_there_is_named() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        error = failed(OpenAI(name="m-1", base_url=url, retries=0))
    assert (error.kind, error.fatal) == ("Connection", False)
    assert f"{url}/ cannot be reached" in str(error)


def test_the_key_is_read_when_asked_and_sent_as_a_bearer_token(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = replace(model, api_key_env="ACME_KEY")
    monkeypatch.setenv("ACME_KEY", "secret-1")
    ask(keyed)
    monkeypatch.setenv("ACME_KEY", "secret-2")
    ask(keyed)
    sent = [headers["authorization"] for _, _, headers, _ in endpoint.requests]
    assert sent == ["Bearer secret-1", "Bearer secret-2"]


def test_the_key_of_openai_never_goes_to_another_endpoint(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-openai")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "secret-of-openai-too")
    model.check()
    ask(model)
    assert "secret-of-openai" not in str(endpoint.requests)


def test_without_base_url_the_key_goes_to_openai_whatever_the_environment_says(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    # The endpoint stands in as the proxy, which sees where the client wants to go, and refuses.
    monkeypatch.setenv("HTTPS_PROXY", endpoint.url.removesuffix("/v1"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    endpoint.script = [(502, {})]
    failed(OpenAI(name="m-1", retries=0))
    assert [(method, path) for method, path, _, _ in endpoint.requests] == [("CONNECT", "api.openai.com:443")]
    assert "secret-of-openai" not in str(endpoint.requests)


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        pytest.param({}, "OPENAI_API_KEY", id="OpenAI's own"),
        pytest.param({"base_url": "http://x/v1", "api_key_env": "ACME_KEY"}, "ACME_KEY", id="named"),
    ],
)
def test_a_missing_key_is_found_before_any_call(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=rf"{variable} is not set; export {variable}="):
        OpenAI(name="m-1", **settings).check()
    monkeypatch.setenv(variable, "k")
    OpenAI(name="m-1", **settings).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"base_url": "http://x/v1"}, "openai needs name, such as name:", id="no name"),
        pytest.param({"name": "m", "base_url": "localhost:8000"}, "must start with http://", id="no scheme"),
    ],
)
def test_settings_that_reach_no_model_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OpenAI(**settings).check()


def test_the_key_stands_in_nothing_that_is_written_down(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_KEY", "secret-1")
    keyed = replace(model, api_key_env="ACME_KEY")
    keyed.check()
    endpoint.script = [(401, {"error": {"message": "Incorrect API key"}})]
    error = failed(keyed)
    written: list[Callable[[], object]] = [
        lambda: repr(keyed),
        lambda: keyed.identity(),
        lambda: pickle.dumps(keyed),
        lambda: repr(error),
        lambda: pickle.dumps(error),
    ]
    assert not [str(one()) for one in written if "secret-1" in str(one())]


def test_who_answers_is_the_name_and_the_place_and_no_limit(model: OpenAI) -> None:
    assert model.identity() == {"language": "openai", "name": "m-1", "base_url": model.base_url}
    other = replace(model, retries=9, timeout_s=1, in_flight=2, api_key_env="ACME_KEY")
    assert other.identity() == model.identity()
    assert replace(model, name="m-2").identity() != model.identity()


def test_an_error_keeps_all_it_says_on_its_way_to_another_process(model: OpenAI) -> None:
    error = ModelError("why", "HTTP401", fatal=True, attempts=3)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.kind, copy.fatal, copy.attempts) == ("why", "HTTP401", True, 3)
