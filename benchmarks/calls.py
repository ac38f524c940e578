"""What stands around a model call, against a real endpoint on loopback: speed, crashes, limits, money.

    uv run python benchmarks/calls.py                    # all of it, about 25 minutes on two cores
    uv run python benchmarks/calls.py throughput --rows 20000 --in-flight 256
    uv run python benchmarks/calls.py kills --kills 10
    uv run python benchmarks/calls.py faults crowded rate money resume memory fixed clients

Each line says what was measured and, where there is one, the ceiling measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from menu import choose

import synthray
from synthray import cluster
from synthray.generate.prompt import Prompt
from synthray.model.fake import Fake
from synthray.model.language import Language, Request
from synthray.model.openai import OpenAI
from synthray.model.wire import Wire
from synthray.source.table import Table as Source

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from endpoint import Endpoint

TEMPLATE = "Write a two-sentence {{ label }} news report about {{ topic }}, number {{ number }}."
LATENCIES: dict[str, Any] = {
    "fixed 200 ms": 0.2,
    "lognormal, median 200 ms, p99 2 s": {"lognormal": [0.2, 2.0]},
}


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


def pipeline(rows: synthray.Table, model: Language, **settings: Any) -> synthray.Pipeline:
    """Return source.table -> generate.prompt."""
    prompt = Prompt(template=TEMPLATE, writes="text", max_tokens=60)
    return synthray.Pipeline(
        [Source(table="parts"), prompt], name="calls", tables={"parts": rows}, model=model, **settings
    )


def model(endpoint: Endpoint, **settings: Any) -> OpenAI:
    """Return a model at the endpoint."""
    return OpenAI(name="m-1", base_url=endpoint.url, **{"in_flight": 256, **settings})


def lost_and_doubled(run: synthray.Run, rows: int) -> tuple[int, int]:
    """Return how many of the rows are not in the dataset, and how many are there more than once."""
    question = "SELECT count(*) AS kept, count(DISTINCT row_id) AS ids FROM dataset"
    kept, ids = run.sql(question).to_pylist()[0].values()
    return rows - ids, kept - ids


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


def warm_up() -> None:
    """Start Ray, and by a run of 10 rows what Ray Data starts at its first use."""
    cluster.start()
    with scratch() as folder:
        pipeline(table(folder, 10), Fake()).run(folder / "run", quiet=True)


def throughput(arguments: argparse.Namespace) -> None:
    """Rows a second of the stage, divided by those of the bare loop."""
    rows, in_flight = arguments.rows, arguments.in_flight
    warm_up()
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


def recipe(folder: Path, rows: int, endpoint: Endpoint, **settings: Any) -> Path:
    """Write the same pipeline as a recipe, for a process of its own."""
    table(folder, rows)
    held = {
        "name": "calls",
        "model": {"language": "openai", "name": "m-1", "base_url": endpoint.url, **settings},
        "tables": {"parts": f"rows-{rows}.parquet"},
        "max_failed": 0.0,
        "steps": [
            {"source.table": {"table": "parts"}},
            {"generate.prompt": {"template": TEMPLATE, "writes": "text", "max_tokens": 60}},
        ],
    }
    path = folder / "calls.yaml"
    path.write_text(json.dumps(held), encoding="utf-8")
    return path


def command(path: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start `synthray run`; its process group is its own, so that Ray's processes can be told from others."""
    arguments = [sys.executable, "-m", "synthray.cli", "run", str(path), "--out", str(out)]
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def victims(process: subprocess.Popen[bytes], kind: str) -> list[int]:
    """Return the processes of a run that a kill may hit."""
    import psutil

    if kind == "driver":
        return [process.pid]
    names = {"worker": "MapWorker", "limiter": "Shared", "node": "raylet"}
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if names[kind] in " ".join(child.cmdline()[:1]):
                found.append(child.pid)
    return found


def kills(arguments: argparse.Namespace) -> None:
    """Answered calls sent again, rows lost or doubled, after SIGKILLs at random moments."""
    rows, latency, random_ = 6000, 1.0, random.Random(7)
    with scratch() as folder, Endpoint(latency=latency, words=[8, 20]) as endpoint:
        path = recipe(folder, rows, endpoint, in_flight=512)
        done: list[tuple[str, float]] = []
        while True:
            process = command(path, folder / "run")
            while process.poll() is None and len(done) < arguments.kills:
                time.sleep(random_.uniform(0.5, 3.0))
                kind = random_.choice(["driver", "worker", "worker", "limiter", "node"])
                calling = endpoint.summary()["in_flight"] > 0
                hit = victims(process, kind) if calling and process.poll() is None else []
                if hit:
                    os.kill(random_.choice(hit), signal.SIGKILL)
                    done.append((kind, time.time()))
                if kind == "driver" and hit:
                    break
            code = process.wait()
            if code == 0:
                break
            assert code in (1, -signal.SIGKILL), process.stderr.read().decode()[-2000:]
        again, in_flight = sent_again(endpoint.hits(), [at for _, at in done], latency)
        made = synthray.open(str(folder / "run"))
        lost, doubled = lost_and_doubled(made, rows)
        print(
            f"kills, {len(done)} SIGKILLs ({', '.join(kind for kind, _ in done)}): "
            f"{again} answered calls sent again, {in_flight} sent again that were in flight at a kill; "
            f"{lost} rows lost, {doubled} doubled",
            flush=True,
        )


