"""A sample is measured the same in any order, by its groups, and says of how many rows."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray.query import Query
from synthray.sample import Sample, measured

ROWS = [
    {"row_id": f"r{n:03}", "score": n % 5 + n / 7, "group": None if n % 10 == 0 else f"g{n // 4}"}
    for n in range(60)
]


def read(rows: list[dict[str, Any]], group: str | None = None, where: str = "true") -> Sample:
    with Query({"rows": pa.Table.from_pylist(rows)}) as query:
        return Sample.read(
            query, {"score": "score"}, where, group=group, resamples=200, confidence=0.95, seed=3
        )


def test_no_order_of_the_rows_shows() -> None:
    shuffled = list(ROWS)
    random.Random(1).shuffle(shuffled)
    found = []
    for rows in (ROWS, shuffled):
        sample = read(rows, "group")
        score = sample.numbers("score")
        found.append(sample.ratios({("mean", None): (score, np.ones(len(sample)))}))
    assert found[0] == found[1]


def test_rows_of_a_group_are_one_unit_and_those_without_are_alone() -> None:
    units = read(ROWS, "group").bootstrap.units
    names = [row["group"] or row["row_id"] for row in ROWS]
    together = np.equal.outer(units, units)
    assert (together == np.equal.outer(np.array(names), np.array(names))).all()
    assert len(set(read(ROWS).bootstrap.units.tolist())) == 60


def test_copies_in_a_group_add_no_certainty() -> None:
    copies = [
        {**row, "row_id": f"{row['row_id']}-{n}", "group": row["row_id"]} for row in ROWS for n in range(5)
    ]

    def width(sample: Sample) -> float:
        (one,) = sample.ratios({("mean", None): (sample.numbers("score"), np.ones(len(sample)))})
        return float(one["ci_high"] - one["ci_low"])

    once, grouped, alone = width(read(ROWS)), width(read(copies, "group")), width(read(copies))
    assert grouped == pytest.approx(once, rel=0.2)
    assert alone < once / 1.8


def test_means_have_percentiles_and_shares_wilsons_interval() -> None:
    sample = read([{**row, "score": 3.0} for row in ROWS])
    every = np.ones(60)
    mean, share = sample.ratios({("mean", None): (every * 3, every), ("share", None): (every, every)})
    assert (mean["ci_low"], mean["ci_high"]) == (3, 3)
    assert share["ci_low"] == pytest.approx(1 / (1 + 1.96**2 / 60), abs=1e-3)
    assert share["ci_high"] == 1


def test_a_ratio_by_nothing_is_nan_of_no_row() -> None:
    sample = read(ROWS)
    (one,) = sample.ratios({("mean", "a=b"): (np.zeros(60), np.zeros(60))})
    assert math.isnan(one.pop("value"))
    assert one == {"metric": "mean", "n": 0, "slice": "a=b"}


def test_no_row_is_nan_and_no_error() -> None:
    sample = read(ROWS, where="false")
    (one,) = sample.ratios({("mean", None): (sample.numbers("score"), np.ones(0))})
    assert math.isnan(one["value"])
    other = sample.statistic("any", lambda weight: float("nan"), 0)
    assert math.isnan(other["value"])


def test_a_part_keeps_its_units_and_forgets_others() -> None:
    sample = read(ROWS, "group")
    chosen = np.arange(60) % 2 == 1
    part = sample.where(chosen)
    assert part.rows["row_id"].to_pylist() == [row["row_id"] for row in ROWS[1::2]]
    old, new = sample.bootstrap.units[chosen], part.bootstrap.units
    assert (np.equal.outer(old, old) == np.equal.outer(new, new)).all()
    assert set(new.tolist()) == set(range(len(set(old.tolist()))))


def test_an_interval_that_is_not_defined_is_null() -> None:
    assert measured("m", 1, float("nan"), 2.0, 3) == {"metric": "m", "value": 1.0, "n": 3, "slice": None}
