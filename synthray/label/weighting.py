"""Weights for rows whose labels are partly wrong: by what each row does to a head that others judge.

SunGen (Gao et al. 2023, arXiv 2205.12679) needs no gold rows: a loss that wrong labels hardly bend, reverse
cross-entropy, is made least over the weights with which a head learned. L2RW (Ren et al. 2018, arXiv
1803.09050; in LLMaAA, arXiv 2310.19596) has a few gold rows. Both are for any number of classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from synthray.label.softmax import BATCH, Adam, Head, Numbers, Rows

L2 = 2e-4
"""The penalty of the heads, for inputs of about length 1."""

_PACE = 0.25
"""How far a step of SunGen moves the logits of the weights, as a root mean square."""

_MOMENTUM = 0.9
_ENOUGH = 1e-3
"""What a step must lower the outer loss by, as a share of what it was at first."""

_RATE = 0.01
"""The rate of L2RW: a head that fits the few gold rows at once has nothing left to ask of the others."""

_OPTIMUM, _SOLVED = 1e-3, 1e-2
"""Tolerances of the inner optimum and of the hypergradient: the weights do not need more digits."""


def sungen(
    rows: Rows, half: Numbers, base: Numbers, iterations: int, share: float = 0.9, l2: float = L2
) -> tuple[Numbers, list[float]]:
    """Return SunGen's weight of each row, not negative, and the mean outer loss before each step.

    Inner: of each half (`half` is bool) a head learns under weights w = sigmoid(t), t = 0 at first. Outer:
    the reverse cross-entropy of each half's head on the other half, on the `share` of each class there that
    weighs most; so no row vouches for its own label. Weights are scaled to keep each class as heavy as it
    is: else the classes that are easiest to tell would take all weight. The hypergradient is exact, by the
    implicit function theorem, where the paper looks one step of Adam ahead; and it is divided by its root
    mean square, where Adam would move a row that hardly matters as far as one that does. It ends early at
    a step that lowers the outer loss by less than a thousandth of what it was at first.

    `base` counts beside the weights; a row of 0 is not learned from, but is weighted by what the heads find.
    """
    sides = [Side.of(rows, base, np.flatnonzero(here)) for here in (half, ~half)]
    logits = pace = np.zeros(len(rows))
    losses: list[float] = []
    for _ in range(iterations):
        weights = expit(logits)
        gradient = np.zeros(len(rows))
        found = []
        for one, other in (sides, sides[::-1]):
            outer = other.heaviest(weights[other.places], share)
            loss, gradient[one.places] = one.hypergradient(weights[one.places], other, outer, l2)
            found.append(loss)
        losses.append(sum(found) / 2)
        gradient *= weights * (1 - weights)
        size = float(np.sqrt(np.mean(gradient[base > 0] ** 2)))
        if size == 0 or (len(losses) > 1 and losses[-2] - losses[-1] < _ENOUGH * losses[0]):
            break
        pace = gradient / size if len(losses) == 1 else _MOMENTUM * pace + (1 - _MOMENTUM) * gradient / size
        logits = logits - _PACE * pace
    weights = expit(logits)
    for side in sides:
        weights[side.places] *= side.scale(weights[side.places])
    return weights, losses


@dataclass
class Side:
    """The rows of one half, at `places`; `learned` names those that have a base weight."""

    places: Numbers
    rows: Rows
    base: Numbers
    learned: Numbers
    inner: Rows
    optimum: Numbers | None = None
    solved: Numbers | None = None

    @classmethod
    def of(cls, rows: Rows, base: Numbers, places: Numbers) -> Side:
        """Return the side of the rows at some places."""
        own = rows.taken(places)
        learned = np.flatnonzero(base[places] > 0)
        return cls(places, own, base[places], learned, own.taken(learned))

    def scale(self, weights: Numbers) -> Numbers:
        """Return for each row what its class's weights are multiplied by, to be as heavy as their base."""
        classes = self.rows.classes
        heavy = np.bincount(self.rows.given, self.base, classes)
        now = np.bincount(self.rows.given, self.base * weights, classes)
        found: Numbers = np.where(now > 0, heavy / np.where(now > 0, now, 1), 1.0)[self.rows.given]
        return found

    def heaviest(self, weights: Numbers, share: float) -> Numbers:
        """Return the base weights, 0 for all but the `share` of each class that weighs most (and ties)."""
        kept = self.base.copy()
        for label in np.unique(self.inner.given):
            own = self.learned[self.inner.given == label]
            kept[own[weights[own] < np.quantile(weights[own], 1 - share)]] = 0
        return kept

    def hypergradient(
        self, weights: Numbers, other: Side, outer: Numbers, l2: float
    ) -> tuple[float, Numbers]:
        """Return the loss on another side of the head that this one's weights make; and its gradient.

        The loss is the mean over the other's rows, weighted by `outer`. The gradient is by this side's
        weights, but for the factor that all rows of a side share; it is 0 in sum over a class, each row times
        its weight, since the scale takes back what a class gains.
        """
        scale = self.scale(weights)
        held = (self.base * weights * scale)[self.learned]
        head = Head(self.inner, held / held.mean(), l2)
        self.optimum = head.optimum(self.optimum, _OPTIMUM)
        right = other.rows.gradient(self.optimum, "reverse_cross_entropy", outer)
        inside = self.inner.probabilities(self.optimum)
        self.solved = head.solve(inside, right, _SOLVED, self.solved)
        errors = self.rows.errors(self.rows.probabilities(self.optimum))
        effect = -(errors * self.rows.scores(self.solved)).sum(axis=1)
        classes = self.rows.classes
        total = np.bincount(self.inner.given, held, classes)
        mean = np.bincount(self.inner.given, held * effect[self.learned], classes) / np.where(
            total > 0, total, 1
        )
        losses = other.rows.losses(other.rows.probabilities(self.optimum), "reverse_cross_entropy")
        return float(losses @ outer / outer.sum()), (effect - mean[self.rows.given]) * scale


def l2rw(rows: Rows, gold: Rows, base: Numbers, epochs: int, seed: int, l2: float = L2) -> Numbers:
    """Return L2RW's weight of each row, the mean over epochs: how much it moves a head as gold rows would.

    Of each batch a row's weight is max(0, g_i . g), where g is the gradient of the head's mean loss on the
    gold rows, by the batch's sum; then the head takes a step of Adam with these weights. A batch in which no
    row moves it as the gold rows do has weights of 0 and moves nothing. `base` counts beside the weights; a
    row of 0 is not learned from, but weighted beside those that are.
    """
    random = np.random.default_rng(seed)
    learned = base > 0
    size = -(-BATCH * len(rows) // int(learned.sum()))
    held, adam = np.zeros(rows.shape), Adam(rows.shape, _RATE)
    total = np.zeros(len(rows))
    for _ in range(epochs):
        order = random.permutation(len(rows))
        for start in range(0, len(order), size):
            places = np.sort(order[start : start + size])
            batch = rows.taken(places)
            errors = batch.errors(batch.probabilities(held))
            aligned = np.maximum(0, (errors * batch.scores(gold.gradient(held))).sum(axis=1))
            counted = aligned * base[places]
            if not counted.any():
                continue
            mean = counted.sum() / base[places].sum()
            total[places] += aligned / mean
            held = adam.step(held, batch.gathered(errors * (counted / counted.sum())[:, None]) + l2 * held)
    return total / epochs
