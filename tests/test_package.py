"""What a user installs: a wheel and an editable install both carry the SQL, the recipes and their data."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import synthray
from synthray.query import SQL, shipped

ROOT = Path(__file__).parent.parent


def test_the_wheel_carries_sql_recipes_and_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
        held.extractall(tmp_path / "installed")
    sql = {f"synthray/sql/{path.relative_to(ROOT / 'sql')}" for path in (ROOT / "sql").rglob("*.sql")}
    assert sql <= names
    assert {"synthray/recipes/quickstart.yaml", "synthray/recipes/data/news_test.jsonl"} <= names
    assert "synthray/report/page.html.j2" in names
    assert not [name for name in names if name.startswith(("tests/", "sql/", "notebooks/"))]
    # The installed files work without the checkout beside them.
    code = "import synthray; print(len(synthray.load('quickstart').check()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "installed",
        env={"PYTHONPATH": str(tmp_path / "installed"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == 12


def test_the_editable_install_reads_the_folder_at_the_top() -> None:
    assert SQL.resolve() == (ROOT / "sql").resolve()
    assert shipped("views/rows.sql") == (ROOT / "sql" / "views" / "rows.sql").read_text()
    assert Path(synthray.__file__).parent == ROOT / "synthray"
