"""How far annotators, models and people agree on the labels, beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from synthray import annotation
from synthray.annotation import Annotations, voted
from synthray.errors import InputError
from synthray.label import agreement
from synthray.lineage import uniform
from synthray.metric import measurements
from synthray.operator import Measure

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.label.agreement import Agreement as Found
    from synthray.query import Query


@dataclass(frozen=True)
class Agreement(Measure):
    """Measure `cohen_kappa`, `fleiss_kappa`, `krippendorff_alpha` and `agreement` of labels of the same rows.

    `labels` names columns, each an annotator's, such as [label, human_label]; `annotations` a table with the
    columns row_id, annotator and label; or both. Only rows count that two or more have labelled; each n says
    how many. `agreement` is the chance that two of a row's annotators agree, the mean over rows. Fleiss'
    kappa takes as chance the shares of all labels, and Krippendorff's alpha weights a row by its labels; both
    take any number of annotators and missing labels. Cohen's kappa has a slice pair=A,B for each pair of
    annotators, those with the most rows in common first, at most `pairs`; without a slice it is their mean
    (Light 1971), of two annotators their kappa. All are of nominal labels; 1 is perfect, 0 as by chance, NaN
    not defined: no row in common, or one label alone. `unknown_rows` are the row_ids of the table that are no
    row's. Intervals are percentiles of `resamples` bootstrap samples of the rows, at `confidence`.
    """

    labels: Sequence[str] = ()
    annotations: str | None = None
    pairs: Annotated[int, Ge(0), Le(1000)] = 100
    resamples: Annotated[int, Ge(100), Le(100_000)] = 1000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95

    @property
    def reads(self) -> tuple[str, ...]:
        """The labels."""
        return tuple(dict.fromkeys(self.labels))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The table of annotations."""
        return () if self.annotations is None else (self.annotations,)

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured."""
        return ("agreement", "fleiss_kappa", "krippendorff_alpha", "cohen_kappa", "unknown_rows")

    def files(self) -> tuple[Path, ...]:
        """Return the source of what reads annotations and of the coefficients."""
        return (*annotation.SOURCES, agreement.SOURCE)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for annotations that are none, or of one annotator alone."""
        self._annotations.check(self.context, before)
        self.require_text(before, *self.labels)
        if len(self.labels) == 1 and self.annotations is None:
            raise InputError(
                f"labels names one column alone, {self.labels[0]!r}; name those that it is compared with"
            )

    def measure(self, query: Query) -> pa.Table:
        """Count in SQL how many rows have which labels, and compare these."""
        votes = voted(
            query.arrow(
                f"SELECT votes, count(*) AS size FROM ({self._annotations.votes(query)}) "
                "GROUP BY votes ORDER BY votes"
            )
        )
        seed = int(uniform("bootstrap", self.context.seed) * 2**31)
        found = agreement.agreements(votes, self.resamples, self.confidence, seed, self.pairs)
        unknown = self._annotations.unknown(query)
        told = [_measurement(one) for one in found]
        return measurements([*told, {"metric": "unknown_rows", "value": unknown, "n": unknown}])

    @property
    def _annotations(self) -> Annotations:
        return Annotations(self.step, self.labels, self.annotations)


def _measurement(found: Found) -> dict[str, Any]:
    return {
        "metric": found.name,
        "value": found.value,
        "ci_low": found.low,
        "ci_high": found.high,
        "n": found.rows,
        "slice": "pair=" + ",".join(found.pair) if found.pair else None,
    }
