"""An answer becomes columns: mended where that costs no call, refused with what is wrong where it does not fit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

import pyarrow as pa
import pytest
from pydantic import BaseModel, Field, computed_field, field_validator, model_validator

from synthray.errors import InputError
from synthray.model.answer import Shape

TEXT, WHOLE, NUMBER, TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()
NULL = {"type": "null"}


class Tone(StrEnum):
    DRY = "dry"
    WARM = "warm"


class Source(BaseModel):
    name: str
    year: int | None = None


class Review(BaseModel):
    title: str
    tone: Tone
    mark: Annotated[int, Field(ge=1, le=5)]
    even: Literal["yes", "no"] | None = None
    sources: list[Source] = []
    first: Source | None = None
    price: Decimal = Decimal(0)
    given: str = Field("", alias="givenName")

    @field_validator("title")
    @classmethod
    def _short(cls, title: str) -> str:
        if len(title) > 10:
            raise ValueError("must have at most 10 letters")
        return title.strip()

    @model_validator(mode="after")
    def _warm_is_good(self) -> Review:
        if self.tone is Tone.WARM and self.mark < 3:
            raise ValueError("a warm review has a mark of 3 at least")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def letters(self) -> int:
        return len(self.title)


REVIEW = {
    "title": " Fine ",
    "tone": "warm",
    "mark": 4,
    "even": None,
    "sources": [{"name": "é"}, {"name": "b", "year": 1999}],
    "first": {"name": "c", "year": None},
    "price": 1.5,
    "givenName": "Ann",
}


class Node(BaseModel):
    name: str
    children: list[Node] = []


# Columns.


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        pytest.param("string", TEXT, id="string"),
        pytest.param("integer", WHOLE, id="integer"),
        pytest.param("number", NUMBER, id="number"),
        pytest.param("boolean", TRUTH, id="boolean"),
        pytest.param(["a", "b"], TEXT, id="list of texts"),
        pytest.param({"type": "integer", "minimum": 3}, WHOLE, id="schema"),
        pytest.param({"enum": ["a", "b"]}, TEXT, id="enum"),
        pytest.param({"enum": ["a", None]}, TEXT, id="enum with null"),
        pytest.param({"type": "integer", "enum": [1, 2]}, WHOLE, id="enum of numbers"),
        pytest.param({"type": ["string", "null"]}, TEXT, id="type or null"),
        pytest.param({"type": ["null", "number"]}, NUMBER, id="null or type"),
        pytest.param({"anyOf": [{"type": "integer"}, NULL]}, WHOLE, id="anyOf with null"),
        pytest.param({"anyOf": [NULL, {"anyOf": [{"type": "boolean"}, NULL]}]}, TRUTH, id="anyOf twice"),
        pytest.param({"type": "array", "items": {"type": "string"}}, pa.list_(TEXT), id="array"),
        pytest.param(
            {"type": "array", "items": {"type": "array", "items": {"type": ["integer", "null"]}}},
            pa.list_(pa.list_(WHOLE)),
            id="array of arrays",
        ),
        pytest.param(
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {"enum": ["x"]}}},
            pa.struct([("a", TEXT), ("b", TEXT)]),
            id="object",
        ),
        pytest.param(
            {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "number"}}}},
            pa.list_(pa.struct([("a", NUMBER)])),
            id="array of objects",
        ),
    ],
)
def test_a_rule_has_a_column_type_of_its_own(rule: Any, kind: pa.DataType) -> None:
    shape = Shape({"x": rule, "y": "string"})
    shape.check()
    assert shape.columns == {"x": kind, "y": TEXT}
    assert shape.schema["required"] == ["x", "y"]
    assert shape.schema["additionalProperties"] is False


def test_a_pydantic_model_has_the_columns_that_it_gives() -> None:
    shape = Shape(Review)
    shape.check()
    source = pa.struct([("name", TEXT), ("year", WHOLE)])
    assert shape.columns == {
        "title": TEXT,
        "tone": TEXT,
        "mark": WHOLE,
        "even": TEXT,
        "sources": pa.list_(source),
        "first": source,
        "price": TEXT,
        "givenName": TEXT,
        "letters": WHOLE,
    }
    asked = [name for name in shape.columns if name != "letters"]
    assert list(shape.schema["properties"]) == shape.schema["required"] == asked
    assert shape.read(json.dumps(REVIEW)) == {
        **REVIEW,
        "title": "Fine",
        "sources": [{"name": "é", "year": None}, {"name": "b", "year": 1999}],
        "price": "1.5",
        "letters": 4,
    }


MUST = "must be string, integer, number, boolean, a list of texts, task.labels or a JSON schema"


@pytest.mark.parametrize(
    ("rule", "place", "message"),
    [
        pytest.param("integr", "", f"{MUST} .* but is 'integr'; did you mean 'integer'?", id="misspelt"),
        pytest.param("colour", "", f"{MUST} .* but is 'colour'; there is boolean, integer", id="no type"),
        pytest.param(3, "", f"{MUST} .* but is 3$", id="number"),
        pytest.param(None, "", f"{MUST} .* but is None$", id="nothing"),
        pytest.param([], "", MUST, id="empty list"),
        pytest.param(["a", 1], "", MUST, id="list of more than texts"),
        pytest.param({}, "", MUST, id="empty schema"),
        pytest.param(NULL, "", MUST, id="null alone"),
        pytest.param({"type": "strin"}, "", MUST, id="unknown type"),
        pytest.param({"type": {"a": 1}}, "", MUST, id="type that is none"),
        pytest.param({"type": ["string", "integer"]}, "", MUST, id="two types"),
        pytest.param({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "", MUST, id="anyOf two types"),
        pytest.param({"anyOf": 3}, "", MUST, id="anyOf that is none"),
        pytest.param({"enum": [1, 2]}, "", MUST, id="enum without type"),
        pytest.param({"enum": 3}, "", MUST, id="enum that is none"),
        pytest.param({"type": "array"}, "", MUST, id="array of anything"),
        pytest.param({"type": "object"}, "", MUST, id="object of anything"),
        pytest.param({"type": "object", "properties": ["a"]}, "", MUST, id="properties that are none"),
        pytest.param({"$ref": "#/$defs/Q"}, "", rf"{MUST} .* but is .*#/\$defs/Q", id="ref to nothing"),
        pytest.param({"type": "array", "items": "string"}, "", MUST, id="items that are no schema"),
        pytest.param({"type": "array", "items": {"type": "strin"}}, ".items", MUST, id="items"),
        pytest.param(
            {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "array"}}}},
            ".items.a",
            MUST,
            id="property of items",
        ),
        pytest.param({"type": "string", "enum": 3}, ".enum", "no JSON schema: 3 is not", id="bad enum"),
        pytest.param(
            {"type": "array", "items": {"type": "string", "maxLength": "9"}},
            ".items.maxLength",
            "no JSON schema: '9' is not of type 'integer'",
            id="bad limit",
        ),
        pytest.param({"type": "string", "pattern": "("}, ".pattern", "no JSON schema", id="bad pattern"),
    ],
)
def test_a_rule_that_is_none_is_refused_at_its_place(rule: Any, place: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^writes\.x{place}: {message}"):
        Shape({"y": "string", "x": rule}).check()


@pytest.mark.parametrize("where", ["http://127.0.0.1:9/schema.json", "#/$defs/Q"])
def test_a_schema_refers_to_no_other_and_nothing_is_fetched(where: str) -> None:
    with pytest.raises(InputError, match=r"writes: a \$ref refers to nothing here; write the schema out"):
        Shape({"x": {"type": "string", "not": {"$ref": where}}}).check()


def test_what_has_no_schema_is_no_model() -> None:
    with pytest.raises(InputError, match="a column, a mapping or a pydantic model, but is <class 'int'>"):
        Shape(int)


def test_a_model_that_contains_itself_has_no_column_type() -> None:
    with pytest.raises(InputError, match=r"writes\.children\.items\.children: contains itself"):
        Shape(Node)


# Mended without a call.

N = Shape({"n": "integer"})


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1}',
        '\n ```json\n{"n": 1}\n```\n',
        '```\n{"n": 1}```',
        '\ufeff{"n":1}',
        'Sure! Here it is:\n\n{"n": 1}',
        '{"n": 1}\n\nI hope this helps {you}.',
        'In {braces} and { "quotes": first, then ```json\n{"n": 1}\n``` and {"n": 2}',
        '{"m": 5} or rather {"n": 1} or {"n": 2}',
        '{"m": {"n": 2}} is wrong, {"n": 1} is right',
        '{"m": {"n": 2}, or rather: {"n": 1}',
        '{"n": "one"} {"n": 1}',
        '[{"n": 1}, {"n": 2}]',
        '{"n": 1}{"n": 2}',
    ],
    ids=range(13),
)
def test_json_is_found_in_fences_and_prose_the_first_that_fits(text: str) -> None:
    assert N.read(text) == {"n": 1}


@pytest.mark.parametrize(
    "value", ["a } b { c", '{"x": "y"}', '"', "\\", "```", "é \U0001f600 \u2028", "", "{{ x }}", "\0"]
)
@pytest.mark.parametrize("around", [("", ""), ("Well {x}: ", " - done }"), ("```json\n", "\n```")])
def test_braces_and_quotes_inside_of_texts_are_texts(value: str, around: tuple[str, str]) -> None:
    shape = Shape({"x": "string", "y": {"type": "object", "properties": {"z": {"type": "string"}}}})
    answer = {"x": value, "y": {"z": value}}
    for text in (json.dumps(answer), json.dumps(answer, ensure_ascii=False, indent=1)):
        assert shape.read(text.join(around)) == answer


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1',
        '{"n": 1, "m": ',
        '{"n": 1, "m": "cut he',
        '{"answers": [{"n": 1}, {"n": 2}, {"n"',
        '{"why": "so", "answer": {"n": 1}, "more": "cut {} he',
        'Here:\n```json\n{"answer": {"n": 1},',
        '{"a": {"n": 1}, "b": {',
        '```json\n{"answer": {"n": 1}\n```',
        '{"answer": {"n": 1}, oops}',
        '{"answer": {"n": 1}, "sure": NaN}',
    ],
)
def test_of_json_that_was_cut_or_broken_nothing_is_made_up(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not JSON: "):
        N.read(text)


# Refused, with what is wrong.

WRITES = {
    "n": {"type": "integer", "minimum": 1, "maximum": 5},
    "tone": ["dry", "warm"],
    "note": {"anyOf": [{"type": "string", "maxLength": 3}, NULL]},
    "list": {"type": "array", "items": {"type": "object", "properties": {"q": {"type": "string"}}}},
    "x": "number",
}
FITS = {"n": 3, "tone": "dry", "note": None, "list": [{"q": "a"}], "x": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"n": 6}, "n: 6 is greater than the maximum of 5", id="limit"),
        pytest.param({"n": "3"}, "n: '3' is not of type 'integer'", id="type"),
        pytest.param({"n": 1.5}, "n: 1.5 is not of type 'integer'", id="fraction"),
        pytest.param({"n": True}, "n: True is not of type 'integer'", id="truth"),
        pytest.param({"tone": "loud"}, "tone: 'loud' is not one of ['dry', 'warm']", id="allowed texts"),
        pytest.param(
            {"note": 7}, "note: 7 is not of type 'string', and 7 is not of type 'null'", id="either"
        ),
        pytest.param({"note": "long"}, "note: 'long' is too long, and 'long' is not of", id="either limit"),
        pytest.param({"list": [{}, {"q": 1}]}, "list.1.q: 1 is not of type 'string'", id="nested"),
        pytest.param({"y": 1}, "('y' was unexpected)", id="another key"),
        pytest.param({"x": 2**53 + 1}, "x: no column holds it: ", id="no float"),
        pytest.param({"x": 10**400}, "x: no column holds it: ", id="huge"),
        pytest.param({"list": [{"q": "\ud83d"}]}, "list: no column holds it: ", id="half an emoji"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_what_is_allowed(
    changes: dict[str, Any], message: str
) -> None:
    shape = Shape(WRITES)
    assert shape.read(json.dumps(FITS)) == FITS
    with pytest.raises(ValueError) as error:
        shape.read(json.dumps({**FITS, **changes}))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "not JSON: Expecting value", id="nothing"),
        pytest.param("I think so.", "not JSON: Expecting value", id="words"),
        pytest.param("[1, 2]", "not a JSON object", id="list"),
        pytest.param("null", "not a JSON object", id="null"),
        pytest.param('"{}"', "'n' is a required property", id="empty object"),
        pytest.param("{'n': 1}", "not JSON: Expecting property name", id="single quotes"),
        pytest.param('{"m": 1} and {"n": 0.5}', "'n' is a required property", id="the first is told of"),
        pytest.param('{"n": NaN}', "not JSON: NaN is no JSON", id="NaN"),
        pytest.param('{"n": -Infinity}', "not JSON: -Infinity is no JSON", id="Infinity"),
        pytest.param('{"n": 1e999}', "not JSON: 1e999 is too large", id="infinite by its size"),
        pytest.param('{"n": 9223372036854775808}', "n: no column holds it: .*too large", id="beyond int64"),
        pytest.param('{"n": 1e300}', "n: no column holds it: ", id="far beyond int64"),
        pytest.param(f'{{"n": {"9" * 5000}}}', "not JSON: Exceeds the limit", id="5000 digits"),
    ],
)
def test_what_is_no_answer_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        N.read(text)


def test_the_largest_whole_numbers_are_columns() -> None:
    for number in (2**63 - 1, -(2**63)):
        assert N.read(json.dumps({"n": number})) == {"n": number}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"title": "much too long"}, "title: Value error, must have at most 10", id="validator"),
        pytest.param({"mark": 1}, "^Value error, a warm review has a mark of 3", id="of the whole"),
        pytest.param({"mark": 6}, "mark: 6 is greater than the maximum of 5", id="schema"),
        pytest.param({"sources": [{"name": 3}]}, "sources.0.name: 3 is not of type", id="nested"),
        pytest.param({"title": "\ud83d"}, "title: ", id="half an emoji"),
    ],
)
def test_a_models_own_validators_are_heard_without_the_version_of_pydantic(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Shape(Review).read(json.dumps({**REVIEW, **changes}))
    assert "https://" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(lambda depth: "[" * depth, id="brackets"),
        pytest.param(lambda depth: "{" * depth, id="braces"),
        pytest.param(lambda depth: '{"n":' * depth, id="objects"),
        pytest.param(lambda depth: '{"n":' * depth + "1" + "}" * depth, id="whole objects"),
        pytest.param(lambda depth: '{"n":' + "[" * depth + "]" * depth + "}", id="whole list"),
    ],
)
def test_an_answer_nested_without_end_is_refused_in_no_time(text: Callable[[int], str]) -> None:
    # At some depth parsing still works, but not what comes after it.
    depths = [*range(800, 1000), 100_000]
    started = time.perf_counter()
    for depth in depths:
        with pytest.raises(ValueError, match=r"not JSON|nested too deep|is not of type"):
            N.read(text(depth))
    assert time.perf_counter() - started < 3


def test_a_model_is_asked_for_whole_and_may_leave_out_what_has_a_default() -> None:
    class Source(BaseModel):
        name: str
        year: int = 1900

    class Report(BaseModel):
        default: str
        sources: list[Source]

    shape = Shape(Report)
    source = shape.schema["$defs"]["Source"]
    assert (source["required"], source["additionalProperties"]) == (["name", "year"], False)
    assert "default" not in source["properties"]["year"]
    assert list(shape.schema["properties"]) == ["default", "sources"]
    read = shape.read('{"default": "a\nb", "sources": [{"name": "x"}]}')
    assert read == {"default": "a\nb", "sources": [{"name": "x", "year": 1900}]}
