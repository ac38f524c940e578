"""A model labels the rows again; its votes come to a label, and nothing that was there is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from endpoint import Endpoint

from synthray.curate.relabel import Relabel
from synthray.errors import InputError, ModelError, RecipeError
from synthray.label.audit import AUDIT
from synthray.lineage import FAILED
from synthray.model.fake import Fake
from synthray.model.language import Request
from synthray.model.openai import OpenAI
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.plan import planned, samples
from synthray.source.table import Table as Source
from synthray.statement import Derive
from synthray.step import Step
from synthray.table import Table
from synthray.task import Task

TASK = Task(
    text="a short news report",
    labels={"World": "politics abroad", "Sports": "games", "Sci/Tech": ""},
    guideline="The topic of the headline.",
)
EARLIER = {"step": "first", "old": "Sports", "new": "World", "who": "anna", "why": "read it"}
ALL = 7


def rows(*texts: str | None, label: str | None = "Sports", **columns: list[Any]) -> pa.Table:
    size = len(texts)
    return pa.table(
        {
            "row_id": [f"r{n}" for n in range(size)],
            "parent_id": pa.nulls(size, pa.string()),
            "round": pa.array([0] * size, pa.int32()),
            "text": pa.array(texts, pa.string()),
            "label": pa.array([label] * size, pa.string()),
            **columns,
        }
    )


Answer = Callable[[Request], "str | ModelError"]


def ask(operator: Relabel, table: pa.Table, answer: Answer, **context: Any) -> tuple[pa.Table, list[Request]]:
    asked: list[Request] = []

    def script(request: Request) -> str | ModelError:
        asked.append(request)
        return answer(request)

    language = Fake(script=script, retries=0)
    made = replace(operator, context=Context(**{"task": TASK, "language": language, "seed": 1, **context}))
    made.check(table.schema)
    return made(table), asked


def prompt(request: Request) -> str:
    return request.messages[-1]["content"]


def choosing(label: str, **beside: str) -> str:
    return json.dumps({**beside, "label": label})


def fitting(request: Request, label: str) -> str:
    """Answer whatever is asked so that it comes to `label`."""
    properties = request.schema["properties"]  # type: ignore[index]
    said: dict[str, Any] = {"reason": "It says so."} if "reason" in properties else {}
    text = request.messages[0]["content"]
    if "option" in properties:
        return json.dumps({**said, "option": list(TASK.labels).index(label) + 1})
    for key, (yes, no) in {"statement": (True, False), "right": ("yes", "no")}.items():
        if key in properties:
            named = f"is {label}" in text or f"is not {label}" in text
            denied = "text is not" in text
            said[key] = yes if named != denied else no
    return json.dumps({**said, "label": label})


# What is asked.


def test_the_task_is_told_the_old_label_is_not_and_the_answer_is_held_to_the_labels() -> None:
    table = rows("The cup final.", label="Weather")
    _, asked = ask(Relabel(text="text", label="label"), table, lambda _: choosing("World"))
    (request,) = asked
    told = prompt(request)
    for part in (
        "a short news report",
        "- World: politics abroad",
        "- Sci/Tech\n",
        "The topic of the headline.",
        "Text: The cup final.",
    ):
        assert part in told
    assert "Weather" not in told
    assert request.schema == {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(TASK.labels)}},
        "required": ["label"],
        "additionalProperties": False,
    }
    assert request.temperature == 0


def test_a_reason_is_asked_for_before_the_label() -> None:
    operator = Relabel(text="text", rationale=True)
    out, asked = ask(operator, rows("a"), lambda _: choosing("World", reason="A treaty."))
    assert list(asked[0].schema["properties"]) == ["reason", "label"]  # type: ignore[index]
    assert '"reason"' in prompt(asked[0])
    assert out["rationale"].to_pylist() == ["A treaty."]


def test_each_kind_of_prompt_is_another_question_and_comes_to_a_label() -> None:
    operator = Relabel(text="text", label="label", prompts=ALL, rationale=True)
    out, asked = ask(operator, rows("A final."), lambda request: fitting(request, "World"))
    assert len({prompt(request) for request in asked}) == len(asked) == ALL
    assert all("A final." in prompt(request) for request in asked)
    votes = out["label_votes"][0].as_py()
    assert [vote["label"] for vote in votes] == ["World"] * ALL
    assert len({vote["prompt"] for vote in votes}) == ALL
    assert out["label_entropy"].to_pylist() == [0.0]
    assert out["label_agreement"].to_pylist() == [1.0]


def test_claims_name_labels_that_do_not_depend_on_the_old_one() -> None:
    def claims(label: str) -> list[str]:
        operator = Relabel(text="text", label="label", prompts=ALL)
        texts = [f"text {n}" for n in range(30)]
        _, asked = ask(operator, rows(*texts, label=label), lambda request: fitting(request, "World"))
        return sorted(prompt(request) for request in asked)

    assert claims("World") == claims("Sports")
    for name in TASK.labels:
        assert any(f"label of the text is {name}. Am I right?" in one for one in claims("World"))


def test_a_verdict_that_contradicts_its_label_is_shown_to_the_model_again() -> None:
    def answer(request: Request) -> str:
        fine = fitting(request, "World")
        if "right" not in json.loads(fine) or len(request.messages) > 1:
            return fine
        return fine.replace("yes", "nay").replace("no", "yes").replace("nay", "no")

    out, asked = ask(Relabel(text="text", prompts=ALL), rows("a"), answer)
    assert len(asked) == ALL + 1
    assert "does not go with the label 'World'" in prompt(asked[-1])
    assert out["label_agreement"].to_pylist() == [1.0]


def test_an_own_template_sees_the_row_the_task_and_the_demonstrations() -> None:
    template = "{{ text }} from {{ place }}: {{ task.labels|join('/') }}? JSON."
    operator = Relabel(text="text", template=template, system="You sort {{ task.text }}.")
    assert operator.reads == ("place", "text")
    _, asked = ask(operator, rows("Fire", place=["Rome"]), lambda _: choosing("World"))
    assert prompt(asked[0]) == "Fire from Rome: World/Sports/Sci/Tech? JSON."
    assert asked[0].messages[0] == {"role": "system", "content": "You sort a short news report."}


def demonstrations(folder: Path, *lines: Mapping[str, str]) -> dict[str, Any]:
    path = folder / "shown.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = list(dict.fromkeys(name for line in lines for name in line))
    return {
        "tables": {"shown": Table((str(path),), "json")},
        "schemas": {"shown": pa.schema([(name, pa.string()) for name in names])},
    }


def test_so_many_demonstrations_of_each_label_are_shown_in_any_order_of_the_table(tmp_path: Path) -> None:
    lines = [
        {"text": f"{label} text {n}", "label": label, "rationale": f"why {label} {n}"}
        for label in TASK.labels
        for n in range(5)
    ]
    operator = Relabel(text="text", rationale=True, demonstrations="shown", shots=2)
    told = []
    for order in (lines, lines[::-1]):
        answer = choosing("World", reason="x")
        _, asked = ask(operator, rows("a"), lambda _, said=answer: said, **demonstrations(tmp_path, *order))
        told.append(prompt(asked[0]))
    assert told[0] == told[1]
    for label in TASK.labels:
        assert told[0].count(f"Example text: {label} text") == 2
        assert told[0].count(f"Reason: why {label}") == 2
    _, asked = ask(operator, rows("a"), lambda _: answer, seed=2, **demonstrations(tmp_path, *lines))
    others = [{line for line in one.splitlines() if "Example" in line} for one in (prompt(asked[0]), told[0])]
    assert others[0] != others[1], "another seed shows others"


# What the votes come to.


def test_votes_are_draws_of_their_own_and_their_shares_are_told() -> None:
    labels = ["World", "World", "Sports", "Sci/Tech"] * 2

    def answer(request: Request) -> str:
        return choosing(labels[len(drawn) % 8]) if not drawn.append(request.seed) else ""  # type: ignore[func-returns-value]

    drawn: list[int] = []
    operator = Relabel(text="text", label="label", votes=8, temperature=0.7)
    out, asked = ask(operator, rows("a"), answer)
    assert len({request.seed for request in asked}) == 8
    counts = sorted(vote["label"] for vote in out["label_votes"][0].as_py())
    shares = [counts.count(label) / 8 for label in set(counts)]
    assert out["label_entropy"][0].as_py() == pytest.approx(-sum(p * math.log2(p) for p in shares))
    assert out["label_agreement"][0].as_py() == max(shares)
    assert out["new_label"][0].as_py() == max(set(counts), key=counts.count)
    assert len(set(out["relabel_call"][0].as_py())) == 8


@pytest.mark.parametrize(
    ("old", "winner"), [("Sci/Tech", "Sci/Tech"), ("Sports", "World"), ("Weather", "World"), (None, "World")]
)
def test_of_equal_votes_the_old_label_stays_else_the_tasks_first_wins(old: str | None, winner: str) -> None:
    said = iter(["Sci/Tech", "World"])
    operator = Relabel(text="text", label="label", prompts=2)
    out, _ = ask(operator, rows("a", label=old), lambda _: choosing(next(said)))
    assert out["new_label"].to_pylist() == [winner]
    assert out["label_entropy"].to_pylist() == [1.0]
    assert out["label"].to_pylist() == [old], "the label itself is left alone"


def test_the_reason_is_of_a_vote_for_the_winner() -> None:
    operator = Relabel(text="text", rationale=True, votes=3, temperature=1.0)
    said = iter([("Sports", "no"), ("World", "first"), ("World", "second")])

    def answer(_: Request) -> str:
        label, reason = next(said)
        return choosing(label, reason=reason)

    out, _ = ask(operator, rows("a"), answer)
    votes = [vote["label"] for vote in out["label_votes"][0].as_py()]
    assert votes == ["Sports", "World", "World"]
    assert out["rationale"].to_pylist() == ["first"]


def test_the_trail_goes_on_with_who_and_why() -> None:
    audit = pa.array([[EARLIER], None, [EARLIER]], AUDIT)
    operator = Relabel(text="text", label="label")
    out, _ = ask(operator, rows("a", "b", None, label_audit=audit), lambda _: choosing("World"), step="again")
    new = {"step": "again", "old": "Sports", "new": "World", "who": "fake", "why": "1 of 1 votes"}
    assert out["label_audit"].to_pylist() == [[EARLIER, new], [new], [EARLIER]]


def test_without_an_old_label_the_trail_has_none() -> None:
    out, _ = ask(Relabel(text="text"), rows("a"), lambda _: choosing("World"))
    assert out["label_audit"][0].as_py()[0]["old"] is None


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_rows_without_text_are_not_asked_and_keep_nulls(text: str | None) -> None:
    operator = Relabel(text="text", label="label", rationale=True)
    out, asked = ask(operator, rows(text, "a"), lambda _: choosing("World", reason="x"))
    assert len(asked) == 1
    assert [out[name][0].as_py() for name in operator.adds()] == [None] * 7
    assert out["failed"].to_pylist() == [None, None]


# What goes wrong.


def test_votes_that_fail_do_not_count_and_the_others_do() -> None:
    said = iter(["World", "nothing", "World", "Sports"])
    operator = Relabel(text="text", votes=4, temperature=1.0, reasks=0)
    out, _ = ask(operator, rows("a"), lambda _: choosing(next(said)))
    assert [vote["label"] for vote in out["label_votes"][0].as_py()] == ["World", None, "World", "Sports"]
    assert out["label_agreement"][0].as_py() == pytest.approx(2 / 3)
    assert out["label_entropy"][0].as_py() == pytest.approx(math.log2(3) - 2 / 3)
    assert out["failed"].to_pylist() == [None]
    assert out["label_audit"][0].as_py()[0]["why"] == "2 of 4 votes, 1 failed"
    assert len(out["relabel_call"][0].as_py()) == 4, "the bad one was paid for too"


def test_a_label_outside_of_the_task_is_asked_again_and_then_fails_the_row() -> None:
    operator = Relabel(text="text", label="label", reasks=1, prompts=2)
    audit = pa.array([[EARLIER]], AUDIT)
    out, asked = ask(operator, rows("a", label_audit=audit), lambda _: choosing("Weather"))
    assert len(asked) == 4
    assert out["failed"].type == FAILED
    failed = out["failed"][0].as_py()
    assert (failed["error"], failed["attempts"]) == ("InvalidAnswer", 4)
    assert "all 2 votes: label: 'Weather' is not one of ['World', 'Sports', 'Sci/Tech']" in failed["message"]
    assert out["new_label"].to_pylist() == [None]
    assert out["label_audit"].to_pylist() == [[EARLIER]]


def test_a_call_that_fails_fails_its_row_alone() -> None:
    def answer(request: Request) -> str | ModelError:
        return ModelError("too long", "HTTP400") if "Text: b" in prompt(request) else choosing("World")

    out, _ = ask(Relabel(text="text"), rows("a", "b"), answer)
    assert out["failed"].to_pylist() == [None, {"error": "HTTP400", "message": "too long", "attempts": 1}]
    assert out["new_label"].to_pylist() == ["World", None]


@pytest.mark.parametrize(
    ("settings", "context", "message"),
    [
        ({}, {"task": Task()}, "at least two labels to choose from, but the task has none; add task:"),
        ({}, {"task": Task(labels={"a": ""})}, "but the task has 'a'"),
        ({"votes": 3}, {}, "votes is 3, but at temperature 0 all would be the same"),
        ({"template": "x", "prompts": 2}, {}, "set one of the two"),
        ({"template": "{{ task.label }}"}, {}, "task.label does not exist; did you mean 'labels'"),
        ({"label": "round"}, {}, "column 'round' must hold text, but is int32"),
        ({"label": "new_label"}, {}, "reads and writes the column 'new_label'"),
    ],
)
def test_settings_that_cannot_work_are_found_before_any_call(
    settings: dict[str, Any], context: dict[str, Any], message: str
) -> None:
    table = rows("a", new_label=["x"])
    with pytest.raises(InputError, match=message):
        ask(Relabel(text="text", **settings), table, lambda _: choosing("World"), **context)


def test_demonstrations_that_do_not_fit_are_found_before_any_call(tmp_path: Path) -> None:
    operator = Relabel(text="text", demonstrations="shown")
    for line, message in (
        ({"text": "a", "label": "Weather"}, "the table 'shown' has the label 'Weather', which is none of"),
        ({"text": "a", "labels": "World"}, "the table 'shown' has no column 'label'; did you mean 'labels'"),
    ):
        with pytest.raises(InputError, match=message):
            ask(operator, rows("a"), lambda _: choosing("World"), **demonstrations(tmp_path, line))


# In a run.


def pipeline(folder: Path, model: Any, *steps: Any, rows: int = 12, **settings: Any) -> Pipeline:
    path = folder / "rows.jsonl"
    lines = [
        {
            "text": f"text {n}",
            "label": "World" if n % 3 else "Sports",
            "flagged": n % 2 == 0,
            "label_audit": [EARLIER] if n % 4 < 2 else None,
        }
        for n in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Pipeline(
        [Source(path=str(path)), *steps], name="again", model=model, task=TASK, seed=4, **settings
    )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_flagged_rows_are_labelled_again_and_the_others_pass_by_with_their_trail(tmp_path: Path) -> None:
    made = pipeline(
        tmp_path,
        Fake(answers=[{"label": "Sports"}]),
        Step(Relabel(text="text", label="label", prompts=2), when="flagged"),
        Derive({"label": "coalesce(new_label, label)"}),
    )
    run = made.run(tmp_path / "run", quiet=True)
    found = run.sql("SELECT * FROM dataset ORDER BY text").to_pylist()
    assert len(found) == 12
    for row in found:
        n = int(row["text"].removeprefix("text "))
        old = "World" if n % 3 else "Sports"
        earlier = [EARLIER] if n % 4 < 2 else []
        new = {"step": "relabel", "old": old, "new": "Sports", "who": "fake", "why": "2 of 2 votes"}
        assert (row["label_audit"] or []) == [*earlier, *([new] if n % 2 == 0 else [])]
        assert row["label"] == ("Sports" if n % 2 == 0 else old)
        assert row["new_label"] == ("Sports" if n % 2 == 0 else None)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_two_rounds_write_columns_of_their_own_and_one_trail(tmp_path: Path) -> None:
    made = pipeline(
        tmp_path,
        Fake(answers=[{"label": "Sports"}]),
        Step(Relabel(text="text", label="label"), name="cheap"),
        Step(Relabel(text="text", label="cheap_new_label"), name="strong", when="flagged"),
    )
    run = made.run(tmp_path / "run", quiet=True)
    found = run.sql("SELECT * FROM dataset WHERE flagged").to_pylist()
    assert [entry["step"] for entry in found[0]["label_audit"]][-2:] == ["cheap", "strong"]
    assert {row["strong_new_label"] for row in found} == {"Sports"}
    spent = {record.steps[0].step: record.calls for record in run.stages()}
    assert (spent["cheap"], spent["strong"]) == (12, 6)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_votes_are_paid_once_counted_all_and_found_again_with_more_of_them(tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        model = OpenAI(name="m", base_url=endpoint.url, in_flight=8)

        def relabelled(votes: int, **settings: Any) -> Pipeline:
            operator = Relabel(
                text="text", label="label", votes=votes, prompts=2, temperature=1.0, **settings
            )
            return pipeline(tmp_path, model, operator, max_failed=0.0)

        run = relabelled(2).run(tmp_path / "run", quiet=True)
        sent = endpoint.summary()["total"]
        assert sent == 12 * 4
        record = run.stages()[-1]
        assert record.calls == sent
        assert record.completion_tokens == sum(hit["completion_tokens"] for hit in endpoint.hits())
        first = run.sql("SELECT row_id, label_votes FROM dataset ORDER BY row_id").to_pylist()
        # A changed setting makes the stage again; what was answered is not asked again.
        run = relabelled(2, reasks=3).run(tmp_path / "run", quiet=True)
        assert endpoint.summary()["total"] == sent
        assert run.sql("SELECT row_id, label_votes FROM dataset ORDER BY row_id").to_pylist() == first
        run = relabelled(3).run(tmp_path / "run", quiet=True)
        assert endpoint.summary()["total"] == 12 * 6, "a third vote of each prompt"
        more = run.sql("SELECT row_id, label_votes FROM dataset ORDER BY row_id").to_pylist()
        assert [row["label_votes"][:4] for row in more] == [row["label_votes"] for row in first]


def test_a_plan_counts_every_vote_and_shows_every_prompt(tmp_path: Path) -> None:
    operator = Relabel(text="text", votes=3, prompts=ALL, temperature=1.0, max_tokens=10)
    made = pipeline(tmp_path, Fake(), operator)
    lines = {line["step"]: line for line in planned(made)}
    assert lines["relabel"]["calls"] == 12 * 3 * ALL
    assert lines["relabel"]["completion_tokens_at_most"] == 12 * 3 * ALL * 10
    shown = [one["prompt"] for one in samples(made) if one["step"] == "relabel"]
    assert len(shown) == len(set(shown)) == 3 * ALL, "of three rows, no prompt twice"
    tokens = sum(len(text.encode()) for text in shown) / len(shown) / 4
    assert lines["relabel"]["prompt_tokens_about"] == pytest.approx(12 * 3 * ALL * tokens, rel=0.01)
    again = replace(made, steps=[*made.steps, Step(Relabel(text="text"), name="again")])
    assert planned(again)[-1]["rows_at_most"] == 12, "votes are no rows"


def test_a_recipe_without_labels_is_told_so(tmp_path: Path) -> None:
    made = replace(pipeline(tmp_path, Fake(), Relabel(text="text")), task=Task())
    with pytest.raises(RecipeError, match="step 'relabel': needs at least two labels"):
        made.check()
