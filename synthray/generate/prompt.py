"""Columns written by a language model: one text, or several from a JSON schema it is held to."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from annotated_types import Ge, Gt, Le

from synthray import asker, template
from synthray.asker import Answer, Asker, Question
from synthray.errors import InputError
from synthray.lineage import FAILED, IDENTITY, RESERVED, child_id, ordered
from synthray.model.answer import Shape
from synthray.model.language import Request
from synthray.operator import Makes, Operator
from synthray.opinion import unread
from synthray.template import rendered, variables

_LOGPROB = [("token", pa.string()), ("logprob", pa.float64())]
_LOGPROBS = pa.list_(pa.struct([*_LOGPROB, ("top", pa.list_(pa.struct(_LOGPROB)))]))


@dataclass(frozen=True)
class Prompt(Operator):
    """Ask the model once for each row with `template`, a Jinja text over the row's columns and `task`.

    `writes` names the column of the answer; or maps columns to what the model must put there: a type
    (string, integer, number, boolean), a list of allowed values, `task.labels`, or a JSON schema of those, of
    arrays or of objects; in Python also a pydantic model. Such an answer is held to its schema: one that is
    wrong is shown to the model again with what is wrong, at most `reasks` times. With `n` above 1 a row is
    replaced by its n answers, each a row with its `parent_id`; or, with `samples: list`, it stays one row
    whose columns are lists of n, null for a bad answer (`STEP_error` says why; all bad: the row fails), to
    vote over or to explode. `together` asks for the n in one call. `raw` sends the template as it is, without
    a chat around it; the answer begins with `prefill` (a template too); `logprobs` adds each token's
    log-probability and so many alternatives as `STEP_logprobs`; `logit_bias` maps token ids to what is added
    to their logits. `max_tokens: null` leaves the length to the endpoint.
    Also added: `STEP_finish` ('length' when the answer was cut at `max_tokens`) and `STEP_call`, the key of
    the kept call.
    """

    uses_model: ClassVar[bool] = True

    template: str
    writes: str | Mapping[str, Any] | type
    n: Annotated[int, Ge(1), Le(10_000)] = 1
    samples: Literal["rows", "list"] = "rows"
    system: str | None = None
    temperature: Annotated[float, Ge(0), Le(5)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    max_tokens: Annotated[int, Ge(1), Le(1_000_000)] | None = 256
    stop: Sequence[str] = ()
    reasks: Annotated[int, Ge(0), Le(20)] = 2
    together: bool = False
    raw: bool = False
    prefill: str = ""
    logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    logit_bias: Mapping[str, float] | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that the templates name."""
        named = frozenset().union(*map(variables, self._templates()))
        return tuple(sorted(named - {"task"}))

    def _templates(self) -> tuple[str, ...]:
        return (self.template, self.system or "", self.prefill)

    def files(self) -> tuple[Path, ...]:
        """Return the source of what asks."""
        return asker.SOURCES

    def makes(self) -> Makes:
        """Make columns, or children when each row becomes several."""
        return "children" if self.n > 1 and self.samples == "rows" else "columns"

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the written columns and the call's traces."""
        written = {self.writes: pa.string()} if isinstance(self.writes, str) else self._shape().columns
        added = {**written, f"{self.step}_finish": pa.string(), f"{self.step}_call": pa.string()}
        if self.logprobs is not None:
            added[f"{self.step}_logprobs"] = _LOGPROBS
        if self.samples == "list":
            added[f"{self.step}_error"] = pa.string()
            return {name: pa.list_(kind) for name, kind in added.items()}
        return added

    def settings(self) -> dict[str, Any]:
        """Return the settings by name; a pydantic model by its schema."""
        settings = super().settings()
        if isinstance(self.writes, type):
            settings["writes"] = [self.writes.__qualname__, self._shape().schema]
        return settings

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a name that is taken, a schema that is none, or what the model has not."""
        if not self.writes:
            raise InputError("writes names no column")
        for name in self.adds():
            if name in RESERVED:
                raise InputError(f"cannot write {name!r}: the name is reserved for lineage")
        if not isinstance(self.writes, str):
            self._shape().check()
        if self.raw and self.system is not None:
            raise InputError("raw sends the template alone; put what system says into the template")
        template.check(self._templates(), before.names, self.context.task)
        self.asker.check(self._request(({"role": "user", "content": ""},), self.prefill))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Ask for every row at once; a row whose call fails gets `failed`."""
        answers = self.asker.answers(table.to_pylist(), self.questions)
        columns = [[self._columns(answer) for answer in of_row] for of_row in answers]
        failed: list[Mapping[str, Any] | None]
        if self.samples == "list":
            table = self.add(
                table, {name: [[one.get(name) for one in held] for held in columns] for name in self.adds()}
            )
            bad = [all(answer.failed for answer in of_row) for of_row in answers]
            failed = [unread(held) if all_bad else None for held, all_bad in zip(answers, bad, strict=True)]
        else:
            if self.n > 1:
                table = self._children(table)
            flat = [one for of_row in columns for one in of_row]
            table = self.add(table, {name: [one.get(name) for one in flat] for name in self.adds()})
            failed = [answer.failed for of_row in answers for answer in of_row]
        return table.append_column(pa.field("failed", FAILED), pa.array(failed, FAILED))

    @property
    def asker(self) -> Asker:
        """What asks."""
        return Asker(self.context, self.origin, self.n, self.reasks, self.together)

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        """Return what a row is asked, n times the same."""
        task = self.context.task
        user = {"role": "user", "content": rendered(self.template, row, task)}
        prefill = rendered(self.prefill, row, task) if self.prefill else ""
        if self.system is None:
            request = self._request((user,), prefill)
        else:
            system = {"role": "system", "content": rendered(self.system, row, task)}
            request = self._request((system, user), prefill)
        return [Question(request, self._read)] * self.n

    def _request(self, messages: tuple[Mapping[str, str], ...], prefill: str) -> Request:
        return Request(
            messages=() if self.raw else messages,
            prompt=messages[-1]["content"] if self.raw else None,
            prefill=prefill,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=tuple(self.stop),
            schema=None if isinstance(self.writes, str) else self._shape().schema,
            logprobs=self.logprobs,
            logit_bias=self.logit_bias,
        )

    def _read(self, text: str) -> Mapping[str, Any]:
        """Return the columns in an answer; ValueError says what is wrong with it."""
        return {self.writes: text.strip()} if isinstance(self.writes, str) else self._shape().read(text)

    def _columns(self, answer: Answer) -> Mapping[str, Any]:
        """Return the columns of an answer, with its traces; of a bad one the traces alone."""
        choice = answer.choice
        wrong = {f"{self.step}_error": answer.failed["error"]} if answer.failed else {}
        if choice is None:
            return wrong
        columns = {
            **(answer.value or {}),
            **wrong,
            f"{self.step}_finish": choice.finish_reason,
            f"{self.step}_call": answer.call,
        }
        if self.logprobs is not None and choice.logprobs is not None:
            columns[f"{self.step}_logprobs"] = [
                {**one, "top": _likely(one["top"])} for one in choice.logprobs
            ]
        return columns

    def _children(self, table: pa.Table) -> pa.Table:
        parents = [parent for parent in table["row_id"].to_pylist() for _ in range(self.n)]
        ids = [child_id(parent, self.origin, place % self.n) for place, parent in enumerate(parents)]
        table = table.take(pa.array([row for row in range(len(table)) for _ in range(self.n)], pa.int64()))
        made: dict[str, Any] = {"row_id": ids, "parent_id": parents}
        if self.context.round:
            made["round"] = [self.context.round] * len(ids)
        for name, values in made.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(values, IDENTITY[name]))
        return table

    def _shape(self) -> Shape:
        writes = self.writes
        if isinstance(writes, Mapping):
            labels = list(self.context.task.labels)
            writes = {name: labels if rule == "task.labels" else rule for name, rule in writes.items()}
            return _shape(ordered(writes))
        assert isinstance(writes, type)
        return _model_shape(writes)


@functools.lru_cache(maxsize=64)
def _shape(writes: str) -> Shape:
    return Shape(json.loads(writes))


@functools.lru_cache(maxsize=64)
def _model_shape(model: type) -> Shape:
    return Shape(model)


def _likely(top: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return alternatives, the likeliest first; the store does not keep their order."""
    by_chance = sorted(top.items(), key=lambda one: (one[1] is None, -(one[1] or 0.0), one[0]))
    return [{"token": token, "logprob": value} for token, value in by_chance]
