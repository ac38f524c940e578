"""Votes for tests: written out, drawn, and with equal items held once."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np

from synthray.label.vote import Votes

CLASSES = ["a", "b", "c"]


def votes(*items: tuple[int, dict[int, int]], annotators: int = 4) -> Votes:
    """Return votes of items, each with its weight and annotator -> label."""
    given = [(who, label) for _, item in items for who, label in sorted(item.items())]
    return Votes(
        starts=np.concatenate([[0], np.cumsum([len(item) for _, item in items])]).astype(np.int64),
        annotator=np.array([who for who, _ in given], np.int64),
        label=np.array([label for _, label in given], np.int64),
        weight=np.array([weight for weight, _ in items], np.int64),
        annotators=[f"w{n}" for n in range(annotators)],
        classes=CLASSES,
    )


def drawn(size: int, seed: int, annotators: int = 4) -> list[dict[int, int]]:
    """Return items of which each annotator labels about two of three."""
    draw = random.Random(seed)
    items = [
        {who: draw.randrange(3) for who in range(annotators) if draw.random() < 0.67} for _ in range(size)
    ]
    return [item for item in items if item]


def grouped(items: list[dict[int, int]]) -> Votes:
    """Return the items with equal ones held once."""
    sizes = Counter(tuple(sorted(item.items())) for item in items)
    return votes(*[(size, dict(item)) for item, size in sorted(sizes.items())])
