"""Faults put into sound data on purpose: whether `gate: default` refuses each, by the metric that names it.

SYNTHRAY_DATA=DIR uv run python benchmarks/faults.py NAME     # snips, banking77, agnews, tweets; --rows N
The rows are real (of tweets: GPT-4's), as if a faultless model had made them; reference and test are others.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import menu
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from real import read

from synthray.errors import GateRefused
from synthray.recipe import load
from synthray.run import Run

FLIPPED, LEAKED, TEMPLATED = 0.2, 0.1, 0.2
COLLAPSED = 10

RECIPE = """
name: faults
seed: 7
tables: {made: made.parquet, real: real.parquet, test: test.parquet}
steps:
  - source.table: {table: made}
  - evaluate.diversity: {text: text, label: label}
  - evaluate.memorisation: {text: text, against: [test]}
  - evaluate.faithfulness: {text: text, label: label, against: real}
  - evaluate.utility: {text: text, label: label, test: test}
gate: default
"""

NAMES = {
    "collapse": ("diversity",),
    "flips": ("faithfulness.label_accuracy",),
    "shift": ("faithfulness.domain_shift",),
    "half_shift": ("faithfulness",),  # as far from real words as made texts are: by its labels, if at all
    "leak": ("memorisation",),
    "template": ("diversity.boilerplate",),
}
"""By what a fault must be refused, beside other things."""


@dataclass(frozen=True)
class Sound:
    """Rows, others of their kind as reference and test, and texts of another domain."""

    rows: pa.Table
    real: pa.Table
    test: pa.Table
    foreign: tuple[str, ...]


def labelled(table: pa.Table, text: str = "text", label: str = "label") -> pa.Table:
    return pa.table({"text": table[text], "label": table[label].cast(pa.string())})


def distinct(table: pa.Table) -> pa.Table:
    """Return the rows whose text is new: what is in two parts at once would be a leak."""
    first: dict[str, int] = {}
    for place, text in enumerate(table["text"].to_pylist()):
        first.setdefault(" ".join(text.lower().split()), place)
    return table.take(pa.array(sorted(first.values())))


def thirds(table: pa.Table, most: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    table = distinct(table)
    order = np.random.default_rng(5).permutation(len(table))
    each = min(most, len(table) // 3)
    one, two, three = (table.take(pa.array(order[n * each : (n + 1) * each])) for n in range(3))
    return one, two, three


def texts(name: str, most: int, column: str = "text") -> tuple[str, ...]:
    held = read(name)[column].to_pylist()
    order = np.random.default_rng(6).permutation(len(held))[:most]
    return tuple(held[place] for place in order)


def snips(most: int) -> Sound:
    return Sound(*thirds(labelled(read("snips")), most), texts("banking77", most))


def banking77(most: int) -> Sound:
    return Sound(*thirds(labelled(read("banking77")), most), texts("snips", most))


def agnews(most: int) -> Sound:
    table = read("noisy_agnews")
    clean = table.filter(pc.equal(table["split"], "clean_test"))
    return Sound(*thirds(labelled(clean, label="true_label"), most), texts("medical_abstracts_test", most))


def tweets(most: int) -> Sound:
    """Return GPT-4's rewrites of 500 tweets, the tweets, and other tweets: synthetic rows, merely near."""
    table = read("gpt_augmented_sentiment")
    made = table.filter(
        pc.and_(pc.equal(table["generator"], "gpt-4"), pc.equal(table["sampling"], "balanced"))
    )
    seeds = table.filter(pc.equal(table["split"], "human_base"))
    test = table.filter(pc.equal(table["split"], "human_test"))
    rows, tested = (
        held.take(pa.array(np.random.default_rng(5).permutation(len(held))[:most]))
        for held in (distinct(labelled(made)), distinct(labelled(test)))
    )
    return Sound(rows, distinct(labelled(seeds)), tested, texts("medical_abstracts_test", most))


SETS: Mapping[str, Callable[[int], Sound]] = {
    "snips": snips,
    "banking77": banking77,
    "agnews": agnews,
    "tweets": tweets,
}


