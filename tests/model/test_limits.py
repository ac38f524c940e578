"""No limit is passed by all workers together, and none is wasted: with a clock that the test turns."""

from __future__ import annotations

import bisect
import collections
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from synthray.model.language import Language
from synthray.model.limits import BURST_S, SILENT_S, SLACK_S, Ended, Grant, Limiter, Report, Window
from synthray.model.permits import Permits
from synthray.model.price import NANO, NOTHING, Amount
from synthray.model.store import WINDOW_S, History

MINUTES = 5
CALL = Amount(100, 1000)
NUMBERS = itertools.count(1)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


async def unasked(report: Report) -> Grant:
    raise AssertionError(report)


def most_in_a_minute(sent: list[tuple[float, int]]) -> int:
    """Return the most that any window of a minute holds; the worst begins with something sent."""
    sent = sorted(sent)
    times = [at for at, _ in sent]
    sums = list(itertools.accumulate((amount for _, amount in sent), initial=0))
    ends = [bisect.bisect_left(times, at + WINDOW_S) for at in times]
    return max((sums[end] - sums[start] for start, end in enumerate(ends)), default=0)


@dataclass
class Worker:
    """A worker as it is to behave: sends what it was let, and never has more under way than its share."""

    name: str
    waiting: collections.deque[Amount] = field(default_factory=collections.deque)
    let: collections.deque[tuple[int, Amount]] = field(default_factory=collections.deque)
    ended: list[Ended] = field(default_factory=list)
    number: int = 0
    share: int = 0
    in_use: int = 0
    sent: int = 0
    refused: str = ""


