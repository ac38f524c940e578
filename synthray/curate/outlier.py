"""Mark rows that are far from all others, and rows of a class that is too rare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Gt, Le

from synthray import cluster, issue, vectors
from synthray.errors import InputError
from synthray.issue import Issues, Judged
from synthray.label import confident
from synthray.metric import measurements
from synthray.operator import Operator
from synthray.query import Query
from synthray.spelling import identifier, quoted
from synthray.table import Table
from synthray.vectors import Cells, Vectors
from synthray.vectors import Neighbours as Index

if TYPE_CHECKING:
    from synthray.label.confident import Numbers, Sums
    from synthray.stage import Stage

_BY_DISTANCE, _BY_PROBABILITY = 0.37037, 0.13
"""Datalab's thresholds."""

_LEAST_SCALE = 1e-6


@dataclass(frozen=True)
class Outlier(Operator):
    """Add `outlier` and `outlier_score` (0 to 1, the lower the further out), as Datalab finds them.

    By vectors in `embedding`: a row's distance is the mean cosine distance to its `k` nearest others, the
    score exp(-distance / the median distance), and an outlier is further than Q3 + (1 / `threshold` - 1) IQR
    of all distances (0.37037 unless set). Cosines are rounded to 6 decimals; of more than 100,000 different
    vectors the nearest are looked for in `probes` cells, as curate.neighbours does it.

    Or by class `probabilities` with `label` (`classes` as in curate.label_issue): the score is 1 - the
    normalised entropy of the probabilities, adjusted by each class's mean, and an outlier is below
    `threshold` (0.13 unless set) of the median score (Kuan and Mueller 2022).

    With `label` adds `rare_class`: the row is of the rarest of K classes, and that has less than `imbalance`
    / K of the rows. Rows without what is judged keep nulls. Measures the `rate` of outliers, the `cut`
    (distance or score) that makes one, and the `share` of each class.
    """

    embedding: str = "embedding"
    probabilities: str | None = None
    label: str | None = None
    classes: Sequence[str] | Literal["task.labels"] = ()
    k: Annotated[int, Ge(1), Le(10_000)] = 10
    threshold: Annotated[float, Gt(0)] | None = None
    imbalance: Annotated[float, Ge(0), Le(1)] = 0.1
    probes: Annotated[int, Ge(0), Le(100_000)] = 64

    @property
    def reads(self) -> tuple[str, ...]:
        """What is judged, and the label."""
        return (self.probabilities or self.embedding, *([self.label] if self.label else []))

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        rare = {"rare_class": pa.bool_()} if self.label else {}
        return {"outlier": pa.bool_(), "outlier_score": pa.float64(), **rare}

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        return ("rate", "cut")

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what judges."""
        return issue.SOURCES if self.probabilities else vectors.SOURCES

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when columns or settings cannot be what they must be."""
        if self.label:
            self.require_text(before, self.label)
        if self.probabilities:
            if not self.label:
                raise InputError("probabilities are adjusted by each class's mean: name the column label")
            self._issues.check(before)
            return
        if self.classes:
            raise InputError("classes is the order of probabilities, but there is no setting probabilities")
        if self.threshold is not None and self.threshold > 1:
            raise InputError(f"threshold must be at most 1 for vectors, but is {self.threshold:g}")
        vectors.check_column(before, self.embedding)

    @property
    def _issues(self) -> Issues:
        assert self.probabilities is not None
        assert self.label is not None
        return Issues.of(self)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        with Query({"rows": table.select([self.label or "row_id"])}) as query:
            found = self._of_probabilities(table, query) if self.probabilities else self._of_vectors(table)
            shares = self._shares(query)
        marks = self.marks(found, Cut.of(self, np.asarray(found["value"])))
        at = pc.index_in(table["row_id"], marks["row_id"].combine_chunks())
        columns = {name: marks[name].take(at) for name in ("outlier", "outlier_score")}
        if self.label:
            rare = self.rare(shares)
            columns["rare_class"] = pc.and_(pc.equal(table[self.label], rare or ""), rare is not None)
        return self.add(table, columns)

    def _of_vectors(self, table: pa.Table) -> pa.Table:
        held = Vectors.of(table, self.embedding, self.step)
        index = Index(held)
        return self.distances(held, index, self.cells(index))

    def _of_probabilities(self, table: pa.Table, query: Query) -> pa.Table:
        bound = self._issues.bound(query)
        held = [bound.read(batch) for batch in table.to_batches(max_chunksize=bound.rows_at_once)]
        sums = bound.sums(lambda function, *given: [function(bound, held, *given)])
        return pa.concat_tables(certainty(judged, sums) for judged in held)

    def apply(self, stage: Stage) -> None:
        """Find distances or certainties in tasks, cut where all of them say, and mark in tasks."""
        folder = stage.path / "values"
        folder.mkdir()
        found = self._certain(stage, folder) if self.probabilities else self._distant(stage, folder)
        cut = stage.tasks(_cut, [(self, found)])[0]
        marked = stage.tasks(_mark, [(self, cut, file) for file in found]) if cut.rows else []
        shares = self._shares(stage.query)
        stage.added(self._joined(stage, tuple(marked), self.rare(shares)))
        stage.measured(self.measurements(cut, shares))

    def _distant(self, stage: Stage, folder: Path) -> list[str]:
        def keep(kept: Path) -> None:
            stage.narrow(stage.dataset(["row_id", self.embedding]), self.narrowed, kept, "arrow")

        held = stage.kept("vectors", [self.embedding], keep)
        cells = stage.tasks(_cells, [(self, held)])[0]
        workers = cluster.cores()
        return stage.tasks(_distances, [(self, held, cells, at, workers, folder) for at in range(workers)])

    def _certain(self, stage: Stage, folder: Path) -> list[str]:
        bound, parts = self._issues.shared(stage)
        sums = bound.sums(bound.each(stage, parts))
        return bound.each(stage, parts)(_certainties, sums, folder)

    def _joined(self, stage: Stage, marked: tuple[str, ...], rare: str | None) -> pa.Table | list[str]:
        """Return the marks, with those by the label beside them if there is one."""
        names = {name: self.final(name) for name in self.adds()}
        nothing = pa.table(
            {name: pa.array([], kind) for name, kind in {"row_id": pa.string(), **self.adds()}.items()}
        )
        if not self.label:
            return list(marked) or nothing
        path = stage.path / f"{self.final('rare_class')}.parquet"
        label = identifier(self.label)
        is_rare = (
            f"{label} = {quoted(rare)}"
            if rare is not None
            else f"CASE WHEN {label} IS NOT NULL THEN false END"
        )
        found = Table(marked, "parquet") if marked else nothing.rename_columns(["row_id", *names.values()])
        listed = ", ".join(identifier(names[name]) for name in ("outlier", "outlier_score"))
        with stage.over({"rows": stage.input, "found": found}, stage.path) as query:
            query.write(
                f"SELECT row_id, {listed}, {is_rare} AS {identifier(names['rare_class'])} FROM "
                f"(SELECT row_id, {label} FROM rows) LEFT JOIN found USING (row_id)",
                path,
            )
        return [str(path)]

    # Distances.

    def narrowed(self, table: pa.Table) -> pa.Table:
        """Return row_id and the vector of length 1."""
        return Vectors.of(table, self.embedding, self.step).table()

    def cells(self, index: Index) -> Cells | None:
        """Return the cells of an index that is too large to compare each with each."""
        large = self.probes and len(index.distinct) > vectors.EXACT
        return index.cells(self.context.seed) if large else None

    def distances(self, held: Vectors, index: Index, cells: Cells | None) -> pa.Table:
        """Return row_id and the mean distance to the nearest others, of rows that have others."""
        query, _, cosine = index.of(held, self.k, own=True, cells=cells, probes=self.probes)
        near = np.bincount(query, minlength=len(held))
        total = np.bincount(query, 1 - cosine, len(held))
        some = near > 0
        return _valued(held.ids.filter(pa.array(some)), total[some] / near[some])

    # Marks.

    def marks(self, found: pa.Table, cut: Cut) -> pa.Table:
        """Return row_id, `outlier` and `outlier_score`."""
        value = np.asarray(found["value"])
        far = value < cut.end if self.probabilities else value > cut.end
        score = value if self.probabilities else np.exp(-value / max(cut.scale, _LEAST_SCALE))
        return pa.table(
            {"row_id": found["row_id"], "outlier": pa.array(far), "outlier_score": pa.array(score)}
        )

    def rare(self, shares: Mapping[str, float]) -> str | None:
        """Return the rarest class, the first of several, where it is too rare."""
        rarest = min(shares, key=lambda name: (shares[name], name), default=None)
        return rarest if rarest is not None and shares[rarest] < self.imbalance / len(shares) else None

    def measurements(self, cut: Cut, shares: Mapping[str, float]) -> pa.Table:
        """Return the rate of outliers, where they begin, and the share of each class."""
        found: list[dict[str, Any]] = []
        if cut.rows:
            found += [
                {"metric": "rate", "value": cut.outliers / cut.rows, "n": cut.rows},
                {"metric": "cut", "value": cut.end, "n": cut.rows},
            ]
        return measurements(
            found
            + [
                {"metric": "share", "value": share, "slice": f"{self.label}={name}"}
                for name, share in shares.items()
            ]
        )

    def _shares(self, query: Query) -> dict[str, float]:
        if not self.label:
            return {}
        label = identifier(self.label)
        counts: dict[str, int] = dict(
            query.rows(f"SELECT {label}, count(*) FROM rows WHERE {label} IS NOT NULL GROUP BY 1 ORDER BY 1")
        )
        total = sum(counts.values())
        return {name: count / total for name, count in counts.items()}


