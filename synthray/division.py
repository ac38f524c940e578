"""How statements are divided among the machines of a cluster: row by row, or by what windows partition by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from synthray.chain import FIRST, Chain, of_a_value
from synthray.errors import QueryError
from synthray.ledger import Ledger
from synthray.query import Query
from synthray.spelling import identifier
from synthray.statement import Derive, Where

if TYPE_CHECKING:
    from synthray.record import StepCount
    from synthray.statement import Statement
    from synthray.table import Table

ROWS = 1_000_000
"""Fewer rows are not divided: one DuckDB is done with them before others have begun."""

_WHOLE = "_whole"


def keys(statements: Sequence[Statement], query: Query) -> tuple[str, ...] | None:
    """Return the columns whose equal values must stay together: none where each row is for itself.

    None where the statements cannot be divided: they join, add up, or have a window over all rows.
    """
    shared: set[str] | None = None
    for statement in statements:
        if not isinstance(statement, Where | Derive):
            return None
        for expression in statement.sql():
            windows = query.partitions(expression)
            if windows is None:
                return None
            for columns in windows:
                shared = set(columns) if shared is None else shared & columns
    if shared is None:
        return ()
    return tuple(sorted(shared)) or None


def share(
    statements: Sequence[Statement],
    rows: Table,
    columns: tuple[str, ...],
    number: int,
    of: int,
    folder: Path,
    seed: int,
) -> tuple[list[StepCount], Ledger] | None:
    """Do the `number`-th of `of` shares; return what became of its rows and what was written.

    None where a value makes SQL fail: then the rows that have it are to be found in all of them.
    """
    if not columns and not rows.added and len(rows.files) >= of:
        relations: dict[str, Table | str] = {FIRST: replace(rows, files=rows.files[number::of])}
    else:
        together = ", ".join(identifier(name) for name in columns or ("row_id",))
        picked = f"SELECT * FROM {_WHOLE} WHERE hash({together}) % {of} = {number}"
        relations = {_WHOLE: rows, FIRST: picked}
    folder.mkdir(exist_ok=True)  # a worker that died may have begun
    ledger = Ledger(folder)
    with Query(relations, seed=seed, writable=folder) as query:
        try:
            count = int(query.value(f"SELECT count(*) FROM {FIRST}"))
            return Chain(statements, query, ledger).run(count), ledger
        except QueryError as error:
            if not of_a_value(error):
                raise
            return None


def joined(shares: Sequence[tuple[list[StepCount], Ledger]], ledger: Ledger) -> list[StepCount]:
    """List what the shares have written in `ledger`; return what became of the rows of all of them."""
    for _, part in shares:
        ledger.files.extend(part.files)
        ledger.rejects.extend(part.rejects)
    return [_sum(counts) for counts in zip(*(counts for counts, _ in shares), strict=True)]


def _sum(counts: Sequence[StepCount]) -> StepCount:
    total = counts[0]
    for count in counts[1:]:
        total = replace(
            total,
            rows_in=total.rows_in + count.rows_in,
            rows_kept=total.rows_kept + count.rows_kept,
            rows_rejected=total.rows_rejected + count.rows_rejected,
        )
    return total
