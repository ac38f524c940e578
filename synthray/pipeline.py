"""A pipeline is a list of steps: checked as a whole before any work, then run stage by stage, resumably."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray import frame, preflight
from synthray.errors import BudgetSpent, GateRefused, InputError, RecipeError, SynthrayError, near
from synthray.gate import asked_for, check_conditions, decide
from synthray.lineage import IDENTITY, uniform
from synthray.operator import Context, Operator
from synthray.progress import Progress
from synthray.query import Query
from synthray.repeat import ABOUT, Repeat, widened
from synthray.run import FORMAT, RELATIONS, Run, versions
from synthray.statement import Derive, Statement, Union, Where, one_case, require_table
from synthray.step import Checked, Step, told, where
from synthray.table import Table
from synthray.task import Task
from synthray.work import Work

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.model.language import Language


_STATES = {GateRefused: "refused", BudgetSpent: "budget spent"}
_FIRST = "the first step must make rows: source.conditions, source.table or source.documents"
_SEEN_S = 3.0  # how old the count of calls may be that is shown; on an object store to look is a request
_SETTLES = 8
"""After so many rounds of checking the columns of a loop's pool must stay as they are."""


@dataclass(frozen=True)
class Pipeline:
    """Steps in order, and all that they share.

    `steps` takes operators, statements and Steps. `tables` are files, pipelines of their own, or tables in
    memory (Arrow, pandas, polars, Hugging Face, Ray Data), which are copied and kept in RUN/tables by their
    content. `models` are named languages beside `model`; a table's pipeline that has no model or task of its
    own has the recipe's.
    `gate` are SQL conditions over the metrics (`default`: those of the operators). A stage in which more than
    `max_failed` of the rows fail ends the run. `blocks` is into how many parts rows are cut, and changes no
    result. `recipe` is what the run directory keeps of where it came from. Within it `prefix` begins
    the names of the steps of a table's own pipeline, whose rows and draws are not those of the recipe's
    steps, `round` counts in a loop, `held_out` are the tables that the recipe evaluates against.
    """

    steps: Sequence[Operator | Statement | Repeat | Step]
    name: str = "pipeline"
    seed: int = 0
    task: Task = field(default_factory=Task)
    model: Language | None = None
    models: Mapping[str, Language] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    gate: Sequence[str] = ()
    max_failed: float = 0.05
    blocks: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    round: int = 0
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Turn tables in memory into files, once: what is checked, planned and run is the same."""
        if not isinstance(self.tables, Mapping):
            raise RecipeError(f"tables maps names to tables, but is {type(self.tables).__name__}")
        object.__setattr__(self, "tables", {name: _named(name, held) for name, held in self.tables.items()})

    # What the steps are.

    def named(self) -> list[Step]:
        """Return the steps with unique names, bound to seed, task and model."""
        steps = [one if isinstance(one, Step) else Step(one) for one in self.steps]
        taken: set[str] = set()
        named = []
        for step in steps:
            name = self.prefix + step.name if step.name else self._free_name(step, taken)
            # To SQL, in which a gate names steps, cases are one.
            if name.lower() in {one.lower() for one in taken}:
                raise RecipeError(f"{where(step)}: two steps are named {name!r}; give one `as: NAME`")
            taken.add(name)
            named.append(replace(step, name=name, work=self._bound(step, name, steps)))
        return named

    def _free_name(self, step: Step, taken: set[str]) -> str:
        name = first = self.prefix + step.default_name()
        if name in taken and isinstance(step.work, Operator):
            raise RecipeError(
                f"{where(step)}: {name} is used twice; give the second one `as: NAME`, "
                "which names its draws, columns and metrics"
            )
        number = 2
        while name in taken:
            name = f"{first}_{number}"
            number += 1
        return name

    def _bound(self, step: Step, name: str, steps: list[Step]) -> Operator | Statement | Repeat:
        if isinstance(step.work, Repeat):
            return replace(step.work, step=name)
        if isinstance(step.work, Statement):
            origin = f"{name}@{self.round}" if self.round else name
            return replace(step.work, step=origin, round=self.round, when=step.when or step.work.when)
        twice = sum(type(other.work) is type(step.work) for other in steps) > 1
        names_its_own = any(item.name == "writes" for item in fields(step.work))
        if step.model and step.model not in self.models:
            raise RecipeError(
                f"{where(step)}: no model {step.model!r} under models:{near(step.model, self.models)}"
            )
        language = self.models[step.model] if step.model else self.model
        for other in step.work.model_names:
            if other not in self.models:
                raise RecipeError(
                    f"{where(step)}: no model {other!r} under models:{near(other, self.models)}"
                )
        context = Context(
            step=name,
            prefix=f"{name}_" if twice and step.name and not names_its_own else "",
            seed=self.seed,
            task=self.task,
            language=language if step.work.uses_model else None,
            models={other: self.models[other] for other in step.work.model_names},
            round=self.round,
            held_out=self._held_out(),
            tables={key: table for key, table in self.tables.items() if isinstance(table, Table)},
        )
        return replace(step.work, context=context)

    def of(self, table: str, outer: Pipeline) -> Pipeline:
        """Return the pipeline of a named table of `outer`: named after it, with what it leaves unsaid."""
        return replace(
            self,
            prefix=f"{outer.prefix}{table}_",
            seed=outer.seed,
            task=outer.task if self.task == Task() else self.task,
            model=self.model or outer.model,
            models={**outer.models, **self.models},
            max_failed=outer.max_failed,
            blocks=self.blocks or outer.blocks,
            round=outer.round,
            held_out=outer._held_out(),
        )

    def inside(self, step: Step, number: int) -> Pipeline:
        """Return the pipeline of a round of the loop `step`: draws of its own, the loop's tables beside."""
        assert isinstance(step.work, Repeat)
        return replace(
            self,
            steps=step.work.steps,
            seed=int(uniform("round", self.seed, step.name, number) * 2**31),
            tables={**self.tables, **step.work.tables},
            gate=(),
            round=number,
            held_out=self._held_out(),
        )

    def _held_out(self) -> tuple[str, ...]:
        found = (table for one in _operators(self.steps) for table in one.held_out)
        return tuple(dict.fromkeys((*self.held_out, *found)))

    def conditions(self) -> tuple[str, ...]:
        """Return the gate's conditions, `default` replaced by those that the operators have of their own."""
        own = {one.name: one.work.gate() for one in self.named() if isinstance(one.work, Operator)}
        return asked_for(self.gate, own)

    # Checking.

    def check(self) -> list[Checked]:
        """Return the steps, known to fit each other; raises an InputError before anything is done."""
        return self.checked_with_tables()[0]

    def checked_with_tables(self) -> tuple[list[Checked], dict[str, pa.Schema]]:
        """Return the steps and the schemas of the named tables."""
        schemas = self._table_schemas()
        checked = self.checked(schemas)
        if not checked:
            raise RecipeError(f"{self.name}: there are no steps")
        if not 0 <= self.max_failed <= 1:
            raise RecipeError(f"max_failed must be from 0 to 1, but is {self.max_failed}")
        measuring = {one.name: one.step.metrics for one in checked if one.step.measures}
        check_conditions(self.conditions(), measuring)
        self._check_order(checked)
        return checked, schemas

    def checked(
        self, schemas: Mapping[str, pa.Schema], schema: pa.Schema | None = None, *, guess: bool = False
    ) -> list[Checked]:
        """Return the steps over rows of `schema` (None: there are none yet) and tables of `schemas`.

        `guess` goes on after a step that does not fit, as if it did.
        """
        checked: list[Checked] = []
        for step in self.named():
            with told(step):
                try:
                    one = self._check_step(step, schema, schemas)
                    one_case([], one.after.names)
                except InputError:
                    if not guess:
                        raise
                    before = _identified(schema)
                    one = Checked(step, before, _likely(step, before))
            checked.append(one)
            schema = one.after
        return checked

    def _table_schemas(self) -> dict[str, pa.Schema]:
        schemas: dict[str, pa.Schema] = {}
        for name, table in self.tables.items():
            if name.lower() in RELATIONS:
                raise RecipeError(
                    f"table {name!r}: the name is one of those that a run has itself; choose another"
                )
            if isinstance(table, Table):
                schemas[name] = _read_schema(name, table)
        for name, table in self.tables.items():
            if isinstance(table, Pipeline):
                schemas[name] = table.of(name, self).checked(schemas)[-1].after
        return schemas

    def _check_step(self, step: Step, schema: pa.Schema | None, schemas: Mapping[str, pa.Schema]) -> Checked:
        import pyarrow as pa

        if isinstance(step.work, Repeat):
            return self._check_loop(step, step.work, schema, schemas)
        if isinstance(step.work, Statement):
            if schema is None:
                raise RecipeError(_FIRST)
            return self._check_statement(step, step.work, schema, schemas)
        operator = replace(step.work, context=replace(step.work.context, schemas=schemas))
        if (self.prefix or self.round) and operator.uses_gate:
            raise RecipeError(
                "a table's own pipeline or a loop exports nothing; export in the recipe's steps"
            )
        if operator.makes() == "rows" and schema is not None:
            raise RecipeError("only the first step makes rows; name a table and use `union` to add some")
        if operator.makes() != "rows" and schema is None:
            raise RecipeError(_FIRST)
        before = pa.schema([]) if schema is None else schema
        self._check_needs(operator, before, schemas)
        operator.check(before)
        if step.when and not operator.takes_when:
            raise RecipeError("takes no `when`: its rows have other columns; use a where before it")
        if step.when:
            with self.empty(before, schemas) as query:
                when = Where(step.when).settle(query).predicate
            step = replace(step, when=when)
        return Checked(replace(step, work=operator), before, operator.schema(before))

    def _check_loop(
        self, step: Step, loop: Repeat, schema: pa.Schema | None, schemas: Mapping[str, pa.Schema]
    ) -> Checked:
        """Check a loop's steps over a pool that has the columns which they give it."""
        if self.round:
            raise RecipeError("a loop holds no loop; write its steps into the outer one, or a table's")
        loop.check(self.task, [*self.tables])
        if schema is None and not loop.appends:
            raise RecipeError("keep: replace needs rows that come in; put a source before the loop")
        came, inner = _identified(schema), self.inside(step, 1)
        self._check_names(step, inner)

        def given(pool: pa.Schema, *, guess: bool) -> tuple[pa.Schema, pa.Schema, dict[str, pa.Schema]]:
            """Return the pool that comes of it, what a round gives, and all that its steps see."""
            shown = {**schemas, "pool": pool, "previous": pool, "round": ABOUT}
            if loop.target is not None:
                shown["deficit"] = loop.deficit({"": 1}).schema
            for name, table in loop.tables.items():
                shown[name] = table.of(name, inner).checked(shown, guess=guess)[-1].after
            last = inner.checked(shown, None if loop.appends else pool, guess=guess)[-1].after
            return widened(came, last), last, shown

        # The pool holds what the steps give, and they may read it: guessed until it stays, then checked.
        pool = came
        for _ in range(_SETTLES):
            before, pool = pool, given(pool, guess=True)[0]
            if pool == before:
                break
        after, made, shown = given(pool, guess=False)
        if after != pool:
            raise RecipeError(f"the columns of the pool change with every round: {', '.join(pool.names)}")
        loop.check_sql({name: held.empty_table() for name, held in shown.items()}, made, self.seed)
        return Checked(replace(step, work=replace(loop, schemas=shown)), came, pool)

    def _check_names(self, step: Step, inner: Pipeline) -> None:
        """Columns are named after the steps that ask a model, ids and counts after a step and its round."""
        again = _asking(inner) & _asking(self)
        if again:
            raise RecipeError(f"{min(again)} is used in the loop and outside; give one `as: NAME`")
        names = {one.name for one in inner.named()}
        for other in self.named():
            if isinstance(other.work, Repeat) and other.name != step.name:
                twice = names & {one.name for one in self.inside(other, 1).named()}
                if twice:
                    raise RecipeError(
                        f"{min(twice)} is a step of the loop {other.name!r} too; give one `as: NAME`, which "
                        "names its draws, columns and metrics"
                    )

    def _check_needs(self, operator: Operator, before: pa.Schema, schemas: Mapping[str, pa.Schema]) -> None:
        for name in operator.reads:
            if name not in before.names:
                raise RecipeError(
                    f"reads the column {name!r}, which no earlier step makes{near(name, before.names)}"
                )
        for name in operator.table_names:
            require_table(name, schemas)
        if operator.uses_model:
            if operator.context.language is None:
                raise RecipeError("needs a model; add `model: {language: embedded}` to the recipe")
            for language in (operator.context.language, *operator.context.models.values()):
                language.check()
                language.check_limits()

    def _check_statement(
        self, step: Step, statement: Statement, schema: pa.Schema, schemas: Mapping[str, pa.Schema]
    ) -> Checked:
        if isinstance(statement, Union):
            require_table(statement.table, schemas)
        with self.empty(schema, schemas) as query:
            settled = statement.settle(query)
            after = settled.schema(query)
        return Checked(replace(step, work=settled, when=None), schema, after)

    def empty(self, schema: pa.Schema, schemas: Mapping[str, pa.Schema]) -> Query:
        """Return a query over no rows of `schema` and tables of `schemas`, by which SQL is checked."""
        tables = {name: held.empty_table() for name, held in schemas.items()}
        return Query({**tables, "rows": schema.empty_table()}, seed=self.seed)

    def _check_order(self, checked: list[Checked]) -> None:
        exported = None
        for one in checked:
            if isinstance(one.step.work, Operator) and one.step.work.uses_gate:
                exported = exported or one
            elif exported is not None:
                raise RecipeError(
                    f"{where(one.step)}: nothing may follow {exported.name}; an export ends the recipe, "
                    "since it carries the gate's verdict over all metrics"
                )

    # Running.

    def run(self, out: str | Path, *, retry_failed: bool = False, quiet: bool = False) -> Run:
        """Run into the directory `out`, or go on with what is there; raises GateRefused at the end.

        Committed stages with unchanged fingerprints are skipped, answered calls are not asked again.
        """
        checked, schemas = self.checked_with_tables()
        run = Run.claim(out, self.name)
        try:
            self._start(run, retry_failed)
            preflight.require(run, self)
            progress = Progress(lambda: run.kept_calls(_SEEN_S), quiet=quiet)
            work = Work(self, run, progress, schemas)
            try:
                self._run(work, checked)
            finally:
                work.lone.close()
                run.save(calls_made=progress.made())
            self._finish(run)
        except KeyboardInterrupt:
            run.save(state="interrupted", error=None)
            raise
        except SynthrayError as error:
            state = _STATES.get(type(error), "failed")
            run.save(state=state, error=str(error))
            raise
        except BaseException as error:
            run.save(state="failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            run.release()
        return run

    def _start(self, run: Run, retry_failed: bool) -> None:
        retries = dict(run.state.get("retries", {}))
        if retry_failed:
            for record in run.all_stages():
                for step in record.steps:
                    if step.rows_failed:
                        retries[step.step] = retries.get(step.step, 0) + 1
        run.save(
            format=FORMAT,
            name=self.name,
            seed=self.seed,
            state="running",
            error=None,
            recipe=self.recipe or {"steps": [repr(step.work) for step in self.named()]},
            versions=versions(),
            retries=retries,
            gate=None,
            stages=run.state.get("stages", []),
        )

    def _run(self, work: Work, checked: list[Checked]) -> None:
        run = work.run
        held = run.state.get("table_stages", {})
        run.save(table_stages={name: folders for name, folders in held.items() if name in self.tables})
        for name, table in self.tables.items():
            if isinstance(table, Table):
                work.tables[name] = frame.kept(table, run.root / "tables")
                work.digests[name.lower()] = work.tables[name].digest()
        for name, table in self.tables.items():
            if isinstance(table, Pipeline):
                work.make_table(name, table.of(name, self))
        run.hold(path for table in work.tables.values() for path in table.paths)
        run.save(
            tables={
                name: {
                    "files": run.relative(table.files),
                    "kind": table.kind,
                    "added": [run.relative(one) for one in table.added],
                }
                for name, table in work.tables.items()
            }
        )
        work.chain(checked, lambda folders: run.save(stages=folders))

    def _finish(self, run: Run) -> None:
        import pyarrow.parquet as pq

        metrics = run.sql("SELECT * FROM metrics")
        part = run.root / ".metrics.part"
        pq.write_table(metrics, part)
        part.replace(run.root / "metrics.parquet")
        run.keep(run.root / "metrics.parquet")
        checks = decide(self.conditions(), metrics)
        run.save(state="done", gate=[vars(check) for check in checks])
        refused = [check for check in checks if not check.passed]
        if refused:
            lines = "; ".join(f"{check.condition} ({check.found})" for check in refused)
            raise GateRefused(f"the gate refused the dataset: {lines}")


def _named(name: str, held: Any) -> Table | Pipeline:
    return held if isinstance(held, Table | Pipeline) else frame.table(held, name)


def _read_schema(name: str, table: Table) -> pa.Schema:
    """Return a table's columns, every value read: a bad row is found now, not after the first paid call."""
    try:
        with Query({name: table}) as query:
            rows = query.value(f'SELECT count(*) FROM (SELECT hash(t) AS h FROM "{name}" t) WHERE h <> 0')
            schema = query.schema(f'SELECT * FROM "{name}"')
    except InputError as error:
        raise RecipeError(f"table {name!r}: {error}") from None
    if not rows:
        raise RecipeError(f"table {name!r}: {', '.join(table.files)} has no rows")
    return schema


def _operators(steps: Sequence[Operator | Statement | Repeat | Step]) -> Iterator[Operator]:
    """Yield the operators of steps, those within loops too."""
    for one in steps:
        work = one.work if isinstance(one, Step) else one
        if isinstance(work, Operator):
            yield work
        elif isinstance(work, Repeat):
            yield from _operators(work.steps)


def _identified(schema: pa.Schema | None) -> pa.Schema:
    """Return the schema of rows, of none yet the columns that every row has."""
    import pyarrow as pa

    return pa.schema(list(IDENTITY.items())) if schema is None else schema


def _asking(pipeline: Pipeline) -> set[str]:
    """Return the names of the steps that ask a model: columns are named after them."""
    return {one.name for one in pipeline.named() if isinstance(one.work, Operator) and one.work.uses_model}


def _likely(step: Step, before: pa.Schema) -> pa.Schema:
    """Return what a step that cannot be checked yet will probably leave; what it names has no type yet."""
    import pyarrow as pa

    work = step.work
    try:
        if isinstance(work, Derive):
            new = [pa.field(name, pa.null()) for name in work.columns if name not in before.names]
            return pa.schema([*before, *new])
        return work.schema(before) if isinstance(work, Operator) else before
    except Exception:  # this is a guess: the check that counts comes after it, and says what is wrong
        named = getattr(work, "columns", ())
        names = [name for name in named if name not in before.names] if isinstance(named, Mapping) else []
        return pa.schema([*before, *((name, pa.null()) for name in names)])
