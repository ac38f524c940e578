"""The base of operators that ask a model what it thinks of each row, add that, and measure it over all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pyarrow as pa
from annotated_types import Ge, Gt, Le, Lt

from synthray import asker, opinion, sample, statistic
from synthray import template as templates
from synthray.asker import Answer, Asker, Question
from synthray.errors import InputError
from synthray.lineage import FAILED, RESERVED
from synthray.model.language import Request
from synthray.operator import Operator
from synthray.sample import Sample
from synthray.spelling import identifier
from synthray.template import rendered, variables

if TYPE_CHECKING:
    from synthray.model.answer import Shape
    from synthray.query import Query
    from synthray.stage import Stage

SOURCES = (*asker.SOURCES, Path(__file__), opinion.SOURCE, sample.SOURCE, *statistic.SOURCES)
"""For the fingerprints of operators that stand on this one."""


@dataclass(frozen=True, kw_only=True)
class Examiner(Operator):
    """Base of operators that ask about rows and measure the answers; a row that lacks a text is not asked."""

    uses_model: ClassVar[bool] = True
    own: ClassVar[frozenset[str]] = frozenset({"task", "fenced", "given"})
    """What a template may name that is no column."""

    template: str | None = None
    system: str | None = None
    temperature: Annotated[float, Ge(0), Le(5)] = 0.0
    max_tokens: Annotated[int, Ge(1), Le(1_000_000)] | None = 512
    reasks: Annotated[int, Ge(0), Le(20)] = 2
    group: str | None = None
    resamples: Annotated[int, Ge(100), Le(100_000)] = 1000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95

    # What an operator says of itself.

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of which each must hold something, else the row is not asked."""
        return ()

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Columns that are shown beside the texts, where they hold something."""
        return ()

    @property
    def others(self) -> tuple[str, ...]:
        """Columns that are needed and never shown."""
        return ()

    def asked(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row is asked about."""
        return all(holds(row[name]) for name in self.texts)

    def calls(self, answers: Sequence[Answer]) -> Any:
        """Return the keys of the calls for a row."""
        return [answer.call for answer in answers if answer.call is not None]

    def columns(self, answers: Sequence[Answer], row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the answers for a row come to: keys of adds(), or `failed`."""
        raise TypeError(f"{type(self).__name__} defines no columns")

    def measure(self, query: Query) -> pa.Table:
        """Return measurements of the relation `rows`, which has the operator's columns."""
        raise TypeError(f"{type(self).__name__} defines no measure")

    # What follows from it.

    @property
    def reads(self) -> tuple[str, ...]:
        """What is shown, what the templates name and what measuring needs."""
        named = frozenset().union(*map(variables, self._templates))
        group = () if self.group is None else (self.group,)
        return tuple(sorted({*self.texts, *self.context_columns, *self.others, *group, *(named - self.own)}))

    def files(self) -> tuple[Path, ...]:
        """Return the source of what asks and of what measures."""
        return SOURCES

    @property
    def _templates(self) -> tuple[str, ...]:
        return tuple(one for one in (self.template, self.system) if one is not None)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for templates that do not fit, and for columns that are read and written."""
        made = {self.final(name) for name in self.adds()}
        for name in self.reads:
            if name in made:
                raise InputError(f"reads and writes the column {name!r}; give the step a name by `as: NAME`")
        for name in made & RESERVED:
            raise InputError(f"cannot write {name!r}: the name is reserved for lineage")
        templates.check(self._templates, [*before.names, *self.own])

    def __call__(self, table: pa.Table) -> pa.Table:
        """Ask for every row that has its texts at once; a row of which no answer can be read is failed."""
        rows = table.select(list(dict.fromkeys(["row_id", *self.reads]))).to_pylist()
        able = [place for place, row in enumerate(rows) if self.asked(row)]
        answers = self.asker.answers([rows[place] for place in able], self.questions)
        columns: list[dict[str, Any]] = [{} for _ in rows]
        for place, of_row in zip(able, answers, strict=True):
            columns[place] = {
                **self.columns(of_row, rows[place]),
                f"{self.step}_call": self.calls(of_row),
            }
        table = self.add(table, {name: [one.get(name) for one in columns] for name in self.adds()})
        failed = pa.array([one.get("failed") for one in columns], FAILED)
        return table.append_column(pa.field("failed", FAILED), failed)

    @property
    def asker(self) -> Asker:
        """What asks."""
        return Asker(self.context, self.origin, reasks=self.reasks)

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        """Return what a row is asked."""
        raise TypeError(f"{type(self).__name__} defines no questions")

    def apply(self, stage: Stage) -> None:
        """Ask for the rows, then measure those of which the answers were read."""
        made = stage.collected(stage.map(stage.dataset(), self))
        with stage.over({"rows": made if made.files else stage.schema.empty_table()}) as query:
            stage.measured(self.measure(query))

    # What operators use.

    def ask(
        self,
        template: str,
        row: Mapping[str, Any],
        told: Mapping[str, Any],
        shape: Shape | None,
        read: Callable[[str], Mapping[str, Any]],
        logprobs: int | None = None,
    ) -> Question:
        """Return a question by the own template, else by this one; `told` is what it sees beside the row."""
        given = {name: row[name] for name in self.context_columns if holds(row[name])}
        seen = {**row, "given": given, "fenced": opinion.fenced, **told}
        said = [
            {"role": role, "content": rendered(one, seen, self.context.task).strip()}
            for role, one in (("system", self.system), ("user", self.template or template))
            if one is not None
        ]
        return Question(self.request(tuple(said), shape, logprobs), read)

    def request(
        self, messages: tuple[Mapping[str, str], ...], shape: Shape | None, logprobs: int | None = None
    ) -> Request:
        """Return a request as the settings say."""
        return Request(
            messages=messages,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            schema=None if shape is None else shape.schema,
            logprobs=logprobs,
        )

    def sample(self, query: Query, columns: Mapping[str, str], where: str) -> Sample:
        """Return the rows of the relation `rows` where a condition holds; see Sample.read."""
        return Sample.read(
            query,
            columns,
            where,
            group=self.group,
            resamples=self.resamples,
            confidence=self.confidence,
            seed=self.context.seed,
        )

    def own_column(self, name: str) -> str:
        """Return SQL for a column of adds()."""
        return identifier(self.final(name))


def holds(value: Any) -> bool:
    """Return whether there is something to show."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and (not isinstance(value, list) or any(map(holds, value)))