def sent_again(hits: list[dict[str, Any]], kills: list[float], latency: float) -> tuple[int, int]:
    """Count the requests that came again after an answer, and those whose answer a kill may have caught."""
    by_id: dict[str, list[float]] = {}
    for hit in hits:
        if hit["status"] == 200:
            by_id.setdefault(hit["id"], []).append(hit["at"] + latency)
    again = caught = 0
    for answered in by_id.values():
        for at in sorted(answered)[:-1]:
            # Between the endpoint's last byte and the line in the journal lies the loop of a busy process.
            if any(-0.5 <= at - kill <= latency for kill in kills):
                caught += 1
            else:
                again += 1
    return again, caught + sum(hit["status"] == "left" for hit in hits)


def faults(arguments: argparse.Namespace) -> None:
    """Rows lost or doubled, and calls paid twice, at an endpoint of which every fifth request goes wrong."""
    del arguments
    rows = 3000
    kinds = ("429", "500", "503", "408", "reset", "half", "malformed", "hang")
    share = dict.fromkeys(kinds, 0.2 / len(kinds))
    with scratch() as folder, Endpoint(latency=0.05, faults=share, retry_after=1, seed=3) as endpoint:
        made = pipeline(table(folder, rows), model(endpoint, timeout_s=3.0, retries=8)).run(
            folder / "run", quiet=True
        )
        lost, doubled = lost_and_doubled(made, rows)
        hits = endpoint.hits()
        good = sum(hit["fault"] is None for hit in hits)
        print(
            f"faults, {(len(hits) - good) / len(hits):.0%} of {len(hits)} requests: {lost} rows lost, "
            f"{doubled} doubled, {good - rows} answered twice",
            flush=True,
        )


def crowded(arguments: argparse.Namespace) -> None:
    """Measure what is made of an endpoint that takes less than the run would send."""
    del arguments
    warm_up()
    allowed: dict[str, tuple[int, float, dict[str, Any]]] = {
        "32 at once": (3000, 32 / 0.2, {"concurrency": 32, "retry_after": 0.2}),
        "6000 a minute": (2000, 100.0, {"requests_per_minute": 6000, "retry_after": 1}),
    }
    for name, (rows, most, script) in allowed.items():
        with scratch() as folder, Endpoint(latency=0.2, **script) as endpoint:
            made = pipeline(table(folder, rows), model(endpoint)).run(folder / "run", quiet=True)
            lost, _ = lost_and_doubled(made, rows)
            refused = endpoint.summary()["by_status"].get("429", 0)
            speed = rows / prompt_seconds(made)
            print(
                f"crowded, {name}: {speed:.0f} rows/s of {most:.0f} that it takes, {refused} of "
                f"{rows + refused} requests refused, {lost} rows lost",
                flush=True,
            )


def rate(arguments: argparse.Namespace) -> None:
    """Count requests in any 60 s window, and how much of the limit is used, with four workers."""
    del arguments
    limit = 3000
    rows = limit * 3
    # Four workers ask on any number of cores: one for each 256 in flight.
    cluster.start(cores=4)
    with scratch() as folder, Endpoint(latency=0.3) as endpoint:
        settings = {"in_flight": 1024, "requests_per_minute": limit}
        pipeline(table(folder, rows), model(endpoint, **settings)).run(folder / "run", quiet=True)
        at = sorted(hit["at"] for hit in endpoint.hits())
        most = endpoint.summary(window=60)["max_in_window"]
        # The first seconds fill the pace's stock, the last are few: the middle is under load.
        span = [one for one in at if at[0] + 5 <= one <= at[0] + 125]
        used = len(span) / (120 / 60) / limit
        print(
            f"rate, {limit} requests/minute, 4 workers: at most {most} in any 60 s, "
            f"{max(0, most - limit)} over, {used:.1%} used over two minutes",
            flush=True,
        )


