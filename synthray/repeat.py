"""A loop: steps that are done in rounds, what their SQL sees, and when it ends.

```yaml
- repeat:
    max: 20
    target: {World: 50, Sports: 50}    # exactly so many accepted rows of each value of `by`
    by: label
    candidates: 4000                   # no round begins once so many were made
    steps:
      - source.conditions: {rows: "SELECT sum(missing) * 2 FROM deficit",
                            columns: {label: {sql: "SELECT label, missing AS weight FROM deficit"}}}
      - generate.prompt: {template: "Write a {{ label }} report.", writes: text}
      - curate.near_duplicate: {text: text, against: [pool]}
      - where: near_duplicate_of IS NULL
        reason: near_duplicate
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from synthray.errors import InputError, QueryError
from synthray.metric import METRICS as MEASURED
from synthray.operator import Operator
from synthray.query import Query
from synthray.spelling import identifier, quoted
from synthray.statement import Plan, Statement

if TYPE_CHECKING:
    from synthray.task import Task

NAMES = ("pool", "previous", "round", "deficit")
"""What a loop shows to its steps beside the recipe's tables."""

ABOUT: pa.Schema = pa.schema(
    [
        ("number", pa.int64()),
        *((f"{which}{name}", pa.int64()) for which in ("", "all_") for name in ("candidates", "accepted")),
        *((f"{which}{name}", pa.float64()) for which in ("", "all_") for name in ("tokens", "usd")),
    ]
)
"""The relation `round`."""

REJECTS: pa.Schema = pa.schema([(name, pa.string()) for name in ("row_id", "step", "reason")])
"""The relation `rejects` of a round, for `until`."""

_TWICE = "is in the pool already; a source.table over the pool makes new rows by children: true"

SURPLUS = "surplus"
"""Why a row is rejected that would be more than the target asks for."""


