"""Two models converse, neither knows what the other was told, and a conversation ends for a reason."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synthray.asker import Asks
from synthray.errors import InputError, ModelError, RecipeError
from synthray.generate.dialogue import Dialogue
from synthray.lineage import uniform
from synthray.model.embedded import Embedded
from synthray.model.fake import Fake
from synthray.model.language import Complete, Language, Request, Response
from synthray.operator import Context
from synthray.plan import planned, samples
from synthray.recipe import load

Script = Callable[[Request], "str | Response | ModelError"]
SECRET = {"user": "You are a pirate.", "assistant": "Never mention gold."}


@dataclass(frozen=True)
class Side(Language):
    """A model that keeps what it was asked, and how many asked at once."""

    name: str = "one"
    script: Script = field(default=lambda request: "ok", compare=False)
    asked: list[Request] = field(default_factory=list, compare=False)
    at_once: list[int] = field(default_factory=lambda: [0, 0], compare=False)
    number: int = field(default_factory=itertools.count().__next__)

    def identity(self) -> dict[str, Any]:
        return {"language": self.name}

    def open(self) -> Complete:
        answer = Fake(script=self.script).open()

        async def complete(request: Request) -> Response:
            self.asked.append(request)
            self.at_once[0] += 1
            self.at_once[1] = max(self.at_once)
            await asyncio.sleep(0.002)
            self.at_once[0] -= 1
            return await answer(request)

        return complete


def rows(**columns: list[Any]) -> pa.Table:
    size = len(next(iter(columns.values())))
    identity = {
        "row_id": [f"r{n}" for n in range(size)],
        "parent_id": pa.nulls(size, pa.string()),
        "round": pa.array([0] * size, pa.int32()),
    }
    return pa.table({**identity, **columns})


def counted(who: str) -> Script:
    """Return a script that says who speaks and how many messages it heard."""
    return lambda request: f"{who} after {sum(one['role'] != 'system' for one in request.messages)}"


def converse(
    operator: Dialogue, table: pa.Table, *scripts: Script, **context: Any
) -> tuple[list[dict[str, Any]], list[Side]]:
    """Return the rows, and the models: the assistant's and, if there are two scripts, the user's."""
    models = [
        Side(name=name, script=script, retries=0) for name, script in zip(("a", "u"), scripts, strict=False)
    ]
    if len(models) == 2:
        operator = replace(operator, user={**operator.user, "model": "person"})
    made = Context(
        **{"step": "talk", "seed": 3, "language": models[0], "models": {"person": models[-1]}, **context}
    )
    return replace(operator, context=made)(table).to_pylist(), models


def texts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in row["messages"]]


def test_each_side_hears_the_other_as_the_user_and_never_its_system_prompt() -> None:
    operator = Dialogue(
        turns=2,
        opening="Tell me of {{ topic }}.",
        user={"system": f"{SECRET['user']} {{{{ topic }}}}", "template": "Speak."},
        assistant={"system": SECRET["assistant"]},
    )
    assert operator.reads == ("topic",)
    found, (assistant, user) = converse(operator, rows(topic=["ships"]), counted("A"), counted("U"))
    said = ["Tell me of ships.", "A after 1", "U after 3", "A after 3"]
    assert texts(found[0]) == list(zip(["user", "assistant"] * 2, said, strict=True))
    assert [list(one.messages) for one in assistant.asked] == [
        [
            {"role": "system", "content": SECRET["assistant"]},
            *[
                {"role": role, "content": text}
                for role, text in zip(["user", "assistant", "user"], said, strict=False)
            ][: 1 + 2 * n],
        ]
        for n in range(2)
    ]
    assert list(user.asked[0].messages) == [
        {"role": "system", "content": "You are a pirate. ships"},
        {"role": "user", "content": "Speak."},
        {"role": "assistant", "content": said[0]},
        {"role": "user", "content": said[1]},
    ]
    assert found[0]["talk_end"] == "turns"
    assert found[0]["talk_turns"] == 2
    assert found[0]["talk_finish"] == ["stop"] * 3
    assert len(set(found[0]["talk_call"])) == 3
    assert found[0]["failed"] is None


def test_without_an_opening_the_users_model_begins() -> None:
    operator = Dialogue(turns=2, user={"temperature": 0.3, "max_tokens": 7, "stop": ["\n"], "top_p": 0.5})
    found, (assistant, user) = converse(operator, rows(x=[1]), counted("A"), counted("U"))
    assert [text for _, text in texts(found[0])] == ["U after 1", "A after 1", "U after 3", "A after 3"]
    first = user.asked[0].messages
    assert [one["role"] for one in first] == ["user"]
    assert "Play a person" in first[0]["content"]
    assert {(one.temperature, one.max_tokens, one.stop, one.top_p) for one in user.asked} == {
        (0.3, 7, ("\n",), 0.5)
    }
    assert {(one.temperature, one.max_tokens, one.stop, one.top_p) for one in assistant.asked} == {
        (1.0, 256, (), 1.0)
    }
    assert all("person" not in message["content"] for one in assistant.asked for message in one.messages)


def test_one_model_may_play_both_sides() -> None:
    found, (model,) = converse(Dialogue(turns=3), rows(x=[1, 2]), counted("M"))
    assert len(model.asked) == 12
    assert [len(row["messages"]) for row in found] == [6, 6]


def test_the_assistants_system_prompt_may_stay_in_the_messages() -> None:
    operator = Dialogue(turns=1, assistant={"system": "Be kind to {{ x }}."}, keep_system=True)
    found, _ = converse(operator, rows(x=["Bo"]), counted("M"))
    assert texts(found[0])[0] == ("system", "Be kind to Bo.")
    assert [role for role, _ in texts(found[0])] == ["system", "user", "assistant"]


def test_turns_are_drawn_for_each_row_or_come_from_a_column() -> None:
    table = rows(x=list(range(200)))
    drawn, _ = converse(Dialogue(turns={"range": [2, 4]}, opening="Hi."), table, counted("M"))
    counts = Counter(row["talk_turns"] for row in drawn)
    assert set(counts) == {2, 3, 4}
    assert all(40 < count < 100 for count in counts.values()), counts
    assert all(len(row["messages"]) == 2 * row["talk_turns"] for row in drawn)
    again, _ = converse(Dialogue(turns={"range": [2, 4]}, opening="Hi."), table.slice(50, 20), counted("M"))
    assert [row["talk_turns"] for row in again] == [row["talk_turns"] for row in drawn[50:70]]
    asked = Dialogue(turns={"column": "n", "most": 4}, opening="Hi.")
    assert asked.reads == ("n",)
    found, (model,) = converse(asked, rows(n=[1, 4, 5, 0, None]), counted("M"))
    assert [row["talk_turns"] for row in found] == [1, 4, None, None, None]
    assert [row["failed"] and row["failed"]["message"] for row in found[2:]] == [
        f"turns: column 'n' must be from 1 to 4, but is {value}" for value in (5, 0, None)
    ]
    assert len(model.asked) == 1 + 7


def test_each_message_is_a_draw_of_its_own_and_longer_conversations_go_on_from_shorter_ones(
    tmp_path: Path,
) -> None:
    def seed_of(request: Request) -> str:
        return str(request.seed)

    short, _ = converse(Dialogue(turns=2, opening="Hi."), rows(x=[1, 2]), seed_of, calls=str(tmp_path))
    for number, row in enumerate(short):
        drawn = [int(uniform("draw", 3, f"r{number}", "talk", place) * 2**31) for place in (1, 2, 3)]
        assert [text for _, text in texts(row)[1:]] == list(map(str, drawn))
    long, (model,) = converse(Dialogue(turns=3, opening="Hi."), rows(x=[1, 2]), seed_of, calls=str(tmp_path))
    assert [row["talk_call"][:3] for row in long] == [row["talk_call"] for row in short]
    assert len(model.asked) == 4


def test_rows_converse_at_once_and_within_the_limits_of_both_models() -> None:
    operator = replace(Dialogue(turns=3), user={"model": "person"})
    models = Side(name="a", in_flight=6), Side(name="u", in_flight=3)
    context = Context(step="talk", language=models[0], models={"person": models[1]})
    out = replace(operator, context=context)(rows(x=list(range(40))))
    assert set(map(len, out["messages"].to_pylist())) == {6}
    assert [len(model.asked) for model in models] == [120, 120]
    assert models[1].at_once[1] == 3
    assert 1 < models[0].at_once[1] <= 6


def test_a_conversation_that_is_run_again_repeats_no_answered_call(tmp_path: Path) -> None:
    def broken(request: Request) -> str | ModelError:
        return ModelError("gone", "Timeout") if len(request.messages) == 5 else "fine"

    operator = Dialogue(turns=3, opening="Hi {{ x }}.")
    table = rows(x=[1, 2])
    first, (_, user) = converse(operator, table, broken, counted("U"), calls=str(tmp_path))
    assert [row["failed"] for row in first] == [
        {"error": "Timeout", "message": "assistant: gone", "attempts": 1}
    ] * 2, "a call that failed is no end of a conversation"
    assert [len(row["messages"]) for row in first] == [5, 5]
    assert [len(row["talk_call"]) for row in first] == [5, 5]
    assert len(user.asked) == 4
    again, models = converse(operator, table, lambda request: "fine", counted("U"), calls=str(tmp_path))
    assert [len(model.asked) for model in models] == [2, 0]
    assert [row["talk_end"] for row in again] == ["turns"] * 2
    assert [row["talk_call"][:4] for row in again] == [row["talk_call"][:4] for row in first]
    whole, models = converse(operator, table, lambda request: "never", counted("never"), calls=str(tmp_path))
    assert (whole, [len(model.asked) for model in models]) == (again, [0, 0])


# Why a conversation ends.


@pytest.mark.parametrize(
    ("at", "answer", "end", "left"),
    [
        (4, " \n", "user_empty", 2),
        (5, "", "assistant_empty", 2),
        (5, Response("", "content_filter"), "assistant_no_text", 2),
        (4, ModelError("too long", "ContextWindow"), "user_context", 2),
        (5, ModelError("too long", "ContextWindow"), "assistant_context", 2),
    ],
)
def test_what_was_answered_before_a_side_had_no_more_to_say_is_kept(
    tmp_path: Path, at: int, answer: str | Response | ModelError, end: str, left: int
) -> None:
    def script(request: Request) -> str | Response | ModelError:
        mine = "Play" in request.messages[0]["content"]
        # In place: what both have said is the same in both views, but for what one alone is told.
        return answer if len(request.messages) - mine + 2 == at else "fine"

    operator = Dialogue(turns=4, opening="Hi.")
    found, (model,) = converse(operator, rows(x=[1]), script, calls=str(tmp_path))
    row = found[0]
    assert (row["talk_end"], len(row["messages"]), row["failed"]) == (end, left, None)
    assert [role for role, _ in texts(row)] == ["user", "assistant"]
    calls = len(model.asked) if not isinstance(answer, ModelError) else len(model.asked) - 1
    assert sum(one is not None for one in row["talk_call"]) == calls
    again, _ = converse(operator, rows(x=[1]), script, calls=str(tmp_path), retry=1)
    assert again == found, "rows that did not fail are not drawn anew"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("", "InvalidAnswer"),
        (Response("", "content_filter"), "NoText"),
        (ModelError("too long", "ContextWindow"), "ContextWindow"),
    ],
)
def test_where_nothing_is_answered_the_row_fails_and_may_be_drawn_again(
    tmp_path: Path, answer: str | Response | ModelError, error: str
) -> None:
    operator = Dialogue(turns=2, opening="Hi.")
    found, _ = converse(operator, rows(x=[1]), lambda request: answer, calls=str(tmp_path))
    assert found[0]["failed"]["error"] == error
    assert found[0]["failed"]["message"].startswith("assistant: ")
    again, _ = converse(operator, rows(x=[1]), lambda request: "fine", calls=str(tmp_path), retry=1)
    assert (again[0]["talk_end"], again[0]["failed"]) == ("turns", None)


def test_until_is_asked_of_every_message_and_a_last_word_without_an_answer_is_left_out() -> None:
    def user(request: Request) -> str:
        return "Thanks, GOODBYE" if len(request.messages) >= 5 else "And then?"

    operator = Dialogue(
        turns=9, opening="Hi.", until="'goodbye' in said|lower and role == 'user' and turn > x"
    )
    assert operator.reads == ("x",)
    found, (assistant, _) = converse(operator, rows(x=[1, 3]), lambda request: "Goodbye, I said.", user)
    assert [(row["talk_end"], len(row["messages"])) for row in found] == [("until", 4), ("until", 6)]
    assert [text for _, text in texts(found[0])] == [
        "Hi.",
        "Goodbye, I said.",
        "And then?",
        "Goodbye, I said.",
    ]
    assert len(assistant.asked) == 5
    own = Dialogue(turns=9, opening="Hi.", until="role == 'assistant' and turn == 2")
    found, _ = converse(own, rows(x=[1]), counted("M"))
    assert (found[0]["talk_end"], len(found[0]["messages"])) == ("until", 4)
    none = Dialogue(turns=9, until="true")
    found, _ = converse(none, rows(x=[1]), counted("M"))
    assert found[0]["failed"]["message"].startswith(
        "until is true of the first message, which nobody answered"
    )
    bad = Dialogue(turns=9, opening="Hi.", until="said / 2")
    found, _ = converse(bad, rows(x=[1]), counted("M"))
    assert found[0]["failed"]["error"] == "TemplateError"


def test_a_row_that_cannot_begin_fails_alone() -> None:
    operator = Dialogue(turns=1, opening="{{ x }}", user={"system": "{{ 1 / n }}"})
    found, (model,) = converse(operator, rows(x=["a", " ", "b"], n=[1, 1, 0]), counted("M"))
    assert [row["failed"] and row["failed"]["message"] for row in found] == [
        None,
        "the opening is empty",
        "division by zero",
    ]
    assert len(model.asked) == 1


def test_an_error_that_all_would_meet_is_raised_from_either_side() -> None:
    def refuse(request: Request) -> ModelError:
        return ModelError("no key", "HTTP401", fatal=True)

    for scripts in ((refuse, counted("U")), (counted("A"), refuse)):
        with pytest.raises(ModelError, match="no key"):
            converse(Dialogue(turns=2), rows(x=[1, 2]), *scripts)


# Before any work.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"user": {"modle": "m"}}, "user: no setting 'modle'; did you mean 'model'"),
        ({"assistant": {"template": "x"}}, "assistant: no setting 'template'"),
        (
            {"assistant": {"temperature": "hot"}},
            "assistant: temperature should be a valid number, but is 'hot'",
        ),
        ({"user": {"max_tokens": 0}}, "user: max_tokens should be greater than or equal to 1, but is 0"),
        ({"user": {"model": "nobody"}}, "user: no model 'nobody'"),
        ({"user": {"system": "{{ task.txt }}"}}, r"task\.txt does not exist; did you mean 'text'"),
        ({"turns": {"range": [3, 2]}}, r"turns: range must be \[low, high\], from 1 to 100, but is \[3, 2\]"),
        ({"turns": {"range": [0, 2]}}, "turns: range must be"),
        ({"turns": {"range": 3}}, "turns: range must be"),
        ({"turns": {"column": "n"}}, r"turns must be a number, .* but is \{'column': 'n'\}"),
        ({"turns": {"column": "m", "most": 3}}, "turns: no column 'm'"),
        ({"turns": {"column": "x", "most": 3}}, "turns: column 'x' must hold whole numbers, but is string"),
        ({"turns": {"column": "n", "most": 0}}, "turns: most must be from 1 to 100, but is 0"),
        ({"until": "said =="}, "the template does not parse"),
        ({"writes": "row_id"}, "cannot write 'row_id'"),
        ({"keep_system": True}, "keep_system keeps the assistant's system prompt; give assistant"),
    ],
)
def test_what_cannot_work_is_an_input_error(settings: dict[str, Any], message: str) -> None:
    operator = Dialogue(**{"turns": 2, "context": Context(language=Fake()), **settings})
    with pytest.raises(InputError, match=message):
        operator.check(rows(x=["a"], n=[1]).schema)


RECIPE = """
name: talks
seed: 2
model: {language: fake, answers: [An answer., Another.]}
models: {person: {language: fake, answers: ["A question?", "Why?"]}}
steps:
  - source.conditions: {rows: 12, columns: {topic: {range: [1, 9]}}}
  - generate.dialogue:
      turns: {range: [2, 3]}
      opening: "Tell me of {{ topic }}."
      user: {model: person, max_tokens: 20}
      assistant: {system: "Be brief.", max_tokens: 40}
