"""Verification and voting on real data: agreement with known verdicts, what a vote gains, programs a second.

    SYNTHRAY_DATA=DIR uv run python benchmarks/verification.py

gsm8k_model_solutions knows of 5,276 solutions whether they are right; humaneval has 164 solutions that are,
of which a stub that returns None is the opposite. The ceiling of the programs a second is that of the same
sandbox on an empty program.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthray.curate.verification import Verification
from synthray.curate.vote import Vote
from synthray.final_answer import final
from synthray.sandbox import Sandbox

DATA = Path(os.environ["SYNTHRAY_DATA"])


def rate(name: str, verified: list[Any], truth: list[bool]) -> None:
    right = sum(one is True and other for one, other in zip(verified, truth, strict=True))
    precision = right / max(1, verified.count(True))
    print(
        f"{name:44} {len(truth)} rows, {sum(truth)} right; precision {precision:.4f} "
        f"recall {right / max(1, sum(truth)):.4f} unknown {verified.count(None)}"
    )


def answers() -> None:
    rows = pq.read_table(DATA / "gsm8k_model_solutions.parquet").to_pylist()
    truth = [row["is_correct"] for row in rows]
    for name, mark in (("answers after a mark", "\nA: "), ("answers by the last number", "\n")):
        texts = [row["solution"].replace("\nA: ", mark) for row in rows]
        references = [row["reference"].replace("\nA: ", "\n#### ") for row in rows]
        table = pa.table({"row_id": list(map(str, range(len(rows)))), "text": texts, "reference": references})
        start = time.perf_counter()
        made = Verification(text="text", reference="reference")(table)["verified"].to_pylist()
        rate(name, made, truth)
        print(f"{'':44} {len(rows) / (time.perf_counter() - start):,.0f} rows/s")
    problems: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        problems.setdefault(row["problem"], []).append(row)
    for model in sorted({row["model"] for row in rows}):
        own = [row["is_correct"] for row in rows if row["model"] == model]
        print(f"{model:44} {sum(own) / len(own):.4f} right")
    print(f"{'mean of the four':44} {sum(truth) / len(truth):.4f} right")
    table = pa.table(
        {
            "row_id": list(map(str, problems)),
            "samples": [[r["solution"] for r in own] for own in problems.values()],
        }
    )
    wanted = [final(own[0]["reference"], "numeric") for own in problems.values()]
    for least in (0.0, 0.5, 0.75, 1.0):
        elected = Vote(samples="samples", least=least)(table)["vote_answer"].to_pylist()
        given = [(one, other) for one, other in zip(elected, wanted, strict=True) if one is not None]
        right = sum(one == other for one, other in given)
        print(
            f"{f'vote of four, least {least}':44} {right / len(given):.4f} right of {len(given)} with a vote"
        )
    some = [any(row["is_correct"] for row in own) for own in problems.values()]
    print(f"{'any of the four (the ceiling of a vote)':44} {sum(some) / len(some):.4f} right")


def programs() -> None:
    rows = pq.read_table(DATA / "humaneval.parquet").to_pylist()
    tests = [f"{row['test']}\ncheck({row['entry_point']})" for row in rows]
    texts = [row["prompt"] + row["canonical_solution"] for row in rows]
    texts += [row["prompt"] + "    return None\n" for row in rows]
    operator = Verification(text="text", kind="python", tests="tests", execute=True)
    table = pa.table({"row_id": list(map(str, range(len(texts)))), "text": texts, "tests": tests * 2})
    start = time.perf_counter()
    made = operator(table)["verified"].to_pylist()
    seconds = time.perf_counter() - start
    rate("humaneval, solutions and stubs", made, [True] * len(rows) + [False] * len(rows))
    with Sandbox() as box:
        start = time.perf_counter()
        for _ in range(100):
            box.python("", "")
        empty = 100 / (time.perf_counter() - start)
    print(f"{'':44} {len(texts) / seconds:.0f} programs/s in one sandbox; of empty ones {empty:.0f}")


if __name__ == "__main__":
    answers()
    programs()