@dataclass(frozen=True)
class Repeat:
    """Do `steps` in rounds, `max` at most; a loop is a step that holds a pipeline.

    `keep: append` begins each round with a source; what comes out of it is accepted and joins the pool, which
    begins with the rows that come in, and the pool is what comes out of the loop (Self-Instruct, ProGen).
    `keep: replace` gives each round the rows of the one before (Evol-Instruct, FreeAL).

    The steps, `until`, and `tables` (small pipelines, made again in each round) see the relations `pool`;
    `previous`: of an appending loop the rows that the last round gave, of a replacing one the pool as the
    last round found it; `round`, one row: its `number`, `candidates`, `accepted`, `tokens` and `usd` of the
    last finished round and `all_candidates` ... of all; and `deficit` (see `target`).

    The loop ends after a round in which `until` holds (SQL over the row of `round`, such as "number >= 3 AND
    accepted < 0.1 * candidates"; it also sees the round's `rejects` and `metrics`), after `patience` rounds
    in a row that accept nothing, or when `candidates` rows were made. `target` is how many rows the rounds
    shall give, in all or, with the column `by`, of each of its values (a mapping, or one number for all of
    the task's labels): exactly so many. The first in the order of `prefer` (such as "score DESC"), then
    row_id, are accepted, and for good; what is more is rejected as `surplus`. `deficit` holds what is
    `missing`, by the values of `by` of which some is. A loop that ends short of its target fails the run, and
    its pool is kept.
    """

    kind: ClassVar[str] = "repeat"

    steps: Sequence[Any]
    max: int = 10
    keep: Literal["append", "replace"] = "append"
    until: str = ""
    target: int | Mapping[str, int] | None = None
    by: str = ""
    prefer: str = ""
    candidates: int | None = None
    patience: int = 3
    tables: Mapping[str, Any] = field(default_factory=dict)
    step: str = ""
    schemas: Mapping[str, pa.Schema] = field(default_factory=dict, repr=False, compare=False)
    """Once checked: the schemas of the relations that the steps see."""

    @property
    def appends(self) -> bool:
        """Whether what comes out of a round joins the pool."""
        return self.keep == "append"

    def metrics(self) -> tuple[str, ...]:
        """Return what a loop measures of itself: the whole, and each round (round=2) but for `missing`."""
        return ("rounds", "candidates", "accepted", "yield", "missing")

    def check(self, task: Task, named: Sequence[str]) -> None:
        """Raise an InputError when the settings make no loop; `named` are the recipe's tables."""
        for name, least in (("max", 1), ("candidates", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise InputError(f"{name} must be a whole number of at least {least}, but is {value!r}")
        if self.keep not in ("append", "replace"):
            raise InputError(f"keep must be append or replace, but is {self.keep!r}")
        self._check_steps()
        self._check_tables(named)
        if self.target is None:
            if self.by or self.prefer:
                raise InputError("by and prefer belong to a target; say how many rows, such as target: 100")
            return
        if not self.appends:
            raise InputError("a target counts the rows that an appending loop accepts; use keep: append")
        self._check_target(task)

    def _check_steps(self) -> None:
        if not self.steps:
            raise InputError("steps must be a list of at least one step")
        first = getattr(self.steps[0], "work", self.steps[0])
        makes_rows = isinstance(first, Operator) and first.makes() == "rows"
        if self.appends and not makes_rows:
            raise InputError(
                "keep: append begins each round with a source, such as source.conditions, or source.table "
                "with `sql` over the pool; keep: replace gives each round the rows of the one before"
            )
        if makes_rows and not self.appends:
            raise InputError(
                "keep: replace gives each round the rows of the one before, so that its steps begin with no "
                "source; to add the rows that a source makes use keep: append"
            )

    def _check_tables(self, named: Sequence[str]) -> None:
        for name in (*named, *self.tables):
            if name.lower() in NAMES:
                raise InputError(f"the table {name!r} has a name that a loop gives ({', '.join(NAMES)})")
        taken = {name.lower() for name in named}
        for name, table in self.tables.items():
            if name.lower() in taken:
                raise InputError(f"the table {name!r} is one of the recipe's already; choose another name")
            if not hasattr(table, "steps"):
                raise InputError(
                    f"the table {name!r} is files; name it under the recipe's tables, which loops see too: "
                    "those of a loop are {steps: [...]}"
                )

    def _check_target(self, task: Task) -> None:
        if self.by == "missing":
            raise InputError("by: the column 'missing' would hide that of the deficit; derive another")
        if isinstance(self.target, Mapping) and not self.by:
            raise InputError("target maps values to numbers; name the column that has them by `by: COLUMN`")
        if isinstance(self.target, int) and self.by and not task.labels:
            raise InputError(
                f"target is {self.target} of each label, but the task has no labels; map the values of "
                f"{self.by!r} to numbers"
            )
        counts = self.wanted(task)
        if (
            not counts
            or any(type(n) is not int or n < 0 for n in counts.values())
            or not sum(counts.values())
        ):
            raise InputError(f"target must be whole numbers of at least 0, not all 0, but is {self.target!r}")

    def wanted(self, task: Task) -> dict[str, int]:
        """Return how many rows are to be accepted of each value of `by` ('': in all)."""
        if isinstance(self.target, Mapping):
            return dict(self.target)
        if self.target is None:
            return {}
        return dict.fromkeys(task.labels, self.target) if self.by else {"": self.target}

    def deficit(self, missing: Mapping[str, int]) -> pa.Table:
        """Return the relation `deficit`: of which values how many rows are missing."""
        import pyarrow as pa

        left = {value: count for value, count in missing.items() if count > 0}
        counts = pa.array(left.values(), pa.int64())
        if not self.by:
            return pa.table({"missing": counts})
        return pa.table({self.by: pa.array(left, pa.string()), "missing": counts})

    def check_sql(self, relations: Mapping[str, pa.Table], made: pa.Schema, seed: int) -> None:
        """Raise an InputError when `until` is no SQL over a loop's empty relations, or `prefer` over `made`.

        `made` is the schema of rows as a round gives them, before the pool's columns are added.
        """
        ended = {"rejects": REJECTS.empty_table(), "metrics": MEASURED.empty_table()}
        with Query({**relations, **ended}, seed=seed) as query:
            if self.until:
                self._check_truth(query)
        if self.by and self.by not in made.names:
            raise InputError(f"by: the steps make no column {self.by!r}")
        with Query({"made": made.empty_table()}, seed=seed) as query:
            try:
                query.ordering(self.prefer, "made")
            except QueryError as error:
                raise InputError(f"prefer: {error}") from None

    def _check_truth(self, query: Query) -> None:
        try:
            query.bind(self.until, "round")
            kind = query.schema(self.ending(query)).field("done").type
        except QueryError as error:
            raise InputError(f"until: {error}") from None
        if str(kind) not in ("bool", "null"):
            raise InputError(f"until must be true or false, but {self.until} is {kind}")

    def ending(self, query: Query) -> str:
        """Return the SELECT that says whether `until` holds; the same for the same input."""
        return f"SELECT {query.expression(self.until, 'round')} AS done FROM round"


@dataclass(frozen=True)
class Beginning(Statement):
    """The pool before the first round: the rows that come in, with all columns that the loop will give."""

    kind: ClassVar[str] = "repeat"

    def plan(self, query: Query, before: str, *, guard: bool) -> Plan:
        """Widen the rows; `nothing` has all columns and no row."""
        return Plan(rows=f"SELECT * FROM nothing UNION ALL BY NAME SELECT * FROM {before}")


@dataclass(frozen=True)
class Acceptance(Statement):
    """What a round gave joins the pool, in the pool's columns; `counted`: as many rows as are missing."""

    kind: ClassVar[str] = "repeat"

    by: str = ""
    prefer: str = ""
    counted: bool = False

    def plan(self, query: Query, before: str, *, guard: bool) -> Plan:
        """Rank the rows of each value; those beyond what is missing are surplus."""
        accepted = "SELECT * FROM nothing UNION ALL BY NAME SELECT "
        forbidden = {f"SELECT row_id FROM {before} SEMI JOIN pool USING (row_id)": _TWICE}
        if not self.counted:
            return Plan(rows=f"{accepted} * FROM {before}", forbidden=forbidden)
        by = identifier(self.by) if self.by else ""
        place = query.ordering(self.prefer, before).removeprefix("row_number() OVER (")
        part = f"PARTITION BY {by} " if by else ""
        missing = f"d.{by} = CAST(b.{by} AS VARCHAR)" if by else "true"
        placed = f"(SELECT *, row_number() OVER ({part}{place} AS _place FROM {before})"
        ranked = (
            "(SELECT b.*, coalesce(d.missing, 0) AS _missing "
            f"FROM {placed} b LEFT JOIN deficit d ON {missing})"
        )
        return Plan(
            rows=f"{accepted} * EXCLUDE (_place, _missing) FROM {ranked} WHERE _place <= _missing",
            rejects=f"SELECT row_id, {quoted(self.step)} AS step, {quoted(SURPLUS)} AS reason "
            f"FROM {ranked} WHERE _place > _missing",
            forbidden=forbidden,
        )


@dataclass(frozen=True)
class Gathering(Statement):
    """The end of a loop: the pool goes on; what the loop measured of itself."""

    kind: ClassVar[str] = "repeat"

    measured: Sequence[tuple[str, float, int, str | None]] = ()
    appends: bool = True

    def plan(self, query: Query, before: str, *, guard: bool) -> Plan:
        """Append the rows that the rounds gave, the relation `accepted`, to those that came in."""
        values = ", ".join(
            f"({quoted(metric)}, {quoted(repr(value))}::DOUBLE, {n}, {quoted(part) if part else 'NULL'})"
            for metric, value, n, part in self.measured
        )
        metrics = (
            f"SELECT {quoted(self.step)} AS step, col0 AS metric, col1 AS value, "
            f"NULL::DOUBLE AS ci_low, NULL::DOUBLE AS ci_high, col2::BIGINT AS n, "
            f"col3::VARCHAR AS slice FROM (VALUES {values})"
        )
        if not self.appends:
            return Plan(rows=f"SELECT * FROM {before}", metrics=metrics)
        made = "SELECT * FROM accepted"
        return Plan(rows=f"SELECT * FROM {before} UNION ALL BY NAME {made}", made=made, metrics=metrics)


def widened(ours: pa.Schema, theirs: pa.Schema) -> pa.Schema:
    """Return the columns of the rows before a loop and of a round's; InputError for a name of two types."""
    columns = {column.name: column for column in ours}
    for column in theirs:
        held = columns.setdefault(column.name, column)
        if pa.types.is_null(held.type):
            columns[column.name] = column
        elif held.type != column.type and not pa.types.is_null(column.type):
            raise InputError(
                f"column {column.name!r} is {held.type} in the rows that come into the loop, but "
                f"{column.type} in those that its steps make; derive one of them with a CAST"
            )
    return pa.schema([pa.field(one.name, one.type) for one in columns.values()])
