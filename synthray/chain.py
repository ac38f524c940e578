"""Statements in a row, done by DuckDB over the rows of a stage: one pass, each statement accounted for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from synthray.account import require_unique
from synthray.errors import ConservationError, QueryError, RunFailed
from synthray.record import StepCount
from synthray.spelling import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synthray.ledger import Ledger
    from synthray.query import Query
    from synthray.statement import Plan, Statement

FIRST = "_r0"
"""The relation of the rows that come in."""


@dataclass(frozen=True)
class Chain:
    """`statements` over the relation FIRST of `query`; what they make goes to `ledger`.

    `why` is the error that a value raised in a first attempt: the rows that raise it are set apart.
    """

    statements: Sequence[Statement]
    query: Query
    ledger: Ledger
    why: QueryError | None = None

    def run(self, rows: int) -> list[StepCount]:
        """Return what became of the `rows` rows in each statement."""
        counts = []
        for number, statement in enumerate(self.statements):
            plan = self._plan(statement, number)
            count = self._count(statement, plan, rows, number)
            self.query.view(f"_r{number + 1}", plan.rows)
            counts.append(count)
            rows = count.rows_kept
        path = self.ledger.path / "rows.parquet"
        kept = self.query.write(f"SELECT * FROM _r{len(self.statements)}", path)
        self.ledger.files.append(str(path))
        name = "+".join(one.step for one in self.statements)
        require_unique(self.query, f"read_parquet({quoted(str(path))})", name)
        if kept != rows:
            raise ConservationError(f"{name}: {rows} rows should be kept, but {kept} are; {counts}")
        return counts

    def _plan(self, statement: Statement, number: int) -> Plan:
        try:
            plan = statement.plan(self.query, f"_r{number}", guard=self.why is not None)
        except QueryError as error:
            raise RunFailed(f"{statement.step}: {error}") from error
        for sql, meaning in plan.forbidden.items():
            found = self.query.rows(f"SELECT row_id FROM ({sql}) LIMIT 1")
            if found:
                raise RunFailed(f"{statement.step}: {meaning}: row_id {found[0][0]!r}")
        return plan

    def _count(self, statement: Statement, plan: Plan, rows: int, number: int) -> StepCount:
        def size(sql: str | None) -> int:
            return int(self.query.value(f"SELECT count(*) FROM ({sql})")) if sql else 0

        query, ledger = self.query, self.ledger
        rejected = failed = 0
        if plan.rejects:
            rejected = ledger.write(query, plan.rejects, f"rejects-{number}", ledger.rejects)
        if plan.failures and self.why:
            failed = ledger.fail(query, plan.failures, statement.step, self.why, f"failures-{number}")
        if plan.metrics:
            ledger.write(query, plan.metrics, f"metrics-{number}", ledger.metrics)
        made, expanded = size(plan.made), size(plan.expanded)
        return StepCount(
            step=statement.step,
            operator=statement.kind,
            rows_in=rows,
            rows_made=made,
            rows_kept=rows + made - rejected - failed - expanded,
            rows_rejected=rejected,
            rows_failed=failed,
            rows_expanded=expanded,
        )


def of_a_value(error: QueryError) -> bool:
    """Say whether a value made SQL fail, such as a cast of it, and not the statement."""
    import duckdb

    kinds = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)
    return isinstance(error.__cause__, kinds)
