"""Where the calls of a worker wait until the limits of the run let them go."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from synthray.errors import BudgetSpent, ModelError
from synthray.model.limits import SILENT_S, SLACK_S, Ended, Exchange, Report
from synthray.model.price import NOTHING, Amount

if TYPE_CHECKING:
    from synthray.model.language import Language


@dataclass
class _Waiting:
    amount: Amount
    ready: asyncio.Future[int]


@dataclass
class Permits:
    """A worker's side: its calls wait here until they may be sent. For use from one event loop.

    `counted` says that each call needs leave, beyond a place among those in flight; `paced` that it is to
    be sent as soon as it has leave. A call of more than `most_tokens` can never have it.
    """

    exchange: Exchange
    counted: bool
    paced: bool
    most_tokens: int | None = None
    every_s: float = 0.2
    _name: str = field(default_factory=lambda: uuid.uuid4().hex)
    _number: int = 0
    _limiter: int = 0
    _share: int = 0
    _in_use: int = 0
    _waiting: collections.deque[_Waiting] = field(default_factory=collections.deque)
    _let: collections.deque[tuple[int, _Waiting]] = field(default_factory=collections.deque)
    _ended: dict[int, Ended] = field(default_factory=dict)
    _answered: int = 0
    _throttled_s: float | None = None
    _hold_until: float = -math.inf
    _heard: float = -math.inf
    refused: BaseException | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _talk: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, language: Language, exchange: Exchange) -> Permits:
        """Return the permits of a language's calls."""
        return cls(exchange, language.counted, language.paced, language.tokens_per_minute)

    async def take(self, amount: Amount) -> int:
        """Wait until a call of at most `amount` may be sent; return the grant, for `end`."""
        if self.refused:
            raise self.refused
        if self.most_tokens is not None and amount.tokens > self.most_tokens:
            raise ModelError(
                f"the call may take {amount.tokens} tokens, more than tokens_per_minute "
                f"({self.most_tokens}): raise it, or shorten the prompt or max_tokens",
                "TooLarge",
            )
        waiting = _Waiting(amount, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._pump()
        if not waiting.ready.done() and len(self._waiting) == 1:
            self._start()  # where others wait already, the limiter is asked anyway
        try:
            return await waiting.ready
        except asyncio.CancelledError:
            if waiting.ready.done() and not (waiting.ready.cancelled() or waiting.ready.exception()):
                self._leave(waiting.ready.result(), amount, NOTHING)  # stopped in the moment it was let
            raise

    def end(self, grant: int, bound: Amount, took: Amount, *, throttled_s: float | None = None) -> None:
        """Tell that a call ended, what it took, and whether the endpoint wants to be left alone."""
        if throttled_s is None:
            self._answered += 1
        else:
            self._throttled_s = max(self._throttled_s or 0.0, throttled_s)
            self._hold_until = max(self._hold_until, time.monotonic() + throttled_s)
            self._start()
        self._leave(grant, bound, took)

    def _leave(self, grant: int, bound: Amount, took: Amount) -> None:
        """Leave a place among those in flight to the next."""
        self._in_use -= 1
        self._settle(grant, bound, took)
        self._pump()
        if self.counted and not self._let:
            self._wake.set()

    def _settle(self, grant: int, bound: Amount, took: Amount) -> None:
        """Note what is to be told of a call that was let."""
        if self.counted:
            before = self._ended.get(grant, Ended(grant, NOTHING, NOTHING))
            self._ended[grant] = Ended(grant, before.bound + bound, before.took + took)

    # Letting calls go.

    def _pump(self) -> None:
        """Send off what has leave, as long as there is a place in flight."""
        now = time.monotonic()
        if now < self._hold_until or now - self._heard > SILENT_S / 2:
            return
        while self._in_use < self._share:
            if self._let:
                grant, one = self._let.popleft()
            elif self._waiting and not self.counted:
                grant, one = 0, self._waiting.popleft()
            else:
                return
            if one.ready.done():  # whoever wanted it was stopped
                self._settle(grant, one.amount, NOTHING)
                continue
            self._in_use += 1
            one.ready.set_result(grant)

    def _start(self) -> None:
        self._wake.set()
        if self._talk is None or self._talk.done():
            self._talk = asyncio.get_running_loop().create_task(self._talking())

    async def _talking(self) -> None:
        """Talk to the limiter as long as there is something to say."""
        while True:
            self._wake.clear()
            told = self._share
            try:
                await self._tell()
            except Exception as error:
                self._fail(error)
                return
            if self.refused:
                self._fail(self.refused)
            # The limiter takes a share for held until it is told of a smaller one.
            if not (self._waiting or self._let or self._in_use or self._ended or self._share or told):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause())
            if self.counted:
                await asyncio.sleep(0.01)  # a moment, so that one message is of many calls

    def _pause(self) -> float:
        hold = self._hold_until - time.monotonic()
        if hold > 0:
            return min(hold, 1.0)
        return 0.02 if self._waiting and self.counted else self.every_s

    async def _tell(self) -> None:
        self._number += 1
        ended, self._ended = tuple(self._ended.values()), {}
        answered, self._answered = self._answered, 0
        throttled_s, self._throttled_s = self._throttled_s, None
        while self._waiting and self._waiting[0].ready.done():  # stopped
            self._waiting.popleft()
        asked = tuple(self._asked()) if self.counted else ()
        report = Report(
            worker=self._name,
            number=self._number,
            share=self._share,
            in_use=self._in_use,
            waiting=len(self._waiting) + len(self._let),
            asked=asked,
            ended=ended,
            answered=answered,
            throttled_s=throttled_s,
        )
        told_at = time.monotonic()
        grant = await self.exchange(report)
        now = time.monotonic()
        self._heard = told_at
        self._share = grant.share
        self._hold_until = max(self._hold_until, now + grant.hold_s if grant.hold_s else -math.inf)
        granted = [(grant.number, self._waiting.popleft()) for _ in range(grant.calls)]
        if self.paced and (now < self._hold_until or now - told_at > SLACK_S):
            # They would be sent in another minute than the one they were counted in.
            self._give_back(granted)
            granted = []
        if grant.limiter != self._limiter:
            # Another limiter knows nothing of the leave that the one before it gave.
            self._waiting.extendleft(one for _, one in reversed(self._let))
            self._let.clear()
            self._limiter = grant.limiter
        elif not grant.share:
            # Without a place they would keep the money from those that have one.
            self._give_back([*self._let])
            self._let.clear()
        self._let.extend(granted)
        if grant.refused:
            self.refused = BudgetSpent(grant.refused)
        self._pump()

    def _give_back(self, let: list[tuple[int, _Waiting]]) -> None:
        """Return leave that is not used; its calls wait in front."""
        for number, one in let:
            self._settle(number, one.amount, NOTHING)
        self._waiting.extendleft(one for _, one in reversed(let))

    def _asked(self) -> Iterator[Amount]:
        """Yield what the next calls may take: those with a place, and where nothing is paced a few more."""
        places = self._share - self._in_use - len(self._let)
        places = max(1, places) if self.paced else max(0, places + max(8, self._share // 2))
        for one in itertools.islice(self._waiting, places):
            yield one.amount

    def _fail(self, error: BaseException) -> None:
        waiting = [*self._waiting, *(one for _, one in self._let)]
        for grant, one in self._let:
            self._settle(grant, one.amount, NOTHING)
        self._waiting.clear()
        self._let.clear()
        for one in waiting:
            if not one.ready.done():
                one.ready.set_exception(error)
