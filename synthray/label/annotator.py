"""What annotators are worth: each one's confusion of the true labels, learned without knowing them.

Dawid and Skene (1979): the true label of an item is hidden; annotator j says l of an item of class k with
probability theta[j, k, l], and given the class the annotators err on their own. EM finds the classes' shares,
the confusions and, of each item, how likely each class is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from synthray.label.vote import Votes

SOURCE = Path(__file__)
"""For the fingerprints of operators that stand on it."""

Numbers = np.ndarray[Any, np.dtype[Any]]

SMOOTHING = 0.01
RIGHT = 1.0
"""What is added to each count: of what never was seen a little, which is small beside one label, and to each
annotator's confusion one right label of each class. It is a Dirichlet prior: where the votes leave open which
class is which, as those of one annotator do, annotators are believed."""

ROUNDS = 500
_TOLERANCE = 1e-8
_VOTES = 1 << 18
"""How many votes are worked on at a time, each with a number for each class."""


@dataclass(frozen=True)
class Annotators:
    """What was learned: `shares` (K), `confusion` (J, K, K) of the label given in a row of the true one.

    `objective` is the log-likelihood of the votes plus the log of the prior (up to a constant) after each
    round; it never falls.
    """

    shares: Numbers
    confusion: Numbers
    objective: tuple[float, ...]

    @classmethod
    def learned(cls, votes: Votes, rounds: int = ROUNDS) -> Annotators:
        """Return what EM finds, beginning with each item's shares of votes as its classes' chances."""
        begun = _Sums(votes)
        for items, own in _parts(votes):
            counts = votes.counts[items]
            begun.add(items, own, counts / counts.sum(axis=1, keepdims=True))
        held = begun.fitted()
        objective: list[float] = []
        for _ in range(rounds):
            value, held = held._round(votes)
            objective.append(value)
            if len(objective) > 1 and value - objective[-2] <= _TOLERANCE * abs(value):
                break
        return cls(held.shares, held.confusion, tuple(objective))

    def judged(self, votes: Votes) -> tuple[Numbers, Numbers]:
        """Return the likeliest class of each item, of equal ones the first, and how likely it is."""
        labels, chance = np.empty(len(votes.weight), np.int64), np.empty(len(votes.weight))
        for items, _, chances, _ in self._expected(votes):
            # What is equal but for the last digits is equal.
            labels[items] = np.round(chances, 9).argmax(axis=1)
            chance[items] = np.take_along_axis(chances, labels[items, None], axis=1)[:, 0]
        return labels, chance

    def quality(self) -> Numbers:
        """Return the share of items of which each annotator is expected to say the true label."""
        return np.asarray(np.einsum("k,jkk->j", self.shares, self.confusion))

    def _round(self, votes: Votes) -> tuple[float, Annotators]:
        """Return the objective at these parameters, and the parameters that come next."""
        value = SMOOTHING * float(np.log(self.shares).sum())
        value += float((_prior(len(self.shares)) * np.log(self.confusion)).sum())
        sums = _Sums(votes)
        for items, own, chances, logs in self._expected(votes):
            value += float(votes.weight[items] @ logs)
            sums.add(items, own, chances)
        return value, sums.fitted()

    def _expected(self, votes: Votes) -> Iterator[tuple[slice, slice, Numbers, Numbers]]:
        """Yield some items and their votes, the chances of their classes and the votes' log-likelihood."""
        logs = np.log(self.confusion).transpose(0, 2, 1)
        for items, own in _parts(votes):
            joint = np.add.reduceat(
                logs[votes.annotator[own], votes.label[own]],
                votes.starts[items] - own.start,
                axis=0,
            )
            joint += np.log(self.shares)
            most = joint.max(axis=1, keepdims=True)
            scaled = np.exp(joint - most)
            total = scaled.sum(axis=1, keepdims=True)
            yield items, own, scaled / total, (most + np.log(total))[:, 0]


class _Sums:
    """How often, as far as is known, each class was and each annotator said what of it."""

    def __init__(self, votes: Votes) -> None:
        width = len(votes.classes)
        self._votes = votes
        self._shares = np.zeros(width)
        self._counts = np.zeros((width, len(votes.annotators) * width))

    def add(self, items: slice, own: slice, chances: Numbers) -> None:
        """Add some items, of whose classes the chances are known."""
        votes = self._votes
        weighted = chances * votes.weight[items, None]
        self._shares += weighted.sum(axis=0)
        place = votes.annotator[own] * len(votes.classes) + votes.label[own]
        of_votes = weighted[votes.item[own] - items.start]
        for true, counts in enumerate(self._counts):
            counts += np.bincount(place, of_votes[:, true], len(counts))

    def fitted(self) -> Annotators:
        """Return the parameters that fit best."""
        shares = self._shares + SMOOTHING
        counts = self._counts.reshape(len(shares), -1, len(shares)).transpose(1, 0, 2) + _prior(len(shares))
        return Annotators(shares / shares.sum(), counts / counts.sum(axis=2, keepdims=True), ())


def _prior(classes: int) -> Numbers:
    """Return what is added to the counts of a confusion."""
    return SMOOTHING + RIGHT * np.eye(classes)


def _parts(votes: Votes) -> Iterator[tuple[slice, slice]]:
    """Yield items and their votes, some at a time."""
    first, items = 0, len(votes.weight)
    while first < items:
        last = int(np.searchsorted(votes.starts, votes.starts[first] + _VOTES, side="right")) - 1
        last = min(max(last, first + 1), items)
        yield slice(first, last), slice(int(votes.starts[first]), int(votes.starts[last]))
        first = last
