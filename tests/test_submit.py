"""Jobs on a real head of Ray: the recipe travels, its progress and exit code come back, no key is sent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import synthray
from synthray import submit as submit_module
from synthray.errors import InputError
from synthray.submit import LEFT_OUT, submit

RECIPE = {
    "name": "far",
    "task": {"labels": {"a": "first", "b": "second"}},
    "model": {"language": "fake", "answers": ["one two three", "four five six"]},
    "tables": {"seeds": "data/seeds.jsonl"},
    "steps": [
        {"source.table": {"path": "data/seeds.jsonl"}},
        {"generate.prompt": {"template": "say {{ text }}", "writes": "said"}},
        {"evaluate.diversity": {"text": "said"}},
        {"export.parquet": {"split": {"train": 1.0}}},
    ],
}
SECRET = "a-key-that-must-not-travel"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "seeds.jsonl").write_text(
        "".join(json.dumps({"text": f"seed {n}"}) + "\n" for n in range(6))
    )
    (folder / ".env").write_text(SECRET)
    (folder / "far.yaml").write_text(json.dumps(RECIPE))
    return folder / "far.yaml"


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A head with its dashboard on loopback; its environment has synthray on the PATH."""
    port, dashboard, agent = free_ports(3)
    session = Path("/tmp", f"r{os.getpid()}")  # a socket's name may have 107 characters
    tools = Path(sys.executable).parent
    options = {
        "--port": port,
        "--node-ip-address": "127.0.0.1",
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": dashboard,
        "--dashboard-agent-listen-port": agent,
        "--temp-dir": session,
        "--num-cpus": 2,
        "--object-store-memory": 100_000_000,
    }
    listed = [str(part) for pair in options.items() for part in pair]
    process = subprocess.Popen(
        [str(tools / "ray"), "start", "--head", "--block", "--disable-usage-stats", *listed],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until and not takes_jobs(address):
            time.sleep(0.5)
        yield address
    finally:
        # Asked to end, it would wait half a minute for work to drain.
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            one.kill()
        process.wait(60)
        shutil.rmtree(session, ignore_errors=True)


def takes_jobs(address: str) -> bool:
    """Say whether the head's agent is up: without one a job is refused."""
    try:
        with urllib.request.urlopen(f"{address}/nodes?view=summary", timeout=5) as answer:
            return bool(json.load(answer)["data"]["summary"][0]["agent"])
    except (OSError, ValueError, KeyError, IndexError):
        return False


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from synthray.cli import main; main()"
    environment = {**os.environ, "ANOTHER_KEY": SECRET}
    return subprocess.run(
        [sys.executable, "-c", program, "submit", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
        check=False,
    )


def test_a_job_runs_where_the_cluster_is_and_its_exit_code_comes_back(
    head: str, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = command(str(recipe), "--address", head, "--out", str(out))
    assert (done.returncode, done.stdout) == (0, f"Done: {out} (see: synthray show {out})\n"), done.stderr
    assert "prompt: done, 6 calls" in done.stderr, "the progress is seen"
    assert synthray.open(str(out)).sql("SELECT count(*) AS n FROM dataset").to_pylist() == [{"n": 6}]
    with urllib.request.urlopen(f"{head}/api/jobs/") as answer:
        described = answer.read().decode()
    assert SECRET not in described
    packages = list(
        Path("/tmp", f"r{os.getpid()}").glob("session_latest/runtime_resources/working_dir_files/*")
    )
    sent = {path.name for folder in packages for path in folder.rglob("*")}
    assert {"far.yaml", "seeds.jsonl"} <= sent
    assert ".env" not in sent
    refused = command(
        str(recipe), "--address", head, "--out", str(out), "--set", 'gate=["diversity.distinct_1.value > 9"]'
    )
    assert refused.returncode == 3, refused.stderr
    assert "the gate refused the dataset" in refused.stderr


@pytest.mark.parametrize("out", [None, "runs/x"])
def test_a_run_that_would_be_gone_with_the_job_is_refused(recipe: Path, out: str | None) -> None:
    with pytest.raises(InputError, match=r"name s3://bucket/run, or a folder from / on that all machines"):
        submit(str(recipe), "http://127.0.0.1:9", out)


def test_an_address_where_nothing_listens_is_told(recipe: Path) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9: no Ray dashboard answers there .*`ray dashboard"):
        submit(str(recipe), "http://127.0.0.1:9", "s3://bucket/run")
    with pytest.raises(InputError, match=r"must be the dashboard's, such as http://127\.0\.0\.1:8265"):
        submit(str(recipe), "127.0.0.1:6379", "s3://bucket/run")


def test_a_wrong_recipe_is_told_before_anything_is_sent(recipe: Path) -> None:
    with pytest.raises(InputError, match="no setting 'nope'"):
        submit(str(recipe), "http://127.0.0.1:9", "s3://bucket/run", settings=["prompt.nope=1"])


def test_a_folder_that_is_too_large_is_refused_without_what_does_not_travel(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_module, "_MOST_BYTES", 10_000)
    for name in (".git", "runs", "venv"):
        (recipe.parent / name).mkdir()
        (recipe.parent / name / "large").write_bytes(b"x" * 20_000)
        assert submit_module._is_left_out(name), LEFT_OUT
    with pytest.raises(InputError, match="no Ray dashboard"):
        submit(str(recipe), "http://127.0.0.1:9", "s3://bucket/run")
    (recipe.parent / "data" / "large").write_bytes(b"x" * 20_000)
    with pytest.raises(InputError, match="put the recipe into a folder of its own"):
        submit(str(recipe), "http://127.0.0.1:9", "s3://bucket/run")


def test_another_version_of_ray_is_told(recipe: Path, monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    monkeypatch.setattr("ray.__version__", "9.9.9")
    with pytest.raises(
        InputError, match=r"the cluster has Ray 2\.\d+\.\d+, this machine 9\.9\.9; pip install"
    ):
        submit(str(recipe), head, "s3://bucket/run")
