"""The kept calls of a run: what was answered is on disk before its row counts as done, and found again.

Each process appends to a journal of its own (see journal.py); between two stages the run turns journals
into Parquet. An index from a key to where its call lies is all that a process holds of them.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.lineage import canonical
from synthray.model.journal import LONGEST_LINE, Journal
from synthray.model.language import Choice, Response
from synthray.model.mirror import mirror_of
from synthray.model.price import NANO, NOTHING, Amount
from synthray.query import Query
from synthray.spelling import quoted

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

COLUMNS = {
    "key": "VARCHAR",
    "step": "VARCHAR",
    "row_id": "VARCHAR",
    "ordinal": "INTEGER",
    "model": "VARCHAR",
    "request": "VARCHAR",
    "response": "VARCHAR",
    "more": "VARCHAR",
    "logprobs": "VARCHAR",
    "finish_reason": "VARCHAR",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "tokens": "BIGINT",
    "cost": "DOUBLE",
    "attempts": "INTEGER",
    "latency_s": "DOUBLE",
    "at": "DOUBLE",
    "error": "VARCHAR",
}
"""A kept call. `tokens` and `cost` (US dollars) are what counts against a budget, `error` is set and
`response` null where there was no answer that could be kept."""

_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)  # `at` alone is a word of SQL
_MARKS = {"lost": "VARCHAR", "reserved": "BIGINT", "reservation": "BIGINT", "released": "BIGINT"}
_ANSWER = (
    "key",
    "response",
    "more",
    "logprobs",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "attempts",
)
_KEY_AT = len('{"key":"')
_HASH_DIGITS = 16
_GROUP_ROWS = 20_000
_CACHE_BYTES = 384 << 20
_RECENT = 200_000
_COMPACT_MB = 512
_OFFSET_BITS = 40
_READ = 4096
WINDOW_S = 60.0


class Store:
    """What is kept in a folder, for one process: finds answers wherever they lie, appends its own.

    `folder` is a path or a URL that fsspec knows. The index holds 16 bytes a call.
    """

    def __init__(self, folder: Path | str) -> None:
        self.mirror = mirror_of(folder)
        self._folder = self.mirror.folder if self.mirror else Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sources: list[Path] = []
        self._numbers: dict[Path, int] = {}
        self._read_to: dict[Path, int] = {}
        self._index = _Index()
        self._journal = Journal(self._folder, self.mirror)
        self._groups: OrderedDict[tuple[int, int], dict[str, pa.Array]] = OrderedDict()
        self._starts: dict[int, list[int]] = {}
        self._open: dict[int, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes have kept since."""
        if self.mirror:
            self.mirror.pull()
        journals, parquet, _ = kept_files(self._folder)
        self._journal.check(journals)
        for path in parquet:
            if path not in self._read_to:
                self._read_to[path] = -1
                self._read_parquet(path)
        for path in journals:
            if path != self._journal.path:
                self._read_journal(path)

    def _read_parquet(self, path: Path) -> None:
        import numpy as np
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        number = self._number(path)
        file = pq.ParquetFile(path)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._starts[number] = list(itertools.accumulate(sizes, initial=0))[:-1]
        table = file.read(columns=["key", "error"])
        answered = np.flatnonzero(pc.is_null(table["error"]).to_numpy())
        digits = pc.utf8_slice_codeunits(table["key"].take(answered), 0, _HASH_DIGITS).to_pylist()
        # The big-endian bytes of the hexadecimal digits are the numbers that int(digits, 16) gives.
        hashes = np.frombuffer(bytes.fromhex("".join(digits)), ">u8").astype(np.uint64)
        self._index.add_many(hashes, answered.astype(np.int64) | np.int64(number << _OFFSET_BITS))

    def _number(self, path: Path) -> int:
        if path not in self._numbers:
            self._numbers[path] = len(self._sources)
            self._sources.append(path)
        return self._numbers[path]

    def _read_journal(self, path: Path) -> None:
        start = self._read_to.get(path, 0)
        try:
            if path.stat().st_size <= start:
                return
            file = path.open("rb")
        except FileNotFoundError:
            return  # it has become Parquet just now
        place = (self._number(path) << _OFFSET_BITS) | start
        with file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if line.startswith(b'{"key":"'):
                    with contextlib.suppress(ValueError):  # two lines, of which a full disk made one
                        self._index.add(int(line[_KEY_AT : _KEY_AT + _HASH_DIGITS], 16), place)
                place += len(line)
        self._read_to[path] = place & ((1 << _OFFSET_BITS) - 1)

    def get(self, key: str) -> Response | None:
        """Return the kept answer to the call `key`."""
        place = self._index.find(int(key[:_HASH_DIGITS], 16))
        if place is None:
            return None
        number, offset = place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)
        try:
            held = (
                self._line(number, offset)
                if self._sources[number].suffix == ".jsonl"
                else self._row(number, offset)
            )
        except FileNotFoundError:
            # Its journal became Parquet.
            self._index = _Index()
            self._read_to.clear()
            self.refresh()
            if self._journal.path:
                self._read_journal(self._journal.path)
            return self.get(key)
        if held is None or held.get("key") != key:
            return None  # a line that a full disk tore: as good as never answered
        return _response(held)

    def _line(self, number: int, offset: int) -> dict[str, Any] | None:
        if number not in self._open:
            self._open[number] = os.open(self._sources[number], os.O_RDONLY)
        line = b""
        while b"\n" not in line[-_READ:]:
            part = os.pread(self._open[number], _READ, offset + len(line))
            if not part:
                return None
            line += part
        try:
            held = json.loads(line[: line.index(b"\n")])
        except ValueError:
            return None
        return held if isinstance(held, dict) else None

    def _row(self, number: int, row: int) -> dict[str, Any]:
        import pyarrow.parquet as pq

        group = bisect.bisect_right(self._starts[number], row) - 1
        columns = self._groups.get((number, group))
        if columns is None:
            table = pq.ParquetFile(self._sources[number]).read_row_group(group, columns=list(_ANSWER))
            # One array a column: a value is then found without a search among chunks.
            columns = {
                name: table[name].combine_chunks() for name in _ANSWER if table[name].null_count < len(table)
            }
            self._groups[number, group] = columns
            while len(self._groups) > 1 and self._cached() > _CACHE_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end((number, group))
        at = row - self._starts[number][group]
        held = {name: column[at].as_py() for name, column in columns.items()}
        for name in ("more", "logprobs"):
            if held.get(name):
                held[name] = json.loads(held[name])
        return held

    def _cached(self) -> int:
        return sum(column.nbytes for columns in self._groups.values() for column in columns.values())

    def reserve(self, record: dict[str, Any]) -> int:
        """Keep that a call is about to be sent, with what it may take; return the reservation's number."""
        return self._journal.reserve(record)

    def keep(self, key: str, record: dict[str, Any]) -> None:
        """Append an answered call; on return it survives the end of this process."""
        path, offset = self._journal.append(f'{{"key":"{key}",', record)
        self._index.add(int(key[:_HASH_DIGITS], 16), (self._number(path) << _OFFSET_BITS) | offset)

    def lose(self, key: str, record: dict[str, Any]) -> None:
        """Append a call that was sent and has no answer, but may have been paid for."""
        self._journal.append(f'{{"lost":"{key}",', record)

    def release(self, reservation: int) -> None:
        """Append that a call was sent and cost nothing."""
        self._journal.append(f'{{"released":{reservation},', {"reservation": reservation})

    def sync(self) -> None:
        """See that what was kept survives this machine: a power cut, or on a store its loss."""
        if self.mirror:
            self.mirror.push()
        else:
            self._journal.sync()


