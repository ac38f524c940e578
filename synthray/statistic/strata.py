"""Rows in an order of which each beginning holds the labels in the proportion that all rows do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]


def order(labels: Sequence[str], random: np.random.Generator) -> Numbers:
    """Return the places of n labels in a random order of which the first m are a stratified sample.

    Of each label it holds its share of m, to within one row: the i-th of a label's k rows, in random order,
    stands at (i - 1/2) / k of the way. A larger sample holds a smaller one.
    """
    held = np.asarray(labels, dtype=object).astype(str)
    _, codes = np.unique(held, return_inverse=True)
    shuffled = random.permutation(len(codes))
    own = codes[shuffled]
    by_label = np.argsort(own, kind="stable")
    sizes = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
    firsts = np.cumsum(sizes) - sizes
    rank = np.empty(len(codes))
    rank[by_label] = np.arange(len(codes)) - firsts[own[by_label]]
    way = (rank + 0.5) / sizes[own]
    result: Numbers = shuffled[np.argsort(way, kind="stable")]
    return result
