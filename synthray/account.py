"""What became of every row in a stage: found by the ids before and after it, never taken on trust."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synthray.errors import ConservationError
from synthray.operator import path_of
from synthray.record import StepCount

if TYPE_CHECKING:
    from synthray.operator import Operator
    from synthray.query import Query

CHILDLESS = "childless"
"""The relation of the rows that are gone and that nothing was made of."""


def account(query: Query, operator: Operator, rows_in: int) -> StepCount:
    """Return what an operator did with the rows `before`, seen by `kept_rows` and `failed_rows`.

    Raises a ConservationError when it lost or made rows that it may not. Leaves the relation CHILDLESS.
    """
    require_unique(query, "kept_rows", operator.origin)
    named = "parents" in query.schema("SELECT * FROM kept_rows").names
    parents = "UNION ALL SELECT unnest(parents) FROM kept_rows" if named else ""
    query.view(
        "after", "SELECT row_id, parent_id FROM kept_rows UNION ALL SELECT row_id, parent_id FROM failed_rows"
    )
    query.view("made", "SELECT * FROM after ANTI JOIN before USING (row_id)")
    query.view("gone", "SELECT row_id FROM before ANTI JOIN after USING (row_id)")
    query.view("parents_", f"SELECT parent_id AS row_id FROM made {parents}")
    query.view("expanded", "SELECT row_id FROM gone SEMI JOIN parents_ USING (row_id)")
    query.view(CHILDLESS, "SELECT row_id FROM gone ANTI JOIN parents_ USING (row_id)")

    def size(name: str) -> int:
        return int(query.value(f"SELECT count(*) FROM {name}"))

    made, childless = size("made"), size(CHILDLESS)
    step, makes = operator.origin, operator.makes()
    if makes == "columns" and (made or childless):
        example = query.rows(f"SELECT row_id FROM {'made' if made else CHILDLESS} LIMIT 1")[0][0]
        raise ConservationError(
            f"{step}: {path_of(operator)} lost {childless} rows and made {made} (such as row_id "
            f"{example!r}), but an operator only adds columns; let a where drop rows"
        )
    if makes == "children":
        query.view("old", "SELECT row_id AS parent_id FROM before")
        orphans = query.value("SELECT count(*) FROM made ANTI JOIN old USING (parent_id)")
        if orphans and not parents:
            raise ConservationError(f"{step}: {orphans} new rows name no parent in the rows before")
    count = StepCount(
        step=step,
        operator=path_of(operator),
        rows_in=rows_in,
        rows_made=made,
        rows_kept=size("kept_rows"),
        rows_rejected=childless,
        rows_failed=size("failed_rows"),
        rows_expanded=size("expanded"),
    )
    if not count.conserved():
        raise ConservationError(f"{step}: rows do not add up: {count}")
    return count


def require_unique(query: Query, source: str, step: str) -> None:
    """Raise a ConservationError when a row_id is in `source` more than once."""
    twice = query.rows(f"SELECT row_id FROM {source} GROUP BY row_id HAVING count(*) > 1 LIMIT 1")
    if twice:
        raise ConservationError(f"{step}: row_id {twice[0][0]!r} is there more than once")
