"""synthray as a library: the README's own blocks, and the notebooks, on a Ray that the test starts and they join."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient

import synthray

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## As a library\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)
ALONE, PIPELINE, OPERATOR = (text for kind, text in BLOCKS if kind == "python")
PROJECT, RECIPE = (text for kind, text in BLOCKS if kind != "python")

HEAD = """
import sys
from synthray import cluster
cluster.start(2)
import ray
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
REPORTS = [
    {"text": "The council met on Monday. It voted for the bridge. Work begins in May.", "n": 1},
    {"text": "The council met on Monday. It voted for the bridge. Work begins in May!", "n": 2},
    {
        "text": "The harvest was small, since rain came late and the fields had dried out before anyone could help.",
        "n": 3,
    },
    {"text": "Two goals won the match.", "n": None},
]


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's package is installed, from its wheel."""
    folder = tmp_path_factory.mktemp("acme")
    (folder / "acme").mkdir()
    (folder / "acme" / "__init__.py").touch()
    (folder / "acme" / "sentence.py").write_text(OPERATOR)
    (folder / "pyproject.toml").write_text(PROJECT)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(folder)],
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture(scope="module")
def path(acme: Path) -> str:
    """Where Python looks, on this side and on the nodes: the package is installed on both."""
    return os.pathsep.join([str(acme), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def address(path: str, folder: Path) -> Iterator[str]:
    """The address of a Ray of two cores in a process of its own."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command, env = [sys.executable, "-c", HEAD], {**os.environ, "PYTHONPATH": path}
    # To leave it closes its standard input, upon which it ends.
    with subprocess.Popen(command, **pipes, text=True, env=env, cwd=folder) as head:
        yield head.stdout.readline().strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where notebooks and blocks work."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "reports").mkdir()
    for name, rows in (("a", REPORTS[:3]), ("b", REPORTS[3:])):
        pq.write_table(pa.Table.from_pylist(rows), folder / "reports" / f"{name}.parquet")
    (folder / "plain.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def execute(path: str, address: str, folder: Path) -> Iterator[Callable[..., str]]:
    """Return a function that executes cells in one kernel, so that Ray's workers start once; what they showed."""
    # Without the switch, a driver that joins would listen beyond loopback.
    env = {**os.environ, "RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    env |= {"SYNTHRAY_RUN": str(folder / "denoise"), "SYNTHRAY_SHARED": str(folder)}
    client = NotebookClient(
        nbformat.v4.new_notebook(), timeout=180, resources={"metadata": {"path": str(folder)}}
    )

    def executed(given: Iterable[Any]) -> str:
        reset = nbformat.v4.new_code_cell("%reset -f")  # no notebook has what another one left
        client.nb = nbformat.v4.new_notebook(cells=[reset, *given])
        for place, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, place)
        return json.dumps([cell.get("outputs") for cell in client.nb.cells])

    with client.setup_kernel(env={**env, "PYTHONPATH": path}):
        yield executed


def notebook(name: str) -> list[Any]:
    cells: list[Any] = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    assert not any(cell.get("outputs") for cell in cells), "notebooks are kept without outputs"
    return cells


@pytest.fixture(scope="module")
def denoised(execute: Callable[..., str]) -> str:
    """What the denoising notebook showed; its run is in `denoise`."""
    return execute(notebook("denoise"))


def test_one_operator_on_a_table_needs_no_ray() -> None:
    shown = "\nimport json, sys\nprint(json.dumps([marked.to_pylist(), 'ray' in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", ALONE + shown], capture_output=True, text=True, check=True)
    rows, ray = json.loads(done.stdout)
    assert not ray
    assert len(rows) == 3
    ids = [row["row_id"] for row in rows]
    marks = {row["row_id"]: row["near_duplicate_of"] for row in rows if row["near_duplicate_of"]}
    assert len(marks) == 1, "of two texts that are nearly the same one is kept"
    assert {*marks, *marks.values()} == {ids[0], ids[2]}


