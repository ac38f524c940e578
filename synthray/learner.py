"""The base of operators in which students learn from the rows and judge those that they never saw."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Le

from synthray import vectors
from synthray.column import lines
from synthray.errors import InputError, RunFailed, near
from synthray.lineage import connected, digest, uniform
from synthray.model import STUDENT
from synthray.operator import Operator
from synthray.query import Query
from synthray.spelling import identifier
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.label.softmax import Rows
    from synthray.model.student import Inputs, Learned
    from synthray.stage import Stage

SOURCES = (Path(__file__), STUDENT)
"""This source and the student's, for fingerprints."""


@dataclass(frozen=True)
class Learner(Operator):
    """Base of operators that need out-of-fold probabilities: by a student that never saw the row.

    Students learn `label` from `text`, from `embedding`, or from both, each by itself, whose probabilities
    are then multiplied. Rows are cut into `folds` by a hash: those of one parent and those of one content are
    in the same fold, so that no copy vouches for another. Each fold is judged by a student of the others; of
    more than `train_rows` it learns from a sample of so many, the same share of each label, chosen by a hash.
    `weight` is a column that says how much a row counts in learning (null counts as 1, 0 not at all).
    `calibrated` finds the temperature of each student on one of the folds that it learns from. A label that
    only one fold holds has the probability 0 there. Copies that tie most families together make one large
    fold, whose students learn from few rows.
    """

    label: str
    text: str | None = None
    embedding: str | None = None
    weight: str | None = None
    student: Literal["bayes", "linear"] = "bayes"
    calibrated: bool = False
    folds: Annotated[int, Ge(2), Le(20)] = 5
    train_rows: Annotated[int, Ge(10)] = 100_000

    @property
    def reads(self) -> tuple[str, ...]:
        """Text, vectors, label and weight, where they are named."""
        return tuple(name for name in (self.text, self.embedding, self.label, self.weight) if name)

    def files(self) -> tuple[Path, ...]:
        """Return the sources: another student judges otherwise."""
        return SOURCES

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when there is nothing to learn from, or a column of another type."""
        if self.text is None and self.embedding is None:
            raise InputError("there is nothing to learn from: name the column of the text, or an embedding")
        self.require_text(before, self.label, *([self.text] if self.text else []))
        if self.embedding:
            vectors.check_column(before, self.embedding)
        check_weight(before, self.weight)

    # All in one process.

    def judged(self, table: pa.Table) -> pa.Table:
        """Return row_id, label and out-of-fold `probabilities` of the rows that have all that is read."""
        narrow = self.narrowed(table).sort_by("row_id")
        with Query({"narrow": narrow}, seed=self.context.seed) as query:
            plan = self._plan(query)
            train = query.arrow(self.sample(query, self._most))
        learned = [self._learned(plan, train, fold) for fold in range(self.folds)]
        return self._judged(plan, learned, narrow)

    # Over a stage.

    def learn(self, stage: Stage) -> Table:
        """Return files of row_id, label and `probabilities`; kept until what decides them changes.

        A map pass narrows the rows, a task for each fold learns, and a map pass judges.
        """
        settings = [getattr(self, name) for name in Learner.__dataclass_fields__ if name != "context"]

        def make(folder: Path) -> None:
            narrow, train = self.narrow(stage), stage.path / "train.parquet"
            with stage.over({"narrow": narrow}, stage.path) as query:
                plan = self._plan(query)
                query.write(self.sample(query, self._most), train)
            learned = stage.started_tasks(_learn, [(self, plan, train, fold) for fold in range(self.folds)])
            stage.narrow(stage.read(narrow.files, stage.rows_in), _Judge(self, plan, learned), folder)

        folder = stage.kept("probabilities", [settings, self.context.seed], make)
        return Table(tuple(map(str, sorted(folder.glob("*.parquet")))), "parquet")

    def narrow(self, stage: Stage) -> Table:
        """Return files of what is learned from; see narrowed()."""
        columns = ["row_id", "parent_id", *self.reads]
        given = stage.dataset([name for name in columns if name in stage.columns])
        return self.some(stage.narrow(given, self.narrowed, stage.path / "narrow"))

    @property
    def _most(self) -> float:
        # Each student sees all folds but one.
        return self.train_rows * self.folds / (self.folds - 1)

    def some(self, narrow: Table) -> Table:
        """Return files of rows as they are; RunFailed where there is not one row."""
        if not narrow.files:
            named = ", ".join(repr(name) for name in self.reads if name != self.weight)
            raise RunFailed(
                f"{self.step}: no row has all that is read ({named}), so that there is nothing to learn "
                "from; fill the columns in, or leave the step out"
            )
        return narrow

    def narrowed(self, table: pa.Table) -> pa.Table:
        """Return row_id, label, weight, inputs, who belongs together (`family`) and its `place` in [0, 1).

        Rows without a label, or without one of the inputs, are left out.
        """
        there = pc.is_valid(table[self.label])
        if self.text:
            there = pc.and_(there, pc.fill_null(pc.not_equal(table[self.text], ""), False))
        table = table.filter(there)
        if self.embedding:
            held = vectors.Vectors.of(table, self.embedding, self.step)
            at = pc.index_in(table["row_id"], held.ids)
            table, unit = table.filter(pc.is_valid(at)), held.unit[pc.drop_null(at).to_numpy()]
        columns: dict[str, Any] = {
            "row_id": table["row_id"],
            "label": table[self.label].cast(pa.string()),
            "weight": weights(table, self.weight, self.step),
        }
        content: list[Any] = []
        if self.embedding:
            flat = pa.array(unit.ravel())
            columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, max(1, unit.shape[1]))
            content = [line.tobytes().hex() for line in unit]
        if self.text:
            columns["text"] = table[self.text].cast(pa.string())
            content = table[self.text].to_pylist()
        content = [digest(one) for one in content]
        parents = table["parent_id"].to_pylist() if "parent_id" in table.column_names else content
        families = [parent or own for parent, own in zip(parents, content, strict=True)]
        places = [self._place(family) for family in families]
        columns |= {"content": pa.array(content, pa.string()), "family": pa.array(families, pa.string())}
        return pa.table({**columns, "place": pa.array(places, pa.float64())})

    def _place(self, family: str) -> float:
        return uniform("fold", self.context.seed, family)

    # What all rows decide.

    def _plan(self, query: Query) -> _Plan:
        """Return the classes, and the places of families that share a content with others."""
        classes = tuple(label for (label,) in query.rows("SELECT DISTINCT label FROM narrow ORDER BY 1"))
        ties = query.rows(
            "SELECT family, least FROM (SELECT DISTINCT family, min(family) OVER (PARTITION BY content) "
            "AS least FROM narrow) WHERE family <> least ORDER BY ALL"
        )
        root = connected(ties)
        names = sorted({family for tie in ties for family in tie})
        return _Plan(
            classes, pa.array(names, pa.string()), pa.array([self._place(root(one)) for one in names])
        )

    def sample(self, query: Query, most: float) -> str:
        """Return SQL for at most so many of `narrow`, in a fixed order: the digits of a fit depend on it.

        It is the same share of each label, but a row at least, chosen by a hash.
        """
        rows = int(query.value("SELECT count(*) FROM narrow"))
        if rows <= most:
            return "SELECT * FROM narrow ORDER BY row_id"
        chosen = (
            "row_number() OVER (PARTITION BY label ORDER BY chance(row_id, 'train'), row_id) "
            f"<= greatest(1, round({most / rows!r} * count(*) OVER (PARTITION BY label)))"
        )
        return f"SELECT * FROM narrow QUALIFY {chosen} ORDER BY row_id"

    # What softmax heads learn from.

    def check_others(self, name: str) -> None:
        """Raise an InputError when a named table lacks a column that is learned from."""
        schema = self.context.schemas[name]
        for column in (self.label, self.text, self.embedding):
            if column and column not in schema.names:
                raise InputError(f"the table {name!r} has no column {column!r}{near(column, schema.names)}")
        self.require_text(schema, self.label, *([self.text] if self.text else []))
        if self.embedding:
            vectors.check_column(schema, self.embedding, f"the table {name!r}: column")

    def others(self, name: str, classes: Sequence[str]) -> pa.Table:
        """Return the rows of a named table, narrow; RunFailed for none, or for a label that is no class."""
        columns = ", ".join(identifier(one) for one in (self.label, self.text, self.embedding) if one)
        weight = f", 1.0 AS {identifier(self.weight)}" if self.weight else ""
        with Query({name: self.context.tables[name]}) as query:
            rows = query.arrow(
                f"SELECT CAST(row_number() OVER () AS VARCHAR) AS row_id, {columns}{weight} "
                f"FROM {identifier(name)}"
            )
        found = self.narrowed(rows)
        if not len(found):
            raise RunFailed(f"{self.step}: the table {name!r} has no row with all that is read")
        unknown = sorted(set(found["label"].to_pylist()) - set(classes))
        if unknown:
            raise RunFailed(
                f"{self.step}: the table {name!r} has the label {unknown[0]!r}, which no row has"
                f"{near(unknown[0], classes)}"
            )
        return found

    def features(self, narrow: pa.Table) -> Any:
        """Return the fitted features of the texts; None where vectors alone are learned from."""
        from synthray.model.student import words

        if not self.text:
            return None
        try:
            return words(narrow["text"].to_pylist(), 2)[0]
        except ValueError as error:
            raise RunFailed(
                f"{self.step}: column {self.text!r} has no word in any of {len(narrow)} rows"
            ) from error

    def headed(self, narrow: pa.Table, features: Any, classes: Sequence[str]) -> Rows:
        """Return narrow rows as heads see them: TF-IDF of the text, the vector, or one beside the other."""
        from synthray.label.softmax import Rows

        inputs: list[Any] = self.inputs(narrow)
        if features is not None:
            inputs[0] = features.transform(inputs[0])
        held = inputs[0]
        if len(inputs) > 1:
            from scipy.sparse import csr_array, hstack

            held = hstack([held, csr_array(inputs[1])], format="csr")
        return Rows(held, pc.index_in(narrow["label"], pa.array(classes)).to_numpy(), len(classes))

    def _learned(self, plan: _Plan, train: pa.Table, fold: int) -> Sequence[Learned]:
        """Return the students of the rows outside of a fold: of the texts, of the vectors."""
        from synthray.model.student import Student

        folds = plan.folds(train, self.folds)
        train, others = train.filter(pa.array(folds != fold)), folds[folds != fold]
        labels, weights = train["label"].to_pylist(), train["weight"].to_numpy()
        held = others == (fold + 1) % self.folds if self.calibrated else None
        student = Student(self.student, self.context.seed)
        try:
            return [student.fit(inputs, labels, weights, held) for inputs in self.inputs(train)]
        except ValueError as error:
            found = sorted(set(labels))
            shown = f"{found[:10]}{' ...' if len(found) > 10 else ''}"
            raise RunFailed(
                f"{self.step}: cannot learn ({error}): needs at least two labels, and words, among the rows "
                f"outside of each fold, but found {shown} in {len(labels)} rows"
            ) from error

    def _judged(self, plan: _Plan, learned: Sequence[Sequence[Learned]], narrow: pa.Table) -> pa.Table:
        """Return row_id, label and the probabilities of narrow rows, by the students of the other folds."""
        found = np.zeros((len(narrow), len(plan.classes)))
        folds = plan.folds(narrow, self.folds)
        for fold in np.unique(folds).tolist():
            rows = np.flatnonzero(folds == fold)
            inputs = self.inputs(narrow.take(pa.array(rows)))
            found[rows] = _together(
                [
                    one.probabilities(given, plan.classes)
                    for one, given in zip(learned[fold], inputs, strict=True)
                ]
            )
        lists = pa.ListArray.from_arrays(
            pa.array(np.arange(len(narrow) + 1, dtype=np.int32) * len(plan.classes)), pa.array(found.ravel())
        )
        return narrow.select(["row_id", "label"]).append_column("probabilities", lists)

    def inputs(self, rows: pa.Table) -> list[Inputs]:
        """Return what narrow rows are learned from: their texts, their vectors, or both."""
        inputs: list[Inputs] = []
        if self.text:
            inputs.append(rows["text"].to_pylist())
        if self.embedding:
            inputs.append(lines(rows["vector"]))
        return inputs


def check_weight(before: pa.Schema, column: str | None) -> None:
    """Raise an InputError when the column of the weights is there but does not hold numbers."""
    if column in before.names:
        kind = before.field(column).type
        numeric = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
        if not any(holds(kind) for holds in numeric):
            raise InputError(f"column {column!r} must hold numbers, the weights, but is {kind}")


def weights(table: pa.Table, column: str | None, who: str) -> pa.Array | pa.ChunkedArray:
    """Return the weight of each row: 1 for null and without a column; RunFailed for what is no weight."""
    if column is None:
        return pa.array(np.ones(len(table)))
    held = pc.fill_null(table[column].cast(pa.float64()), 1.0)
    wrong = pc.invert(pc.and_(pc.is_finite(held), pc.greater_equal(held, 0)))
    if pc.any(wrong).as_py():
        row, value = table["row_id"].filter(wrong)[0], held.filter(wrong)[0]
        raise RunFailed(
            f"{who}: column {column!r} of row_id {row.as_py()!r} holds {value.as_py()}, "
            "which is no weight (a finite number that is not negative)"
        )
    return held


@dataclass(frozen=True)
class _Plan:
    """The classes, and the families of which another place than their own decides the fold."""

    classes: tuple[str, ...]
    tied: pa.Array
    places: pa.Array

    def folds(self, rows: pa.Table, folds: int) -> np.ndarray:
        """Return the fold of each row."""
        at = pc.index_in(rows["family"], self.tied)
        place = pc.if_else(pc.is_valid(at), self.places.take(at.combine_chunks()), rows["place"])
        result: np.ndarray = (place.to_numpy(zero_copy_only=False) * folds).astype(np.int64)
        return result


def _together(found: list[np.ndarray]) -> np.ndarray:
    """Return the product of probabilities, made to add up to 1 again; 0 where one of them is 0."""
    if len(found) == 1:
        return found[0]
    product = np.exp(sum(np.log(np.maximum(one, 1e-150)) for one in found)) * (found[0] > 0)
    result: np.ndarray = product / product.sum(axis=1, keepdims=True)
    return result


def _learn(operator: Learner, plan: _Plan, train: Path, fold: int) -> Any:
    import pyarrow.parquet as pq

    return operator._learned(plan, pq.read_table(train), fold)


@dataclass(frozen=True)
class _Judge:
    """Judge narrow rows by students that a task of each fold returns."""

    operator: Learner
    plan: _Plan
    learned: Sequence[Any]

    def __call__(self, narrow: pa.Table) -> pa.Table:
        """Return row_id, label and probabilities."""
        return self.operator._judged(self.plan, _Fetched(self.learned), narrow)


@dataclass(frozen=True)
class _Fetched(Sequence[Any]):
    references: Sequence[Any]

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, place: Any) -> Any:
        return fetched(self.references[place])


@functools.lru_cache(maxsize=20)  # the most folds there may be
def fetched(reference: Any) -> Any:
    """Return, in a worker, what a task made that was started by `stage.started_tasks`; once a process."""
    import ray

    return ray.get(reference)