def collapse(sound: Sound, random: np.random.Generator) -> pa.Table:
    return sound.rows.take(pa.array(random.integers(0, COLLAPSED, len(sound.rows))))


def flips(sound: Sound, random: np.random.Generator) -> pa.Table:
    labels = sound.rows["label"].to_pylist()
    known = sorted(set(labels))
    for place in picked(sound, FLIPPED, random):
        labels[place] = random.choice([one for one in known if one != labels[place]])
    return pa.table({"text": sound.rows["text"], "label": labels})


def shift(sound: Sound, random: np.random.Generator, share: float = 1.0) -> pa.Table:
    held = sound.rows["text"].to_pylist()
    for place in picked(sound, share, random):
        held[place] = sound.foreign[place % len(sound.foreign)]
    return pa.table({"text": held, "label": sound.rows["label"]})


def leak(sound: Sound, random: np.random.Generator) -> pa.Table:
    leaking = picked(sound, LEAKED, random)
    kept = sound.rows.take(pa.array(np.setdiff1d(np.arange(len(sound.rows)), leaking)))
    taken = random.choice(len(sound.test), min(len(leaking), len(sound.test)), replace=False)
    return pa.concat_tables([kept, sound.test.take(pa.array(taken))])


def template(sound: Sound, random: np.random.Generator) -> pa.Table:
    held = sound.rows["text"].to_pylist()
    for place in picked(sound, TEMPLATED, random):
        held[place] = f"Here is an example for the category {sound.rows['label'][place]}: {held[place]}"
    return pa.table({"text": held, "label": sound.rows["label"]})


def picked(sound: Sound, share: float, random: np.random.Generator) -> Any:
    return random.choice(len(sound.rows), round(share * len(sound.rows)), replace=False)


FAULTS: Mapping[str, Callable[[Sound, np.random.Generator], pa.Table]] = {
    "sound": lambda sound, random: sound.rows,
    "collapse": collapse,
    "flips": flips,
    "shift": shift,
    "half_shift": lambda sound, random: shift(sound, random, 0.5),
    "leak": leak,
    "template": template,
}


def judged(sound: Sound, rows: pa.Table, folder: Path) -> list[dict[str, Any]]:
    """Run the recipe over rows; return the gate's lines."""
    folder.mkdir()
    for name, table in (("made", rows), ("real", sound.real), ("test", sound.test)):
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "faults.yaml").write_text(RECIPE, encoding="utf-8")
    try:
        done = load(str(folder / "faults.yaml")).run(folder / "run", quiet=True)
    except GateRefused:
        done = Run.read(folder / "run")
    return list(done.state["gate"])


def stopped(lines: list[dict[str, Any]], fault: str) -> bool:
    """Say whether the gate refused by a metric that names the fault, or let sound data pass."""
    refused = [line["condition"] for line in lines if not line["passed"]]
    if fault == "sound":
        return not refused
    return any(name in condition for condition in refused for name in NAMES[fault])


def told(name: str) -> Callable[[argparse.Namespace], None]:
    def tell(arguments: argparse.Namespace) -> None:
        sound = SETS[name](arguments.rows)
        print(f"{name}: {len(sound.rows)} rows, {len(sound.real)} real, {len(sound.test)} test")
        with tempfile.TemporaryDirectory() as folder:
            for fault, spoil in FAULTS.items():
                lines = judged(sound, spoil(sound, np.random.default_rng(1)), Path(folder) / fault)
                right = "as it should" if stopped(lines, fault) else "WRONG"
                refused = [f"{one['condition']} ({one['found']})" for one in lines if not one["passed"]]
                print(f"  {fault:10} {right:12} refused by: {'; '.join(refused) or 'nothing'}")
                if fault == "sound":
                    for one in lines:
                        print(f"            {one['found']}")

    return tell


if __name__ == "__main__":
    menu.choose(__file__, __doc__, {name: told(name) for name in SETS}, rows=2000)
