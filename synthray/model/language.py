"""The one protocol behind which every language model stands: an async function from Request to Response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from synthray.lineage import digest, ordered


@dataclass(frozen=True)
class Request:
    """A chat completion to ask for: `schema` (JSON Schema) constrains the answer where the model can."""

    messages: tuple[Mapping[str, str], ...]
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    seed: int = 0

    def content(self) -> dict[str, Any]:
        """Return all that decides the answer, as JSON; the draw's seed is told apart by the draw."""
        content = asdict(self)
        del content["seed"]
        return content


@dataclass(frozen=True)
class Response:
    """An answer: `finish_reason` is 'stop', or 'length' when it was cut at `max_tokens`."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    attempts: int = 1


Complete = Callable[[Request], Awaitable[Response]]
"""What a language opens to; raises ModelError when there is no answer."""


@dataclass(frozen=True)
class Language:
    """Settings of a model. `open` starts or connects it and runs once in each process that asks it.

    `in_flight` calls run at once in the run, each at most `timeout_s` long and tried `retries` times again.
    """

    in_flight: Annotated[int, Ge(1), Le(10_000)] = 64
    timeout_s: Annotated[float, Gt(0)] = 120.0
    retries: Annotated[int, Ge(0), Le(100)] = 4

    def identity(self) -> dict[str, Any]:
        """Return which model answers: what call keys and fingerprints hold; no limit, no key."""
        return {"language": type(self).__module__.rpartition(".")[2]}

    def check(self) -> None:
        """Raise an InputError when the model cannot be opened as set; asks it nothing."""

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
