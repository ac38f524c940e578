"""The choice of what is kept: in a stated order each text is kept unless a kept one is too near."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from synthray.duplicate.shingle import Places

    Compare = Callable[[Places, Places], np.ndarray]

UNKNOWN, KEPT, GONE = 0, 1, 2
_PIVOTS = 32
_PAIRS_A_TURN = 1 << 16


@dataclass
class Pairs:
    """Pairs of numbers and how similar they are."""

    one: Places
    other: Places
    similarity: np.ndarray

    def at(self, threshold: float) -> Pairs:
        """Return the pairs at or above a threshold."""
        near = self.similarity >= threshold
        return Pairs(self.one[near], self.other[near], self.similarity[near])

    def and_more(self, more: Pairs) -> Pairs:
        """Return these pairs and others."""
        return Pairs(
            np.concatenate([self.one, more.one]),
            np.concatenate([self.other, more.other]),
            np.concatenate([self.similarity, more.similarity]),
        )


class Choice:
    """Decides which of `count` texts are kept; their numbers are the order in which they are preferred.

    The first `old` are kept whatever they are. `pairs` are those at or above `threshold`. In a crowd (see
    pair.CROWD) nobody has been compared yet: its members are, by `compare`, with those that may be kept.
    """

    def __init__(self, pairs: Pairs, count: int, old: int = 0) -> None:
        self.pairs = pairs
        self.state = np.zeros(count, np.int8)
        self.state[:old] = KEPT

    def settle(self, blocked: np.ndarray | None = None) -> None:
        """Decide all that can be: a text is gone when an earlier one is kept, kept when all such are gone.

        A `blocked` text may yet turn out to be near an earlier one, so it is not kept for now.
        """
        early = np.minimum(self.pairs.one, self.pairs.other)
        late = np.maximum(self.pairs.one, self.pairs.other)
        while True:
            undecided = self.state[late] == UNKNOWN
            early, late = early[undecided], late[undecided]
            gone = late[self.state[early] == KEPT]
            self.state[gone] = GONE
            free = self.state == UNKNOWN
            free[late[self.state[early] == UNKNOWN]] = False
            if blocked is not None:
                free &= ~blocked
            self.state[free] = KEPT
            if not len(gone) and not free.any():
                return

    def settle_crowds(self, crowd: Places, members: Places, threshold: float, compare: Compare) -> None:
        """Decide where there are crowds: all against the first few, then what is left against the next few.

        So a crowd of copies takes the time of its number, and not of its square.
        """
        order = np.lexsort((members, crowd))
        _, crowd = np.unique(crowd[order], return_inverse=True)
        members = members[order]
        compared_with_all = np.zeros(len(members), bool)
        known = np.zeros(0, np.int64)
        while True:
            waits = ~compared_with_all & (self.state[members] != GONE)
            self.settle(self._blocked(crowd, members, waits))
            waits &= self.state[members] != GONE
            if not (self.state[members] == UNKNOWN).any():
                return
            turn = self._turn(crowd, members, waits)
            one, other = self._against_later(crowd, members, turn)
            keys = np.setdiff1d(one * len(self.state) + other, known)
            known = np.union1d(known, keys)
            one, other = np.divmod(keys, len(self.state))
            self.pairs = self.pairs.and_more(Pairs(one, other, compare(one, other)).at(threshold))
            compared_with_all |= turn

    def _blocked(self, crowd: Places, members: Places, waits: np.ndarray) -> np.ndarray:
        """Say who has not been compared with an earlier one of its crowd that is not gone."""
        blocked = np.zeros(len(self.state), bool)
        at = np.arange(len(members))
        first = np.minimum.reduceat(np.where(waits, at, len(members)), _starts(crowd))
        blocked[members[at > first[crowd]]] = True
        return blocked

    def _turn(self, crowd: Places, members: Places, waits: np.ndarray) -> np.ndarray:
        """Say who is compared with all later ones now: the first few, more where few are undecided."""
        starts = _starts(crowd)
        undecided = np.add.reduceat((self.state[members] == UNKNOWN).astype(np.int64), starts)
        few = np.maximum(_PIVOTS, _PAIRS_A_TURN // np.maximum(undecided, 1))
        before = np.cumsum(waits) - waits
        turn: np.ndarray = waits & (before - before[starts][crowd] < few[crowd])
        return turn

    def _against_later(self, crowd: Places, members: Places, turn: np.ndarray) -> tuple[Places, Places]:
        ends = np.append(_starts(crowd), len(crowd))[1:]
        pivots = np.flatnonzero(turn)
        sizes = ends[crowd[pivots]] - pivots - 1
        stops = np.cumsum(sizes)
        later = np.arange(int(stops[-1])) + np.repeat(pivots + 1 - (stops - sizes), sizes)
        undecided = self.state[members[later]] == UNKNOWN
        return members[np.repeat(pivots, sizes)[undecided]], members[later[undecided]]

    def kept_beside(self) -> Pairs:
        """Return the pairs of a text that is gone (`one`) and one that is kept (`other`)."""
        pairs = self.pairs
        swapped = self.state[pairs.one] == KEPT
        one = np.where(swapped, pairs.other, pairs.one)
        other = np.where(swapped, pairs.one, pairs.other)
        named = (self.state[one] == GONE) & (self.state[other] == KEPT)
        return Pairs(one[named], other[named], pairs.similarity[named])


def components(pairs: Pairs, count: int) -> Places:
    """Return for each of `count` texts the smallest number that pairs connect it with."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs.one):
        return np.arange(count)
    ties = coo_array((np.ones(len(pairs.one), bool), (pairs.one, pairs.other)), shape=(count, count))
    _, label = connected_components(ties, directed=False)
    _, first = np.unique(label, return_index=True)
    smallest: Places = first[label]
    return smallest


def _starts(crowd: Places) -> Places:
    return np.searchsorted(crowd, np.arange(int(crowd[-1]) + 1))
