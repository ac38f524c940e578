"""How far annotators agree beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha, with intervals.

All are of nominal labels, and of any missing ones. NaN where they are not defined: nobody labelled what
another did, or all labels are one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from synthray.label.vote import Votes

SOURCE = Path(__file__)
"""For the fingerprints of operators that measure agreement."""

Numbers = np.ndarray[Any, np.dtype[Any]]

_CELLS = 4_000_000
"""How many weights of resamples are held at a time."""


def cohen_kappa(table: Numbers) -> Numbers:
    """Return Cohen's kappa (1960) of tables (..., K, K) of how often one said i and the other j.

    (p_o - p_e) / (1 - p_e): the share on the diagonal, against what the two margins make by chance.
    """
    total = table.sum(axis=(-2, -1))
    observed = np.trace(table, axis1=-2, axis2=-1)
    chance = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1)
    return _ratio(total * observed - chance, total * total - chance)


def percent(sums: Numbers) -> Numbers:
    """Return the chance that two annotators of an item agree, the mean over items; see `sums_of`."""
    return _ratio(sums[..., 1], sums[..., 0])


def fleiss_kappa(sums: Numbers) -> Numbers:
    """Return Fleiss' kappa (1971): the mean agreement of items, against that of draws from all labels.

    Fleiss has as many labels of each item; where the numbers differ, each item counts once and each label
    once among all labels.
    """
    shares = _ratio(sums[..., 4:], sums[..., 2:3])
    chance = (shares * shares).sum(axis=-1)
    return _ratio(percent(sums) - chance, 1 - chance)


def krippendorff_alpha(sums: Numbers) -> Numbers:
    """Return Krippendorff's alpha (1980) of nominal labels: 1 - observed over expected disagreement.

    Pairs of labels of an item count 1 / (m - 1) where it has m; what is expected is two draws, without
    putting back, from all labels of items with at least two.
    """
    labels, alike, classes = sums[..., 2], sums[..., 3], sums[..., 4:]
    expected = labels * labels - (classes * classes).sum(axis=-1)
    return 1 - _ratio((labels - alike) * (labels - 1), expected)


def sums_of(votes: Votes, weight: Numbers | None = None) -> Numbers:
    """Return what the coefficients are made from, for weights of items (..., items).

    Over the items of at least two votes: how many, their agreements, the votes, the votes alike (pairs over
    m - 1), and the votes for each class.
    """
    counts = votes.counts.astype(np.float64)
    made = counts.sum(axis=1)
    pairs = (counts * (counts - 1)).sum(axis=1)
    several = made > 1
    others = np.where(several, made - 1, 1.0)
    parts = np.column_stack([np.ones(len(made)), pairs / (made * others), made, pairs / others, counts])
    parts[~several] = 0
    weight = votes.weight if weight is None else weight
    return np.asarray(np.asarray(weight, np.float64) @ parts)


@dataclass(frozen=True)
class Agreement:
    """A coefficient, its percentile interval and the number of rows that it rests on.

    `pair` names the two annotators that it is of; None: it is of all.
    """

    name: str
    value: float
    low: float
    high: float
    rows: int
    pair: tuple[str, str] | None = None


def agreements(
    votes: Votes, resamples: int, confidence: float, seed: int, most_pairs: int
) -> list[Agreement]:
    """Return all coefficients, with intervals from bootstrap samples of the rows.

    `cohen_kappa` is of each pair of annotators, those with the most rows in common first, at most
    `most_pairs`; and the mean of these (Light 1971).
    """
    several = np.flatnonzero(votes.counts.sum(axis=1) > 1)
    rows = int(votes.weight[several].sum())
    pairs = _pairs(votes, most_pairs)
    drawn: dict[str, list[Numbers]] = {name: [] for name in _OF_ALL}
    by_pair: list[list[Numbers]] = [[] for _ in pairs]
    random = np.random.default_rng(seed)
    at_once = max(1, _CELLS // max(1, len(several)))
    for first in range(0, resamples if rows else 0, at_once):
        # Rows with equal votes are alike, so that a sample is how often each kind is in it.
        weight = np.zeros((min(at_once, resamples - first), len(votes.weight)))
        weight[:, several] = random.multinomial(rows, votes.weight[several] / rows, len(weight))
        sums = sums_of(votes, weight)
        for name, coefficient in _OF_ALL.items():
            drawn[name].append(coefficient(sums))
        for pair, of_pair in zip(pairs, by_pair, strict=True):
            of_pair.append(cohen_kappa(pair.table(weight)))
    sums = sums_of(votes)
    found = [
        _interval(name, float(coefficient(sums)), drawn[name], confidence, rows)
        for name, coefficient in _OF_ALL.items()
    ]
    own = [float(cohen_kappa(pair.table(votes.weight))) for pair in pairs]
    held = [np.concatenate(one) if one else np.array([]) for one in by_pair]
    defined = [value for value in own if not np.isnan(value)]
    mean = float(np.mean(defined)) if defined else np.nan
    found.append(_interval("cohen_kappa", mean, [_mean(held)] if held else [], confidence, rows))
    for pair, value, resampled in zip(pairs, own, held, strict=True):
        named = (votes.annotators[pair.one], votes.annotators[pair.other])
        found.append(_interval("cohen_kappa", value, [resampled], confidence, pair.rows, named))
    return found


_OF_ALL: Mapping[str, Any] = {
    "agreement": percent,
    "fleiss_kappa": fleiss_kappa,
    "krippendorff_alpha": krippendorff_alpha,
}


@dataclass(frozen=True)
class _Pair:
    """Two annotators, the items that both labelled, and which cell of their table each is in."""

    one: int
    other: int
    items: Numbers
    cells: Numbers
    width: int
    rows: int

    def table(self, weight: Numbers) -> Numbers:
        """Return the tables (..., K, K) for weights (..., items)."""
        chosen = np.asarray(weight, np.float64)[..., self.items]
        order = np.argsort(self.cells, kind="stable")
        cells, starts = np.unique(self.cells[order], return_index=True)
        tables = np.zeros((*chosen.shape[:-1], self.width * self.width))
        tables[..., cells] = np.add.reduceat(chosen[..., order], starts, axis=-1)
        return tables.reshape(*chosen.shape[:-1], self.width, self.width)


def _pairs(votes: Votes, most: int) -> list[_Pair]:
    """Return the pairs of annotators that labelled a row both, those with the most such rows first."""
    size = len(votes.annotators)
    keys, weights = [np.array([], np.int64)], [np.array([], np.int64)]
    made = np.diff(votes.starts)
    for many in np.unique(made[made > 1]):
        items = np.flatnonzero(made == many)
        who = np.sort(votes.annotator[votes.starts[items][:, None] + np.arange(many)])
        for one, other in itertools.combinations(range(many), 2):
            keys.append(who[:, one] * size + who[:, other])
            weights.append(votes.weight[items])
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    shared = np.bincount(place, np.concatenate(weights), len(pairs))
    order = np.lexsort((pairs, -shared))[:most]
    return [_pair(votes, int(pairs[best] // size), int(pairs[best] % size)) for best in order]


def _pair(votes: Votes, one: int, other: int) -> _Pair:
    first, second = votes.of(one), votes.of(other)
    items = np.flatnonzero((first >= 0) & (second >= 0))
    width = len(votes.classes)
    cells = first[items] * width + second[items]
    return _Pair(one, other, items, cells, width, int(votes.weight[items].sum()))


def _mean(held: Sequence[Numbers]) -> Numbers:
    """Return the mean over pairs of each sample, of those pairs that are defined in it."""
    table = np.array(held)
    defined = ~np.isnan(table)
    return _ratio(np.where(defined, table, 0).sum(axis=0), defined.sum(axis=0))


def _interval(
    name: str,
    value: float,
    resampled: Sequence[Numbers],
    confidence: float,
    rows: int,
    pair: tuple[str, str] | None = None,
) -> Agreement:
    held = np.concatenate(resampled) if resampled else np.array([])
    held = held[~np.isnan(held)]  # a sample in which all labels are one
    tail = (1 - confidence) / 2
    low, high = np.quantile(held, [tail, 1 - tail]) if len(held) else (np.nan, np.nan)
    return Agreement(name, value, float(low), float(high), rows, pair)


def _ratio(above: Any, below: Any) -> Numbers:
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0))
