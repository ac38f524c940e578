"""An answered call is kept before it counts as answered, paid once, and tried again only where it may help."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, Script

from synthray.errors import BudgetSpent, InputError, ModelError
from synthray.model.calls import Call, Calls, Origin, opened
from synthray.model.fake import Fake
from synthray.model.language import Complete, Language, Request, Response, call_key
from synthray.model.openai import OpenAI
from synthray.model.price import Amount
from synthray.model.store import Store, history

Work = tuple[Request, Origin]
ORIGIN = ("row", "step", 0)


@dataclass(frozen=True)
class Counted(Language):
    """Answers with the number of the call, after giving others a turn; the first calls meet the `errors`."""

    seen: list[Request] = field(default_factory=list, compare=False)
    at_once: list[int] = field(default_factory=lambda: [0, 0], compare=False)
    errors: tuple[BaseException | None, ...] = field(default=(), compare=False)
    name: str = "counted"

    def identity(self) -> dict[str, Any]:
        return {"language": self.name}

    def open(self) -> Complete:
        async def complete(request: Request) -> Response:
            self.seen.append(request)
            number = len(self.seen)
            self.at_once[0] += 1
            self.at_once[1] = max(self.at_once)
            for _ in range(5):
                await asyncio.sleep(0)
            self.at_once[0] -= 1
            if error := dict(enumerate(self.errors, 1)).get(number):
                raise error
            return Response(f"answer {number}", "length", 3, 4, 2)

        return complete


def no(kind: str, **said: Any) -> ModelError:
    return ModelError("not now", kind, **said)


def request(text: str = "Say it.", **settings: Any) -> Request:
    return Request(messages=({"role": "user", "content": text},), **settings)


def asked(calls: Calls, *work: Work) -> list[Call]:
    async def all_of_them() -> list[Call]:
        return list(await asyncio.gather(*(calls.ask(one, origin) for one, origin in work)))

    return calls.run(all_of_them())


def many(count: int, **settings: Any) -> list[Work]:
    """Return requests of which no two are alike."""
    return [(request(f"Say {n:03}.", **settings), (f"row{n}", "step", 0)) for n in range(count)]


def errors(calls: Calls, *work: Work) -> list[Any]:
    async def all_of_them() -> list[Any]:
        asking = asyncio.gather(*(calls.ask(one, origin) for one, origin in work), return_exceptions=True)
        return await asyncio.wait_for(asking, 30)

    return calls.run(all_of_them())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]


@pytest.fixture(params=["in a folder", "in memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return str(tmp_path / "calls") if request.param == "in a folder" else None


def test_at_temperature_0_equal_prompts_share_one_answer(folder: str | None) -> None:
    model = Counted()
    calls = Calls(model, folder)
    cold = request(temperature=0)
    answers = asked(calls, *((cold, (f"row{n}", f"step{n % 2}", n)) for n in range(20)))
    answers += asked(calls, (replace(cold, seed=9), ("later", "s", 0)))
    assert len(model.seen) == 1
    assert {answer.response.text for answer in answers} == {"answer 1"}
    assert [answer.reused for answer in answers] == [False] + [True] * 20
    assert asked(calls, (request("Say more.", temperature=0), ("row0", "step0", 0)))[0].reused is False


def test_above_0_a_hundred_equal_prompts_are_a_hundred_calls_and_asked_again_none(folder: str | None) -> None:
    model = Counted()
    calls = Calls(model, folder)
    work = [(request(seed=n), (f"row{n}", "step", 0)) for n in range(100)]
    first = asked(calls, *work)
    assert len(model.seen) == 100
    assert len({answer.response.text for answer in first}) == 100
    assert not any(answer.reused for answer in first)
    again = asked(calls, *work)
    assert len(model.seen) == 100
    assert [answer.response for answer in again] == [answer.response for answer in first]
    assert all(answer.reused for answer in again)


def test_a_kept_answer_is_whole_and_found_by_the_next_process(tmp_path: Path) -> None:
    work = (request("Say é\n\u2028 \U0001f600."), ("row", "step", 1))
    first = asked(Calls(Counted(), str(tmp_path)), work)[0]
    model = Counted(in_flight=1, timeout_s=1, retries=0)
    again = asked(Calls(model, str(tmp_path)), work)[0]
    assert again == Call(first.key, Response("answer 1", "length", 3, 4), reused=True)
    assert model.seen == []


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        pytest.param({"text": "Say that."}, ORIGIN, id="prompt"),
        pytest.param({"schema": {"type": "object"}}, ORIGIN, id="schema"),
        pytest.param({"top_p": 0.5}, ORIGIN, id="sampling"),
        pytest.param({}, ("row", "other", 0), id="step"),
        pytest.param({}, ("other", "step", 0), id="row"),
        pytest.param({}, ("row", "step", 1), id="ordinal"),
    ],
)
def test_another_call_is_sent(tmp_path: Path, settings: dict[str, Any], origin: Origin) -> None:
    asked(Calls(Counted(), str(tmp_path)), (request(), ORIGIN))
    model = Counted()
    asked(Calls(model, str(tmp_path)), (request(**settings), origin))
    assert len(model.seen) == 1


def test_another_model_does_not_answer_for_the_first(tmp_path: Path) -> None:
    for name in ("counted", "other"):
        assert not asked(Calls(Counted(name=name), str(tmp_path)), (request(), ORIGIN))[0].reused


def test_a_failure_is_raised_and_not_kept(folder: str | None) -> None:
    model = Counted(errors=(no("HTTP400"),))
    calls = Calls(model, folder)
    work = (request(), ORIGIN)
    with pytest.raises(ModelError, match="not now"):
        asked(calls, work)
    assert asked(calls, work)[0].response.text == "answer 2"
    assert asked(calls, work)[0].reused
    assert len(model.seen) == 2


def test_a_failure_reaches_all_who_wait_for_the_same_answer(tmp_path: Path) -> None:
    model = Counted(errors=(no("HTTP400"),))
    cold = request(temperature=0)
    ended = errors(Calls(model, str(tmp_path)), *((cold, (row, "step", 0)) for row in "ab"))
    assert [str(one) for one in ended] == ["not now", "not now"]
    assert len(model.seen) == 1


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_calls_than_asked_for_run_at_once(in_flight: int) -> None:
    model = Counted(in_flight=in_flight)
    asked(Calls(model, None), *many(12))
    assert model.at_once == [0, in_flight]


def test_a_record_says_what_was_asked_by_whom_and_what_it_took(tmp_path: Path) -> None:
    asked(Calls(Counted(), str(tmp_path)), (request("é", stop=("x",)), ("row", "step", 2)))
    (record,) = lines(tmp_path)
    assert 0 <= record.pop("latency_s") < 60
    assert record.pop("at") > 1.6e9
    sent = request("é", stop=("x",))
    assert record == {
        "key": call_key({"language": "counted"}, sent, ("row", "step", 2)),
        "row_id": "row",
        "step": "step",
        "ordinal": 2,
        "model": {"language": "counted"},
        "request": {**sent.content(), "messages": list(sent.messages), "stop": ["x"]},
        "response": "answer 1",
        "finish_reason": "length",
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "tokens": 7,
        "cost": None,
        "attempts": 1,
    }


def test_what_another_process_keeps_in_its_journal_is_found_by_the_next_run(tmp_path: Path) -> None:
    early, other = (Calls(Counted(), str(tmp_path)) for _ in range(2))
    for number, calls in enumerate((early, other, early)):
        asked(calls, (request(), (f"row{number}", "step", 0)))
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    for calls in (early, other, Calls(Counted(), str(tmp_path))):
        found = asked(calls, *((request(), (f"row{n}", "step", 0)) for n in range(3)))
        assert [call.response.text for call in found] == ["answer 1", "answer 1", "answer 2"]
        assert all(call.reused for call in found)


def test_every_answer_that_was_reported_survives_a_kill(tmp_path: Path) -> None:
    program = """
        import asyncio, sys
        from synthray.model.calls import Calls
        from synthray.model.fake import Fake
        from synthray.model.language import Request

        calls = Calls(Fake(answers=["x" * 5000]), sys.argv[1])

        async def ask(row):
            for ordinal in range(10**9):
                request = Request(messages=({"role": "user", "content": row},))
                call = await calls.ask(request, (row, "s", ordinal))
                print(call.key, flush=True)

        async def all_of_them():
            await asyncio.gather(*(ask(f"row{n}") for n in range(4)))

        calls.run(all_of_them())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        reported = [process.stdout.readline().strip() for _ in range(300)]
        os.kill(process.pid, signal.SIGKILL)
        reported += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    assert len(set(reported)) == len(reported) >= 300
    store = Store(tmp_path)
    assert [key for key in reported if store.get(key) != Response("x" * 5000, "stop", 1, 1)] == []


