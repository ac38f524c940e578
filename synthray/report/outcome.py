"""What became of a run's rows, as sections of its report: the funnel, what was measured, reasons, lineage.

A section for which the run has nothing is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from synthray import figure, measured
from synthray.report.history import histories
from synthray.report.section import LINES, Asked, Figure, Row, Section, Table

EXAMPLES = 3
"""For each reason."""
REASONS = 12
FAILURES = 10
HISTORIES = 10
"""Rows whose history is told unless others are named."""


def funnel(asked: Asked) -> Section | None:
    """Return from rows made to rows kept, step by step."""
    rows = asked.arrow("SELECT * FROM funnel")
    chart = figure.funnel(asked.run, asked.query)
    counts = [name for name in rows[0] if name.startswith("rows_")]
    table = Table.of(rows, "step", *(f"{one}={one.removeprefix('rows_')}" for one in counts), "operator")
    return Section(
        "funnel",
        "From rows made to rows kept",
        "In each step, in + made = kept + rejected + failed + expanded; expanded rows were replaced by their "
        "children or folded into another row.",
        [Figure("funnel", chart, "Rows kept, rejected, failed and replaced in each step")],
        [table],
    )


def cost(asked: Asked) -> Section | None:
    """Return calls, tokens, dollars and seconds of each stage."""
    rows = asked.arrow(figure.STAGES)
    asks = any(row["calls"] for row in rows)
    paid = any(row["dollars"] for row in rows)
    figures = []
    if asks:
        figures.append(Figure("tokens", figure.cost(asked.run, "tokens", asked.query), "Tokens per stage"))
    if paid:
        figures.append(Figure("dollars", figure.cost(asked.run, "dollars", asked.query), "Dollars per stage"))
    figures.append(Figure("seconds", figure.cost(asked.run, "seconds", asked.query), "Seconds per stage"))
    names = ("name=stage", "calls", "prompt_tokens=prompt tokens", "completion_tokens=completion tokens")
    shown = (*names, "dollars", "seconds") if paid else (*names, "seconds")
    table = Table.of(rows, *(shown if asks else ("name=stage", "seconds")))
    said = (
        "Steps that were made together are one stage. Calls and tokens are those of its rows, whenever they "
        "were answered; seconds are those of the stage's last making."
    )
    if asks and not paid:
        said += " No price is known for the model, so that there are no dollars."
    return Section("cost", "What it took", said, figures, [table])


def reasons(asked: Asked) -> Section | None:
    """Return why rows were left out, with examples."""
    rows = asked.arrow("SELECT step, reason, rows FROM reasons")
    if not rows:
        return None
    kept = [row for row in rows if not row["reason"].startswith("failed:")]
    tables = [Table.of(rows, "step", "reason", "rows").cut()]
    examples = asked.arrow(
        f"SELECT row_id, reject_step, reject_reason, {asked.shown} FROM rejects QUALIFY row_number() OVER "
        "(PARTITION BY reject_step, reject_reason ORDER BY chance(row_id, 'report'), row_id) "
        f"<= {EXAMPLES} ORDER BY reject_step, reject_reason, row_id"
    )
    for row in kept[:REASONS]:
        key = (row["step"], row["reason"])
        those = [one for one in examples if (one["reject_step"], one["reject_reason"]) == key]
        tables.append(
            Table.of(those, *asked.names(), title=f"{row['reason']} ({row['step']}), {row['rows']:,} rows")
        )
    if len(kept) > REASONS:
        tables.append(Table((), (), f"Examples of {len(kept) - REASONS} rarer reasons are left out."))
    chart = figure.reasons(asked.run, asked.query)
    return Section(
        "reasons",
        "Why rows were left out",
        f"Up to {EXAMPLES} examples of each reason, chosen by chance.",
        [Figure("reasons", chart, "Rows left out for each reason")],
        tables,
    )


def failures(asked: Asked) -> Section | None:
    """Return the rows that could not be worked on."""
    rows = asked.arrow(
        "SELECT step, error, count(*) AS rows FROM failures GROUP BY ALL ORDER BY rows DESC, step, error"
    )
    if not rows:
        return None
    examples = asked.arrow(
        "SELECT step, error, left(message, 500) AS message, attempts, row_id FROM failures "
        f"ORDER BY chance(row_id, 'report'), row_id LIMIT {FAILURES}"
    )
    return Section(
        "failures",
        "Rows that failed",
        "They could not be worked on; `synthray run --retry-failed` tries them again.",
        tables=[
            Table.of(rows, "step", "error", "rows").cut(),
            Table.of(examples, "step", "error", "message", "attempts", "row_id", title="Examples"),
        ],
    )


def metrics(asked: Asked) -> Section | None:
    """Return the metrics with their intervals, step by step."""
    rows = asked.arrow(measured.MEASURED)
    if not rows:
        return None
    names = ("metric", "value", "ci_low=low", "ci_high=high", "n")
    whole = [row for row in rows if row["slice"] is None]
    tables = [Table.of(whole, "step", *names)]
    place = {row["step"]: at for at, row in enumerate(asked.arrow("SELECT step FROM steps ORDER BY ordinal"))}
    steps = list(dict.fromkeys(row["step"] for row in rows))
    for step in steps:
        if parts := [row for row in rows if row["step"] == step and row["slice"] is not None]:
            parts.sort(key=lambda row: (row["metric"], _natural(row["slice"], place)))
            shown = _fair(parts)
            rest = len(parts) - len(shown)
            note = f"{rest:,} more lines are left out; synthray sql has all." if rest else ""
            title = f"{step}, by slice"
            tables.append(Table.of(shown, "metric", "slice", *names[1:], note=note, title=title, fold=True))
    shares = [row for row in whole if measured.is_share(row["metric"], row["value"])]
    figures = [
        Figure(
            f"metrics-{number}",
            measured.metrics(asked.run, step, asked.query),
            f"Shares that {step} measured, with their intervals and floors",
            step,
        )
        for number, step in enumerate(steps)
        if any(row["step"] == step for row in shares)
    ]
    said = "Dots are values, lines their intervals where one was measured"
    said += (
        ", grey ticks the floor: what real data have where generated ones have the value."
        if any(row["metric"].endswith(measured.FLOOR) for row in shares)
        else "."
    )
    if len(shares) < len(whole):
        said += " What is no share, or no number, is in the table alone."
    return Section("metrics", "What was measured", said, [*figures, *_of_slices(asked, rows)], tables)


def _of_slices(asked: Asked, rows: Sequence[Row]) -> list[Figure]:
    """Return the figures of what the stages bought and of accuracy by size, where either was measured."""
    found = []
    there = [row for row in rows if row["slice"] is not None and math.isfinite(row["value"] or 0)]
    if any(row["metric"] in measured.BOUGHT and row["slice"].startswith("stage=") for row in there):
        chart = measured.bought(asked.run, asked.query)
        title = "What each stage of curation bought"
        found.append(Figure("bought", chart, f"{title} of accuracy, with intervals", title))
    if any(row["metric"] == "accuracy" and row["slice"].startswith("size=") for row in there):
        chart = measured.sizes(asked.run, asked.query)
        title = "Accuracy by the rows learned from"
        found.append(Figure("sizes", chart, f"{title}, with intervals", title))
    return found


def _natural(named: str, place: Mapping[str, int]) -> tuple[Any, ...]:
    """Return what orders slices: stages as they follow each other, numbers by value, the rest by name."""
    kind, _, value = named.partition("=")
    number = int(value) if value.isdecimal() else 0
    return (kind, place.get(value, len(place)) if kind == "stage" else 0, number, named)


def _fair(rows: list[Row]) -> list[Row]:
    """Return at most about LINES rows: as many of each metric as leave room for the others."""
    counts = Counter(row["metric"] for row in rows)
    each = LINES
    while each > 1 and sum(min(count, each) for count in counts.values()) > LINES:
        each -= 1
    shown: Counter[str] = Counter()
    found = []
    for row in rows:
        shown[row["metric"]] += 1
        if shown[row["metric"]] <= each:
            found.append(row)
    return found


def lineage(asked: Asked) -> Section | None:
    """Return the histories of the rows that are named, else of some that were kept and left out."""
    chosen = list(dict.fromkeys(asked.row_ids)) or _chosen(asked)
    if not chosen:
        return None
    how = "Those that were asked for." if asked.row_ids else "Some that were kept and one of each reason."
    said = f"{how} From the seed or condition through each step; prompt and answer where a model was asked."
    return Section("lineage", "Rows and where they come from", said, histories=histories(asked.run, chosen))


def _chosen(asked: Asked) -> list[str]:
    found = asked.query.rows(
        "SELECT row_id FROM (SELECT row_id, reject_reason, row_number() OVER "
        "(PARTITION BY reject_step, reject_reason ORDER BY chance(row_id, 'lineage'), row_id) AS place, "
        "count(*) OVER (PARTITION BY reject_step, reject_reason) AS size FROM rows) "
        f"WHERE place <= CASE WHEN reject_reason IS NULL THEN {EXAMPLES} ELSE 1 END "
        f"ORDER BY reject_reason IS NOT NULL, size DESC, row_id LIMIT {HISTORIES}"
    )
    return [one for (one,) in found]
