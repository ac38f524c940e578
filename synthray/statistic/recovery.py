"""How much of what real training rows teach is recovered by others, corrected for chance."""

from __future__ import annotations

import numpy as np

from synthray.statistic.paired import Score


def recovery(student: Score, majority: Score, real: Score) -> Score:
    """Return (student - majority) / (real - majority): 1 is as good as real rows, 0 no better than chance.

    NaN where real rows are not above the majority, in all or on a sample: there is nothing to recover.
    """
    gained, possible = student - majority, real - majority
    value = gained.value / possible.value if possible.value > 0 else np.nan
    above = possible.resampled > 0
    found = np.divide(gained.resampled, possible.resampled, out=np.full(len(above), np.nan), where=above)
    return Score(value, found)
