"""ProGen: the examples of a round are the pool's most helpful rows, and copies of them do not pass."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from scripting import COMMON, LABELS, WORDS

from synthray.curate.student import Student
from synthray.errors import RunFailed
from synthray.model.fake import Fake
from synthray.operator import Context
from synthray.recipe import load
from synthray.run import Run

if TYPE_CHECKING:
    from synthray.model.language import Request

SMALL = [
    "first.rows=40",
    "repeat.target=6",
    "demonstrations.top=3",
    "demonstrations.k=3",
    "conditions.rows=26",
]
REFUSAL = "I'm sorry, but I cannot write a news report about this today."


def shown(prompt: str) -> list[str]:
    """Return the examples in a prompt."""
    return re.findall(r"^Example of a \S+ news report: (.*)$", prompt, re.MULTILINE)


def vocabulary(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def write(request: Request) -> str:
    """Write as a weak model does: some labels wrong, some refusals, copies, and texts said before."""
    prompt, draw = request.messages[-1]["content"], random.Random(request.seed)
    label = re.search(r"two-sentence (\S+) news", prompt)
    assert label
    kind, examples = draw.random(), shown(prompt)
    if kind < 0.08:
        return REFUSAL
    if kind < 0.14:
        return "Too short."
    if kind < 0.2:
        return f"The usual {label[1]} story, told once more in the very same words as ever before."
    if examples and kind < 0.4:
        words = examples[0].split()
        draw.shuffle(words)
        return " ".join([*words, "indeed"])
    about = draw.choice(LABELS) if kind > 0.85 else label[1]
    words = draw.choices(WORDS[about].split(), k=8) + draw.choices(COMMON, k=8)
    draw.shuffle(words)
    return " ".join(words)


def dry(request: Request) -> str:
    """Refuse as soon as there are examples."""
    return REFUSAL if shown(request.messages[-1]["content"]) else write(request)


def helpful(pool: list[dict[str, Any]], seed: int) -> dict[str, list[str]]:
    """Return the row_ids of each label that help, the most helpful first."""
    parts = [
        pa.table({name: [row[name] for row in pool if bool(row["validation"]) is held]
                  for name in ("row_id", "text", "label")})
        for held in (False, True)
    ]  # fmt: skip
    context = Context(seed=seed, tables={"held": parts[1]}, schemas={"held": parts[1].schema})
    student = Student(
        label="label", text="text", validation="held", influence_loss="reverse_cross_entropy", context=context
    )
    ranked = sorted(student(parts[0]).to_pylist(), key=lambda row: (row["student_influence"], row["row_id"]))
    return {
        label: [row["row_id"] for row in ranked if row["label"] == label and row["student_influence"] < 0]
        for label in LABELS
    }


@pytest.fixture(scope="module", name="run")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    pipeline = replace(load("progen", settings=SMALL), model=Fake(script=write))
    return pipeline.run(tmp_path_factory.mktemp("progen") / "run", quiet=True)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestProGen:
    def test_the_examples_of_each_round_are_the_most_helpful_rows_of_the_label(self, run: Run) -> None:
        rows = run.sql("SELECT * FROM rows").to_pylist()
        pool = run.sql("SELECT * FROM dataset").to_pylist()
        rounds = max(row["round"] or 0 for row in pool)
        assert rounds >= 2
        seen = set()
        for number in range(1, rounds + 1):
            best = helpful([row for row in pool if (row["round"] or 0) < number], 7)
            asked = [row for row in rows if row["round"] == number and row["demos_row_ids"]]
            for row in asked:
                assert set(row["demos_row_ids"]) == set(best[row["label"]][:3])
                seen.add((number, row["label"]))
        assert {number for number, _ in seen} == set(range(1, rounds + 1))

    def test_a_row_that_harms_is_no_example_however_few_there_are(self, run: Run) -> None:
        rows = run.sql("SELECT * FROM rows WHERE round > 0").to_pylist()
        validation = {
            row["row_id"] for row in run.sql("SELECT row_id FROM dataset WHERE validation").to_pylist()
        }
        assert validation
        used = {one for row in rows for one in row["demos_row_ids"] or ()}
        assert not used & validation
        kept = run.sql("SELECT label, count(*) AS n, count(*) FILTER (validation) AS held FROM dataset "
                       "WHERE coalesce(round, 0) = 0 GROUP BY label").to_pylist()  # fmt: skip
        assert all(row["held"] == row["n"] // 2 for row in kept)

    def test_half_of_the_prompts_have_examples_and_the_model_sees_them(self, run: Run) -> None:
        rows = run.sql("SELECT * FROM rows WHERE round > 0").to_pylist()
        prompts = {
            row["key"]: row["prompt"]
            for row in run.sql(
                "SELECT key, request->>'$.messages[0].content' AS prompt FROM calls"
            ).to_pylist()
        }
        for row in rows:
            assert shown(prompts[row["prompt_call"]]) == [demo["text"] for demo in row["demos"]]
        share = sum(bool(row["demos"]) for row in rows) / len(rows)
        assert 0.3 < share < 0.7

    def test_a_text_with_nine_tenths_of_an_examples_words_is_rejected(self, run: Run) -> None:
        rows = run.sql("SELECT * FROM rows WHERE round > 0 AND demos IS NOT NULL").to_pylist()
        assert any(row["reject_reason"] == "copies_an_example" for row in rows)
        for row in rows:
            if row["reject_reason"] in ("too_long_or_short", "no_answer"):
                continue
            parts = [vocabulary(demo["text"]) for demo in row["demos"]]
            most = max((len(vocabulary(row["text"]) & part) / len(part) for part in parts), default=0)
            assert (row["reject_reason"] == "copies_an_example") == (most >= 0.9)

    def test_exactly_so_many_of_each_label_whatever_is_dropped(self, run: Run) -> None:
        made = run.sql("SELECT label, text FROM dataset WHERE round > 0").to_pylist()
        assert Counter(row["label"] for row in made) == dict.fromkeys(LABELS, 6)
        assert len({row["text"] for row in made}) == len(made)
        why = {
            row["reason"]
            for row in run.sql("SELECT DISTINCT reject_reason AS reason FROM rejects").to_pylist()
        }
        assert {"copies_an_example", "no_answer", "too_long_or_short", "like_an_older_row", "surplus"} <= why

    def test_rounds_without_rows_end_it_and_what_there_is_is_kept(self, tmp_path: Path) -> None:
        settings = [*SMALL, "demonstrations.share=1.0", "repeat.patience=2", "conditions.rows=6"]
        pipeline = load("progen", settings=settings)
        # What measures and exports has no part in it.
        pipeline = replace(pipeline, model=Fake(script=dry), steps=pipeline.steps[:-3])
        with pytest.raises(RunFailed, match="2 rounds in a row gave no row"):
            pipeline.run(tmp_path / "run", quiet=True)
        assert Run.read(tmp_path / "run").sql("SELECT count(*) AS n FROM dataset").to_pylist()[0]["n"] > 20


@pytest.mark.ray
@pytest.mark.model
@pytest.mark.usefixtures("ray_session")
def test_progen_on_the_embedded_model(tmp_path: Path) -> None:
    settings = ["first.rows=16", "repeat.target={Sports: 1, Business: 1}", "conditions.rows=4", "prompt.max_tokens=40",
                "zero_shot.max_tokens=40"]  # fmt: skip
    run = load("progen", settings=settings).run(tmp_path / "run", quiet=True)
    rows = run.sql("SELECT * FROM dataset").to_pylist()
    assert all(row["text"] for row in rows)
    assert Counter(row["label"] for row in rows if row["round"]) == {"Sports": 1, "Business": 1}
    made = run.sql("SELECT demos_row_ids FROM rows WHERE round > 0").to_pylist()
    known = {row["row_id"] for row in rows}
    assert {one for row in made for one in row["demos_row_ids"]} <= known
    assert run.state["calls_made"] == 16 + len(made)
