"""Mark rows whose label does not fit their text, by confident learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
from annotated_types import Ge, Le

from synthray.errors import RunFailed
from synthray.lineage import uniform
from synthray.model import STUDENT
from synthray.operator import Operator

if TYPE_CHECKING:
    from synthray.stage import Stage
    from synthray.table import Table

FilterBy = Literal[
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]


@dataclass(frozen=True)
class LabelIssue(Operator):
    """Add `label_issue`, `label_quality` (0 to 1) and `suggested_label` (cleanlab; Northcutt et al. 2021).

    Each row is judged by a student that never saw it or its siblings: `folds` by hash of the parent (or the
    row), each learned from the others. `filter_by` is cleanlab's rule. Rows without text or label keep nulls.
    """

    text: str
    label: str
    folds: Annotated[int, Ge(2), Le(20)] = 5
    filter_by: FilterBy = "prune_by_noise_rate"

    @property
    def reads(self) -> tuple[str, ...]:
        """Text and label."""
        return (self.text, self.label)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return {"label_issue": pa.bool_(), "label_quality": pa.float64(), "suggested_label": pa.string()}

    def files(self) -> tuple[Path, ...]:
        """Return the student's source: another student judges otherwise."""
        return (STUDENT,)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when text or label holds no text."""
        self.require_text(before, self.text, self.label)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        narrow = self.folded(table)
        found = [self.out_of_fold(narrow, fold) for fold in range(self.folds)]
        return self.attach(table, self.marks(pa.concat_tables(found)))

    def apply(self, stage: Stage) -> None:
        """Learn the folds in tasks from narrow files; cleanlab ranks over the probabilities."""
        import ray

        columns = [name for name in ("row_id", "parent_id", self.text, self.label) if name in stage.columns]
        narrow = stage.narrow(stage.dataset(columns), self.folded, stage.path / "folds")
        # A worker takes seconds to load scikit-learn, so no more of them than can work at once.
        workers = min(self.folds, max(1, int(ray.cluster_resources().get("CPU", 1))))
        shares = [range(first, self.folds, workers) for first in range(workers)]
        found = stage.tasks(_learn, [(self, narrow, share) for share in shares])
        stage.added(self.marks(pa.concat_tables(found)))

    def folded(self, table: pa.Table) -> pa.Table:
        """Return row_id, text, label and fold of the rows that have both."""
        rows = zip(
            table["row_id"].to_pylist(),
            table["parent_id"].to_pylist() if "parent_id" in table.column_names else [None] * len(table),
            table[self.text].to_pylist(),
            table[self.label].to_pylist(),
            strict=True,
        )
        found = [
            {
                "row_id": row_id,
                "text": text,
                "label": label,
                "fold": int(uniform("fold", self.context.seed, parent or row_id) * self.folds),
            }
            for row_id, parent, text, label in rows
            if text and label is not None
        ]
        schema = [
            ("row_id", pa.string()),
            ("text", pa.string()),
            ("label", pa.string()),
            ("fold", pa.int32()),
        ]
        return pa.Table.from_pylist(found, schema=pa.schema(schema))

    def out_of_fold(self, narrow: pa.Table, fold: int) -> pa.Table:
        """Return row_id, label and class probabilities of one fold by a student of the others."""
        import pyarrow.compute as pc

        from synthray.model import student

        classes = sorted(set(narrow["label"].to_pylist()))
        here = pc.equal(narrow["fold"], fold)
        train, judged = narrow.filter(pc.invert(here)), narrow.filter(here)
        # A fixed order: the last digits of a fit depend on it.
        train, judged = train.sort_by("row_id"), judged.sort_by("row_id")
        if len(set(train["label"].to_pylist())) < 2:
            raise RunFailed(
                f"{self.step}: needs at least two labels among the rows outside of each fold, but found "
                f"{sorted(set(train['label'].to_pylist()))} in {len(train)} rows"
            )
        values: Any = []
        if len(judged):
            learned = student.fit(train["text"].to_pylist(), train["label"].to_pylist(), self.context.seed)
            values = student.probabilities(learned, judged["text"].to_pylist(), classes).tolist()
        probabilities = pa.array(values, pa.list_(pa.float64()))
        return judged.select(["row_id", "label"]).append_column("probabilities", probabilities)

    def marks(self, judged: pa.Table) -> pa.Table:
        """Return row_id and the marks, by cleanlab over all rows' probabilities."""
        import numpy as np
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        judged = judged.sort_by("row_id")
        given = judged["label"].to_pylist()
        classes = sorted(set(given))
        labels = np.array([classes.index(label) for label in given])
        probabilities = np.array(judged["probabilities"].to_pylist())
        issues = find_label_issues(labels, probabilities, filter_by=self.filter_by, n_jobs=1)
        quality = get_label_quality_scores(labels, probabilities)
        return pa.table(
            {
                "row_id": judged["row_id"],
                "label_issue": pa.array(issues, pa.bool_()),
                "label_quality": pa.array(quality, pa.float64()),
                "suggested_label": pa.array([classes[best] for best in probabilities.argmax(axis=1)]),
            }
        )


def _learn(operator: LabelIssue, narrow: Table, folds: range) -> pa.Table:
    import pyarrow.parquet as pq

    rows = pa.concat_tables(pq.read_table(file) for file in narrow.files)
    return pa.concat_tables(operator.out_of_fold(rows, fold) for fold in folds)
