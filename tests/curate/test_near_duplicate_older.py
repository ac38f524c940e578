"""Marks against older data stay true when an index is lost, moved or grows; a crowd names its nearest."""

from __future__ import annotations

import random
import shutil
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.near_duplicate import NearDuplicate
from synthray.errors import InputError
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.run import Run


def texts(count: int, seed: int) -> list[str]:
    """Return texts of 20 words, most of them an earlier one with a few words changed."""
    generator = random.Random(seed)
    held: list[list[str]] = []
    for _ in range(count):
        words = list(generator.choice(held)) if len(held) > 20 else generator.choices(VOCABULARY, k=20)
        for _ in range(generator.randrange(5)):
            words[generator.randrange(20)] = generator.choice(VOCABULARY)
        held.append(words)
    return [" ".join(words) for words in held]


VOCABULARY = [f"w{number}" for number in range(300)]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_index_that_is_lost_moved_or_grown_changes_no_mark_and_signs_no_new_row_again(
    tmp_path: Path,
) -> None:
    held = texts(400, 1)
    pq.write_table(pa.table({"text": held[:200]}), tmp_path / "old.parquet")
    pq.write_table(pa.table({"text": held[200:300]}), tmp_path / "older.parquet")
    pq.write_table(pa.table({"text": held[300:]}), tmp_path / "new.parquet")

    def run(name: str, **settings: Any) -> Run:
        settings = {"against": ["old.parquet", "older.parquet"], "threshold": 0.61, **settings}
        operator = NearDuplicate(text="text", words=1, base=str(tmp_path), **settings)
        table = {"news": Table.find("new.parquet", tmp_path)}
        return Pipeline([Source(table="news"), operator], name="x", tables=table, blocks=7).run(
            tmp_path / name, quiet=True
        )

    def marks(run: Run) -> list[dict[str, Any]]:
        held: list[dict[str, Any]] = run.sql("SELECT * FROM dataset ORDER BY row_id").to_pylist()
        return held

    fresh = marks(run("fresh", index="fresh-index"))
    assert sum(row["near_duplicate_source"] is not None for row in fresh) > 10
    run("run", index="index", threshold=0.6)
    shutil.rmtree(tmp_path / "index")
    assert marks(run("run", index="index")) == fresh, "the index was lost"
    run("moved", index="one", threshold=0.6)
    assert marks(run("moved", index="two")) == fresh, "another folder"
    run("grown", index="three", against=["old.parquet"])
    signed = set((tmp_path / "grown" / "artifacts").glob("*-signatures-*"))
    assert marks(run("grown", index="three")) == fresh, "older data came to it"
    assert set((tmp_path / "grown" / "artifacts").glob("*-signatures-*")) == signed != set()
    with pytest.raises(InputError, match=r"is no index: it has no index\.json"):
        run("same", index="same")


def test_a_crowd_names_the_nearest_kept_row() -> None:
    generator = random.Random(4)
    own = [f"own{number}" for number in range(60)]
    common = [f"common{number}" for number in range(40)]
    held = {
        f"r{number:03}": [*common, *generator.sample(own, generator.randrange(24))] for number in range(500)
    }
    table = pa.table({"row_id": list(held), "text": [" ".join(words) for words in held.values()]})
    out = NearDuplicate(text="text", words=1, threshold=0.75)(table)
    of = dict(zip(out["row_id"].to_pylist(), out["near_duplicate_of"].to_pylist(), strict=True))
    sets = {row: set(words) for row, words in held.items()}

    def similarity(one: str, other: str) -> float:
        return len(sets[one] & sets[other]) / len(sets[one] | sets[other])

    kept = [row for row, name in of.items() if name is None]
    assert 2 < len(kept) < 250
    assert all(similarity(*pair) < 0.75 for pair in combinations(kept, 2))
    for row, name in of.items():
        if name is not None:
            best = max(similarity(one, row) for one in kept if one < row)
            assert similarity(name, row) == best >= 0.75, row
