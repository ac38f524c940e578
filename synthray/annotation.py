"""Labels by several annotators: columns of the rows, a named table, or both, read as one relation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthray.errors import InputError, RunFailed, near
from synthray.label.vote import SOURCE as VOTE
from synthray.label.vote import Votes
from synthray.query import Query
from synthray.spelling import identifier, quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.operator import Context

SOURCES = (Path(__file__), VOTE)
"""For the fingerprints of operators that read annotations."""

_COLUMNS = ("row_id", "annotator", "label")


@dataclass(frozen=True)
class Annotations:
    """Where the annotations of `rows` are: columns, each an annotator's, and a named table.

    The table has the columns row_id, annotator and label, in any order, a row for each annotation. A null
    label is none; the same label twice counts once. `who` reads them.
    """

    who: str
    columns: Sequence[str]
    table: str | None

    def check(self, context: Context, before: pa.Schema) -> None:
        """Raise an InputError when there are none to read, or they cannot be annotations."""
        if not self.columns and self.table is None:
            raise InputError(
                "needs annotations: name columns by labels, or by annotations a table with the columns "
                f"{', '.join(_COLUMNS)}"
            )
        for name in self.columns:
            if list(self.columns).count(name) > 1:
                raise InputError(f"labels names the column {name!r} twice")
        if self.table is None:
            return
        names = context.schemas[self.table].names
        for name in _COLUMNS:
            if name not in names:
                raise InputError(f"the table {self.table!r} has no column {name!r}{near(name, names)}")
        if self.table in context.tables:
            # Of the table alone it is known before any work.
            with Query({self.table: context.tables[self.table]}) as query:
                self._check_values(query, self._of_table(""), InputError)

    def votes(self, query: Query, classes: Sequence[str] = ()) -> str:
        """Return SQL for row_id and `votes`, the annotations of each row of `rows` that has some.

        Raises RunFailed, with the row, where one annotator gave two labels or has no name, and for a label
        that is none of `classes`, when there are any.
        """
        if self.table is not None:
            self._check_values(query, self.sql(), RunFailed)
        if classes:
            self._check_labels(query, classes)
        if self.table is not None:
            listed = "list(struct_pack(annotator := annotator, label := label) ORDER BY annotator)"
            return f"SELECT row_id, {listed} AS votes FROM ({self.sql()}) GROUP BY row_id"
        # A row's columns stand together: there is nothing to gather.
        given = ", ".join(
            f"struct_pack(annotator := {quoted(name)}, label := CAST({identifier(name)} AS VARCHAR))"
            for name in sorted(self.columns)
        )
        held = f"list_filter([{given}], lambda vote: vote.label IS NOT NULL)"
        return f"SELECT * FROM (SELECT row_id, {held} AS votes FROM rows) WHERE len(votes) > 0"

    def _check_labels(self, query: Query, classes: Sequence[str]) -> None:
        """Raise RunFailed, with the row, for a label that is none of `classes`."""
        listed = ", ".join(map(quoted, classes))
        strange = query.rows(
            f"SELECT row_id, annotator, label FROM ({self.sql()}) WHERE label NOT IN ({listed}) "
            "ORDER BY ALL LIMIT 1"
        )
        if strange:
            row_id, annotator, label = strange[0]
            raise RunFailed(
                f"{self.who}: the annotator {annotator!r} gave row_id {row_id!r} the label {label!r}, "
                f"which is no class{near(label, classes)}; mend it, or name all labels by classes"
            )

    def unknown(self, query: Query) -> int:
        """Return how many row_ids of the table are no row's."""
        if self.table is None:
            return 0
        return int(
            query.value(
                f"SELECT count(DISTINCT row_id) FROM ({self._of_table('')}) ANTI JOIN rows USING (row_id)"
            )
        )

    def sql(self) -> str:
        """Return SQL for the annotations of `rows`: row_id, annotator, label, each once."""
        parts = [
            f"SELECT row_id, {quoted(name)} AS annotator, CAST({identifier(name)} AS VARCHAR) AS label "
            f"FROM rows WHERE {identifier(name)} IS NOT NULL"
            for name in self.columns
        ]
        if self.table is not None:
            parts.append(self._of_table("SEMI JOIN rows USING (row_id)"))
        # An annotator of the table may be named as a column is.
        return (" UNION ALL " if self.table is None else " UNION ").join(parts)

    def _of_table(self, joined: str) -> str:
        assert self.table is not None
        listed = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" for name in _COLUMNS)
        given = f"(SELECT {listed} FROM {identifier(self.table)})"
        return f"SELECT DISTINCT row_id, annotator, label FROM {given} {joined} WHERE label IS NOT NULL"

    def _check_values(self, query: Query, sql: str, error: type[Exception]) -> None:
        nobody = query.rows(f"SELECT min(row_id) FROM ({sql}) WHERE annotator IS NULL HAVING count(*) > 0")
        if nobody:
            raise error(
                f"{self.who}: the table {self.table!r} has a label of row_id {nobody[0][0]!r} with no "
                "annotator; fill its column annotator in"
            )
        twice = query.rows(
            f"SELECT row_id, annotator, list_sort(list(label)) FROM ({sql}) GROUP BY row_id, annotator "
            "HAVING count(*) > 1 ORDER BY row_id, annotator LIMIT 1"
        )
        if twice:
            row_id, annotator, labels = twice[0]
            raise error(
                f"{self.who}: the annotator {annotator!r} gave row_id {row_id!r} several labels: "
                f"{', '.join(map(repr, labels))}; keep one of them"
            )


def voted(patterns: pa.Table, classes: Sequence[str] = ()) -> Votes:
    """Return the votes in `patterns`: `votes` as Annotations.votes has them, and `size`, of how many rows.

    Without `classes` they are the labels that there are, sorted.
    """
    import pyarrow.compute as pc

    lists = patterns["votes"].combine_chunks()
    flat = lists.flatten()
    names = pc.unique(flat.field("annotator")).sort()
    held = list(classes) or pc.unique(flat.field("label")).sort().to_pylist()
    starts = np.concatenate([[0], np.cumsum(np.asarray(pc.list_value_length(lists)))]).astype(np.int64)
    return Votes(
        starts,
        _places(flat.field("annotator"), names),
        _places(flat.field("label"), held),
        np.asarray(patterns["size"]).astype(np.int64),
        names.to_pylist(),
        held,
    )


def _places(values: Any, among: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.index_in(values, pa.array(among, pa.string()))).astype(np.int64)
