"""Label issues by given probabilities: speed against cleanlab in one process, size, and the same answers.

    uv run python benchmarks/labels_speed.py                     # all of it, about 15 minutes on two cores
    uv run python benchmarks/labels_speed.py speed --rows 1000000 --classes 10
    uv run python benchmarks/labels_speed.py size same

Problems are made: a true class for each row, probabilities from a Dirichlet distribution with more for the
true class, and a wrong label for one in ten. `same` adds the real ones of SYNTHRAY_DATA, where it is set.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from menu import choose
from peak import Peak

import synthray
from synthray import cluster
from synthray.curate.label_issue import LabelIssue
from synthray.label.confident import FilterBy, Score
from synthray.source.table import Table as Source

AT_ONCE = 250_000
FILTERS, SCORES = get_args(FilterBy), get_args(Score)


def problem(
    random: np.random.Generator, rows: int, classes: int, rounded: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return given classes and probabilities; `rounded` ones are tied often."""
    true = random.integers(0, classes, rows)
    held = random.dirichlet(np.full(classes, 0.4), rows)
    held[np.arange(rows), true] += random.random(rows) * 1.5
    if rounded:
        held = np.round(held * 4) + 0.25
    held /= held.sum(axis=1, keepdims=True)
    given = np.where(random.random(rows) < 0.1, random.integers(0, classes, rows), true)
    return given, held


def columns(given: np.ndarray, held: np.ndarray, first: int = 0) -> pa.Table:
    names = pa.array([f"class{number:02}" for number in range(held.shape[1])])
    ends = pa.array(np.arange(len(held) + 1) * held.shape[1], pa.int32())
    return pa.table(
        {
            "row_id": [f"{number:016x}" for number in range(first, first + len(held))],
            "label": names.take(pa.array(given)),
            "probabilities": pa.ListArray.from_arrays(ends, pa.array(held.reshape(-1))),
        }
    )


def written(folder: Path, rows: int, classes: int) -> synthray.Table:
    """Write a problem into files of AT_ONCE rows."""
    random = np.random.default_rng(7)
    folder.mkdir(parents=True)
    for first in range(0, rows, AT_ONCE):
        table = columns(*problem(random, min(AT_ONCE, rows - first), classes), first)
        pq.write_table(table, folder / f"part-{first:09}.parquet", compression="zstd", row_group_size=50_000)
    return synthray.Table.find(str(folder), Path())


def pipeline(table: synthray.Table, blocks: int | None = None, **settings: Any) -> synthray.Pipeline:
    steps = [Source(table="problem"), LabelIssue(label="label", probabilities="probabilities", **settings)]
    return synthray.Pipeline(steps, name="labels", tables={"problem": table}, blocks=blocks)


def start_ray() -> None:
    started = time.perf_counter()
    cluster.start()
    import ray.data

    ray.data.range(2).map_batches(lambda table: table, batch_format="pyarrow").take_all()
    print(f"Ray's start, not counted: {time.perf_counter() - started:.1f} s", flush=True)


def cleanlab_seconds(table: synthray.Table, out: Path) -> tuple[float, int]:
    """Do the same in this process: pyarrow reads, cleanlab judges and scores, pyarrow writes."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    started = time.perf_counter()
    rows = pq.read_table(list(table.files))
    given = rows["label"].combine_chunks().dictionary_encode()
    classes = sorted(given.dictionary.to_pylist())
    labels = np.array([classes.index(name) for name in given.dictionary.to_pylist()])[
        np.asarray(given.indices)
    ]
    held = np.asarray(rows["probabilities"].combine_chunks().flatten()).reshape(-1, len(classes))
    issues = find_label_issues(labels, held, n_jobs=1)
    marks = pa.table(
        {
            "row_id": rows["row_id"],
            "label_issue": issues,
            "label_quality": get_label_quality_scores(labels, held),
            "suggested_label": pa.array(classes).take(pa.array(held.argmax(axis=1))),
        }
    )
    pq.write_table(marks, out, compression="zstd")
    return time.perf_counter() - started, int(issues.sum())


def speed(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = written(folder / "rows", arguments.rows, arguments.classes)
        start_ray()
        runs = [pipeline(table).run(folder / f"run-{turn}", quiet=True) for turn in range(3)]
        ours = [run.stages()[-1].seconds for run in runs]
        import cleanlab.filter  # noqa: F401 (loading it is counted above alone, in the first run)

        theirs = [cleanlab_seconds(table, folder / "marks.parquet") for _ in range(3)]
        marked = runs[0].sql("SELECT count_if(label_issue) AS n FROM dataset").to_pylist()[0]["n"]
        print(
            f"speed: {arguments.rows} rows, {arguments.classes} classes: stage {min(ours):.2f} s (each "
            f"{', '.join(f'{one:.2f}' for one in ours)}; {marked} marked), cleanlab in one process "
            f"{min(theirs)[0]:.2f} s (each {', '.join(f'{one:.2f}' for one, _ in theirs)}; {theirs[0][1]} "
            f"marked): {min(ours) / min(theirs)[0]:.2f} x"
        )


def size(arguments: argparse.Namespace) -> None:
    """Make the rows here, and mark them in a process that has done nothing else."""
    with tempfile.TemporaryDirectory() as name:
        written(Path(name) / "rows", arguments.large, 20)
        subprocess.run([sys.executable, __file__, "driver", "--folder", name], check=True)


def driver(arguments: argparse.Namespace) -> None:
    table = synthray.Table.find("rows", arguments.folder)
    start_ray()
    with Peak() as peak:
        run = pipeline(table).run(arguments.folder / "run", quiet=True)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    source, stage = run.stages()
    print(
        f"size: {stage.steps[0].rows_kept} rows, 20 classes: stage {stage.seconds:.1f} s (its source "
        f"{source.seconds:.1f} s); driver {resident:.0f} MiB, largest other process "
        f"{peak.workers / 2**20:.0f} MiB (memory that is mapped counts)"
    )


def real() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the stored probabilities of 20news, and a student's for noisy_agnews."""
    folder = Path(os.environ["SYNTHRAY_DATA"])
    news = pq.read_table(folder / "label_errors_20news.parquet")
    agnews = pq.read_table(folder / "noisy_agnews.parquet", filters=[("split", "!=", "test")])
    agnews = agnews.append_column("row_id", pa.array([f"{place:05}" for place in range(len(agnews))]))
    learned = LabelIssue(label="given_label", text="text").judged(agnews).sort_by("row_id")
    names = sorted(set(learned["label"].to_pylist()))
    return {
        "20news": (np.array(news["given_label"]), np.array(news["pred_probs"].to_pylist())),
        "agnews": (
            np.array([names.index(one) for one in learned["label"].to_pylist()]),
            np.array(learned["probabilities"].to_pylist()),
        ),
    }


