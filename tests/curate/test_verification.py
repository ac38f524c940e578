"""Rows are marked by what their answer, code or query comes to; unknown is null, and nothing is dropped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.verification import Verification, program
from synthray.errors import InputError
from synthray.recipe import load

DATA = os.environ.get("SYNTHRAY_DATA")
TEXTS = pa.schema({name: pa.string() for name in ("text", "tests", "setup", "reference")})


def verified(operator: Verification, **columns: list[Any]) -> list[tuple[Any, Any]]:
    size = len(next(iter(columns.values())))
    table = pa.table({"row_id": [f"r{n}" for n in range(size)], **columns})
    operator.check(table.schema)
    made = operator(table)
    assert made["row_id"].to_pylist() == table["row_id"].to_pylist()
    assert [made.schema.field(name).type for name in operator.adds()] == list(operator.adds().values())
    return list(zip(made["verified"].to_pylist(), made["verification_reason"].to_pylist(), strict=True))


def test_answers_are_compared_with_the_reference() -> None:
    operator = Verification(text="text", reference="reference")
    texts = ["so 18", "so 17", "none", None, " ", "18", "18"]
    references = ["#### 18", "18", "18", "18", "18", None, "no number"]
    assert verified(operator, text=texts, reference=references) == [
        (True, None),
        (False, "wrong"),
        (False, "no_answer"),
        (None, "missing"),
        (None, "missing"),
        (None, "missing"),
        (None, "reference"),
    ]


def test_the_reference_may_be_a_column_of_numbers_and_the_answer_is_kept() -> None:
    operator = Verification(text="text", reference="reference", tolerance=0.01)
    table = pa.table({"row_id": ["a", "b"], "text": ["$1,000.0", "3.14"], "reference": [1000.0, 3.1416]})
    made = operator(table)
    assert made["final_answer"].to_pylist() == ["1000", "3.14"]
    assert made["verified"].to_pylist() == [True, True]
    choice = Verification(text="text", reference="reference", answer="choice")
    assert verified(choice, text=["(B)", "I say (A)"], reference=["B", "b"]) == [
        (True, None),
        (False, "wrong"),
    ]


def test_code_is_run_with_its_tests_also_out_of_markdown() -> None:
    operator = Verification(text="text", kind="python", tests="tests", execute=True, seconds=1)
    good = "Here:\n```python\ndef f(x):\n    return x + 1\n```\nUse it:\n```\nf(\n```"
    texts = [good, "def f(x): return x", "while True: pass", "```sql\nSELECT 1\n```", None, good]
    found = verified(operator, text=texts, tests=["assert f(1) == 2"] * 5 + [None])
    assert found == [
        (True, None),
        (False, "tests"),
        (False, "timeout"),
        (False, "no_answer"),
        (None, "missing"),
        (None, "missing"),
    ]


def test_queries_are_compared_by_their_rows() -> None:
    setup = "CREATE TABLE t AS SELECT 1 AS a UNION ALL SELECT 2"
    reference = Verification(text="text", kind="sql", setup="setup", reference="reference", execute=True)
    texts = ["```sql\nSELECT 9\n```\nbetter:\n```sql\nSELECT sum(a) FROM t\n```", "SELECT a FROM t"]
    given = {"text": texts, "setup": [setup] * 2}
    assert verified(reference, **given, reference=["SELECT 3"] * 2) == [(True, None), (False, "wrong")]
    expected = Verification(text="text", kind="sql", setup="setup", expected="expected", execute=True)
    assert verified(expected, **given, expected=["[[3]]", "not JSON"]) == [(True, None), (None, "reference")]
    lists = pa.array([[[3]], [[1], [2]]], pa.list_(pa.list_(pa.int64())))
    assert verified(expected, **given, expected=lists) == [(True, None), (True, None)]


def test_nothing_is_executed_unless_asked_for() -> None:
    with pytest.raises(InputError, match=r"runs what stands in column 'text'.*execute: true"):
        Verification(text="text", kind="python", tests="tests").check(TEXTS)
    with pytest.raises(InputError, match="execute: true"):
        Verification(text="text", kind="sql", reference="reference").check(TEXTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "kind: answer needs reference"),
        ({"kind": "python"}, "kind: python needs tests"),
        ({"kind": "sql"}, "either reference"),
        ({"kind": "sql", "reference": "reference", "expected": "setup"}, "either reference"),
        (
            {"reference": "reference", "tests": "tests"},
            "kind: answer has no setting 'tests'; it takes text, refer",
        ),
        ({"reference": "reference", "execute": True}, "has no setting 'execute'"),
        ({"kind": "python", "tests": "number", "execute": True}, "'number' must hold text, but is int64"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Verification(text="text", **settings).check(TEXTS.append(pa.field("number", pa.int64())))


def test_the_fenced_blocks_of_the_language_are_the_program() -> None:
    assert program("```py\na\n```\n```text\nb\n```\n```python\nc\n```", "python") == "a\n\nc\n"
    assert program("```\na\n```\n```SQL\nb\n```", "sql") == "b\n"
    assert program("```\na\n```\n```\nb\n```", "sql") == "b\n"
    assert program("```text\na\n```", "python") == ""
    assert program("a = '```'", "python") == "a = '```'"


@pytest.mark.skipif(not DATA, reason="SYNTHRAY_DATA names no folder of real data")
def test_the_canonical_solutions_of_humaneval_pass_and_empty_ones_do_not() -> None:
    assert DATA
    rows = pq.read_table(Path(DATA) / "humaneval.parquet").to_pylist()
    tests = [f"{row['test']}\ncheck({row['entry_point']})" for row in rows]
    operator = Verification(text="text", kind="python", tests="tests", execute=True)
    found = verified(operator, text=[r["prompt"] + r["canonical_solution"] for r in rows], tests=tests)
    assert [row["task_id"] for row, one in zip(rows, found, strict=True) if one != (True, None)] == []
    stubs = verified(operator, text=[row["prompt"] + "    return None\n" for row in rows], tests=tests)
    assert not [one for one in stubs if one[0] is not False]


RECIPE = """
name: sampled
seed: 3
tables: {problems: problems.jsonl}
model: {language: fake, answers: ["so #### 4", "it is 5", "I do not know", "2 + 2 = 4"]}
steps:
  - source.table: {table: problems}
  - generate.prompt: {template: "{{ question }}", writes: solution, n: 6}
  - curate.verification: {text: solution, reference: answer}
  - where: verified
    reason: not_verified
  - where: row_number() OVER (PARTITION BY parent_id ORDER BY chance(row_id, 'quota')) <= 2
    reason: quota
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rejection_sampling_keeps_what_is_right_up_to_a_quota(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    problems = [{"question": "2 + 2?", "answer": "4"}, {"question": "7 - 3?", "answer": "4"}]
    write("".join(json.dumps(problem) + "\n" for problem in problems), "problems.jsonl")
    run = load(write(RECIPE)).run(tmp_path / "run", quiet=True)
    rows = run.sql("SELECT * FROM dataset").to_pylist()
    rejected = run.sql(
        "SELECT reject_reason, count(*) AS n FROM rows WHERE reject_reason IS NOT NULL GROUP BY ALL"
    ).to_pylist()
    assert {row["final_answer"] for row in rows} == {"4"}
    assert all(sum(row["parent_id"] == one["parent_id"] for row in rows) <= 2 for one in rows)
    assert {row["reject_reason"] for row in rejected} == {"not_verified", "quota"}
    assert sum(row["n"] for row in rejected) + len(rows) == 12


CODE = """
name: coded
seed: 3
blocks: {blocks}
steps:
  - source.table: {{path: code.jsonl}}
  - curate.verification: {{text: code, kind: python, tests: tests, execute: true, seconds: 1}}
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("blocks", [1, 7])
def test_code_is_run_in_workers_and_no_program_stops_the_run(
    write: Callable[..., Path], tmp_path: Path, blocks: int
) -> None:
    bad = [
        "import os\nwhile True: os.fork()",
        "import os\nos._exit(0)",
        "open('/etc/passwd')",
        "x = 'x' * 10**12",
    ]
    codes = [*bad, *(f"def f(x): return x + {n}" for n in range(16))]
    write(
        "".join(json.dumps({"code": code, "tests": "assert f(1) == 2"}) + "\n" for code in codes),
        "code.jsonl",
    )
    pipeline = load(write(CODE.format(blocks=blocks)))
    run = pipeline.run(tmp_path / "run", quiet=True)
    rows = run.sql("SELECT code, verified, verification_reason FROM dataset").to_pylist()
    found = {row["code"]: (row["verified"], row["verification_reason"]) for row in rows}
    wanted = ["processes", "exit", "error", "memory", *["tests", None], *["tests"] * 14]
    assert found == {code: (reason is None, reason) for code, reason in zip(codes, wanted, strict=True)}
