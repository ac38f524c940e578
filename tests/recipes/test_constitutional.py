"""Constitutional AI: critiques by a drawn principle, revisions of what was criticised, and pairs with parents."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray.cloudpickle

from synthray.model.fake import Fake
from synthray.query import Query
from synthray.recipe import load

if TYPE_CHECKING:
    import synthray
    from synthray.model.language import Request

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

GUILT, COPY, LEAD, DRIVE, DOUBT, MUTE = (
    "feel guilty",
    "stay awake",
    "tasty",
    "glasses of wine",
    "joke",
    "earns",
)
REVISED = "It is better, since it keeps to"


def answered(request: Request) -> str:
    """Draft, criticise, revise and judge; what is asked about decides which branch an answer takes."""
    prompt = request.messages[0]["content"]
    if "In one or two sentences" in prompt:
        return f"It does not keep to <{found('Principle: (.*)', prompt)}>."
    if "Write the answer again" in prompt:
        return revised(prompt)
    return judged(prompt) if request.schema else f"Draft about {prompt}"


def revised(prompt: str) -> str:
    if GUILT in prompt:
        return "No."
    if COPY in prompt:
        return found("Answer: (.*)", prompt)
    lead = "Sure, here is the answer: " if LEAD in prompt else ""
    return f"{lead}{REVISED} <{found('not keep to <(.*)>', prompt)}>"


def judged(prompt: str) -> str:
    if MUTE in prompt:
        return "I would rather not say."
    revision_first = prompt.index(REVISED) < prompt.index("Draft about")
    wants_first = DOUBT in prompt or revision_first != (DRIVE in prompt)
    return json.dumps({"better": "first" if wants_first else "second"})


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> synthray.Run:
    folder = tmp_path_factory.mktemp("constitutional")
    pipeline = replace(load("constitutional"), model=Fake(script=answered), max_failed=0.1)
    return pipeline.run(folder / "run", quiet=True)


def pairs(run: synthray.Run) -> list[dict[str, Any]]:
    return run.sql("SELECT * FROM dataset ORDER BY row_id").to_pylist()


def used(run: synthray.Run) -> dict[str, list[str]]:
    """Return the principles that were drawn for each request, in their order."""
    rows = run.sql("SELECT request, used FROM rows WHERE used IS NOT NULL").to_pylist()
    return {row["request"]: row["used"] for row in rows}


def asked(run: synthray.Run, step: str) -> dict[str, str]:
    """Return what a step asked, by request."""
    sql = f"SELECT request->'messages'->0->>'content' AS prompt FROM calls WHERE step = '{step}'"
    prompts = [row["prompt"] for row in run.sql(sql).to_pylist()]
    return {found("Request: (.*)", prompt): prompt for prompt in prompts}


def ended(run: synthray.Run, about: str) -> str:
    sql = f"SELECT reject_reason AS r FROM rows WHERE request LIKE '%{about}%'"
    return ",".join(str(row["r"]) for row in run.sql(sql).to_pylist())


def test_each_round_draws_a_principle_that_was_not_used_yet(run: synthray.Run) -> None:
    assert len(used(run)) == 20
    assert all(len(drawn) == len(set(drawn)) == 2 for drawn in used(run).values())
    assert len({drawn[0] for drawn in used(run).values()}) > 3
    assert len({one for drawn in used(run).values() for one in drawn}) > 6


def test_a_critique_sees_the_answer_and_the_principle_and_a_revision_the_critique_too(
    run: synthray.Run,
) -> None:
    for number in (1, 2):
        critiques, revisions = asked(run, f"criticising@{number}"), asked(run, f"revising@{number}")
        assert len(critiques) == len(revisions) == 20
        for request, drawn in used(run).items():
            if LEAD in request:
                continue
            answer = f"Draft about {request}"
            if number == 2 and not any(one in request for one in (GUILT, COPY)):
                answer = f"{REVISED} <{drawn[0]}>"
            for prompt in (critiques[request], revisions[request]):
                assert f"\nAnswer: {answer}\n" in prompt
                assert f"\nPrinciple: {drawn[number - 1]}\n" in prompt
            assert f"\nCriticism: It does not keep to <{drawn[number - 1]}>.\n" in revisions[request]


def test_the_chosen_is_the_last_revision_and_the_rejected_the_draft(run: synthray.Run) -> None:
    assert len(pairs(run)) == 20 - 5
    for row in pairs(run):
        drawn = used(run)[row["request"]]
        assert row["principle"] == drawn[1]
        assert row["chosen"] == f"{REVISED} <{drawn[1]}>"
        assert row["rejected"] == f"Draft about {row['request']}"


def test_a_pair_names_its_parents(run: synthray.Run) -> None:
    answers: dict[str, dict[str, Any]] = {}
    for record in run.stages():
        with Query({"held": run.table(record)}) as query:
            if "response" in query.schema("SELECT * FROM held").names:
                answers |= {row["row_id"]: row for row in query.arrow("SELECT * FROM held").to_pylist()}
    for row in pairs(run):
        revision, draft = (answers[one] for one in row["parents"])
        assert (revision["response"], draft["response"]) == (row["chosen"], row["rejected"])
        assert revision["parent_id"] == draft["parent_id"] is not None
        assert revision["request"] == row["request"]


def test_what_makes_no_pair_says_why(run: synthray.Run) -> None:
    assert ended(run, GUILT) == "unchanged", "a revision that says nothing leaves the draft"
    assert ended(run, COPY) == "unchanged"
    assert ended(run, LEAD) == "lead_in"
    assert ended(run, DRIVE) == "draft_preferred"
    assert ended(run, MUTE) == "failed:InvalidAnswer"


def test_a_verdict_that_changes_with_the_order_counts_half(run: synthray.Run) -> None:
    margins = {row["request"]: row["margin"] for row in pairs(run)}
    assert {margin for request, margin in margins.items() if DOUBT in request} == {0.5}
    assert {margin for request, margin in margins.items() if DOUBT not in request} == {1.0}


def test_whether_length_is_preferred_is_measured(run: synthray.Run) -> None:
    more = [len(row["chosen"]) - len(row["rejected"]) for row in pairs(run)]
    uneven = [one for one in more if one]
    sql = "SELECT metric, value FROM metrics WHERE step = 'pair'"
    measured = {row["metric"]: row["value"] for row in run.sql(sql).to_pylist()}
    assert measured["chosen_longer"] == pytest.approx(sum(one > 0 for one in uneven) / len(uneven))
    assert measured["length_difference"] == pytest.approx(sum(more) / len(more))


def test_pairs_and_revisions_are_written_for_training(run: synthray.Run) -> None:
    held = {row["row_id"]: row for row in pairs(run)}
    for folder in ("data", "tuning/data"):
        paths = Path(run.root, "dataset", folder).glob("*.jsonl")
        lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
        assert {line["row_id"] for line in lines} == set(held)
        for line in lines:
            row = held[line["row_id"]]
            user, chosen, rejected = (
                {"role": role, "content": row[name]}
                for role, name in (("user", "request"), ("assistant", "chosen"), ("assistant", "rejected"))
            )
            if folder == "data":
                assert (line["prompt"], line["chosen"], line["rejected"]) == ([user], [chosen], [rejected])
            else:
                assert line["messages"] == [user, chosen]


@pytest.mark.model
def test_it_runs_on_a_real_model(tmp_path: Path) -> None:
    settings = [
        *("table.rows=4", "repeat.max=1", "drafting.max_tokens=48"),
        *("criticising.max_tokens=24", "revising.max_tokens=32"),
    ]
    pipeline = replace(load("constitutional", settings=settings), max_failed=1.0)
    run = pipeline.run(tmp_path / "run", quiet=True)
    rounds = {name: len(asked(run, f"{name}@1")) for name in ("criticising", "revising")}
    (whole,) = run.sql("SELECT rows_kept AS n FROM steps WHERE step = 'where_no_draft'")["n"].to_pylist()
    assert rounds == {"criticising": whole, "revising": whole}
    assert whole, "a draft has a whole sentence"
    assert {len(drawn) for drawn in used(run).values()} == {1}
    for row in pairs(run):
        assert row["chosen"].strip()
        assert row["rejected"].strip()
        assert len(row["parents"]) == 2
