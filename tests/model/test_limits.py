"""No limit is passed by all workers together, and none is wasted: with a clock that the test turns."""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from synthray.model.language import Language
from synthray.model.limits import (
    EDGE_S,
    RESTART_S,
    SILENT_S,
    SLACK_S,
    Ended,
    Grant,
    Limiter,
    Report,
    Shared,
    Window,
)
from synthray.model.price import NANO, NOTHING, Amount
from synthray.model.store import WINDOW_S, History

MINUTES = 5
CALL = Amount(100, 1000)
NUMBERS = itertools.count(1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


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
    waiting: deque[Amount]
    let: deque[tuple[int, Amount]] = field(default_factory=deque)
    ended: list[Ended] = field(default_factory=list)
    number: int = 0
    share: int = 0
    in_use: int = 0
    sent: int = 0
    refused: str = ""


class World:
    """Workers around one limiter: each message and each call takes its time; what was sent is noted."""

    way_s = 0.05
    took = 1.0

    def __init__(self, language: Language, workers: int, seed: int, *waiting: Amount) -> None:
        self.random = random.Random(seed)
        self.clock = Clock()
        self.limiter = Limiter(language, None, self.clock, workers)
        self.counted = language != Language(in_flight=language.in_flight)
        self.workers = [Worker(f"w{number}", deque(waiting)) for number in range(workers)]
        self.sent: list[tuple[float, int]] = []
        self.flights: list[int] = []
        self.totals: list[Amount] = []
        self.settled = self.aside = NOTHING
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
        waiting = len(worker.waiting) + len(worker.let)
        ended, worker.ended, worker.number = tuple(worker.ended), [], worker.number + 1
        report = Report(worker.name, worker.number, worker.share, worker.in_use, waiting, asked, ended)
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
            worker.in_use, worker.sent = worker.in_use + 1, worker.sent + 1
            self.sent.append((self.clock.now, took.tokens))
            self.flights.append(sum(one.in_use for one in self.workers))
            self.aside += bound
            self.totals.append(self.settled + self.aside)
            self.later((0.2, 4.0), partial(self.end, worker, Ended(grant, bound, took)))

    def end(self, worker: Worker, ended: Ended) -> None:
        worker.in_use -= 1
        worker.ended.append(ended)
        self.settled, self.aside = self.settled + ended.took, self.aside - ended.bound
        self.send(worker)


def limiter_of(clock: Clock, workers: int = 1, past: History | None = None, **limits: Any) -> Limiter:
    return Limiter(Language(**limits), past, clock, workers)


def tell(to: Limiter, worker: str, share: int = 0, in_use: int = 0, waiting: int = 0, **more: Any) -> Grant:
    """Tell what a worker does; what it waits for is asked for, unless `asked` says otherwise."""
    more = {"asked": (CALL,) * waiting, **more}
    return to.exchange(Report(worker, next(NUMBERS), share, in_use, waiting, **more))


@pytest.mark.parametrize("seed", range(12))
def test_no_minute_holds_more_than_the_limit_whatever_is_taken_and_however_late_it_is_sent(seed: int) -> None:
    chance, limit = random.Random(seed), [1, 7, 60, 1000][seed % 4]
    window, now, sent = Window(limit, 0.0), 0.0, []
    under_way: list[tuple[Any, int]] = []
    while now < 600:
        now += (
            chance.choice([0.0, 0.001, 0.01, 0.1, 1.0]) if chance.random() < 0.995 else chance.uniform(0, 90)
        )
        amount = chance.randint(1, max(1, limit // chance.choice([1, 5, 50])))
        while window.has(amount, now):
            took = chance.randint(0, amount)
            under_way.append((window.take(amount, now), amount - took))
            sent.append((now + chance.uniform(0, SLACK_S), took))
        if under_way and chance.random() < 0.3:
            window.give_back(*under_way.pop(chance.randrange(len(under_way))))
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
    for step in range(1300):
        now = idle_s + step * 0.1
        while window.has(1, now):
            window.take(1, now)
            sent.append((now, 1))
    assert sum(at == idle_s for at, _ in sent) <= 30
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


def test_what_was_not_used_is_given_back_as_long_as_it_counts_but_not_all_at_once() -> None:
    window = Window(100, 0.0)
    first = window.take(50, 0.0)
    assert [window.has(50, 30.0), window.has(51, 30.0)] == [True, False]
    window.give_back(first, 40)
    assert [window.has(90, 30.0), window.has(91, 30.0)] == [True, False]
    window.take(50, 30.0)
    assert [window.has(1, 35.0), window.has(40, 59.0), window.has(41, 59.0)] == [False, True, False]
    assert [window.has(50, 62.0), window.has(51, 62.0)] == [True, False]
    window.give_back(first, 10)
    assert not window.has(51, 62.0), "it counted no more"
    window.give_back(window.take(5, 62.0), -45)
    assert not window.has(1, 90.5), "what was used beyond counts too"


@pytest.mark.parametrize("seed", range(6))
def test_all_workers_together_never_have_more_in_flight_than_allowed(seed: int) -> None:
    in_flight = [1, 2, 5, 16, 64, 100][seed]
    world = World(Language(in_flight=in_flight), 2 + seed % 4, seed)
    world.way_s = 1.0
    for _ in range(60):
        worker = world.random.choice(world.workers)
        worker.waiting.extend([CALL] * world.random.randint(0, 3 * in_flight))
        world.pass_time(world.random.uniform(0.5, 10))
    assert len(world.sent) > 40
    assert max(world.flights) <= in_flight


@pytest.mark.parametrize("limits", [{}, {"budget_tokens": 10**12}], ids=["free", "budget"])
def test_busy_workers_have_equal_parts_and_leave_nothing_unused(limits: dict[str, Any]) -> None:
    world = World(Language(in_flight=50, **limits), 4, 1, *[CALL] * 4000)
    world.pass_time(60)
    assert max(world.flights) <= 50
    assert sum(world.flights[200:]) / len(world.flights[200:]) > 48
    assert min(sent := [worker.sent for worker in world.workers]) > 0.85 * max(sent)


def test_a_worker_alone_has_all_that_it_wants_and_no_more() -> None:
    limiter = limiter_of(Clock(), in_flight=64)
    assert [tell(limiter, "a", waiting=waiting).share for waiting in (10, 1000, 3, 0)] == [10, 64, 3, 0]


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
    first, late = (limiter_of(clock, in_flight=40, workers=4) for _ in range(2))
    assert [tell(first, name, waiting=100).share for name in "abcd"] == [10] * 4
    assert tell(late, "a", waiting=100).share == 10
    clock.now += SILENT_S + 0.1
    assert tell(late, "a", share=10, waiting=100).share == 40, "those that never came keep nothing"


def test_the_share_of_a_silent_worker_comes_back_and_its_money_counts_as_spent() -> None:
    limiter = limiter_of(clock := Clock(), in_flight=8, budget_tokens=1000)
    ended = (Ended(tell(limiter, "dead", waiting=4).number, CALL, Amount(50)),)
    assert tell(limiter, "dead", share=4, in_use=3, waiting=4, ended=ended).calls == 4
    clock.now += SILENT_S - 0.1
    assert tell(limiter, "a", waiting=9, asked=(Amount(251),)).refused == ""
    clock.now += 0.2
    grant = tell(limiter, "a", waiting=9, asked=(Amount(251),))
    assert (grant.share, grant.calls) == (8, 0)
    assert "750 of 1000 tokens are spent" in grant.refused
    assert tell(limiter, "a", waiting=9, asked=(Amount(250),)).calls == 1


def test_a_worker_that_was_only_slow_is_taken_back_with_its_money() -> None:
    limiter = limiter_of(clock := Clock(), in_flight=16, budget_tokens=1000)
    slow = tell(limiter, "slow", waiting=8)
    clock.now += SILENT_S + 0.1
    assert "800 of 1000 tokens are spent" in tell(limiter, "a", waiting=1, asked=(Amount(300),)).refused
    ended = (Ended(slow.number, Amount(800, 8000), Amount(100)),)
    grant = tell(limiter, "slow", share=8, waiting=1, ended=ended, asked=(Amount(901),))
    assert "100 of 1000 tokens are spent and the next call may take 901" in grant.refused
    assert tell(limiter, "a", waiting=1, asked=(Amount(900),)).calls == 1


def test_all_are_held_as_long_as_the_endpoint_told_one_of_them() -> None:
    limiter = limiter_of(clock := Clock(), in_flight=40, requests_per_minute=6000)
    assert tell(limiter, "b", waiting=5).calls == 5
    assert tell(limiter, "a", waiting=5, throttled_s=5.0).calls == 0
    clock.now += 2
    assert tell(limiter, "a", waiting=5, throttled_s=1.0).hold_s == 3.0, "the longest wish counts"
    assert tell(limiter, "b", share=5, waiting=5).hold_s == 3.0
    clock.now += 3
    assert tell(limiter, "b", share=5, waiting=5).calls == 5


def test_crowding_cuts_the_calls_in_flight_once_a_second_and_answers_bring_them_back() -> None:
    limiter = limiter_of(clock := Clock(), in_flight=100)
    cuts = [tell(limiter, "a", waiting=200, throttled_s=0.0).share for _ in range(5)]
    for _ in range(20):
        clock.now += 1.1
        cuts += [share := tell(limiter, "a", waiting=200, throttled_s=0.0).share]
    assert (cuts[:7], share) == ([80] * 5 + [40, 20], 1)
    rounds = [share := tell(limiter, "a", share=share, waiting=200, answered=share).share for _ in range(70)]
    assert rounds == sorted(rounds)
    assert rounds[20] < rounds[-1] == 100


@pytest.mark.parametrize(("requests", "tokens"), [(1200, None), (None, 120_000), (1200, 110_000)])
def test_four_workers_use_what_a_minute_allows_and_no_more(requests: int | None, tokens: int | None) -> None:
    language = Language(in_flight=400, requests_per_minute=requests, tokens_per_minute=tokens)
    world = World(language, 4, 5, *[Amount(100)] * 4000)
    world.way_s = SLACK_S
    world.pass_time(MINUTES * WINDOW_S)
    used = []
    for limit, sent in ((requests, [(at, 1) for at, _ in world.sent]), (tokens, world.sent)):
        if limit:
            assert most_in_a_minute(sent) <= limit
            used.append(sum(amount for _, amount in sent) / limit / MINUTES)
    assert max(used) >= 0.95


def test_what_calls_did_not_take_lets_others_go() -> None:
    world = World(Language(in_flight=400, tokens_per_minute=60_000), 2, 3, *[Amount(1000)] * 4000)
    world.took = 0.1
    world.pass_time(MINUTES * WINDOW_S)
    assert most_in_a_minute(world.sent) <= 60_000
    assert len(world.sent) > 8 * 60 * MINUTES, "60 a minute if all counted in full"


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
    limiter = limiter_of(clock := Clock(), 1, History(NOTHING, recent, recent), **{f"{name}_per_minute": 60})
    clock.now += WINDOW_S - 1
    assert tell(limiter, "a", waiting=1, asked=(Amount(1),)).calls == 0
    clock.now += 1 + SLACK_S
    assert tell(limiter, "a", waiting=1, asked=(Amount(1),)).calls == 1


@pytest.mark.parametrize("tight", ["usd", "tokens"])
def test_no_budget_is_passed_with_a_thousand_calls_in_flight_and_little_of_it_is_left(tight: str) -> None:
    cap = Amount(900_000, NANO) if tight == "tokens" else Amount(10**9, NANO)
    language = Language(in_flight=1000, budget_usd=cap.usd, budget_tokens=cap.tokens)
    chance = random.Random(7)
    bounds = [Amount(chance.randint(1, 2000), chance.randint(1, 2_000_000)) for _ in range(2000)]
    world = World(language, 4, 7, *bounds)
    world.pass_time(100)
    assert max(world.flights) > 800
    assert all(total.tokens <= cap.tokens and total.nano <= cap.nano for total in world.totals)
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
        "budget_usd: 0.005000 of 0.010000 US dollars are spent and the next call may cost 0.006000; raise it "
        "to go on, every answer is kept"
    )
    assert tell(limiter, "b", waiting=1, asked=(Amount(10, 5_000_000),)).calls == 1
    assert tell(limiter, "a", waiting=2, asked=(six,)).refused == "", "it may leave something over"
    past = History(spent=Amount(8, 5_000_000))
    raised = limiter_of(Clock(), past=past, budget_usd=0.02)
    assert tell(raised, "a", waiting=5, asked=(six,) * 5).calls == 2
    grant = tell(limiter_of(Clock(), past=past, budget_tokens=17), "a", waiting=1, asked=(six,))
    assert "budget_tokens: 8 of 17 tokens are spent and the next call may take 10; raise it" in grant.refused


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


def test_a_limiter_that_is_started_again_lets_nobody_send_before_it_has_listened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(
        ray, "get_runtime_context", lambda: SimpleNamespace(was_current_actor_reconstructed=True)
    )
    now = [100.0]
    monkeypatch.setattr("synthray.model.limits.time.monotonic", lambda: now[0])
    shared = Shared(Language(in_flight=10, budget_tokens=1000), str(tmp_path), 2)
    busy = Report("a", 7, share=8, in_use=8, waiting=5, asked=(Amount(1),) * 5)
    told = shared.exchange(busy)
    assert (told.calls, told.hold_s, told.share) == (0, RESTART_S, 8)
    now[0] += RESTART_S
    # The other worker may have what the first is not known to use, and no more.
    other = shared.exchange(Report("b", 1, share=0, in_use=0, waiting=9, asked=(Amount(1),) * 9))
    assert (other.share, other.hold_s, other.limiter != told.limiter) == (2, 0, True)
    # An ended call of the limiter before sets no money free: it stands in the history, in full.
    grant = shared.exchange(replace(busy, number=8, ended=(Ended(3, Amount(900), Amount(1)),)))
    assert grant.calls == 5


def test_one_stray_refusal_costs_seconds_and_not_the_run() -> None:
    limiter = limiter_of(clock := Clock(), in_flight=1000)
    tell(limiter, "a", waiting=2000)
    share = tell(limiter, "a", waiting=2000, throttled_s=0.0).share
    assert share == 800
    clock.now += EDGE_S
    for _ in range(20):
        share = tell(limiter, "a", share=share, waiting=2000, answered=share).share
    assert share == 1000
