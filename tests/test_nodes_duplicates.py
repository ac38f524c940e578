"""Duplicates and divided SQL on three Ray nodes: the same marks and the same dataset as on one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray import division
from synthray.recipe import load
from synthray.run import Run

PROGRAM = """
import os, sys
from ray.cluster_utils import Cluster

recipe, out = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
from synthray import cluster as session, division
from synthray.recipe import load

division.ROWS = 1
load(recipe).run(out, quiet=True)
assert session.nodes() == 3, session.nodes()
import ray
ray.shutdown()
cluster.shutdown()
"""
STEPS = [
    {"source.table": {"table": "news"}},
    {"where": "score >= 0.05", "reason": "score"},
    {"where": "row_number() OVER (PARTITION BY label ORDER BY score DESC) <= 500", "reason": "quota"},
    {"derive": {"rank": "rank() OVER (PARTITION BY label ORDER BY score)"}},
    {"curate.exact_duplicate": {"text": "text", "prefer": "score DESC"}},
    {"where": "exact_duplicate_of IS NULL", "reason": "exact_duplicate"},
    {"curate.near_duplicate": {"text": "text", "threshold": 0.7, "prefer": "score DESC", "against": ["old"]}},
    {"where": "near_duplicate_of IS NULL", "reason": "near_duplicate"},
    {"export.parquet": {"split": {"train": 0.8, "test": 0.2}}},
]


def texts(count: int, seed: int) -> pa.Table:
    """Return texts of 40 words, of which a third are an earlier one with up to six words changed, or none."""
    generator = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(3000)]
    held: list[list[str]] = []
    for _ in range(count):
        words = list(generator.choice(held)) if held and generator.random() < 0.35 else None
        if words is None:
            words = generator.choices(vocabulary, k=40)
        for _ in range(generator.choice([0, 1, 3, 6])):
            words[generator.randrange(40)] = generator.choice(vocabulary)
        held.append(words)
    return pa.table(
        {
            "text": [" ".join(words) for words in held],
            "label": [generator.choice("abcd") for _ in held],
            "score": [generator.random() for _ in held],
        }
    )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_three_nodes_mark_and_keep_the_same_rows_as_one(tmp_path: Path) -> None:
    whole = texts(2400, seed=4)
    pq.write_table(whole, tmp_path / "texts.parquet", row_group_size=300)
    pq.write_table(whole.slice(0, 200).select(["text"]), tmp_path / "old.parquet")
    recipe = tmp_path / "nodes.yaml"
    tables = {"news": "texts.parquet", "old": "old.parquet"}
    recipe.write_text(json.dumps({"name": "nodes", "seed": 2, "tables": tables, "steps": STEPS}))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(recipe), str(tmp_path / "three")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    three = Run.read(tmp_path / "three")
    one = load(recipe).run(tmp_path / "one", quiet=True)
    shares = list((tmp_path / "three" / "stages").glob("*/share-2/rows.parquet"))
    assert len(shares) >= 3, "statements must have been divided"
    assert division.ROWS > 2400
    assert not list((tmp_path / "one" / "stages").glob("*/share-*"))
    for question in (
        "SELECT * FROM dataset ORDER BY row_id",
        "SELECT row_id, reject_step, reject_reason, COLUMNS('.*_duplicate_.*') FROM rows ORDER BY row_id",
        "SELECT step, rows_in, rows_kept, rows_rejected FROM steps ORDER BY ordinal",
    ):
        assert three.sql(question).equals(one.sql(question)), question
    reasons = {
        row["reject_reason"]: row["n"]
        for row in one.sql("SELECT reject_reason, count(*) AS n FROM rows GROUP BY 1").to_pylist()
    }
    assert set(reasons) == {None, "score", "quota", "exact_duplicate", "near_duplicate"}
    files = [sorted((tmp_path / name / "dataset").rglob("*.parquet")) for name in ("one", "three")]
    assert files[0] and [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
