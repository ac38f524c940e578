"""Mark rows whose label does not fit their text, by confident learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from synthray import issue
from synthray.errors import InputError
from synthray.issue import Issues
from synthray.label.confident import FilterBy, Score  # noqa: TC001 (a recipe is checked against them)
from synthray.learner import Learner

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage


@dataclass(frozen=True)
class LabelIssue(Learner):
    """Add `label_issue`, `label_quality` (0 to 1) and `suggested_label` (cleanlab; Northcutt et al. 2021).

    By the class probabilities in the column `probabilities`, which should be of a model that did not learn
    from the row, in the order of `classes` (a list, or task.labels), else of the sorted labels. Or by `text`
    and `embedding` (or one of them): students of the other `folds` judge each row, naive Bayes unless
    `student` says linear, weighted by `weight`. They are not calibrated by default: students only as sure as
    the given labels allow mark fewer of the wrong ones, in four of five sets (benchmarks/labels.py).

    `filter_by` is cleanlab's rule, `score` what it measures quality by, with `adjusted` after probabilities
    were adjusted by each class's mean; `frac_noise` is the share of the estimated errors that is marked, and
    `min_examples_per_class` rows of each class never are. Marks are cleanlab's own over all rows in the order
    of row_id. Rows without a label, or without what is learned from or probabilities, keep nulls. Measures
    `rate`, each class's `threshold` and the matrix `noise`: slice 'given=A,true=B' is P(given A | true B).
    """

    probabilities: str | None = None
    classes: Sequence[str] | Literal["task.labels"] = ()
    filter_by: FilterBy = "prune_by_noise_rate"
    score: Score = "self_confidence"
    adjusted: bool = False
    frac_noise: Annotated[float, Ge(0), Le(1)] = 1.0
    min_examples_per_class: Annotated[int, Ge(0)] = 1

    @property
    def reads(self) -> tuple[str, ...]:
        """Label, and what is learned from or probabilities."""
        return (*super().reads, *([self.probabilities] if self.probabilities else []))

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return Issues.adds

    def metrics(self) -> tuple[str, ...]:
        """Return the name of what is measured, slices left out."""
        return ("rate",)

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what judges: another student judges otherwise."""
        return issue.SOURCES if self.probabilities else (*issue.SOURCES, *super().files())

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when columns or settings cannot be what they must be."""
        learns = self.text is not None or self.embedding is not None
        if learns == (self.probabilities is not None):
            raise InputError(
                "needs text or embedding, from which students learn the probabilities, or the column of "
                f"probabilities; {'both are' if learns else 'neither is'} set"
            )
        if learns:
            super().check(before)
            if self.classes:
                raise InputError("classes is the order of given probabilities; a student has its own")
        self.issues.check(before)

    @property
    def issues(self) -> Issues:
        """What judges rows by probabilities, given ones or the students'."""
        if self.probabilities is not None:
            return Issues.of(self)
        return Issues.of(self, label="label", probabilities="probabilities", classes=())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        return self.attach(table, self.issues.found(table if self.probabilities else self.judged(table)))

    def apply(self, stage: Stage) -> None:
        """Judge given probabilities where they stand, or those that students learn."""
        self.issues.search(stage, None if self.probabilities else self.learn(stage))
