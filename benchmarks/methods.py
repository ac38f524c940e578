"""Which way of generating is worth its calls: six recipes, raw and curated, on two tasks with real tests.

    SYNTHRAY_DATA=DIR uv run python benchmarks/methods.py run --out RUNS [--seeds 3] [--calls 80]
    SYNTHRAY_DATA=DIR uv run python benchmarks/methods.py table --out RUNS

`run` makes what is missing (calls are kept, so it goes on where it stopped), `table` reads what is there.
Each recipe is the shipped one in short, at the same number of calls of the embedded model. Real test rows
are cut by a hash into a dev half, on which the recipe is chosen, and another, on which it is reported. The
figure is recovery: (accuracy - majority) / (accuracy of as many real rows - majority), by logistic
regression over TF-IDF (evaluate.utility). Intervals are of the mean over seeds (Student's t).

Tests have about as many rows of each label. The tweets are those that are positive or negative: with
neutral ones beside, 100 to 1,800 real rows teach this student 0.39 to 0.42 where chance is 0.33, too little
to share in.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import real
import yaml

import synthray
from synthray.errors import GateRefused, SynthrayError
from synthray.lineage import uniform

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for the mean of so many seeds."""

GOLD = 40
"""How many real rows S3 may look at: they are of the training rows, never of the test."""


@dataclass(frozen=True)
class Task:
    """What is to be written, and what a person who knows the task says of it."""

    name: str
    what: str
    labels: dict[str, str]
    about: str
    topics: dict[str, list[str]]
    styles: list[str]


NEWS = Task(
    "news",
    "news report",
    {
        "World": "politics, conflict, disasters and diplomacy abroad",
        "Sports": "matches, athletes, teams and competitions",
        "Business": "companies, markets, trade and the economy",
        "Sci/Tech": "science, space, computers and the internet",
    },
    "a person, place, company or event in",
    {},  # the shipped ones
    ["breaking news", "a short brief", "a report with a quotation", "a report with figures"],
)
TWEETS = Task(
    "tweets",
    "tweet",
    {
        "positive": "the writer is pleased, excited or thankful",
        "negative": "the writer is angry, sad, worried or disappointed",
    },
    "something people tweet about that is",
    {
        "positive": ["a win of my team", "a concert tonight", "a new album", "my birthday", "a day off",
                     "good food", "a film I loved", "a friend's wedding", "a holiday", "a new phone"],
        "negative": ["a cancelled flight", "losing a match", "bad service", "politicians who lie", "the rain",
                     "being ill", "a boring show", "traffic", "a broken phone", "rising prices"],
    },
    ["short and with a hashtag", "with a mention of somebody", "in plain words", "with an exclamation"],
)  # fmt: skip
TASKS = {task.name: task for task in (NEWS, TWEETS)}

CURATION = """
  - where: length(text) BETWEEN 15 AND 700
    reason: length
  - sql: filters/refusal.sql
    reason: refusal
  - curate.near_duplicate: {text: text, threshold: 0.8}
  - where: near_duplicate_of IS NULL
    reason: near_duplicate
  - curate.label_issue: {text: text, label: label}
  - where: NOT label_issue
    reason: label_issue
"""

ASK = "Write a {{ task.text }} that is {{ label }}: {{ task.labels[label] }}."
SHORT = "{temperature: 0.9, max_tokens: 60, writes: text, template: "

