"""The counters of a run on a real Ray head, as Prometheus would read them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

RECIPE = {
    "name": "counted",
    "task": {"labels": {"a": "first", "b": "second"}},
    "model": {"language": "fake", "answers": ["one two three"], "price": {"input": 1.0, "output": 2.0}},
    "steps": [
        {"source.conditions": {"rows": 10, "columns": {"label": "task.labels"}}},
        {"generate.prompt": {"template": "say {{ label }}", "writes": "text"}},
        {"where": "label = 'a'", "reason": "not_a"},
    ],
}
PROGRAM = """
import sys, time
from ray.cluster_utils import Cluster
import os

cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 2, "include_dashboard": True, "dashboard_port": 0, "metrics_export_port": int(sys.argv[3])})
os.environ["RAY_ADDRESS"] = cluster.address
from synthray.recipe import load

load(sys.argv[1]).run(sys.argv[2], quiet=True)
print("done", flush=True)
sys.stdin.read()
"""


def test_prometheus_reads_rows_rejects_by_reason_calls_tokens_and_cost(tmp_path: Path) -> None:
    path = tmp_path / "counted.yaml"
    path.write_text(json.dumps(RECIPE))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [sys.executable, "-c", PROGRAM, str(path), str(tmp_path / "run"), str(port)]
    process = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        wanted = {
            ("synthray_rows", 'outcome="kept"', 'step="prompt"'): 10.0,
            ("synthray_rejected_rows", 'reason="not_a"', 'run="counted"'): 5.0,
            ("synthray_calls", 'step="prompt"', 'run="counted"'): 10.0,
            ("synthray_tokens", 'kind="prompt"', 'step="prompt"'): 20.0,
            ("synthray_tokens", 'kind="completion"', 'step="prompt"'): 30.0,
            ("synthray_cost_usd", 'step="prompt"', 'run="counted"'): 80e-6,
        }
        until = time.monotonic() + 60
        found: dict[tuple[str, ...], float] = {}
        while found != wanted and time.monotonic() < until:
            time.sleep(0.5)
            found = {key: value for key in wanted if (value := counted(port, key)) is not None}
        assert found == wanted
        process.kill()


def counted(port: int, parts: tuple[str, ...]) -> float | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return None
    values = [
        float(line.rpartition(" ")[2])
        for line in lines
        if not line.startswith("#") and all(part in line for part in parts)
    ]
    return values[0] if values else None
