"""Rows drawn column by column; those that an exclusion forbids are drawn again, by their own place alone."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from synthray.errors import InputError, QueryError
from synthray.provider import Cycles, Listed, Provider, Row
from synthray.query import Query
from synthray.supply import relations, tables_of

if TYPE_CHECKING:
    from synthray.operator import Context

SOURCE = Path(__file__)
"""For the fingerprints of operators whose rows are drawn here."""

KEPT = 64
"""In so many further draws the first of the columns that an exclusion names keeps its value."""

ATTEMPTS = 1000
"""Where none of so many further draws is allowed, the exclusion leaves too little: an error."""

_BOUNDS = (0, 8, KEPT, 256, ATTEMPTS)
"""Draws are made ahead and judged together, up to one of these; the first allowed one counts."""


@dataclass(frozen=True)
class Exclusion:
    """What rows may not be: SQL `predicates` over their columns and named tables, any of which is true."""

    predicates: tuple[str, ...]
    schema: pa.Schema
    context: Context

    @classmethod
    def of(cls, exclude: str | Sequence[str], schema: pa.Schema, context: Context) -> Exclusion | None:
        """Return the exclusion of a setting, settled; None when it excludes nothing.

        Raises an InputError for what is no predicate, and for windows and subqueries over `rows`: each row is
        judged alone.
        """
        listed = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        if not listed:
            return None
        held, _ = relations(_tables(listed, context), context)
        with Query({**held, "rows": schema.empty_table()}, seed=context.seed) as query:
            try:
                return cls(tuple(_settled(query, one) for one in listed), schema, context)
            except QueryError as error:
                raise InputError(f"exclude: {error}") from None

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The columns that it names."""
        with Query({}) as query:
            found = {
                part.lower() for one in self.predicates for name in query.references(one) for part in name
            }
        return frozenset(name for name in self.schema.names if name.lower() in found)

    def excluded(self, rows: pa.Table) -> list[bool]:
        """Return for each row whether it is excluded; a predicate that is null excludes nothing."""
        held, _ = relations(_tables(self.predicates, self.context), self.context)
        placed = rows.append_column("_place", pa.array(range(len(rows)), pa.int64()))
        any_of = " OR ".join(f"({one})" for one in self.predicates)
        try:
            with Query({**held, "rows": placed}, seed=self.context.seed) as query:
                answer = query.arrow(f"SELECT coalesce({any_of}, false) AS _out FROM rows ORDER BY _place")
        except QueryError as error:
            raise InputError(f"exclude: {error}") from None
        out: list[bool] = answer["_out"].to_pylist()
        return out

    def __str__(self) -> str:
        """Return it as a message shows it."""
        return " OR ".join(self.predicates)


@dataclass
class _Drawn:
    """A row under way."""

    at: int | str
    values: dict[str, Any]
    cycles: dict[str, int | None] | None


