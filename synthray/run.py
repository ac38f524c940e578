"""A run is a directory: stages, rejects, failures, calls, metrics. Running again is resuming.

Only what `run.json` and each `stage.json` list is part of the run; files that a crash left are never read.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import re
import shutil
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from synthray.bucket import is_url
from synthray.errors import InputError, RunError
from synthray.lease import Lease
from synthray.model.mirror import Mirror
from synthray.model.store import calls_relation
from synthray.query import Query, shipped
from synthray.record import COUNTS, StageRecord, replace_file
from synthray.remote import Remote
from synthray.table import Table

if TYPE_CHECKING:
    import duckdb
    import pandas
    import polars
    import pyarrow as pa
    from ray.data import Dataset

FORMAT = 1
_BEFORE_STATE = (".lock", ".run.json.part")
"""What a run that was killed before its first state leaves."""

VIEWS = ("rejects", "failures", "rows", "funnel", "reasons", "measured")
RELATIONS = frozenset(
    {
        *VIEWS,
        *("dataset", "rejected_rows", "failed_rows", "stages", "steps", "metrics", "calls"),
        *("texts", "given", "gate"),
    }
)
"""What a run and its operators show to SQL; no named table may take one of these names."""

_FOLDER = re.compile(r"[A-Za-z0-9_.+-]+")


@dataclass
class Run:
    """A run directory. `Run.claim` opens one for writing, `Run.read` and `synthray.open` for reading."""

    root: Path
    state: dict[str, Any] = field(default_factory=dict)
    remote: Remote | None = None
    _lock: int | None = None
    _lease: Lease | None = None
    _pulled: float = -math.inf

    @classmethod
    def claim(cls, root: Path | str, name: str) -> Self:
        """Open or create RUN for the recipe `name`; RunError when another recipe or process has it.

        RUN is a directory, or a URL that fsspec knows (s3://bucket/run): then `root` is the folder of this
        machine that stands for it.
        """
        run = cls._at(root)
        if run.remote:
            return run._leased(run.remote, name)
        run.check_free(name)
        try:
            run.root.mkdir(parents=True, exist_ok=True)
            # The lock dies with the process, whatever kills it; nothing is to be cleaned up.
            run._lock = os.open(run.root / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise RunError(f"{run.where} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(run._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(run._lock)
            raise _in_use(run.root) from None
        if (run.root / "run.json").is_file():
            run._load()
        return run

    @classmethod
    def _at(cls, root: Path | str) -> Self:
        if not is_url(root):
            return cls(Path(root).absolute())
        remote = Remote.of(str(root))
        run = cls(remote.folder, remote=remote)
        weakref.finalize(run, shutil.rmtree, remote.folder, ignore_errors=True)
        remote.fetch([remote.folder / name for name in ("run.json", *remote.bucket.names("reviews"))])
        return run

    def _leased(self, remote: Remote, name: str) -> Self:
        if (self.root / "run.json").is_file():
            self._load()
            self._require_recipe(name)
        elif any(not one.startswith("lock/") for one in remote.bucket.names()):
            raise RunError(f"{self.where} is not empty and holds no run; choose another --out")
        self._lease = Lease(remote.bucket)
        self._lease.take()
        (self.root / "run.json").unlink(missing_ok=True)  # the last writer may have gone on until just now
        remote.fetch(self.root / "run.json")
        if (self.root / "run.json").is_file():
            self._load()
        return self

    @property
    def where(self) -> str:
        """What the user calls it: the directory or the URL."""
        return self.remote.url if self.remote else str(self.root)

    def _require_recipe(self, name: str) -> None:
        if self.state["name"] != name:
            raise RunError(
                f"{self.where} holds a run of the recipe {self.state['name']!r}, not {name!r}; "
                "choose another --out"
            )

    def check_free(self, name: str) -> None:
        """Raise a RunError when the directory cannot be this recipe's; writes nothing."""
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise RunError(f"{self.root} is a file; --out names a directory")
        if (self.root / "run.json").is_file():
            self._load()
            self._require_recipe(name)
        elif any(path.name not in _BEFORE_STATE for path in self.root.iterdir()):
            raise RunError(f"{self.root} is not empty and holds no run; choose another --out")
        lock = self.root / ".lock"
        if lock.exists():
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise _in_use(self.root) from None

    @classmethod
    def read(cls, root: str | Path) -> Self:
        """Open RUN for reading; RunError when there is none."""
        run = cls._at(root)
        if not (run.root / "run.json").is_file():
            raise RunError(f"{root} holds no run (no run.json)")
        run._load()
        return run

    def _load(self) -> None:
        try:
            self.state = json.loads((self.root / "run.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{self.where}/run.json is damaged: {error}") from None
        if not isinstance(self.state, dict):
            raise RunError(f"{self.where}/run.json is damaged: it holds no mapping")
        if self.state.get("format") != FORMAT:
            raise RunError(
                f"{self.where} has format {self.state.get('format')!r}, this synthray reads {FORMAT}"
            )
        folders = [
            *self.state.get("stages", []),
            *itertools.chain(*self.state.get("table_stages", {}).values()),
        ]
        sound = isinstance(self.state.get("name"), str) and type(self.state.get("seed", 0)) is int
        # A run may come from somebody else: nothing it says may reach outside of its own directory.
        if not sound or not all(isinstance(one, str) and _FOLDER.fullmatch(one) for one in folders):
            raise RunError(f"{self.where}/run.json is damaged: name, seed or stages are not those of a run")

    def save(self, **changes: Any) -> None:
        """Change the run's state and write it."""
        self.state.update(changes)
        replace_file(self.root / "run.json", json.dumps(self.state, indent=1, default=str))
        self._put(self.root / "run.json")

    def commit(self, record: StageRecord) -> None:
        """Write `stage.json`, after all that it lists."""
        if self.remote:
            listed = itertools.chain(record.listed(), *record.added)
            self.remote.put([str(self.root / file) for file in listed])
        record.write(self.root)
        self._put(self.root / "stages" / record.folder / "stage.json")

    def _put(self, path: Path) -> None:
        if self.remote:
            if self._lease:
                self._lease.check()
            self.remote.put(path)

    def keep(self, path: Path) -> None:
        """See that a file or folder of the run's own, written in place of an older one, is on the store."""
        if self.remote and path.is_dir():
            self.remote.replace_folder(path)
        elif path.exists():
            self._put(path)

    def hold(self, files: Iterable[str]) -> None:
        """See that files of the run's own that no stage lists are on the store."""
        if self.remote:
            self.remote.put(list(files))

    def release(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    @property
    def calls(self) -> str:
        """The folder of the kept calls, a path or a URL, which are read and written by `model.store`."""
        return f"{self.where}/calls"

    def kept_calls(self, older_s: float = 0.0) -> Path:
        """Return a folder of this machine with the calls that are kept now, or were `older_s` seconds ago."""
        folder = self.root / "calls"
        if self.remote and time.monotonic() - self._pulled >= older_s:
            folder.mkdir(exist_ok=True)
            Mirror(self.calls, folder).pull()
            self._pulled = time.monotonic()
        return folder

    def has_journals(self) -> bool:
        """Say whether calls stand in journals, and not yet in Parquet."""
        if self.remote:
            return any(name.endswith(".jsonl") for name in self.remote.bucket.names("calls"))
        return any((self.root / "calls").glob("*.jsonl"))

    def stage(self, folder: str) -> StageRecord | None:
        """Return a committed stage."""
        if self.remote:
            self.remote.fetch(self.root / "stages" / folder / "stage.json")
        return StageRecord.read(self.root, folder, self.remote.lacks if self.remote else None)

    def fresh_folder(self, folder: str) -> Path:
        """Return the stage's folder, emptied of what an unfinished attempt left."""
        path = self.root / "stages" / folder
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        if self.remote:
            self.remote.remove(path)
        return path

    def stages(self) -> list[StageRecord]:
        """Return the current stages of the recipe's steps, in order."""
        found = [self.stage(folder) for folder in self.state.get("stages", [])]
        return [record for record in found if record]

    def all_stages(self) -> list[StageRecord]:
        """Return the current stages with those of named tables that are pipelines, which come first."""
        of_tables = [folder for folders in self.state.get("table_stages", {}).values() for folder in folders]
        found = [self.stage(folder) for folder in of_tables]
        return [*(record for record in found if record), *self.stages()]

    def relative(self, files: Iterable[str]) -> list[str]:
        """Return paths as they are listed: those in the run relative to it, so that it may be moved."""
        return [
            str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)
            for path in map(Path, files)
        ]

    def paths(self, files: tuple[str, ...]) -> tuple[str, ...]:
        """Return listed files as absolute paths, which can be read."""
        paths = tuple(str(self.root / file) for file in files)
        if self.remote:
            self.remote.fetch(paths)
        return paths

    def table(self, record: StageRecord) -> Table:
        """Return the rows that a stage kept."""
        return Table(self.paths(record.files), "parquet", tuple(self.paths(group) for group in record.added))

    def named_tables(self) -> dict[str, Table]:
        """Return the recipe's named tables of which the files are still there."""
        held = self.state.get("tables", {})
        tables = {
            name: Table(
                self.paths(tuple(item["files"])),
                item["kind"],
                tuple(self.paths(tuple(one)) for one in item.get("added", ())),
            )
            for name, item in held.items()
        }
        return {
            name: table for name, table in tables.items() if all(Path(file).is_file() for file in table.paths)
        }

    def query(self) -> Query:
        """Return a Query over the views of the run: rows, dataset, rejects, failures, calls, stages ..."""
        stages = self.stages()
        if not stages:
            raise RunError(f"{self.where} has no finished stage yet")
        files: list[str] = []
        relations: dict[str, pa.Table | Table | str] = {**self.named_tables()}
        relations |= self._row_relations(stages, files)
        relations |= self._record_relations(self.all_stages(), files)
        for name in VIEWS:
            relations[name] = shipped(f"views/{name}.sql")
        return Query(relations, seed=self.state.get("seed", 0), files=tuple(files))

    def sql(self, query: str) -> pa.Table:
        """Return the answer to one SELECT over the views of the run."""
        with self.query() as connection:
            return connection.arrow(query)

    # The views as what people work with. Each takes one of these, or a named table of the recipe:
    #   dataset   the rows that were kept, as the last step left them
    #   rows      every row there was; reject_step and reject_reason are null for those that were kept
    #   rejects   the rows that a step rejected, with the columns they had before it
    #   failures  the rows that could not be worked on, with the error
    #   calls     every model call that is kept: prompt, answer, tokens, cost
    #   stages    what was made together: seconds, calls, tokens, cost, rows in and out
    #   steps     the steps of each stage, in order, and what each did with the rows
    #   funnel    the same, in short
    #   reasons   how many rows were left out for each reason
    #   metrics   what was measured: value, interval, n, slice
    #   measured  the same, in the order in which it is read

    def arrow(self, view: str = "dataset") -> pa.Table:
        """Return a view as an Arrow table; InputError names the nearest for an unknown one."""
        with self.query() as query:
            return query.arrow(f"SELECT * FROM {query.relation(view)}")

    def pandas(self, view: str = "dataset") -> pandas.DataFrame:
        """Return a view as a pandas data frame."""
        return self.arrow(view).to_pandas()

    def polars(self, view: str = "dataset") -> polars.DataFrame:
        """Return a view as a polars data frame."""
        try:
            import polars
        except ImportError:
            raise InputError(
                "polars is not installed; pip install 'synthray[polars]', or use arrow() or pandas()"
            ) from None
        frame = polars.from_arrow(self.arrow(view))
        assert isinstance(frame, polars.DataFrame)
        return frame

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """Return DuckDB over all views: `run.duckdb().sql("FROM dataset LIMIT 5").df()`; close it after use.

        It is in memory, and shut in like `sql`: it reads this run's files alone, writes none and has no
        network, so that a frame of yours is seen after `connection.register("mine", frame)`. What a statement
        may say and how long it may take is not bounded, as it is in `sql`.
        """
        return self.query().connection

    def ray(self, view: str = "dataset") -> Dataset:
        """Return a view as a dataset of Ray Data, which is started if need be.

        A dataset that lies in files of one schema on a disk is read by Ray; all else is streamed into Ray's
        object store in blocks, so that no view must fit into this process.
        """
        from synthray import cluster

        with self.query() as query:
            relation = query.relation(view)
            cluster.start()
            import ray
            import ray.data

            last = self.table(self.stages()[-1])
            if view == "dataset" and not self.remote and last.uniform():
                return ray.data.read_parquet(list(last.files))
            return ray.data.from_arrow_refs([ray.put(block) for block in query.blocks(relation)])

    def _row_relations(self, stages: list[StageRecord], files: list[str]) -> dict[str, str]:
        def scan(table: Table) -> str:
            files.extend(table.paths)
            return table.scan()

        def listed(names: tuple[str, ...]) -> str:
            return scan(Table(self.paths(names), "parquet"))

        marks = "CAST(NULL AS VARCHAR) AS reject_step, CAST(NULL AS VARCHAR) AS reject_reason"
        rejected = [f"SELECT *, {marks} FROM dataset LIMIT 0"]
        failed = [
            "SELECT *, NULL::STRUCT(error VARCHAR, message VARCHAR, attempts INTEGER) AS failed, "
            "CAST(NULL AS VARCHAR) AS reject_step FROM dataset LIMIT 0"
        ]
        every = self.all_stages()
        by_folder = {record.folder: record for record in every}
        copied = self.loop_tables()
        of_copies: list[str] = []
        for record in every:
            before = by_folder.get(record.before or "")
            if record.rejects and before:
                (of_copies if record.folder in copied else rejected).append(
                    f"SELECT b.*, r.step AS reject_step, r.reason AS reject_reason "
                    f"FROM {listed(record.rejects)} r JOIN {scan(self.table(before))} b USING (row_id)"
                )
            if record.failures:
                failed.append(f"SELECT * FROM {listed(record.failures)}")
        if of_copies:
            elsewhere = " UNION ALL ".join(f"SELECT row_id FROM ({part})" for part in rejected)
            known = f"(SELECT row_id FROM dataset UNION ALL {elsewhere})"
            rejected += [f"SELECT * FROM ({part}) ANTI JOIN {known} USING (row_id)" for part in of_copies]
        return {
            "dataset": f"SELECT * FROM {scan(self.table(stages[-1]))}",
            "rejected_rows": " UNION ALL BY NAME ".join(f"({part})" for part in rejected),
            "failed_rows": " UNION ALL BY NAME ".join(f"({part})" for part in failed),
        }

    def loop_tables(self) -> set[str]:
        """Return the stages of loops' own tables: what they leave out of the pool is not gone from it."""
        tables = self.state.get("table_stages", {}).items()
        return {folder for name, folders in tables if "@" in name for folder in folders}

    def _record_relations(
        self, stages: list[StageRecord], files: list[str]
    ) -> dict[str, pa.Table | Table | str]:
        import pyarrow as pa

        from synthray.metric import METRICS

        metrics = [file for record in stages for file in self.paths(record.metrics)]
        files.extend(metrics)
        held = [{**asdict(record), **record.totals()} for record in stages]
        columns = ("folder", "fingerprint", "seconds", "calls", "prompt_tokens", "completion_tokens", "cost")
        return {
            "stages": pa.Table.from_pylist(
                [{name: row[name] for name in (*columns, *COUNTS)} for row in held]
            ),
            "steps": pa.Table.from_pylist(
                [
                    {"ordinal": number, "stage": folder, **step}
                    for number, (folder, step) in enumerate(
                        (row["folder"], step) for row in held for step in row["steps"]
                    )
                ]
            ),
            "metrics": Table(tuple(metrics), "parquet").relation() if metrics else METRICS.empty_table(),
            "calls": calls_relation(self.kept_calls(), files),
        }


def _in_use(root: Path) -> RunError:
    return RunError(f"another process is writing {root}; wait until it ends, or choose another --out")


def versions() -> Mapping[str, str]:
    """Return the versions of what decides a result."""
    from importlib.metadata import version

    names = ("synthray", "ray", "pyarrow", "duckdb", "datasketch", "cleanlab", "scikit-learn")
    return {name: version(name) for name in names}
