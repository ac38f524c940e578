"""How two columns of numbers go together: Pearson, Spearman, Kendall; NaN where one of them is constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]


def pearson(one: Numbers, other: Numbers) -> float:
    """Return Pearson's r: how near the pairs are to a line."""
    if _constant(one) or _constant(other):
        return float("nan")
    # Of the largest 1, so that no square is lost or too large.
    about = [held - held.mean() for held in (np.asarray(one, np.float64), np.asarray(other, np.float64))]
    first, second = (held / np.abs(held).max() for held in about)
    found = float(first @ second / np.sqrt((first @ first) * (second @ second)))
    return min(1.0, max(-1.0, found))


def spearman(one: Numbers, other: Numbers) -> float:
    """Return Spearman's rho: Pearson's r of the ranks, equal values sharing theirs."""
    from scipy.stats import rankdata

    return pearson(rankdata(one), rankdata(other))


def kendall(one: Numbers, other: Numbers) -> float:
    """Return Kendall's tau-b (1945): pairs in one order less those in two, corrected for equal values."""
    from scipy.stats import kendalltau

    if _constant(one) or _constant(other):
        return float("nan")
    return float(kendalltau(one, other, variant="b").statistic)


CORRELATIONS: Mapping[str, Callable[[Numbers, Numbers], float]] = {
    "spearman": spearman,
    "kendall": kendall,
    "pearson": pearson,
}


def _constant(values: Numbers) -> bool:
    return len(values) < 2 or bool((values == values[0]).all())
