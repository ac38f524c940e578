"""Rejection sampling: what is wrong goes with its reason, and hard problems get more of what is right."""

from __future__ import annotations

import json
import math
import re
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray.cloudpickle

from synthray import cookbook
from synthray.model.fake import Fake
from synthray.recipe import load
from synthray.table import Table

if TYPE_CHECKING:
    import synthray
    from synthray.model.language import Request

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

PROBLEMS = {"easy": "11", "half": "20", "hard": "7", "never": "5", "mute": "3", "alike": "6"}


def solved(request: Request) -> str:
    """Solve problems at rates of their own; no two right answers calculate alike, but those of `alike`."""
    name = re.search(r"Problem: (\w+)", request.messages[-1]["content"])[1]  # type: ignore[index]
    chance, odd = zlib.crc32(f"1 {request.seed}".encode()) / 2**32, f"{request.seed} + 0 = {request.seed}."
    right = f"{odd} Answer: {PROBLEMS[name]}"
    wrong = f"{odd} Answer: 999"
    return {
        "easy": right,
        "half": right if chance < 0.5 else wrong,
        "hard": right if chance < 0.2 else wrong,
        "never": wrong,
        "mute": "I cannot help with that.",
        "alike": f"It is {'certainly ' * (request.seed % 5)}2 * 3 = 6. Answer: 6",
    }[name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> synthray.Run:
    folder = tmp_path_factory.mktemp("rejection_sampling")
    return started(folder).run(folder / "run", quiet=True)


def started(folder: Path, **changes: Any) -> synthray.Pipeline:
    problems = folder / "problems.jsonl"
    lines = (
        {"problem": name, "question": f"{name} problem?", "answer": answer}
        for name, answer in PROBLEMS.items()
    )
    problems.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    tables = {"problems": Table.find(str(problems), folder)}
    return replace(load("rejection_sampling"), model=Fake(script=solved), tables=tables, **changes)


def samples(run: synthray.Run) -> dict[str, list[dict[str, Any]]]:
    """Return all samples that were asked for, by problem."""
    rows = run.sql("SELECT * FROM rows WHERE solution IS NOT NULL ORDER BY row_id").to_pylist()
    return {name: [row for row in rows if row["problem"] == name] for name in PROBLEMS}


def test_only_right_answers_are_kept_and_the_others_say_why(run: synthray.Run) -> None:
    kept = run.sql("SELECT problem, solution, verified FROM dataset").to_pylist()
    assert kept
    for row in kept:
        assert row["verified"]
        assert row["solution"].endswith(f"Answer: {PROBLEMS[row['problem']]}")
    for name, reason in (("never", "wrong_answer"), ("mute", "no_answer")):
        assert {row["reject_reason"] for row in samples(run)[name]} == {reason}
    assert {row["reject_reason"] for row in samples(run)["half"] if not row["verified"]} == {"wrong_answer"}


def test_the_quota_is_what_failures_ask_for(run: synthray.Run) -> None:
    quotas = {
        row["problem"]: (row["quota"], row["pass_rate"])
        for row in run.sql(
            "SELECT DISTINCT problem, quota, pass_rate FROM rows WHERE quota IS NOT NULL"
        ).to_pylist()
    }
    for name, held in samples(run).items():
        right = sum(bool(row["verified"]) for row in held)
        assert quotas[name] == (max(1, math.ceil(4 * (len(held) - right) / len(held))), right / len(held))
    assert quotas["easy"] == (1, 1.0)
    assert quotas["never"] == (4, 0.0)
    assert quotas["easy"][0] < quotas["half"][0] < quotas["hard"][0]


def test_hard_problems_have_no_fewer_solutions_than_easy_ones(run: synthray.Run) -> None:
    kept = {name: sum(row["reject_reason"] is None for row in held) for name, held in samples(run).items()}
    for name, held in samples(run).items():
        right = {row["calculation"] for row in held if row["verified"]}
        quota = held[0]["quota"]
        assert kept[name] == min(len(right), quota), name
    assert kept["easy"] == 1
    assert kept["hard"] > kept["easy"]
    assert kept["half"] > kept["easy"]
    assert {row["reject_reason"] for row in samples(run)["easy"]} == {None, "over_quota"}


def test_later_rounds_ask_where_solutions_are_missing(run: synthray.Run) -> None:
    asked = {
        name: [sum(row["round"] == number for row in held) for number in (1, 2, 3)]
        for name, held in samples(run).items()
    }
    assert asked["easy"] == [4, 0, 0], "it has what it needs"
    assert asked["alike"] == [4, 0, 0]
    assert asked["never"] == asked["mute"] == [4, 6, 6], "at most 6 more in a round"
    for name, held in samples(run).items():
        first = [row for row in held if row["round"] == 1]
        right = sum(row["verified"] for row in first)
        missing = max(1, math.ceil(4 * (4 - right) / 4)) - right
        assert asked[name][1] == max(0, min(6, math.ceil(missing * 6 / (right + 1)))), name


def test_solutions_that_calculate_alike_are_one(run: synthray.Run) -> None:
    held = samples(run)["alike"]
    assert len({row["solution"] for row in held}) > 1
    assert sorted(str(row["reject_reason"]) for row in held) == ["None", *["same_calculation"] * 3]
    kept = next(row for row in held if row["reject_reason"] is None)
    assert len(kept["solution"]) == min(len(row["solution"]) for row in held)


def test_what_is_kept_becomes_conversations(run: synthray.Run) -> None:
    lines = [
        json.loads(line)
        for path in sorted(Path(run.root, "dataset").rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == run.sql("SELECT count(*) AS n FROM dataset").to_pylist()[0]["n"]
    for line in lines:
        user, assistant = line["messages"]
        assert user["content"] == f"{line['problem']} problem?"
        assert assistant["content"].endswith(f"Answer: {PROBLEMS[line['problem']]}")


def test_any_number_of_blocks_gives_the_same_solutions(run: synthray.Run, tmp_path: Path) -> None:
    other = started(tmp_path, blocks=5).run(tmp_path / "run", quiet=True)
    sql = "SELECT row_id, problem, solution FROM dataset ORDER BY row_id"
    assert other.sql(sql).equals(run.sql(sql))


# The variants that stand in the file as comments.


def variant(name: str, folder: Path) -> Path:
    """Return the recipe with the steps of a variant in place of its own, as a user would write it."""
    source = cookbook.find("rejection_sampling")
    text = source.read_text()
    own = text.index("\nsteps:\n")
    block = text[text.index(f"# Variant `{name}`") :]
    lines = block[block.index("# steps:") :].splitlines()
    steps = [
        line.removeprefix("# ")
        for line in lines[
            : next(
                (
                    i
                    for i, s in enumerate(lines)
                    if s == "#" and i + 1 < len(lines) and lines[i + 1].startswith("# Variant")
                ),
                len(lines),
            )
        ]
    ]
    steps = ["" if line == "#" else line for line in steps]
    (folder / "data").symlink_to(source.parent / "data")
    path = folder / "variant.yaml"
    path.write_text(text[:own] + "\n" + "\n".join(steps) + "\n")
    return path


def voted(request: Request) -> str:
    if "plums" in request.messages[-1]["content"]:
        return f"Answer: {11 if request.seed % 10 < 8 else 12}"
    return f"Answer: {request.seed % 97}"


def test_the_variant_that_votes_keeps_what_most_samples_say(tmp_path: Path) -> None:
    pipeline = replace(load(variant("vote", tmp_path)), model=Fake(script=voted))
    run = pipeline.run(tmp_path / "run", quiet=True)
    assert run.sql("SELECT problem, vote_answer FROM dataset").to_pylist() == [
        {"problem": "plums", "vote_answer": "11"}
    ]
    assert run.sql("SELECT DISTINCT reason FROM reasons").to_pylist() == [{"reason": "no_majority"}]
    assert run.sql("SELECT count(*) AS n FROM calls").to_pylist() == [{"n": 24 * 8}]


def coded(request: Request) -> str:
    if "clamp" in request.messages[-1]["content"]:
        body = "max(low, min(value, high))" if request.seed % 2 else "value"
        return f"```python\ndef clamp(value, low, high):\n    return {body}\n```"
    return "while True:\n    pass" if "is_leap" in request.messages[-1]["content"] else "I do not know."


def test_the_variant_with_code_runs_the_tests(tmp_path: Path) -> None:
    path = variant("code", tmp_path)
    path.write_text(path.read_text().replace("execute: true", "execute: true, seconds: 1"))
    run = replace(load(path), model=Fake(script=coded)).run(tmp_path / "run", quiet=True)
    assert [row["problem"] for row in run.sql("SELECT problem FROM dataset").to_pylist()] == ["clamp"]
    sql = "SELECT problem, verification_reason, reject_reason FROM rows WHERE parent_id IS NOT NULL"
    why = {
        (row["problem"], row["verification_reason"], row["reject_reason"]) for row in run.sql(sql).to_pylist()
    }
    assert ("is_leap", "timeout", "tests_failed") in why
    assert ("clamp", "tests", "tests_failed") in why
    assert {reason for _, found, reason in why if found} == {"tests_failed"}


@pytest.mark.model
def test_it_runs_on_a_real_model(tmp_path: Path) -> None:
    settings = ["prompt.max_tokens=32", "repeat.max=1", "table.rows=3"]
    run = load("rejection_sampling", settings=settings).run(tmp_path / "run", quiet=True)
    rows = run.sql("SELECT r.*, c.response FROM rows r JOIN calls c ON c.key = r.prompt_call").to_pylist()
    assert len(rows) == 12
    for row in rows:
        assert row["solution"] == row["response"].strip()
        assert row["reject_reason"] or row["verified"]
    assert {row["quota"] for row in rows} <= {1, 2, 3, 4}
