"""Bring what people said of the labels back to the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from synthray import review
from synthray.errors import InputError, SourceError, near
from synthray.label import audit
from synthray.metric import measurements
from synthray.operator import Operator
from synthray.query import Query
from synthray.review import CHANCE, UNNAMED, Answer, Place, Reviews, listed
from synthray.spelling import identifier, quoted
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.stage import Stage


@dataclass(frozen=True)
class Review(Operator):
    """Add `human_label`, `human_count` and where people's answers come from; `synthray review` asks them.

    Run, `synthray review RUN`, let people fill in the file, `synthray review RUN --import FILE`, and run
    again: the answers reach this step, all after it is made anew, and no call is repaid. `human_label` is the
    label that most reviewers gave, null where two are equally frequent, `human_count` the number of
    reviewers. A row that was asked about has `review_slice` (picked, random or both), `review_batch` and
    `review_weight`, the number of rows that it stands for: 1 when it was picked, else the inverse of the
    chance to be drawn. A row that its chance would have drawn, had it been there or had it had this text, is
    'outside' the slice. An answer is about a text: where a row_id has another one now, the answer is left
    out, and counted as stale. The label stays: `derive: {label: "coalesce(human_label, label)"}` takes
    people's. `label_audit` has an entry more for each row with answers. `reviews` names other answers than
    the run's own: another run, or a named table or a file with row_id, human_label and maybe reviewer.
    """

    label: str = "label"
    text: str = "text"
    reviews: str | None = None
    base: str = "."

    @property
    def reads(self) -> tuple[str, ...]:
        """Label and text."""
        return (self.label, self.text)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The named table of answers."""
        known = {*self.context.schemas, *self.context.tables}
        return (self.reviews,) if self.reviews in known else ()

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return people's label, where it comes from and the trail."""
        return {
            "human_label": pa.string(),
            "human_count": pa.int32(),
            "review_slice": pa.string(),
            "review_batch": pa.string(),
            "review_weight": pa.float64(),
            audit.COLUMN: audit.AUDIT,
        }

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is counted."""
        return ("reviewed", "ties", "stale")

    def settings(self) -> dict[str, Any]:
        """Return what decides the answers; where a file lies does not."""
        return {name: value for name, value in super().settings().items() if name != "base"}

    def files(self) -> tuple[Path, ...]:
        """Return our sources and the answers: with new ones the step is made again."""
        held = (Path(review.__file__), audit.SOURCE)
        if self.table_names:
            return held
        if folder := self._folder():
            return (*held, *Reviews(folder).files())
        return (*held, *map(Path, self._file().paths)) if self.reviews else held

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when a column holds no text, or `reviews` no answers."""
        self.require_text(before, self.label, self.text)
        audit.check(before)
        if self.reviews is None or self._folder():
            return
        if self.table_names:
            schema = self.context.schemas[self.reviews]
        else:
            with Query({"answers": self._file()}) as query:
                schema = query.schema("SELECT * FROM answers")
        for name in ("row_id", "human_label"):
            if name not in schema.names:
                raise InputError(f"reviews {self.reviews!r} has no column {name!r}{near(name, schema.names)}")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Bring the answers to the rows of a whole table."""
        found = self._answers()
        with Query({"rows": table}, seed=found.seed) as query:
            return self.attach(table, self.marks(found, self._rows(query, found, table.column_names)))

    def apply(self, stage: Stage) -> None:
        """Read the rows that people were asked about; all others keep nulls."""
        found = self._answers()
        with Query({"rows": stage.input}, seed=found.seed) as query:
            rows = self._rows(query, found, stage.columns)
        marks = self.marks(found, rows)
        stage.added(marks)
        stage.measured(self.counted(found, rows, marks))

    # Where the answers are.

    def _folder(self) -> Path | None:
        """Return the reviews' folder of a run, this one or the one that `reviews` names."""
        if self.reviews is None:
            return Path(self.context.reviews) if self.context.reviews else None
        path = Path(self.base) / Path(self.reviews).expanduser()
        return path / "reviews" if not self.table_names and (path / "run.json").is_file() else None

    def _file(self) -> Table:
        assert self.reviews is not None
        try:
            return Table.find(self.reviews, Path(self.base))
        except SourceError as error:
            known = near(self.reviews, self.context.schemas) if self.context.schemas else ""
            raise InputError(
                f"reviews {self.reviews!r} is no table of the recipe{known}; no run; {error}"
            ) from None

    def _answers(self) -> Reviews:
        folder = self._folder()
        if folder or self.reviews is None:
            return Reviews(folder)
        table = self.context.tables[self.reviews] if self.table_names else self._file()
        with Query({"answers": table}) as query:
            who = "reviewer" if "reviewer" in query.schema("SELECT * FROM answers").names else "NULL"
            rows = query.rows(
                f"SELECT row_id::VARCHAR, human_label::VARCHAR, coalesce({who}::VARCHAR, {quoted(UNNAMED)}) "
                "FROM answers WHERE row_id IS NOT NULL AND human_label <> '' ORDER BY ALL"
            )
        return Reviews(None, [Answer(*row) for row in rows])

    # What they say.

    def _rows(self, query: Query, found: Reviews, columns: Sequence[str]) -> pa.Table:
        """Return the rows that were asked about, could be in the slice, or have a trail to keep."""
        trail = audit.COLUMN in columns
        cutoff = found.cutoff()
        text = identifier(self.text)
        rows = (
            f"SELECT row_id, {identifier(self.label)} AS label, md5(coalesce({text}, '')) AS digest, "
            f"{f'chance(row_id, {quoted(CHANCE)}) <= {cutoff!r}' if cutoff else 'false'} AS below"
            f"{f', {audit.COLUMN}' if trail else ''} FROM rows"
        )
        names = listed(found.names())
        return query.arrow(
            f"SELECT * FROM ({rows}) WHERE below OR row_id IN ({names})"
            f"{f' OR {audit.COLUMN} IS NOT NULL' if trail else ''} ORDER BY row_id"
        )

    def marks(self, found: Reviews, rows: pa.Table) -> pa.Table:
        """Return row_id and what stands beside `rows`."""
        ids, digests = rows["row_id"].to_pylist(), _digests(rows)
        said, places = found.said(digests), found.places(digests)
        reached = found.asked(lambda row: row.slice)
        for row_id, digest, below in zip(ids, digests.values(), rows["below"].to_pylist(), strict=True):
            if below and (row_id, digest) not in reached:
                places[row_id] = Place("outside", None, None)
        nowhere = Place(None, None, None)
        votes = [Counter(answer.label for answer in said.get(row_id, ())) for row_id in ids]
        labels = [review.majority(said.get(row_id, ())) for row_id in ids]
        stand = [places.get(row_id, nowhere) for row_id in ids]
        judged = [bool(vote) for vote in votes]
        trail = audit.appended(
            rows,
            judged,
            step=self.step,
            old=rows["label"],
            new=labels,
            who=[", ".join(sorted(answer.reviewer for answer in said.get(row_id, ()))) for row_id in ids],
            why=[", ".join(f"{label} {count}" for label, count in sorted(vote.items())) for vote in votes],
        )
        columns = {
            "row_id": ids,
            "human_label": labels,
            "human_count": [
                vote.total() if vote or place.batch else None
                for vote, place in zip(votes, stand, strict=True)
            ],
            "review_slice": [place.slice for place in stand],
            "review_batch": [place.batch for place in stand],
            "review_weight": [
                None if label is None else place.weight for place, label in zip(stand, labels, strict=True)
            ],
            audit.COLUMN: trail,
        }
        schema = pa.schema([("row_id", pa.string()), *self.adds().items()])
        return pa.table(columns, schema=schema)

    def counted(self, found: Reviews, rows: pa.Table, marks: pa.Table) -> pa.Table:
        """Return how many rows have answers, as many for one label as for another, or of another text."""
        answered = pc.greater(marks["human_count"].fill_null(0), 0)
        ties = pc.and_(answered, marks["human_label"].is_null())
        counts = {
            "reviewed": pc.sum(answered).as_py() or 0,
            "ties": pc.sum(ties).as_py() or 0,
            "stale": found.stale(_digests(rows)),
        }
        asked = len(found.names())
        return measurements([{"metric": name, "value": value, "n": asked} for name, value in counts.items()])


def _digests(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["row_id"].to_pylist(), rows["digest"].to_pylist(), strict=True))
