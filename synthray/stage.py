"""A stage being made: rows in, an operator by Ray or statements by DuckDB, rows out, all accounted for."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray import cluster, counters, division
from synthray.account import CHILDLESS, account, require_unique
from synthray.block import Sink
from synthray.chain import FIRST, Chain, of_a_value
from synthray.errors import ConservationError, QueryError, RunFailed
from synthray.ledger import Ledger
from synthray.metric import METRICS
from synthray.model.store import calls_relation, compact
from synthray.operator import path_of
from synthray.pool import Lone, Pool
from synthray.query import Query
from synthray.record import StageRecord, StepCount
from synthray.spelling import identifier, quoted
from synthray.statement import guarded
from synthray.table import Table
from synthray.workers import ROWS_PER_BLOCK, Workers

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from synthray.gate import Check
    from synthray.operator import Operator
    from synthray.progress import Progress
    from synthray.run import Run
    from synthray.statement import Statement
    from synthray.task import Task


@dataclass
class Stage(Workers):
    """What an operator's `apply` gets: the rows as Dataset and as SQL, and where its own results go.

    `before` is the stage whose rows come in (None for a source), `given` a table without rows that stands for
    it where there is none; `schema` the rows' schema after this one.
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
    given: Table | None = None
    lone: Lone = field(default_factory=Lone)
    _query: Query | None = None
    _selected: Table | None = None
    _pools: list[Pool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = self.run.fresh_folder(self.folder)
        self._ledger = Ledger(self.path)
        self.started = time.monotonic()

    # What an operator may use.

    @property
    def rows_in(self) -> int:
        """How many rows come in."""
        return self.before.rows_kept if self.before else 0

    @property
    def rows_per_block(self) -> int:
        """How many rows go into a block."""
        return ROWS_PER_BLOCK

    @property
    def columns(self) -> list[str]:
        """The columns of the rows that come in."""
        names: list[str] = self.query.schema("SELECT * FROM rows").names
        return names

    @property
    def input(self) -> Table:
        """The files of the rows that come in (those that `when` picks)."""
        if self._selected:
            return self._selected
        return self.run.table(self.before) if self.before else self.given or Table((), "parquet")

    @property
    def query(self) -> Query:
        """SQL over `rows` and the recipe's named tables, for use by the driver."""
        if self._query is None:
            self._query = self._connect({"rows": self.input} if self.before else {})
        return self._query

    def dataset(self, columns: Sequence[str] | None = None) -> Dataset:
        """Return the rows that come in, or some of their columns."""
        files = self.input.files
        if self.input.added:
            # Ray reads files alone, so what stands beside the rows is joined to them once.
            path = self.path / f"joined-{uuid.uuid4().hex}.parquet"
            listed = ", ".join(identifier(name) for name in columns) if columns else "*"
            self.query.write(f"SELECT {listed} FROM rows", path, group_rows=ROWS_PER_BLOCK)
            files = (str(path),)
        return self.read(files, self.rows_in, columns)

    def collected(self, dataset: Dataset) -> Table:
        """Write the rows that an operator made, as they come; return them, for one that then measures them.

        The driver sees one line a block. Rows that `when` let pass are not among them.
        """
        asked = self._operator.uses_model and not self.blocks
        write = Sink(self.path, self.schema, self.remote)
        sink = self.map_batches(dataset, write, ROWS_PER_BLOCK if asked else None)
        made: list[str] = []
        with self._caught():
            for batch in sink.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    self.progress.add(row["rows"] + row["failed"])
                    made += [row["file"]] if row["file"] else []
                    self._ledger.failures += [row["failed_file"]] if row["failed_file"] else []
        self._ledger.files.extend(made)
        self._fetch([made, self._ledger.failures])
        return Table(tuple(made), "parquet")

    def wrote(self, path: Path) -> None:
        """List a Parquet file of rows that the operator wrote itself."""
        self._ledger.files.append(str(path))

    def added(self, columns: pa.Table | Sequence[str]) -> None:
        """Keep the operator's columns (row_id and `adds()`, prefixed or not) beside the rows as they are.

        Rows that are not in `columns` have nulls, but those that `when` let pass by keep what they have in
        columns of these names. For marks: readers join them by row_id. Parquet files of `columns`, written by
        tasks under final names, are kept where they are.
        """
        import pyarrow as pa

        if not isinstance(columns, pa.Table):
            self._ledger.added.extend(columns)
            return
        kinds = self._operator.adds()
        fields = {"row_id": pa.string(), **kinds}
        named = ["row_id", *map(self._operator.final, kinds)]
        held = columns.select(list(fields)).cast(pa.schema(fields)).rename_columns(named)
        self._ledger.keep(held, "columns", self._ledger.added)

    def measured(self, measurements: pa.Table) -> None:
        """Keep measurements (see `synthray.metric`) under this step's name."""
        import pyarrow as pa

        step = pa.array([self._step] * len(measurements), pa.string())
        table = measurements.add_column(0, METRICS.field("step"), step).cast(METRICS)
        self._ledger.keep(table, "metrics", self._ledger.metrics)

    def over(self, relations: Mapping[str, Any], writable: Path | None = None) -> Query:
        """Return a Query over other relations; the caller closes it."""
        return Query(relations, seed=self.seed, writable=writable)

    def exported(self, paths: list[Path]) -> None:
        """List files that were written for others; when one is gone, the stage is made again."""
        self._ledger.outputs.extend(str(path) for path in paths)

    # The two ways to make a stage.

    def operate(self, operator: Operator, when: str | None) -> StageRecord:
        """Run an operator over the rows that `when` is true for; the others pass by with nulls."""
        self._step, self._operator, self._when = operator.origin, operator, when
        if self.before and when:
            self._select(when)
        rows = self._rows = self._rows_of(operator)
        if operator.uses_model:
            self._compact()  # what a run that was killed has left
        with self.progress.stage(operator.origin, rows, calls=operator.uses_model):
            works = rows or operator.makes() in ("rows", "nothing")
            dataset = operator.apply(self) if works else None
            if dataset is not None:
                self.collected(dataset)
        if operator.uses_model:
            self._compact()
        if self._ledger.added and self._ledger.files:
            made = self.schema.empty_table().select(["row_id", *map(operator.final, operator.adds())])
            passed = Table((self._ledger.files[0],), "parquet")
            with self.over({"passed": passed, "made": made}, self.path) as query:
                self._ledger.keep_passed(query, made.schema)
        if self._ledger.added and self._ledger.failures:
            self._write_joined()  # rows of which `when` failed are not among the rows any more
        if operator.makes() != "nothing" and not self._ledger.added:
            return self._account(operator)
        assert self.before is not None
        if self._ledger.added:
            self._require_known()
        # The rows stay where they are, so that each of them is kept.
        count = StepCount(operator.origin, path_of(operator), self.rows_in, rows_kept=self.rows_in)
        return self._commit((count,), self.before.files, operator, self.before.added)

    def state(self, statements: list[Statement]) -> StageRecord:
        """Run statements over the rows by DuckDB, out of core."""
        self._step = "+".join(one.step for one in statements)
        with self.progress.stage(self._step, self.rows_in, calls=False), self._told():
            try:
                counts = self._chain(statements, None)
            except QueryError as error:
                if not of_a_value(error):
                    raise
                self._again()
                counts = self._chain(statements, error)
        return self._commit(tuple(counts), tuple(self._ledger.files), None)

    def _chain(self, statements: list[Statement], why: QueryError | None) -> list[StepCount]:
        self._query = self._connect({FIRST: self.input})
        together = (
            division.keys(statements, self._query) if self.rows_in >= division.ROWS and not why else None
        )
        if together is not None and (nodes := cluster.nodes()) > 1:
            shares = self.tasks(
                division.share,
                [
                    (
                        statements,
                        self.input,
                        together,
                        number,
                        nodes,
                        self.path / f"share-{number}",
                        self.seed,
                    )
                    for number in range(nodes)
                ],
            )
            if all(shares):
                return division.joined(shares, self._ledger)
            self._again()
            self._query = self._connect({FIRST: self.input})
        return Chain(statements, self._query, self._ledger, why).run(self.rows_in)

    def _again(self) -> None:
        """Begin a second attempt: nothing of the first counts."""
        self.close()
        self._ledger = Ledger(self.run.fresh_folder(self.folder))

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
        return operator.row_count() or 0 if operator.makes() == "rows" else self.rows_in

    def _select(self, when: str) -> None:
        with self._told():
            try:
                self._pick(when, "rows")
            except QueryError as error:
                if not of_a_value(error):
                    raise
                failures, others = guarded(self.query, "rows", [when])
                self._ledger.fail(self.query, failures, self._step, error, "failures-when")
                self._pick(when, others)
        self.close()

    def _pick(self, when: str, source: str) -> None:
        passed, selected = self.path / "passed.parquet", self.path / "selected.parquet"
        verdict = f"(WITH rows AS (SELECT * FROM {source}) SELECT *, ({when}) AS _when FROM rows)"
        self.query.write(f"SELECT * EXCLUDE (_when) FROM {verdict} WHERE _when", selected)
        if self.query.write(f"SELECT * EXCLUDE (_when) FROM {verdict} WHERE _when IS NOT TRUE", passed):
            self._ledger.files = [str(passed)]
        self._selected = Table((str(selected),), "parquet")

    def _compact(self) -> None:
        """Turn the journals of the calls into Parquet, in a process that gives its memory back."""
        self.run.kept_calls()
        self.progress.tail.poll()  # it counts lines of journals
        if self.run.has_journals():
            self.tasks(compact, [(self.run.calls,)])

    def _account(self, operator: Operator) -> StageRecord:
        """Find out, by the ids before and after, what became of every row."""
        if not any(Path(file).name.startswith("rows") for file in self._ledger.files):
            import pyarrow.parquet as pq

            # Rows that `when` let pass lack the operator's columns: the schema must stand somewhere.
            pq.write_table(self.schema.empty_table(), self.path / "rows.parquet")
            self._ledger.files.append(str(self.path / "rows.parquet"))
        with self.over(self._after(), self.path) as query:
            count = account(query, operator, self.rows_in)
            if count.rows_rejected:
                rejects = (
                    f"SELECT row_id, {quoted(count.step)} AS step, 'no_children' AS reason FROM {CHILDLESS}"
                )
                self._ledger.write(query, rejects, "rejects", self._ledger.rejects)
        return self._commit((count,), tuple(self._ledger.files), operator)

    def _write_joined(self) -> None:
        assert self.before is not None
        self._ledger.files.clear()
        held = self.run.table(self.before)
        whole = Table(held.files, held.kind, (*held.added, tuple(self._ledger.added)))
        failed = Table(tuple(self._ledger.failures), "parquet")
        with self.over({"held": whole, "failed_rows": failed}, self.path) as query:
            self._ledger.write(
                query, "SELECT * FROM held ANTI JOIN failed_rows USING (row_id)", "rows", self._ledger.files
            )
        self._ledger.added.clear()

    def _require_known(self) -> None:
        with self.over(self._after()) as query:
            require_unique(query, "marked", self._step)
            unknown = query.rows("SELECT row_id FROM marked ANTI JOIN before USING (row_id) LIMIT 1")
        if unknown:
            raise ConservationError(f"{self._step}: marks row_id {unknown[0][0]!r}, which is no row")

    def _after(self) -> dict[str, Table | str | pa.Table]:
        import pyarrow as pa

        nothing = pa.table({"row_id": pa.array([], pa.string()), "parent_id": pa.array([], pa.string())})
        listed = {
            "before": self.run.paths(self.before.files) if self.before else (),
            "kept_rows": self._ledger.files,
            "failed_rows": self._ledger.failures,
            "marked": self._ledger.added,
        }
        return {name: Table(tuple(files), "parquet") if files else nothing for name, files in listed.items()}

    def _commit(
        self,
        counts: tuple[StepCount, ...],
        files: tuple[str, ...],
        operator: Operator | None,
        added: tuple[tuple[str, ...], ...] = (),
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
            added=(*added, *([self._relative(tuple(own))] if (own := self._ledger.added) else [])),
            rejects=self._relative(tuple(self._ledger.rejects)),
            failures=self._relative(tuple(self._ledger.failures)),
            metrics=self._relative(tuple(self._ledger.metrics)),
            outputs=self._relative(tuple(self._ledger.outputs)),
            seconds=round(time.monotonic() - self.started, 3),
            **(self._spent(operator) if operator and operator.uses_model else {}),
        )
        self.close()
        self.run.commit(record)
        if cluster.is_joined():  # elsewhere nobody looks
            counters.count(self.run.state["name"], record, self._reasons(record))
        return record

    def _reasons(self, record: StageRecord) -> dict[tuple[str, str], int]:
        if not record.rejects:
            return {}
        rejects = Table(self.run.paths(record.rejects), "parquet")
        with self.over({"rejects": rejects}) as query:
            found = query.rows("SELECT step, reason, count(*) FROM rejects GROUP BY ALL")
        return {(step, reason): rows for step, reason, rows in found}

    def _spent(self, operator: Operator) -> dict[str, Any]:
        """Add up what the calls of these rows took, whenever they were answered."""
        import pyarrow as pa

        name = f"{operator.step}_call"
        column = identifier(operator.final(name))
        if pa.types.is_list(operator.adds()[name]):  # a row that is asked more than once
            column = f"unnest({column})"
        files: list[str] = []
        relations: dict[str, Table | str | pa.Table] = {"calls": calls_relation(self.run.kept_calls(), files)}
        sources = {"kept_rows": self._ledger.files, "failed_rows": self._ledger.failures}
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
