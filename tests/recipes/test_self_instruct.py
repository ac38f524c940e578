"""Self-Instruct: a pool that grows by what is new, demonstrations of both pools, and a branch for each kind."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
import yaml

from synthray import cookbook
from synthray.errors import ModelError
from synthray.lineage import uniform
from synthray.model.fake import Fake
from synthray.model.language import Request, Response
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

VERBS = ("Classify", "Describe", "Compare", "Rewrite", "Explain", "Count")
NOUNS = tuple(f"{first}{last}" for first in ("bar", "cor", "del", "fen", "gar", "hol") for last in
              ("dom", "let", "mark", "nish", "pole", "rick", "side", "ton"))  # fmt: skip
BAD = (
    "Too short.",
    "Draw the picture of a barn in the evening light.",
    "Write a program that adds two numbers.",
    "- begins with a sign and not with a word",
    "Ünknown letters at the very beginning of it.",
    "Explain why bread rises when it is baked.",  # a seed
)
WHY = {"length", "forbidden_word", "program", "punctuation", "not_ascii", "not_novel"}


def instruction(*salt: Any) -> str:
    drawn = [NOUNS[int(uniform("noun", place, *salt) * len(NOUNS))] for place in range(5)]
    return f"{VERBS[int(uniform('verb', *salt) * len(VERBS))]} the {' and the '.join(drawn[:2])}, {' '.join(drawn[2:])}."


def answered(request: Request) -> str | Response | ModelError:
    asked = request.messages[0]["content"]
    if asked.startswith("Here is the beginning"):
        return proposed(request.seed)
    task = re.findall(r"Task: (.*)", asked)[-1]
    if request.schema is None or "is_classification" in request.schema["properties"]:
        return json.dumps({"is_classification": "yes" if task.startswith("Classify") else "no"})
    if task.startswith("Count"):
        return "no JSON at all"
    return instances(request, task)


def proposed(seed: int) -> str | Response | ModelError:
    kind = int(uniform("kind", seed) * 8)
    if kind == 0:
        return "I'm sorry, but I cannot continue this list."
    if kind == 1:
        return ModelError("scripted", "HTTP400")
    fresh = [instruction(seed, place) for place in range(5)]
    almost = fresh[0].replace(".", " now.")  # nearly the first one
    bad = BAD[seed % len(BAD)]
    lines = [f"{number}. {text}" for number, text in enumerate([*fresh, almost, bad], start=9)]
    if kind == 2:
        return Response("\n".join([*lines, "16. Explain how this sentence was cut in the"]), "length")
    return "\n".join(["Here are more tasks:", *lines])


def instances(request: Request, task: str) -> str:
    assert request.schema is not None
    (name, rule), *_ = request.schema["properties"].items()
    first = next(iter(rule["items"]["properties"]))
    assert (name, first) == (("answers", "output") if task.startswith("Classify") else ("inputs", "input"))
    made = [{"input": f"{task} one", "output": "good"}, {"input": f"{task} two", "output": "bad"}]
    if task.startswith("Describe"):
        made = [
            {"input": "same", "output": "same "},
            {"input": "", "output": " "},
            {"input": "as follows:", "output": "so"},
        ]
    elif task.startswith("Compare"):
        made += [{"input": f"{task} one", "output": "another"}]
    elif task.startswith("Explain"):
        made = [
            {"input": "", "output": "because"},
            {"input": "", "output": "why not"},
            {"input": "", "output": "because"},
        ]
    return json.dumps({name: made})


def same(request: Request) -> str | Response | ModelError:
    """Propose the same list each time."""
    asked = request.messages[0]["content"]
    return proposed(4) if asked.startswith("Here is the beginning") else answered(request)


def run(out: Path, script: Any = answered, *settings: str) -> Run:
    chosen = ["conditions.rows=5", "repeat.max=3", "repeat.until=false", *settings]
    pipeline = load("self_instruct", settings=chosen)
    return dataclasses.replace(pipeline, model=Fake(script=script)).run(out, quiet=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Run:
    return run(tmp_path_factory.mktemp("self-instruct") / "run")


def seeds() -> list[dict[str, str]]:
    path = cookbook.SHIPPED / "data" / "seed_tasks.yaml"
    held: list[dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return held


def rouge(one: str, other: str) -> float:
    """ROUGE-L F1 by the textbook's table of longest common subsequences."""
    a, b = (re.findall(r"[a-z0-9]+", text.lower()) for text in (one, other))
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1][j + 1] = table[i][j] + 1 if a[i] == b[j] else max(table[i][j + 1], table[i + 1][j])
    return 2 * table[-1][-1] / (len(a) + len(b))


