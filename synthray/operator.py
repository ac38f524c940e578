"""An operator is a function from an Arrow table to an Arrow table.

Its fields are its settings, `reads` and `adds()` name its columns, `__call__` does the work and needs no
Ray. It adds columns and never drops a row: a `where` decides. The file `synthray/curate/toxicity.py`
holds the operator `curate.toxicity`; nothing else is to be registered. Other packages add theirs through
the entry-point group `synthray.operators`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from synthray.errors import InputError, RecipeError, near
from synthray.task import Task

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from synthray.model.language import Language
    from synthray.query import Query
    from synthray.stage import Stage
    from synthray.table import Table

FOLDERS = ("source", "generate", "curate", "evaluate", "export")
SHARED = frozenset({"label_audit"})
"""Columns in which a step goes on where an earlier one wrote: they have one name, whatever the prefix."""

Makes = Literal["columns", "rows", "children", "nothing"]
"""What comes out: the rows with more columns, rows from nowhere, children, or the rows as they are."""


@dataclass(frozen=True)
class Context:
    """What the run gives an operator beside its settings; every field has a use without a run.

    `language` answers and `limiter` is its limiter; `models` are those that the operator names itself, with
    their `limiters`. `round` counts from 1 in the steps of a `repeat`. `held_out` are the tables that the
    recipe evaluates against: their rows never enter a prompt.
    """

    step: str = ""
    prefix: str = ""
    seed: int = 0
    task: Task = field(default_factory=Task)
    language: Language | None = None
    models: Mapping[str, Language] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    schemas: Mapping[str, pa.Schema] = field(default_factory=dict)
    calls: str | None = None
    reviews: str | None = None
    limiter: str | None = None
    limiters: Mapping[str, str] = field(default_factory=dict)
    retry: int = 0
    round: int = 0
    held_out: tuple[str, ...] = ()

    def of(self, model: str) -> Context:
        """Return the context with one of `models` as the language that answers."""
        return replace(self, language=self.models[model], limiter=self.limiters.get(model))


@dataclass(frozen=True)
class Operator:
    """Base of all operators; a subclass is a frozen dataclass whose fields are its settings."""

    uses_model: ClassVar[bool] = False
    uses_gate: ClassVar[bool] = False
    takes_when: ClassVar[bool] = True
    """Whether it can work on some of the rows, and let the others pass by."""

    context: Context = field(default_factory=Context, kw_only=True, repr=False, compare=False)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that the operator needs."""
        return ()

    @property
    def table_names(self) -> tuple[str, ...]:
        """The named tables that the operator needs."""
        return ()

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models of `models:` that the operator asks beside the step's own."""
        return ()

    @property
    def held_out(self) -> tuple[str, ...]:
        """The named tables that the operator evaluates against: their rows must never enter a prompt."""
        return ()

    @property
    def step(self) -> str:
        """The step's name; outside a recipe the name of the operator's file. Columns are named after it."""
        return self.context.step or type(self).__module__.rpartition(".")[2]

    @property
    def origin(self) -> str:
        """The step's name with the round that it is in, for what differs between rounds: ids and draws."""
        return f"{self.step}@{self.context.round}" if self.context.round else self.step

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the columns that the operator adds, with their types, before any prefix."""
        return {}

    def makes(self) -> Makes:
        """Return what comes out; see Makes."""
        return "columns"

    def row_count(self) -> int | None:
        """Return how many rows a source makes at most; None where its settings do not say."""
        rows = getattr(self, "rows", None)
        return rows if isinstance(rows, int) else None

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, so that a gate's misspelt one is found before the run."""
        return ()

    def gate(self) -> tuple[str, ...]:
        """Return the conditions that `gate: default` asks for, over `metric.field` of this step.

        They refuse what is broken and let pass what is merely poor; each names its figure's origin.
        """
        return ()

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the settings cannot work on rows of schema `before`."""

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return the schema that rows have after this operator."""
        import pyarrow as pa

        added = {self.final(name): kind for name, kind in self.adds().items()}
        kept = [column for column in before if column.name not in added]
        return pa.schema([*kept, *(pa.field(name, kind) for name, kind in added.items())])

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return `table` with the operator's columns."""
        raise TypeError(f"{type(self).__name__} defines no __call__")

    def apply(self, stage: Stage) -> Dataset | None:
        """Run over the stage's rows; row-local unless overridden. None: the stage got all that was made."""
        return stage.map(stage.dataset(), self)

    def files(self) -> tuple[Path, ...]:
        """Return the files whose content decides the result, for the fingerprint."""
        return ()

    def settings(self) -> dict[str, Any]:
        """Return the settings by name, the run's context left out."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "context"}

    def final(self, name: str) -> str:
        """Return the name that a column of `adds()` has in the rows."""
        has_it = name in SHARED or name == f"{self.step}_call"  # the step's name is in it already
        return name if has_it else self.context.prefix + name

    def add(self, table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
        """Return `table` with `columns` (a key of `adds()` -> values), typed and under their final names."""
        import pyarrow as pa

        kinds = self.adds()
        for name, values in columns.items():
            if not isinstance(values, pa.Array | pa.ChunkedArray):
                values = pa.array(values, kinds[name])
            final = self.final(name)
            if final in table.column_names:
                table = table.drop_columns([final])
            table = table.append_column(pa.field(final, kinds[name]), values.cast(kinds[name]))
        return table

    def attach(self, table: pa.Table, marks: pa.Table) -> pa.Table:
        """Return `table` with the columns of `marks` (row_id and keys of `adds()`) joined by row_id."""
        import pyarrow.compute as pc

        at = pc.index_in(table["row_id"], marks["row_id"].combine_chunks())
        return self.add(table, {name: marks[name].take(at) for name in self.adds()})

    def require_text(self, before: pa.Schema, *columns: str) -> None:
        """Raise an InputError when one of `columns` is there but does not hold text."""
        from synthray.column import is_text

        for name in columns:
            if name in before.names and not is_text(before.field(name).type):
                raise InputError(f"column {name!r} must hold text, but is {before.field(name).type}")


@dataclass(frozen=True)
class Measure(Operator):
    """Base of operators that measure the rows and leave them as they are."""

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def measure(self, query: Query) -> pa.Table:
        """Return measurements of the relation `rows`: see `synthray.metric`."""
        raise TypeError(f"{type(self).__name__} defines no measure")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the measurements of `table`."""
        from synthray.query import Query

        named = {name: self.context.tables[name] for name in self.table_names if name in self.context.tables}
        with Query({**named, "rows": table}, seed=self.context.seed) as query:
            return self.measure(query)

    def apply(self, stage: Stage) -> None:
        """Measure the stage's input."""
        stage.measured(self.measure(stage.query))


