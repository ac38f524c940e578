"""Confident learning finds the flipped labels; the model is asked of those alone; two of three labels decide."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from synthray import cookbook
from synthray.model.fake import Fake
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.model.language import Request
    from synthray.run import Run

BRIEFS = cookbook.SHIPPED / "data" / "news_briefs.jsonl"
LABELS = ["Business", "Sci/Tech", "Sports", "World"]


def briefs() -> list[dict[str, str]]:
    return [json.loads(line) for line in BRIEFS.read_text(encoding="utf-8").splitlines()]


def asked_of(request: Request) -> dict[str, str]:
    """Return the brief that a prompt asks about."""
    prompt = request.messages[0]["content"]
    return next(row for row in briefs() if row["text"] in prompt)


def annotate(request: Request) -> str:
    """Label as an annotator does who is mostly right, at times no label, and knows nothing of some texts."""
    row = asked_of(request)
    if "quantum" in row["text"]:
        return "I cannot say."
    if "robot with soft legs" in row["text"] or "House prices" in row["text"]:
        other = sorted({*LABELS} - {row["truth"], row["label"]})[0]
        return json.dumps({"label": other})
    draw = random.Random(request.seed)
    return json.dumps({"label": row["truth"] if draw.random() < 0.9 else draw.choice([*LABELS, "Weather"])})


@pytest.fixture(scope="module", name="run")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    pipeline = replace(load("cleanlab_denoise", settings=["max_failed=0.1"]), model=Fake(script=annotate))
    return pipeline.run(tmp_path_factory.mktemp("denoise") / "run", quiet=True)


@pytest.fixture(scope="module", name="rows")
def every_row(run: Run) -> list[dict[str, Any]]:
    return run.sql("SELECT *, failed IS NOT NULL AS lost FROM rows").to_pylist()


@pytest.mark.ray
class TestCleanlabDenoise:
    def test_flipped_labels_are_found_well_above_chance(self, rows: list[dict[str, Any]]) -> None:
        flipped = {row["text"] for row in briefs() if row["label"] != row["truth"]}
        marked = {row["text"] for row in rows if row["label_issue"]}
        assert len(rows) == len(briefs()) == 112
        base = len(flipped) / len(rows)
        assert len(marked & flipped) / len(marked) > 4 * base
        assert len(marked & flipped) / len(flipped) > 0.7

    def test_a_threshold_is_the_mean_probability_of_the_rows_of_the_label(
        self, run: Run, rows: list[dict[str, Any]]
    ) -> None:
        found = run.sql("SELECT slice, value FROM metrics WHERE metric = 'threshold'").to_pylist()
        said = {one["slice"].removeprefix("given="): one["value"] for one in found}
        given = [row["given"] or row["label"] for row in rows]
        held = np.array([row["student_probabilities"] for row in rows])
        for place, label in enumerate(LABELS):
            of_label = held[[one == label for one in given], place]
            assert said[label] == pytest.approx(of_label.mean(), abs=1e-9)

    def test_the_model_is_asked_of_marked_rows_alone_and_never_told_the_label(
        self, run: Run, rows: list[dict[str, Any]]
    ) -> None:
        prompts = [
            row["prompt"]
            for row in run.sql("SELECT request->>'$.messages[0].content' AS prompt FROM calls").to_pylist()
        ]
        marked = {row["text"] for row in rows if row["label_issue"]}
        found = Counter(next(row["text"] for row in briefs() if row["text"] in one) for one in prompts)
        assert set(found) == marked
        assert min(found.values()) >= 3
        named = {frozenset(label for label in LABELS if f"- {label}:" in one) for one in prompts}
        assert named == {frozenset(LABELS)}, "each label stands in the list of labels, none apart"

    def test_the_label_of_two_of_three_stands_and_three_labels_leave(
        self, rows: list[dict[str, Any]]
    ) -> None:
        given = {row["text"]: row["label"] for row in briefs()}
        kept = [row for row in rows if row["reject_reason"] is None]
        for row in kept:
            if not row["label_issue"]:
                assert row["label"] == row["given"] == given[row["text"]]
                continue
            votes = Counter([given[row["text"]], row["suggested_label"], row["new_label"]])
            assert votes[row["label"]] >= 2
        dropped = [row for row in rows if row["reject_reason"] == "three_labels"]
        assert dropped
        for row in dropped:
            assert len({given[row["text"]], row["suggested_label"], row["new_label"]}) == 3
        assert any(row["label"] != row["given"] for row in kept)

    def test_a_row_of_which_the_model_says_nothing_is_failed_not_kept(
        self, rows: list[dict[str, Any]]
    ) -> None:
        lost = [row for row in rows if row["lost"]]
        assert all("quantum" in row["text"] for row in lost)
        marked = [row for row in rows if row["label_issue"] and "quantum" in row["text"]]
        assert len(lost) == len(marked)

    def test_labels_are_better_after_it(self, run: Run) -> None:
        found = run.sql(
            "SELECT step, value FROM metrics WHERE metric = 'accuracy' AND slice IS NULL"
        ).to_pylist()
        accuracy = {one["step"]: one["value"] for one in found}
        assert accuracy["before"] == pytest.approx(96 / 112)
        assert accuracy["after"] > 0.95
