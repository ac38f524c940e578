"""Diversity: a million texts beside a plain scan, the same for any blocks, and what the default gate stops.

    SYNTHRAY_DATA=DIR uv run python benchmarks/diversity.py           # all, about 5 minutes on two cores
    SYNTHRAY_DATA=DIR uv run python benchmarks/diversity.py size --rows 200000

`size` measures FewGen's texts, each some times with a tag of its own, so that no two rows are equal but those
that were. `gate` plants faults in sound sets: all rows drawn from 10 texts, the same with a number at the end
of each, and a phrase before a fifth of the texts.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from menu import choose
from peak import Peak

import synthray
from synthray import cluster
from synthray.evaluate.diversity import Diversity
from synthray.gate import decide
from synthray.metric import METRICS
from synthray.query import Query
from synthray.source.table import Table as Source

AT_ONCE = 250_000
OPERATOR = Diversity(text="text", label="label", attributes=["tag"])

SETS = {
    "snips": "SELECT text FROM held",
    "banking77": "SELECT text FROM held",
    "hwu64": "SELECT text FROM held",
    "sms_spam": "SELECT text FROM held",
    "fewgen_sst2_mnli_5seeds": "SELECT text1 AS text FROM held WHERE task = 'SST-2'",
    "gpt_augmented_sentiment": "SELECT text FROM held WHERE split = 'llm_augmented'",
    "noisy_agnews": "SELECT text FROM held",
    "alpaca_sample_claude_filter": "SELECT output AS text FROM held",
    "medical_abstracts_test": "SELECT text FROM held",
    "gsm8k": "SELECT question AS text FROM held",
    "gsm8k_model_solutions": "SELECT solution AS text FROM held",
    # Known to be full of phrases: CTRL's "is a must see for anyone", ChatGPT's "as an AI language model".
    "supergen_sst2_qnli": "SELECT text1 AS text FROM held WHERE task = 'SST-2' AND split <> 'real_test'",
    "halueval_general": "SELECT response AS text FROM held",
}
LEAD = "Sure! Here is a short text about the topic: "


def held(name: str, sql: str) -> pa.Table:
    if not os.environ.get("SYNTHRAY_DATA"):
        sys.exit("SYNTHRAY_DATA names no folder of real data")
    table = synthray.Table.find(f"{name}.parquet", Path(os.environ["SYNTHRAY_DATA"]))
    with Query({"held": table}) as query:
        return query.arrow(f"SELECT text FROM ({sql}) WHERE text <> '' ORDER BY ALL")


# Size.


def written(folder: Path, rows: int) -> None:
    sql = "SELECT text1 AS text FROM held UNION ALL SELECT text2 FROM held"
    texts = held("fewgen_sst2_mnli_5seeds", sql)["text"].to_pylist()
    folder.mkdir()
    for first in range(0, rows, AT_ONCE):
        places = range(first, min(first + AT_ONCE, rows))
        tags = [place // len(texts) for place in places]
        table = pa.table(
            {
                "text": [
                    texts[one % len(texts)] + f" #{tag}" * (tag > 0)
                    for one, tag in zip(places, tags, strict=True)
                ],
                "label": [f"label{place % 5}" for place in places],
                "tag": tags,
            }
        )
        pq.write_table(table, folder / f"part-{first:09}.parquet", compression="zstd", row_group_size=50_000)


def size(arguments: argparse.Namespace) -> None:
    """Make the rows here, and measure them in a process that has done nothing else."""
    with tempfile.TemporaryDirectory() as name:
        written(Path(name) / "rows", arguments.rows)
        subprocess.run([sys.executable, __file__, "driver", "--folder", name], check=True)


def pipeline(table: synthray.Table, *more: Diversity, blocks: int | None = None) -> synthray.Pipeline:
    return synthray.Pipeline([Source(table="made"), *more], tables={"made": table}, blocks=blocks)


def driver(arguments: argparse.Namespace) -> None:
    table = synthray.Table.find("rows", arguments.folder)
    cluster.start()
    with Peak() as peak:
        run = pipeline(table, OPERATOR).run(arguments.folder / "run", quiet=True)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    source, stage = run.stages()
    rows = stage.steps[0].rows_kept
    scans = [scanned(run.table(source)) for _ in range(3)]
    characters = scans[0][1]
    print(
        f"size: {rows} texts, {characters / 1e6:.0f} million characters: stage {stage.seconds:.1f} s "
        f"({rows / stage.seconds:.0f} texts/s, {characters / 1e6 / stage.seconds:.1f} million characters/s); "
        f"driver {resident:.0f} MiB, largest other process {peak.workers / 2**20:.0f} MiB; a scan that sums "
        f"the texts' lengths {min(seconds for seconds, _ in scans):.2f} s"
    )
    found = run.sql("SELECT metric, value, n FROM metrics WHERE slice IS NULL ORDER BY metric").to_pylist()
    print("size: " + ", ".join(f"{row['metric']} {row['value']:.4g} (n {row['n']})" for row in found))


def scanned(table: synthray.Table) -> tuple[float, int]:
    started = time.perf_counter()
    with Query({"rows": table}) as query:
        characters = int(query.value("SELECT sum(length(text)) FROM rows"))
    return time.perf_counter() - started, characters


# The same.


def same(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        written(Path(name) / "rows", arguments.few)
        table = synthray.Table.find("rows", Path(name))
        found = []
        for blocks in (1, 7, 64):
            run = pipeline(table, OPERATOR, blocks=blocks).run(Path(name) / f"run-{blocks}", quiet=True)
            held = run.sql("SELECT metric, slice, value FROM metrics").to_pylist()
            found.append({(row["metric"], row["slice"]): row["value"] for row in held})
        apart = max(abs(one[key] - found[0][key]) for one in found for key in found[0])
        print(
            f"same: {arguments.few} texts in 1, 7, 64 blocks: {len(found[0])} values, "
            f"at most {apart:.1e} apart"
        )


# The gate.


def refused(texts: Sequence[str]) -> tuple[str, str]:
    """Return what the default conditions refuse, and the values that they ask for."""
    operator = Diversity(text="text")
    ids = [f"{place:08}" for place in range(len(texts))]
    rows = operator(pa.table({"row_id": ids, "text": texts})).to_pylist()
    metrics = pa.Table.from_pylist([{**row, "step": "diversity"} for row in rows], schema=METRICS)
    named = [re.sub(r"\b(\w+)\.(value|n)\b", r"diversity.\1.\2", one) for one in operator.gate()]
    checks = decide(named, metrics)
    values = {row["metric"]: row["value"] for row in rows if row["slice"] is None}
    shown = ", ".join(f"{name} {values[name]:.3f}" for name in ("duplicates", "boilerplate", "vendi"))
    by = [one.condition.split(".")[1] for one in checks if not one.passed]
    return "refused by " + ", ".join(by) if by else "passes", shown


def gate(arguments: argparse.Namespace) -> None:
    chosen = random.Random(arguments.seed)
    for name, sql in SETS.items():
        texts = held(name, sql)["text"].to_pylist()
        print(f"gate: {name}, all {len(texts)}: {'; '.join(refused(texts))}")
        for count in (100, 1000):
            some = chosen.sample(texts, count)
            ten = some[:10]
            faults = {
                "as it is": some,
                "10 texts": [chosen.choice(ten) for _ in some],
                "10 texts, numbered": [f"{chosen.choice(ten)} {place}" for place in range(count)],
                "a phrase in a fifth": [LEAD * (place % 5 == 0) + text for place, text in enumerate(some)],
            }
            for fault, planted in faults.items():
                print(f"gate: {name}, {count}, {fault}: {'; '.join(refused(planted))}", flush=True)


if __name__ == "__main__":
    choose(
        __file__,
        __doc__,
        {"size": size, "same": same, "gate": gate},
        {"driver": driver},
        rows=1_000_000,
        few=30_000,
        seed=1,
        folder=Path,
    )
