"""What two samples of rows differ in: means, shares, numbers of different n-grams, distances of vectors.

All are sums over parts (see permutation.Design), so that many permutations are one product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthray.statistic.interval import generator
from synthray.statistic.permutation import Design, Verdicts, step_down

Numbers = np.ndarray[Any, np.dtype[Any]]
Sides = tuple[Numbers, Numbers]
"""Which parts the first and the second side have, for each of b draws."""

FREQUENCIES = 256
"""Random Fourier features of the vectors: the cosine and sine of each. The test is exact for any number."""

_COLUMNS = 64
"""Draws multiplied at once with a sparse matrix."""


@dataclass(frozen=True)
class Estimate:
    """A statistic on both sides, their difference (second less first) and its interval; NaN: not defined."""

    first: float
    second: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Means:
    """Means over rows: (parts, S) sums of values and numbers of values.

    `shares` picks the S that are shares of one whole (labels); their distance is then a statistic of its own.
    """

    sums: Numbers
    counts: Numbers
    shares: tuple[int, ...] = ()

    def over(self, design: Design, block: Sides) -> Numbers:
        """Return (b, S or S + 1) differences for a block of draws.

        Rows count by 1 / their sample's rows for a part: a run that makes more of each root is no other for
        it, and what all rows of a root have in common still cancels when a root swaps its two parts.
        """
        weight = self._weights(design)[:, None]
        size = self.sums.shape[1]
        held = np.concatenate([self.sums * weight, self.counts * weight], axis=1)
        sided = [one.astype(np.float64) @ held for one in block]
        first, second = (_ratio(one[:, :size], one[:, size:]) for one in sided)
        out: Numbers = second - first
        if not self.shares:
            return out
        at = list(self.shares)
        whole = held[:, at].sum(axis=0) / max(1e-300, float(held[:, size + at[0]].sum()))
        scale = np.where(whole > 0, whole, 1.0)
        apart = np.sqrt((out[:, at] ** 2 / scale).sum(axis=1, keepdims=True))
        return np.concatenate([out, apart], axis=1)

    def _weights(self, design: Design) -> Numbers:
        if design.both:  # the sides hold the same rows
            return np.ones(design.parts)
        rows = self.counts.max(axis=1, initial=0)
        first, second = (rows[one].sum() / max(1, int(one.sum())) for one in design.observed)
        weight: Numbers = np.where(design.observed[0], 1 / (first or 1.0), 1 / (second or 1.0))
        return weight

    def estimates(self, design: Design, z: float) -> list[Estimate]:
        """Return both means, their difference and the interval of z standard errors for each statistic.

        The errors are of means linearised over units, as large as those that units drawn anew would show.
        """
        found = []
        for sums, counts in zip(self.sums.T, self.counts.T, strict=True):
            means, pulls = [], []
            for shown in design.observed:
                mean = float(_ratio(sums[shown].sum(), counts[shown].sum()))
                pull = np.zeros(design.parts)
                pull[shown] = (sums[shown] - mean * counts[shown]) / max(1.0, counts[shown].sum())
                means.append(mean)
                pulls.append(pull)
            found.append(_estimate(design, means, pulls, design.observed, np.arange(design.parts), z))
        if self.shares:
            first, second = design.observed
            apart = float(self.over(design, (first[None, :], second[None, :]))[0, -1])
            found.append(Estimate(np.nan, np.nan, apart, np.nan, np.nan))
        return found


@dataclass(frozen=True)
class Kinds:
    """Different kinds (words, n-grams, texts) in as many rows of both sides, on some of the parts.

    `at` (P,) are those parts, in a random order; paired, all of the first side and then their partners.
    `held` is a sparse (kinds, P) matrix of in how many rows of a part a kind is, `rows` and `tokens` (P,) how
    many rows and occurrences a part has. Each side shows its first `most` parts that have rows. `per_token`
    divides by the occurrences (distinct-n), else the number itself is meant.
    """

    at: Numbers
    held: Any
    rows: Numbers
    tokens: Numbers
    most: int | None
    per_token: bool

    def over(self, block: Sides) -> Numbers:
        """Return (b, 2): the difference for each draw, and that of the numbers of rows, see `level`."""
        present = self.held.copy()
        present.data = np.ones(len(present.data), np.float32)
        owners = np.diff(present.indptr)
        alone = np.bincount(present[owners == 1].indices, minlength=len(self.rows)).astype(np.float64)
        several = present[owners > 1]
        found = []
        for shown in self._shown(block):
            counted = shown.astype(np.float64)
            value = counted @ alone
            for start in range(0, len(shown), _COLUMNS):
                part = np.ascontiguousarray(shown[start : start + _COLUMNS].T, dtype=np.float32)
                value[start : start + _COLUMNS] += np.count_nonzero(several @ part, axis=0)
            if self.per_token:
                value = _ratio(value, counted @ self.tokens)
            found.append((value, counted @ self.rows))
        return np.stack([second - first for first, second in zip(*found, strict=True)], axis=1)

    def estimate(self, design: Design, z: float) -> Estimate:
        """Return the expected values in as many rows as the smaller side has, in closed form (rarefaction).

        Of n rows of which c hold a kind, m drawn without replacement miss it with chance C(n - c, m) / C(n,
        m) (Hurlbert 1971). The interval is the jackknife's over units, which is rather too wide (Efron &
        Stein 1981).
        """
        shown = self._observed(design)
        sizes = [float(self.rows[one].sum()) for one in shown]
        sides = [self._of_side(one, size, min(sizes)) for one, size in zip(shown, sizes, strict=True)]
        values, pulls = zip(*sides, strict=True)
        return _estimate(design, values, pulls, shown, self.at, z)

    def equal_rows(self, design: Design) -> int:
        """Return how many rows of each side are compared."""
        return int(min(self.rows[one].sum() for one in self._observed(design)))

    def _of_side(self, shown: Numbers, size: float, equal: float) -> tuple[float, Numbers]:
        """Return a side's value in `equal` of its rows, and what each part pulls it by."""
        pull = np.zeros(len(shown))
        if not equal:
            return np.nan, pull
        held = self.held[:, np.flatnonzero(shown)]
        value = rarefied(np.asarray(held.sum(axis=1)).ravel(), size, equal)
        alone = np.bincount(held[np.diff(held.indptr) == 1].indices, minlength=int(shown.sum())).astype(
            np.float64
        )
        if self.per_token:
            tokens = self.tokens[shown]
            value = float(_ratio(value, tokens.sum() * equal / size))
            alone = (alone - value * tokens) / max(1.0, float(tokens.sum()))
        pull[shown] = alone - alone.mean()
        return value, pull

    def _observed(self, design: Design) -> list[Numbers]:
        first, second = design.observed
        return [one[0] for one in self._shown((first[None, :], second[None, :]))]

    def _shown(self, block: Sides) -> list[Numbers]:
        """Return which parts of `at` each side shows, (b, P) booleans, for draws over all parts."""
        sides = [one[:, self.at] & (self.rows > 0) for one in block]
        if self.most is None:
            return sides
        return [one & (np.cumsum(one, axis=1, dtype=np.int32) <= self.most) for one in sides]


