"""The admission of texts in a stated order: one is let in unless it is too like one that is in already."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synthray.duplicate.rouge import compared

if TYPE_CHECKING:
    import numpy.typing as npt

    from synthray.duplicate.rouge import Nearest, Words
    from synthray.duplicate.search import Each
    from synthray.duplicate.shingle import Places

_BLOCK = 1024
"""Texts that are compared at once with all that were let in before, and with one another."""


@dataclass(frozen=True)
class Admission:
    """What became of some texts: `rows` are their numbers, `let_in` says which were let in.

    `nearest` are of each the nearest that were let in before it, by their places in the order in which that
    was, and `before` is how many there were.
    """

    rows: Places
    let_in: npt.NDArray[np.bool_]
    nearest: list[Nearest]
    before: Places


@dataclass
class Gate:
    """Lets the texts in of which no ROUGE-L with one that is in already is `threshold` or above.

    `kept` are the numbers of those that are in. `each` runs tasks, `workers` of them at a time, and `count`
    nearest are found of each text. A block of texts is compared with those that are in by tasks; in what
    order its own are let in is then decided one by one. So the work grows by the texts that are in, however
    many are alike.
    """

    texts: Words
    kept: Places
    threshold: float
    count: int
    each: Each
    workers: int

    def admissions(self, order: Places) -> Iterator[Admission]:
        """Decide on the texts with these numbers, in their order, and yield what became of each block."""
        for first in range(0, len(order), _BLOCK):
            block = order[first : first + _BLOCK]
            yield self._admission(block, *self._compared(block))

    def _compared(self, block: Places) -> tuple[list[Nearest], npt.NDArray[np.float64]]:
        """Compare a block with what is in, and with itself; long texts are dealt to all workers."""
        deals = [np.arange(len(block))[worker :: self.workers] for worker in range(self.workers)]
        given = [(self.texts, block[deal], self.kept, block, self.count) for deal in deals if len(deal)]
        found = self.each(compared, given)
        back = np.argsort(np.concatenate(deals))
        nearest = list(itertools.chain.from_iterable(one for one, _ in found))
        return [nearest[place] for place in back], np.concatenate([shares for _, shares in found])[back]

    def _admission(self, block: Places, nearest: list[Nearest], shares: npt.NDArray[np.float64]) -> Admission:
        let_in = np.zeros(len(block), bool)
        own = np.zeros(0, np.int64)
        before = np.zeros(len(block), np.int64)
        for place in range(len(block)):
            places = np.arange(len(self.kept), len(self.kept) + len(own))
            nearest[place] = nearest[place].and_more(places, shares[place, own], self.count)
            let_in[place] = not (nearest[place].shares >= self.threshold).any()
            before[place] = len(self.kept) + len(own)
            if let_in[place]:
                own = np.append(own, place)
        self.kept = np.append(self.kept, block[own])
        return Admission(block, let_in, nearest, before)
