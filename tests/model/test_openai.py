"""Which endpoint is asked with which key: the settings, and nothing else that the environment may say."""

from __future__ import annotations

import asyncio
import pickle
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from synthray.errors import InputError, ModelError
from synthray.model.language import Request, Response
from synthray.model.openai import OpenAI

if TYPE_CHECKING:
    from endpoint import Endpoint

USER = {"role": "user", "content": "Say é."}
REQUEST = Request(messages=(USER,), max_tokens=9, temperature=0.5, seed=3)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
OPENAI = "https://api.openai.com/v1"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
OWN_VARIABLES = ("API_KEY", "ADMIN_KEY", "BASE_URL", "ORG_ID", "PROJECT_ID", "CUSTOM_HEADERS")


@pytest.fixture
def endpoint(endpoint: Endpoint) -> Endpoint:
    endpoint.script(record_headers=True)
    return endpoint


@pytest.fixture
def model(endpoint: Endpoint) -> OpenAI:
    return OpenAI(name="m-1", base_url=endpoint.url)


@pytest.fixture(autouse=True)
def no_variable_of_a_developer_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.lower, PROXIES), *(f"OPENAI_{name}" for name in OWN_VARIABLES)):
        monkeypatch.delenv(name, raising=False)


def ask(model: OpenAI, request: Request = REQUEST) -> Response:
    async def asked() -> Response:
        complete: Any = model.open()
        try:
            return await complete(request)
        finally:
            await complete.__self__.close()

    return asyncio.run(asked())


def failed(model: OpenAI) -> ModelError:
    with pytest.raises(ModelError) as caught:
        ask(model)
    return caught.value


# The settings.


def test_who_answers_is_the_name_and_the_place_and_no_limit(model: OpenAI) -> None:
    assert model.identity() == {"language": "openai", "name": "m-1", "base_url": model.base_url}
    other = replace(model, retries=9, timeout_s=1, in_flight=2, api_key_env="ACME_KEY", budget_tokens=5)
    for one in (other, replace(model, api_key_file="/run/key")):
        assert one.identity() == model.identity()
    assert replace(model, name="m-2").identity() != model.identity()
    assert replace(model, base_url=None).identity() != model.identity()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "http://x/v1"}, "openai needs name, such as name:"),
        (
            {"name": "m", "base_url": "localhost:8000"},
            "must start with http:// or https://: 'localhost:8000'",
        ),
        ({"name": "m", "base_url": "ftp://x/v1"}, "must start with http://"),
        (
            {"name": "m", "base_url": "http://"},
            "must name a host, such as http://localhost:8000/v1: 'http://'",
        ),
        ({"name": "m", "base_url": "http:///v1"}, "must name a host"),
        ({"name": "m", "base_url": "http://[bad/v1"}, "must name a host"),
        ({"name": "m", "base_url": "http://x:99999/v1"}, "must name a host"),
    ],
)
def test_settings_that_reach_no_model_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        OpenAI(**settings).check()
    assert message in str(caught.value)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="no user or password; name a key by api_key_env") as caught:
        OpenAI(name="m", base_url="http://me:secret@x/v1").check()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        pytest.param({}, "OPENAI_API_KEY", id="OpenAI's own"),
        pytest.param({"api_key_env": "ACME_KEY"}, "ACME_KEY", id="OpenAI's own by another name"),
        pytest.param({"base_url": "http://x/v1", "api_key_env": "ACME_KEY"}, "ACME_KEY", id="named"),
    ],
)
@pytest.mark.parametrize("held", [None, "", " \n"], ids=["unset", "empty", "blank"])
def test_a_missing_key_is_found_before_any_call(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], variable: str, held: str | None
) -> None:
    monkeypatch.delenv(variable, raising=False)
    if held is not None:
        monkeypatch.setenv(variable, held)
    with pytest.raises(InputError, match=rf"{variable} is not set; export {variable}="):
        OpenAI(name="m-1", **settings).check()
    monkeypatch.setenv(variable, "k")
    OpenAI(name="m-1", **settings).check()


@pytest.mark.parametrize("key", ["sk-proj-Ab12", "hf_abcdef0123", "AIzaSyAb12", "two words"])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InputError, match="must be the name of an environment variable") as caught:
        OpenAI(name="m", base_url="http://x/v1", api_key_env=key).check()
    assert key not in str(caught.value)


def test_a_variable_may_have_any_name_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("acme_key", "k")
    OpenAI(name="m", base_url="http://x/v1", api_key_env="acme_key").check()


