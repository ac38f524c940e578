"""The calls of a run on an object store, as a local folder: pulled from there, pushed there in segments.

An object cannot be appended to, so what a process keeps is put as one object every so many calls or
seconds; until then an answer counts as in flight, and its row is not done.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from synthray.bucket import Bucket, is_url
from synthray.errors import SynthrayError

EVERY_CALLS = 1000
EVERY_S = 2.0


def mirror_of(folder: Path | str) -> Mirror | None:
    """Return the mirror of a URL; a path needs none."""
    return Mirror(str(folder)) if is_url(folder) else None


class Mirror:
    """A folder on this machine's disk that stands for `url`, any that fsspec knows (s3://bucket/run/calls)."""

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self.url = url
        self._bucket = Bucket(url)
        self.folder = folder or Path(tempfile.mkdtemp(prefix="synthray-calls-"))
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._put: dict[str, tuple[int, int]] = {}
        """For each journal of this process: how many bytes are put, in how many segments."""
        self.written = self.pushed = 0
        """How many lines this process has appended, and how many of them are on the store."""
        self._pushing = threading.Lock()
        self._wake = threading.Event()

    def pull(self) -> None:
        """Fetch what other processes have put since."""
        for name in self._bucket.names():
            own = name.partition(".")[0] in self._put and name.endswith(".jsonl")
            if not own and name.endswith((".jsonl", ".parquet")) and not (self.folder / name).exists():
                self._bucket.fetch(name, self.folder / name)  # one that is gone has become Parquet just now

    def wrote(self, journal: Path) -> None:
        """Take note of a line that this process appended."""
        if not self._put:
            # As long as this exists; what a process that ends had not pushed was in flight.
            arguments = (weakref.ref(self), self._wake)
            threading.Thread(target=_push_regularly, args=arguments, daemon=True).start()
        self._put.setdefault(journal.stem, (0, 0))
        self.written += 1
        if self.written - self.pushed >= EVERY_CALLS:
            self._wake.set()

    def push(self) -> None:
        """Put what this process has appended; on return it is on the store. RunFailed when it is not."""
        with self._pushing:
            written = self.written
            for stem, (start, segments) in list(self._put.items()):
                with (self.folder / f"{stem}.jsonl").open("rb") as journal:
                    journal.seek(start)
                    lines = journal.read()
                lines = lines[: lines.rfind(b"\n") + 1]
                if lines:
                    self._bucket.write(f"{stem}.{segments + 1:06d}.jsonl", lines)
                    self._put[stem] = (start + len(lines), segments + 1)
            self.pushed = written

    def put(self, path: Path) -> None:
        """Put a whole file."""
        self._bucket.put(path.name, path)

    def remove(self, names: list[str]) -> None:
        """Remove objects; one that is gone already is no error."""
        self._bucket.remove(names)


def _push_regularly(mirror: weakref.ref[Mirror], wake: threading.Event) -> None:
    while True:
        wake.wait(EVERY_S)
        wake.clear()
        held = mirror()
        if held is None:
            return
        with contextlib.suppress(
            SynthrayError
        ):  # tried again with more; a block that ends before it works says so
            held.push()
        del held
