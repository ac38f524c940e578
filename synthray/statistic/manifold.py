"""Precision, recall, density and coverage: two samples compared by balls around their own neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 1 << 22
_DECIMALS = 12
"""Below these, squared distances of unit vectors are noise: equal vectors shall be at no distance."""


@dataclass(frozen=True)
class Manifold:
    """What balls hold: each real row's reaches to its k-th nearest real row, each made row's likewise.

    Precision (Kynkaanniemi et al. 2019, arXiv 1904.06991) is the share of made rows inside a real ball,
    recall the share of real rows inside a made ball. Density (Naeem et al. 2020, arXiv 2002.09797) is how
    many of `k` real balls hold a made row, coverage the share of real balls that hold one. A row on the
    surface is outside, so that rows with k copies have a ball that holds nothing. One value a row, so that
    a mean is the measure.
    """

    precision: Numbers
    recall: Numbers
    density: Numbers
    coverage: Numbers

    @classmethod
    def of(cls, real: Numbers, made: Numbers, k: int) -> Manifold:
        """Compare (n, d) with (m, d) unit vectors; both need more than `k`."""
        reach, made_reach = _reach(real, k), _reach(made, k)
        inside = np.zeros(len(made), np.int64)
        recall, coverage = np.zeros(len(real), bool), np.zeros(len(real), bool)
        for start in range(0, len(real), step := max(1, _AT_ONCE // len(made))):
            places = slice(start, start + step)
            distance = _squared(real[places], made)
            held = distance < reach[places, None]
            inside += held.sum(axis=0)
            coverage[places] = held.any(axis=1)
            recall[places] = (distance < made_reach).any(axis=1)
        return cls(inside > 0, recall, inside / k, coverage)


def _reach(vectors: Numbers, k: int) -> Numbers:
    """Return each vector's squared distance to the k-th nearest of the others."""
    if len(vectors) <= k:
        raise ValueError(f"{k} neighbours need more than {k} vectors, but there are {len(vectors)}")
    reach = np.empty(len(vectors))
    for start in range(0, len(vectors), step := max(1, _AT_ONCE // len(vectors))):
        distance = _squared(vectors[start : start + step], vectors)
        # A vector is the nearest to itself.
        reach[start : start + step] = np.partition(distance, k, axis=1)[:, k]
    return reach


def _squared(ones: Numbers, others: Numbers) -> Numbers:
    ones, others = ones.astype(np.float64), others.astype(np.float64)
    lengths = (ones * ones).sum(axis=1)[:, None] + (others * others).sum(axis=1)
    found: Numbers = np.maximum(np.round(lengths - 2 * (ones @ others.T), _DECIMALS), 0)
    return found
