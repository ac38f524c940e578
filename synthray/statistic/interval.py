"""Intervals of what was measured: percentiles of bootstrap samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from synthray.lineage import uniform


def generator(seed: int, *parts: Any) -> np.random.Generator:
    """Return NumPy's random numbers that depend on `seed` and `parts` alone."""
    return np.random.default_rng(int(uniform(*parts, seed) * 2**53))


def percentiles(resampled: Any, confidence: float) -> tuple[float, float]:
    """Return the interval that holds the share `confidence` of (R,) resampled values in its middle.

    NaN where one of them is no number: it says that what was measured is not defined on all samples.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(resampled, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)
