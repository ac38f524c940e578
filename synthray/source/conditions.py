"""Rows of conditions: what each generated text shall be about."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from annotated_types import Ge, Le, Predicate

from synthray import drawing, product, provider, supply
from synthray.drawing import Drawing, Exclusion
from synthray.errors import InputError, RunFailed, near
from synthray.lineage import IDENTITY, condition_id
from synthray.operator import Makes, Operator
from synthray.product import Product
from synthray.provider import Cycles, Listed, Provider, Row
from synthray.query import Query

if TYPE_CHECKING:
    from ray.data import Dataset

    from synthray.stage import Stage

_MOST = 1_000_000_000
_CHUNK = 10_000


def _is_select(text: str) -> bool:
    return text.lstrip().lower().startswith(("select", "with", "from"))


@dataclass(frozen=True)
class Conditions(Operator):
    """Make `rows` rows in which each of `columns` draws a value (conditional prompting, AttrPrompt).

    ```yaml
    - source.conditions:
        rows: 200
        columns:
          label: task.labels                         # or a list: shuffled cycles, all equally often
          topic: {by: label, from: topics}           # values that belong to an earlier column's value
          style: {by: label, values: {World: [dry], Sports: [lively, terse]}}     # the same, inline
          place: {weights: {Oslo: 3, Rome: 1}}       # independent draws
          length: {ranges: [[30, 80], [100, 150]]}   # {{ length.low }} to {{ length.high }} words
          similar: {others: label, k: 2}             # a list of other labels
          year: {range: [1990, 2020]}                # a whole number
          persona: {from: personas, replacement: false}    # each at most once
          leaf: {tree: {Science: {Physics: [Optics, Waves]}, Arts: [Film]}, depth: 3}   # a path, as a list
          words: {words: {noun: 1, verb: 1}, from: vocabulary}    # TinyStories; {words: 3} of any kind
          facts: {sample: 2, by: label, from: facts} # distinct values, as a list
          gap: {sql: "SELECT label AS value, missing AS weight FROM deficit"}
        exclude: style = 'lively' AND place = 'Oslo'
    ```

    `from` is a named table (its column of that name, or `value`; `key` for what it belongs to) or a list. A
    SELECT answers `value`, and may answer `weight` and the column that `by` names; a value that it answers
    twice counts twice, so that `SELECT label AS value FROM deficit, range(missing)` gives exact numbers.
    Without weights, and with `by` a column that is drawn so, values come in shuffled cycles: every one
    equally often in any prefix. Of a tree each leaf is as likely; `depth` cuts it to so many levels.

    `cross: true`, or a list of columns, gives every combination of their values once, in a shuffled order;
    `rows` may then be left out and is at most the number of combinations. `exclude` is SQL over the columns
    (and named tables), or a list of such: a row of which one is true is drawn again (see Drawing), and a
    crossed combination is left out.

    `rows` may be a SELECT that answers one whole number. 0, or null, makes no rows inside of a `repeat` and
    is an error outside of one. Row i depends on the seed, the step, its round and i alone: the first 20 rows
    are the same for any `rows`.
    """

    columns: Mapping[str, Any]
    rows: Annotated[int, Ge(1), Le(_MOST)] | Annotated[str, Predicate(_is_select)] | None = None
    cross: bool | Sequence[str] = False
    exclude: str | Sequence[str] = ()

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables that values and the number of rows come from."""
        listed = [self.exclude] if isinstance(self.exclude, str) else self.exclude
        asked = [f"SELECT ({one}\n)" for one in listed] + ([self.rows] if isinstance(self.rows, str) else [])
        named = [name for sql in asked for name in supply.tables_of(sql, self.context)]
        return tuple(dict.fromkeys([*supply.named_tables(self.columns, self.context), *named]))

    def files(self) -> tuple[Path, ...]:
        """Return the source of what draws."""
        return (drawing.SOURCE, product.SOURCE, provider.SOURCE, supply.SOURCE)

    def makes(self) -> Makes:
        """Make rows."""
        return "rows"

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a column that is no list of values, or for rows that cannot be drawn."""
        supply.require_names(self.columns)
        if self.rows is None and not self.cross:
            raise InputError(
                "needs the setting 'rows': a number, or a SELECT that answers one (or cross: true, for every "
                "combination once)"
            )
        _ = self._providers  # an InputError names the column
        self._require_crossable()
        _ = self._exclusion
        count = self._count()
        if count == 0:
            raise InputError(self._no_rows())
        if count is not None and self._ready():
            self._require_enough(count)
            self._made(pa.array(range(min(count, 100)), pa.int64()))  # an exclusion that leaves nothing

    def row_count(self) -> int | None:
        """Return how many rows are made; None as long as a table that decides it has no rows yet.

        Of a cross product with an exclusion and without `rows` it is how many there are at most.
        """
        with self._failing():
            return self._count()

    def _count(self) -> int | None:
        if isinstance(self.rows, int):
            return self.rows
        if self.rows is None:
            self._require_crossable()
            return self._product.size if self._ready() else None
        held, ready = supply.relations(supply.tables_of(self.rows, self.context), self.context)
        with Query(held, seed=self.context.seed) as query:
            query.bind(self.rows)
            settled = query.settled(self.rows)
            schema = query.schema(settled)
            if len(schema) != 1:
                raise InputError(f"rows must answer one number, but answers {', '.join(schema.names)}")
            return _whole([row[0] for row in query.rows(settled)], self.rows) if ready else None

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the columns, of the type that their values have."""
        return {name: provider.kind for name, provider in self._providers.items()}

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return identity and condition columns."""
        return pa.schema([*IDENTITY.items(), *self.adds().items()])

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the condition rows with the indices in the column `id`, without combinations left out."""
        with self._failing():
            return self._made(table["id"])

    def apply(self, stage: Stage) -> Dataset | None:
        """Draw in parallel; each row needs only its index."""
        with self._failing():
            count = self._count()
            assert count is not None, "all tables have their rows now"
            if not count:
                if self.context.round:
                    return None
                raise InputError(self._no_rows())
            span = self._require_enough(count)  # also reads the tables here, once for all workers
        return stage.map(stage.range(span), self)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Say of what is wrong in the run, with tables that the run made, that the run failed."""
        try:
            yield
        except InputError as error:
            raise RunFailed(f"{self.origin}: {error}") from None

    def _made(self, indices: Any) -> pa.Table:
        places: list[int] = indices.to_pylist()
        starts: list[tuple[int | str, Row, Cycles | None]] = [(place, {}, {}) for place in places]
        columns: dict[str, Any] = {}
        if self._crossed:
            crossed = self._product.rows(places)
            if self._exclusion is not None:
                out = self._exclusion.excluded(crossed)
                kept = [number for number, left_out in enumerate(out) if not left_out]
                crossed = crossed.take(pa.array(kept, pa.int64()))
                places = [places[number] for number in kept]
            free: dict[str, int | None] = dict.fromkeys(self._crossed)
            starts = [(place, row, free) for place, row in zip(places, crossed.to_pylist(), strict=True)]
            columns = dict(zip(crossed.column_names, crossed.columns, strict=True))
        columns |= self._drawing.columns(starts)
        identity = {
            "row_id": [condition_id(self.origin, self.context.seed, place) for place in places],
            "parent_id": pa.nulls(len(places), pa.string()),
            "round": pa.array([self.context.round] * len(places), pa.int32()),
        }
        schema = self.schema(pa.schema([]))
        return pa.table({name: (identity | columns)[name] for name in schema.names}, schema=schema)

    # What draws.

    @functools.cached_property
    def _providers(self) -> dict[str, Provider]:
        salt = (self.origin, self.context.seed)
        return supply.providers(self.columns, self.context, salt, {})

    @property
    def _crossed(self) -> tuple[str, ...]:
        if isinstance(self.cross, bool):
            return tuple(self.columns) if self.cross else ()
        return tuple(self.cross)

    @functools.cached_property
    def _product(self) -> Product:
        crossed = {name: self._providers[name] for name in self.columns if name in self._crossed}
        return Product(crossed, (self.origin, self.context.seed))

    @functools.cached_property
    def _exclusion(self) -> Exclusion | None:
        kinds = self.adds()
        names = self._crossed or tuple(kinds)
        schema = pa.schema([(name, kinds[name]) for name in kinds if name in names])
        try:
            return Exclusion.of(self.exclude, schema, self.context)
        except InputError as error:
            beside = "" if not self._crossed else " (beside cross, it is over the crossed columns alone)"
            raise InputError(f"{error}{beside}") from None

    @functools.cached_property
    def _drawing(self) -> Drawing:
        drawn = {name: one for name, one in self._providers.items() if name not in self._crossed}
        return Drawing(drawn, None if self._crossed else self._exclusion)

    def _ready(self) -> bool:
        return all(name in self.context.tables for name in self.table_names)

    # How many rows there can be.

    def _no_rows(self) -> str:
        return (
            f"rows ({self.rows}) answers 0: there is nothing to make; only inside of a repeat may a "
            "source make no rows"
        )

    def _require_crossable(self) -> None:
        if not self._crossed:
            return
        for name in self._crossed:
            if name not in self.columns:
                raise InputError(f"cross: no column {name!r}{near(name, self.columns)}")
        self._product.check()

    def _require_enough(self, count: int) -> int:
        """Return over how many indices so many rows go; an InputError when there are too few values."""
        for one in self._providers.values():
            if isinstance(one, Listed) and one.name not in self._crossed:
                one.require(count, self._providers, self._crossed)
        if not self._crossed:
            return count
        size = self._product.size
        if count > size:
            raise InputError(f"rows is {count}, but the cross product has {size} combinations")
        if self._exclusion is None:
            return count
        wanted = 1 if self.rows is None else count
        found = 0
        for start in range(0, size, _CHUNK):
            out = self._exclusion.excluded(self._product.rows(range(start, min(size, start + _CHUNK))))
            for place, left_out in enumerate(out, start):
                found += not left_out
                if found == wanted:
                    return size if self.rows is None else place + 1
        if not found:
            raise InputError(f"exclude ({self._exclusion}) leaves none of the {size} combinations")
        raise InputError(
            f"rows is {count}, but exclude ({self._exclusion}) leaves {found} of the {size} combinations"
        )


def _whole(answer: Sequence[Any], sql: str) -> int:
    if len(answer) != 1:
        raise InputError(f"rows must answer one number, but answers {len(answer)} rows: {sql}")
    value = 0 if answer[0] is None else answer[0]
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"rows must answer a whole number, but answers {value!r}: {sql}") from None
    if whole != value or isinstance(value, str):
        raise InputError(f"rows must answer a whole number, but answers {value}: {sql}; ceil() makes it one")
    if not 0 <= whole <= _MOST:
        raise InputError(f"rows must answer from 0 to {_MOST}, but answers {whole}: {sql}; see greatest()")
    return whole
