"""Who writes a run on an object store: one process, as long as it says that it lives."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from synthray.errors import RunError, RunFailed, SynthrayError

if TYPE_CHECKING:
    from synthray.bucket import Bucket

_FOLDER = "lock"
BEAT_S = 3.0
LOST_S = 15.0
"""A writer that has not said for so long that it lives is taken for dead."""


@dataclass
class Lease:
    """The right to write below a bucket's url. `take` waits for nobody but one that seems dead.

    The holders are numbered, an object each (`lock/000001.json`), and the highest one writes: to follow a
    dead one is to create the next number, which of two processes one can. Nothing depends on clocks: that
    an object changes is what says that its writer lives.
    """

    bucket: Bucket
    number: int = 0
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _beats: int = 0
    _beaten: float = 0.0
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def take(self) -> None:
        """Become the writer; a RunError where another lives."""
        held = self._held()
        if held and self._lives(held[-1]):
            raise RunError(
                f"another process is writing {self.bucket.url}{self._who(held[-1])}; wait until it ends, or "
                "choose another --out"
            )
        self.number = (held[-1] if held else 0) + 1
        if not self.bucket.create(self._name(self.number), self._said()):
            raise RunError(f"another process has just begun to write {self.bucket.url}; choose another --out")
        self.bucket.remove(map(self._name, held))
        self._beaten = time.monotonic()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise a RunFailed when another process has taken over, since this one was not heard of for long."""
        if time.monotonic() - self._beaten > LOST_S / 2 and self._held()[-1:] != [self.number]:
            raise RunFailed(
                f"{self.bucket.url}: this process was not heard of for {LOST_S:.0f} s and another one writes "
                "the run now; nothing of this one's is committed any more"
            )

    def release(self) -> None:
        """Let another process write."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.bucket.remove([self._name(self.number)])

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            try:
                if self._held()[-1:] == [self.number]:
                    self.bucket.write(self._name(self.number), self._said())
                    self._beaten = time.monotonic()
            except SynthrayError:
                continue  # what is written to the run meanwhile says what is wrong

    def _said(self) -> bytes:
        self._beats += 1
        who = {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "token": self._token}
        who["beats"] = self._beats
        return json.dumps(who).encode()

    def _lives(self, number: int) -> bool:
        """Say whether a holder changes its object; one of this machine that has ended does not."""
        first = self.bucket.read(self._name(number))
        if first is None or _has_ended(first):
            return False
        until = time.monotonic() + LOST_S
        while time.monotonic() < until:
            time.sleep(0.5)
            now = self.bucket.read(self._name(number))
            if now != first:
                return now is not None
        return False

    def _held(self) -> list[int]:
        stems = (name.rpartition("/")[2].partition(".")[0] for name in self.bucket.names(_FOLDER))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def _who(self, number: int) -> str:
        try:
            who = json.loads(self.bucket.read(self._name(number)) or b"{}")
            return f" (process {who['pid']} on {who['host']})"
        except (ValueError, KeyError, TypeError):
            return ""

    @staticmethod
    def _name(number: int) -> str:
        return f"{_FOLDER}/{number:06d}.json"


def _has_ended(said: bytes) -> bool:
    try:
        who = json.loads(said)
        if who["machine"] != _machine():
            return False
        os.kill(int(who["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, PermissionError):
        return False
    return False


def _machine() -> str:
    """Return what tells this machine, as it was started last, and the numbering of its processes."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else uuid.getnode()
    numbering = Path("/proc/self/ns/pid")
    return f"{started} {numbering.readlink() if numbering.is_symlink() else ''}"
