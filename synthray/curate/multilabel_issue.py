"""Mark rows of which some of several labels do not fit, by confident learning over given probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from synthray.issue import Decided, Issues, Judged
from synthray.judge import Judge
from synthray.label import confident
from synthray.label.confident import Cut, Items, Joint, Numbers, Sums
from synthray.metric import measurements
from synthray.probability import check_labels, labels_of

_WORST = 0.8
"""How much more each lower score of a row's classes weighs than all higher ones."""


@dataclass(frozen=True)
class MultilabelIssues(Issues):
    """What finds the label issues of rows with several labels: a problem of two classes for each class."""

    adds: ClassVar[Mapping[str, pa.DataType]] = {
        **Issues.adds,
        "suggested_label": pa.list_(pa.string()),
        "issue_labels": pa.list_(pa.string()),
    }
    labels: ClassVar[str] = "SELECT DISTINCT unnest({label}) AS label FROM rows"
    items_per_row: ClassVar[int] = 4

    def check_label(self, before: pa.Schema) -> None:
        """Raise an InputError when the label column is there but holds no lists of text."""
        check_labels(before, self.label)

    def counted(self, labels: Sequence[str], classes: Sequence[str]) -> Sequence[str]:
        """Return the classes: that a row may have them all or none is what a label says."""
        return classes

    def read(self, batch: pa.Table | pa.RecordBatch) -> Judged:
        """Return a problem for each class: whether a row has it, and the probability that it has."""
        ids, labels, lists = self.there(batch)
        matrix = self.held.matrix(lists, ids)
        flat, rows = labels_of(self.step, self.label, labels, ids)
        has = np.zeros(matrix.shape, np.int64)
        has[rows, self.codes(flat)] = 1
        problems = [
            Items(has[:, at], np.stack([1 - matrix[:, at], matrix[:, at]], axis=1))
            for at in range(matrix.shape[1])
        ]
        return Judged(ids, problems)

    def joints(self, judged: Judged, sums: list[Sums]) -> list[Joint]:
        """Return the counts of each class, and of rows that are confidently of others, if asked for."""
        joints = super().joints(judged, sums)
        if self.filter_by.startswith("low_"):
            wrong = np.zeros(len(judged.ids), bool)
            for items, own in zip(judged.problems, sums, strict=True):
                guess = confident.confident(items, own.thresholds)
                wrong |= (guess >= 0) & (guess != items.given) & ~items.vouched
            joints.append(Joint(np.zeros((1, 1), np.int64), int(wrong.sum())))
        return joints

    def cuts(self, sums: list[Sums], joints: list[Joint]) -> list[tuple[int, Cut]]:
        """Return each class's cuts, and that of rows by their quality."""
        found = super().cuts(sums, joints)
        if self.filter_by.startswith("low_") and joints[-1].doubted:
            found.append((-1, Cut("self_confidence", joints[-1].doubted)))
        return found

    def values(self, judged: Judged, decided: Decided) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Yield the values of each class's cuts, and of that of rows."""
        yield from super().values(judged, decided)
        yield from self.of_rows(judged, decided)

    def of_rows(self, judged: Judged, decided: Decided) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Yield the place of the cut of rows, if there is one, the rows' places and their quality."""
        for place in decided.of(-1)[0]:
            scores = [confident.score(items, "self_confidence") for items in judged.problems]
            yield place, np.arange(len(judged.ids)), averaged(np.stack(scores, axis=1))

    def marks(self, judged: Judged, decided: Decided) -> pa.Table:
        """Return row_id and the columns."""
        wrong = np.stack([self.doubted(judged, decided, at) for at in range(len(self.classes))], axis=1)
        scores = [self.quality(items, own) for items, own in zip(judged.problems, decided.sums, strict=True)]
        found = wrong.any(axis=1)
        if self.filter_by.startswith("low_"):
            found = np.zeros(len(judged.ids), bool)
            for place, where, held in self.of_rows(judged, decided):
                found = self.taken(judged, decided, place, where, held)
        likely = np.stack([items.probabilities[:, 1] > 0.5 for items in judged.problems], axis=1)
        return pa.table(
            {
                "row_id": judged.ids,
                "label_issue": pa.array(found),
                "label_quality": pa.array(averaged(np.stack(scores, axis=1))),
                "suggested_label": self._listed(likely),
                "issue_labels": self._listed(wrong),
            }
        )

    def measurements(self, decided: Decided, rows: int, issues: int) -> pa.Table:
        """Return the rate of rows with an issue, and per class the thresholds and the noise."""
        found: list[dict[str, Any]] = [{"metric": "rate", "value": issues / rows, "n": rows}]
        for name, sums, joint in zip(self.classes, decided.sums, decided.joints, strict=False):
            found += self.noise(sums, joint, ("no", "yes"), f"{self.label}={name},")
        return measurements(found)

    def _listed(self, mask: Numbers) -> pa.Array:
        rows, codes = np.nonzero(mask)
        ends = np.searchsorted(rows, np.arange(len(mask) + 1)).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), self.named(codes))


@dataclass(frozen=True)
class MultilabelIssue(Judge):
    """Add `label_issue`, `label_quality`, `suggested_label` and `issue_labels` to rows with several labels.

    `label` is a list of labels, maybe an empty one, `probabilities` a list with one for each of `classes`
    (a list, or task.labels; else the sorted labels), which need not add up to 1. Each class is judged against
    the rest (Thyagarajan et al. 2022), as cleanlab.multilabel_classification does it: `issue_labels` are the
    labels that are wrong or lacking, `suggested_label` those above 0.5, and the quality is a moving average
    of the classes' scores in which the lowest weighs most. Other settings are curate.label_issue's. Rows
    without labels or probabilities keep nulls. Measures `rate`, and per class `threshold` and `noise`.
    """

    kind: ClassVar[type[Issues]] = MultilabelIssues


def averaged(scores: Numbers) -> Numbers:
    """Return cleanlab's moving average of each line, from the highest to the lowest score."""
    falling = np.sort(scores, axis=1)[:, ::-1]
    mean = falling[:, 0]
    for lower in falling.T[1:]:
        mean = _WORST * lower + (1 - _WORST) * mean
    return mean
