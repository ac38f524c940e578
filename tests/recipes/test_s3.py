"""S3: a round asks for texts like those that the student gets wrong in the validation set, and for no others."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from scripting import COMMON, LABELS, WORDS

from synthray import cookbook
from synthray.curate.student import Student
from synthray.model.fake import Fake
from synthray.operator import Context
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.model.language import Request
    from synthray.run import Run

NEXT = dict(zip(LABELS, (*LABELS[1:], LABELS[0]), strict=True))
REFUSAL = "I'm sorry, but I cannot write a news report about this today."


def written(label: str, draw: random.Random, own: Sequence[str] = ()) -> str:
    words = [*draw.choices(WORDS[label].split(), k=8), *draw.choices(COMMON, k=6), *own]
    draw.shuffle(words)
    return " ".join(words)


OWN = ("quorum", "wicket", "ledger", "quasar")
"""A word that marks each hard row: texts that resemble it have it, and seed texts never do."""


def checked() -> list[dict[str, str]]:
    """Return four plain rows of each label, and three of each whose words are another label's."""
    draw = random.Random(5)
    rows = [{"text": written(one, draw), "label": one} for one in LABELS * 4]
    # Three of a kind: a student that learned from these rows would get each right by the other two.
    for one, own in [*zip(LABELS, OWN, strict=True)] * 3:
        words = [*WORDS[NEXT[one]].split()[:3], *draw.choices(COMMON, k=6), *[own] * 4]
        rows.append({"text": " ".join(words), "label": one})
    return rows


def mistaken(pool: list[tuple[str, str, int]]) -> set[str]:
    """Return the texts of the validation rows that a student of the pool's texts gets wrong."""
    rows = [*pool, *((row["text"], row["label"], 0) for row in checked())]
    texts, labels, weights = (list(column) for column in zip(*rows, strict=True))
    table = pa.table(
        {
            "row_id": [f"{place:03}" for place in range(len(rows))],
            "text": texts,
            "label": labels,
            "weight": weights,
        }
    )
    student = Student(text="text", label="label", weight="weight", folds=10, context=Context(seed=7))
    return {
        row["text"]
        for row in student(table).to_pylist()
        if not row["weight"] and row["student_label"] != row["label"]
    }


def mistake(prompt: str) -> tuple[str, str] | None:
    """Return label and text of the row that a prompt resembles."""
    found = re.search(r"^This is a (\S+) news report: (.*)$", prompt, re.MULTILINE)
    return (found[1], found[2]) if found else None


def write(request: Request) -> str:
    """Write seeds with a reason, some badly; texts like a mistake have its own words, but one is refused."""
    prompt, draw = request.messages[0]["content"], random.Random(request.seed)
    found = mistake(prompt)
    if found is None:
        label = re.search(r"Think of a (\S+) news", prompt)
        assert label
        kind = draw.random()
        if kind < 0.1:
            return "no JSON"
        text = REFUSAL if kind < 0.2 else written(label[1], draw)
        return json.dumps({"reason": "It fits.", "text": text})
    label, text = found
    if "wicket" in text:
        return REFUSAL
    if "ledger" in text and request.seed % 2:
        return text
    # The unusual word many times, which the student learns, beside some of the mistake's others.
    own = next(word for word in text.split() if word in OWN)
    words = [*[own] * 8, *draw.sample(text.split(), 3), *draw.choices(COMMON, k=8)]
    draw.shuffle(words)
    return " ".join(words)


def good(request: Request) -> str:
    """Write of every mistake what teaches the student its word."""
    found = mistake(request.messages[0]["content"])
    if found is None:
        return write(request)
    own = next(word for word in found[1].split() if word in OWN)
    words = [*[own] * 8, *random.Random(request.seed).choices(COMMON, k=8)]
    random.Random(request.seed).shuffle(words)
    return " ".join(words)


def prompts(run: Run) -> dict[int, list[tuple[str, str]]]:
    """Return label and text of the mistakes that the prompts of each round hold."""
    found: dict[int, list[tuple[str, str]]] = {}
    for row in run.sql("SELECT step, request->>'$.messages[0].content' AS prompt FROM calls").to_pylist():
        if one := mistake(row["prompt"]):
            found.setdefault(int(row["step"].rpartition("@")[2]), []).append(one)
    return found


