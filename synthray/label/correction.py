"""How many labels are right, from the few that people gave: prediction-powered inference.

People answer for some rows, a model believes something of all. The model's mean over all rows, mended by how
wrong it is on the rows of people, is unbiased however bad the model (Angelopoulos et al. 2023, arXiv
2301.09633; ARES, arXiv 2311.09476), and no worse than people alone when its part is tuned (PPI++, arXiv
2311.01453). The rows are all there are, not a sample of more: the model's mean over them is known, and only
the choice of rows is random. For rows chosen by chance the value is PPI++'s (its tuning, where it compares
with the N rows that nobody answered, is ours divided by 1 + n / N), and the interval lacks the part that
stands for rows that might have been there instead.

The tuning is fitted on the same answers, not on other folds, and kept from 0 to 1; a degree of freedom pays
for it. Beliefs must not be learned from the answers that correct them.

The plain normal interval fails where nearly all labels are right: of 50 answers often none is wrong, and it
has no width. So the interval is Wilson's for the number of answers that would be as precise, with Student's
t; strata are joined by the method of variance estimates recovery (Zou and Donner 2008), which keeps their
lopsidedness. benchmarks/correction.py shows its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

_TUNED = 10
"""Fewer answers say too little of how much the model is worth."""

_NOTHING = 1e-9
"""A variance below this part of the largest that there can be is rounding: all values are one."""


@dataclass(frozen=True)
class Estimate:
    """A share of the rows with its interval, how much the model counts for it, and the number of answers."""

    value: float
    low: float
    high: float
    tuning: float = 0.0
    n: int = 0


UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Stratum:
    """Rows that were given to people in one way: `size` rows, of which a model believes `belief` on average.

    Of the answered ones: whether the label is `right` (0 or 1), what the model believes of that (0 to 1), and
    their `weights`, the inverse of the probability with which each was chosen; a common factor is nothing.
    """

    size: int
    belief: float
    right: Numbers
    beliefs: Numbers
    weights: Numbers

    @property
    def n(self) -> int:
        """The number of answers."""
        return len(self.right)

    @property
    def unknown(self) -> bool:
        """Whether nothing follows from the answers."""
        return self.n < 2 and self.n < self.size

    def estimate(self, confidence: float = 0.95, *, tuned: bool = True) -> Estimate:
        """Return the share of rows whose label is right; untuned, it is that of the answers alone.

        Where all rows are answered it is known. Of fewer than two answers nothing follows: it is what the
        model believes, and may be anything.
        """
        if self.unknown:
            return Estimate(self.belief, 0.0, 1.0, 1.0, self.n)
        shares = self.weights / self.weights.sum()
        unsure = 1 - np.minimum(1.0, 1 / (shares * self.size))
        alone = float((unsure * shares**2).sum())
        tuning = self._tuning(shares, unsure) if tuned and self.n >= _TUNED else 0.0
        rest = self.right - tuning * self.beliefs
        value = min(1.0, max(0.0, tuning * self.belief + float(shares @ rest)))
        if alone == 0:
            return Estimate(value, value, value, tuning, self.n)
        fitted = tuned and self.n >= _TUNED
        # So many answers alone would say as much: the variance of a share is share (1 - share) / n.
        share, spread = float(shares @ self.right), _variance(rest, rest, shares, unsure)
        mixed = 0 < self.right.sum() < self.n and spread > _NOTHING * alone
        as_many = share * (1 - share) / spread if mixed else 1 / alone
        as_many *= (self.n - 2) / (self.n - 1) if fitted else 1.0
        quantile = _normal(confidence) if not tuned else _student(confidence, self.n - (2 if fitted else 1))
        return Estimate(value, *_wilson(value, as_many, quantile), tuning, self.n)

    def _tuning(self, shares: Numbers, unsure: Numbers) -> float:
        """Return the part of the model with which the variance is least (PPI++), from 0 to 1."""
        spread = _variance(self.beliefs, self.beliefs, shares, unsure)
        together = _variance(self.right, self.beliefs, shares, unsure)
        return (
            min(1.0, max(0.0, together / spread)) if spread > _NOTHING * (unsure * shares**2).sum() else 0.0
        )


def joined(strata: Sequence[Stratum], confidence: float = 0.95, *, tuned: bool = True) -> Estimate:
    """Return the share over all strata; nothing is known where fewer than two rows are answered."""
    strata = [stratum for stratum in strata if stratum.size]
    answers = sum(stratum.n for stratum in strata)
    if answers < 2:
        return Estimate(UNKNOWN.value, UNKNOWN.low, UNKNOWN.high, UNKNOWN.tuning, answers)
    found = [stratum.estimate(confidence, tuned=tuned) for stratum in strata]
    parts = np.array([stratum.size for stratum in strata]) / sum(stratum.size for stratum in strata)
    value = math.fsum(part * one.value for part, one in zip(parts, found, strict=True))
    below = _together(strata, [part * (one.value - one.low) for part, one in zip(parts, found, strict=True)])
    above = _together(strata, [part * (one.high - one.value) for part, one in zip(parts, found, strict=True)])
    tuning = math.fsum(part * one.tuning for part, one in zip(parts, found, strict=True))
    return Estimate(value, max(0.0, value - below), min(1.0, value + above), tuning, answers)


def _together(strata: Sequence[Stratum], errors: Sequence[float]) -> float:
    """Return an error of the sum: those of chance by their squares, and in full what nothing is known of."""
    held = list(zip(strata, errors, strict=True))
    by_chance = math.hypot(*(error for stratum, error in held if not stratum.unknown))
    return by_chance + math.fsum(error for stratum, error in held if stratum.unknown)


def _variance(one: Numbers, other: Numbers, shares: Numbers, unsure: Numbers) -> float:
    """Return the covariance of two weighted means over the choice of rows: of a ratio, by its linear part."""
    about_one, about_other = one - shares @ one, other - shares @ other
    return float((unsure * shares**2 * about_one * about_other).sum())


def _wilson(value: float, n: float, quantile: float) -> tuple[float, float]:
    square = quantile * quantile / n
    middle = (value + square / 2) / (1 + square)
    half = quantile / (1 + square) * math.sqrt(value * (1 - value) / n + square / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _normal(confidence: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + confidence) / 2)


def _student(confidence: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))
