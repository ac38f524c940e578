"""What workers do for a stage: artifacts that are kept."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import ray.cloudpickle

from synthray.errors import RunFailed
from synthray.operator import Operator
from synthray.pipeline import Pipeline
from synthray.run import Run
from synthray.source.table import Table
from synthray.statement import Statement, Where
from synthray.step import Step

if TYPE_CHECKING:
    from synthray.stage import Stage

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

TEXTS = ["alpha beta", "gamma", "", "avocado pear fig", "delta", "alpha beta"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS)))
    return path


@pytest.fixture
def run(texts: Path, tmp_path: Path) -> Callable[..., Run]:
    def done(*steps: Operator | Statement | Step, **settings: object) -> Run:
        pipeline = Pipeline([Table(path=str(texts)), *steps], max_failed=1.0, **settings)  # type: ignore[arg-type]
        return pipeline.run(tmp_path / "run", quiet=True)

    return done


@dataclass(frozen=True)
class Keeps(Operator):
    """Add `sum` of `parts` and what is kept; it writes each making into `log`, and breaks where `breaks`."""

    log: str
    parts: int = 1
    threshold: float = 0.5
    breaks: bool = False

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"kept": pa.string()}

    def apply(self, stage: Stage) -> None:
        def make(folder: Path) -> None:
            assert not list(folder.iterdir()), "nothing is left of another attempt"
            with Path(self.log).open("a") as file:
                file.write(f"{self.parts}\n")
            (folder / "half").write_text(str(self.parts))
            if self.breaks:
                raise ValueError("no more room")
            (folder / "whole").write_text(stage.query.value("SELECT string_agg(n, '' ORDER BY n) FROM rows"))

        folder = stage.kept("thing", {"parts": self.parts}, make)
        held = (folder / "whole").read_text()
        row_ids = stage.query.arrow("SELECT row_id FROM rows")["row_id"]
        stage.added(pa.table({"row_id": row_ids, "kept": [f"{held} {self.threshold}"] * len(row_ids)}))


def test_an_artifact_is_made_once_for_what_decides_it(run: Callable[..., Run], tmp_path: Path) -> None:
    log = tmp_path / "log"

    def kept(
        *before: Statement, when: str | None = None, name: str = "keep", **settings: object
    ) -> tuple[set[str], int]:
        """Return what is kept, and how many more artifacts were made."""
        made = len(log.read_text().splitlines()) if log.exists() else 0
        done = run(*before, Step(Keeps(log=str(log), **settings), name=name, when=when))  # type: ignore[arg-type]
        found = done.sql("SELECT DISTINCT kept FROM dataset WHERE kept IS NOT NULL")["kept"].to_pylist()
        return set(found), len(log.read_text().splitlines()) - made

    assert kept() == ({"012345 0.5"}, 1)
    assert kept(threshold=0.7) == ({"012345 0.7"}, 0), "another threshold makes none"
    assert kept(parts=2, threshold=0.7) == ({"012345 0.7"}, 1), "other parts"
    assert kept(Where("n < 5", reason="late")) == ({"01234 0.5"}, 1), "other rows"
    assert kept(when="n > 1") == ({"2345 0.5"}, 1), "rows picked otherwise"
    assert kept(when="n > 1", threshold=0.6) == ({"2345 0.6"}, 0)
    assert kept(threshold=0.9) == ({"012345 0.9"}, 0), "the first one is still there"
    folders = [path.name for path in (tmp_path / "run" / "artifacts").iterdir()]
    assert len(folders) == 4
    assert all(name.startswith("keep-thing-") for name in folders)


def test_an_artifact_whose_making_breaks_is_not_there_and_the_next_run_makes_it(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    log, artifacts = str(tmp_path / "log"), tmp_path / "run" / "artifacts"
    with pytest.raises(ValueError, match="no more room"):
        run(Step(Keeps(log=log, breaks=True), name="keep"))
    assert not list(artifacts.glob("keep-*"))
    assert len(Run.read(tmp_path / "run").stages()) == 1
    done = run(Step(Keeps(log=log), name="keep"))
    assert done.sql("SELECT DISTINCT kept FROM dataset").to_pylist() == [{"kept": "012345 0.5"}]
    assert len(list(artifacts.iterdir())) == 1, "what the first one left is gone"


# Rows that kill.


@dataclass(frozen=True)
class Kills(Operator):
    """Add the length of a text; end the process by SIGKILL at one that says so."""

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"size": pa.int64()}

    def __call__(self, table: pa.Table) -> pa.Table:
        texts = table["text"].to_pylist()
        if "gamma" in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.add(table, {"size": [len(text) for text in texts]})


@dataclass(frozen=True)
class KillsPass(Operator):
    """The same in a pass that makes no rows."""

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"size": pa.int64()}

    def apply(self, stage: Stage) -> None:
        stage.narrow(stage.dataset(["row_id", "text"]), Kills().__call__, stage.path / "narrow")


def test_a_row_that_kills_its_worker_fails_after_two_tries_alone_and_the_others_do_not(
    run: Callable[..., Run],
) -> None:
    done = run(Step(Kills(), name="kills"))
    kept = done.sql("SELECT text, size FROM dataset ORDER BY n").to_pylist()
    assert kept == [{"text": text, "size": len(text)} for text in TEXTS if text != "gamma"]
    failed = done.sql("SELECT text, failed.error, failed.attempts, reject_step FROM failed_rows").to_pylist()
    assert failed == [{"text": "gamma", "error": "WorkerDied", "attempts": 2, "reject_step": "kills"}]
    assert not list(done.root.rglob("begun-*"))[1:], "what was begun and done is not remembered"


def test_a_pass_that_kills_its_workers_ends_and_says_so(run: Callable[..., Run]) -> None:
    with pytest.raises(
        RunFailed, match=r"kills: 4 workers died of a block of 6 rows; they may need more mem"
    ):
        run(Step(KillsPass(), name="kills"))
