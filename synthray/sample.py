"""Rows of which something is measured, with intervals from bootstrap samples of their groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthray.spelling import identifier
from synthray.statistic.bootstrap import Bootstrap, ratio

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.query import Query

SOURCE = Path(__file__)
"""For the fingerprints of operators that measure samples."""

Numbers = np.ndarray[Any, np.dtype[Any]]
Ratios = Mapping[tuple[str, str | None], tuple[Any, Any]]


@dataclass(frozen=True)
class Sample:
    """Rows in the order of row_id, and the bootstrap of them."""

    rows: pa.Table
    bootstrap: Bootstrap

    @classmethod
    def read(
        cls,
        query: Query,
        columns: Mapping[str, str],
        where: str,
        *,
        group: str | None,
        resamples: int,
        confidence: float,
        seed: int,
    ) -> Sample:
        """Read row_id and `columns` (name -> SQL) of the relation `rows` where a condition holds.

        Rows of one value in the column `group` are a unit; a row without one is alone.
        """
        unit = f"coalesce(CAST({identifier(group)} AS VARCHAR), row_id)" if group else "row_id"
        listed = "".join(f", {sql} AS {identifier(name)}" for name, sql in columns.items())
        table = query.arrow(f"SELECT row_id, {unit} AS unit{listed} FROM rows WHERE {where} ORDER BY row_id")
        units = table["unit"].combine_chunks().dictionary_encode().indices.to_numpy()
        return cls(table.drop_columns(["unit"]), Bootstrap(units, resamples, confidence, seed))

    def __len__(self) -> int:
        return len(self.rows)

    def numbers(self, column: str) -> Numbers:
        """Return a column of numbers (n,), NaN for null."""
        held: Numbers = self.rows[column].to_numpy().astype(np.float64)
        return held

    def ratios(self, named: Ratios) -> list[dict[str, Any]]:
        """Return measurements of sums by sums: (metric, slice) -> what is added up (n,) above and below.

        n is of how many rows something is below. Shares have Wilson's interval; see Bootstrap.share.
        """
        above = np.column_stack([np.asarray(one, np.float64) for one, _ in named.values()])
        below = np.column_stack([np.asarray(one, np.float64) for _, one in named.values()])

        def of(weight: Numbers) -> Numbers:
            return ratio(weight @ above, weight @ below)

        values, drawn = of(np.ones(len(self))), self.bootstrap.drawn(of)
        found = []
        for place, (metric, part) in enumerate(named):
            there = below[:, place] != 0
            own = drawn[:, place] if len(drawn) else drawn
            if ((above[:, place] >= 0) & (above[:, place] <= below[:, place])).all():
                units = len(np.unique(self.bootstrap.units[there]))
                low, high = self.bootstrap.share(float(values[place]), own, units)
            else:
                low, high = self.bootstrap.interval(own)
            found.append(measured(metric, values[place], low, high, int(there.sum()), part))
        return found

    def statistic(self, metric: str, of: Callable[[Numbers], float], n: int) -> dict[str, Any]:
        """Return the measurement of a statistic of the rows' weights (n,)."""
        low, high = self.bootstrap.interval(self.bootstrap.drawn(of).ravel())
        return measured(metric, of(np.ones(len(self), np.int64)), low, high, n)

    def where(self, chosen: Numbers) -> Sample:
        """Return the chosen (n,) of the rows; units of which none is left are no more."""
        import pyarrow as pa

        units = np.unique(self.bootstrap.units[chosen], return_inverse=True)[1]
        held = self.bootstrap
        return Sample(
            self.rows.filter(pa.array(chosen)),
            Bootstrap(units, held.resamples, held.confidence, held.seed),
        )


def measured(metric: str, value: Any, low: Any, high: Any, n: int, part: str | None = None) -> dict[str, Any]:
    """Return a measurement; an interval that is not defined is null."""
    bounds = {} if np.isnan(low) or np.isnan(high) else {"ci_low": float(low), "ci_high": float(high)}
    return {"metric": metric, "value": float(value), "n": n, "slice": part, **bounds}
