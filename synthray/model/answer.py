"""What an answer must look like: columns from JSON by a schema, mended where that costs no call."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from synthray.errors import InputError, near
from synthray.lineage import ordered

TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
SHOWN = 2000
"""How much of a bad answer a failure's message shows; the whole stands in the run's `calls`."""


class Shape:
    """A JSON object whose properties become columns.

    `writes` maps each to a type (string, integer, number, boolean), a list of allowed texts, or a JSON schema
    of those, of arrays and of objects; or it is a pydantic model. InputError says what is none of these.
    """

    def __init__(self, writes: Any) -> None:
        self._model: Any = writes if isinstance(writes, type) else None
        definitions: Mapping[str, Any] = {}
        if self._model is not None:
            properties, definitions = _model_properties(self._model, "validation")
            # What a model reads and what it gives may differ in names and types.
            given, self.definitions = _model_properties(self._model, "serialization")
        else:
            properties = given = {name: _property(name, rule) for name, rule in writes.items()}
            self.definitions = {}
        self._held_to: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
            **({"$defs": definitions} if definitions else {}),
        }
        self.schema = self._held_to if self._model is None else _strict(self._held_to)
        """What is asked for; an answer may leave out what a pydantic model has a default for."""

        self.columns = {name: self._kind(f"writes.{name}", rule) for name, rule in given.items()}

    def check(self) -> None:
        """Raise an InputError when it is no valid JSON schema."""
        import jsonschema

        try:
            jsonschema.Draft202012Validator.check_schema(self.schema)
        except jsonschema.SchemaError as error:
            where = ".".join(str(part) for part in list(error.absolute_path)[1:])
            raise InputError(f"writes.{where}: no JSON schema: {error.message}") from None
        if self._model is None and '"$ref":' in ordered(self.schema):
            raise InputError("writes: a $ref refers to nothing here; write the schema out in its place")

    def read(self, text: str) -> dict[str, Any]:
        """Return the columns in an answer: the whole of it, or the JSON inside of fences or prose.

        ValueError says what is wrong with it.
        """
        wrong: ValueError | None = None
        for value in _objects(text):
            try:
                return self._fitting(value)
            except ValueError as error:
                wrong = wrong or error
            except RecursionError:
                wrong = wrong or ValueError("nested too deep")
        if wrong:
            raise wrong
        try:
            json.loads(text, parse_constant=_no_number, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        raise ValueError("not a JSON object")

    def _fitting(self, value: Any) -> dict[str, Any]:
        error = next(iter(self._validator.iter_errors(value)), None)
        if error is not None:
            # Of a choice of schemas each says for itself what it allows.
            found = dict.fromkeys(one.message for one in error.context or (error,))
            raise ValueError(_placed(error.absolute_path, ", and ".join(found)))
        if self._model is not None:
            value = _validated(self._model, value)
        for name, kind in self.columns.items():
            try:
                pa.array([value[name]], kind)
            except (pa.ArrowException, OverflowError, UnicodeEncodeError) as problem:
                raise ValueError(f"{name}: no column holds it: {problem}") from None
        return dict(value)

    @functools.cached_property
    def _validator(self) -> Any:
        import jsonschema

        return jsonschema.Draft202012Validator(self._held_to)

    def _kind(self, place: str, rule: Any, around: tuple[Any, ...] = ()) -> pa.DataType:
        """Return the Arrow type of a JSON schema, which stands inside of the schemas `around`."""
        rule = self._resolved(place, rule)
        if any(rule is one for one in around):
            raise InputError(f"{place}: contains itself, to any depth; a column's type has an end")
        around = (*around, rule)
        kind, texts, items, parts = (rule.get(name) for name in ("type", "enum", "items", "properties"))
        if isinstance(kind, list):
            kinds = [one for one in kind if one != "null"]
            kind = kinds[0] if len(kinds) == 1 else kinds
        if isinstance(kind, str) and kind in TYPES:
            return TYPES[kind]
        if kind is None and isinstance(texts, list) and {type(one) for one in texts} - {type(None)} == {str}:
            return pa.string()
        if kind == "array" and isinstance(items, Mapping):
            return pa.list_(self._kind(f"{place}.items", items, around))
        if kind == "object" and isinstance(parts, Mapping) and parts:
            return pa.struct(
                [(name, self._kind(f"{place}.{name}", one, around)) for name, one in parts.items()]
            )
        raise _no_type(place, rule)

    def _resolved(self, place: str, rule: Any) -> Mapping[str, Any]:
        if not isinstance(rule, Mapping):
            raise _no_type(place, rule)
        if "$ref" in rule:
            referred = self.definitions.get(str(rule["$ref"]).rpartition("/")[2])
            return self._resolved(place, referred) if referred else rule
        options = rule.get("anyOf")
        if isinstance(options, list):
            options = [one for one in options if one != {"type": "null"}]
            return self._resolved(place, options[0]) if len(options) == 1 else rule
        return rule


def _property(name: str, rule: Any) -> dict[str, Any]:
    if isinstance(rule, str) and rule in TYPES:
        return {"type": rule}
    if isinstance(rule, list) and rule and all(isinstance(value, str) for value in rule):
        return {"type": "string", "enum": rule}
    if isinstance(rule, Mapping):
        return dict(rule)
    raise _no_type(f"writes.{name}", rule)


def _no_type(place: str, rule: Any) -> InputError:
    hint = near(rule, TYPES) if isinstance(rule, str) else ""
    return InputError(
        f"{place}: must be {', '.join(TYPES)}, a list of texts, task.labels or a JSON schema "
        f"with one of these types, an array or an object of them, but is {rule!r}{hint}"
    )


def _model_properties(model: type, mode: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the properties of a pydantic model and the definitions that they refer to."""
    if not hasattr(model, "model_json_schema"):
        raise InputError(f"writes must be a column, a mapping or a pydantic model, but is {model!r}")
    held = model.model_json_schema(mode=mode)
    definitions = held.get("$defs", {})
    if "$ref" in held:  # one that contains itself
        held = definitions[held["$ref"].rpartition("/")[2]]
    return held.get("properties", {}), definitions


