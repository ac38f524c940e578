"""What people were asked about the rows of a run and what they answered: RUN/reviews.

`batches` holds a Parquet file for each time that rows were given out, `answers` one for each file that came
back with something new. Neither is ever written again: an answer that changes is a later version.

Two choices of rows are kept apart. *Picked* rows are the first by a rank, so that each was sure to be chosen.
The *slice* is drawn by chance: all rows of the frame (those that were there to draw from) whose
`chance(row_id, 'review')` is at most the batch's `cutoff`, whatever rank they have; so a row can be both, and
the slice of a larger frame or of a later batch holds the earlier one. A row that was picked has the
probability 1, any other in the slice the slice's share of its frame. Estimates from them are unbiased as long
as the ranks are of all rows, those included that people have answered.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from synthray.errors import InputError, RunError, near
from synthray.run import Run
from synthray.spelling import quoted

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "reviews"
"""Where they stand in a run."""

CHANCE = "review"
"""The tag of the chance by which the slice is drawn."""

UNNAMED = "unnamed"
"""Who answered where neither the file nor the command line says it."""

_T = TypeVar("_T")
_ABOUT = b"synthray.review"
_SHOWN = 10


@contextmanager
def claimed(root: Path | str) -> Iterator[Run]:
    """Give a run to one who writes to its reviews; RunError when there is none, or another process has it."""
    run = Run.claim(root, Run.read(root).state["name"])
    try:
        yield run
        run.keep(run.root / FOLDER)
    finally:
        run.release()


def digest_of(text: str | None) -> str:
    """Return what a text is known by, as SQL's md5: an answer is about a text, a row_id may get another."""
    return hashlib.md5((text or "").encode(), usedforsecurity=False).hexdigest()


def listed(names: Iterable[str]) -> str:
    """Return SQL for a column of names."""
    return f"SELECT unnest(from_json({quoted(json.dumps(sorted(names)))}, '[\"VARCHAR\"]'))"


@dataclass(frozen=True)
class Asked:
    """A row that was given out, and why: `picked` by its rank, drawn into the `slice`, or both."""

    row_id: str
    digest: str
    label: str | None
    picked: bool
    slice: bool


@dataclass(frozen=True)
class Batch:
    """Rows that were given out together.

    They were drawn by `seed` from `frame` rows, of which the share `rate` is in the slice, those whose chance
    is at most `cutoff`. `labels` are the answers that are allowed.
    """

    name: str
    text: str
    label: str
    labels: tuple[str, ...]
    seed: int
    frame: int
    rate: float
    cutoff: float
    rows: tuple[Asked, ...] = field(repr=False)

    def table(self) -> pa.Table:
        """Return the rows, with all else in the schema's metadata."""
        import pyarrow as pa

        about = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "rows"}
        rows = pa.Table.from_pylist([vars(row) for row in self.rows], schema=_asked())
        return rows.replace_schema_metadata({_ABOUT: json.dumps(about)})

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Return the batch that table() made."""
        about = json.loads(table.schema.metadata[_ABOUT])
        rows = tuple(Asked(**row) for row in table.cast(_asked()).to_pylist())
        # A run may come from somebody else, and some of this goes into SQL.
        kinds: dict[str, Callable[[Any], Any]] = {
            "seed": int,
            "frame": int,
            "rate": float,
            "cutoff": float,
            "labels": _texts,
        }
        made = cls(**{name: kinds.get(name, str)(value) for name, value in about.items()}, rows=rows)
        if not (0 <= made.rate <= 1 and 0 <= made.cutoff <= 1):
            raise ValueError(f"rate {made.rate} and cutoff {made.cutoff} must be from 0 to 1")
        if made.rate == 0 and any(row.slice for row in rows):
            raise ValueError("rows are in the slice, but its rate is 0")
        return made


@dataclass(frozen=True)
class Answer:
    """The label that one reviewer gave a row of a batch; `place` is where in a file it stands."""

    row_id: str
    label: str
    reviewer: str = ""
    batch: str = ""
    place: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Whose answer about which row it is."""
        return self.row_id, self.reviewer


