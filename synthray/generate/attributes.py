"""Drawn attributes on existing rows: the columns of source.conditions, for rows that are there already."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray import drawing, provider, supply
from synthray.drawing import Drawing, Exclusion
from synthray.errors import InputError, RunFailed
from synthray.operator import Operator
from synthray.provider import Listed, Provider

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from synthray.stage import Stage


@dataclass(frozen=True)
class Attributes(Operator):
    """Draw a value for each of `columns` on every row (attributed prompts, AttrPrompt; styles, personas).

    ```yaml
    - generate.attributes:
        columns:
          style: [terse, chatty]
          topic: {by: label, from: topics}            # `label` is a column of the rows
          similar: {others: label, from: task.labels, k: 2}
          persona: {from: personas}
        exclude: style = 'terse' AND label = 'World'
    ```

    A column is what it may be in `source.conditions`, and `by` and `others` may also name a column of the
    rows. A draw depends on the seed, the step, its round, the column and the row's id alone, so each is
    independent of the other rows: lists are drawn evenly, not in cycles, and `replacement: false` is refused.
    Where the column of `by` or `others` is null, the attribute is null. A column that is there already is
    drawn anew. `exclude` is SQL over all columns: a row of which it is true has its attributes drawn again.
    """

    columns: Mapping[str, Any]
    exclude: str | Sequence[str] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the rows that attributes depend on."""
        found: dict[str, None] = {}
        earlier: set[str] = set()
        for name, spec in self.columns.items():
            for key in ("by", "others"):
                column = spec.get(key) if isinstance(spec, dict) else None
                if isinstance(column, str) and column not in earlier:
                    found[column] = None
            earlier.add(name)
        return tuple(found)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables that values come from."""
        listed = [self.exclude] if isinstance(self.exclude, str) else self.exclude
        named = [name for one in listed for name in supply.tables_of(f"SELECT ({one}\n)", self.context)]
        return tuple(dict.fromkeys([*supply.named_tables(self.columns, self.context), *named]))

    def files(self) -> tuple[Path, ...]:
        """Return the source of what draws."""
        return (drawing.SOURCE, provider.SOURCE, supply.SOURCE)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the columns, of the type that their values have."""
        return {name: provider.kind for name, provider in self._providers.items()}

    def final(self, name: str) -> str:
        """Return the name itself: the recipe names the columns."""
        return name

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a column that cannot be drawn on these rows."""
        supply.require_names(self.columns)
        kinds = dict(zip(before.names, before.types, strict=True))
        made = supply.providers(self.columns, self.context, self._salt, kinds)
        for name, one in made.items():
            if isinstance(one, Listed) and not one.replacement:
                raise InputError(
                    f"columns.{name}: replacement: false needs to know all rows; it is for source.conditions"
                )
        self._exclusion(before)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return `table` with the attributes."""
        with self._failing():
            exclusion = self._exclusion(table.schema)
            named = exclusion.names if exclusion else frozenset()
            beside = table.select([name for name in table.column_names if name in named])
            read = table.select(["row_id", *(name for name in self.reads if name != "row_id")]).to_pylist()
            places = [(row["row_id"], row, None) for row in read]
            columns = Drawing(self._providers, exclusion).columns(places, beside)
        return self.add(table, columns)

    def apply(self, stage: Stage) -> Dataset | None:
        """Draw in parallel; the tables are read here, once for all workers."""
        with self._failing():
            _ = self._providers
        return super().apply(stage)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Say of what is wrong in the run, with tables that the run made, that the run failed."""
        try:
            yield
        except InputError as error:
            raise RunFailed(f"{self.origin}: {error}") from None

    @property
    def _salt(self) -> tuple[str, int]:
        return (self.origin, self.context.seed)

    @functools.cached_property
    def _providers(self) -> dict[str, Provider]:
        return supply.providers(self.columns, self.context, self._salt, None)

    def _exclusion(self, before: pa.Schema) -> Exclusion | None:
        return Exclusion.of(self.exclude, self.schema(before), self.context)
