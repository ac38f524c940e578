"""How often the interval of evaluate.label_accuracy holds the truth, on real labels, and how wide it is.

SYNTHRAY_DATA=DIR uv run python benchmarks/correction.py           # about a minute and a half on two cores

People are the true labels of a data set; each draw is another review of it. Nominal is 95%. `low` and
`high` are the shares of draws in which the truth is below and above the interval; `classical` is Wilson's
interval of the slice alone, which is the ceiling: what people say without a model. `picked` gives half of
the budget to the least sure rows, which all are answered, the other half to the slice.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from menu import choose
from real import read

from synthray.label.correction import Stratum, joined
from synthray.model.student import Student

FOLDS = 5
SIZES = (20, 50, 100, 200, 500)

Numbers = np.ndarray[Any, np.dtype[Any]]


def out_of_fold(texts: Sequence[str], labels: Sequence[str]) -> tuple[list[str], Numbers]:
    """Return the classes, and their probabilities by students that never saw the row."""
    classes = sorted(set(labels))
    fold = np.random.default_rng(0).integers(0, FOLDS, len(texts))
    found = np.zeros((len(texts), len(classes)))
    for one in range(FOLDS):
        seen, judged = np.flatnonzero(fold != one), np.flatnonzero(fold == one)
        student = Student(kind="bayes").fit([texts[row] for row in seen], [labels[row] for row in seen])
        found[judged] = student.probabilities([texts[row] for row in judged], classes)
    return classes, found


def agnews(options: argparse.Namespace) -> None:
    """Labels of crowd workers, 19.75% wrong; believed as students of these labels do."""
    rows = [row for row in read("noisy_agnews").to_pylist() if row["split"] == "noisy_10k"]
    given = [str(row["given_label"]) for row in rows]
    classes, probabilities = out_of_fold([row["text"] for row in rows], given)
    right = np.array([row["true_label"] == row["given_label"] for row in rows], float)
    beliefs = probabilities[np.arange(len(rows)), [classes.index(label) for label in given]]
    simulate("noisy_agnews", right, beliefs, options.draws)
    sure = beliefs >= np.quantile(beliefs, 0.6)
    simulate("noisy_agnews, the surest 40%", right[sure], beliefs[sure], options.draws)


def sentiment(options: argparse.Namespace) -> None:
    """Labels that a student of GPT-4's tweets gives real ones; half are wrong, and it hardly knows which."""
    rows = read("gpt_augmented_sentiment").to_pylist()
    written = [row for row in rows if row["generator"] == "gpt-4" and row["sampling"] == "balanced"]
    real = [row for row in rows if row["split"] == "human_test"]
    student = Student(kind="bayes").fit(
        [row["text"] for row in written], [str(row["label"]) for row in written]
    )
    probabilities = student.probabilities([row["text"] for row in real], student.classes)
    said = np.array(student.classes)[probabilities.argmax(axis=1)]
    right = (said == [str(row["label"]) for row in real]).astype(float)
    simulate("gpt_augmented_sentiment", right, probabilities.max(axis=1), options.draws)


def snips(options: argparse.Namespace) -> None:
    """Labels that students give voice commands: nearly all are right."""
    rows = read("snips").to_pylist()
    labels = [str(row["label"]) for row in rows]
    classes, probabilities = out_of_fold([row["text"] for row in rows], labels)
    right = (np.array(classes)[probabilities.argmax(axis=1)] == labels).astype(float)
    simulate("snips", right, probabilities.max(axis=1), options.draws)


def newsgroups(options: argparse.Namespace) -> None:
    """Rows of 20news that five people each looked at, 93 of them: the slice is much of all."""
    rows = [row for row in read("label_errors_20news").to_pylist() if row["reviewed"]]
    right = np.array([not row["validated_error"] for row in rows], float)
    beliefs = np.array([row["pred_probs"][int(row["given_label"])] for row in rows])
    simulate("label_errors_20news, reviewed", right, beliefs, options.draws, (20, 40, 60))


def simulate(name: str, right: Numbers, beliefs: Numbers, draws: int, sizes: Sequence[int] = SIZES) -> None:
    """Draw reviews and print how often the intervals hold the truth."""
    correlation = np.corrcoef(right, beliefs)[0, 1]
    print(f"\n{name}: {len(right)} rows, {right.mean():.3f} right, correlation of beliefs {correlation:.2f}")
    print(f"{'design':8}{'people':>7}{'covered':>9}{'low':>7}{'high':>7}{'width':>8}{'bias':>9}", end="")
    print(f"{'classical':>11}{'width':>8}{'ratio':>7}")
    order = np.argsort(beliefs, kind="stable")
    for design in ("random", "picked"):
        for size in sizes:
            picked = order[: size // 2] if design == "picked" else order[:0]
            show(design, size, right, beliefs, picked, draws)


def show(design: str, size: int, right: Numbers, beliefs: Numbers, picked: Numbers, draws: int) -> None:
    random = np.random.default_rng(size)
    truth, rest = right.mean(), np.setdiff1d(np.arange(len(right)), picked)
    found = []
    for _ in range(draws):
        drawn = random.choice(len(right), size - len(picked), replace=False)
        own = drawn[~np.isin(drawn, picked)]
        strata = [stratum(picked, picked, right, beliefs), stratum(rest, own, right, beliefs)]
        alone = joined([stratum(np.arange(len(right)), drawn, right, beliefs)], tuned=False)
        found.append([*flat(joined(strata), truth), *flat(alone, truth)])
    below, above, width, bias, below_alone, above_alone, width_alone, _ = np.mean(found, axis=0)
    print(
        f"{design:8}{size:7}{1 - below - above:9.3f}{below:7.3f}{above:7.3f}{width:8.4f}{bias:+9.4f}"
        f"{1 - below_alone - above_alone:11.3f}{width_alone:8.4f}{width / width_alone:7.3f}",
        flush=True,
    )


def stratum(rows: Numbers, answered: Numbers, right: Numbers, beliefs: Numbers) -> Stratum:
    belief = float(beliefs[rows].mean()) if len(rows) else 0.0
    return Stratum(len(rows), belief, right[answered], beliefs[answered], np.ones(len(answered)))


def flat(found: Any, truth: float) -> tuple[float, float, float, float]:
    """Return whether the truth is below or above, beyond rounding; the width, and the error."""
    rounding = 1e-9
    return (
        float(truth < found.low - rounding),
        float(truth > found.high + rounding),
        found.high - found.low,
        found.value - truth,
    )


if __name__ == "__main__":
    named = {"agnews": agnews, "sentiment": sentiment, "snips": snips, "newsgroups": newsgroups}
    choose(__file__, __doc__, named, draws=2000)
