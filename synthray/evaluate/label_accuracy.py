"""How many labels are right, from the rows that people reviewed and what a model believes of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Lt

from synthray.errors import InputError, QueryError, RunFailed
from synthray.label import correction
from synthray.label.correction import Estimate, Stratum, joined
from synthray.metric import measurements
from synthray.operator import Measure
from synthray.query import Query
from synthray.spelling import identifier

if TYPE_CHECKING:
    import pyarrow as pa

_REVIEW = ("review_slice", "review_batch", "review_weight")
_NUMBERS = ("int", "uint", "float", "double", "decimal", "bool", "null")
_UNIT = 2**40
"""Beliefs are added up as whole numbers of this part: exact, so that no order of rows shows."""


@dataclass(frozen=True)
class LabelAccuracy(Measure):
    """Measure `accuracy`, the share of rows whose label is what people say, after curate.review.

    Its interval is prediction-powered (PPI, arXiv 2301.09633; PPI++, arXiv 2311.01453; as ARES uses it): what
    a model believes of all rows, mended by the rows that people answered. `belief` is SQL for the
    probability, from 0 to 1, that a row's label is right: `label_quality`, `(suggested_label =
    label)::INTEGER`, or 1 for none. It may be as wrong as it likes, but must not be learned from people's
    answers. Picked rows count as what they are, a stratum that is known where all are answered; the slice
    speaks for all other rows. At 95% the interval covers 94 to 98 times of 100 from 50 rows of the slice on,
    also where nearly all labels are right (benchmarks/correction.py). `classical` is the slice alone, with
    Wilson's interval; `width_ratio` the first interval's width by this one's, `tuning` how much of the model
    it takes. `outside` is the share of rows that the slice does not reach, since they came or changed after
    it was drawn: the interval of `accuracy` allows them anything. Measure before people's labels replace the
    rows': after that, answered rows say nothing of others. Per label there is a slice of accuracy. Fewer than
    two answers are NaN.
    """

    label: str = "label"
    belief: str = "label_quality"
    human: str = "human_label"
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95

    @property
    def reads(self) -> tuple[str, ...]:
        """The label, people's, and how the rows were chosen."""
        return (self.label, self.human, *_REVIEW)

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        return ("accuracy", "classical", "tuning", "width_ratio", "outside")

    def files(self) -> tuple[Path, ...]:
        """Return the source of the estimate."""
        return (Path(correction.__file__),)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the labels are no texts, or `belief` is no number for each row."""
        self.require_text(before, self.label, self.human)
        with Query({"rows": before.empty_table()}) as query:
            try:
                query.bind(self.belief, "rows")
                settled = query.expression(self.belief)
                kind = query.schema(f"SELECT row_id, ({settled}) AS belief FROM rows").field("belief").type
                if not str(kind).startswith(_NUMBERS):
                    raise QueryError(f"it is {kind}")
            except QueryError as error:
                raise InputError(
                    f"belief {self.belief!r} must be SQL for a number from 0 to 1, such as label_quality, "
                    f"(suggested_label = {self.label})::INTEGER, or 1 where there is no model: {error}"
                ) from None

    def measure(self, query: Query) -> pa.Table:
        """Estimate over all rows with a label, and for each label."""
        query.view("judged", self._judged(query))
        self._check_beliefs(query)
        groups = [_Group(*row) for row in query.rows(_GROUPS)]
        answers = [_Answer(*row) for row in query.rows(_ANSWERS)]
        reached, outside = query.rows(_REACH)[0]
        missed = outside / (reached + outside) if outside else 0.0
        every = self._estimate(groups, answers, missed)
        alone = self._alone(groups, [one for one in answers if one.drawn], missed)
        ratio = (every.high - every.low) / (alone.high - alone.low) if alone.high > alone.low else math.nan
        found = [
            _measured("accuracy", every),
            _measured("classical", alone),
            {"metric": "tuning", "value": every.tuning, "n": every.n},
            {"metric": "width_ratio", "value": ratio, "n": every.n},
            {"metric": "outside", "value": missed, "n": reached + outside},
        ]
        for label in sorted({group.label for group in groups}):
            own = [group for group in groups if group.label == label]
            of_label = self._estimate(own, [one for one in answers if one.label == label], missed)
            found.append({**_measured("accuracy", of_label), "slice": f"{self.label}={label}"})
        return measurements(found)

    def _judged(self, query: Query) -> str:
        """Return SQL for the rows with a label: stratum (null: not picked), belief and answer."""
        label, human = identifier(self.label), identifier(self.human)
        return (
            f"SELECT row_id, {label} AS label, ({query.expression(self.belief)})::DOUBLE AS belief, "
            f"({human} = {label})::INTEGER AS correct, review_slice AS slice, "
            "coalesce(review_weight, 1.0) AS weight, "
            "CASE WHEN review_slice IN ('picked', 'both') THEN coalesce(review_batch, '') END AS stratum "
            f"FROM rows WHERE {label} IS NOT NULL"
        )

    def _check_beliefs(self, query: Query) -> None:
        bad = query.rows(
            "SELECT row_id, belief FROM judged WHERE belief IS NOT NULL AND NOT (belief BETWEEN 0 AND 1) "
            "ORDER BY row_id LIMIT 1"
        )
        if bad:
            raise RunFailed(
                f"{self.step}: belief {self.belief!r} must be from 0 to 1, but is {bad[0][1]} in row_id "
                f"{bad[0][0]!r}"
            )

    def _estimate(self, groups: Sequence[_Group], answers: Sequence[_Answer], missed: float) -> Estimate:
        strata = []
        for name in sorted({group.stratum for group in groups}, key=lambda one: one or ""):
            size, belief = _total(group for group in groups if group.stratum == name)
            beyond = round(missed * size) if name is None else 0
            strata += [
                _stratum(size - beyond, belief, [one for one in answers if one.stratum == name]),
                _stratum(beyond, belief, []),
            ]
        return joined(strata, self.confidence)

    def _alone(self, groups: Sequence[_Group], drawn: Sequence[_Answer], missed: float) -> Estimate:
        size, belief = _total(groups)
        return joined([_stratum(round(size * (1 - missed)), belief, drawn)], self.confidence, tuned=False)


@dataclass(frozen=True)
class _Group:
    """Rows of one label and stratum: how many, of how many something is believed, and what in all."""

    label: str
    stratum: str | None
    size: int
    believed: int
    belief: int


@dataclass(frozen=True)
class _Answer:
    label: str
    stratum: str | None
    correct: int
    belief: float | None
    weight: float
    drawn: bool


_GROUPS = (
    "SELECT label, stratum, count(*), count(belief), "
    f"coalesce(sum(round(belief * {_UNIT})::HUGEINT), 0) "
    "FROM judged GROUP BY ALL ORDER BY ALL"
)
_ANSWERS = (
    "SELECT label, stratum, correct, belief, weight, slice <> 'picked' FROM judged "
    "WHERE correct IS NOT NULL AND slice IN ('picked', 'random', 'both') ORDER BY row_id"
)
_REACH = (
    "SELECT count(*) FILTER (WHERE slice IN ('random', 'both')), count(*) FILTER (WHERE slice = 'outside') "
    "FROM judged"
)


def _total(groups: Iterable[_Group]) -> tuple[int, float]:
    """Return the number of rows and the mean belief, of which rows without one have the others'."""
    held = list(groups)
    believed = sum(group.believed for group in held)
    belief = sum(int(group.belief) for group in held) / _UNIT / believed if believed else 0.0
    return sum(group.size for group in held), belief


def _stratum(size: int, belief: float, answers: Sequence[_Answer]) -> Stratum:
    import numpy as np

    return Stratum(
        # Rounding may leave fewer rows than were answered.
        max(size, len(answers)),
        belief,
        np.array([one.correct for one in answers], float),
        np.array([belief if one.belief is None else one.belief for one in answers], float),
        np.array([one.weight for one in answers], float),
    )


def _measured(metric: str, found: Estimate) -> dict[str, Any]:
    known = {} if math.isnan(found.value) else {"ci_low": found.low, "ci_high": found.high}
    return {"metric": metric, "value": found.value, "n": found.n, **known}
