"""Columns written by a language model: one text, or several from a JSON schema it is held to."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pyarrow as pa
from annotated_types import Ge, Gt, Le

from synthray.errors import InputError, ModelError, near
from synthray.lineage import FAILED, RESERVED, child_id, ordered, uniform
from synthray.model.answer import SHOWN, Shape
from synthray.model.calls import Calls, opened
from synthray.model.language import Choice, Request
from synthray.operator import Makes, Operator
from synthray.task import Task

if TYPE_CHECKING:
    import jinja2

_LOGPROB = [("token", pa.string()), ("logprob", pa.float64())]
_LOGPROBS = pa.list_(pa.struct([*_LOGPROB, ("top", pa.list_(pa.struct(_LOGPROB)))]))
_BAD = ("InvalidAnswer", "NoText")
_TASK = tuple(item.name for item in fields(Task))


@dataclass(frozen=True)
class Prompt(Operator):
    """Ask the model once for each row with `template`, a Jinja text over the row's columns and `task`.

    `writes` names the column of the answer; or maps columns to what the model must put there: a type
    (string, integer, number, boolean), a list of allowed values, `task.labels`, or a JSON schema of those, of
    arrays or of objects; in Python also a pydantic model. Such an answer is held to its schema: one that is
    wrong is shown to the model again with what is wrong, at most `reasks` times. With `n` above 1 a row is
    replaced by its n answers, each a row with its `parent_id`; `together` asks for them in one call. `raw`
    sends the template as it is, without a chat around it; the answer begins with `prefill` (a template too);
    `logprobs` adds each token's log-probability and so many alternatives as `STEP_logprobs`; `logit_bias`
    maps token ids to what is added to their logits. `max_tokens: null` leaves the length to the endpoint.
    Also added: `STEP_finish` ('length' when the answer was cut at `max_tokens`) and `STEP_call`, the key of
    the kept call.
    """

    uses_model: ClassVar[bool] = True

    template: str
    writes: str | Mapping[str, Any] | type
    n: Annotated[int, Ge(1), Le(10_000)] = 1
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
        named = [_variables(template) for template in self._templates()]
        return tuple(sorted(frozenset().union(*named) - {"task"}))

    def _templates(self) -> tuple[str, ...]:
        return (self.template, self.system or "", self.prefill)

    def makes(self) -> Makes:
        """Make columns, or children when each row is asked for more than once."""
        return "children" if self.n > 1 else "columns"

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the written columns and the call's traces."""
        written = {self.writes: pa.string()} if isinstance(self.writes, str) else self._shape().columns
        added = {**written, f"{self.step}_finish": pa.string(), f"{self.step}_call": pa.string()}
        if self.logprobs is not None:
            added[f"{self.step}_logprobs"] = _LOGPROBS
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
        for name in sorted(frozenset().union(*map(_task_parts, self._templates()))):
            if name not in _TASK:
                raise InputError(f"the template's task.{name} does not exist{near(name, _TASK)}")
        for name in _variables(self.template) & {"labels", "guideline"} - set(before.names):
            raise InputError(f"the template's {name!r} must be written task.{name}")
        if self.context.language is not None:
            said = _Said(({"role": "user", "content": ""},), self.prefill)
            sample = self._request(said, ("", self.step, 0), again=False)
            together = self.n if self.together else 1
            self.context.language.check_request(replace(sample, n=together))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Ask for every row at once; a row whose call fails gets `failed`."""
        if self.context.language is None:
            raise InputError(f"{self.step} needs a model: Context(language=...)")
        calls = opened(self.context.language, self.context.calls, self.context.limiter)
        rows = table.to_pylist()
        answers = calls.run(self._all(calls, rows))
        if self.n > 1:
            table = self._children(table)
        table = self.add(
            table, {name: [answer["columns"].get(name) for answer in answers] for name in self.adds()}
        )
        failed = pa.array([answer["failed"] for answer in answers], FAILED)
        return table.append_column(pa.field("failed", FAILED), failed)

    async def _all(self, calls: Calls, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers = await asyncio.gather(*(self._answers(calls, row) for row in rows), return_exceptions=True)
        # Raised when no call is under way any more: what was answered meanwhile is kept too.
        for one in answers:
            if isinstance(one, BaseException):
                raise one
        return [answer for of_row in answers if not isinstance(of_row, BaseException) for answer in of_row]

    async def _answers(self, calls: Calls, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the columns of a row's n answers, or why there are none."""
        async with calls.turns:
            return await self._of_row(calls, row)

    async def _of_row(self, calls: Calls, row: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            said = self.said(row)
        except Exception as error:  # a filter raises what it likes on a value that it cannot take
            return [_failure("TemplateError", str(error) or type(error).__name__)] * self.n
        if self.n == 1:
            return [await self._answer(calls, row, said, 0, None)]
        first: Sequence[_Answered | None] = [None] * self.n
        if self.together:
            try:
                first = await self._together(calls, row, said)
            except ModelError as error:
                if error.fatal:
                    raise
                return [_failure(error.kind, str(error), error.attempts)] * self.n
        # Every draw ends before an error of one of them is raised, for the same reason as above.
        answers = await asyncio.gather(
            *(self._answer(calls, row, said, place, one) for place, one in enumerate(first)),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _together(self, calls: Calls, row: Mapping[str, Any], said: _Said) -> list[_Answered | None]:
        origin = (row["row_id"], self.step, 0)
        request = replace(self._request(said, origin, again=False), n=self.n)
        call = await calls.ask(request, origin)
        answers = [_Answered(call.key, choice) for choice in call.response.choices()]
        return [*answers, *[None] * self.n][: self.n]  # what is missing is asked for one by one

    async def _answer(
        self, calls: Calls, row: Mapping[str, Any], said: _Said, ordinal: int, first: _Answered | None
    ) -> dict[str, Any]:
        """Return the columns of one answer, or why there are none."""
        result = _failure("", "")
        attempts = 0
        # A retry keeps the bad answer and draws another one, which is kept in its turn.
        for attempt in range(self.context.retry + 1):
            origin = (row["row_id"], self.step, ordinal + attempt * self.n)
            result = await self._drawn(calls, said, origin, None if attempt else first, again=attempt > 0)
            if result["failed"] is None:
                break
            attempts += result["failed"]["attempts"]
            if result["failed"]["error"] not in _BAD:
                break
        if result["failed"]:
            result["failed"]["attempts"] = attempts
        return result

    async def _drawn(
        self,
        calls: Calls,
        said: _Said,
        origin: tuple[str, str, int],
        answered: _Answered | None,
        *,
        again: bool,
    ) -> dict[str, Any]:
        """Return one draw; a bad answer is shown to the model again with what is wrong."""
        asking = said
        result = _failure("", "")
        for reask in range(self.reasks + 1):
            if answered is None:
                request = self._request(asking, origin, again=again)
                try:
                    call = await calls.ask(request, origin)
                except ModelError as error:
                    if error.fatal:
                        raise
                    return _failure(error.kind, str(error), reask + error.attempts)
                answered = _Answered(call.key, call.response.choices()[0])
            choice, traces = answered.choice, self._traces(answered)
            try:
                return {"columns": {**self._read(choice), **traces}, "failed": None}
            except ValueError as error:
                kind = "NoText" if not choice.text and choice.finish_reason != "stop" else "InvalidAnswer"
                result = _failure(kind, str(error), reask + 1)
                result["columns"] = traces
                if kind == "NoText" or choice.finish_reason == "length" or self.raw:
                    break  # it would be cut again, refused again, or there is no chat to go on with
                # With all the bad answers so far: to the same question there would be the same answer.
                asking = asking.again(choice.text, str(error))
            answered = None
        return result

    def _traces(self, answered: _Answered) -> dict[str, Any]:
        choice = answered.choice
        traces: dict[str, Any] = {
            f"{self.step}_finish": choice.finish_reason,
            f"{self.step}_call": answered.key,
        }
        if self.logprobs is not None and choice.logprobs is not None:
            traces[f"{self.step}_logprobs"] = [{**one, "top": _likely(one["top"])} for one in choice.logprobs]
        return traces

    def said(self, row: Mapping[str, Any]) -> _Said:
        """Return what is sent for a row."""
        task = self.context.task
        user = {"role": "user", "content": _rendered(self.template, row, task)}
        prefill = _rendered(self.prefill, row, task) if self.prefill else ""
        if self.system is None:
            return _Said((user,), prefill)
        return _Said(({"role": "system", "content": _rendered(self.system, row, task)}, user), prefill)

    def _request(self, said: _Said, origin: tuple[str, str, int], *, again: bool) -> Request:
        # At temperature 0 the same question has the same answer: asking again needs some warmth.
        temperature = max(self.temperature, 0.3) if again else self.temperature
        return Request(
            messages=() if self.raw else said.messages,
            prompt=said.messages[-1]["content"] if self.raw else None,
            prefill=said.prefill,
            max_tokens=self.max_tokens,
            temperature=temperature,
            top_p=self.top_p,
            stop=tuple(self.stop),
            schema=None if isinstance(self.writes, str) else self._shape().schema,
            # One answer for all who ask the same at temperature 0, whoever asks first.
            seed=int(uniform("draw", self.context.seed, *origin) * 2**31) if temperature else 0,
            logprobs=self.logprobs,
            logit_bias=self.logit_bias,
        )

    def _read(self, choice: Choice) -> dict[str, Any]:
        """Return the columns in an answer; ValueError says what is wrong with it."""
        if not choice.text and choice.finish_reason not in ("stop", "length"):
            raise ValueError(f"no text in the answer (finish_reason {choice.finish_reason!r})")
        if isinstance(self.writes, str):
            return {self.writes: choice.text.strip()}
        try:
            return self._shape().read(choice.text)
        except ValueError as error:
            cut = f" (cut at max_tokens={self.max_tokens})" if choice.finish_reason == "length" else ""
            raise ValueError(f"{error}{cut}; the answer was: {choice.text[:SHOWN]}") from None

    def _children(self, table: pa.Table) -> pa.Table:
        parents = [parent for parent in table["row_id"].to_pylist() for _ in range(self.n)]
        ids = [child_id(parent, self.step, place % self.n) for place, parent in enumerate(parents)]
        table = table.take(pa.array([row for row in range(len(table)) for _ in range(self.n)], pa.int64()))
        for name, values in (("row_id", ids), ("parent_id", parents)):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(values, pa.string()))
        return table

    def _shape(self) -> Shape:
        writes = self.writes
        if isinstance(writes, Mapping):
            labels = list(self.context.task.labels)
            writes = {name: labels if rule == "task.labels" else rule for name, rule in writes.items()}
            return _shape(ordered(writes))
        assert isinstance(writes, type)
        return _model_shape(writes)


@dataclass(frozen=True)
class _Said:
    """The messages for a row, and what the answer begins with."""

    messages: tuple[Mapping[str, str], ...]
    prefill: str = ""

    def again(self, answer: str, wrong: str) -> _Said:
        """Return them with a bad answer and what is wrong with it."""
        wrong = wrong.partition("; the answer was: ")[0]
        request = f"That answer cannot be used: {wrong}. Answer again, with the corrected JSON object alone."
        answered = {"role": "assistant", "content": answer}
        return _Said((*self.messages, answered, {"role": "user", "content": request}), self.prefill)


@dataclass(frozen=True)
class _Answered:
    key: str
    choice: Choice


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


def _failure(error: str, message: str, attempts: int = 1) -> dict[str, Any]:
    return {"columns": {}, "failed": {"error": error, "message": message, "attempts": attempts}}


@functools.cache
def _environment() -> jinja2.Environment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    # What they give differs from run to run, so no kept call would be found again.
    del environment.filters["random"], environment.globals["lipsum"]
    return environment


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.lru_cache(maxsize=64)
def _variables(template: str) -> frozenset[str]:
    from jinja2 import TemplateSyntaxError, meta, nodes

    try:
        tree = _environment().parse(template)
    except TemplateSyntaxError as error:
        raise InputError(f"the template does not parse: line {error.lineno}: {error.message}") from None
    # Jinja itself speaks of a missing one inside an `if` only when a row gets there.
    for kind, known in ((nodes.Filter, _environment().filters), (nodes.Test, _environment().tests)):
        for node in tree.find_all(kind):
            if node.name not in known:
                raise InputError(
                    f"the template's line {node.lineno}: Jinja has no {kind.__name__.lower()} "
                    f"{node.name!r}{near(node.name, known)}"
                )
    return frozenset(meta.find_undeclared_variables(tree))


@functools.lru_cache(maxsize=64)
def _task_parts(template: str) -> frozenset[str]:
    """Return what a template reads of the task."""
    from jinja2 import nodes

    found = _environment().parse(template).find_all(nodes.Getattr)
    return frozenset(
        one.attr for one in found if isinstance(one.node, nodes.Name) and one.node.name == "task"
    )


def _rendered(template: str, row: Mapping[str, Any], task: Any) -> str:
    return _compiled(template).render({**row, "task": task})
