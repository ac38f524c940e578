"""An operator that shows what students judge, and rows with labels of which some are wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from synthray.learner import Learner

if TYPE_CHECKING:
    from synthray.stage import Stage

WORDS = {
    "money": ["stock", "bank", "share", "profit", "market", "trade", "loan", "price", "bond", "fund"],
    "pets": ["cat", "dog", "fur", "purr", "bark", "leash", "paw", "kitten", "puppy", "vet"],
    "food": ["soup", "bread", "salt", "oven", "bake", "taste", "cheese", "onion", "cook", "spoon"],
}
COMMON = ["the", "a", "of", "and", "to", "in", "it", "is", "was", "on"]


@dataclass(frozen=True)
class Judges(Learner):
    """Add `probabilities`."""

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"probabilities": pa.list_(pa.float64())}

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.attach(table, self.judged(table).drop_columns(["label"]))

    def apply(self, stage: Stage) -> None:
        files = self.learn(stage).files
        stage.added(
            pa.concat_tables(pq.read_table(file, columns=["row_id", "probabilities"]) for file in files)
        )


def rows(size: int = 120, flipped: int = 12) -> pa.Table:
    """Return row_id, parent_id (null), text, label (some flipped) and the `true` one."""
    generator = random.Random(2)
    true = [list(WORDS)[number % 3] for number in range(size)]
    texts = [
        " ".join(generator.choices(WORDS[label], k=5) + generator.choices(COMMON, k=5)) for label in true
    ]
    wrong = set(generator.sample(range(size), flipped))
    given = [
        generator.choice([other for other in WORDS if other != label]) if number in wrong else label
        for number, label in enumerate(true)
    ]
    return pa.table(
        {
            "row_id": [f"row{number:03}" for number in range(size)],
            "parent_id": pa.nulls(size, pa.string()),
            "text": texts,
            "label": given,
            "true": true,
        }
    )
