"""How often `synthray diff` calls two draws of one thing different, and how often it sees a stated shift.

SYNTHRAY_DATA=DIR uv run python benchmarks/diff.py NAME   # see NAMES
Bar: of 2,000 trials in which nothing differs 4 to 6 % are called different at 5 %, overall and by metric.
`by_row` shows what a test by row says of the trials of `roots`. TRIALS=200 is a short run, START=2000 other
draws.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from synthray.comparison import _grams
from synthray.diff import diff
from synthray.model.embedding import hashed
from synthray.statistic import contrast
from synthray.statistic.contrast import Cloud, Kinds, Means
from synthray.statistic.permutation import Design

Numbers = np.ndarray[Any, Any]
TRIALS = int(os.environ.get("TRIALS", "2000"))
START = int(os.environ.get("START", "0"))
"""The number of the first trial: other numbers are other draws."""

RESAMPLES = 399
ALPHA = 0.05


@dataclass(frozen=True)
class Pool:
    """Rows with their roots, from which trials are drawn, and what the metrics are made of."""

    root: Numbers
    label: Numbers
    words: Numbers
    vectors: Numbers
    grams: dict[str, Any]

    @classmethod
    def of(cls, sql: str) -> Pool:
        """Read `root`, `text` and `label` of the rows that `sql` picks."""
        folder = os.environ["SYNTHRAY_DATA"]
        held = duckdb.sql(sql.format(folder)).to_arrow_table()
        texts = held["text"].to_pylist()
        words = [text.lower().split() for text in texts]
        placed = pa.table({"text": texts, "tokens": words, "place": range(len(texts))})
        grams = {
            name: _grams(placed, order, len(texts))[0].tocsc()
            for name, order in (("vocabulary", 1), ("distinct_2", 2), ("distinct_3", 3), ("duplicates", 0))
        }
        return cls(
            np.unique(np.array(held["root"].to_pylist()), return_inverse=True)[1],
            np.unique(np.array(held["label"].to_pylist()), return_inverse=True)[1],
            np.array([len(one) for one in words], float),
            contrast.features(hashed(texts, 256), np.random.default_rng(0)),
            grams,
        )

    def rows_of(self) -> list[Numbers]:
        """Return the rows of each root."""
        return [np.flatnonzero(self.root == one) for one in range(self.root.max() + 1)]


def p_values(
    pool: Pool,
    design: Design,
    rows: Numbers,
    parts: Numbers,
    random: np.random.Generator,
    label: Numbers | None = None,
    words: Numbers | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the p-values by metric, alone and corrected, for rows of the pool that stand in parts."""
    label = pool.label[rows] if label is None else label
    words = pool.words[rows] if words is None else words
    size = design.parts
    into = sparse.csr_matrix((np.ones(len(rows)), (np.arange(len(rows)), parts)), shape=(len(rows), size))
    known = range(pool.label.max() + 1)
    values = np.column_stack([words, *(label == one for one in known)])
    counted = np.asarray(into.sum(axis=0)).ravel()
    sums = into.T @ values
    means = Means(sums, np.repeat(counted[:, None], sums.shape[1], axis=1), tuple(range(1, sums.shape[1])))
    at = np.arange(size) if design.paired else random.permutation(size)
    most = None if design.paired else min(design.first, design.second)
    kinds = {}
    for name, grams in pool.grams.items():
        held = (grams[:, rows] @ into).tocsr()[:, at]
        held = held[np.diff(held.indptr) > 0]
        tokens = into.T @ np.maximum(0, pool.words[rows] - {"distinct_2": 1, "distinct_3": 2}.get(name, 0))
        tokens = counted if name == "duplicates" else tokens
        kinds[name] = Kinds(at, held, counted[at], tokens[at], most, name != "vocabulary")
    plain = pool.vectors[rows]
    clouds = [
        Cloud(at, (into.T @ one)[at], counted[at])
        for one in (plain, contrast.joined(plain, [str(one) for one in label], 0))
    ]
    found = contrast.tested(design, means, list(kinds.values()), clouds, RESAMPLES, random)
    names = ["mean_words", *(f"share {one}" for one in known), "labels", *kinds, "vectors"]
    names.append("vectors with labels")
    return dict(zip(names, found.p, strict=True)), dict(zip(names, found.adjusted, strict=True))


