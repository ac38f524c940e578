"""How strong the competitors of pairwise comparisons are: Bradley-Terry, the Elo scale, Elo's own updates.

Wins are a matrix (S, S): in line i and column j how often i won against j, a tie being half a win of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

ELO = 400 / math.log(10)
"""Elo points of a unit of log odds: 400 points are odds of ten to one."""

_STEPS = 1000
_NEAR = 1e-12


def strengths(wins: Numbers, prior: float = 0.0) -> Numbers:
    """Return the log strengths (S,) of Bradley and Terry (1952) by maximum likelihood, with mean 0.

    i beats j with the probability 1 / (1 + exp(theta_j - theta_i)). `prior` adds to each competitor so many
    ties with one more, whose strength is 0: who never lost stays finite. Without it there is an answer only
    where `group` has all competitors; where not, all is NaN.
    """
    size = len(wins)
    if not size or (not prior and not group(wins, prior).all()):
        return np.full(size, np.nan)
    games = wins + wins.T
    theta = np.zeros(size)
    for _ in range(_STEPS):
        chance = _chance(theta[:, None] - theta[None, :])
        own = _chance(theta)
        slope = (wins - games * chance).sum(axis=1) + prior * (0.5 - own)
        curve = games * chance * (1 - chance)
        bend = np.diag(curve.sum(axis=1) + prior * own * (1 - own)) - curve
        # Without a prior only differences count: any rise of all together is free, and set to none.
        step = np.linalg.solve(bend if prior else bend + 1 / size, slope)
        # A step that changes no difference by more than 1 always climbs: the likelihood is self-concordant.
        span = max(step.max(), 0.0) - min(step.min(), 0.0)
        theta = theta + step / max(1.0, span)
        if span < _NEAR * max(1.0, np.abs(theta).max()):
            break
    return np.asarray(theta - theta.mean())


def group(wins: Numbers, prior: float = 0.0, anchor: int | None = None) -> Numbers:
    """Return which competitors (S,) can be compared: the largest group, or the anchor's; none if alone.

    With a prior it is enough that they are connected by comparisons; without, each must have beaten each
    other, itself or by others that it beat (Ford 1957).
    """
    parts = parted(wins, strong=not prior)
    sizes = np.bincount(parts, minlength=1)
    # Of equal ones the one with the first competitor.
    best = parts[anchor] if anchor is not None else parts[np.argmax(sizes[parts])] if len(parts) else 0
    return np.asarray((parts == best) & (sizes[parts] > 1))


def parted(wins: Numbers, *, strong: bool = False) -> Numbers:
    """Return the number of the connected part that each competitor (S,) is in."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if not len(wins):
        return np.zeros(0, np.int64)
    kind = "strong" if strong else "weak"
    return np.asarray(connected_components(csr_array(wins > 0), directed=True, connection=kind)[1])


def elo(games: Iterable[tuple[int, int, float]], size: int, k: float, base: float) -> list[float]:
    """Return the ratings, from `base`, after games in order: (one, other, the one's score 1, 0.5, 0)."""
    ratings = [base] * size
    for one, other, score in games:
        expected = 1 / (1 + 10 ** ((ratings[other] - ratings[one]) / 400))
        gained = k * (score - expected)
        ratings[one] += gained
        ratings[other] -= gained
    return ratings


def _chance(difference: Numbers) -> Numbers:
    from scipy.special import expit

    return np.asarray(expit(difference))
