"""A small finished run for tests of reviews, made without Ray, and people who know the truth."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthray.record import StageRecord, StepCount
from synthray.run import FORMAT, Run

LABELS = {"food": "what is eaten", "money": "", "pets": "<cats> & dogs"}
WORDS = {"money": ["stock", "bank"], "pets": ["cat", "dog"], "food": ["soup", "bread"]}


def rows(size: int = 200, seed: int = 1) -> pa.Table:
    """Return rows of which about one in five labels is wrong; `true` is what people would say."""
    generator = random.Random(seed)
    held = []
    for number in range(size):
        true = list(LABELS)[number % 3]
        label = true if generator.random() < 0.8 else generator.choice([one for one in LABELS if one != true])
        quality = (0.8 if label == true else 0.3) + generator.uniform(-0.2, 0.2)
        held.append(
            {
                "row_id": f"row{number:04}",
                "parent_id": None,
                "text": f"{' '.join(generator.choices(WORDS[true], k=4))} {number}",
                "label": label,
                "label_quality": quality,
                "suggested_label": true if generator.random() < 0.9 else label,
                "true": true,
            }
        )
    table = pa.Table.from_pylist(held)
    return table.set_column(1, "parent_id", pa.nulls(size, pa.string()))


def finished(
    root: Path, table: pa.Table, *, labels: Mapping[str, str] | None = LABELS, seed: int = 3
) -> Path:
    """Write a run whose dataset is `table`; return its directory."""
    run = Run.claim(root, "news")
    folder, file = "01-table-aa", "stages/01-table-aa/rows.parquet"
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / file)
    count = StepCount("table", "source.table", rows_made=len(table), rows_kept=len(table))
    StageRecord(folder=folder, fingerprint="aa", before=None, steps=(count,), files=(file,)).write(root)
    task = {"text": "a short text", "guideline": "One label.", "labels": dict(labels)} if labels else {}
    run.save(format=FORMAT, name="news", seed=seed, state="done", recipe={"task": task}, stages=[folder])
    run.release()
    return root


def cells(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV that was written for people."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(path: Path, table: pa.Table, out: Path, share: float = 1.0, **changes: str) -> Path:
    """Write what comes back: `share` of the rows filled in with the truth, or what `changes` says."""
    truth = dict(zip(table["row_id"].to_pylist(), table["true"].to_pylist(), strict=True))
    held = cells(path)
    for row in held[: round(share * len(held))]:
        row["human_label"] = changes.get(row["row_id"], truth[row["row_id"]])
    return written(held, out)


def written(held: list[dict[str, str]], out: Path, **dialect: Any) -> Path:
    """Write rows as a CSV."""
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, held[0], **dialect)
        writer.writeheader()
        writer.writerows(held)
    return out