def test_a_process_opens_a_language_once_for_each_folder_and_anew_after_its_end(tmp_path: Path) -> None:
    model = Counted(errors=(no("HTTP401", fatal=True),))
    first = opened(model, str(tmp_path))
    assert opened(Counted(), str(tmp_path)) is first
    assert first not in (opened(model, None), opened(Counted(name="other"), str(tmp_path)))
    assert errors(first, *many(1))[0].fatal
    again = opened(model, str(tmp_path))
    assert again is not first
    assert asked(again, *many(1))[0].response.text == "answer 2"


def test_what_would_lose_every_further_answer_ends_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Counted(in_flight=4)
    calls = Calls(model, str(tmp_path))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calls._store, "keep", full)
    ended = errors(calls, *many(100))
    assert {str(one) for one in ended} == {"[Errno 28] No space left on device"}
    assert len(model.seen) <= 4, "calls were paid whose answers could not be kept"
    assert calls.over


def test_a_model_that_cannot_be_opened_is_opened_once_and_costs_nothing(tmp_path: Path) -> None:
    opens: list[int] = []

    @dataclass(frozen=True)
    class Broken(Counted):
        def open(self) -> Complete:
            opens.append(1)
            raise InputError("model: no such file")

    calls = Calls(Broken(in_flight=1, budget_tokens=1000), str(tmp_path))
    ended = errors(calls, *many(50))
    assert {type(one) for one in ended} == {InputError}
    assert len(opens) == 1
    assert history(str(tmp_path), {"language": "counted"}).spent == Amount()


