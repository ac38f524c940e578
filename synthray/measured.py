"""Figures of what a run measured: shares with their floors, what curation bought, accuracy by size.

`synthray.figure` has them for notebooks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from synthray.chart import OTHERS, PALETTE, WIDTH, asked, coloured, data, height, needed, ordered, ticks

if TYPE_CHECKING:
    import altair as alt

    from synthray.query import Query
    from synthray.run import Run

MEASURED = """
    SELECT m.step, m.metric, m.value, m.ci_low, m.ci_high, m.n, m.slice
    FROM metrics m LEFT JOIN (SELECT step, min(ordinal) AS place FROM steps GROUP BY step) s USING (step)
    ORDER BY s.place NULLS LAST, m.step, m.slice NULLS FIRST, m.metric
"""
"""SQL: the metrics in the order of their steps."""


_RATIOS = ("recovery", "recovery_macro_f1")
"""They are near 1, on either side."""
_OTHER_UNITS = {
    *("compression_ratio", "density", "frechet", "ingf_mean_count", "longest_span", "longest_span_p50"),
    *("longest_span_p95", "mean_words", "missing_labels", "nearest_distance", "novel_sum", "real_rows"),
    *("remote_clique", "root_type_token", "threshold", "train_rows", "vendi", "vocabulary", "word_entropy"),
}
"""Counts, distances and bits: even where one happens to be below 1 it is no share."""
BOUGHT = {
    "bought": "over the step before",
    "bought_over_chance": "over chance",
}
FLOOR = "_floor"
"""`mauve_floor` is what real data have where generated ones have `mauve`."""


def is_share(metric: str, value: float | None) -> bool:
    """Return whether a metric is drawn on the axis from 0 to 1: by its name, and by its value if unknown."""
    if value is None or not math.isfinite(value) or metric.removesuffix(FLOOR) in _OTHER_UNITS:
        return False
    return metric in _RATIOS or abs(value) <= 1


def metrics(run: Run, step: str | None = None, query: Query | None = None) -> alt.LayerChart:
    """Return shares and differences of shares as dots with their intervals, of one step or of all.

    A tick is the metric's floor, what real data come to. Others, such as counts, have no axis in common with
    them; slices and what is no number are left out.
    """
    import altair as alt

    with asked(run, query) as open_query:
        found = open_query.arrow(f"SELECT * FROM ({MEASURED}) WHERE slice IS NULL").to_pylist()
    rows = _with_floors([row for row in found if step in (None, row["step"])])
    for row in rows:
        row["name"] = row["metric"] if step is not None else f"{row['step']}.{row['metric']}"
    order = [row["name"] for row in rows]
    ends = [row[name] for row in rows for name in ("value", "ci_low", "ci_high", "floor")]
    there = [one for one in ends if one is not None]
    # What is beyond is drawn at the edge; its value is in the table.
    domain = [max(-1, min([0, *there])), min(2, max([1, *there]))]
    scale = alt.Scale(domain=domain, clamp=True)
    steps = list(dict.fromkeys(row["step"] for row in found))
    colours = {one: PALETTE[number % len(PALETTE)] for number, one in enumerate(steps)}
    base = alt.Chart(data(rows)).encode(
        y=ordered("y", "name", order, None),
        color=coloured("step", colours, legend=False),
        tooltip=_measured("name", "floor"),
    )
    floor = base.transform_filter("isValid(datum.floor)").mark_tick(thickness=3, size=14, color=OTHERS)
    chart: alt.LayerChart = alt.LayerChart(
        layer=[
            *_whisker(base, "x", alt.X("value:Q", title="value", scale=scale, axis=ticks())),
            floor.encode(x=alt.X("floor:Q", title="value", scale=scale), color=alt.value(OTHERS)),
        ]
    ).properties(width=WIDTH, height=height(order, 20))
    return chart


def _with_floors(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the shares, each with its floor; a floor is a row of its own only where its metric is not."""
    shares = [row for row in found if is_share(row["metric"], row["value"])]
    values = {(row["step"], row["metric"]): row["value"] for row in shares}
    return [
        {**row, "floor": values.get((row["step"], row["metric"] + FLOOR))}
        for row in shares
        if not row["metric"].endswith(FLOOR) or (row["step"], row["metric"][: -len(FLOOR)]) not in values
    ]


