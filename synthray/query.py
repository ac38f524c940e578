"""DuckDB, shut in: SQL over named relations, with no file, network or clock, and one answer for one input."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from synthray.errors import InputError, QueryError, near
from synthray.spelling import identifier, quoted
from synthray.syntax import MULTIPLIES, check_queries, nodes, settle
from synthray.table import Table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SQL = Path(__file__).parent / "sql"
"""The shipped SQL: views over a run, metrics and filters."""

MEMORY_MB = "SYNTHRAY_SQL_MEMORY_MB"
TIMEOUT_S = "SYNTHRAY_SQL_TIMEOUT_S"
_DEFAULTS = {MEMORY_MB: 1024, TIMEOUT_S: 3600}
"""What a connection may hold in memory before it spills to disk, and how long one statement may run. They
are the machine's matter and no recipe's, so that environment variables set them."""


_IDS = "COMPRESSION uncompressed, PARQUET_VERSION V2, DICTIONARY_SIZE_LIMIT 1000"


def _opened(memory_mb: int) -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect(config={"autoinstall_known_extensions": "false", "memory_limit": f"{memory_mb}MiB"})


def _lock(connection: duckdb.DuckDBPyConnection, paths: Sequence[str], writable: Path | None) -> None:
    run = connection.execute
    if writable:
        run(f"SET allowed_directories = [{quoted(f'{writable}/')}]").fetchall()
    spill = writable / "spill" if writable else Path(tempfile.gettempdir()) / f"synthray-{uuid.uuid4().hex}"
    run(f"SET temp_directory = {quoted(str(spill))}").fetchall()
    listed = ", ".join(quoted(path) for path in paths)
    run(f"SET allowed_paths = [{listed}]").fetchall()
    run("SET GLOBAL TimeZone = 'UTC'").fetchall()
    run("SET enable_external_access = false").fetchall()
    run("SET lock_configuration = true").fetchall()


@functools.lru_cache(maxsize=1)
def _without_files(memory_mb: int) -> duckdb.DuckDBPyConnection:
    """Return the process's locked database that reaches no file; each cursor has its own relations."""
    connection = _opened(memory_mb)
    _lock(connection, (), None)
    return connection


# The binding complains of what is alive at the end; and what was spilled goes with the database.
atexit.register(_without_files.cache_clear)