class _Index:
    """From a key's first 64 bits to where its call lies: sorted arrays, and a dict of what is new.

    Two keys that share 64 bits are told apart by the whole key, which stands with the call.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._hashes: np.ndarray | None = None
        self._places: np.ndarray | None = None

    def add(self, hashed: int, place: int) -> None:
        self._recent[hashed] = place
        if len(self._recent) >= _RECENT:
            import numpy as np

            recent, self._recent = self._recent, {}
            count = len(recent)
            self.add_many(
                np.fromiter(recent, np.uint64, count), np.fromiter(recent.values(), np.int64, count)
            )

    def add_many(self, hashes: np.ndarray, places: np.ndarray) -> None:
        import numpy as np

        if self._hashes is not None and self._places is not None:
            hashes = np.concatenate([self._hashes, hashes])
            places = np.concatenate([self._places, places])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._places = hashes[order], places[order]

    def find(self, hashed: int) -> int | None:
        found = self._recent.get(hashed)
        if found is not None or self._hashes is None or self._places is None:
            return found
        import numpy as np

        # Of several the newest, which is what the dict has too: an older one may be torn.
        at = int(np.searchsorted(self._hashes, np.uint64(hashed), side="right")) - 1
        return int(self._places[at]) if at >= 0 and self._hashes[at] == hashed else None


def _response(held: dict[str, Any]) -> Response:
    return Response(
        text=held["response"],
        finish_reason=held["finish_reason"],
        prompt_tokens=held.get("prompt_tokens"),
        completion_tokens=held.get("completion_tokens"),
        attempts=held["attempts"],
        logprobs=held.get("logprobs"),
        more=tuple(Choice(**one) for one in held.get("more") or ()),
    )


# Between two stages, by the run.


def compact(folder: Path | str) -> None:
    """Turn the journals of a folder into Parquet; nobody may be appending to them."""
    mirror = mirror_of(folder)
    if mirror is None:
        _compact(Path(folder))
        return
    mirror.pull()
    journals, _, sealed = kept_files(mirror.folder)
    made = _compact(mirror.folder)
    if made:
        mirror.put(made)
    mirror.remove([path.name for path in (*sealed, *(journals if made else ()))])


def _compact(folder: Path) -> Path | None:
    """Turn the journals of a local folder into a Parquet file, which is returned.

    A kill leaves the journals, or the Parquet file with the journals that it names beside it. A journal that
    grew meanwhile, since a worker of a killed run was still alive, is left for the next time.
    """
    journals, _, sealed = kept_files(folder)
    for path in sealed:
        path.unlink(missing_ok=True)
    sizes = {path: path.stat().st_size for path in journals}
    if not sizes:
        return None
    part = folder / f".{uuid.uuid4().hex}.part"
    names = json.dumps([path.name for path in sizes])
    relation = _journal_sql([str(path) for path in sizes], settle=True)
    paths = tuple(str(path) for path in sizes)
    with Query({"calls": relation}, files=paths, writable=folder, memory_mb=_COMPACT_MB) as query:
        query.write("SELECT * FROM calls", part, group_rows=_GROUP_ROWS, journals=names)
    with part.open("rb") as written:
        os.fsync(written.fileno())
    if any(path.stat().st_size != size for path, size in sizes.items()):
        part.unlink()
        return None
    made = part.replace(folder / f"{min(sizes).stem}.parquet")
    for path in sizes:
        path.unlink(missing_ok=True)
    return made


@dataclass(frozen=True)
class History:
    """What the calls of a model have taken before now: in all, and how many in the last minute."""

    spent: Amount = NOTHING
    recent_calls: int = 0
    recent_tokens: int = 0


def history(folder: Path | str, identity: Mapping[str, Any]) -> History:
    """Return the history of a model; calls that nobody waits for any more count in full."""
    mirror = mirror_of(folder)
    if mirror:
        mirror.pull()
    files: list[str] = []
    relation = calls_relation(mirror.folder if mirror else Path(folder), files, settle=True)
    if not files:
        return History()
    recent = f"""FILTER (WHERE "at" > {time.time() - WINDOW_S})"""
    with Query({"calls": relation}, files=tuple(files)) as query:
        by_model = query.rows(
            "SELECT model, coalesce(sum(tokens), 0)::BIGINT, "
            f"coalesce(sum(round(cost * {NANO})::HUGEINT), 0)::BIGINT, "
            f"count(*) {recent}, coalesce(sum(tokens) {recent}, 0)::BIGINT "
            "FROM calls WHERE model IS NOT NULL GROUP BY model"
        )
    # As values: DuckDB writes a number in its own way, such as 0.00001 for 1e-05.
    wanted = json.loads(canonical(identity))
    sums = [counted for model, *counted in by_model if json.loads(model) == wanted]
    tokens, nano, calls, last = (sum(column) for column in zip(*sums, strict=True)) if sums else (0,) * 4
    return History(Amount(tokens, nano), calls, last)


def kept_files(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return a folder's journals and Parquet files, and the journals that stand in Parquet already.

    A Parquet file names the journals that it was; a kill may have left them there.
    """
    import pyarrow.parquet as pq

    # Journals first: one that becomes Parquet meanwhile is then among the Parquet files.
    journals = sorted(folder.glob("*.jsonl"))
    parquet = sorted(folder.glob("*.parquet"))
    sealed: set[str] = set()
    for path in parquet:
        sealed |= set(json.loads((pq.read_metadata(path).metadata or {}).get(b"journals", b"[]")))
    left = [path for path in journals if path.name in sealed]
    return [path for path in journals if path.name not in sealed], parquet, left


