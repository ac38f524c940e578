"""Older data: a run, a named table or files that came before, as a step's `against` names them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from synthray.column import is_text
from synthray.duplicate import SOURCES
from synthray.duplicate.index import Index
from synthray.errors import InputError, QueryError, RunError, SourceError, near
from synthray.lineage import content_ids, digest
from synthray.operator import Operator
from synthray.query import Query
from synthray.run import Run
from synthray.spelling import identifier
from synthray.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage


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
            named = "row_id" in schema.names
            nameless = query.value("SELECT count(*) FROM given WHERE row_id IS NULL") if named else 0
        if nameless:
            raise InputError(
                f"against {self.name!r}: {nameless} rows have no row_id; give them one, or leave the "
                "column out and they are named by their content"
            )
        _check_column(self.name, column, schema)

    def write(self, column: str, path: Path, folder: Path, group_rows: int) -> int:
        """Write row_id and `column` to a file in `folder`; return the number of rows.

        Rows without a row_id get one by their content and occurrence, as source.table gives it.
        """
        with Query({"given": self.table}, writable=folder) as query:
            rows = content_ids("SELECT * FROM given", query.schema("SELECT * FROM given").names)
            return query.write(
                f"SELECT row_id::VARCHAR AS row_id, {identifier(column)} FROM ({rows})",
                path,
                group_rows=group_rows,
            )


@dataclass(frozen=True)
class MarksDuplicates(Operator):
    """Base of operators that mark duplicates, of rows that come before in an order and of older data.

    Of rows that are alike the first in the order of `prefer` (such as "score DESC"), then row_id, is kept.
    The older data of `against` (runs, named tables, files) stand before all rows. What is made of their texts
    is kept in the folder `index`, which grows by what is new in them; without one it is kept in the run.
    """

    text: str
    prefer: str = field(default="", kw_only=True)
    against: Sequence[str] = field(default=(), kw_only=True)
    index: str | None = field(default=None, kw_only=True)
    base: str = field(default=".", kw_only=True)

    @property
    def reads(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The named tables among the older data."""
        known = {*self.context.schemas, *self.context.tables}
        return tuple(name for name in self.against if name in known)

    @property
    def cut(self) -> Mapping[str, Any]:
        """What decides what is made of a text: an index holds for one such."""
        raise TypeError(f"{type(self).__name__} defines no cut")

    def settings(self) -> dict[str, Any]:
        """Return what decides the marks; where the index lies does not, nor where older files do."""
        return {name: value for name, value in super().settings().items() if name not in ("index", "base")}

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what it stands on, and the older files."""
        named = [name for name in self.against if name not in self.table_names]
        older = Older.find(named, {}, Path(self.base))
        return (Path(__file__), *SOURCES, *(Path(path) for one in older for path in one.table.paths))

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when text, `prefer`, older data or index are not what they must be."""
        self.require_text(before, self.text)
        with Query({"rows": before.empty_table()}) as query:
            try:
                query.ordering(self.prefer)
            except QueryError as error:
                raise InputError(f"prefer: {error}") from None
        if self.index and not self.against:
            raise InputError("index is where what older data have is kept; name that data by against")
        if self.index:
            Index(Path(self.base) / self.index, self.cut).check()
        made = [name for name in self.table_names if name not in self.context.tables]
        for name in made:
            _check_column(name, self.text, self.context.schemas[name])
        for one in self.older([name for name in self.against if name not in made]):
            one.check(self.text)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table; older data take a run."""
        if self.against:
            raise InputError("against needs a run: what is made of older data is kept in its folder")
        return self.attach(table, self.marks_of(table))

    def marks_of(self, table: pa.Table) -> pa.Table:
        """Return row_id and the marks of a whole table's rows."""
        raise TypeError(f"{type(self).__name__} defines no marks_of")

    def older(self, names: Sequence[str]) -> list[Older]:
        """Return the older data of these names."""
        return Older.find(names, self.context.tables, Path(self.base))

    def segments(
        self, stage: Stage, function: Callable[[pa.Table], pa.Table], kind: str
    ) -> list[tuple[str, ...]]:
        """Return for each of the older data the files of what `function` makes of row_id and text."""

        def make(one: Older, folder: Path) -> None:
            path = stage.path / "older.parquet"
            rows = one.write(self.text, path, stage.path, stage.rows_per_block)
            stage.narrow(stage.read((str(path),), rows), function, folder, kind)
            path.unlink()

        own = stage.run.root / "artifacts" / f"older-{digest(self.cut)}"
        index = Index(Path(self.base) / self.index if self.index else own, self.cut)
        return [
            index.segment(digest(one.table.digest(), self.text), functools.partial(make, one))
            for one in self.older(self.against)
        ]


def _check_column(name: str, column: str, schema: pa.Schema) -> None:
    if column not in schema.names:
        raise InputError(
            f"against {name!r} has no column {column!r}{near(column, schema.names)}; "
            f"its columns are {', '.join(schema.names)}"
        )
    if not is_text(schema.field(column).type):
        raise InputError(f"against {name!r}: {column!r} must hold text, but is {schema.field(column).type}")


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
