"""A loop that was killed, stopped or changed goes on: the same pool, and no answered call is asked again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import killing
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

COUNTING = """
name: counting
seed: 3
tables: {seeds: seeds.jsonl}
steps:
  - source.table: {table: seeds}
  - repeat:
      max: 9
      target: {one: 3, two: 2, three: 1}
      by: word
      prefer: size DESC
      tables:
        held: {steps: [{source.table: {table: pool}}, {where: "word <> 'four'", reason: four}]}
      steps:
        - source.table: {sql: "SELECT word, missing + 1 AS size FROM deficit JOIN seeds USING (word)"}
        - where: chance(row_id, 'kept') < 0.7
          reason: chance
        - derive: {others: "(SELECT count(*) FROM held) + count(*) OVER ()"}
  - export.parquet: {}
"""

FOLDING = """
name: folding
seed: 1
tables: {seeds: seeds.jsonl}
steps:
  - source.table: {table: seeds}
  - repeat:
      keep: replace
      max: 3
      steps:
        - derive: {seen: "coalesce(seen, 0) + (SELECT number FROM round)"}
        - where: seen < 9
          reason: seen
        - sql: >-
            SELECT length(word) || 'y' AS word, max(seen) AS seen, list(row_id ORDER BY row_id) AS parents
            FROM rows GROUP BY 1
  - export.parquet: {}
"""

SEEDS = "".join(f'{{"word": "{word}", "rest": 1}}\n' for word in ("one", "two", "three", "four"))
COUNTED = "SELECT step, operator, rows_in, rows_made, rows_kept, rows_rejected, rows_expanded FROM funnel"


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


def same(run: Path, whole: Path) -> None:
    assert exported(run) == exported(whole)
    ours, theirs = Run.read(run), Run.read(whole)
    for sql in (COUNTED, "SELECT * FROM measured", "SELECT * FROM reasons", "SELECT stage FROM steps"):
        assert ours.sql(sql).equals(theirs.sql(sql)), sql


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("recipe", "call"), [(EXACT, 15), (REPLACING, 6)], ids=["exact", "replacing"])
def test_a_loop_that_was_killed_as_it_asked_gives_the_same_pool_and_asks_nothing_again(
    write: Write, tmp_path: Path, recipe: str, call: int
) -> None:
    write(SEEDS, "seeds.jsonl")
    path, log, whole = write(recipe), tmp_path / "log", tmp_path / "whole-log"
    assert process(tmp_path / "run", path, log, f"call:{call}") == -signal.SIGKILL
    assert len(log.read_text().splitlines()) == call - 1
    stages = {path.parent.name for path in (tmp_path / "run" / "stages").glob("*/stage.json")}
    assert [name for name in stages if "prompt-1" in name], "the first round is over"
    assert not [name for name in stages if "prompt-2" in name]
    killing.main(str(tmp_path / "run"), str(path), str(log))
    killing.main(str(tmp_path / "whole"), str(path), str(whole))
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked))
    assert sorted(asked) == sorted(whole.read_text().splitlines())
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("recipe", [COUNTING, FOLDING], ids=["counting", "folding"])
def test_a_loop_that_was_killed_between_and_in_stages_gives_the_same_pool(
    write: Write, tmp_path: Path, recipe: str
) -> None:
    write(SEEDS, "seeds.jsonl")
    path, log = write(recipe), tmp_path / "log"
    assert process(tmp_path / "whole", path, log) == 0
    stages = [one.folder for one in Run.read(tmp_path / "whole").all_stages()]
    second = [one for one in stages if re.match(r"02\.2", one)]
    assert len(second) >= 3
    for folder in second:
        assert process(tmp_path / "run", path, log, f"write:{folder}") == -signal.SIGKILL, folder
    shutil.rmtree(tmp_path / "run" / "stages" / second[-2])
    assert process(tmp_path / "run", path, log, f"commit:{second[-1]}") == -signal.SIGKILL
    assert process(tmp_path / "run", path, log) == 0
    same(tmp_path / "run", tmp_path / "whole")


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
            "SELECT sum(prompt_tokens + completion_tokens) AS x FROM stages WHERE folder LIKE '%-prompt-1-%'",
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
        assert lost and set(column(run, "SELECT step AS x FROM failures")) <= {
            f"prompt@{n}" for n in (1, 2, 3)
        }
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
        rounds = {path: time for path, time in before.items() if path.parent.name.startswith("02.")}
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
