"""Runs on a real S3 server: the same dataset as on a disk, through faults, kills and machines that share nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    {"evaluate.diversity": {"text": "text"}},
    {"export.parquet": {"split": {"train": 0.5, "test": 0.5}}},
]
TOPICS = [
    {"source.conditions": {"rows": 12, "columns": {"label": "task.labels", "number": {"range": [1, 99]}}}},
    {"derive": {"topic": "concat('topic ', number)"}},
]


def recipe(folder: Path, endpoint: Endpoint) -> Path:
    held = {
        "name": "far",
        "seed": 4,
        "task": {"labels": {"a": "first", "b": "second"}},
        "model": {"language": "openai", "name": "m", "base_url": endpoint.url, "in_flight": 8},
        "tables": {"topics": {"steps": TOPICS}},
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


@contextmanager
def cluster(folder: Path, **environment: str) -> Iterator[str]:
    """Three machines of one core that share no folder for temporary files; give the head's address."""
    scratch = folder / "scratch"
    scratch.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    ray = str(Path(sys.executable).with_name("ray"))
    ours = {**os.environ, "TMPDIR": str(scratch), "RAY_DISABLE_IMPORT_WARNING": "1", **environment}
    common = ["--block", "--num-cpus", "1", "--object-store-memory", "100000000", "--disable-usage-stats"]
    # A socket's name may have 107 characters.
    session = Path("/tmp", f"r{os.getpid()}")
    head = [ray, "start", "--head", "--port", str(port), "--temp-dir", str(session)]
    alone = 'mount -t tmpfs none "$TMPDIR" && exec "$@"'
    commands = [[*head, "--node-ip-address", "127.0.0.1", "--include-dashboard", "false", *common]]
    commands += [["unshare", "-m", "sh", "-c", alone, "sh", ray, "start", "--address", address, *common]] * 2
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            nodes.append(
                subprocess.Popen(
                    command,
                    env=ours,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            until = time.monotonic() + 60
            while time.monotonic() < until and not listens(port):
                time.sleep(0.1)
        yield address
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            try:
                node.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
        shutil.rmtree(session, ignore_errors=True)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


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
    object_store.fault(fail=0.03, cut=0.03, slow=0.01)
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
    assert set(run.named_tables()) == {"topics"}
    assert not [name for name in Bucket(bucket_url).names() if name.startswith("lock")]


def test_machines_that_share_nothing_make_the_same_dataset_and_a_local_run_is_refused(
    local: Local, bucket_url: str, object_store: ObjectStore, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs root")
    endpoint, path, dataset = local
    endpoint.script(latency=0.0)
    environment = object_store.environment
    with cluster(tmp_path, **environment) as address:
        joined = {**environment, "TMPDIR": str(tmp_path / "scratch"), "RAY_ADDRESS": address}
        refused = started(str(tmp_path / "scratch" / "run"), path, **joined)
        _, told = refused.communicate(timeout=120)
        assert refused.returncode == 2
        assert "is not on a disk that all machines of the cluster share" in told
        assert "name one mounted on all by --out, or s3://bucket/run" in told
        done(started(bucket_url, path, **joined))
    assert exported(bucket_url) == dataset


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
