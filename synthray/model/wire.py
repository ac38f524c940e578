"""Completions over HTTP in OpenAI's format: what is sent, what comes back, what each bad answer is called.

The openai client does the same in over three times the processor time of a call (0.89 ms instead of
0.25 ms: `benchmarks/calls.py clients`), and sends OPENAI_ORG_ID to whoever is asked.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import io
import json
import math
import re
import resource
import time
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from synthray.errors import ModelError
from synthray.model.language import Choice, Request, Response

if TYPE_CHECKING:
    import aiohttp

_FATAL = {401: "the key is refused", 403: "the key may not do this", 404: "no such model or path"}
_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
_GIVEN_UP = frozenset({408, 504, 524})
"""Somebody on the way gave up waiting for an answer that may have been worked on, and paid for."""

_TOO_LONG = re.compile(r"context[ _](length|size|window)|(prompt|input) is too long", re.IGNORECASE)
"""What endpoints say of a prompt, or a prompt and max_tokens, that the model cannot hold."""

CONTEXT_WINDOW = "ContextWindow"
"""The kind of the error that says so."""

_OF_THE_ROW = frozenset({"messages", "prompt", "max_tokens", "max_completion_tokens"})
_LARGEST = 8 << 20
_PIECE = 1 << 18
_CONNECT_S = 30.0
_NO_TEXT = "no_text"


class Wire:
    """One model at one endpoint, for use from one event loop.

    `limit_name` is what the endpoint calls the limit of an answer's tokens; `key` goes into the header of
    each request and nowhere else. `larger` says how a model is got that holds a prompt which was too long.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        key: str = "",
        timeout_s: float = 120.0,
        send_seed: bool = False,
        limit_name: str = "max_tokens",
        larger: str = "choose a model that holds more",
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._name = name
        self._key = key
        self._timeout_s = timeout_s
        self._send_seed = send_seed
        self._limit_name = limit_name
        self._larger = larger
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def complete(self, request: Request) -> Response:
        """Send a request once and read its answer; every way it can fail is a ModelError."""
        path = "/chat/completions" if request.prompt is None else "/completions"
        return self._read(await self._posted(path, self._body(request), request), request)

    async def _posted(
        self, path: str, body: Mapping[str, Any], request: Request, largest: int = _LARGEST
    ) -> bytes:
        """Send a body and return what comes back; every way it can fail is a ModelError."""
        import aiohttp

        sent = json.dumps(body, ensure_ascii=False).encode(errors="replace")
        # A long one goes piece by piece: the event loop is not held up.
        data = io.BytesIO(sent) if len(sent) > _PIECE else sent
        try:
            async with self._opened().post(self.base_url + path, data=data, allow_redirects=False) as answer:
                raw = await _whole(answer, largest)
        except (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError) as error:
            raise self._lost(error) from None
        if answer.status != 200:
            raise self._refusal(answer.status, answer.headers, raw, request)
        return raw

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            _allow_connections()
            headers = {"Content-Type": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                # Who may ask at once is decided before; a second limit here would only hide it.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(
                    total=self._timeout_s, sock_connect=min(_CONNECT_S, self._timeout_s / 2)
                ),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                proxy=_proxy(self.base_url),
            )
            self._loop = asyncio.get_running_loop()
            atexit.register(self._close_at_exit)
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
            atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        """Close what nobody closed, since aiohttp complains on the terminal."""
        if self._loop is not None and self._loop.is_running():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self.close(), self._loop).result(1)

    # What is sent.

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._name}
        if request.prompt is None:
            body["messages"] = list(request.messages)
            if request.prefill:
                body["messages"].append({"role": "assistant", "content": request.prefill})
        else:
            body["prompt"] = request.prompt + request.prefill
        optional = {
            self._limit_name: request.max_tokens,
            "n": request.n if request.n > 1 else None,
            "stop": list(request.stop) or None,
            "seed": request.seed if self._send_seed else None,
            "logit_bias": request.logit_bias or None,
            **_logprobs(request),
        }
        body |= {"temperature": request.temperature, "top_p": request.top_p}
        body |= {name: value for name, value in optional.items() if value is not None}
        if request.schema is not None:
            schema = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    # What comes back.

    def _read(self, raw: bytes, request: Request) -> Response:
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise self._error(f"sent no JSON: {error}", "BadResponse", again=True, billed=True) from None
        try:
            choices = [self._choice(held, request) for held in answer["choices"]]
            usage = answer.get("usage") or {}
            tokens = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
            first = choices[0]
        except (KeyError, IndexError, TypeError, AttributeError):
            shown = self._without_key(str(answer))[:200]
            raise self._error(
                f"sent no completion: {shown}", "BadResponse", again=True, billed=True
            ) from None
        if len(choices) < request.n:
            raise self._lacks("n", f"{len(choices)} answers to n={request.n}")
        if request.logprobs is not None and first.logprobs is None and first.text:
            raise self._lacks("logprobs", "no logprobs")
        more = tuple(choices[1 : request.n])
        return Response(
            first.text, first.finish_reason, tokens[0], tokens[1], logprobs=first.logprobs, more=more
        )

    def _choice(self, held: Mapping[str, Any], request: Request) -> Choice:
        text = held["message"].get("content") if request.prompt is None else held["text"]
        reason = str(held.get("finish_reason") or "stop")
        if not isinstance(text, str):
            # It was answered and paid for: kept like any answer, so that it is not asked for again.
            return Choice("", reason if reason != "stop" else _NO_TEXT)
        if request.prefill and not text.startswith(request.prefill):
            text = request.prefill + text
        if not text.isascii():
            text = text.encode(errors="replace").decode()  # half an emoji, cut at max_tokens, is no text
        tokens = _tokens(held.get("logprobs"))
        if tokens and not request.logprobs:
            tokens = [{**one, "top": {}} for one in tokens]
        return Choice(self._without_key(text), reason, tokens)

    def _refusal(self, status: int, headers: Mapping[str, str], raw: bytes, request: Request) -> ModelError:
        """Return what an answer that is none means: for this row, or for all."""
        message, code, parameter = _said(raw)
        why = _FATAL.get(status)
        if code == "insufficient_quota":
            why = "the account has no credit left"
        elif 300 <= status < 400:
            why = "it sends us elsewhere: name the address it means as base_url"
        elif status in (400, 422) and (
            code == "unsupported_parameter" or parameter in set(self._body(request)) - _OF_THE_ROW
        ):
            why = f"the endpoint takes no {parameter}"
        elif status in (400, 413, 422) and _TOO_LONG.search(f"{code} {message}"):
            return self._error(
                f"answered {status}: {self._without_key(message)[:300]}; the prompt and its answer are "
                "longer than the model's context window: make the prompt shorter (fewer or shorter "
                f"demonstrations, turns, texts), lower max_tokens, or {self._larger}",
                CONTEXT_WINDOW,
            )
        return self._error(
            f"answered {status} to model {self._name!r}{f' ({why})' if why else ''}: "
            + self._without_key(message)[:300],
            f"HTTP{status}",
            fatal=why is not None,
            again=why is None and status in _AGAIN,
            after_s=_retry_after(headers),
            billed=status in _GIVEN_UP,
        )

    def _lost(self, error: Exception) -> ModelError:
        """Return what it means that no answer came; unless nothing was sent, it may have been paid for."""
        import aiohttp

        match error:
            case aiohttp.ClientConnectorCertificateError():
                return self._error(f"has no certificate to trust: {error}", "Connection", fatal=True)
            case aiohttp.ClientConnectorError():
                return self._unreached(str(error.os_error))
            case aiohttp.ClientHttpProxyError():
                return self._unreached(f"the proxy answered {error.status} {error.message}")
            case aiohttp.ConnectionTimeoutError():
                return self._unreached("no connection in time")
            case TimeoutError():
                what = f"gave no answer in {self._timeout_s:g} s"
                return self._error(what, "Timeout", again=True, billed=True)
            case ValueError():  # an address or a key that no request can hold
                return self._error(f"cannot be asked: {error}", "Connection", fatal=True)
        what = f"hung up: {str(error) or type(error).__name__}"
        return self._error(what, "Connection", again=True, billed=True)

    def _unreached(self, why: str) -> ModelError:
        return self._error(f"cannot be reached: {why}", "Connection", again=True)

    def _lacks(self, feature: str, found: str) -> ModelError:
        return self._error(f"has no {feature}: it sent {found}", "Unsupported", fatal=True, billed=True)

    def _error(self, what: str, kind: str, **said: Any) -> ModelError:
        return ModelError(self._without_key(f"{self.base_url} {what}"), kind, **said)

    def _without_key(self, text: str) -> str:
        """Return an endpoint's words; some echo the key."""
        return text.replace(self._key, "[key]") if self._key and self._key in text else text


