"""Vectors of texts: of hashed n-grams, by a real model, and from a real endpoint, each text paid for once."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthray.errors import InputError, ModelError
from synthray.model import embedding
from synthray.model.calls import Calls
from synthray.model.embedding import Embedding, check_encoder, encoded, hashed, request_of, vector_of
from synthray.model.language import Request
from synthray.recipe import load

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


def vector(text: str) -> list[float]:
    """Return what the endpoint sends for a text."""
    return [float(len(text)), 0.5, -1.0]


def fine(body: dict[str, Any]) -> tuple[int, Any]:
    data = [{"index": place, "embedding": vector(text)} for place, text in enumerate(body["input"])]
    for one in data if body["encoding_format"] == "base64" else ():
        one["embedding"] = base64.b64encode(struct.pack("<3f", *one["embedding"])).decode()
    return 200, {"data": data, "usage": {"prompt_tokens": 10 * len(data) + 1}}


def changed(change: Callable[[Any, dict[str, Any]], Any]) -> Answer:
    """Return a fine answer of which `change` spoils a part."""

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        status, held = fine(body)
        return status, change(held, body) or held

    return answer


def refuses(status: int, message: str, **said: Any) -> Answer:
    return lambda body: (status, {"error": {"message": message, **said}})


class Endpoint:
    """An endpoint of vectors on loopback: answers with `first` one after the other, then with `answer`."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.first: list[Answer] = []
        self.answer: Answer = fine
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.bodies.append(body)
                endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
                endpoint.paths.append(self.path)
                status, held = (endpoint.first.pop(0) if endpoint.first else endpoint.answer)(body)
                raw = held if isinstance(held, bytes) else json.dumps(held).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def sizes(self) -> list[int]:
        return [len(body["input"]) for body in self.bodies]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def model(endpoint: Endpoint) -> Embedding:
    return Embedding(name="e-1", base_url=endpoint.url)


def texts(count: int) -> list[str]:
    return ["x" * (number + 1) for number in range(count)]


def asked(calls: Calls, given: list[str]) -> list[Any]:
    """Return each text's vector, or the error that it met."""

    async def of(text: str) -> Any:
        call = await calls.ask(request_of(text), (f"row {text}", "step", 0))
        return vector_of(call.response).tolist()

    async def all_of_them() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*map(of, given), return_exceptions=True), 30)

    return calls.run(all_of_them())


# The endpoint.


def test_calls_that_wait_at_the_same_time_go_out_together(endpoint: Endpoint, model: Embedding) -> None:
    given = texts(20)
    assert asked(Calls(replace(model, batch=8), None), given) == [vector(text) for text in given]
    assert sorted(endpoint.sizes) == [4, 8, 8]
    assert {*endpoint.paths} == {"/v1/embeddings"}
    assert endpoint.bodies[0].keys() == {"model", "input", "encoding_format"}
    assert {body["model"] for body in endpoint.bodies} == {"e-1"}
    assert sorted(text for body in endpoint.bodies for text in body["input"]) == given


def test_a_second_run_sends_nothing(endpoint: Endpoint, model: Embedding, tmp_path: Path) -> None:
    given = texts(10)
    first = asked(Calls(model, str(tmp_path)), given)
    sent = len(endpoint.bodies)
    assert asked(Calls(model, str(tmp_path)), given) == first == [vector(text) for text in given]
    assert len(endpoint.bodies) == sent >= 1
    assert asked(Calls(model, str(tmp_path)), [*given, "one more"])[-1] == vector("one more")
    assert endpoint.bodies[-1]["input"] == ["one more"]


def test_equal_texts_of_two_rows_are_paid_for_once(endpoint: Endpoint, model: Embedding) -> None:
    assert asked(Calls(model, None), ["same", "same", "other"]) == [vector("same")] * 2 + [vector("other")]
    assert endpoint.sizes == [2]


def test_the_tokens_of_a_post_are_shared_to_the_last_one(endpoint: Endpoint, model: Embedding) -> None:
    calls = Calls(model, None)
    given = texts(7)

    async def took() -> list[int | None]:
        found = await asyncio.gather(*(calls.ask(request_of(text), (text, "s", 0)) for text in given))
        return [call.response.prompt_tokens for call in found]

    shares = calls.run(took())
    assert endpoint.sizes == [7]
    assert sum(one or 0 for one in shares) == 71
    assert shares == sorted(shares, key=lambda one: one or 0), "a longer text has more of them"


