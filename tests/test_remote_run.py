"""Runs on a real S3 server: the same dataset as on a disk, through faults, kills and machines that share nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from endpoint import Endpoint

import synthray
from synthray.bucket import Bucket

if TYPE_CHECKING:
    from objects import ObjectStore

ROWS = 240
STEPS = [
    {
        "source.conditions": {
            "rows": ROWS,
            "columns": {"label": "task.labels", "topic": {"from": "topics", "by": "label"}},
        }
    },
    {
        "generate.prompt": {
            "template": "About {{ topic }}, row {{ row_id[:2] }}, {{ label }}.",
            "writes": "text",
            "max_tokens": 30,
        }
    },
    {"curate.near_duplicate": {"text": "text", "threshold": 0.9}},
    {"where": "near_duplicate_of IS NULL", "reason": "near_duplicate"},
    {"curate.label_issue": {"text": "text", "label": "label"}},
    {"curate.embedding": {"text": "text"}},
    {"curate.outlier": {"embedding": "embedding", "label": "label"}},
    {"curate.weight": {"text": "text", "label": "label"}},
    {"generate.demonstrations": {"pool": "seeds", "columns": ["text"], "k": 2}},
    {"evaluate.memorisation": {"text": "text", "against": ["seeds"]}},
    {"evaluate.diversity": {"text": "text"}},
    {"export.parquet": {"split": {"train": 0.5, "test": 0.5}}},
]
TOPICS = [
    {"source.conditions": {"rows": 12, "columns": {"label": "task.labels", "number": {"range": [1, 99]}}}},
    {"derive": {"topic": "concat('topic ', number)"}},
]


def recipe(folder: Path, endpoint: Endpoint) -> Path:
    seeds = [{"text": f"A seed about {number} things."} for number in range(20)]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in seeds))
    held = {
        "name": "far",
        "seed": 4,
        "task": {"labels": {"a": "first", "b": "second"}},
        "model": {"language": "openai", "name": "m", "base_url": endpoint.url, "in_flight": 8},
        "tables": {"topics": {"steps": TOPICS}, "seeds": "seeds.jsonl"},
        "steps": STEPS,
    }
    path = folder / "far.yaml"
    path.write_text(json.dumps(held))
    return path


def started(out: str, path: Path, **environment: str) -> subprocess.Popen[str]:
    arguments = [
        sys.executable,
        "-c",
        "from synthray.cli import main; main()",
        "run",
        str(path),
        "--out",
        out,
    ]
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def done(process: subprocess.Popen[str]) -> None:
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told[-3000:]


def exported(out: str) -> dict[str, bytes]:
    if "://" in out:
        bucket = Bucket(out)
        return {name: bucket.read(name) or b"" for name in bucket.names("dataset")}
    root = Path(out)
    files = sorted(path for path in (root / "dataset").rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


ALONE = """
import ctypes, os, sys

if any("default_worker.py" in one for one in sys.orig_argv):
    system = ctypes.CDLL(None, use_errno=True)
    private = 0x44000  # recursive, private
    made = system.unshare(0x20000), system.mount(b"none", b"/", None, private, None)
    if any((*made, system.mount(b"tmpfs", os.environ["TMPDIR"].encode(), b"tmpfs", 0, None))):
        os._exit(1)
"""
"""What Python runs first: each of Ray's workers gets a disk of its own for its files, as on another machine."""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Endpoint, Path, dict[str, bytes]]]:
    """The endpoint, the recipe, and the dataset that a run on a disk exports."""
    folder = tmp_path_factory.mktemp("local")
    with Endpoint(latency=0.05, words=[5, 30]) as endpoint:
        path = recipe(folder, endpoint)
        done(started(str(folder / "run"), path))
        yield endpoint, path, exported(str(folder / "run"))


Local = tuple[Endpoint, Path, dict[str, bytes]]


def test_a_run_that_is_killed_on_a_faulty_store_goes_on_to_the_same_dataset(
    local: Local, bucket_url: str, object_store: ObjectStore
) -> None:
    endpoint, path, dataset = local
    endpoint.script(latency=0.05)
    before = endpoint.summary()["total"]
    object_store.fault(fail=0.02, cut=0.02, slow=0.003)
    process = started(bucket_url, path)
    until = time.monotonic() + 120
    while endpoint.summary()["total"] < before + ROWS // 2 and time.monotonic() < until:
        time.sleep(0.05)
    kept = len(Bucket(bucket_url).names("calls"))
    process.kill()
    process.communicate()
    sent = endpoint.summary()["total"]
    assert before + ROWS // 2 <= sent < before + ROWS, "it was killed in the middle"
    done(started(bucket_url, path))
    assert object_store.counts()["hit"] > 0
    assert kept
    run = synthray.open(bucket_url)
    answered = run.sql("SELECT count(DISTINCT key) AS n FROM calls WHERE error IS NULL").to_pylist()
    assert answered == [{"n": ROWS}]
    again = endpoint.summary()["total"] - before - ROWS
    # What was answered in the last two seconds was in flight: 8 at a time, each 0.05 s.
    assert again <= 8 + 2 * 8 / 0.05
    assert exported(bucket_url) == dataset
    assert set(run.named_tables()) == {"topics", "seeds"}
    assert not [name for name in Bucket(bucket_url).names() if name.startswith("lock")]


def test_workers_that_share_no_disk_make_the_same_dataset(
    local: Local, bucket_url: str, object_store: ObjectStore, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own needs root")
    endpoint, path, dataset = local
    endpoint.script(latency=0.0)
    object_store.fault()
    (tmp_path / "sitecustomize.py").write_text(ALONE)
    (tmp_path / "scratch").mkdir()
    paths = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    # Ray's own folder stays where all see it.
    alone = {"PYTHONPATH": paths, "TMPDIR": str(tmp_path / "scratch"), "RAY_TMPDIR": "/tmp"}
    done(started(bucket_url, path, **alone))
    assert exported(bucket_url) == dataset
    fetched = object_store.counts()["GET"]
    assert fetched > 20, "the files of other machines came through the store"


def test_a_second_writer_of_a_url_is_refused(local: Local, bucket_url: str) -> None:
    endpoint, path, _ = local
    endpoint.script(latency=0.3)
    first = started(bucket_url, path)
    until = time.monotonic() + 60
    while not Bucket(bucket_url).names("lock") and time.monotonic() < until:
        time.sleep(0.05)
    second = started(bucket_url, path)
    _, told = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert (second.returncode, "another process is writing s3://" in told) == (2, True)
