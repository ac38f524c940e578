"""The benchmarks of a file by name: all of them, each in a process of its own, or those that are named."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

Benchmark = Callable[[argparse.Namespace], None]


def choose(
    file: str,
    doc: str | None,
    benchmarks: Mapping[str, Benchmark],
    parts: Mapping[str, Benchmark] | None = None,
    **options: Any,
) -> None:
    """Run what the command line names; `parts` are what a benchmark runs in a process of its own.

    `options` are the numbers it may set, by their defaults; a type instead of a default is an option without.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"{', '.join(benchmarks)}; all without a name")
    for name, default in options.items():
        given = (
            {"type": default} if isinstance(default, type) else {"type": type(default), "default": default}
        )
        parser.add_argument(f"--{name.replace('_', '-')}", **given)
    arguments = parser.parse_args()
    if not arguments.names:
        # A Ray that was started for one decides nothing for the next.
        for name in benchmarks:
            subprocess.run([sys.executable, file, name, *sys.argv[1:]], check=True)
    for name in arguments.names:
        {**benchmarks, **(parts or {})}[name](arguments)
