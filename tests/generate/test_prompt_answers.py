"""A JSON answer becomes typed columns; a bad one is shown to the model again, and every answer is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prompting import Answer, ask, rows
from pydantic import BaseModel, field_validator

from synthray.errors import InputError, ModelError
from synthray.generate.prompt import Prompt
from synthray.lineage import child_id
from synthray.model.answer import SHOWN
from synthray.model.language import Choice, Request, Response

WRITES: Mapping[str, Any] = {
    "title": "string",
    "score": {"type": "integer", "minimum": 1, "maximum": 5},
    "sure": "boolean",
    "weight": "number",
    "tone": ["dry", "warm"],
    "topic": "task.labels",
    "tags": {"type": "array", "items": {"type": "string"}},
    "who": {"type": "object", "properties": {"name": {"type": ["string", "null"]}}},
}
GOOD = {
    **{"title": "é", "score": 3, "sure": True, "weight": 1.5, "tone": "dry", "topic": "World"},
    **{"tags": ["a", "b"], "who": {"name": None}},
}
ONE = Prompt(template="{{ x }}", writes={"n": "integer"})
NOT_THREE = "n: 'three' is not of type 'integer'"


class Review(BaseModel):
    """A model with a rule of its own."""

    title: str
    stars: int | None = None
    tags: list[str] = []

    @field_validator("title")
    @classmethod
    def _no_shouting(cls, title: str) -> str:
        if title.isupper():
            raise ValueError("must not be in capitals")
        return title.strip()


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    left = iter(answers)
    return lambda request: next(left)


def kept(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the calls in a folder, in the order of their answers."""
    for file in folder.glob("*.jsonl"):
        yield from map(json.loads, file.read_text().splitlines())


# Columns.


def test_a_json_answer_fills_typed_columns() -> None:
    out, asked = ask(Prompt(template="x", writes=WRITES), rows(0), json.dumps(GOOD))
    assert out.select(list(WRITES)).to_pylist() == [GOOD]
    kinds = [pa.string(), pa.int64(), pa.bool_(), pa.float64(), pa.string(), pa.string()]
    kinds += [pa.list_(pa.string()), pa.struct([("name", pa.string())])]
    assert [out.schema.field(name).type for name in WRITES] == kinds
    assert out["failed"].to_pylist() == [None]
    assert asked[0].schema == {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "score": WRITES["score"],
            "sure": {"type": "boolean"},
            "weight": {"type": "number"},
            "tone": {"type": "string", "enum": ["dry", "warm"]},
            "topic": {"type": "string", "enum": ["World", "Sports"]},
            "tags": WRITES["tags"],
            "who": WRITES["who"],
        },
        "required": list(WRITES),
        "additionalProperties": False,
    }


def test_whole_numbers_that_are_written_as_fractions_share_a_column() -> None:
    out, asked = ask(ONE, rows(1, 2, 3), lambda request: f'{{"n": {request.messages[0]["content"]}.0}}')
    assert out["n"].to_pylist() == [1, 2, 3]
    assert len(asked) == 3


def test_an_answer_in_fences_and_prose_costs_no_second_call() -> None:
    out, asked = ask(ONE, rows("a"), 'Sure:\n```json\n{"n": 1}\n```\nAnything else?')
    assert out.select(["n", "failed"]).to_pylist() == [{"n": 1, "failed": None}]
    assert len(asked) == 1


def test_a_pydantic_model_gives_columns_and_its_validators_are_applied() -> None:
    operator = Prompt(template="{{ x }}", writes=Review)
    answers = in_turn(
        '{"title": "LOUD", "stars": 1, "tags": []}', '{"title": " a ", "stars": null, "tags": ["b"]}'
    )
    out, asked = ask(operator, rows("a"), answers)
    assert out.select(["title", "stars", "tags"]).to_pylist() == [
        {"title": "a", "stars": None, "tags": ["b"]}
    ]
    kinds = [pa.string(), pa.int64(), pa.list_(pa.string())]
    assert [out.schema.field(name).type for name in ("title", "stars", "tags")] == kinds
    assert "title: Value error, must not be in capitals." in asked[1].messages[-1]["content"]
    assert asked[0].schema is not None
    assert asked[0].schema["required"] == ["title", "stars", "tags"]


def test_the_settings_tell_pydantic_models_apart_by_their_schema() -> None:
    name, schema = Prompt(template="x", writes=Review).settings()["writes"]
    assert (name, list(schema["properties"])) == ("Review", ["title", "stars", "tags"])
    before = json.dumps(schema)
    other = type("Review", (Review,), {"__annotations__": {"more": str}})
    assert json.dumps(Prompt(template="x", writes=other).settings()["writes"][1]) != before