@dataclass(frozen=True)
class Cloud:
    """Vectors of rows of the parts `at` (P,): (P, D) sums of `features`, and (P,) how many rows have one."""

    at: Numbers
    sums: Numbers
    rows: Numbers

    def over(self, block: Sides) -> Numbers:
        """Return (b, 1) distances of mean features: the maximum mean discrepancy (Gretton et al. 2012)."""
        held = np.concatenate([self.sums, self.rows[:, None]], axis=1)
        first, second = (one[:, self.at].astype(np.float64) @ held for one in block)
        apart = _ratio(first[:, :-1], first[:, -1:]) - _ratio(second[:, :-1], second[:, -1:])
        distance: Numbers = np.sqrt((apart * apart).sum(axis=1, keepdims=True))
        return distance


def features(unit: Numbers, random: np.random.Generator) -> Numbers:
    """Return (n, 2 FREQUENCIES) random Fourier features of (n, d) vectors of length 1.

    Their products are near exp(-distance^2 / 2), the kernel whose mean tells any two distributions of such
    vectors apart (Rahimi & Recht 2007).
    """
    angles = unit.astype(np.float64) @ random.standard_normal((unit.shape[1], FREQUENCIES))
    held: Numbers = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(FREQUENCIES)
    return held


def joined(held: Numbers, labels: Sequence[str | None], seed: int) -> Numbers:
    """Return (n, D) features of rows with their labels: products of two are near 0 for different labels.

    Each label turns the signs of the features in a way of its own (a count sketch, Charikar et al. 2002). So
    their mean tells apart what has the same texts and the same labels, but not the one with the other.
    """
    size = held.shape[1]
    signs = {one: generator(seed, "label", one).choice([-1.0, 1.0], size) for one in dict.fromkeys(labels)}
    turned: Numbers = held * np.array([signs[one] for one in labels])
    return turned


