"""Label issues among rows that have a label and class probabilities: read, judged in passes over their files.

Each pass is a task for a share of the row groups, which streams them; what the tasks return adds up to the
same for any shares (see `synthray.label.confident`). So the answer is that of all rows in one process, sorted
by row_id.
"""

from __future__ import annotations

import functools
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthray import cluster, probability
from synthray.column import is_text, one_array
from synthray.errors import InputError, RunFailed, near
from synthray.label import confident
from synthray.label.confident import Cut, End, FilterBy, Items, Joint, Lowest, Numbers, Score, Sums
from synthray.metric import measurements
from synthray.probability import Probabilities, check_column
from synthray.query import Query
from synthray.spelling import identifier
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.operator import Operator
    from synthray.stage import Stage

SOURCES = (Path(__file__), Path(probability.__file__), Path(confident.__file__))
"""This source and those it stands on, for fingerprints."""

_ROWS, _LEAST_ROWS = 32_768, 256
"""Rows that are read at once."""

_VALUES = 1 << 20
"""Probabilities that are read at once."""

_TIED = 1 << 25
"""Values of tied cuts that one task holds."""

Share = list[tuple[str, list[int]]]
"""Files, and the row groups of each."""

Pass = Callable[..., list[Any]]


@dataclass
class Judged:
    """The rows of a batch that can be judged: their ids, and the items of each problem.

    There is one problem, or one for each class where a row may have several labels. `rows` names the row of
    each item where a row has several.
    """

    ids: pa.Array
    problems: list[Items]
    rows: Numbers | None = None

    def row_ids(self, places: Numbers) -> pa.Array:
        """Return the row_id of each of some items."""
        return self.ids.take(pa.array(places if self.rows is None else self.rows[places]))

    def keys(self, places: Numbers) -> pa.Array:
        """Return a name for each of some items, the same in every pass."""
        ids = self.row_ids(places)
        if self.rows is None:
            return ids
        inside = places - np.searchsorted(self.rows, self.rows[places])
        return pc.binary_join_element_wise(ids, pa.array(inside).cast(pa.string()), "\x1f")


@dataclass(frozen=True)
class Decided:
    """What all rows together decide, per problem: thresholds and joints; and the cuts over all problems."""

    sums: list[Sums]
    joints: list[Joint] = field(default_factory=list)
    cuts: list[tuple[int, Cut]] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    ties: dict[int, pa.Array] = field(default_factory=dict)

    def of(self, problem: int) -> tuple[list[int], list[Cut]]:
        """Return the places of a problem's cuts, and the cuts."""
        places = [place for place, (own, _) in enumerate(self.cuts) if own == problem]
        return places, [self.cuts[place][1] for place in places]


