"""An answered call is kept before it counts as answered, paid once, and found again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from asking import ORIGIN, Counted, asked, errors, lines, many, no, request

from synthray.errors import InputError, ModelError
from synthray.model.calls import Call, Calls, Origin, opened
from synthray.model.fake import Fake
from synthray.model.language import Complete, Response, call_key
from synthray.model.price import Amount
from synthray.model.store import Store, history


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


def test_work_on_one_models_loop_may_ask_another_and_both_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Counted(name=name) for name in ("one", "other"))
    calls = [Calls(model, str(tmp_path)) for model in (one, other)]

    async def turns() -> list[str]:
        said = ""
        found = []
        for number in range(4):
            call = await calls[number % 2].ask(request(f"Say {said}."), ("row", "step", number))
            found.append(said := call.response.text)
        return found

    synced, sync = list[Store](), Store.sync
    monkeypatch.setattr(Store, "sync", lambda store: (synced.append(store), sync(store))[1])
    assert calls[0].run(turns(), [calls[1]]) == ["answer 1", "answer 1", "answer 2", "answer 2"]
    assert synced == [model._store for model in calls], "what was answered must be on the disk, of both"
    assert [len(model.seen) for model in (one, other)] == [2, 2]
    # Another process's answers are taken in for both before any is sent, and none is sent twice.
    again = [Calls(replace(model, seen=[]), str(tmp_path)) for model in (one, other)]
    late = Calls(other, str(tmp_path))
    asked(late, (request("Late."), ORIGIN))

    async def more() -> list[bool]:
        call = await again[1].ask(request("Late."), ORIGIN)
        return [call.reused]

    assert again[0].run(more(), [again[1]]) == [True]
    with pytest.raises(ModelError, match="not now"):
        failing = Calls(Counted(name="third", errors=(no("Odd"),)), str(tmp_path))

        async def fails() -> Call:
            return await failing.ask(request(), ORIGIN)

        calls[0].run(fails(), [failing])
