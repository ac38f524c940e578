"""One limit for the run: calls in flight, requests and tokens a minute, and money, over all workers.

A worker asks for many calls at once and sends none before it was let. What it is let is a share of the
calls in flight, which it uses again and again without asking, and, where something is counted (requests,
tokens, money), leave for so many of the calls that it has waiting. So the limit costs one message for many
calls, and the sums of all workers are in one place.
"""

from __future__ import annotations

import collections
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from synthray.model.price import NANO, NOTHING, Amount
from synthray.model.store import WINDOW_S, History, history

if TYPE_CHECKING:
    from synthray.model.language import Language

SLACK_S = 1.0
"""A request may reach the endpoint this much later than it was let; the window is longer by it."""

BURST_S = 2.0

EDGE_S = 20.0
"""For so long an endpoint is not soon asked again for more than it refused."""

SILENT_S = 10.0
"""A worker that was not heard of for so long is dead; a living one stops sending before."""

RESTART_S = SILENT_S / 2 + 1
"""How long a limiter that is started again listens before it lets anybody send; by then a worker that has
not heard of it sends nothing either."""


@dataclass(frozen=True)
class Ended:
    """Calls of one grant that ended: what was set aside for them and what they took."""

    grant: int
    bound: Amount
    took: Amount


@dataclass(frozen=True)
class Report:
    """What a worker tells: the share it keeps to, calls under way, calls waiting, and what ended since."""

    worker: str
    number: int
    share: int
    in_use: int
    waiting: int
    asked: tuple[Amount, ...] = ()
    ended: tuple[Ended, ...] = ()
    answered: int = 0
    throttled_s: float | None = None


@dataclass(frozen=True)
class Grant:
    """What a worker may do: have `share` calls under way and send `calls` of those it asked for.

    It sends nothing for `hold_s` seconds. `refused` says why no further call will ever be let. Leave that
    another `limiter` gave, and that is not used yet, holds no more.
    """

    number: int
    share: int
    calls: int = 0
    hold_s: float = 0.0
    refused: str = ""
    limiter: int = 0


Exchange = Callable[[Report], Awaitable[Grant]]


@dataclass
class _Worker:
    number: int = 0
    held: int = 0
    wanted: int = 0
    seen: float = 0.0
    aside: Amount = NOTHING
    told: Grant | None = None


@dataclass
class Taken:
    """What was taken of a window at one moment, as long as it counts."""

    at: float
    amount: int = 0
    counts: bool = True