def test_much_text_does_not_go_out_in_one_post(endpoint: Endpoint, model: Embedding) -> None:
    given = [letter * 100_000 for letter in "abcde"]
    asked(Calls(model, None), given)
    assert sorted(endpoint.sizes) == [1, 2, 2]
    assert asked(Calls(model, None), ["z" * 10_000_000]) == [vector("z" * 10_000_000)]


def test_lists_of_numbers_and_any_order_are_read_too(endpoint: Endpoint, model: Embedding) -> None:
    def as_lists(held: Any, body: dict[str, Any]) -> None:
        held["data"] = [
            {"index": place, "embedding": vector(text)} for place, text in enumerate(body["input"])
        ][::-1]

    endpoint.answer = changed(as_lists)
    assert asked(Calls(model, None), texts(3)) == [vector(text) for text in texts(3)]


def test_a_smaller_size_is_asked_for_and_must_come(endpoint: Endpoint, model: Embedding) -> None:
    assert asked(Calls(replace(model, dimensions=3), None), ["a"]) == [vector("a")]
    assert endpoint.bodies[0]["dimensions"] == 3
    (error,) = asked(Calls(replace(model, dimensions=2), None), ["a"])
    assert (error.kind, error.fatal) == ("Unsupported", True)
    assert "has no dimensions: it sent 3 numbers to dimensions=2" in str(error)


def test_a_text_that_is_refused_does_not_take_the_others_with_it(
    endpoint: Endpoint, model: Embedding
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return refuses(400, "too long", param="input")(body) if "xxxxx" in body["input"] else fine(body)

    endpoint.answer = answer
    found = asked(Calls(model, None), texts(16))
    assert [text for text, one in zip(texts(16), found, strict=True) if isinstance(one, ModelError)] == [
        "xxxxx"
    ]
    assert found[4].kind == "HTTP400"
    assert "too long" in str(found[4])
    assert found[5] == vector("xxxxxx")


@pytest.mark.usefixtures("soon")
def test_a_post_that_fails_is_sent_again(endpoint: Endpoint, model: Embedding) -> None:
    endpoint.first = [refuses(500, "oops"), refuses(429, "slow down", code="rate_limit_exceeded")]
    given = texts(6)
    assert asked(Calls(model, None), given) == [vector(text) for text in given]
    assert endpoint.sizes[0] == 6


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda held, _: held["data"].pop(), "sent 2 embeddings to 3 texts", id="too few"),
        pytest.param(
            lambda held, _: held["data"].append({**held["data"][0], "index": 3}),
            "sent 4 embeddings to 3 texts",
            id="too many",
        ),
        pytest.param(
            lambda held, _: held["data"][0].update(index=1),
            r"sent embeddings of [1, 1, 2] to 3",
            id="one twice",
        ),
        pytest.param(lambda held, _: held["data"][0].update(index="a"), "sent no embeddings", id="bad place"),
        pytest.param(lambda held, _: held.pop("data"), "sent no embeddings", id="none"),
        pytest.param(lambda *_: b"<html>", "sent no embeddings: <html>", id="no JSON"),
        pytest.param(lambda *_: [1], "sent no embeddings", id="no object"),
        pytest.param(lambda *_: b'{"data": [1, 2, 3]}', "sent no embeddings", id="no embeddings"),
    ],
)
def test_an_answer_that_is_none_is_asked_for_again_and_then_told(
    endpoint: Endpoint, model: Embedding, change: Any, message: str
) -> None:
    def spoilt(held: Any, body: dict[str, Any]) -> Any:
        found = change(held, body)
        return found if isinstance(found, bytes) or found == [1] else None

    endpoint.first = [changed(spoilt)]
    assert asked(Calls(model, None), texts(3)) == [vector(text) for text in texts(3)]
    endpoint.first = [changed(spoilt)]
    errors = asked(Calls(replace(model, retries=0), None), texts(3))
    assert [(error.kind, error.billed, error.fatal) for error in errors] == [("BadResponse", True, False)] * 3
    assert message in str(errors[0])
    assert len({id(error) for error in errors}) == 3, "each has an error to write its attempts into"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ([1.0, float("nan"), 1.0], "empty or holds a value that is not a finite number"),
        ([1e300, 1.0, 1.0], "empty or holds a value that is not a finite number"),
        ([], "empty or holds a value"),
        (["a"], "an embedding that is none: ['a']"),
        ([[1.0], [2.0]], "an embedding that is none"),
        ("%%%%", "an embedding that is none: %%%%"),
        ("AAA=", "an embedding that is none"),
        (None, "an embedding that is none: None"),
        (7, "an embedding that is none: 7"),
    ],
    ids=str,
)
def test_a_bad_vector_is_of_its_text_alone(
    endpoint: Endpoint, model: Embedding, sent: Any, message: str
) -> None:
    endpoint.answer = changed(lambda held, _: held["data"][1].update(embedding=sent))
    found = asked(Calls(replace(model, retries=0), None), texts(3))
    assert [found[0], found[2]] == [vector("x"), vector("xxx")]
    assert found[1].kind == "BadResponse"
    assert message in str(found[1])


