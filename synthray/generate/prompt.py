"""Columns written by a language model: one text, or several from a JSON schema it is held to."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pyarrow as pa
from annotated_types import Ge, Gt, Le

from synthray.errors import InputError, ModelError, near
from synthray.lineage import FAILED, RESERVED, child_id, uniform
from synthray.model.calls import Calls, opened
from synthray.model.language import Request
from synthray.operator import Makes, Operator
from synthray.task import Task

if TYPE_CHECKING:
    import jinja2

_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
_EXCERPT = 300
_TASK = tuple(item.name for item in fields(Task))


@dataclass(frozen=True)
class Prompt(Operator):
    """Ask the model once for each row with `template`, a Jinja text over the row's columns and `task`.

    `writes` names the column of the answer; or maps columns to what the model must put there: a type
    (string, integer, number, boolean), a list of allowed values, `task.labels`, or a JSON schema of one of
    those types. With `n` above 1 a row is replaced by its n answers, each a row with its `parent_id`. Also
    added: `STEP_finish` ('length' when the answer was cut at `max_tokens`) and `STEP_call`, the key of the
    kept call.
    """

    uses_model: ClassVar[bool] = True

    template: str
    writes: str | Mapping[str, Any]
    n: Annotated[int, Ge(1), Le(10_000)] = 1
    system: str | None = None
    temperature: Annotated[float, Ge(0), Le(5)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    max_tokens: Annotated[int, Ge(1), Le(1_000_000)] = 256
    stop: Sequence[str] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that the templates name."""
        return tuple(sorted((_variables(self.template) | _variables(self.system or "")) - {"task"}))

    def makes(self) -> Makes:
        """Make columns, or children when each row is asked for more than once."""
        return "children" if self.n > 1 else "columns"

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the written columns and the call's traces."""
        if isinstance(self.writes, str):
            written = {self.writes: pa.string()}
        else:
            written = {name: _TYPES[rule["type"]] for name, rule in self._properties().items()}
        return {**written, f"{self.step}_finish": pa.string(), f"{self.step}_call": pa.string()}

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a name that is taken or a schema that is none."""
        if not self.writes:
            raise InputError("writes names no column")
        for name in self.adds():
            if name in RESERVED:
                raise InputError(f"cannot write {name!r}: the name is reserved for lineage")
        self._check_schema()
        for name in sorted(_task_parts(self.template) | _task_parts(self.system or "")):
            if name not in _TASK:
                raise InputError(f"the template's task.{name} does not exist{near(name, _TASK)}")
        for name in _variables(self.template) & {"labels", "guideline"} - set(before.names):
            raise InputError(f"the template's {name!r} must be written task.{name}")

    def _check_schema(self) -> None:
        import jsonschema

        if isinstance(self.writes, str):
            return
        try:
            jsonschema.Draft202012Validator.check_schema(self._schema())
        except jsonschema.SchemaError as error:
            where = ".".join(str(part) for part in list(error.absolute_path)[1:])
            raise InputError(f"writes.{where}: no JSON schema: {error.message}") from None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Ask for every row at once; a row whose call fails gets `failed`."""
        if self.context.language is None:
            raise InputError(f"{self.step} needs a model: Context(language=...)")
        calls = opened(self.context.language, self.context.calls)
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
        asked = [(row, ordinal) for row in rows for ordinal in range(self.n)]
        return list(await asyncio.gather(*(self._answer(calls, row, ordinal) for row, ordinal in asked)))

    async def _answer(self, calls: Calls, row: dict[str, Any], ordinal: int) -> dict[str, Any]:
        """Return the columns of one answer, or why there are none."""
        try:
            messages = self.messages(row)
        except Exception as error:  # a filter raises what it likes on a value that it cannot take
            return _failure("TemplateError", str(error) or type(error).__name__)
        result = _failure("", "")
        # A retry keeps the bad answer and draws another one, which is kept in its turn.
        for attempt in range(self.context.retry + 1):
            draw = ordinal + attempt * self.n
            origin = (row["row_id"], self.step, draw)
            try:
                call = await calls.ask(self._request(messages, origin, again=attempt > 0), origin)
            except ModelError as error:
                if error.fatal:
                    raise
                return _failure(error.kind, str(error), error.attempts)
            traces = {f"{self.step}_finish": call.response.finish_reason, f"{self.step}_call": call.key}
            try:
                written = self._read(call.response.text, call.response.finish_reason)
            except ValueError as error:
                result = _failure("InvalidAnswer", str(error), attempt + 1)
                result["columns"] = traces
            else:
                return {"columns": {**written, **traces}, "failed": None}
        return result

    def messages(self, row: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
        """Return what is sent for a row."""
        user = {"role": "user", "content": _rendered(self.template, row, self.context.task)}
        if self.system is None:
            return (user,)
        return ({"role": "system", "content": _rendered(self.system, row, self.context.task)}, user)

    def _request(
        self, messages: tuple[Mapping[str, str], ...], origin: tuple[str, str, int], *, again: bool
    ) -> Request:
        # At temperature 0 the same question has the same answer: asking again needs some warmth.
        temperature = max(self.temperature, 0.3) if again else self.temperature
        return Request(
            messages=messages,
            max_tokens=self.max_tokens,
            temperature=temperature,
            top_p=self.top_p,
            stop=tuple(self.stop),
            schema=None if isinstance(self.writes, str) else self._schema(),
            # One answer for all who ask the same at temperature 0, whoever asks first.
            seed=int(uniform("draw", self.context.seed, *origin) * 2**31) if temperature else 0,
        )

    def _read(self, text: str, finish: str) -> dict[str, Any]:
        """Return the columns in an answer; ValueError says what is wrong with it."""
        if isinstance(self.writes, str):
            return {self.writes: text.strip()}
        import jsonschema

        try:
            value = json.loads(_unfenced(text), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            cut = f" (cut at max_tokens={self.max_tokens})" if finish == "length" else ""
            raise ValueError(f"not JSON{cut}: {error}; the answer was: {text[:_EXCERPT]}") from None
        try:
            jsonschema.validate(value, self._schema())
            for name, rule in self._properties().items():
                pa.array([value[name]], _TYPES[rule["type"]])
        except jsonschema.ValidationError as error:
            raise ValueError(f"{error.message}; the answer was: {text[:_EXCERPT]}") from None
        except (OverflowError, UnicodeEncodeError) as error:
            raise ValueError(f"no column holds it: {error}; the answer was: {text[:_EXCERPT]}") from None
        return dict(value)

    def _children(self, table: pa.Table) -> pa.Table:
        parents = [parent for parent in table["row_id"].to_pylist() for _ in range(self.n)]
        ids = [child_id(parent, self.step, place % self.n) for place, parent in enumerate(parents)]
        table = table.take(pa.array([row for row in range(len(table)) for _ in range(self.n)], pa.int64()))
        for name, values in (("row_id", ids), ("parent_id", parents)):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(values, pa.string()))
        return table

    def _schema(self) -> dict[str, Any]:
        properties = self._properties()
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def _properties(self) -> dict[str, dict[str, Any]]:
        assert not isinstance(self.writes, str)
        return {name: self._property(name, rule) for name, rule in self.writes.items()}

    def _property(self, name: str, rule: Any) -> dict[str, Any]:
        if rule == "task.labels":
            rule = list(self.context.task.labels)
        if isinstance(rule, str) and rule in _TYPES:
            return {"type": rule}
        if isinstance(rule, list) and rule and all(isinstance(value, str) for value in rule):
            return {"type": "string", "enum": rule}
        if isinstance(rule, Mapping) and str(rule.get("type")) in _TYPES:
            return dict(rule)
        hint = near(rule, _TYPES) if isinstance(rule, str) else ""
        raise InputError(
            f"writes.{name}: must be {', '.join(_TYPES)}, a list of texts, task.labels or a JSON schema "
            f"with one of these types, but is {rule!r}{hint}"
        )


def _failure(error: str, message: str, attempts: int = 1) -> dict[str, Any]:
    return {"columns": {}, "failed": {"error": error, "message": message, "attempts": attempts}}


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python's parser alone takes NaN and Infinity


def _unfenced(text: str) -> str:
    """Return what stands between code fences, if the answer is fenced."""
    match = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", text, re.DOTALL)
    return match.group(1) if match else text


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
