"""The measures of texts by name, and what the default gate refuses of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from synthray.evaluate.diversity import Diversity
from synthray.gate import asked_for, decide
from synthray.metric import METRICS

OPERATOR = Diversity(text="text")
Found = dict[tuple[str, str | None], tuple[float, int]]


def rows(texts: Sequence[str | None], **columns: Any) -> pa.Table:
    ids = [hashlib.md5(f"{number}".encode()).hexdigest() for number in range(len(texts))]
    return pa.table({"row_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string()), **columns})


def by_name(measured: Sequence[Mapping[str, Any]]) -> Found:
    assert all(row["ci_low"] is None and row["ci_high"] is None for row in measured)
    found = {(row["metric"], row["slice"]): (row["value"], row["n"]) for row in measured}
    assert len(found) == len(measured), "a metric is named once for each slice"
    return found


def measured(table: pa.Table | Sequence[str | None], operator: Diversity = OPERATOR) -> Found:
    return by_name(operator(table if isinstance(table, pa.Table) else rows(table)).to_pylist())


def whole(found: Found) -> dict[str, tuple[float, int]]:
    return {metric: value for (metric, name), value in found.items() if name is None}


def refused(table: pa.Table, operator: Diversity = OPERATOR) -> set[str]:
    """Return the metrics that the default conditions refuse rows by."""
    held = operator(table).to_pylist()
    metrics = pa.Table.from_pylist([{**row, "step": "diversity"} for row in held], schema=METRICS)
    conditions = asked_for(["default"], {"diversity": operator.gate()})
    return {one.condition.split(".")[1] for one in decide(conditions, metrics) if not one.passed}


def drawn(seed: int, count: int, vocabulary: int = 30) -> list[str]:
    generator = random.Random(seed)
    return [
        " ".join(f"w{int(generator.expovariate(1 / vocabulary))}" for _ in range(generator.randint(3, 25)))
        for _ in range(count)
    ]
