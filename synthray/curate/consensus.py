"""Make one label of several annotators' or models', and tell what each of them is worth."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from synthray import annotation, probability
from synthray.annotation import Annotations, voted
from synthray.errors import InputError, RunFailed
from synthray.label import annotator, audit
from synthray.label.annotator import Annotators
from synthray.lineage import uniform
from synthray.metric import measurements
from synthray.operator import Operator
from synthray.probability import Probabilities
from synthray.query import Query
from synthray.spelling import identifier, quoted
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.label.vote import Votes
    from synthray.stage import Stage

_MOST_CELLS = 10_000_000

CELLS = 10_000
"""More cells of confusions than these are too many to be measurements."""


@dataclass(frozen=True)
class Consensus(Operator):
    """Add `consensus_label`, `consensus_quality`, `consensus_agreement` and an entry in `label_audit`.

    `labels` names columns, each an annotator's or a model's; `annotations` a table with the columns row_id,
    annotator and label; or both. `by` is how they come to one label:
    `majority`: of most votes; of equal ones that with the most votes in all, then the first class. Its
    quality is the share of the row's annotators that gave it, which is `consensus_agreement` always.
    `dawid_skene` (1979): of the annotators' confusions and the classes' shares, found by EM, the likeliest;
    its quality is how likely. Each count is smoothed by 0.01.
    `crowdlab` (Goh et al. 2022): cleanlab's, which weighs the annotators with a model's out-of-sample
    `probabilities`, a column of lists; rows without one are not judged. It holds all of them in one process.
    The classes are `classes`, else the task's labels, else the labels that there are, sorted.

    Measures each annotator's `annotator_quality` (slice annotator=NAME): the share of its labels that are the
    consensus, the chance that it says the true label (dawid_skene), or cleanlab's; with dawid_skene also the
    `confusion`, P(given | true), unless there are more than 10,000 cells; `annotated`, the rows that have a
    consensus; and `unknown_rows`, the row_ids of the table that are no row's, which are passed over. Rows
    without annotations have nulls. The column `label`, if named, is what the audit holds as the old label.
    """

    labels: Sequence[str] = ()
    annotations: str | None = None
    by: Literal["majority", "dawid_skene", "crowdlab"] = "dawid_skene"
    probabilities: str | None = None
    classes: Sequence[str] = ()
    label: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The labels, the probabilities and the old label."""
        one = [name for name in (self.probabilities, self.label) if name is not None]
        return tuple(dict.fromkeys([*self.labels, *one]))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The table of annotations."""
        return () if self.annotations is None else (self.annotations,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the consensus."""
        return {
            "consensus_label": pa.string(),
            "consensus_quality": pa.float64(),
            "consensus_agreement": pa.float64(),
            audit.COLUMN: audit.AUDIT,
        }

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        return ("annotated", "annotations", "unknown_rows")

    def files(self) -> tuple[Path, ...]:
        """Return the source of what reads and counts annotations."""
        return (*annotation.SOURCES, annotator.SOURCE, audit.SOURCE, Path(probability.__file__))

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for annotations that are none, and settings that cannot work together."""
        self._annotations.check(self.context, before)
        self.require_text(before, *self.labels, *([] if self.label is None else [self.label]))
        audit.check(before)
        made = {self.final(name) for name in self.adds()}
        for name in self.reads:
            if name in made:
                raise InputError(f"reads and writes the column {name!r}; give the step a name by `as: NAME`")
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"classes names a label twice: {', '.join(self.classes)}")
        if (self.by == "crowdlab") != (self.probabilities is not None):
            raise InputError(
                "by: crowdlab needs probabilities, a column with a list of them for each row, such as "
                "curate.student makes"
                if self.probabilities is None
                else f"probabilities is a setting of by: crowdlab, not of by: {self.by}"
            )
        if self.probabilities is not None:
            probability.check_column(before, self.probabilities)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Judge the rows of a whole table."""
        import pyarrow.parquet as pq

        with tempfile.TemporaryDirectory() as folder:
            path, _ = self.judged(table, Path(folder))
            marks = pq.read_table(path)
        return self.attach(table, marks.rename_columns(["row_id", *self.adds()]))

    def apply(self, stage: Stage) -> None:
        """Judge in a task: out of core, but for the different sets of votes that rows have."""
        folder = stage.path / "consensus"
        path, found = stage.tasks(_judge, [(self, stage.input, folder)])[0]
        stage.added([path])
        stage.measured(found)

    @property
    def _annotations(self) -> Annotations:
        return Annotations(self.step, self.labels, self.annotations)

    def judged(self, rows: pa.Table | Table, folder: Path) -> tuple[str, pa.Table]:
        """Write the marks of rows into a file in `folder`; return its path and the measurements."""
        named = {} if self.annotations is None else {self.annotations: self.context.tables[self.annotations]}
        classes = list(self.classes or self.context.task.labels)
        votes, marks = folder / "votes.parquet", folder / "marks.parquet"
        with Query({**named, "rows": rows}, seed=self.context.seed, writable=folder) as query:
            query.write(self._annotations.votes(query, classes), votes)
            unknown = self._annotations.unknown(query)
            total = int(query.value("SELECT count(*) FROM rows"))
        held = Table((str(votes),), "parquet")
        judge = self._by_model if self.by == "crowdlab" else self._by_votes
        with Query({"rows": rows, "voted": held}, writable=folder) as query:
            judged, found = judge(query, classes)
        with Query({"rows": rows, "voted": held, "judged": judged}, writable=folder) as query:
            query.write(self._marks(query), marks)
        given = sum(one["n"] for one in found if one["metric"] == "annotator_quality")
        counted = [
            {"metric": "annotated", "value": int(sum(judged["size"].to_pylist())), "n": total},
            {"metric": "unknown_rows", "value": unknown, "n": unknown},
            {"metric": "annotations", "value": given, "n": given},
        ]
        return str(marks), measurements([*counted, *found])

    def _marks(self, query: Query) -> str:
        """Return SQL for the marks of all rows, under their final names; `judged` is by votes or by row."""
        key = "row_id" if self.by == "crowdlab" else "votes"
        columns = query.schema("SELECT * FROM rows").names
        trail = audit.appended_sql(
            columns,
            step=self.step,
            old="NULL" if self.label is None else f"rows.{identifier(self.label)}",
            new="judged.label",
            who=quoted(self.by),
            why="concat(judged.agreeing, ' of ', judged.given, ' annotators')",
        )
        values = ["judged.label", "judged.quality", "judged.agreeing / judged.given", trail]
        named = zip(values, map(self.final, self.adds()), strict=True)
        listed = ", ".join(f"{value} AS {identifier(name)}" for value, name in named)
        return (
            f"SELECT rows.row_id, {listed} FROM rows LEFT JOIN voted ON voted.row_id = rows.row_id "
            f"LEFT JOIN judged ON judged.{key} = voted.{key}"
        )

    def _by_votes(self, query: Query, classes: Sequence[str]) -> tuple[pa.Table, list[dict[str, Any]]]:
        """Return what each set of votes comes to, and the measurements."""
        sql = "SELECT votes, count(*) AS size FROM voted GROUP BY votes ORDER BY votes"
        patterns = query.arrow(sql)
        votes = voted(patterns, classes)
        if self.by == "majority":
            labels = votes.majority()
            quality = votes.agreeing(labels) / np.maximum(1, np.diff(votes.starts))
            return _judged(patterns, votes, labels, quality), _shares(votes, labels)
        if not len(patterns):
            return _judged(patterns, votes, np.array([], np.int64), np.array([])), []
        cells = len(votes.annotators) * len(votes.classes) ** 2
        if cells > _MOST_CELLS:
            raise RunFailed(
                f"{self.step}: dawid_skene learns how each annotator confuses the classes, {cells:,} numbers "
                f"of {len(votes.annotators):,} annotators and {len(votes.classes):,} classes, more than the "
                f"{_MOST_CELLS:,} that it takes; set by: majority"
            )
        learned = Annotators.learned(votes)
        return _judged(patterns, votes, *learned.judged(votes)), _learned(votes, learned)

    def _by_model(self, query: Query, classes: Sequence[str]) -> tuple[pa.Table, list[dict[str, Any]]]:
        """Return cleanlab's judgement of each row with probabilities, and the measurements."""
        assert self.probabilities is not None
        column = identifier(self.probabilities)
        rows = query.arrow(
            f"SELECT row_id, voted.votes, 1 AS size, rows.{column} AS probabilities "
            "FROM voted JOIN rows USING (row_id) "
            f"WHERE rows.{column} IS NOT NULL ORDER BY row_id"
        )
        votes = voted(rows, classes)
        if not len(rows):
            return _judged(rows, votes, np.array([], np.int64), np.array([])), []
        reader = Probabilities(self.step, self.probabilities, votes.classes)
        chances = reader.summed(rows["probabilities"].combine_chunks(), rows["row_id"].combine_chunks())
        if not (np.diff(votes.starts) > 1).any():
            raise RunFailed(
                f"{self.step}: crowdlab learns from rows with labels of several annotators, but none of the "
                f"{len(rows)} rows has two; use by: majority, or curate.label_issue for one annotator"
            )
        labels, quality, of_annotators = self._crowdlab(votes, chances)
        made = np.bincount(votes.annotator, minlength=len(votes.annotators))
        return _judged(rows, votes, labels, quality), _qualities(votes, of_annotators, made)

    def _crowdlab(self, votes: Votes, chances: Any) -> tuple[Any, Any, Any]:
        from cleanlab.multiannotator import get_label_quality_multiannotator

        matrix = np.full((len(votes.weight), len(votes.annotators)), np.nan)
        matrix[votes.item, votes.annotator] = votes.label
        with _drawn(int(uniform("crowdlab", self.context.seed) * 2**31)):
            found = get_label_quality_multiannotator(
                matrix, chances, return_detailed_quality=False, verbose=False
            )
        quality, stats = found["label_quality"], found["annotator_stats"].sort_index()
        return (
            quality["consensus_label"].to_numpy().astype(np.int64),
            quality["consensus_quality_score"].to_numpy(),
            stats["annotator_quality"].to_numpy(),
        )


