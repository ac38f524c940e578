"""What draws a column's values: in shuffled cycles, by weights, without replacement, several at once.

A draw depends on the step, the seed, the column and the row's place (or id) alone, so that it is the same
for any blocks. Every error is an InputError; the operator says whether it was the user's or the data's.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.errors import InputError, near
from synthray.lineage import canonical, digest, uniform

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = Path(__file__)
"""For the fingerprints of operators whose values are drawn here."""

Row = Mapping[str, Any]
Cycles = Mapping[str, int | None]
Chance = Callable[..., float]


@dataclass(frozen=True)
class Pool:
    """Values to draw one of, each as likely as often it is there, or by its `weights`."""

    values: tuple[Any, ...]
    weights: tuple[float, ...] = ()
    cumulative: tuple[float, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "cumulative", tuple(itertools.accumulate(self.weights)))

    def at(self, chance: float) -> Any:
        """Return the value at `chance`, a number in [0, 1)."""
        if not self.cumulative:
            return self.values[int(chance * len(self.values))]
        place = bisect.bisect(self.cumulative, chance * self.cumulative[-1])
        return self.values[min(place, len(self.values) - 1)]

    def once(self) -> Pool:
        """Return the pool with each value once, the weights of equal ones added up."""
        summed: dict[str, float] = {}
        first: dict[str, Any] = {}
        for value, weight in zip(self.values, self.weights or itertools.repeat(0.0), strict=False):
            key = canonical(value)
            first.setdefault(key, value)
            summed[key] = summed.get(key, 0.0) + weight
        return Pool(tuple(first.values()), tuple(summed.values()) if self.weights else ())

    def by_chance(self, chance: Chance) -> Iterator[Any]:
        """Yield all values in a random order, heavier ones rather earlier: draws without replacement."""
        if self.weights:
            # Efraimidis and Spirakis (2006): the order of log(u) / w is that of successive draws.
            keys = [(-math.log(max(chance(p), 2**-53)) / w, p) for p, w in enumerate(self.weights)]
            heapq.heapify(keys)
            while keys:
                yield self.values[heapq.heappop(keys)[1]]
            return
        moved: dict[int, int] = {}  # Fisher-Yates, as far as it is read
        for place in range(len(self.values)):
            other = place + int(chance(place) * (len(self.values) - place))
            yield self.values[moved.get(other, other)]
            moved[other] = moved.get(place, place)


Pools = Mapping[Any, Pool]


@dataclass(frozen=True)
class Provider:
    """Draws the values of the column `name`, of the type `kind`; `by` is a column that it depends on."""

    name: str
    salt: tuple[str, int]
    kind: pa.DataType
    by: str | None = None

    def chance(self, at: int | str, attempt: int) -> Chance:
        """Return what gives numbers in [0, 1) for the row at `at`; another `attempt` gives others."""
        again = ("again", attempt) if attempt else ()
        return functools.partial(uniform, *self.salt, self.name, at, *again)

    def draw(self, at: int | str, row: Row, cycles: Cycles | None, attempt: int) -> tuple[Any, int | None]:
        """Return a row's value, and in which cycle through its list it is (None: drawn freely).

        `at` is the row's place, or its id; `row` holds the earlier columns and `cycles` theirs; without
        `cycles`, and in a later `attempt`, all is drawn freely.
        """
        raise TypeError(f"{type(self).__name__} defines no draw")

    def listed(self, key: Any = None) -> Sequence[Any] | None:
        """Return the values that there may be where the column `by` is `key`; None: they cannot be listed."""
        return None

    def possible(self) -> Iterable[Any] | None:
        """Return the values that a row may have; None when that is not known."""
        return self.listed()


@dataclass(frozen=True)
class Range(Provider):
    """Whole numbers from `low` to `high`, each as likely."""

    low: int = 0
    high: int = 0

    def draw(self, at: int | str, row: Row, cycles: Cycles | None, attempt: int) -> tuple[Any, int | None]:
        """Draw freely."""
        return self.low + int(self.chance(at, attempt)() * (self.high - self.low + 1)), None

    def listed(self, key: Any = None) -> Sequence[Any]:
        """Return the numbers."""
        return range(self.low, self.high + 1)


@dataclass(frozen=True)
class Listed(Provider):
    """One of `pools[value of by]` (None: for all rows): in shuffled cycles, by weights, or each at most once.

    `pools` is None as long as a table that they come from has no rows yet; `source` names them in messages.
    """

    pools: Pools | None = None
    source: str = ""
    replacement: bool = True

    def draw(self, at: int | str, row: Row, cycles: Cycles | None, attempt: int) -> tuple[Any, int | None]:
        """Draw from the pool of the row; null where `by` is null and nothing belongs to null."""
        key = row[self.by] if self.by else None
        pool = self.pool(key, at)
        if pool is None:
            return None, None
        # A value of an earlier list comes once in each of its cycles, so the cycle counts its occurrences.
        turn = None
        if cycles is not None and not attempt:
            turn = cycles[self.by] if self.by else int(at)
        if not self.replacement:
            assert turn is not None
            return pool.values[turn], None
        if pool.weights or turn is None:
            return pool.at(self.chance(at, attempt)()), None
        cycle, place = divmod(turn, len(pool.values))
        return pool.values[shuffled(self.salt, self.name, key, cycle, len(pool.values))[place]], cycle

    def pool(self, key: Any, at: int | str | None = None) -> Pool | None:
        """Return the pool of `key`; an InputError names the row at `at` when there is none."""
        pools = self.pools or {}
        if key not in pools and key is not None:
            row = "" if at is None else f"row {at}: "
            raise InputError(row + missing(self.source, self.name, self.by, key, pools))
        return pools.get(key)

    def listed(self, key: Any = None) -> Sequence[Any] | None:
        """Return the distinct values for `key`; None when they are weighted or not known yet."""
        if self.pools is None or any(pool.weights for pool in self.pools.values()):
            return None
        pool = self.pool(key)
        return (None,) if pool is None else pool.once().values

    def possible(self) -> Iterable[Any] | None:
        """Return all values."""
        if self.pools is None:
            return None
        return itertools.chain.from_iterable(pool.values for pool in self.pools.values())

    def require(self, rows: int, earlier: Mapping[str, Provider], free: Collection[str] = ()) -> None:
        """Raise an InputError when so many rows need more values than there are, each at most once.

        `free` are the earlier columns that are not drawn in cycles.
        """
        if self.replacement or self.pools is None:
            return
        for key, needed in _needed(self, rows, earlier, free):
            held = self.pool(key)
            if held is not None and needed > len(held.values):
                of = f" of {self.by} {key!r}" if self.by else ""
                raise InputError(
                    f"columns.{self.name}: {needed} rows{of} need as many values, but there are "
                    f"{len(held.values)} and each comes at most once (replacement: false)"
                )


@dataclass(frozen=True)
class Sample(Provider):
    """A list of distinct values: `counts` says how many of which pool; with `by` the row says of which."""

    pools: Pools | None = None
    source: str = ""
    counts: Mapping[Any, int] = field(default_factory=dict)

    def draw(self, at: int | str, row: Row, cycles: Cycles | None, attempt: int) -> tuple[Any, int | None]:
        """Draw freely, without replacement within the row."""
        chance = self.chance(at, attempt)
        pools = self.pools or {}
        found: list[Any] = []
        for key, count in self.counts.items():
            group = row[self.by] if self.by else key
            if group not in pools:
                if self.by and group is None:
                    return None, None
                raise InputError(f"row {at}: " + missing(self.source, self.name, self.by, group, pools))
            drawn = (
                value
                for value in pools[group].by_chance(functools.partial(chance, str(group)))
                if value not in found
            )
            taken = list(itertools.islice(drawn, count))
            if len(taken) < count:
                raise InputError(
                    f"row {at}: {self.name} needs {count} distinct values of {group!r}, but only "
                    f"{len(taken)} are left beside the others in the row"
                )
            found += taken
        return found, None


@dataclass(frozen=True)
class Others(Provider):
    """The `values` that the row's column `by` does not have: all in their order, or `k` of them."""

    values: tuple[Any, ...] | None = None
    k: int | None = None

    def draw(self, at: int | str, row: Row, cycles: Cycles | None, attempt: int) -> tuple[Any, int | None]:
        """Draw freely; null where the column is null."""
        assert self.by is not None
        if row[self.by] is None:
            return None, None
        rest = tuple(value for value in self.values or () if value != row[self.by])
        if self.k is None:
            return list(rest), None
        return list(itertools.islice(Pool(rest).by_chance(self.chance(at, attempt)), self.k)), None