def test_a_key_goes_into_the_header_and_its_refusal_ends_all(
    endpoint: Endpoint, model: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_KEY", "secret-1")
    keyed = replace(model, api_key_env="ACME_KEY")
    keyed.check()
    asked(Calls(keyed, None), ["a"])
    assert endpoint.headers[0]["authorization"] == "Bearer secret-1"
    endpoint.answer = refuses(401, "no such key: secret-1")
    errors = asked(Calls(keyed, None), texts(3))
    assert all(error.fatal for error in errors)
    assert "secret-1" not in str(errors)


@pytest.mark.parametrize("parameter", ["encoding_format", "dimensions", "input"])
def test_a_parameter_that_the_endpoint_does_not_take_ends_all(
    endpoint: Endpoint, model: Embedding, parameter: str
) -> None:
    endpoint.answer = refuses(400, "what is that?", param=parameter)
    errors = asked(Calls(replace(model, dimensions=3), None), texts(2))
    assert {error.fatal for error in errors} == {parameter != "input"}, "a text is of its row alone"


# The settings.


def test_who_answers_is_the_name_the_place_and_the_size_and_no_limit(model: Embedding) -> None:
    assert model.identity() == {
        "language": "embedding",
        "name": "e-1",
        "base_url": model.base_url,
        "dimensions": None,
    }
    assert replace(model, batch=3, retries=9, in_flight=1).identity() == model.identity()
    assert replace(model, dimensions=5).identity() != model.identity()


def test_settings_that_reach_no_model_are_refused() -> None:
    with pytest.raises(InputError, match="embedding needs name, such as name: text-embedding-3-small"):
        Embedding(base_url="http://x/v1").check()
    with pytest.raises(InputError, match="there is no seed to send; remove send_seed"):
        Embedding(name="m", base_url="http://x/v1", send_seed=True).check()
    with pytest.raises(InputError, match="base_url must start with http"):
        Embedding(name="m", base_url="x").check()
    with pytest.raises(InputError, match="OPENAI_API_KEY goes to OpenAI alone"):
        Embedding(name="m", base_url="http://x/v1", api_key_env="OPENAI_API_KEY").check()


@pytest.mark.parametrize(
    "request_",
    [Request(messages=({"role": "user", "content": "x"},)), Request(prompt="x")],
    ids=["chat", "raw"],
)
def test_a_step_that_wants_text_is_refused(model: Embedding, request_: Request) -> None:
    with pytest.raises(InputError, match="embedding answers with vectors and writes no text"):
        model.check_request(request_)
    model.check_request(request_of("x"))


def test_a_budget_holds_for_a_text_since_it_costs_no_answer(endpoint: Endpoint, model: Embedding) -> None:
    priced = replace(model, price={"input": 0.02, "output": 0.0}, budget_usd=0.001, budget_tokens=10_000)
    priced.check_limits()
    priced.check_request(request_of("x"))
    assert asked(Calls(priced, None), ["a", "b"]) == [vector("a"), vector("b")]
    (error,) = asked(Calls(replace(priced, budget_tokens=50), None), ["a"])
    assert "budget_tokens" in str(error)
    assert endpoint.sizes == [2]


def test_a_recipe_names_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "models: {vectors: {language: embedding, name: e-1, base_url: 'http://x/v1', batch: 16, dimensions: 8}}\n"
        "steps:\n  - source.conditions: {rows: 2, columns: {n: {range: [1, 9]}}}\n"
    )
    assert load(path).models["vectors"] == Embedding(
        name="e-1", base_url="http://x/v1", batch=16, dimensions=8
    )


# Hashed n-grams.

