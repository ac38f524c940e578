"""The choice of what is kept: in a stated order each text is kept unless a kept one is too near."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synthray.duplicate.order import once, runs

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
        """Decide where there are crowds: all against the first, what is left against the next two, four ...

        So a crowd of copies takes the time of its number, and not of its square. In the end those that are
        gone are compared with all that are kept, so that the nearest is known.
        """
        order = np.lexsort((members, crowd))
        _, crowd = np.unique(crowd[order], return_inverse=True)
        members = members[order]
        asked = _Asked(self, threshold, compare)
        compared_with_all = np.zeros(len(members), bool)
        few = 1
        while True:
            waits = ~compared_with_all & (self.state[members] != GONE)
            self.settle(self._blocked(crowd, members, waits))
            waits &= self.state[members] != GONE
            if not (self.state[members] == UNKNOWN).any():
                break
            turn = self._turn(crowd, waits, self.state[members] == UNKNOWN, few)
            asked.ask(*self._against_later(crowd, members, turn, UNKNOWN))
            compared_with_all |= turn
            few = min(2 * few, _PIVOTS)
        waits = self.state[members] == KEPT
        while waits.any():
            turn = self._turn(crowd, waits, self.state[members] == GONE, _PIVOTS)
            asked.ask(*self._against_later(crowd, members, turn, GONE))
            waits &= ~turn

    def _blocked(self, crowd: Places, members: Places, waits: np.ndarray) -> np.ndarray:
        """Say who has not been compared with an earlier one of its crowd that is not gone."""
        blocked = np.zeros(len(self.state), bool)
        at = np.arange(len(members))
        first = np.minimum.reduceat(np.where(waits, at, len(members)), _starts(crowd))
        blocked[members[at > first[crowd]]] = True
        return blocked

    def _turn(self, crowd: Places, waits: np.ndarray, met: np.ndarray, few: int) -> np.ndarray:
        """Say who is compared with all later ones now: the first `few`, more where few are to be `met`."""
        starts = _starts(crowd)
        sizes = np.add.reduceat(met.astype(np.int64), starts)
        few_of = np.maximum(few, few * _PAIRS_A_TURN // (_PIVOTS * np.maximum(sizes, 1)))
        before = np.cumsum(waits) - waits
        turn: np.ndarray = waits & (before - before[starts][crowd] < few_of[crowd])
        return turn

    def _against_later(
        self, crowd: Places, members: Places, turn: np.ndarray, state: int
    ) -> tuple[Places, Places]:
        """Return the pairs of those whose turn it is and the later ones of their crowd in a state."""
        ends = np.append(_starts(crowd), len(crowd))[1:]
        met = np.flatnonzero(self.state[members] == state)
        pivots = np.flatnonzero(turn)
        first = np.searchsorted(met, pivots, "right")
        sizes = np.searchsorted(met, ends[crowd[pivots]]) - first
        return members[np.repeat(pivots, sizes)], members[met[runs(first, sizes)]]

    def kept_beside(self) -> Pairs:
        """Return the pairs of a text that is gone (`one`) and one that is kept (`other`)."""
        pairs = self.pairs
        swapped = self.state[pairs.one] == KEPT
        one = np.where(swapped, pairs.other, pairs.one)
        other = np.where(swapped, pairs.one, pairs.other)
        named = (self.state[one] == GONE) & (self.state[other] == KEPT)
        return Pairs(one[named], other[named], pairs.similarity[named])


class _Asked:
    """What a choice has compared in crowds, so that no pair is compared again: crowds overlap."""

    def __init__(self, choice: Choice, threshold: float, compare: Compare) -> None:
        self._choice = choice
        self._threshold = threshold
        self._compare = compare
        self._keys = np.zeros(0, np.int64)

    def ask(self, one: Places, other: Places) -> None:
        """Compare the pairs that are new, and give the choice those that are near."""
        count = len(self._choice.state)
        keys = once(one * count + other)
        at = np.searchsorted(self._keys, keys)
        keys = keys[np.append(self._keys, -1)[at] != keys]
        # Two ascending runs: a stable sort merges them.
        self._keys = np.sort(np.concatenate([self._keys, keys]), kind="stable")
        one, other = np.divmod(keys, count)
        near = Pairs(one, other, self._compare(one, other)).at(self._threshold)
        self._choice.pairs = self._choice.pairs.and_more(near)


def components(one: Places, other: Places, count: int) -> Places:
    """Return for each of `count` numbers the smallest that pairs of them connect it with."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(one):
        return np.arange(count)
    ties = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    _, label = connected_components(ties, directed=False)
    _, first = np.unique(label, return_index=True)
    smallest: Places = first[label]
    return smallest


def _starts(crowd: Places) -> Places:
    return np.searchsorted(crowd, np.arange(int(crowd[-1]) + 1))
