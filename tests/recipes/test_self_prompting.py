"""Self-Prompting: only pairs that the model found again are shown, the nearest of each cluster."""

from __future__ import annotations

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray.cloudpickle

from synthray.errors import RunFailed
from synthray.model.fake import Fake
from synthray.pipeline import Pipeline
from synthray.recipe import load
from synthray.run import Run

if TYPE_CHECKING:
    import synthray
    from synthray.model.language import Request

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

ASKED = "What tool do beekeepers use to calm bees?"  # one of the shipped questions
LEAKS, TELLS, LOST, BLANK, TWICE = "bread", "bridges", "coffee", "clocks", ("glaciers", "volcanoes")


def answered(request: Request) -> str:
    """Write, name, ask, answer; what is about certain topics goes wrong in its own way."""
    prompt = request.messages[-1]["content"]
    if "encyclopedia passage" in prompt:
        topic = found("sentences about (.*)[.]", prompt)
        place = f"Port {topic.split()[-1].title()}"
        return (
            f"The museum of {topic} stands in {place} today. "
            f"Its fair for {topic} began in {1800 + 7 * len(topic)} there. Few know."
        )
    if "Copy up to two" in prompt:
        sentence = prompt.partition("\n")[0]
        if "museum" in sentence:
            names = [found("in (Port .*) today", sentence), sentence.removesuffix(" today.")]
        else:
            names = [found("in ([0-9]+)", sentence), "the Emperor"]
        return json.dumps({"entities": names})
    if "Write one question" in prompt:
        return question(prompt)
    if "Answer in at most five words" in prompt:
        return "" if BLANK in prompt else "nothing" if LOST in prompt else looked_up(prompt)
    return " Smoke. " if prompt.endswith(f"Question: {ASKED}\nAnswer:") else "no idea"


def question(prompt: str) -> str:
    answer, topic = (
        found('answer is "(.*)"', prompt),
        found("(?:museum of|fair for) (.*?) (?:stands|began)", prompt),
    )
    if topic == LEAKS:
        return f"Is it {answer} or not?"
    if topic == TELLS:
        return "It is a fine place."
    if topic in TWICE and answer.startswith("Port"):
        return "What is the place called?"
    if topic == "beekeeping" and answer.startswith("Port"):
        return ASKED
    if topic == "the bicycle" and answer.startswith("Port"):
        return ASKED.replace("beekeepers", "bikers")  # in one cluster with it
    return (
        f"Where stands the museum of {topic}?"
        if answer.startswith("Port")
        else f"When began the fair for {topic}?"
    )


def looked_up(prompt: str) -> str:
    passage, asked = prompt.split("\n\n")
    place, year = found("in (Port .*?) today", passage), found("in ([0-9]+)", passage)
    return f"{year}." if asked.startswith("When") else place.upper()


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match[1]


def empty(request: Request) -> str:
    return ""


def started(script: Any) -> Pipeline:
    """Return the recipe on the fake model, its table too."""
    model = Fake(script=script)
    pipeline = load("self_prompting")
    tables = {
        name: replace(table, model=model) if isinstance(table, Pipeline) else table
        for name, table in pipeline.tables.items()
    }
    return replace(pipeline, model=model, tables=tables)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> synthray.Run:
    folder = tmp_path_factory.mktemp("self_prompting")
    return started(answered).run(folder / "run", quiet=True)


def pool(run: synthray.Run) -> dict[str, dict[str, Any]]:
    return {row["row_id"]: row for row in run.sql("SELECT * FROM pairs").to_pylist()}


def reasons(run: synthray.Run, where: str) -> set[str]:
    sql = f"SELECT DISTINCT reject_reason AS r FROM rows WHERE reject_step LIKE 'pairs%' AND {where}"
    return {row["r"] for row in run.sql(sql).to_pylist()}


def test_only_pairs_that_were_found_again_are_in_the_pool(run: synthray.Run) -> None:
    held = pool(run)
    assert len(held) > 8
    for row in held.values():
        assert row["found"].rstrip(".").lower() == row["answer"].lower()
        assert row["answer"] in row["sentence"] in row["passage"]
        assert row["answer"].lower() not in row["question"].lower()
    topics = {row["topic"] for row in held.values()}
    assert topics.isdisjoint({LEAKS, TELLS, LOST, BLANK})


