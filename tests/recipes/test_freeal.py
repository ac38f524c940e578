"""FreeAL: clean rows are better than chance, they stand in the next round's prompts, and labels get better."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from synthray import cookbook
from synthray.model.fake import Fake
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.model.language import Request

BRIEFS = cookbook.SHIPPED / "data" / "news_briefs.jsonl"
LABELS = ("World", "Sports", "Business", "Sci/Tech")
TRUTH = {
    row["text"]: row["truth"]
    for row in map(json.loads, BRIEFS.read_text(encoding="utf-8").splitlines())
}  # fmt: skip
Rows = list[dict[str, Any]]
SILENT = "The brewery bought"


def words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def parts(prompt: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the text that a prompt asks about, and its examples with their labels."""
    examples = re.findall(r"^Text: (.*)\nLabel: (.*)$", prompt, re.MULTILINE)
    return re.findall(r"^Text: (.*)$", prompt, re.MULTILINE)[-1], examples


def label(request: Request) -> str:
    """Know two texts of three; of the others take the label of the example most like it, else guess."""
    prompt = request.messages[0]["content"]
    if about := re.search(r"one-sentence (\S+) news", prompt):
        # What it invents has little of what the real texts have.
        draw = random.Random(request.seed)
        bland = f"It is said of {about[1]} that number {draw.random()} is talked about by everyone."
        return "I'm sorry, but I cannot write that news report." if draw.random() < 0.2 else bland
    text, examples = parts(prompt)
    if text.startswith(SILENT):
        return "I do not know."
    known = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 3
    if known:
        return json.dumps({"label": TRUTH[text]})
    if examples:
        like = max(examples, key=lambda one: len(words(one[0]) & words(text)))
        return json.dumps({"label": like[1]})
    return json.dumps({"label": random.Random(text).choice(LABELS)})


@pytest.fixture(scope="module", name="rounds")
def each_round(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Return the rows after one round and, of the same run gone on, after two; and the prompts of each."""
    folder = tmp_path_factory.mktemp("freeal") / "run"
    found = []
    for number in (1, 2):
        pipeline = load("freeal", settings=[f"repeat.max={number}", "max_failed=0.05"])
        # What measures and exports has no part in the first.
        steps = pipeline.steps[:-2] if number == 1 else pipeline.steps
        # A table's own pipeline asks its own model.
        fake, tables = Fake(script=label), dict(pipeline.tables)
        tables["invented"] = replace(tables["invented"], model=fake)
        run = replace(pipeline, steps=steps, tables=tables, model=fake).run(folder, quiet=True)
        found.append(run.sql("SELECT * FROM dataset ORDER BY row_id").to_pylist())
    asked = run.sql("SELECT step, request->>'$.messages[0].content' AS prompt FROM calls").to_pylist()
    lost = run.sql("SELECT * FROM failed_rows").to_pylist()
    measured = run.sql("SELECT step, metric, value FROM metrics WHERE slice IS NULL").to_pylist()
    return [*found, asked, lost, measured]


Rounds = list[list[dict[str, Any]]]


def right(rows: Rows) -> float:
    return sum(row["label"] == row["truth"] for row in rows) / len(rows)


def clean(rows: Rows) -> Rows:
    return [row for row in rows if row["clean"]]


@pytest.mark.ray
class TestFreeAL:
    def test_the_clean_rows_of_noisy_labels_beat_rows_drawn_at_random(self, rounds: Rounds) -> None:
        first = rounds[0]
        assert 0.6 < right(first) < 0.85
        sizes = Counter(row["label"] for row in clean(first))
        assert set(sizes) == set(LABELS)
        of_label = defaultdict(list)
        for row in first:
            of_label[row["label"]].append(row)
        draw = random.Random(1)
        by_chance = [
            right([row for one, size in sorted(sizes.items()) for row in draw.sample(of_label[one], size)])
            for _ in range(500)
        ]
        assert right(clean(first)) > sorted(by_chance)[475]

    def test_clean_is_the_surest_fifth_of_each_label_that_student_and_model_agree_on(
        self, rounds: Rounds
    ) -> None:
        for rows in rounds[:2]:
            for one in LABELS:
                agreed = [
                    row
                    for row in rows
                    if row["label"] == row["student_label"] == one and row["student_clean"] >= 0.7
                ]
                agreed.sort(key=lambda row: (-max(row["student_probabilities"]), row["row_id"]))
                surest = {row["row_id"] for row in agreed[: math.ceil(len(agreed) / 5)]}
                assert surest
                assert {row["row_id"] for row in rows if row["clean"] and row["label"] == one} == surest

    def test_the_second_round_asks_only_of_rows_that_are_not_clean_with_clean_ones_of_each_label(
        self, rounds: Rounds
    ) -> None:
        first, second, asked = rounds[:3]
        known = {row["text"]: row["label"] for row in clean(first)}
        texts = Counter(parts(one["prompt"])[0] for one in asked if one["step"] == "prompt@2")
        assert set(texts) == {row["text"] for row in first} - set(known)
        of_round = [one for one in asked if one["step"].startswith("prompt@")]
        for one in of_round:
            examples = parts(one["prompt"])[1]
            assert sorted(found for _, found in examples) == sorted(LABELS)
            for text, found in examples:
                invented = text.startswith(f"It is said of {found} ")
                assert invented if one["step"] == "prompt@1" else known[text] == found
        after = {row["row_id"]: row for row in second}
        for row in clean(first):
            assert after[row["row_id"]]["label"] == row["student_label"]

    def test_labels_are_better_after_the_second_round(self, rounds: Rounds) -> None:
        first, second = rounds[:2]
        assert right(second) > right(first) + 0.03
        found = [one["value"] for one in rounds[4] if one["step"].startswith("labels")]
        assert found == pytest.approx([right(first), right(second)])

    def test_no_given_label_is_read_and_a_text_without_an_answer_is_failed(self, rounds: Rounds) -> None:
        first, _, asked, lost, _ = rounds
        assert [row["text"].startswith(SILENT) for row in lost] == [True]
        assert len(first) == len(TRUTH) - 1
        assert not any("truth" in one["prompt"] for one in asked)


@pytest.mark.ray
@pytest.mark.model
@pytest.mark.usefixtures("ray_session")
def test_freeal_on_the_embedded_model(tmp_path: Path) -> None:
    lines = BRIEFS.read_text(encoding="utf-8").splitlines()[:6]
    (tmp_path / "few.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings = [f"tables.briefs={tmp_path / 'few.jsonl'}", "student.folds=2"]
    settings += ["invented_conditions.rows=12", "invented_invent.max_tokens=40"]
    pipeline = load("freeal", settings=settings)
    run = replace(pipeline, steps=pipeline.steps[:-2]).run(tmp_path / "run", quiet=True)
    rows = run.sql("SELECT * FROM dataset").to_pylist()
    assert len(rows) == 6
    assert {row["label"] for row in rows} <= set(LABELS)
    calls = run.sql("SELECT step, count(*) AS n FROM calls GROUP BY step").to_pylist()
    made = {one["step"]: one["n"] for one in calls}
    assert made["prompt@1"] == 6
    assert made.get("prompt@2", 0) <= 6
    invented = {row["text"] for row in run.sql("SELECT text FROM rows WHERE invented").to_pylist()}
    shown = run.sql("SELECT demos FROM rows WHERE NOT invented").to_pylist()
    texts = {json.loads(line)["text"] for line in lines}
    assert all(demo["text"] in invented | texts for row in shown for demo in row["demos"])