def calls_relation(folder: Path, files: list[str], *, settle: bool = False) -> str:
    """Return SQL that reads the kept calls, and add to `files` what it reads; a torn line is passed over.

    `settle` counts the calls that are in flight as lost ones, for when nobody can be waiting for them.
    """
    journals, parquet, _ = ([str(path) for path in paths] for paths in kept_files(folder))
    files.extend([*parquet, *journals])
    parts = []
    if parquet:
        listed = ", ".join(quoted(path) for path in parquet)
        parts.append(f"SELECT {_NAMES} FROM read_parquet([{listed}])")
    if journals:
        parts.append(_journal_sql(journals, settle=settle))
    if not parts:
        nulls = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind in COLUMNS.items())
        parts.append(f"SELECT {nulls} LIMIT 0")
    return " UNION ALL ".join(f"({part})" for part in parts)


def _journal_sql(journals: list[str], *, settle: bool) -> str:
    listed = ", ".join(quoted(path) for path in journals)
    columns = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in {**COLUMNS, **_MARKS}.items())
    lines = (
        # A journal on an object store is in segments, JOURNAL.000001.jsonl and so on.
        "SELECT *, split_part(parse_filename(filename), '.', 1) AS journal FROM "
        f"read_json([{listed}], format='newline_delimited', columns={{{columns}}}, "
        f"ignore_errors=true, maximum_object_size={LONGEST_LINE}, filename=true)"
    )
    rest = ", ".join(f'"{name}"' for name in COLUMNS if name not in ("key", "error"))
    ended = (
        f"SELECT coalesce(key, lost) AS key, {rest}, error FROM lines "
        "WHERE coalesce(key, lost) IS NOT NULL AND reserved IS NULL"
    )
    if settle:
        ended += (
            f" UNION ALL SELECT key, {rest}, 'Unsettled' AS error FROM lines AS sent "
            "WHERE reserved IS NOT NULL AND NOT EXISTS (SELECT 1 FROM lines AS settled "
            "WHERE settled.journal = sent.journal AND settled.reservation = sent.reserved)"
        )
    return f"WITH lines AS ({lines}) SELECT {_NAMES} FROM ({ended})"
