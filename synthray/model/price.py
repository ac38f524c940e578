"""What a call costs, and the most that it can cost: whole nano-dollars, so that sums are exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synthray.errors import InputError
from synthray.lineage import ordered

if TYPE_CHECKING:
    from synthray.model.language import Request

NANO = 1_000_000_000
_PER = 1_000_000
_MESSAGE_TOKENS = 16
_TEMPLATE_TOKENS = 64
"""What a chat template may put around the messages and around each of them."""


@dataclass(frozen=True)
class Amount:
    """Tokens, and nano-dollars."""

    tokens: int = 0
    nano: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.nano + other.nano)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.nano - other.nano)

    @property
    def usd(self) -> float:
        """The money in US dollars."""
        return self.nano / NANO


NOTHING = Amount()


@dataclass(frozen=True)
class Price:
    """Nano-dollars for a million prompt tokens and for a million answered ones; None: nobody said."""

    prompt: int | None = None
    answer: int | None = None

    @classmethod
    def of(cls, price: Mapping[str, float] | None) -> Price:
        """Return the price of a setting {input: USD, output: USD}, each for a million tokens."""
        if price is None:
            return cls()
        if (
            not isinstance(price, Mapping)
            or set(price) != {"input", "output"}
            or not all(isinstance(usd, int | float) and 0 <= usd < math.inf for usd in price.values())
        ):
            raise InputError(
                "model: price must say input and output, in US dollars for a million tokens, such as "
                f"{{input: 0.15, output: 0.6}}, but is {price!r}"
            )
        return cls(round(price["input"] * NANO), round(price["output"] * NANO))

    @property
    def known(self) -> bool:
        """Whether somebody said what tokens cost."""
        return self.prompt is not None

    def cost(self, prompt_tokens: int, answer_tokens: int) -> Amount:
        """Return what so many tokens cost, rounded up to a nano-dollar."""
        nano = prompt_tokens * (self.prompt or 0) + answer_tokens * (self.answer or 0)
        return Amount(prompt_tokens + answer_tokens, -(-nano // _PER))

    def bound(self, request: Request) -> Amount:
        """Return the most that a call can take: a token is at least a byte, an answer at most `max_tokens`.

        A schema counts as prompt, since most endpoints put it there.
        """
        texts = [request.prompt or "", request.prefill]
        texts += [str(value) for message in request.messages for value in message.values()]
        if request.schema is not None:
            texts.append(ordered(request.schema))
        given = sum(len(text.encode(errors="replace")) for text in texts)
        given += _MESSAGE_TOKENS * len(request.messages) + _TEMPLATE_TOKENS
        return self.cost(given, (request.max_tokens or 0) * request.n)