@pytest.mark.ray
class TestOnRay:
    def test_the_denoising_notebook_finds_planted_labels(self, denoised: str, folder: Path) -> None:
        shown = denoised
        assert "[True, True]" in shown, "pandas, polars and Hugging Face give other rows"
        assert "image/svg+xml" in shown
        run = synthray.open(str(folder / "denoise"))
        rows = run.pandas("rows")
        wrong, marked = rows["given"] != rows["truth"], rows["label_issue"]
        assert len(rows) == 272
        assert wrong.sum() > 30
        assert (wrong & marked).sum() > 0.6 * wrong.sum()
        kept = rows["reject_reason"].isna()
        right = rows["label"] == rows["truth"]
        assert right[kept].mean() > 1 - wrong.mean() + 0.08
        assert set(rows["reject_reason"].dropna()) == {"label_issue"}
        for text in ("recall", "mended", f"num_rows: {kept.sum()}"):
            assert text in shown

    def test_the_exploring_notebook_runs_top_to_bottom_over_that_run(
        self, denoised: str, execute: Callable[..., str]
    ) -> None:
        shown = execute(notebook("explore"))
        assert shown.count("image/svg+xml") == 5
        assert "reject_reason" in shown and "rows_kept" in shown

    def test_the_cluster_notebook_joins_and_gives_the_same_dataset(
        self, execute: Callable[..., str], folder: Path, address: str
    ) -> None:
        joined = nbformat.v4.new_code_cell(
            "files(in_parts) == files(run), ray.get_runtime_context().gcs_address"
        )
        shown = execute([*notebook("cluster"), joined])
        assert f"(True, '{address}')" in shown
        assert shown.count(": unchanged, ") == 7, "running again made something again"
        run = synthray.open(str(folder / "wrong_labels"))
        counts = {
            row["metric"]: row["value"] for row in run.sql("FROM metrics WHERE step = 'count'").to_pylist()
        }
        assert counts["planted"] > 30
        assert counts["found"] > 0.6 * counts["planted"]
        assert counts["found"] > 0.5 * counts["marked"]

    def test_a_pipeline_on_a_ray_dataset(self, execute: Callable[..., str], folder: Path) -> None:
        others = f"""
import pyarrow as pa
rows = pa.Table.from_pylist({REPORTS})
other = synthray.Pipeline([], tables={{"reports": ray.data.from_arrow([rows.slice(2), rows.slice(0, 2)])}})
print("EQUAL", other.tables == pipeline.tables)
print("EMBEDDED", sorted(len(row["embedding"]) for row in embedded.select_columns(["row_id", "embedding"]).take_all()))
print("KEPT", sorted(row["row_id"] for row in embedded.take_all()))
"""
        shown = execute(map(nbformat.v4.new_code_cell, (PIPELINE, others)))
        assert "EQUAL True" in shown, "the order of a Ray dataset's blocks changed the table"
        assert "EMBEDDED [256, 256, 256]" in shown
        run = synthray.open(str(folder / "runs" / "reports"))
        rows = run.arrow("rows").to_pylist()
        assert {row["n"] for row in rows} == {1, 2, 3, None}
        rejected = [row for row in rows if row["reject_reason"] == "near_duplicate"]
        assert len(rejected) == 1
        assert rejected[0]["n"] in (1, 2)
        kept = sorted({row["row_id"] for row in rows} - {rejected[0]["row_id"]})
        assert f"KEPT {kept}" in shown
        assert set(synthray.identified(pa.Table.from_pylist(REPORTS))["row_id"].to_pylist()) == {
            row["row_id"] for row in rows
        }

    def test_an_operator_of_a_package_is_one_of_a_recipe(
        self, execute: Callable[..., str], folder: Path
    ) -> None:
        cell = "import synthray; synthray.load('plain.yaml').run('runs/plain')"
        execute([nbformat.v4.new_code_cell(cell)])
        run = synthray.open(str(folder / "runs" / "plain"))
        found = {row["n"]: row for row in run.sql("FROM rows").to_pylist()}
        assert {n: row["sentence_words"] for n, row in found.items()} == {
            1: 14 / 3,
            2: 14 / 3,
            3: 18.0,
            None: 5.0,
        }
        assert {n for n, row in found.items() if row["reject_reason"] == "long_sentences"} == {3}
        assert "acme.sentence" in run.sql("SELECT operator FROM steps")["operator"].to_pylist()
