"""A run under way: which stages stand, which are to be made, and the rounds of its loops."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from synthray.errors import TooManyFailed
from synthray.fingerprint import operator_parts, statement_parts
from synthray.gate import Check, decide
from synthray.lineage import digest
from synthray.operator import Operator
from synthray.pool import Lone
from synthray.repeat import Repeat
from synthray.rounds import Rounds
from synthray.stage import Stage
from synthray.statement import Statement
from synthray.step import Checked, stages

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.pipeline import Pipeline
    from synthray.progress import Progress
    from synthray.record import StageRecord
    from synthray.run import Run
    from synthray.table import Table

Note = Callable[[list[str]], None]
"""Takes the folders of the stages that stand, as soon as one more does."""


class Work:
    """Makes or skips the stages of a pipeline's steps; `tables`, their `digests` and `schemas` are named."""

    def __init__(
        self, pipeline: Pipeline, run: Run, progress: Progress, schemas: Mapping[str, pa.Schema]
    ) -> None:
        self.pipeline = pipeline
        self.run = run
        self.progress = progress
        self.schemas = schemas
        self.tables: dict[str, Table] = {}
        self.digests: dict[str, str] = {}
        self.lone = Lone()
        self.worked: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        """On how many rows a step has worked, and how many failed, in all rounds so far."""

    def within(
        self,
        pipeline: Pipeline,
        tables: Mapping[str, Table],
        digests: Mapping[str, str],
        schemas: Mapping[str, pa.Schema] | None = None,
    ) -> Work:
        """Return the work on a round's pipeline, which sees more tables."""
        inner = Work(pipeline, self.run, self.progress, {**self.schemas, **(schemas or {})})
        inner.lone, inner.worked, inner.failed = self.lone, self.worked, self.failed
        inner.tables = {**self.tables, **tables}
        inner.digests = {**self.digests, **digests}
        return inner

    def make_table(self, name: str, pipeline: Pipeline, number: str = "") -> list[StageRecord]:
        """Run a table's own pipeline; its rows become the table. `number` is that of a loop's round."""
        held_as = f"{pipeline.prefix.removesuffix('_')}@{number}" if number else name

        def note(folders: list[str]) -> None:
            made = {**self.run.state.get("table_stages", {}), held_as: folders}
            self.run.save(table_stages=made)

        inner = self.within(pipeline, {}, {})
        records, fingerprint = inner.chain(
            pipeline.checked(self.schemas), note, number=f"{number}." if number else ""
        )
        self.tables[name] = self.run.table(records[-1])
        self.digests[name.lower()] = fingerprint
        return records

    def chain(
        self,
        checked: Sequence[Checked],
        note: Note,
        before: StageRecord | None = None,
        fingerprint: str = "",
        number: str = "",
    ) -> tuple[list[StageRecord], str]:
        """Make or skip the stages of a list of steps over the rows of `before`; note them as they stand."""
        records: list[StageRecord] = []
        for place, group in enumerate(stages(checked), start=1):
            at = f"{number}{place:02d}"
            last = records[-1] if records else before
            if isinstance(group[0].step.work, Repeat):
                rounds = Rounds(self, group[0], at, functools.partial(_noted, note, tuple(records)))
                made, fingerprint = rounds.run(last, fingerprint)
                records += made
                rounds.require_target()
                continue
            fingerprint = self._fingerprint(group, fingerprint)
            record = self.stage(at, fingerprint, group, last)
            records.append(record)
            note(_folders(records))
            self._limit_failures(record)
        return records, fingerprint

    def stage(
        self,
        number: str,
        fingerprint: str,
        group: Sequence[Checked],
        before: StageRecord | None,
        given: Table | None = None,
    ) -> StageRecord:
        """Return the stage of this fingerprint, made now if it does not stand; `given`: rows from nowhere."""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "+".join(one.origin for one in group))
        folder = f"{number}-{name[:60]}-{fingerprint[:12]}"
        record = self.run.stage(folder)
        if record is None or (record.outputs and self.run.state.get("dataset") != folder):
            return self._make(folder, fingerprint, group, before, given)
        self.progress.note(f"{name}: unchanged, {record.rows_kept} rows")
        return record

    def _make(
        self,
        folder: str,
        fingerprint: str,
        group: Sequence[Checked],
        before: StageRecord | None,
        given: Table | None,
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
            given=None if before else given,
            lone=self.lone,
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
        retry = self.run.state["retries"].get(operator.origin, 0)
        calls, reviews = self.run.calls, str(self.run.root / "reviews")
        context = replace(operator.context, tables=self.tables, calls=calls, reviews=reviews, retry=retry)
        return replace(operator, context=context)

    def _fingerprint(self, group: Sequence[Checked], before: str) -> str:
        parts = []
        for one in group:
            work, when = one.step.work, one.step.when
            if isinstance(work, Operator):
                gate = (list(self.pipeline.conditions()), self.pipeline.name) if work.uses_gate else None
                retry = self.run.state["retries"].get(one.origin, 0)
                parts.append([operator_parts(self._at(work), when, self.digests), retry, gate])
            elif isinstance(work, Statement):
                parts.append([statement_parts(work, self.digests), self.pipeline.seed])
        return digest(before, parts)

    def _limit_failures(self, record: StageRecord) -> None:
        for step in record.steps:
            # The last rounds of a loop are of few rows: one bad answer among two says little.
            name, _, round_ = step.step.partition("@")
            self.worked[name] += step.rows_in + step.rows_made - step.rows_expanded
            self.failed[name] += step.rows_failed
            worked, failed = self.worked[name], self.failed[name]
            if step.rows_failed and failed > self.pipeline.max_failed * worked:
                so_far = " in the rounds so far" if round_ else ""
                raise TooManyFailed(
                    f"{step.step}: {failed} of {worked} rows failed{so_far}, more than max_failed "
                    f"({self.pipeline.max_failed:.0%}); see: synthray sql {self.run.where} "
                    '"SELECT error, message, count(*) FROM failures GROUP BY ALL", then run again with '
                    "--retry-failed, or raise max_failed"
                )


def _noted(note: Note, before: Sequence[StageRecord], made: list[str]) -> None:
    note([*_folders(before), *made])


def _folders(records: Sequence[StageRecord]) -> list[str]:
    return [one.folder for one in records]
