"""Frechet distance: how far apart normal distributions are that have two samples' means and covariances."""

from __future__ import annotations

from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]


def frechet(ones: Numbers, others: Numbers) -> float:
    """Return |m - n|^2 + tr(C + D - 2 (C D)^(1/2)) of (n, d) and (m, d) vectors; both need 2 rows.

    The measure of Heusel et al. (2017, arXiv 1706.08500) for vectors of texts. With C = R'R and D = S'S by QR
    of the centred vectors, the trace of the root is the sum of the singular values of R S': no root of a
    matrix, so that fewer rows than dimensions, or equal rows, cost no accuracy.
    """
    mean, root = _moments(ones)
    other_mean, other_root = _moments(others)
    shared = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    spread = (root * root).sum() + (other_root * other_root).sum() - 2 * shared
    return max(0.0, float(((mean - other_mean) ** 2).sum() + spread))


def _moments(vectors: Numbers) -> tuple[Numbers, Numbers]:
    vectors = vectors.astype(np.float64)
    mean = vectors.mean(axis=0)
    return mean, np.linalg.qr(vectors - mean, mode="r") / np.sqrt(len(vectors) - 1)
