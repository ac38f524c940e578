"""Near-duplicates: speed against datasketch in one process, size, recall, thresholds.

    uv run python benchmarks/duplicates.py                     # all of it, about 10 minutes on two cores
    uv run python benchmarks/duplicates.py speed --documents 100000
    uv run python benchmarks/duplicates.py size recall same

Documents are made: about 150 words drawn from 50,000 by a Zipf-like law; one in ten is an edit of an earlier
one, with a share of its words replaced so that the true similarity lies between 0.4 and 1.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from menu import choose
from peak import Peak

import synthray
from synthray import cluster
from synthray.curate.near_duplicate import NearDuplicate
from synthray.source.table import Table as Source

if TYPE_CHECKING:
    from synthray.run import Run

WORDS, SHARDS = 150, 16
THRESHOLD = 0.7


def documents(folder: Path, count: int, seed: int = 7) -> synthray.Table:
    """Write `count` documents into SHARDS files; `copy_of` names the document that one was edited from."""
    random = np.random.default_rng(seed)
    vocabulary = pa.array([f"{_syllables(number)}" for number in range(50_000)])
    folder = folder / f"documents-{count}"
    folder.mkdir(parents=True)
    per_file = -(-count // SHARDS)
    for shard in range(SHARDS):
        rows = min(per_file, count - shard * per_file)
        words = np.minimum((random.pareto(0.9, (rows, WORDS + 20)) * 20).astype(np.int64), 49_999)
        sizes = random.integers(WORDS - 20, WORDS + 20, rows)
        copies = np.flatnonzero(random.random(rows) < 0.1)
        copies = copies[copies > 0]
        of = np.full(rows, -1)
        for copy in copies.tolist():
            base = int(random.integers(0, copy))
            words[copy], sizes[copy], of[copy] = words[base], sizes[base], base
            changed = random.random(WORDS + 20) < random.choice([0.0, 0.01, 0.03, 0.05, 0.08, 0.12, 0.2])
            words[copy, changed] = random.integers(0, 50_000, int(changed.sum()))
        flat = words[np.arange(WORDS + 20) < sizes[:, None]]
        ends = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
        texts = pc.binary_join(pa.ListArray.from_arrays(ends, vocabulary.take(pa.array(flat))), " ")
        names = [f"{hash_of(seed, shard, row):016x}" for row in range(rows)]
        copy_of = [names[base] if base >= 0 else None for base in of.tolist()]
        table = pa.table({"row_id": names, "text": texts, "copy_of": pa.array(copy_of, pa.string())})
        pq.write_table(table, folder / f"shard-{shard:02}.parquet", compression="zstd")
    return synthray.Table.find(str(folder), Path())


def hash_of(*parts: int) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest())


def _syllables(number: int) -> str:
    parts = ("ba", "ke", "di", "fo", "gu", "ha", "je", "li", "mo", "nu", "pa", "re", "si", "to", "vu", "za")
    name = ""
    while True:
        name += parts[number % 16]
        number //= 16
        if not number:
            return name


def pipeline(table: synthray.Table, blocks: int | None = None, **settings: Any) -> synthray.Pipeline:
    settings = {"text": "text", "threshold": THRESHOLD, "words": 3, "permutations": 128, **settings}
    steps = [Source(table="documents"), NearDuplicate(**settings)]
    return synthray.Pipeline(steps, name="duplicates", tables={"documents": table}, blocks=blocks)


def measured(
    table: synthray.Table, out: Path, blocks: int | None = None, **settings: Any
) -> tuple[float, Run]:
    """Return the seconds of the near_duplicate stage alone, and the run."""
    run = pipeline(table, blocks, **settings).run(out, quiet=True)
    return run.stages()[-1].seconds, run


def start_ray() -> None:
    started = time.perf_counter()
    cluster.start()
    import ray.data

    ray.data.range(2).map_batches(lambda table: table, batch_format="pyarrow").take_all()
    print(f"Ray's start, not counted: {time.perf_counter() - started:.1f} s", flush=True)


def datasketch_seconds(table: synthray.Table, threshold: float = THRESHOLD) -> tuple[float, int]:
    """Do the same with datasketch in this process: MinHash.bulk over 3-word runs, MinHashLSH as it comes."""
    from datasketch import MinHash, MinHashLSH

    started = time.perf_counter()
    marked = 0
    index = MinHashLSH(threshold=threshold, num_perm=128)
    for file in table.files:
        rows = pq.read_table(file, columns=["row_id", "text"])
        sets = []
        for text in rows["text"].to_pylist():
            words = text.lower().split()
            sets.append({" ".join(words[at : at + 3]).encode() for at in range(len(words) - 2)})
        for row_id, signature in zip(
            rows["row_id"].to_pylist(), MinHash.bulk(sets, num_perm=128), strict=True
        ):
            marked += bool(index.query(signature))
            index.insert(row_id, signature)
    return time.perf_counter() - started, marked


def speed(arguments: argparse.Namespace) -> None:
    count = arguments.documents
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = documents(folder, count)
        start_ray()
        ours = [measured(table, folder / f"run-{turn}")[0] for turn in range(3)]
        theirs, marked = datasketch_seconds(table)
        best = min(ours)
        print(
            f"speed: {count} documents in {best:.2f} s ({count / best:,.0f} a second; each run "
            f"{', '.join(f'{seconds:.2f}' for seconds in ours)}), datasketch in one process {theirs:.1f} s "
            f"({count / theirs:,.0f} a second, {marked} marked, unverified): {theirs / best:.1f} x"
        )


def size(arguments: argparse.Namespace) -> None:
    """Make the documents here, and mark them in a process that has done nothing else."""
    with tempfile.TemporaryDirectory() as name:
        for count in (100_000, 1_000_000):
            documents(Path(name), count)
        subprocess.run([sys.executable, __file__, "driver", "--folder", name], check=True)


def driver(arguments: argparse.Namespace) -> None:
    folder = arguments.folder
    small, large = (synthray.Table.find(f"documents-{count}", folder) for count in (100_000, 1_000_000))
    start_ray()
    first = min(measured(small, folder / f"small-{turn}")[0] for turn in range(3))
    started = time.perf_counter()
    with Peak() as peak:
        second, _ = measured(large, folder / "large")
    whole = time.perf_counter() - started
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    again, run = measured(large, folder / "large", threshold=0.85)
    again_whole = time.perf_counter() - started
    marked = run.sql("SELECT count(near_duplicate_of) AS n FROM dataset").to_pylist()[0]["n"]
    print(
        f"size: 100,000 documents in {first:.1f} s (best of 3), 1,000,000 in {second:.1f} s: "
        f"{second / first:.1f} x; driver {resident:.0f} MiB, largest other process "
        f"{peak.workers / 2**20:.0f} MiB (memory that is mapped counts)\n"
        f"threshold 0.7 to 0.85 on 1,000,000 ({marked} marked): stage {again:.2f} s of {second:.1f} s: "
        f"{again / second:.3f}; the whole run with its checks {again_whole:.1f} s of {whole:.1f} s: "
        f"{again_whole / whole:.3f}"
    )


def truth(run: Run) -> tuple[dict[str, set[str]], list[dict[str, Any]], dict[str, Any]]:
    """Return the shingles of the documents that matter, the planted pairs, and the marks."""
    rows = run.sql(
        "SELECT row_id, text, copy_of, near_duplicate_of AS of FROM dataset WHERE copy_of IS NOT NULL OR "
        "near_duplicate_of IS NOT NULL OR row_id IN (SELECT copy_of FROM dataset) OR "
        "row_id IN (SELECT near_duplicate_of FROM dataset)"
    ).to_pylist()
    sets = {}
    for row in rows:
        words = row["text"].lower().split()
        sets[row["row_id"]] = {" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))}
    marks = {row["row_id"]: row["of"] for row in rows}
    return sets, [row for row in rows if row["copy_of"]], marks


def similarity(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def recall(arguments: argparse.Namespace) -> None:
    count = arguments.documents
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start_ray()
        _, run = measured(documents(folder, count, seed=11), folder / "run")
        sets, planted, marks = truth(run)
        found: dict[float, list[bool]] = {0.70: [], 0.75: []}
        for row in planted:
            true = similarity(sets[row["row_id"]], sets[row["copy_of"]])
            hit = marks[row["row_id"]] is not None or marks[row["copy_of"]] is not None
            for least, hits in found.items():
                if true >= least:
                    hits.append(hit)
        named = {row: of for row, of in marks.items() if of}
        below = sum(similarity(sets[row], sets[of]) < THRESHOLD for row, of in named.items())
        gone = sum(marks[of] is not None for of in named.values())
        shares = "; ".join(
            f"{sum(hits)} of {len(hits)} pairs at or above {least} ({sum(hits) / len(hits):.4f})"
            for least, hits in found.items()
        )
        print(
            f"recall: {shares}; of {len(named)} rows marked {below} name a row below the threshold, "
            f"{gone} a row that is not kept"
        )


def same(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = documents(folder, 20_000, seed=3)
        cluster.start()
        question = "SELECT row_id, COLUMNS('near_duplicate_.*') FROM dataset ORDER BY row_id"
        answers = [
            measured(table, folder / f"run-{blocks}", blocks)[1].sql(question) for blocks in (1, 7, 64)
        ]
        rows = pa.concat_tables(pq.read_table(file) for file in table.files)
        rows = rows.take(pa.array(np.random.default_rng(5).permutation(len(rows))))
        (folder / "shuffled").mkdir()
        pq.write_table(rows, folder / "shuffled" / "rows.parquet")
        shuffled = synthray.Table.find(str(folder / "shuffled"), Path())
        answers.append(measured(shuffled, folder / "run-shuffled", 5)[1].sql(question))
        equal = [answer.equals(answers[0]) for answer in answers]
        marked = answers[0]["near_duplicate_of"].drop_null()
        print(f"same: {len(marked)} marks of 20,000; blocks 1, 7, 64 and shuffled rows are equal: {equal}")


BENCHMARKS = {
    "speed": speed,
    "size": size,
    "recall": recall,
    "same": same,
}


PARTS = {"driver": driver}
"""What one of them runs in a process of its own."""


if __name__ == "__main__":
    choose(__file__, __doc__, BENCHMARKS, PARTS, documents=100_000, folder=Path)