def test_in_a_pool_what_is_over_stays_over_and_elsewhere_begins_anew(tmp_path: Path) -> None:
    language = Fake(answers=["once"], in_flight=3)
    for limiter, same in (("", True), (None, False)):
        first = opened(language, str(tmp_path), limiter)
        first.fatal = ModelError("refused", "HTTP401", fatal=True)
        assert (opened(language, str(tmp_path), limiter) is first) is same


def test_a_request_that_draws_nothing_is_found_when_another_process_answered_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthray.model.calls.REFRESH_S", 0.0)
    cold = request(temperature=0)
    one, other = Calls(Counted(), str(tmp_path)), Calls(model := Counted(), str(tmp_path))

    async def after_the_other() -> Call:
        # Begun before the other process answered: run() has looked for what others kept already.
        await asyncio.to_thread(lambda: asked(one, (cold, ("a", "s", 0))))
        return await other.ask(cold, ("b", "s", 0))

    assert other.run(after_the_other()).response.text == "answer 1"
    assert model.seen == []


# Trying again.


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthray.model.calls._FIRST_PAUSE_S", 0.001)


@pytest.fixture(scope="module")
def process() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(process: Endpoint) -> Endpoint:
    process.script(**asdict(Script()))
    process.reset()
    return process


@pytest.fixture
def model(endpoint: Endpoint) -> OpenAI:
    return OpenAI(name="m-1", base_url=endpoint.url)


def gaps(endpoint: Endpoint) -> list[float]:
    return [later["at"] - earlier["at"] for earlier, later in pairwise(endpoint.hits())]


@pytest.mark.usefixtures("soon")
def test_only_what_may_do_better_is_tried_again_and_every_attempt_counts(tmp_path: Path) -> None:
    again = Counted(errors=(no("HTTP503", again=True, after_s=0.2), no("Timeout", again=True)), retries=2)
    started = time.monotonic()
    response = asked(Calls(again, str(tmp_path)), (request(), ORIGIN))[0].response
    assert time.monotonic() - started >= 0.2
    assert (response.text, response.attempts) == ("answer 3", 3)
    assert asked(Calls(Counted(), str(tmp_path)), (request(), ORIGIN))[0].response.attempts == 3

    for kind, retries, attempts in (("HTTP500", 1, 2), ("HTTP500", 0, 1), ("HTTP400", 5, 1)):
        failing = Counted(errors=(no(kind, again=kind == "HTTP500"),) * 9, retries=retries)
        (error,) = errors(Calls(failing, None), (request(), ORIGIN))
        assert (error.kind, error.attempts, len(failing.seen)) == (kind, attempts, attempts)


