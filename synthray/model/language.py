"""The one protocol behind which every language model stands: an async function from Request to Response."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from annotated_types import Ge, Gt, Le

from synthray.errors import InputError
from synthray.lineage import digest, ordered
from synthray.model.price import Price


@dataclass(frozen=True)
class Request:
    """A completion to ask for: of a chat (`messages`) or, raw and without a chat template, of `prompt`.

    `n` answers are asked for in one call. `schema` (JSON Schema) constrains the answer where the model can,
    `prefill` is what the answer begins with, `logprobs` asks for the log-probability of every token and of
    so many alternatives, `logit_bias` maps token ids to what is added to their logits.
    """

    messages: tuple[Mapping[str, str], ...] = ()
    max_tokens: int | None = 256
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    seed: int = 0
    n: int = 1
    prompt: str | None = None
    prefill: str = ""
    logprobs: int | None = None
    logit_bias: Mapping[str, float] | None = None

    def content(self) -> dict[str, Any]:
        """Return all that decides the answer, as JSON; the draw's seed is told apart by the draw."""
        content: dict[str, Any] = {
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self.stop,
            "schema": self.schema,
        }
        # What is not used is left out: the keys of calls that were kept before it existed still hold.
        for name, unused in _OPTIONAL:
            value = getattr(self, name)
            if value != unused:
                content[name] = value
        return content

    def features(self) -> frozenset[str]:
        """Return what it asks of the model beyond a chat completion."""
        used = {
            "raw completion": self.prompt is not None,
            "n": self.n > 1,
            "prefill": bool(self.prefill),
            "logprobs": self.logprobs is not None,
            "logit_bias": bool(self.logit_bias),
            "schema": self.schema is not None,
            "stop": bool(self.stop),
        }
        return frozenset(name for name, asked in used.items() if asked)


_OPTIONAL = (("n", 1), ("prompt", None), ("prefill", ""), ("logprobs", None), ("logit_bias", None))


@dataclass(frozen=True)
class Choice:
    """One answer: `finish_reason` is 'stop', or 'length' when it was cut at `max_tokens`.

    `logprobs` holds a mapping for each token: `token`, `logprob` and `top`, the alternatives' logprobs.
    """

    text: str
    finish_reason: str = "stop"
    logprobs: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Response:
    """What came back: an answer (see Choice), `more` of them when n > 1, and what it took."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1
    logprobs: Sequence[Mapping[str, Any]] | None = None
    more: tuple[Choice, ...] = ()

    def choices(self) -> tuple[Choice, ...]:
        """Return all answers."""
        return (Choice(self.text, self.finish_reason, self.logprobs), *self.more)


Complete = Callable[[Request], Awaitable[Response]]
"""What a language opens to: sends a request once, and raises ModelError when there is no answer."""


@dataclass(frozen=True)
class Language:
    """Settings of a model, and the limits of a run that asks it, over all its workers.

    `in_flight` calls run at once, each at most `timeout_s` long and tried `retries` times again. At most
    `requests_per_minute` and `tokens_per_minute` (prompt and answer) are sent in any minute. A budget is
    never passed: what a call may cost at most is set aside before it is sent. `price` is in US dollars for
    a million tokens: {input: 0.15, output: 0.6}.
    """

    in_flight: Annotated[int, Ge(1), Le(10_000)] = 64
    timeout_s: Annotated[float, Gt(0)] = 120.0
    retries: Annotated[int, Ge(0), Le(100)] = 4
    requests_per_minute: Annotated[int, Ge(1)] | None = None
    tokens_per_minute: Annotated[int, Ge(1)] | None = None
    budget_usd: Annotated[float, Gt(0)] | None = None
    budget_tokens: Annotated[int, Ge(1)] | None = None
    price: Mapping[str, Annotated[float, Ge(0)]] | None = None

    def identity(self) -> dict[str, Any]:
        """Return which model answers: what call keys and fingerprints hold; no limit, no key."""
        return {"language": self.kind}

    @property
    def kind(self) -> str:
        """What recipes call it."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def lacks(self) -> frozenset[str]:
        """What of Request.features() the model cannot do."""
        return frozenset()

    @property
    def paced(self) -> bool:
        """Whether there is a limit for a minute."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None

    @property
    def counted(self) -> bool:
        """Whether each call counts against a limit, beyond its place among those in flight."""
        return self.paced or self.budget_usd is not None or self.budget_tokens is not None

    def prices(self) -> Price:
        """Return what tokens cost; InputError when `price` does not say it."""
        return Price.of(self.price)

    def check(self) -> None:
        """Raise an InputError when the model cannot be opened as set; asks it nothing."""

    def check_limits(self) -> None:
        """Raise an InputError when a budget cannot be kept: nothing says what a token costs."""
        self.prices()
        if self.budget_usd is not None and not math.isfinite(self.budget_usd):
            raise InputError(f"model: budget_usd must be a number of US dollars, but is {self.budget_usd}")
        if self.budget_usd is not None and self.price is None:
            raise InputError(
                "model: budget_usd needs the model's price, in US dollars for a million tokens; add "
                "price: {input: 0.15, output: 0.6} to the model, or its name under the recipe's prices:"
            )

    def check_request(self, request: Request) -> None:
        """Raise an InputError when the model cannot do what the request asks, or no limit holds for it."""
        for feature in sorted(request.features() & self.lacks):
            raise InputError(f"model: {self.kind} has no {feature}; choose another model or leave it out")
        limits = {
            name: getattr(self, name)
            for name in ("budget_usd", "budget_tokens", "tokens_per_minute")
            if getattr(self, name) is not None
        }
        if limits and request.max_tokens is None:
            raise InputError(
                f"{' and '.join(limits)} cannot be kept without max_tokens: an answer could be of any length"
            )
        most = limits.get("tokens_per_minute")
        if most is not None and (request.max_tokens or 0) * request.n > most:
            raise InputError(
                f"max_tokens x n is {(request.max_tokens or 0) * request.n}, more than "
                f"tokens_per_minute ({most}): not one call could be sent"
            )

    def on(self, cores: int) -> Self:
        """Return the settings as they are on a cluster of so many cores, with what is left to it chosen."""
        del cores
        return self

    def workers(self, nodes: int, cores: int) -> int:
        """Return how many processes ask it on a cluster; one core's worth of calls is about 128 at once."""
        del nodes
        return max(1, min(cores, -(-self.in_flight // 256)))

    def open(self) -> Complete:
        """Return the function that answers, ready for use from one event loop."""
        raise TypeError(f"{type(self).__name__} defines no open")


def call_key(identity: Mapping[str, Any], request: Request, draw: tuple[str, str, int] | None) -> str:
    """Return the key of a call: its content and, where answers are drawn, the draw.

    `draw` is (row_id, step name, ordinal): 100 equal prompts at temperature above 0 are 100 draws.
    """
    # The order of a schema's properties is the order in which the model writes them.
    order = [ordered(request.schema)] if request.schema else []
    return digest("call", identity, request.content(), draw, *order)