THIRD = 0.3162278
EXPECTED = [
    [-THIRD, 0, 0, 0, THIRD, 0, 2 * THIRD, THIRD, 0, 0, 0, 0, 0, -THIRD, -THIRD, -THIRD],
    [
        *(0, 0, 0, 0.1881442, 0.1881442, 0, 0.0940721, 0.0940721, 0),
        *(0.5644325, -0.1881442, 0.0940721, 0.1881442, 0.2822163, 0, -0.6585046),
    ],
    [0, 0, -0.5547002, 0, 0, 0, 0, -0.2773501, 0, 0, 0, 0.5547002, 0, -0.5547002, 0, 0],
]
SAID = "How do I get a new card?"


def cosine(one: str, other: str, dimensions: int = 256) -> float:
    left, right = hashed([one, other], dimensions).astype(float)
    return float(left @ right)


def test_texts_that_share_spelling_are_nearer_than_those_that_do_not() -> None:
    near, far = cosine(SAID, "how do i get another new card"), cosine(SAID, "Wetterbericht: Regen im Süden")
    assert near > 0.6
    assert abs(far) < 0.25
    assert cosine(SAID, "  how  do I GET a\tnew card? ") == pytest.approx(1, abs=1e-6)
    assert cosine("the dog bites the man", "the man bites the dog") < 0.99, "pairs of words tell them apart"


def test_the_vectors_are_the_same_on_every_machine() -> None:
    given = ["\U0001f600\U0001f44d\U0001f3fd", "a\x00b\x07c", "x"]
    found = hashed(given, 16)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx(np.array(EXPECTED), abs=1e-6)
    assert np.linalg.norm(found, axis=1).tolist() == pytest.approx([1.0] * 3, abs=1e-6)


def test_a_vector_depends_on_its_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"text {number} of {number % 7} and more" for number in range(50)] + ["", "long " * 500]
    whole = hashed(given, 64)
    assert [hashed([text], 64)[0].tolist() for text in given] == whole.tolist()
    assert hashed(given[::-1], 64)[::-1].tolist() == whole.tolist()
    monkeypatch.setattr(embedding, "_CODES_AT_ONCE", 100)
    monkeypatch.setattr(embedding, "_TEXTS_AT_ONCE", 3)
    assert hashed(given, 64).tolist() == whole.tolist()


@pytest.mark.parametrize("seed", ["0", "1"])
def test_pythons_own_hash_decides_nothing(seed: str) -> None:
    code = "from synthray.model.embedding import hashed; print(hashed(['some text'], 16).tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == hashed(["some text"], 16).tolist()


@pytest.mark.parametrize("text", ["", " \n\t\u2003"])
def test_a_text_without_anything_has_zeros(text: str) -> None:
    assert hashed([text, "a"], 16)[0].tolist() == [0.0] * 16
    assert hashed([], 16).shape == (0, 16)


def test_cosines_are_kept_on_average() -> None:
    words = [f"w{number:03}" for number in range(400)]
    half = " ".join(words[:200])
    kept = [
        cosine(half + f" {n} " + " ".join(words[200:300]), half + f" {n} " + " ".join(words[300:]))
        for n in range(9)
    ]
    wide = [
        cosine(half + f" {n} " + " ".join(words[200:300]), half + f" {n} " + " ".join(words[300:]), 65_536)
        for n in range(9)
    ]
    assert np.mean(kept) == pytest.approx(np.mean(wide), abs=2 / 256**0.5)


def test_a_text_of_10_mb_is_hashed() -> None:
    long = "one word after another, " * 420_000
    (vector_,) = hashed([long], 64)
    assert np.linalg.norm(vector_) == pytest.approx(1, abs=1e-6)
    assert hashed(["a" * 10_000_000], 64)[0].any()


# Sentence-transformers.


def test_without_the_package_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"run: pip install 'synthray\[embed\]'"):
        check_encoder("any")


def test_a_folder_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: object())
    check_encoder("sentence-transformers/all-MiniLM-L6-v2")
    with pytest.raises(InputError, match=r"no folder './nowhere'; name must be a folder with a model"):
        check_encoder("./nowhere")


@pytest.mark.embed
def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path, minilm: str) -> None:
    del minilm
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot be loaded: .*; name a folder that holds one"):
        encoded(["x"], str(tmp_path))


@pytest.mark.embed
def test_a_real_model_knows_what_spelling_does_not_say(minilm: str) -> None:
    given = ["My card was stolen.", "Somebody took my wallet.", "The soup is too salty."]
    found = encoded(given, minilm).astype(float)
    assert found.shape == (3, 384)
    assert np.linalg.norm(found, axis=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2
    assert encoded(given[1:], minilm).tolist() == found[1:].tolist(), "the others decide nothing"
