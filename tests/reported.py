"""A finished run of every kind of evidence, written by hand without Ray or a model; `mark` stands in all its texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthray.lineage import FAILED
from synthray.metric import METRICS
from synthray.record import StageRecord, StepCount
from synthray.run import FORMAT, Run

HOSTILE = (
    "</script><script>document.documentElement.dataset.pwned=1;alert(1)</script>"
    '<img src=x onerror="document.documentElement.dataset.pwned=1;alert(2)">'
    '<svg onload=alert(3)><!--{{7*7}}\u2028"\'><a href="javascript:alert(4)">'
    '<iframe src="http://127.0.0.1:9/frame"></iframe><link rel=stylesheet href="http://127.0.0.1:9/css">'
)
IDENTITY = [("row_id", pa.string()), ("parent_id", pa.string()), ("round", pa.int32())]
WORDS = ("river", "market", "goal", "engine", "storm", "vote", "planet", "harvest", "court", "violin")


class Maker:
    """Writes stages one after another; each goes on with the rows of the one before."""

    def __init__(self, root: Path, name: str) -> None:
        self.run = Run.claim(root, name)
        self.root, self.folders, self.rows = root, [], 0
        self.before: StageRecord | None = None

    def stage(
        self,
        step: str,
        operator: str,
        files: tuple[str, ...] = (),
        *,
        made: int = 0,
        expanded: int = 0,
        rejects: Sequence[tuple[str, str]] = (),
        failures: str = "",
        failed: int = 0,
        **more: Any,
    ) -> None:
        """Commit a stage; `rejects` are row_id and reason."""
        folder = f"{len(self.folders) + 1:02}-stage-aa{len(self.folders)}"
        listed = ()
        if rejects:
            held = [{"row_id": one, "step": step, "reason": why} for one, why in rejects]
            listed = (self.file(folder, "rejects", pa.Table.from_pylist(held)),)
        kept = self.rows + made - len(rejects) - failed - expanded
        count = StepCount(step, operator, self.rows, made, kept, len(rejects), failed, expanded)
        assert count.conserved()
        before = self.before
        given = {"files": files or (before.files if before else ()), "added": before.added if before else ()}
        if files:
            given["added"] = ()
        self.before = StageRecord(
            folder=folder,
            fingerprint=folder,
            before=before.folder if before else None,
            steps=(count,),
            rejects=listed,
            failures=(failures,) if failures else (),
            **{**given, "seconds": 1.5, **more},
        )
        self.before.write(self.root)
        self.folders.append(folder)
        self.rows = kept

    def file(self, folder: str, name: str, table: pa.Table) -> str:
        """Write a file of a stage; return its path in the run."""
        path = self.root / "stages" / folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return str(path.relative_to(self.root))

    def next(self) -> str:
        """Return the folder that the next stage has."""
        return f"{len(self.folders) + 1:02}-stage-aa{len(self.folders)}"

    def end(self, **state: Any) -> Run:
        """Write run.json and return the run."""
        given = {"seed": 7, "state": "done", "stages": self.folders, "versions": {"synthray": "0"}}
        self.run.save(format=FORMAT, **{**given, **state})
        self.run.release()
        return Run.read(self.root)


def run(root: Path, rows: int = 40, mark: str = "", **state: Any) -> Run:
    """Write the run: conditions, prompt (2 failed), length (4 rejected), duplicates, label issues, measures."""
    name = f"news{mark}"
    maker = Maker(root, name)
    columns = [*IDENTITY, ("label", pa.string()), ("topic", pa.string())]
    labels = [f"Sports{mark}", "World", "Business"]
    held: list[dict[str, Any]] = [
        {
            "row_id": f"row{number:03}",
            "round": 0,
            "label": labels[number % 3],
            "topic": f"{WORDS[number % 7]}{mark}",
        }
        for number in range(rows)
    ]
    first = maker.file(maker.next(), "rows", pa.Table.from_pylist(held, pa.schema(columns)))
    maker.stage("conditions", "source.conditions", (first,), made=rows)
    columns += [("text", pa.string()), ("prompt_call", pa.string())]
    for number, row in enumerate(held):
        said = " ".join(WORDS[(number * step) % 10] for step in (1, 3, 7, 9))
        row["text"] = "short" if number % 10 == 9 else f"{said} {number}{mark}"
        row["prompt_call"] = f"call{number}"
    maker.run.kept_calls().mkdir(exist_ok=True)
    lines = [
        {
            **{"key": row["prompt_call"], "step": "prompt", "row_id": row["row_id"], "ordinal": 0},
            "request": {"messages": [{"role": "user", "content": f"About {row['topic']}, please."}]},
            "response": row["text"],
            **{"prompt_tokens": 9, "completion_tokens": 5, "finish_reason": "stop", "attempts": 1},
        }
        for row in held
    ]
    (maker.run.kept_calls() / "1.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    lost, held = held[-2:], held[:-2]
    failed = {"error": "TimeoutError", "message": f"no answer{mark}", "attempts": 3}
    lost = [{**row, "text": None, "failed": failed, "reject_step": f"prompt{mark}"} for row in lost]
    failures = pa.schema([*columns, ("failed", FAILED), ("reject_step", pa.string())])
    folder = maker.next()
    second = maker.file(folder, "rows", pa.Table.from_pylist(held, pa.schema(columns)))
    broken = maker.file(folder, "failures", pa.Table.from_pylist(lost, failures))
    spent = {"calls": rows, "prompt_tokens": 9 * rows, "completion_tokens": 5 * rows, "cost": 0.25}
    maker.stage(f"prompt{mark}", "generate.prompt", (second,), failures=broken, failed=len(lost), **spent)
    held = _where(maker, held, columns, "length", mark, [row for row in held if row["text"] == "short"])
    columns += [
        ("near_duplicate_of", pa.string()),
        ("near_duplicate_similarity", pa.float64()),
        ("near_duplicate_cluster", pa.string()),
    ]
    for pair in range(3):  # each repeats the one before it
        first_one, second_one = held[pair * 2], held[pair * 2 + 1]
        second_one["near_duplicate_of"] = first_one["row_id"]
        second_one["near_duplicate_similarity"] = 0.9
        first_one["near_duplicate_cluster"] = second_one["near_duplicate_cluster"] = first_one["row_id"]
    third = maker.file(maker.next(), "rows", pa.Table.from_pylist(held, pa.schema(columns)))
    maker.stage("near_duplicate", "curate.near_duplicate", (third,))
    columns += [
        ("label_issue", pa.bool_()),
        ("label_quality", pa.float64()),
        ("suggested_label", pa.string()),
    ]
    for number, row in enumerate(held):
        row |= {"label_issue": number % 9 == 0, "label_quality": number / 100, "suggested_label": "World"}
    fourth = maker.file(maker.next(), "rows", pa.Table.from_pylist(held, pa.schema(columns)))
    maker.stage("label_issue", "curate.label_issue", (fourth,))
    _where(maker, held, columns, "label_issue", mark, [row for row in held if row["label_issue"]])
    _measured(maker, mark)
    condition = {"condition": "utility.accuracy.ci_low > 0.4", "passed": True, "found": f"0.5{mark}"}
    task = {"text": f"a news report{mark}", "labels": dict.fromkeys(labels, f"about it{mark}")}
    given = {"name": name, "gate": [condition], "recipe": {"task": task, "steps": [{"where": mark}]}}
    return maker.end(**{**given, **state})


def _where(
    maker: Maker, held: list[dict[str, Any]], columns: Any, name: str, mark: str, out: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    kept = [row for row in held if row not in out]
    file = maker.file(maker.next(), "rows", pa.Table.from_pylist(kept, pa.schema(columns)))
    maker.stage(f"where_{name}", "where", (file,), rejects=[(row["row_id"], f"{name}{mark}") for row in out])
    return kept


def _measured(maker: Maker, mark: str) -> None:
    none = float("nan")
    rows = [
        ("diversity", "distinct_2", 0.8, None, None, 900, None),
        ("diversity", "vocabulary", 1234.0, None, None, 900, None),
        (f"utility{mark}", "accuracy", 0.6, 0.5, 0.7, 120, None),
        (f"utility{mark}", "recovery", none, none, none, 0, None),
        (f"utility{mark}", "f1", 0.55, None, None, 30, f"label=Sports{mark}"),
    ]
    table = pa.Table.from_pylist([dict(zip(METRICS.names, row, strict=True)) for row in rows], METRICS)
    file = maker.file(maker.next(), "metrics", table)
    maker.stage(f"utility{mark}", "evaluate.utility", metrics=(file,))


def bare(root: Path, rows: Sequence[dict[str, Any]], *, schema: pa.Schema | None = None, **state: Any) -> Run:
    """Write a run of one stage whose dataset is `rows`."""
    maker = Maker(root, "bare")
    held = [
        {"row_id": f"row{number}", "parent_id": None, "round": 0, **row} for number, row in enumerate(rows)
    ]
    whole = None if schema is None else pa.schema([*IDENTITY, *schema])
    table = pa.Table.from_pylist(held, whole)
    table = table.set_column(1, "parent_id", table["parent_id"].cast(pa.string()))
    file = maker.file(maker.next(), "rows", table)
    maker.stage("table", "source.table", (file,), made=len(rows))
    return maker.end(**{"name": "bare", "recipe": {}, **state})
