"""Confident learning: what blocks of labelled probabilities add up to, and which of their items are doubted.

(Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", as cleanlab
2.9 has it.) Each state is of one block; states of blocks add up to the same state in any order and any
partition, so that what is doubted is what cleanlab doubts with all rows in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Self

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

FilterBy = Literal[
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]
Score = Literal["self_confidence", "normalized_margin", "confidence_weighted_entropy"]

NEAR = 1e-6
"""What cleanlab lets probabilities differ by: from a threshold, from each other, from 0 and from 1."""

_LEAST_THRESHOLD = 2 * NEAR
_NEVER = 2.0
"""The threshold of a class that no item is given: no probability reaches it."""

_HALF, _UNIT = 2**31, 2**62


@dataclass(frozen=True)
class Items:
    """What is judged: the class that each item is given (its number), and its line of probabilities."""

    given: Numbers
    probabilities: Numbers

    def __len__(self) -> int:
        return len(self.given)

    @property
    def confidence(self) -> Numbers:
        """The probability of the given class."""
        found: Numbers = self.probabilities[np.arange(len(self)), self.given]
        return found

    @property
    def vouched(self) -> Numbers:
        """Whether no other class is more probable than the given one."""
        raised = self.probabilities.copy()
        raised[np.arange(len(self)), self.given] += NEAR
        agreed: Numbers = raised.argmax(axis=1) == self.given
        return agreed


# What adds up.


@dataclass(frozen=True)
class Sums:
    """How many items each class is given to, and the sum of their probabilities of it, in units of 2**-62.

    Whole numbers add up to the same in any order, which floating point does not.
    """

    counts: tuple[int, ...]
    units: tuple[int, ...]

    @classmethod
    def of(cls, items: Items) -> Self:
        """Return the sums of a block of less than four million items."""
        classes = items.probabilities.shape[1]
        scaled = items.confidence * _HALF
        high = np.floor(scaled)
        low = np.floor((scaled - high) * _HALF)
        # Both are whole and their sums below 2**53, so that these are exact.
        tops = np.bincount(items.given, high, classes)
        bottoms = np.bincount(items.given, low, classes)
        units = (int(top) * _HALF + int(bottom) for top, bottom in zip(tops, bottoms, strict=True))
        return cls(tuple(np.bincount(items.given, minlength=classes).tolist()), tuple(units))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            tuple(one + two for one, two in zip(self.counts, other.counts, strict=True)),
            tuple(one + two for one, two in zip(self.units, other.units, strict=True)),
        )

    @property
    def thresholds(self) -> Numbers:
        """The mean probability of each class among the items that are given it."""
        means = [
            float(Fraction(units, count * _UNIT)) if count else _NEVER
            for count, units in zip(self.counts, self.units, strict=True)
        ]
        return np.maximum(means, _LEAST_THRESHOLD)


@dataclass(frozen=True)
class Joint:
    """How many items of each given class (line) are confidently of each class (column).

    `doubted` of them are confidently of another class than given, and no other is vouched for.
    """

    counts: Numbers
    doubted: int

    @classmethod
    def of(cls, items: Items, thresholds: Numbers) -> Self:
        """Return the counts of a block."""
        classes = len(thresholds)
        guess = confident(items, thresholds)
        sure = guess >= 0
        pairs = items.given[sure] * classes + guess[sure]
        counts = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        other = sure & (guess != items.given)
        return cls(counts, int((other & ~items.vouched).sum()))

    def __add__(self, other: Joint) -> Joint:
        return Joint(self.counts + other.counts, self.doubted + other.doubted)

    def calibrated(self, counts: Sequence[int]) -> Numbers:
        """Return the confident joint as cleanlab calibrates it: whole numbers, lines add up to `counts`."""
        from cleanlab.count import calibrate_confident_joint

        # Columns stand together as in cleanlab: the last digits of its sums decide what is rounded up.
        joint = np.array(self.counts, order="F")
        np.fill_diagonal(joint, joint.diagonal().clip(min=1))
        calibrated: Numbers = calibrate_confident_joint(joint, _labels(counts))
        return calibrated


def noise(joint: Numbers, counts: Sequence[int]) -> Numbers:
    """Return cleanlab's estimate of P(given | true), given by line and true by column, of a joint."""
    from cleanlab.count import estimate_latent

    matrix: Numbers = estimate_latent(joint, _labels(counts))[1]
    return matrix


