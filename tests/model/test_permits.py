"""A worker's calls go when the limits of the run let them, in order, and none is forgotten."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from synthray.errors import BudgetSpent, ModelError
from synthray.model import permits
from synthray.model.language import Language
from synthray.model.limits import SILENT_S, Grant, Limiter, Report
from synthray.model.permits import Permits
from synthray.model.price import NOTHING, Amount

CALL = Amount(100, 1000)
BUDGET = {"budget_tokens": 10**9}
PACE = {"requests_per_minute": 10**6}
KINDS = pytest.mark.parametrize("limits", [{}, BUDGET, PACE], ids=["free", "budget", "pace"])


@dataclass
class Line:
    """The way to a limiter; `open` lets the messages through, `broken` is raised by them."""

    limiter: Limiter
    told: list[Report] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    broken: Exception | None = None
    grants: list[Grant] = field(default_factory=list)

    async def __call__(self, report: Report) -> Grant:
        self.told.append(report)
        await self.open.wait()
        if self.broken:
            raise self.broken
        self.grants.append(self.limiter.exchange(report))
        return self.grants[-1]

    @property
    def let(self) -> int:
        return sum(grant.calls for grant in self.grants)


@dataclass
class Worker:
    """Calls that end when the test says so."""

    permits: Permits
    line: Line
    going: list[tuple[int, Amount]] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def ask(self, count: int, amount: Amount = CALL) -> list[asyncio.Task[None]]:
        first = len(self.tasks)
        self.tasks += [
            asyncio.get_running_loop().create_task(self._go(first + number, amount))
            for number in range(count)
        ]
        return self.tasks[first:]

    async def _go(self, number: int, amount: Amount) -> None:
        grant = await self.permits.take(amount)
        self.order.append(number)
        self.going.append((grant, amount))

    def end(self, count: int = 1, took: Amount = NOTHING, **said: Any) -> None:
        for _ in range(count):
            self.permits.end(*self.going.pop(0), took, **said)

    async def heard(self, times: int = 3) -> None:
        """Wait until the limiter was told so often."""
        enough = len(self.line.told) + times
        await until(lambda: len(self.line.told) >= enough)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stand still for permits and limiter until a test turns it."""
    clock = Clock()
    monkeypatch.setattr(permits, "time", SimpleNamespace(monotonic=clock))
    return clock


def workers(count: int = 1, **limits: Any) -> list[Worker]:
    """Return workers around one limiter."""
    language = Language(**limits)
    limiter = Limiter(language, None, permits.time.monotonic, count)
    made = []
    for line in [Line(limiter) for _ in range(count)]:
        line.open.set()
        made.append(Worker(Permits.of(language, line), line))
        made[-1].permits.every_s = 0.005
    return made


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def turns(count: int = 100) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def looped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop, for no longer than it may ever take."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**arguments), 10))

    return run


@KINDS
@looped
async def test_calls_wait_until_they_are_let_and_go_in_order(limits: dict[str, int]) -> None:
    (one,) = workers(in_flight=3, **limits)
    one.line.open.clear()
    one.ask(20)
    await turns()
    assert (one.order, len(one.line.told)) == ([], 1)
    one.line.open.set()
    for ended in range(18):
        await until(lambda ended=ended: len(one.order) == 3 + ended)
        await turns(3)
        assert len(one.going) == 3
        one.end()
    await until(lambda: len(one.order) == 20)
    assert one.order == list(range(20))


@pytest.mark.parametrize("moment", ["waiting", "let"])
@pytest.mark.parametrize("limits", [{}, {"budget_tokens": 400}, PACE], ids=["free", "budget", "pace"])
@looped
async def test_a_call_that_is_stopped_leaves_its_place_and_its_money_to_the_next(
    limits: dict[str, int], moment: str
) -> None:
    (one,) = workers(in_flight=2, **limits)
    one.ask(2)
    await until(lambda: len(one.going) == 2)
    stopped = one.ask(2)
    await one.heard()
    let = one.line.let
    if moment == "let":
        one.end(2)
        while limits == PACE and one.line.let == let:
            await asyncio.sleep(0)
    for task in stopped:
        task.cancel()
    await asyncio.gather(*stopped, return_exceptions=True)
    one.end(len(one.going))
    one.ask(2, Amount(200))
    await until(lambda: len(one.going) == 2)
    assert one.order == [0, 1, 4, 5]


@looped
async def test_nobody_waits_behind_a_call_that_was_stopped() -> None:
    (one,) = workers(in_flight=8, budget_tokens=1000)
    one.ask(1, Amount(500))
    (stopped,) = one.ask(1, Amount(600))
    await one.heard()
    stopped.cancel()
    one.ask(1, Amount(400))
    await until(lambda: one.order == [0, 2])


