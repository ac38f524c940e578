"""A measurement: a step's named value with its interval, the number it rests on and the slice it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

MEASUREMENT = pa.schema(
    [
        pa.field("metric", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
        pa.field("n", pa.int64()),
        pa.field("slice", pa.string()),
    ]
)
"""What a measure returns; `slice` is null for the whole, else 'column=value'."""

METRICS = MEASUREMENT.insert(0, pa.field("step", pa.string()))
"""The columns of RUN/metrics.parquet."""


def measurements(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return `rows` as a table of measurements; what a row leaves out is null."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=MEASUREMENT)
