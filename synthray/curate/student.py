"""Show for each row what a student that never saw it says, how its loss stands, and what it teaches."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Le

from synthray.column import lines
from synthray.errors import InputError, RunFailed
from synthray.label import softmax
from synthray.label.softmax import Head, Loss, Rows
from synthray.learner import Learner, fetched
from synthray.lineage import uniform
from synthray.metric import measurements
from synthray.query import Query
from synthray.spelling import identifier

if TYPE_CHECKING:
    from synthray.stage import Stage

_LEAST = 1e-12
"""The least probability of a label: a loss is at most 27.6."""

_MOST_LOSSES = 100_000
_L2 = 1e-4
_DYNAMICS = ("student_confidence", "student_variability", "student_aleatoric", "student_max_variability")


@dataclass(frozen=True)
class Student(Learner):
    """Add `student_label`, `student_probabilities` (labels in sorted order), `student_loss`, `student_clean`.

    They are out of fold: no student saw the row (see the settings of learning). `student_loss` is the
    negative log-probability of the row's label; `student_clean` the probability that it is of the lower of
    two normal components of all losses (small loss: Arazo et al. 2019; FreeAL trusts a row from 0.7 on).
    `epochs` adds the dynamics of a softmax head that learns from the rows themselves, over so many epochs t:
    `student_confidence` mean_t p_t(label), `student_variability` its standard deviation (Swayamdipta et al.
    2020), `student_aleatoric` mean_t p_t (1 - p_t) (CLLM), `student_max_variability` the largest deviation
    over the labels (WANLI). `validation` names a table with the same columns and adds `student_influence`:
    what more of the row does to the head's loss there, times the number of rows it learns from (Koh and Liang
    2017): below 0 it helps. Where the validation rows are synthetic too, `influence_loss:
    reverse_cross_entropy` (RCE: ProGen, SunGen; see label.softmax) bounds what a wrong label among them can
    do. The head learns from `train_rows` at most and is asked of all rows. A student of
    `folds: 2` whose label then replaces the row's is MCKD's cross-partition relabelling. Measured: the mean
    `loss`, the share of `clean` rows (as a mean), the share in which student and label are in `agreement`.
    """

    calibrated: bool = True
    epochs: Annotated[int, Ge(0), Le(1000)] = 0
    validation: str | None = None
    influence_loss: Loss = "cross_entropy"

    @property
    def table_names(self) -> tuple[str, ...]:
        """The validation table."""
        return () if self.validation is None else (self.validation,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return what students say; with `epochs` the dynamics; with `validation` the influence."""
        numbers = ("student_loss", "student_clean", *(_DYNAMICS if self.epochs else ()))
        influence = ("student_influence",) if self.validation else ()
        said = {"student_label": pa.string(), "student_probabilities": pa.list_(pa.float64())}
        return {**said, **dict.fromkeys((*numbers, *influence), pa.float64())}

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured."""
        return ("loss", "clean", "agreement")

    def files(self) -> tuple[Path, ...]:
        """Return the sources."""
        return (*super().files(), Path(softmax.__file__))

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the validation table lacks a column, or a loss has no table."""
        super().check(before)
        if self.validation is None and self.influence_loss != "cross_entropy":
            raise InputError("influence_loss is that of the rows of a table; name the table by validation")
        if self.validation is not None:
            self.check_others(self.validation)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Judge the rows of a whole table."""
        judged = self.judged(table)
        marks = self.marks(self.settled(judged["label"].to_pylist(), [judged]), judged)
        if self.teaches:
            narrow = self.narrowed(table)
            with Query({"narrow": narrow}, seed=self.context.seed) as query:
                taught = self.head(query.arrow(self.sample(query, self.train_rows)))
            for column in (made := taught.marks(self, narrow.sort_by("row_id"))).column_names[1:]:
                marks = marks.append_column(column, made[column])
        return self.attach(table, marks)

    def apply(self, stage: Stage) -> None:
        """Learn the folds, settle over all losses in a task, and mark block by block."""
        judged = self.learn(stage)
        settled = stage.tasks(_settle, [(self, judged.files)])[0]
        stage.measured(settled.measured)
        said = stage.read(judged.files, stage.rows_in)
        marks = stage.narrow(said, functools.partial(self.marks, settled), stage.path / "marks")
        relations = {"marks": marks}
        if self.teaches:
            narrow, sample = self.narrow(stage), stage.path / "sample.parquet"
            with stage.over({"narrow": narrow}, stage.path) as query:
                query.write(self.sample(query, self.train_rows), sample)
            taught = stage.started_tasks(_head, [(self, sample)])[0]
            asked = stage.read(narrow.files, stage.rows_in)
            relations["taught"] = stage.narrow(asked, _Taught(self, taught), stage.path / "taught")
        columns = ", ".join(f"{identifier(name)} AS {identifier(self.final(name))}" for name in self.adds())
        path = stage.path / "columns.parquet"
        with stage.over(relations, stage.path) as query:
            rows = " JOIN taught USING (row_id)" if self.teaches else ""
            query.write(f"SELECT row_id, {columns} FROM marks{rows}", path)
        stage.added([str(path)])

    @property
    def teaches(self) -> bool:
        """Whether a head learns from the rows too."""
        return bool(self.epochs or self.validation)

    # What students say.

    def settled(self, classes: Iterable[str], judged: Iterable[Any]) -> _Settled:
        """Return the components of the losses, and the measurements, over all rows, batch by batch."""
        known = sorted(set(classes))
        found = [self._losses(batch, known) for batch in judged]
        losses = np.sort(np.concatenate([losses for losses, _ in found]))
        agreed = int(sum(agreed.sum() for _, agreed in found))
        settled = _Settled(tuple(known), *_components(losses), pa.table({}))
        clean = settled.clean(losses)
        measured = {"loss": losses.mean(), "clean": clean.mean(), "agreement": agreed / len(losses)}
        rows = [{"metric": name, "value": float(value), "n": len(losses)} for name, value in measured.items()]
        return replace(settled, measured=measurements(rows))

    def marks(self, settled: _Settled, judged: pa.Table) -> pa.Table:
        """Return row_id and what students say of judged rows."""
        losses, _ = self._losses(judged, settled.classes)
        matrix = lines(judged["probabilities"])
        said = [settled.classes[place] for place in matrix.argmax(axis=1)]
        return pa.table(
            {
                "row_id": judged["row_id"],
                "student_label": pa.array(said, pa.string()),
                "student_probabilities": judged["probabilities"],
                "student_loss": pa.array(losses),
                "student_clean": pa.array(settled.clean(losses)),
            }
        )

    def _losses(self, judged: Any, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of each row, and whether its label is the likeliest."""
        matrix = lines(judged["probabilities"])
        given = pc.index_in(judged["label"], pa.array(classes)).to_numpy(zero_copy_only=False)
        own = matrix[np.arange(len(matrix)), given]
        return -np.log(np.maximum(own, _LEAST)), matrix.argmax(axis=1) == given

    # What a head learns.

    def head(self, narrow: pa.Table) -> _Head:
        """Return a head that has learned from narrow rows, and what its optimum's loss on others asks."""
        features = self.features(narrow)
        classes = tuple(sorted(set(narrow["label"].to_pylist())))
        if len(classes) < 2:
            raise RunFailed(f"{self.step}: needs at least two labels, but found {list(classes)}")
        head = Head(self.headed(narrow, features, classes), narrow["weight"].to_numpy(), _L2)
        seed = int(uniform("epochs", self.context.seed) * 2**31)
        held = _Head(features, classes, tuple(head.epochs(self.epochs, seed)))
        if self.validation is None:
            return held
        others = self.others(self.validation, classes)
        optimum = head.optimum()
        right = self.headed(others, features, classes).gradient(optimum, self.influence_loss)
        solved = head.solve(head.rows.probabilities(optimum), right)
        return replace(held, optimum=optimum, solved=solved)