@dataclass(frozen=True)
class Issues:
    """What finds the label issues of rows with one label each and a list of class probabilities."""

    step: str
    label: str
    probabilities: str
    classes: tuple[str, ...] = ()
    filter_by: FilterBy = "prune_by_noise_rate"
    score: Score = "self_confidence"
    adjusted: bool = False
    frac_noise: float = 1.0
    min_examples_per_class: int = 1
    prefix: str = ""

    adds: ClassVar[Mapping[str, pa.DataType]] = {
        "label_issue": pa.bool_(),
        "label_quality": pa.float64(),
        "suggested_label": pa.string(),
    }
    labels: ClassVar[str] = "SELECT DISTINCT {label} AS label FROM rows"
    items_per_row: ClassVar[int] = 1

    # What the operators ask.

    @classmethod
    def of(cls, operator: Operator, **others: Any) -> Self:
        """Return what judges for an operator: its settings of these names, or `others`."""
        given, task = operator.settings(), tuple(operator.context.task.labels)
        held = {one.name: given[one.name] for one in fields(cls) if one.name in given}
        if held["classes"] == "task.labels" and not task:
            raise InputError("classes is task.labels, but the task has no labels")
        held["classes"] = task if held["classes"] == "task.labels" else tuple(held["classes"])
        return cls(**{**held, "step": operator.step, "prefix": operator.context.prefix, **others})

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when columns or settings cannot be what they must be."""
        self.check_label(before)
        self.check_column(before)
        if self.adjusted and self.score == "confidence_weighted_entropy":
            raise InputError(
                "adjusted goes with score self_confidence or normalized_margin, not with "
                "confidence_weighted_entropy"
            )
        twice = sorted({one for one in self.classes if self.classes.count(one) > 1})
        if twice:
            raise InputError(f"classes names {twice[0]!r} twice")
        if len(self.classes) == 1:
            raise InputError(f"classes must name at least two, but names {self.classes[0]!r} alone")

    def check_label(self, before: pa.Schema) -> None:
        """Raise an InputError when the label column is there but holds no text."""
        if self.label in before.names and not is_text(kind := before.field(self.label).type):
            raise InputError(f"column {self.label!r} must hold text, but is {kind}")

    def check_column(self, before: pa.Schema) -> None:
        """Raise an InputError when the probabilities are there but are no lists of numbers."""
        check_column(before, self.probabilities)

    def found(self, table: pa.Table) -> pa.Table:
        """Return row_id and the columns of the rows of a table that can be judged."""
        with Query({"rows": table.select([self.label])}) as query:
            bound = self.bound(query)
        held = [bound.read(batch) for batch in table.to_batches(max_chunksize=bound.rows_at_once)]
        decided = bound.decided(
            lambda function, *given: [function(bound, held, *given)],
            lambda function, every: [function(bound, held, *given) for given in every],
        )
        return pa.concat_tables(bound.marks(judged, decided) for judged in held)

    def search(self, stage: Stage, rows: Table | None = None) -> None:
        """Judge the rows of a stage, or `rows`, in tasks; keep the columns and the measurements."""
        bound, parts = self.shared(stage, rows)
        each = bound.each(stage, parts)
        every_part = [one for part in parts for one in part]
        decided = bound.decided(
            each,
            lambda function, every: stage.tasks(
                _over, [(bound, every_part, function, *given) for given in every]
            ),
        )
        folder = stage.path / f"marks-{uuid.uuid4().hex}"
        folder.mkdir()
        written = each(_mark, decided, folder)
        stage.added([path for path, _, _ in written if path])
        counts = sum(judged for _, judged, _ in written), sum(issues for _, _, issues in written)
        stage.measured(bound.measurements(decided, *counts))

    def shared(self, stage: Stage, rows: Table | None = None) -> tuple[Self, list[Share]]:
        """Return itself with its classes, and the shares of the rows of a stage, or of `rows`."""
        rows = rows or self._files(stage)
        with stage.over({"rows": rows}) as query:
            bound = self.bound(query)
        return bound, shares(rows.files, stage.blocks or cluster.cores())

    def each(self, stage: Stage, parts: list[Share]) -> Pass:
        """Return what runs a function of this, batches and further arguments in a task for each share."""
        return lambda function, *given: stage.tasks(_over, [(self, part, function, *given) for part in parts])

    def bound(self, query: Query) -> Self:
        """Return itself with the classes: those given, else the labels of `rows` in sorted order."""
        sql = self.labels.format(label=identifier(self.label))
        labels = [label for (label,) in query.rows(f"SELECT label FROM ({sql}) WHERE label IS NOT NULL")]
        unknown = sorted(set(labels) - set(self.classes)) if self.classes else []
        if unknown:
            raise RunFailed(
                f"{self.step}: column {self.label!r} holds {unknown[0]!r}, which is none of the classes"
                f"{near(unknown[0], self.classes)}"
            )
        classes = self.classes or tuple(sorted(labels))
        if len(self.counted(labels, classes)) < 2:
            raise RunFailed(
                f"{self.step}: needs at least two labels among the rows, but found {sorted(labels)} "
                f"in column {self.label!r}"
            )
        return replace(self, classes=classes)

    def counted(self, labels: Sequence[str], classes: Sequence[str]) -> Sequence[str]:
        """Return of what there must be two."""
        return labels

    @property
    def rows_at_once(self) -> int:
        """How many rows are read at once, so that a batch stays small."""
        return max(_LEAST_ROWS, min(_ROWS, _VALUES // (self.items_per_row * max(1, len(self.classes)))))

    # What differs by the kind of labels.

    def read(self, batch: pa.Table | pa.RecordBatch) -> Judged:
        """Return the rows of a batch that have label and probabilities; RunFailed where values are wrong."""
        ids, labels, lists = self.there(batch)
        matrix = self.held.summed(lists, ids)
        return Judged(ids, [Items(self.codes(labels), matrix)])

    def marks(self, judged: Judged, decided: Decided) -> pa.Table:
        """Return row_id and the columns."""
        items = judged.problems[0]
        return pa.table(
            {
                "row_id": judged.ids,
                "label_issue": pa.array(self.doubted(judged, decided, 0)),
                "label_quality": pa.array(self.quality(items, decided.sums[0])),
                "suggested_label": self.named(items.probabilities.argmax(axis=1)),
            }
        )

    def measurements(self, decided: Decided, rows: int, issues: int) -> pa.Table:
        """Return the `rate` of rows with an issue, each class's `threshold`, and the `noise` matrix.

        The slice 'given=A,true=B' of `noise` is P(given A | true B), and n the rows that were confidently so;
        pairs without any are left out.
        """
        found: list[dict[str, Any]] = [{"metric": "rate", "value": issues / rows, "n": rows}]
        return measurements(found + self.noise(decided.sums[0], decided.joints[0], self.classes))

    def noise(self, sums: Sums, joint: Joint, names: Sequence[str], within: str = "") -> list[dict[str, Any]]:
        """Return the measurements of one problem; their slices begin with `within`."""
        matrix = confident.noise(joint.calibrated(sums.counts), sums.counts)
        found: list[dict[str, Any]] = [
            {"metric": "threshold", "value": float(value), "n": count, "slice": f"{within}given={name}"}
            for name, value, count in zip(names, sums.thresholds, sums.counts, strict=True)
            if count
        ]
        return found + [
            {
                "metric": "noise",
                "value": float(matrix[given, true]),
                "n": int(joint.counts[given, true]),
                "slice": f"{within}given={names[given]},true={names[true]}",
            }
            for given, true in np.argwhere(matrix > 0).tolist()
        ]

    # What all rows decide.

    def decided(self, each: Pass, whole: Pass) -> Decided:
        """Return what all rows decide.

        `each` gives what a function of batches and further arguments returns for every share, `whole` what
        it returns for all rows with each of several lists of arguments.
        """
        sums = self.sums(each)
        joints: list[Joint] = _added(each(_joints, sums))
        decided = Decided(sums, joints, self.cuts(sums, joints))
        if not decided.cuts:
            return decided
        lowest: Lowest = functools.reduce(operator.add, each(_lowest, decided))
        decided = replace(decided, ends=lowest.ends())
        found = whole(_ties, [(decided, group) for group in self._tied(decided)])
        return replace(decided, ties={place: keys for group in found for place, keys in group})

    def sums(self, each: Pass) -> list[Sums]:
        """Return the sums of all rows, per problem."""
        sums: list[Sums] = _added(each(_sums))
        if not sums:
            raise RunFailed(
                f"{self.step}: no row has both {self.label!r} and {self.probabilities!r}, so that there is "
                "nothing to judge"
            )
        return sums

    def joints(self, judged: Judged, sums: list[Sums]) -> list[Joint]:
        """Return the counts of a batch, per problem."""
        return [Joint.of(items, own.thresholds) for items, own in zip(judged.problems, sums, strict=True)]

    def cuts(self, sums: list[Sums], joints: list[Joint]) -> list[tuple[int, Cut]]:
        """Return the cuts, with the problem that each is of."""
        return [
            (problem, cut)
            for problem, (held, joint) in enumerate(zip(sums, joints, strict=False))
            for cut in confident.cuts(
                self.filter_by, held.counts, joint, self.frac_noise, self.min_examples_per_class
            )
        ]

    def values(self, judged: Judged, decided: Decided) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Yield for each cut that concerns a batch its place, its items' places, and their values."""
        for problem, items in enumerate(judged.problems):
            places, made = decided.of(problem)
            for place, where, found in confident.values(items, made):
                yield places[place], where, found

    def taken(self, judged: Judged, decided: Decided, place: int, where: Numbers, found: Numbers) -> Numbers:
        """Return which of a cut's items are cut off."""
        end = decided.ends[place]
        if not end.tied:
            return found <= end.value
        below = found < end.value
        at = np.flatnonzero(found == end.value)
        below[at] = np.asarray(pc.is_in(judged.keys(where[at]), decided.ties[place]))
        return below

    def doubted(self, judged: Judged, decided: Decided, problem: int) -> Numbers:
        """Return which items of a problem have an issue."""
        places, made = decided.of(problem)

        def taken(place: int, where: Numbers, found: Numbers) -> Numbers:
            return self.taken(judged, decided, places[place], where, found)

        thresholds = decided.sums[problem].thresholds
        return confident.doubted(judged.problems[problem], self.filter_by, thresholds, made, taken)

    def quality(self, items: Items, sums: Sums) -> Numbers:
        """Return the score of each item of a problem."""
        return confident.score(items, self.score, sums.thresholds if self.adjusted else None)

    def _tied(self, decided: Decided) -> list[list[int]]:
        """Return the tied cuts in groups of neighbours that a task can hold."""
        groups: list[list[int]] = []
        held = _TIED
        for place in (place for place, end in enumerate(decided.ends) if end.tied):
            problem, cut = decided.cuts[place]
            counts = decided.sums[problem].counts
            size = counts[cut.given] if cut.given >= 0 else sum(counts)
            if held + size > _TIED:
                groups.append([])
                held = 0
            groups[-1].append(place)
            held += size
        return groups

    def codes(self, labels: pa.Array) -> Numbers:
        """Return the number of each label's class."""
        places = pc.index_in(labels.cast(pa.string()), pa.array(self.classes, pa.string()))
        return np.asarray(places).astype(np.int64)

    def named(self, codes: Numbers) -> pa.Array:
        """Return the classes of these numbers."""
        return pa.array(self.classes, pa.string()).take(pa.array(codes))

    @property
    def held(self) -> Probabilities:
        """What reads the probabilities."""
        return Probabilities(self.step, self.probabilities, self.classes)

    def there(self, batch: pa.Table | pa.RecordBatch) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Return row_id, label and probabilities of the rows of a batch that have both."""
        found = [one_array(batch[name]) for name in ("row_id", self.label, self.probabilities)]
        valid = pc.and_(pc.is_valid(found[1]), pc.is_valid(found[2]))
        ids, labels, lists = found if pc.all(valid).as_py() else [one.filter(valid) for one in found]
        return ids, labels, lists

    def _files(self, stage: Stage) -> Table:
        """Return Parquet files with the columns that are read."""
        import pyarrow.parquet as pq

        columns = ("row_id", self.label, self.probabilities)
        rows, *groups = (
            [set(pq.read_schema(file).names) for file in files]
            for files in (stage.input.files, *stage.input.added)
        )
        hidden = {name for group in groups for names in group for name in names}
        if not hidden & set(columns[1:]) and all(names.issuperset(columns) for names in rows):
            return Table(stage.input.files, "parquet")
        path = stage.path / f"joined-{uuid.uuid4().hex}.parquet"
        listed = ", ".join(identifier(name) for name in columns)
        stage.query.write(f"SELECT {listed} FROM rows", path, group_rows=stage.rows_per_block)
        return Table((str(path),), "parquet")


def shares(files: Sequence[str], number: int) -> list[Share]:
    """Deal the row groups of files into at most `number` shares of neighbours, of about as many rows each."""
    import pyarrow.parquet as pq

    groups: list[tuple[str, int, int]] = []
    for file in files:
        held = pq.read_metadata(file)
        groups += [(file, place, held.row_group(place).num_rows) for place in range(held.num_row_groups)]
    ends = np.cumsum([rows for _, _, rows in groups])
    found: dict[int, dict[str, list[int]]] = {}
    for (file, place, rows), end in zip(groups, ends.tolist(), strict=True):
        middle = end - rows / 2
        found.setdefault(int(middle * number / max(1, ends[-1])), {}).setdefault(file, []).append(place)
    return [list(share.items()) for share in found.values()]


# What a task does with its share.


def _over(issues: Issues, share: Share, function: Callable[..., Any], *given: Any) -> Any:
    return function(issues, _batches(issues, share), *given)


def _batches(issues: Issues, share: Share) -> Iterator[Judged]:
    import pyarrow.parquet as pq

    columns = ["row_id", issues.label, issues.probabilities]
    for file, groups in share:
        with pq.ParquetFile(file) as held:
            for batch in held.iter_batches(issues.rows_at_once, row_groups=groups, columns=columns):
                yield issues.read(batch)


def _sums(issues: Issues, batches: Iterable[Judged]) -> list[Sums]:
    return _added([Sums.of(items) for items in judged.problems] for judged in batches if len(judged.ids))


def _joints(issues: Issues, batches: Iterable[Judged], sums: list[Sums]) -> list[Joint]:
    return _added(issues.joints(judged, sums) for judged in batches if len(judged.ids))


def _added(found: Iterable[list[Any]]) -> list[Any]:
    """Return the sum of lists, item by item; of no lists, or of empty ones alone, an empty one."""
    total: list[Any] = []
    for one in found:
        total = [a + b for a, b in zip(total, one, strict=True)] if total and one else total or one
    return total


def _lowest(issues: Issues, batches: Iterable[Judged], decided: Decided) -> Lowest:
    lowest = Lowest([cut.number for _, cut in decided.cuts])
    for judged in batches:
        for place, _, found in issues.values(judged, decided):
            lowest.add(place, found)
    return lowest.shrunk()


def _ties(
    issues: Issues, batches: Iterable[Judged], decided: Decided, places: list[int]
) -> list[tuple[int, pa.Array]]:
    """Return for tied cuts the keys of the items at the end that are cut off."""
    only = replace(decided, cuts=[decided.cuts[place] for place in places])
    # Cuts of one class are of the same items: their keys are held once.
    of = [(problem, cut.given) for problem, cut in only.cuts]
    ids: dict[tuple[int, int], list[pa.Array]] = {one: [] for one in of}
    keys: dict[tuple[int, int], list[pa.Array]] = {one: [] for one in of}
    held: list[list[Numbers]] = [[] for _ in places]
    for judged in batches:
        for at, where, found in issues.values(judged, only):
            held[at].append(found)
            if of.index(of[at]) == at:
                ids[of[at]].append(judged.row_ids(where))
                keys[of[at]].append(ids[of[at]][-1] if judged.rows is None else judged.keys(where))
    answer = []
    for one in ids:
        # A stable sort: the items of a row stay in their order.
        order = np.asarray(pc.sort_indices(pa.chunked_array(ids[one])))
        for at in (at for at, own in enumerate(of) if own == one):
            number, end = only.cuts[at][1].number, decided.ends[places[at]]
            chosen = order[confident.tie(np.concatenate(held[at])[order], number, end)]
            answer.append((places[at], one_array(pa.chunked_array(keys[one]).take(pa.array(chosen)))))
    return answer


def _mark(
    issues: Issues, batches: Iterable[Judged], decided: Decided, folder: Path
) -> tuple[str | None, int, int]:
    """Write the columns of a share; return the file, if any, and how many rows and issues are in it."""
    import pyarrow.parquet as pq

    names = {name: name if name == "row_id" else issues.prefix + name for name in ("row_id", *issues.adds)}
    schema = pa.schema({names[name]: kind for name, kind in {"row_id": pa.string(), **issues.adds}.items()})
    path, rows, found = folder / f"part-{uuid.uuid4().hex}.parquet", 0, 0
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as file:
        for judged in batches:
            marks = issues.marks(judged, decided).select(list(names))
            file.write_table(marks.rename_columns(list(names.values())).cast(schema))
            rows += len(marks)
            found += int(pc.sum(marks["label_issue"]).as_py() or 0)
    return (str(path), rows, found) if rows else (None, 0, 0)
