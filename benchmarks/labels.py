"""Labels against data with truth: which wrong ones are found, and what mending them is worth on real tests.

SYNTHRAY_DATA=DIR uv run python benchmarks/labels.py NAME     # students, agnews, downstream, flips
The students were chosen on flipped labels (`students`); nothing was chosen on what the others report.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import menu
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from real import read
from sklearn.metrics import f1_score, roc_auc_score

from synthray.curate.embedding import Embedding
from synthray.curate.label_issue import LabelIssue
from synthray.curate.student import Student as Said
from synthray.lineage import digest
from synthray.model.student import Student
from synthray.operator import Context

Numbers = np.ndarray[Any, Any]
STUDENT_ROWS = 4000
RANDOM_DRAWS = 10
RESAMPLES = 2000


@dataclass(frozen=True)
class Set:
    """Texts with given labels, the true ones where they are known, and a test by people."""

    name: str
    rows: pa.Table
    true: Numbers | None = None
    test_texts: tuple[str, ...] = ()
    test_labels: tuple[str, ...] = ()

    @property
    def given(self) -> Numbers:
        """The given labels."""
        return np.array(self.rows["label"].to_pylist())

    @property
    def wrong(self) -> Numbers:
        """Which of them are wrong."""
        found: Numbers = self.given != self.true
        return found


def rows(table: pa.Table, text: str, label: str, parent: str | None = None) -> pa.Table:
    """Return the rows that operators take; `parent` is the column of what a row was made from."""
    parents = [None] * len(table) if parent is None else [digest(one) for one in table[parent].to_pylist()]
    return pa.table(
        {
            "row_id": [f"{number:06}" for number in range(len(table))],
            "parent_id": pa.array(parents, pa.string()),
            "text": table[text],
            "label": table[label].cast(pa.string()),
        }
    )


def agnews_set() -> Set:
    table = read("noisy_agnews")
    noisy = table.filter(pc.equal(table["split"], "noisy_10k"))
    clean = table.filter(pc.equal(table["split"], "clean_test"))
    return Set(
        "noisy_agnews",
        rows(noisy, "text", "given_label"),
        np.array(noisy["true_label"].cast(pa.string()).to_pylist()),
        tuple(clean["text"].to_pylist()),
        tuple(clean["true_label"].cast(pa.string()).to_pylist()),
    )


def flipped(name: str, rate: float, kind: str) -> Set:
    """Return a set of which some labels were flipped: to any other, or to what a student confuses it with."""
    table = read(name)
    if "split" in table.column_names:
        table = table.filter(pc.equal(table["split"], "train"))
    if name == "sms_spam":  # its repeats would keep their labels in common
        kept: dict[str, int] = {}
        for place, text in enumerate(table["text"].to_pylist()):
            kept.setdefault(text, place)
        table = table.take(list(kept.values()))
    held = rows(table, "text", "label")
    true = np.array(held["label"].to_pylist())
    classes, code = np.unique(true, return_inverse=True)
    random = np.random.default_rng(1)
    chosen = random.random(len(code)) < rate
    if kind == "symmetric":
        other = (code + random.integers(1, len(classes), len(code))) % len(classes)
    else:
        judged = np.array(Said(text="text", label="label")(held)["student_probabilities"].to_pylist())
        confused = np.stack([judged[code == place].mean(axis=0) for place in range(len(classes))]) + 1e-9
        np.fill_diagonal(confused, 0)
        ends = (confused / confused.sum(axis=1, keepdims=True)).cumsum(axis=1)[code]
        other = np.minimum((ends < random.random(len(code))[:, None]).sum(axis=1), len(classes) - 1)
    given = classes[np.where(chosen, other, code)]
    return Set(f"{name} {kind} {rate:.0%}", held.set_column(3, "label", pa.array(given)), true)


def found(one: Set, issue: Numbers, quality: Numbers) -> str:
    """Return precision and recall of what was marked, and how the quality ranks wrong rows."""
    hits = (issue & one.wrong).sum()
    area = roc_auc_score(one.wrong, -quality)
    return (
        f"{issue.sum():5} marked, precision {hits / max(1, issue.sum()):.3f}, "
        f"recall {hits / one.wrong.sum():.3f}, AUROC {area:.3f}"
    )


def marked(table: pa.Table, **settings: Any) -> pa.Table:
    return LabelIssue(label="label", **{"text": "text", **settings})(table)


def issues(table: pa.Table) -> tuple[Numbers, Numbers]:
    return np.array(table["label_issue"].to_pylist()), np.array(table["label_quality"].to_pylist())


# Which student.


def students(_: argparse.Namespace) -> None:
    """Time and quality of the students on a fifth of flipped labels, symmetric; and on noisy_agnews."""
    sets = [
        flipped(name, 0.2, "symmetric")
        for name in ("banking77", "snips", "sms_spam", "medical_abstracts_test")
    ]
    for one in [*sets, agnews_set()]:
        some = np.sort(np.random.default_rng(0).permutation(len(one.rows))[:STUDENT_ROWS])
        one = Set(one.name, one.rows.take(some), None if one.true is None else one.true[some])
        table = Embedding(text="text")(one.rows)
        for features in ("text", "embedding"):
            for kind in ("bayes", "linear"):
                for calibrated in (False, True):
                    settings = {"text": None, features: features, "student": kind, "calibrated": calibrated}
                    said = Said(label="label", context=Context(seed=1), **settings)  # type: ignore[arg-type]
                    start = time.perf_counter()
                    judged = said.judged(table)
                    seconds = time.perf_counter() - start
                    made = marked(judged, text=None, probabilities="probabilities")
                    right = np.array(made["suggested_label"].to_pylist()) == one.true
                    print(
                        f"{one.name}, {len(table)} rows, {features} {kind}{', calibrated' * calibrated}: "
                        f"{seconds:.1f} s, "
                        f"true label {right.mean():.3f}, {found(one, *issues(made))}",
                        flush=True,
                    )


# What mending is worth.


def predicted(one: Set, texts: list[str], labels: list[str], weights: Numbers | None = None) -> Numbers:
    """Return what the student of the final test, which is always the same, says of the test."""
    return np.array(Student("linear").fit(texts, labels, weights).predict(list(one.test_texts)))


def random_drops(one: Set, count: int) -> list[Numbers]:
    """Return what it says when so many rows are left out by chance, for some draws."""
    texts, labels = one.rows["text"].to_pylist(), one.rows["label"].to_pylist()
    drawn = []
    for draw in range(RANDOM_DRAWS):
        kept = np.sort(np.random.default_rng(draw).permutation(len(texts))[count:])
        drawn.append(predicted(one, [texts[row] for row in kept], [labels[row] for row in kept]))
    return drawn


def score(metric: str, truth: Numbers, said: Numbers) -> float:
    if metric == "accuracy":
        return float((truth == said).mean())
    return float(f1_score(truth, said, average="macro", zero_division=0))


def gain(metric: str, truth: Numbers, said: Numbers, others: list[Numbers]) -> str:
    """Return how much better it is than others on average, with a paired bootstrap over test rows."""
    random = np.random.default_rng(0)
    samples = random.integers(0, len(truth), (RESAMPLES, len(truth)))

    def values(one: Numbers) -> Numbers:
        if metric == "accuracy":
            right = truth == one
            return np.array([right[sample].mean() for sample in samples])
        return np.array([_macro(truth[sample], one[sample]) for sample in samples])

    classes, truth = np.unique(truth, return_inverse=True)
    said, others = np.searchsorted(classes, said), [np.searchsorted(classes, one) for one in others]

    def _macro(given: Numbers, predicted: Numbers) -> float:
        size = len(classes)
        table = np.bincount(given * size + predicted, minlength=size * size).reshape(size, size)
        return float((2 * table.diagonal() / np.maximum(table.sum(axis=0) + table.sum(axis=1), 1)).mean())

    difference = values(said) - np.mean([values(one) for one in others], axis=0)
    middle = score(metric, truth, said) - np.mean([score(metric, truth, one) for one in others])
    low, high = np.quantile(difference, [0.025, 0.975])
    return f"{middle:+.4f} [{low:+.4f}, {high:+.4f}]"


Mended = tuple[list[str], list[str], Numbers | None]
"""Texts, labels and weights to learn from."""


def worth(one: Set, metric: str, marks: int, ways: Mapping[str, Callable[[], Mended]]) -> None:
    """Print the score of the final student on the rows as they are, and after each way of mending them.

    What keeps all rows is compared with pruning by chance as many as have `marks`.
    """
    truth = np.array(one.test_labels)
    texts, labels = one.rows["text"].to_pylist(), one.rows["label"].to_pylist()
    raw = predicted(one, texts, labels)
    print(
        f"{one.name}: {len(texts)} rows, {metric} on {len(truth)} test rows: {score(metric, truth, raw):.4f}"
    )
    drawn: dict[int, list[Numbers]] = {}
    for name, way in ways.items():
        held = way()
        said, count = predicted(one, *held), len(texts) - len(held[0]) or marks
        if count not in drawn:
            drawn[count] = random_drops(one, count)
        print(
            f"  {name}: {score(metric, truth, said):.4f}, over raw {gain(metric, truth, said, [raw])}, "
            f"over {count} rows pruned by chance {gain(metric, truth, said, drawn[count])}",
            flush=True,
        )


def ways(one: Set, made: pa.Table) -> dict[str, Callable[[], Mended]]:
    """Return the ways of mending rows of which label issues were marked."""
    texts, labels = made["text"].to_pylist(), made["label"].to_pylist()
    issue, quality = issues(made)
    suggested = made["suggested_label"].to_pylist()

    def pruned() -> Mended:
        kept = np.flatnonzero(~issue)
        return [texts[row] for row in kept], [labels[row] for row in kept], None

    def relabelled() -> Mended:
        return texts, [suggested[row] if issue[row] else labels[row] for row in range(len(texts))], None

    def sungen() -> Mended:
        from synthray.curate.weight import Weight

        weighted = Weight(by="sungen", text="text", label="label")(one.rows)
        return texts, labels, np.array(weighted["weight"].to_pylist())

    return {
        "pruned": pruned,
        "relabelled by the student": relabelled,
        "weighted by quality": lambda: (texts, labels, quality),
        "weighted by sungen": sungen,
    }


def agnews(_: argparse.Namespace) -> None:
    """Label errors of people in noisy_agnews: found, and what mending them is worth on the clean test."""
    one = agnews_set()
    made = marked(one.rows)
    print(f"{one.name}, defaults: {found(one, *issues(made))}")
    oracle = np.flatnonzero(~one.wrong)
    texts, labels = one.rows["text"].to_pylist(), one.rows["label"].to_pylist()
    both = ways(one, made) | {
        "all wrong rows left out, if they were known": lambda: (
            [texts[row] for row in oracle],
            [labels[row] for row in oracle],
            None,
        )
    }
    worth(one, "accuracy", _marks(made), both)
    try:
        embedded = Embedding(text="text", by="sentence_transformers", name=os.environ["SYNTHRAY_EMBEDDER"])(
            one.rows
        )
    except KeyError:
        print("with real embeddings: not measured; SYNTHRAY_EMBEDDER names no sentence-transformers model")
        return
    with_vectors(one, embedded)


def with_vectors(one: Set, table: pa.Table) -> None:
    """Judge by texts and vectors, once, and again by students that do not learn from what was marked."""
    settings = {"embedding": "embedding"}
    first = marked(table, **settings)
    print(f"{one.name}, text and embedding: {found(one, *issues(first))}")
    kept = pc.if_else(first["label_issue"], 0.0, 1.0)
    second = marked(table.append_column("weight", kept), weight="weight", **settings)
    print(f"{one.name}, again without what was marked: {found(one, *issues(second))}")
    for rule in ("prune_by_class", "predicted_neq_given"):
        other = marked(table.append_column("weight", kept), weight="weight", filter_by=rule, **settings)
        print(f"{one.name}, again, {rule}: {found(one, *issues(other))}")
    worth(one, "accuracy", _marks(second), ways(one, second))


def downstream(_: argparse.Namespace) -> None:
    """Rows that models have made, mended; macro-F1 on tests by people."""
    table = read("gpt_augmented_sentiment")
    test = table.filter(pc.equal(table["split"], "human_test"))
    for generator in ("gpt-3.5-turbo", "gpt-4"):
        chosen = pc.and_(pc.equal(table["generator"], generator), pc.equal(table["sampling"], "balanced"))
        made = table.filter(pc.and_(pc.equal(table["split"], "llm_augmented"), chosen))
        one = Set(
            f"gpt_augmented_sentiment, {generator}",
            rows(made, "text", "label", "seed_text"),
            None,
            tuple(test["text"].to_pylist()),
            tuple(test["label"].to_pylist()),
        )
        mended(one)
    table, people = read("fewgen_sst2_mnli_5seeds"), read("supergen_sst2_qnli")
    real = people.filter(pc.and_(pc.equal(people["task"], "SST-2"), pc.equal(people["split"], "real_test")))
    made = table.filter(pc.equal(table["task"], "SST-2"))
    # The seeds repeat each other: as many rows as there are texts.
    first = {text: place for place, text in reversed(list(enumerate(made["text1"].to_pylist())))}
    made = made.take(sorted(first.values()))
    one = Set(
        "fewgen SST-2",
        rows(made, "text1", "label"),
        None,
        tuple(real["text1"].to_pylist()),
        tuple(real["label"].cast(pa.string()).to_pylist()),
    )
    mended(one)


def mended(one: Set) -> None:
    made = marked(one.rows)
    print(f"{one.name}: {_marks(made)} of {len(made)} marked")
    worth(one, "macro_f1", _marks(made), ways(one, made))


def _marks(made: pa.Table) -> int:
    return int(pc.sum(made["label_issue"]).as_py())


def flips(_: argparse.Namespace) -> None:
    """Labels that were flipped in sets whose labels are right."""
    for name in ("banking77", "snips"):
        for kind in ("symmetric", "by confusion"):
            for rate in (0.1, 0.2, 0.4):
                one = flipped(name, rate, kind)
                print(f"{one.name}: {found(one, *issues(marked(one.rows)))}", flush=True)


if __name__ == "__main__":
    menu.choose(
        __file__, __doc__, {"students": students, "agnews": agnews, "downstream": downstream, "flips": flips}
    )