@dataclass(frozen=True)
class Drawing:
    """Draws the columns of `providers`, in their order, and again where the exclusion forbids the row.

    Drawn again are the columns that the exclusion names, and what depends on them: in the first KEPT draws
    all but the first one, so that a label stays balanced while another value of the others will do. Columns
    without replacement, and what these depend on, are never drawn again.
    """

    providers: Mapping[str, Provider]
    exclusion: Exclusion | None = None

    def columns(
        self, places: Iterable[tuple[int | str, Row, Cycles | None]], beside: pa.Table | None = None
    ) -> dict[str, pa.Array]:
        """Return the columns of the rows at `places`: index or id, columns that are given, their cycles.

        `beside` has a line for each, with the other columns that the exclusion names.
        """
        rows = [
            self._drawn(_Drawn(at, dict(row), None if cycles is None else dict(cycles)), self.providers, 0)
            for at, row, cycles in places
        ]
        if self.exclusion is not None and rows:
            self._again(rows, self.exclusion, beside)
        return self._arrays(rows)

    def _drawn(self, row: _Drawn, names: Collection[str], attempt: int) -> _Drawn:
        """Return a row with the columns `names` drawn."""
        made = _Drawn(row.at, dict(row.values), None if row.cycles is None else dict(row.cycles))
        for name, provider in self.providers.items():
            if name in names:
                value, cycle = provider.draw(row.at, made.values, made.cycles, attempt)
                made.values[name] = value
                if made.cycles is not None:
                    made.cycles[name] = cycle
        return made

    def _arrays(self, rows: Sequence[_Drawn]) -> dict[str, pa.Array]:
        return {
            name: pa.array([row.values[name] for row in rows], provider.kind)
            for name, provider in self.providers.items()
        }

    def _again(self, rows: list[_Drawn], exclusion: Exclusion, beside: pa.Table | None) -> None:
        excluded = self._judged(rows, range(len(rows)), exclusion, beside)
        bad = [place for place, out in enumerate(excluded) if out]
        for names, attempts in self._turns(exclusion):
            if not bad:
                return
            places = [place for place in bad for _ in attempts]
            tried = [self._drawn(rows[place], names, attempt) for place in bad for attempt in attempts]
            allowed: dict[int, _Drawn] = {}
            for place, row, out in zip(
                places, tried, self._judged(tried, places, exclusion, beside), strict=True
            ):
                if not out:
                    allowed.setdefault(place, row)
            for place, row in allowed.items():
                rows[place] = row
            bad = [place for place in bad if place not in allowed]
        if bad:
            row = rows[bad[0]]
            shown = {name: row.values[name] for name in self.providers}
            raise InputError(
                f"row {row.at}: exclude ({exclusion}) allows none of {ATTEMPTS} draws, such as {shown}; "
                "exclude less, or take out of the lists what never may be"
            )

    def _judged(
        self, rows: Sequence[_Drawn], places: Sequence[int], exclusion: Exclusion, beside: pa.Table | None
    ) -> list[bool]:
        columns: dict[str, Any] = self._arrays(rows)
        if beside is not None:
            taken = beside.take(pa.array(places, pa.int64()))
            columns |= {name: taken[name] for name in taken.column_names if name not in columns}
        return exclusion.excluded(pa.table(columns))

    def _turns(self, exclusion: Exclusion) -> Iterator[tuple[Collection[str], range]]:
        """Yield which columns are drawn again in which attempts."""
        fixed: set[str] = set()
        for name, provider in self.providers.items():
            if isinstance(provider, Listed) and not provider.replacement:
                fixed |= {name, *([provider.by] if provider.by else [])}
        named = [name for name in self.providers if name in exclusion.names and name not in fixed]
        for low, high in itertools.pairwise(_BOUNDS):
            names = self._with_dependent((named[1:] or named) if high <= KEPT else named)
            if names:
                yield names, range(low + 1, high + 1)

    def _with_dependent(self, names: Collection[str]) -> set[str]:
        """Return columns with those that depend on them."""
        found = set(names)
        for name, provider in self.providers.items():
            if provider.by in found:
                found.add(name)
        return found


def _tables(predicates: Iterable[str], context: Context) -> list[str]:
    return [name for one in predicates for name in tables_of(f"SELECT ({one}\n)", context)]


def _settled(query: Query, predicate: str) -> str:
    query.bind(predicate, "rows")
    settled = query.expression(predicate)
    kind = query.schema(f"SELECT ({settled}) AS verdict FROM rows").field("verdict").type
    if str(kind) not in ("bool", "null"):
        raise QueryError(f"must be true or false for each row, but {predicate} is {kind}")
    if "rows" in query.named(f"SELECT ({settled}\n)"):
        raise QueryError(f"judges each row alone, so it may not select from rows: {predicate}")
    query.schema(f"SELECT * FROM rows WHERE ({settled})")  # where DuckDB refuses windows and aggregates
    return settled
