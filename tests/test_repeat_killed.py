"""A loop that was killed, stopped or changed goes on: the same pool, and no answered call is asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from synthray.errors import BudgetSpent, TooManyFailed
from synthray.recipe import load
from synthray.run import Run

if TYPE_CHECKING:
    import synthray

Write = Callable[..., Path]
pytestmark = pytest.mark.ray

EXACT = """
name: exact
seed: 3
task: {labels: {a: first, b: second}}
model: {language: fake}
steps:
  - repeat:
      max: 12
      target: 6
      by: label
      tables:
        shown: {steps: [{source.table: {table: pool}}, {where: "length(text) > 0", reason: empty}]}
      steps:
        - source.conditions:
            rows: "SELECT sum(missing) FROM deficit"
            columns: {label: {sql: "SELECT label, missing AS weight FROM deficit"}}
        - generate.prompt: {template: "Say {{ label }}.", writes: text}
        - derive: {text: "label || ' ' || text", others: (SELECT count(*) FROM shown)}
        - curate.near_duplicate: {text: text, words: 2, threshold: 0.9, against: [pool]}
        - where: near_duplicate_of IS NULL
          reason: near_duplicate
  - export.parquet: {}
"""

REPLACING = """
name: replacing
seed: 1
model: {language: fake}
tables: {seeds: seeds.jsonl}
steps:
  - source.table: {table: seeds}
  - repeat:
      keep: replace
      max: 3
      steps:
        - generate.prompt: {template: "{{ word }}", writes: answer}
        - derive: {word: "word || ' ' || answer", seen: "coalesce(seen, 0) + 1"}
        - sql: "SELECT word, max(seen) AS seen, list(row_id ORDER BY row_id) AS parents FROM rows GROUP BY word"
  - export.parquet: {}
