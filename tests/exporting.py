"""A run that exports given rows, and its dataset as the `datasets` library opens it, without a network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthray.pipeline import Pipeline, Step
from synthray.source.table import Table as Source
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.dataset import Export

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def rows(**columns: Any) -> pa.Table:
    """Return rows named a, b, c ... in an order that is not theirs."""
    count = len(next(iter(columns.values())))
    table = pa.table({"row_id": [chr(ord("a") + number) for number in range(count)], **columns})
    return table.take(list(reversed(range(count))))


def exported(folder: Path, table: pa.Table, *exports: Export | Step, **settings: Any) -> Path:
    """Return RUN/dataset of a run that exports these rows."""
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "rows.parquet")
    tables = {"rows_given": Table.find("rows.parquet", folder)}
    pipeline = Pipeline([Source(table="rows_given"), *exports], name="x", tables=tables, **settings)
    return pipeline.run(folder / "run", quiet=True).root / "dataset"


def opened(dataset: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the splits of a dataset as `datasets.load_dataset` reads the folder."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        held = datasets.load_dataset(str(dataset), cache_dir=cache)
        return {split: list(part) for split, part in held.items()}