@functools.lru_cache(maxsize=4096)
def shuffled(salt: tuple[str, int], name: str, key: Any, cycle: int, size: int) -> list[int]:
    """Return the places of a list in the order of a cycle."""
    return sorted(range(size), key=lambda place: digest(salt, name, key, cycle, place))


def missing(source: str, name: str, by: str | None, key: Any, pools: Pools) -> str:
    """Return the message for a key that nothing belongs to."""
    named = f"{by} {key!r}" if by else repr(key)
    return f"{source} has no {name} for {named}{near(str(key), map(str, pools))}"


def _needed(
    column: Listed, rows: int, earlier: Mapping[str, Provider], free: Collection[str]
) -> Iterator[tuple[Any, int]]:
    """Yield how many values of which pool so many rows take."""
    if column.by is None:
        yield None, rows
        return
    other = earlier.get(column.by)
    counted = isinstance(other, Listed) and other.by is None and other.replacement and column.by not in free
    values = other.listed() if counted and other else None
    if not isinstance(other, Listed) or not counted or (other.pools is not None and values is None):
        raise InputError(
            f"columns.{column.name}: replacement: false needs a column {column.by!r} that is a list drawn in "
            "cycles, with no by, weights or cross of its own"
        )
    if values is None or other.pools is None:
        return
    if len(values) < len(other.pools[None].values):
        raise InputError(
            f"columns.{column.name}: replacement: false needs distinct values of "
            f"{column.by!r}, but one repeats"
        )
    cycles, over = divmod(rows, len(values))
    last = shuffled(other.salt, other.name, None, cycles, len(values))[:over] if over else []
    for place, value in enumerate(other.pools[None].values):
        yield value, cycles + (place in last)
