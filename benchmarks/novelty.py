"""Self-Instruct's novelty gate on real instructions: what it takes beside plain loops, and what it keeps.

SYNTHRAY_DATA=DIR uv run python benchmarks/novelty.py      # about 2 minutes on two cores
18,669 instructions of Alpaca are taken in their order against the 175 seeds of Self-Instruct.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from real import read

from synthray import cluster
from synthray.curate.novelty import Novelty
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.table import Table

THRESHOLD = 0.7
LOOPED = 3_000
PLAIN = 500


def main() -> None:
    seeds = read("self_instruct_seeds_and_outputs", kind="seed_task")["instruction"].to_pylist()
    texts = read("alpaca_sample_claude_filter")["instruction"].to_pylist()
    cluster.start()
    cores = cluster.cores()
    gate(texts[:LOOPED], seeds)  # what starts Ray's workers is no part of the gate
    kept, seconds = gate(texts, seeds)
    rate = said(f"gate, {len(texts)} rows, {cores} cores", seconds, kept, len(seeds))
    alone = ceiling(texts)
    print(f"  cdist alone {alone:.1f} M pairs/s on a core: the gate is at {rate / alone / cores:.0%}")
    for name, count, share in (("with rapidfuzz", LOOPED, fuzzed), ("in plain Python", PLAIN, plain)):
        kept, seconds = gate(texts[:count], seeds)
        said(f"gate, {count} rows", seconds, kept, len(seeds))
        began = time.perf_counter()
        looped = loop(texts[:count], seeds, share)
        said(f"loop {name}, {count} rows", time.perf_counter() - began, looped, len(seeds))
        assert looped == kept, "the gate keeps what the loop keeps"


def gate(texts: list[str], seeds: list[str]) -> tuple[list[bool], float]:
    """Return which texts are novel, and the seconds that the step took in a run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = [f"{number:06}" for number in range(len(texts))]
        pq.write_table(pa.table({"row_id": ids, "text": texts}), folder / "rows.parquet")
        pq.write_table(pa.table({"text": seeds}), folder / "seeds.parquet")
        tables = {name: Table.find(f"{name}.parquet", folder) for name in ("rows", "seeds")}
        steps = [Source(table="given_rows"), Novelty("text", threshold=THRESHOLD, against=["seeds"])]
        run = Pipeline(steps, tables={"given_rows": tables["rows"], "seeds": tables["seeds"]}).run(
            folder / "run", quiet=True
        )
        marks = run.sql("SELECT novel FROM dataset ORDER BY row_id")["novel"].to_pylist()
        return marks, run.stages()[-1].seconds


def loop(texts: list[str], seeds: list[str], share: Callable[[Any, Any], float]) -> list[bool]:
    """Take one after another, each compared with all that are kept, as Self-Instruct's script does."""
    pool = [words(text) for text in seeds]
    novel = []
    for text in texts:
        one = words(text)
        novel.append(max(share(one, other) for other in pool) < THRESHOLD)
        if novel[-1]:
            pool.append(one)
    return novel


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def fuzzed(one: list[str], other: list[str]) -> float:
    size = len(one) + len(other)
    return 2 * LCSseq.similarity(one, other) / size if size else 0.0


def plain(one: list[str], other: list[str]) -> float:
    """ROUGE-L with a table of lengths, as rouge_score computes it."""
    line = [0] * (len(other) + 1)
    for word in one:
        before = line
        line = [0]
        for place, beside in enumerate(other):
            line.append(before[place] + 1 if word == beside else max(before[place + 1], line[place]))
    return 2 * line[-1] / (len(one) + len(other)) if one or other else 0.0


def ceiling(texts: list[str]) -> float:
    """Return how many million pairs a second rapidfuzz compares on a core where nothing else is done."""
    number: dict[str, int] = {}
    spelled = [
        "".join(chr(number.setdefault(word, len(number) + 1)) for word in words(text)) for text in texts
    ]
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        cdist(spelled[:512], spelled, scorer=LCSseq.similarity, dtype="int32", workers=1)
        best = max(best, 512 * len(spelled) / (time.perf_counter() - began) / 1e6)
    return best


def said(name: str, seconds: float, novel: list[bool], older: int) -> float:
    """Print what was done; return how many million pairs a second were compared."""
    pairs, kept = 0, older
    for one in novel:
        pairs += kept
        kept += one
    rate = pairs / seconds / 1e6
    print(f"{name}: {seconds:.2f} s, {pairs:,} pairs, {rate:.2f} M/s, {sum(novel)} kept", flush=True)
    return rate


if __name__ == "__main__":
    main()