def test_what_is_left_out_says_why(run: synthray.Run) -> None:
    assert reasons(run, "answer = 'the Emperor'") == {"not_in_sentence"}
    assert reasons(run, "answer LIKE 'The museum of%'") == {"long_entity"}
    usable = "question IS NOT NULL AND topic"
    assert reasons(run, f"{usable} IN ('{LEAKS}', '{TELLS}')") == {"no_question"}
    assert reasons(run, f"{usable} = '{LOST}'") == {"not_found_again"}
    assert reasons(run, f"{usable} = '{BLANK}'") == {"not_found_again:null"}
    assert reasons(run, "question = 'What is the place called?'") == {"duplicate"}


def test_each_question_is_shown_the_nearest_pair_of_each_cluster(run: synthray.Run) -> None:
    held = pool(run)
    rows = run.sql("SELECT question, embedding, demos, demos_row_ids FROM dataset").to_pylist()
    assert len(rows) == 10
    clusters = {row["cluster"] for row in held.values()}
    assert clusters == {0, 1, 2, 3}
    for row in rows:
        shown = [held[one] for one in row["demos_row_ids"]]
        assert {one["cluster"] for one in shown} == clusters, "one of each"
        assert [demo["question"] for demo in row["demos"]] == [one["question"] for one in shown]
        for one in shown:
            others = (
                pair
                for pair in held.values()
                if pair["cluster"] == one["cluster"] and pair["question"] != ASKED
            )
            assert likeness(row, one) == pytest.approx(max(likeness(row, pair) for pair in others))


def likeness(one: dict[str, Any], other: dict[str, Any]) -> float:
    left, right = (np.array(row["embedding"], float) for row in (one, other))
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_a_question_that_is_asked_is_no_demonstration(run: synthray.Run) -> None:
    assert ASKED in {row["question"] for row in pool(run).values()}
    shown = run.sql("SELECT unnest(demos).question AS question FROM dataset").to_pylist()
    assert ASKED not in {row["question"] for row in shown}


def test_the_prompt_holds_the_demonstrations_before_the_question(run: synthray.Run) -> None:
    sql = (
        "SELECT d.question, d.demos, c.request->'messages'->0->>'content' AS prompt "
        "FROM dataset d JOIN calls c ON c.key = d.prompt_call"
    )
    rows = run.sql(sql).to_pylist()
    assert len(rows) == 10
    for row in rows:
        shown = [f"Question: {demo['question']}\nAnswer: {demo['answer']}\n" for demo in row["demos"]]
        assert row["prompt"] == "\n".join([*shown, f"Question: {row['question']}\nAnswer:"])


def test_answers_are_measured_and_written(run: synthray.Run) -> None:
    right = {row["question"] for row in run.sql("SELECT question FROM dataset WHERE verified").to_pylist()}
    assert right == {ASKED}
    value = run.sql("SELECT value, n FROM metrics WHERE metric = 'accuracy'").to_pylist()
    assert value == [{"value": 0.1, "n": 10}]
    lines = itertools.chain.from_iterable(
        path.read_text().splitlines() for path in Path(run.root, "dataset").rglob("*.jsonl")
    )
    assert {json.loads(line)["said"] for line in lines} == {"Smoke.", "no idea"}


def test_a_model_that_never_finds_its_answers_ends_the_run_clearly(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"the pool 'pairs' has no rows"):
        started(empty).run(tmp_path / "run", quiet=True)


@pytest.mark.model
def test_it_runs_on_a_real_model(tmp_path: Path) -> None:
    pipeline = load("self_prompting", settings=["table.rows=2"])
    table = pipeline.tables["pairs"]
    assert isinstance(table, Pipeline)
    first, *others = table.named()
    few = replace(table, steps=[replace(first, work=replace(first.work, rows=3)), *others])
    pipeline = replace(pipeline, max_failed=1.0, tables={**pipeline.tables, "pairs": few})
    try:
        pipeline.run(tmp_path / "run", quiet=True)
    except RunFailed as error:
        assert "the pool 'pairs' has no rows" in str(error), "so small a model may find no answer again"
    run = Run.read(tmp_path / "run")
    written = run.sql(
        "SELECT count(DISTINCT row_id) AS n FROM calls WHERE step = 'pairs_writing'"
    ).to_pylist()
    assert written == [{"n": 3}]
    verdicts = run.sql("SELECT found, answer, sentence FROM rows WHERE found IS NOT NULL").to_pylist()
    for row in verdicts:
        assert row["answer"].lower() in row["sentence"].lower()
