"""The dataset as Parquet in the Hugging Face layout, with a card that says how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from synthray.dataset import Export

if TYPE_CHECKING:
    from synthray.operator import Makes
    from synthray.query import Query


@dataclass(frozen=True)
class Parquet(Export):
    """Write RUN/dataset: data/SPLIT-00000-of-00001.parquet, sorted by row_id, and README.md.

    `split` maps names to shares. It is stratified by `label` (default: the column label, if there is one);
    rows of one lineage root, near-duplicate cluster or document never straddle a split. `columns` picks
    columns (default: all); row_id is always there. `datasets.load_dataset("RUN/dataset")` opens it. Each
    further export of a recipe writes its dataset to RUN/dataset/STEP.
    """

    suffix: ClassVar[str] = "parquet"

    columns: Sequence[str] = ()

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def needs(self) -> tuple[str, ...]:
        """Return the chosen columns."""
        return tuple(self.columns)

    def write(self, query: Query, sql: str, path: Path) -> int:
        """Write the rows of a split to a file; return how many there are."""
        return query.write(sql, path)
