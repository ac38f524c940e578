"""The steps that are SQL: `where` drops rows with a reason, `derive` computes columns, `sql` and `union`.

Each statement sees the rows before it as the relation `rows`, and the recipe's named tables. It is turned
into SQL over the relation of the statement before it, so that a row of statements is one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

from synthray.errors import QueryError, RecipeError, near
from synthray.lineage import IDENTITY, RESERVED, content_ids
from synthray.metric import MEASUREMENT
from synthray.spelling import identifier, quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.query import Query


NOT_IN_RESULT = "not_in_result"
"""Why a sql step rejects a row, unless it says a reason of its own."""


@dataclass(frozen=True)
class Plan:
    """SQL for one statement: the rows after it, and what became of the others (each with row_id)."""

    rows: str
    rejects: str | None = None
    failures: str | None = None
    expanded: str | None = None
    made: str | None = None
    metrics: str | None = None
    forbidden: Mapping[str, str] = field(default_factory=dict)
    """Queries that must find nothing, with what it means when they do; each answers a row_id."""


@dataclass(frozen=True)
class Statement:
    """Base of the SQL steps: `step` is the step's name, with the `round` it is in; `when` picks the rows."""

    kind: ClassVar[str] = ""

    step: str = field(default="", kw_only=True)
    round: int = field(default=0, kw_only=True)
    when: str | None = field(default=None, kw_only=True)

    def settle(self, query: Query) -> Self:
        """Return the statement with one answer for one input; QueryError when it has none."""
        return self

    def schema(self, query: Query) -> pa.Schema:
        """Return the schema of the rows after it; `query` holds empty `rows` and the named tables."""
        return query.schema(self.plan(query, "rows", guard=False).rows)

    def plan(self, query: Query, before: str, *, guard: bool) -> Plan:
        """Return SQL over the relation `before`; `guard` sets rows apart whose expressions raise."""
        raise TypeError(f"{type(self).__name__} defines no plan")

    def sql(self) -> list[str]:
        """Return what the statement asks, as SELECTs."""
        return []


@dataclass(frozen=True)
class Where(Statement):
    """Keep the rows of which `predicate` is true; reject the others with `reason` (nulls: 'reason:null')."""

    kind: ClassVar[str] = "where"

    predicate: str
    reason: str = ""

    def settle(self, query: Query) -> Self:
        """Settle the predicate and check that it is one."""
        query.bind(self.predicate, "rows")
        predicate = query.expression(self.predicate)
        kind = query.schema(f"SELECT {predicate} AS verdict FROM rows").field("verdict").type
        if str(kind) not in ("bool", "null"):
            raise QueryError(f"must be true or false for each row, but {self.predicate} is {kind}")
        if self.when:
            query.bind(self.when, "rows")
            predicate = f"CASE WHEN {query.expression(self.when)} THEN {predicate} ELSE true END"
        return replace(self, predicate=predicate, when=None)

    def plan(self, query: Query, before: str, *, guard: bool) -> Plan:
        """Compute the verdict as a column, so that windows see the rejected rows too."""
        failures, source = guarded(query, before, [self.predicate]) if guard else (None, before)
        verdicts = f"(SELECT *, ({self.predicate}) AS _verdict FROM rows)"
        reason = quoted(self.reason or self.predicate)
        return Plan(
            rows=_over(source, f"SELECT * EXCLUDE (_verdict) FROM {verdicts} WHERE _verdict"),
            rejects=_over(
                source,
                f"SELECT row_id, {quoted(self.step)} AS step, "
                f"CASE WHEN _verdict IS NULL THEN {reason} || ':null' ELSE {reason} END AS reason "
                f"FROM {verdicts} WHERE _verdict IS NOT TRUE",
            ),
            failures=failures,
        )

    def sql(self) -> list[str]:
        """Return the predicate over the rows."""
        return [f"SELECT ({self.predicate}) FROM rows"]