@looped
async def test_a_place_that_comes_for_a_call_that_was_stopped_is_returned() -> None:
    one, other = workers(2, in_flight=1)
    one.line.open.clear()
    (stopped,) = one.ask(1)
    await until(lambda: one.line.told)
    stopped.cancel()
    await turns()
    one.line.open.set()
    await until(lambda: one.line.grants)
    other.ask(1)
    await until(lambda: other.going)


@looped
async def test_a_thousand_calls_may_be_stopped_at_once() -> None:
    (one,) = workers(in_flight=2000, budget_tokens=10**9)
    one.ask(4000)
    await until(lambda: len(one.going) == 2000)
    await one.heard()
    for task in one.tasks:
        task.cancel()
    await asyncio.gather(*one.tasks, return_exceptions=True)
    one.end()
    one.ask(1)
    await until(lambda: len(one.order) == 2001)


@KINDS
@looped
async def test_what_is_wanted_no_more_goes_to_another_worker_at_once(limits: dict[str, int]) -> None:
    one, other = workers(2, in_flight=8, **limits)
    one.ask(20)
    while len(one.order) < 20:
        await until(lambda: one.going)
        one.end()
    one.end(len(one.going))
    other.ask(9)
    await until(lambda: len(other.going) == 8)
    told = len(one.line.told)
    await other.heard(10)
    assert len(one.line.told) <= told + 2, "it has nothing more to say"
    one.ask(1)
    other.end(8)
    await until(lambda: len(one.order) == 21)


@KINDS
@looped
async def test_two_workers_share_all_that_there_is(limits: dict[str, int]) -> None:
    both = workers(2, in_flight=64, **limits)
    for one in both:
        one.ask(400)
    for _ in range(4):
        for one in both:
            await one.heard()
            one.end(len(one.going) - 1)
        assert sum(len(one.going) for one in both) <= 64
    await both[0].heard(6)
    await both[1].heard(6)
    assert [len(one.going) for one in both] == [32, 32]


@looped
async def test_many_calls_take_few_messages() -> None:
    (one,) = workers(in_flight=50)
    one.permits.every_s = 0.2
    for _ in range(2000):
        one.ask(1)
        await turns(1)
        if len(one.tasks) > 70:
            one.end()
    assert len(one.line.told) < 200
    one.line.open.clear()  # a place is used again and again without a word
    while len(one.order) < 2000:
        await until(lambda: one.going)
        one.end()


@looped
async def test_each_answer_is_told_once_and_a_call_that_was_stopped_is_none() -> None:
    (one,) = workers(in_flight=3, budget_tokens=10**9)
    one.ask(9)
    await until(lambda: one.line.let == 9)
    one.tasks[3].cancel()
    one.end(throttled_s=0.0)
    for _ in range(7):
        await until(lambda: one.going)
        one.end()
    await until(lambda: one.line.told[-1].share == one.line.told[-1].in_use == 0)
    assert sum(report.answered for report in one.line.told) == 7
    assert [report.throttled_s for report in one.line.told].count(0.0) == 1


@pytest.mark.parametrize("counted", [{"budget_tokens": 1000}, {"budget_tokens": 1000, **PACE}])
@looped
async def test_a_spent_budget_reaches_all_who_wait_and_all_who_come_later(counted: dict[str, int]) -> None:
    one, other = workers(2, in_flight=8, **counted)
    waits = one.ask(11) + other.ask(9)
    while not all(task.done() for task in waits):
        for worker in (one, other):
            worker.end(len(worker.going), CALL)
        await turns(1)
    errors = [task.exception() for task in waits if task.exception()]
    assert len(errors) == 10
    assert all(isinstance(error, BudgetSpent) for error in errors)
    assert "1000 of 1000 tokens are spent and the next call may take 100" in str(errors[0])
    for worker in (one, other):
        worker.line.broken = RuntimeError("the limiter is asked no more")
        with pytest.raises(BudgetSpent, match="raise it to go on"):
            await worker.permits.take(Amount(1))


@KINDS
@looped
async def test_a_limiter_that_cannot_be_reached_fails_those_who_wait_and_is_tried_again(
    limits: dict[str, int],
) -> None:
    (one,) = workers(in_flight=2, **limits)
    one.line.broken = ConnectionError("the limiter is gone")
    for error in await asyncio.gather(*one.ask(5), return_exceptions=True):
        assert str(error) == "the limiter is gone"
    one.line.broken = None
    one.ask(2)
    await until(lambda: len(one.going) == 2)


