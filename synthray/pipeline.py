"""A pipeline is a list of steps: checked as a whole before any work, then run stage by stage, resumably."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.errors import (
    BudgetSpent,
    GateRefused,
    InputError,
    RecipeError,
    SynthrayError,
    TooManyFailed,
    near,
)
from synthray.fingerprint import operator_parts, statement_parts
from synthray.gate import Check, asked_for, check_conditions, decide
from synthray.lineage import digest
from synthray.operator import Context, Operator
from synthray.progress import Progress
from synthray.query import Query
from synthray.run import FORMAT, RELATIONS, Run, StageRecord, versions
from synthray.stage import Stage
from synthray.statement import NOT_IN_RESULT, Select, Statement, Union, Where, one_case, require_table
from synthray.table import Table
from synthray.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.model.language import Language


_STATES = {GateRefused: "refused", BudgetSpent: "budget spent"}
_FIRST = "the first step must make rows: source.conditions or source.table"


@dataclass(frozen=True)
class Step:
    """An operator or statement, named; `when` and `model` as in a recipe, `line` where the recipe has it."""

    work: Operator | Statement
    name: str = ""
    when: str | None = None
    model: str | None = None
    line: int | None = None

    def default_name(self) -> str:
        """Return the name of a step that was given none."""
        if isinstance(self.work, Operator):
            return type(self.work).__module__.rpartition(".")[2]
        reason = self.work.reason if isinstance(self.work, Where | Select) else ""
        if reason and reason != NOT_IN_RESULT:
            return f"{self.work.kind}_" + re.sub(r"\W+", "_", reason)
        return self.work.kind


@dataclass(frozen=True)
class Checked:
    """A step that is known to fit: settled, with the rows' schemas before and after it."""

    step: Step
    before: pa.Schema
    after: pa.Schema

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name


