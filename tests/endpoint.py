"""A model endpoint on loopback, in OpenAI's wire format, whose latency, limits and faults are scripted.

A client is tested against a real socket in another process, so that a reset is a reset and a timeout is one.
`python tests/endpoint.py --port 0 --script '{"latency": 0.1}'` prints its URL and serves until it is killed,
or with `--with-parent` until its standard input ends; `Endpoint(latency=0.1)` starts one from Python.

Serves `POST /v1/chat/completions` and `/v1/completions`. A request's id is the hash of its canonical body, and
text, latency and faults are drawn from it. An answer never repeats a prefill (a last message of the assistant).
`GET /hits`, `/counts`, `/summary?window=60` tell what came; `POST /script` changes the script, `/reset` forgets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import resource
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from http import HTTPStatus
from itertools import accumulate, product
from statistics import NormalDist
from typing import Any, NamedTuple

try:
    from uvloop import run
except ImportError:
    from asyncio import run

CHAT, TEXT = PATHS = ("/v1/chat/completions", "/v1/completions")
ERRORS = {"400", "401", "403", "404", "408", "409", "422", "425", "429", "500", "503"}
CUT = {"reset", "hang", "half"}  # no whole answer is sent, so these stand where the status would
FAULTS = ERRORS | CUT | {"quota", "malformed", "html", "schema", "fenced", "long", "no_usage", "empty"}
SLOW = {200, 500, 503}  # statuses that take the latency
HTML = b"<!DOCTYPE html><html><body>Bad gateway</body></html>"
TOKENS = ("prompt_tokens", "completion_tokens")
FIELDS = ("id", "at", "status", "fault", "authorization", *TOKENS, "path", "headers")  # of a hit
LIMITED = "rate_limit_exceeded"
LIMITS = ("max_tokens", "max_completion_tokens")
OPTIONAL: dict[str, Any] = dict.fromkeys(("n", "logprobs", "top_logprobs", *LIMITS), int | None)
OPTIONAL["response_format"] = dict | None
KINDS = {CHAT: {"messages": list, **OPTIONAL}, TEXT: {"prompt": str, **OPTIONAL}}
Body = dict[str, Any]
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
WORDS = [*SYLLABLES, *map("".join, product(SYLLABLES, repeat=2))]
encode = json.JSONEncoder(separators=(",", ":")).encode
canonical = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


@dataclass
class Script:
    """How the endpoint behaves; a request is checked in this order: key, model, refuse, limits, faults.

    A fault is drawn by request id, number of the attempt and `seed`; every hit of an id is an attempt.
    """

    latency: float | dict[str, list[float]] = 0  # seconds, or {"lognormal": [median, 99th percentile]}
    together: int = 0  # no answer is sent, for 60 s at most, before so many were in flight at once
    words: list[int] = field(default_factory=lambda: [8, 40])  # fewest and most words of a text
    faults: dict[str, float] = field(default_factory=dict)  # fault -> its probability
    seed: int = 0
    first: list[str] = field(default_factory=list)  # what the first requests get, whoever they are
    per_request: list[str] = field(default_factory=list)  # what each id's attempts get; ok after that
    retry_after: float = 1
    requests_per_minute: float | None = None  # a token bucket that holds one second's worth
    concurrency: int | None = None
    require_key: str | None = None
    models: list[str] | None = None
    refuse: list[str] = field(default_factory=list)  # parameters answered with 400
    ignore: list[str] = field(default_factory=list)  # parameters passed over in silence
    record_headers: bool = False

    def __post_init__(self) -> None:
        unknown = {*self.faults, *self.first, *self.per_request} - FAULTS - {"ok"}
        if unknown:
            raise ValueError(f"no such faults: {sorted(unknown)}; there are {sorted(FAULTS)}")
        if sum(self.faults.values()) > 1 + 1e-9:
            raise ValueError(f"the probabilities of faults add up to more than 1: {self.faults}")

    def fault(self, request_id: str, attempt: int) -> str:
        """Return what goes wrong with this attempt, or ok; `first` is used up."""
        if self.first:
            return self.first.pop(0)
        if self.per_request:
            return self.per_request[attempt - 1] if attempt <= len(self.per_request) else "ok"
        chance = drawn("fault", self.seed, request_id, attempt)
        bounds = zip(self.faults, accumulate(self.faults.values()), strict=True)
        return next((fault for fault, bound in bounds if chance < bound), "ok")

    def delay(self, request_id: str, attempt: int) -> float:
        """Return the seconds until this attempt is answered."""
        if not isinstance(self.latency, dict):
            return self.latency
        median, p99 = self.latency["lognormal"]
        normal = NormalDist().inv_cdf(drawn("latency", self.seed, request_id, attempt))
        return median * (p99 / median) ** (normal / NormalDist().inv_cdf(0.99))


def drawn(*key: str | int) -> float:
    """Return the number between 0 and 1 that belongs to `key`, the same in every process."""
    return (int.from_bytes(blake2b(repr(key).encode(), digest_size=6).digest()) + 0.5) / 2**48


class Refusal(Exception):
    """A request that gets an error object, worded as OpenAI's API does."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        self.status, self.code = status, code
        kind = code if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.body = encode({"error": error}).encode()


