"""Rows of files: Parquet, JSON lines, CSV; one file, a folder or a glob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from synthray.errors import InputError
from synthray.lineage import IDENTITY, RESERVED, content_ids
from synthray.operator import Makes, Operator
from synthray.query import Query
from synthray.table import Table as Files

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage


@dataclass(frozen=True)
class Table(Operator):
    """Read `path` (relative to the recipe's folder) or the recipe's table `table`, at most `rows` rows.

    A row's id comes from its content and how often that content came before, so the order of files and
    rows does not matter; rows that bring a `row_id` keep it.
    """

    path: str | Sequence[str] = ""
    table: str = ""
    rows: Annotated[int, Ge(1)] | None = None
    base: str = "."

    @property
    def table_names(self) -> tuple[str, ...]:
        """The named table, if it is one."""
        return (self.table,) if self.table else ()

    def makes(self) -> Makes:
        """Make rows."""
        return "rows"

    def check(self, before: pa.Schema) -> None:
        """Read every value once: a bad row is found now, not after the first paid call."""
        if bool(self.path) == bool(self.table):
            raise InputError("needs either path (files) or table (a named table)")
        if self.table and self.table not in self.context.tables:
            return
        with Query({"given": self.given()}) as query:
            given = query.schema("SELECT * FROM given").names
            taken = RESERVED - set(IDENTITY) if "row_id" in given else RESERVED
            if taken & set(given):
                raise InputError(
                    f"{self.path or self.table} has the column {min(taken & set(given))!r}, which is "
                    "reserved for lineage (parent_id and round go with a row_id); rename it"
                )
            rows = self.sql(query)
            if not query.value(f"SELECT count(*) FROM (SELECT hash(t) AS h FROM ({rows}) t) WHERE h <> 0"):
                raise InputError(f"{self.path or self.table} has no rows")
            twice = query.rows(
                f"SELECT row_id FROM ({rows}) GROUP BY ALL HAVING count(*) > 1 OR row_id IS NULL LIMIT 1"
            )
            if twice:
                raise InputError(f"row_id must be there and differ in each row, but {twice[0][0]!r} repeats")

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return identity columns and the files' own."""
        given: Any = self.given() if self.path or self.table in self.context.tables else None
        if given is None:
            given = self.context.schemas[self.table].empty_table()
        with Query({"given": given}) as query:
            return query.schema(self.sql(query))

    def settings(self) -> dict[str, Any]:
        """Return what decides the rows; where the files lie does not, their content is in `files`."""
        return {"rows": self.rows, "table": self.table}

    def files(self) -> tuple[Path, ...]:
        """Return the files that are read."""
        return tuple(Path(path) for path in self.given().files) if self.path else ()

    def apply(self, stage: Stage) -> None:
        """Let DuckDB read the files and number equal rows."""
        with Query({"given": self.given()}, writable=stage.path) as query:
            path = stage.path / "rows.parquet"
            query.write(self.sql(query), path)
        stage.wrote(path)

    def given(self) -> Files:
        """Return the files."""
        if self.table:
            return self.context.tables[self.table]
        return Files.find(self.path, Path(self.base))

    def sql(self, query: Query) -> str:
        """Return the SELECT that gives the rows with their ids; `query` holds the files as `given`."""
        rows = content_ids("SELECT * FROM given", query.schema("SELECT * FROM given").names)
        # Which rows are the first ones is settled by id, so it is the same for any order of files.
        return f"SELECT * FROM ({rows}) ORDER BY row_id LIMIT {self.rows}" if self.rows else rows