def test_each_pause_is_longer_than_the_one_before(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthray.model.calls._FIRST_PAUSE_S", 0.1)
    endpoint.script(per_request=["500", "503", "reset"])
    assert asked(Calls(model, None), *many(1))[0].response.attempts == 4
    assert [gap >= least for gap, least in zip(gaps(endpoint), (0.05, 0.1, 0.2), strict=True)] == [True] * 3


def test_being_told_to_wait_is_no_failure_and_is_heard_by_all(endpoint: Endpoint, model: OpenAI) -> None:
    endpoint.script(first=["429", "429", "429"], retry_after=0.2)
    answers = asked(Calls(replace(model, retries=0, in_flight=1), None), *many(4))
    assert sum(answer.response.attempts for answer in answers) == 7
    assert all(gap >= 0.2 for gap in gaps(endpoint)[:3])


@pytest.mark.usefixtures("soon")
def test_an_endpoint_that_says_nothing_but_wait_ends_the_run(
    endpoint: Endpoint, model: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthray.model.calls.PATIENCE_S", 0.3)
    endpoint.script(faults={"429": 1}, retry_after=0.05)
    calls = Calls(replace(model, retries=0), None)
    ended = errors(calls, *many(5))
    assert {(error.kind, error.fatal) for error in ended} == {("HTTP429", True)}
    assert re.search("has answered no call for .* s: run again later", str(ended[0]))
    assert sum(gaps(endpoint)) > 0.2
    before = endpoint.counts()
    assert (errors(calls, *many(9))[8].fatal, endpoint.counts()) == (True, before)


@pytest.mark.usefixtures("soon")
def test_patience_begins_with_the_first_wait_and_anew_after_each_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("synthray.model.calls.PATIENCE_S", 0.0)
    busy = no("HTTP429", again=True)
    down = no("HTTP500", again=True)
    assert asked(Calls(Counted(errors=(down, down)), None), *many(1))[0].response.attempts == 3
    patient = Calls(Counted(errors=(busy, None, busy)), None)
    assert [asked(patient, one)[0].response.attempts for one in many(2)] == [2, 2]
    assert errors(Calls(Counted(errors=(busy, busy)), None), *many(1))[0].fatal


@pytest.mark.parametrize("kind", ["HTTP429", "HTTP503"])
def test_an_endpoint_that_wants_to_be_left_alone_for_long_ends_the_run_at_once(kind: str) -> None:
    model = Counted(errors=(no(kind, again=True, after_s=3600.0),), in_flight=1)
    ended = errors(Calls(model, None), *many(4))
    assert {(error.kind, error.fatal) for error in ended} == {(kind, True)}
    assert "wants to be left alone for 3600 s" in str(ended[0])
    assert len(model.seen) == 1


def test_no_call_is_sent_after_a_fatal_error_and_none_is_counted_that_was_not_sent(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path
) -> None:
    endpoint.script(ignore=["n"], latency=0.05)
    calls = Calls(replace(model, in_flight=3, budget_tokens=10**6), str(tmp_path))
    ended = errors(calls, *many(20, n=2))
    assert {(error.kind, error.fatal) for error in ended} == {("Unsupported", True)}
    assert calls.over
    sent = len(endpoint.hits())
    assert 1 <= sent <= 3
    assert Counter(next(iter(line)) for line in lines(tmp_path)) == {"reserved": sent, "lost": sent}
    assert all(error.fatal for error in errors(calls, *many(5)))
    assert len(endpoint.hits()) == sent


@pytest.mark.usefixtures("soon")
def test_of_300_calls_with_every_kind_of_fault_each_is_answered_once(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path
) -> None:
    billed = ["reset", "half", "malformed", "html", "408"]
    faults = [*billed, "409", "425", "429", "500", "503"]
    endpoint.script(faults=dict.fromkeys(faults, 0.02), retry_after=0.02)
    calls = asked(Calls(replace(model, retries=10), str(tmp_path)), *many(300))
    hits = endpoint.hits()
    assert {hit["fault"] for hit in hits} == {*faults, None}
    answered = [hit["id"] for hit in hits if hit["fault"] is None]
    assert len(answered) == len(set(answered)) == 300
    assert Counter(call.response.attempts for call in calls) == Counter(endpoint.counts().values())
    assert len({call.response.text for call in calls}) == 300
    kept = Counter(line.get("error", "answered") for line in lines(tmp_path))
    met = Counter(hit["fault"] for hit in hits)
    lost = {"Connection": met["reset"] + met["half"], "BadResponse": met["malformed"] + met["html"]}
    assert kept == {"answered": 300, "HTTP408": met["408"], **lost}


# Money.

PRICE = {"input": 1.0, "output": 2.0}  # of a token, in millionths of a dollar


def spent(model: Language, folder: Path) -> Amount:
    return history(folder, model.identity()).spent


def test_a_record_says_what_a_call_cost_in_full_where_the_answer_does_not(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path
) -> None:
    endpoint.script(first=["ok", "no_usage"])
    priced = replace(model, price=PRICE)
    calls = Calls(priced, str(tmp_path))
    told, untold = (asked(calls, one)[0].response for one in many(2))
    prompt, answer = told.prompt_tokens or 0, told.completion_tokens or 0
    known, unknown = lines(tmp_path)
    assert known["tokens"] == prompt + answer > 0
    assert known["cost"] == pytest.approx((prompt + 2 * answer) / 1e6)
    bound = priced.prices().bound(many(1)[0][0])
    assert (untold.completion_tokens, unknown["tokens"], unknown["cost"]) == (None, bound.tokens, bound.usd)
    assert spent(priced, tmp_path) == Amount(prompt + answer, 1000 * (prompt + 2 * answer)) + bound


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("faults", [["429", "500", "503"], ["reset", "half"], ["malformed", "hang"]], ids=str)
def test_what_may_have_been_paid_counts_in_full_and_a_refusal_costs_nothing(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path, faults: list[str]
) -> None:
    endpoint.script(per_request=faults, retry_after=0.01)
    priced = replace(model, price=PRICE, budget_usd=1.0, timeout_s=0.5 if "hang" in faults else 60)
    ((sent, origin),) = many(1, max_tokens=50)
    response = asked(Calls(priced, str(tmp_path)), (sent, origin))[0].response
    billed = 0 if "429" in faults else len(faults)
    marks = ["reserved", "lost" if billed else "released"] * len(faults) + ["reserved", "key"]
    assert [next(iter(line)) for line in lines(tmp_path)] == marks
    taken = priced.prices().cost(response.prompt_tokens or 0, response.completion_tokens or 0)
    for _ in range(billed):
        taken += priced.prices().bound(sent)
    assert spent(priced, tmp_path) == taken


def test_a_call_in_flight_when_its_process_is_killed_counts_in_full(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path
) -> None:
    endpoint.script(faults={"hang": 1})
    program = """
        import sys
        from synthray.model.calls import Calls
        from synthray.model.language import Request
        from synthray.model.openai import OpenAI

        model = OpenAI(name="m-1", base_url=sys.argv[1], budget_usd=1, price={"input": 1.0, "output": 2.0})
        request = Request(messages=({"role": "user", "content": "Say 000."},))
        calls = Calls(model, sys.argv[2])
        calls.run(calls.ask(request, ("row0", "step", 0)))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), endpoint.url, str(tmp_path)]
    with subprocess.Popen(command) as running:
        until = time.monotonic() + 60
        while not endpoint.hits() and time.monotonic() < until:
            assert running.poll() is None
        os.kill(running.pid, signal.SIGKILL)
    priced = replace(model, price=PRICE, budget_usd=1.0)
    assert len(endpoint.hits()) == 1
    assert spent(priced, tmp_path) == priced.prices().bound(many(1)[0][0]) != Amount()
    endpoint.script(faults={})
    assert not asked(Calls(priced, str(tmp_path)), *many(1))[0].reused


@pytest.mark.parametrize(
    ("name", "factor"), [("budget_tokens", 1), ("budget_usd", 1e-9)], ids=["tokens", "dollars"]
)
def test_a_budget_is_never_passed_and_a_raised_one_goes_on_from_what_is_kept(
    endpoint: Endpoint, model: OpenAI, tmp_path: Path, name: str, factor: float
) -> None:
    work = many(40, max_tokens=40)
    of = "tokens" if name == "budget_tokens" else "nano"
    bound = getattr(replace(model, price=PRICE).prices().bound(work[0][0]), of)
    cap = 6 * bound
    poor = replace(model, price=PRICE, in_flight=4, **{name: cap * factor})
    ended = errors(Calls(poor, str(tmp_path)), *work)
    refused = [one for one in ended if isinstance(one, BudgetSpent)]
    answered = [one for one in ended if isinstance(one, Call)]
    assert 6 <= len(answered) == 40 - len(refused)
    assert f"{name}: " in str(refused[0])
    assert "raise it to go on, every answer is kept" in str(refused[0])
    assert 0 <= cap - getattr(spent(poor, tmp_path), of) < bound
    assert len(endpoint.hits()) == len(answered)

    with pytest.raises(BudgetSpent):  # the same again sends nothing
        asked(Calls(poor, str(tmp_path)), *work)
    assert len(endpoint.hits()) == len(answered)
    rich = replace(poor, **{name: cap * factor * 100})
    calls = asked(Calls(rich, str(tmp_path)), *work)
    assert sum(call.reused for call in calls) == len(answered)
    assert sorted(endpoint.counts().values()) == [1] * 40