def told(title: str, trials: Iterator[tuple[dict[str, float], dict[str, float]]]) -> None:
    """Print in how many trials each metric was called different, and any of them."""
    started = time.monotonic()
    alone: dict[str, list[float]] = {}
    each: dict[str, list[float]] = {}
    any_: list[bool] = []
    for raw, adjusted in trials:
        for name in raw:
            alone.setdefault(name, []).append(raw[name])
            each.setdefault(name, []).append(adjusted[name])
        any_.append(min(np.nan_to_num(list(adjusted.values()), nan=1.0)) <= ALPHA)
    seconds = time.monotonic() - started
    n = len(any_)
    error = 1.96 * np.sqrt(max(1e-9, np.mean(any_) * (1 - np.mean(any_))) / n)
    print(
        f"{title}: any metric {np.mean(any_):.2%} of {n} trials (+- {error:.2%}), {seconds:.0f} s", flush=True
    )
    for name, found in alone.items():
        held = np.array(found)
        if not np.isfinite(held).any():
            print(f"  {name:12} never changes")
            continue
        corrected = np.mean(np.nan_to_num(each[name], nan=1.0) <= ALPHA)
        print(f"  {name:12} alone {np.mean(held <= ALPHA):7.2%}   corrected {corrected:7.2%}", flush=True)


SNIPS = "SELECT DISTINCT ON (text) text AS root, text, label FROM '{}/snips.parquet' ORDER BY text"
GPT = (
    "SELECT seed_text AS root, text, label FROM '{}/gpt_augmented_sentiment.parquet' "
    "WHERE generator = 'gpt-4' ORDER BY ALL"
)
BOTH = (
    "SELECT seed_text AS root, text, generator AS label FROM '{}/gpt_augmented_sentiment.parquet' "
    "WHERE generator LIKE 'gpt%' AND sampling = 'proportional' ORDER BY ALL"
)


def halves(n: int, random: np.random.Generator) -> Numbers:
    """Return n parts, of which the first half's numbers go to one side, in an order by chance."""
    held: Numbers = random.permutation(n)
    return held


def independent() -> None:
    """2,000 distinct real rows, halved at random."""
    pool = Pool.of(SNIPS)

    def trials() -> Iterator[Any]:
        for trial in range(START, START + TRIALS):
            random = np.random.default_rng([1, trial])
            rows = random.choice(len(pool.root), 2000, replace=False)
            yield p_values(pool, Design(1000, 1000, False), rows, np.arange(2000), random)

    told("rows: snips, 1,000 against 1,000", trials())


def by_root(row_wise: bool) -> None:
    """GPT-4's rewrites, halved by the tweet that they rewrite; tested by tweet, or wrongly by row."""
    pool = Pool.of(GPT)
    of_root = pool.rows_of()

    def trials() -> Iterator[Any]:
        for trial in range(START, START + TRIALS):
            random = np.random.default_rng([2, trial])
            order = random.permutation(len(of_root))
            # Four rewrites of each tweet, so that a trial takes a fraction of a second.
            picked = [random.permutation(of_root[one])[:4] for one in order]
            rows = np.concatenate(picked)
            parts = np.repeat(np.arange(len(order)), [len(one) for one in picked])
            first = len(order) // 2
            design = Design(first, len(order) - first, False)
            if row_wise:
                size = int((parts < first).sum())
                design, parts = Design(size, len(rows) - size, False), np.arange(len(rows))
            yield p_values(pool, design, rows, parts, random)

    told(f"roots: gpt-4, 250 tweets against 250, tested by {'row' if row_wise else 'tweet'}", trials())


def generations(paired: bool) -> None:
    """Two runs, each of which draws 4 answers of a root from the model, that is from all its rewrites."""
    pool = Pool.of(GPT)
    of_root = [one for one in pool.rows_of() if len(one) >= 8]

    def trials() -> Iterator[Any]:
        for trial in range(START, START + TRIALS):
            random = np.random.default_rng([3, trial])
            size = 250
            one = random.integers(0, len(of_root), size)
            other = one if paired else random.integers(0, len(of_root), size)
            drawn = [random.choice(of_root[root], 4, replace=False) for root in (*one, *other)]
            rows, parts = np.concatenate(drawn), np.repeat(np.arange(2 * size), 4)
            yield p_values(pool, Design(size, size, paired), rows, parts, random)

    kind = "the same conditions" if paired else "conditions of their own"
    told(f"generation seeds: gpt-4, 250 roots of 4 rows a run, {kind}", trials())


