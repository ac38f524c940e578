"""Mark the tokens of which the label does not fit, by confident learning over given probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Gt

from synthray.column import is_list
from synthray.errors import InputError, RunFailed
from synthray.issue import Decided, Issues, Judged
from synthray.judge import Judge
from synthray.label.confident import Items, Numbers
from synthray.probability import check_column, check_labels, labels_of

RowScore = Literal["min", "softmin"]


@dataclass(frozen=True)
class TokenIssues(Issues):
    """What finds the label issues of tokens: one problem of the tokens of all rows."""

    row_score: RowScore = "min"
    temperature: float = 0.05

    adds: ClassVar[Mapping[str, pa.DataType]] = {
        **Issues.adds,
        "suggested_label": pa.list_(pa.string()),
        "issue_tokens": pa.list_(pa.int32()),
        "token_quality": pa.list_(pa.float64()),
    }
    labels: ClassVar[str] = "SELECT DISTINCT unnest({label}) AS label FROM rows"
    items_per_row: ClassVar[int] = 64

    def check_label(self, before: pa.Schema) -> None:
        """Raise an InputError when the label column is there but holds no lists of text."""
        check_labels(before, self.label)

    def check_column(self, before: pa.Schema) -> None:
        """Raise an InputError when the probabilities are not those of tokens."""
        kind = before.field(self.probabilities).type if self.probabilities in before.names else None
        spans = kind is not None and is_list(kind) and not is_list(kind.value_type)
        check_column(before, self.probabilities, 1 if spans else 2)
        if spans and len(self.classes) not in (0, 2):
            raise InputError(
                f"column {self.probabilities!r} holds one probability for each token, of the second of two "
                f"classes, but there are {len(self.classes)}: {', '.join(self.classes)}"
            )

    def read(self, batch: pa.Table | pa.RecordBatch) -> Judged:
        """Return the tokens of the rows that have some."""
        ids, labels, lists = self.there(batch)
        lengths, sizes = (np.asarray(pc.list_value_length(one)) for one in (labels, lists))
        other = np.flatnonzero(lengths != sizes)
        if len(other):
            raise RunFailed(
                f"{self.step}: row_id {ids[int(other[0])].as_py()!r} has {lengths[other[0]]} labels in "
                f"{self.label!r}, but {sizes[other[0]]} tokens in {self.probabilities!r}"
            )
        some = pa.array(lengths > 0)
        ids, labels, lists = ids.filter(some), labels.filter(some), lists.filter(some)
        flat, rows = labels_of(self.step, self.label, labels, ids)
        held = lists.flatten()
        if not is_list(held.type):
            ends = pa.array(np.arange(len(held) + 1, dtype=np.int32))
            own = self.held.matrix(pa.ListArray.from_arrays(ends, held), ids, rows, 1)
            return Judged(ids, [Items(self.codes(flat), np.hstack([1 - own, own]))], rows)
        return Judged(ids, [Items(self.codes(flat), self.held.summed(held, ids, rows))], rows)

    def marks(self, judged: Judged, decided: Decided) -> pa.Table:
        """Return row_id and the columns."""
        assert judged.rows is not None
        items, rows = judged.problems[0], judged.rows
        wrong = self.doubted(judged, decided, 0)
        quality = self.quality(items, decided.sums[0])
        starts = np.searchsorted(rows, np.arange(len(judged.ids) + 1))
        places = (np.arange(len(rows)) - starts[rows]).astype(np.int32)
        ends = pa.array(starts.astype(np.int32))
        issues = np.searchsorted(rows[wrong], np.arange(len(judged.ids) + 1)).astype(np.int32)
        suggested = self.named(items.probabilities.argmax(axis=1))
        return pa.table(
            {
                "row_id": judged.ids,
                "label_issue": pa.array(np.diff(issues) > 0),
                "label_quality": pa.array(self._of_rows(quality, rows, starts[:-1])),
                "suggested_label": pa.ListArray.from_arrays(ends, suggested),
                "issue_tokens": pa.ListArray.from_arrays(pa.array(issues), pa.array(places[wrong])),
                "token_quality": pa.ListArray.from_arrays(ends, pa.array(quality)),
            }
        )

    def _of_rows(self, quality: Numbers, rows: Numbers, starts: Numbers) -> Numbers:
        if not len(starts):
            return np.zeros(0)
        lowest: Numbers = np.minimum.reduceat(quality, starts)
        if self.row_score == "min":
            return lowest
        weight = np.exp((lowest[rows] - quality) / self.temperature)
        soft: Numbers = np.add.reduceat(weight * quality, starts) / np.add.reduceat(weight, starts)
        return soft


@dataclass(frozen=True)
class TokenIssue(Judge):
    """Add `label_issue`, `label_quality`, `suggested_label`, `issue_tokens` and `token_quality`.

    For texts of which each token has a label (Wang and Mueller 2022, as cleanlab.token_classification does
    it): `label` is a list of labels, `probabilities` a list of as many lists with a probability for each of
    `classes` (a list, or task.labels; else the sorted labels). Of two classes the second may mark spans, and
    `probabilities` may then be a list with its probability alone for each token. All tokens of all rows are
    judged together; `issue_tokens` are the places (from 0) of those with an issue, `token_quality` and
    `suggested_label` are of each token. A row has an issue where a token has one, and its quality is the
    lowest of its tokens' (`row_score: softmin` is a softer minimum, at `temperature`). Other settings are
    curate.label_issue's. Rows without tokens, labels or probabilities keep nulls. Measures `rate`, each
    class's `threshold` and the matrix `noise`.
    """

    kind: ClassVar[type[Issues]] = TokenIssues
    row_score: RowScore = "min"
    temperature: Annotated[float, Gt(0)] = 0.05
