"""A side of a conversation that a model plays: what it is told, which model plays it, how it is sampled."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self

from annotated_types import Ge, Gt, Le

from synthray.errors import InputError, near
from synthray.model.language import Request

SOURCE = Path(__file__)
"""For the fingerprints of operators whose models converse."""

Message = Mapping[str, str]


@dataclass(frozen=True)
class Role:
    """One side, `user` or `assistant`, as a recipe sets it.

    `system` is its system prompt, which the other side never sees. `template` opens the conversation to a
    side that speaks first: a first message from nobody in it, since models are made to answer one. `model`
    names a model of `models:`; without it the step's own plays the side too.
    """

    name: str
    system: str | None = None
    template: str | None = None
    model: str | None = None
    temperature: Annotated[float, Ge(0), Le(5)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    max_tokens: Annotated[int, Ge(1), Le(1_000_000)] | None = 256
    stop: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, held: Mapping[str, Any], *without: str) -> Self:
        """Return the role as set; InputError for a setting that it has not, such as those `without`."""
        import pydantic

        hints = typing.get_type_hints(cls, include_extras=True)
        known = [item.name for item in fields(cls) if item.name not in ("name", *without)]
        made = {}
        for setting, value in held.items():
            if setting not in known:
                raise InputError(f"{name}: no setting {setting!r}{near(setting, known)}")
            try:
                made[setting] = pydantic.TypeAdapter(hints[setting]).validate_python(value, strict=True)
            except pydantic.ValidationError as error:
                why = error.errors()[0]["msg"].removeprefix("Input should be ")
                raise InputError(f"{name}: {setting} should be {why}, but is {value!r}") from None
        return cls(name, **made)

    def templates(self) -> tuple[str, ...]:
        """Return what is filled from a row."""
        return tuple(text for text in (self.system, self.template) if text is not None)

    def request(self, before: Sequence[Message], said: Sequence[Message]) -> Request:
        """Return what asks this side for its next message, after what was `said` by both.

        To it, it is the assistant and the other side the user. `before` is what it alone is told first.
        """
        heard = tuple(
            {"role": "assistant" if one["role"] == self.name else "user", "content": one["content"]}
            for one in said
        )
        return Request(
            messages=(*before, *heard),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=tuple(self.stop),
        )