class Query:
    """A locked DuckDB connection over `relations`: name -> Arrow table, Table or a SELECT over files.

    External access is off and the configuration locked before any statement of a recipe is seen; files of
    `relations` and the folder `writable` are all that can be reached. Memory and time are bounded (MEMORY_MB,
    TIMEOUT_S). Use it in one thread.
    """

    def __init__(
        self,
        relations: Mapping[str, pa.Table | Table | str],
        *,
        seed: int = 0,
        files: tuple[str, ...] = (),
        writable: Path | None = None,
        memory_mb: int | None = None,
    ) -> None:
        import duckdb

        self._names = tuple(relations)
        tables = (table for table in relations.values() if isinstance(table, Table))
        paths = [*files, *(file for table in tables for file in table.paths)]
        memory = memory_mb or limit(MEMORY_MB)
        # What reads no file shares a database: to open one takes ten times as long as a small statement.
        shared = not paths and writable is None
        self._connection = _without_files(memory).cursor() if shared else _opened(memory)
        try:
            self._define(relations, seed)
            if not shared:
                _lock(self._connection, paths, writable)
        except duckdb.Error as error:
            self.close()
            raise QueryError(str(error).partition("\n\n")[0]) from None

    def _define(self, relations: Mapping[str, pa.Table | Table | str], seed: int) -> None:
        run = self._connection.execute
        run(
            "CREATE TEMP MACRO chance(id, tag) AS ('0x' || "
            f"md5({quoted(str(seed))} || chr(31) || tag || chr(31) || id)[:13])::BIGINT / {16**13}.0"
        ).fetchall()
        for name, relation in relations.items():
            if isinstance(relation, Table):
                self._define_table(name, relation)
            else:
                self._define_one(name, relation)

    def _define_one(self, name: str, relation: pa.Table | str) -> None:
        if isinstance(relation, str):
            self._connection.execute(f"CREATE TEMP VIEW {identifier(name)} AS {relation}").fetchall()
        else:
            self._connection.register(name, relation)

    def _define_table(self, name: str, table: Table) -> None:
        import duckdb

        try:
            self._define_one(name, table.relation())
        except duckdb.Error:
            # DuckDB names no line of a CSV that fits no dialect, and a wrong one of JSON lines.
            fault = table.fault()
            if fault:
                raise QueryError(fault) from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection itself, for those who know DuckDB's API: shut in all the same, but not in time."""
        return self._connection

    def arrow(self, sql: str) -> pa.Table:
        """Return the answer to one SELECT."""
        self._one_select(sql)
        with self._bounded():
            return self._connection.sql(sql).to_arrow_table()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the answer to one SELECT as tuples."""
        columns = self.arrow(sql).to_pydict().values()
        return list(zip(*columns, strict=True))

    def value(self, sql: str) -> Any:
        """Return the single value that a SELECT answers."""
        return self.rows(sql)[0][0]

    def view(self, name: str, sql: str) -> None:
        """Define the relation `name`."""
        import duckdb

        try:
            self._connection.execute(f"CREATE TEMP VIEW {identifier(name)} AS {sql}").fetchall()
        except duckdb.Error as error:
            raise _translated(error) from error

    def write(
        self,
        sql: str,
        path: Path,
        *,
        group_rows: int | None = None,
        ids: bool = False,
        **metadata: str,
    ) -> int:
        """Write the answer to a Parquet file, out of core; return its number of rows.

        `ids` says that it is little but row_ids, of which no two are equal: to look for what repeats would
        take longer than to find them.
        """
        options = ["FORMAT parquet", _IDS if ids else "COMPRESSION zstd"]
        if group_rows:
            options.append(f"ROW_GROUP_SIZE {group_rows}")
        if metadata:
            held = ", ".join(f"{name}: {quoted(value)}" for name, value in metadata.items())
            options.append(f"KV_METADATA {{{held}}}")
        with self._bounded():
            copied = self._connection.execute(
                f"COPY ({sql}) TO {quoted(str(path))} ({', '.join(options)})"
            ).fetchall()
        return int(copied[0][0])

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Interrupt what runs for ever, and say of an error what it means."""
        import duckdb

        seconds = limit(TIMEOUT_S)
        timer = threading.Timer(seconds, self._connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        except duckdb.InterruptException as error:
            raise QueryError(
                f"a statement ran for longer than {seconds} s and was ended; set {TIMEOUT_S} to allow more"
            ) from error
        except duckdb.Error as error:
            raise _translated(error) from error
        finally:
            timer.cancel()

    def relation(self, name: str) -> str:
        """Return a relation as SQL; InputError names the nearest when there is none of this name."""
        if name not in self._names:
            raise InputError(f"no view {name!r}{near(name, self._names)}")
        return identifier(name)

    def blocks(self, relation: str, rows: int = 10_000) -> Iterator[pa.Table]:
        """Yield a relation in tables of at most `rows` rows, and one without rows where it has none."""
        import pyarrow as pa

        with self._bounded():
            reader = self._connection.sql(f"SELECT * FROM {relation}").to_arrow_reader(rows)
            yield reader.schema.empty_table()
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def schema(self, sql: str) -> pa.Schema:
        """Return the columns that a SELECT answers, binding it without running it."""
        return self.arrow(f"SELECT * FROM ({sql}\n) LIMIT 0").schema

    def named(self, sql: str) -> set[str]:
        """Return the relations that a statement names, in lower case: to SQL the cases are one."""
        found = nodes(self._one_select(sql))
        return {node["table_name"].lower() for node in found if node.get("type") == "BASE_TABLE"}

    def settled(self, sql: str) -> str:
        """Return `sql` so that one input has one answer: row_id becomes the last sort key.

        It is added to windows, order-sensitive aggregates and to a LIMIT's ORDER BY. Raises QueryError for
        random(), now() and their like, and for samples.
        """
        tree = self._one_select(sql)
        settle(tree)
        return str(
            self._connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()[
                0
            ][0]
        )

    def bind(self, sql: str, relation: str = "") -> None:
        """Raise a QueryError when a SELECT, or an expression over `relation`, does not parse or bind.

        The message points at the place: binding is the last time that the text is as it was written.
        """
        import duckdb

        if not sql.strip():
            raise QueryError("must be one SQL expression, but is empty" if relation else "must be one SELECT")
        alone, whole = (
            (f"SELECT\n{sql}", f"SELECT\n{sql}\nFROM {relation}") if relation else (f"\n{sql}",) * 2
        )
        try:
            # Explaining several statements would run all but the first.
            if len(self._connection.extract_statements(alone)) == 1:
                self._one_select(whole)
                self._connection.execute(f"EXPLAIN {whole}").fetchall()
        except duckdb.Error as error:
            # The statement's first line is ours.
            text = re.sub(r"(?m)^LINE (\d+)", lambda found: f"LINE {int(found[1]) - 1}", str(error).strip())
            raise QueryError(text) from None

    def expression(self, sql: str, relation: str = "rows") -> str:
        """Return an expression over `relation`, settled; QueryError when it is more than one expression."""
        statement = f"SELECT ({sql}\n) AS value FROM {relation}"
        node = self._one_select(statement)["statements"][0]["node"]
        plain = (
            node["type"] == "SELECT_NODE"
            and len(node["select_list"]) == 1
            and node["from_table"].get("table_name") == relation
            and not any(node[part] for part in ("where_clause", "group_expressions", "having", "qualify"))
            and not node["modifiers"]
        )
        if not plain or not sql.strip():
            raise QueryError(f"must be one SQL expression: {sql}")
        for part in nodes(node["select_list"], subqueries=False):
            if part.get("class") == "STAR" or str(part.get("function_name")).lower() in MULTIPLIES:
                raise QueryError(f"must be one value for each row, but is {sql}")
        return self.settled(statement).removeprefix("SELECT ").rpartition(" AS ")[0]

    def ordering(self, sql: str, relation: str = "rows") -> str:
        """Return an expression: each row's place in the order `sql` (what ORDER BY takes), then row_id."""
        if not sql.strip():
            return self.ordering("row_id", relation)
        place = f"row_number() OVER (ORDER BY {sql}\n)"
        self.bind(place, relation)
        settled = self.expression(place, relation)
        if not settled.startswith("row_number() OVER (ORDER BY "):
            raise QueryError(f"must be what ORDER BY takes, such as score DESC, but is {sql}")
        return settled

    def references(self, expression: str) -> list[tuple[str, ...]]:
        """Return the dotted column names in an expression, each once."""
        tree = self._one_select(f"SELECT ({expression}\n)")
        found = [tuple(n["column_names"]) for n in nodes(tree) if n.get("class") == "COLUMN_REF"]
        return list(dict.fromkeys(found))

    def partitions(self, sql: str) -> list[frozenset[str]] | None:
        """Return for each window of a SELECT the plain columns that it is partitioned by, in lower case.

        None where the answer for a row may depend on other rows in another way.
        """
        found = []
        for node in nodes(self._one_select(sql)):
            if node.get("class") == "SUBQUERY":
                return None
            if node.get("class") == "WINDOW":
                names = [part.get("column_names", []) for part in node["partitions"]]
                found.append(frozenset(name[-1].lower() for name in names if name))
        return found

    def _one_select(self, sql: str) -> dict[str, Any]:
        import duckdb

        try:
            statements = self._connection.extract_statements(sql)
        except duckdb.Error as error:
            raise _translated(error) from None
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(str(statement.type).rpartition(".")[2] for statement in statements)
            raise QueryError(f"must be one SELECT, but is {kinds or 'nothing'}")
        answer = self._connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
        tree: dict[str, Any] = json.loads(answer[0][0])
        if tree["error"]:
            raise QueryError(f"must be one SELECT: {tree['error_message']}")
        check_queries(tree)
        return tree


def shipped(path: str) -> str:
    """Return the text of a shipped SQL file, such as 'views/rows.sql'."""
    return (SQL / path).read_text(encoding="utf-8")


def limit(name: str) -> int:
    """Return MEMORY_MB or TIMEOUT_S as it is set for this process."""
    held = os.environ.get(name, "").strip()
    if held and not (held.isdigit() and int(held)):
        raise InputError(f"{name} must be a whole number above 0, but is {held!r}")
    return int(held or _DEFAULTS[name])


_NO_ROW_ID = (
    'column "row_id" not found',
    'column "row_id" must appear in the GROUP BY',
    "Could not ORDER BY column",
)


def _translated(error: Exception) -> QueryError:
    text = str(error).strip()
    if text.startswith("Out of Memory Error"):
        text = (
            f"the statement needs more memory than {MEMORY_MB} allows ({limit(MEMORY_MB)} MiB), beside what "
            f"can be put on disk; set it higher, or take the statement apart ({text.splitlines()[0]})"
        )
    if any(part in text for part in _NO_ROW_ID):
        text += "\nThe answer depends on the order of rows, so row_id must be there to sort by."
    return QueryError(text)