class Reply(NamedTuple):
    """What is sent, and what the hit's record says of it."""

    status: int
    body: bytes
    fault: str = "ok"
    headers: str = "content-type: application/json\r\n"
    tokens: tuple[int, ...] = (0, 0)


def prompt_tokens(body: Body, path: str) -> int:
    """Count the words that were sent, and 4 for each message's frame."""
    if path == TEXT:
        return len(body["prompt"].split())
    sent = [message.get("content") or "" for message in body["messages"]]
    texts = [
        text if isinstance(text, str) else " ".join(part.get("text", "") for part in text) for text in sent
    ]
    return 4 * len(texts) + len(" ".join(texts).split())


def instance(schema: dict[str, Any], draw: random.Random) -> Any:
    """Draw a value that is valid for the schema."""
    if "enum" in schema:
        return draw.choice(schema["enum"])
    low = schema.get("minimum", schema.get("maximum", 100) - 100)
    high = schema.get("maximum", low + 100)
    match schema.get("type"):
        case "object":
            return {name: instance(inner, draw) for name, inner in schema.get("properties", {}).items()}
        case "array":
            least = schema.get("minItems", 1)
            size = draw.randint(least, schema.get("maxItems", least + 2))
            return [instance(schema["items"], draw) for _ in range(size)]
        case "string":
            return " ".join(draw.choices(WORDS, k=draw.randint(2, 8)))
        case "integer":
            return draw.randint(math.ceil(low), math.floor(high))
        case "number":
            return draw.uniform(low, high)
        case "boolean":
            return draw.random() < 0.5
    raise Refusal(400, f"Invalid schema: {encode(schema)}", param="response_format")


def drawn_words(body: Body, script: Script, fault: str, draw: random.Random) -> tuple[list[str], str]:
    """Draw the words of one choice, and say why they end; a word is a token."""
    limit = min((body[name] for name in LIMITS if body.get(name) is not None), default=None)
    schema = (body.get("response_format") or {}).get("json_schema")
    if fault == "long":
        return draw.choices(WORDS, k=10 * (limit or script.words[1])), "stop"
    if fault == "schema":
        words = ['{"wrong":', "1}"]
    elif schema is None:
        words = draw.choices(WORDS, k=draw.randint(*script.words))
    else:
        words = json.dumps(instance(schema.get("schema", {}), draw)).split(" ")
    if fault == "fenced":
        words = f"Here it is:\n```json\n{' '.join(words)}\n```\nThat is all.".split(" ")
    return words[:limit], "stop" if limit is None or len(words) <= limit else "length"