@dataclass(frozen=True)
class _Settled:
    """What all rows decide: the classes, and share, mean, deviation of the two components of the losses."""

    classes: tuple[str, ...]
    components: np.ndarray
    span: tuple[float, float]
    measured: pa.Table

    def clean(self, losses: np.ndarray) -> np.ndarray:
        """Return the probability that losses are of the lower component."""
        low, high = self.span
        if high <= low:
            return np.ones(len(losses))
        share, mean, deviation = self.components
        # Below the mean of the lower component a wider one would win again.
        scaled = np.maximum((losses - low) / (high - low), mean[0])
        log = np.log(share) - np.log(deviation) - 0.5 * ((scaled[:, None] - mean) / deviation) ** 2
        found: np.ndarray = 1 / (1 + np.exp(np.minimum(log[:, 1] - log[:, 0], 700)))
        return found


@dataclass(frozen=True)
class _Head:
    """What a head has learned: coefficients after each epoch, at the optimum, and H^-1 times a gradient."""

    features: Any
    classes: tuple[str, ...]
    epochs: tuple[np.ndarray, ...] = ()
    optimum: np.ndarray | None = None
    solved: np.ndarray | None = None

    def marks(self, operator: Student, narrow: pa.Table) -> pa.Table:
        """Return row_id, the dynamics and the influence of narrow rows."""
        rows = operator.headed(narrow, self.features, self.classes)
        made: dict[str, Any] = {"row_id": narrow["row_id"]}
        if self.epochs:
            made |= {name: pa.array(values) for name, values in self._dynamics(rows).items()}
        if self.optimum is not None and self.solved is not None:
            errors = rows.errors(rows.probabilities(self.optimum))
            made["student_influence"] = pa.array(-(errors * rows.scores(self.solved)).sum(axis=1))
        return pa.table(made)

    def _dynamics(self, rows: Rows) -> dict[str, np.ndarray]:
        total, square = np.zeros((2, len(rows), rows.classes))
        for coefficients in self.epochs:
            found = rows.probabilities(coefficients)
            total += found
            square += found * found
        mean, square = total / len(self.epochs), square / len(self.epochs)
        deviation = np.sqrt(np.maximum(square - mean * mean, 0))
        own = (np.arange(len(rows)), rows.given)
        aleatoric = mean[own] - square[own]
        return dict(
            zip(_DYNAMICS, (mean[own], deviation[own], aleatoric, deviation.max(axis=1)), strict=True)
        )


