"""What workers do for a stage, on any machine of the cluster: passes over blocks, tasks, artifacts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray import cluster
from synthray.block import Guarded, Read, Worked, Write, cause, guarded_task
from synthray.fingerprint import artifact_parts
from synthray.lineage import digest
from synthray.pool import Lone, Pool
from synthray.table import Table

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from synthray.operator import Operator
    from synthray.record import StageRecord
    from synthray.remote import Remote
    from synthray.run import Run

ROWS_PER_BLOCK = 10_000


class Workers:
    """The part of a Stage that spreads its work; the stage has what it names."""

    run: Run
    path: Path
    before: StageRecord | None
    blocks: int | None
    lone: Lone
    _pools: list[Pool]
    _rows: int
    _step: str
    _operator: Operator
    _when: str | None

    @property
    def remote(self) -> Remote | None:
        """Where the run is, when it is on an object store."""
        return self.run.remote

    def _fetch(self, held: object) -> None:
        """See that what workers wrote, on whatever machine, can be read here."""
        if self.remote:
            self.remote.fetch(held)

    def read(self, files: tuple[str, ...], rows: int, columns: Sequence[str] | None = None) -> Dataset:
        """Return `rows` rows in Parquet files as a dataset of about ROWS_PER_BLOCK rows a block."""
        cluster.start()
        import ray.data

        blocks = self.blocks or max(1, rows // ROWS_PER_BLOCK)
        named = None if columns is None else list(columns)
        if self.remote:
            return self._read_remote(self.remote, files, named)
        dataset = ray.data.read_parquet(list(files), override_num_blocks=blocks, columns=named)
        return dataset.repartition(blocks) if self.blocks else dataset

    def _read_remote(self, remote: Remote, files: tuple[str, ...], columns: list[str] | None) -> Dataset:
        import pyarrow as pa
        import pyarrow.parquet as pq
        import ray.data

        remote.put(files)
        metadata = [pq.read_metadata(file) for file in files]
        schema = pa.unify_schemas([one.schema.to_arrow_schema() for one in metadata]).remove_metadata()
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        pieces = [
            pa.table({"file": [file], "group": [group]})
            for file, one in zip(files, metadata, strict=True)
            for group in range(one.num_row_groups)
        ]
        dataset = self.map_batches(
            ray.data.from_arrow(pieces), self._guarded(Read(schema, remote.sent(files)))
        )
        if self.blocks:
            return dataset.repartition(self.blocks)
        return dataset.repartition(target_num_rows_per_block=ROWS_PER_BLOCK)

    def range(self, rows: int) -> Dataset:
        """Return a dataset of the numbers from 0 to `rows` in the column `id`, for a source."""
        cluster.start()
        import ray.data

        return ray.data.range(rows, override_num_blocks=self.blocks or max(1, rows // ROWS_PER_BLOCK))

    def map(self, dataset: Dataset, operator: Operator) -> Dataset:
        """Return the dataset that `operator` makes of each batch; a model's operator runs in an actor."""
        if not operator.uses_model:
            return self.map_batches(dataset, self._guarded(Worked(operator, self.path)))
        pool = Pool(self.run.calls, self._rows, self.blocks, self.lone)
        self._pools.append(pool)  # as long as the stage is made
        with self._caught():
            return pool.map(dataset, operator, lambda bound: self._guarded(Worked(bound, self.path)))

    def _guarded(self, function: Callable[[pa.Table], pa.Table]) -> Guarded:
        return Guarded(function, self.path, self.remote and self.remote.sent(function))

    def map_batches(
        self, dataset: Dataset, function: Callable[[pa.Table], pa.Table], batch_rows: int | None = None
    ) -> Dataset:
        """Return the dataset that `function` makes of each block, or of so many rows."""
        return dataset.map_batches(
            function, batch_format="pyarrow", batch_size=batch_rows, zero_copy_batch=True
        )

    def narrow(
        self, dataset: Dataset, function: Callable[[pa.Table], pa.Table], folder: Path, kind: str = "parquet"
    ) -> Table:
        """Write what `function` makes of each block into `folder`, a file each; `kind` may be 'arrow'."""
        folder.mkdir(parents=True, exist_ok=True)
        made = self.map_batches(dataset, self._guarded(function))
        written = self.map_batches(made, Write(folder, kind, self.remote))
        with self._caught():
            files = [row["file"] for row in written.take_all()]
        self._fetch(files)
        return Table(tuple(sorted(files)), kind)

    def kept(self, name: str, parts: Any, make: Callable[[Path], None]) -> Path:
        """Return the folder of an artifact of this step, which `make` fills when there is none yet.

        It is reused as long as the rows that come in, the operator's code and `parts` are the same, so that
        `parts` holds the settings that decide it, and no other. It is there whole or not at all.
        """
        deciding = artifact_parts(self._operator, self._when, parts)
        digested = digest(self.before.fingerprint if self.before else "", deciding)
        step = re.sub(r"[^A-Za-z0-9_.-]+", "-", self._step)
        folder = self.run.root / "artifacts" / f"{step}-{name}-{digested}"
        if self.remote:
            if not self.remote.holds(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                make(folder)
                self.remote.put(folder, folders=True)
        elif not folder.is_dir():
            part = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            try:
                make(part)
            except BaseException:
                shutil.rmtree(part)
                raise
            part.rename(folder)
        return folder

    def tasks(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return what `function` returns in a Ray task for each of `arguments`."""
        started = self.started_tasks(function, arguments)
        with self._caught():
            import ray

            answers = list(ray.get(started))
        self._fetch([answers, arguments])
        return answers

    def started_tasks(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return Ray's references to what `function` will return, for workers: the driver never holds it."""
        cluster.start()
        import ray

        remote = self.remote and self.remote.sent(arguments)
        task = ray.remote(max_retries=2, scheduling_strategy="SPREAD")(guarded_task)
        return [task.remote(self.path, remote, function, *given) for given in arguments]

    @contextmanager
    def _caught(self) -> Iterator[None]:
        """Raise what a worker left as its error, in place of Ray's."""
        import ray.exceptions

        try:
            yield
        except ray.exceptions.RayError as error:
            raise cause(error, self.path, self._step, self.remote) from None
