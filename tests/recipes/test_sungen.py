"""SunGen: weights without gold rows, which fall on rows whose label does not fit their text."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
from scripting import COMMON, LABELS, WORDS, conserved, reasons, rows, scripted
from sklearn.metrics import roc_auc_score

from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.model.language import Request
    from synthray.run import Run

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers do not see tests/
ROWS = 240


def write(request: Request) -> str:
    """Write of the label's subject, and in a fifth of the texts of another: its own words tell which."""
    assert request.prompt is not None
    draw = random.Random(request.seed)
    asked = re.match(r"^The (\S+) news report under", request.prompt)
    if asked is None:
        return f"Affair {request.seed % 100_000}"
    if draw.random() < 0.05:
        return "No."
    others = [label for label in LABELS if label != asked[1]]
    about = draw.choice(others) if draw.random() < 0.2 else asked[1]
    words = draw.choices(WORDS[about].split(), k=7) + draw.choices(COMMON, k=7)
    draw.shuffle(words)
    return " ".join(words)


def told(text: str) -> str:
    """Return what a text is about: the label most of its telling words are of."""
    return max(LABELS, key=lambda label: len(set(text.split()) & set(WORDS[label].split())))


@pytest.fixture(scope="module", name="run")
def made(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    pipeline = scripted("sungen", write, f"conditions.rows={ROWS}")
    return pipeline.run(tmp_path_factory.mktemp("sungen") / "run", quiet=True)


@pytest.mark.ray
class TestSungen:
    def test_weights_fall_on_flipped_labels(self, run: Run) -> None:
        found = rows(run, "SELECT text, label, weight FROM dataset ORDER BY row_id")
        flipped = [told(row["text"]) != row["label"] for row in found]
        assert 0.1 < sum(flipped) / len(flipped) < 0.3
        weights = [row["weight"] for row in found]
        assert roc_auc_score(flipped, [-weight for weight in weights]) > 0.95
        # They are no filter: each row is there, with what it counts.
        assert len(found) == ROWS - reasons(run)["too_short"] - reasons(run)["exact_duplicate"]
        assert min(weights) >= 0
        assert sum(weights) / len(weights) == pytest.approx(1, abs=1e-5)

    def test_each_label_keeps_its_part_of_all_weight(self, run: Run) -> None:
        found = rows(run, "SELECT label, count(*) AS n, sum(weight) AS total FROM dataset GROUP BY label")
        assert {row["label"] for row in found} == set(LABELS)
        for row in found:
            assert row["total"] == pytest.approx(row["n"], rel=0.1)

    def test_students_learn_with_and_without_the_weights_and_they_are_exported(self, run: Run) -> None:
        sql = "SELECT step, value, n FROM metrics WHERE metric = 'accuracy' AND slice IS NULL"
        measured = {row["step"]: row for row in rows(run, sql)}
        assert set(measured) == {"weighted", "unweighted"}
        assert {row["n"] for row in measured.values()} == {120}
        effective = rows(run, "SELECT value, n FROM metrics WHERE metric = 'effective_rows'")[0]
        assert 0.5 * effective["n"] < effective["value"] < effective["n"]
        files = sorted((Path(run.root) / "dataset" / "data").glob("*.parquet"))
        assert len(files) == 2
        assert all(
            pq.read_table(file).column_names == ["row_id", "text", "label", "weight", "entity"]
            for file in files
        )
        assert conserved(run)


@pytest.mark.ray
@pytest.mark.model
def test_on_the_embedded_model(ray_session: None, tmp_path: Path) -> None:
    settings = ["entities_conditions.rows=16", "conditions.rows=32", "prompt.max_tokens=24"]
    run = load("sungen", settings=settings).run(tmp_path / "run", quiet=True)
    found = rows(run, "SELECT text, entity, weight FROM dataset")
    assert found
    assert all(row["text"] and row["entity"] and row["weight"] is not None for row in found)
    asked = rows(run, "SELECT reject_reason AS reason FROM rows WHERE prompt_call IS NOT NULL")
    assert len(asked) == 32
    assert len(found) == sum(row["reason"] is None for row in asked)
    assert conserved(run)
