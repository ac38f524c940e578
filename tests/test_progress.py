import json
from pathlib import Path

import pytest

from synthray.progress import Progress, Tail


def line(tokens: int | None = 3) -> str:
    return json.dumps({"key": "k", "completion_tokens": tokens}) + "\n"


def append(folder: Path, text: str, name: str = "one.jsonl") -> None:
    with (folder / name).open("a") as file:
        file.write(text)


def test_a_tail_counts_only_what_comes_after_it(tmp_path: Path) -> None:
    append(tmp_path, line() * 5)
    tail = Tail(lambda: tmp_path)
    tail.poll()
    assert (tail.calls, tail.tokens) == (0, 0)
    append(tmp_path, line(4) + line(6))
    append(tmp_path, line(1), "two.jsonl")
    tail.poll()
    assert (tail.calls, tail.tokens) == (3, 11)
    tail.poll()
    assert (tail.calls, tail.tokens) == (3, 11)


def test_a_line_counts_when_it_is_whole_and_once(tmp_path: Path) -> None:
    tail = Tail(lambda: tmp_path)
    text = line(7)
    append(tmp_path, line(1) + text[:10])
    tail.poll()
    assert (tail.calls, tail.tokens) == (1, 1)
    append(tmp_path, text[10:])
    tail.poll()
    assert (tail.calls, tail.tokens) == (2, 8)


def test_a_line_that_was_torn_before_the_tail_counts_when_it_is_ended_after(tmp_path: Path) -> None:
    text = line(7)
    append(tmp_path, text[:10])
    tail = Tail(lambda: tmp_path)
    append(tmp_path, text[10:])
    tail.poll()
    assert (tail.calls, tail.tokens) == (1, 7)


def test_a_call_without_a_count_of_tokens_is_a_call(tmp_path: Path) -> None:
    tail = Tail(lambda: tmp_path)
    append(tmp_path, line(None) + '{"key": "k"}\n')
    tail.poll()
    assert (tail.calls, tail.tokens) == (2, 0)


def test_a_folder_that_is_not_there_yet_counts_nothing_until_it_is(tmp_path: Path) -> None:
    tail = Tail(lambda: tmp_path / "calls")
    tail.poll()
    assert tail.calls == 0
    (tmp_path / "calls").mkdir()
    append(tmp_path / "calls", line())
    append(tmp_path / "calls", "no journal", "note.txt")
    tail.poll()
    assert tail.calls == 1


def test_progress_says_how_many_calls_were_made_since_its_start(tmp_path: Path) -> None:
    append(tmp_path, line())
    progress = Progress(lambda: tmp_path, quiet=True)
    append(tmp_path, line() * 2)
    assert progress.made() == 2


def test_where_stderr_is_no_terminal_a_stage_ends_with_a_plain_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(lambda: tmp_path)
    with progress.stage("prompt", 4, calls=True):
        append(tmp_path, line(50))
    with progress.stage("where", 4, calls=False):
        progress.add(4)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "\x1b" not in shown.err and "\r" not in shown.err
    first, second = shown.err.splitlines()
    assert first.startswith("prompt: done, ") and "tokens/s" in first
    assert second.startswith("where: done, ") and "tokens/s" not in second


def test_a_stage_that_fails_is_not_called_done_and_says_how_far_it_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(lambda: tmp_path)
    with pytest.raises(ValueError, match="broken"), progress.stage("where", 4, calls=False):
        progress.add(3)
        raise ValueError("broken")
    assert capsys.readouterr().err.startswith("where: 3/4 rows, ")


def test_rows_and_calls_of_one_stage_do_not_count_for_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(lambda: tmp_path)
    with progress.stage("one", 4, calls=True):
        append(tmp_path, line() * 4)
        progress.add(4)
    with pytest.raises(ValueError, match="broken"), progress.stage("two", 4, calls=True):
        append(tmp_path, line())
        raise ValueError("broken")
    with pytest.raises(ValueError, match="broken"), progress.stage("three", 4, calls=True):
        append(tmp_path, line() * 9)
        raise ValueError("broken")
    told = capsys.readouterr().err
    assert "two: 1/4 rows, 1 calls" in told
    assert "three: 4/4 rows, 9 calls" in told


def test_notes_go_to_stderr_and_quiet_shows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Progress(lambda: tmp_path).note("unchanged")
    assert capsys.readouterr() == ("", "unchanged\n")
    quiet = Progress(lambda: tmp_path, quiet=True)
    quiet.note("unchanged")
    with quiet.stage("where", 4, calls=False):
        quiet.add(4)
    assert capsys.readouterr() == ("", "")