"""

SEEDS = "".join(f'{{"word": "{word}", "rest": 1}}\n' for word in ("one", "two", "three", "four"))
COUNTED = "SELECT step, operator, rows_in, rows_made, rows_kept, rows_rejected, rows_expanded FROM funnel"
LATER = "SELECT row_id FROM dataset WHERE round > 1"


def process(run: Path, recipe: Path, log: Path, spot: str = "") -> int:
    """Run in a process of its own; return how it ended."""
    command = [sys.executable, str(Path(__file__).parent / "killing.py"), str(run), str(recipe), str(log)]
    ended = subprocess.run(
        [*command, spot] if spot else command,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode


def exported(run: Path) -> bytes:
    (file,) = sorted((run / "dataset" / "data").glob("*.parquet"))
    return file.read_bytes()


@pytest.mark.parametrize(
    ("recipe", "spots"),
    [
        (EXACT, ("call:15", "write:-shown_where", "write:where_near_duplicate@2", "commit:derive@2")),
        (EXACT, ("commit:repeat@1", "write:repeat@2", "commit:repeat@2", "write:02-export")),
        (REPLACING, ("call:6", "write:derive@2", "write:repeat@2", "commit:repeat@2")),
    ],
)
def test_a_loop_that_was_killed_gives_the_same_pool_and_asks_nothing_again(
    write: Write, tmp_path: Path, recipe: str, spots: tuple[str, ...]
) -> None:
    write(SEEDS, "seeds.jsonl")
    path, log, whole = write(recipe), tmp_path / "log", tmp_path / "whole-log"
    assert process(tmp_path / "whole", path, whole) == 0
    for spot in spots:
        assert process(tmp_path / "run", path, log, spot) == -signal.SIGKILL, spot
    assert process(tmp_path / "run", path, log) == 0
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked))
    assert sorted(asked) == sorted(whole.read_text().splitlines())
    assert exported(tmp_path / "run") == exported(tmp_path / "whole")
    run, undisturbed = Run.read(tmp_path / "run"), Run.read(tmp_path / "whole")
    assert undisturbed.sql(LATER).num_rows or recipe is REPLACING
    for sql in (COUNTED, "SELECT * FROM measured", "SELECT * FROM reasons", "SELECT stage FROM steps"):
        assert run.sql(sql).equals(undisturbed.sql(sql)), sql


def loaded(write: Write, recipe: str, *settings: str, **replaced: str) -> synthray.Pipeline:
    write(SEEDS, "seeds.jsonl")
    for old, new in replaced.items():
        recipe = recipe.replace(old, new)
    return load(write(recipe), settings=settings)


def column(run: Run, sql: str) -> list[Any]:
    return [row["x"] for row in run.sql(sql).to_pylist()]


def stood(run: Run) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (run.root / "stages").rglob("stage.json")}


MANY = ", ".join(f"w{number} of many" for number in range(40))


@pytest.mark.usefixtures("ray_session")
class TestGoingOn:
    def test_a_budget_that_ends_in_a_round_is_raised(self, write: Write, tmp_path: Path) -> None:
        recipe = EXACT.replace("language: fake", f"language: fake, answers: [{MANY}]")
        undisturbed = loaded(write, recipe).run(tmp_path / "whole", quiet=True)
        spent = column(undisturbed, "SELECT sum(prompt_tokens + completion_tokens) AS x FROM calls")[0]
        first = column(
            undisturbed,
            "SELECT sum(prompt_tokens + completion_tokens) AS x FROM stages WHERE folder LIKE '%prompt@1%'",
        )[0]
        assert first < spent, "there is a second round"
        limited = loaded(write, recipe, f"model.budget_tokens={int(first) + 1}", "prompt.max_tokens=1")
        with pytest.raises(BudgetSpent) as caught:
            limited.run(tmp_path / "run", quiet=True)
        assert caught.value.exit_code == 4
        assert Run.read(tmp_path / "run").state["state"] == "budget spent"
        raised = loaded(write, recipe, "model.budget_tokens=100000", "prompt.max_tokens=1")
        run = raised.run(tmp_path / "run", quiet=True)
        assert column(run, "SELECT count(*) AS x FROM calls") == [
            column(run, "SELECT count(DISTINCT key) AS x FROM calls")[0]
        ]
        sql = "SELECT row_id, text, round FROM dataset ORDER BY row_id"
        again = loaded(write, recipe, "prompt.max_tokens=1").run(tmp_path / "again", quiet=True)
        assert run.sql(sql).equals(again.sql(sql))

    def test_rows_that_failed_in_a_round_are_asked_again(self, write: Write, tmp_path: Path) -> None:
        recipe = REPLACING.replace("language: fake", "language: fake, answers: [x, {error: refused}]")
        # The first round's answers depend on the seed alone: some rows fail, and more than are let pass.
        with pytest.raises(TooManyFailed, match="prompt@1"):
            loaded(write, recipe).run(tmp_path / "run", quiet=True)
        pipeline = loaded(write, recipe, "max_failed=1")
        run = pipeline.run(tmp_path / "run", quiet=True)
        lost = column(run, "SELECT count(*) AS x FROM failures")[0]
        answered = set(column(run, "SELECT key AS x FROM calls WHERE error IS NULL"))
        assert lost and set(column(run, "SELECT step AS x FROM failures")) <= {f"prompt@{n}" for n in (1, 2, 3)}
        again = pipeline.run(tmp_path / "run", quiet=True, retry_failed=True)
        assert answered <= set(column(again, "SELECT key AS x FROM calls WHERE error IS NULL"))
        keys = "SELECT count(*) - count(DISTINCT key) AS x FROM calls WHERE error IS NULL"
        assert column(again, keys) == [0]

    def test_a_raised_max_keeps_the_rounds_and_another_template_makes_them_again(
        self, write: Write, tmp_path: Path
    ) -> None:
        recipe = REPLACING.replace("language: fake", f"language: fake, answers: [{MANY}]")
        run = loaded(write, recipe).run(tmp_path / "run", quiet=True)
        before = stood(run)
        rounds = {path: time for path, time in before.items() if "@" in path.parent.name}
        assert rounds
        more = loaded(write, recipe, "repeat.max=4").run(tmp_path / "run", quiet=True)
        assert rounds.items() <= stood(more).items()
        assert column(more, "SELECT value AS x FROM metrics WHERE metric = 'rounds'") == [4]
        changed = recipe.replace("{{ word }}", "Say {{ word }}.")
        other = loaded(write, changed, "repeat.max=4").run(tmp_path / "run", quiet=True)
        fresh = loaded(write, changed, "repeat.max=4").run(tmp_path / "fresh", quiet=True)
        assert exported(other.root) == exported(fresh.root) != b""
        assert not {path for path in rounds if "prompt" in path.parent.name} & {
            other.root / "stages" / record.folder / "stage.json" for record in other.all_stages()
        }