def _judge(operator: Consensus, rows: Table, folder: Path) -> tuple[str, pa.Table]:
    folder.mkdir(exist_ok=True)
    return operator.judged(rows, folder)


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """Let cleanlab break its last ties by `seed`, and say nothing of it."""
    state = np.random.get_state()  # noqa: NPY002 - cleanlab's
    np.random.seed(seed)  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _judged(given: pa.Table, votes: Votes, labels: Any, quality: Any) -> pa.Table:
    """Return `given` with label, quality, how many gave the label and how many gave any."""
    classes = pa.array(votes.classes, pa.string())
    return (
        given.append_column("label", classes.take(pa.array(labels, pa.int64())))
        .append_column("quality", pa.array(quality, pa.float64()))
        .append_column("agreeing", pa.array(votes.agreeing(labels), pa.int64()))
        .append_column("given", pa.array(np.diff(votes.starts), pa.int64()))
    )


def _made(votes: Votes) -> Any:
    """Return how many labels each annotator gave."""
    return np.bincount(votes.annotator, votes.weight[votes.item], len(votes.annotators))


def _shares(votes: Votes, labels: Any) -> list[dict[str, Any]]:
    """Return the share of each annotator's labels that are the consensus."""
    right = (labels[votes.item] == votes.label) * votes.weight[votes.item]
    made = _made(votes)
    return _qualities(votes, np.bincount(votes.annotator, right, len(votes.annotators)) / made, made)


def _learned(votes: Votes, learned: Annotators) -> list[dict[str, Any]]:
    found = _qualities(votes, learned.quality(), _made(votes))
    if learned.confusion.size > CELLS:
        return found
    for (who, true, given), value in np.ndenumerate(learned.confusion):
        place = f"true={votes.classes[true]},given={votes.classes[given]}"
        found.append(
            {
                "metric": "confusion",
                "value": float(value),
                "slice": f"annotator={votes.annotators[who]},{place}",
            }
        )
    return found


def _qualities(votes: Votes, quality: Any, made: Any) -> list[dict[str, Any]]:
    return [
        {
            "metric": "annotator_quality",
            "value": float(value),
            "n": int(count),
            "slice": f"annotator={name}",
        }
        for name, value, count in zip(votes.annotators, quality, made, strict=True)
    ]
