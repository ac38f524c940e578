"""The search for rows that are near: bands and comparisons as tasks, and what they found as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather

from synthray.duplicate.choice import Pairs
from synthray.duplicate.order import once
from synthray.duplicate.pair import Candidates, banded, jaccard, same

if TYPE_CHECKING:
    from synthray.duplicate.shingle import Places
    from synthray.duplicate.signature import Signatures

Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a function with each of some arguments, anywhere, and returns what it returned in their order."""

_PAIRS_A_TASK = 50_000


@dataclass(frozen=True)
class Found:
    """What is known of rows by their numbers: pairs at or above a floor, crowds, and who is a twin of whom.

    `twins` have all the shingles of the row in `of`, which alone is in pairs and crowds. The first `old`
    rows are older data: they are kept, and no verdict is given on them.
    """

    pairs: Pairs
    crowd: Places
    members: Places
    twins: Places
    of: Places
    old: int = 0

    def involved(self) -> Places:
        """Return the numbers of all rows that may have a verdict, or stand in one, ascending."""
        held = (self.pairs.one, self.pairs.other, self.members, self.twins, self.of)
        numbers: Places = once(np.concatenate(held))
        return numbers

    def write(self, folder: Path) -> None:
        """Write it to files of `folder`."""
        for name, columns in self._tables().items():
            feather.write_feather(pa.table(columns), str(folder / f"{name}.arrow"), compression="zstd")

    @classmethod
    def read(cls, folder: Path, old: int) -> Self:
        """Read what was written."""
        held = {
            name: feather.read_table(str(folder / f"{name}.arrow")) for name in ("pairs", "crowds", "twins")
        }
        columns = {
            name: np.asarray(table[name].combine_chunks())
            for table in held.values()
            for name in table.column_names
        }
        pairs = Pairs(columns["one"], columns["other"], columns["similarity"])
        return cls(pairs, columns["crowd"], columns["members"], columns["twins"], columns["of"], old)

    def _tables(self) -> dict[str, dict[str, np.ndarray]]:
        return {
            "pairs": vars(self.pairs),
            "crowds": {"crowd": self.crowd, "members": self.members},
            "twins": {"twins": self.twins, "of": self.of},
        }


@dataclass(frozen=True)
class Search:
    """A search among `signatures` of so many `permutations`, in bands of `width` values.

    The first `old` texts are older data, of which no two are compared. `each` runs the tasks.
    """

    signatures: Signatures
    permutations: int
    width: int
    each: Each
    old: int = 0

    def found(self, floor: float) -> Found:
        """Return what is near, verified: the pairs at or above `floor`."""
        twins, of = same(self.signatures)
        bands = range(self.permutations // self.width)
        given = [(self.signatures, band, self.width, twins, self.old) for band in bands]
        candidates = Candidates.merged(self.each(banded, given))
        one, other = candidates.one, candidates.other
        pairs = Pairs(one, other, self.compare(one, other)).at(floor)
        # Twins among the older texts matter where a new one is near: of equal ones the first is named.
        fresh = twins >= self.old
        met = np.concatenate([pairs.one, pairs.other, candidates.members, of[fresh]])
        told = fresh | np.isin(of, met)
        return Found(pairs, candidates.crowd, candidates.members, twins[told], of[told], self.old)

    def compare(self, one: Places, other: Places) -> np.ndarray:
        """Return the true similarity of pairs."""
        cuts = range(0, len(one), _PAIRS_A_TASK)
        given = [
            (self.signatures, one[cut : cut + _PAIRS_A_TASK], other[cut : cut + _PAIRS_A_TASK])
            for cut in cuts
        ]
        return np.concatenate([np.zeros(0), *self.each(jaccard, given)])
