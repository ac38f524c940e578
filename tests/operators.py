"""Operators that do to rows what a stage must account for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from synthray.lineage import FAILED, child_id, digest
from synthray.operator import Makes, Operator


@dataclass(frozen=True)
class Upper(Operator):
    """Add `upper`."""

    text: str = "text"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.text,)

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"upper": pa.string()}

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.add(table, {"upper": pc.utf8_upper(table[self.text])})


@dataclass(frozen=True)
class Loses(Operator):
    """Drop every second row, which no operator may."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.slice(0, len(table) // 2)


@dataclass(frozen=True)
class Doubles(Operator):
    """Give each row back twice under one row_id."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.concat_tables([table, table])


@dataclass(frozen=True)
class Forgets(Operator):
    """Declare a column and not add it."""

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"promised": pa.string()}

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


@dataclass(frozen=True)
class Fails(Operator):
    """Fail the rows whose text starts with `letter`."""

    letter: str = "a"

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"length": pa.int64()}

    def __call__(self, table: pa.Table) -> pa.Table:
        bad = [text.startswith(self.letter) for text in table["text"].to_pylist()]
        failed = [{"error": "Starts", "message": self.letter, "attempts": 2} if one else None for one in bad]
        table = self.add(table, {"length": pc.utf8_length(table["text"]).cast(pa.int64())})
        return table.append_column("failed", pa.array(failed, FAILED))


@dataclass(frozen=True)
class Splits(Operator):
    """Replace a row by a child for each word of its text; a text without words has none."""

    def makes(self) -> Makes:
        return "children"

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = [
            {
                **row,
                "text": word,
                "row_id": child_id(row["row_id"], self.step, ordinal),
                "parent_id": row["row_id"],
            }
            for row in table.to_pylist()
            for ordinal, word in enumerate(row["text"].split())
        ]
        return pa.Table.from_pylist(rows, schema=table.schema)


@dataclass(frozen=True)
class Folds(Operator):
    """Fold the rows of a block into one that names its parents."""

    def makes(self) -> Makes:
        return "children"

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"parents": pa.list_(pa.string())}

    def __call__(self, table: pa.Table) -> pa.Table:
        parents = table["row_id"].to_pylist()
        row = {
            **table.slice(0, 1).to_pylist()[0],
            "row_id": digest("fold", parents),
            "parent_id": None,
            "text": " ".join(table["text"].to_pylist()),
            "parents": parents,
        }
        return pa.Table.from_pylist([row], schema=self.schema(table.schema))


@dataclass(frozen=True)
class Orphans(Operator):
    """Make rows that name no parent."""

    def makes(self) -> Makes:
        return "children"

    def __call__(self, table: pa.Table) -> pa.Table:
        ids = pa.array([f"orphan-{one}" for one in table["row_id"].to_pylist()])
        return table.set_column(table.schema.get_field_index("row_id"), "row_id", ids)
