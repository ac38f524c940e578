"""What the dataset is worth: train students on it, test them on other rows; beside real rows, by stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from synthray import standing
from synthray.column import is_text
from synthray.errors import InputError, near
from synthray.learner import check_weight
from synthray.lineage import uniform
from synthray.metric import measurements
from synthray.operator import Measure
from synthray.query import Query
from synthray.standing import standings
from synthray.statistic.control import over_chance
from synthray.statistic.interval import generator
from synthray.statistic.paired import Measured, Resamples, Score, balanced, f1, macro_f1, subset_draws
from synthray.statistic.recovery import recovery
from synthray.trial import SOURCES, Bench, Part, Tally, Trial, classes, codes

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage
    from synthray.table import Table

_ROWS = "rows"
_KINDS = ("linear", "bayes")
_OF_REAL = (
    *("gain_over_real", "gain_of_mixing", "recovery", "real_rows"),
    *("majority_macro_f1", "recovery_macro_f1"),
)

_OF_LABELS = ("unknown_labels", "missing_labels")
_OF_STAGES = ("bought", "bought_over_chance")

Numbers = np.ndarray[Any, np.dtype[Any]]
Group = Sequence[Sequence[Trial]]
"""Trials that are one measurement, their mean: for each student a line of its subsets of the rows."""


@dataclass(frozen=True)
class Utility(Measure):
    """Measure `accuracy` and `macro_f1` on the table `test` of students trained on the rows; and `majority`.

    `majority` is the accuracy of always answering the test's most frequent label: what no training buys;
    `gain_over_majority` is what training does buy. `balanced_accuracy` is the mean over the test's labels, of
    which chance, or one constant answer, gets `chance`, 1 by their number. Intervals are percentiles of
    `resamples` bootstrap samples of the test rows, at `confidence`, the same samples for all, so that
    differences are paired. Per label there is a slice of `f1`. `unknown_labels` is the share of training rows
    whose label the test lacks (such an answer is wrong), `missing_labels` how many of its labels no training
    row has (never answered). NaN means that there was nothing to learn from: fewer than two labels, or no
    word. `weight` is a column that says how much a row counts in training (null counts as 1, 0 not at all).

    Several `students` (linear: logistic regression; bayes: naive Bayes) have slices of their own, and the
    value is their mean. With `subsets` above 1 each learns from so many stratified parts of the rows, of the
    share `subset_share`; the value is the mean over them, and each bootstrap sample draws test rows and
    subsets together (Owen 2007, the pigeonhole bootstrap). `sizes` are slices of accuracy for so many rows,
    stratified, the larger holding the smaller; a size beyond the rows is NaN with n = 0.

    `real` is a table of real training rows: of these as many as of the rows where there are enough, else all
    (`real_rows`), stratified. `real_` and `mixed_` are the scores of students of them, and of both together;
    `gain_over_real` is the accuracy by the rows less that by real ones, `gain_of_mixing` that by both less
    that by real ones, `recovery` the share (rows - majority) / (real - majority): NaN where real rows teach
    nothing, its interval too where they do so on more samples than its ends hold. `recovery_macro_f1` is the
    same of macro-F1, for tests of which one label is most. Real rows without the column `weight` have the
    weight 1.

    `stages` measures the dataset as it stood after each step of the run that changed what is learned from:
    slices of accuracy and train_rows, and of `bought`, the accuracy after the step less that before it.
    `bought_over_chance` is the accuracy after it less the mean of `controls` random choices of as many rows
    from before it; its interval holds the chance of such a choice. For a step that changed labels or weights
    alone it is what was bought; for one after which there are more rows, NaN. Stages take all rows, whatever
    `subsets` says.
    """

    text: str
    label: str
    test: str
    weight: str | None = None
    real: str | None = None
    students: Sequence[Literal["linear", "bayes"]] = ("linear",)
    subsets: Annotated[int, Ge(1), Le(100)] = 1
    subset_share: Annotated[float, Gt(0), Lt(1)] = 0.8
    sizes: Sequence[Annotated[int, Ge(2)]] = ()
    stages: bool = False
    controls: Annotated[int, Ge(2), Le(100)] = 5
    resamples: Annotated[int, Ge(100), Le(100_000)] = 1000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95

    @property
    def reads(self) -> tuple[str, ...]:
        """Text, label and weight."""
        return (self.text, self.label, *([self.weight] if self.weight else []))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The test table, and that of real rows."""
        return (self.test, *([self.real] if self.real else []))

    @property
    def held_out(self) -> tuple[str, ...]:
        """The test table."""
        return (self.test,)

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        own = ("balanced_accuracy", "chance", "gain_over_majority", "f1", "train_rows", *_OF_LABELS)
        scores = [f"{name}{score}" for name in self.names() for score in ("accuracy", "macro_f1")]
        more = (*(_OF_REAL if self.real else ()), *(_OF_STAGES if self.stages else ()))
        return (*scores, "majority", *own, *more)

    def gate(self) -> tuple[str, ...]:
        """Return what refuses rows that teach nothing, and those that teach far less than real ones."""
        # What beats chance on the mean label, beyond chance, has taught something. Accuracy beside the
        # majority would refuse sound rows with as many of each label where the test has most of one.
        held = ["balanced_accuracy.ci_low > chance.value"]
        if self.real:
            # A recovery of at least 1/2 is not excluded. banking77's rows of which a fifth of the labels are
            # flipped recover 0.96, of four fifths 0.50, and ten texts 0.07 (benchmarks/utility.py faults).
            # Written without the division: real rows that teach nothing would make it NaN, which refuses.
            held.append("gain_over_real.ci_high >= -0.5 * (real_accuracy.value - majority.value)")
        return tuple(held)

    def files(self) -> tuple[Path, ...]:
        """Return the students' source and the statistics': others judge otherwise."""
        return (*SOURCES, Path(standing.__file__))

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when a table lacks text or label, or a setting cannot be."""
        self.require_text(before, self.text, self.label)
        check_weight(before, self.weight)
        self._check_students()
        if self.real == self.test:
            raise InputError(
                f"real and test are the same table {self.test!r}: rows that are learned from cannot test; "
                "split it in two"
            )
        for table in self.table_names:
            schema = self.context.schemas[table]
            for name in (self.text, self.label):
                if name not in schema.names:
                    raise InputError(f"the table {table!r} has no column {name!r}{near(name, schema.names)}")
            self.require_text(schema, self.text, self.label)
        if self.real:
            check_weight(self.context.schemas[self.real], self.weight)

    def _check_students(self) -> None:
        unknown = [name for name in self.students if name not in _KINDS]
        if unknown:
            raise InputError(f"students: no student {unknown[0]!r}{near(unknown[0], _KINDS)}")
        if not self.students or len(set(self.students)) < len(self.students):
            raise InputError(f"students must name each once, of {', '.join(_KINDS)}, but is {self.students}")

    # Where the work is done.

    def apply(self, stage: Stage) -> None:
        """Learn in tasks, one for each student and part of the rows: texts never come to the driver."""
        tables = {_ROWS: stage.input, **{name: self.context.tables[name] for name in self.table_names}}
        relations: dict[str, tuple[Table | str, tuple[str, ...]]] = {
            name: (table, ()) for name, table in tables.items()
        }
        stood = self._stood(stage, relations) if self.stages else []
        with _over(relations) as query:
            plan = self._plan(query, stood)
        trials = plan.trials()
        given = []
        for trial in trials:
            needed = {self.test, *(part.relation for part in trial.parts)}
            given.append((self, trial, {name: relations[name] for name in needed}))
        said = stage.tasks(_said, given)
        answers = dict(zip(trials, said, strict=True))
        stage.measured(stage.tasks(_scored, [(self, plan, answers, {self.test: relations[self.test]})])[0])

    def measure(self, query: Query) -> pa.Table:
        """Train, test, resample; `query` holds `rows` and the named tables."""
        if self.stages:
            raise InputError(
                f"{self.step}: stages needs a run, which knows the dataset as it stood after each step; "
                "measure in a recipe, or leave stages out"
            )
        plan = self._plan(query, [])
        answers = {trial: self.bench.said(query, trial, self.test) for trial in plan.trials()}
        return self.scored(query, plan, answers)

    @property
    def bench(self) -> Bench:
        """What the trials read and draw by."""
        return Bench(self.text, self.label, self.weight, self.context.seed, self.step)

    # What is to be tried.

    def names(self) -> tuple[str, ...]:
        """Return the beginnings of the names of scores: of the rows, of real ones, of both."""
        return ("", "real_", "mixed_") if self.real else ("",)

    def _stood(self, stage: Stage, relations: dict[str, Any]) -> list[_Stood]:
        """Return the dataset after each step that changed what is learned; name its rows in `relations`."""
        assert stage.before is not None
        if stage.input != stage.run.table(stage.before):
            raise InputError(
                f"{self.step}: stages measures all rows as they stood, of which `when` cannot pick some; "
                "leave one of the two out"
            )
        found: list[_Stood] = []
        last = None
        for number, one in enumerate(standings(stage.run, stage.before)):
            held = one.only(("row_id", *self.reads))
            if held == last:
                continue  # the same files: nothing to look at
            last = held
            with _over({"standing": (held.sql(), held.files)}) as query:
                schema = query.schema("SELECT * FROM standing")
                if not all(
                    name in schema.names and is_text(schema.field(name).type) for name in self.reads[:2]
                ):
                    continue
                tally = self.bench.tally(query, "standing")
            if (found and found[-1].tally == tally) or not (found or tally.number):
                continue
            name = f"_standing{number}"
            relations[name] = (held.sql(), held.files)
            found.append(_Stood(one.step, name, tally))
        if found:  # what stands at last are the rows
            found[-1] = replace(found[-1], relation=_ROWS)
        return found

    def _plan(self, query: Query, stood: Sequence[_Stood]) -> _Plan:
        tally = self.bench.tally(query, _ROWS)
        number = None if self.subsets == 1 else max(1, round(self.subset_share * tally.number))
        rows = [Part(_ROWS, number, ("subset", subset)) for subset in range(self.subsets)]
        groups: dict[tuple[str | int, ...], Group] = {("",): self._group([(part,) for part in rows])}
        real_rows = 0
        if self.real:
            there = self.bench.tally(query, self.real).number
            real_rows = min(there, tally.number if number is None else number)
            real = [Part(self.real, real_rows, ("real", subset)) for subset in range(self.subsets)]
            groups["real_",] = self._group([(part,) for part in real])
            groups["mixed_",] = self._group(list(zip(rows, real, strict=True)))
        for size in sorted(set(self.sizes)):
            if size <= tally.number:
                groups["size", size] = self._group([(replace(part, number=size),) for part in rows])
        groups |= self._stage_groups(stood)
        return _Plan(groups, tally, real_rows, tuple(stood))

    def _group(self, subsets: Sequence[tuple[Part, ...]]) -> Group:
        return [[Trial(student, parts) for parts in subsets] for student in self.students]

    def _stage_groups(self, stood: Sequence[_Stood]) -> Iterator[tuple[tuple[str | int, ...], Group]]:
        for number, one in enumerate(stood):
            yield ("stage", one.step), self._group([(Part(one.relation),)])
            before = stood[number - 1] if number else None
            if before is None or one.tally.number > before.tally.number:
                continue
            for control in range(self.controls):
                part = Part(before.relation)
                if one.tally.number < before.tally.number:
                    draw = ("control", one.step, control)
                    part = Part(before.relation, one.tally.number, draw, stratified=False)
                yield ("control", one.step, control), self._group([(part,)])

    # What was found.

    def scored(self, query: Query, plan: _Plan, answers: Mapping[Trial, Numbers | None]) -> pa.Table:
        """Return the measurements that the answers of all trials make."""
        truth = self.bench.asked(query, self.test)["label"].to_pylist()
        return measurements(list(_Scores(self, truth, plan, answers).found()))


@dataclass(frozen=True)
class _Stood:
    """The rows that a step left, as far as they teach: what they are called, and what they hold."""

    step: str
    relation: str
    tally: Tally


@dataclass(frozen=True)
class _Plan:
    """All that is to be tried, by what it is measured as; and what is known of the rows before."""

    groups: Mapping[tuple[str | int, ...], Group]
    tally: Tally
    real_rows: int
    stood: tuple[_Stood, ...]

    def trials(self) -> list[Trial]:
        """Return the trials, each once, in a fixed order."""
        every = (trial for group in self.groups.values() for line in group for trial in line)
        return list(dict.fromkeys(every))


class _Scores:
    """What the answers of all trials measure, on the same bootstrap samples of the test rows."""

    def __init__(
        self, asked: Utility, truth: Sequence[str], plan: _Plan, answers: Mapping[Trial, Numbers | None]
    ) -> None:
        self.asked, self.plan, self.answers, self.rows = asked, plan, answers, len(truth)
        self.known = classes(truth)
        self.truth = codes(truth, self.known)
        self.counts = np.bincount(self.truth, minlength=len(self.known))
        self.columns = {trial: column for column, trial in enumerate(answers)}
        # Of labels that are as frequent the last, as one must be it.
        constant = max(range(len(self.known)), key=lambda one: (self.counts[one], one), default=-1)
        nothing = np.full(self.rows, np.nan)
        said = [*answers.values(), np.full(self.rows, constant)]
        right = [nothing if one is None else (one == self.truth).astype(np.float64) for one in said]
        self.right, self.constant = np.stack(right, axis=1), said[-1]
        # The seed that this measure has always had: a run made again finds its intervals again.
        seed = int(uniform("bootstrap", asked.context.seed) * 2**31)
        self.resamples = Resamples(self.rows, asked.resamples, seed)
        self.accuracies = self.resamples.means(self.right)
        random = generator(asked.context.seed, "subsets")
        self.draws = subset_draws(asked.subsets, asked.resamples, random)

    def found(self) -> Iterator[dict[str, Any]]:
        """Yield all measurements."""
        yield from self._whole()
        yield from self._rows_measured()
        yield from self._students()
        yield from self._labels()
        yield from self._sizes()
        yield from self._stages()

    def _whole(self) -> Iterator[dict[str, Any]]:
        """Yield the scores of the rows, of real ones and of both, and the gains."""
        groups = {name: self.plan.groups[name,] for name in self.asked.names()}
        found = {name: self._accuracy(group) for name, group in groups.items()}
        majority = self.accuracies.mean(np.array([[-1]]), self.draws)
        macro = {name: self._answered(macro_f1, group) for name, group in groups.items()}
        for name, accuracy in found.items():
            yield self._row(f"{name}accuracy", accuracy)
            yield self._row(f"{name}macro_f1", macro[name])
        yield self._row("majority", majority)
        yield self._row("balanced_accuracy", self._answered(balanced, groups[""]))
        chance = 1 / len(self.known) if self.known else math.nan
        yield {"metric": "chance", "value": chance, "n": len(self.known)}
        yield self._row("gain_over_majority", found[""] - majority)
        if self.asked.real:
            constant = self._mean(macro_f1, [self.constant], 1)
            yield self._row("majority_macro_f1", constant)
            yield self._row("recovery_macro_f1", recovery(macro[""], constant, macro["real_"]))
            yield self._row("gain_over_real", found[""] - found["real_"])
            yield self._row("gain_of_mixing", found["mixed_"] - found["real_"])
            yield self._row("recovery", recovery(found[""], majority, found["real_"]))

    def _rows_measured(self) -> Iterator[dict[str, Any]]:
        """Yield what is known of the training rows and their labels."""
        tally, known = self.plan.tally, set(self.known)
        unknown = sum(count for label, count in tally.counting.items() if label not in known)
        share = unknown / tally.number if tally.number else math.nan
        yield {"metric": "train_rows", "value": tally.rows, "n": tally.rows}
        if self.asked.real:
            yield {"metric": "real_rows", "value": self.plan.real_rows, "n": self.plan.real_rows}
        yield {"metric": "unknown_labels", "value": share, "n": tally.number}
        yield {"metric": "missing_labels", "value": len(known - set(tally.counting)), "n": len(known)}

    def _students(self) -> Iterator[dict[str, Any]]:
        """Yield the scores of each student, where there is more than one."""
        if len(self.asked.students) > 1:
            for student, line in zip(self.asked.students, self.plan.groups["",], strict=True):
                yield self._row("accuracy", self._accuracy([line]), f"student={student}")
                yield self._row("macro_f1", self._answered(macro_f1, [line]), f"student={student}")

    def _labels(self) -> Iterator[dict[str, Any]]:
        """Yield the F1 of each label, the mean over students and subsets."""
        said = self._said(self.plan.groups["",])
        held = [one for one in said if one is not None]
        if not held or len(held) < len(said):
            return
        once = np.ones((1, self.rows))
        scores = np.mean([f1(once, self.truth, one, len(self.known))[0] for one in held], axis=0)
        for label, score, count in zip(self.known, scores, self.counts, strict=True):
            named = f"{self.asked.label}={label}"
            yield {"metric": "f1", "value": float(score), "n": int(count), "slice": named}

    def _sizes(self) -> Iterator[dict[str, Any]]:
        """Yield the accuracy for each size that was asked for."""
        for size in sorted(set(self.asked.sizes)):
            group, named = self.plan.groups.get(("size", size)), f"size={size}"
            if group is None:
                yield {"metric": "accuracy", "value": math.nan, "n": 0, "slice": named}
            else:
                yield self._row("accuracy", self._accuracy(group), named)

    def _stages(self) -> Iterator[dict[str, Any]]:
        """Yield the accuracy after each step that changed what is learned, and what the step bought."""
        before: Score | None = None
        for one in self.plan.stood:
            after, named = self._accuracy(self.plan.groups["stage", one.step]), f"stage={one.step}"
            yield self._row("accuracy", after, named)
            yield {"metric": "train_rows", "value": one.tally.rows, "n": one.tally.rows, "slice": named}
            if before is not None:
                yield self._row("bought", after - before, named)
                yield self._row("bought_over_chance", self._over_chance(one.step, after), named)
            before = after

    def _over_chance(self, step: str, after: Score) -> Score:
        keys = [("control", step, control) for control in range(self.asked.controls)]
        groups = [self.plan.groups[key] for key in keys if key in self.plan.groups]
        if not groups:
            return Score(math.nan, np.full(self.asked.resamples, np.nan))
        right = [self.right[:, self._places(group).ravel()].mean(axis=1) for group in groups]
        controls = self._accuracy([line for group in groups for line in group])
        random = generator(self.asked.context.seed, "chance", step)
        return over_chance(after, controls, np.stack(right, axis=1), random)

    def _accuracy(self, group: Group) -> Score:
        return self.accuracies.mean(self._places(group), self.draws)

    def _said(self, group: Group) -> list[Numbers | None]:
        return [self.answers[trial] for line in group for trial in line]

    def _answered(self, score: Measured, group: Group) -> Score:
        return self._mean(score, self._said(group), len(group))

    def _mean(self, score: Measured, said: Sequence[Numbers | None], students: int) -> Score:
        scores = self.resamples.answers(score, self.truth, said, len(self.known))
        return scores.mean(np.arange(len(said)).reshape(students, -1), self.draws)

    def _places(self, group: Group) -> Numbers:
        return np.array([[self.columns[trial] for trial in line] for line in group])

    def _row(self, metric: str, score: Score, named: str | None = None) -> dict[str, Any]:
        row = {"metric": metric, "value": score.value, "n": self.rows, "slice": named}
        if math.isnan(score.value):
            return row
        low, high = score.interval(self.asked.confidence)
        return {**row, "ci_low": low, "ci_high": high}


Relations = Mapping[str, "tuple[Table | str, tuple[str, ...]]"]


def _over(relations: Relations) -> Query:
    """Return a Query over tables, or SELECTs with the files that they read."""
    files = tuple(file for _, listed in relations.values() for file in listed)
    return Query({name: held for name, (held, _) in relations.items()}, files=files)


def _said(operator: Utility, trial: Trial, relations: Relations) -> Numbers | None:
    with _over(relations) as query:
        return operator.bench.said(query, trial, operator.test)


def _scored(
    operator: Utility, plan: _Plan, answers: Mapping[Trial, Numbers | None], relations: Relations
) -> pa.Table:
    with _over(relations) as query:
        return operator.scored(query, plan, answers)
