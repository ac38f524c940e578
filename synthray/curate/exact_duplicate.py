"""Mark rows whose text is that of a row that is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from synthray.duplicate.shingle import words
from synthray.older import MarksDuplicates
from synthray.query import SQL, Query, shipped
from synthray.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synthray.stage import Stage

VERSION = 1
"""Of how texts are normalised and hashed."""

_MARKS = "marks/exact_duplicate.sql"


@dataclass(frozen=True)
class ExactDuplicate(MarksDuplicates):
    """Add `exact_duplicate_of` (null: keep) and `exact_duplicate_count`, how many rows have the text.

    Texts are compared by a hash of 128 bits: of the `text` in Unicode's form NFKC, in lower case, white space
    as one space; of its `words` alone, without punctuation; or of its `bytes` as they are. Of the rows that
    have a text the first in the order of `prefer` (such as "score DESC"), then row_id, is kept. A null, and
    for `words` a text without any, is no duplicate; the count is null where a text is there once.

    Rows whose text is in `against` (runs, named tables, files) are marked too, and `exact_duplicate_source`
    says in which; its hashes are kept in the folder `index`, without one in the run.
    """

    by: Literal["text", "words", "bytes"] = "text"

    @property
    def cut(self) -> Mapping[str, Any]:
        """What decides a text's hash."""
        return {"version": VERSION, "hash of": self.by}

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        source = {"exact_duplicate_source": pa.string()} if self.against else {}
        return {"exact_duplicate_of": pa.string(), "exact_duplicate_count": pa.int64(), **source}

    def files(self) -> tuple[Path, ...]:
        """Return the SQL that marks, and the older files."""
        return (SQL / _MARKS, *super().files())

    def marks_of(self, table: pa.Table) -> pa.Table:
        """Return row_id and the marks of a whole table's rows."""
        with Query({"rows": table, "hashed_rows": self.hashed(table)}, seed=self.context.seed) as query:
            return self._marks(query, 0)

    def apply(self, stage: Stage) -> None:
        """Hash in a map pass; SQL over the hashes marks."""

        def make(folder: Path) -> None:
            stage.narrow(stage.dataset(["row_id", self.text]), self.hashed, folder)

        hashed = stage.kept("hashes", [self.text, self.cut], make)
        older = self.segments(stage, self.hashed, "parquet")
        tables = {f"older_{number}": _table(files) for number, files in enumerate(older)}
        own = _table(sorted(map(str, hashed.iterdir())))
        with stage.over({"rows": stage.input, "hashed_rows": own, **tables}, stage.path) as query:
            stage.added(self._marks(query, len(older)))

    def hashed(self, table: pa.Table) -> pa.Table:
        """Return row_id and the hash of each text that has one."""
        texts = _normal(table[self.text].combine_chunks(), self.by)
        hashes = [
            None if text is None else hashlib.blake2b(text, digest_size=16).digest()
            for text in texts.cast(pa.large_binary()).to_pylist()
        ]
        held = pa.table({"row_id": table["row_id"], "hash": pa.array(hashes, pa.binary())})
        return held.filter(pc.is_valid(held["hash"]))

    def _marks(self, query: Query, older: int) -> pa.Table:
        parts = [
            f"SELECT row_id, hash, {number} AS source, 0 AS place FROM older_{number}"
            for number in range(older)
        ]
        placed = f"SELECT row_id, {query.ordering(self.prefer)} AS place FROM rows"
        own = (
            "SELECT row_id, hash, NULL::INTEGER AS source, place FROM hashed_rows JOIN "
            f"({placed}) USING (row_id)"
        )
        query.view("hashed", " UNION ALL ".join([*parts, own]))
        marks = query.arrow(shipped(_MARKS))
        if not self.against:
            return marks.drop_columns(["source"]).rename_columns(["row_id", *self.adds()])
        sources = pa.array(list(self.against), pa.string()).take(marks["source"].combine_chunks())
        return marks.set_column(3, "source", sources).rename_columns(["row_id", *self.adds()])


def _table(files: Sequence[str]) -> Table | pa.Table:
    """Return the hashes in files; of a pool without rows there are none."""
    if not files:
        return pa.table({"row_id": pa.array([], pa.string()), "hash": pa.array([], pa.binary())})
    return Table(tuple(files), "parquet")


def _normal(texts: pa.Array, by: str) -> pa.Array:
    if by == "bytes":
        return texts
    if by == "words":
        joined = pc.binary_join(words(texts), pa.scalar(" ", pa.large_string()))
        return pc.if_else(pc.equal(pc.binary_length(joined), 0), None, joined)
    lower = pc.utf8_lower(pc.utf8_normalize(texts.cast(pa.large_string()), "NFKC"))
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(lower, r"[\s\pZ]+", " "))
