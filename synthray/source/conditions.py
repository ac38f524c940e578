"""Rows of conditions: what each generated text shall be about."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from annotated_types import Ge, Le

from synthray.errors import InputError, near
from synthray.lineage import IDENTITY, RESERVED, condition_id, digest, uniform
from synthray.operator import Makes, Operator

if TYPE_CHECKING:
    from ray.data import Dataset

    from synthray.stage import Stage

_FORMS = (
    "a list, task.labels, {from: TABLE}, {by: COLUMN, from: TABLE}, {weights: {value: weight}} or "
    "{range: [low, high]}"
)


@dataclass(frozen=True)
class Conditions(Operator):
    """Make `rows` rows in which each of `columns` draws a value (conditional prompting, AttrPrompt).

    A column is a list of values, `task.labels`, `{from: TABLE}` (the table's column of that name),
    `{by: COLUMN, from: TABLE}` (values that belong to the value of an earlier column), `{weights: {value:
    weight}}` or `{range: [low, high]}` (whole numbers). Lists are drawn in shuffled cycles, so that every
    value comes equally often in any prefix; weights and ranges are drawn independently. Row i depends on
    the seed and i alone: the first 20 rows are the same for any `rows`.
    """

    rows: Annotated[int, Ge(1), Le(1_000_000_000)]
    columns: Mapping[str, Any]

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables that values come from."""
        return tuple(
            spec["from"] for spec in self.columns.values() if isinstance(spec, dict) and "from" in spec
        )

    def makes(self) -> Makes:
        """Make rows."""
        return "rows"

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a column that is no list of values."""
        if not self.columns:
            raise InputError("columns is empty; name at least one, such as label: task.labels")
        for name in self.columns:
            if name in RESERVED:
                raise InputError(f"column {name!r} is reserved for lineage; choose another name")
        _ = self._providers  # an InputError names the column

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the columns, of the type that their values have."""
        return {name: provider.kind for name, provider in self._providers.items()}

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return identity and condition columns."""
        return pa.schema([*IDENTITY.items(), *self.adds().items()])

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the condition rows with the indices in the column `id`."""
        indices = table["id"].to_pylist()
        drawn: dict[str, list[Any]] = {name: [] for name in self.columns}
        providers = self._providers
        for index in indices:
            values: dict[str, Any] = {}
            cycles: dict[str, int | None] = {}
            for name, provider in providers.items():
                values[name], cycles[name] = provider.draw(index, values, cycles)
                drawn[name].append(values[name])
        ids = [condition_id(self.origin, self.context.seed, index) for index in indices]
        columns = [
            pa.array(ids),
            pa.nulls(len(ids), pa.string()),
            pa.array([self.context.round] * len(ids), pa.int32()),
        ]
        kinds = self.adds()
        columns += [pa.array(drawn[name], kinds[name]) for name in drawn]
        return pa.table(columns, schema=self.schema(pa.schema([])))

    def apply(self, stage: Stage) -> Dataset:
        """Draw in parallel; each row needs only its index."""
        return stage.map(stage.range(self.rows), self)

    @functools.cached_property
    def _providers(self) -> dict[str, Provider]:
        providers: dict[str, Provider] = {}
        for name, spec in self.columns.items():
            try:
                providers[name] = _provider(self, name, spec, providers)
            except InputError as error:
                raise InputError(f"columns.{name}: {error}") from None
        return providers


@dataclass(frozen=True)
class Provider:
    """Draws one column's values: `values` by the value of the column `by` (None: for all rows)."""

    name: str
    salt: tuple[str, int]
    kind: pa.DataType
    values: Mapping[Any, tuple[Any, ...]]
    by: str | None = None
    cumulative: tuple[float, ...] = ()
    low: int | None = None
    high: int | None = None

    def draw(
        self, index: int, row: Mapping[str, Any], cycles: Mapping[str, int | None]
    ) -> tuple[Any, int | None]:
        """Return row `index`'s value, and in which cycle through its list it is (None: drawn freely)."""
        chance = functools.partial(uniform, *self.salt, self.name)
        if self.low is not None and self.high is not None:
            return self.low + int(chance(index) * (self.high - self.low + 1)), None
        key = row[self.by] if self.by else None
        values = self.values[key]
        if self.cumulative:
            return values[bisect.bisect(self.cumulative, chance(index) * self.cumulative[-1])], None
        # A value of an earlier list comes once in each of its cycles, so the cycle counts its occurrences.
        turn = cycles[self.by] if self.by else index
        if turn is None:
            return values[int(chance(index) * len(values))], None
        cycle, place = divmod(turn, len(values))
        return values[_shuffled(self.salt, self.name, key, cycle, len(values))[place]], cycle

    def possible(self) -> Iterable[Any]:
        """Return the values that a row may have."""
        if self.low is not None and self.high is not None:
            return range(self.low, self.high + 1)
        return itertools.chain.from_iterable(self.values.values())


@functools.lru_cache(maxsize=4096)
def _shuffled(salt: tuple[str, int], name: str, key: Any, cycle: int, size: int) -> list[int]:
    return sorted(range(size), key=lambda place: digest(salt, name, key, cycle, place))


def _provider(operator: Conditions, name: str, spec: Any, earlier: Mapping[str, Provider]) -> Provider:
    salt = (operator.origin, operator.context.seed)
    if spec == "task.labels":
        if not operator.context.task.labels:
            raise InputError("the recipe's task has no labels")
        spec = list(operator.context.task.labels)
    if isinstance(spec, list):
        return Provider(name, salt, _kind(spec), {None: tuple(spec)})
    if isinstance(spec, dict) and set(spec) <= {"by", "from"} and "from" in spec:
        return _from_table(operator, name, spec, earlier)
    if isinstance(spec, dict) and set(spec) == {"weights"} and isinstance(spec["weights"], dict):
        weights = list(spec["weights"].values())
        if (
            not weights
            or not all(isinstance(one, int | float) and 0 <= one < math.inf for one in weights)
            or not sum(weights)
        ):
            raise InputError(f"weights must be numbers of at least 0, not all 0, but are {weights}")
        drawn = {value: weight for value, weight in spec["weights"].items() if weight}
        cumulative = tuple(itertools.accumulate(drawn.values()))
        return Provider(name, salt, _kind(list(drawn)), {None: tuple(drawn)}, cumulative=cumulative)
    if isinstance(spec, dict) and set(spec) == {"range"}:
        limits = spec["range"]
        whole = isinstance(limits, list) and len(limits) == 2 and all(type(one) is int for one in limits)
        if not whole or limits[0] > limits[1]:
            raise InputError(f"range must be [low, high] in whole numbers, but is {limits}")
        return Provider(name, salt, pa.int64(), {}, low=limits[0], high=limits[1])
    raise InputError(f"must be {_FORMS}, but is {spec!r}")


def _from_table(
    operator: Conditions, name: str, spec: Mapping[str, str], earlier: Mapping[str, Provider]
) -> Provider:
    salt = (operator.origin, operator.context.seed)
    by, source = spec.get("by"), spec["from"]
    if by and by not in earlier:
        raise InputError(f"by: {by!r} must be a column above it{near(by, earlier)}")
    schema = operator.context.schemas.get(source)
    table = operator.context.tables.get(source)
    if table is None:
        if schema is None:
            raise InputError(f"no table {source!r}{near(source, operator.context.tables)}")
        return Provider(name, salt, schema.field(_pick(schema.names, name, "value")).type, {}, by)
    rows = _read(table)
    value = _pick(rows.column_names, name, "value")
    if not by:
        values = list(dict.fromkeys(rows[value].to_pylist()))
        return Provider(name, salt, _kind(values), {None: tuple(values)})
    key = _pick(rows.column_names, by, "key")
    grouped: dict[Any, list[Any]] = {}
    for group, item in zip(rows[key].to_pylist(), rows[value].to_pylist(), strict=True):
        grouped.setdefault(group, []).append(item)
    for one in earlier[by].possible():
        if one not in grouped:
            raise InputError(f"{source} has no {name} for {by} {one!r}{near(str(one), map(str, grouped))}")
    return Provider(
        name,
        salt,
        rows.schema.field(value).type,
        {one: tuple(dict.fromkeys(items)) for one, items in grouped.items()},
        by,
    )


def _read(table: Any) -> pa.Table:
    from synthray.query import Query

    with Query({"rows": table}) as query:
        return query.arrow("SELECT * FROM rows")


def _pick(names: Sequence[str], wanted: str, otherwise: str) -> str:
    for name in (wanted, otherwise):
        if name in names:
            return name
    raise InputError(
        f"the table has neither a column {wanted!r} nor {otherwise!r}; it has {', '.join(names)}"
    )


def _kind(values: Sequence[Any]) -> pa.DataType:
    if not values:
        raise InputError("the list of values is empty")
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise InputError(f"values must be of one type, but are {values[:5]}") from None
