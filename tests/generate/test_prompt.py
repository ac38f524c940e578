"""A prompt asks once for each row; every row comes back with its columns or with why it failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synthray.errors import InputError, ModelError
from synthray.generate.prompt import Prompt
from synthray.lineage import FAILED, child_id
from synthray.model.fake import Fake
from synthray.model.language import Choice, Complete, Language, Request, Response
from synthray.operator import Context
from synthray.task import Task

TASK = Task(text="news", labels={"World": "abroad", "Sports": "games"}, guideline="One topic.")
Answer = Callable[[Request], "str | Response | ModelError"]


@dataclass(frozen=True)
class Spy(Language):
    """Answers by a function and keeps what it was asked."""

    answer: Answer = field(default=lambda request: "ok")
    asked: list[Request] = field(default_factory=list)
    without: frozenset[str] = frozenset()

    @property
    def lacks(self) -> frozenset[str]:
        return self.without

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
    operator: Prompt,
    table: pa.Table,
    answer: Answer | list[Any] | None = None,
    *,
    retries: int = 0,
    **context: Any,
) -> tuple[pa.Table, list[Request]]:
    """Return what the operator makes of a table, and what the model was asked."""
    answers = answer if isinstance(answer, list) else ["ok"]
    drawn = answer if callable(answer) else lambda request: answers[request.seed % len(answers)]
    spy = Spy(answer=drawn, retries=retries)
    made = Context(**{"step": "write", "task": TASK, "language": spy, **context})
    return replace(operator, context=made)(table), spy.asked


def said(asked: list[Request]) -> list[str]:
    return [request.messages[-1]["content"] for request in asked]


def same(text: str | Response | ModelError) -> Answer:
    return lambda request: text


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is tried again without a pause."""
    monkeypatch.setattr("synthray.model.calls._FIRST_PAUSE_S", 0.0)


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
        return ModelError("too long", "HTTP400") if bad else "fine"

    out, asked = ask(Prompt(template="{{ x }}", writes="out"), rows(x=["a", "b", "c"]), answer, retries=3)
    assert sorted(said(asked)) == ["a", "b", "c"]
    assert out["row_id"].to_pylist() == ["r0", "r1", "r2"]
    assert out["out"].to_pylist() == ["fine", None, "fine"]
    failed = {"error": "HTTP400", "message": "too long", "attempts": 1}
    assert out["failed"].to_pylist() == [None, failed, None]
    assert out["failed"].type == FAILED


@pytest.mark.parametrize("retries", [0, 3])
def test_a_call_that_may_do_better_is_tried_again_and_its_attempts_are_counted(retries: int) -> None:
    def answer(request: Request) -> str | ModelError:
        bad = "b" in request.messages[0]["content"]
        return ModelError("broken", "HTTP500", again=True) if bad else "fine"

    table = rows(x=["a", "b"])
    out, asked = ask(Prompt(template="{{ x }}", writes="out"), table, answer, retries=retries)
    assert sorted(said(asked)) == ["a"] + ["b"] * (retries + 1)
    failed = {"error": "HTTP500", "message": "broken", "attempts": retries + 1}
    assert out["failed"].to_pylist() == [None, failed]


def test_being_told_to_wait_is_waited_out_and_uses_up_no_retry() -> None:
    told = iter([ModelError("slow down", "HTTP429", again=True, after_s=0.0)] * 3)
    out, asked = ask(Prompt(template="x", writes="out"), rows(), lambda request: next(told, "fine"))
    assert len(asked) == 4
    assert out.select(["out", "failed"]).to_pylist() == [{"out": "fine", "failed": None}]


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


def test_a_cut_answer_is_marked() -> None:
    out, _ = ask(Prompt(template="x", writes="out"), rows(), same(Response("half a", "length")))
    assert out.select(["out", "write_finish", "failed"]).to_pylist() == [
        {"out": "half a", "write_finish": "length", "failed": None}
    ]


@pytest.mark.parametrize("writes", ["out", {"out": "string"}], ids=["text", "JSON"])
@pytest.mark.parametrize("finish", ["content_filter", "tool_calls", "no_text"])
def test_an_answer_without_text_fails_its_row_and_is_kept_but_not_asked_for_again(
    tmp_path: Path, writes: Any, finish: str
) -> None:
    operator = Prompt(template="x", writes=writes)
    out, asked = ask(operator, rows(), same(Response("", finish)), calls=str(tmp_path))
    again, later = ask(operator, rows(), calls=str(tmp_path))
    assert (len(asked), len(later)) == (1, 0)
    assert again == out
    row = out.to_pylist()[0]
    assert (row["out"], row["write_finish"]) == (None, finish)
    assert row["write_call"], "the kept call can be looked at"
    assert (row["failed"]["error"], row["failed"]["attempts"]) == ("NoText", 1)
    assert f"no text in the answer (finish_reason '{finish}')" in row["failed"]["message"]


def test_a_model_may_answer_with_an_empty_text() -> None:
    out, _ = ask(Prompt(template="x", writes="out"), rows(), same(""))
    assert out.select(["out", "failed"]).to_pylist() == [{"out": "", "failed": None}]


# What is asked of the model beyond a chat.