def same(arguments: argparse.Namespace) -> None:
    random = np.random.default_rng(3)
    problems = {
        f"made {number}": problem(
            random, int(random.integers(200, 4000)), int(random.integers(2, 12)), number % 4 == 3
        )
        for number in range(20)
    }
    if "SYNTHRAY_DATA" in os.environ:
        problems |= real()
    start_ray()
    compared = marked = 0
    unequal = []
    for name, (given, held) in problems.items():
        expected = cleanlab_answers(given, held)
        marked += sum(int(expected[by].sum()) for by in FILTERS)
        for blocks in (1, 7, 64):
            found = answers(given, held, blocks)
            compared += len(expected)
            unequal += [
                f"{name}, {one}, {blocks} blocks"
                for one, column in expected.items()
                if not np.array_equal(column, np.array(found[one]))
            ]
    print(
        f"same: {len(problems)} problems ({list(problems)[20:]} are real), each in 1, 7 and 64 blocks of "
        f"shuffled rows, {len(FILTERS)} filters ({marked} marks), {len(SCORES)} scores: {compared} "
        f"columns compared with cleanlab's, not the same: {unequal or 'none'}"
    )


def cleanlab_answers(given: np.ndarray, held: np.ndarray) -> dict[str, np.ndarray]:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        issues = {by: find_label_issues(given, held, filter_by=by, n_jobs=1) for by in FILTERS}
    return issues | {by: get_label_quality_scores(given, held, method=by) for by in SCORES}


def answers(given: np.ndarray, held: np.ndarray, blocks: int) -> pa.Table:
    """Return a column for each filter and each score, in the order of row_id, by one run."""
    with tempfile.TemporaryDirectory() as name:
        rows = columns(given, held)
        rows = rows.take(pa.array(np.random.default_rng(blocks).permutation(len(rows))))
        pq.write_table(rows, Path(name) / "rows.parquet")
        table = synthray.Table.find(f"{name}/rows.parquet", Path())
        classes = [f"class{number:02}" for number in range(held.shape[1])]
        steps: list[Any] = [Source(table="problem")]
        for place, by in enumerate(FILTERS):
            operator = LabelIssue(
                label="label",
                probabilities="probabilities",
                classes=classes,
                filter_by=by,
                score=SCORES[place % len(SCORES)],
            )
            steps.append(synthray.Step(operator, name=by))
        whole = synthray.Pipeline(steps, name="same", tables={"problem": table}, blocks=blocks)
        listed = [f"{by}_label_issue AS {by}" for by in FILTERS]
        listed += [f"{FILTERS[place]}_label_quality AS {by}" for place, by in enumerate(SCORES)]
        run = whole.run(Path(name) / "run", quiet=True)
        return run.sql(f"SELECT {', '.join(listed)} FROM dataset ORDER BY row_id")


BENCHMARKS = {"speed": speed, "size": size, "same": same}

PARTS = {"driver": driver}
"""What one of them runs in a process of its own."""


if __name__ == "__main__":
    choose(
        __file__,
        __doc__,
        BENCHMARKS,
        PARTS,
        rows=1_000_000,
        classes=10,
        large=10_000_000,
        folder=Path,
    )
