"""What a process keeps of its calls: a file that it alone appends to, one line a call in one write.

A kill at any moment loses at most the line being written, which every reader passes over. A line is one of
```
{"key": ...}        an answered call
{"reserved": n}     money set aside for a call that is about to be sent
{"lost": key}       a call that was sent, got no answer and may have been paid for
{"released": n}     a call that was sent, got no answer and cost nothing
```
and `reservation` in the others names the reservation that they settle. One that nothing settles was in
flight when its process died, and counts in full.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.errors import RunFailed
from synthray.lineage import canonical

if TYPE_CHECKING:
    from synthray.model.mirror import Mirror

LONGEST_LINE = 1 << 25


class Journal:
    """The one file that a process appends to, in a folder or in the mirror of one."""

    def __init__(self, folder: Path, mirror: Mirror | None) -> None:
        self._folder = folder
        self._mirror = mirror
        self.path: Path | None = None
        self._out = -1
        self._end = 0
        self._reservations = 0
        self._synced = 0
        self._syncing = threading.Lock()
        self._unsafe: OSError | None = None

    def reserve(self, record: dict[str, Any]) -> int:
        """Append a reservation; return its number."""
        self._opened()
        self._reservations += 1
        self.append(f'{{"reserved":{self._reservations},', record)
        return self._reservations

    def append(self, start: str, record: dict[str, Any]) -> tuple[Path, int]:
        """Write a line; return where it lies."""
        line = f"{start}{canonical(record)[1:]}\n".encode(errors="replace")
        if len(line) > LONGEST_LINE:
            raise RunFailed(f"a call of {len(line)} bytes cannot be kept; the most is {LONGEST_LINE}")
        path = self._opened()
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._out, view) :]
        except OSError:
            # Half a line may stand there now; nothing more goes behind it.
            self._close()
            raise
        offset = self._end
        self._end += len(line)
        if self._mirror:
            self._mirror.wrote(path)
        return path, offset

    def _opened(self) -> Path:
        if self.path is None:
            self.path = self._folder / f"{int(time.time() * 1000):013d}-{uuid.uuid4().hex[:12]}.jsonl"
            self._out = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            self._end = self._synced = 0
        return self.path

    def _close(self) -> None:
        with self._syncing:
            try:
                os.fdatasync(self._out)
            except OSError as error:
                self._unsafe = error  # told to whoever wants to know it safe
            os.close(self._out)
            self.path = None

    def check(self, journals: list[Path]) -> None:
        """Begin a new file when this one became Parquet, while this process had nothing to say."""
        if self.path is not None and self.path not in journals:
            self._close()

    def sync(self) -> None:
        """See that what was written survives a power cut."""
        with self._syncing:
            if self._unsafe:
                raise self._unsafe
            end = self._end
            if self.path is not None and self._synced < end:
                os.fdatasync(self._out)
                self._synced = end
