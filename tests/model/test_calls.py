"""An answered call is kept before it counts as answered, and never sent again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from synthray.errors import ModelError
from synthray.model.calls import Call, Calls, Store, opened
from synthray.model.fake import Fake
from synthray.model.language import Complete, Language, Request, Response, call_key


@dataclass(frozen=True)
class Counted(Language):
    """Answers with the number of the call, after giving the others a turn; `seen` is what was asked."""

    seen: list[Request] = field(default_factory=list, compare=False)
    at_once: list[int] = field(default_factory=lambda: [0, 0], compare=False)
    fails: int = 0
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
            if number <= self.fails:
                raise ModelError("not now", "HTTP500")
            return Response(f"answer {number}", "length", 3, 4, 2)

        return complete


def request(text: str = "Say it.", **settings: Any) -> Request:
    return Request(messages=({"role": "user", "content": text},), **settings)


def asked(calls: Calls, *work: tuple[Request, tuple[str, str, int]]) -> list[Call]:
    async def all_of_them() -> list[Call]:
        return list(await asyncio.gather(*(calls.ask(one, origin) for one, origin in work)))

    return calls.run(all_of_them())


FOLDERS = pytest.mark.parametrize("kept", [True, False], ids=["in a folder", "in memory"])


@pytest.fixture
def where(tmp_path: Path) -> Callable[[bool], str | None]:
    return lambda kept: str(tmp_path / "calls") if kept else None


@FOLDERS
def test_at_temperature_0_equal_prompts_share_one_answer(
    where: Callable[[bool], str | None], kept: bool
) -> None:
    model = Counted()
    calls = Calls(model, where(kept))
    cold = request(temperature=0)
    answers = asked(calls, *((cold, (f"row{n}", f"step{n % 2}", n)) for n in range(20)))
    answers += asked(calls, (replace(cold, seed=9), ("later", "s", 0)))
    assert len(model.seen) == 1
    assert {answer.response.text for answer in answers} == {"answer 1"}
    assert [answer.reused for answer in answers] == [False] + [True] * 20
    assert asked(calls, (request("Say more.", temperature=0), ("row0", "step0", 0)))[0].reused is False


@FOLDERS
def test_above_0_a_hundred_equal_prompts_are_a_hundred_calls_and_asked_again_none(
    where: Callable[[bool], str | None], kept: bool
) -> None:
    model = Counted()
    calls = Calls(model, where(kept))
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
    assert again == Call(first.key, Response("answer 1", "length", 3, 4, 2), reused=True)
    assert model.seen == []


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        pytest.param({"text": "Say that."}, ("row", "step", 0), id="prompt"),
        pytest.param({"schema": {"type": "object"}}, ("row", "step", 0), id="schema"),
        pytest.param({"top_p": 0.5}, ("row", "step", 0), id="sampling"),
        pytest.param({}, ("row", "other", 0), id="step"),
        pytest.param({}, ("other", "step", 0), id="row"),
        pytest.param({}, ("row", "step", 1), id="ordinal"),
    ],
)
def test_another_call_is_sent(tmp_path: Path, settings: dict[str, Any], origin: tuple[str, str, int]) -> None:
    asked(Calls(Counted(), str(tmp_path)), (request(), ("row", "step", 0)))
    model = Counted()
    asked(Calls(model, str(tmp_path)), (request(**settings), origin))
    assert len(model.seen) == 1


def test_another_model_does_not_answer_for_the_first(tmp_path: Path) -> None:
    work = (request(), ("row", "step", 0))
    asked(Calls(Counted(), str(tmp_path)), work)
    other = Counted(name="other")
    assert not asked(Calls(other, str(tmp_path)), work)[0].reused


@FOLDERS
def test_a_failure_is_raised_and_not_kept(where: Callable[[bool], str | None], kept: bool) -> None:
    model = Counted(fails=1)
    calls = Calls(model, where(kept))
    work = (request(), ("row", "step", 0))
    with pytest.raises(ModelError, match="not now"):
        asked(calls, work)
    assert asked(calls, work)[0].response.text == "answer 2"
    assert asked(calls, work)[0].reused
    assert len(model.seen) == 2


def test_a_failure_reaches_all_who_wait_for_the_same_answer(tmp_path: Path) -> None:
    model = Counted(fails=1)
    calls = Calls(model, str(tmp_path))

    async def both() -> list[Any]:
        cold = request(temperature=0)
        work = (calls.ask(cold, (row, "step", 0)) for row in "ab")
        return await asyncio.gather(*work, return_exceptions=True)

    assert [str(one) for one in calls.run(both())] == ["not now", "not now"]
    assert len(model.seen) == 1


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_calls_than_asked_for_run_at_once(in_flight: int) -> None:
    model = Counted(in_flight=in_flight)
    asked(Calls(model, None), *((request(), (f"row{n}", "step", 0)) for n in range(12)))
    assert model.at_once == [0, in_flight]


def test_a_record_says_what_was_asked_by_whom_and_what_it_took(tmp_path: Path) -> None:
    asked(Calls(Counted(), str(tmp_path)), (request("é", stop=("x",)), ("row", "step", 2)))
    (journal,) = tmp_path.glob("*.jsonl")
    (line,) = journal.read_bytes().splitlines()
    record = json.loads(line)
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
        "attempts": 2,
    }


def test_two_processes_keep_their_answers_in_journals_of_their_own(tmp_path: Path) -> None:
    one, other = (Calls(Counted(), str(tmp_path)) for _ in range(2))
    for number, calls in enumerate((one, other, one)):
        asked(calls, (request(), (f"row{number}", "step", 0)))
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    model = Counted()
    found = asked(Calls(model, str(tmp_path)), *((request(), (f"row{n}", "step", 0)) for n in range(3)))
    assert [call.response.text for call in found] == ["answer 1", "answer 1", "answer 2"]
    assert model.seen == []


KEY, TORN = "a" * 24, "b" * 24
RECORD = {
    "response": "kept",
    "finish_reason": "stop",
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "attempts": 1,
}


@pytest.mark.parametrize("left", [1, 10, 40, -1], ids=["a byte", "half a key", "half a record", "no newline"])
def test_a_torn_last_line_is_passed_over_and_the_lines_before_it_are_not(tmp_path: Path, left: int) -> None:
    store = Store(tmp_path)
    store.keep(KEY, RECORD)
    store.keep(TORN, RECORD)
    (journal,) = tmp_path.glob("*.jsonl")
    whole, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(whole + last[:left])
    again = Store(tmp_path)
    assert again.get(KEY) == Response("kept", "stop", 1, 1, 1)
    assert again.get(TORN) is None
    again.keep(TORN, RECORD)
    assert Store(tmp_path).get(TORN) == again.get(TORN) == Response("kept", "stop", 1, 1, 1)


def test_a_store_finds_its_own_answers_at_once_and_none_that_it_never_got(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder")
    for number in range(50):
        store.keep(f"{number:024x}", {**RECORD, "response": f"é{number}" * number})
    kept = [store.get(f"{number:024x}") for number in range(50)]
    assert [one.text for one in kept if one] == [f"é{number}" * number for number in range(50)]
    assert store.get("f" * 24) is None


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
    arguments = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reported = [process.stdout.readline().strip() for _ in range(300)]
        os.kill(process.pid, signal.SIGKILL)
        reported += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    assert len(set(reported)) == len(reported) >= 300
    store = Store(tmp_path)
    assert [key for key in reported if store.get(key) != Response("x" * 5000, "stop", 1, 1)] == []


def test_a_process_opens_a_language_once_for_each_folder(tmp_path: Path) -> None:
    language = Fake(answers=["opened once"])
    first = opened(language, str(tmp_path))
    assert opened(Fake(answers=["opened once"]), str(tmp_path)) is first
    assert opened(language, None) is not first
    assert opened(Fake(answers=["another"]), str(tmp_path)) is not first
