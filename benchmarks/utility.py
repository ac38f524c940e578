"""What evaluate.utility says of real synthetic data, and how often its intervals are right.

SYNTHRAY_DATA=DIR uv run python benchmarks/utility.py NAME     # sentiment, sst2, faults, stages, chance

`real` is the ceiling of each: people's rows of the same number, measured in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from menu import choose
from real import read

from synthray.curate.exact_duplicate import ExactDuplicate
from synthray.curate.label_issue import LabelIssue
from synthray.evaluate.utility import Utility
from synthray.model.student import Student
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Rows
from synthray.statement import Where
from synthray.statistic.control import over_chance
from synthray.statistic.paired import Resamples
from synthray.step import Step
from synthray.table import Table

Numbers = np.ndarray[Any, np.dtype[Any]]


def labelled(name: str, text: str = "text", **where: str) -> pa.Table:
    """Return text and label of the rows of a set in which columns have these values."""
    table = read(name, **where)
    return pa.table({"text": table[text], "label": table["label"].cast(pa.string())})


def measured(rows: pa.Table, tables: dict[str, pa.Table], **settings: Any) -> dict[str, dict[str, Any]]:
    """Return what is measured of rows, by metric and slice."""
    rows = rows.append_column("row_id", pa.array([f"{number:06}" for number in range(len(rows))]))
    with tempfile.TemporaryDirectory() as folder:
        held = {}
        for name, table in tables.items():
            pq.write_table(table, f"{folder}/{name}.parquet")
            held[name] = Table.find(f"{name}.parquet", Path(folder))
        context = Context(tables=held, schemas={name: table.schema for name, table in tables.items()})
        names = {name: name for name in tables}
        operator = Utility(text="text", label="label", **names, context=context, **settings)
        operator.check(rows.schema)
        found = operator(rows).to_pylist()
        return {" ".join(filter(None, (row["metric"], row["slice"]))): row for row in found}


def shown(row: dict[str, Any]) -> str:
    if row["ci_low"] is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"


def tell(name: str, found: dict[str, dict[str, Any]], seconds: float) -> None:
    print(f"\n{name}: {seconds:.1f} s")
    for metric, row in found.items():
        if not metric.startswith("f1 "):
            print(f"  {metric:24} {shown(row)}  n={row['n']}")


def sentiment(_: argparse.Namespace) -> None:
    """500 tweets by people against what GPT-3.5 and GPT-4 made of them, on 12,284 test tweets by people."""
    name = "gpt_augmented_sentiment"
    test, real = labelled(name, split="human_test"), labelled(name, split="human_base")
    for generator in ("gpt-3.5-turbo", "gpt-4"):
        rows = labelled(name, generator=generator, sampling="balanced")
        began = time.perf_counter()
        found = measured(rows, {"test": test, "real": real})
        tell(generator, found, time.perf_counter() - began)


def sst2(_: argparse.Namespace) -> None:
    """SuperGen and FewGen on the 872 sentences of SST-2; its training rows are not among the data."""
    test = labelled("supergen_sst2_qnli", "text1", task="SST-2", split="real_test")
    sets = {
        "SuperGen": labelled("supergen_sst2_qnli", "text1", task="SST-2", split="synthetic_train"),
        "FewGen, seed 13": labelled("fewgen_sst2_mnli_5seeds", "text1", task="SST-2", seed="13"),
    }
    for name, rows in sets.items():
        began = time.perf_counter()
        settings = {"students": ("linear", "bayes"), "sizes": (100, 300, 1000, 3000)}
        found = measured(rows, {"test": test}, **settings)
        tell(name, found, time.perf_counter() - began)


# Faults that the default gate is for, and what is only poor.


def faults(_: argparse.Namespace) -> None:
    """Recovery of banking77's own rows, spoilt: half against half, on its test."""
    every, test = labelled("banking77", split="train"), labelled("banking77", split="test")
    places = np.random.default_rng(0).permutation(len(every))
    rows, real = every.take(places[:5000]), every.take(places[5000:])
    random = np.random.default_rng(1)
    text, label = rows["text"].to_pylist(), rows["label"].to_pylist()
    texts, labels = np.array(text, object), np.array(label, object)
    ten = random.choice(len(rows), 10, replace=False)
    chosen = random.choice(ten, len(rows))
    sets = {"as they are": rows, "10 texts": rows.take(chosen)}
    for share in (0.2, 0.4, 0.6, 0.8):
        sets[f"{share:.0%} flipped"] = pa.table({"text": texts, "label": flipped(labels, share, random)})
    for name, one in sets.items():
        began = time.perf_counter()
        found = measured(one, {"test": test, "real": real}, students=("bayes",))
        seconds = time.perf_counter() - began
        both = ", ".join(f"{metric} {shown(found[metric])}" for metric in ("accuracy", "recovery"))
        print(f"{name:14} {both}, {seconds:.1f} s")


