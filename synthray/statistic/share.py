"""Shares and means of rows that come in families: copies and siblings say less than as many strangers do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from synthray.statistic.interval import percentiles

Numbers = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 1 << 18


def interval(
    values: Numbers, families: Sequence[str], confidence: float, random: np.random.Generator, resamples: int
) -> tuple[float, float]:
    """Return the interval of the mean of (n,) values by bootstrap samples of families; NaN below two."""
    totals, sizes = _totals(values, families)
    if len(totals) < 2:
        return float("nan"), float("nan")
    means = np.empty(resamples)
    for start in range(0, resamples, step := max(1, _AT_ONCE // len(totals))):
        drawn = random.integers(0, len(totals), (min(step, resamples - start), len(totals)))
        means[start : start + step] = totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return percentiles(means, confidence)


def chance(right: Numbers, families: Sequence[str]) -> float:
    """Return the probability of so large a share of `right`, (n,) bools, were each a toss of a coin.

    Normal, with the variance that families have who toss together: for families of one row the binomial's.
    """
    totals, sizes = _totals(right, families)
    above = totals - sizes / 2
    spread = float(np.sqrt((above * above).sum()))
    return float(norm.sf(above.sum() / spread)) if spread else 0.5


def _totals(values: Numbers, families: Sequence[str]) -> tuple[Numbers, Numbers]:
    names, family = np.unique(np.asarray(families, dtype=str), return_inverse=True)
    held = np.asarray(values, np.float64)
    return np.bincount(family, held, len(names)), np.bincount(family, minlength=len(names))
