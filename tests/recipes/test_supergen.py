"""SuperGen: the mean log-probability of a text's tokens decides, within each label."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ray.cloudpickle
from scripting import conserved, reasons, rows, scripted

from synthray.model.language import Request, Response
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.run import Run

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers do not see tests/
LABELS = ("World", "Sports", "Business", "Sci/Tech")
KEPT = 25
WORDS = [
    "envoy",
    "match",
    "shares",
    "robot",
    "border",
    "goal",
    "profit",
    "chip",
    "treaty",
    "coach",
    "bank",
    "virus",
    "summit",
    "medal",
    "bonds",
    "orbit",
]


def write(request: Request) -> str | Response:
    """Write words with scripted log-probabilities; of one desk all are likelier than of any other."""
    assert request.prompt is not None
    assert request.logprobs is not None
    draw = random.Random(request.seed)
    kind, number = draw.random(), draw.randrange(10_000)
    said = [*draw.choices(WORDS, k=draw.randrange(8, 20)), str(number)]
    if kind < 0.06:
        said = ["as", "it", "was", "said", "before", "in", "these", "words"]
    elif kind < 0.1:
        said = ["Too", "short."]
    elif kind < 0.14:
        said = ["round", "and", "round", "it", "goes"] * 6
    lift = 5.0 if "sport" in request.prompt.lower() or "stadium" in request.prompt else 0.0
    tokens = [{"token": one, "logprob": -draw.random() * 4 - 6 + lift, "top": {}} for one in said]
    # A model that gives none for some call: there is no score.
    return Response(" ".join(said), logprobs=None if 0.14 <= kind < 0.17 else tokens)


@pytest.fixture(scope="module", name="run")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    pipeline = scripted("supergen", write, "conditions.rows=200")
    return pipeline.run(tmp_path_factory.mktemp("supergen") / "run", quiet=True)


@pytest.mark.ray
class TestSupergen:
    def test_the_score_is_the_mean_log_probability_of_the_tokens(self, run: Run) -> None:
        found = rows(run, "SELECT score, prompt_logprobs AS tokens FROM rows WHERE score IS NOT NULL")
        assert len(found) > 120
        for row in found:
            values = [one["logprob"] for one in row["tokens"]]
            assert row["score"] == pytest.approx(sum(values) / len(values), rel=1e-12)
        # By hand, from what the script answered.
        one = rows(run, "SELECT score, text FROM rows WHERE score IS NOT NULL ORDER BY row_id LIMIT 1")[0]
        assert -10 < one["score"] < -1

    def test_of_each_label_the_likeliest_rows_are_kept(self, run: Run) -> None:
        found = rows(
            run, "SELECT row_id, label, prompt_logprobs AS tokens, reject_reason AS reason FROM rows"
        )
        before = {"too_short", "repetition", "exact_duplicate", "no_logprobs"}
        for label in LABELS:
            reached = [row for row in found if row["label"] == label and row["reason"] not in before]
            assert len(reached) > KEPT

            def mean(row: dict) -> float:  # type: ignore[type-arg]
                return sum(one["logprob"] for one in row["tokens"]) / len(row["tokens"])

            ranked = sorted(reached, key=lambda row: (-mean(row), row["row_id"]))
            assert {row["row_id"] for row in ranked[:KEPT]} == {
                row["row_id"] for row in reached if row["reason"] != "low_score"
            }

    def test_what_cannot_be_scored_or_is_no_text_is_rejected_first(self, run: Run) -> None:
        found = reasons(run)
        assert {"too_short", "repetition", "exact_duplicate", "no_logprobs", "low_score"} <= set(found)
        assert set(found) <= {
            "too_short", "repetition", "exact_duplicate", "no_logprobs", "low_score", "student_unsure"
        }  # fmt: skip
        assert conserved(run)

    def test_the_student_drops_at_most_half_of_a_label_and_none_it_is_sure_of(self, run: Run) -> None:
        found = rows(
            run,
            "SELECT label, student_confidence AS sure, reject_reason IS NULL AS kept "
            "FROM rows WHERE student_confidence IS NOT NULL",
        )
        assert len(found) == 4 * KEPT
        for label in LABELS:
            of_label = sorted((row for row in found if row["label"] == label), key=lambda row: -row["sure"])
            kept = [row for row in of_label if row["kept"]]
            assert len(kept) == max(13, sum(row["sure"] > 0.8 for row in of_label))
            assert min(row["sure"] for row in kept) == of_label[len(kept) - 1]["sure"]


@pytest.mark.ray
@pytest.mark.model
def test_on_the_embedded_model(ray_session: None, tmp_path: Path) -> None:
    settings = ["conditions.rows=12", "prompt.max_tokens=24"]
    run = load("supergen", settings=settings).run(tmp_path / "run", quiet=True)
    found = rows(run, "SELECT text, score, prompt_logprobs AS tokens FROM dataset")
    assert found
    for row in found:
        assert row["text"]
        assert row["score"] < 0
        assert all(one["logprob"] <= 0 for one in row["tokens"])
    assert len(rows(run, "SELECT 1 AS x FROM calls")) == 12
    assert conserved(run)