METHODS = {
    "quickstart": f"""
  - source.conditions:
      rows: CALLS
      columns: {{label: task.labels, topic: {{by: label, from: topics}}}}
  - generate.prompt: {SHORT} "Write a {{{{ label }}}} {{{{ task.text }}}} about {{{{ topic }}}}."}}
""",
    "zerogen": """
  - source.conditions: {rows: REST, columns: {label: task.labels, entity: {by: label, from: entities}}}
  - generate.prompt:
      {raw: true, temperature: 0.9, top_p: 0.9, max_tokens: 60, writes: text, stop: ['"', "\\n\\n"],
       template: 'A {{ task.text }} that is {{ label }}, about {{ entity }}: "'}
""",
    "attrprompt": f"""
  - source.conditions:
      rows: REST
      columns:
        label: task.labels
        topic: {{by: label, sql: "SELECT entity AS value, label FROM entities"}}
        style: STYLES
        length: {{ranges: [[10, 20], [20, 40]]}}
        others: {{others: label, k: 1}}
  - generate.prompt: {SHORT} "Write a {{{{ task.text }}}} that is {{{{ label }}}} and not {{{{ others[0] }}}},
      about {{{{ topic }}}}, {{{{ style }}}}, in {{{{ length.low }}}} to {{{{ length.high }}}} words."}}
""",
    "progen": f"""
  - source.conditions: {{rows: HALF, columns: {{label: task.labels}}}}
  - generate.prompt: {SHORT} "{ASK}"}}
    as: first
  - repeat:
      max: 2
      tables:
        ranked:
          steps:
            - source.table: {{table: pool}}
            - curate.student: {{text: text, label: label, validation: pool,
                               influence_loss: reverse_cross_entropy}}
      steps:
        - source.conditions: {{rows: QUARTER, columns: {{label: task.labels}}}}
        - generate.demonstrations: {{pool: ranked, columns: [text], match: label, top: 10, k: 3,
                                    order: "student_influence ASC", share: 0.5, max_characters: 900}}
        - generate.prompt: {SHORT} "{{% for demo in demos %}}A {{{{ label }}}} {{{{ task.text }}}}:
            {{{{ demo.text }}}}\\n{{% endfor %}}{ASK}"}}
""",
    "s3": f"""
  - source.conditions: {{rows: HALF, columns: {{label: task.labels}}}}
  - generate.prompt: {SHORT} "{ASK}"}}
    as: first
  - repeat:
      max: 2
      tables:
        wrong:
          steps:
            - source.table: {{sql: "SELECT row_id, text, label, 1::DOUBLE AS counts, false AS gold FROM pool
                UNION ALL SELECT row_id, text, label, 0::DOUBLE, true FROM gold"}}
            - curate.student: {{text: text, label: label, weight: counts}}
            - where: gold AND student_label <> label
              reason: right
      steps:
        - source.conditions:
            rows: QUARTER
            columns: {{error: {{sql: "SELECT row_id AS value FROM wrong"}}}}
        - sql: "SELECT rows.row_id, w.text AS like_text, w.label AS label
            FROM rows JOIN wrong w ON w.row_id = error"
        - generate.prompt: {SHORT} "This {{{{ task.text }}}} is {{{{ label }}}}: {{{{ like_text }}}}\\nWrite
            another {{{{ task.text }}}} like it that is {{{{ label }}}}."}}
""",
}
PROPOSED = {"zerogen", "attrprompt"}
"""Those whose conditions are proposed by the model: a fifth of the calls."""


