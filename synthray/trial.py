"""Trials: what students answer to test rows after they learned from others, or from parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from synthray import learner, statistic
from synthray.column import filled
from synthray.learner import weights
from synthray.lineage import content_ids
from synthray.spelling import identifier
from synthray.statistic import strata
from synthray.statistic.interval import generator

if TYPE_CHECKING:
    from synthray.query import Query

SOURCES = (Path(__file__), *learner.SOURCES, *statistic.SOURCES)
"""The sources that decide what a trial answers and how it is scored, for fingerprints."""

Numbers = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Part:
    """The rows of a relation, or `number` of them: chosen by chance, `stratified` by label or not.

    `draw` names the draw: two parts of one draw are nested.
    """

    relation: str
    number: int | None = None
    draw: tuple[str | int, ...] = ()
    stratified: bool = True


@dataclass(frozen=True)
class Trial:
    """A student and the parts of rows that it learns from together."""

    student: Literal["bayes", "linear"]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Tally:
    """What a relation holds: rows with text and label, and how many of these count for each label."""

    rows: int
    counting: dict[str, int]
    digest: int = 0

    @property
    def number(self) -> int:
        """How many rows count: have a weight above 0."""
        return sum(self.counting.values())


@dataclass(frozen=True)
class Bench:
    """Where the trials are held: the columns that are read, and what draws depend on.

    Rows without text or label are left out, and rows of weight 0 are as if not there. A relation that has no
    column `weight` has the weight 1. Rows are sorted, so that no answer depends on their order.
    """

    text: str
    label: str
    weight: str | None
    seed: int
    who: str

    def tally(self, query: Query, relation: str) -> Tally:
        """Count the rows of a relation; `digest` tells whether two relations teach the same, in SQL."""
        source, weighted = self._source(query, relation)
        weight = f"CAST(coalesce({identifier(weighted)}, 1) AS DOUBLE)" if weighted else "1.0::DOUBLE"
        # Sums of whole numbers, so that the order of rows does not show.
        found = query.rows(
            f"SELECT label, count(*), count(*) FILTER ({weight} > 0), "
            f"CAST(sum(hash(row_id, text, label, {weight})::HUGEINT) FILTER ({weight} > 0) AS VARCHAR) "
            f"FROM ({source}) GROUP BY label ORDER BY label"
        )
        counting = {label: count for label, _, count, _ in found if count}
        return Tally(sum(row[1] for row in found), counting, sum(int(row[3] or 0) for row in found))

    def asked(self, query: Query, relation: str) -> pa.Table:
        """Return text and label of the test rows, sorted."""
        return query.arrow(f"{self._sql(identifier(relation))} ORDER BY ALL")

    def said(self, query: Query, trial: Trial, test: str) -> Numbers | None:
        """Return the code of the label that is said of each test row: its place among theirs, or -1.

        None where there is nothing to learn from (fewer than two labels, no word) or nothing to ask.
        """
        from synthray.model.student import Student

        train = pa.concat_tables([self.part(query, part) for part in trial.parts])
        test_rows = self.asked(query, test)
        labels = train["label"].to_pylist()
        if len(set(labels)) < 2 or not len(test_rows):
            return None
        student = Student(trial.student, self.seed)
        try:
            learned = student.fit(train["text"].to_pylist(), labels, train["weight"].to_numpy())
        except ValueError as error:
            if "empty vocabulary" in str(error):  # texts of signs alone
                return None
            raise
        answers = learned.predict(test_rows["text"].to_pylist())
        return codes(answers, classes(test_rows["label"].to_pylist()))

    def part(self, query: Query, part: Part) -> pa.Table:
        """Return text, label and weight of the rows of a part, sorted."""
        source, weighted = self._source(query, part.relation)
        held = query.arrow(f"{source} ORDER BY ALL")
        weight = weights(held, weighted, self.who).to_numpy()
        held = held.select(["text", "label"]).append_column("weight", pa.array(weight, pa.float64()))
        held = held.filter(pa.array(weight > 0))
        if part.number is None or part.number >= len(held):
            return held
        random = generator(self.seed, "part", *part.draw)
        if part.stratified:
            places = strata.order(held["label"].to_pylist(), random)
        else:
            places = random.permutation(len(held))
        return held.take(pa.array(np.sort(places[: part.number])))

    def _source(self, query: Query, relation: str) -> tuple[str, str | None]:
        """Return SQL for text, label, row_id and the weight, where there is one, and the weight's column."""
        known = query.schema(f"SELECT * FROM {identifier(relation)}").names
        weighted = self.weight if self.weight in known else None
        rows = content_ids(f"SELECT * FROM {identifier(relation)}", known)
        more = ["row_id", *([identifier(weighted)] if weighted else [])]
        return self._sql(f"({rows})", *more), weighted

    def _sql(self, source: str, *more: str) -> str:
        """Return SQL for text, label and `more` of the rows that have the first two."""
        text, label = identifier(self.text), identifier(self.label)
        listed = ", ".join([f"{text} AS text", f"{label} AS label", *more])
        return f"SELECT {listed} FROM {source} WHERE {filled(self.text)} AND {label} IS NOT NULL"


def classes(labels: Sequence[str]) -> list[str]:
    """Return the labels, each once, in the order of their codes."""
    return sorted(set(labels))


def codes(labels: Sequence[str], known: Sequence[str]) -> Numbers:
    """Return the place of each label among those that are known, or -1."""
    places = {label: place for place, label in enumerate(known)}
    return np.array([places.get(label, -1) for label in labels], np.int64)