@dataclass(frozen=True)
class Cut:
    """Where outliers begin, what distances are measured by, and how many rows and outliers there are."""

    end: float
    scale: float
    rows: int
    outliers: int

    @classmethod
    def of(cls, operator: Outlier, value: Numbers) -> Cut:
        """Return the cut of all rows' distances or certainties; the order of the rows is of no matter."""
        if not len(value):
            return cls(np.nan, np.nan, 0, 0)
        first, middle, third = (float(one) for one in np.percentile(value, [25, 50, 75]))
        if operator.probabilities:
            end = (operator.threshold or _BY_PROBABILITY) * float(np.median(value))
            return cls(end, middle, len(value), int((value < end).sum()))
        end = third + (1 / (operator.threshold or _BY_DISTANCE) - 1) * (third - first)
        return cls(end, float(np.median(value)), len(value), int((value > end).sum()))


def certainty(judged: Judged, sums: list[Sums]) -> pa.Table:
    """Return row_id and 1 - the normalised entropy of the adjusted probabilities."""
    items, thresholds = judged.problems[0], sums[0].thresholds
    return _valued(judged.ids, 1.0 - confident.entropy(confident.adjusted(items.probabilities, thresholds)))


def _valued(ids: pa.Array, value: Numbers) -> pa.Table:
    return pa.table({"row_id": ids, "value": pa.array(value)})


