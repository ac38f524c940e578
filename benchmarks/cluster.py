"""A run on several Ray nodes and on an object store, against the same run on one node and on a disk.

uv run python benchmarks/cluster.py store            # about 2 minutes on two cores
uv run python benchmarks/cluster.py nodes            # about 2 minutes
uv run python benchmarks/cluster.py kills --times 20 # about 12 minutes

Generation from an endpoint on loopback, near-duplicates, label issues, diversity, export: each run in a
process of its own, Ray's start left out of its time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from endpoint import Endpoint
from menu import choose
from objects import ObjectStore

import synthray
from synthray.bucket import Bucket

RECIPE = {
    "name": "cluster",
    "seed": 3,
    "max_failed": 0.0,
    "task": {"labels": {"a": "first", "b": "second"}},
    "steps": [
        {"source.conditions": {"rows": 0, "columns": {"label": "task.labels", "n": {"range": [1, 99]}}}},
        {
            "generate.prompt": {
                "template": "About {{ label }}, {{ n }}, row {{ row_id }}.",
                "writes": "text",
                "max_tokens": 40,
            }
        },
        {"curate.near_duplicate": {"text": "text", "threshold": 0.9}},
        {"where": "near_duplicate_of IS NULL", "reason": "near_duplicate"},
        {"curate.label_issue": {"text": "text", "label": "label"}},
        {"where": "length(text) > 20", "reason": "length"},
        {"evaluate.diversity": {"text": "text"}},
        {"export.parquet": {"split": {"train": 0.9, "test": 0.1}}},
    ],
}
IN_FLIGHT = 32
PROGRAM = """
import json, os, sys, threading, time, urllib.request

recipe, out, cores, kill_after, url = sys.argv[1:]
cores = json.loads(cores)
if len(cores) > 1 or int(kill_after):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores[0], "include_dashboard": False})
    others = [cluster.add_node(num_cpus=number) for number in cores[1:]]
    os.environ["RAY_ADDRESS"] = cluster.address
from synthray import cluster as ours
from synthray.recipe import load

ours.start(cores[0] if len(cores) == 1 else None)
import ray

ray.get(ray.remote(lambda: None).remote())

def answered():
    with urllib.request.urlopen(url.removesuffix("/v1") + "/summary") as answer:
        return json.load(answer)["total"]

def kill_one():
    while answered() < int(kill_after):
        time.sleep(0.02)
    cluster.remove_node(others[0], allow_graceful=False)

killer = threading.Thread(target=kill_one, daemon=True)
if int(kill_after):
    killer.start()
started = time.monotonic()
load(recipe).run(out, quiet=True)
print(time.monotonic() - started)
if int(kill_after):
    killer.join()
os._exit(0)
"""


def recipe(folder: Path, endpoint: Endpoint, rows: int) -> Path:
    steps = json.loads(json.dumps(RECIPE["steps"]))
    steps[0]["source.conditions"]["rows"] = rows
    model = {"language": "openai", "name": "m", "base_url": endpoint.url, "in_flight": IN_FLIGHT}
    path = folder / "cluster.yaml"
    path.write_text(json.dumps({**RECIPE, "steps": steps, "model": model}))
    return path


def timed(
    path: Path, out: str, endpoint: Endpoint, cores: list[int], kill_after: int = 0, **environment: str
) -> float:
    """Run in a process of its own; return the seconds that the run took."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), out, json.dumps(cores), str(kill_after), endpoint.url],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", **environment},
        check=False,
    )
    if done.returncode or not done.stdout.strip():
        raise SystemExit(done.stderr[-3000:])
    return float(done.stdout.split()[-1])


def exported(out: str) -> dict[str, bytes]:
    if "://" in out:
        bucket = Bucket(out)
        return {name: bucket.read(name) or b"" for name in bucket.names("dataset")}
    files = sorted(path for path in (Path(out) / "dataset").rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def store(options: argparse.Namespace) -> None:
    """Compare the S3 server with a local disk."""
    with tempfile.TemporaryDirectory() as folder, Endpoint(latency=0.2) as endpoint, ObjectStore() as held:
        path = recipe(Path(folder), endpoint, options.rows)
        os.environ.update(held.environment)
        seconds: dict[str, list[float]] = {"disk": [], "s3": []}
        same = True
        for number in range(3):
            disk, url = f"{folder}/run-{number}", f"s3://bucket/run-{number}"
            seconds["disk"].append(timed(path, disk, endpoint, [2]))
            seconds["s3"].append(timed(path, url, endpoint, [2]))
            same &= exported(disk) == exported(url)
    disk, s3 = (statistics.median(seconds[name]) for name in ("disk", "s3"))
    print(
        f"{options.rows} rows: {disk:.1f} s on a disk, {s3:.1f} s on the S3 server ({s3 / disk:.2f} times), "
        f"medians of 3; same dataset to the byte: {same}"
    )


def nodes(options: argparse.Namespace) -> None:
    """Compare three nodes of a core each with one of three."""
    with tempfile.TemporaryDirectory() as folder, Endpoint(latency=0.2) as endpoint:
        path = recipe(Path(folder), endpoint, options.rows)
        seconds: dict[int, list[float]] = {1: [], 3: []}
        same = True
        for number in range(3):
            for count, cores in ((1, [3]), (3, [1, 1, 1])):
                seconds[count].append(timed(path, f"{folder}/{count}-{number}", endpoint, cores))
            same &= exported(f"{folder}/1-{number}") == exported(f"{folder}/3-{number}")
    one, three = (statistics.median(seconds[count]) for count in (1, 3))
    print(
        f"{options.rows} rows: {one:.1f} s on one node of 3 CPUs, {three:.1f} s on 3 nodes of one "
        f"({three / one:.2f} times), medians of 3; same dataset to the byte: {same}"
    )


def kills(options: argparse.Namespace) -> None:
    """Kill one of three nodes in the middle of generation, so many times."""
    same = repeated = 0
    with tempfile.TemporaryDirectory() as folder, Endpoint(latency=0.2) as endpoint:
        path = recipe(Path(folder), endpoint, options.rows)
        timed(path, f"{folder}/whole", endpoint, [2])
        whole = exported(f"{folder}/whole")
        for number in range(options.times):
            endpoint.script(latency=0.2)
            before = endpoint.summary()["total"]
            out = f"{folder}/killed-{number}"
            after = before + options.rows * (number + 1) // (options.times + 2)
            timed(path, out, endpoint, [1, 1, 1], after)
            sent = endpoint.summary()["total"] - before
            kept = synthray.open(out).sql("SELECT count(*) AS n FROM calls WHERE error IS NULL")
            repeated += max(0, kept["n"][0].as_py() - options.rows)
            same += exported(out) == whole
            print(
                f"  {number + 1}: killed after {after - before} calls, {sent} sent for {options.rows} rows, "
                f"so far {same} the same dataset, {repeated} answered calls sent again",
                flush=True,
            )
    print(
        f"{options.times} runs with a node killed: {same} gave the same dataset; "
        f"{repeated} answered calls were sent again"
    )


if __name__ == "__main__":
    choose(__file__, __doc__, {"store": store, "nodes": nodes, "kills": kills}, rows=1000, times=20)
