"""Which rows are of one origin: the seed, document or condition row that they descend from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synthray.lineage import connected
from synthray.query import Query

if TYPE_CHECKING:
    from synthray.record import StageRecord
    from synthray.run import Run


def parents(run: Run, records: Sequence[StageRecord]) -> list[tuple[str, str]]:
    """Return who descends from whom, over stages; an expanded parent is no row of the dataset."""
    relations = {f"stage_{number}": run.table(record) for number, record in enumerate(records)}
    if not relations:
        return []
    parts = [f"SELECT row_id, parent_id FROM {name} WHERE parent_id IS NOT NULL" for name in relations]
    with Query(relations) as query:
        folding = [name for name in relations if "parents" in query.schema(f"SELECT * FROM {name}").names]
        parts += [f"SELECT row_id, unnest(parents) AS parent_id FROM {name}" for name in folding]
        return query.rows(f"SELECT DISTINCT * FROM ({' UNION ALL '.join(parts)})")


def roots(rows: Sequence[tuple[Any, ...]], ties: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return for each row_id the name of all that it is tied to by descent, cluster or document.

    A row is (row_id, whatever else ..., keys): it is tied to each key that is not None. The name is the
    smallest of all that are tied together, so that it says nothing but who belongs to whom.
    """
    keyed = ((row[0], str(key)) for row in rows for key in row[-1] if key is not None)
    find = connected([*ties, *keyed])
    return {row[0]: find(row[0]) for row in rows}
