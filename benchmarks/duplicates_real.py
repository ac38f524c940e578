"""Duplicate marks against data with truth: precision, recall, F1, with settings chosen on other rows.

SYNTHRAY_DATA=DIR uv run python benchmarks/duplicates_real.py      # about 4 minutes on two cores
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import numpy as np
import pyarrow as pa
from real import read

from synthray.curate.exact_duplicate import ExactDuplicate
from synthray.curate.near_duplicate import NearDuplicate
from synthray.duplicate.pair import jaccard
from synthray.duplicate.shingle import Shingles
from synthray.duplicate.signature import Signatures, signed

Pair = tuple[str, str]
CUTS = (("words", 1), ("words", 2), ("characters", 3), ("characters", 5))
THRESHOLDS = [round(0.1 + 0.05 * step, 2) for step in range(18)]


def scores(found: set[Any], true: set[Any]) -> tuple[float, float, float]:
    """Return precision, recall and F1."""
    hits = len(found & true)
    precision, recall = hits / max(1, len(found)), hits / max(1, len(true))
    return precision, recall, 2 * precision * recall / max(1e-12, precision + recall)


def said(name: str, settings: str, found: set[Any], true: set[Any]) -> None:
    precision, recall, f1 = scores(found, true)
    print(
        f"{name}: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f} ({len(true)} true, {settings})",
        flush=True,
    )


def rows(texts: Iterable[str | None], names: Iterable[str] | None = None) -> pa.Table:
    held = list(texts)
    return pa.table(
        {
            "row_id": list(names) if names is not None else [f"{number:07}" for number in range(len(held))],
            "text": pa.array(held, pa.string()),
        }
    )


def articles() -> None:
    """Planted pairs of newswire articles, as the operator comes: nothing was chosen."""
    table = read("neardup_articles_1000")
    marks = NearDuplicate(text="text")(rows(table["text"].to_pylist(), table["doc_id"].to_pylist()))
    true = {
        tuple(sorted(pair))
        for pair in zip(table["doc_id"].to_pylist(), table["duplicate_of"].to_pylist(), strict=True)
        if pair[1]
    }
    found = {
        tuple(sorted(pair))
        for pair in zip(marks["row_id"].to_pylist(), marks["near_duplicate_of"].to_pylist(), strict=True)
        if pair[1]
    }
    said("neardup_articles_1000, pairs", "the defaults: 3 words, 0.8", found, true)


def exact() -> None:
    """Repeats that can be counted: every row but the first with a text."""
    spam = read("sms_spam")
    fewgen = read("fewgen_sst2_mnli_5seeds")
    sets = {"sms_spam": spam["text"].to_pylist()}
    for task in ("SST-2", "MNLI"):
        picked = fewgen.filter(pa.array(np.asarray(fewgen["task"].to_pylist()) == task))
        pairs = zip(picked["text1"].to_pylist(), picked["text2"].to_pylist(), strict=True)
        sets[f"fewgen {task}"] = ["\x1f".join(part or "" for part in pair) for pair in pairs]
    for name, texts in sets.items():
        marks = ExactDuplicate(text="text", by="bytes")(rows(texts))
        seen: set[str] = set()
        true = {number for number, text in enumerate(texts) if text in seen or seen.add(text)}  # type: ignore[func-returns-value]
        of = marks["exact_duplicate_of"].to_pylist()
        said(f"{name}, rows", "curate.exact_duplicate by bytes", {n for n, one in enumerate(of) if one}, true)


def sites() -> None:
    """Cluster records of one site by name and address; the settings are chosen on half of the sites."""
    table = read("chicago_childcare_true_ids")
    columns = [table[name].to_pylist() for name in ("site_name", "address", "phone")]
    texts = [" ".join(part or "" for part in parts) for parts in zip(*columns, strict=True)]
    ids = table["true_id"].to_pylist()

    def pairs(of: list[str | None], half: int) -> set[Pair]:
        groups: dict[str, list[str]] = {}
        for number, name in enumerate(of):
            if name is not None and int(ids[number]) % 2 == half:
                groups.setdefault(name, []).append(f"{number:07}")
        return {pair for group in groups.values() for pair in combinations(sorted(group), 2)}

    def clusters(unit: str, size: int, threshold: float) -> list[str | None]:
        cut = {unit: size}
        held: list[str | None] = NearDuplicate(text="text", threshold=threshold, **cut)(rows(texts))[
            "near_duplicate_cluster"
        ].to_pylist()
        return held

    tried = {
        (unit, size, threshold): clusters(unit, size, threshold)
        for (unit, size), threshold in product(CUTS, THRESHOLDS[4:14])
    }
    best = max(tried, key=lambda one: scores(pairs(tried[one], 0), pairs(ids, 0))[2])
    said(
        "chicago_childcare, pairs", f"{best}, chosen on the other half", pairs(tried[best], 1), pairs(ids, 1)
    )


def products() -> None:
    """Offers of two shops, the same product or not: the similarity alone; chosen on the rows marked valid."""
    table = read("er_abt_buy")
    sides = [table[name].to_pylist() for name in ("left_text", "right_text")]
    count = len(table)
    same = np.asarray(table["is_match"].to_pylist())
    split = np.asarray(table["split"].to_pylist())
    best: tuple[float, str, np.ndarray] = (-1.0, "", np.zeros(0))
    for unit, size in CUTS:
        held = signed(rows([*sides[0], *sides[1]]), "text", Shingles(unit, size), 16)  # type: ignore[arg-type]
        assert len(held) == 2 * count, "a text without a word would shift the numbers"
        similarity = jaccard(Signatures((held,)), np.arange(count), np.arange(count) + count)
        for threshold in THRESHOLDS:
            found = similarity >= threshold
            valid = split == "valid"
            f1 = scores(set(np.flatnonzero(found & valid)), set(np.flatnonzero(same & valid)))[2]
            if f1 > best[0]:
                best = (f1, f"{size} {unit}, {threshold}, chosen on valid", found)
    test = split == "test"
    said(
        "er_abt_buy test, pairs",
        best[1],
        set(np.flatnonzero(best[2] & test)),
        set(np.flatnonzero(same & test)),
    )


def flags() -> None:
    """Compare with what others removed at 0.9 to 0.6, by a measure of theirs; chosen on even rows."""
    table = read("gpteacher_toolformer_dedup")
    columns = [table[name].to_pylist() for name in ("instruction", "input", "response")]
    texts = ["\n".join(part or "" for part in parts) for parts in zip(*columns, strict=True)]
    removed = {
        level: {n for n, kept in enumerate(table[f"kept_at_similarity_0_{level}"].to_pylist()) if not kept}
        for level in (9, 8, 7, 6)
    }
    marks = {}
    # Few settings: the texts share long templates, so that nearly all are near each other.
    for (unit, size), threshold in product((("words", 1), ("words", 3)), (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)):
        of = NearDuplicate(text="text", threshold=threshold, **{unit: size})(rows(texts))["near_duplicate_of"]
        marks[unit, size, threshold] = {n for n, one in enumerate(of.to_pylist()) if one}
    for level, true in removed.items():

        def half(numbers: set[int], rest: int) -> set[int]:
            return {number for number in numbers if number % 2 == rest}

        best = max(marks, key=lambda one: scores(half(marks[one], 0), half(true, 0))[2])
        said(
            f"gpteacher removed at 0.{level}, rows",
            f"{best}, chosen on even rows; an algorithm's flags, no person's",
            half(marks[best], 1),
            half(true, 1),
        )


def counted() -> None:
    """No truth: how much of a set is marked."""
    alpaca = read("alpaca_sample_claude_filter")
    texts = [
        "\n".join(part or "" for part in parts)
        for parts in zip(
            *(alpaca[name].to_pylist() for name in ("instruction", "input", "output")), strict=True
        )
    ]
    fewgen = read("fewgen_sst2_mnli_5seeds")["text1"].to_pylist()
    for name, held in (("alpaca", texts), ("fewgen text1", fewgen)):
        for threshold in (0.9, 0.8, 0.7):
            out = NearDuplicate(text="text", threshold=threshold)(rows(held))
            of = out["near_duplicate_of"].to_pylist()
            sizes = Counter(name for name in out["near_duplicate_cluster"].to_pylist() if name)
            print(
                f"{name}: {sum(one is not None for one in of)} of {len(held)} rows marked at {threshold}, "
                f"largest cluster {max(sizes.values(), default=0)}",
                flush=True,
            )


def main() -> None:
    if not os.environ.get("SYNTHRAY_DATA"):
        sys.exit("SYNTHRAY_DATA names no folder of real data")
    for part in (articles, exact, sites, products, flags, counted):
        part()


if __name__ == "__main__":
    main()