def _labels(counts: Sequence[int]) -> Numbers:
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def confident(items: Items, thresholds: Numbers) -> Numbers:
    """Return the class whose threshold an item reaches (of several the most probable), or -1."""
    reached = items.probabilities >= thresholds - NEAR
    many = reached.sum(axis=1)
    guess: Numbers = reached.argmax(axis=1)
    several = many > 1
    guess[several] = items.probabilities[several].argmax(axis=1)
    guess[many == 0] = -1
    return guess


# What is cut off.


By = Literal["noise", "class", "self_confidence", "normalized_margin"]


@dataclass(frozen=True)
class Cut:
    """The `number` lowest values `by` a rule: of all items (given is -1), or of those given a class.

    'noise' is the margin of `given` over the class `true`; 'class' is the probability of `given`.
    """

    by: By
    number: int
    given: int = -1
    true: int = -1


def cuts(filter_by: FilterBy, counts: Sequence[int], joint: Joint, share: float, least: int) -> list[Cut]:
    """Return the cuts that a filter makes; none where an item is judged by itself.

    `share` (cleanlab's frac_noise) of the noise is cut, and `least` items of each class are left.
    """
    if filter_by == "low_self_confidence" or filter_by == "low_normalized_margin":
        by: By = "self_confidence" if filter_by == "low_self_confidence" else "normalized_margin"
        return [Cut(by, joint.doubted)] if joint.doubted else []
    if filter_by not in ("prune_by_noise_rate", "prune_by_class", "both"):
        return []
    pruned = _pruned(joint.calibrated(counts), share, least)
    found = []
    for given in (place for place, count in enumerate(counts) if count > max(least, 1)):
        if filter_by != "prune_by_noise_rate" and counts[given] > pruned[given, given]:
            found.append(Cut("class", int(counts[given] - pruned[given, given]), given))
        if filter_by != "prune_by_class":
            others = np.flatnonzero(pruned[:, given] > 0)
            found += [
                Cut("noise", int(pruned[true, given]), given, int(true)) for true in others if true != given
            ]
    return found


def _pruned(joint: Numbers, share: float, least: int) -> Numbers:
    """Return how many items of each given class (column) are to be cut as of each true class (line).

    The diagonal, which is kept, is raised to `least` at the cost of what else stands in its column; then all
    but `share` of the rest is given to it, too.
    """
    counts = joint.T
    kept = np.maximum(counts.diagonal(), least)
    others = np.maximum(np.count_nonzero(counts, axis=0) - 1.0, 1.0)
    rest = np.maximum(counts - (kept - counts.diagonal()) / others, 0)
    np.fill_diagonal(rest, kept)
    cut = rest * share
    np.fill_diagonal(cut, kept)
    np.fill_diagonal(cut, kept + (rest - cut).sum(axis=0))
    whole: Numbers = cut.astype(np.int64)
    return whole


def values(items: Items, made: Sequence[Cut]) -> Iterator[tuple[int, Numbers, Numbers]]:
    """Yield for each cut that concerns a block its place in `made`, its items' places, and their values."""
    order = np.argsort(items.given, kind="stable")
    ends = np.searchsorted(items.given[order], np.arange(items.probabilities.shape[1] + 1))
    everything = np.arange(len(items))
    scores: dict[str, Numbers] = {}
    for place, cut in enumerate(made):
        if cut.by == "self_confidence" or cut.by == "normalized_margin":
            found = scores.get(cut.by)
            yield place, everything, score(items, cut.by) if found is None else found
            continue
        inside = order[ends[cut.given] : ends[cut.given + 1]]
        if len(inside):
            own = items.probabilities[inside, cut.given]
            yield place, inside, own if cut.by == "class" else -(items.probabilities[inside, cut.true] - own)