# What tasks do.


def _read(folder: Path, who: str) -> Vectors:
    import pyarrow.feather

    return Vectors.read([pyarrow.feather.read_table(path) for path in sorted(folder.iterdir())], who)


def _cells(operator: Outlier, held: Path) -> Cells | None:
    return operator.cells(Index(_read(held, operator.step)))


def _distances(
    operator: Outlier, held: Path, cells: Cells | None, worker: int, workers: int, folder: Path
) -> str:
    every = _read(held, operator.step)
    own = np.arange(worker, len(every), workers)
    mine = Vectors(every.ids.take(pa.array(own)), every.unit[own])
    return _written([operator.distances(mine, Index(every), cells)], folder)


def _certainties(issues: Issues, batches: Any, sums: list[Sums], folder: Path) -> str:
    return _written((certainty(judged, sums) for judged in batches), folder)


def _written(tables: Any, folder: Path) -> str:
    import uuid

    import pyarrow.parquet as pq

    path = folder / f"part-{uuid.uuid4().hex}.parquet"
    with pq.ParquetWriter(path, _valued(pa.array([], pa.string()), np.zeros(0)).schema) as file:
        for table in tables:
            file.write_table(table)
    return str(path)


def _cut(operator: Outlier, files: list[str]) -> Cut:
    import pyarrow.parquet as pq

    values = [np.asarray(pq.read_table(file, columns=["value"])["value"]) for file in files]
    return Cut.of(operator, np.concatenate(values))


def _mark(operator: Outlier, cut: Cut, file: str) -> str:
    import pyarrow.parquet as pq

    path = f"{file.removesuffix('.parquet')}-marks.parquet"
    names = ["row_id", *map(operator.final, ("outlier", "outlier_score"))]
    with (
        pq.ParquetFile(file) as held,
        pq.ParquetWriter(
            path,
            pa.schema(list(zip(names, (pa.string(), pa.bool_(), pa.float64()), strict=True))),
            compression="zstd",
        ) as out,
    ):
        for batch in held.iter_batches():
            out.write_table(operator.marks(pa.table(batch), cut).rename_columns(names))
    return path
