"""What is in a run's rows, as sections of its report: labels, lengths, coverage, the map, doubtful rows.

A section for which the run has nothing is None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synthray import figure
from synthray.column import is_text
from synthray.lineage import RESERVED
from synthray.plane import laid
from synthray.query import Query
from synthray.report.section import Asked, Figure, Group, Row, Section, Table
from synthray.spelling import identifier

if TYPE_CHECKING:
    from synthray.run import Run

PLACES = 3
"""Fewer are no map."""
CLUSTERS = 8
MEMBERS = 4
ISSUES = 15
COLUMNS = 8
"""Whose values are counted."""


def labels(asked: Asked) -> Section | None:
    """Return the distribution of the labels, kept and left out."""
    if not asked.label:
        return None
    counts: dict[str, Row] = {}
    for row in figure.label_counts(asked.query, asked.label):
        held = counts.setdefault(row["label"], {"label": row["label"], "kept": 0, "left out": 0})
        held["kept" if row["what"] == "kept" else "left out"] += row["rows"]
    total = sum(row["kept"] for row in counts.values())
    for row in counts.values():
        row["share"] = row["kept"] / total if total else None
    if not counts:
        return None
    meanings = _task(asked.run).get("labels") or {}
    unheld = [one for one in meanings if one not in counts] if isinstance(meanings, dict) else []
    said = f"{len(counts):,} value{'s' if len(counts) != 1 else ''} of the column {asked.label}."
    if unheld:
        said += f" Of the task's labels these have no row: {', '.join(map(str, unheld))}."
    chart = figure.labels(asked.run, asked.label, asked.query)
    table = Table.of(
        list(counts.values()), "label", "kept", "left out", "share=share of kept", title="By label", fold=True
    ).cut()
    return Section(
        "labels", "Labels", said, [Figure("labels", chart, "Rows of each label, kept and left out")], [table]
    )


def lengths(asked: Asked) -> Section | None:
    """Return how long the texts are, by label too."""
    if not asked.text:
        return None
    whole = figure.quantiles(asked.query, asked.text, None)
    if not whole:
        return None
    by = figure.quantiles(asked.query, asked.text, asked.label) if asked.label else []
    chart = figure.lengths(asked.run, asked.text, query=asked.query)
    figures = [Figure("lengths", chart, "Histogram of the texts' lengths, kept and left out")]
    if len(by) > 1:
        spread = figure.lengths(asked.run, asked.text, asked.label, asked.query)
        says = "Percentiles 5 to 95 (line), 25 to 75 (bar) and the median of the kept texts' length"
        figures.append(Figure("spread", spread, says))
    rows = [*whole, *by] if len(by) > 1 else whole
    parts = ("p05=5 %", "p25=25 %", "p50=median", "p75=75 %", "p95=95 %")
    return Section(
        "lengths",
        "Lengths",
        f"Characters of the column {asked.text}. The last bar holds the longest texts, 0.5 % or fewer.",
        figures,
        [Table.of(rows, "value=of", "n=texts", *parts, title="Characters", fold=True).cut()],
    )


def coverage(asked: Asked) -> Section | None:
    """Return which values of the first stage's columns came through, by label."""
    found = []
    for column in _conditions(asked):
        chart = figure.coverage(asked.run, column, asked.label, asked.query)
        if counted := _values(asked, column):
            found.append((column, chart, counted))
    if not found:
        return None
    summary = Table(
        ("column", "values made", "values kept", "coverage", "most frequent", "lost, such as"),
        [(column, *counted[0]) for column, _, counted in found],
    )
    figures = [
        Figure(f"coverage-{number}", chart, f"Rows kept for each value of {column}")
        for number, (column, chart, _) in enumerate(found)
    ]
    tables = [
        Table.of(values, "value", "made", "kept", title=column, fold=True).cut()
        for column, _, (_, values) in found
    ]
    return Section(
        "coverage",
        "Coverage of the conditions",
        "Which values of the columns that the rows began with are still there, and with which labels. The "
        f"figures show the {figure.VALUES} most frequent values.",
        figures,
        [summary, *tables],
    )


def _conditions(asked: Asked) -> list[str]:
    """Return the columns that conditions drew; else those of the first stage with few values."""
    import pyarrow as pa

    stages = asked.run.stages()
    with Query({"rows": asked.run.table(stages[0])}) as first:
        began = first.schema("SELECT * FROM rows")
    drawn = stages[0].steps[0].operator == "source.conditions"
    held = []
    for one in began:
        plain = is_text(one.type) or pa.types.is_integer(one.type) or pa.types.is_boolean(one.type)
        skip = one.name in RESERVED or one.name in (asked.text, asked.label)
        if skip or not plain or one.name not in asked.schema.names:
            continue
        name = identifier(one.name)
        kinds, rows = asked.query.rows(f"SELECT count(DISTINCT {name}), count({name}) FROM rows")[0]
        if kinds > 1 and (drawn or (kinds <= 1000 and kinds * 2 <= rows)):
            held.append(one.name)
    return held[:COLUMNS]