def flipped(labels: Numbers, share: float, random: np.random.Generator) -> Numbers:
    """Return labels of which a share is any other."""
    known, code = np.unique(labels.astype(str), return_inverse=True)
    other = (code + random.integers(1, len(known), len(code))) % len(known)
    result: Numbers = known[np.where(random.random(len(code)) < share, other, code)]
    return result


# Which stage bought what.


def stages(options: argparse.Namespace) -> None:
    """banking77 with a fifth of the labels flipped, and copies of 1,000 rows; curated by three steps."""
    rows, test = labelled("banking77", split="train"), labelled("banking77", split="test")
    random = np.random.default_rng(0)
    labels = flipped(np.array(rows["label"].to_pylist(), object), 0.2, random)
    rows = pa.table({"text": rows["text"], "label": labels})
    rows = pa.concat_tables([rows, rows.take(random.choice(len(rows), 1000, replace=False))])
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(rows, f"{folder}/rows.parquet")
        pq.write_table(test, f"{folder}/test.parquet")
        steps = [
            Rows(path=f"{folder}/rows.parquet"),
            Step(Where("length(text) % 10 < 8", "length"), name="length"),
            ExactDuplicate(text="text"),
            Step(Where("exact_duplicate_of IS NULL", "duplicate"), name="exact_duplicate_dropped"),
            LabelIssue(text="text", label="label"),
            Step(Where("NOT label_issue", "label_issue"), name="label_issue_dropped"),
        ]
        tables = {"test": Table.find("test.parquet", Path(folder))}
        for student in ("linear", "bayes"):
            began = time.perf_counter()
            utility = Utility(
                text="text",
                label="label",
                test="test",
                stages=True,
                students=(student,),
                controls=options.controls,
            )
            run = Pipeline([*steps, utility], tables=tables, max_failed=1.0).run(f"{folder}/run", quiet=True)
            seconds = time.perf_counter() - began
            print(f"\n{student}: {seconds:.1f} s with the run")
            found = run.sql(
                "SELECT * FROM metrics WHERE slice LIKE 'stage=%' AND step = 'utility'"
            ).to_pylist()
            for row in found:
                print(f"  {row['slice']:32} {row['metric']:20} {shown(row)}")


# How often a step that drops rows at random is said to have bought something over chance.


def chance(options: argparse.Namespace) -> None:
    """Random filters on small data, judged by naive Bayes: how often the interval leaves 0 out."""
    for name, train, test in (("snips", 300, 150), ("snips", 300, 1000), ("banking77", 600, 500)):
        for kept in (0.8, 0.5):
            share = simulated(name, train, test, kept, options.controls, options.trials)
            print(f"{name:10} {train} rows, {test} to test, {kept:.0%} kept: ", end="")
            print(f"0 is left out in {share:.1%} of {options.trials} trials", flush=True)


def simulated(name: str, train: int, test: int, kept: float, controls: int, trials: int) -> float:
    """Return the share of trials that leave 0 out; each draws rows, test rows, a filter and its controls."""
    every = labelled(name)
    texts, labels = (np.array(every[column].to_pylist(), object) for column in ("text", "label"))
    outside = 0
    for trial in range(trials):
        random = np.random.default_rng(trial)
        drawn = random.permutation(len(texts))
        before, asked = drawn[:train], drawn[train : train + test]
        right = np.empty((test, controls + 1))
        for column in range(controls + 1):
            rows = random.permutation(before)[: round(kept * train)]
            student = Student("bayes").fit(list(texts[rows]), list(labels[rows]))
            right[:, column] = np.array(student.predict(list(texts[asked])), object) == labels[asked]
        outside += excluded(right, trial)
    return outside / trials


def excluded(right: Numbers, seed: int) -> bool:
    """Say whether the interval of the first column over the mean of the others leaves 0 out."""
    scores = Resamples(len(right), 1000, seed).means(right)
    controls, once = right.shape[1] - 1, np.ones((1000, 1))
    chosen = scores.mean(np.array([[0]]), once)
    others = scores.mean(np.arange(1, controls + 1)[:, None], once)
    random = np.random.default_rng([seed, 1])
    low, high = over_chance(chosen, others, right[:, 1:], random).interval(0.95)
    return low > 0 or high < 0


if __name__ == "__main__":
    named = {"sentiment": sentiment, "sst2": sst2, "faults": faults, "stages": stages, "chance": chance}
    choose(__file__, __doc__, named, trials=200, controls=5)
