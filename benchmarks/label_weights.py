"""What weights know of wrong labels, and what a student makes of them, on real texts.

SYNTHRAY_DATA=DIR uv run python benchmarks/label_weights.py      # several minutes on two cores
SYNTHRAY_DATA=DIR uv run python benchmarks/label_weights.py flipped --sets snips --rates 0.2

`flipped` changes labels of clean data, `symmetric`: to any other label; `confusion`: to one that naive Bayes,
trained on the clean labels of other rows, takes for it, as often. A low weight is to mean a wrong label
(AUROC).
`real` has the labels that people got wrong; the ceiling is a student that knows which they are.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from menu import choose
from real import read
from sklearn.metrics import roc_auc_score

from synthray import Context
from synthray.curate.weight import Weight
from synthray.model.student import Student
from synthray.table import Table

if TYPE_CHECKING:
    import argparse

GOLD = 10


def columns(name: str, split: str, *names: str) -> list[np.ndarray]:
    table = read(name, split=split)
    return [np.asarray(table[one].cast(pa.string()).to_pylist(), dtype=object) for one in names]


def rows(texts: np.ndarray, labels: np.ndarray) -> pa.Table:
    ids = [f"{place:06}" for place in range(len(texts))]
    return pa.table({"row_id": ids, "text": pa.array(texts), "label": pa.array(labels)})


def gold(texts: np.ndarray, labels: np.ndarray) -> Context:
    """Return a context with the first so many of each label as gold rows."""
    places = np.concatenate([np.flatnonzero(labels == one)[:GOLD] for one in np.unique(labels)])
    table = pa.table({"text": pa.array(texts[places]), "label": pa.array(labels[places])})
    path = Path(tempfile.mkdtemp()) / "gold.parquet"
    pq.write_table(table, path)
    return Context(tables={"gold": Table((str(path),), "parquet")}, schemas={"gold": table.schema})


METHODS = {
    "sungen": {"by": "sungen"},
    "l2rw": {"by": "l2rw", "gold": "gold"},
    "confidence": {"by": "confidence"},
    "margin": {"by": "confidence", "score": "normalized_margin"},
}


def weighted(name: str, table: pa.Table, context: Context) -> tuple[np.ndarray, float]:
    operator = Weight(label="label", text="text", context=context, **METHODS[name])
    started = time.perf_counter()
    found = operator(table)["weight"].to_numpy()
    return found, time.perf_counter() - started


def confusion(texts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return P(taken for | label), the label itself left out."""
    table = Weight(label="label", text="text", by="confidence").judged(rows(texts, labels))
    matrix = np.asarray(table["probabilities"].combine_chunks().flatten()).reshape(len(table), -1)
    classes, given = np.unique(table["label"].to_pylist(), return_inverse=True)
    counts = np.full((len(classes), len(classes)), 1e-3)
    np.add.at(counts, (given, matrix.argmax(axis=1)), 1)
    np.fill_diagonal(counts, 0)
    return counts / counts.sum(axis=1, keepdims=True)


def flipped_labels(
    labels: np.ndarray, rate: float, matrix: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels with a share of them changed, and which."""
    random = np.random.default_rng(seed)
    classes, given = np.unique(labels, return_inverse=True)
    chosen = random.permutation(len(labels))[: round(rate * len(labels))]
    if matrix is None:
        given[chosen] = (given[chosen] + random.integers(1, len(classes), len(chosen))) % len(classes)
    else:
        given[chosen] = [random.choice(len(classes), p=matrix[place]) for place in given[chosen]]
    return classes[given], np.isin(np.arange(len(labels)), chosen)


def flipped(arguments: argparse.Namespace) -> None:
    """Flip labels of Banking77 and Snips, and say how well weights find them."""
    for name in arguments.sets.split(","):
        texts, labels = columns(name, "train", "text", "label")
        context = gold(*columns(name, "test", "text", "label"))
        matrix = confusion(texts, labels)
        for kind in arguments.kinds.split(","):
            for rate in map(float, arguments.rates.split(",")):
                given, wrong = flipped_labels(labels, rate, matrix if kind == "confusion" else None, 7)
                table = rows(texts, given)
                line = f"flipped: {name} ({len(texts)} rows), {kind} {rate:.0%}:"
                for method in arguments.methods.split(","):
                    found, seconds = weighted(method, table, context)
                    line += f" {method} {roc_auc_score(~wrong, found):.3f} ({seconds:.1f} s)"
                print(line, flush=True)


def real(arguments: argparse.Namespace) -> None:
    """Weigh the labels that people gave to news, and test a student of them on clean labels."""
    texts, given, true = columns("noisy_agnews", "noisy_10k", "text", "given_label", "true_label")
    test, truth = columns("noisy_agnews", "clean_test", "text", "true_label")
    right = given == true
    # Gold rows are taken from the test: they are then no part of it.
    context = gold(test, truth)
    held = np.concatenate([np.flatnonzero(truth == one)[:GOLD] for one in np.unique(truth)])
    test, truth = np.delete(test, held), np.delete(truth, held)
    said: dict[str, np.ndarray] = {}

    def accuracy(name: str, weights: np.ndarray | None) -> float:
        said[name] = np.asarray(
            Student("linear").fit(texts.tolist(), given, weights).predict(test.tolist()), object
        )
        return float((said[name] == truth).mean())

    print(f"real: {len(texts)} rows, {1 - right.mean():.4f} wrong; tested on {len(test)}")
    print(f"real: raw accuracy {accuracy('raw', None):.4f}")
    print(f"real: wrong rows left out (ceiling) {accuracy('ceiling', right * 1.0):.4f}", flush=True)
    random = np.random.default_rng(5).integers(0, len(test), (1000, len(test)))
    table = rows(texts, given)
    for method in arguments.methods.split(","):
        found, seconds = weighted(method, table, context)
        score = accuracy(method, found)
        gain = (said[method] == truth) * 1.0 - (said["raw"] == truth)
        low, high = np.quantile(gain[random].mean(axis=1), [0.025, 0.975])
        print(
            f"real: {method}: AUROC {roc_auc_score(right, found):.3f}, accuracy {score:.4f}, "
            f"gain {gain.mean():+.4f} [{low:+.4f}, {high:+.4f}], {seconds:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    choose(
        __file__,
        __doc__,
        {"flipped": flipped, "real": real},
        sets="banking77,snips",
        kinds="symmetric,confusion",
        rates="0.1,0.2,0.4",
        methods=",".join(METHODS),
    )
