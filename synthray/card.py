"""The dataset card: what the dataset is, how it came about, what was measured, what the gate says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthray.stage import Stage

SOURCE = Path(__file__)
"""For the fingerprints of the operators that write one."""


def card(stage: Stage, sizes: Mapping[str, int], suffix: str) -> str:
    """Return the card of a dataset whose splits have so many rows, in data/SPLIT-*.SUFFIX."""
    import yaml

    state = stage.run.state
    task = stage.task
    passed = all(check.passed for check in stage.checks)
    gate = "none" if not stage.checks else "passed" if passed else "refused"
    verdict = {"none": "none was asked for", "passed": "passed", "refused": "REFUSED"}[gate]
    files = [
        {"split": name, "path": f"data/{name}-*.{suffix}"}
        for name, size in sizes.items()
        if size or suffix == "parquet"  # `datasets` opens no file of JSON lines without a line
    ]
    head = {
        "configs": [{"config_name": "default", "data_files": files}],
        "tags": ["synthetic", "synthray"],
        "gate": gate,  # for programs
    }
    # Into how many blocks rows were cut changes no result, so it does not change the card.
    shown = {key: value for key, value in state["recipe"].items() if key != "blocks"}
    recipe = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    fence = "`" * (
        3 + max((len(run) for run in recipe.replace("\n", " ").split() if set(run) == {"`"}), default=0)
    )
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
            f"# {plain(state['name'])}\n",
            "Synthetic data, made by synthray from the recipe below.\n",
            f"Task: {plain(task.text)}\n" if task.text else "",
            *(f"- {plain(name)}: {plain(str(meaning or ''))}" for name, meaning in task.labels.items()),
            f"\nGuideline: {plain(task.guideline)}\n" if task.guideline else "",
            "## Splits\n",
            table([{"split": name, "rows": size} for name, size in sizes.items()]),
            f"## Gate: {verdict}\n",
            table(
                [
                    {"condition": c.condition, "holds": "yes" if c.passed else "no", "measured": c.found}
                    for c in stage.checks
                ]
            ),
            "## What became of the rows\n",
            table(stage.run.sql("SELECT * FROM funnel").to_pylist()),
            "## Why rows were left out\n",
            table(stage.run.sql("SELECT * FROM reasons").to_pylist()),
            "## Measurements\n",
            table(stage.run.sql("SELECT * EXCLUDE (slice) FROM measured WHERE slice IS NULL").to_pylist()),
            "### Of slices\n",
            table(stage.run.sql("SELECT * FROM measured WHERE slice IS NOT NULL").to_pylist()),
            f"## Recipe (seed {state['seed']})\n",
            f"{fence}yaml\n{recipe}{fence}\n",
        ]
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, each value in a cell of its own."""
    if not rows:
        return "None.\n"
    lines = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([_cell(value) for value in row.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def plain(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, HTML or table bars from data."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*_[]|#":
        text = text.replace(mark, f"\\{mark}")
    return text


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else plain(str(value))