@dataclass(frozen=True)
class Place:
    """Where a row stands in what people were asked: picked, random or both, since when, for how many rows."""

    slice: str | None
    batch: str | None
    weight: float | None


@dataclass(frozen=True)
class Taken:
    """How many answers of a file are new, are other than before, and were known."""

    new: int
    changed: int
    known: int


_Homes = dict[str, dict[str, Batch]]


class Reviews:
    """The reviews in a folder: batches in the order in which they were given out, answers as they came.

    Or `answers` from elsewhere: nothing is known of how their rows were chosen, nor of their texts.
    """

    def __init__(self, folder: Path | None, answers: Sequence[Answer] = ()) -> None:
        self.folder = folder
        self.batches = self._read("batches", Batch.of)
        kept = self._read("answers", _answers)
        self.versions = [*answers, *(answer for held in kept for answer in held)]

    @property
    def seed(self) -> int:
        """The seed by which rows are drawn."""
        return self.batches[-1].seed if self.batches else 0

    def names(self) -> set[str]:
        """Return the rows that were given out or have answers."""
        return {row_id for row_id, _ in self.asked()} | {answer.row_id for answer in self.versions}

    def files(self) -> tuple[Path, ...]:
        """Return what the answers and their weights stand in; nothing as long as there is no answer."""
        return (*self._listed("batches"), *self._listed("answers")) if self.versions else ()

    def _listed(self, part: str) -> list[Path]:
        return sorted((self.folder / part).glob("*.parquet")) if self.folder else []

    def _read(self, part: str, made: Callable[[pa.Table], _T]) -> list[_T]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return [made(pq.ParquetFile(path).read()) for path in self._listed(part)]
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{self.folder}/{part} is damaged: {error}") from None

    def _keep(self, part: str, table: pa.Table) -> None:
        """Write a file that is there whole or not at all, after all others of its kind."""
        import pyarrow.parquet as pq

        assert self.folder is not None
        folder = self.folder / part
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{len(self._listed(part)) + 1:05}.parquet"
        partly = folder / f".{path.name}.part"
        with partly.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partly.replace(path)

    def give(self, batch: Batch) -> None:
        """Keep what was given out."""
        self._keep("batches", batch.table())
        self.batches.append(batch)

    def last(self) -> dict[tuple[str, str], Answer]:
        """Return what counts of each reviewer about each row: the last answer."""
        return {answer.key: answer for answer in self.versions}

    # Answers that come back.

    def take(self, answers: Sequence[Answer], reviewer: str, whose: str) -> Taken:
        """Keep what is new in a file of answers; InputError, and nothing is kept, where one is wrong."""
        if not self.batches:
            raise InputError(
                f"{whose}: no rows of this run were given out; `synthray review RUN` writes a file to fill in"
            )
        homes = self._homes()
        faults: list[str] = []
        for answer in answers:
            # What a name is like takes long to find: of many wrong ones the first are shown.
            fault = self._fault(answer, homes, hint=len(faults) < _SHOWN)
            faults += [fault] if fault else []
        if not faults:
            settled = [self._settled(answer, homes, reviewer) for answer in answers]
            faults = _contradictions(settled)
        if faults:
            more = [f"... and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
            raise InputError("\n  ".join([f"{whose}: nothing is kept", *faults[:_SHOWN], *more]))
        before, once, texts = self.last(), {answer.key: answer for answer in settled}, self._texts()

        def said(answer: Answer) -> tuple[str, str]:
            return answer.label, texts[answer.row_id, answer.batch]

        new = [answer for key, answer in once.items() if key not in before]
        changed = [
            answer for key, answer in once.items() if key in before and said(answer) != said(before[key])
        ]
        if new or changed:
            kept = sorted((*new, *changed), key=lambda answer: answer.key)
            self._keep("answers", _table(kept))
            self.versions += kept
        return Taken(len(new), len(changed), len(once) - len(new) - len(changed))

    def _homes(self) -> _Homes:
        """Return the batches in which each row was given out."""
        homes: _Homes = defaultdict(dict)
        for batch in self.batches:
            for row in batch.rows:
                homes[row.row_id][batch.name] = batch
        return homes

    def _fault(self, answer: Answer, homes: _Homes, *, hint: bool) -> str | None:
        if answer.row_id not in homes:
            like = _like(answer.row_id, homes) if hint else ""
            return f"{answer.place}: no row {answer.row_id!r} was given out{like}"
        held = homes[answer.row_id]
        if answer.batch and answer.batch not in held:
            return (
                f"{answer.place}: row {answer.row_id!r} was not given out in batch {answer.batch!r}, but in "
                f"{', '.join(held)}"
            )
        labels = held[answer.batch or next(reversed(held))].labels
        if answer.label not in labels:
            return (
                f"{answer.place}: {answer.label!r} is no label of row {answer.row_id!r}"
                f"{near(answer.label, labels) if hint else ''}"
            )
        return None

    def _settled(self, answer: Answer, homes: _Homes, reviewer: str) -> Answer:
        batch = answer.batch or next(reversed(homes[answer.row_id]))
        return Answer(
            answer.row_id, answer.label, answer.reviewer or reviewer or UNNAMED, batch, answer.place
        )

    def standing(self) -> dict[str, Any]:
        """Return how far the review is: rows given out, answered and left, and who agrees with whom.

        `agree` is the share of answered rows in which people's label is the one that the row had, `kappa`
        Cohen's of the two. Picked rows are the least sure ones: evaluate.label_accuracy says it of all rows.
        Between reviewers, over rows that several answered: the share of pairs of answers that are equal, and
        Krippendorff's alpha. NaN where nothing is to be compared.
        """
        labels = {row.row_id: row.label for batch in self.batches for row in batch.rows}
        said: dict[str, list[Answer]] = defaultdict(list)
        for answer in self.last().values():
            said[answer.row_id].append(answer)
        return {
            "asked": len(labels),
            "answered": len(said),
            "left": len(labels.keys() - said.keys()),
            **_with_labels(labels, said),
            **_among(list(said.values())),
        }

    # What they are worth.

    def places(self, digests: Mapping[str, str]) -> dict[str, Place]:
        """Return where rows stand of which `digests` says the text as it is now, if they were asked about it.

        A batch of which nothing came back says nothing yet: its rows are as if they were not given out.
        """
        answered = {answer.batch for answer in self.versions}
        counted = [batch for batch in self.batches if batch.name in answered]
        # A row that was drawn stays drawn when the slice grows.
        rates = [max(batch.rate for batch in counted[place:]) for place in range(len(counted))]
        given: dict[str, list[_Entry]] = defaultdict(list)
        for batch, rate in zip(counted, rates, strict=True):
            for row in batch.rows:
                if digests.get(row.row_id) == row.digest:
                    given[row.row_id].append((batch, rate, row))
        return {row_id: _place(entries) for row_id, entries in given.items()}

    def said(self, digests: Mapping[str, str]) -> dict[str, list[Answer]]:
        """Return the answers that count, by row, of the texts as they are now; each reviewer's last one."""
        texts = self._texts()
        said: dict[str, list[Answer]] = defaultdict(list)
        for answer in self.last().values():
            now = digests.get(answer.row_id)
            if now is not None and texts.get((answer.row_id, answer.batch), now) == now:
                said[answer.row_id].append(answer)
        return said

    def stale(self, digests: Mapping[str, str]) -> int:
        """Return how many answers are about another text than the row has now."""
        texts = self._texts()
        about = (
            (digests.get(one.row_id), texts.get((one.row_id, one.batch))) for one in self.last().values()
        )
        return sum(None not in (now, then) and now != then for now, then in about)

    def asked(self, which: Callable[[Asked], bool] = lambda row: True) -> set[tuple[str, str]]:
        """Return row_id and text of the rows that were given out, answered or not."""
        return {(row.row_id, row.digest) for batch in self.batches for row in batch.rows if which(row)}

    def cutoff(self) -> float:
        """Return the largest chance in the slice of the last batch that has answers; 0 without one."""
        answered = {answer.batch for answer in self.versions}
        return next((batch.cutoff for batch in reversed(self.batches) if batch.name in answered), 0.0)

    def _texts(self) -> dict[tuple[str, str], str]:
        return {(row.row_id, batch.name): row.digest for batch in self.batches for row in batch.rows}


_Entry = tuple[Batch, float, Asked]


def _place(entries: Sequence[_Entry]) -> Place:
    picked = [entry for entry in entries if entry[2].picked]
    drawn = [entry for entry in entries if entry[2].slice]
    weight = 1.0 if picked else 1 / max(rate for _, rate, _ in drawn)
    name = "both" if picked and drawn else "picked" if picked else "random"
    return Place(name, (picked or drawn)[0][0].name, weight)


def majority(answers: Iterable[Answer]) -> str | None:
    """Return the label of most answers; null where there is none, or two are equally frequent."""
    first = Counter(answer.label for answer in answers).most_common(2)
    return first[0][0] if first and (len(first) < 2 or first[0][1] > first[1][1]) else None


def _with_labels(labels: Mapping[str, str | None], said: Mapping[str, Sequence[Answer]]) -> dict[str, float]:
    """Return how far people agree with the labels that the rows had."""
    import numpy as np

    from synthray.label.agreement import cohen_kappa

    held = ((labels.get(row_id), majority(answers)) for row_id, answers in said.items())
    pairs = [(label, human) for label, human in held if label is not None and human is not None]
    classes = sorted({name for pair in pairs for name in pair})
    place = {name: number for number, name in enumerate(classes)}
    table = np.zeros((len(classes), len(classes)))
    for label, human in pairs:
        table[place[label], place[human]] += 1
    agree = float(np.trace(table) / len(pairs)) if pairs else math.nan
    return {"agree": agree, "kappa": float(cohen_kappa(table)) if pairs else math.nan}


def _among(said: Sequence[Sequence[Answer]]) -> dict[str, float]:
    """Return how many reviewers there are and how far they agree."""
    import numpy as np

    from synthray.label.agreement import krippendorff_alpha, percent, sums_of
    from synthray.label.vote import Votes

    people = sorted({answer.reviewer for answers in said for answer in answers})
    classes = sorted({answer.label for answers in said for answer in answers})
    flat = [answer for answers in said for answer in answers]
    votes = Votes(
        starts=np.cumsum([0, *map(len, said)]),
        annotator=np.array([people.index(answer.reviewer) for answer in flat], np.int64),
        label=np.array([classes.index(answer.label) for answer in flat], np.int64),
        weight=np.ones(len(said), np.int64),
        annotators=people,
        classes=classes,
    )
    sums = sums_of(votes) if any(len(answers) > 1 for answers in said) else None
    return {
        "reviewers": len(people),
        "reviewers_agree": math.nan if sums is None else float(percent(sums)),
        "alpha": math.nan if sums is None else float(krippendorff_alpha(sums)),
    }


def _asked() -> pa.Schema:
    """Return the schema of a batch's rows: of these, a label alone may be missing."""
    import pyarrow as pa

    kinds = dict.fromkeys(("row_id", "digest", "label"), pa.string()) | dict.fromkeys(
        ("picked", "slice"), pa.bool_()
    )
    return pa.schema([pa.field(name, kind, name == "label") for name, kind in kinds.items()])


def _said() -> pa.Schema:
    """Return the schema of answers: nothing may be missing."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(name, pa.string(), False) for name in ("row_id", "label", "reviewer", "batch")]
    )


def _table(answers: Sequence[Answer]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([vars(answer) for answer in answers], schema=_said())


def _answers(table: pa.Table) -> list[Answer]:
    return [Answer(**row) for row in table.cast(_said()).to_pylist()]


def _texts(value: Any) -> tuple[str, ...]:
    if not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise ValueError(f"labels must be texts, but are {str(value)[:40]}")
    return tuple(value)


def _contradictions(answers: Iterable[Answer]) -> list[str]:
    first: dict[tuple[str, str], Answer] = {}
    return [
        f"{answer.place}: row {answer.row_id!r} is {answer.label!r} here, but {other.label!r} in "
        f"{other.place}; answer it once"
        for answer in answers
        if (other := first.setdefault(answer.key, answer)).label != answer.label
    ]


def _like(row_id: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(row_id, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