def path_of(operator: Operator) -> str:
    """Return where recipes find an operator, such as 'curate.near_duplicate'."""
    return ".".join(type(operator).__module__.rsplit(".", 2)[-2:])


def operator_paths() -> Iterator[tuple[str, str]]:
    """Yield (path, first line of its docstring) of every operator, importing none of them."""
    root = Path(__file__).parent
    for folder in FOLDERS:
        for module in pkgutil.iter_modules([str(root / folder)]):
            tree = ast.parse((root / folder / f"{module.name}.py").read_text(encoding="utf-8"))
            yield f"{folder}.{module.name}", (ast.get_docstring(tree) or "").partition("\n")[0]
    for entry in _entry_points():
        yield entry.name, f"from the package {entry.dist.name if entry.dist else '?'}"


def find_operator(path: str) -> type[Operator]:
    """Return the operator at `path`, such as 'curate.near_duplicate'; RecipeError names the nearest."""
    folder, _, name = path.partition(".")
    if folder in FOLDERS and name.isidentifier():
        module_name = f"synthray.{folder}.{name}"
        if importlib.util.find_spec(module_name):
            return operator_in(module_name)
    for entry in _entry_points():
        if entry.name == path:
            try:
                loaded = entry.load()
            except (ImportError, AttributeError) as error:
                raise RecipeError(
                    f"the entry point {path!r} ({entry.value}) cannot be loaded: {error}"
                ) from error
            if not (isinstance(loaded, type) and issubclass(loaded, Operator)):
                raise RecipeError(f"the entry point {path!r} is {loaded!r}, not an Operator")
            return loaded
    raise RecipeError(f"no operator {path!r}{near(path, (known for known, _ in operator_paths()))}")


def operator_in(module_name: str) -> type[Operator]:
    """Return the one operator that a module defines."""
    module = importlib.import_module(module_name)
    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Operator) and value.__module__ == module_name
    ]
    if len(found) != 1:
        raise RecipeError(f"{module_name} must define one operator, but defines {len(found)}")
    return found[0]


def _entry_points() -> Any:
    from importlib.metadata import entry_points

    return entry_points(group="synthray.operators")