class Lowest:
    """The lowest values of each of some cuts in a share of the items: one more than are cut off."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)
        self.held: list[list[Numbers]] = [[] for _ in numbers]
        self._bounds = [np.inf] * len(self.numbers)

    def add(self, place: int, found: Numbers) -> None:
        """Add values of the cut at `place`."""
        self.held[place].append(found[found <= self._bounds[place]])
        if sum(map(len, self.held[place])) > 2 * self.numbers[place] + 4096:
            self._shrink(place)

    def shrunk(self) -> Lowest:
        """Hold no more than is needed; return itself."""
        for place in range(len(self.numbers)):
            self._shrink(place)
        return self

    def __add__(self, other: Lowest) -> Lowest:
        both = Lowest(self.numbers)
        both.held = [one + two for one, two in zip(self.held, other.held, strict=True)]
        return both.shrunk()

    def ends(self) -> list[End]:
        """Return where each cut ends."""
        return [self._end(place) for place in range(len(self.numbers))]

    def _shrink(self, place: int) -> None:
        number = self.numbers[place]
        held = np.concatenate(self.held[place]) if self.held[place] else np.zeros(0)
        if len(held) > number + 1:
            held = np.partition(held, number)[: number + 1]
        if len(held) > number:
            self._bounds[place] = held.max()
        self.held[place] = [held]

    def _end(self, place: int) -> End:
        self._shrink(place)
        held, number = np.sort(self.held[place][0]), self.numbers[place]
        if len(held) <= number:
            return End(np.inf, tied=False)
        return End(float(held[number - 1]), tied=bool(held[number - 1] == held[number]))


@dataclass(frozen=True)
class End:
    """The highest value that is cut off. When `tied`, more items have it than are to be cut off."""

    value: float
    tied: bool


def tie(found: Numbers, number: int, end: End) -> Numbers:
    """Return which of a tied cut's values, in the order of row_id, cleanlab cuts off at its end.

    It takes the first that an unstable argsort names; the same values in the same order give the same.
    """
    first = np.argsort(found)[:number]
    chosen: Numbers = np.sort(first[found[first] == end.value])
    return chosen


Taken = Callable[[int, Numbers, Numbers], Numbers]
"""(Place of a cut, its items' places in the block, their values) -> which of them are cut off."""


def doubted(
    items: Items, filter_by: FilterBy, thresholds: Numbers, made: Sequence[Cut], taken: Taken
) -> Numbers:
    """Return which items of a block have a label issue."""
    if filter_by == "predicted_neq_given":
        found = items.probabilities.argmax(axis=1) != items.given
    elif filter_by == "confident_learning":
        guess = confident(items, thresholds)
        found = (guess >= 0) & (guess != items.given)
    else:
        by = {name: np.zeros(len(items), bool) for name in ("noise", "class", "all")}
        for place, where, held in values(items, made):
            cut = made[place]
            by["all" if cut.given < 0 else cut.by][where[taken(place, where, held)]] = True
        found = by["noise"] & by["class"] if filter_by == "both" else by["noise"] | by["class"] | by["all"]
    issues: Numbers = found if filter_by.startswith("low_") else found & ~items.vouched
    return issues


# Quality.


def score(items: Items, by: Score, thresholds: Numbers | None = None) -> Numbers:
    """Return cleanlab's label quality score of each item: the higher, the more the label can be trusted.

    With `thresholds` probabilities are adjusted by them first, so that rare classes are not held to be wrong.
    """
    if thresholds is not None:
        items = Items(items.given, adjusted(items.probabilities, thresholds))
    own = items.confidence
    if by == "self_confidence":
        return own
    if by == "normalized_margin":
        others = items.probabilities.copy()
        others[np.arange(len(items)), items.given] = -np.inf
        margin: Numbers = (own - others.max(axis=1) + 1) / 2
        return margin
    weighted = entropy(items.probabilities) / np.maximum(own, NEAR)
    uncertain: Numbers = np.log(weighted + 1) / np.maximum(weighted, NEAR)
    return uncertain


def adjusted(probabilities: Numbers, thresholds: Numbers) -> Numbers:
    """Return probabilities as if each class were as probable among the items that are given it."""
    moved = probabilities - thresholds + thresholds.max()
    whole: Numbers = moved / moved.sum(axis=1, keepdims=True)
    return whole


def entropy(probabilities: Numbers) -> Numbers:
    """Return the entropy of each line by that of the uniform distribution: 0 to 1."""
    from scipy.special import xlogy

    # A rounding below 0 or above 1 is none of the probability's.
    whole = np.clip(probabilities, 0, 1)
    found: Numbers = -np.sum(xlogy(whole, whole), axis=1) / np.log(probabilities.shape[1])
    return found