def recipe(task: Task, method: str, seed: int, calls: int) -> dict[str, Any]:
    """Return the recipe of a cell: made, measured raw, curated, measured again."""
    proposals = calls // 5
    figures = {"CALLS": calls, "HALF": calls // 2, "QUARTER": calls // 4, "REST": calls - proposals}
    text = METHODS[method] + _measured("raw") + CURATION + _measured("curated")
    for name, figure in figures.items():
        text = text.replace(name, str(figure))
    tables: dict[str, Any] = {"dev": "dev.parquet", "test": "test.parquet", "real": "real.parquet"}
    tables |= {"topics": "topics.yaml", "gold": "gold.parquet"}
    if method in PROPOSED:
        tables["entities"] = {"steps": _proposing(task, proposals)}
    return {
        "name": f"{task.name}-{method}",
        "seed": seed,
        "task": {"text": task.what, "labels": task.labels},
        "model": {"language": "embedded"},
        "max_failed": 0.2,
        "tables": tables,
        "steps": yaml.safe_load(text.replace("STYLES", json.dumps(task.styles))),
    }


def _measured(what: str) -> str:
    weighed = "  - curate.weight: {text: text, label: label, by: sungen}\n" if what == "raw" else ""
    steps = "".join(
        f"  - evaluate.utility: {{text: text, label: label, test: {half}, real: real{more}}}\n"
        f"    as: {what}{name}_{half}\n"
        for half in ("dev", "test")
        for name, more in (("", ""), *((("_sungen", ", weight: weight"),) if weighed else ()))
    )
    return weighed + steps


def _proposing(task: Task, rows: int) -> list[Any]:
    steps = f"""
- source.conditions: {{rows: {rows}, columns: {{label: task.labels}}}}
- generate.prompt: {{writes: entity, temperature: 1.0, max_tokens: 16, stop: ["\\n", "."],
    template: "Name {task.about} {{{{ label }}}}: {{{{ task.labels[label] }}}}. Answer with the name alone."}}
- where: length(entity) BETWEEN 2 AND 80
  reason: no_entity
- curate.exact_duplicate: {{text: entity}}
- where: exact_duplicate_of IS NULL
  reason: same_entity
"""
    found: list[Any] = yaml.safe_load(steps)
    found[1]["as"] = "propose"
    return found


def given(task: Task, folder: Path) -> None:
    """Write the real rows of a task: dev and test halves, training rows, and S3's gold rows among these."""
    if task is NEWS:
        test, train = (
            real.read("noisy_agnews", split="clean_test"),
            real.read("noisy_agnews", split="noisy_10k"),
        )
        test, train = (pa.table({"text": one["text"], "label": one["true_label"]}) for one in (test, train))
    else:
        rows = real.read("gpt_augmented_sentiment", split="human_test").select(["text", "label"])
        train_third = [uniform("train", text) < 1 / 3 for text in rows["text"].to_pylist()]
        rows, kept = rows.append_column("train", pa.array(train_third)), pa.array(list(task.labels))
        rows = _balanced(rows.filter(pc.is_in(rows["label"], kept)))
        train, test = (rows.filter(half).drop("train") for half in (rows["train"], pc.invert(rows["train"])))
    dev = pa.array([uniform("dev", text) < 0.5 for text in test["text"].to_pylist()])
    pq.write_table(test.filter(dev), folder / "dev.parquet")
    pq.write_table(test.filter(pc.invert(dev)), folder / "test.parquet")
    pq.write_table(train, folder / "real.parquet")
    order = sorted(range(len(train)), key=lambda row: uniform("gold", train["text"][row].as_py()))
    gold = train.take(pa.array(order[:GOLD]))
    names = pa.array([f"gold{place}" for place in range(GOLD)])
    pq.write_table(gold.append_column("row_id", names), folder / "gold.parquet")
    shipped = Path(synthray.__file__).parent / "recipes/data/news_topics.yaml"
    if task.topics:
        (folder / "topics.yaml").write_text(yaml.safe_dump(task.topics), encoding="utf-8")
    else:
        shutil.copy(shipped, folder / "topics.yaml")


def _balanced(rows: pa.Table) -> pa.Table:
    """Return as many rows of each label, the first by a hash of the text."""
    order = sorted(range(len(rows)), key=lambda row: uniform("balance", rows["text"][row].as_py()))
    labels = rows["label"].to_pylist()
    each = min(Counter(labels).values())
    seen: Counter[str] = Counter()
    taken = []
    for row in order:
        seen[labels[row]] += 1
        if seen[labels[row]] <= each:
            taken.append(row)
    return rows.take(pa.array(taken))


def run(out: Path, seeds: int, calls: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(1, seeds + 1):
        for task in TASKS.values():
            folder = out / task.name
            folder.mkdir(exist_ok=True)
            given(task, folder)
            for method in METHODS:
                path = folder / f"{method}-{seed}.yaml"
                path.write_text(
                    yaml.safe_dump(recipe(task, method, seed, calls), sort_keys=False), encoding="utf-8"
                )
                try:
                    synthray.load(path).run(folder / f"{method}-{seed}", quiet=True)
                except GateRefused:
                    pass
                except SynthrayError as error:
                    print(f"{task.name} {method} {seed}: {error}", file=sys.stderr)
                    continue
                print(task.name, method, seed, flush=True)


def table(out: Path) -> None:
    """Print a line for each recipe, and what the one chosen on the dev half does on the other."""
    found = {task: _rows(out / task) for task in TASKS}
    columns = ("rows", "recovery, dev", "recovery, test", "accuracy, beside real rows")
    print("| recipe | " + " | ".join(f"{task}: {column}" for task in TASKS for column in columns) + " |")
    print("|---" * (1 + len(TASKS) * len(columns)) + "|")
    for recipe in next(iter(found.values())):
        cells = [cell for rows in found.values() for cell in _cells(rows[recipe])]
        print(f"| {recipe} | {' | '.join(cells)} |")
    for task, rows in found.items():
        best = max(rows, key=lambda recipe: statistics.fmean(rows[recipe]["dev"]))
        print(f"{task}: chosen on dev {best}; recovery on the other half {_shown(rows[best]['test'])}")
    calls = {call for rows in found.values() for row in rows.values() for call in row["calls"]}
    print(f"calls that were answered, each run: {' or '.join(f'{call:.0f}' for call in sorted(calls))}")


def _cells(row: dict[str, list[float]]) -> list[str]:
    accuracy, real_ = (statistics.fmean(row[name]) for name in ("accuracy", "real_accuracy"))
    rows = f"{statistics.fmean(row['rows']):.0f}"
    return [rows, _shown(row["dev"]), _shown(row["test"]), f"{accuracy:.3f}, {real_:.3f}"]


def _rows(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return the figures of each recipe, a number for each seed."""
    found = {}
    for method in METHODS:
        runs = [synthray.open(str(path)) for path in sorted(folder.glob(f"{method}-*")) if path.is_dir()]
        for kind in ("raw", "raw_sungen", "curated"):
            held = [one for one in (_figures(run, kind) for run in runs) if one]
            name = "weighted by SunGen" if kind == "raw_sungen" else kind
            found[f"{method}, {name}"] = {key: [one[key] for one in held] for key in held[0]}
    return found


def _figures(run: synthray.Run, kind: str) -> dict[str, float] | None:
    sql = "SELECT step, metric, value FROM metrics WHERE slice IS NULL"
    values = {(row["step"], row["metric"]): row["value"] for row in run.sql(sql).to_pylist()}
    if (f"{kind}_test", "recovery") not in values:
        return None
    return {
        "dev": values[f"{kind}_dev", "recovery"],
        "test": values[f"{kind}_test", "recovery"],
        "accuracy": values[f"{kind}_test", "accuracy"],
        "real_accuracy": values[f"{kind}_test", "real_accuracy"],
        "rows": values[f"{kind}_test", "train_rows"],
        "calls": float(run.sql("SELECT count(*) AS n FROM calls WHERE error IS NULL")["n"][0].as_py()),
    }


def _shown(values: list[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = T_975[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=80)
    given_ = parser.parse_args()
    if given_.what == "run":
        run(given_.out, given_.seeds, given_.calls)
    table(given_.out)


if __name__ == "__main__":
    main()
