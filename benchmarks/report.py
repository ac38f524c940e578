"""The report of 100,000 rows: its size, the seconds to write it, and the time until a browser has drawn it.

SYNTHRAY_DATA=DIR uv run python benchmarks/report.py [--rows 100000] [--out FOLDER]
The floor of the same run is a page of the same library that draws nothing. Chromium must be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synthray import recipe
from synthray.report import page as report

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import chromium

VISITS = 7
RECIPE = """
name: report
seed: 7
tables: {drawn: given.parquet}
steps:
  - source.table: {table: drawn}
  - where: length(text) BETWEEN 30 AND 600
    reason: length
  - curate.exact_duplicate: {text: text}
  - where: exact_duplicate_of IS NULL
    reason: exact_duplicate
  - curate.near_duplicate: {text: text, threshold: 0.7}
  - where: near_duplicate_of IS NULL
    reason: near_duplicate
  - sql: metrics/length.sql
  - sql: metrics/balance.sql
  - sql: metrics/shape.sql
"""
ASK = {
    "load": "performance.getEntriesByType('navigation')[0].loadEventEnd",
    "drawn": "performance.getEntriesByName('drawn')[0]?.startTime ?? 0",
    "figures": "document.documentElement.dataset.drawn",
    "broken": "document.documentElement.dataset.broken ?? ''",
}


def made(folder: Path, rows: int) -> Path:
    """Make the run, or go on with the one in `folder`."""
    table = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "fewgen_sst2_mnli_5seeds.parquet").slice(
        0, rows
    )
    second = pc.if_else(pc.is_valid(table["text2"]), pc.binary_join_element_wise(" ", table["text2"], ""), "")
    given = pa.table(
        {
            "text": pc.binary_join_element_wise(table["text1"], second, ""),
            "label": pc.binary_join_element_wise(table["task"], table["label"].cast(pa.string()), " "),
            "draw": table["seed"],
        }
    )
    pq.write_table(given, folder / "given.parquet")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    recipe.load(str(folder / "recipe.yaml")).run(folder / "run")
    return folder / "run"


async def visits(page: Path) -> list[dict[str, float]]:
    async with chromium.browser() as address:
        return [(await chromium.visit(address, page, ask=ASK)).values for _ in range(VISITS)]


def told(name: str, found: list[dict[str, float]]) -> None:
    assert not any(one["broken"] for one in found), found
    load, drawn = ([one[key] / 1000 for one in found] for key in ("load", "drawn"))
    whole = [max(pair) for pair in zip(load, drawn, strict=True)]
    print(
        f"{name}: {found[0]['figures']} figures; load event {statistics.median(load):.2f} s, "
        f"load and figures drawn {statistics.median(whole):.2f} s "
        f"({min(whole):.2f} to {max(whole):.2f} of {VISITS} visits)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as kept:
        folder = given.out or Path(kept)
        folder.mkdir(parents=True, exist_ok=True)
        run = made(folder, given.rows)
        started, worked = time.monotonic(), time.process_time()
        page = report.write(run)
        print(
            f"{given.rows:,} rows: written in {time.monotonic() - started:.1f} s "
            f"({time.process_time() - worked:.1f} s of work), {page.stat().st_size / 1e6:.2f} MB"
        )
        told("report", asyncio.run(visits(page)))
        floor = folder / "floor.html"
        library = report._library()
        draw = "performance.mark('drawn'); document.documentElement.dataset.drawn = 0"
        floor.write_text(
            f"<!doctype html><script>{library}</script><script>{draw}</script>", encoding="utf-8"
        )
        told("floor", asyncio.run(visits(floor)))


if __name__ == "__main__":
    main()