@pytest.mark.parametrize(
    "base_url",
    ["https://api.acme.com/v1", "http://api.openai.com/v1", "https://api.openai.com.acme.com/v1"],
    ids=["another", "in the clear", "another that looks alike"],
)
def test_the_key_of_openai_is_for_openai_alone(monkeypatch: pytest.MonkeyPatch, base_url: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(
        InputError, match=r"OPENAI_API_KEY goes to OpenAI alone, not to http.*variable of its own"
    ):
        OpenAI(name="m", base_url=base_url, api_key_env="OPENAI_API_KEY").check()
    OpenAI(name="m", base_url=OPENAI, api_key_env="OPENAI_API_KEY").check()


@pytest.mark.parametrize(
    ("base_url", "limit", "lacks"),
    [
        (None, "max_completion_tokens", {"prefill"}),
        (OPENAI, "max_completion_tokens", {"prefill"}),
        ("http://localhost:8000/v1", "max_tokens", set()),
    ],
)
def test_openais_own_endpoint_differs_from_others_named_or_not(
    monkeypatch: pytest.MonkeyPatch, base_url: str | None, limit: str, lacks: set[str]
) -> None:
    opened: list[tuple[Any, dict[str, Any]]] = []

    class Watched:
        complete = None

        def __init__(self, *where: Any, **settings: Any) -> None:
            opened.append((where, settings))

    monkeypatch.setattr("synthray.model.openai.Wire", Watched)
    model = OpenAI(name="m", base_url=base_url, timeout_s=7)
    model.open()
    ((where, settings),) = opened
    assert where == (base_url or OPENAI, "m")
    assert (settings["limit_name"], settings["timeout_s"], settings["key"]) == (limit, 7, "")
    assert model.lacks == lacks
    prefilled = replace(REQUEST, prefill="Sure: ")
    if lacks:
        with pytest.raises(InputError, match="openai has no prefill"):
            model.check_request(prefilled)
    else:
        model.check_request(prefilled)


# The key.


def test_the_key_is_read_when_the_model_is_opened_and_sent_as_a_bearer_token(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = replace(model, api_key_env="ACME_KEY")
    for key in ("secret-1", "secret-2\n"):
        monkeypatch.setenv("ACME_KEY", key)
        ask(keyed)
    assert [hit["authorization"] for hit in endpoint.hits()] == ["Bearer secret-1", "Bearer secret-2"]


def test_a_file_that_holds_the_key_comes_in_place_of_any_variable(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-openai")
    (tmp_path / "key").write_text("secret-1\n")
    keyed = replace(model, api_key_file=str(tmp_path / "key"))
    keyed.check()
    ask(keyed)
    assert [hit["authorization"] for hit in endpoint.hits()] == ["Bearer secret-1"]
    monkeypatch.delenv("OPENAI_API_KEY")
    OpenAI(name="m", api_key_file=str(tmp_path / "key")).check()  # OpenAI's own
    with pytest.raises(InputError, match="cannot be read"):
        replace(keyed, api_key_file=str(tmp_path / "another")).check()


def test_the_key_stands_in_nothing_that_is_written_down(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_KEY", "secret-1")
    endpoint.script(require_key="another")  # the answer repeats the key that is wrong
    keyed = replace(model, api_key_env="ACME_KEY")
    keyed.check()
    error = failed(keyed)
    assert (error.kind, error.fatal, "Incorrect API key provided: [key]" in str(error)) == (
        "HTTP401",
        True,
        True,
    )
    written: list[Callable[[], object]] = [
        lambda: repr(keyed),
        lambda: keyed.identity(),
        lambda: pickle.dumps(keyed),
        lambda: repr(error),
        lambda: pickle.dumps(error),
    ]
    assert not [str(one()) for one in written if "secret-1" in str(one())]


# The environment.


def test_no_variable_of_openais_decides_what_is_sent_or_where_to(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in OWN_VARIABLES:
        monkeypatch.setenv(f"OPENAI_{name}", f"secret-{name}")
    (tmp_path / "netrc").write_text("default login me password secret-of-netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    model.check()
    ask(model)
    headers = endpoint.hits()[0]["headers"]
    assert "secret" not in str(headers)
    asked_for = {"accept", "accept-encoding", "user-agent"}
    assert set(headers) == {"host", "content-type", "content-length", *asked_for}


def test_without_base_url_openai_is_asked_whatever_the_environment_says(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    # The endpoint stands in as the proxy, which is told where the connection is to go, and refuses.
    monkeypatch.setenv("HTTPS_PROXY", endpoint.url.removesuffix("/v1"))
    error = failed(OpenAI(name="m-1"))
    assert f"{OPENAI} cannot be reached: the proxy answered 404" in str(error)
    assert endpoint.hits() == []


@pytest.mark.parametrize("form", ["http://{}", "{}"], ids=["URL", "host and port"])
def test_the_proxy_of_the_environment_is_asked(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", form.format(endpoint.url.split("/")[2]))
    error = failed(OpenAI(name="m-1", base_url="http://model.invalid/v1"))
    # The endpoint is no proxy, and says what it was asked for.
    assert "Invalid URL (POST http://model.invalid/v1/chat/completions)" in str(error)


@pytest.mark.parametrize("without", ["127.0.0.1", "{}", "other,127.0.0.1", "*"])
def test_no_proxy_is_asked_for_an_address_that_needs_none(
    model: OpenAI, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    with socket.socket() as nobody:  # bound and not listening
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert "cannot be reached" in str(failed(model))
        monkeypatch.setenv("NO_PROXY", without.format(str(model.base_url).split("/")[2]))
        assert ask(model).text


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_a_certificate_that_nobody_vouches_for_ends_the_run(tmp_path: Path) -> None:
    certificate, secret = str(tmp_path / "certificate.pem"), str(tmp_path / "secret.pem")
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-out", certificate, "-keyout", secret], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        error = failed(OpenAI(name="m-1", base_url=f"https://127.0.0.1:{server.server_port}/v1"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (error.kind, error.fatal, error.billed) == ("Connection", True, False)
    assert "no certificate to trust" in str(error)


def test_a_program_that_closes_nothing_ends_without_a_word(endpoint: Endpoint) -> None:
    program = """
        import sys
        from synthray.model.calls import Calls
        from synthray.model.language import Request
        from synthray.model.openai import OpenAI

        calls = Calls(OpenAI(name="m-1", base_url=sys.argv[1]), None)
        request = Request(messages=({"role": "user", "content": "x"},))
        print(calls.run(calls.ask(request, ("row", "step", 0))).response.attempts)
    """
    command = [sys.executable, "-W", "default", "-c", textwrap.dedent(program), endpoint.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")


# The contract: what OpenAI's own client sends and reads.

FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
MANY = {"n": 2, "logit_bias": {"50256": -100}}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param({}, {}, id="plain"),
        pytest.param({"stop": ("\n", "END")}, {"stop": ["\n", "END"]}, id="stop"),
        pytest.param({"schema": SCHEMA}, {"response_format": FORM}, id="schema"),
        pytest.param({**MANY, "logprobs": 3}, {**MANY, "logprobs": True, "top_logprobs": 3}, id="many"),
    ],
)
def test_the_openai_client_sends_the_same_and_reads_the_same(
    endpoint: Endpoint, model: OpenAI, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    async def by_client() -> Any:
        async with openai.AsyncOpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client:
            return await client.chat.completions.create(
                model="m-1", messages=[USER], max_tokens=9, temperature=0.5, top_p=1.0, seed=3, **theirs
            )

    own, read = ask(replace(model, send_seed=True), replace(REQUEST, **ours)), asyncio.run(by_client())
    # A request's id is the hash of its body: the same body came twice, to the same path.
    assert list(endpoint.counts().values()) == [2]
    assert len({hit["path"] for hit in endpoint.hits()}) == 1
    assert [(choice.message.content, choice.finish_reason) for choice in read.choices] == [
        (choice.text, choice.finish_reason) for choice in own.choices()
    ]
    used = read.usage
    assert (used.prompt_tokens, used.completion_tokens) == (own.prompt_tokens, own.completion_tokens)
    if "logprobs" in ours:
        for choice, one in zip(read.choices, own.choices(), strict=True):
            assert [
                {"token": t.token, "logprob": t.logprob, "top": {o.token: o.logprob for o in t.top_logprobs}}
                for t in choice.logprobs.content
            ] == one.logprobs


def test_the_openai_client_completes_a_raw_prompt_in_the_same_way(endpoint: Endpoint, model: OpenAI) -> None:
    async def by_client() -> Any:
        async with openai.AsyncOpenAI(base_url=endpoint.url, api_key="k", max_retries=0) as client:
            return await client.completions.create(
                model="m-1", prompt="Say", max_tokens=9, temperature=0.5, top_p=1.0, logprobs=2, stop=["\n"]
            )

    request = Request(prompt="Say", max_tokens=9, temperature=0.5, logprobs=2, stop=("\n",))
    own, read = ask(model, request), asyncio.run(by_client()).choices[0]
    assert list(endpoint.counts().values()) == [2]
    assert {hit["path"] for hit in endpoint.hits()} == {"/v1/completions"}
    assert (read.text, read.finish_reason) == (own.text, own.finish_reason)
    assert read.logprobs.top_logprobs == [one["top"] for one in own.logprobs or ()]