@dataclass(frozen=True)
class Derive(Statement):
    """Add or replace columns by SQL expressions, all over the rows as they were."""

    kind: ClassVar[str] = "derive"

    columns: Mapping[str, str]

    def settle(self, query: Query) -> Self:
        """Settle each expression."""
        taken = sorted(name for name in self.columns if name.lower() in RESERVED)
        if taken:
            raise QueryError(f"cannot derive {', '.join(taken)}: the name is reserved for lineage")
        known = query.schema("SELECT * FROM rows").names
        one_case(known, self.columns)
        when = query.expression(self.when) if self.when else None
        settled = {}
        for name, sql in self.columns.items():
            query.bind(sql, "rows")
            settled[name] = query.expression(sql)
            # By itself, since DuckDB lets a later column of a SELECT see an earlier one.
            query.schema(f"SELECT ({settled[name]}) AS value FROM rows")
            if when:
                other = identifier(name) if name in known else "NULL"
                settled[name] = f"CASE WHEN {when} THEN {settled[name]} ELSE {other} END"
        return replace(self, columns=settled, when=None)

    def plan(self, query: Query, before: str, *, guard: bool) -> Plan:
        """Replace what is there, append what is new."""
        expressions = list(self.columns.values())
        failures, source = guarded(query, before, expressions) if guard else (None, before)
        known = query.schema(f"SELECT * FROM {before}").names
        old = [f"({sql}) AS {identifier(name)}" for name, sql in self.columns.items() if name in known]
        new = [f"({sql}) AS {identifier(name)}" for name, sql in self.columns.items() if name not in known]
        replaced = f" REPLACE ({', '.join(old)})" if old else ""
        return Plan(
            rows=_over(source, f"SELECT {', '.join(['*' + replaced, *new])} FROM rows"),
            failures=failures,
        )

    def sql(self) -> list[str]:
        """Return the expressions over the rows."""
        return [f"SELECT ({sql}) FROM rows" for sql in self.columns.values()]


@dataclass(frozen=True)
class Select(Statement):
    """Any SELECT over `rows` and named tables (the step `sql`).

    With `row_id` in its answer it is a filter with columns: rows it leaves out are rejected with `reason`,
    its columns are added to the rows. With `metric` and `value` it is a measurement. Else it is a new table
    with its own rows: `parents`, a list of row_ids, names what a row was folded from.
    """

    kind: ClassVar[str] = "sql"

    query: str
    reason: str = NOT_IN_RESULT

    def settle(self, query: Query) -> Self:
        """Settle the statement."""
        if self.when:
            raise QueryError("a sql step takes no `when`; write it into the statement")
        query.bind(self.query)
        return replace(self, query=query.settled(self.query))

    def plan(self, query: Query, before: str, *, guard: bool) -> Plan:
        """Tell a filter, a measurement and a new table apart by the answer's columns."""
        answer = _over(before, f"SELECT * FROM ({self.query})")
        columns = query.schema(answer).names
        if "row_id" in columns:
            return self._filter(before, answer, columns, query.schema(f"SELECT * FROM {before}").names)
        if {"metric", "value"} <= set(columns):
            return Plan(rows=f"SELECT * FROM {before}", metrics=self._metrics(answer, columns))
        return self._table(before, answer, columns)

    def sql(self) -> list[str]:
        """Return the statement."""
        return [self.query]

    def _filter(self, before: str, answer: str, columns: list[str], known: list[str]) -> Plan:
        reserved = sorted((RESERVED & set(columns)) - {"row_id"} - set(known))
        if reserved:
            raise QueryError(f"the answer's columns {', '.join(reserved)} are reserved")
        new = [identifier(name) for name in columns if name not in {*IDENTITY, "row_id"}]
        kept = ", ".join(f"b.{identifier(name)}" for name in known if name in IDENTITY or name not in columns)
        added = "".join(f", a.{name}" for name in new)
        missing = f"SELECT row_id FROM {before} ANTI JOIN ({answer}) USING (row_id)"
        return Plan(
            rows=f"SELECT {kept}{added} FROM {before} b JOIN ({answer}) a USING (row_id)",
            rejects=self._rejects(missing),
            forbidden={
                f"SELECT row_id FROM ({answer}) GROUP BY row_id HAVING count(*) > 1": "answers a row twice",
                f"SELECT row_id FROM ({answer}) ANTI JOIN {before} USING (row_id)": "answers an unknown row",
            },
        )

    def _rejects(self, rows: str) -> str:
        return f"SELECT row_id, {quoted(self.step)} AS step, {quoted(self.reason)} AS reason FROM ({rows})"

    def _metrics(self, answer: str, columns: list[str]) -> str:
        held = {field.name: field.name if field.name in columns else "NULL" for field in MEASUREMENT}
        parts = [f"CAST({held[f.name]} AS {_SQL_TYPES[str(f.type)]}) AS {f.name}" for f in MEASUREMENT]
        return f"SELECT {quoted(self.step)} AS step, {', '.join(parts)} FROM ({answer})"

    def _table(self, before: str, answer: str, columns: list[str]) -> Plan:
        refuse_reserved(set(columns) - {"parents"})
        made = content_ids(answer, columns, self.step, self.round)
        if "parents" not in columns:
            return Plan(rows=made, made=made, expanded=f"SELECT row_id FROM {before}")
        named = f"SELECT DISTINCT unnest(parents) AS row_id FROM ({answer})"
        unnamed = f"SELECT row_id FROM {before} ANTI JOIN ({named}) USING (row_id)"
        return Plan(
            rows=made,
            made=made,
            expanded=f"SELECT row_id FROM {before} SEMI JOIN ({named}) USING (row_id)",
            rejects=self._rejects(unnamed),
            forbidden={
                f"SELECT row_id FROM ({named}) ANTI JOIN {before} USING (row_id)": "parents names no such row"
            },
        )


