"""The measures together, in real runs: for any number of blocks, and against faults that a gate must stop."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import GateRefused
from synthray.recipe import load
from synthray.run import Run

RECIPE = """
name: evaluation
seed: 7
tables: {made: made.parquet, real: real.parquet, test: test.parquet}
steps:
  - source.table: {table: made}
  - curate.embedding: {text: text, dimensions: 32}
  - where: length(text) > 20
    reason: short
  - evaluate.diversity: {text: text, label: label, attributes: [topic], sample: 100}
  - as: by_vector
    evaluate.diversity: {text: text, label: label, embedding: embedding, sample: 100}
  - evaluate.memorisation: {text: text, against: [test, real]}
  - evaluate.faithfulness: {text: text, label: label, against: real, sample: 150, resamples: 100}
  - evaluate.utility: {text: text, label: label, test: test, real: real, sizes: [60], stages: true, resamples: 100}
gate: default
"""

WORDS = {
    "sport": [
        "match",
        "team",
        "player",
        "goal",
        "coach",
        "league",
        "season",
        "score",
        "win",
        "defeat",
        "stadium",
        "fans",
        "referee",
    ],
    "business": [
        "shares",
        "market",
        "profit",
        "bank",
        "trade",
        "company",
        "price",
        "growth",
        "deal",
        "investor",
        "loss",
        "fund",
    ],
}
PLAIN = [
    "the",
    "a",
    "on",
    "in",
    "after",
    "before",
    "of",
    "with",
    "for",
    "monday",
    "tuesday",
    "city",
    "new",
    "old",
    "big",
    "small",
    "said",
    "told",
]


def rows(number: int, seed: int) -> pa.Table:
    """Return sentences of a label's words among plain ones."""
    chance = random.Random(seed)
    made = []
    for _ in range(number):
        label = chance.choice(sorted(WORDS))
        length = chance.randint(2, 14)
        words = [chance.choice(WORDS[label] if chance.random() < 0.4 else PLAIN) for _ in range(length)]
        made.append({"text": " ".join(words), "label": label, "topic": chance.choice("xyz")})
    return pa.Table.from_pylist(made)


def measured(folder: Path, given: pa.Table, *, blocks: int = 1) -> Run:
    folder.mkdir()
    for name, table in (("made", given), ("real", rows(300, 2)), ("test", rows(200, 3))):
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "recipe.yaml").write_text(f"{RECIPE}blocks: {blocks}\n", encoding="utf-8")
    try:
        return load(str(folder / "recipe.yaml")).run(folder / "run", quiet=True)
    except GateRefused:
        return Run.read(folder / "run")


@pytest.mark.ray
def test_metrics_are_the_same_for_any_number_of_blocks(tmp_path: Path) -> None:
    given = rows(400, 1)
    found = {}
    for blocks in (1, 7, 64):
        run = measured(tmp_path / str(blocks), given, blocks=blocks)
        lines = run.sql("SELECT * FROM metrics ORDER BY ALL").to_pylist()
        found[blocks] = {
            (one["step"], one["metric"], one["slice"], field): one[field]
            for one in lines
            for field in ("value", "ci_low", "ci_high", "n")
        }
    assert len(found[1]) > 400
    for blocks in (7, 64):
        assert found[blocks].keys() == found[1].keys()
        for name, value in found[1].items():
            other = found[blocks][name]
            if value is None or math.isnan(value):
                assert other is None or math.isnan(other), name
            else:
                assert other == pytest.approx(value, rel=1e-9, abs=1e-9), name
