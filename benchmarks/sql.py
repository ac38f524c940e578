"""SQL steps over a run's rows, against DuckDB's own COPY in the same process.

uv run python benchmarks/sql.py              # all of it, about 2 minutes on two cores
uv run python benchmarks/sql.py where --rows 5000000
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from menu import choose

import synthray
from synthray.lineage import IDENTITY
from synthray.operator import Makes, Operator
from synthray.statement import Where

if TYPE_CHECKING:
    from synthray.stage import Stage

SHARDS = 16
SCHEMA = pa.schema(
    [
        *IDENTITY.items(),
        ("text", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Shards(Operator):
    """Make `rows` rows in SHARDS files: an id, a text of about 80 characters, a label, a score in [0, 1)."""

    rows: int = 0

    def makes(self) -> Makes:
        """Make rows."""
        return "rows"

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return the columns."""
        return SCHEMA

    def apply(self, stage: Stage) -> None:
        """Let DuckDB make them."""
        share = self.rows // SHARDS
        for shard in range(SHARDS):
            path = stage.path / f"rows-{shard:02}.parquet"
            made = (
                "SELECT md5(i::VARCHAR)[:24] AS row_id, NULL::VARCHAR AS parent_id, 0::INTEGER AS round, "
                "'the text of row ' || i || ' says ' || md5((i + 1)::VARCHAR) || ' and no more' AS text, "
                "'label ' || (i % 7) AS label, (hash(i) % 1000000) / 1e6 AS score "
                f"FROM range({shard * share}, {(shard + 1) * share}) t(i)"
            )
            stage.query.write(made, path)
            stage.wrote(path)


def where(arguments: argparse.Namespace) -> None:
    """Keep 3 % of the rows; the others become rejects with row_id and reason."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ratios = []
        for turn in range(arguments.turns):
            pipeline = synthray.Pipeline(
                [Shards(rows=arguments.rows), Where("score >= 0.97", reason=f"score-{turn}")], name="where"
            )
            run = pipeline.run(folder / "run", quiet=True)
            made, kept = run.stages()
            ceiling = _copied(run.table(made).files, "score >= 0.97", folder / "copy.parquet")
            ratios.append(kept.seconds / ceiling)
            print(
                f"where: {arguments.rows} rows in {SHARDS} shards, {kept.rows_kept} kept, "
                f"{kept.steps[0].rows_rejected} rejects: {kept.seconds:.2f} s; COPY of the kept rows alone "
                f"{ceiling:.2f} s: {kept.seconds / ceiling:.2f} x",
                flush=True,
            )
        print(f"where: median {statistics.median(ratios):.2f} x of {len(ratios)}")


def blocks(arguments: argparse.Namespace) -> None:
    """Do the same block by block in a Ray pass, as statements fused into one would be; without rejects."""
    from synthray import cluster

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = synthray.Pipeline(
            [Shards(rows=arguments.rows), Where("score >= 0.97", reason="score")], name="where"
        ).run(folder / "run", quiet=True)
        made, kept = run.stages()
        cluster.start()
        import ray.data

        ray.data.range(4).map_batches(lambda table: table, batch_format="pyarrow").take_all()
        started = time.perf_counter()
        dataset = ray.data.read_parquet(list(run.table(made).files), override_num_blocks=SHARDS * 4)
        dataset.map_batches(_filtered, batch_format="pyarrow", batch_size=None).write_parquet(
            str(folder / "blocks")
        )
        seconds = time.perf_counter() - started
        print(
            f"blocks: {arguments.rows} rows, DuckDB over each block in a Ray pass: {seconds:.2f} s; "
            f"the stage by DuckDB, with its rejects {kept.seconds:.2f} s: {seconds / kept.seconds:.1f} x"
        )


def _filtered(table: pa.Table) -> pa.Table:
    """Return the rows of a block that stay."""
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1").fetchall()
        connection.register("rows", table)
        return connection.sql("SELECT * FROM rows WHERE score >= 0.97").to_arrow_table()


def _copied(files: tuple[str, ...], predicate: str, path: Path) -> float:
    """Return the seconds that DuckDB takes to copy the rows that `predicate` keeps."""
    listed = ", ".join(f"'{file}'" for file in files)
    with duckdb.connect() as connection:
        started = time.perf_counter()
        connection.execute(
            f"COPY (SELECT * FROM read_parquet([{listed}]) WHERE {predicate}) TO '{path}' "
            "(FORMAT parquet, COMPRESSION zstd)"
        ).fetchall()
        return time.perf_counter() - started


BENCHMARKS = {"where": where, "blocks": blocks}


if __name__ == "__main__":
    choose(__file__, __doc__, BENCHMARKS, rows=5_000_000, turns=5)
