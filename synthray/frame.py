"""Tables in memory: Arrow, pandas, polars, a Hugging Face or a Ray dataset, as files of a run or as rows.

All go through DuckDB, so that equal values are equal rows wherever they come from.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.errors import InputError
from synthray.lineage import IDENTITY, RESERVED, content, content_ids
from synthray.query import Query
from synthray.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

_TAKEN = "an Arrow table, a pandas or polars data frame, a Hugging Face Dataset or a Ray Dataset"
_ROWS = 10_000


def table(data: Any, name: str) -> Table:
    """Return `data` as the named table `name`: Parquet in a folder that this process leaves behind empty.

    The file is named by its content, so equal data is one file. Values are copied as they are now. A Ray
    dataset is executed, streamed through this process and sorted, since its blocks come in any order.
    """
    part = _folder() / f"{uuid.uuid4().hex}.part"
    part.mkdir()
    try:
        written = part / "rows.parquet"
        given, order = (_blocks(data, part), " ORDER BY ALL") if _is(data, "ray.data") else (_arrow(data), "")
        with Query({"given": given}, writable=part) as query:
            if not query.write(f"SELECT * FROM given{order}", written):
                raise InputError("has no rows")
        with written.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()[:24]
        path = _folder() / f"{digest}.parquet"
        written.replace(path)
    except InputError as error:
        raise InputError(f"table {name!r}: {error}") from None
    finally:
        shutil.rmtree(part)
    return Table((str(path),), "parquet")


def kept(held: Table, folder: Path) -> Table:
    """Return a named table for a run: one that was in memory is copied into `folder`, files stay."""
    paths = [Path(file) for file in held.files]
    if any(path.parent != _folder() for path in paths):
        return held
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for path in paths:
        copy = folder / path.name
        if not copy.is_file():
            part = folder / f".{copy.name}.{uuid.uuid4().hex}.part"
            shutil.copyfile(path, part)
            part.replace(copy)
        copies.append(str(copy))
    return Table(tuple(copies), held.kind)


def identified(data: Any) -> pa.Table:
    """Return `data`, a table in memory, as rows: an Arrow table with `row_id`, `parent_id` and `round`.

    So one operator may be called without a run. The order stays, and ids come from content as in a run over
    the same table; rows that bring a `row_id` keep it. A Ray dataset is given to a Pipeline instead.
    """
    if _is(data, "ray.data"):
        raise InputError(
            "ids of a Ray dataset need all of its rows: give it to Pipeline(tables={...}), and go on with "
            "run.ray(), whose rows have a row_id"
        )
    given = _arrow(data).read_all()
    names = given.column_names
    taken = sorted(set(names) & (RESERVED - set(IDENTITY) if "row_id" in names else RESERVED))
    if taken:
        raise InputError(f"the column {taken[0]!r} is reserved for lineage; rename it")
    with Query({"given": given}) as query:
        if "row_id" in names:
            return query.arrow(content_ids("SELECT * FROM given", names))
        return query.arrow(
            "SELECT md5(_content || '#' || row_number() OVER (PARTITION BY _content ORDER BY _place))[:24] "
            "AS row_id, CAST(NULL AS VARCHAR) AS parent_id, CAST(0 AS INTEGER) AS round, "
            f"* EXCLUDE (_content, _place) FROM (SELECT *, {content(names)} AS _content, "
            "row_number() OVER () AS _place FROM given) ORDER BY _place"
        )


@functools.lru_cache(maxsize=1)
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="synthray-tables-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is(data: Any, package: str) -> bool:
    return f"{type(data).__module__}.".startswith(f"{package}.")


def _arrow(data: Any) -> pa.RecordBatchReader:
    """Return the batches of a table; of a data frame of pandas without an index that has no name."""
    import pyarrow as pa

    if _is(data, "datasets") and type(data).__name__ == "Dataset":
        return _of_hugging_face(data)
    if not hasattr(data, "__arrow_c_stream__"):
        raise InputError(f"must be {_TAKEN}, but is {type(data).__name__}{_cure(data)}")
    try:
        reader = pa.RecordBatchReader.from_stream(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"cannot be a table of Arrow: {'; '.join(map(str, error.args))}") from None
    names = reader.schema.names
    twice = sorted({name for name in names if [one.lower() for one in names].count(name.lower()) > 1})
    if twice:
        raise InputError(f"columns have one name, or differ in case alone: {', '.join(twice)}; rename them")
    if not names:
        raise InputError("has no columns")
    nameless = [name for name in names if name.startswith("__index_level_")]
    return reader if not nameless else reader.read_all().drop_columns(nameless).to_reader()


def _of_hugging_face(data: Any) -> pa.RecordBatchReader:
    """Return the batches of a Hugging Face dataset; class labels are their names, and not numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = data.features.arrow_schema.remove_metadata()
    named = {name: kind.names for name, kind in data.features.items() if type(kind).__name__ == "ClassLabel"}
    for name in named:
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.string()))

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in data.with_format("arrow").iter(batch_size=_ROWS):
            for name, names in named.items():
                # Hugging Face writes -1 for a row without a label.
                places = pc.if_else(pc.less(rows[name], 0), None, rows[name]).combine_chunks()
                held = pa.array(names, pa.string()).take(places)
                rows = rows.set_column(rows.schema.get_field_index(name), name, held)
            yield from rows.cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _blocks(data: Any, folder: Path) -> Table:
    """Write the blocks of a Ray dataset into `folder`, one at a time: no two need have the same types."""
    import pyarrow.parquet as pq

    from synthray import cluster

    cluster.start()
    files = []
    for number, block in enumerate(data.iter_batches(batch_size=None, batch_format="pyarrow")):
        files.append(str(folder / f"block-{number}.parquet"))
        pq.write_table(block, files[-1], compression="zstd")
    if not files:
        raise InputError("has no rows")
    return Table(tuple(files), "parquet")


def _cure(data: Any) -> str:
    """Return how to make one of those of it, where that is one step."""
    if _is(data, "datasets") and isinstance(data, dict):
        return f"; take one of its splits: {', '.join(sorted(map(str, data)))}"
    if hasattr(data, "collect"):
        return "; collect() it"
    if isinstance(data, list):
        return "; make it one: pyarrow.Table.from_pylist(rows)"
    return ""