@dataclass(frozen=True)
class Union(Statement):
    """Append the rows of a named table; columns of one side that the other lacks are null there."""

    kind: ClassVar[str] = "union"

    table: str

    def settle(self, query: Query) -> Self:
        """Check that columns of one name are of one type."""
        if self.when:
            raise QueryError("a union takes no `when`")
        ours = query.schema("SELECT * FROM rows")
        theirs = query.schema(f"SELECT * FROM {identifier(self.table)}")
        refuse_reserved(set(theirs.names) - set(IDENTITY) - {"parents"})
        for column in theirs:
            if column.name in ours.names and column.name not in IDENTITY:
                kind = ours.field(column.name).type
                if column.type != kind and str(column.type) != "null":
                    raise QueryError(
                        f"column {column.name!r} is {kind} in the rows, but {column.type} in "
                        f"{self.table}; derive one of them with a CAST"
                    )
        return self

    def plan(self, query: Query, before: str, *, guard: bool) -> Plan:
        """Give the table's rows ids and append them."""
        relation = f"SELECT * FROM {identifier(self.table)}"
        made = content_ids(relation, query.schema(relation).names, self.step, self.round)
        return Plan(rows=f"SELECT * FROM {before} UNION ALL BY NAME ({made})", made=made)

    def sql(self) -> list[str]:
        """Return the table as a statement."""
        return [f"SELECT * FROM {identifier(self.table)}"]


_SQL_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "int64": "BIGINT"}


def _over(source: str, sql: str) -> str:
    """Show `source` as the relation `rows` to a statement."""
    return f"WITH rows AS (SELECT * FROM {source}) {sql}"


def refuse_reserved(columns: set[str]) -> None:
    """Refuse columns whose names are kept for lineage."""
    taken = sorted(name for name in columns if name.lower() in RESERVED)
    if taken:
        raise QueryError(f"the columns {', '.join(taken)} are reserved for lineage; rename them")


def one_case(known: list[str], columns: Iterable[str]) -> None:
    """Refuse a name that differs from another in case alone: to SQL they are one."""
    seen = {name.lower(): name for name in known}
    for name in columns:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise QueryError(f"column {name!r} differs from {other!r} in case alone; use one of them")


def guarded(query: Query, before: str, expressions: list[str]) -> tuple[str, str]:
    """Return the SQL of the rows whose expressions raise, and the relation of the others."""
    # TRY turns an error into null, and IS NULL tells it from a null that is the value.
    raises = " OR ".join(f"TRY(({sql}) IS NULL) IS NULL" for sql in expressions)
    failures = f"SELECT * FROM {before} WHERE {raises}"
    try:
        query.schema(failures)
    except QueryError:
        raise QueryError(
            "a value raises an error, and under a window or a subquery the row that has it cannot be set "
            "apart; use TRY_CAST, or derive the value in a step before"
        ) from None
    return failures, f"(SELECT * FROM {before} WHERE NOT ({raises}))"


def require_table(name: str, tables: Mapping[str, object]) -> None:
    """Raise a RecipeError when the recipe has no table `name`."""
    if name not in tables:
        raise RecipeError(f"no table {name!r}{near(name, tables) or '; the recipe has no tables'}")
