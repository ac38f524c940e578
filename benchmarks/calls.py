"""What stands around a model call, against a real endpoint on loopback: speed, crashes, limits, money.

    uv run python benchmarks/calls.py                    # all of it, about 25 minutes on two cores
    uv run python benchmarks/calls.py throughput --rows 20000 --in-flight 256
    uv run python benchmarks/calls.py kills --kills 10
    uv run python benchmarks/calls.py rate money resume memory fixed clients faults

Each line says what was measured and, where there is one, the ceiling measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import synthray
from synthray import cluster
from synthray.generate.prompt import Prompt
from synthray.model.openai import OpenAI
from synthray.source.table import Table as Source

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from endpoint import Endpoint

TEMPLATE = "Write a two-sentence {{ label }} news report about {{ topic }}, number {{ number }}."
LATENCIES: dict[str, Any] = {"fixed 200 ms": 0.2, "lognormal, median 200 ms, p99 2 s": {"lognormal": [0.2, 2.0]}}


def table(folder: Path, rows: int) -> synthray.Table:
    """Return a table of prompts' parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = list(range(rows))
    path = folder / f"rows-{rows}.parquet"
    labels, topics = ("World", "Sports", "Business"), ("rain", "a vote", "a match", "prices", "a launch")
    pq.write_table(
        pa.table(
            {
                "number": numbers,
                "label": [labels[one % 3] for one in numbers],
                "topic": [topics[one % 5] for one in numbers],
            }
        ),
        path,
    )
    return synthray.Table((str(path),), "parquet")


def pipeline(rows: synthray.Table, model: OpenAI, **settings: Any) -> synthray.Pipeline:
    """Return source.table -> generate.prompt."""
    prompt = Prompt(template=TEMPLATE, writes="text", max_tokens=60)
    return synthray.Pipeline(
        [Source(table="given"), prompt], name="calls", tables={"given": rows}, model=model, **settings
    )


def model(endpoint: Endpoint, **settings: Any) -> OpenAI:
    """Return a model at the endpoint."""
    return OpenAI(name="m-1", base_url=endpoint.url, **{"in_flight": 256, **settings})


def prompt_seconds(run: synthray.Run) -> float:
    """Return how long the stage of the calls took."""
    return next(record.seconds for record in run.stages() if record.steps[0].step == "prompt")


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="synthray-calls-") as folder:
        yield Path(folder)


async def bare(url: str, rows: int, in_flight: int) -> float:
    """Return the seconds of a bare aiohttp loop: the same prompts, nothing kept, nothing limited."""
    import aiohttp

    queue = iter(range(rows))

    async def ask(session: aiohttp.ClientSession) -> None:
        for number in queue:
            text = f"Write a two-sentence World news report about rain, number {number}."
            body = {
                "model": "m-1",
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 60,
                "temperature": 1.0,
                "top_p": 1.0,
            }
            async with session.post(f"{url}/chat/completions", json=body) as answer:
                json.loads(await answer.read())

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        started = time.perf_counter()
        await asyncio.gather(*(ask(session) for _ in range(in_flight)))
        return time.perf_counter() - started


def throughput(arguments: argparse.Namespace) -> None:
    """Rows a second of the stage, divided by those of the bare loop."""
    rows, in_flight = arguments.rows, arguments.in_flight
    cluster.start()
    for name, latency in LATENCIES.items():
        with scratch() as folder, Endpoint(latency=latency) as endpoint:
            ceiling = rows / asyncio.run(bare(endpoint.url, rows, in_flight))
            made = pipeline(table(folder, rows), model(endpoint, in_flight=in_flight)).run(
                folder / "run", quiet=True
            )
            speed = rows / prompt_seconds(made)
            kept = made.sql("SELECT count(*) AS n FROM dataset").to_pylist()[0]["n"]
            print(
                f"throughput, {name}: {speed:.0f} rows/s of {ceiling:.0f} bare, ratio {speed / ceiling:.2f} "
                f"({kept} of {rows} rows, {in_flight} in flight)",
                flush=True,
            )


BENCHMARKS: dict[str, Callable[[argparse.Namespace], None]] = {"throughput": throughput}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all without a name")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--kills", type=int, default=10)
    arguments = parser.parse_args()
    for name in arguments.names or BENCHMARKS:
        BENCHMARKS[name](arguments)


if __name__ == "__main__":
    main()
