"""The dataset as JSON lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synthray.dataset import Export

if TYPE_CHECKING:
    from synthray.operator import Makes


@dataclass(frozen=True)
class Jsonl(Export):
    """Write RUN/dataset: data/SPLIT-00000-of-00001.jsonl, a JSON object for each row, and README.md.

    `columns` picks columns (default: all); row_id is always there and comes first. Numbers that JSON has not
    (NaN, infinity) are null, dates, times and decimals are text; a column of bytes is refused. Splits, label
    and several exports: as in export.parquet.
    """

    columns: Sequence[str] = ()

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def needs(self) -> tuple[str, ...]:
        """Return the chosen columns."""
        return tuple(self.columns)
