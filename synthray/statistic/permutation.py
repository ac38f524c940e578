"""Tests by permutation: which parts of two samples may change sides, p-values corrected for many statistics.

A part is all that one unit (a lineage root) has on one side: rows of one unit depend on each other, so that
they move together. P-values are (1 + permutations at least as extreme) / (1 + permutations), so that a test
at 5 % is wrong in at most 5 % of cases where nothing differs, whatever the distribution (Phipson & Smyth
2010).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

_CELLS = 1 << 24
_TIE = 1e-9
"""Of a standard deviation: sums of floats in another order are still ties."""


@dataclass(frozen=True)
class Design:
    """Two samples: `first` parts are of the first alone, `second` of the second, `both` of both, unchanged.

    `paired` says that part i of both is of one unit: each unit swaps its two parts by a fair coin; one of
    them may be empty. Else it is dealt anew which parts are of the first, the second or both, as many of each
    as there are.
    """

    first: int
    second: int
    paired: bool = False
    both: int = 0

    def __post_init__(self) -> None:
        if self.paired and (self.first != self.second or self.both):
            raise ValueError(f"paired samples of {self.first} and {self.second} parts, {self.both} of both")

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return self.first + self.second + self.both

    @property
    def observed(self) -> tuple[Numbers, Numbers]:
        """Two (parts,) booleans: whether a part is of the first, and of the second sample."""
        kind = np.repeat(np.array([0, 1, 2], np.int8), [self.first, self.second, self.both])
        return kind != 1, kind != 0

    def draws(self, resamples: int, random: np.random.Generator) -> Iterator[tuple[Numbers, Numbers]]:
        """Yield pairs of (b, parts) booleans, which parts each side has: first as it was, then permuted."""
        first, second = self.observed
        yield first[None, :], second[None, :]
        at_once = max(1, _CELLS // max(1, self.parts))
        for start in range(0, resamples, at_once):
            yield self._drawn(min(at_once, resamples - start), random)

    def _drawn(self, count: int, random: np.random.Generator) -> tuple[Numbers, Numbers]:
        if self.paired:
            bits = random.integers(0, 256, (count, -(-self.first // 8)), np.uint8)
            stays = np.unpackbits(bits, axis=1, count=self.first).astype(bool)
            first = np.concatenate([stays, ~stays], axis=1)
            return first, ~first
        kind = np.repeat(np.array([0, 1, 2], np.int8), [self.first, self.second, self.both])
        dealt = random.permuted(np.tile(kind, (count, 1)), axis=1)
        return dealt != 1, dealt != 0


@dataclass(frozen=True)
class Verdicts:
    """For each statistic its p-value alone, and corrected for all of them; NaN where it never changes."""

    p: Numbers
    adjusted: Numbers


def step_down(statistics: Numbers, upper: Numbers) -> Verdicts:
    """Return the verdicts on (1 + R, K) statistics, the first line as observed, the others of permutations.

    Each is put on one scale by its own mean and deviation over all lines. It is extreme on both sides, or
    above alone where `upper` (K,) is true. The correction is Westfall and Young's step-down max-T (1993,
    algorithm 2.8): the chance to call any of those different that are not is at most alpha, and since it is
    the permutations' own maximum, what depends on each other costs no power. A permutation in which a
    statistic is not defined counts as extreme for it.
    """
    held = np.asarray(statistics, np.float64)
    lines = len(held)
    p = np.full(held.shape[1], np.nan)
    adjusted = p.copy()
    bad = ~np.isfinite(held)
    clean = np.where(bad, 0.0, held)
    known = np.maximum(1, lines - bad.sum(axis=0))
    centre = clean.sum(axis=0) / known
    apart = np.where(bad, 0.0, clean - centre)
    spread = np.sqrt((apart * apart).sum(axis=0) / known)
    tested = np.flatnonzero(
        ~bad[0] & (spread > _TIE * np.maximum(1e-300, np.abs(clean).max(axis=0, initial=0)))
    )
    if not len(tested):
        return Verdicts(p, adjusted)
    scaled = apart[:, tested] / spread[tested]
    scaled = np.where(upper[tested], scaled, np.abs(scaled))
    floor = scaled[0] - _TIE
    p[tested] = ((scaled >= floor) | bad[:, tested]).sum(axis=0) / lines
    order = np.argsort(-scaled[0], kind="stable")
    # The largest is held against the maximum of all, the next against that of those that are left ...
    largest = np.maximum.accumulate(scaled[:, order[::-1]], axis=1)[:, ::-1]
    stepped = (largest >= floor[order]).sum(axis=0) / lines
    stepped = np.maximum.accumulate(np.maximum(stepped, p[tested][order]))
    adjusted[tested[order]] = stepped
    return Verdicts(p, adjusted)
