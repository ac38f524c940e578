"""How far a run is: a bar on a terminal, plain lines elsewhere, both on stderr."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.5
_LINE_EVERY_S = 15.0
_ANSWERED = b'{"key"'


class Tail:
    """Counts what is appended to the journals of a folder from now on."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._look = folder
        self._offsets: dict[Path, int] = {}
        self.calls = 0
        self.tokens = 0
        self._read()
        self.calls = self.tokens = 0

    def poll(self) -> None:
        """Count the calls and tokens that have come since."""
        self._read()

    def _read(self) -> None:
        for path in self._look().glob("*.jsonl"):
            start = self._offsets.get(path, 0)
            if path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    start += len(line)
                    if not line.startswith(_ANSWERED):
                        continue  # about money, or torn by a full disk or a kill
                    try:
                        tokens = json.loads(line).get("completion_tokens") or 0
                    except (ValueError, AttributeError):
                        continue
                    self.calls += 1
                    self.tokens += tokens
            self._offsets[path] = start


class Progress:
    """Progress of the stages of one run; `calls` gives the folder of its journals. `quiet` shows nothing."""

    def __init__(self, calls: Callable[[], Path], *, quiet: bool = False) -> None:
        self.tail = Tail(calls)
        self._quiet = quiet
        self._done = 0
        self._whole = False

    def note(self, text: str) -> None:
        """Show a line."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def made(self) -> int:
        """Return how many calls were answered since the run was started."""
        self.tail.poll()
        return self.tail.calls

    def add(self, rows: int) -> None:
        """Count finished rows of the stage under way."""
        self._done += rows

    @contextmanager
    def stage(self, name: str, rows: int, *, calls: bool) -> Iterator[None]:
        """Show a stage of `rows` rows while it is worked on."""
        self._done = 0
        if self._quiet:
            yield
            return
        before = (self.tail.calls, self.tail.tokens)
        shown = self._bar if sys.stderr.isatty() else self._lines
        stop = threading.Event()
        self._whole = False
        watcher = threading.Thread(target=shown, args=(name, rows, calls, before, stop), daemon=True)
        watcher.start()
        try:
            yield
            self._whole = True
        finally:
            stop.set()
            watcher.join()

    def _state(self, rows: int, calls: bool, before: tuple[int, int]) -> tuple[int, int, int]:
        """Return about how many rows are done, and how many calls and tokens came.

        Rows are counted when their block is done: until then an answered call is taken for one.
        """
        self.tail.poll()
        answered = self.tail.calls - before[0] if calls else 0
        done = max(self._done, min(answered, rows)) if rows else self._done
        return done, answered, self.tail.tokens - before[1]

    def _lines(
        self, name: str, rows: int, calls: bool, before: tuple[int, int], stop: threading.Event
    ) -> None:
        started = last = time.monotonic()
        ended = False
        while not ended:
            ended = stop.wait(_POLL_S)
            now = time.monotonic()
            if not ended and now - last < _LINE_EVERY_S:
                continue
            last = now
            done, answered, tokens = self._state(rows, calls, before)
            speed = f", {answered} calls, {tokens / (now - started):.0f} tokens/s" if calls else ""
            left = f", {_left(done, rows, now - started)} left" if not ended and done else ""
            state = "done" if ended and self._whole else f"{done}/{rows} rows"
            self.note(f"{name}: {state}{speed}{left}, {now - started:.0f} s")

    def _bar(self, name: str, rows: int, calls: bool, before: tuple[int, int], stop: threading.Event) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description:<24}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TextColumn("rows {task.fields[speed]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left {task.fields[left]}"),
        )
        with progress.Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=rows or None, speed="", left="-")
            started = time.monotonic()
            ended = False
            while not ended:
                ended = stop.wait(_POLL_S)
                done, _, tokens = self._state(rows, calls, before)
                passed = time.monotonic() - started
                speed = f"{tokens / passed:.0f} tokens/s" if calls else ""
                left = "-" if ended else _left(done, rows, passed)
                bar.update(task, completed=min(done, rows) if rows else done, speed=speed, left=left)


def _left(done: int, rows: int, passed: float) -> str:
    if not done or done >= rows:
        return "-"
    seconds = int(passed * (rows - done) / done)
    return f"{seconds // 60}:{seconds % 60:02d}"
