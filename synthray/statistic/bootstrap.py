"""Bootstrap samples of units: rows that belong together are drawn together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from synthray.statistic.interval import generator, percentiles

Numbers = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Bootstrap:
    """Samples of n rows by their units (n,), which are numbered from 0: a row each, or rows of one origin.

    As many units are drawn as there are, with putting back, and a row is in a sample as often as its unit
    was drawn. Every statistic sees the same samples. Fewer than two units say nothing of chance: NaN.
    """

    units: Numbers
    resamples: int
    confidence: float
    seed: int

    def samples(self) -> Iterator[Numbers]:
        """Yield for each sample how often each row is in it (n,)."""
        random = generator(self.seed, "bootstrap")
        size = int(self.units.max()) + 1 if len(self.units) else 0
        for _ in range(self.resamples if size > 1 else 0):
            yield np.bincount(random.integers(0, size, size), minlength=size)[self.units]

    def drawn(self, statistic: Callable[[Numbers], Any]) -> Numbers:
        """Return a statistic that makes k values of weights of rows (n,) on each sample (R, k)."""
        return np.array([np.atleast_1d(statistic(weight)) for weight in self.samples()], np.float64)

    def interval(self, values: Numbers) -> tuple[float, float]:
        """Return the percentiles of resampled values (R,); NaN where one of them is not defined."""
        if not len(values):
            return float("nan"), float("nan")
        return percentiles(values, self.confidence)

    def share(self, value: float, values: Numbers, units: int) -> tuple[float, float]:
        """Return the interval of a share of rows in so many units, of which `values` (R,) are resampled.

        It is Wilson's (1927), for the number of rows that would vary as much by themselves. Percentiles
        have no width where all rows are alike, however few they are. NaN of fewer than two units.
        """
        known = values[~np.isnan(values)]
        if units < 2 or not len(known) or np.isnan(value):
            return float("nan"), float("nan")
        spread, chance = float(known.var()), value * (1 - value)
        size = chance / spread if spread > 0 and chance > 0 else units
        square = NormalDist().inv_cdf((1 + self.confidence) / 2) ** 2 / size
        middle = (value + square / 2) / (1 + square)
        half = (square * (chance + square / 4)) ** 0.5 / (1 + square)
        # Rounding leaves the value in it.
        return min(value, max(0.0, middle - half)), max(value, min(1.0, middle + half))


def ratio(above: Any, below: Any) -> Numbers:
    """Return above / below, NaN where below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0))
