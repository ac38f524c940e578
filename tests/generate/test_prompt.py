"""A prompt asks once for each row; every row comes back with its columns or with why it failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synthray.errors import InputError, ModelError
from synthray.generate.prompt import Prompt
from synthray.lineage import FAILED, child_id
from synthray.model.fake import Fake
from synthray.model.language import Complete, Language, Request, Response
from synthray.operator import Context
from synthray.task import Task

TASK = Task(text="news", labels={"World": "abroad", "Sports": "games"}, guideline="One topic.")
Answer = Callable[[Request], "str | Response | ModelError"]


@dataclass(frozen=True)
class Spy(Language):
    """Answers by a function and keeps what it was asked."""

    answer: Answer = field(default=lambda request: "ok")
    asked: list[Request] = field(default_factory=list)

    def open(self) -> Complete:
        opened = Fake(script=self.answer).open()

        async def complete(request: Request) -> Response:
            self.asked.append(request)
            return await opened(request)

        return complete


def rows(**columns: list[Any]) -> pa.Table:
    size = len(next(iter(columns.values()))) if columns else 1
    identity = {
        "row_id": [f"r{n}" for n in range(size)],
        "parent_id": pa.nulls(size, pa.string()),
        "round": pa.array([0] * size, pa.int32()),
    }
    return pa.table({**identity, **columns})


def ask(
    operator: Prompt, table: pa.Table, answer: Answer | list[Any] | None = None, **context: Any
) -> tuple[pa.Table, list[Request]]:
    """Return what the operator makes of a table, and what the model was asked."""
    answers = answer if isinstance(answer, list) else ["ok"]
    spy = Spy(answer=answer if callable(answer) else lambda request: answers[request.seed % len(answers)])
    made = Context(**{"step": "write", "task": TASK, "language": spy, **context})
    return replace(operator, context=made)(table), spy.asked


def said(asked: list[Request]) -> list[str]:
    return [request.messages[-1]["content"] for request in asked]


def same(text: str | Response | ModelError) -> Answer:
    return lambda request: text


# Templates.


def test_a_template_is_filled_with_the_columns_of_each_row_and_the_task() -> None:
    operator = Prompt(
        template="{{ n + 1 }} {{ text|upper }}{% if tags %} {{ tags|join('+') }}{% endif %} {{ task.text }}",
        system="{{ task.guideline }} {{ task.labels.World }} {{ text }}",
        writes="out",
    )
    table = rows(n=[1, 2], text=["a", "b"], tags=[["x", "y"], None])
    out, asked = ask(operator, table, lambda request: request.messages[-1]["content"] + "! \n")
    assert said(asked) == ["2 A x+y news", "3 B news"]
    assert [request.messages[0] for request in asked] == [
        {"role": "system", "content": f"One topic. abroad {text}"} for text in "ab"
    ]
    assert out["out"].to_pylist() == ["2 A x+y news!", "3 B news!"]
    assert out["failed"].to_pylist() == [None, None]
    assert out.column_names == [*table.column_names, "out", "write_finish", "write_call", "failed"]


def test_without_a_system_prompt_none_is_sent() -> None:
    _, asked = ask(Prompt(template="Hi.", writes="out"), rows())
    assert asked[0].messages == ({"role": "user", "content": "Hi."},)


def test_the_settings_reach_the_model() -> None:
    operator = Prompt(template="x", writes="out", temperature=0.7, top_p=0.9, max_tokens=5, stop=["."])
    _, asked = ask(operator, rows())
    one = asked[0]
    assert (one.temperature, one.top_p, one.max_tokens, one.stop) == (0.7, 0.9, 5, (".",))
    assert one.schema is None


def test_the_columns_it_reads_are_those_that_its_templates_name() -> None:
    template = (
        "{% for word in words %}{{ word }}{{ loop.index }}{% endfor %}{% set x = a.b %}{{ x }}"
        "{{ task.text }}{% for i in range(3) %}{{ i }}{% endfor %}"
    )
    operator = Prompt(template=template, system="{{ tone }}", writes="out")
    assert operator.reads == ("a", "tone", "words")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("a\n{{ b", "does not parse: line 2", id="not closed"),
        pytest.param("{% for x %}", "does not parse: line 1", id="no loop"),
        pytest.param("{{ a|shout }}", "line 1: Jinja has no filter 'shout'", id="unknown filter"),
        pytest.param(
            "{% if a is lwer %}{% endif %}",
            "Jinja has no test 'lwer'; did you mean 'lower'",
            id="unknown test",
        ),
        pytest.param(
            "{{ [1, 2]|random }}{% if a %}{{ a }}{% endif %}",
            "Jinja has no filter 'random'",
            id="drawn by no seed",
        ),
    ],
)
def test_a_template_that_cannot_work_is_found_before_any_call(template: str, message: str) -> None:
    for operator in (
        Prompt(template=template, writes="out"),
        Prompt(template="a", system=template, writes="out"),
    ):
        with pytest.raises(InputError, match=f"the template.*{message}"):
            _ = operator.reads


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ text.__class__.__base__.__subclasses__() }}",
        "{{ text|attr('__class__') }}",
        "{{ text['__class__'] }}",
        "{{ task.__init__.__globals__ }}",
        "{{ task.__class__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ (text.format).__self__ }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ '{0.__class__}'|format(text) ~ text.__class__ }}",
        "{% set _ = task.labels.update({'x': 'y'}) %}",
        "{% set _ = words.append('x') %}",
        "{{ range(10 ** 9)|list|length }}",
        "{% include '/etc/hostname' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ lipsum() }}",
    ],
)
def test_a_template_reaches_nothing_but_its_row(template: str) -> None:
    out, asked = ask(Prompt(template=template, writes="out"), rows(text=["a"], words=[["b"]]))
    assert asked == []
    assert out["failed"][0]["error"].as_py() == "TemplateError"
    assert TASK.labels == {"World": "abroad", "Sports": "games"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("{{ text.strip() }}", "has no attribute 'strip'", id="method of null"),
        pytest.param("{{ text|dictsort }}", "has no attribute 'items'", id="filter of null"),
        pytest.param("{{ n / m }}", "division by zero", id="division"),
        pytest.param("{{ n + text }}", "unsupported operand", id="type"),
        pytest.param("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion", id="recursion"),
    ],
)
def test_a_template_that_fails_at_a_row_fails_that_row_alone(template: str, message: str) -> None:
    table = rows(text=[None, "a"], n=[1, 1], m=[0, 1])
    out, asked = ask(Prompt(template=f"{{% if not m %}}{template}{{% endif %}}go", writes="out"), table)
    assert said(asked) == ["go"]
    assert out["out"].to_pylist() == [None, "ok"]
    failed = out["failed"].to_pylist()
    assert failed[0]["error"] == "TemplateError"
    assert message in failed[0]["message"]
    assert failed[1] is None


def test_a_missing_column_is_no_empty_text() -> None:
    out, asked = ask(Prompt(template="{{ txt }}", writes="out"), rows(text=["a"]))
    assert asked == []
    assert "'txt' is undefined" in out["failed"][0]["message"].as_py()


@pytest.mark.parametrize("name", ["labels", "guideline"])
def test_a_part_of_the_task_named_without_it_is_told_its_name(name: str) -> None:
    operator = Prompt(template=f"{{{{ {name} }}}}", writes="out")
    with pytest.raises(InputError, match=f"'{name}' must be written task.{name}"):
        operator.check(rows().schema)
    operator.check(rows(**{name: ["a column"]}).schema)


# Calls.


def test_a_failed_call_fails_its_row_alone_with_kind_message_and_attempts() -> None:
    def answer(request: Request) -> str | ModelError:
        bad = "b" in request.messages[0]["content"]
        return ModelError("too busy", "HTTP429", attempts=5) if bad else "fine"

    out, _ = ask(Prompt(template="{{ x }}", writes="out"), rows(x=["a", "b", "c"]), answer)
    assert out["row_id"].to_pylist() == ["r0", "r1", "r2"]
    assert out["out"].to_pylist() == ["fine", None, "fine"]
    assert out["failed"].to_pylist() == [
        None,
        {"error": "HTTP429", "message": "too busy", "attempts": 5},
        None,
    ]
    assert out["failed"].type == FAILED


def test_an_error_that_every_call_would_meet_is_raised() -> None:
    refused = same(ModelError("the key is refused", "HTTP401", fatal=True))
    with pytest.raises(ModelError, match="the key is refused"):
        ask(Prompt(template="{{ x }}", writes="out"), rows(x=["a", "b"]), refused)


def test_without_a_model_the_step_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="prompt needs a model"):
        Prompt(template="x", writes="out")(rows())


def test_each_row_is_a_draw_of_its_own_and_the_same_again() -> None:
    operator = Prompt(template="same", writes="out")
    answers = [f"answer {n}" for n in range(50)]
    out, asked = ask(operator, rows(x=list(range(40))), answers)
    assert len({request.seed for request in asked}) == 40
    assert len(set(out["write_call"].to_pylist())) == 40
    again, _ = ask(operator, rows(x=list(range(40))), answers)
    assert again == out
    other, _ = ask(operator, rows(x=list(range(40))), answers, seed=1)
    assert other["out"].to_pylist() != out["out"].to_pylist()


def test_at_temperature_0_equal_prompts_are_one_call() -> None:
    out, asked = ask(Prompt(template="{{ x }}", writes="out", temperature=0), rows(x=["a", "a", "b"]))
    assert sorted(said(asked)) == ["a", "b"]
    keys = out["write_call"].to_pylist()
    assert keys[0] == keys[1] != keys[2]


def test_an_answered_row_is_never_asked_again(tmp_path: Path) -> None:
    operator = Prompt(template="{{ x }}", writes="out")
    first, asked = ask(operator, rows(x=["a", "b"]), calls=str(tmp_path))
    again, later = ask(operator, rows(x=["a", "b", "c"]), same("no"), calls=str(tmp_path))
    assert (len(asked), said(later)) == (2, ["c"])
    assert again.slice(0, 2) == first


def test_a_cut_answer_is_marked() -> None:
    out, _ = ask(Prompt(template="x", writes="out"), rows(), same(Response("half a", "length")))
    assert out.select(["out", "write_finish", "failed"]).to_pylist() == [
        {"out": "half a", "write_finish": "length", "failed": None}
    ]


# Children.


def test_a_row_asked_n_times_becomes_n_children() -> None:
    operator = Prompt(template="{{ x }}", writes="out", n=3)
    assert operator.makes() == "children"
    out, asked = ask(operator, rows(x=["a", "b"]), [f"answer {n}" for n in range(9)])
    assert sorted(said(asked)) == ["a"] * 3 + ["b"] * 3
    assert out["parent_id"].to_pylist() == ["r0"] * 3 + ["r1"] * 3
    assert out["x"].to_pylist() == ["a"] * 3 + ["b"] * 3
    expected = [child_id(parent, "write", n) for parent in ("r0", "r1") for n in range(3)]
    assert out["row_id"].to_pylist() == expected
    assert len(set(out["write_call"].to_pylist())) == 6
    assert out.column_names[:3] == ["row_id", "parent_id", "round"]


def test_of_n_children_only_the_failed_one_fails() -> None:
    seen: list[Request] = []

    def answer(request: Request) -> str | ModelError:
        seen.append(request)
        return ModelError("no", "HTTP500") if len(seen) == 2 else "fine"

    out, _ = ask(Prompt(template="x", writes="out", n=3), rows(), answer)
    assert [row and row["error"] for row in out["failed"].to_pylist()] == [None, "HTTP500", None]
    assert out["out"].to_pylist() == ["fine", None, "fine"]
    assert out["row_id"].to_pylist() == [child_id("r0", "write", n) for n in range(3)]


def test_no_rows_make_no_children() -> None:
    out, asked = ask(Prompt(template="{{ x }}", writes="out", n=3), rows(x=[]))
    assert (len(out), asked) == (0, [])
    assert out.schema.field("out").type == pa.string()


# JSON answers.

WRITES: Mapping[str, Any] = {
    "title": "string",
    "score": {"type": "integer", "minimum": 1, "maximum": 5},
    "sure": "boolean",
    "weight": "number",
    "tone": ["dry", "warm"],
    "topic": "task.labels",
}
GOOD = {"title": "é", "score": 3, "sure": True, "weight": 1.5, "tone": "dry", "topic": "World"}


@pytest.fixture
def judge() -> Prompt:
    return Prompt(template="x", writes=WRITES, max_tokens=20)


def test_a_json_answer_fills_typed_columns(judge: Prompt) -> None:
    out, asked = ask(judge, rows(), same(json.dumps(GOOD)))
    assert out.select(list(WRITES)).to_pylist() == [GOOD]
    kinds = [pa.string(), pa.int64(), pa.bool_(), pa.float64(), pa.string(), pa.string()]
    assert [out.schema.field(name).type for name in WRITES] == kinds
    assert out["failed"].to_pylist() == [None]
    assert asked[0].schema == {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "sure": {"type": "boolean"},
            "weight": {"type": "number"},
            "tone": {"type": "string", "enum": ["dry", "warm"]},
            "topic": {"type": "string", "enum": ["World", "Sports"]},
        },
        "required": list(WRITES),
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "text",
    ["```json\n{}\n```", "```\n{}\n```", "\n ```json\n{}```\n", "  {}\n"],
    ids=["json", "plain", "white space around", "none"],
)
def test_fences_around_json_are_taken_off(judge: Prompt, text: str) -> None:
    out, _ = ask(judge, rows(), same(text.replace("{}", json.dumps(GOOD, indent=1))))
    assert out["failed"].to_pylist() == [None]
    assert out["title"].to_pylist() == ["é"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("I think so.", "not JSON: Expecting value", id="words"),
        pytest.param("", "not JSON", id="nothing"),
        pytest.param(json.dumps(GOOD) + " and more", "not JSON: Extra data", id="more after it"),
        pytest.param("[" * 100_000, "not JSON: maximum recursion", id="brackets without end"),
        pytest.param(json.dumps({**GOOD, "weight": float("nan")}), "not JSON: NaN is no JSON", id="NaN"),
        pytest.param("[]", "is not of type 'object'", id="a list"),
        pytest.param(json.dumps({**GOOD, "score": 6}), "6 is greater than the maximum of 5", id="limit"),
        pytest.param(json.dumps({**GOOD, "score": "3"}), "'3' is not of type 'integer'", id="type"),
        pytest.param(json.dumps({**GOOD, "sure": 1}), "1 is not of type 'boolean'", id="no boolean"),
        pytest.param(json.dumps({**GOOD, "tone": "loud"}), "'loud' is not one of ['dry', 'warm']", id="enum"),
        pytest.param(json.dumps({**GOOD, "topic": "Art"}), "'Art' is not one of ['World'", id="label"),
        pytest.param(json.dumps({**GOOD, "title": None}), "None is not of type 'string'", id="null"),
        pytest.param(json.dumps({**GOOD, "more": 1}), "'more' was unexpected", id="another key"),
        pytest.param(json.dumps({"title": "a"}), "is a required property", id="keys missing"),
        pytest.param(json.dumps({**GOOD, "title": "\ud83d"}), "no column holds it", id="half an emoji"),
    ],
)
def test_an_invalid_answer_fails_its_row_with_what_was_answered(
    judge: Prompt, text: str, message: str
) -> None:
    out, _ = ask(judge, rows(), same(text))
    row = out.to_pylist()[0]
    assert row["failed"]["error"] == "InvalidAnswer"
    assert message in row["failed"]["message"]
    assert row["failed"]["message"].endswith(f"the answer was: {text[:300]}")
    assert [row[name] for name in WRITES] == [None] * 6
    assert row["write_call"], "the kept call can be looked at"


def test_a_number_that_no_column_holds_fails_its_row_alone() -> None:
    def answer(request: Request) -> str:
        return json.dumps({"n": 10**30 if request.messages[0]["content"] == "a" else 7})

    out, _ = ask(Prompt(template="{{ x }}", writes={"n": "integer"}), rows(x=["a", "b"]), answer)
    assert out["n"].to_pylist() == [None, 7]
    assert "too large" in out["failed"][0]["message"].as_py()


def test_json_that_was_cut_says_where(judge: Prompt) -> None:
    out, _ = ask(judge, rows(), same(Response('{"title": "a lo', "length")))
    assert "not JSON (cut at max_tokens=20): " in out["failed"][0]["message"].as_py()
    assert out["write_finish"].to_pylist() == ["length"]


def test_an_invalid_answer_is_asked_again_when_failures_are_retried_and_the_bad_one_is_kept(
    tmp_path: Path,
) -> None:
    operator = Prompt(template="x", writes={"n": "integer"}, n=2)
    _, first = ask(operator, rows(), same("bad"), calls=str(tmp_path))
    out, later = ask(operator, rows(), same('{"n": 1}'), calls=str(tmp_path), retry=1)
    assert (len(first), len(later)) == (2, 2), "the bad answers are found again and others are drawn"
    assert not {one.seed for one in first} & {one.seed for one in later}
    assert out["n"].to_pylist() == [1, 1]
    assert out["failed"].to_pylist() == [None, None]
    texts = [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert sorted((one["response"], one["ordinal"]) for one in texts) == [
        ("bad", 0),
        ("bad", 1),
        ('{"n": 1}', 2),
        ('{"n": 1}', 3),
    ]


def test_a_retry_at_temperature_0_asks_with_some_warmth_and_counts_its_attempts() -> None:
    out, asked = ask(
        Prompt(template="x", writes={"n": "integer"}, temperature=0), rows(), same("bad"), retry=2
    )
    assert [one.temperature for one in asked] == [0, 0.3, 0.3]
    assert out["failed"][0]["attempts"].as_py() == 3


@pytest.mark.parametrize(
    ("writes", "message"),
    [
        pytest.param("", "writes names no column", id="empty name"),
        pytest.param({}, "writes names no column", id="empty mapping"),
        pytest.param("row_id", "cannot write 'row_id': the name is reserved", id="reserved"),
        pytest.param({"x": "integr"}, r"writes\.x: must be string, .* did you mean 'integer'", id="misspelt"),
        pytest.param({"x": []}, r"writes\.x: must be", id="empty list"),
        pytest.param({"x": [1, 2]}, r"writes\.x: must be .* but is \[1, 2\]", id="list of numbers"),
        pytest.param({"x": {"type": "array"}}, r"writes\.x: must be", id="no column type"),
        pytest.param({"x": {"type": ["string", "null"]}}, r"writes\.x: must be", id="two types"),
        pytest.param({"x": {"type": "string", "enum": 3}}, r"writes\.x\.enum: no JSON schema", id="enum"),
        pytest.param({"x": {"type": "string", "maxLength": "9"}}, "no JSON schema: '9' is not", id="limit"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_call(writes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prompt(template="x", writes=writes).check(rows().schema)


def test_labels_are_refused_as_values_when_the_task_has_none() -> None:
    with pytest.raises(InputError, match=r"writes\.x: must be"):
        Prompt(template="x", writes={"x": "task.labels"}).check(rows().schema)


def test_an_error_that_is_fatal_stops_the_calls_that_were_not_sent_yet() -> None:
    asked: list[str] = []

    def refuse(request: Request) -> ModelError:
        asked.append(request.messages[0]["content"])
        return ModelError("no", "HTTP401", fatal=True)

    language = Fake(script=refuse, in_flight=1)
    operator = Prompt(template="{{ n }}", writes="text", context=Context(step="p", language=language))
    table = pa.table(
        {"row_id": [str(n) for n in range(300)], "parent_id": [None] * 300, "n": list(range(300))}
    )
    with pytest.raises(ModelError):
        operator(table)
    assert len(asked) < 30