@dataclass(frozen=True)
class _Taught:
    operator: Student
    head: Any

    def __call__(self, narrow: pa.Table) -> pa.Table:
        """Return what a head that a task has learned shows of narrow rows."""
        head: _Head = fetched(self.head)
        return head.marks(self.operator, narrow)


def _components(losses: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return share, mean, deviation of the lower and the upper component of sorted losses, and the span."""
    from sklearn.mixture import GaussianMixture

    span = float(losses[0]), float(losses[-1])
    if span[0] == span[1]:
        return np.zeros((3, 2)), span
    # Of very many, quantiles: the same for any order of the rows.
    held = losses[np.linspace(0, len(losses) - 1, min(len(losses), _MOST_LOSSES)).astype(np.int64)]
    scaled = ((held - span[0]) / (span[1] - span[0]))[:, None]
    start = np.quantile(scaled, [0.25, 0.95]).reshape(2, 1)
    mixture = GaussianMixture(2, tol=1e-3, reg_covar=5e-4, max_iter=200, means_init=start, random_state=0)
    mixture.fit(scaled)
    order = mixture.means_[:, 0].argsort()
    deviations = np.sqrt(mixture.covariances_[:, 0, 0])
    return np.stack([mixture.weights_[order], mixture.means_[order, 0], deviations[order]]), span


def _settle(operator: Student, files: Sequence[str]) -> _Settled:
    import pyarrow.parquet as pq

    classes = {
        label
        for file in files
        for label in pc.unique(pq.read_table(file, columns=["label"])["label"]).to_pylist()
    }
    columns = ["label", "probabilities"]
    batches = (batch for file in files for batch in pq.ParquetFile(file).iter_batches(columns=columns))
    return operator.settled(classes, batches)


def _head(operator: Student, sample: Path) -> _Head:
    import pyarrow.parquet as pq

    return operator.head(pq.read_table(sample))
