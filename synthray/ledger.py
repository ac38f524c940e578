"""What a stage has written: the lists that become its record, and how they are filled."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from synthray.spelling import identifier, quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.errors import QueryError
    from synthray.query import Query


@dataclass
class Ledger:
    """The files of a stage in its folder `path`; what is in no list is no part of the stage."""

    path: Path
    files: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def write(self, query: Query, sql: str, name: str, listed: list[str]) -> int:
        """Write the answer of a SELECT and list it when it has rows; return their number."""
        path = self.path / f"{name}.parquet"
        written = query.write(sql, path, ids=listed is self.rejects)
        if written:
            listed.append(str(path))
        return written

    def keep(self, table: pa.Table, name: str, listed: list[str]) -> None:
        """Write a table and list it."""
        import pyarrow.parquet as pq

        path = self.path / f"{name}-{len(listed)}.parquet"
        pq.write_table(table, path, compression="zstd")
        listed.append(str(path))

    def keep_passed(self, query: Query, made: pa.Schema) -> None:
        """Put beside the rows of `passed`, which `when` let pass by, what they have in the columns `made`.

        The relation `made` has none of them: what a row lacks is null.
        """
        held = {one.name: one.type for one in query.schema("SELECT * FROM passed")}
        same = [one.name for one in made if held.get(one.name) == one.type]
        if len(same) > 1:  # more than row_id
            listed = ", ".join(map(identifier, same))
            sql = f"SELECT * FROM made UNION ALL BY NAME SELECT {listed} FROM passed"
            self.write(query, sql, "columns-passed", self.added)

    def fail(self, query: Query, rows: str, step: str, why: QueryError, name: str) -> int:
        """Write the rows whose values raise an error as failed rows; return their number."""
        message = quoted(str(why).partition("\n")[0])
        kind = quoted(type(why.__cause__).__name__.removesuffix("Exception") + "Error")
        failed = f"struct_pack(error := {kind}, message := {message}, attempts := 1::INTEGER)"
        sql = f"SELECT *, {failed} AS failed, {quoted(step)} AS reject_step FROM ({rows})"
        return self.write(query, sql, name, self.failures)