async def _whole(answer: aiohttp.ClientResponse, largest: int) -> bytes:
    """Return the body, unless it is larger than any answer."""
    parts, size = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > largest:
            raise ConnectionError(f"its answer is larger than {largest >> 20} MiB")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _logprobs(request: Request) -> dict[str, Any]:
    if request.logprobs is None:
        return {}
    if request.prompt is not None:
        return {"logprobs": max(1, request.logprobs)}  # to some servers 0 is none at all
    return {"logprobs": True, "top_logprobs": request.logprobs or None}


def _tokens(held: Any) -> list[dict[str, Any]] | None:
    """Return the logprobs of a choice, in the chat's form whichever form they came in."""
    if not held:
        return None
    if held.get("content") is not None:
        return [
            {
                "token": one["token"],
                "logprob": _logarithm(one["logprob"]),
                "top": {
                    other["token"]: _logarithm(other["logprob"]) for other in one.get("top_logprobs") or ()
                },
            }
            for one in held["content"]
        ]
    if held.get("tokens") is None:
        return None
    tops = held.get("top_logprobs") or [None] * len(held["tokens"])
    return [
        {
            "token": token,
            "logprob": _logarithm(logprob),
            "top": {other: _logarithm(value) for other, value in (top or {}).items()},
        }
        for token, logprob, top in zip(held["tokens"], held["token_logprobs"], tops, strict=False)
    ]


def _logarithm(value: Any) -> float | None:
    """Return a log-probability; what JSON and SQL do not know is none."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _said(raw: bytes) -> tuple[str, str, str]:
    """Return an error's message, code and parameter, as far as the endpoint tells them."""
    try:
        held = json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode(errors="replace"), "", ""
    error = held.get("error", held) if isinstance(held, dict) else held
    if not isinstance(error, dict):
        return str(error), "", ""
    return (
        str(error.get("message") or error),
        str(error.get("code") or error.get("type") or ""),
        str(error.get("param") or ""),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the endpoint wants to be left alone."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            continue
    return None


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; aiohttp would read ~/.netrc at every call."""
    parts = urlsplit(url)
    if any(urllib.request.proxy_bypass(host) for host in (parts.hostname or "", parts.netloc)):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _allow_connections() -> None:
    """Let this process have as many open sockets as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