def money(arguments: argparse.Namespace) -> None:
    """Money over the cap with 1,000 in flight and answers of random length."""
    del arguments
    price = {"input": 1.0, "output": 4.0}
    rows, cap = 6000, 0.5
    with scratch() as folder, Endpoint(latency={"lognormal": [1.0, 3.0]}, words=[1, 60]) as endpoint:
        asking = pipeline(table(folder, rows), model(endpoint, in_flight=1000, budget_usd=cap, price=price))
        try:
            asking.run(folder / "run", quiet=True)
            ended = "done"
        except synthray.SynthrayError as error:
            ended = f"exit {error.exit_code}"
        paid = (
            sum(
                hit["prompt_tokens"] * price["input"] + hit["completion_tokens"] * price["output"]
                for hit in endpoint.hits()
                if hit["status"] in (200, "left")
            )
            / 1e6
        )
        most = endpoint.summary()["max_in_flight"]
        print(
            f"money, cap {cap} US dollars, up to {most} in flight: {paid:.6f} paid ({ended}), "
            f"{max(0.0, paid - cap):.6f} over",
            flush=True,
        )


def resume(arguments: argparse.Namespace) -> None:
    """Find the missing among a million kept calls: see store.py."""
    del arguments
    subprocess.run([sys.executable, str(Path(__file__).with_name("store.py"))], check=True)


def memory(arguments: argparse.Namespace) -> None:
    """How much more memory the driver takes for 200,000 rows than for 10,000."""
    del arguments
    grown = []
    for rows in (10_000, 200_000):
        one = [sys.executable, __file__, "driver", "--rows", str(rows)]
        grown.append(float(subprocess.run(one, check=True, capture_output=True, text=True).stdout))
    print(
        f"memory of the driver: {grown[0]:.0f} MiB at 10,000 rows, {grown[1]:.0f} MiB at 200,000, "
        f"growth {grown[1] - grown[0]:.0f} MiB",
        flush=True,
    )


def driver(arguments: argparse.Namespace) -> None:
    """Run so many rows on the fake model; print the driver's peak memory."""
    fake = Fake(answers=["one two three four five " * 8, "six seven eight nine " * 8], in_flight=512)
    with scratch() as folder:
        pipeline(table(folder, arguments.rows), fake).run(folder / "run", quiet=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def fixed(arguments: argparse.Namespace) -> None:
    """Seconds of a run of 10 rows beyond Ray's own start: ray.init and the first dataset's own actors."""
    del arguments
    started = time.perf_counter()
    cluster.start()
    import ray.data

    ray.data.range(1).materialize()
    up = time.perf_counter() - started
    with scratch() as folder, Endpoint() as endpoint:
        asking = pipeline(table(folder, 10), model(endpoint))
        started = time.perf_counter()
        asking.run(folder / "run", quiet=True)
        took = time.perf_counter() - started
    print(f"fixed cost of a run of 10 rows: {took:.2f} s, after {up:.1f} s of Ray's own start", flush=True)


def clients(arguments: argparse.Namespace) -> None:
    """Processor time of a call by the openai client and by the wire, beside the bare loop."""
    rows, in_flight = 4000, arguments.in_flight
    with Endpoint(latency=0.2) as endpoint:
        for name, asking in (("aiohttp", bare), ("openai", by_openai), ("wire", by_wire)):
            before = time.process_time()
            seconds = asyncio.run(asking(endpoint.url, rows, in_flight))
            cpu = (time.process_time() - before) / rows * 1000
            print(
                f"clients, {name}: {rows / seconds:.0f} calls/s, {cpu:.2f} ms of processor a call", flush=True
            )


async def by_openai(url: str, rows: int, in_flight: int) -> float:
    """Return the seconds of the openai client, the way it is fastest."""
    import httpx2
    import openai

    limits = httpx2.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    http = openai.DefaultAioHttpClient(limits=limits)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=http)
    queue = iter(range(rows))

    async def ask() -> None:
        for number in queue:
            messages = [{"role": "user", "content": f"Write about rain, number {number}."}]
            body = {"model": "m-1", "messages": messages, "max_tokens": 60}
            await client.post("/chat/completions", body=body, cast_to=object)

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(in_flight)))
    seconds = time.perf_counter() - started
    await client.close()
    return seconds


async def by_wire(url: str, rows: int, in_flight: int) -> float:
    """Return the seconds of the wire."""
    wire = Wire(url, "m-1")
    queue = iter(range(rows))

    async def ask() -> None:
        for number in queue:
            text = f"Write about rain, number {number}."
            await wire.complete(Request(messages=({"role": "user", "content": text},), max_tokens=60))

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(in_flight)))
    seconds = time.perf_counter() - started
    await wire.close()
    return seconds


BENCHMARKS = {
    "throughput": throughput,
    "kills": kills,
    "faults": faults,
    "crowded": crowded,
    "rate": rate,
    "money": money,
    "resume": resume,
    "memory": memory,
    "fixed": fixed,
    "clients": clients,
}
PARTS = {"driver": driver}
"""What one of them runs in a process of its own."""


if __name__ == "__main__":
    choose(__file__, __doc__, BENCHMARKS, PARTS, rows=20_000, in_flight=256, kills=10)
