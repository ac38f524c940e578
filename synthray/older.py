"""Older data: a run, a named table or files that came before, as a step's `against` names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from synthray.errors import InputError, RunError, SourceError, near
from synthray.lineage import content_ids
from synthray.query import Query
from synthray.run import Run
from synthray.spelling import identifier
from synthray.table import Table


@dataclass(frozen=True)
class Older:
    """Older rows, and the `name` that the recipe has for them."""

    name: str
    table: Table

    @classmethod
    def find(cls, names: Sequence[str], tables: Mapping[str, Table], base: Path) -> list[Self]:
        """Return what `names` stand for: named tables, runs, else files; InputError where there is none."""
        return [cls(name, tables[name] if name in tables else _found(name, tables, base)) for name in names]

    def check(self, column: str) -> None:
        """Raise an InputError when it has no text in `column`."""
        with Query({"given": self.table}) as query:
            schema = query.schema("SELECT * FROM given")
        if column not in schema.names:
            raise InputError(
                f"against {self.name!r} has no column {column!r}{near(column, schema.names)}; "
                f"its columns are {', '.join(schema.names)}"
            )
        if str(schema.field(column).type) not in ("string", "large_string"):
            raise InputError(
                f"against {self.name!r}: {column!r} must hold text, but is {schema.field(column).type}"
            )

    def write(self, column: str, path: Path, folder: Path, group_rows: int) -> int:
        """Write row_id and `column` to a file in `folder`; return the number of rows.

        Rows without a row_id get one by their content and occurrence, as source.table gives it.
        """
        with Query({"given": self.table}, writable=folder) as query:
            rows = content_ids("SELECT * FROM given", query.schema("SELECT * FROM given").names)
            return query.write(
                f"SELECT row_id, {identifier(column)} FROM ({rows})", path, group_rows=group_rows
            )


def _found(name: str, tables: Mapping[str, Table], base: Path) -> Table:
    folder = base / Path(name).expanduser()
    if (folder / "run.json").is_file():
        run = Run.read(folder)
        stages = run.stages()
        if not stages:
            raise RunError(f"against {name!r}: the run has no finished stage yet")
        return run.table(stages[-1])
    try:
        return Table.find(name, base)
    except SourceError as error:
        known = near(name, tables)
        raise InputError(f"against {name!r} is no table of the recipe{known}; no run; {error}") from None
