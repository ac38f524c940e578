"""A named table: files (Parquet, JSON lines, CSV, YAML) that a recipe, a step or a statement may name."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.errors import SourceError
from synthray.spelling import identifier, quoted

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".yaml": "yaml",
    ".yml": "yaml",
}


@dataclass(frozen=True)
class Table:
    """Files of one kind that are read as one table.

    A YAML file is a list of mappings, or a mapping of keys to lists, which becomes the columns `key` and
    `value`, a row for each item. `added` are groups of Parquet files of more columns, joined by row_id, so
    that a stage which marks rows does not write them again; a column of a later group hides its namesake.
    """

    files: tuple[str, ...]
    kind: str
    added: tuple[tuple[str, ...], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All files that reading it reads."""
        return (*self.files, *(path for group in self.added for path in group))

    @classmethod
    def find(cls, where: str | Sequence[str], base: Path) -> Table:
        """Return the table at `where`: files, folders or globs, relative to `base`."""
        patterns = [where] if isinstance(where, str) else list(where)
        found = [path for pattern in patterns for path in _matching(pattern, base)]
        kinds = sorted({SUFFIXES.get(path.suffix.lower(), path.suffix or "no suffix") for path in found})
        if len(kinds) != 1 or kinds[0] not in SUFFIXES.values():
            raise SourceError(
                f"{', '.join(patterns)}: files must be all Parquet, JSON lines, CSV or YAML "
                f"({', '.join(SUFFIXES)}), but are {', '.join(kinds)}"
            )
        return cls(tuple(str(path) for path in found), kinds[0])

    def uniform(self) -> bool:
        """Say whether it is Parquet files of one schema, with nothing to join to them."""
        import pyarrow.parquet as pq

        if self.kind != "parquet" or self.added or not self.files:
            return False
        first = pq.read_schema(self.files[0])
        return all(pq.read_schema(file).equals(first) for file in self.files[1:])

    def scan(self) -> str:
        """Return the SQL that reads the files (not for YAML)."""
        files = _listed(self.files)
        if self.kind == "parquet":
            return self._joined() if self.added else f"read_parquet({files}, union_by_name=true)"
        if self.kind == "csv":
            # Left to itself, DuckDB explains a broken line by another dialect, or takes '#' for a comment.
            dialect = (
                f"delim={quoted(_delimiter(self.files[0]))}, quote='\"', escape='\"', comment='', skip=0"
            )
            return f"read_csv({files}, {dialect}, {_SCAN}, header=true, strict_mode=true)"
        return f"read_json({files}, format='newline_delimited', records=true, {_SCAN})"

    def _joined(self) -> str:
        import pyarrow.parquet as pq

        rows, *groups = (self.files, *self.added)
        # All files of a group: a later one may hold a column that the first lacks.
        names = [
            list(dict.fromkeys(name for file in group for name in pq.read_schema(file).names))
            for group in (rows, *groups)
        ]
        taken, shown = {"row_id"}, []
        for number in reversed(range(len(names))):
            hidden = taken & set(names[number]) if number else taken & set(names[0]) - {"row_id"}
            excluded = (
                f" EXCLUDE ({', '.join(identifier(name) for name in sorted(hidden))})" if hidden else ""
            )
            if len(hidden) < len(names[number]):
                shown.append(f"t{number}.*{excluded}")
            taken |= set(names[number])
        joins = "".join(
            f" LEFT JOIN read_parquet({_listed(group)}) t{number} ON t{number}.row_id = t0.row_id"
            for number, group in enumerate(groups, start=1)
        )
        columns = ", ".join(reversed(shown))
        return f"(SELECT {columns} FROM read_parquet({_listed(rows)}, union_by_name=true) t0{joins})"

    def relation(self) -> str | pa.Table:
        """Return what a Query shows as this table: SQL, or the rows themselves for YAML."""
        return self.from_yaml() if self.kind == "yaml" else f"SELECT * FROM {self.scan()}"

    def fault(self) -> str | None:
        """Return the place of the first line that is no row, with what is wrong; for a message."""
        for path in self.files:
            found = None
            try:
                if self.kind == "csv":
                    found = _csv_fault(path, _delimiter(self.files[0]))
                elif self.kind == "json":
                    found = _json_fault(path)
            except UnicodeDecodeError as error:
                found = f"not UTF-8 text: {error.reason} at byte {error.start}"
            if found:
                return f"{path}, {found}"
        return None

    def digest(self) -> str:
        """Return a digest of the files' content."""
        cut = [len(self.files), *map(len, self.added)]
        total = hashlib.blake2b(f"{self.kind}{cut if self.added else ''}".encode(), digest_size=12)
        for path in self.paths:
            with Path(path).open("rb") as file:
                total.update(hashlib.file_digest(file, "blake2b").digest())
        return total.hexdigest()

    def from_yaml(self) -> pa.Table:
        """Return the rows of YAML files."""
        import pyarrow as pa
        import yaml

        rows: list[dict[str, Any]] = []
        for path in self.files:
            try:
                value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise SourceError(f"{path}: {error}") from None
            rows += _yaml_rows(path, value)
        # Each row may leave keys out; Arrow alone would take the first row's keys for all there are.
        names = list(dict.fromkeys(name for row in rows for name in row))
        try:
            return pa.table({name: [row.get(name) for row in rows] for name in names})
        except (pa.ArrowException, OverflowError) as error:
            raise SourceError(f"{self.files[0]}: the rows do not make columns: {error}") from None


def _listed(files: Sequence[str]) -> str:
    return "[" + ", ".join(quoted(path) for path in files) + "]"


_SCAN = "union_by_name=true, sample_size=-1"


def _delimiter(path: str) -> str:
    """Return what separates the names in the first line."""
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        header = file.readline()
    return max((",", ";", "\t", "|"), key=header.count)


def _csv_fault(path: str, delimiter: str) -> str | None:
    with Path(path).open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            width = len(next(lines))
            for row in lines:
                if row and len(row) != width:
                    return f"line {lines.line_num}: {len(row)} values, but the header names {width} columns"
        except csv.Error as error:
            return f"line {lines.line_num}: {error}"
    return None


def _json_fault(path: str) -> str | None:
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = json.loads(line) if line.strip() else {}
            except json.JSONDecodeError as error:
                return f"line {number}: not JSON: {error.msg} at character {error.colno}"
            if not isinstance(value, dict):
                return f"line {number}: each line must be a JSON object, but is {line.strip()[:40]}"
    return None


def _matching(pattern: str, base: Path) -> list[Path]:
    path = base / Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        found = [file for file in found if file.is_file()]
    if not found:
        raise SourceError(f"no file {str(path)!r}; a path is relative to the recipe's folder")
    for file in found:
        if not file.stat().st_size:
            raise SourceError(f"{file} is empty")
    return [file.resolve() for file in found]


def _yaml_rows(path: str, value: Any) -> list[dict[str, Any]]:
    rows: Any = value
    if isinstance(value, dict) and all(isinstance(items, list) for items in value.values()):
        rows = [{"key": key, "value": item} for key, items in value.items() for item in items]
    named = isinstance(rows, list) and all(
        isinstance(row, dict) and row and all(isinstance(name, str) for name in row) for row in rows
    )
    if named and rows:
        return list(rows)
    raise SourceError(f"{path}: must be a list of mappings, or a mapping of keys to lists")