@looped
async def test_money_that_was_let_to_those_who_failed_goes_to_others() -> None:
    (one,) = workers(in_flight=1, budget_tokens=400)
    failing = one.ask(5)[1:]
    await until(lambda: one.line.let == 4)
    one.line.broken = ConnectionError("the limiter is gone")
    await asyncio.gather(*failing, return_exceptions=True)
    one.line.broken = None
    one.end()
    one.ask(1, Amount(400, 1000))
    await until(lambda: len(one.order) == 2)


@looped
async def test_a_call_that_no_minute_could_hold_fails_alone() -> None:
    (one,) = workers(in_flight=8, tokens_per_minute=500)
    large, small = one.ask(1, Amount(501)) + one.ask(1, Amount(500))
    await until(lambda: small.done() and large.done())
    error = large.exception()
    assert isinstance(error, ModelError)
    assert (error.kind, error.fatal, error.again) == ("TooLarge", False, False)
    assert "501 tokens, more than tokens_per_minute (500)" in str(error)
    assert small.exception() is None


@KINDS
@looped
async def test_an_endpoint_that_is_crowded_holds_all_workers(limits: dict[str, int], clock: Clock) -> None:
    one, other = workers(2, in_flight=20, **limits)
    for worker in (one, other):
        worker.ask(2)
        await until(lambda worker=worker: len(worker.going) == 2)
    one.end(throttled_s=0.04)
    await one.heard(1)
    await other.heard(1)
    for worker in (one, other):
        worker.ask(2)
        await worker.heard(3)
        assert len(worker.order) == 2
    clock.now += 0.03
    await one.heard(3)
    assert [len(one.order), len(other.order)] == [2, 2]
    clock.now += 0.02
    await until(lambda: len(one.order) == len(other.order) == 4)


@looped
async def test_leave_that_comes_while_the_endpoint_is_crowded_is_returned_and_asked_for_again(
    clock: Clock,
) -> None:
    (one,) = workers(in_flight=20, requests_per_minute=6000, budget_tokens=400)
    one.ask(1)
    await until(lambda: one.going)
    await one.heard()
    one.line.open.clear()
    one.ask(3)
    await until(lambda: one.line.told[-1].asked)
    one.end(throttled_s=0.1, took=CALL)
    one.line.open.set()
    await one.heard(3)
    assert one.order == [0]
    before = len(one.line.grants)
    clock.now += 1.0
    await until(lambda: len(one.going) == 3)
    assert {number for number, _ in one.going} <= {grant.number for grant in one.line.grants[before:]}


@KINDS
@looped
async def test_a_worker_that_hears_nothing_sends_nothing_before_it_is_taken_for_dead(
    limits: dict[str, int], clock: Clock
) -> None:
    (one,) = workers(in_flight=2, **limits)
    one.ask(6)
    await until(lambda: len(one.going) == 2)
    await one.heard()
    one.line.open.clear()
    clock.now += SILENT_S - 0.1
    one.end(2)
    await turns()
    assert one.order == [0, 1]
    one.line.open.set()
    await until(lambda: one.order == [0, 1, 2, 3])


@looped
async def test_leave_without_a_place_is_returned_to_those_that_have_one() -> None:
    one, other = workers(2, in_flight=1, budget_tokens=850)
    one.ask(8)
    await until(lambda: one.going)
    other.ask(1)
    for asking in (one, other) * 8:
        await until(lambda: one.going or other.going or all(task.done() for task in one.tasks + other.tasks))
        if asking.going:
            asking.end(took=Amount(1, 10))
    await until(lambda: one.going or other.going or len(one.order) + len(other.order) == 9)
    while len(one.order) + len(other.order) < 9:
        await until(lambda: one.going or other.going)
        (one if one.going else other).end(took=Amount(1, 10))
        await turns()
    assert sorted(one.order) == list(range(8))


@looped
async def test_leave_of_a_limiter_that_is_gone_holds_no_more() -> None:
    (one,) = workers(in_flight=4, **BUDGET)
    one.ask(20)
    await until(lambda: len(one.going) == 4 and one.line.let > 4)
    one.line.limiter = later = Limiter(Language(in_flight=4, **BUDGET), None, permits.time.monotonic)
    while len(one.order) < 20:
        await until(lambda: one.going)
        one.end(took=Amount(1, 10))
    one.end(len(one.going))
    await until(lambda: later._aside == NOTHING)
    assert one.order == list(range(20))
    assert later._spent.tokens <= 16, "what the first limiter let was counted by the second"
