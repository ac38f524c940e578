"""Every model call is paid once, limited once and kept: what stands around a language in a process."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from synthray.errors import ModelError
from synthray.model.language import Complete, Language, Request, Response, call_key
from synthray.model.limits import Exchange, Grant, Limiter, Report, joined
from synthray.model.permits import Permits
from synthray.model.price import NOTHING, Amount
from synthray.model.store import Store, history

if TYPE_CHECKING:
    from synthray.model.mirror import Mirror

T = TypeVar("T")

Origin = tuple[str, str, int]
"""Where a call comes from: row_id, step name, ordinal of the draw."""

PATIENCE_S = 300.0
"""For how long an endpoint may answer nothing but 'too many requests'."""

REFRESH_S = 1.0
"""How often a process looks for answers of others to requests that draw nothing; two that ask at once pay."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Call:
    """An answered call; `reused` says that the answer was in the store and cost nothing now."""

    key: str
    response: Response
    reused: bool


class Calls:
    """A language opened in this process, with limits, retries and the store around it.

    `folder` is RUN/calls; without one the answers are kept in memory as long as the process lives.
    `exchange` reaches the limiter of the run; without one this process has its own.
    """

    def __init__(self, language: Language, folder: str | None, exchange: Exchange | None = None) -> None:
        language = language.on(len(os.sched_getaffinity(0)))
        self.identity = language.identity()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="calls").start()
        self._language = language
        self._price = language.prices()
        self._budget = language.budget_usd is not None or language.budget_tokens is not None
        self._complete: Complete | None = None
        self._asked: dict[str, asyncio.Future[Response]] = {}
        self._pushes = asyncio.Lock()
        self.fatal: Exception | None = None
        self._store = Store(folder) if folder else None
        self._permits = Permits.of(language, exchange or _alone(language, folder))
        self._busy_since: float | None = None
        self._refreshed_at = -REFRESH_S
        self.turns = asyncio.Semaphore(language.in_flight + language.in_flight // 4 + 8)
        """Rows take a turn before anything is made of them: what is ready to be sent is enough, and a block
        of rows that is made ready at once would keep the answers of others waiting."""

    @property
    def over(self) -> bool:
        """Whether no further call will be sent."""
        return self.fatal is not None or self._permits.refused is not None

    def run(self, work: Coroutine[Any, Any, T], others: Sequence[Calls] = ()) -> T:
        """Run `work` on the loop that all callers of this process share, and wait for it.

        First what other processes have kept is taken in; on return all that was answered is on the disk.
        `others` are asked by `work` too.
        """
        for one in (self, *others):
            one._wait(one._refresh())
        try:
            return self._wait(work)
        finally:
            for one in (self, *others):
                if one._store:
                    one._store.sync()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _refresh(self) -> None:
        if self._store:
            self._store.refresh()

    async def ask(self, request: Request, origin: Origin) -> Call:
        """Return the kept answer, or ask and keep it. Raises ModelError; a failure is not kept.

        At temperature 0 equal requests share one answer; above it the origin is part of the key. Those who
        run on the loop of another model's calls may ask too.
        """
        if asyncio.get_running_loop() is not self._loop:
            asked = asyncio.run_coroutine_threadsafe(self.ask(request, origin), self._loop)
            return await asyncio.wrap_future(asked)
        key = call_key(self.identity, request, origin if request.temperature > 0 else None)
        if key in self._asked:
            return Call(key, await asyncio.shield(self._asked[key]), reused=True)
        kept = self._store.get(key) if self._store else None
        if kept:
            return Call(key, kept, reused=True)
        future: asyncio.Future[Response] = self._loop.create_future()
        self._asked[key] = future
        try:
            response = await self._answer(key, request, origin)
        except BaseException as error:
            del self._asked[key]
            future.set_exception(error)
            future.exception()  # it is raised below; nobody else may wait for it
            raise
        future.set_result(response)
        if self._store:
            del self._asked[key]  # from here on the store answers
        return Call(key, response, reused=False)

    async def pushed(self, mirror: Mirror) -> None:
        """Wait until what was written by now is on the store; one push is for all who wait."""
        written = mirror.written
        async with self._pushes:
            if mirror.pushed < written:
                await self._loop.run_in_executor(None, mirror.push)

    async def _answer(self, key: str, request: Request, origin: Origin) -> Response:
        """Try as often as it may help."""
        bound = self._price.bound(request)
        failures = attempts = 0
        while True:
            grant = await self._permits.take(bound)
            if self.fatal:
                self._permits.end(grant, bound, NOTHING)
                raise self.fatal  # every call would meet it: none is sent after the first
            kept = self._kept_meanwhile(key) if request.temperature == 0 and not attempts else None
            if kept:
                self._permits.end(grant, bound, NOTHING)
                return kept
            attempts += 1
            sending = _Sending(self, key, request, origin, bound, attempts, grant)
            try:
                return await sending.answered()
            except ModelError as error:
                error.attempts = attempts
                failures += error.kind != "HTTP429"
                if error.fatal:
                    self._end(error)
                if not error.again or failures > self._language.retries:
                    raise
                self._lose_patience(error)
                await asyncio.sleep(_pause(error, attempts))
            except Exception as error:
                # Such as a full disk: every further answer would be paid for and lost.
                self._end(error)
                raise

    def _kept_meanwhile(self, key: str) -> Response | None:
        """Return the answer that another process got to the same request since the block was begun."""
        now = time.monotonic()
        if self._store is None or now - self._refreshed_at < REFRESH_S:
            return None
        self._refreshed_at = now
        self._store.refresh()
        return self._store.get(key)

    def _lose_patience(self, error: ModelError) -> None:
        """End the run where waiting is no cure; being told to wait is no failure and uses up no retry."""
        now = time.monotonic()
        if error.kind == "HTTP429" and self._busy_since is None:
            self._busy_since = now
        waited = now - (now if self._busy_since is None else self._busy_since)
        wish = error.after_s or 0.0
        if max(wish, waited) > PATIENCE_S:
            wished = f"wants to be left alone for {wish:.0f} s" if wish else "says nothing else"
            fatal = ModelError(
                f"{error}; it {wished}, and has answered no call for {waited:.0f} s: run again later",
                error.kind,
                fatal=True,
                attempts=error.attempts,
            )
            self._end(fatal)
            raise fatal

    def _end(self, fatal: Exception) -> None:
        """Send no further call, and let none wait for leave to be sent."""
        self.fatal = self._permits.refused = fatal


@dataclass
class _Sending:
    """One attempt at a call: money aside, sent, settled, kept."""

    calls: Calls
    key: str
    request: Request
    origin: Origin
    bound: Amount
    attempt: int
    grant: int
    reservation: int | None = None
    started: float = 0.0
    sent: bool = False

    async def answered(self) -> Response:
        calls, took, throttled_s = self.calls, None, None
        try:
            response = await self._sent()
            took = self._keep(response)
        except ModelError as error:
            took = self._lose(error)
            if error.kind == "HTTP429":
                throttled_s = error.after_s or 0.0
            raise
        finally:
            if took is None:
                took = self.bound if self.sent else NOTHING
            calls._permits.end(self.grant, self.bound, took, throttled_s=throttled_s)
        calls._busy_since = None
        return response

    async def _sent(self) -> Response:
        calls = self.calls
        self.started = time.time()
        if calls._complete is None:
            # Not before: a run whose answers are all kept needs no model.
            calls._complete = calls._language.open()
        if calls._budget and calls._store:
            self.reservation = calls._store.reserve({"key": self.key, **self._record(self.bound)})
            if calls._store.mirror:
                await calls.pushed(calls._store.mirror)
        self.sent = True
        return replace(await calls._complete(self.request), attempts=self.attempt)

    def _keep(self, response: Response) -> Amount:
        """Keep the answer; one that does not say what it took counts in full."""
        price, prompt, answer = self.calls._price, response.prompt_tokens, response.completion_tokens
        took = self.bound if prompt is None or answer is None else price.cost(prompt, answer)
        if self.calls._store:
            said = {
                "response": response.text,
                "finish_reason": response.finish_reason,
                "prompt_tokens": prompt,
                "completion_tokens": answer,
                "request": self.request.content(),
                **({"logprobs": response.logprobs} if response.logprobs is not None else {}),
                **({"more": [asdict(one) for one in response.more]} if response.more else {}),
            }
            self.calls._store.keep(self.key, {**self._record(took), **said})
        return took

    def _lose(self, error: ModelError) -> Amount:
        """Settle an attempt that has no answer: in full, if it may have been paid for."""
        took = self.bound if error.billed else NOTHING
        store = self.calls._store
        if store and error.billed:
            store.lose(self.key, {**self._record(took), "error": error.kind})
        elif store and self.reservation is not None:
            store.release(self.reservation)
        return took

    def _record(self, took: Amount) -> dict[str, Any]:
        row_id, step, ordinal = self.origin
        return {
            "step": step,
            "row_id": row_id,
            "ordinal": ordinal,
            "model": self.calls.identity,
            "tokens": took.tokens,
            "cost": took.usd if self.calls._price.known else None,
            "attempts": self.attempt,
            "latency_s": round(time.time() - self.started, 4),
            "at": self.started,
            **({} if self.reservation is None else {"reservation": self.reservation}),
        }


def _pause(error: ModelError, attempts: int) -> float:
    """Return how long to wait: at least as asked, else longer each time; never all callers at once."""
    if error.after_s is not None:
        return error.after_s + random.uniform(0, _FIRST_PAUSE_S)
    longest: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempts - 1, 16))
    return longest * random.uniform(0.5, 1.0)


def _alone(language: Language, folder: str | None) -> Exchange:
    """Return a limiter of this process."""
    past = history(folder, language.identity()) if folder and language.counted else None
    limiter = Limiter(language, past)

    async def exchange(report: Report) -> Grant:
        return limiter.exchange(report)

    return exchange


_OPEN: list[tuple[Language, str | None, str | None, Calls]] = []
_OPENING = threading.Lock()


def opened(language: Language, folder: str | None, limiter: str | None = None) -> Calls:
    """Return this process's one Calls for a language and a folder.

    `limiter` names the run's limiter; it is empty in the one process of a pool that limits itself. In a pool
    Calls that are over stay over, so that the blocks behind the one that met the error send nothing.
    """
    with _OPENING:
        for place, (known, where, name, calls) in enumerate(_OPEN):
            if known == language and (where, name) == (folder, limiter):
                if not calls.over or limiter is not None:
                    return calls
                del _OPEN[place]
                break
        calls = Calls(language, folder, joined(limiter) if limiter else None)
        _OPEN.append((language, folder, limiter, calls))
        return calls
