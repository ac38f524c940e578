"""Every model call, kept: an answered call is on disk before its row counts as done, and never sent again.

Each process appends to a journal of its own (`RUN/calls/*.jsonl`), one line a call in one write, so that a
kill at any moment loses at most the line being written; a torn last line is passed over by every reader.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import uuid
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from synthray.errors import ModelError
from synthray.lineage import canonical
from synthray.model.language import Complete, Language, Request, Response, call_key

T = TypeVar("T")

Origin = tuple[str, str, int]
"""Where a call comes from: row_id, step name, ordinal of the draw."""

_KEY_AT = len('{"key":"')
_KEY_LENGTH = 24


@dataclass(frozen=True)
class Call:
    """An answered call; `reused` says that the answer was in the store and cost nothing now."""

    key: str
    response: Response
    reused: bool


class Calls:
    """A language opened in this process, with the store around it.

    `folder` is RUN/calls; without one the answers are kept in memory as long as the process lives.
    """

    def __init__(self, language: Language, folder: str | None) -> None:
        self.identity = language.identity()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="calls").start()
        self._language = language
        self._complete: Complete | None = None
        self._slots = asyncio.Semaphore(language.in_flight)
        self._asked: dict[str, asyncio.Future[Response]] = {}
        self.fatal: ModelError | None = None
        self._store = Store(Path(folder)) if folder else None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop that all callers of this process share, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def ask(self, request: Request, origin: Origin) -> Call:
        """Return the kept answer, or ask and keep it. Raises ModelError; a failure is not kept.

        At temperature 0 equal requests share one answer; above it the origin is part of the key.
        """
        key = call_key(self.identity, request, origin if request.temperature > 0 else None)
        if key in self._asked:
            return Call(key, await asyncio.shield(self._asked[key]), reused=True)
        kept = self._store.get(key) if self._store else None
        if kept:
            return Call(key, kept, reused=True)
        future: asyncio.Future[Response] = self._loop.create_future()
        self._asked[key] = future
        try:
            response = await self._answer(key, request, origin)
        except BaseException as error:
            del self._asked[key]
            future.set_exception(error)
            future.exception()  # it is raised below; nobody else may wait for it
            raise
        future.set_result(response)
        if self._store:
            del self._asked[key]  # from here on the store answers
        return Call(key, response, reused=False)

    async def _answer(self, key: str, request: Request, origin: Origin) -> Response:
        async with self._slots:
            if self.fatal:
                raise self.fatal  # every call would meet it: none is sent after the first
            started = time.time()
            try:
                if self._complete is None:
                    # Not before: a run whose answers are all kept needs no model.
                    self._complete = self._language.open()
                response = await self._complete(request)
            except ModelError as error:
                if error.fatal:
                    self.fatal = error
                raise
        if self._store:
            row_id, step, ordinal = origin
            record = {
                "key": key,
                "step": step,
                "row_id": row_id,
                "ordinal": ordinal,
                "model": self.identity,
                "request": request.content(),
                **{name: value for name, value in asdict(response).items() if name != "text"},
                "response": response.text,
                "latency_s": round(time.time() - started, 4),
                "at": started,
            }
            self._store.keep(key, record)
        return response


class Store:
    """The journals of a folder: an index of where each answer lies, and one journal to append to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files = sorted(folder.glob("*.jsonl"))
        self._at: dict[bytes, tuple[int, int]] = {}
        for number, path in enumerate(self._files):
            self._index(number, path)
        self._folder = folder
        self._end = 0
        self._out: int | None = None

    def _open_journal(self) -> None:
        name = f"{int(time.time() * 1000):013d}-{uuid.uuid4().hex[:12]}.jsonl"
        self._files.append(self._folder / name)
        self._out = os.open(self._files[-1], os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        self._end = 0

    def _index(self, number: int, path: Path) -> None:
        offset = 0
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._at[line[_KEY_AT : _KEY_AT + _KEY_LENGTH]] = (number, offset)
                offset += len(line)

    def get(self, key: str) -> Response | None:
        """Return the kept answer to the call `key`."""
        at = self._at.get(key.encode())
        if at is None:
            return None
        with self._files[at[0]].open("rb") as lines:
            lines.seek(at[1])
            try:
                record = json.loads(lines.readline())
                sound = record["key"] == key
            except (ValueError, KeyError, TypeError):
                sound = False
        if not sound:  # a line that a full disk tore: as good as never answered
            del self._at[key.encode()]
            return None
        return Response(
            text=record["response"],
            finish_reason=record["finish_reason"],
            prompt_tokens=record["prompt_tokens"],
            completion_tokens=record["completion_tokens"],
            attempts=record["attempts"],
        )

    def keep(self, key: str, record: dict[str, Any]) -> None:
        """Append the call; on return it survives the end of this process."""
        rest = canonical({name: value for name, value in record.items() if name != "key"})
        line = f'{{"key":"{key}",{rest[1:]}\n'.encode()
        if self._out is None:
            self._open_journal()
        assert self._out is not None
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._out, view) :]
        except OSError:
            # Half a line may stand there now; nothing more goes behind it.
            os.close(self._out)
            self._out = None
            raise
        self._at[key.encode()] = (len(self._files) - 1, self._end)
        self._end += len(line)


_OPEN: list[tuple[Language, str | None, Calls]] = []
_OPENING = threading.Lock()


def opened(language: Language, folder: str | None) -> Calls:
    """Return this process's one Calls for a language and a folder."""
    with _OPENING:
        for known, where, calls in _OPEN:
            if known == language and where == folder and not calls.fatal:
                return calls
        calls = Calls(language, folder)
        _OPEN.append((language, folder, calls))
        return calls
