"""Name for each row the rows whose vectors are most like its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le

from synthray import cluster, vectors
from synthray.errors import InputError, near
from synthray.operator import Operator
from synthray.query import Query
from synthray.spelling import identifier
from synthray.vectors import Cells, Vectors
from synthray.vectors import Neighbours as Index

if TYPE_CHECKING:
    from synthray.stage import Stage


@dataclass(frozen=True)
class Neighbours(Operator):
    """Add `neighbours`, the row_ids of the `k` most similar rows, and `neighbour_similarities`, the cosines.

    The most similar stands first, ties by row_id; cosines are rounded to 6 decimals, and those below
    `threshold` are left out, so that a list may be shorter or empty. Without `against` rows are compared with
    each other and none with itself; else with the named table, of whose column `id` the names are. Up to
    100,000 different vectors each is compared with each. More are cut into k-means cells, about twice the
    square root of their number, and each row looks into the nearest `probes` of them, which finds about 96 of
    100 (benchmarks/vectors.py); `probes: 0` compares each with each always. All vectors that are compared
    with must fit into the memory of a worker. Rows without a vector, or with one of zeros, have nulls and are
    no neighbours.
    """

    k: Annotated[int, Ge(1), Le(10_000)] = 10
    embedding: str = "embedding"
    against: str | None = None
    id: str = "row_id"
    threshold: Annotated[float, Ge(-1), Le(1)] = -1.0
    probes: Annotated[int, Ge(0), Le(100_000)] = 64

    @property
    def reads(self) -> tuple[str, ...]:
        """The vectors."""
        return (self.embedding,)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The table that is compared with."""
        return () if self.against is None else (self.against,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the names and the similarities."""
        return {"neighbours": pa.list_(pa.string()), "neighbour_similarities": pa.list_(pa.float64())}

    def files(self) -> tuple[Path, ...]:
        """Return the source of the search."""
        return vectors.SOURCES

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when a column holds no vectors, or the named table lacks one."""
        vectors.check_column(before, self.embedding)
        if self.against is None:
            if self.id != "row_id":
                raise InputError(f"id ({self.id!r}) is a column of the table that against names; name one")
            return
        schema = self.context.schemas[self.against]
        for name in (self.id, self.embedding):
            if name not in schema.names:
                raise InputError(
                    f"the table {self.against!r} has no column {name!r}{near(name, schema.names)}"
                )
        vectors.check_column(schema, self.embedding, f"the table {self.against!r}: column")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Name the neighbours of the rows of a whole table."""
        held = self.held(table)
        index = Index(held if self.against is None else self._others())
        marks = self.named(held, index, self.cells(index))
        return self.attach(table, marks)

    def apply(self, stage: Stage) -> None:
        """Read the vectors in a map pass, cut cells in a task, and search shares of the rows in tasks."""

        def keep(folder: Path) -> None:
            stage.narrow(stage.dataset(["row_id", self.embedding]), self.narrowed, folder, "arrow")

        folder = stage.kept("vectors", [self.embedding], keep)
        cells = stage.tasks(_cut, [(self, folder)])[0]
        workers = cluster.cores()
        found = stage.tasks(_search, [(self, folder, cells, worker, workers) for worker in range(workers)])
        stage.added(pa.concat_tables(found))

    def held(self, table: pa.Table) -> Vectors:
        """Return the vectors of rows."""
        return Vectors.of(table, self.embedding, self.step)

    def narrowed(self, table: pa.Table) -> pa.Table:
        """Return row_id and the vector of length 1."""
        return self.held(table).table()

    def cells(self, index: Index) -> Cells | None:
        """Return the cells of an index that is too large to compare each with each."""
        large = self.probes and len(index.distinct) > vectors.EXACT
        return index.cells(self.context.seed) if large else None

    def named(self, held: Vectors, index: Index, cells: Cells | None) -> pa.Table:
        """Return row_id and the marks of rows."""
        if len(held) and len(index.vectors):
            vectors.check_size(held, index.vectors.unit.shape[1], self.step)
        query, place, similarity = index.of(
            held, self.k, own=self.against is None, cells=cells, probes=self.probes
        )
        able = similarity >= self.threshold
        query, place, similarity = query[able], place[able], similarity[able]
        ends = pa.array(np.searchsorted(query, np.arange(len(held) + 1)).astype(np.int32))
        names = index.vectors.ids.take(pa.array(place))
        return pa.table(
            {
                "row_id": held.ids,
                "neighbours": pa.ListArray.from_arrays(ends, names),
                "neighbour_similarities": pa.ListArray.from_arrays(ends, pa.array(similarity)),
            }
        )

    def _others(self) -> Vectors:
        """Return the vectors of the named table."""
        assert self.against is not None
        name, vector = identifier(self.id), identifier(self.embedding)
        with Query({self.against: self.context.tables[self.against]}) as query:
            rows = query.arrow(
                f"SELECT CAST({name} AS VARCHAR) AS row_id, {vector} FROM {identifier(self.against)} "
                f"WHERE {name} IS NOT NULL AND {vector} IS NOT NULL"
            )
        return Vectors.of(rows, self.embedding, f"{self.step}: table {self.against!r}")

    def index(self, folder: Path) -> Index:
        """Return what is searched."""
        return Index(_read(folder, self.step) if self.against is None else self._others())


def _read(folder: Path, who: str) -> Vectors:
    import pyarrow.feather

    return Vectors.read([pyarrow.feather.read_table(path) for path in sorted(folder.iterdir())], who)


def _cut(operator: Neighbours, folder: Path) -> Cells | None:
    return operator.cells(operator.index(folder))


def _search(operator: Neighbours, folder: Path, cells: Cells | None, worker: int, workers: int) -> pa.Table:
    held, index = _read(folder, operator.step), operator.index(folder)
    own = np.arange(worker, len(held), workers)
    return operator.named(Vectors(held.ids.take(pa.array(own)), held.unit[own]), index, cells)
