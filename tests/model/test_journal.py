"""A journal is one process's: a line is written whole or is the last one, and nothing follows half a line."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from synthray.errors import RunFailed
from synthray.model import journal as module
from synthray.model.journal import Journal


def lines(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_ino)
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_lines_are_told_by_their_first_word_and_lie_where_it_says(tmp_path: Path) -> None:
    journal = Journal(tmp_path, None)
    assert list(tmp_path.iterdir()) == [], "a process that keeps nothing leaves no file"
    assert [journal.reserve({"tokens": 5}), journal.reserve({"tokens": 6})] == [1, 2]
    path, offset = journal.append('{"key":"k",', {"response": "é\n", "reservation": 1})
    content = path.read_bytes()
    assert json.loads(content[offset:]) == {"key": "k", "response": "é\n", "reservation": 1}
    assert lines(tmp_path)[0] == {"reserved": 1, "tokens": 5}
    assert content.count(b"\n") == 3


def test_nothing_is_written_behind_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, None)
    journal.append('{"key":"a",', {"response": "1"})
    write, left = os.write, [4]

    def full(out: int, content: Any) -> int:
        if left:
            return write(out, bytes(content)[: left.pop()])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        journal.append('{"key":"b",', {"response": "2"})
    monkeypatch.undo()
    journal.append('{"key":"c",', {"response": "3"})
    first, second = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_size, reverse=True)
    assert first.read_bytes().endswith(b'}\n{"ke')
    assert json.loads(second.read_bytes())["key"] == "c"


def test_a_line_that_no_reader_takes_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE", 100)
    journal = Journal(tmp_path, None)
    with pytest.raises(RunFailed, match=r"a call of 1\d\d bytes cannot be kept; the most is 100"):
        journal.append('{"key":"a",', {"response": "x" * 100})
    assert lines(tmp_path) == []


def test_a_journal_that_became_parquet_is_not_written_to_any_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path, None)
    path, _ = journal.append('{"key":"a",', {"response": "1"})
    path.unlink()
    journal.check([])
    other, offset = journal.append('{"key":"b",', {"response": "2"})
    assert (other != path, offset) == (True, 0)
    journal.check([other])
    assert journal.append('{"key":"c",', {"response": "3"})[0] == other
    journal.sync()


def test_who_asks_whether_it_is_safe_waits_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, None)
    journal.append('{"key":"a",', {"response": "1"})
    begun, go, done = threading.Event(), threading.Event(), []

    def slow(_: int) -> None:
        begun.set()
        go.wait(20)
        done.append("synced")

    monkeypatch.setattr(module.os, "fdatasync", slow)

    def second() -> None:
        journal.sync()
        done.append("told")

    threads = [threading.Thread(target=journal.sync), threading.Thread(target=second)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join()
    assert done == ["synced", "told"]


def test_a_disk_that_fails_is_told_to_all_who_ask_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = Journal(tmp_path, None)
    journal.append('{"key":"a",', {"response": "1"})
    monkeypatch.setattr(module.os, "fdatasync", broken)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            journal.sync()
    journal.check([])  # its file is closed without being safe
    monkeypatch.undo()
    with pytest.raises(OSError, match="Input/output"):
        journal.sync()


def test_reservations_are_numbered_apart_from_those_of_the_file_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path, None)
    first = journal.reserve({})
    assert journal.path is not None
    journal.path.unlink()
    journal.check([])
    assert journal.reserve({}) == first + 1, "a settlement in the new file would settle the wrong one"
