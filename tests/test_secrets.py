"""A key reaches its endpoint and nothing else: no file, no log of Ray's, no message, no process title."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from endpoint import Endpoint

KEY = "sk-secret-4f1c2ab97"
OTHER = "sk-of-openai-77d0e1"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: Ray puts sockets there, whose paths have a limit."""
    folder = tempfile.mkdtemp(prefix="ray-")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, endpoint: Endpoint, ray_folder: Path) -> tuple[int, str, list[str]]:
    """Run a recipe in a process; return its code, all it said, and the command lines of its processes."""
    recipe = {
        "name": "secret",
        "model": {"language": "openai", "name": "m", "base_url": endpoint.url, "api_key_env": "ACME_KEY"},
        "steps": [
            {"source.conditions": {"rows": 300, "columns": {"number": {"range": [1, 9]}}}},
            {"generate.prompt": {"template": "{{ number }}", "writes": "text"}},
        ],
    }
    (folder / "secret.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    environment = {
        **os.environ,
        "ACME_KEY": KEY,
        "OPENAI_API_KEY": OTHER,
        "OPENAI_ORG_ID": OTHER,
        "OPENAI_PROJECT_ID": OTHER,
        "RAY_TMPDIR": str(ray_folder),
        "RAY_AUTH_MODE": "disabled",
    }
    with (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "synthray.cli", "run", "secret.yaml", "--out", "run"],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        titles: set[str] = set()
        while process.poll() is None:
            for one in psutil.Process(process.pid).children(recursive=True):
                try:
                    titles.add(" ".join(one.cmdline()))
                except psutil.Error:
                    continue
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    return process.returncode, (folder / "said.txt").read_text(), sorted(titles)


def holding(secret: str, folder: Path) -> list[str]:
    """Return the files under a folder that hold a secret."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.parametrize("right", [True, False], ids=["accepted", "refused and echoed"])
def test_a_key_is_in_no_file_log_message_or_title(tmp_path: Path, short: Path, right: bool) -> None:
    with Endpoint(latency=0.05, require_key=KEY if right else "another", record_headers=True) as endpoint:
        code, said, titles = run(tmp_path, endpoint, short)
        hits = endpoint.hits()
    assert code == (0 if right else 1), said
    assert {hit["authorization"] for hit in hits} == {f"Bearer {KEY}"}, "the endpoint did not get its key"
    assert OTHER not in str(hits), "another account's words were sent"
    assert "the key is refused" in said or right
    assert any("ray::" in title for title in titles)
    logs = [path for path in short.rglob("*.log") if path.stat().st_size]
    assert logs, "no log of Ray's was looked at"
    for secret in (KEY, OTHER):
        assert secret not in said + " ".join(titles)
        assert holding(secret, tmp_path) == []
        assert holding(secret, short) == []
