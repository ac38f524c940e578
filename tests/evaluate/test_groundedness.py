"""Claims are supported by quotes that stand in the source; shares are mended by what people say."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import InputError, RunFailed
from synthray.evaluate.groundedness import Groundedness, quoted
from synthray.evaluate.label_accuracy import LabelAccuracy
from synthray.label.correction import Stratum, joined
from synthray.lineage import uniform
from synthray.model.fake import Fake
from synthray.model.language import Request
from synthray.operator import Context
from synthray.plan import planned
from synthray.query import Query
from synthray.recipe import load

DATA = os.environ.get("SYNTHRAY_DATA")
SOURCE = "Bloom is an album by Troye Sivan.  It was released\non 31 August 2018."
Answer = Callable[[Request], Any]
Claims = Sequence[tuple[str, bool, str]]


def rows(*texts: str | None, source: Any = SOURCE, **columns: Any) -> pa.Table:
    size = len(texts)
    return pa.table(
        {
            "row_id": [f"r{n:04}" for n in range(size)],
            "text": pa.array(texts, pa.string()),
            "source": pa.array([source] * size),
            **columns,
        }
    )


def claims(*given: tuple[str, bool, str]) -> str:
    names = ("claim", "supported", "evidence")
    return json.dumps({"claims": [dict(zip(names, one, strict=True)) for one in given]})


def ask(operator: Groundedness, table: pa.Table, answer: Answer) -> tuple[pa.Table, list[Request]]:
    asked: list[Request] = []

    def script(request: Request) -> Any:
        asked.append(request)
        return answer(request)

    context = Context(step="groundedness", language=Fake(script=script, retries=0), seed=1)
    made = replace(operator, context=context)
    made.check(table.schema)
    return made(table), asked


def prompt(request: Request) -> str:
    return request.messages[-1]["content"]


def measured(operator: Groundedness, table: pa.Table) -> dict[str, dict[str, Any]]:
    made = replace(operator, context=Context(step="groundedness", seed=1), resamples=100)
    with Query({"rows": table}) as query:
        found = made.measure(query).to_pylist()
    assert [one["metric"] for one in found] == list(operator.metrics())
    return {one["metric"]: one for one in found}


OPERATOR = Groundedness(text="text", source="source")


# What is asked, and what counts.


def test_only_claims_of_which_the_evidence_stands_in_the_source_are_supported() -> None:
    said = claims(
        ("It is an album.", True, "an album"),
        ("It came in August.", True, "released on 31 AUGUST 2018"),
        ("It won a prize.", True, "It won a Grammy."),
        ("It is long.", False, ""),
    )
    out, (request,) = ask(OPERATOR, rows("It is a long album that won a prize."), lambda _: said)
    told = prompt(request)
    for part in (SOURCE, "\nIt is a long album that won a prize.\n"):
        assert part in told
    found = out["claims"][0].as_py()
    assert [one["supported"] for one in found] == [True, True, False, False]
    assert [one["verified"] for one in found] == [True, True, False, None]
    assert out["grounded"].to_pylist() == [0.5]
    assert out["groundedness_call"].type == pa.string()
    assert out["groundedness_call"][0].as_py()


FOLDED = ["bloom is an album by troye sivan. it was released on 31 august 2018."]


@pytest.mark.parametrize(
    ("evidence", "stands"),
    [
        ("Bloom is an album", True),
        ('"Bloom  is an\nalbum by Troye Sivan."', True),
        ("“bloom”", True),
        ("Bloom ... 31 August", True),
        ("Bloom […] 2018", True),
        ("31 August ... Bloom", False),
        ("Bloom is an album ... of songs", False),
        ("loom", False),
        ("Bloom is a", False),
        ("31 august 201", False),
        ("", False),
        (" ... ", False),
        ('""', False),
        ("?!", False),
        ("(2018)", False),
    ],
)
def test_a_quote_is_looked_up_by_its_words(evidence: str, stands: bool) -> None:
    assert quoted(evidence, FOLDED) == stands


def test_a_quote_stands_in_one_passage_not_across_two() -> None:
    assert not quoted("one two", ["one", "two"])
    assert quoted("two", ["one", "two"])


def test_a_long_quote_of_many_parts_is_looked_up_at_once() -> None:
    assert not quoted("a ... " * 3000 + "b", ["a " * 20_000])


def test_passages_of_several_columns_are_shown_each_by_itself() -> None:
    table = rows("x", "y", source=["first passage", "", None, "second"]).append_column(
        "more", pa.array(["third", None])
    )
    operator = Groundedness(text="text", source=["source", "more"], given="row_id")
    out, asked = ask(operator, table, lambda _: claims(("c", True, "third")))
    told = prompt(asked[0])
    assert told.count("<text-") == 6, "in the instruction, three passages, what is given, and the text"
    assert "The source, more:" in told
    assert "row_id, which is no source:" in told
    assert "The source, more:" not in prompt(asked[1])
    assert out["grounded"].to_pylist() == [1, 0]


def test_rows_without_a_text_or_a_source_are_not_asked_and_no_claim_is_no_share() -> None:
    table = rows("a", None, "c").set_column(2, "source", [["s", "s", " "]])
    out, asked = ask(OPERATOR, table, lambda _: claims())
    assert len(asked) == 1
    assert out["claims"].to_pylist() == [[], None, None]
    assert out["grounded"].to_pylist() == [None] * 3
    assert out["failed"].to_pylist() == [None] * 3


def test_an_answer_that_is_none_fails_its_row_after_it_was_shown_again() -> None:
    out, asked = ask(replace(OPERATOR, reasks=1), rows("a"), lambda _: '{"claims": [{"claim": "c"}]}')
    assert len(asked) == 2
    assert "'supported' is a required property" in prompt(asked[1])
    assert out["failed"][0].as_py()["error"] == "InvalidAnswer"


# Measures.


def judged(answers: Sequence[Claims | None], **columns: Any) -> pa.Table:
    texts = [None if one is None else f"text {n}#" for n, one in enumerate(answers)]

    def answer(request: Request) -> str:
        number = re.search(r"text (\d+)#", prompt(request))
        assert number
        return claims(*(answers[int(number[1])] or ()))

    out, _ = ask(OPERATOR, rows(*texts, source="the source", **columns), answer)
    return out.drop_columns(["failed"])


GOOD, BAD, MADE_UP = ("g", True, "source"), ("b", False, ""), ("m", True, "nowhere")


def test_shares_are_of_rows_with_claims_and_of_claims_called_supported() -> None:
    table = judged([[GOOD, GOOD], [GOOD, BAD], [GOOD, MADE_UP, MADE_UP], [], None])
    found = measured(OPERATOR, table)
    assert found["groundedness"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["groundedness"]["n"] == 3
    assert (found["supported"]["value"], found["supported"]["n"]) == (pytest.approx(1 / 3), 3)
    assert (found["claims"]["value"], found["claims"]["n"]) == (7 / 4, 4)
    assert found["unverified"]["value"] == pytest.approx(2 / 6)
    assert found["groundedness"]["ci_low"] < 0.61 < found["groundedness"]["ci_high"]


def test_nothing_asked_and_nothing_claimed_are_nan() -> None:
    for table in (judged([None]), judged([[], []])):
        found = measured(OPERATOR, table)
        assert math.isnan(found["groundedness"]["value"])
        assert found["groundedness"]["n"] == 0
        assert found["groundedness"]["ci_low"] is None


def test_people_mend_the_share_as_prediction_powered_inference_does() -> None:
    random = np.random.default_rng(1)
    share = random.integers(0, 5, 200)
    truth = random.random(200) < share / 4
    table = judged([[GOOD] * n + [BAD] * (4 - n) for n in share.tolist()])
    asked = sorted(random.choice(200, 60, replace=False).tolist())
    human = pa.array([bool(truth[n]) if n in asked else None for n in range(200)])
    operator = replace(OPERATOR, human="human")
    found = measured(operator, table.append_column("human", human))
    stratum = Stratum(
        200, float((share / 4).mean()), truth[asked].astype(float), share[asked] / 4, np.ones(60)
    )
    expected = joined([stratum])
    one = found["human_groundedness"]
    assert (one["value"], one["ci_low"], one["ci_high"], one["n"]) == pytest.approx(
        (expected.value, expected.low, expected.high, 60), abs=1e-9
    )
    assert found["width_ratio"]["value"] < 1, "the model is worth something"
    numbers = pa.array([None if one is None else int(one) for one in human.to_pylist()], pa.int64())
    assert measured(operator, table.append_column("human", numbers)) == found


def test_columns_of_a_review_tell_how_rows_were_chosen() -> None:
    table = judged([[GOOD]] * 30 + [[BAD]] * 10)
    picked = ["picked"] * 10 + ["random"] * 15 + [None] * 15
    columns = {
        "human": pa.array([True] * 10 + [True] * 12 + [False] * 3 + [None] * 15),
        "review_slice": pa.array(picked),
        "review_batch": pa.array(["one" if one else None for one in picked]),
        "review_weight": pa.array([1.0 if one == "picked" else 2.0 for one in picked]),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    found = measured(replace(OPERATOR, human="human"), table)["human_groundedness"]
    same = table.append_column("label", pa.array(["g"] * 40)).append_column(
        "human_label",
        pa.array([None if one is None else "g" if one else "b" for one in columns["human"].to_pylist()]),
    )
    expected = LabelAccuracy(belief="grounded", context=Context(step="x"))(same).to_pylist()[0]
    assert {**found, "metric": "accuracy"} == expected


def test_a_verdict_of_people_that_is_none_is_named_with_its_row() -> None:
    table = judged([[GOOD]] * 2).append_column("human", pa.array([1, 2]))
    with pytest.raises(RunFailed, match=r"row_id 'r0001' holds 2, which is neither 0 .not grounded. nor 1"):
        measured(replace(OPERATOR, human="human"), table)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "text"}, "source names the text itself, 'text'"),
        ({"source": []}, "source names no column"),
        ({"source": "number"}, "source: column 'number' must hold text or lists of texts, but is int64"),
        ({"text": "number"}, "column 'number' must hold text"),
        ({"human": "source"}, "column 'source' must say whether a row is grounded, true or false"),
        ({"template": "{{ text"}, "does not parse"),
        ({"given": "claims"}, "reads and writes the column 'claims'"),
    ],
)
def test_settings_that_cannot_work_are_found_before_any_call(settings: dict[str, Any], message: str) -> None:
    table = rows("a", number=[1], claims=["x"])
    operator = Groundedness(**{"text": "text", "source": "source", **settings})
    with pytest.raises(InputError, match=message):
        ask(operator, table, lambda _: pytest.fail("asked"))


RECIPE = """
name: grounded
seed: 3
model: {language: fake, answers: [{claims: [{claim: c, supported: true, evidence: source}]}, {claims: []}, none]}
max_failed: 0.9
steps:
  - source.table: {path: rows.jsonl}
  - evaluate.groundedness: {text: text, source: passages, human: people, group: text}
