"""What vectors find: neighbours in cells beside exact ones, labels that nearest rows share; on real texts.

SYNTHRAY_DATA=DIR uv run python benchmarks/vectors.py      # about 1 minute on two cores
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from menu import choose

from synthray.model.embedding import hashed
from synthray.vectors import Neighbours, Vectors

if TYPE_CHECKING:
    import argparse

K = 10


def texts(name: str, *columns: str) -> list[list[str]]:
    if not os.environ.get("SYNTHRAY_DATA"):
        sys.exit("SYNTHRAY_DATA names no folder of real data")
    table = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / f"{name}.parquet")
    return [table[column].to_pylist() for column in columns]


def vectors(held: list[str], dimensions: int) -> Vectors:
    flat = pa.array(np.asarray(hashed(held, dimensions), np.float32).reshape(-1))
    ids = [f"{number:07}" for number in range(len(held))]
    table = pa.table({"row_id": ids, "vector": pa.FixedSizeListArray.from_arrays(flat, dimensions)})
    return Vectors.of(table, "vector", "benchmark")


def probes(arguments: argparse.Namespace) -> None:
    """Look for the 10 nearest of some of FewGen's different texts in cells, and among all."""
    held = vectors(sorted({text for text in texts("fewgen_sst2_mnli_5seeds", "text1")[0] if text}), 256)
    index = Neighbours(held)
    picked = np.sort(np.random.default_rng(3).choice(len(held), arguments.queries, replace=False))
    queries = Vectors(held.ids.take(pa.array(picked)), held.unit[picked])

    def found(many: int) -> tuple[set[tuple[int, int]], float]:
        started = time.perf_counter()
        query, place, _ = index.of(queries, K, own=True, cells=cells if many else None, probes=many)
        return set(zip(query.tolist(), place.tolist(), strict=True)), time.perf_counter() - started

    cells = index.cells(0)
    exact, seconds = found(0)
    print(f"probes: {len(index.distinct)} different vectors, {len(picked)} queries; exact {seconds:.1f} s")
    for many in (16, 32, 64):
        near, seconds = found(many)
        print(f"probes: {many} cells: recall@{K} {len(near & exact) / len(exact):.3f}, {seconds:.1f} s")


def labels(arguments: argparse.Namespace) -> None:
    """Say how often the nearest of every fifth query of Banking77 has its label."""
    text, label = (column[:: arguments.every] for column in texts("banking77", "text", "label"))
    for dimensions in (256, 1024):
        held = vectors(text, dimensions)
        query, place, _ = Neighbours(held).of(held, K, own=True)
        same = np.asarray([label[one] == label[other] for one, other in zip(query, place, strict=True)])
        first = np.concatenate([[True], query[1:] != query[:-1]])
        print(
            f"labels: hashed {dimensions}: the nearest shares the label in {same[first].mean():.3f} of "
            f"{len(text)}, of {K} neighbours {same.mean():.3f}"
        )


if __name__ == "__main__":
    choose(__file__, __doc__, {"probes": probes, "labels": labels}, queries=5_000, every=5)
