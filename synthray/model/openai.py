"""Any OpenAI-compatible endpoint, by the openai client."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthray.errors import InputError, ModelError
from synthray.model.language import Complete, Language, Request, Response

if TYPE_CHECKING:
    import httpx2
    import openai

_OWN = "https://api.openai.com/v1"
_FATAL = {401: "the key is refused", 403: "the key may not do this", 404: "no such model or path"}


@dataclass(frozen=True)
class OpenAI(Language):
    """Chat completions of the model `name` at `base_url` (default: OpenAI's own).

    The key is read from the environment variable `api_key_env` by the process that calls and is written
    nowhere. `OPENAI_API_KEY` is the default for OpenAI's own endpoint alone; another `base_url` names its
    own variable or is called without a key. `send_seed` passes each draw's seed, which some endpoints refuse.
    """

    name: str = ""
    base_url: str | None = None
    api_key_env: str | None = None
    send_seed: bool = False

    def identity(self) -> dict[str, Any]:
        """Return the model's name and where it is served."""
        return {**super().identity(), "name": self.name, "base_url": self.base_url}

    def check(self) -> None:
        """Raise an InputError when the name is missing or the key is not in the environment."""
        if not self.name:
            raise InputError("model: openai needs name, such as name: gpt-5-mini")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise InputError(f"model: base_url must start with http:// or https://: {self.base_url!r}")
        if self.base_url and "@" in self.base_url:
            raise InputError("model: base_url must hold no user or password; name a key by api_key_env")
        variable = self._key_variable()
        if variable and not os.environ.get(variable):
            raise InputError(
                f"model: the environment variable {variable} is not set; export {variable}=... "
                "or name another by api_key_env"
            )

    def open(self) -> Complete:
        """Connect on first use."""
        import openai

        variable = self._key_variable()
        client = openai.AsyncOpenAI(
            base_url=self.base_url or _OWN,  # left to the client, OPENAI_BASE_URL would get the key
            api_key=os.environ.get(variable, "") if variable else "none",
            max_retries=self.retries,
            timeout=self.timeout_s,
        )

        async def complete(request: Request) -> Response:
            return await ask(client, self.name, request, send_seed=self.send_seed)

        return complete

    def _key_variable(self) -> str | None:
        if self.api_key_env or self.base_url:
            return self.api_key_env
        return "OPENAI_API_KEY"


async def ask(client: openai.AsyncOpenAI, name: str, request: Request, *, send_seed: bool) -> Response:
    """Send one chat completion and read its answer; every way it can fail is a ModelError."""
    import httpx2
    import openai

    # The typed method spends most of its time transforming parameters that are right already.
    try:
        answer = await client.post(
            "/chat/completions",
            body=_body(name, request, send_seed=send_seed),
            cast_to=httpx2.Response,
        )
        return _read(answer.json(), _attempts(answer.request))
    except openai.APIStatusError as error:
        why = _FATAL.get(error.status_code)
        raise ModelError(
            f"{client.base_url} answered {error.status_code} to model {name!r}"
            f"{f' ({why})' if why else ''}: "
            f"{_without_key(error.message, client.api_key)}",
            f"HTTP{error.status_code}",
            fatal=why is not None,
            attempts=_attempts(error.request),
        ) from None
    except openai.APITimeoutError as error:
        raise ModelError(
            f"{client.base_url} gave no answer in {client.timeout} s",
            "Timeout",
            attempts=_attempts(error.request),
        ) from None
    except openai.APIConnectionError as error:
        raise ModelError(
            f"{client.base_url} cannot be reached: {error.__cause__ or error}",
            "Connection",
            attempts=_attempts(error.request),
        ) from None
    except ValueError as error:
        raise ModelError(f"{client.base_url} sent no JSON: {error}", "BadResponse") from None


def _without_key(message: str, key: str) -> str:
    """Return an endpoint's words; some echo the key they refuse."""
    return message.replace(key, "[key]") if len(key) > 8 else message


def _attempts(request: httpx2.Request) -> int:
    """Return how often the client has sent a request; it counts its retries in a header."""
    return int(request.headers.get("x-stainless-retry-count", "0")) + 1


def _body(name: str, request: Request, *, send_seed: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": name,
        "messages": list(request.messages),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if send_seed:
        body["seed"] = request.seed
    if request.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": request.schema, "strict": True},
        }
    return body


def _read(answer: Any, attempts: int) -> Response:
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        usage = answer.get("usage") or {}
        prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ModelError(f"not a chat completion: {str(answer)[:200]}", "BadResponse") from None
    if not isinstance(text, str):
        reason = choice.get("finish_reason")
        raise ModelError(f"no text in the answer (finish_reason {reason!r})", "NoText")
    return Response(
        text=text.encode(errors="replace").decode(),  # half an emoji, cut at max_tokens, is no text
        finish_reason=choice.get("finish_reason") or "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        attempts=attempts,
    )