gate:
  - groundedness.groundedness.value = 1
  - groundedness.human_groundedness.ci_low > 0
"""


def recipe(folder: Path) -> Path:
    lines = [{"text": f"text {n}", "passages": ["the source"], "people": n % 3 != 0} for n in range(30)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_row_costs_one_call(tmp_path: Path) -> None:
    (line,) = [one for one in planned(load(recipe(tmp_path))) if one["step"] == "groundedness"]
    assert line["calls"] == 30
    assert line["prompt_tokens_about"] > 30 * 100


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_adds_the_claims_and_measures_them(tmp_path: Path) -> None:
    run = load(recipe(tmp_path)).run(tmp_path / "run", quiet=True)
    kept = run.sql("SELECT count(*) AS n, count(grounded) AS claiming FROM dataset").to_pylist()[0]
    found = {one["metric"]: one for one in run.sql("SELECT * FROM metrics").to_pylist()}
    assert found["groundedness"]["n"] == kept["claiming"] > 0
    assert found["claims"]["n"] == kept["n"]
    assert found["human_groundedness"]["n"] == kept["n"]


@pytest.mark.skipif(DATA is None, reason="SYNTHRAY_DATA names no folder of data sets")
def test_on_answers_with_people_s_errors_the_interval_covers_their_share() -> None:
    assert DATA is not None
    given = pq.read_table(Path(DATA) / "qa_feedback_finegrained.parquet").to_pylist()
    wrong = {"Wrong-Grounding", "Unverifiable"}
    spans = {
        row["prediction_1"]: [
            (one["start"], one["end"])
            for one in json.loads(row["errors_in_prediction_1"])
            if one["error type"] in wrong
        ]
        for row in given
    }

    def answer(request: Request) -> str:
        # A judge that sees what people marked, but for one claim in eight; its quotes stand in the source.
        shown = [one[1] for one in re.findall(r"<(text-\w{8})>\n(.*?)\n</\1>", prompt(request), re.DOTALL)]
        passage, text = shown[0], shown[-1]
        said = []
        for found in re.finditer(r"[^.]+\.?", text):
            bad = any(start < found.end() and end > found.start() for start, end in spans[text])
            flip = uniform("flip", text, found.start()) < 1 / 8
            said.append((found[0], bad == flip, passage[:40].rsplit(" ", 1)[0]))
        return claims(*said)

    passages = [[" ".join(one[1:]) for one in json.loads(row["passages"])][:1] for row in given]
    table = pa.table(
        {
            "row_id": [f"{row['idx']:04}" for row in given],
            "text": [row["prediction_1"] for row in given],
            "source": passages,
        }
    )
    out, _ = ask(OPERATOR, table, answer)
    truth = np.array([not spans[row["prediction_1"]] for row in given])
    assert 0.5 < truth.mean() < 0.9
    found = measured(OPERATOR, out.drop_columns(["failed"]))
    assert found["unverified"]["value"] == 0
    hits, ratios = 0, []
    for seed in range(20):
        asked = set(np.random.default_rng(seed).choice(len(given), 80, replace=False).tolist())
        human = pa.array([bool(one) if n in asked else None for n, one in enumerate(truth)])
        drawn = measured(
            replace(OPERATOR, human="human"), out.drop_columns(["failed"]).append_column("human", human)
        )
        one = drawn["human_groundedness"]
        hits += one["ci_low"] <= truth.mean() <= one["ci_high"]
        ratios.append(drawn["width_ratio"]["value"])
    assert hits >= 17
    assert np.mean(ratios) < 0.9, "the judge saves people's work"
