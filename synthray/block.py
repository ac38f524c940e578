"""What happens to a block of rows in a worker: the operator runs, is checked, and its rows are written."""

from __future__ import annotations

import json
import threading
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray import cluster, errors
from synthray.errors import ModelError, RunFailed, SynthrayError
from synthray.lineage import FAILED, IDENTITY, digest
from synthray.operator import path_of

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.operator import Operator
    from synthray.remote import Remote


@dataclass(frozen=True)
class Read:
    """Read row groups of Parquet files of a run on an object store, fetched where they are wanted.

    Arrow's own way to a store asks once, and takes a request that fails for a file that is not there.
    """

    schema: pa.Schema
    remote: Remote

    def __call__(self, pieces: pa.Table) -> pa.Table:
        """Return the rows of the groups that `pieces` names, in the columns of the schema."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.remote.fetch(pieces["file"].to_pylist())
        found = [self.schema.empty_table()]
        for piece in pieces.to_pylist():
            with pq.ParquetFile(piece["file"]) as file:
                held = [name for name in self.schema.names if name in file.schema_arrow.names]
                rows = file.read_row_group(piece["group"], columns=held)
            lacking = {one.name: pa.nulls(len(rows), one.type) for one in self.schema if one.name not in held}
            columns = {name: rows[name] for name in held} | lacking
            found.append(pa.table({name: columns[name] for name in self.schema.names}).cast(self.schema))
        return pa.concat_tables(found)


_TOGETHER, _TOGETHER_ASKED = 2, 3
"""So often a block is tried as it is; what asks a model works on many at once, of which one may kill."""
_DEATHS = 2
_MOST_DEATHS = 3
_ALONE = threading.Lock()


class Write:
    """Write a block to a file of its own and hand on its name.

    `kind` is 'parquet', or 'arrow' for what is read by place: memory is mapped, and nothing is decoded.
    """

    def __init__(self, folder: Path, kind: str = "parquet", remote: Remote | None = None) -> None:
        self._folder = folder
        self._kind = kind
        self._remote = remote

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return a line with the file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._folder.mkdir(parents=True, exist_ok=True)  # on this machine there may be none yet
        path = self._folder / f"part-{uuid.uuid4().hex}.{self._kind}"
        if self._kind == "arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        else:
            pq.write_table(table, path, compression="zstd")
        if self._remote:
            self._remote.put(path)
        return pa.table({"file": [str(path)]})


class Sink:
    """Write the fine and the failed rows of a block; a retried task leaves files that nobody lists."""

    def __init__(self, folder: Path, schema: pa.Schema, remote: Remote | None = None) -> None:
        self._folder = folder
        self._schema = schema
        self._remote = remote

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return a line with the files and how many rows are in them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        failed = table.slice(0, 0)
        if "failed" in table.column_names:
            fine = pc.is_null(table["failed"])
            table, failed = table.filter(fine), table.filter(pc.invert(fine))
        line = {
            "file": self._write("rows", table, self._schema),
            "failed_file": self._write("failures", failed, failed.schema),
            "rows": len(table),
            "failed": len(failed),
        }
        schema = pa.schema(
            [
                ("file", pa.string()),
                ("failed_file", pa.string()),
                ("rows", pa.int64()),
                ("failed", pa.int64()),
            ]
        )
        return pa.Table.from_pylist([line], schema=schema)

    def _write(self, name: str, table: pa.Table, schema: pa.Schema) -> str | None:
        import pyarrow.parquet as pq

        if not len(table):
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}-{uuid.uuid4().hex}.parquet"
        pq.write_table(table.select(schema.names).cast(schema), path, compression="zstd")
        if self._remote:
            self._remote.put(path)
        return str(path)


def checked(operator: Operator, table: pa.Table) -> pa.Table:
    """Run an operator on a block and see that it did what it declares."""
    import pyarrow as pa

    expected = operator.schema(table.schema)
    if not len(table):
        return expected.empty_table()
    out = operator(table)
    missing = [name for name in expected.names if name not in out.column_names]
    if missing:
        raise RunFailed(f"{operator.step}: {path_of(operator)} did not add {', '.join(missing)}")
    out = out.select([*expected.names, *(["failed"] if "failed" in out.column_names else [])])
    for name in ("row_id", "parent_id", "round"):
        kind = IDENTITY[name]
        out = out.set_column(out.schema.get_field_index(name), pa.field(name, kind), out[name].cast(kind))
    if "failed" in out.column_names:
        steps = pa.array([operator.origin] * len(out), pa.string())
        out = out.set_column(
            out.schema.get_field_index("failed"), pa.field("failed", FAILED), out["failed"].cast(FAILED)
        )
        out = out.append_column("reject_step", steps)
    return out


@dataclass(frozen=True)
class Worked:
    """Run an operator on a block of rows, and on each row alone after workers died of the block.

    One death is no reason: a machine may have gone. A row of which a worker died twice while it worked on
    nothing else is a failed row: Ray alone would try its block for ever. `folder` keeps on this machine which
    rows were begun.
    """

    operator: Operator
    folder: Path

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the rows with what the operator made of them."""
        import pyarrow as pa

        together = _TOGETHER_ASKED if self.operator.uses_model else _TOGETHER
        if cluster.attempt() < together or not len(table):
            return checked(self.operator, table)
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [self._alone(table.slice(at, 1)) for at in range(len(table))]
        return pa.concat_tables(rows, promote_options="default")

    def _alone(self, row: pa.Table) -> pa.Table:
        begun = self.folder / f"begun-{digest(self.operator.origin, row['row_id'][0].as_py())}"
        with _ALONE:  # of the threads of a process that asks a model one alone may be to blame
            if begun.exists() and begun.stat().st_size >= _DEATHS:
                return self._failed(row)
            with begun.open("ab") as file:
                file.write(b".")
            made = checked(self.operator, row)
            begun.unlink()
        return made

    def _failed(self, row: pa.Table) -> pa.Table:
        import pyarrow as pa

        held = row.to_pylist()[0]
        error = {
            "error": "WorkerDied",
            "message": f"the process died each of {_DEATHS} times that it worked on this row alone",
            "attempts": _DEATHS,
        }
        expected = self.operator.schema(row.schema)
        line = {name: held.get(name) for name in expected.names}
        schema = pa.schema([*expected, ("failed", FAILED), ("reject_step", pa.string())])
        return pa.Table.from_pylist(
            [{**line, "failed": error, "reject_step": self.operator.origin}], schema=schema
        )


