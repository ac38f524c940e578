"""Kept calls outlive kills, become Parquet between two stages, and money set aside is counted once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest

from synthray.errors import RunFailed
from synthray.lineage import digest
from synthray.model import store as module
from synthray.model.language import Choice, Response
from synthray.model.price import NOTHING, Amount
from synthray.model.store import History, Store, calls_relation, compact, history
from synthray.query import Query

MODEL = {"language": "m", "name": "é"}
ONE = {"prompt_tokens": 1, "completion_tokens": 1, "attempts": 1}
RECORD = {"response": "kept", "finish_reason": "stop", **ONE, "model": MODEL, "at": 1.7e9}
KEPT = Response("kept", "stop", 1, 1, 1)


def key(*number: Any) -> str:
    return digest("call", *number)


def text(number: int) -> str:
    return f"é{number} " * (number % 7)


def fill(store: Store, *numbers: int) -> None:
    for number in numbers:
        store.keep(key(number), {**RECORD, "response": text(number)})


def missing(store: Store, *numbers: int) -> list[int]:
    """Return which of the answers of `fill` are not found as they were."""
    return [number for number in numbers if getattr(store.get(key(number)), "text", None) != text(number)]


def rows(folder: Path, columns: str = "key", *, settle: bool = False) -> list[tuple[Any, ...]]:
    """Return the kept calls as a run shows them to SQL."""
    files: list[str] = []
    relation = calls_relation(folder, files, settle=settle)
    with Query({"calls": relation}, files=tuple(files)) as query:
        return query.rows(f"SELECT {columns} FROM calls ORDER BY ALL")


def files(folder: Path) -> list[str]:
    """Return the kinds of the files in a folder."""
    return sorted(path.suffix for path in folder.iterdir())


def line(number: Any) -> bytes:
    """Return the bytes that a store appends for an answer."""
    record = {"key": key(number), **RECORD, "response": "é\U0001f600 \u2028\n"}
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


# Kept and found again.


def test_a_store_finds_its_own_answers_at_once_and_none_that_it_never_got(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder")
    fill(store, *range(50))
    assert missing(store, *range(50), -1) == [-1]


def test_each_process_has_a_journal_of_its_own_and_finds_the_others_answers_when_it_looks_again(
    tmp_path: Path,
) -> None:
    one, other = Store(tmp_path), Store(tmp_path)
    fill(one, 1)
    fill(other, 2)
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert missing(one, 1, 2) == [2]
    one.refresh()
    assert missing(one, 1, 2) == []
    fill(other, 3)
    one.refresh()
    assert missing(one, 1, 2, 3) == []


@pytest.mark.parametrize("cut", [1, 12, 50], ids=["a byte", "half a key", "half a record"])
def test_a_line_that_another_process_is_still_writing_is_found_when_it_is_whole(
    tmp_path: Path, cut: int
) -> None:
    store = Store(tmp_path)
    with (tmp_path / "other.jsonl").open("wb", buffering=0) as other:
        for part, found in ((line(1) + line(2)[:cut], [True, False]), (line(2)[cut:], [True, True])):
            other.write(part)
            store.refresh()
            assert [store.get(key(number)) is not None for number in (1, 2)] == found


def test_more_answers_than_the_dict_of_new_ones_holds_are_all_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RECENT", 7)
    store = Store(tmp_path)
    for number in range(100):
        fill(store, number)
        assert missing(store, number, number // 2, 0) == []
    assert missing(store, *range(100), -1) == missing(Store(tmp_path), *range(100), -1) == [-1]


FOLDED = pytest.mark.parametrize("recent", [1, 200_000], ids=["folded", "new"])
COMPACTED = pytest.mark.parametrize("compacted", [False, True], ids=["journal", "Parquet"])


@FOLDED
@COMPACTED
def test_two_keys_that_share_64_bits_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recent: int, compacted: bool
) -> None:
    monkeypatch.setattr(module, "_RECENT", recent)
    one, other = ("f" * 16 + end * 8 for end in "ab")
    store = Store(tmp_path)
    store.keep(one, RECORD)
    assert store.get(other) is None
    store.keep(other, {**RECORD, "response": "other"})
    if compacted:
        compact(tmp_path)
    for found in (store, Store(tmp_path)):
        assert found.get(other) == Response("other", "stop", 1, 1, 1)
        assert found.get(one) in (None, KEPT), "asked again at worst, never answered by another"


def test_a_call_too_long_to_be_read_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthray.model.journal.LONGEST_LINE", 1000)
    store = Store(tmp_path)
    with pytest.raises(RunFailed, match=r"a call of 1\d{3} bytes cannot be kept; the most is 1000"):
        store.keep(key(1), {**RECORD, "response": "é" * 500})
    fill(store, 2)
    assert missing(Store(tmp_path), 2) == []


def test_nothing_goes_behind_half_a_line_that_a_full_disk_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    fill(store, 1)
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 20:
            return write(file, bytes(data[:20]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            fill(store, 2)
    store.refresh()
    fill(store, 3)
    assert missing(store, 1, 3) == missing(Store(tmp_path), 1, 3) == []
    assert store.get(key(2)) is None
    assert rows(tmp_path) == sorted([(key(1),), (key(3),)])


# Torn lines.


def test_a_line_torn_at_any_byte_is_passed_over_and_the_lines_before_it_are_not(tmp_path: Path) -> None:
    torn = line("torn")
    cuts = range(len(torn) - 1)
    for cut in cuts:
        (tmp_path / f"{cut}.jsonl").write_bytes(line(cut) + torn[:cut])
    whole = sorted((key(cut),) for cut in cuts)
    store = Store(tmp_path)
    assert [cut for cut in cuts if store.get(key(cut)) is None] == []
    assert store.get(key("torn")) is None
    assert rows(tmp_path) == rows(tmp_path, settle=True) == whole
    compact(tmp_path)
    assert rows(tmp_path) == whole
    assert Store(tmp_path).get(key("torn")) is None


def test_an_answer_that_lacks_its_newline_alone_counts_and_is_found_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_bytes(line(1)[:-1])
    for whole in (False, True):  # until it is Parquet it may still be being written
        assert rows(tmp_path) == [(key(1),)]
        assert (Store(tmp_path).get(key(1)) is not None) == whole
        compact(tmp_path)


@FOLDED
def test_a_line_torn_in_the_middle_of_a_journal_costs_the_line_that_runs_into_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr(module, "_RECENT", recent)
    torn = line("torn")
    cuts = range(1, len(torn) - 1, 3)
    for cut in cuts:
        lines = line(f"{cut} before") + torn[:cut] + line(f"{cut} glued") + line(f"{cut} after")
        (tmp_path / f"0-{cut}.jsonl").write_bytes(lines)
    whole = sorted((key(f"{cut} {place}"),) for cut in cuts for place in ("before", "after"))
    store = Store(tmp_path)
    assert [held for (held,) in whole if store.get(held) is None] == []
    assert [cut for cut in cuts if store.get(key(f"{cut} glued"))] == []
    assert store.get(key("torn")) is None
    assert rows(tmp_path) == whole
    store.keep(key("torn"), RECORD)
    assert store.get(key("torn")) == Store(tmp_path).get(key("torn")) == KEPT
    compact(tmp_path)
    assert rows(tmp_path) == sorted([*whole, (key("torn"),)])
    assert Store(tmp_path).get(key("torn")) == KEPT


@pytest.mark.parametrize(
    "left",
    [b"", b"{", b"\n\n", b"\0" * 5000, b"[]\n3\nnull\n", b"\xff\xfe\n", b'{"key":"no digits at all"\n'],
    ids=["empty", "a byte", "lines of nothing", "a block of zeros", "other JSON", "no text", "no key"],
)
def test_a_journal_without_a_call_is_none(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "0.jsonl").write_bytes(left)
    store = Store(tmp_path)
    fill(store, 1)
    for _ in range(2):
        assert rows(tmp_path) == rows(tmp_path, settle=True) == [(key(1),)]
        assert missing(Store(tmp_path), 1) == []
        compact(tmp_path)


def test_every_answer_that_was_reported_survives_a_kill_while_others_read(tmp_path: Path) -> None:
    program = """
        import asyncio, sys
        from synthray.model.calls import Calls
        from synthray.model.fake import Fake
        from synthray.model.language import Request

        calls = Calls(Fake(answers=["x" * 5000], budget_tokens=10**12), sys.argv[1])
        request = Request(messages=({"role": "user", "content": "x"},))

        async def ask(row):
            for ordinal in range(10**9):
                print((await calls.ask(request, (row, "s", ordinal))).key, flush=True)

        async def all_of_them():
            await asyncio.gather(*map(ask, "abcd"))

        calls.run(all_of_them())
    """
    arguments = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    reader = Store(tmp_path)
    answer = Response("x" * 5000, "stop", 1, 1)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reported: list[str] = []
        for _ in range(5):
            reported += [process.stdout.readline().strip() for _ in range(60)]
            reader.refresh()
            assert [one for one in reported if reader.get(one) != answer] == []
            assert {(one,) for one in reported} <= set(rows(tmp_path))
        os.kill(process.pid, signal.SIGKILL)
        reported += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    assert len(set(reported)) == len(reported) >= 300
    sent = rows(tmp_path, settle=True)
    compact(tmp_path)
    assert rows(tmp_path) == sent
    assert len(set(sent)) == len(sent), "no call counts twice"
    reader.refresh()
    for store in (reader, Store(tmp_path)):
        assert [one for one in reported if store.get(one) != answer] == []


# Journals become Parquet.

TOKENS = [{"token": "é", "logprob": -1.25e-9, "top": {"b": -0.1, "\0": float("-inf")}}]
ANSWERS = [
    KEPT,
    Response("", "no_text", None, None, 3),
    Response("é\u2028\n\r\0 \U0001f600 {\"}[' \\u0000", "length", 10**12, 0, 1),
    Response("x" * 100_000, "stop", None, 5, 1),
    Response("tokens", "stop", 1, 1, 1, TOKENS),
    Response("more", "stop", 1, 1, 1, None, (Choice("é", "length"), Choice("", "no_text"))),
    Response("both", "stop", 1, 1, 1, TOKENS, (Choice("a", "stop", TOKENS), Choice("b", "stop", []))),
]


def record(answer: Response) -> dict[str, Any]:
    held = {**RECORD, **asdict(answer), "cost": 0.1 + 0.2, "request": {"messages": [{"content": "é"}]}}
    return {**held, "response": held.pop("text")}


def test_journals_become_one_parquet_file_with_the_same_answers(tmp_path: Path) -> None:
    stores = [Store(tmp_path) for _ in range(3)]
    for place, answer in enumerate(ANSWERS):
        stores[place % 3].keep(key(place), record(answer))
    stores[0].lose(key("lost"), {**RECORD, "error": "Timeout"})
    before = rows(tmp_path, "*")
    for _ in range(2):  # the second finds nothing to do
        stores[0].refresh()
        for store in (Store(tmp_path), stores[0]):
            assert [store.get(key(place)) for place in range(len(ANSWERS))] == ANSWERS
            assert store.get(key("lost")) is None
        compact(tmp_path)
        assert files(tmp_path) == [".parquet"]
        assert rows(tmp_path, "*") == before
    assert [Store(tmp_path).get(key(place)) for place in range(len(ANSWERS))] == ANSWERS


def test_nothing_kept_is_nothing_to_compact(tmp_path: Path) -> None:
    compact(tmp_path)
    assert files(tmp_path) == rows(tmp_path) == rows(tmp_path / "no such folder") == []


def test_answers_are_found_in_any_order_in_many_files_and_row_groups_of_which_few_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GROUP_ROWS", 1)
    monkeypatch.setattr(module, "_CACHE_BYTES", 1)
    size = 2100  # DuckDB's smallest row group has 2048 rows
    for part in range(3):
        store = Store(tmp_path)
        store.lose(key("lost", part), {**RECORD, "error": "Timeout"})
        fill(store, *range(part * size, part * size + size))
        compact(tmp_path)
    numbers = [0, size - 1, size, 3 * size - 1, *random.Random(0).sample(range(3 * size), 100)]
    store = Store(tmp_path)
    assert missing(store, *numbers) == []
    assert len(store._groups) == 1
    assert len(files(tmp_path)) == 3
    assert len(rows(tmp_path)) == 3 * size + 3


class Killed(BaseException):
    """Nothing in the code under test can catch it, as it cannot catch a SIGKILL."""


def killed(*_: object, **__: object) -> NoReturn:
    raise Killed


@pytest.mark.parametrize(
    ("where", "left"),
    [
        pytest.param((Query, "write"), [".jsonl"] * 2, id="before it writes"),
        pytest.param((os, "fsync"), [".jsonl"] * 2 + [".part"], id="before it is on the disk"),
        pytest.param((Path, "replace"), [".jsonl"] * 2 + [".part"], id="before it counts"),
        pytest.param((Path, "unlink"), [".jsonl"] * 2 + [".parquet"], id="before the journals are gone"),
    ],
)
def test_a_kill_while_journals_become_parquet_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str], left: list[str]
) -> None:
    alive, other = Store(tmp_path), Store(tmp_path)
    fill(alive, 1, 2)
    fill(other, 3)
    other.reserve({"key": key("sent"), **RECORD, "tokens": 10})
    before = rows(tmp_path, "*", settle=True)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(*where, killed)
        compact(tmp_path)
    assert files(tmp_path) == left
    assert rows(tmp_path, "*", settle=True) == before
    assert missing(Store(tmp_path), 1, 2, 3) == []
    alive.refresh()
    assert missing(alive, 1, 2, 3) == []
    fill(alive, 4)
    assert missing(Store(tmp_path), 1, 2, 3, 4) == []
    compact(tmp_path)
    assert ".jsonl" not in files(tmp_path)
    assert len(rows(tmp_path, settle=True)) == len(before) + 1
    assert missing(Store(tmp_path), 1, 2, 3, 4) == missing(alive, 1, 2, 3, 4) == []


def test_a_journal_that_grows_meanwhile_is_left_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = Store(tmp_path)
    fill(alive, 1)
    write = Query.write

    def meanwhile(*arguments: Any, **settings: Any) -> int:
        written = write(*arguments, **settings)
        fill(alive, 2)
        return written

    with monkeypatch.context() as patched:
        patched.setattr(Query, "write", meanwhile)
        compact(tmp_path)
    fill(alive, 3)
    for left in (".jsonl", ".parquet"):
        assert files(tmp_path) == [left]
        assert missing(Store(tmp_path), 1, 2, 3) == []
        compact(tmp_path)


def test_a_process_goes_on_in_a_new_journal_when_its_own_became_parquet(tmp_path: Path) -> None:
    alive = Store(tmp_path)
    for number in range(3):
        fill(alive, number)
        compact(tmp_path)
        alive.refresh()
        assert missing(alive, *range(number + 1)) == []
    fill(alive, 3)
    assert files(tmp_path) == [".jsonl", *[".parquet"] * 3]
    assert missing(Store(tmp_path), 0, 1, 2, 3) == []


def test_an_answer_is_found_where_it_went_without_being_told_and_so_are_ones_own(tmp_path: Path) -> None:
    other = Store(tmp_path)
    fill(other, 1)
    alive = Store(tmp_path)
    compact(tmp_path)
    fill(alive, 2)
    assert missing(alive, 1, 2) == []
    fill(alive, 3)
    assert missing(alive, 1, 2, 3) == []


# Money set aside.

SENT = {**RECORD, "tokens": 1000, "cost": 0.5}
TOOK = {**RECORD, "tokens": 7, "cost": 0.000000003, "response": "a"}
IN_FULL, PART = Amount(1000, 500_000_000), Amount(7, 3)


@COMPACTED
@pytest.mark.parametrize(
    ("how", "calls", "spent"),
    [
        pytest.param("none", [("Unsettled", 1000)], IN_FULL, id="in flight"),
        pytest.param("keep", [(None, 7)], PART, id="answered"),
        pytest.param("lose", [("Timeout", 1000)], IN_FULL, id="perhaps paid for"),
        pytest.param("release", [], NOTHING, id="refused"),
    ],
)
def test_what_is_set_aside_for_a_call_is_settled_once(
    tmp_path: Path, how: str, calls: list[tuple[str | None, int]], spent: Amount, compacted: bool
) -> None:
    store = Store(tmp_path)
    number = store.reserve({"key": key(1), **SENT})
    if how == "keep":
        store.keep(key(1), {**TOOK, "reservation": number})
    elif how == "lose":
        store.lose(key(1), {**SENT, "reservation": number, "error": "Timeout"})
    elif how == "release":
        store.release(number)
    waited_for = [call for call in calls if call[0] != "Unsettled"]
    assert rows(tmp_path, "error, tokens") == waited_for, "as long as somebody waits it is no call yet"
    if compacted:
        compact(tmp_path)
    assert rows(tmp_path, "error, tokens", settle=not compacted) == calls
    assert rows(tmp_path, settle=True) == [(key(1),)] * len(calls)
    assert history(tmp_path, MODEL).spent == spent
    assert (Store(tmp_path).get(key(1)) is not None) == (how == "keep")


def test_a_reservation_is_settled_by_its_own_call_alone_and_each_attempt_has_one(tmp_path: Path) -> None:
    one, other = Store(tmp_path), Store(tmp_path)
    one.reserve({"key": key(1), **SENT})
    other.release(other.reserve({"key": key(2), **SENT}))
    other.lose(key(2), {**SENT, "error": "Timeout", "reservation": other.reserve({"key": key(2), **SENT})})
    other.keep(key(2), {**TOOK, "reservation": other.reserve({"key": key(2), **SENT})})
    found = rows(tmp_path, "error, key", settle=True)
    assert found == [("Timeout", key(2)), ("Unsettled", key(1)), (None, key(2))]
    assert history(tmp_path, MODEL).spent == IN_FULL + IN_FULL + PART


def test_a_reservation_is_not_settled_by_one_from_the_journal_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = store.reserve({"key": key("before"), **SENT})
    compact(tmp_path)
    store.refresh()
    store.reserve({"key": key("later"), **SENT})
    store.keep(key("before"), {**TOOK, "reservation": before})
    assert (key("later"), "Unsettled") in rows(tmp_path, "key, error", settle=True)


@COMPACTED
def test_the_history_of_a_model_is_exact_and_of_that_model_alone(tmp_path: Path, compacted: bool) -> None:
    now = time.time()
    mine = {"name": "é", "top": {"t": 1e-05, "p": 1e22}, "none": None}
    store = Store(tmp_path)
    assert history(tmp_path, mine) == history(tmp_path / "none", mine) == History()
    nano = [3 * 7**place % 10**10 for place in range(500)]
    for place, cost in enumerate(nano):
        at = now - (5 if place < 40 else 100)  # most of them more than a minute ago
        store.keep(key(place), {**RECORD, "model": mine, "tokens": 3, "cost": cost / 1e9, "at": at})
    for place, model in enumerate(({**mine, "name": "e"}, {"name": "é"}, {**mine, "top": {}})):
        store.keep(key("other", place), {**RECORD, "model": model, "tokens": 5, "cost": 1.0, "at": now})
    if compacted:
        compact(tmp_path)
        store.refresh()
    assert history(tmp_path, mine) == History(Amount(1500, sum(nano)), 40, 120)
    store.reserve({"key": key("sent"), **SENT, "model": mine, "at": now})
    assert history(tmp_path, mine) == History(Amount(2500, sum(nano) + 500_000_000), 41, 1120)
