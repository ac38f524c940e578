"""A folder on an object store, any that fsspec knows: requests are tried again, errors say the cure."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from synthray.errors import RunError, RunFailed

if TYPE_CHECKING:
    import fsspec

_ATTEMPTS = 6
_PAUSE_S = 0.5
_PART = 32 << 20
"""What is larger goes in parts, each tried again by itself."""

Answer = TypeVar("Answer")


def is_url(path: object) -> bool:
    """Say whether a path names an object store (s3://bucket/run)."""
    return "://" in str(path)


@dataclass(frozen=True)
class Bucket:
    """The objects below `url`; their names are relative to it. Workers get it without a key.

    A request that fails is tried 6 times, within about 16 s; then a RunFailed says what was asked and what
    the store answered. What no attempt cures (a bucket that is missing, a key that may not) fails at once.
    """

    url: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def read(self, name: str) -> bytes | None:
        """Return an object, or None where there is none."""
        return self._unless_gone(name, lambda store, path: bytes(store.cat_file(path)))

    def fetch(self, name: str, file: Path) -> bool:
        """Write an object to a file, which is there whole or not at all; return whether there was one."""
        part = file.with_name(f".{file.name}.{time.monotonic_ns()}.part")

        def get(store: Any, path: str) -> bool:
            store.get_file(path, str(part))
            part.replace(file)
            return True

        try:
            return bool(self._unless_gone(name, get))
        finally:
            part.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Put an object, in place of one that may be there."""
        self._asked(f"{name} cannot be written", lambda store: store.pipe_file(self._path(name), content))

    def put(self, name: str, file: Path) -> None:
        """Put a file as an object."""
        if file.stat().st_size <= _PART:
            self.write(name, file.read_bytes())
        else:
            self._asked(
                f"{name} cannot be written",
                lambda store: store.put_file(str(file), self._path(name), chunksize=_PART),
            )

    def create(self, name: str, content: bytes) -> bool:
        """Put an object unless there is one; return whether this one was put. Of two at once one is."""
        try:
            self._asked(
                f"{name} cannot be written",
                lambda store: store.pipe_file(self._path(name), content, mode="create"),
            )
        except FileExistsError:
            return self.read(name) == content  # an attempt that was thought to have failed had not
        return True

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of the objects in a folder and those below it."""

        def listed(store: Any) -> list[str]:
            store.invalidate_cache()
            root = self._path("")
            return sorted(found.removeprefix(f"{root}/") for found in store.find(self._path(folder)))

        with contextlib.suppress(FileNotFoundError):
            return self._asked(f"{folder} cannot be listed", listed)
        return []

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; one that is gone already is no error."""
        for path in map(self._path, names):
            with contextlib.suppress(FileNotFoundError):
                self._asked(f"{path} cannot be removed", functools.partial(_removed, path))

    def _path(self, name: str) -> str:
        root = _opened(self.url)[1]
        return f"{root}/{name}" if name else root

    def _unless_gone(self, name: str, ask: Callable[[Any, str], Answer]) -> Answer | None:
        with contextlib.suppress(FileNotFoundError):
            return self._asked(f"{name} cannot be read", lambda store: ask(store, self._path(name)))
        return None

    def _asked(self, what: str, ask: Callable[[Any], Answer]) -> Answer:
        store, root = _opened(self.url)
        for attempt in range(_ATTEMPTS):
            try:
                return ask(store)
            except FileExistsError:
                raise
            except FileNotFoundError as error:
                if not _is_bucket_missing(error):
                    raise
                raise RunError(
                    f"{self.url}: there is no bucket {root.partition('/')[0]!r}; create it, or choose another"
                ) from None
            except PermissionError as error:
                raise RunError(
                    f"{self.url}/{what}: the store refuses this key ({error}); give it the right to list, "
                    "get, put and delete objects there, on every node, or choose another place"
                ) from None
            except Exception as error:  # what a store raises is its own
                if type(error).__name__ == "NoCredentialsError":
                    raise RunError(
                        f"{self.url}: this machine has no key for the store; set AWS_ACCESS_KEY_ID and "
                        "AWS_SECRET_ACCESS_KEY, or give the machine a role, on every node"
                    ) from None
                if attempt + 1 == _ATTEMPTS:
                    raise RunFailed(
                        f"{self.url}/{what} after {_ATTEMPTS} attempts: {type(error).__name__}: {error}; "
                        "what was kept there stays: run again when the store answers"
                    ) from error
                time.sleep(_PAUSE_S * 2**attempt)
        raise AssertionError


def _removed(path: str, store: Any) -> None:
    store.rm_file(path)


def _opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    import fsspec.core

    try:
        # Listings are asked for when they are wanted: another process may have written meanwhile.
        store, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise RunError(f"{url}: {error}; for s3:// pip install 'synthray[s3]'") from None
    except ValueError as error:
        raise RunError(f"{url}: no such kind of store: {error}") from None
    if "file" in store.protocol:
        store.auto_mkdir = True  # elsewhere a folder is part of a name
    if hasattr(store, "retries"):
        store.retries = 1  # s3fs has its own beside those here
    return store, str(root).rstrip("/")


def _is_bucket_missing(error: FileNotFoundError) -> bool:
    answered = getattr(error.__cause__, "response", None) or {}
    return answered.get("Error", {}).get("Code") == "NoSuchBucket" or "bucket does not exist" in str(error)
