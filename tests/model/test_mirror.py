"""Calls on an object store: put in segments, found by others, and durable before they count."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from synthray import bucket as bucket_module
from synthray.errors import RunFailed
from synthray.lineage import digest
from synthray.model import mirror as mirror_module
from synthray.model.calls import Calls
from synthray.model.fake import Fake
from synthray.model.language import Request, Response
from synthray.model.mirror import Mirror, mirror_of
from synthray.model.price import Amount
from synthray.model.store import Store, compact, history

RECORD = {
    "step": "s",
    "row_id": "r",
    "ordinal": 0,
    "model": {"language": "fake"},
    "request": {"messages": []},
    "response": "kept",
    "finish_reason": "stop",
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "tokens": 2,
    "cost": 0.5,
    "attempts": 1,
    "at": 1.0,
}
ANSWER = Response("kept", "stop", 1, 1, 1)


def key(number: int) -> str:
    return digest(number)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A folder of whole objects: fsspec's local files, as other processes see them too."""
    return f"file://{tmp_path}/bucket/run/calls"


def objects(url: str) -> list[str]:
    folder = Path(url.removeprefix("file://"))
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_path_needs_no_mirror(tmp_path: Path) -> None:
    assert mirror_of(tmp_path) is None
    assert mirror_of(str(tmp_path)) is None


def test_what_is_synced_is_on_the_store_and_another_process_finds_it(url: str) -> None:
    store = Store(url)
    other = Store(url)
    for number in range(3):
        store.keep(key(number), RECORD)
    store.sync()
    assert len(objects(url)) == 1
    store.keep(key(3), RECORD)
    store.sync()
    assert len(objects(url)) == 2, "what was put is put again"
    assert other.get(key(3)) is None
    other.refresh()
    assert [other.get(key(number)) for number in range(5)] == [ANSWER] * 4 + [None]
    assert [store.get(key(number)) for number in range(4)] == [ANSWER] * 4


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when something was pushed."""
    done = threading.Event()
    push = Mirror.push

    def told(self: Mirror) -> None:
        push(self)
        done.set()

    monkeypatch.setattr(Mirror, "push", told)
    return done


def test_a_segment_is_put_after_a_while_without_being_asked(
    url: str, monkeypatch: pytest.MonkeyPatch, pushed: threading.Event
) -> None:
    monkeypatch.setattr(mirror_module, "EVERY_S", 0.05)
    store = Store(url)
    store.keep(key(1), RECORD)
    assert pushed.wait(20), "nothing was put"
    assert Store(url).get(key(1)) == ANSWER


def test_a_segment_is_put_after_so_many_calls(
    url: str, monkeypatch: pytest.MonkeyPatch, pushed: threading.Event
) -> None:
    monkeypatch.setattr(mirror_module, "EVERY_S", 600.0)
    monkeypatch.setattr(mirror_module, "EVERY_CALLS", 10)
    store = Store(url)
    for number in range(10):
        store.keep(key(number), RECORD)
    assert pushed.wait(20), "nothing was put"


def test_segments_become_parquet_and_are_found_there(url: str) -> None:
    store = Store(url)
    for number in range(4):
        store.keep(key(number), RECORD)
        store.sync()
    compact(url)
    assert [Path(name).suffix for name in objects(url)] == [".parquet"]
    again = Store(url)
    assert [again.get(key(number)) for number in range(4)] == [ANSWER] * 4
    assert history(url, {"language": "fake"}).spent == Amount(8, 2_000_000_000)


def test_a_reservation_is_settled_by_a_later_segment(url: str) -> None:
    store = Store(url)
    settled = store.reserve({**RECORD, "key": key(1), "tokens": 100})
    open_ = store.reserve({**RECORD, "key": key(2), "tokens": 1000})
    store.sync()
    store.keep(key(1), {**RECORD, "reservation": settled})
    store.sync()
    assert len(objects(url)) == 2
    assert open_ != settled
    assert history(url, {"language": "fake"}).spent.tokens == 2 + 1000
    compact(url)
    assert history(url, {"language": "fake"}).spent.tokens == 2 + 1000


def test_a_kill_between_parquet_and_the_removal_of_its_segments_counts_nothing_twice(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(url)
    store.keep(key(1), RECORD)
    store.sync()
    monkeypatch.setattr(Mirror, "remove", lambda self, names: None)
    compact(url)
    monkeypatch.undo()
    assert len(objects(url)) == 2
    assert history(url, {"language": "fake"}).spent.tokens == 2
    compact(url)
    assert [Path(name).suffix for name in objects(url)] == [".parquet"]
    assert history(url, {"language": "fake"}).spent.tokens == 2


def test_money_is_on_the_store_before_its_call_is_sent(url: str) -> None:
    seen: list[int] = []

    def script(request: Request) -> str:
        seen.append(history(url, {"language": "fake", "script": "x", "answers": []}).spent.tokens)
        seen.append(len(objects(url)))
        return "one two"

    calls = Calls(Fake(script=script, budget_tokens=100_000), url)

    async def asked() -> list[Any]:
        request = Request(messages=({"role": "user", "content": "x"},), max_tokens=5)
        return await asyncio.gather(*(calls.ask(request, (f"r{n}", "s", 0)) for n in range(20)))

    assert len(calls.run(asked())) == 20
    assert min(seen[1::2]) >= 1, "a call was sent before its money was set aside on the store"
    # One push is for all who wait: the first, the others together, and the answers.
    assert len(objects(url)) <= 8


def test_a_store_that_cannot_be_written_is_said_and_loses_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "_PAUSE_S", 0.001)
    store = Store(url)
    store.keep(key(1), RECORD)
    assert store.mirror
    remote = bucket_module._opened(url)[0]
    pipe, failures = remote.pipe_file, [OSError("no space")] * 8

    def failing(*arguments: Any, **settings: Any) -> None:
        if failures:
            raise failures.pop()
        pipe(*arguments, **settings)

    monkeypatch.setattr(remote, "pipe_file", failing)
    with pytest.raises(RunFailed, match=r"calls/.*\.000001\.jsonl cannot be written after 6 .*: no space"):
        store.sync()
    store.sync()  # the third attempt of this one is the first that works
    assert Store(url).get(key(1)) == ANSWER


def test_what_was_synced_survives_a_kill_and_the_rest_was_in_flight(url: str) -> None:
    program = """
        import sys
        from synthray.model.store import Store
        from test_mirror import RECORD, key

        store = Store(sys.argv[1])
        for number in range(10**6):
            store.keep(key(number), RECORD)
            if number % 7 == 0:
                store.sync()
                print(number, flush=True)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    arguments = [sys.executable, "-c", textwrap.dedent(program), url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        reported = [int(process.stdout.readline()) for _ in range(30)]
        os.kill(process.pid, signal.SIGKILL)
        reported += [int(line) for line in process.stdout if line.endswith("\n")]
    store = Store(url)
    assert [number for number in range(reported[-1] + 1) if store.get(key(number)) != ANSWER] == []