"""


def test_a_plan_counts_the_calls_and_shows_what_each_side_is_told(write: Callable[..., Path]) -> None:
    pipeline = load(write(RECIPE))
    line = planned(pipeline)[-1]
    assert line["calls"] == 12 * 5
    assert line["completion_tokens_at_most"] == 12 * 5 * 40
    shown = [one["prompt"] for one in samples(pipeline)]
    assert len(shown) == 3 * 5
    assert shown[0].startswith("Be brief.\nTell me of")
    assert "Play a person" in shown[1]
    work = pipeline.check()[-1].step.work
    assert isinstance(work, Asks)
    assert isinstance(work, Dialogue)
    # Before the messages 2 to 6, where the opening is no message of a model's: 0, 40, 60, 100, 120 tokens.
    assert work.history_tokens == 0 + 40 + 60 + 100 + 120


def test_a_side_whose_model_nobody_named_is_found_before_any_work(write: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=r"no model 'persn' under models:; did you mean 'person'"):
        load(write(RECIPE.replace("model: person", "model: persn"))).check()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_counts_the_calls_of_both_models(write: Callable[..., Path], tmp_path: Path) -> None:
    run = load(write(RECIPE)).run(tmp_path / "run", quiet=True)
    found = run.sql(
        "SELECT messages, dialogue_turns AS turns, dialogue_call AS call FROM dataset"
    ).to_pylist()
    assert all(len(row["messages"]) == 2 * row["turns"] == len(row["call"]) + 1 for row in found)
    by_model = run.sql("SELECT model, count(*) AS n FROM calls GROUP BY model ORDER BY n").to_pylist()
    assert [one["n"] for one in by_model] == [sum(row["turns"] + side for row in found) for side in (-1, 0)]
    assert run.stages()[-1].calls == sum(len(row["call"]) for row in found)


@pytest.mark.model
def test_the_embedded_model_talks_to_itself_until_its_context_is_full() -> None:
    operator = Dialogue(
        turns=9,
        opening="Name an animal.",
        user={"template": "Ask me.", "max_tokens": 12},
        assistant={"max_tokens": 16},
        context=Context(step="talk", seed=1, language=Embedded(context=128, in_flight=2)),
    )
    row = operator(rows(x=[1])).to_pylist()[0]
    assert row["failed"] is None
    assert row["talk_end"] in ("user_context", "assistant_context"), row
    assert 2 <= len(row["messages"]) < 18
    assert len(row["messages"]) % 2 == 0
    assert all(one["content"].strip() for one in row["messages"])
