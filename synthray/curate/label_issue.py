"""Mark rows whose label does not fit their text, by confident learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
from annotated_types import Ge, Le

from synthray import issue
from synthray.errors import InputError, RunFailed
from synthray.issue import Issues
from synthray.label.confident import FilterBy, Score  # noqa: TC001 (a recipe is checked against them)
from synthray.lineage import uniform
from synthray.model import STUDENT
from synthray.operator import Operator
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.stage import Stage


@dataclass(frozen=True)
class LabelIssue(Operator):
    """Add `label_issue`, `label_quality` (0 to 1) and `suggested_label` (cleanlab; Northcutt et al. 2021).

    By the class probabilities in the column `probabilities`, which should be of a model that did not learn
    from the row, in the order of `classes` (a list, or task.labels), else of the sorted labels. Or by
    `text`: each row is judged by a student that never saw it or its siblings, `folds` by hash of the parent
    (or the row), each learned from the others.

    `filter_by` is cleanlab's rule, `score` what it measures quality by, with `adjusted` after probabilities
    were adjusted by each class's mean; `frac_noise` is the share of the estimated errors that is marked, and
    `min_examples_per_class` rows of each class never are. Marks are cleanlab's own over all rows in the order
    of row_id. Rows without a label, or without text or probabilities, keep nulls. Measures `rate`, each
    class's `threshold` and the matrix `noise`: slice 'given=A,true=B' is P(given A | true B).
    """

    label: str
    text: str | None = None
    probabilities: str | None = None
    classes: Sequence[str] | Literal["task.labels"] = ()
    folds: Annotated[int, Ge(2), Le(20)] = 5
    filter_by: FilterBy = "prune_by_noise_rate"
    score: Score = "self_confidence"
    adjusted: bool = False
    frac_noise: Annotated[float, Ge(0), Le(1)] = 1.0
    min_examples_per_class: Annotated[int, Ge(0)] = 1

    @property
    def reads(self) -> tuple[str, ...]:
        """Label, and text or probabilities."""
        return tuple(name for name in (self.text, self.label, self.probabilities) if name is not None)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return Issues.adds

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what judges: another student judges otherwise."""
        return issue.SOURCES if self.probabilities else (*issue.SOURCES, STUDENT)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when columns or settings cannot be what they must be."""
        if (self.text is None) == (self.probabilities is None):
            raise InputError(
                "needs text, from which a student learns the probabilities, or the column of probabilities; "
                f"{'neither is' if self.text is None else 'both are'} set"
            )
        if self.text is not None:
            self.require_text(before, self.text, self.label)
            if self.classes:
                raise InputError("classes is the order of given probabilities; a student has its own")
        self.issues.check(before)

    @property
    def issues(self) -> Issues:
        """What judges rows by probabilities, given ones or the student's."""
        if self.probabilities is not None:
            return Issues.of(self)
        return Issues.of(self, label="label", probabilities="probabilities", classes=())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        judged = table if self.probabilities else self.learned(table)
        return self.attach(table, self.issues.found(judged))

    def apply(self, stage: Stage) -> None:
        """Judge given probabilities where they stand; or learn the folds in tasks and judge those."""
        self.issues.search(stage, None if self.probabilities else self.learn(stage))

    # The student.

    def learned(self, table: pa.Table) -> pa.Table:
        """Return row_id, label and the student's probabilities of the rows of a whole table."""
        narrow = self.folded(table)
        return pa.concat_tables(self.out_of_fold(narrow, fold) for fold in range(self.folds))

    def learn(self, stage: Stage) -> Table:
        """Return the files of row_id, label and the student's probabilities, a task for some of the folds."""
        import ray

        columns = ["row_id", "parent_id", self.text or "", self.label]
        dataset = stage.dataset([name for name in columns if name in stage.columns])
        narrow = stage.narrow(dataset, self.folded, stage.path / "folds")
        # A worker takes seconds to load scikit-learn, so no more of them than can work at once.
        workers = min(self.folds, max(1, int(ray.cluster_resources().get("CPU", 1))))
        shares = [range(first, self.folds, workers) for first in range(workers)]
        folder = stage.path / "learned"
        folder.mkdir()
        found = stage.tasks(_learn, [(self, narrow, share, folder) for share in shares])
        return Table(tuple(file for files in found for file in files), "parquet")

    def folded(self, table: pa.Table) -> pa.Table:
        """Return row_id, text, label and fold of the rows that have both."""
        rows = zip(
            table["row_id"].to_pylist(),
            table["parent_id"].to_pylist() if "parent_id" in table.column_names else [None] * len(table),
            table[self.text or ""].to_pylist(),
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
            learner = student.Student("linear", self.context.seed)
            learned = learner.fit(train["text"].to_pylist(), train["label"].to_pylist())
            values = learned.probabilities(judged["text"].to_pylist(), classes).tolist()
        probabilities = pa.array(values, pa.list_(pa.float64()))
        return judged.select(["row_id", "label"]).append_column("probabilities", probabilities)


def _learn(operator: LabelIssue, narrow: Table, folds: range, folder: Path) -> list[str]:
    import pyarrow.parquet as pq

    rows = pa.concat_tables(pq.read_table(file) for file in narrow.files)
    files = [str(folder / f"fold-{fold}.parquet") for fold in folds]
    for file, fold in zip(files, folds, strict=True):
        pq.write_table(operator.out_of_fold(rows, fold), file)
    return files