class World:
    """Workers around one limiter: each message and each call takes its time, and what was sent is noted."""

    def __init__(
        self, language: Language, workers: int, seed: int, *, way_s: float = 0.05, took: float = 1.0
    ) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.limiter = Limiter(language, None, self.clock, workers)
        self.counted = Permits.of(language, unasked).counted
        self.way_s, self.took = way_s, took
        self.workers = [Worker(f"w{number}") for number in range(workers)]
        self.sent: list[tuple[float, int]] = []
        self.flights: list[int] = []
        self.settled = self.aside = self.most = NOTHING
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for worker in self.workers:
            self.later((0, 0.2), partial(self.tell, worker))

    def later(self, wait_s: tuple[float, float], event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock.now + self.random.uniform(*wait_s), next(NUMBERS), event))

    def pass_time(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self._events and self._events[0][0] <= until:
            self.clock.now, _, event = heapq.heappop(self._events)
            event()
        self.clock.now = until

    def tell(self, worker: Worker) -> None:
        places = max(1, worker.share - worker.in_use)
        asked = tuple(itertools.islice(worker.waiting, places)) if self.counted else ()
        wanted = len(worker.waiting) + len(worker.let)
        ended, worker.ended, worker.number = tuple(worker.ended), [], worker.number + 1
        report = Report(worker.name, worker.number, worker.share, worker.in_use, wanted, asked, ended)
        self.later((0, self.way_s), partial(self.arrive, worker, report))

    def arrive(self, worker: Worker, report: Report) -> None:
        grant = self.limiter.exchange(report)
        assert not (grant.refused and any(one.in_use or one.let for one in self.workers))
        self.later((0, self.way_s), partial(self.hear, worker, grant))

    def hear(self, worker: Worker, grant: Grant) -> None:
        worker.share = grant.share
        worker.let.extend((grant.number, worker.waiting.popleft()) for _ in range(grant.calls))
        worker.refused = grant.refused
        self.send(worker)
        self.later((0.02, 0.1), partial(self.tell, worker))

    def send(self, worker: Worker) -> None:
        while worker.in_use < worker.share and (worker.let or (worker.waiting and not self.counted)):
            grant, bound = worker.let.popleft() if worker.let else (0, worker.waiting.popleft())
            part = self.random.uniform(self.took * 0.5, self.took)
            took = Amount(int(bound.tokens * part), int(bound.nano * part))
            worker.in_use += 1
            worker.sent += 1
            self.sent.append((self.clock.now, took.tokens))
            self.flights.append(sum(one.in_use for one in self.workers))
            self.aside += bound
            total = self.settled + self.aside
            self.most = Amount(max(self.most.tokens, total.tokens), max(self.most.nano, total.nano))
            self.later((0.2, 4.0), partial(self.end, worker, Ended(grant, bound, took)))

    def end(self, worker: Worker, ended: Ended) -> None:
        worker.in_use -= 1
        worker.ended.append(ended)
        self.settled += ended.took
        self.aside -= ended.bound
        self.send(worker)


def limiter_of(clock: Clock, workers: int = 1, history: History | None = None, **limits: Any) -> Limiter:
    return Limiter(Language(**limits), history, clock, workers)


def tell(
    limiter: Limiter, worker: str, share: int = 0, in_use: int = 0, waiting: int = 0, **more: Any
) -> Grant:
    """Tell what a worker does; what it waits for is asked for, unless `asked` says otherwise."""
    more = {"asked": (CALL,) * waiting, **more}
    return limiter.exchange(Report(worker, next(NUMBERS), share, in_use, waiting, **more))


# The window.


@pytest.mark.parametrize("seed", range(12))
def test_no_minute_holds_more_than_the_limit_whatever_is_taken_and_however_late_it_is_sent(seed: int) -> None:
    chance = random.Random(seed)
    limit = chance.choice([1, 7, 60, 1000])
    window, now, sent = Window(limit, 0.0), 0.0, []
    open_calls: list[tuple[Any, int, int]] = []
    while now < 600:
        idle_s = chance.uniform(0, 90) if chance.random() < 0.02 else 0.0
        now += chance.choice([0.0, 0.001, 0.01, 0.1, 0.1, 1.0, idle_s])
        amount = chance.randint(1, max(1, limit // chance.choice([1, 5, 50])))
        while window.has(amount, now):
            took = chance.randint(0, amount)
            open_calls.append((window.take(amount, now), amount, took))
            sent.append((now + chance.uniform(0, SLACK_S), took))
        if open_calls and chance.random() < 0.3:
            taken, amount, took = open_calls.pop(chance.randrange(len(open_calls)))
            window.give_back(taken, amount - took)
    assert len(sent) > 5
    assert most_in_a_minute(sent) <= limit


@pytest.mark.parametrize(("limit", "amount"), [(3, 1), (60, 1), (7_000, 1), (100_000, 900), (1_000, 40)])
def test_a_steady_demand_uses_the_limit(limit: int, amount: int) -> None:
    chance, window, now, taken = random.Random(limit), Window(limit, 0.0), 0.0, 0
    while now < MINUTES * WINDOW_S:
        while window.has(amount, now):
            window.take(amount, now)
            taken += amount
        now += chance.uniform(0.01, 0.3)
    assert 0.95 * MINUTES * limit <= taken <= (MINUTES + 0.1) * limit + amount


@pytest.mark.parametrize("idle_s", [0.0, 90.0, 3600.0])
def test_an_idle_time_saves_up_no_more_than_a_moment(idle_s: float) -> None:
    window, sent = Window(600, 0.0), []
    assert window.has(1, 0.0)
    for step in range(1300):
        now = idle_s + step * 0.1
        while window.has(1, now):
            window.take(1, now)
            sent.append((now, 1))
    assert sum(at == idle_s for at, _ in sent) <= 10 * BURST_S + 1
    assert 570 <= most_in_a_minute(sent) <= 600


def test_a_large_amount_goes_when_there_is_room_for_it_and_others_wait_in_turn() -> None:
    window = Window(1000, 0.0)
    assert not window.has(1001, 0.0)
    assert window.has(1000, 0.0)
    window.take(1000, 0.0)
    assert not window.has(1, 59.0)
    assert window.has(1000, WINDOW_S + SLACK_S)
    window.take(600, 100.0)
    assert not window.has(401, 150.0)
    assert window.has(400, 150.0)


def test_what_was_not_used_is_given_back_as_long_as_it_counts() -> None:
    window = Window(100, 0.0)
    first = window.take(90, 0.0)
    assert not window.has(20, 55.0)
    window.give_back(first, 80)
    assert window.has(90, 55.0)
    window.take(90, 55.0)
    assert not window.has(11, 62.0)  # the first counts no more: ten are free
    window.give_back(first, 10)
    window.give_back(first, 10)
    assert not window.has(11, 70.0)
    assert window.has(10, 110.0)
    second = window.take(5, 117.0)
    window.give_back(second, -95)
    assert not window.has(1, 130.0), "what was used beyond counts too"


# Calls in flight.


@pytest.mark.parametrize("seed", range(6))
def test_all_workers_together_never_have_more_in_flight_than_allowed(seed: int) -> None:
    in_flight = [1, 2, 5, 16, 64, 100][seed]
    world = World(Language(in_flight=in_flight), workers=2 + seed % 4, seed=seed, way_s=1.0)
    for _ in range(60):
        for worker in world.workers:
            if world.random.random() < 0.3:
                worker.waiting.extend([CALL] * world.random.randint(0, 3 * in_flight))
        world.pass_time(world.random.uniform(0.5, 10))
    assert len(world.sent) > 40
    assert max(world.flights) <= in_flight


@pytest.mark.parametrize("limits", [{}, {"budget_tokens": 10**12}], ids=["free", "budget"])
def test_busy_workers_have_equal_parts_and_leave_nothing_unused(limits: dict[str, Any]) -> None:
    world = World(Language(in_flight=50, **limits), workers=4, seed=1)
    for worker in world.workers:
        worker.waiting.extend([CALL] * 4000)
    world.pass_time(60)
    late = world.flights[len(world.flights) // 4 :]
    assert max(world.flights) <= 50
    assert sum(late) / len(late) > 48
    shares = [worker.sent for worker in world.workers]
    assert min(shares) > 0.85 * max(shares)


def test_a_worker_alone_has_all_that_it_wants_and_no_more() -> None:
    limiter = limiter_of(Clock(), in_flight=64)
    assert tell(limiter, "a", waiting=10).share == 10
    assert tell(limiter, "a", share=10, in_use=10, waiting=1000).share == 64
    assert tell(limiter, "a", share=64, in_use=3).share == 3
    assert tell(limiter, "a", share=3).share == 0


def test_what_idle_workers_do_not_want_goes_to_the_busy_once_they_have_let_go_of_it() -> None:
    limiter = limiter_of(Clock(), in_flight=60)
    assert [tell(limiter, name, waiting=100).share for name in "abc"] == [60, 0, 0]
    assert tell(limiter, "a", share=60, in_use=60, waiting=40).share == 20
    assert tell(limiter, "b", waiting=100).share == 0, "what a has under way is a's"
    assert tell(limiter, "a", share=20, in_use=20, waiting=40).share == 20
    assert tell(limiter, "b", waiting=100).share == 20
    assert tell(limiter, "c", waiting=5).share == 5
    assert tell(limiter, "b", share=20, in_use=20, waiting=80).share == 27
    assert tell(limiter, "c", share=5).share == 0
    assert tell(limiter, "a", share=20).share == 0
    assert tell(limiter, "b", share=27, waiting=100).share == 35, "a and c have not heard it yet"
    assert [tell(limiter, name).share for name in "ac"] == [0, 0]
    assert tell(limiter, "b", share=35, waiting=100).share == 60


def test_workers_that_are_still_starting_keep_their_part() -> None:
    clock = Clock()
    limiter = limiter_of(clock, in_flight=40, workers=4)
    assert [tell(limiter, name, waiting=100).share for name in "abcd"] == [10] * 4
    late = limiter_of(clock, in_flight=40, workers=4)
    assert tell(late, "a", waiting=100).share == 10
    clock.now += SILENT_S + 0.1
    assert tell(late, "a", share=10, waiting=100).share == 40, "those that never came keep nothing"


def test_the_share_of_a_silent_worker_comes_back_and_its_money_counts_as_spent() -> None:
    clock = Clock()
    limiter = limiter_of(clock, in_flight=8, budget_tokens=1000)
    assert tell(limiter, "dead", waiting=4).calls == 4
    assert tell(limiter, "dead", share=4, in_use=4, waiting=4).calls == 4
    clock.now += SILENT_S - 0.1
    assert tell(limiter, "a", waiting=9, asked=(Amount(201),)).refused == ""
    clock.now += 0.2
    grant = tell(limiter, "a", waiting=9, asked=(Amount(201),))
    assert (grant.share, grant.calls) == (8, 0)
    assert "800 of 1000 tokens are spent" in grant.refused
    assert tell(limiter, "a", waiting=9, asked=(Amount(200),)).calls == 1


def test_a_worker_that_was_only_slow_is_taken_back_with_its_money() -> None:
    clock = Clock()
    limiter = limiter_of(clock, in_flight=8, budget_tokens=1000)
    slow = tell(limiter, "slow", waiting=8)
    clock.now += SILENT_S + 0.1
    assert tell(limiter, "a", waiting=1, asked=(Amount(300),)).refused.startswith(
        "budget_tokens: 800 of 1000"
    )
    ended = (Ended(slow.number, Amount(800), Amount(100)),)
    assert tell(limiter, "slow", share=8, waiting=1, ended=ended, asked=(Amount(901),)).refused.startswith(
        "budget_tokens: 100 of 1000 tokens are spent and the next call may take 901;"
    )
    assert tell(limiter, "a", waiting=1, asked=(Amount(900),)).calls == 1


# An endpoint that is crowded.


def test_all_are_held_as_long_as_the_endpoint_told_one_of_them() -> None:
    clock = Clock()
    limiter = limiter_of(clock, in_flight=10, requests_per_minute=6000)
    assert tell(limiter, "b", waiting=5).calls == 5
    grant = tell(limiter, "a", waiting=5, throttled_s=5.0)
    assert (grant.hold_s, grant.calls) == (5.0, 0)
    clock.now += 2
    assert tell(limiter, "a", waiting=5, throttled_s=1.0).hold_s == 3.0, "the longest wish counts"
    assert tell(limiter, "b", share=5, waiting=5).hold_s == 3.0
    clock.now += 3
    grant = tell(limiter, "b", share=5, waiting=5)
    assert (grant.hold_s, grant.calls) == (0.0, 5)


def test_crowding_cuts_the_calls_in_flight_once_a_second_and_answers_bring_them_back() -> None:
    clock = Clock()
    limiter = limiter_of(clock, in_flight=100)
    cuts = [tell(limiter, "a", waiting=200, throttled_s=0.0).share for _ in range(5)]
    clock.now += 1.1
    cuts += [tell(limiter, "a", waiting=200, throttled_s=0.0).share for _ in range(5)]
    assert cuts == [70] * 5 + [49] * 5
    for _ in range(20):
        clock.now += 1.1
        share = tell(limiter, "a", waiting=200, throttled_s=0.0).share
    assert share == 1
    rounds = [share := tell(limiter, "a", share=share, waiting=200, answered=share).share for _ in range(70)]
    assert rounds == sorted(rounds)
    assert rounds[20] < rounds[-1] == 100


# What is counted.


@pytest.mark.parametrize(
    "limits",
    [
        {"requests_per_minute": 1200},
        {"tokens_per_minute": 120_000},
        {"requests_per_minute": 1200, "tokens_per_minute": 110_000},
    ],
    ids=["requests", "tokens", "both"],
)
def test_four_workers_use_what_a_minute_allows_and_never_more(limits: dict[str, int]) -> None:
    world = World(Language(in_flight=400, **limits), workers=4, seed=5, way_s=SLACK_S)
    for worker in world.workers:
        worker.waiting.extend([Amount(100)] * 4000)
    world.pass_time(MINUTES * WINDOW_S)
    requests = [(at, 1) for at, _ in world.sent]
    worst = {
        "requests_per_minute": most_in_a_minute(requests),
        "tokens_per_minute": most_in_a_minute(world.sent),
    }
    total = {"requests_per_minute": len(requests), "tokens_per_minute": sum(took for _, took in world.sent)}
    assert all(worst[name] <= limit for name, limit in limits.items())
    assert max(total[name] / limit / MINUTES for name, limit in limits.items()) >= 0.95


def test_what_calls_did_not_take_lets_others_go() -> None:
    world = World(Language(in_flight=400, tokens_per_minute=60_000), workers=2, seed=3, took=0.1)
    for worker in world.workers:
        worker.waiting.extend([Amount(1000)] * 4000)
    world.pass_time(MINUTES * WINDOW_S)
    assert most_in_a_minute(world.sent) <= 60_000
    assert len(world.sent) > 10 * 60 * MINUTES, "60 a minute if all counted in full"


def test_what_is_paced_is_let_only_when_it_can_go_at_once() -> None:
    limiter = limiter_of(Clock(), in_flight=10, requests_per_minute=6000)
    assert tell(limiter, "a", waiting=20).calls == 10
    assert tell(limiter, "b", waiting=20).calls == 0, "all places are a's"
    grant = tell(limiter, "a", share=10, in_use=7, waiting=3)
    assert (grant.share, grant.calls) == (5, 0), "it asked for three when it could have ten under way"
    unpaced = limiter_of(Clock(), in_flight=10, budget_tokens=10**6)
    assert tell(unpaced, "a", waiting=20).calls == 20


@pytest.mark.parametrize("recent", [60, 100_000])
@pytest.mark.parametrize("name", ["requests", "tokens"])
def test_what_a_run_before_this_one_sent_counts_for_a_minute(name: str, recent: int) -> None:
    clock = Clock()
    past = History(recent_calls=recent, recent_tokens=recent)
    limiter = limiter_of(clock, history=past, **{f"{name}_per_minute": 60})
    clock.now += WINDOW_S - 1
    assert tell(limiter, "a", waiting=1, asked=(Amount(1),)).calls == 0
    clock.now += 1 + SLACK_S
    assert tell(limiter, "a", waiting=1, asked=(Amount(1),)).calls == 1


# Budgets.


@pytest.mark.parametrize("tight", ["usd", "tokens"])
def test_no_budget_is_passed_with_a_thousand_calls_in_flight_and_little_of_it_is_left(tight: str) -> None:
    cap = Amount(900_000, NANO) if tight == "tokens" else Amount(10**9, NANO)
    language = Language(in_flight=1000, budget_usd=cap.usd, budget_tokens=cap.tokens)
    world = World(language, workers=4, seed=7)
    for worker in world.workers:
        for _ in range(2000):
            worker.waiting.append(Amount(world.random.randint(1, 2000), world.random.randint(1, 2_000_000)))
    world.pass_time(100)
    assert max(world.flights) > 800
    assert world.most.tokens <= cap.tokens
    assert world.most.nano <= cap.nano
    left = cap - world.settled
    assert left.tokens < 2000 or left.nano < 2_000_000
    assert all(worker.refused.startswith(f"budget_{tight}: ") for worker in world.workers)


def test_a_refusal_waits_for_what_is_under_way_and_says_what_was_spent_and_what_is_wanted() -> None:
    six = Amount(10, 6_000_000)
    limiter = limiter_of(Clock(), budget_usd=0.01)
    grant = tell(limiter, "a", waiting=3, asked=(six, six))
    assert (grant.calls, grant.refused) == (1, "")
    assert tell(limiter, "b", waiting=1, asked=(six,)).refused == ""
    ended = (Ended(grant.number, six, Amount(8, 5_000_000)),)
    assert tell(limiter, "a", waiting=2, asked=(six,), ended=ended).refused == (
        "budget_usd: 0.005000 of 0.010000 US dollars are spent and the next call may cost 0.006000; "
        "raise it to go on, every answer is kept"
    )
    assert tell(limiter, "b", waiting=1, asked=(Amount(10, 5_000_000),)).calls == 1
    past = History(spent=Amount(8, 5_000_000))
    raised = limiter_of(Clock(), history=past, budget_usd=0.02)
    assert tell(raised, "a", waiting=5, asked=(six,) * 5).calls == 2
    assert tell(
        limiter_of(Clock(), history=past, budget_tokens=17), "a", waiting=1, asked=(six,)
    ).refused == (
        "budget_tokens: 8 of 17 tokens are spent and the next call may take 10; "
        "raise it to go on, every answer is kept"
    )


def test_a_report_that_is_told_twice_counts_once_and_has_the_same_answer() -> None:
    limiter = limiter_of(Clock(), in_flight=20, budget_tokens=1000)
    asks = Report("a", 1, 0, 0, 5, asked=(CALL,) * 5)
    grant = limiter.exchange(asks)
    assert limiter.exchange(asks) == grant
    ends = Report("a", 2, 5, 0, 20, (CALL,) * 20, (Ended(grant.number, Amount(500), Amount(300)),))
    assert [limiter.exchange(ends).calls for _ in range(3)] == [7] * 3
    assert limiter.exchange(asks).calls == 7, "late on its way"
    assert tell(limiter, "b", waiting=1).calls == 0


def test_what_another_limiter_let_is_not_counted_and_frees_no_money() -> None:
    limiter = limiter_of(Clock(), in_flight=20, budget_tokens=1000)
    grant = tell(limiter, "a", waiting=9)
    for number in (0, grant.number - 10**6, grant.number + 10**6):
        ended = (Ended(number, Amount(900), Amount(0)),)
        assert tell(limiter, "a", share=9, in_use=9, waiting=2, ended=ended).calls == (number == 0)