@pytest.mark.parametrize(
    ("writes", "message"),
    [
        pytest.param("", "writes names no column", id="empty name"),
        pytest.param({}, "writes names no column", id="empty mapping"),
        pytest.param("row_id", "cannot write 'row_id': the name is reserved", id="reserved"),
        pytest.param(
            {"failed": "string"}, "cannot write 'failed': the name is reserved", id="reserved in JSON"
        ),
        pytest.param({"x": "integr"}, r"writes\.x: must be string, .* did you mean 'integer'", id="misspelt"),
        pytest.param({"x": [1, 2]}, r"writes\.x: must be .* but is \[1, 2\]", id="list of numbers"),
        pytest.param({"x": {"type": "array"}}, r"writes\.x: must be", id="no column type"),
        pytest.param({"x": {"type": ["string", "integer"]}}, r"writes\.x: must be", id="two types"),
        pytest.param({"x": {"type": "string", "enum": 3}}, r"writes\.x\.enum: no JSON schema", id="enum"),
        pytest.param({"x": "task.labels"}, r"writes\.x: must be", id="labels of a task without"),
        pytest.param(int, "a pydantic model, but is <class 'int'>", id="no pydantic model"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_call(writes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prompt(template="x", writes=writes).check(rows().schema)


# Asked again.


def test_a_bad_answer_is_shown_to_the_model_with_what_is_wrong(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    operator = replace(ONE, system="Be brief.", temperature=0.5, max_tokens=9, stop=["."])
    answers = in_turn('{"n": "three"}', "Sorry!", '{"n": 3}')
    out, asked = ask(operator, rows("How many?"), answers, calls=str(tmp_path))
    first = [system, {"role": "user", "content": "How many?"}]
    wrong = [NOT_THREE, "not JSON: Expecting value: line 1 column 1 (char 0)"]
    told = [
        f"That answer cannot be used: {one}. Answer again, with the corrected JSON object alone."
        for one in wrong
    ]
    second = [
        *first,
        {"role": "assistant", "content": '{"n": "three"}'},
        {"role": "user", "content": told[0]},
    ]
    third = [*second, {"role": "assistant", "content": "Sorry!"}, {"role": "user", "content": told[1]}]
    assert [list(one.messages) for one in asked] == [first, second, third]
    assert [replace(one, messages=()) for one in asked[1:]] == [replace(asked[0], messages=())] * 2
    calls = list(kept(tmp_path))
    assert [one["response"] for one in calls] == ['{"n": "three"}', "Sorry!", '{"n": 3}']
    assert len({one["key"] for one in calls}) == 3
    row = out.to_pylist()[0]
    assert (row["n"], row["failed"], row["write_call"]) == (3, None, calls[-1]["key"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("reasks", [0, 1, 3])
def test_an_answer_that_stays_bad_fails_its_row_after_all_reasks(
    tmp_path: Path, temperature: float, reasks: int
) -> None:
    operator = replace(ONE, reasks=reasks, temperature=temperature)
    out, asked = ask(operator, rows("a"), '{"n": "three"}', calls=str(tmp_path))
    assert len(asked) == reasks + 1, "the same bad answer is no reason to give up"
    assert [one.temperature for one in asked] == [temperature] * (reasks + 1)
    keys = [one["key"] for one in kept(tmp_path)]
    assert len(set(keys)) == reasks + 1
    row = out.to_pylist()[0]
    message = f'{NOT_THREE}; the answer was: {{"n": "three"}}'
    assert row["failed"] == {"error": "InvalidAnswer", "message": message, "attempts": reasks + 1}
    assert (row["n"], row["write_call"], row["write_finish"]) == (None, keys[-1], "stop")


def test_of_a_long_bad_answer_the_message_shows_the_beginning() -> None:
    out, _ = ask(replace(ONE, reasks=0), rows("a"), "x" * 5000)
    assert out["failed"][0]["message"].as_py().endswith(f"the answer was: {'x' * SHOWN}")


@pytest.mark.parametrize(
    ("settings", "answer", "message"),
    [
        pytest.param({}, Response('{"n": 3', "length"), "not JSON: .*cut at max_tokens=256", id="cut"),
        pytest.param({"raw": True}, '{"n": "three"}', NOT_THREE, id="raw"),
    ],
)
def test_where_it_cannot_help_nobody_is_asked_again(
    settings: dict[str, Any], answer: Answer, message: str
) -> None:
    out, asked = ask(replace(ONE, **settings), rows("a"), answer)
    assert len(asked) == 1
    failed = out["failed"][0].as_py()
    assert (failed["error"], failed["attempts"]) == ("InvalidAnswer", 1)
    assert re.match(message, failed["message"])


def test_a_cut_answer_that_is_whole_json_is_taken() -> None:
    out, asked = ask(ONE, rows("a"), Response('{"n": 3} and that is bec', "length"))
    assert out.select(["n", "write_finish", "failed"]).to_pylist() == [
        {"n": 3, "write_finish": "length", "failed": None}
    ]
    assert len(asked) == 1


def test_a_call_that_fails_when_asked_again_fails_the_row_with_all_attempts() -> None:
    answers = in_turn('{"n": "three"}', ModelError("too long", "HTTP400"))
    out, _ = ask(ONE, rows("a"), answers)
    assert out["failed"].to_pylist() == [{"error": "HTTP400", "message": "too long", "attempts": 2}]


def test_run_again_all_answers_are_found_the_bad_ones_too(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        count = len(request.messages) // 2
        content = request.messages[0]["content"]
        return '{"n": 1}' if content == f"good {count}" else f"bad {count}"

    table = rows(*(f"good {count}" for count in range(5)))
    out, asked = ask(ONE, table, answer, calls=str(tmp_path))
    assert len(asked) == 1 + 2 + 3 + 3 + 3
    assert out["n"].to_pylist() == [1, 1, 1, None, None]
    again, later = ask(ONE, table, "never asked", calls=str(tmp_path))
    assert later == []
    assert again == out


def test_the_prefill_stays_when_asked_again() -> None:
    answers = in_turn('{"n": "three"}', '{"n": 3}')
    out, asked = ask(replace(ONE, prefill='{"n":'), rows("a"), answers)
    assert [one.prefill for one in asked] == ['{"n":'] * 2
    assert out["n"].to_pylist() == [3]


# Retried in another run.


def test_an_invalid_answer_is_drawn_again_when_failures_are_retried_and_the_bad_one_is_kept(
    tmp_path: Path,
) -> None:
    operator = replace(ONE, n=2, reasks=0)
    _, first = ask(operator, rows("a"), "bad", calls=str(tmp_path))
    out, later = ask(operator, rows("a"), '{"n": 1}', calls=str(tmp_path), retry=1)
    assert (len(first), len(later)) == (2, 2), "the bad answers are found again and others are drawn"
    assert not {one.seed for one in first} & {one.seed for one in later}
    assert out["n"].to_pylist() == [1, 1]
    assert out["failed"].to_pylist() == [None, None]
    assert sorted((one["response"], one["ordinal"]) for one in kept(tmp_path)) == [
        *[("bad", 0), ("bad", 1)],
        *[('{"n": 1}', 2), ('{"n": 1}', 3)],
    ]


def test_a_retry_at_temperature_0_asks_with_some_warmth_and_counts_all_attempts() -> None:
    out, asked = ask(replace(ONE, temperature=0, reasks=1), rows("a"), "bad", retry=2)
    assert [one.temperature for one in asked] == [0, 0, 0.3, 0.3, 0.3, 0.3]
    assert out["failed"][0]["attempts"].as_py() == 6


# Together.


def test_n_children_are_one_call_and_a_bad_one_is_mended_alone(tmp_path: Path) -> None:
    def answer(request: Request) -> Answer:
        if request.n == 1:
            return '{"n": 9}'
        more = tuple(Choice(f'{{"n": {place}}}') for place in (1, '"three"', 3))
        return Response('{"n": 0}', more=more)

    operator = replace(ONE, n=4, together=True)
    out, asked = ask(operator, rows("a", "b"), answer, calls=str(tmp_path))
    assert sorted(one.n for one in asked) == [1, 1, 4, 4]
    assert out["n"].to_pylist() == [0, 1, 9, 3] * 2
    assert out["failed"].null_count == 8
    assert out["row_id"].to_pylist() == [
        child_id(f"r{row}", "write", n) for row in range(2) for n in range(4)
    ]
    keys = out["write_call"].to_pylist()
    assert keys[0] == keys[1] == keys[3] != keys[2]
    again = next(one for one in asked if one.n == 1)
    assert [message["content"] for message in again.messages[1:2]] == ['{"n": "three"}']
    assert NOT_THREE in again.messages[2]["content"]
    assert ask(operator, rows("a", "b"), "never asked", calls=str(tmp_path)) == (out, [])


def test_a_call_for_all_children_that_fails_fails_each_of_them() -> None:
    operator = replace(ONE, n=2, together=True)
    out, asked = ask(operator, rows("a"), ModelError("too long", "HTTP400"))
    assert len(asked) == 1
    assert out["failed"].to_pylist() == [{"error": "HTTP400", "message": "too long", "attempts": 1}] * 2


def test_answers_that_a_model_leaves_out_are_asked_for_one_by_one() -> None:
    def answer(request: Request) -> Answer:
        return Response("first", more=(Choice("second"),)) if request.n > 1 else "alone"

    operator = Prompt(template="x", writes="out", n=4, together=True)
    out, asked = ask(operator, rows("a"), answer)
    assert out["out"].to_pylist() == ["first", "second", "alone", "alone"]
    assert [one.n for one in asked] == [4, 1, 1]
    assert len({one.seed for one in asked[1:]}) == 2


def test_more_answers_than_asked_for_are_left() -> None:
    more = tuple(Choice(f"{place}") for place in range(5))
    out, _ = ask(Prompt(template="x", writes="out", n=2, together=True), rows("a"), Response("a", more=more))
    assert out["out"].to_pylist() == ["a", "0"]
