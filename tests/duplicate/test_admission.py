"""The gate lets in what a loop over all texts, one after another, lets in."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import synthray.duplicate.admission as module
from synthray.duplicate.admission import Gate
from synthray.duplicate.rouge import Words, rouge, worded

LETTERS = string.ascii_letters.lower() + string.digits


def each(function: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [function(*one) for one in given]


def words(count: int, seed: int) -> Words:
    generator = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        own = generator.choices(LETTERS, k=9)
        one = own if generator.random() < 0.3 or not texts else generator.choice(texts).split()
        for _ in range(generator.randrange(4)):
            one[generator.randrange(len(one))] = generator.choice(LETTERS)
        texts.append(" ".join(one))
    return Words((worded(pa.table({"row_id": [f"{n}" for n in range(count)], "text": texts}), "text"),))


def by_force(texts: Words, old: list[int], order: list[int], threshold: float) -> dict[int, Any]:
    """Return of each text whether it is let in, the nearest three before it, and how many there were."""
    lines = texts.of(np.arange(len(texts)))
    share = np.stack(list(rouge(lines, lines)))
    kept, found = list(old), {}
    for row in order:
        near = sorted(
            (p for p in range(len(kept)) if share[row, kept[p]]), key=lambda p: (-share[row, kept[p]], p)
        )
        let_in = not any(share[row, kept] >= threshold)
        found[row] = (let_in, near[:3], len(kept), pytest.approx(float(share[row, kept].sum()), abs=1e-9))
        kept += [row] if let_in else []
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.7, 1.0])
@pytest.mark.parametrize(("block", "workers"), [(1024, 1), (50, 3), (7, 2), (1, 1)])
def test_each_is_compared_with_all_that_were_let_in_before_it(
    monkeypatch: pytest.MonkeyPatch, threshold: float, block: int, workers: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    texts = words(180, 4)
    order = np.random.default_rng(1).permutation(180)
    old, new = order[:40], order[40:]
    expected = by_force(texts, old.tolist(), new.tolist(), threshold)
    assert 5 < sum(one[0] for one in expected.values()) < 135, "there must be some of both"
    gate = Gate(texts, old, threshold, 3, each, workers)
    found = {}
    for one in gate.admissions(new):
        for row, let_in, near, before in zip(one.rows, one.let_in, one.nearest, one.before, strict=True):
            found[int(row)] = (bool(let_in), near.places.tolist(), int(before), near.total)
    assert list(found) == new.tolist(), "in their order"
    assert found == expected
    assert gate.kept.tolist() == [*old, *(row for row in new.tolist() if expected[row][0])]


def test_a_crowd_that_is_alike_is_compared_with_the_one_that_is_in_and_not_with_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 10)
    compared = []

    def counted(function: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
        compared.extend((len(rows), len(kept)) for _, rows, kept, _, _ in given)
        return each(function, given)

    rows = pa.table({"row_id": [f"{n}" for n in range(100)], "text": ["write a poem about it"] * 100})
    gate = Gate(Words((worded(rows, "text"),)), np.zeros(0, np.int64), 0.7, 1, counted, 1)
    assert sum(int(one.let_in.sum()) for one in gate.admissions(np.arange(100))) == 1
    assert compared == [(10, 0), *[(10, 1)] * 9]
