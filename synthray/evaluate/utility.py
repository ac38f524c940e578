"""What the dataset is worth: train a student on it, test the student on other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from synthray.errors import InputError, near
from synthray.learner import SOURCES, check_weight, weights
from synthray.lineage import uniform
from synthray.metric import measurements
from synthray.operator import Measure
from synthray.query import Query
from synthray.spelling import identifier

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage
    from synthray.table import Table


@dataclass(frozen=True)
class Utility(Measure):
    """Measure `accuracy` and `macro_f1` on the table `test` of a student trained on the rows; and `majority`.

    `majority` is the accuracy of always answering the test's most frequent label: what no training buys.
    Intervals are percentiles of `resamples` bootstrap samples of the test rows, at `confidence`. Per label
    there is a slice of F1. NaN means that there was nothing to learn from. `weight` is a column that says how
    much a row counts in training (null counts as 1, 0 not at all).
    """

    text: str
    label: str
    test: str
    weight: str | None = None
    resamples: Annotated[int, Ge(100), Le(100_000)] = 1000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95

    @property
    def reads(self) -> tuple[str, ...]:
        """Text, label and weight."""
        return (self.text, self.label, *([self.weight] if self.weight else []))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The test table."""
        return (self.test,)

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        return ("accuracy", "macro_f1", "majority", "train_rows")

    def files(self) -> tuple[Path, ...]:
        """Return the student's source: another student judges otherwise."""
        return SOURCES

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the test table lacks text or label."""
        self.require_text(before, self.text, self.label)
        check_weight(before, self.weight)
        schema = self.context.schemas[self.test]
        for name in (self.text, self.label):
            if name not in schema.names:
                raise InputError(f"the table {self.test!r} has no column {name!r}{near(name, schema.names)}")
        self.require_text(schema, self.text, self.label)

    def apply(self, stage: Stage) -> None:
        """Learn in a task: the training texts never come to the driver."""
        given = (self, stage.input, self.context.tables[self.test])
        stage.measured(stage.tasks(_learn, [given])[0])

    def measure(self, query: Query) -> pa.Table:
        """Train, test, resample; `query` holds `rows` and the test table."""
        import numpy as np
        from sklearn.metrics import f1_score

        train, test = self._read(query, "rows"), self._read(query, self.test)
        test_texts, truth = test["text"].to_pylist(), test["label"].to_pylist()
        predicted = self._predicted(train, test_texts)
        if predicted is None:
            missing = {"value": float("nan"), "n": len(truth)}
            return measurements(
                [{"metric": name, **missing} for name in ("accuracy", "macro_f1", "majority")]
            )
        classes = sorted(set(truth))
        constant = max(classes, key=lambda one: (truth.count(one), one))
        given, said = np.array(truth), np.array(predicted)

        def macro(places: Any) -> float:
            return float(
                f1_score(given[places], said[places], labels=classes, average="macro", zero_division=0)
            )

        everything = np.arange(len(truth))
        random = np.random.default_rng(int(uniform("bootstrap", self.context.seed) * 2**31))
        samples = random.integers(0, len(truth), (self.resamples, len(truth)))
        right, majority = given == said, given == constant
        found = [
            self._interval("accuracy", right.mean(), right[samples].mean(axis=1), len(truth)),
            self._interval("macro_f1", macro(everything), [macro(sample) for sample in samples], len(truth)),
            self._interval("majority", majority.mean(), majority[samples].mean(axis=1), len(truth)),
            {"metric": "train_rows", "value": len(train), "n": len(train)},
        ]
        scores = f1_score(given, said, labels=classes, average=None, zero_division=0)
        found += [
            {"metric": "f1", "value": float(score), "n": truth.count(one), "slice": f"{self.label}={one}"}
            for one, score in zip(classes, scores, strict=True)
        ]
        return measurements(found)

    def _predicted(self, train: pa.Table, test_texts: Sequence[str]) -> list[str] | None:
        from synthray.model.student import Student

        weight = weights(train, self.weight, self.step).to_numpy()
        labels = train["label"].to_pylist()
        if len({label for label, one in zip(labels, weight, strict=True) if one}) < 2 or not test_texts:
            return None
        learned = Student("linear", self.context.seed).fit(train["text"].to_pylist(), labels, weight)
        return learned.predict(test_texts)

    def _read(self, query: Query, relation: str) -> pa.Table:
        """Return text, label and, of training rows, weight of the rows that have both, in a fixed order."""
        text, label = identifier(self.text), identifier(self.label)
        others = ["row_id", *([self.weight] if self.weight else [])] if relation == "rows" else []
        more = "".join(f", {identifier(name)}" for name in others)
        return query.arrow(
            f"SELECT {text} AS text, {label} AS label{more} FROM {identifier(relation)} "
            f"WHERE {text} <> '' AND {label} IS NOT NULL ORDER BY ALL"
        )

    def _interval(self, metric: str, value: Any, resampled: Any, n: int) -> dict[str, Any]:
        import numpy as np

        tail = (1 - self.confidence) / 2
        low, high = np.quantile(np.asarray(resampled), [tail, 1 - tail])
        return {"metric": metric, "value": float(value), "ci_low": float(low), "ci_high": float(high), "n": n}


def _learn(operator: Utility, rows: Table, test: Table) -> pa.Table:
    with Query({"rows": rows, operator.test: test}) as query:
        return operator.measure(query)
