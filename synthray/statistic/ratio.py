"""A sum by a sum over clusters, such as a share of rows that come in groups, with its interval.

The variance is the ratio estimator's by linearization (Cochran 1977, Sampling Techniques, 6.3 and 9A): what
stands for chance is how the clusters differ, so that rows of one cluster, which are alike, do not count as
many. It is of three sums of squares, which SQL adds up exactly however many rows there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Ratio:
    """The sum of `a` by the sum of `b` over `clusters` clusters whose b is not 0.

    `aa`, `ab` and `bb` are the sums over clusters of the squares and products of each cluster's a and b.
    """

    clusters: int
    a: float
    b: float
    aa: float
    ab: float
    bb: float

    @property
    def value(self) -> float:
        """The ratio; NaN where b is 0."""
        return self.a / self.b if self.b else math.nan

    @property
    def variance(self) -> float:
        """How much the ratio varies, with clusters as the divisor."""
        r = self.value
        return max(0.0, self.aa - 2 * r * self.ab + r * r * self.bb) / self.b**2 if self.b else math.nan

    def share(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Wilson's (1927) interval of a share, for as many rows as would vary so by themselves.

        With one row a cluster it is Wilson's own. NaN below two clusters.
        """
        if self.clusters < 2:
            return math.nan, math.nan
        value, chance = self.value, self.value * (1 - self.value)
        size = chance / self.variance if self.variance > 0 and chance > 0 else self.clusters
        square = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / size
        middle = (value + square / 2) / (1 + square)
        half = math.sqrt(square * (chance + square / 4)) / (1 + square)
        # Rounding leaves the value in it.
        return min(value, max(0.0, middle - half)), max(value, min(1.0, middle + half))

    def mean(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's interval of a mean; with one row a cluster it is the usual one. NaN below two."""
        from scipy.stats import t

        if self.clusters < 2:
            return math.nan, math.nan
        wide = t.ppf((1 + confidence) / 2, self.clusters - 1)
        half = float(wide) * math.sqrt(self.variance * self.clusters / (self.clusters - 1))
        return self.value - half, self.value + half
