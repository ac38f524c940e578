"""Let a model judge: rate a text by a rubric, or compare two in both orders; with agreement with people."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from synthray import contest, examiner, rating
from synthray.asker import Answer, Asker, Question
from synthray.contest import Contest
from synthray.errors import InputError
from synthray.examiner import Examiner
from synthray.metric import measurements
from synthray.rating import Rating, Scale

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.query import Query


@dataclass(frozen=True)
class Judge(Examiner):
    """Ask a model how good the text of each row is by `rubric`, or, with `against`, which of two is better.

    `rubric` is one text, or maps criteria to what they mean. `given` names columns that are shown beside it,
    such as the instruction that the text answers. A row without its text is not asked and has nulls.

    *Rating*: `text` is a column, or several that are rated together, `scale` [lowest, highest], or the names
    of levels, the worst first, such as [poor, fair, good, excellent], which count 1, 2, ... Adds
    `judge_score`, the mean over the criteria; `judge_rating`, the level nearest to it (of two the lower);
    `judge_criteria` when there are some, a score each. With `logprobs`, so many alternatives of each token, a
    score is what is expected over the tokens that stand for the levels (G-Eval, Liu et al. 2023; DEITA, Liu
    et al. 2024) instead of the one that was drawn. Measures the mean `score`, by `criterion=`, and `share`,
    by `rating=`.

    *Comparing*: `text` is the left one, `against` the right one, and each vote is asked in both orders, so
    that a row costs two calls. Adds `judge_first` and `judge_second`, the verdicts (left, right, tie) when
    the left text came first and when it came second; `judge_consistent`, whether they are one; and
    `judge_winner`, that one: a verdict that changes with the order counts as a tie. Measures `win_rate`,
    `loss_rate` and `tie_rate` of the left one, `beat_rate` = win / (win + loss), and `position_bias`, the
    share of rows of which the verdict changes with the order; its slices are the shares for the text that
    came first, or second, in both orders. Without `ties` the model must choose, and a tie is a change of
    mind.

    `samples` asks so often, at a `temperature` above 0: the score is the mean of the votes, a verdict that of
    most votes; `judge_votes` has them. `reason` asks for a reason before the verdict, in `judge_reason`: of
    the vote nearest to the score, or of one for `judge_first`. An answer that cannot be read is shown to the
    model again at most `reasks` times; a row of which no vote (of an order) can be read is failed.
    `STEP_call` has the keys of the calls.

    `human` names what people say: a score or a level; left, right or tie; or a list of them, by several
    people, of which the mean or the most votes counts. The model never sees it. Measured is how far they
    agree, where people said something: `spearman`, `kendall` (tau-b), `pearson` and, where people's mean is a
    level, `cohen_kappa`; of comparisons `agreement` with the winner, `verdict_agreement` with the verdicts of
    both orders and of each, and `cohen_kappa`. Intervals are by `resamples` bootstrap samples of the rows, or
    of the values of the column `group`, such as parent_id, where rows of one origin are alike: percentiles,
    of shares Wilson's with the samples' variance. A measure that is not defined is NaN: no row, or constant
    scores; an interval of fewer than two rows is null.

    An own `template` takes the place of ours: Jinja over the row, `task`, `given`, `rubric`, `criteria`,
    `reason`, for ratings `rated`, `levels` and `numbered`, for comparisons `first`, `second` and `ties`; and
    `fenced(x)`, which puts a text between marks that it cannot hold. It must ask for JSON with "score" (or
    the criteria's names), or with "better": "first", "second" or "tie"; unless `says` gives the words that
    mean each level or verdict in a plain answer, such as {first: "[[A]]", second: "[[B]]", tie: "[[C]]"}:
    then those count that stand last, and a bad answer is not asked again.

    What is judged may speak to the judge. Our templates fence it and tell the model that it holds no
    instructions: so no text can feign its own end and go on as we would. That the model obeys is not made
    sure, and any judge may be swayed by what it reads, by length or by flattery: `human` shows how far.
    """

    own: ClassVar[frozenset[str]] = Examiner.own | {
        *("rubric", "criteria", "reason", "rated", "levels", "numbered", "first", "second", "ties")
    }

    text: str | Sequence[str]
    rubric: str | Mapping[str, str] = ""
    against: str | None = None
    given: str | Sequence[str] = ()
    scale: Sequence[int | str] = (1, 5)
    ties: bool = True
    samples: Annotated[int, Ge(1), Le(100)] = 1
    reason: bool = False
    logprobs: Annotated[int, Ge(1), Le(20)] | None = None
    says: Mapping[str, str] | None = None
    human: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """What is judged."""
        named = _listed(self.text)
        return named if self.against is None else (*named, self.against)

    @property
    def context_columns(self) -> tuple[str, ...]:
        """What is shown beside it."""
        return _listed(self.given)

    @property
    def others(self) -> tuple[str, ...]:
        """What people say."""
        return () if self.human is None else (self.human,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return what the votes come to, and the calls."""
        import pyarrow as pa

        return {**self._kind.adds(), f"{self.step}_call": pa.list_(pa.string())}

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured."""
        return self._kind.metrics(human=self.human is not None)

    def files(self) -> tuple[Path, ...]:
        """Return the source of what asks, reads and measures."""
        return (*examiner.SOURCES, rating.SOURCE, contest.SOURCE)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for settings that cannot work together, before any call."""
        self.require_text(before, *self.texts)
        wrong = next((message for found, message in self._faults() if found), None)
        if wrong is not None:
            raise InputError(wrong)
        self._kind.check()
        super().check(before)
        if self.human is not None:
            self._kind.check_human(before, self.human)
        self.asker.check(self.request(({"role": "user", "content": ""},), self._kind.shape, self.logprobs))

    def _faults(self) -> Iterator[tuple[bool, str]]:
        named, paired = _listed(self.text), self.against is not None
        said = self.rubric.strip() if isinstance(self.rubric, str) else self.rubric
        yield (
            self.template is None and not said,
            "rubric says nothing to judge by; say what makes a text good, in one text or as "
            "{criterion: what it means, ...}",
        )
        yield not named or len(set(named)) < len(named), "text must name each column to be judged, once"
        yield (
            paired and len(named) > 1,
            f"against compares two columns, but text names {len(named)}; name one of them",
        )
        yield (
            self.samples > 1 and not self.temperature,
            f"samples is {self.samples}, but at temperature 0 all would be the same; set temperature, such "
            "as 0.7",
        )
        yield (
            self.says is not None and self.template is None,
            "says reads an answer in plain words, which our template does not ask for; add template",
        )
        yield (
            self.logprobs is not None and (paired or self.says is not None),
            "logprobs weigh the levels of a rating in JSON; leave it out with against or says",
        )

    @functools.cached_property
    def _kind(self) -> Rating | Contest:
        criteria = {} if isinstance(self.rubric, str) else dict(self.rubric)
        rubric = self.rubric if isinstance(self.rubric, str) else ""
        if self.against is None:
            return Rating(Scale.of(self.scale), rubric, criteria, self.reason, self.samples, self.says)
        left = _listed(self.text)[0]
        return Contest(left, self.against, rubric, criteria, self.ties, self.reason, self.samples, self.says)

    @property
    def asker(self) -> Asker:
        """What asks: each vote, of a comparison in both orders."""
        return Asker(self.context, self.origin, self._kind.questions, self.reasks if self.says is None else 0)

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        """Return what a row is asked: for each vote one question, or one in each order."""
        kind = self._kind
        rated = {name: row[name] for name in self.texts}
        turns = [
            self.ask(
                kind.template,
                row,
                {"rated": rated, **kind.told(row, place)},
                kind.shape,
                kind.read,
                self.logprobs,
            )
            for place in range(kind.questions // self.samples)
        ]
        return turns * self.samples

    def columns(self, answers: Sequence[Answer], row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the votes come to."""
        del row
        return self._kind.columns(answers)

    def measure(self, query: Query) -> pa.Table:
        """Return the measurements of the rows that were judged."""
        from synthray.spelling import identifier

        columns = {name: sql.format(self.own_column(name)) for name, sql in self._kind.reading().items()}
        if self.human is not None:
            columns[self.human] = identifier(self.human)
        judged = f"{next(iter(columns.values()))} IS NOT NULL"
        sample = self.sample(query, columns, judged)
        return measurements(self._kind.measured(sample, self.step, self.human))


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
