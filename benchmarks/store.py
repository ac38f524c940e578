"""A million kept calls, left by four killed workers: seconds and memory until the missing are known.

uv run python benchmarks/store.py
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from synthray.model.store import Store, compact


def kept_keys(count: int) -> Iterator[str]:
    """Yield keys like those of calls."""
    return (hashlib.blake2b(str(one).encode(), digest_size=12).hexdigest() for one in range(count))


def fill(folder: Path) -> None:
    """Keep 1,000,000 calls in four journals, as four workers that were killed would have."""
    stores = [Store(folder) for _ in range(4)]
    for number, key in enumerate(kept_keys(1_000_000)):
        text = f"Write a two-sentence World news report about rain, number {number}."
        record = {
            "step": "prompt",
            "row_id": f"{number:024x}",
            "ordinal": 0,
            "model": {"language": "openai", "name": "m-1"},
            "request": {"messages": [{"role": "user", "content": text}], "max_tokens": 60},
            "response": f"answer {number} " * 20,
            "finish_reason": "stop",
            "prompt_tokens": 20,
            "completion_tokens": 40,
            "tokens": 60,
            "cost": 0.00001,
            "attempts": 1,
            "latency_s": 0.2,
            "at": 1.0,
        }
        stores[number % 4].keep(key, record)


def find(folder: Path) -> None:
    """Compact the journals, open the store, and look for 1,000,000 kept calls and 1,000 missing ones."""
    started = time.perf_counter()
    part("compact", folder)
    compacted = time.perf_counter()
    store = Store(folder)
    opened = time.perf_counter()
    keys = [*kept_keys(1_000_000), *(f"{one:024x}" for one in range(1000))]
    looking = time.perf_counter()
    missing = sum(store.get(key) is None for key in keys)
    ended = time.perf_counter()
    seconds = (compacted - started) + (opened - compacted) + (ended - looking)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"resume, 1,000,000 kept calls: {missing} missing found in {seconds:.1f} s (to Parquet "
        f"{compacted - started:.1f}, index {opened - compacted:.1f}, all answers {ended - looking:.1f}); "
        f"{memory:.0f} MiB in the worker, {children:.0f} MiB in the task that compacts",
        flush=True,
    )


PARTS = {"fill": fill, "compact": compact, "find": find}


def part(name: str, folder: Path) -> None:
    """Do a part in a process of its own, whose memory is then told apart."""
    subprocess.run([sys.executable, __file__, name, str(folder)], check=True)


def main() -> None:
    if len(sys.argv) == 3:
        PARTS[sys.argv[1]](Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory(prefix="synthray-store-") as folder:
        part("fill", Path(folder))
        part("find", Path(folder))


if __name__ == "__main__":
    main()