def power() -> None:
    """How often a stated shift is seen, in 200 trials each."""
    few = min(TRIALS, 200)
    snips = Pool.of(SNIPS)
    spread = snips.words.std()

    def of_rows(change: Callable[..., dict[str, Numbers]], n: int) -> Iterator[Any]:
        for trial in range(START, START + few):
            random = np.random.default_rng([4, trial])
            rows = random.choice(len(snips.root), 2 * n, replace=False)
            yield p_values(
                snips, Design(n, n, False), rows, np.arange(2 * n), random, **change(rows, n, random)
            )

    def longer(rows: Numbers, n: int, random: np.random.Generator) -> dict[str, Numbers]:
        return {"words": snips.words[rows] + 0.3 * spread * (np.arange(2 * n) >= n)}

    def relabelled(rows: Numbers, n: int, random: np.random.Generator) -> dict[str, Numbers]:
        changed = (random.random(2 * n) < 0.05) & (np.arange(2 * n) >= n)
        return {"label": np.where(changed, 0, snips.label[rows])}

    told("power: texts longer by 0.3 sd, 500 rows a side", of_rows(longer, 500))
    told("power: 5 % of labels are another one, 2,000 rows a side", of_rows(relabelled, 2000))


def generators() -> None:
    """How often a share of rows by another generator is seen, in 200 trials each."""
    few, both = min(TRIALS, 200), Pool.of(BOTH)

    def mixed(paired: bool, share: float) -> Iterator[Any]:
        generator = both.label
        of_root = [one for one in both.rows_of() if len(one) >= 16]
        for trial in range(START, START + few):
            random = np.random.default_rng([5, trial])
            size = 450
            one = random.integers(0, len(of_root), size)
            other = one if paired else random.integers(0, len(of_root), size)
            drawn = []
            for side, roots in enumerate((one, other)):
                for root in roots:
                    rows = of_root[root]
                    kind = generator[rows]
                    strange = int((random.random(4) < share * side).sum())
                    # Without replacement, so that no draw repeats a text more often than the other.
                    picks = [
                        random.choice(rows[kind == one], many, replace=False)
                        for one, many in ((0, strange), (1, 4 - strange))
                    ]
                    drawn.append(np.concatenate(picks))
            rows, parts = np.concatenate(drawn), np.repeat(np.arange(2 * size), 4)
            yield p_values(
                both, Design(size, size, paired), rows, parts, random, label=np.zeros(len(rows), int)
            )

    told("power: 10 % of rows by gpt-3.5, paired, 450 roots of 4 rows a run", mixed(True, 0.10))
    told("power: 20 % of rows by gpt-3.5, unpaired, 450 roots of 4 rows a run", mixed(False, 0.20))


def scale() -> None:
    """Two files of 100,000 rows, independent and of 10,000 roots: seconds and memory."""
    random = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(20_000)])
    share = 1 / np.arange(1, 20_001)
    share /= share.sum()
    with tempfile.TemporaryDirectory() as folder:
        for side in "ab":
            picked = random.choice(words, size=(100_000, 20), p=share)
            table = pa.table(
                {
                    "text": [" ".join(one) for one in picked],
                    "label": random.choice(list("abcd"), 100_000),
                    "score": random.random(100_000),
                    "root": [f"{side}{number % 10_000}" for number in range(100_000)],
                }
            )
            pq.write_table(table, f"{folder}/{side}.parquet")
        for unit in (None, "root"):
            from synthray.side import Settings

            started = time.monotonic()
            found = diff(f"{folder}/a.parquet", f"{folder}/b.parquet", Settings(unit=unit))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"scale: 100,000 rows a side, unit {unit or 'row'}: {time.monotonic() - started:.1f} s, "
                f"peak {peak:.0f} MiB; {json.dumps(found['notes'])}",
                flush=True,
            )


NAMES: dict[str, Callable[[], None]] = {
    "rows": independent,
    "roots": lambda: by_root(False),
    "by_row": lambda: by_root(True),
    "paired": lambda: generations(True),
    "unpaired": lambda: generations(False),
    "power": power,
    "generators": generators,
    "scale": scale,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES, nargs="+")
    for name in parser.parse_args().name:
        NAMES[name]()
