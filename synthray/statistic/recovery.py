"""How much of what real training rows teach is recovered by others, corrected for chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synthray.statistic.interval import percentiles
from synthray.statistic.paired import Score


@dataclass(frozen=True)
class Recovery(Score):
    """A recovery; its samples are NaN where real rows teach nothing."""

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the percentile interval, in which a sample that is NaN may be anything, at either end.

        NaN where there are more of these than an end holds: no number bounds the recovery.
        """
        unknown = np.isnan(self.resampled)
        if unknown.sum() > (1 - confidence) / 2 * (len(unknown) - 1):
            return np.nan, np.nan
        low, _ = percentiles(np.where(unknown, -np.finfo(np.float64).max, self.resampled), confidence)
        _, high = percentiles(np.where(unknown, np.finfo(np.float64).max, self.resampled), confidence)
        return low, high


def recovery(student: Score, majority: Score, real: Score) -> Recovery:
    """Return (student - majority) / (real - majority): 1 is as good as real rows, 0 no better than chance.

    NaN where real rows are not above the majority, in all or on a sample: there is nothing to recover.
    """
    gained, possible = student - majority, real - majority
    value = gained.value / possible.value if possible.value > 0 else np.nan
    above = possible.resampled > 0
    found = np.divide(gained.resampled, possible.resampled, out=np.full(len(above), np.nan), where=above)
    return Recovery(value, found)