@dataclass(frozen=True)
class Pipeline:
    """Steps in order, and all that they share.

    `steps` takes operators, statements and Steps. `tables` are files or pipelines of their own, `models` are
    named languages beside `model`, `gate` are SQL conditions over the metrics (`default`: those of the
    operators). A stage in which more than `max_failed` of the rows fail ends the run. `blocks` is into how
    many parts rows are cut, and changes no result. `recipe` is what the run directory keeps of where it came
    from; `prefix` begins the names of the steps of a table's own pipeline, whose rows and draws are not those
    of the recipe's steps.
    """

    steps: Sequence[Operator | Statement | Step]
    name: str = "pipeline"
    seed: int = 0
    task: Task = field(default_factory=Task)
    model: Language | None = None
    models: Mapping[str, Language] = field(default_factory=dict)
    tables: Mapping[str, Table | Pipeline] = field(default_factory=dict)
    gate: Sequence[str] = ()
    max_failed: float = 0.05
    blocks: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""

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

    def _bound(self, step: Step, name: str, steps: list[Step]) -> Operator | Statement:
        if isinstance(step.work, Statement):
            return replace(step.work, step=name, when=step.when or step.work.when)
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
        operators = [one.work for one in steps if isinstance(one.work, Operator)]
        context = Context(
            step=name,
            prefix=f"{name}_" if twice and step.name and not names_its_own else "",
            seed=self.seed,
            task=self.task,
            language=language if step.work.uses_model else None,
            models={other: self.models[other] for other in step.work.model_names},
            held_out=tuple(dict.fromkeys(table for one in operators for table in one.held_out)),
            tables={key: table for key, table in self.tables.items() if isinstance(table, Table)},
        )
        return replace(step.work, context=context)

    def of(self, table: str) -> Pipeline:
        """Return the pipeline of a named table, its steps named after it."""
        return replace(self, prefix=f"{table}_")

    def conditions(self) -> tuple[str, ...]:
        """Return the gate's conditions, `default` replaced by those that the operators have of their own."""
        own = {one.name: one.work.gate() for one in self.named() if isinstance(one.work, Operator)}
        return asked_for(self.gate, own)

    # Checking.

    def check(self) -> list[Checked]:
        """Return the steps, known to fit each other; raises an InputError before anything is done."""
        schemas = self._table_schemas()
        checked: list[Checked] = []
        schema: pa.Schema | None = None
        for step in self.named():
            with _told(step):
                one = self._check_step(step, schema, schemas)
                one_case([], one.after.names)
            checked.append(one)
            schema = one.after
        if not checked:
            raise RecipeError(f"{self.name}: there are no steps")
        if not 0 <= self.max_failed <= 1:
            raise RecipeError(f"max_failed must be from 0 to 1, but is {self.max_failed}")
        measuring = [one for one in checked if _measures(one.step.work)]
        check_conditions(self.conditions(), {one.name: _metrics(one.step.work) for one in measuring})
        self._check_order(checked)
        return checked

    def _table_schemas(self) -> dict[str, pa.Schema]:
        schemas = {}
        for name, table in self.tables.items():
            if name.lower() in RELATIONS:
                raise RecipeError(
                    f"table {name!r}: the name is one of those that a run has itself; choose another"
                )
            if isinstance(table, Pipeline):
                schemas[name] = table.of(name).check()[-1].after
                continue
            try:
                with Query({name: table}) as query:
                    # Reading every value finds a bad row now, not after the first paid call.
                    rows = query.value(
                        f'SELECT count(*) FROM (SELECT hash(t) AS h FROM "{name}" t) WHERE h <> 0'
                    )
                    schemas[name] = query.schema(f'SELECT * FROM "{name}"')
            except InputError as error:
                raise RecipeError(f"table {name!r}: {error}") from None
            if not rows:
                raise RecipeError(f"table {name!r}: {', '.join(table.files)} has no rows")
        return schemas

    def _check_step(self, step: Step, schema: pa.Schema | None, schemas: Mapping[str, pa.Schema]) -> Checked:
        import pyarrow as pa

        if isinstance(step.work, Statement):
            if schema is None:
                raise RecipeError(_FIRST)
            return self._check_statement(step, step.work, schema, schemas)
        operator = replace(step.work, context=replace(step.work.context, schemas=schemas))
        if self.prefix and operator.uses_gate:
            raise RecipeError("a table's own pipeline makes a table; export in the recipe's steps")
        if operator.makes() == "rows" and schema is not None:
            raise RecipeError("only the first step makes rows; name a table and use `union` to add some")
        if operator.makes() != "rows" and schema is None:
            raise RecipeError(_FIRST)
        before = pa.schema([]) if schema is None else schema
        self._check_needs(operator, before)
        operator.check(before)
        if step.when:
            with self._empty(before, schemas) as query:
                when = Where(step.when).settle(query).predicate
            step = replace(step, when=when)
        return Checked(replace(step, work=operator), before, operator.schema(before))

    def _check_needs(self, operator: Operator, before: pa.Schema) -> None:
        for name in operator.reads:
            if name not in before.names:
                raise RecipeError(
                    f"reads the column {name!r}, which no earlier step makes{near(name, before.names)}"
                )
        for name in operator.table_names:
            require_table(name, self.tables)
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
            require_table(statement.table, self.tables)
        with self._empty(schema, schemas) as query:
            settled = statement.settle(query)
            after = settled.schema(query)
        return Checked(replace(step, work=settled, when=None), schema, after)

    def _empty(self, schema: pa.Schema, schemas: Mapping[str, pa.Schema]) -> Query:
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
        checked = self.check()
        run = Run.claim(Path(out), self.name)
        try:
            self._start(run, retry_failed)
            progress = Progress(run.calls, quiet=quiet)
            try:
                self._run(run, checked, progress)
            finally:
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

    def _run(self, run: Run, checked: list[Checked], progress: Progress) -> None:
        work = _Work(self, run, progress)
        held = run.state.get("table_stages", {})
        run.save(table_stages={name: folders for name, folders in held.items() if name in self.tables})
        for name, table in self.tables.items():
            if isinstance(table, Table):
                work.tables[name] = table
                work.digests[name.lower()] = table.digest()
        for name, table in self.tables.items():
            if isinstance(table, Pipeline):
                work.make_table(name, table.of(name))
        run.save(
            tables={
                name: {"files": table.files, "kind": table.kind, "added": table.added}
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
        checks = decide(self.conditions(), metrics)
        run.save(state="done", gate=[vars(check) for check in checks])
        refused = [check for check in checks if not check.passed]
        if refused:
            lines = "; ".join(f"{check.condition} ({check.found})" for check in refused)
            raise GateRefused(f"the gate refused the dataset: {lines}")


class _Work:
    """A run under way: which stages stand, which are to be made."""

    def __init__(self, pipeline: Pipeline, run: Run, progress: Progress) -> None:
        self.pipeline = pipeline
        self.run = run
        self.progress = progress
        self.tables: dict[str, Table] = {}
        self.digests: dict[str, str] = {}

    def make_table(self, name: str, pipeline: Pipeline) -> None:
        """Run a table's own pipeline; its rows become the table."""

        def note(folders: list[str]) -> None:
            made = {**self.run.state.get("table_stages", {}), name: folders}
            self.run.save(table_stages=made)

        records, fingerprint = self.chain(pipeline.check(), note)
        self.tables[name] = self.run.table(records[-1])
        self.digests[name.lower()] = fingerprint

    def chain(
        self, checked: list[Checked], note: Callable[[list[str]], None]
    ) -> tuple[list[StageRecord], str]:
        """Make or skip the stages of a list of steps."""
        records: list[StageRecord] = []
        fingerprint = ""
        for number, group in enumerate(stages(checked), start=1):
            fingerprint = self._fingerprint(group, fingerprint)
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "+".join(one.name for one in group))
            folder = f"{number:02d}-{name[:60]}-{fingerprint[:12]}"
            record = self.run.stage(folder)
            if record is None or (record.outputs and self.run.state.get("dataset") != folder):
                record = self._make(folder, fingerprint, group, records[-1] if records else None)
            else:
                self.progress.note(f"{name}: unchanged, {record.rows_kept} rows")
            records.append(record)
            note([one.folder for one in records])
            self._limit_failures(record)
        return records, fingerprint

    def _make(
        self, folder: str, fingerprint: str, group: list[Checked], before: StageRecord | None
    ) -> StageRecord:
        work = group[0].step.work
        checks: tuple[Check, ...] = ()
        if isinstance(work, Operator) and work.uses_gate:
            checks = tuple(decide(self.pipeline.conditions(), self.run.sql("SELECT * FROM metrics")))
        stage = Stage(
            run=self.run,
            folder=folder,
            fingerprint=fingerprint,
            before=before,
            schema=group[-1].after,
            tables=self.tables,
            seed=self.pipeline.seed,
            blocks=self.pipeline.blocks,
            progress=self.progress,
            task=self.pipeline.task,
            checks=checks,
        )
        try:
            if isinstance(work, Operator):
                record = stage.operate(self._at(work), group[0].step.when)
                if record.outputs:
                    # RUN/dataset is one place for every export there was: the run says whose it is now.
                    self.run.save(dataset=folder)
                return record
            return stage.state([one.step.work for one in group if isinstance(one.step.work, Statement)])
        finally:
            stage.close()

    def _at(self, operator: Operator) -> Operator:
        retry = self.run.state["retries"].get(operator.step, 0)
        calls, reviews = str(self.run.calls), str(self.run.root / "reviews")
        context = replace(operator.context, tables=self.tables, calls=calls, reviews=reviews, retry=retry)
        return replace(operator, context=context)

    def _fingerprint(self, group: list[Checked], before: str) -> str:
        parts = []
        for one in group:
            work, when = one.step.work, one.step.when
            if isinstance(work, Operator):
                gate = (list(self.pipeline.conditions()), self.pipeline.name) if work.uses_gate else None
                retry = self.run.state["retries"].get(one.name, 0)
                parts.append([operator_parts(self._at(work), when, self.digests), retry, gate])
            else:
                parts.append([statement_parts(work, self.digests), self.pipeline.seed])
        return digest(before, parts)

    def _limit_failures(self, record: StageRecord) -> None:
        for step in record.steps:
            worked = step.rows_in + step.rows_made - step.rows_expanded
            if step.rows_failed > self.pipeline.max_failed * worked:
                raise TooManyFailed(
                    f"{step.step}: {step.rows_failed} of {worked} rows failed, more than max_failed "
                    f"({self.pipeline.max_failed:.0%}); see: synthray sql {self.run.root} "
                    '"SELECT error, message, count(*) FROM failures GROUP BY ALL", then run again with '
                    "--retry-failed, or raise max_failed"
                )


def stages(checked: Sequence[Checked]) -> list[list[Checked]]:
    """Group steps into stages: an operator alone; wheres together, and what follows them if it is SQL too.

    Only the last statement of a stage may add columns or rows, so that the columns of every rejected row
    stand in the stage before.
    """
    groups: list[list[Checked]] = []
    is_open = False
    for one in checked:
        if is_open and isinstance(one.step.work, Statement):
            groups[-1].append(one)
        else:
            groups.append([one])
        is_open = isinstance(one.step.work, Where)
    return groups


def where(step: Step) -> str:
    """Return how a message names a step."""
    name = step.name or step.default_name()
    return f"step {name!r} (line {step.line})" if step.line else f"step {name!r}"


@contextmanager
def _told(step: Step) -> Iterator[None]:
    """Say in an error which step it is about."""
    try:
        yield
    except InputError as error:
        raise RecipeError(f"{where(step)}: {error}") from None


def _metrics(work: Operator | Statement) -> tuple[str, ...]:
    return work.metrics() if isinstance(work, Operator) else ()


def _measures(work: Operator | Statement) -> bool:
    if isinstance(work, Operator):
        return bool(work.metrics()) or (work.makes() == "nothing" and not work.uses_gate)
    return isinstance(work, Select)
