"""The base of operators that judge labels by a column of probabilities, as cleanlab does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from synthray import issue
from synthray.issue import Issues  # noqa: TC001 (its type is read with the settings)
from synthray.label.confident import FilterBy, Score  # noqa: TC001 (a recipe is checked against them)
from synthray.operator import Operator

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage


@dataclass(frozen=True)
class Judge(Operator):
    """Base of operators that judge given probabilities; `kind` says what labels are and what is added."""

    kind: ClassVar[type[Issues]]

    label: str
    probabilities: str
    classes: Sequence[str] | Literal["task.labels"] = ()
    filter_by: FilterBy = "prune_by_noise_rate"
    score: Score = "self_confidence"
    adjusted: bool = False
    frac_noise: Annotated[float, Ge(0), Le(1)] = 1.0
    min_examples_per_class: Annotated[int, Ge(0)] = 1

    @property
    def reads(self) -> tuple[str, ...]:
        """Labels and probabilities."""
        return (self.label, self.probabilities)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return self.kind.adds

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        return ("rate",)

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what judges."""
        return (Path(__file__), *issue.SOURCES)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when columns or settings cannot be what they must be."""
        self.kind.of(self).check(before)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        return self.attach(table, self.kind.of(self).found(table))

    def apply(self, stage: Stage) -> None:
        """Judge the rows in tasks."""
        self.kind.of(self).search(stage)