def started(folder: Path, script: Any) -> Run:
    path = folder / "validation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in checked()), encoding="utf-8")
    steps = f"[{{source.table: {{path: {path}}}}}]"
    settings = [f"tables.validation.steps={steps}", "conditions.rows=60", "max_failed=0.3"]
    pipeline = load("s3", settings=settings)
    # What measures and exports has no part in the second.
    done = pipeline.steps if script is write else pipeline.steps[:-3]
    return replace(pipeline, steps=done, model=Fake(script=script)).run(folder / "run", quiet=True)


@pytest.fixture(scope="module", name="run")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return started(tmp_path_factory.mktemp("s3"), write)


@pytest.mark.ray
class TestS3:
    def test_the_first_round_asks_of_exactly_the_rows_that_the_student_gets_wrong(self, run: Run) -> None:
        asked = Counter(prompts(run)[1])
        assert {next(own for own in OWN if own in text) for _, text in asked} == set(OWN)
        assert len(asked) == 12, "the sixteen plain rows are judged right, and nobody asks of them"
        assert set(asked.values()) == {2}, "n texts of each mistake"
        assert all(OWN[LABELS.index(label)] in text for label, text in asked)

    def test_each_round_asks_of_what_a_student_of_the_pool_gets_wrong(self, run: Run) -> None:
        pool = run.sql("SELECT text, label, coalesce(round, 0) AS round FROM dataset").to_pylist()
        asked = prompts(run)
        for number, found in asked.items():
            rows = [(row["text"], row["label"], 1) for row in pool if row["round"] < number]
            assert {text for _, text in found} == mistaken(rows)
        second = {own for own in OWN for _, text in asked[2] if own in text}
        assert "wicket" in second, "its texts were refused, so that the student learned nothing of it"
        assert not second & {"quorum", "quasar"}, "the student has learned these"

    def test_new_rows_have_the_mistakes_label_and_are_its_children(self, run: Run) -> None:
        rows = run.sql("SELECT * FROM dataset WHERE round > 0").to_pylist()
        assert rows
        for row in rows:
            assert OWN[LABELS.index(row["label"])] in row["mistake"]
            assert row["taken_for"] == NEXT[row["label"]]
            assert row["parent_id"]

    def test_bad_seeds_and_copies_of_validation_rows_are_not_in_the_pool(self, run: Run) -> None:
        why = {
            row["reason"] for row in run.sql("SELECT DISTINCT reject_reason AS reason FROM rows").to_pylist()
        }
        assert {"refusal", "no_answer", "like_another_row"} <= why
        texts = {row["text"] for row in run.sql("SELECT text FROM dataset").to_pylist()}
        shown = {text for held in prompts(run).values() for _, text in held}
        assert not texts & shown
        seeds = run.sql(
            "SELECT count(*) AS n FROM dataset WHERE reason IS NULL AND round IS NULL"
        ).to_pylist()
        assert seeds == [{"n": 0}], "each seed has the reason that was given before it"

    def test_no_test_row_is_in_a_prompt(self, run: Run) -> None:
        lines = (cookbook.SHIPPED / "data" / "news_test.jsonl").read_text(encoding="utf-8").splitlines()
        asked = "\n".join(
            row["r"]
            for row in run.sql("SELECT request->>'$.messages[0].content' AS r FROM calls").to_pylist()
        )
        assert not any(json.loads(line)["text"] in asked for line in lines)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_student_without_mistakes_ends_the_rounds(tmp_path: Path) -> None:
    run = started(tmp_path, good)
    measured = run.sql(
        "SELECT metric, value FROM metrics WHERE step = 'repeat' AND slice IS NULL"
    ).to_pylist()
    found = {one["metric"]: one["value"] for one in measured}
    assert set(prompts(run)) == {1}
    assert found["rounds"] == 2, "a second round finds nothing to ask, and until holds"