def pool(made: Run) -> list[str]:
    """Return the instructions that the loop gave, also those of which no instance is left."""
    (rows,) = (made.root / "stages").glob("01-repeat-*/rows.parquet")
    return sorted(pq.read_table(rows)["instruction"].to_pylist())


def test_no_pair_of_the_pool_and_the_seeds_is_alike(made: Run) -> None:
    accepted = pool(made)
    assert len(accepted) > 20
    texts = [*accepted, *(seed["instruction"] for seed in seeds())]
    worst = max(rouge(one, other) for one, other in itertools.combinations(texts, 2))
    assert 0.3 < worst < 0.7
    # What the gate refused is like something that was let in.
    refused = made.sql("SELECT instruction, round FROM rows WHERE reject_reason = 'not_novel'").to_pylist()
    assert refused
    for row in refused:
        assert max(rouge(row["instruction"], text) for text in texts) >= 0.7


def test_prompts_hold_six_seeds_and_two_of_the_pool_by_their_ids(made: Run) -> None:
    rows = made.sql(
        "SELECT DISTINCT r.round, r.proposed_from, c.request->'messages'->0->>'content' AS prompt "
        "FROM dataset r JOIN calls c ON c.key = r.propose_call"
    ).to_pylist()
    human = {seed["instruction"] for seed in seeds()}
    known = made.sql("SELECT parent_id AS row_id, instruction FROM dataset").to_pylist()
    machine = {row["row_id"]: row["instruction"] for row in known}
    assert {row["round"] for row in rows} >= {1, 2, 3}
    for row in rows:
        shown = re.findall(r"(?m)^\d+\. (.*)$", row["prompt"])
        assert len(shown) == len(set(shown)) == len(row["proposed_from"]) == 8
        by_people = [text for text in shown if text in human]
        assert len(by_people) == (8 if row["round"] == 1 else 6)
        for row_id, text in zip(row["proposed_from"], shown, strict=True):
            if row_id in machine:
                assert machine[row_id] == text
                assert text not in human
        assert "write tasks 9 to 16" in row["prompt"]
    # Whom the machine's demonstrations are of stands in the pool of an earlier round.
    rounds = {
        row["row_id"]: row["round"]
        for row in made.sql(
            "SELECT parent_id AS row_id, min(round) AS round FROM dataset GROUP BY 1"
        ).to_pylist()
    }
    used = [(row["round"], one) for row in rows for one in row["proposed_from"] if one in rounds]
    assert used
    assert all(rounds[one] < number for number, one in used)


def test_the_kind_of_task_picks_the_branch(made: Run) -> None:
    rows = made.sql(
        "SELECT instruction, is_classification, answers, inputs, output_first_call, input_first_call FROM dataset"
    ).to_pylist()
    assert {row["is_classification"] for row in rows} == {"yes", "no"}
    for row in rows:
        assert (row["is_classification"] == "yes") == row["instruction"].startswith("Classify")
        asked, other = ("output_first_call", "input_first_call")[
            :: 1 if row["is_classification"] == "yes" else -1
        ]
        assert row[asked]
        assert row[other] is None
    # In which order the properties stand that a branch asks for is seen by `instances` above.
    calls = made.sql("SELECT step, request->>'schema' AS schema FROM calls").to_pylist()
    assert all('"answers"' in row["schema"] for row in calls if row["step"] == "output_first")
    assert all('"inputs"' in row["schema"] for row in calls if row["step"] == "input_first")


