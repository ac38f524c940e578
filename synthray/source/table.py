"""Rows of files (Parquet, JSON lines, CSV; one, a folder or a glob), of a named table or of a SELECT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from synthray.errors import InputError, RunFailed
from synthray.lineage import IDENTITY, RESERVED, content_ids
from synthray.operator import Makes, Operator
from synthray.query import Query
from synthray.spelling import identifier, quoted
from synthray.table import Table as Files

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage


@dataclass(frozen=True)
class Table(Operator):
    """Read `path` (relative to the recipe's folder), the recipe's table `table`, or what `sql` answers.

    `sql` is a SELECT over named tables: in a loop it makes a round's rows of `pool`, `previous`, `deficit`.
    `rows` is how many are read at most. A row's id comes from its content and how often that content came
    before, so the order of files and rows does not matter; rows that bring a `row_id` keep it, or become the
    `children` of the row that has it. Only in a loop there may be no rows.
    """

    path: str | Sequence[str] = ""
    table: str = ""
    sql: str = ""
    rows: Annotated[int, Ge(1)] | None = None
    children: bool = False
    base: str = "."

    @property
    def table_names(self) -> tuple[str, ...]:
        """The named tables that are read."""
        if not self.sql:
            return (self.table,) if self.table else ()
        known = {*self.context.schemas, *self.context.tables}
        with Query({}) as query:
            named = query.named(self.sql)
        return tuple(sorted(name for name in known if name.lower() in named))

    def makes(self) -> Makes:
        """Make rows."""
        return "rows"

    def check(self, before: pa.Schema) -> None:
        """Read every value once: a bad row is found now, not after the first paid call."""
        if sum(map(bool, (self.path, self.table, self.sql))) != 1:
            raise InputError("needs one of path (files), table (a named table) and sql (a SELECT)")
        with self._opened() as query:
            if self.sql:
                query.bind(self.sql)
            given = query.schema(f"SELECT * FROM ({self._given(query)})").names
            taken = RESERVED - set(IDENTITY) if "row_id" in given else RESERVED
            if taken & set(given):
                raise InputError(
                    f"{self._what} has the column {min(taken & set(given))!r}, which is reserved for "
                    "lineage (parent_id and round go with a row_id); rename it"
                )
            if self.children and "row_id" not in given:
                raise InputError(
                    f"children are of the rows that row_id names, but {self._what} has no row_id"
                )
            rows = self.select(query)
            if not self._ready():
                return
            if not query.value(f"SELECT count(*) FROM (SELECT hash(t) AS h FROM ({rows}) t) WHERE h <> 0"):
                raise InputError(f"{self._what} has no rows")
            _require_ids(query, rows)

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return identity columns and the table's own."""
        with self._opened() as query:
            return query.schema(self.select(query))

    def settings(self) -> dict[str, Any]:
        """Return what decides the rows; where the files lie does not, their content is in `files`."""
        return {name: value for name, value in super().settings().items() if name not in ("path", "base")}

    def files(self) -> tuple[Path, ...]:
        """Return the files that are read."""
        return tuple(Path(path) for path in Files.find(self.path, Path(self.base)).files) if self.path else ()

    def row_count(self) -> int | None:
        """Return how many rows there are; None as long as a table has none yet."""
        if not self._ready():
            return self.rows
        with self._opened() as query:
            return int(query.value(f"SELECT count(*) FROM ({self.select(query)})"))

    def first(self, rows: int) -> pa.Table:
        """Return some rows, for a plan; none as long as a table has none yet."""
        with self._opened() as query:
            return query.arrow(f"SELECT * FROM ({self.select(query)}) LIMIT {rows}")

    def apply(self, stage: Stage) -> None:
        """Let DuckDB read the files and number equal rows."""
        with self._opened(stage.path) as query:
            rows = self.select(query)
            _require_ids(query, rows)
            path = stage.path / "rows.parquet"
            if not query.write(rows, path) and not self.context.round:
                raise RunFailed(f"{self.step}: {self._what} has no rows")
        stage.wrote(path)

    def select(self, query: Query) -> str:
        """Return the SELECT that gives the rows with their ids; `query` is over what is read."""
        given = self._given(query)
        columns = query.schema(f"SELECT * FROM ({given})").names
        context = self.context
        if self.children:
            own = f"md5(concat_ws('#', 'child', row_id, {quoted(self.origin)}))[:24] AS row_id"
            beside = f"row_id AS parent_id, CAST({context.round} AS INTEGER) AS round"
            others = ", ".join(identifier(name) for name in columns if name not in IDENTITY)
            rows = f"SELECT {', '.join(filter(None, [own, beside, others]))} FROM ({given})"
        else:
            # A table's equal rows in two rounds are two rows.
            step = self.origin if context.round else ""
            rows = content_ids(f"SELECT * FROM ({given})", columns, step, context.round)
        # Which rows are the first ones is settled by id, so it is the same for any order of files.
        return f"SELECT * FROM ({rows}) ORDER BY row_id LIMIT {self.rows}" if self.rows else rows

    @property
    def _what(self) -> str:
        return str(self.path or self.table or "the SELECT")

    def _given(self, query: Query) -> str:
        if self.sql:
            return query.settled(self.sql)
        return f"SELECT * FROM {identifier(self.table) if self.table else 'given'}"

    def _ready(self) -> bool:
        """Whether all that is read has rows already; a pipeline's or a loop's table has none when checked."""
        return set(self.table_names) <= set(self.context.tables)

    def _opened(self, writable: Path | None = None) -> Query:
        if self.path:
            return Query({"given": Files.find(self.path, Path(self.base))}, writable=writable)
        context = self.context
        # Those that are not named are there for what a message says of a misspelt one.
        empty = {name: schema.empty_table() for name, schema in context.schemas.items()}
        names = self.table_names
        named = {name: table for name, table in context.tables.items() if name in names}
        held = {**empty, **named} if self._ready() else {**named, **empty}
        return Query(held, seed=context.seed, writable=writable)


def _require_ids(query: Query, rows: str) -> None:
    twice = query.rows(
        f"SELECT row_id FROM ({rows}) GROUP BY ALL HAVING count(*) > 1 OR row_id IS NULL LIMIT 1"
    )
    if twice:
        raise InputError(f"row_id must be there and differ in each row, but {twice[0][0]!r} repeats")
