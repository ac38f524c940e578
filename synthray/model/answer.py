"""What an answer must look like: columns from JSON by a schema, mended where that costs no call."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
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
        if self._model is not None:
            held = _model_schema(self._model)
            self.definitions: Mapping[str, Any] = held.get("$defs", {})
            properties = held.get("properties", {})
        else:
            self.definitions = {}
            properties = {name: _property(name, rule) for name, rule in writes.items()}
        self.schema: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
            **({"$defs": self.definitions} if self.definitions else {}),
        }
        self.columns = {name: self._kind(f"writes.{name}", rule) for name, rule in properties.items()}

    def check(self) -> None:
        """Raise an InputError when it is no valid JSON schema."""
        import jsonschema

        try:
            jsonschema.Draft202012Validator.check_schema(self.schema)
        except jsonschema.SchemaError as error:
            where = ".".join(str(part) for part in list(error.absolute_path)[1:])
            raise InputError(f"writes.{where}: no JSON schema: {error.message}") from None

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
        if wrong:
            raise wrong
        try:
            json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        raise ValueError("not a JSON object")

    def _fitting(self, value: Any) -> dict[str, Any]:
        error = next(iter(_validator(ordered(self.schema)).iter_errors(value)), None)
        if error is not None:
            place = ".".join(str(part) for part in error.absolute_path)
            raise ValueError(f"{place}: {error.message}" if place else error.message)
        if self._model is not None:
            value = self._model.model_validate(value).model_dump(mode="json")
        try:
            for name, kind in self.columns.items():
                pa.array([value[name]], kind)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as problem:
            raise ValueError(f"no column holds it: {problem}") from None
        return dict(value)

    def _kind(self, place: str, rule: Any) -> pa.DataType:
        """Return the Arrow type of a JSON schema."""
        rule = self._resolved(place, rule)
        kind = rule.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), None)
        if kind in TYPES:
            return TYPES[kind]
        if kind is None and "enum" in rule and all(isinstance(one, str) for one in rule["enum"]):
            return pa.string()
        if kind == "array" and isinstance(rule.get("items"), Mapping):
            return pa.list_(self._kind(f"{place}.items", rule["items"]))
        if kind == "object" and rule.get("properties"):
            return pa.struct(
                [(name, self._kind(f"{place}.{name}", one)) for name, one in rule["properties"].items()]
            )
        raise _no_type(place, rule)

    def _resolved(self, place: str, rule: Any) -> Mapping[str, Any]:
        if not isinstance(rule, Mapping):
            raise _no_type(place, rule)
        if "$ref" in rule:
            return self._resolved(place, self.definitions.get(str(rule["$ref"]).rpartition("/")[2]))
        options = [one for one in rule.get("anyOf", ()) if one != {"type": "null"}]
        return self._resolved(place, options[0]) if len(options) == 1 else rule


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


def _model_schema(model: type) -> dict[str, Any]:
    if not hasattr(model, "model_json_schema"):
        raise InputError(f"writes must be a column, a mapping or a pydantic model, but is {model!r}")
    held: dict[str, Any] = model.model_json_schema()
    return held


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, outermost first, the whole text before a part of it."""
    decoder = json.JSONDecoder(parse_constant=_no_number)
    place = 0
    for match in re.finditer(r"\{", text):
        if match.start() < place:
            continue  # inside of one that was tried
        try:
            value, place = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python's parser alone takes NaN and Infinity


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(json.loads(schema))
