"""Scores of several models on the same test rows, resampled together: their differences are paired."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthray.statistic.interval import percentiles

Numbers = np.ndarray[Any, np.dtype[Any]]

Measured = Callable[[Numbers, Numbers, Numbers, int], Numbers]
"""Counts (R, n), truth and answers (n,) as codes of so many classes -> the score of each of R samples."""

_AT_ONCE = 2_000_000
"""How many draws of test rows are held at a time."""


@dataclass(frozen=True)
class Score:
    """A value, and what it is on each of R bootstrap samples; a difference is taken sample by sample."""

    value: float
    resampled: Numbers

    def __sub__(self, other: Score) -> Score:
        """Return the paired difference."""
        return Score(self.value - other.value, self.resampled - other.resampled)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the percentile interval; see synthray.statistic.interval."""
        return percentiles(self.resampled, confidence)


@dataclass(frozen=True)
class Scores:
    """The scores of M models: `values` (M,), and `resampled` (R, M) on each bootstrap sample."""

    values: Numbers
    resampled: Numbers

    def mean(self, places: Numbers, draws: Numbers) -> Score:
        """Return the mean over the models at `places` (S, k): S kinds, each trained on k subsets.

        Subsets are drawn with the test rows: `draws` (R, k) is the share that each has of a sample, see
        subset_draws(). With one subset there is nothing to draw.
        """
        kinds = self.resampled[:, places].mean(axis=1)
        resampled = kinds[:, 0] if places.shape[1] == 1 else (kinds * draws).sum(axis=1)
        return Score(float(self.values[places].mean()), resampled)


def subset_draws(subsets: int, number: int, random: np.random.Generator) -> Numbers:
    """Return (number, subsets) shares of as many subsets drawn with replacement.

    To resample rows of two kinds at once, each for itself, is Owen's pigeonhole bootstrap (Annals of Applied
    Statistics 2007): its variance is at least that of both.
    """
    drawn: Numbers = random.multinomial(subsets, np.full(subsets, 1 / subsets), number) / subsets
    return drawn


@dataclass(frozen=True)
class Resamples:
    """`number` bootstrap samples (Efron 1979) of `rows` test rows: the same ones each time they are drawn.

    They are drawn with NumPy's default generator from `seed`, a part at a time, so that memory does not grow
    with their number.
    """

    rows: int
    number: int
    seed: int

    def counts(self) -> Iterator[Numbers]:
        """Yield (R', rows) parts of the samples: how often each row is in each of R'."""
        random = np.random.default_rng(self.seed)
        step = max(1, _AT_ONCE // max(1, self.rows))
        for first in range(0, self.number, step):
            size = min(step, self.number - first)
            drawn = random.integers(0, self.rows, (size, self.rows))
            drawn += (np.arange(size) * self.rows)[:, None]
            held = np.bincount(drawn.ravel(), minlength=size * self.rows)
            yield held.reshape(size, self.rows).astype(np.float64)

    def means(self, right: Numbers) -> Scores:
        """Return the means of the columns of `right` (rows, M), which may be NaN."""
        return self._scores(lambda counts: counts @ right / self.rows, right.shape[1])

    def answers(
        self, score: Measured, truth: Numbers, said: Sequence[Numbers | None], classes: int
    ) -> Scores:
        """Return what `score` (macro_f1, balanced) says of each of M answers; NaN for None."""

        def measure(counts: Numbers) -> Numbers:
            nothing = np.full(len(counts), np.nan)
            return np.stack(
                [nothing if one is None else score(counts, truth, one, classes) for one in said], axis=1
            )

        return self._scores(measure, len(said))

    def _scores(self, measure: Callable[[Numbers], Numbers], columns: int) -> Scores:
        """Measure all rows, once each, and then each sample; NaN where there is no row."""
        if not self.rows:
            return Scores(np.full(columns, np.nan), np.full((self.number, columns), np.nan))
        return Scores(
            measure(np.ones((1, self.rows)))[0],
            np.concatenate([measure(counts) for counts in self.counts()]),
        )


def f1(counts: Numbers, truth: Numbers, said: Numbers, classes: int) -> Numbers:
    """Return the (R, K) F1 of each of `classes` in R samples, of which `counts` (R, n) says what is in them.

    `truth` and `said` are (n,) codes of classes; -1 is an answer that is no class. A class that is neither
    there nor said has the F1 0, as scikit-learn's zero_division=0.
    """
    there, answered = _one_hot(truth, classes), _one_hot(said, classes)
    hits = counts @ there.multiply(answered).tocsr()
    total = counts @ there + counts @ answered
    result: Numbers = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
    return result


def macro_f1(counts: Numbers, truth: Numbers, said: Numbers, classes: int) -> Numbers:
    """Return the (R,) mean of f1() over the classes."""
    result: Numbers = f1(counts, truth, said, classes).mean(axis=1)
    return result


def balanced(counts: Numbers, truth: Numbers, said: Numbers, classes: int) -> Numbers:
    """Return the (R,) mean share of each class that is said right, over the classes in each of R samples.

    Any constant answer, and any by chance alone, has 1/K of K classes, however frequent each is.
    """
    there = _one_hot(truth, classes)
    size = counts @ there
    hits = counts @ there.multiply(_one_hot(said, classes)).tocsr()
    share = np.divide(hits, size, out=np.zeros_like(size), where=size > 0)
    result: Numbers = share.sum(axis=1) / np.maximum((size > 0).sum(axis=1), 1)
    return result


def _one_hot(codes: Numbers, classes: int) -> Any:
    from scipy.sparse import csr_array

    rows = np.flatnonzero(codes >= 0)
    return csr_array((np.ones(len(rows)), (rows, codes[rows])), shape=(len(codes), classes))