def _strict(schema: Any) -> Any:
    """Return a schema as endpoints that hold to one want it: every property is required, and no other is."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    held = {name: _strict(value) for name, value in schema.items()}
    if held.get("type") == "object" and isinstance(held.get("properties"), Mapping):
        for part in held["properties"].values():
            if isinstance(part, dict):
                part.pop("default", None)
        held |= {"required": list(held["properties"]), "additionalProperties": False}
    return held


def _validated(model: Any, value: Any) -> dict[str, Any]:
    """Return what a pydantic model makes of an answer, its own validators applied."""
    from pydantic import ValidationError

    try:
        made: dict[str, Any] = model.model_validate(value).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        # Its own text names pydantic's version, and an answer's key would change with it.
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise ValueError("; ".join(_placed(one["loc"], one["msg"]) for one in found)) from None
    return made


def _placed(place: Iterable[Any], message: str) -> str:
    where = ".".join(str(part) for part in place)
    return f"{where}: {message}" if where else message


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, but nothing from inside of another, be it whole or broken."""
    # Not strict: a line break inside a string is what the model meant, and mends for nothing.
    decoder = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite, strict=False)
    place = 0
    for match in re.finditer(r'\{(?=\s*["}])', text):
        if match.start() < place:
            continue  # inside of one that was tried
        try:
            value, place = decoder.raw_decode(text, match.start())
        except json.JSONDecodeError as error:
            if error.msg.startswith("Unterminated string"):
                return
            place = error.pos  # up to here it was one object
        except (ValueError, RecursionError):
            return
        else:
            yield value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python's parser alone takes NaN and Infinity


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large for a number")
    return value
