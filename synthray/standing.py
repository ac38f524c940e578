"""The dataset as it stood after each step of a run: read from the stages and the rejects, never made again.

A stage keeps the rows that it leaves. Statements in a row are one stage: of those before its last one the
rows are those of the stage before, without what they and the statements before them rejected. Only the last
statement of a stage may add columns or rows, so that nothing else is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from synthray.errors import RunFailed
from synthray.spelling import quoted
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.record import StageRecord
    from synthray.run import Run


@dataclass(frozen=True)
class Standing:
    """The rows after `step`: those of `rows` that no file of `rejects` or `failures` lists for `steps`.

    Two that are equal hold the same rows; two that are not may.
    """

    step: str = field(compare=False)
    rows: Table
    rejects: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files that reading it reads."""
        return (*self.rows.paths, *self.rejects, *self.failures)

    def sql(self) -> str:
        """Return the SELECT that reads the rows."""
        rows = f"SELECT * FROM {self.rows.scan()}"
        listed = ", ".join(map(quoted, self.steps))
        for files, column in ((self.rejects, "step"), (self.failures, "reject_step")):
            if files:
                gone = f"SELECT row_id FROM {Table(files, 'parquet').scan()} WHERE {column} IN ({listed})"
                rows = f"SELECT * FROM ({rows}) ANTI JOIN ({gone}) USING (row_id)"
        return rows

    def only(self, columns: Collection[str]) -> Standing:
        """Return it without the files beside the rows that hold none of `columns`: as far as these go."""
        added = tuple(group for group in self.rows.added if _names(group) & set(columns))
        return replace(self, rows=replace(self.rows, added=added))


def standings(run: Run, record: StageRecord) -> list[Standing]:
    """Return the dataset as it stood after each step up to the stage `record`, in the order of the steps."""
    records = list(_back(run, record))[::-1]
    befores = [None, *records[:-1]]
    return [one for pair in zip(records, befores, strict=True) for one in _of_stage(run, *pair)]


def _back(run: Run, record: StageRecord) -> Iterator[StageRecord]:
    yield record
    while record.before:
        before = run.stage(record.before)
        if before is None:
            raise RunFailed(
                f"{run.root}: the stage {record.before!r} is not whole any more; run the recipe again"
            )
        record = before
        yield record


def _of_stage(run: Run, record: StageRecord, before: StageRecord | None) -> Iterator[Standing]:
    gone: list[str] = []
    for count in record.steps[:-1]:
        if count.rows_rejected or count.rows_failed:
            gone.append(count.step)
        if before:
            listed = (run.paths(record.rejects), run.paths(record.failures)) if gone else ((), ())
            yield Standing(count.step, run.table(before), *listed, tuple(gone))
    yield Standing(record.steps[-1].step, run.table(record))


def _names(files: tuple[str, ...]) -> set[str]:
    return {name for file in files for name in pq.read_schema(file).names}
