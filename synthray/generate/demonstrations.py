"""Give each row demonstrations: rows of pools that stand in its prompt, test rows never among them."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
from annotated_types import Ge, Le

from synthray import demonstration, vectors
from synthray.candidate import Candidates, Counts, Held, Relation
from synthray.column import is_text
from synthray.demonstration import Choice
from synthray.errors import InputError, QueryError, RunFailed, near
from synthray.lineage import content_ids
from synthray.metric import measurements
from synthray.operator import Operator
from synthray.query import Query
from synthray.spelling import identifier

if TYPE_CHECKING:
    from synthray.stage import Stage


@dataclass(frozen=True)
class Demonstrations(Operator):
    """Add `demos`, a list of `columns` of `k` rows of the table `pool`, and `demos_row_ids`, whose they are.

    A template says `{% for demo in demos %}{{ demo.text }}{% endfor %}`. With `pool: {seeds: 6, pool: 2}` so
    many come from each table and together `k`; what one has too few of is filled up from the others, the
    first named first (Self-Instruct: up to 2 machine-made, the rest human). They are shuffled, and every draw
    depends on the seed, the step, the row_id and what the pools hold.

    `by: random` draws them. `by: nearest` takes those whose vectors are most like the row's, by cosine: of
    the column `embedding` in rows and pools, else of hashed n-grams of `text` (spelling, no meaning); a row
    without one has none. Ties go to the lower label, then row_id. More than 100,000 different vectors are
    looked for in `probes` k-means cells (see curate.neighbours; 0: each with each). `balance: COLUMN` takes
    as many of each of its values, or one more: one of each, then the next of each (`nearest`: FreeAL's k/K
    nearest of each class). `match: COLUMN` takes only rows with the row's own value (ProGen: its label; LAB:
    its leaf of a tree).

    The pool may be cut first, for each value of `match` and `balance` by itself: to the `top` rows in the
    `order` (such as "student_influence ASC"; ProGen: 50), then to `medoids`, those nearest to so many k-means
    centroids (FreeAL, Self-Prompting). `share` of the rows have demonstrations, the others an empty list
    (ProGen's feedback ratio). Demonstrations with more than `max_characters` in their columns together are
    cut, the last chosen first; the length of the list says how many are left.

    A row is known by its `text`, one column or several (default: the one of `columns` that holds text, those
    of `match` and `balance` left out): texts are equal in Unicode's form NFKC, in lower case, white space as
    one space. No row is its own demonstration: none with its row_id or, where it has the columns of `text`,
    its texts. Of rows of pools with equal texts (and one value of `match`) one stands in: that of the first
    pool, best in the `order`, with the lowest row_id.

    Test rows never enter a prompt: a table that the recipe evaluates against, or that `never` names, is no
    pool, and a row of a pool is left out when one of its texts equals any text in any column of such a table,
    whatever the columns are called and whatever its label is. Measured: `held_out_rows`, how many are left
    out; `pool_rows`, how many may be chosen (both of n rows, with slices where there are several pools); the
    mean number of `demonstrations` of n rows. An empty pool in a `repeat` gives no demonstrations; elsewhere
    it ends the run. Rows of a pool without a row_id are named by content, as source.table names them; those
    without a value of `match` or `balance`, or a vector where one is needed, are never chosen. All vectors of
    a pool must fit into the memory of a worker.
    """

    pool: str | Mapping[str, Annotated[int, Ge(1), Le(1000)]]
    columns: Sequence[str]
    k: Annotated[int, Ge(1), Le(1000)] = 8
    by: Literal["random", "nearest"] = "random"
    text: str | Sequence[str] | None = None
    embedding: str | None = None
    match: str | None = None
    balance: str | None = None
    order: str = ""
    top: Annotated[int, Ge(1), Le(1_000_000)] | None = None
    medoids: Annotated[int, Ge(1), Le(10_000)] | None = None
    share: Annotated[float, Ge(0), Le(1)] = 1.0
    max_characters: Annotated[int, Ge(1)] | None = None
    never: Sequence[str] = ()
    probes: Annotated[int, Ge(0), Le(100_000)] = 64

    @property
    def reads(self) -> tuple[str, ...]:
        """The column of `match`; for the nearest the embedding, or the texts."""
        seen: tuple[str, ...] = ()
        if self.by == "nearest":
            seen = (self.embedding,) if self.embedding else self._named_texts
        return tuple(dict.fromkeys((*([self.match] if self.match else []), *seen)))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The pools, and the tables whose rows must not be shown."""
        return tuple(dict.fromkeys((*self._counts, *self._hidden)))

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the demonstrations and their row_ids."""
        return {"demos": pa.list_(pa.struct(list(self._kinds))), "demos_row_ids": pa.list_(pa.string())}

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured."""
        return ("held_out_rows", "pool_rows", "demonstrations")

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what chooses."""
        return demonstration.SOURCES

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a pool that is a test set, lacks a column, or settings that do not fit."""
        self._check_pools()
        self._check_settings()
        if not self._texts:
            raise InputError("text names no column; name one, or leave it out")
        for name in self._counts:
            self._check_pool(name)
        _ = self._choice
        for name in self.reads:
            if name == self.match:
                _check_value(before, name, "the rows")
            elif name == self.embedding:
                vectors.check_column(before, name)
            else:
                self.require_text(before, name)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Choose for the rows of a table."""
        with tempfile.TemporaryDirectory() as folder:
            self._candidates(Path(folder))
            return self.attach(table, self._choice.of(table, Held(Path(folder))))

    def apply(self, stage: Stage) -> None:
        """Find the candidates in a task, and choose for the rows in a map pass."""
        folder = stage.path / "candidates"
        counts = stage.tasks(_write, [(self, folder)])[0]
        wanted = ("row_id", *self.reads, *self._texts)
        columns = [name for name in dict.fromkeys(wanted) if name in stage.columns]
        chosen = stage.narrow(stage.dataset(columns), _Choose(self, folder), stage.path / "demos")
        stage.added(chosen.files)
        with stage.over({"chosen": chosen}) as query:
            ids = identifier(self.final("demos_row_ids"))
            rows, mean = query.rows(f"SELECT count(*), avg(len({ids})) FROM chosen")[0]
        stage.measured(measurements(list(_measured(counts, rows, mean))))

    # What the settings say.

    @property
    def _counts(self) -> Mapping[str, int]:
        """How many are of which pool."""
        return {self.pool: self.k} if isinstance(self.pool, str) else self.pool

    @property
    def _hidden(self) -> tuple[str, ...]:
        """The tables whose rows must not be shown."""
        return tuple(dict.fromkeys((*self.context.held_out, *self.never)))

    @property
    def _named_texts(self) -> tuple[str, ...]:
        # Before the tables are known (`synthray ops`) no more is known.
        known = {*self.context.schemas, *self.context.tables}
        return self._texts if self.text is not None or set(self._counts) <= known else ()

    @functools.cached_property
    def _texts(self) -> tuple[str, ...]:
        """The columns that a row is known by."""
        if self.text is not None:
            return (self.text,) if isinstance(self.text, str) else tuple(self.text)
        others = (self.match, self.balance)
        found = [field.name for field in self._kinds if is_text(field.type) and field.name not in others]
        if len(found) != 1:
            raise InputError(
                f"columns hold {'several texts (' + ', '.join(found) + ')' if found else 'no text'}; name by "
                "text the column, or those, that a row is known by (a label is none): test rows are kept out "
                "by it"
            )
        return tuple(found)

    @functools.cached_property
    def _kinds(self) -> pa.Schema:
        """The columns that are shown, of a type that holds those of all pools."""
        schemas = [self._schema(name) for name in self._counts]
        for name, schema in zip(self._counts, schemas, strict=True):
            _require(schema, name, *self.columns)
        given = [pa.schema([schema.field(column) for column in self.columns]) for schema in schemas]
        try:
            found = pa.unify_schemas(given, promote_options="permissive")
        except pa.ArrowTypeError as error:
            raise InputError(
                f"the pools {', '.join(self._counts)} hold columns of different types ({error}); "
                "make them one by a derive"
            ) from None
        return pa.schema([pa.field(field.name, field.type) for field in found])

    @functools.cached_property
    def _choice(self) -> Choice:
        candidates = Candidates(
            self.step,
            self.context.seed,
            self._kinds,
            self._texts,
            self.embedding,
            self.match,
            self.balance,
            self.order,
            self.top,
            self.medoids,
            self.by == "nearest",
            self.probes,
        )
        return Choice(candidates, self.origin, tuple(self._counts.values()), self.share, self.max_characters)

    def _schema(self, name: str) -> pa.Schema:
        """Return the columns of a named table, which may have no rows yet."""
        context = self.context
        if name in context.schemas:
            return context.schemas[name]
        if name in context.tables:
            with Query({name: context.tables[name]}) as query:
                return query.schema(f"SELECT * FROM {identifier(name)}")
        raise InputError(f"no table {name!r}{near(name, {*context.schemas, *context.tables})}")

    # Checking.

    def _check_pools(self) -> None:
        if not self._counts:
            raise InputError("pool names no table; name one, or several as {seeds: 6, pool: 2}")
        if not isinstance(self.pool, str) and sum(self.pool.values()) != self.k:
            raise InputError(
                f"pool asks for {sum(self.pool.values())} demonstrations ({dict(self.pool)}), but k is "
                f"{self.k}; together they must be k"
            )
        for name in self._counts:
            if name in self._hidden:
                why = "never names it" if name in self.never else "the recipe evaluates against it"
                raise InputError(
                    f"the table {name!r} may not be a pool, since {why}: rows of a test set must not enter a "
                    "prompt; name a table of other rows"
                )
        for name in self._hidden:
            if name not in {*self.context.schemas, *self.context.tables}:
                raise InputError(
                    f"the table {name!r}, whose rows must not enter a prompt, is not there yet; name it "
                    f"above the tables that have this step{near(name, self.context.schemas)}"
                )

    def _check_settings(self) -> None:
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise InputError(f"columns must name at least one column, each once, but is {list(self.columns)}")
        if (self.top is None) != (not self.order.strip()):
            raise InputError(
                "top and order go together: top says how many rows are kept, order which come first, such "
                'as top: 50, order: "student_influence ASC"'
            )
        if self.by == "random" and self.embedding and self.medoids is None:
            raise InputError("embedding is for by: nearest or medoids; leave it out, or say by: nearest")

    def _check_pool(self, name: str) -> None:
        """Raise an InputError when a pool lacks a column, or holds something else in it."""
        schema, whose = self._schema(name), f"the table {name!r}"
        seen = (self.embedding,) if self.embedding and self._seen else ()
        values = [one for one in (self.match, self.balance) if one]
        _require(schema, name, *self._texts, *values, *seen)
        for column in self._texts:
            if not is_text(schema.field(column).type):
                raise InputError(
                    f"{whose} has {column!r} as {schema.field(column).type}, but it must hold text"
                )
        for column in values:
            _check_value(schema, column, whose)
        for column in seen:
            vectors.check_column(schema, column, f"{whose}: column")
        if self.order:
            with Query({name: schema.empty_table()}) as query:
                query.view("rows", content_ids(f"SELECT * FROM {identifier(name)}", schema.names))
                try:
                    query.ordering(self.order)
                except QueryError as error:
                    raise InputError(f"order, over {whose}: {error}") from None

    @property
    def _seen(self) -> bool:
        return self.by == "nearest" or self.medoids is not None

    # Working.

    def _candidates(self, folder: Path) -> list[Counts]:
        """Write the candidates into a folder; RunFailed when there are none and there should be."""
        pools = {name: self._relation(name) for name in self._counts}
        hidden = {name: self._relation(name) for name in self._hidden}
        counts = self._choice.candidates.write(pools, hidden, folder)
        for one in counts:
            if not one.rows and not self.context.round:
                raise RunFailed(f"{self.step}: {self._none(one)}")
        return counts

    def _relation(self, name: str) -> Relation:
        table = self.context.tables.get(name)
        if table is None and name in self._hidden:
            raise RunFailed(
                f"{self.step}: the table {name!r}, whose rows must not enter a prompt, is not made yet; name "
                "it above the one that is being made"
            )
        # A table of a loop has no file before there are rows.
        return table if table is not None and table.files else self._schema(name).empty_table()

    def _none(self, one: Counts) -> str:
        if not one.given:
            return f"the pool {one.pool!r} has no rows"
        if one.held_out == one.given:
            hidden = ", ".join(self._hidden)
            return (
                f"all {one.given} rows of the pool {one.pool!r} are held out: their "
                f"{', '.join(self._texts)} is a text of {hidden}; take other rows, or name "
                "by text the columns that rows are known by"
            )
        needed = [one for one in (self.match, self.balance) if one]
        needed += [self.embedding or ", ".join(self._texts)] if self._seen else []
        return (
            f"none of the {one.given} rows of the pool {one.pool!r} can be chosen: {one.held_out} are held "
            f"out, the others are in another pool too, or lack {' or '.join(needed) or 'a text'}"
        )


def _require(schema: pa.Schema, table: str, *columns: str) -> None:
    for name in columns:
        if name not in schema.names:
            raise InputError(f"the table {table!r} has no column {name!r}{near(name, schema.names)}")


def _check_value(schema: pa.Schema, column: str, whose: str) -> None:
    """Raise an InputError when a column holds what cannot be told to be equal by its spelling."""
    if column not in schema.names:
        return
    kind = schema.field(column).type
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise InputError(
            f"{whose}: column {column!r} must hold text, whole numbers or booleans, but is {kind}"
        )


def _measured(counts: Sequence[Counts], rows: int, mean: float) -> Iterator[dict[str, Any]]:
    """Yield what became of the pools, together and each, and how many demonstrations a row has."""
    given = sum(one.given for one in counts)
    for metric, of in (("held_out_rows", "held_out"), ("pool_rows", "rows")):
        yield {"metric": metric, "value": float(sum(getattr(one, of) for one in counts)), "n": given}
        for one in counts if len(counts) > 1 else ():
            value = float(getattr(one, of))
            yield {"metric": metric, "value": value, "n": one.given, "slice": f"pool={one.pool}"}
    yield {"metric": "demonstrations", "value": float(mean), "n": rows}


def _write(operator: Demonstrations, folder: Path) -> list[Counts]:
    return operator._candidates(folder)


@dataclass(frozen=True)
class _Choose:
    """Choose for a block of rows, from candidates that a task has written."""

    operator: Demonstrations
    folder: Path

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return row_id and the final columns."""
        chosen = self.operator._choice.of(table, _held(self.folder))
        return chosen.rename_columns(["row_id", *map(self.operator.final, self.operator.adds())])


@functools.lru_cache(maxsize=2)
def _held(folder: Path) -> Held:
    """Return the candidates in a folder, opened once in a process."""
    return Held(folder)