class Window:
    """At most `limit` in any window of a minute, given out evenly."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._taken: collections.deque[Taken] = collections.deque()
        self._sum = 0
        self._rate = limit / WINDOW_S
        self._burst = max(1.0, self._rate * BURST_S)
        self._stock = self._burst
        self._at = now

    def has(self, amount: int, now: float) -> bool:
        """Say whether `amount` may be taken now."""
        while self._taken and self._taken[0].at <= now - WINDOW_S - SLACK_S:
            old = self._taken.popleft()
            old.counts = False
            self._sum -= old.amount
        self._stock = min(self._burst, self._stock + (now - self._at) * self._rate)
        self._at = now
        # The stock keeps the pace and may fall below zero for one large amount; the sum is the limit.
        return self._stock > 0 and self._sum + amount <= self.limit

    def take(self, amount: int, now: float) -> Taken:
        """Take it; what is taken at one moment is one, which goes to `give_back`."""
        if not self._taken or self._taken[-1].at != now:
            self._taken.append(Taken(now))
        self._taken[-1].amount += amount
        self._sum += amount
        self._stock -= amount
        return self._taken[-1]

    def give_back(self, taken: Taken, amount: int) -> None:
        """Return what was not used; a negative amount is what was used beyond."""
        if taken.counts:
            taken.amount -= amount
            self._sum -= amount
            self._stock = min(self._burst, self._stock + amount)


class Limiter:
    """Decides for all workers; knows nothing of processes or of Ray, and is told the time."""

    def __init__(
        self,
        language: Language,
        history: History | None = None,
        clock: Callable[[], float] = time.monotonic,
        workers: int = 1,
    ) -> None:
        history = history or History()
        self._clock = clock
        now = clock()
        self._most = language.in_flight
        self._cap = float(language.in_flight)
        self._cut_at = -math.inf
        self._edge = math.inf
        self._hold_until = -math.inf
        requests, tokens = language.requests_per_minute, language.tokens_per_minute
        self._requests = Window(requests, now) if requests else None
        self._tokens = Window(tokens, now) if tokens else None
        # What a run before this one sent a moment ago is in the endpoint's minute too.
        for window, recent in ((self._requests, history.recent_calls), (self._tokens, history.recent_tokens)):
            if window and recent:
                window.take(min(recent, window.limit), now)
        self._budget_nano = None if language.budget_usd is None else round(language.budget_usd * NANO)
        self._budget_tokens = language.budget_tokens
        self._spent = history.spent
        self._aside = NOTHING
        self._workers: dict[str, _Worker] = {}
        self._dead: dict[str, _Worker] = {}
        self._expected = workers
        self._starts_until = now + SILENT_S
        self._grants = self._first = random.getrandbits(48)
        self._token_grants: collections.OrderedDict[int, Taken] = collections.OrderedDict()

    def exchange(self, report: Report) -> Grant:
        """Take a worker's report and say what it may do now."""
        now = self._clock()
        worker = self._known(report.worker)
        worker.seen = now
        if worker.told and report.number <= worker.number:
            return worker.told  # one that is told twice, since its answer was lost, counts once
        worker.number = report.number
        self._settle(worker, report, now)
        self._bury(now)
        worker.held = max(report.share, report.in_use)
        worker.wanted = report.in_use + report.waiting
        share = self._share(worker)
        # Until it has heard of a smaller share it may fill the one it had.
        worker.held = max(worker.held, share)
        self._grants += 1
        hold = max(0.0, self._hold_until - now)
        asked = report.asked
        if self._requests or self._tokens:
            # What waits for a place would be sent in another minute than the one it counts in.
            asked = asked[: max(0, share - report.in_use)]
        if not share:
            asked = ()  # money set aside for calls without a place would keep it from those that have one
        calls = 0 if hold else self._let(worker, asked, now)
        refused = self._refused(report.asked[calls]) if calls < len(report.asked) else ""
        worker.told = Grant(self._grants, share, calls, hold, refused, self._first)
        return worker.told

    def meet(self, report: Report) -> None:
        """Take note of a worker that has a share from the limiter before this one."""
        held = max(report.share, report.in_use)
        self._workers[report.worker] = _Worker(held=held, wanted=held, seen=self._clock())

    def _known(self, name: str) -> _Worker:
        if name in self._dead:  # it was only slow: what it has under way will end after all
            worker = self._workers[name] = self._dead.pop(name)
            self._aside += worker.aside
            self._spent -= worker.aside
        return self._workers.setdefault(name, _Worker())

    # Calls in flight.

    @property
    def _starting(self) -> bool:
        return len(self._workers) < self._expected and self._clock() < self._starts_until

    def _share(self, worker: _Worker) -> int:
        """Return this worker's part of the calls in flight: as it wants, but no more than is fair."""
        left, fair = int(self._cap), 0
        by_want = sorted(self._workers.values(), key=lambda one: one.wanted)
        # Those that are still starting keep their part; else the first would have to give it back at once.
        sharers = max(len(by_want), self._expected if self._starting else 0)
        for place, one in enumerate(by_want):
            part = min(one.wanted, -(-left // (sharers - place)))
            left -= part
            if one is worker:
                fair = part
        others = sum(one.held for one in self._workers.values() if one is not worker)
        return max(0, min(fair, int(self._cap) - others))

    def _settle(self, worker: _Worker, report: Report, now: float) -> None:
        for ended in report.ended:
            if not self._first < ended.grant <= self._grants:
                continue  # let by the limiter before this one: in the history, in full
            self._aside -= ended.bound
            worker.aside -= ended.bound
            self._spent += ended.took
            taken = self._token_grants.get(ended.grant)
            if self._tokens and taken:
                self._tokens.give_back(taken, ended.bound.tokens - ended.took.tokens)
        if report.throttled_s is not None:
            self._hold_until = max(self._hold_until, now + report.throttled_s)
            if now - self._cut_at > 1.0:  # once for all the calls that one crowding refused
                # One that comes soon after another says that far too many are under way.
                part = 0.5 if now - self._cut_at < 3.0 else 0.8
                self._cut_at = now
                self._edge = self._cap
                self._cap = max(1.0, self._cap * part)
        elif report.answered:
            # So much more for each round of answers; hardly more near where it was too much the last time.
            # It is forgotten after a while, so that one stray refusal costs seconds.
            near = 0.8 <= self._cap / self._edge <= 1.05 and now - self._cut_at < EDGE_S
            step = 0.1 if near else max(1.0, self._most / 64)
            self._cap = min(float(self._most), self._cap + step * report.answered / self._cap)

    def _bury(self, now: float) -> None:
        """Take back the share of workers that are dead; what they may have sent counts as spent."""
        for name in [name for name, one in self._workers.items() if now - one.seen > SILENT_S]:
            dead = self._dead[name] = self._workers.pop(name)
            self._aside -= dead.aside
            self._spent += dead.aside

    # What is counted.

    def _let(self, worker: _Worker, asked: tuple[Amount, ...], now: float) -> int:
        """Take for as many of the calls as may go, in their order, and return how many."""
        let = 0
        aside = NOTHING
        for amount in asked:
            if not self._fits(amount, now):
                break
            if self._requests:
                self._requests.take(1, now)
            if self._tokens:
                self._token_grants[self._grants] = self._tokens.take(amount.tokens, now)
            self._aside += amount
            aside += amount
            let += 1
        worker.aside += aside
        while self._token_grants and not next(iter(self._token_grants.values())).counts:
            self._token_grants.popitem(last=False)
        return let

    def _fits(self, amount: Amount, now: float) -> bool:
        if self._requests and not self._requests.has(1, now):
            return False
        if self._tokens and not self._tokens.has(amount.tokens, now):
            return False
        return not self._over(self._spent + self._aside + amount)

    def _over(self, total: Amount) -> str:
        if self._budget_nano is not None and total.nano > self._budget_nano:
            return "budget_usd"
        if self._budget_tokens is not None and total.tokens > self._budget_tokens:
            return "budget_tokens"
        return ""

    def _refused(self, amount: Amount) -> str:
        """Say why a call can never be let; while others are under way, they may leave something over."""
        over = self._over(self._spent + amount)
        if not over or self._aside != NOTHING:
            return ""
        of = (
            f"{self._spent.usd:.6f} of {(self._budget_nano or 0) / NANO:.6f} US dollars are spent and the "
            f"next call may cost {amount.usd:.6f}"
            if over == "budget_usd"
            else f"{self._spent.tokens} of {self._budget_tokens} tokens are spent and the next call may take "
            f"{amount.tokens}"
        )
        return f"{over}: {of}; raise it to go on, every answer is kept"


# On a cluster: one limiter, an actor that every worker of the run finds by its name.


class Shared:
    """The limiter of a run, in an actor of its own; started again elsewhere when its node dies."""

    def __init__(self, language: Language, folder: str, workers: int) -> None:
        import ray

        self._made = (language, folder, workers)
        self._met: dict[str, Report] = {}
        self._limiter: Limiter | None = None
        # One that is started again first lets all workers hear that they are to wait: what they have sent by
        # then stands in their journals, and what they have not they give back.
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self._begins_at = time.monotonic() + (RESTART_S if again else 0.0)

    def exchange(self, report: Report) -> Grant:
        """See Limiter."""
        wait = self._begins_at - time.monotonic()
        if wait > 0:
            self._met[report.worker] = report
            return Grant(report.number, report.share, hold_s=wait, limiter=1)
        if self._limiter is None:
            language, folder, workers = self._made
            past = history(folder, language.identity()) if language.counted else History()
            if self._met:
                # What was in flight, and is in no journal yet, is in the endpoint's minute too.
                past = replace(past, recent_calls=past.recent_calls + language.in_flight)
            self._limiter = Limiter(language, past, workers=workers)
            for met in self._met.values():
                self._limiter.meet(met)
        return self._limiter.exchange(report)


def share(name: str, language: Language, folder: str, workers: int) -> Any:
    """Start a limiter under a name; it lives as long as what is returned."""
    import ray

    return (
        ray.remote(Shared)
        .options(name=name, num_cpus=0, max_restarts=-1, max_task_retries=-1)
        .remote(language, folder, workers)
    )


def joined(name: str) -> Exchange:
    """Return the way to the limiter of a run, from one of its workers."""
    import ray

    actor = ray.get_actor(name)

    async def exchange(report: Report) -> Grant:
        grant: Grant = await actor.exchange.remote(report)
        return grant

    return exchange
