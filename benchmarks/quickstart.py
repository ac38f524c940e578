"""How surely the quickstart's gate passes: the recipe with other seeds, the margin of each.

    uv run python benchmarks/quickstart.py --seeds 20 --out runs/seeds

Prints a line a seed (accuracy, its lower bound, the majority baseline, the margin between the two, rows,
seconds) and how many passed. Running again resumes, as any run does.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import synthray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    margins = []
    for seed in range(1, arguments.seeds + 1):
        out = arguments.out / f"seed-{seed:02d}"
        started = time.monotonic()
        try:
            synthray.load("quickstart", settings=[f"seed={seed}"]).run(out, quiet=True)
        except synthray.GateRefused as error:
            print(error)
        seconds = time.monotonic() - started
        run = synthray.open(out)
        found = {
            row["metric"]: row
            for row in run.sql("SELECT * FROM metrics WHERE step = 'utility' AND slice IS NULL").to_pylist()
        }
        low, majority = found["accuracy"]["ci_low"], found["majority"]["value"]
        rows = run.sql("SELECT count(*) AS n FROM dataset").to_pylist()[0]["n"]
        margins.append(low - majority)
        print(
            f"seed {seed}: accuracy {found['accuracy']['value']:.3f}, lower bound {low:.3f}, "
            f"majority {majority:.3f}, margin {low - majority:+.3f}, {rows} rows, {seconds:.0f} s",
            flush=True,
        )
    passed = sum(margin > 0 for margin in margins)
    print(
        f"{passed} of {len(margins)} seeds pass; margin smallest {min(margins):+.3f}, "
        f"median {sorted(margins)[len(margins) // 2]:+.3f}"
    )


if __name__ == "__main__":
    main()
