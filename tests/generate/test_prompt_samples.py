"""Of n samples a row keeps a list, a bad one is a null in its place, and chained steps work on parts of rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.cloudpickle
from prompting import Answer, ask, rows

from synthray.errors import InputError, ModelError
from synthray.generate.prompt import Prompt
from synthray.model.embedded import Embedded
from synthray.model.fake import Fake
from synthray.model.language import Choice, Request, Response
from synthray.operator import Context
from synthray.recipe import load

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

FOUR = Prompt(template="{{ x }}", writes="out", n=4, samples="list")


def test_a_row_stays_one_row_with_a_list_of_its_answers(tmp_path: Path) -> None:
    assert FOUR.makes() == "columns"
    out, asked = ask(FOUR, rows("a", "b"), lambda request: str(request.seed), calls=str(tmp_path))
    assert len(asked) == 8
    assert out["row_id"].to_pylist() == ["r0", "r1"]
    assert all(len(set(texts)) == 4 for texts in out["out"].to_pylist())
    assert out["write_finish"].to_pylist() == [["stop"] * 4] * 2
    assert out["write_error"].to_pylist() == [[None] * 4] * 2
    assert out["failed"].null_count == 2
    for name in ("out", "write_finish", "write_call", "write_error"):
        assert out.schema.field(name).type == pa.list_(pa.string())
    # As rows they are the same answers, of the same calls.
    children, asked = ask(
        replace(FOUR, samples="rows"), rows("a", "b"), lambda request: "no", calls=str(tmp_path)
    )
    assert asked == []
    for name in ("out", "write_call"):
        assert children[name].to_pylist() == [one for held in out[name].to_pylist() for one in held]


def test_a_bad_answer_is_a_null_in_its_place_and_all_bad_a_failed_row() -> None:
    def answer(request: Request) -> Answer:
        said = request.messages[0]["content"]
        if said == "all" or request.seed == bad["seed"]:
            return bad["answer"]
        return '{"n": 1, "why": "so"}'

    operator = Prompt(
        template="{{ x }}", writes={"n": "integer", "why": "string"}, n=3, samples="list", reasks=0
    )
    bad: dict[str, Any] = {"seed": -1, "answer": "none"}
    _, asked = ask(operator, rows("some"), answer)
    for sent, error in (("none", "InvalidAnswer"), (ModelError("gone", "Timeout"), "Timeout")):
        bad = {"seed": asked[1].seed, "answer": sent}
        found = ask(operator, rows("some", "all"), answer)[0].to_pylist()
        place = [one is None for one in found[0]["n"]].index(True)
        kept = [1, 1, 1]
        kept[place] = None  # type: ignore[call-overload]
        assert found[0]["n"] == kept
        assert [one is None for one in found[0]["why"]] == [one is None for one in kept]
        assert [one for one in found[0]["write_error"] if one] == [error]
        assert found[0]["write_error"][place] == error
        assert found[0]["failed"] is None
        assert found[1]["failed"]["error"] == error
        assert found[1]["failed"]["message"].startswith("all 3 answers: ")
        assert found[1]["failed"]["attempts"] == 3
        assert found[1]["n"] == [None] * 3


def test_a_list_of_one_and_of_answers_in_one_call_and_of_logprobs() -> None:
    one, _ = ask(replace(FOUR, n=1), rows("a"), lambda request: "ok")
    assert one["out"].to_pylist() == [["ok"]]
    tokens = [{"token": "ok", "logprob": -0.5, "top": {}}]

    def together(request: Request) -> Answer:
        more = tuple(Choice(f"{n}", logprobs=tokens) for n in range(1, request.n))
        return Response("0", logprobs=tokens, more=more)

    out, asked = ask(replace(FOUR, together=True, logprobs=0), rows("a"), together)
    assert len(asked) == 1
    assert out["out"].to_pylist() == [["0", "1", "2", "3"]]
    assert [len(held) for held in out["write_logprobs"].to_pylist()] == [4]
    failed, _ = ask(replace(FOUR, template="{{ x.y }}"), rows("a"), together)
    assert failed["failed"][0]["error"].as_py() == "TemplateError"


def test_a_template_that_never_ends_is_found_before_any_call_or_fails_its_row() -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(
        InputError, match="the template cannot be filled: the template takes more than 200000"
    ):
        Prompt(template=loop, writes="out", context=Context(language=Fake())).check(rows("a").schema)
    out, asked = ask(
        Prompt(template=f"{{% if x %}}{loop}{{% endif %}}go", writes="out"), rows(1, 0), lambda _: "ok"
    )
    assert len(asked) == 1
    failed = out["failed"].to_pylist()
    assert failed[1] is None
    assert failed[0]["error"] == "TemplateError"
    assert "let its loops end sooner" in failed[0]["message"]


@pytest.mark.model
def test_a_prompt_that_the_embedded_model_cannot_hold_fails_its_row_and_says_what_to_do() -> None:
    model = Embedded(context=128, in_flight=2)
    operator = Prompt(
        template="{{ x }}", writes="out", max_tokens=4, context=Context(step="p", language=model)
    )
    out = operator(rows("Say hi.", "word " * 400))
    assert [one and one["error"] for one in out["failed"].to_pylist()] == [None, "ContextWindow"]
    assert out["out"][0].as_py()
    message = out["failed"][1]["message"].as_py()
    assert "request (431 tokens) exceeds the available context size (256 tokens)" in message
    assert "raise the model's context, which is set to 128: model: {context: ...}" in message


# Chained steps, with branches: no operator of their own.


def revise(request: Request) -> str:
    """Answer as a model that drafts, criticises what is marked, revises, and lets some prompts evolve."""
    said = request.messages[-1]["content"]
    task, _, rest = said.partition(": ")
    if task == "Draft":
        return f"draft {rest}"
    if task == "Criticise":
        bad = int(rest.split()[-1]) % 3 == 0
        return json.dumps({"fine": not bad, "critique": "too short" if bad else "none"})
    if task == "Revise":
        return f"revised {rest}"
    return f"deeper {rest}"


RECIPE = """
name: chained
seed: 4
model: {language: fake}
steps:
  - source.table: {path: numbers.jsonl}
  - generate.prompt: {template: "Draft: {{ number }}", writes: draft, temperature: 0}
    as: draft
  - generate.prompt:
      template: "Criticise: {{ draft }}"
      writes: {fine: boolean, critique: string}
      temperature: 0
    as: criticise
  - generate.prompt: {template: "Revise: {{ draft }} ({{ critique }})", writes: revised, temperature: 0}
    as: revise
    when: NOT fine
  - derive: {answer: "coalesce(revised, draft)", way: "CASE WHEN chance(row_id, 'evolve') < 0.5 THEN 1 ELSE 2 END"}
  - generate.prompt: {template: "Deepen: {{ number }}", writes: deeper, temperature: 0}
    as: deepen
    when: way = 1
  - derive: {evolved: "coalesce(deeper, number::VARCHAR)"}
  - where: number <> 4
    reason: eliminated
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_draft_critique_revise_and_evolve_are_prompts_with_branches(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write("".join(f'{{"number": {n}}}\n' for n in range(12)), "numbers.jsonl")
    pipeline = replace(load(write(RECIPE)), model=Fake(script=revise))
    run = pipeline.run(tmp_path / "run", quiet=True)
    found = run.sql("SELECT * FROM dataset ORDER BY number").to_pylist()
    assert [row["number"] for row in found] == [n for n in range(12) if n != 4]
    for row in found:
        bad = row["number"] % 3 == 0
        revised = f"revised draft {row['number']} (too short)" if bad else None
        assert (row["revised"], row["revise_call"] is None) == (revised, not bad)
        assert row["answer"] == (revised or f"draft {row['number']}")
        assert row["evolved"] == ("deeper " if row["way"] == 1 else "") + str(row["number"])
        assert (row["deeper"] is None) == (row["deepen_call"] is None) == (row["way"] == 2)
    assert {row["way"] for row in found} == {1, 2}
    calls = run.sql("SELECT step, count(*) AS n FROM calls GROUP BY step").to_pylist()
    counts = {row["step"]: row["n"] for row in calls}
    assert (counts["draft"], counts["criticise"], counts["revise"]) == (12, 12, 4)
    assert 0 < counts["deepen"] < 12
