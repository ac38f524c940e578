"""An index grows by whole segments: a killed growth leaves it valid, two at once make each segment once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthray.duplicate.index import Index
from synthray.errors import InputError

CUT = {"version": 1, "words": 3, "permutations": 128}

GROW = """
import fcntl, sys
from pathlib import Path
from synthray.duplicate.index import Index

lock = fcntl.flock

def flock(file, how):
    try:
        lock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waits", flush=True)
        lock(file, how)

def make(folder):
    (folder / "first.arrow").write_text(sys.argv[3])
    print("half", flush=True)
    assert sys.stdin.readline() == "go on\\n"
    (folder / "second.arrow").write_text(sys.argv[3])

fcntl.flock = flock
files = Index(Path(sys.argv[1]), {"version": 1, "words": 3, "permutations": 128}).segment(sys.argv[2], make)
print(*[Path(file).name for file in files], flush=True)
"""
"""Grows an index by a segment; says when it waits for another, and half way, where it waits for a word."""

Grow = Callable[[str, str], subprocess.Popen[str]]


@pytest.fixture
def grow(tmp_path: Path) -> Iterator[Grow]:
    """Return a function that begins, in a process of its own, to grow tmp_path/index by a segment."""
    begun: list[subprocess.Popen[str]] = []

    def begin(digest: str, content: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", GROW, str(tmp_path / "index"), digest, content]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go on\n")
    process.stdin.flush()


def index(tmp_path: Path, **cut: Any) -> Index:
    return Index(tmp_path / "index", {**CUT, **cut})


def writes(content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "b.arrow").write_text(content)
        (folder / "a.arrow").write_text(content)

    return make


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} must not be made again")


def shown(tmp_path: Path) -> list[str]:
    """Return what is in the folder, hidden things other than the lock included."""
    return sorted(path.name for path in (tmp_path / "index").iterdir() if path.name != ".index.lock")


def test_it_grows_by_a_segment_for_each_source_and_makes_none_again(tmp_path: Path) -> None:
    held = index(tmp_path)
    held.check()
    assert not held.folder.exists(), "looking makes nothing"
    first = held.segment("aa", writes("one"))
    assert [Path(file).name for file in first] == ["a.arrow", "b.arrow"]
    stamp = Path(first[0]).stat().st_mtime_ns
    second = held.segment("bb", writes("two"))
    assert shown(tmp_path) == ["index.json", "segment-aa", "segment-bb"]
    assert (held.segment("aa", never), held.segment("bb", never)) == (first, second)
    assert Path(first[0]).stat().st_mtime_ns == stamp
    assert [Path(file).read_text() for file in (first[0], second[0])] == ["one", "two"]
    held.check()
    assert json.loads((held.folder / "index.json").read_text()) == {"format": 1, "cut": CUT}


def test_an_error_leaves_the_index_as_it_was_and_the_next_growth_begins_anew(tmp_path: Path) -> None:
    held = index(tmp_path)
    held.segment("aa", writes("one"))

    def breaks(folder: Path) -> None:
        (folder / "torn.arrow").write_text("half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        held.segment("bb", breaks)
    assert [name for name in shown(tmp_path) if not name.startswith(".")] == ["index.json", "segment-aa"]
    held.check()
    made = held.segment("bb", writes("two"))
    assert [Path(file).name for file in made] == ["a.arrow", "b.arrow"]
    assert shown(tmp_path) == ["index.json", "segment-aa", "segment-bb"]


def test_a_growth_that_is_killed_leaves_the_index_valid_and_the_next_one_completes_it(
    tmp_path: Path, grow: Grow
) -> None:
    held = index(tmp_path)
    before = held.segment("aa", writes("one"))
    process = grow("bb", "torn")
    assert said(process) == "half"
    process.kill()
    process.wait()
    assert ".part-bb" in shown(tmp_path), "it was killed in the middle"
    held.check()
    assert held.segment("aa", never) == before, "what was there is read"
    held.segment("cc", writes("three"))
    assert shown(tmp_path) == ["index.json", "segment-aa", "segment-cc"], "any growth removes the part"
    made = held.segment("bb", writes("two"))
    assert [Path(file).read_text() for file in made] == ["two", "two"]


def test_a_first_growth_that_is_killed_leaves_what_the_next_one_takes(tmp_path: Path, grow: Grow) -> None:
    process = grow("bb", "torn")
    assert said(process) == "half"
    process.kill()
    process.wait()
    index(tmp_path).check()
    # Killed even before its head was written, there are hidden things alone.
    (tmp_path / "index" / "index.json").unlink()
    index(tmp_path).check()
    index(tmp_path).segment("bb", writes("two"))
    assert shown(tmp_path) == ["index.json", "segment-bb"]


def test_of_two_that_grow_it_at_once_by_the_same_source_one_makes_it(tmp_path: Path, grow: Grow) -> None:
    first = grow("aa", "first")
    assert said(first) == "half"
    second = grow("aa", "second")
    assert said(second) == "waits"
    go_on(first)
    assert said(first) == said(second) == "first.arrow second.arrow", "the second one makes nothing"
    assert first.wait() == second.wait() == 0
    assert {path.read_text() for path in (tmp_path / "index").glob("segment-aa/*")} == {"first"}
    assert shown(tmp_path) == ["index.json", "segment-aa"]


def test_of_two_that_grow_it_at_once_by_different_sources_one_waits_and_takes_no_part_away(
    tmp_path: Path, grow: Grow
) -> None:
    first = grow("aa", "one")
    assert said(first) == "half"
    second = grow("bb", "two")
    assert said(second) == "waits"
    go_on(first)
    assert said(first) == "first.arrow second.arrow"
    assert said(second) == "half"
    go_on(second)
    assert said(second) == "first.arrow second.arrow"
    assert first.wait() == second.wait() == 0
    assert shown(tmp_path) == ["index.json", "segment-aa", "segment-bb"]


def test_one_that_waits_for_a_growth_that_is_killed_goes_on(tmp_path: Path, grow: Grow) -> None:
    first = grow("aa", "torn")
    assert said(first) == "half"
    second = grow("aa", "whole")
    assert said(second) == "waits"
    first.kill()
    assert said(second) == "half", "the lock dies with the process"
    go_on(second)
    assert said(second) == "first.arrow second.arrow"
    assert {path.read_text() for path in (tmp_path / "index").glob("segment-aa/*")} == {"whole"}
    assert shown(tmp_path) == ["index.json", "segment-aa"]


# What is no index for this step.


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"words": 5}, "was made with words: 3, but this step has words: 5; set what the index has, or name"),
        ({"version": 2}, "was made with version: 1, but this step has version: 2;"),
        (
            {"words": 4, "permutations": 64},
            "with words: 3, permutations: 128, but this step has words: 4, permutations: 64;",
        ),
    ],
    ids=["setting", "version", "two settings"],
)
def test_an_index_of_another_setting_or_version_is_refused_with_both(
    tmp_path: Path, cut: dict[str, int], message: str
) -> None:
    index(tmp_path).segment("aa", writes("one"))
    other = index(tmp_path, **cut)
    for refused in (other.check, lambda: other.segment("bb", never)):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            refused()
        assert str(other.folder) in str(caught.value)
        assert "name another folder" in str(caught.value)
    assert shown(tmp_path) == ["index.json", "segment-aa"], "it is left as it was"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('{"format": 1, "cu', "is damaged: index.json is not what an index has"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        ("\xff", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"cut": {}}', "is damaged"),
        ('{"format": 9, "cut": {}}', "has format 9, this synthray reads 1; name another folder"),
    ],
    ids=["torn", "empty", "list", "bytes", "no cut", "no format", "newer"],
)
def test_a_head_that_cannot_be_understood_is_refused_by_its_folder(
    tmp_path: Path, head: str, message: str
) -> None:
    held = index(tmp_path)
    held.segment("aa", writes("one"))
    (held.folder / "index.json").write_bytes(head.encode("latin-1"))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        held.check()
    assert str(held.folder) in str(caught.value)


def test_a_folder_that_holds_other_things_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    held = index(tmp_path)
    held.folder.mkdir()
    held.check()
    (held.folder / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is no index: it has no index\.json; name another folder"):
        held.check()
    with pytest.raises(InputError, match="is no index"):
        held.segment("aa", never)
    assert shown(tmp_path) == ["thesis.txt"]


def test_a_file_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("mine")
    with pytest.raises(InputError, match="is no index"):
        index(tmp_path).check()


@pytest.mark.parametrize("cut", ["null", "3", '"words"'])
def test_a_head_without_a_cut_is_damaged(tmp_path: Path, cut: str) -> None:
    (tmp_path / "index.json").write_text(f'{{"format": 1, "cut": {cut}}}')
    with pytest.raises(InputError, match="is damaged"):
        Index(tmp_path, {"words": 3}).check()


def test_a_setting_that_one_side_lacks_is_not_said_to_be_none(tmp_path: Path) -> None:
    Index(tmp_path, {"words": 3, "permutations": 128}).segment("aa", lambda _: None)
    with pytest.raises(InputError, match="made with words: 3, but this step has characters: 5;"):
        Index(tmp_path, {"characters": 5, "permutations": 128}).check()
