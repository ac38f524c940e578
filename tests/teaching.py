"""Labelled texts that a student can learn from, but not wholly."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pyarrow as pa

WORDS = {
    "money": ["stock", "bank", "share", "profit", "market"],
    "pets": ["cat", "dog", "fur", "purr", "bark"],
    "food": ["soup", "bread", "salt", "oven", "bake"],
}
COMMON = ["the", "a", "of", "and", "to", "in", "it", "is", "was", "on"]


def texts(seed: int, labels: Sequence[str], sharp: int = 2) -> pa.Table:
    generator = random.Random(seed)
    made = [
        " ".join(generator.choices(WORDS[one], k=sharp) + generator.choices(COMMON, k=6)) for one in labels
    ]
    # A third of the texts says nothing, so that nobody scores 1.
    made = [text if number % 3 else "the a of" for number, text in enumerate(made)]
    ids = [f"{seed}-{number:03}" for number in range(len(made))]
    return pa.table({"row_id": ids, "text": made, "label": labels})


TRAIN = texts(1, ["money", "money", "pets", "food"] * 15)
TEST = texts(2, ["money", "pets", "pets", "food"] * 15)
REAL = texts(4, ["money", "pets", "food"] * 40)