def logprobs(words: list[str], body: Body, path: str, draw: random.Random) -> dict[str, Any]:
    """Draw for each word its log probability and the likeliest words in its place, the word itself first."""
    tokens = [*words[:1], *(f" {word}" for word in words[1:])]
    count = body.get("top_logprobs" if path == CHAT else "logprobs") or 0
    rows = []
    for token in tokens:
        likely = draw.uniform(0.4, 0.999)  # the others get halves of what is left: less, and never over 1
        chances = {token: math.log(likely)}
        for other in draw.sample(WORDS, count):
            chances.setdefault(f" {other}", math.log((1 - likely) / 2 ** len(chances)))
        rows.append(list(chances.items()))
    if path == TEXT:
        return {
            "tokens": tokens,
            "token_logprobs": [row[0][1] for row in rows],
            "top_logprobs": [dict(row[:count]) for row in rows],
            "text_offset": list(accumulate(map(len, tokens), initial=0))[:-1],
        }
    shown = [[{"token": token, "logprob": chance, "bytes": None} for token, chance in row] for row in rows]
    return {"content": [{**row[0], "top_logprobs": row[:count]} for row in shown]}


def completion(body: Body, request_id: str, path: str, script: Script, fault: str) -> Body:
    """Return the answer; each choice is drawn by the request's id and its own index."""
    choices, tokens = [], [prompt_tokens(body, path), 0]
    for index in range(body.get("n") or 1):
        draw = random.Random((int(request_id, 16) << 8) + index)
        words, ends = drawn_words(body, script, fault, draw)
        tokens[1] += len(words)
        said: Body = {"text": None if fault == "empty" else " ".join(words)}
        if path == CHAT:
            said = {"message": {"role": "assistant", "content": said["text"], "refusal": None}}
        scores = logprobs(words, body, path, draw) if body.get("logprobs") not in (None, False) else None
        choices.append({"index": index, "finish_reason": ends, "logprobs": scores, **said})
    return {
        "id": f"{'chatcmpl' if path == CHAT else 'cmpl'}-{request_id}",
        "object": "chat.completion" if path == CHAT else "text_completion",
        "created": 0,
        "model": body.get("model"),
        "choices": choices,
        "usage": {**dict(zip(TOKENS, tokens, strict=True)), "total_tokens": sum(tokens)},
    }


