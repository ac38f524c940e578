"""Gather rows into clusters of like vectors by k-means, and mark each cluster's medoid."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le

from synthray import vectors
from synthray.errors import InputError
from synthray.operator import Operator
from synthray.query import Query
from synthray.spelling import identifier
from synthray.vectors import Vectors

if TYPE_CHECKING:
    from synthray.stage import Stage


@dataclass(frozen=True)
class Cluster(Operator):
    """Add `cluster` (0 for the largest), `cluster_similarity` and `cluster_medoid`, by k-means over cosines.

    Spherical k-means with greedy k-means++ learns `clusters` centroids from at most `sample` rows, those with
    the lowest hash of their row_id; then each row is given to the nearest centroid. `cluster_similarity` is
    the cosine to it, and `cluster_medoid` marks the row that is nearest to it (ties: the lowest row_id), a
    row that stands for its cluster. Where there are fewer different vectors than `clusters` there are fewer
    clusters. Rows without a vector, or with one of zeros, have nulls.
    """

    clusters: Annotated[int, Ge(1), Le(100_000)]
    embedding: str = "embedding"
    sample: Annotated[int, Ge(1), Le(10_000_000)] = 20_000

    @property
    def reads(self) -> tuple[str, ...]:
        """The vectors."""
        return (self.embedding,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return {"cluster": pa.int32(), "cluster_similarity": pa.float64(), "cluster_medoid": pa.bool_()}

    def files(self) -> tuple[Path, ...]:
        """Return the source of k-means."""
        return vectors.SOURCES

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the column holds no vectors, or the sample is smaller than `clusters`."""
        vectors.check_column(before, self.embedding)
        if self.clusters > self.sample:
            raise InputError(
                f"clusters is {self.clusters}, more than the sample of {self.sample} rows; raise sample"
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        given = self._given(table, self._learning().learned(table))
        return self.attach(table, self._marks({"given": given}))

    def apply(self, stage: Stage) -> None:
        """Learn in a task, give each row to its cluster in a map pass, and find the medoids by SQL."""
        centroids = stage.tasks(self._learning().learned, [(stage.input,)])[0]
        give = functools.partial(self._given, centroids=centroids)
        given = stage.narrow(stage.dataset(["row_id", self.embedding]), give, stage.path / "given")
        stage.added(self._marks({"given": given}))

    def _learning(self) -> Learning:
        return Learning(self.embedding, self.sample, self.clusters, self.context.seed, self.step)

    def _given(self, table: pa.Table, centroids: vectors.Numbers) -> pa.Table:
        """Return row_id, cluster and similarity of the rows that have a vector."""
        return given(Vectors.of(table, self.embedding, self.step), centroids, self.step)

    def _marks(self, relations: Mapping[str, Any]) -> pa.Table:
        with Query(relations) as query:
            return query.arrow(
                "SELECT row_id, cluster, cluster_similarity, row_number() OVER "
                "(PARTITION BY cluster ORDER BY cluster_similarity DESC, row_id) = 1 AS cluster_medoid "
                "FROM given"
            )


def given(held: Vectors, centroids: vectors.Numbers, who: str) -> pa.Table:
    """Return row_id, cluster and cluster_similarity of rows."""
    label, similarity = np.zeros(0, np.int32), np.zeros(0)
    if len(held):
        vectors.check_size(held, centroids.shape[1], who)
        label, similarity = vectors.assigned(held.unit, centroids)
    marks = {"cluster": pa.array(label.astype(np.int32)), "cluster_similarity": pa.array(similarity)}
    return pa.table({"row_id": held.ids, **marks})


@dataclass(frozen=True)
class Learning:
    """How centroids are learned: from the vectors in `column` of `sample` rows."""

    column: str
    sample: int
    clusters: int
    seed: int
    who: str

    def learned(self, rows: Any) -> vectors.Numbers:
        """Return the centroids of a table's rows; fit for a task."""
        column = identifier(self.column)
        with Query({"rows": rows}, seed=self.seed) as query:
            sample = query.arrow(
                f"SELECT row_id, {column} FROM rows WHERE {column} IS NOT NULL "
                f"ORDER BY chance(row_id, 'cluster'), row_id LIMIT {self.sample}"
            )
        return vectors.kmeans(Vectors.of(sample, self.column, self.who).unit, self.clusters, self.seed)