def bought(run: Run, query: Query | None = None) -> alt.LayerChart:
    """Return what each stage of curation bought of accuracy, whole and over chance, in the stages' order."""
    import altair as alt

    with asked(run, query) as open_query:
        rows = _sliced(open_query, "stage", f"metric IN {tuple(BOUGHT)}")
    for row in rows:
        row["what"] = BOUGHT[row["metric"]]
    order = list(dict.fromkeys(row["name"] for row in rows))
    colours = needed(dict(zip(BOUGHT.values(), PALETTE, strict=False)), rows, "what")
    base = alt.Chart(data(rows)).encode(
        y=ordered("y", "name", order, None),
        yOffset=alt.YOffset("what:N", sort=None, scale=alt.Scale(domain=list(colours))),
        color=coloured("what", colours),
        tooltip=_measured("name", "what"),
    )
    nought = alt.Chart(data([{"value": 0}])).mark_rule(color=OTHERS, strokeDash=[4, 3]).encode(x="value:Q")
    x = alt.X("value:Q", title="difference of accuracy", axis=ticks())
    chart: alt.LayerChart = alt.LayerChart(layer=[nought, *_whisker(base, "x", x)])
    return chart.properties(width=WIDTH, height=height(order, 36))


def sizes(run: Run, query: Query | None = None) -> alt.LayerChart:
    """Return the accuracy of students that learned from so many rows, with its intervals."""
    import altair as alt

    with asked(run, query) as open_query:
        rows = _sliced(open_query, "size", "metric = 'accuracy' AND regexp_full_match(slice, 'size=[0-9]+')")
    for row in rows:
        row["size"] = int(row["name"].rpartition("=")[2])
    rows.sort(key=lambda row: row["size"])
    colours = dict(zip(dict.fromkeys(row["step"] for row in rows), PALETTE * len(rows), strict=False))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("size:Q", title="rows learned from", axis=ticks(whole=True)),
        color=coloured("step", colours, legend=len(colours) > 1),
        tooltip=[alt.Tooltip("size:Q", format=","), *_measured("step")],
    )
    y = alt.Y("value:Q", title="accuracy", scale=alt.Scale(zero=False))
    chart: alt.LayerChart = alt.LayerChart(layer=[base.mark_line().encode(y=y), *_whisker(base, "y", y)])
    return chart.properties(width=WIDTH, height=220)


def _sliced(query: Query, kind: str, where: str) -> list[dict[str, Any]]:
    """Return measurements of slices `kind`=..., those of stages in the stages' order, each with its name."""
    rows: list[dict[str, Any]] = query.arrow(
        f"SELECT m.*, substr(slice, {len(kind) + 2}) AS name FROM ({MEASURED}) m LEFT JOIN "
        "(SELECT step AS stage, min(ordinal) AS since FROM steps GROUP BY ALL) ON slice = 'stage=' || stage "
        f"WHERE starts_with(slice, '{kind}=') AND isfinite(value) AND {where} "
        "ORDER BY since NULLS LAST, name, step, metric"
    ).to_pylist()
    if len({row["step"] for row in rows}) > 1 and kind == "stage":
        return [{**row, "name": f"{row['name']} ({row['step']})"} for row in rows]
    return rows


def _whisker(base: alt.Chart, axis: Literal["x", "y"], of: Any) -> list[alt.Chart]:
    """Return dots at the values and lines along their intervals."""
    ends = {axis: of.copy(deep=True), f"{axis}2": "ci_high:Q"}
    ends[axis].shorthand = "ci_low:Q"
    line = base.transform_filter("isValid(datum.ci_low)").mark_rule(strokeWidth=2).encode(**ends)
    return [line, base.mark_circle(size=70, opacity=1).encode(**{axis: of})]


def _measured(*more: str) -> list[alt.Tooltip]:
    import altair as alt

    numbers = ("value", "ci_low", "ci_high", *(one for one in more if one == "floor"))
    return [
        *(alt.Tooltip(f"{one}:N") for one in more if one != "floor"),
        *(alt.Tooltip(f"{name}:Q", format=".4f") for name in numbers),
        alt.Tooltip("n:Q", format=","),
    ]
