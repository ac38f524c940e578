"""The processes that ask a model share one limit and one budget, and their death costs no answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from endpoint import Endpoint

from synthray.errors import BudgetSpent, RunFailed
from synthray.generate.prompt import Prompt
from synthray.model.openai import OpenAI
from synthray.pipeline import Pipeline
from synthray.run import Run
from synthray.source.conditions import Conditions

ROWS = 600
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def pipeline(endpoint: Endpoint, rows: int = ROWS, **settings: Any) -> Pipeline:
    """Return a recipe whose model is asked by two processes."""
    model = OpenAI(name="m", base_url=endpoint.url, **{"in_flight": 300, **settings})
    steps = [
        Conditions(rows=rows, columns={"number": {"range": [1, 9]}}),
        Prompt(template="{{ number }} for {{ row_id }}", writes="text", max_tokens=40),
    ]
    return Pipeline(steps, name="pool", model=model, max_failed=0.0)


def answered_twice(endpoint: Endpoint) -> int:
    good = [hit["id"] for hit in endpoint.hits() if hit["status"] == 200]
    return len(good) - len(set(good))


def paid(endpoint: Endpoint) -> int:
    return sum(hit["prompt_tokens"] + hit["completion_tokens"] for hit in endpoint.hits())


def kept(run: Run) -> int:
    found = run.sql("SELECT count(DISTINCT row_id) AS n FROM dataset WHERE text <> ''").to_pylist()
    return int(found[0]["n"])


def test_two_processes_keep_one_limit_and_leave_one_parquet_file(tmp_path: Path) -> None:
    # One alone has half of it, the other's part is kept while that one starts: both must ask for an answer.
    with Endpoint(latency=0.4, together=300) as endpoint:
        run = pipeline(endpoint).run(tmp_path / "run", quiet=True)
        summary = endpoint.summary()
        assert summary["max_in_flight"] == 300, "the limit was passed, or not used by both"
        assert summary["total"] == ROWS
    assert kept(run) == ROWS
    assert [path.suffix for path in run.kept_calls().iterdir()] == [".parquet"]
    asking = run.sql("SELECT count(*) AS n, sum(attempts) AS sent FROM calls").to_pylist()
    assert asking == [{"n": ROWS, "sent": ROWS}]


def test_a_budget_of_two_processes_is_never_passed_and_a_raised_one_goes_on(tmp_path: Path) -> None:
    with Endpoint(latency=0.1, words=[5, 40]) as endpoint:
        with pytest.raises(BudgetSpent, match=r"budget_tokens: \d+ of 10000 tokens are spent") as caught:
            pipeline(endpoint, budget_tokens=10_000).run(tmp_path / "run", quiet=True)
        assert caught.value.exit_code == 4
        spent = paid(endpoint)
        assert 9_000 < spent <= 10_000, "the budget was passed, or not used"
        state = Run.read(tmp_path / "run").state
        assert state["state"] == "budget spent"
        assert "raise it to go on" in state["error"]
        run = pipeline(endpoint, budget_tokens=1_000_000).run(tmp_path / "run", quiet=True)
        assert answered_twice(endpoint) == 0
        assert endpoint.summary()["total"] == ROWS
    assert kept(run) == ROWS


def kill_workers(endpoint: Endpoint, stop: threading.Event, killed: list[int]) -> None:
    """Kill one process that asks after the other, each in the middle of its work."""
    for answers in (150, 350):
        while endpoint.summary()["by_status"].get("200", 0) < answers and not stop.is_set():
            time.sleep(0.02)
        for process in psutil.Process().children(recursive=True):
            try:
                asks = "MapWorker" in " ".join(process.cmdline()[:1])
            except psutil.Error:
                continue
            if asks and not stop.is_set() and process.pid not in killed:
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                break


def test_processes_that_are_killed_lose_no_row_and_repay_no_answer(tmp_path: Path) -> None:
    latency, stop, killed = 0.5, threading.Event(), list[int]()
    with Endpoint(latency=latency) as endpoint:
        killer = threading.Thread(target=kill_workers, args=(endpoint, stop, killed))
        killer.start()
        try:
            run = pipeline(endpoint, in_flight=280).run(tmp_path / "run", quiet=True)
        finally:
            stop.set()
            killer.join()
        assert len(killed) == 2
        # What had no answer when its process died may come twice, and nothing else.
        assert answered_twice(endpoint) <= 2 * 280
        calls = run.sql("SELECT count(*) AS n, count(DISTINCT key) AS k FROM calls").to_pylist()
    assert kept(run) == ROWS
    assert calls == [{"n": ROWS, "k": ROWS}], "an answer was kept twice: it was asked for again"


def test_an_error_that_all_would_meet_ends_the_run_and_keeps_what_was_answered(tmp_path: Path) -> None:
    with Endpoint(latency=0.05, first=["ok"] * 100 + ["401"] * 1000) as endpoint:
        with pytest.raises(RunFailed, match=r"answered 401 to model 'm' \(the key is refused\)"):
            pipeline(endpoint).run(tmp_path / "run", quiet=True)
        refused = endpoint.summary()["by_status"]["401"]
        assert refused <= 300, "more was sent after the first refusal"
        endpoint.script(first=[])
        run = pipeline(endpoint).run(tmp_path / "run", quiet=True)
        assert endpoint.summary()["by_status"]["200"] == ROWS
    assert kept(run) == ROWS
