"""Mark rows whose vector is nearly that of a row that is kept."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Gt, Le

from synthray import cluster, vectors
from synthray.curate.cluster import Learning, given
from synthray.errors import InputError, QueryError
from synthray.operator import Operator
from synthray.query import Query
from synthray.vectors import Vectors

if TYPE_CHECKING:
    from synthray.stage import Stage

_A_CLUSTER = 1_000
_GIVEN = pa.schema({"row_id": pa.string(), "cluster": pa.int32(), "cluster_similarity": pa.float64()})


@dataclass(frozen=True)
class SemanticDuplicate(Operator):
    """Add `semantic_duplicate_of` (null: keep), `..._similarity` and `..._cluster`.

    SemDeDup (Abbas et al. 2023, arXiv 2303.09540): k-means cuts the rows into `clusters` (default: one for
    each 1,000 rows; learned as by curate.cluster), and within each all rows are compared by the cosine of
    their vectors. Rows are taken in the order of `prefer` (SQL, such as "score DESC"), then row_id: one is
    kept unless a kept row is at or above `threshold`, so that `semantic_duplicate_of` always names a kept
    row, the nearest before it. `centroid_similarity` may stand in `prefer`, the cosine to the cluster's
    centroid: ascending it is the paper's order. `semantic_duplicate_cluster` is what such pairs connect, by
    its lowest row_id, null for rows in none. A pair that k-means cuts apart is missed; `clusters: 1` misses
    none and takes the square of the rows. The cosines of hashed vectors are lower than those of a model's, so
    that 0.9 suits them better. Rows without a vector, or with one of zeros, are never duplicates.
    """

    threshold: Annotated[float, Gt(0), Le(1)] = 0.95
    embedding: str = "embedding"
    clusters: Annotated[int, Ge(1), Le(100_000)] | None = None
    prefer: str = ""
    sample: Annotated[int, Ge(1), Le(10_000_000)] = 20_000

    @property
    def reads(self) -> tuple[str, ...]:
        """The vectors."""
        return (self.embedding,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return {
            "semantic_duplicate_of": pa.string(),
            "semantic_duplicate_similarity": pa.float64(),
            "semantic_duplicate_cluster": pa.string(),
        }

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what it stands on."""
        return (*vectors.SOURCES, Path(__file__).with_name("cluster.py"))

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the column holds no vectors, or `prefer` is no order."""
        vectors.check_column(before, self.embedding)
        if self.clusters is not None and self.clusters > self.sample:
            raise InputError(
                f"clusters is {self.clusters}, more than the sample of {self.sample} rows; raise sample"
            )
        with Query({"rows": before.empty_table(), "given": _GIVEN.empty_table()}) as query:
            try:
                self._ordered(query)
            except QueryError as error:
                raise InputError(f"prefer: {error}") from None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        held = Vectors.of(table, self.embedding, self.step)
        cells = given(held, self._learning(len(table)).learned(table), self.step)
        with Query({"rows": table, "given": cells}, seed=self.context.seed) as query:
            ordered = self._ordered(query)
        return self.attach(table, self.marks(held, ordered))

    def apply(self, stage: Stage) -> None:
        """Learn in a task, cut in a map pass, order by SQL, and compare shares of the clusters in tasks."""
        learning = self._learning(int(stage.query.value("SELECT count(*) FROM rows")))

        def keep(folder: Path) -> None:
            cut = functools.partial(self._cut, centroids=stage.tasks(learning.learned, [(stage.input,)])[0])
            stage.narrow(stage.dataset(["row_id", self.embedding]), cut, folder, "arrow")

        folder = stage.kept("cells", vars(learning), keep)
        cells = pa.concat_tables(
            [_GIVEN.empty_table(), *(one.select(_GIVEN.names) for one in _tables(folder))]
        )
        with stage.over({"rows": stage.input, "given": cells}) as query:
            ordered = self._ordered(query)
        workers = cluster.cores()
        share = np.asarray(ordered["cluster"]) % workers
        shares = [ordered.filter(pa.array(share == worker)) for worker in range(workers)]
        found = stage.tasks(_compare, [(self, folder, one) for one in shares if len(one)])
        kinds = pa.schema({"row_id": pa.string(), **self.adds()})
        stage.added(pa.concat_tables([kinds.empty_table(), *found]))

    def marks(self, held: Vectors, ordered: pa.Table) -> pa.Table:
        """Return row_id and the marks; `ordered` holds row_id and cluster in the order of preference."""
        names = ordered["row_id"].combine_chunks()
        unit = held.unit[np.asarray(pc.index_in(names, held.ids))]
        rank = np.argsort(np.asarray(pc.sort_indices(names)))
        of, similarity = np.full(len(names), -1), np.full(len(names), np.nan)
        group = np.full(len(names), -1)
        cluster = np.asarray(ordered["cluster"])
        by_cluster = np.argsort(cluster, kind="stable")
        for rows in np.split(by_cluster, np.flatnonzero(np.diff(cluster[by_cluster])) + 1):
            choice = vectors.chosen(unit[rows], self.threshold)
            gone = choice.of >= 0
            of[rows[gone]], similarity[rows] = rows[choice.of[gone]], choice.similarity
            order = np.lexsort((rank[rows], choice.group))
            _, first, inverse, size = np.unique(
                choice.group[order], return_index=True, return_inverse=True, return_counts=True
            )
            lowest = rows[order[first]]
            group[rows[order]] = np.where(size > 1, lowest, -1)[inverse]
        return pa.table(
            {
                "row_id": names,
                "semantic_duplicate_of": names.take(pa.array(of, mask=of < 0)),
                "semantic_duplicate_similarity": pa.array(similarity, mask=of < 0),
                "semantic_duplicate_cluster": names.take(pa.array(group, mask=group < 0)),
            }
        )

    def _learning(self, rows: int) -> Learning:
        clusters = self.clusters or max(1, min(self.sample, -(-rows // _A_CLUSTER)))
        return Learning(self.embedding, self.sample, clusters, self.context.seed, self.step)

    def _cut(self, table: pa.Table, centroids: vectors.Numbers) -> pa.Table:
        """Return row_id, vector, cluster and similarity of the rows that have a vector."""
        held = Vectors.of(table, self.embedding, self.step)
        cells = given(held, centroids, self.step)
        return (
            held.table()
            .append_column("cluster", cells["cluster"])
            .append_column("cluster_similarity", cells["cluster_similarity"])
        )

    def _ordered(self, query: Query) -> pa.Table:
        """Return row_id and cluster of `given` in the order of preference among `rows`."""
        query.view(
            "preferred",
            "SELECT rows.*, given.cluster_similarity AS centroid_similarity "
            "FROM rows JOIN given ON rows.row_id = given.row_id",
        )
        place = query.ordering(self.prefer, "preferred")
        return query.arrow(
            f"SELECT row_id, given.cluster FROM (SELECT row_id, {place} AS place FROM preferred) "
            "JOIN given USING (row_id) ORDER BY place"
        )


def _tables(folder: Path) -> list[pa.Table]:
    import pyarrow.feather

    return [pyarrow.feather.read_table(path) for path in sorted(folder.iterdir())]


def _compare(operator: SemanticDuplicate, folder: Path, ordered: pa.Table) -> pa.Table:
    """Return the marks of a share of the clusters."""
    names = ordered["row_id"].combine_chunks()
    tables = [table.filter(pc.is_in(table["row_id"], names)) for table in _tables(folder)]
    return operator.marks(Vectors.read(tables, operator.step), ordered)