def test_a_raw_template_is_sent_as_it_is() -> None:
    operator = Prompt(template="<s>{{ x }}", writes="out", raw=True, prefill="{{ x }}:")
    out, asked = ask(operator, rows(x=["a", "b"]))
    assert sorted((one.prompt, one.messages, one.prefill) for one in asked) == [
        ("<s>a", (), "a:"),
        ("<s>b", (), "b:"),
    ]
    assert out["out"].to_pylist() == ["ok", "ok"]


def test_a_raw_template_has_no_place_for_a_system_prompt() -> None:
    with pytest.raises(InputError, match="raw sends the template alone; put what system says into"):
        Prompt(template="x", writes="out", raw=True, system="Be kind.").check(rows().schema)


def test_an_answer_begins_with_the_prefill_of_its_row() -> None:
    operator = Prompt(template="Rhyme on {{ x }}.", writes="out", prefill="{{ y|upper }} {{ task.text }}: ")
    assert operator.reads == ("x", "y")
    out, asked = ask(operator, rows(x=["a", "b"], y=["c", None]), lambda request: f"{request.prefill}ok")
    assert [(one.messages, one.prefill) for one in asked if "a" in one.messages[0]["content"]] == [
        (({"role": "user", "content": "Rhyme on a."},), "C news: ")
    ]
    assert out["out"].to_pylist() == ["C news: ok", "NONE news: ok"]
    with pytest.raises(InputError, match=r"task\.labls does not exist; did you mean 'labels'"):
        Prompt(template="x", writes="out", prefill="{{ task.labls }}").check(rows().schema)
    out, asked = ask(Prompt(template="x", writes="out", prefill="{{ z }}"), rows())
    assert (asked, out["failed"][0]["error"].as_py()) == ([], "TemplateError")


def test_log_probabilities_are_a_typed_column_and_the_same_from_the_store(tmp_path: Path) -> None:
    tokens = [{"token": "é", "logprob": -0.5, "top": {"b": -2.0, "é": -0.5, "a": -2.0}}]
    tokens += [{"token": "!", "logprob": -0.1, "top": {}}]
    operator = Prompt(template="{{ x }}", writes="out", logprobs=3)
    answer = same(Response("é!", logprobs=tokens))
    out, asked = ask(operator, rows(x=["a"]), answer, calls=str(tmp_path))
    assert asked[0].logprobs == 3
    top = [{"token": token, "logprob": value} for token, value in (("é", -0.5), ("a", -2.0), ("b", -2.0))]
    assert out["write_logprobs"].to_pylist() == [[{**tokens[0], "top": top}, {**tokens[1], "top": []}]]
    token = [("token", pa.string()), ("logprob", pa.float64())]
    kind = pa.list_(pa.struct([*token, ("top", pa.list_(pa.struct(token)))]))
    assert out.schema.field("write_logprobs").type == kind
    assert operator.schema(rows().schema).field("prompt_logprobs").type == kind
    again, later = ask(operator, rows(x=["a"]), calls=str(tmp_path))
    assert (again, later) == (out, [])
    assert "write_logprobs" not in ask(Prompt(template="x", writes="out"), rows(), answer)[0].column_names


def test_an_answer_may_be_of_any_length_and_its_tokens_more_or_less_likely() -> None:
    operator = Prompt(template="x", writes="out", max_tokens=None, logit_bias={"50256": -100})
    _, asked = ask(operator, rows())
    assert (asked[0].max_tokens, asked[0].logit_bias) == (None, {"50256": -100})


@pytest.mark.parametrize(
    "change",
    [
        {"raw": True},
        {"prefill": "a"},
        {"logprobs": 0},
        {"logit_bias": {"1": 2}},
        {"max_tokens": None},
        {"n": 2, "together": True},
        {"stop": ["."]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_an_answer_is_asked_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    operator = Prompt(template="x", writes="out", temperature=0)
    ask(operator, rows(), calls=str(tmp_path))
    answer = same(Response("ok", more=(Choice("ok"),)))
    assert len(ask(replace(operator, **change), rows(), answer, calls=str(tmp_path))[1]) == 1
    assert ask(operator, rows(), calls=str(tmp_path))[1] == []


@pytest.mark.parametrize(
    ("settings", "feature"),
    [
        ({"raw": True}, "raw completion"),
        ({"prefill": "{{ x }}"}, "prefill"),
        ({"logprobs": 0}, "logprobs"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"writes": {"y": "string"}}, "schema"),
        ({"stop": ["."]}, "stop"),
        ({"n": 2, "together": True}, "n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_model_cannot_do_is_an_input_error_that_names_it(
    settings: dict[str, Any], feature: str
) -> None:
    context = Context(language=Spy(without=frozenset({feature})))
    with pytest.raises(InputError, match=f"test_prompt has no {feature}; choose another model or leave it"):
        Prompt(**{"template": "x", "writes": "out", **settings, "context": context}).check(rows(x=[]).schema)
    Prompt(template="x", writes="out", n=2, context=context).check(rows().schema)


def test_a_budget_needs_a_bound_for_the_answer() -> None:
    context = Context(language=Spy(budget_tokens=10))
    with pytest.raises(InputError, match="budget_tokens cannot be kept without max_tokens"):
        Prompt(template="x", writes="out", max_tokens=None, context=context).check(rows().schema)


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