def level(statistics: Numbers) -> Numbers:
    """Return (lines,) the first of two columns without what the second explains of it, over all lines.

    So what depends on the number of rows is compared at equal numbers, whatever number a permutation gave a
    side. All lines have the same part in it, so that the test stays exact.
    """
    value: Numbers = statistics[:, 0]
    rows = statistics[:, 1]
    apart = rows - rows.mean()
    power = float(apart @ apart)
    if power <= 0 or not np.isfinite(value).all():
        return value
    mended: Numbers = value - rows * float(apart @ (value - value.mean())) / power
    return mended


def rarefied(counts: Numbers, size: float, drawn: float) -> float:
    """Return how many kinds `drawn` of `size` rows should show; `counts` says how many rows hold each."""
    from scipy.special import gammaln

    counts, times = np.unique(counts[counts > 0], return_counts=True)
    if drawn >= size:
        return float(times.sum())
    rest = size - counts
    with np.errstate(invalid="ignore", divide="ignore"):
        log = gammaln(rest + 1) - gammaln(rest - drawn + 1) - gammaln(size + 1) + gammaln(size - drawn + 1)
    missed = np.where(rest >= drawn, np.exp(log), 0.0)
    return float((times * (1 - missed)).sum())


def tested(
    design: Design,
    means: Means,
    kinds: Sequence[Kinds],
    clouds: Sequence[Cloud],
    resamples: int,
    random: np.random.Generator,
) -> Verdicts:
    """Return the verdicts on all statistics: those of `means`, each of `kinds`, then the clouds' distances.

    All are of the same permutations, which is what step-down needs.
    """
    others: list[Kinds | Cloud] = [*kinds, *clouds]
    lines = [
        [means.over(design, block), *(one.over(block) for one in others)]
        for block in design.draws(resamples, random)
    ]
    columns = [np.concatenate(parts) for parts in zip(*lines, strict=True)]
    for place in range(1, len(kinds) + 1):
        columns[place] = level(columns[place])[:, None]
    upper = (
        [False] * means.sums.shape[1]
        + [True] * bool(means.shares)
        + [False] * len(kinds)
        + [True] * len(clouds)
    )
    return step_down(np.concatenate(columns, axis=1), np.array(upper, bool))


def _ratio(above: Any, below: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(below) > 0, above / np.where(np.asarray(below) > 0, below, 1.0), np.nan)


def _estimate(
    design: Design,
    values: Sequence[float],
    pulls: Sequence[Numbers],
    shown: Sequence[Numbers],
    at: Numbers,
    z: float,
) -> Estimate:
    """Return the estimate with the interval that the pulls of the units at parts `at` make.

    A unit pulls by what it has on the second side less what it has on the first.
    """
    sized = []
    for pull, side in zip(pulls, shown, strict=True):
        n = int(side.sum())
        sized.append(pull * np.sqrt(n / (n - 1)) if n > 1 else np.full(len(pull), np.nan))
    unit = at % design.first if design.paired else np.arange(len(at))
    moved = np.bincount(unit, sized[1] - sized[0], minlength=1)
    width = z * float(np.sqrt((moved * moved).sum()))
    apart = values[1] - values[0]
    return Estimate(values[0], values[1], apart, apart - width, apart + width)
