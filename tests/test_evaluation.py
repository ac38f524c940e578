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


def measured(folder: Path, given: pa.Table, *, blocks: int = 1, recipe: str = RECIPE) -> Run:
    folder.mkdir()
    for name, table in (("made", given), ("real", rows(300, 2)), ("test", rows(200, 3))):
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "recipe.yaml").write_text(f"{recipe}blocks: {blocks}\n", encoding="utf-8")
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


GATED = """
name: gated
seed: 7
tables: {made: made.parquet, real: real.parquet, test: test.parquet}
steps:
  - source.table: {table: made}
  - evaluate.diversity: {text: text, label: label, sample: 50}
  - evaluate.memorisation: {text: text, against: [test], nearest: false}
  - evaluate.faithfulness: {text: text, label: label, against: real, sample: 150, resamples: 100}
  - evaluate.utility: {text: text, label: label, test: test, resamples: 100}
gate: default
"""


def spoilt(fault: str) -> pa.Table:
    """Return sound rows, or such with a fault."""
    chance = random.Random(5)
    made = rows(300, 1).to_pylist()
    for place, row in enumerate(made):
        if fault == "collapse":
            made[place] = made[place % 10]
        elif fault == "flips" and chance.random() < 0.25:
            row["label"] = "sport" if row["label"] == "business" else "business"
        elif fault == "shift":
            row["text"] = " ".join(
                chance.choices(["patient", "dose", "study", "trial", "cell", "gene", "tumour"], k=8)
            )
        elif fault == "leak" and place % 10 == 0:
            row["text"] = LEAKED[place // 10]
        elif fault == "template" and place % 5 == 0:
            row["text"] = f"here is a short text that is about {row['label']} {row['text']}"
    return pa.Table.from_pylist(made)


LEAKED = [text for text in rows(200, 3)["text"].to_pylist() if len(text.split()) > 7]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("sound", ""),
        ("collapse", "diversity.duplicates"),
        ("flips", "faithfulness.label_accuracy"),
        ("shift", "faithfulness.domain_shift"),
        ("leak", "memorisation.leaked"),
        ("template", "diversity.boilerplate"),
    ],
)
def test_the_default_gate_stops_a_fault_and_names_it(tmp_path: Path, fault: str, named: str) -> None:
    run = measured(tmp_path / "run", spoilt(fault), recipe=GATED)
    refused = [one["condition"] for one in run.state["gate"] if not one["passed"]]
    assert bool(refused) is bool(named), refused
    assert not named or any(named in one for one in refused), refused
