"""The calls of a run on an object store, as a local folder: pulled from there, pushed there in segments.

An object cannot be appended to, so what a process keeps is put as one object every so many calls or
seconds; until then an answer counts as in flight, and its row is not done.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
import weakref
from pathlib import Path, PurePosixPath

from synthray.errors import RunFailed

EVERY_CALLS = 1000
EVERY_S = 2.0
_ATTEMPTS = 4
_PAUSE_S = 0.5


def mirror_of(folder: Path | str) -> Mirror | None:
    """Return the mirror of a URL; a path needs none."""
    return Mirror(str(folder)) if "://" in str(folder) else None


class Mirror:
    """A folder on this machine's disk that stands for `url`, any that fsspec knows (s3://bucket/run/calls)."""

    def __init__(self, url: str) -> None:
        import fsspec.core

        self.url = url
        self._remote, self._root = fsspec.core.url_to_fs(url)
        self.folder = Path(tempfile.mkdtemp(prefix="synthray-calls-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._put: dict[str, tuple[int, int]] = {}
        """For each journal of this process: how many bytes are put, in how many segments."""
        self.written = self.pushed = 0
        """How many lines this process has appended, and how many of them are on the store."""
        self._pushing = threading.Lock()
        self._wake = threading.Event()

    def pull(self) -> None:
        """Fetch what other processes have put since."""
        self._remote.invalidate_cache()
        if not self._remote.exists(self._root):
            return
        for found in self._remote.ls(self._root, detail=False):
            name = PurePosixPath(found).name
            own = name.partition(".")[0] in self._put and name.endswith(".jsonl")
            if own or not name.endswith((".jsonl", ".parquet")) or (self.folder / name).exists():
                continue
            part = self.folder / f".{name}.part"
            try:
                self._remote.get_file(found, str(part))
            except FileNotFoundError:
                continue  # it has become Parquet just now
            part.replace(self.folder / name)

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
                    self._put_object(f"{stem}.{segments + 1:06d}.jsonl", lines)
                    self._put[stem] = (start + len(lines), segments + 1)
            self.pushed = written

    def put(self, path: Path) -> None:
        """Put a whole file."""
        self._put_object(path.name, path.read_bytes())

    def remove(self, names: list[str]) -> None:
        """Remove objects; one that is gone already is no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._remote.rm_file(f"{self._root}/{name}")

    def _put_object(self, name: str, content: bytes) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._remote.makedirs(self._root, exist_ok=True)
                self._remote.pipe_file(f"{self._root}/{name}", content)
            except Exception as error:  # what a store raises is its own
                if attempt + 1 == _ATTEMPTS:
                    raise RunFailed(f"{self.url}/{name} cannot be written: {error}") from error
                time.sleep(_PAUSE_S * 2**attempt)
            else:
                return


def _push_regularly(mirror: weakref.ref[Mirror], wake: threading.Event) -> None:
    while True:
        wake.wait(EVERY_S)
        wake.clear()
        held = mirror()
        if held is None:
            return
        with contextlib.suppress(
            RunFailed
        ):  # tried again with more; a block that ends before it works says so
            held.push()
        del held
