"""The cross product of columns: every combination of their values once, in a shuffled order, never held."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from synthray.errors import InputError
from synthray.lineage import digest
from synthray.provider import Listed, Provider, Range, shuffled

SOURCE = Path(__file__)
"""For the fingerprints of operators whose rows are crossed here."""

_SHUFFLED = 10_000
_ROUNDS = 4


@dataclass(frozen=True)
class Product:
    """All combinations of the values of `providers`; a column `by` another has the values of that one's.

    Combination number i is found from i alone, so that a product may be far larger than what is made of it.
    """

    providers: Mapping[str, Provider]
    salt: tuple[str, int]

    def check(self) -> None:
        """Raise an InputError for a column that has no list of values, or that is by one outside."""
        for name, one in self.providers.items():
            if not isinstance(one, Listed | Range) or self._is_weighted(one):
                raise InputError(
                    f"cross: column {name!r} has no list of values to cross; name those that have"
                )
            if one.by is not None and one.by not in self.providers:
                raise InputError(f"cross: {name!r} is by {one.by!r}, which is not crossed; cross both")

    def _is_weighted(self, one: Listed | Range) -> bool:
        if isinstance(one, Range):
            return False
        return any(pool.weights for pool in (one.pools or {}).values())

    @property
    def size(self) -> int:
        """How many combinations there are."""
        total = 1
        for name in self._below(None):
            total *= self._total(name, None)
        return total

    def rows(self, places: Iterable[int]) -> pa.Table:
        """Return the combinations at `places` in the shuffled order."""
        size = self.size
        found = [dict(self._combination(permuted(place, size, self.salt))) for place in places]
        return pa.table(
            {name: pa.array([row[name] for row in found], one.kind) for name, one in self.providers.items()}
        )

    def _combination(self, number: int) -> Iterator[tuple[str, Any]]:
        for name in self._below(None):
            number, own = divmod(number, self._total(name, None))
            yield from self._within(name, None, own)

    def _within(self, name: str, key: Any, number: int) -> Iterator[tuple[str, Any]]:
        """Yield the value of a column and of those by it, for combination `number` of theirs."""
        values, before = self._counted(name, key)
        below = self._below(name)
        place = bisect.bisect(before, number) - 1 if below else number
        value = values[place]
        yield name, value
        for child in below:  # numbers in a row have all remainders, wherever they begin
            number, own = divmod(number, self._total(child, value))
            yield from self._within(child, value, own)

    def _total(self, name: str, key: Any) -> int:
        """Return how many combinations a column and those by it have, where its `by` is `key`."""
        values, before = self._counted(name, key)
        return before[-1] if self._below(name) else len(values)

    def _counted(self, name: str, key: Any) -> tuple[Sequence[Any], Sequence[int]]:
        """Return the values, and how many combinations come before each of them and in all."""
        if (name, key) not in self._counts:
            values = self.providers[name].listed(key) or ()
            below = self._below(name)
            totals = (self._product_of(below, value) for value in values) if below else ()
            self._counts[name, key] = (values, [0, *itertools.accumulate(totals)])
        return self._counts[name, key]

    def _product_of(self, names: Sequence[str], key: Any) -> int:
        total = 1
        for name in names:
            total *= self._total(name, key)
        return total

    @functools.cached_property
    def _counts(self) -> dict[tuple[str, Any], tuple[Sequence[Any], Sequence[int]]]:
        return {}

    def _below(self, name: str | None) -> tuple[str, ...]:
        return self._children.get(name, ())

    @functools.cached_property
    def _children(self) -> dict[str | None, tuple[str, ...]]:
        found: dict[str | None, tuple[str, ...]] = {}
        for name, one in self.providers.items():
            found[one.by] = (*found.get(one.by, ()), name)
        return found


def permuted(place: int, size: int, salt: tuple[str, int]) -> int:
    """Return where `place` goes in a shuffle of `size` numbers; a large one is never held."""
    if size <= _SHUFFLED:
        return shuffled(salt, "cross", None, 0, size)[place]
    # A Feistel network permutes the numbers of its width; walking on until one is in range permutes these.
    half = ((size - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(_ROUNDS):
            mixed = int(digest(salt, "cross", turn, right)[:16], 16) & mask
            left, right = right, left ^ mixed
        place = left << half | right
        if place < size:
            return place
