"""A run on an object store: a folder of each machine stands for it, under the same path on all of them.

What is read is fetched once, what is written is put when it is whole, and nothing is appended to or renamed
there. A file counts when `stage.json`, put last, lists it; so what an abandoned attempt has put is never
read. Files do not change once they are listed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthray.bucket import Bucket
from synthray.lineage import digest

_AT_ONCE = 16
_KINDS = (".parquet", ".arrow", ".feather", ".json", ".jsonl", ".npy", ".md", ".html", ".part")
"""What a file's name ends in; a path that ends otherwise is a folder's."""
_WHOLE = ".whole"
_OWN = ".driver"
"""Marks the folder of the process that is the run, beside those of its workers on other machines."""

_same: dict[Path, tuple[int, int]] = {}
"""The files of which the store has what stands here: size and time of change. One for the process."""


@dataclass(frozen=True)
class Remote:
    """The store at `url`, and the folder that stands for it on this machine (for workers: on theirs).

    `folders` is None for the driver. For a worker it is the folders that stand on the driver's machine: whole
    ones are fetched, empty ones made.
    """

    url: str
    folder: Path
    folders: tuple[Path, ...] | None = None

    @classmethod
    def of(cls, url: str) -> Remote:
        """Return a new folder for a URL; those of runs that were killed on this machine are removed."""
        beginning = f"synthray-{digest(url)}"
        for left in Path(tempfile.gettempdir()).glob(f"{beginning}-*"):
            if (left / _OWN).exists() and not Path("/proc", left.name.split("-")[2]).exists():
                shutil.rmtree(left, ignore_errors=True)
        name = f"{beginning}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        remote = cls(url.rstrip("/"), Path(tempfile.gettempdir()) / name)
        remote.folder.mkdir(mode=0o700)
        (remote.folder / _OWN).touch()
        return remote

    @functools.cached_property
    def bucket(self) -> Bucket:
        """The requests."""
        return Bucket(self.url)

    # Files.

    def fetch(self, held: object) -> None:
        """Fetch the files and folders that `held` names, wherever in it, and that are not here."""
        files, whole = [], []
        for path in sorted(self._named(held)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in _KINDS:
                files += [] if path.exists() else [path]
            elif self._is_looked_for(path):
                listed = self.bucket.read(self._name(path) + _WHOLE)
                if listed is not None or self.folders is not None:
                    path.mkdir(exist_ok=True)
                if listed is not None:
                    files += [one for name in json.loads(listed) if not (one := path / name).exists()]
                    whole.append(path)
        self._each(self._fetch, files)
        for path in whole:
            _whole(path).touch()

    def _is_looked_for(self, folder: Path) -> bool:
        on_driver = folder in self.folders if self.folders is not None else not folder.exists()
        return on_driver and not _whole(folder).exists()

    def sent(self, held: object) -> Remote:
        """Put the files that `held` names; return what a worker gets that is sent it."""
        self.put(held)
        return dataclasses.replace(self, folders=tuple(path for path in self._named(held) if path.is_dir()))

    def put_made(self, arguments: object, answer: object) -> None:
        """Put what a task made: files that its arguments or its answer name, and folders of its own.

        Its own are those that it was to make: they do not stand on the driver's machine.
        """
        self.put([arguments, answer])
        given = self._named(arguments) - {*(self.folders or ())}
        self.put([path for path in given | self._named(answer) if path.is_dir()], folders=True)

    def put(self, held: object, *, folders: bool = False) -> None:
        """Put the files that `held` names and that the store does not have; `folders`: whole ones too.

        A folder that is put is whole from then on.
        """
        paths = [path for path in sorted(self._named(held)) if path.exists()]
        self._each(self._put, [path for path in paths if path.is_file()])
        for path in paths if folders else []:
            if path.is_dir() and path != self.folder:
                inside = sorted(one for one in path.iterdir() if one.is_file())
                self._each(self._put, inside)
                listed = json.dumps([one.name for one in inside])
                self.bucket.write(self._name(path) + _WHOLE, listed.encode())
                _whole(path).touch()

    def holds(self, folder: Path) -> bool:
        """Say whether a folder is whole there, and fetch it."""
        if self.bucket.read(self._name(folder) + _WHOLE) is None:
            return False
        self.fetch(folder)
        return True

    def lacks(self, files: Iterable[str]) -> list[str]:
        """Return those of some files, relative to the run, that neither stand here nor there."""
        missing = [file for file in files if not (self.folder / file).exists()]
        found: set[str] = set()
        for folder in {Path(file).parent.as_posix() for file in missing}:
            found |= set(self.bucket.names(folder))
        return [file for file in missing if file not in found]

    def replace_folder(self, folder: Path) -> None:
        """Make a folder there what it is here: what is there alone is removed."""
        inside = [one for one in sorted(folder.rglob("*")) if one.is_file()]
        self._each(self._put, inside)
        self.remove(folder, keep={self._name(one) for one in inside})

    def remove(self, folder: Path, keep: Iterable[str] = ()) -> None:
        """Remove what a folder there holds."""
        names = set(self.bucket.names(self._name(folder))) - set(keep)
        self._each(lambda name: self.bucket.remove([name]), names)

    def fetch_errors(self, folder: Path) -> None:
        """Fetch what workers left as their errors in a stage's folder."""
        names = self.bucket.names(self._name(folder))
        errors = [one for one in names if one.rpartition("/")[2].startswith("error-")]
        self.fetch([str(self.folder / one) for one in errors])

    def _fetch(self, path: Path) -> None:
        if self.bucket.fetch(self._name(path), path):
            _same[path] = _state(path)

    def _put(self, path: Path) -> None:
        state = _state(path)
        if _same.get(path) != state:
            self.bucket.put(self._name(path), path)
            _same[path] = state

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _named(self, held: object) -> set[Path]:
        own = f"{self.folder}{os.sep}"
        return {Path(text) for text in _texts(held, set()) if text.startswith(own)}

    @staticmethod
    def _each(work: Any, given: Iterable[Any]) -> None:
        listed = list(given)
        if len(listed) < 2:
            for one in listed:
                work(one)
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(work, listed))


def _whole(folder: Path) -> Path:
    """Return the file that says that a folder is whole on this machine."""
    return folder.with_name(folder.name + _WHOLE)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _texts(held: object, seen: set[int]) -> Iterator[str]:
    """Yield the texts and paths in what is sent to a worker: values, containers, dataclasses, functions."""
    if isinstance(held, str):
        yield held
    elif isinstance(held, Path):
        yield str(held)
    elif held is None or isinstance(held, bool | int | float | bytes | Remote) or id(held) in seen:
        return
    else:
        seen.add(id(held))
        for part in _parts(held):
            yield from _texts(part, seen)


def _parts(held: Any) -> Iterable[object]:
    if isinstance(held, Mapping):
        return [*held.keys(), *held.values()]
    if isinstance(held, list | tuple | set | frozenset):
        return held
    if isinstance(held, functools.partial):
        return [held.func, *held.args, *held.keywords.values()]
    if hasattr(held, "__self__"):  # a method of what it is bound to
        return [held.__self__]
    if dataclasses.is_dataclass(held) and not isinstance(held, type):
        return [getattr(held, one.name) for one in dataclasses.fields(held)]
    if type(held).__module__.startswith("synthray"):
        return list(vars(held).values()) if hasattr(held, "__dict__") else ()
    return ()
