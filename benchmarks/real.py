"""Real data with truth, from the folder that SYNTHRAY_DATA names: what the benchmarks compare with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def read(name: str, **where: str) -> pa.Table:
    """Return the rows of a set of which columns have these values."""
    folder = os.environ.get("SYNTHRAY_DATA")
    if not folder:
        sys.exit("SYNTHRAY_DATA names no folder of real data")
    table = pq.read_table(Path(folder) / f"{name}.parquet")
    for column, value in where.items():
        table = table.filter(pc.equal(table[column].cast(pa.string()), value))
    return table