class Server:
    """The state of the endpoint: its script, what has come, and what is in flight."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.in_flight = 0
        self.held: list[Callable[[], None]] = []
        self.reset()

    def reset(self) -> None:
        """Forget the hits; the script and what is in flight stay."""
        self.hits: list[tuple[Any, ...]] = []
        self.attempts: Counter[str] = Counter()
        self.max_in_flight = self.in_flight
        self.bucket, self.filled = math.inf, time.monotonic()

    def receive(self, raw: bytes, headers: dict[str, str], path: str) -> tuple[Reply, float]:
        """Record a request; return its reply, and the seconds to wait before sending it."""
        at, fault = time.time(), "ok"
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        request_id = blake2b(canonical(body).encode(), digest_size=8).hexdigest()
        attempt = self.attempts[request_id] = self.attempts[request_id] + 1
        authorization = sys.intern(headers.get("authorization", ""))
        try:
            self.admit(body, authorization)
            self.limit()
            fault = self.script.fault(request_id, attempt)
            reply = self.reply(body, request_id, path, fault)
        except Refusal as refusal:
            reply = Reply(refusal.status, refusal.body, fault)
            if refusal.code == LIMITED:
                reply = reply._replace(headers=f"{reply.headers}retry-after: {self.script.retry_after}\r\n")
        status = fault if fault in CUT else reply.status
        kept = headers if self.script.record_headers else None
        named = None if fault == "ok" else fault
        self.hits.append((request_id, at, status, named, authorization or None, *reply.tokens, path, kept))
        return reply, self.script.delay(request_id, attempt) if reply.status in SLOW else 0

    def hold(self, answer: Callable[[], None]) -> None:
        """Call `answer` once so many requests were in flight together as the script says."""
        self.held.append(answer)
        if self.max_in_flight >= self.script.together:
            self.release()
        elif len(self.held) == 1:
            asyncio.get_running_loop().call_later(60, self.release)

    def release(self) -> None:
        """Answer all that was held."""
        held, self.held = self.held, []
        for answer in held:
            answer()

    def admit(self, body: Any, authorization: str) -> None:
        """Refuse a request for its key, its model or a parameter."""
        script = self.script
        key = authorization.removeprefix("Bearer ")
        if script.require_key is not None and key != script.require_key:
            raise Refusal(401, f"Incorrect API key provided: {key}.", "invalid_api_key")
        if not isinstance(body, dict):
            raise Refusal(400, "The body is not a JSON object.")
        if script.models is not None and body.get("model") not in script.models:
            raise Refusal(404, f"The model '{body.get('model')}' does not exist.", "model_not_found", "model")
        for name in script.refuse:
            if name in body:
                raise Refusal(400, f"Unrecognized request argument supplied: {name}", param=name)

    def limit(self) -> None:
        """Refuse a request that is over the limits, or take its token from the bucket."""
        script = self.script
        if script.concurrency is not None and self.in_flight > script.concurrency:
            raise Refusal(429, "Too many requests in flight.", LIMITED)
        if script.requests_per_minute is not None:
            rate, now = script.requests_per_minute / 60, time.monotonic()
            self.bucket = min(max(1, rate), self.bucket + (now - self.filled) * rate)
            self.filled = now
            if self.bucket < 1:
                raise Refusal(429, "Rate limit reached for requests per minute.", LIMITED)
            self.bucket -= 1

    def reply(self, body: Body, request_id: str, path: str, fault: str) -> Reply:
        """Answer a request, or spoil its answer as `fault` says."""
        if fault in ERRORS:
            raise Refusal(int(fault), HTTPStatus(int(fault)).phrase, LIMITED if fault == "429" else None)
        if fault == "quota":
            raise Refusal(429, "You exceeded your current quota.", "insufficient_quota")
        if fault in ("reset", "hang"):
            return Reply(200, b"", fault)
        if fault == "html":
            return Reply(200, HTML, fault, "content-type: text/html\r\n")
        body = {name: body[name] for name in body if name not in self.script.ignore}
        wrong = [name for name, kind in KINDS[path].items() if not isinstance(body.get(name), kind)]
        if wrong:
            raise Refusal(400, f"Invalid or missing value for '{wrong[0]}'.", param=wrong[0])
        answer = completion(body, request_id, path, self.script, fault)
        tokens = tuple(answer["usage"][name] for name in TOKENS)
        if fault == "no_usage":
            del answer["usage"]
        raw = encode(answer).encode()
        return Reply(200, raw[: len(raw) // 2] if fault == "malformed" else raw, fault, tokens=tokens)

    def control(self, method: str, path: str, raw: bytes) -> Reply:
        """Tell what came, or change the script."""
        told: Any = None
        name, _, query = path.partition("?window=")
        try:
            match method, name:
                case "GET", "/hits":
                    told = {"fields": FIELDS, "hits": self.hits}
                case "GET", "/counts":
                    told = self.attempts
                case "GET", "/summary":
                    told = self.summary(float(query or 60))
                case "POST", "/script":
                    self.script = replace(self.script, **json.loads(raw))
                case "POST", "/reset":
                    self.reset()
                case _:
                    return Reply(404, Refusal(404, f"Invalid URL ({method} {path})").body)
        except (TypeError, ValueError) as error:
            return Reply(400, Refusal(400, str(error)).body)
        return Reply(200, encode(told).encode())

    def summary(self, window: float) -> dict[str, Any]:
        """Add up the hits; `max_in_window` is the most that came in any `window` seconds."""
        times = [hit[1] for hit in self.hits]
        ends = enumerate(times, 1)
        return {
            "total": len(self.hits),
            "by_status": Counter(hit[2] for hit in self.hits),
            "by_fault": Counter(hit[3] for hit in self.hits if hit[3]),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "max_in_window": max((end - bisect_right(times, at - window) for end, at in ends), default=0),
            "first_at": times[0] if times else None,
            "last_at": times[-1] if times else None,
        }


class Connection(asyncio.Protocol):
    """One keep-alive connection: reads a request, waits out the latency, sends the reply."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = bytearray()
        self.needed = 0  # bytes of the whole request, once its head has come
        self.pending: tuple[list[tuple[Any, ...]], int] | None = None  # where the hit in flight is recorded
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = -1 if len(self.buffer) < self.needed else self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.needed = end + 4 + int(headers.get("content-length", 0))
        if len(self.buffer) < self.needed:
            return
        raw = bytes(self.buffer[end + 4 : self.needed])
        del self.buffer[: self.needed]
        self.needed = 0
        self.closes = headers.get("connection", "").lower() == "close"
        method, path, _ = first.split(" ")
        if method == "POST" and path in PATHS:
            self.answer(*self.server.receive(raw, headers, sys.intern(path)))
        else:
            self.send(self.server.control(method, path, raw))

    def answer(self, reply: Reply, delay: float) -> None:
        self.pending = self.server.hits, len(self.server.hits) - 1
        if reply.fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        elif reply.fault != "hang":
            self.server.hold(partial(self.wait, reply, delay))

    def wait(self, reply: Reply, delay: float) -> None:
        if not self.transport.is_closing():
            self.timer = asyncio.get_running_loop().call_later(delay, self.send, reply)

    def send(self, reply: Reply) -> None:
        if self.pending:
            self.pending = None
            self.server.in_flight -= 1
        half = reply.fault == "half"
        head = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{reply.headers}"
        head += f"content-length: {len(reply.body)}\r\n\r\n"
        self.transport.write(head.encode() + (reply.body[: len(reply.body) // 2] if half else reply.body))
        if half or self.closes:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()
        if self.pending:
            self.server.in_flight -= 1
            hits, index = self.pending
            if hits[index][2] not in CUT:  # the client has left before the answer
                hits[index] = (*hits[index][:2], "left", *hits[index][3:])


async def serve(port: int, script: Script, with_parent: bool) -> None:
    """Listen until killed, or until standard input ends: the parent has closed it or is dead."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    state = Server(script)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await (asyncio.to_thread(sys.stdin.read) if with_parent else asyncio.Event().wait())


class Endpoint(AbstractContextManager["Endpoint"]):
    """An endpoint in a process of its own, started with a Script's fields; `url` is its base URL."""

    def __init__(self, **script: Any) -> None:
        Script(**script)  # a wrong script is an error here, not in the other process
        command = [sys.executable, __file__, "--with-parent", "--script", encode(script)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()  # type: ignore[union-attr]

    def __exit__(self, *exception: object) -> None:
        self.close()

    def hits(self) -> list[dict[str, Any]]:
        """Return all requests, in the order in which they came."""
        told = self._ask("hits")
        return [dict(zip(told["fields"], hit, strict=True)) for hit in told["hits"]]

    def counts(self) -> dict[str, int]:
        return self._ask("counts")

    def summary(self, window: float = 60) -> dict[str, Any]:
        """Return the totals, and the most requests in flight at once and in any `window` seconds."""
        return self._ask(f"summary?window={window}")

    def script(self, **changes: Any) -> None:
        """Change the script from the next request on."""
        Script(**changes)
        self._ask("script", encode(changes).encode())

    def reset(self) -> None:
        self._ask("reset", b"")

    def close(self) -> None:
        with self.process:
            self.process.terminate()

    def _ask(self, path: str, data: bytes | None = None) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy is set
        with direct.open(self.url.removesuffix("v1") + path, data, timeout=60) as answer:
            return json.load(answer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a scripted model endpoint on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=json.loads, default={}, help="a Script's fields, as JSON")
    parser.add_argument("--with-parent", action="store_true", help="exit when standard input ends")
    arguments = parser.parse_args()
    run(serve(arguments.port, Script(**arguments.script), arguments.with_parent))
