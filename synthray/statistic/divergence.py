"""MAUVE and its kin: how two samples are spread over the same cells of the space of their vectors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import rel_entr

from synthray.statistic.interval import generator

Numbers = np.ndarray[Any, np.dtype[Any]]

_VARIANCE = 0.9
_ROWS_A_CELL = 10
_MIXTURES = 25
_SCALE = 5.0
_EDGE = 1e-6


@dataclass(frozen=True)
class Divergence:
    """What two histograms over the same cells say: MAUVE from 0 to 1 (equal), the integral from 1 to 0.

    MAUVE (Pillutla et al. 2021, arXiv 2102.01454) is the area under the curve of exp(-5 KL(q|r)) and
    exp(-5 KL(p|r)) over 25 mixtures r of p and q; `mauve_star` (2023, arXiv 2212.14578) the same with half a
    row more in each cell, which small samples want. `frontier_integral` (Liu et al. 2021, arXiv 2106.07898)
    is twice the integral of w KL(p|r) + (1 - w) KL(q|r) over the mixtures r = w p + (1 - w) q.
    """

    mauve: float
    mauve_star: float
    frontier_integral: float

    @classmethod
    def of(cls, p: Numbers, q: Numbers) -> Divergence:
        """Compare the numbers of rows in each cell, (K,) and (K,)."""
        return cls(_area(p, q), _area(p + 0.5, q + 0.5), _integral(p / p.sum(), q / q.sum()))


def divergence(p: Numbers, q: Numbers, seed: int) -> Divergence:
    """Compare (n, d) with (m, d) unit vectors, over k-means cells of their leading principal components.

    Components keep 0.9 of the variance; there is a cell for ten rows of the smaller sample.
    """
    cells = max(2, round(min(len(p), len(q)) / _ROWS_A_CELL))
    label = cell(np.concatenate([p, q]), cells, seed)
    return Divergence.of(
        np.bincount(label[: len(p)], minlength=cells), np.bincount(label[len(p) :], minlength=cells)
    )


def cell(vectors: Numbers, cells: int, seed: int) -> Numbers:
    """Return the number of the k-means cell of each of (n, d) vectors; equal ones are in the same."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    # Copies count by weight, so that no rounding cuts them apart.
    distinct, inverse, sizes = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    number = int(generator(seed, "mauve").integers(2**31))
    with warnings.catch_warnings():
        # Fewer cells than asked for are what few different vectors have.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(min(cells, len(distinct)), random_state=number, n_init=1, max_iter=500)
        label = means.fit(_projected(distinct, sizes), sample_weight=sizes).labels_
    found: Numbers = label[inverse.reshape(-1)]
    return found


def jensen_shannon(p: Numbers, q: Numbers) -> float:
    """Return the Jensen-Shannon divergence of counts, (K,) and (K,), in bits: 0 for equal shares, at most 1.

    Of the words of two samples it is the field's plainest measure of how far apart their domains are (Plank
    and van Noord 2011). NaN where one has no count.
    """
    if not p.sum() or not q.sum():
        return float("nan")
    p, q = p / p.sum(), q / q.sum()
    mixed = (p + q) / 2
    return float((rel_entr(p, mixed) + rel_entr(q, mixed)).sum() / 2 / np.log(2))


def _projected(vectors: Numbers, sizes: Numbers) -> Numbers:
    """Return (n, c) principal components of (n, d) vectors, of which there are so many each."""
    weight = sizes / sizes.sum()
    centred = vectors.astype(np.float64)
    centred = centred - weight @ centred
    variance, axes = np.linalg.eigh((centred * weight[:, None]).T @ centred)
    variance, axes = np.maximum(variance[::-1], 0), axes[:, ::-1]
    most = int(np.searchsorted(np.cumsum(variance), _VARIANCE * variance.sum())) + 1
    found: Numbers = centred @ axes[:, :most]
    return found


def _area(p: Numbers, q: Numbers) -> float:
    p, q = p / p.sum(), q / q.sum()
    weight = np.linspace(_EDGE, 1 - _EDGE, _MIXTURES)[:, None]
    mixed = weight * p + (1 - weight) * q
    # The curve begins and ends at the axes.
    across = np.concatenate([[1.0], np.exp(-_SCALE * rel_entr(q, mixed).sum(axis=1)), [0.0]])
    up = np.concatenate([[0.0], np.exp(-_SCALE * rel_entr(p, mixed).sum(axis=1)), [1.0]])
    return float(-np.trapezoid(up, across))


def _integral(p: Numbers, q: Numbers) -> float:
    """Return the integral in its closed form, (p + q)/2 - p q ln(p/q)/(p - q) for each cell."""
    apart = p - q
    both = (p > 0) & (q > 0) & (apart != 0)
    shared = np.where(apart == 0, p, 0.0)
    shared[both] = p[both] * q[both] * np.log1p(apart[both] / q[both]) / apart[both]
    return float(((p + q) / 2 - shared).sum())