@dataclass(frozen=True)
class Guarded:
    """Run a function on a block; leave its error where the driver finds it, since Ray tells only its text."""

    function: Callable[[pa.Table], pa.Table]
    folder: Path
    remote: Remote | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Run it on a block."""
        try:
            if self.remote:
                self.remote.fetch(self.function)
            died = cluster.attempt()
            if died > _MOST_DEATHS and not isinstance(self.function, Worked):
                raise RunFailed(
                    f"{died} workers died of a block of {len(table)} rows; they may need more memory than "
                    "there is: see Ray's logs, give the machine more, or run fewer at once"
                )
            return self.function(table)
        except Exception as error:
            _leave(error, self.folder, self.remote)
            raise


def guarded_task(folder: Path, remote: Remote | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a task of its own; leave its error as Guarded does.

    Of a run on an object store the files that its arguments and its answer name are fetched and put.
    """
    try:
        if remote is None:
            return function(*arguments)
        remote.fetch(arguments)
        answer = function(*arguments)
        remote.put_made(arguments, answer)
        return answer
    except Exception as error:
        _leave(error, folder, remote)
        raise


def _leave(error: Exception, folder: Path, remote: Remote | None) -> None:
    import ray.exceptions

    if isinstance(error, ray.exceptions.RayError):
        return  # another task failed, of which this one wanted something; that one left its error
    if not isinstance(error, SynthrayError):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}, line {frame.lineno}"
        error = RunFailed(f"{type(error).__name__}: {error} ({where})")
    left: dict[str, Any] = {"class": type(error).__name__, "message": str(error)}
    if isinstance(error, ModelError):
        left |= {"kind": error.kind, "fatal": error.fatal, "attempts": error.attempts}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"error-{uuid.uuid4().hex}.json"
    path.write_text(json.dumps(left), encoding="utf-8")
    if remote:
        remote.put(path)


def cause(error: BaseException, folder: Path, step: str, remote: Remote | None = None) -> SynthrayError:
    """Return the error that a worker left, else what Ray says."""
    if remote:
        remote.fetch_errors(folder)
    for path in sorted(folder.glob("error-*.json")):
        left = json.loads(path.read_text(encoding="utf-8"))
        message = left["message"]
        if left["class"] == ModelError.__name__:
            return ModelError(message, left["kind"], fatal=left["fatal"], attempts=left["attempts"])
        kind: type[SynthrayError] = getattr(errors, left["class"], RunFailed)
        return kind(message if message.startswith(step) else f"{step}: {message}")
    lines = str(error).strip().splitlines()
    return RunFailed(f"{step}: {lines[-1] if lines else type(error).__name__}")
