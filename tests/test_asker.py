"""An asker draws each question once, shows bad answers to the model again, and tells failures apart.

What it does for `generate.prompt` is told by that operator's tests; here are several questions of one row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from synthray.asker import SOURCES, Answer, Ask, Asker, Asks, Question, unmade
from synthray.curate.embedding import Embedding
from synthray.curate.relabel import Relabel
from synthray.errors import InputError, ModelError
from synthray.generate.prompt import Prompt
from synthray.lineage import uniform
from synthray.model.fake import Fake
from synthray.model.language import Request
from synthray.model.store import Store
from synthray.operator import Context

ROWS = [{"row_id": "r0", "x": "a"}, {"row_id": "r1", "x": "b"}]


def number(text: str) -> Mapping[str, Any]:
    """Read an answer that must be a number."""
    if not text.isdigit():
        raise ValueError(f"{text!r} is no number")
    return {"n": int(text)}


def two(row: Mapping[str, Any], temperature: float = 1.0) -> Sequence[Question]:
    """Ask two different questions."""
    return [
        Question(
            Request(messages=({"role": "user", "content": f"{row['x']}{n}"},), temperature=temperature),
            number,
        )
        for n in range(2)
    ]


def ask(
    answer: Callable[[Request], str | ModelError], *, retry: int = 0, reasks: int = 0, **settings: Any
) -> tuple[list[list[Answer]], list[Request]]:
    asked: list[Request] = []

    def script(request: Request) -> str | ModelError:
        asked.append(request)
        return answer(request)

    context = Context(seed=3, language=Fake(script=script, retries=0), retry=retry)
    questions = settings.pop("questions", two)
    return Asker(context, "step", 2, reasks, **settings).answers(ROWS, questions), asked


def test_each_question_of_each_row_is_one_draw_with_its_own_seed() -> None:
    found, asked = ask(lambda request: str(request.seed))
    drawn = [[int(uniform("draw", 3, row["row_id"], "step", n) * 2**31) for n in range(2)] for row in ROWS]
    assert [[answer.value for answer in of_row] for of_row in found] == [
        [{"n": seed} for seed in of_row] for of_row in drawn
    ]
    assert {request.messages[0]["content"] for request in asked} == {"a0", "a1", "b0", "b1"}
    assert len({answer.call for of_row in found for answer in of_row}) == 4


def test_a_bad_answer_is_shown_again_and_the_other_questions_are_left_alone() -> None:
    def answer(request: Request) -> str:
        return "one" if request.messages[-1]["content"] == "a1" else "1"

    found, asked = ask(answer, reasks=1)
    assert [answer.value for answer in found[0]] == [{"n": 1}] * 2
    again = [request for request in asked if len(request.messages) > 1]
    assert [[message["role"] for message in request.messages] for request in again] == [
        ["user", "assistant", "user"]
    ]
    assert "That answer cannot be used: 'one' is no number." in again[0].messages[-1]["content"]


def test_what_stays_bad_is_failed_with_its_attempts_and_keeps_the_call() -> None:
    found, asked = ask(lambda request: "one" if "a1" in request.messages[0]["content"] else "1", reasks=2)
    fine, bad = found[0]
    assert (fine.value, fine.failed) == ({"n": 1}, None)
    assert bad.value is None
    assert bad.failed is not None
    assert (bad.failed["error"], bad.failed["attempts"]) == ("InvalidAnswer", 3)
    assert bad.call
    assert bad.choice is not None
    assert bad.choice.text == "one"
    assert len(asked) == 6


def test_a_retry_draws_anew_without_taking_the_draw_of_another_question() -> None:
    told: dict[str, list[Request]] = {}

    def answer(request: Request) -> str:
        told.setdefault(request.messages[0]["content"], []).append(request)
        return "1" if len(told[request.messages[0]["content"]]) == 3 else "one"

    found, _ = ask(answer, retry=2, questions=lambda row: two(row, temperature=0.0))
    assert [answer.failed for of_row in found for answer in of_row] == [None] * 4
    for n in range(2):
        seeds = [int(uniform("draw", 3, "r0", "step", n + 2 * attempt) * 2**31) for attempt in (1, 2)]
        assert [request.seed for request in told[f"a{n}"]] == [0, *seeds]
    assert [request.temperature for request in told["a0"]] == [0.0, 0.3, 0.3], "warmth, to be drawn anew"


def test_a_call_that_fails_fails_its_question_and_a_fatal_one_is_raised() -> None:
    def answer(request: Request) -> str | ModelError:
        return ModelError("broken", "HTTP400") if "a1" in request.messages[0]["content"] else "1"

    found, _ = ask(answer)
    assert found[0][1] == Answer(failed={"error": "HTTP400", "message": "broken", "attempts": 1})
    assert found[0][0].value == {"n": 1}
    with pytest.raises(ModelError, match="no key"):
        ask(lambda request: ModelError("no key", "HTTP401", fatal=True))


def test_questions_that_cannot_be_made_fail_their_row() -> None:
    def questions(row: Mapping[str, Any]) -> Sequence[Question]:
        if row["x"] == "a":
            raise ValueError("no such filter")
        return two(row)

    found, asked = ask(lambda request: "1", questions=questions)
    assert (
        found[0]
        == [Answer(failed={"error": "TemplateError", "message": "no such filter", "attempts": 1})] * 2
    )
    assert [answer.value for answer in found[1]] == [{"n": 1}] * 2
    assert len(asked) == 2


def test_answers_are_kept_and_found_again(tmp_path: Path) -> None:
    context = Context(language=Fake(answers=["1", "2"]), calls=str(tmp_path))
    first = Asker(context, "step", 2).answers(ROWS, two)
    kept = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert {line["key"] for line in kept} == {answer.call for of_row in first for answer in of_row}
    offline = Context(language=Fake(answers=["1", "2"]), calls=str(tmp_path))
    assert Asker(offline, "step", 2).answers(ROWS, two) == first
    assert sum(len(path.read_text().splitlines()) for path in tmp_path.glob("*.jsonl")) == len(kept)


def test_without_a_model_it_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="step needs a model"):
        Asker(Context(), "step").answers(ROWS, two)


def test_what_asks_is_known_as_such_and_its_source_is_in_the_fingerprint() -> None:
    for operator in (Prompt(template="x", writes="out", n=2), Relabel(text="text")):
        assert isinstance(operator, Asks)
        assert set(SOURCES) <= set(operator.files())
    assert not isinstance(Embedding(text="text"), Asks)


# One question after the other.


async def count_down(row: Mapping[str, Any], ask: Ask) -> list[Any]:
    """Ask twice, the second time with the first answer, of another model."""
    found: list[Any] = []
    for place, model in enumerate((None, "other")):
        text = f"{row['x']} after {found}"
        request = Request(messages=({"role": "user", "content": text},))
        answer = await ask(Question(request, number), place, model, retried=place == 0)
        found.append(answer.value and answer.value["n"])
    return found


def talk(
    *answers: Callable[[Request], str | ModelError], **context: Any
) -> tuple[list[list[Any]], list[list[Request]]]:
    asked: list[list[Request]] = [[], []]

    def script(place: int) -> Callable[[Request], str | ModelError]:
        def answer(request: Request) -> str | ModelError:
            asked[place].append(request)
            return answers[place](request)

        return answer

    own, other = (Fake(answers=[f"{place}"], script=script(place), retries=0) for place in range(2))
    made = Context(seed=3, language=own, models={"other": other}, **context)
    return Asker(made, "step", 2).talks(ROWS, count_down, ["other"]), asked


def test_a_question_may_be_made_of_the_answer_before_and_asked_of_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = list[Store](), Store.sync
    monkeypatch.setattr(Store, "sync", lambda store: (synced.append(store), sync(store))[1])
    found, asked = talk(lambda request: "4", lambda request: str(request.seed), calls=str(tmp_path))
    drawn = [int(uniform("draw", 3, row["row_id"], "step", 1) * 2**31) for row in ROWS]
    assert found == [[4, drawn[0]], [4, drawn[1]]]
    assert sorted(one.messages[0]["content"] for one in asked[1]) == ["a after [4]", "b after [4]"]
    # On return the answers of both models are kept, on the disk.
    assert len(set(map(id, synced))) == 2
    kept = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len({one["key"] for one in kept}) == 4
    again, later = talk(lambda request: "5", lambda request: "5", calls=str(tmp_path))
    assert (again, later) == (found, [[], []])


def test_in_a_talk_only_what_may_be_retried_is_drawn_again() -> None:
    found, asked = talk(lambda request: "bad", lambda request: "bad", retry=2)
    assert found == [[None, None]] * 2
    assert [len(one) for one in asked] == [6, 2]


def test_an_error_of_the_other_model_that_all_would_meet_is_raised() -> None:
    with pytest.raises(ModelError, match="no key"):
        talk(lambda request: "1", lambda request: ModelError("no key", "HTTP401", fatal=True))


def test_a_question_that_cannot_be_made_is_a_failed_answer() -> None:
    failed = unmade(ZeroDivisionError()).failed
    assert failed == {"error": "TemplateError", "message": "ZeroDivisionError", "attempts": 1}
