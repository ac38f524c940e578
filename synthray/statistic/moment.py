"""Moments of vectors that add up: mean cosines over all pairs and the Vendi score, without a pair.

The sum of unit vectors holds the sum of all their cosines, and the (d, d) sum of their products the
eigenvalues of the (n, n) matrix of cosines. So a part of the rows is d * d numbers, whatever its length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Mean:
    """A mean over pairs, and the number of vectors that have one; NaN where there is no pair."""

    value: float
    n: int


@dataclass(frozen=True)
class Sums:
    """Of vectors (d,): how many, their sum and that of their squared lengths, in float64."""

    count: int
    total: Numbers
    squares: float

    def __add__(self, other: Sums) -> Sums:
        """Return the sums of both."""
        return Sums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def cosines(self) -> float:
        """The sum of the cosines of each with each other, both ways."""
        return float(self.total @ self.total) - self.squares

    @property
    def pairs(self) -> int:
        """How many pairs there are, both ways."""
        return self.count * (self.count - 1)


@dataclass(frozen=True)
class Moments:
    """Of unit vectors: the sums of all and of those with a label, and the (d, d) sum of their products.

    Parts are added; only the last digits of float64 depend on how the rows were divided.
    """

    every: Sums
    second: Numbers
    labels: Mapping[str, Sums]

    @classmethod
    def of(cls, unit: Numbers, labels: Iterable[str | None] = ()) -> Moments:
        """Return the moments of unit vectors (n, d); `labels`, where there are any, is one for each."""
        unit = unit.astype(np.float64)
        places: dict[str, list[int]] = {}
        for place, name in enumerate(labels):
            if name is not None:
                places.setdefault(name, []).append(place)
        return cls(_sums(unit), unit.T @ unit, {name: _sums(unit[held]) for name, held in places.items()})

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both."""
        labels = dict(self.labels)
        for name, sums in other.labels.items():
            labels[name] = labels[name] + sums if name in labels else sums
        return Moments(self.every + other.every, self.second + other.second, labels)

    def similarity(self) -> Mean:
        """Return the mean cosine over all pairs."""
        return _mean(self.every.cosines, self.every.pairs, self.every.count)

    def within(self, label: str | None = None) -> Mean:
        """Return the mean cosine over pairs of one label: of `label`, or of any."""
        held = [self.labels[name] for name in sorted(self.labels)] if label is None else [self.labels[label]]
        return _mean(
            sum(one.cosines for one in held), sum(one.pairs for one in held), sum(one.count for one in held)
        )

    def between(self, label: str | None = None) -> Mean:
        """Return the mean cosine over pairs of two labels: of `label` and another, or of any two."""
        held = [self.labels[name] for name in sorted(self.labels)]
        if not held:
            return Mean(math.nan, 0)
        total, count = np.sum([one.total for one in held], axis=0), sum(one.count for one in held)
        if label is not None:
            own = self.labels[label]
            return _mean(float(own.total @ (total - own.total)), own.count * (count - own.count), own.count)
        cosines = float(total @ total) - sum(float(one.total @ one.total) for one in held)
        return _mean(cosines, count**2 - sum(one.count**2 for one in held), count)

    def vendi(self, order: float = 1.0) -> float:
        """Return the Vendi score (arXiv 2210.02410) of an order (arXiv 2310.12952) under the cosine kernel.

        It is the number of entirely different vectors that would be as varied: from 1, and at most the
        vectors' size d. Orders above 1 listen to what is frequent, orders below to what is rare. NaN of no
        vectors.
        """
        trace = float(np.trace(self.second))
        if not trace:
            return math.nan
        shares = np.linalg.eigvalsh(self.second) / trace
        shares = shares[shares > 0]
        if order == 1:
            return float(np.exp(-(shares * np.log(shares)).sum()))
        if math.isinf(order):
            return float(1 / shares.max())
        return float((shares**order).sum() ** (1 / (1 - order)))


def _sums(unit: Numbers) -> Sums:
    return Sums(len(unit), unit.sum(axis=0), float((unit * unit).sum()))


def _mean(cosines: float, pairs: int, count: int) -> Mean:
    return Mean(cosines / pairs if pairs else math.nan, count)
