"""An index of older texts: their signatures in a folder that grows by whole segments and is never rebuilt."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthray.errors import InputError

FORMAT = 1
_HEAD = "index.json"


@dataclass(frozen=True)
class Index:
    """The folder of an index; `cut` says how texts were cut and signed, and holds for all of it.

    A segment is the signatures of one older source, by the digest of its content. It is made beside the
    others and then given its name, so that a crash leaves a part that no reader sees, and the next growth
    removes.
    """

    folder: Path
    cut: Mapping[str, Any]

    def check(self) -> None:
        """Raise an InputError when the folder is no index, or one of another version or setting."""
        head = self.folder / _HEAD
        if not self.folder.exists():
            return
        begun = self.folder.is_dir() and all(path.name.startswith(".") for path in self.folder.iterdir())
        if not head.is_file() and not begun:
            raise InputError(f"index {self.folder} is no index: it has no {_HEAD}; name another folder")
        if not head.is_file():
            return
        try:
            held = json.loads(head.read_text(encoding="utf-8"))
            found, version = dict(held["cut"]), held["format"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"index {self.folder} is damaged: {_HEAD} is not what an index has") from None
        if version != FORMAT:
            raise InputError(
                f"index {self.folder} has format {version!r}, this synthray reads {FORMAT}; "
                "name another folder"
            )
        wrong = [name for name in {**found, **self.cut} if found.get(name) != self.cut.get(name)]
        if wrong:
            raise InputError(
                f"index {self.folder} was made with {_said(found, wrong)}, but this step has "
                f"{_said(self.cut, wrong)}; set what the index has, or name another folder"
            )

    def segment(self, digest: str, make: Callable[[Path], None]) -> tuple[str, ...]:
        """Return the files of a source's segment; `make` fills its folder when there is none yet."""
        folder = self.folder / f"segment-{digest}"
        if not folder.is_dir():
            with self._growing():
                if not folder.is_dir():  # else another run made it while this one waited
                    part = self.folder / f".part-{digest}"
                    part.mkdir()
                    make(part)
                    part.rename(folder)
        return tuple(sorted(str(path) for path in folder.iterdir()))

    @contextmanager
    def _growing(self) -> Iterator[None]:
        """Let one process at a time grow it; what a killed one left is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".index.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self.folder.glob(".part-*"):
                shutil.rmtree(left)
            self.check()
            head = self.folder / _HEAD
            if not head.is_file():
                part = head.with_name(f".{_HEAD}.part")
                part.write_text(json.dumps({"format": FORMAT, "cut": dict(self.cut)}), encoding="utf-8")
                part.replace(head)
            yield


def _said(cut: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name}: {cut[name]}" for name in names if name in cut)
