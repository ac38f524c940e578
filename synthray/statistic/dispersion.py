"""How far vectors are from each other: distances to all, to the nearest, and NovelSum; pair by pair."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 1 << 22
"""Cosines that are held at once."""

_LEAST = 1e-9
"""What is added to the mean distance of neighbours, as in the published measure."""


def distances(unit: Numbers) -> tuple[float, float]:
    """Return the mean distance of unit vectors (n, d) to all others, and to the nearest other.

    The first is called remote-clique (Cox et al. 2021, arXiv 2101.06030). Distances are Euclidean, from 0 to
    2: the root of 2 - 2 cos. NaN of fewer than two.
    """
    count = len(unit)
    if count < 2:
        return math.nan, math.nan
    total = nearest = 0.0
    for start, cosine in _cosines(unit):
        apart = np.sqrt(np.maximum(2 - 2 * cosine, 0))
        own = np.arange(len(apart)), np.arange(start, start + len(apart))
        apart[own] = 0
        total += float(apart.sum())
        apart[own] = np.inf
        nearest += float(apart.min(axis=1).sum())
    return total / (count * (count - 1)), nearest / count


def novel_sum(unit: Numbers, neighbours: int = 10, density: float = 0.5, proximity: float = 1.0) -> float:
    """Return NovelSum (Yang et al. 2025, arXiv 2502.17184) of unit vectors (n, d), with published defaults.

    A vector's novelty is the mean of its cosine distances to all vectors, itself included, weighted by
    1/rank**proximity, times its density: 1 by the mean distance to `neighbours` (itself included), to the
    power `density`. NovelSum is the mean novelty; higher is more varied. Equal vectors are to be left out
    before: the density of a vector that is there ten times has no end. NaN of fewer than two.
    """
    count = len(unit)
    if count < 2:
        return math.nan
    weights = np.arange(1, count + 1) ** -float(proximity)
    total = 0.0
    for start, cosine in _cosines(unit):
        apart = np.maximum(1 - cosine, 0)
        apart[np.arange(len(apart)), np.arange(start, start + len(apart))] = 0
        apart.sort(axis=1)
        dense = (apart[:, :neighbours].mean(axis=1) + _LEAST) ** -density
        total += float((dense * (apart @ weights)).sum() / weights.sum())
    return total / count


def _cosines(unit: Numbers) -> Any:
    """Yield (first row, cosines with all) of some rows after others."""
    unit = unit.astype(np.float64)
    # Vectors of float32 have the length 1 to 7 digits alone, and distances of near ones are smaller.
    unit /= np.sqrt((unit * unit).sum(axis=1, keepdims=True))
    step = max(1, _AT_ONCE // len(unit))
    for start in range(0, len(unit), step):
        yield start, unit[start : start + step] @ unit.T
