"""The views over a run, over relations made by hand."""

from __future__ import annotations

import pyarrow as pa

from synthray.metric import METRICS
from synthray.query import Query, shipped


def test_what_was_measured_is_read_in_the_order_of_steps_sizes_and_stages() -> None:
    steps = pa.table({"ordinal": [0, 1, 2, 3], "step": ["where_b", "where_a", "utility", "diversity"]})
    held = [
        ("diversity", "vocabulary", None),
        ("utility", "accuracy", "stage=where_a"),
        ("utility", "accuracy", "stage=where_b"),
        ("utility", "accuracy", "size=1000"),
        ("utility", "accuracy", "size=200"),
        ("utility", "macro_f1", None),
        ("utility", "accuracy", None),
        ("utility", "f1", "label=b=c"),
        ("utility", "f1", "label=a"),
    ]
    rows = [{"step": step, "metric": metric, "slice": of, "value": 1.0} for step, metric, of in held]
    metrics = pa.Table.from_pylist(rows, schema=METRICS)
    with Query({"metrics": metrics, "steps": steps}) as query:
        found = query.rows(f"SELECT step, metric, slice FROM ({shipped('views/measured.sql')})")
    assert found == [held[place] for place in (6, 5, 4, 3, 2, 1, 8, 7, 0)]