def _values(asked: Asked, column: str) -> tuple[tuple[Any, ...], list[Row]]:
    name = identifier(column)
    values = asked.arrow(
        f"WITH held AS (SELECT CAST({name} AS VARCHAR) AS value, reject_reason IS NULL AS kept FROM rows) "
        "SELECT value, count(*) AS made, count(*) FILTER (kept) AS kept FROM held WHERE value IS NOT NULL "
        "GROUP BY ALL ORDER BY made DESC, value"
    )
    there = [row for row in values if row["kept"]]
    lost = [row["value"] for row in values if not row["kept"]]
    most = max((row["kept"] for row in values), default=0)
    share = len(there) / len(values) if values else None
    return (len(values), len(there), share, most, ", ".join(lost[:5])), values


def places(asked: Asked) -> Section | None:
    """Return the map of the texts."""
    if not asked.text:
        return None
    seed = int(asked.run.state.get("seed", 0))
    held = laid(asked.query, asked.text, asked.label, asked.embedding, asked.points, seed)
    if len(held.rows) < PLACES:
        return None
    shown = f"{len(held.rows):,}"
    chosen = f"All {shown} texts" if len(held.rows) == held.of else f"{shown} of {held.of:,} texts, by chance"
    said = (
        f"{chosen}; compared are {held.vectors}, by principal components and t-SNE: near texts are alike, "
        "distances between groups mean little. Point at one to read it."
    )
    if held.without:
        said += f" {held.without:,} more of the sample have no vector."
    return Section("map", "Map of the texts", said, [Figure("map", figure.mapped(held, asked.label), said)])


def duplicates(asked: Asked) -> Section | None:
    """Return the largest clusters of duplicates, their texts side by side."""
    groups = []
    columns = asked.query.schema("SELECT * FROM rows").names
    if not asked.text:
        return None
    for column in columns:
        kind = re.fullmatch(r"(.*?(?:near|semantic|exact)_duplicate)_of", column)
        if kind:
            groups += _clusters(asked, kind[1], columns)
    if not groups:
        return None
    return Section(
        "duplicates",
        "Duplicates",
        f"The largest clusters, at most {CLUSTERS} of each kind and {MEMBERS} texts of each; the first of "
        "them is the one that the others were held to repeat.",
        groups=groups,
    )


def _clusters(asked: Asked, kind: str, columns: Sequence[str]) -> list[Group]:
    of = identifier(f"{kind}_of")
    exact = f"{kind}_cluster" not in columns
    cluster = f"coalesce({of}, row_id)" if exact else identifier(f"{kind}_cluster")
    alike = "NULL" if exact else identifier(f"{kind}_similarity")
    rows = asked.arrow(f"""
        WITH held AS (
            SELECT row_id, {cluster} AS cluster, {of} AS first_one, {alike} AS alike, reject_step,
                reject_reason, {asked.shown}
            FROM rows
        ),
        sized AS (
            SELECT *, count(*) OVER (PARTITION BY cluster) AS size, row_number() OVER (
                PARTITION BY cluster ORDER BY first_one IS NOT NULL, alike DESC NULLS LAST, row_id) AS place
            FROM held WHERE cluster IS NOT NULL
        )
        SELECT *, dense_rank() OVER (ORDER BY size DESC, cluster) AS nth FROM sized
        WHERE size > 1 AND place <= {MEMBERS} QUALIFY nth <= {CLUSTERS} ORDER BY nth, place
    """)
    groups = []
    for nth in dict.fromkeys(row["nth"] for row in rows):
        members = [row for row in rows if row["nth"] == nth]
        size = members[0]["size"]
        note = f"{size - len(members):,} more are not shown." if size > len(members) else ""
        title = f"{size:,} {kind.replace('_', ' ')}s"
        groups.append(Group(title, [_member(one) for one in members], note))
    return groups


def _member(row: Row) -> Row:
    left = f"{row['reject_step']}: {row['reject_reason']}" if row["reject_reason"] else "kept"
    alike = f"similarity {row['alike']:.3f}" if row["alike"] is not None else ""
    return {
        "text": row["shown_text"],
        "told": [row["shown_label"], alike, left, row["row_id"]],
    }


def issues(asked: Asked) -> Section | None:
    """Return rows whose label is likely wrong, the worst first."""
    columns = asked.query.schema("SELECT * FROM rows").names
    tables = []
    for column in columns:
        prefix = column.removesuffix("label_issue")
        quality, suggested = f"{prefix}label_quality", f"{prefix}suggested_label"
        if prefix == column or quality not in columns or suggested not in columns:
            continue
        total = asked.query.value(f"SELECT count(*) FROM rows WHERE {identifier(column)}")
        rows = asked.arrow(
            f"SELECT row_id, {asked.shown}, {identifier(quality)} AS quality, "
            f"CAST({identifier(suggested)} AS VARCHAR) AS suggested, "
            "coalesce(reject_step || ': ' || reject_reason, 'kept') AS became "
            f"FROM rows WHERE {identifier(column)} ORDER BY quality NULLS LAST, row_id LIMIT {ISSUES}"
        )
        if rows:
            note = f"The {len(rows)} of lowest quality among {total:,} marked rows."
            names = asked.names("suggested", "quality", "became")
            tables.append(Table.of(rows, *names, note=note, title=column))
    if not tables:
        return None
    said = (
        "A student that never saw the row holds its label for wrong; quality is the probability that it "
        "gives to the label, from 0 to 1."
    )
    return Section("issues", "Labels that may be wrong", said, tables=tables)


def _task(run: Run) -> Row:
    held = run.state.get("recipe", {}).get("task")
    return held if isinstance(held, dict) else {}
