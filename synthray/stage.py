"""A stage being made: rows in, an operator by Ray or statements by DuckDB, rows out, all accounted for."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray import cluster
from synthray.block import Guarded, Sink, Write, cause, checked, guarded_task
from synthray.errors import ConservationError, QueryError, RunFailed
from synthray.metric import METRICS
from synthray.model.store import calls_relation, compact
from synthray.operator import path_of
from synthray.pool import Pool
from synthray.query import Query, identifier
from synthray.run import Run, StageRecord, StepCount
from synthray.statement import guarded
from synthray.table import Table, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from synthray.gate import Check
    from synthray.operator import Operator
    from synthray.progress import Progress
    from synthray.statement import Plan, Statement
    from synthray.task import Task

ROWS_PER_BLOCK = 10_000


@dataclass
class Stage:
    """What an operator's `apply` gets: the rows as Dataset and as SQL, and where its own results go.

    `before` is the stage whose rows come in (None for a source), `schema` the rows' schema after this one.
    """

    run: Run
    folder: str
    fingerprint: str
    before: StageRecord | None
    schema: pa.Schema
    tables: Mapping[str, Table]
    seed: int
    blocks: int | None
    progress: Progress
    task: Task
    checks: tuple[Check, ...] = ()
    _query: Query | None = None
    _files: list[str] = field(default_factory=list)
    _failures: list[str] = field(default_factory=list)
    _rejects: list[str] = field(default_factory=list)
    _metrics: list[str] = field(default_factory=list)
    _outputs: list[str] = field(default_factory=list)
    _selected: Table | None = None
    _pools: list[Pool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = self.run.fresh_folder(self.folder)
        self.started = time.monotonic()

    # What an operator may use.

    @property
    def rows_in(self) -> int:
        """How many rows come in."""
        return self.before.rows_kept if self.before else 0

    @property
    def input(self) -> Table:
        """The files of the rows that come in (those that `when` picks)."""
        if self._selected:
            return self._selected
        return self.run.table(self.before) if self.before else Table((), "parquet")

    @property
    def query(self) -> Query:
        """SQL over `rows` and the recipe's named tables, for use by the driver."""
        if self._query is None:
            self._query = self._connect({"rows": self.input} if self.before else {})
        return self._query

    def dataset(self) -> Dataset:
        """Return the rows that come in."""
        return self.read(self.input.files, self.rows_in)

    def read(self, files: tuple[str, ...], rows: int) -> Dataset:
        """Return `rows` rows in Parquet files as a dataset of about ROWS_PER_BLOCK rows a block."""
        cluster.start()
        import ray.data

        blocks = self.blocks or max(1, rows // ROWS_PER_BLOCK)
        dataset = ray.data.read_parquet(list(files), override_num_blocks=blocks)
        return dataset.repartition(blocks) if self.blocks else dataset

    def range(self, rows: int) -> Dataset:
        """Return a dataset of the numbers from 0 to `rows` in the column `id`, for a source."""
        cluster.start()
        import ray.data

        return ray.data.range(rows, override_num_blocks=self.blocks or max(1, rows // ROWS_PER_BLOCK))

    def map(self, dataset: Dataset, operator: Operator) -> Dataset:
        """Return the dataset that `operator` makes of each batch; a model's operator runs in an actor."""
        if not operator.uses_model:
            return self.map_batches(dataset, Guarded(functools.partial(checked, operator), self.path))
        pool = Pool(self.run.calls, self._rows, self.blocks)
        self._pools.append(pool)  # as long as the stage is made
        return pool.map(
            dataset, operator, lambda bound: Guarded(functools.partial(checked, bound), self.path)
        )

    def map_batches(
        self, dataset: Dataset, function: Callable[[pa.Table], pa.Table], batch_rows: int | None = None
    ) -> Dataset:
        """Return the dataset that `function` makes of each block, or of so many rows."""
        return dataset.map_batches(
            function,
            batch_format="pyarrow",
            batch_size=batch_rows,
            zero_copy_batch=True,
        )

    def narrow(self, dataset: Dataset, function: Callable[[pa.Table], pa.Table], name: str) -> Table:
        """Write what `function` makes of each block as an artifact of this stage; return its files."""
        folder = self.path / name
        folder.mkdir()
        import ray.exceptions

        made = self.map_batches(dataset, Guarded(function, self.path))
        written = self.map_batches(made, Write(folder))
        try:
            files = [row["file"] for row in written.take_all()]
        except ray.exceptions.RayError as error:
            raise cause(error, self.path, self._step) from None
        return Table(tuple(files), "parquet")

    def tasks(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return what `function` returns in a Ray task for each of `arguments`."""
        cluster.start()
        import ray
        import ray.exceptions

        task = ray.remote(max_retries=2)(guarded_task)
        try:
            return list(ray.get([task.remote(self.path, function, *given) for given in arguments]))
        except ray.exceptions.RayError as error:
            raise cause(error, self.path, self._step) from None

    def wrote(self, path: Path) -> None:
        """List a Parquet file of rows that the operator wrote itself."""
        self._files.append(str(path))

    def measured(self, measurements: pa.Table) -> None:
        """Keep measurements (see `synthray.metric`) under this step's name."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        step = pa.array([self._step] * len(measurements), pa.string())
        table = measurements.add_column(0, METRICS.field("step"), step).cast(METRICS)
        path = self.path / f"metrics-{len(self._metrics)}.parquet"
        pq.write_table(table, path)
        self._metrics.append(str(path))

    def over(self, relations: Mapping[str, Any], writable: Path | None = None) -> Query:
        """Return a Query over other relations; the caller closes it."""
        return Query(relations, seed=self.seed, writable=writable)

    def exported(self, paths: list[Path]) -> None:
        """List files that were written for others; when one is gone, the stage is made again."""
        self._outputs.extend(str(path) for path in paths)

    # The two ways to make a stage.

    def operate(self, operator: Operator, when: str | None) -> StageRecord:
        """Run an operator over the rows that `when` is true for; the others pass by with nulls."""
        self._step = operator.step
        if self.before and when:
            self._select(when)
        rows = self._rows = self._rows_of(operator)
        if operator.uses_model:
            self._compact()  # what a run that was killed has left
        with self.progress.stage(operator.step, rows, calls=operator.uses_model):
            if operator.makes() in ("rows", "nothing"):
                dataset = operator.apply(None, self)
            else:
                dataset = operator.apply(self.dataset(), self) if rows else None
            if dataset is not None:
                self._collect(
                    dataset, batch_rows=ROWS_PER_BLOCK if operator.uses_model and not self.blocks else None
                )
        if operator.uses_model:
            self._compact()
        if operator.makes() == "nothing":
            assert self.before is not None
            count = StepCount(operator.step, path_of(operator), self.rows_in, rows_kept=self.rows_in)
            return self._commit((count,), self.before.files, operator)
        return self._account(operator)

    def state(self, statements: list[Statement]) -> StageRecord:
        """Run statements over the rows by DuckDB, out of core."""
        self._step = "+".join(one.step for one in statements)
        with self.progress.stage(self._step, self.rows_in, calls=False), self._told():
            try:
                counts = self._state(statements, why=None)
            except QueryError as error:
                if not _is_of_a_value(error):
                    raise
                counts = self._state(statements, why=error)
        return self._commit(tuple(counts), tuple(self._files), None)

    # Statements.

    def _state(self, statements: list[Statement], why: QueryError | None) -> list[StepCount]:
        if why:  # a second attempt: nothing of the first counts
            self.path = self.run.fresh_folder(self.folder)
            self._files, self._rejects, self._failures, self._metrics = [], [], [], []
            self.close()
        assert self.before is not None
        query = self._query = self._connect({"_r0": self.input})
        counts = []
        rows = self.rows_in
        for number, statement in enumerate(statements):
            plan = self._plan(query, statement, number, guard=why is not None)
            count = self._count(query, statement, plan, rows, number, why)
            query.view(f"_r{number + 1}", plan.rows)
            counts.append(count)
            rows = count.rows_kept
        path = self.path / "rows.parquet"
        kept = query.write(f"SELECT * FROM _r{len(statements)}", path)
        self._files.append(str(path))
        self._unique(query, f"read_parquet({quoted(str(path))})")
        if kept != rows:
            raise ConservationError(f"{self._step}: {rows} rows should be kept, but {kept} are; {counts}")
        return counts

    def _plan(self, query: Query, statement: Statement, number: int, *, guard: bool) -> Plan:
        try:
            plan = statement.plan(query, f"_r{number}", guard=guard)
        except QueryError as error:
            raise RunFailed(f"{statement.step}: {error}") from error
        for sql, meaning in plan.forbidden.items():
            found = query.rows(f"SELECT row_id FROM ({sql}) LIMIT 1")
            if found:
                raise RunFailed(f"{statement.step}: {meaning}: row_id {found[0][0]!r}")
        return plan

    def _count(
        self, query: Query, statement: Statement, plan: Plan, rows: int, number: int, why: QueryError | None
    ) -> StepCount:
        def size(sql: str | None) -> int:
            return int(query.value(f"SELECT count(*) FROM ({sql})")) if sql else 0

        rejected = failed = 0
        if plan.rejects:
            rejected = self._written(query, plan.rejects, f"rejects-{number}", self._rejects)
        if plan.failures and why:
            failed = self._fail(query, plan.failures, statement.step, why, f"failures-{number}")
        if plan.metrics:
            self._written(query, plan.metrics, f"metrics-{number}", self._metrics)
        made, expanded = size(plan.made), size(plan.expanded)
        return StepCount(
            step=statement.step,
            operator=statement.kind,
            rows_in=rows,
            rows_made=made,
            rows_kept=rows + made - rejected - failed - expanded,
            rows_rejected=rejected,
            rows_failed=failed,
            rows_expanded=expanded,
        )

    def _written(self, query: Query, sql: str, name: str, listed: list[str]) -> int:
        path = self.path / f"{name}.parquet"
        written = query.write(sql, path)
        if written:
            listed.append(str(path))
        return written

    def _fail(self, query: Query, rows: str, step: str, why: QueryError, name: str) -> int:
        """Write the rows whose values raise an error as failed rows."""
        message = quoted(str(why).partition("\n")[0])
        kind = quoted(type(why.__cause__).__name__.removesuffix("Exception") + "Error")
        failed = f"struct_pack(error := {kind}, message := {message}, attempts := 1::INTEGER)"
        sql = f"SELECT *, {failed} AS failed, {quoted(step)} AS reject_step FROM ({rows})"
        return self._written(query, sql, name, self._failures)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say of SQL that fails at work, not when it was checked, which step it is of."""
        try:
            yield
        except QueryError as error:
            raise RunFailed(f"{self._step}: {error}") from error

    # Operators.

    def _rows_of(self, operator: Operator) -> int:
        if self._selected:
            return int(self.query.value("SELECT count(*) FROM rows"))
        return int(getattr(operator, "rows", 0) or 0) if operator.makes() == "rows" else self.rows_in

    def _select(self, when: str) -> None:
        with self._told():
            try:
                self._pick(when, "rows")
            except QueryError as error:
                if not _is_of_a_value(error):
                    raise
                failures, others = guarded(self.query, "rows", [when])
                self._fail(self.query, failures, self._step, error, "failures-when")
                self._pick(when, others)
        self.close()

    def _pick(self, when: str, source: str) -> None:
        passed, selected = self.path / "passed.parquet", self.path / "selected.parquet"
        verdict = f"(WITH rows AS (SELECT * FROM {source}) SELECT *, ({when}) AS _when FROM rows)"
        self.query.write(f"SELECT * EXCLUDE (_when) FROM {verdict} WHERE _when", selected)
        if self.query.write(f"SELECT * EXCLUDE (_when) FROM {verdict} WHERE _when IS NOT TRUE", passed):
            self._files = [str(passed)]
        self._selected = Table((str(selected),), "parquet")

    def _compact(self) -> None:
        """Turn the journals of the calls into Parquet, in a process that gives its memory back."""
        self.progress.tail.poll()  # it counts lines of journals
        if any(self.run.calls.glob("*.jsonl")):
            self.tasks(compact, [(self.run.calls,)])

    def _collect(self, dataset: Dataset, batch_rows: int | None) -> None:
        """Write the rows as they come; the driver sees one line a block."""
        import ray.exceptions

        sink = self.map_batches(dataset, Sink(self.path, self.schema), batch_rows)
        try:
            for batch in sink.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    self.progress.add(row["rows"] + row["failed"])
                    for listed, file in ((self._files, row["file"]), (self._failures, row["failed_file"])):
                        if file:
                            listed.append(file)
        except ray.exceptions.RayError as error:
            raise cause(error, self.path, self._step) from None

    def _account(self, operator: Operator) -> StageRecord:
        """Find out, by the ids before and after, what became of every row."""
        if not any(Path(file).name.startswith("rows") for file in self._files):
            import pyarrow.parquet as pq

            # Rows that `when` let pass lack the operator's columns: the schema must stand somewhere.
            pq.write_table(self.schema.empty_table(), self.path / "rows.parquet")
            self._files.append(str(self.path / "rows.parquet"))
        with self.over(self._after(operator), self.path) as query:
            self._unique(query, "kept_rows")
            count = self._operator_count(query, operator)
        return self._commit((count,), tuple(self._files), operator)

    def _after(self, operator: Operator) -> dict[str, Table | str | pa.Table]:
        import pyarrow as pa

        nothing = pa.table({"row_id": pa.array([], pa.string()), "parent_id": pa.array([], pa.string())})
        return {
            "before": self.run.table(self.before) if self.before else nothing,
            "kept_rows": Table(tuple(self._files), "parquet"),
            "failed_rows": Table(tuple(self._failures), "parquet") if self._failures else nothing,
        }

    def _operator_count(self, query: Query, operator: Operator) -> StepCount:
        parents = (
            "UNION ALL SELECT unnest(parents) FROM kept_rows"
            if "parents" in query.schema("SELECT * FROM kept_rows").names
            else ""
        )
        query.view(
            "after",
            "SELECT row_id, parent_id FROM kept_rows UNION ALL SELECT row_id, parent_id FROM failed_rows",
        )
        query.view("made", "SELECT * FROM after ANTI JOIN before USING (row_id)")
        query.view("gone", "SELECT row_id FROM before ANTI JOIN after USING (row_id)")
        query.view("parents_", f"SELECT parent_id AS row_id FROM made {parents}")
        query.view("expanded", "SELECT row_id FROM gone SEMI JOIN parents_ USING (row_id)")
        query.view("childless", "SELECT row_id FROM gone ANTI JOIN parents_ USING (row_id)")

        def size(name: str) -> int:
            return int(query.value(f"SELECT count(*) FROM {name}"))

        made, childless = size("made"), size("childless")
        step, makes = operator.step, operator.makes()
        if makes == "columns" and (made or childless):
            example = query.rows(f"SELECT row_id FROM {'made' if made else 'childless'} LIMIT 1")[0][0]
            raise ConservationError(
                f"{step}: {path_of(operator)} lost {childless} rows and made {made} (such as row_id "
                f"{example!r}), but an operator only adds columns; let a where drop rows"
            )
        if makes == "children":
            query.view("old", "SELECT row_id AS parent_id FROM before")
            orphans = query.value("SELECT count(*) FROM made ANTI JOIN old USING (parent_id)")
            if orphans and not parents:
                raise ConservationError(f"{step}: {orphans} new rows name no parent in the rows before")
        if childless:
            self._written(
                query,
                f"SELECT row_id, {quoted(step)} AS step, 'no_children' AS reason FROM childless",
                "rejects",
                self._rejects,
            )
        count = StepCount(
            step=step,
            operator=path_of(operator),
            rows_in=self.rows_in,
            rows_made=made,
            rows_kept=size("kept_rows"),
            rows_rejected=childless,
            rows_failed=size("failed_rows"),
            rows_expanded=size("expanded"),
        )
        if not count.conserved():
            raise ConservationError(f"{step}: rows do not add up: {count}")
        return count

    def _unique(self, query: Query, source: str) -> None:
        twice = query.rows(f"SELECT row_id FROM {source} GROUP BY row_id HAVING count(*) > 1 LIMIT 1")
        if twice:
            raise ConservationError(f"{self._step}: row_id {twice[0][0]!r} is there more than once")

    def _commit(
        self, counts: tuple[StepCount, ...], files: tuple[str, ...], operator: Operator | None
    ) -> StageRecord:
        for count in counts:
            if not count.conserved():
                raise ConservationError(f"{count.step}: rows do not add up: {count}")
        record = StageRecord(
            folder=self.folder,
            fingerprint=self.fingerprint,
            before=self.before.folder if self.before else None,
            steps=counts,
            files=self._relative(files),
            rejects=self._relative(tuple(self._rejects)),
            failures=self._relative(tuple(self._failures)),
            metrics=self._relative(tuple(self._metrics)),
            outputs=self._relative(tuple(self._outputs)),
            seconds=round(time.monotonic() - self.started, 3),
            **(self._spent(operator) if operator and operator.uses_model else {}),
        )
        self.close()
        record.write(self.run.root)
        return record

    def _spent(self, operator: Operator) -> dict[str, Any]:
        """Add up what the calls of these rows took, whenever they were answered."""
        column = identifier(f"{operator.step}_call")
        files: list[str] = []
        relations: dict[str, Table | str | pa.Table] = {"calls": calls_relation(self.run.calls, files)}
        sources = {"kept_rows": self._files, "failed_rows": self._failures}
        relations |= {name: Table(tuple(listed), "parquet") for name, listed in sources.items() if listed}
        keys = " UNION ".join(f"SELECT {column} AS key FROM {name}" for name in sources if name in relations)
        with Query(relations, files=tuple(files)) as query:
            found = query.rows(
                "SELECT count(*), coalesce(sum(prompt_tokens), 0)::BIGINT, "
                "coalesce(sum(completion_tokens), 0)::BIGINT, sum(cost) "
                "FROM (SELECT DISTINCT ON (key) * FROM calls WHERE error IS NULL) "
                f"SEMI JOIN ({keys}) USING (key)"
            )[0]
        return dict(zip(("calls", "prompt_tokens", "completion_tokens", "cost"), found, strict=True))

    def _relative(self, files: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(os.path.relpath(self.run.root / file, self.run.root) for file in files)

    def _connect(self, relations: Mapping[str, Any]) -> Query:
        return Query({**self.tables, **relations}, seed=self.seed, writable=self.path)

    def close(self) -> None:
        """Give the connection back."""
        if self._query is not None:
            self._query.close()
            self._query = None


def _is_of_a_value(error: QueryError) -> bool:
    """Say whether a value made SQL fail, such as a cast of it, and not the statement."""
    import duckdb

    kinds = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)
    return isinstance(error.__cause__, kinds)