def test_instances_that_say_nothing_or_contradict_each_other_are_dropped(made: Run) -> None:
    rows = made.sql(
        "SELECT instruction, input, output, reject_reason AS why FROM rows WHERE input IS NOT NULL"
    )
    of: dict[str, list[dict[str, Any]]] = {verb: [] for verb in VERBS}
    for row in rows.to_pylist():
        of[row["instruction"].split()[0]].append(row)
    assert {row["why"] for row in of["Describe"]} == {"input_is_output", "empty", "unfinished"}
    # All of the task's instances go, also the one whose input has one answer.
    assert {row["why"] for row in of["Compare"]} == {"contradiction"}
    assert len(of["Compare"]) % 3 == 0
    # No input at all is no contradiction; the same pair twice is one.
    assert {row["why"] for row in of["Explain"]} == {None, "duplicate"}
    assert {row["why"] for row in of["Classify"]} == {None}
    assert not of["Count"]
    failed = made.sql("SELECT error FROM failures").to_pylist()
    assert {row["error"] for row in failed} == {"HTTP400", "InvalidAnswer"}


def test_every_bad_proposal_has_its_reason(made: Run) -> None:
    rows = made.sql(
        "SELECT reject_reason AS why, list(DISTINCT instruction) AS texts FROM rejects GROUP BY 1"
    )
    texts = {row["why"]: row["texts"] for row in rows.to_pylist()}
    assert set(texts) >= WHY
    for bad, why in zip(
        BAD, ("length", "forbidden_word", "program", "punctuation", "not_ascii"), strict=False
    ):
        assert bad in texts[why]
    assert BAD[-1] in texts["not_novel"]
    assert "no_children" in texts  # who refused made no list
    assert not any("cut in the" in (text or "") for held in texts.values() for text in held)
    assert not any("cut in the" in text for text in pool(made))


def test_what_is_exported_is_alpaca(made: Run) -> None:
    lines = [
        json.loads(line)
        for file in (made.root / "dataset" / "data").glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) == made.sql("SELECT count(*) AS n FROM dataset").to_pylist()[0]["n"] > 0
    assert set(lines[0]) == {"row_id", "instruction", "input", "output", "is_classification"}


def test_a_round_that_finds_nothing_new_leaves_the_pool(tmp_path: Path) -> None:
    found = run(tmp_path / "run", same, "repeat.max=6", "repeat.patience=2")
    sql = "SELECT slice, value FROM metrics WHERE step = 'repeat' AND metric = 'accepted'"
    accepted = {row["slice"]: row["value"] for row in found.sql(sql).to_pylist()}
    assert accepted["round=1"] > 0
    assert accepted["round=2"] == accepted["round=3"] == 0
    assert "round=4" not in accepted


@pytest.mark.model
def test_the_embedded_model_grows_a_pool(tmp_path: Path) -> None:
    settings = ["conditions.rows=2", "repeat.max=2", "repeat.until=false", "propose.max_tokens=100"]
    settings += ["output_first.max_tokens=100", "input_first.max_tokens=100", "max_failed=1.0"]
    found = load("self_instruct", settings=settings).run(tmp_path / "run", quiet=True)
    calls = found.sql("SELECT step, count(*) AS n FROM calls GROUP BY 1").to_pylist()
    assert next(row["n"] for row in calls if row["step"].startswith("propose")) >= 2
    texts = [*pool(found), *(seed["instruction"] for seed in seeds())]
    assert all(rouge(one, other) < 0.7 for one, other in itertools.combinations(texts, 2))
    for row in found.sql("SELECT parent_id, instruction, output, is_classification FROM dataset").to_pylist():
        assert row["parent_id"]
        assert row["output"]
        assert row["is_classification"] in ("yes", "no")
