"""What measures see of a row: its vector, from a column or by hashed n-grams of its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from synthray import vectors
from synthray.column import filled, is_text
from synthray.errors import InputError, RunFailed, near
from synthray.lineage import content_ids
from synthray.spelling import identifier, quoted
from synthray.vectors import Vectors

if TYPE_CHECKING:
    from synthray.query import Query

DIMENSIONS = 256
"""Of hashed n-grams, as curate.embedding makes them by default."""


@dataclass(frozen=True)
class Features:
    """Vectors of the column `embedding`; without one, hashed n-grams of the column `text`.

    Hashed ones see spelling and no meaning (see curate.embedding): two texts on one subject in other words
    are far apart. Measures that compare meaning want an embedding.
    """

    text: str
    embedding: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that are needed."""
        return (self.text, *([self.embedding] if self.embedding else []))

    @staticmethod
    def sources() -> tuple[Path, ...]:
        """Return the sources that decide the vectors, for fingerprints."""
        from synthray.model.embedding import SOURCE

        return (Path(__file__), SOURCE, *vectors.SOURCES)

    def check(self, schema: pa.Schema, whose: str = "") -> None:
        """Raise an InputError when a column is missing or holds something else; `whose` is a table's name."""
        place = f"the table {whose!r} has " if whose else "the rows have "
        for name in self.reads:
            if name not in schema.names:
                cure = ""
                if whose and name == self.embedding:
                    cure = (
                        f"; make it by a pipeline of its own: {whose}: {{steps: [source.table: ..., "
                        f"curate.embedding: {{text: {self.text}}}]}}, or leave embedding out"
                    )
                raise InputError(f"{place}no column {name!r}{near(name, schema.names)}{cure}")
        kind = schema.field(self.text).type
        if not is_text(kind):
            raise InputError(f"{place}{self.text!r} as {kind}, but it must hold text")
        if self.embedding:
            vectors.check_column(schema, self.embedding, f"{whose or 'rows'}:")

    def rows(self, query: Query, relation: str, tag: str, most: int, more: Sequence[str] = ()) -> pa.Table:
        """Return row_id, the columns needed and `more` of at most `most` rows of a relation with a text.

        They are chosen by a hash of row_id, `tag` and the query's seed, and sorted by row_id. Rows of a table
        that has no row_id are named by their content and occurrence.
        """
        known = query.schema(f"SELECT * FROM {identifier(relation)}").names
        source = content_ids(f"SELECT * FROM {identifier(relation)}", known)
        if "row_id" in known and relation != "rows":  # of those the run has made sure
            require_ids(query, relation)
        names = dict.fromkeys(("row_id", *self.reads, *more))
        listed = ", ".join(identifier(name) for name in names)
        return query.arrow(
            f"SELECT * FROM (SELECT {listed} FROM ({source}) WHERE {filled(self.text)} "
            f"ORDER BY chance(row_id, {quoted(tag)}), row_id LIMIT {int(most)}) ORDER BY row_id"
        )

    def of(self, table: pa.Table, who: str) -> Vectors:
        """Return the vectors of rows: of length 1, without those that have no direction; see Vectors.of."""
        if self.embedding:
            return Vectors.of(table, self.embedding, who)
        from synthray.model.embedding import hashed

        texts = pc.fill_null(table[self.text], "").to_pylist()
        flat = pa.array(hashed(texts, DIMENSIONS).reshape(-1), pa.float32())
        held = pa.FixedSizeListArray.from_arrays(flat, DIMENSIONS)
        return Vectors.of(pa.table({"row_id": table["row_id"], "vector": held}), "vector", who)


def require_ids(query: Query, relation: str) -> None:
    """Raise RunFailed where a row_id is missing or repeats: one row would stand for several."""
    twice = query.rows(
        f"SELECT row_id::VARCHAR, count(*) FROM {identifier(relation)} GROUP BY ALL "
        "HAVING count(*) > 1 OR row_id IS NULL ORDER BY ALL LIMIT 1"
    )
    if twice:
        row_id, rows = twice[0]
        what = f"{rows} rows have no row_id" if row_id is None else f"{rows} rows have row_id {row_id!r}"
        raise RunFailed(
            f"{relation}: {what}; give each row its own, or leave the column out and rows are named by "
            "their content"
        )
