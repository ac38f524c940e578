"""Figures of a run, for notebooks and the report: `figure.funnel(run)` is an Altair chart.

Each adds up in SQL first, so that a chart holds tens of numbers, the map a stated sample of rows. What comes
from the data stands in values alone, never in a field's name or an expression, so that no text of a model can
be more than text. Colours are readable on white and on black.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from synthray.chart import OTHERS, PALETTE, WIDTH, asked, bars, coloured, data, height, needed, ordered, ticks
from synthray.errors import InputError, near
from synthray.measured import bought as bought
from synthray.measured import metrics as metrics
from synthray.measured import sizes as sizes
from synthray.plane import POINTS
from synthray.spelling import identifier

if TYPE_CHECKING:
    import altair as alt

    from synthray.plane import Plane
    from synthray.query import Query
    from synthray.run import Run

VERDICTS = {"kept": "#3b82c4", "rejected": "#d9822b", "failed": "#d1495b", "replaced": "#8b93a1"}
"""What can become of a row, and its colour; `replaced` = by its children, or folded into another row."""

LABELS = 40
"""So many labels are drawn at most, the largest first."""
REASONS = 30
VALUES = 30
BINS = 40
FEW = 500  # points on the map are drawn large

VERDICT = (
    "CASE WHEN reject_reason IS NULL THEN 'kept' WHEN failed IS NOT NULL THEN 'failed' ELSE 'rejected' END"
)
"""SQL over `rows`."""


def require(query: Query, name: str, what: str = "column") -> str:
    """Return a column of the dataset as SQL; InputError with the nearest name when there is none."""
    names = query.schema("SELECT * FROM dataset").names
    if name not in names:
        raise InputError(f"the dataset has no {what} {name!r}{near(name, names)}")
    return identifier(name)


# What became of the rows.


def funnel(run: Run, query: Query | None = None) -> alt.Chart:
    """Return what each step did with the rows it got or made: kept, rejected, failed, replaced."""
    import altair as alt

    with asked(run, query) as open_query:
        steps = open_query.arrow("SELECT * FROM funnel").to_pylist()
    rows = [
        {"step": step["step"], "order": number, "what": what, "rows": step[name], "kind": step["operator"]}
        for number, step in enumerate(steps)
        for what, name in zip(
            VERDICTS, ("rows_kept", "rows_rejected", "rows_failed", "rows_expanded"), strict=True
        )
        if step[name]
    ]
    return bars(rows, "step", [step["step"] for step in steps], "rows", "what", VERDICTS).encode(
        tooltip=[
            alt.Tooltip("step:N"),
            alt.Tooltip("kind:N", title="operator"),
            alt.Tooltip("what:N", title="were"),
            alt.Tooltip("rows:Q", format=","),
        ]
    )


STAGES = """
    SELECT name, calls, prompt_tokens, completion_tokens, CAST(cost AS DOUBLE) AS dollars, seconds
    FROM stages JOIN (
        SELECT stage AS folder, string_agg(step, ', ' ORDER BY ordinal) AS name, min(ordinal) AS place
        FROM steps GROUP BY stage
    ) USING (folder) ORDER BY place
"""
"""SQL: what each stage (the steps that were made together) took."""


def cost(
    run: Run, of: Literal["seconds", "tokens", "dollars"] = "seconds", query: Query | None = None
) -> alt.Chart:
    """Return what each stage took: seconds, tokens of its prompts and completions, or US dollars."""
    with asked(run, query) as open_query:
        stages = open_query.arrow(STAGES).to_pylist()
    parts = {
        "seconds": {"seconds": "seconds"},
        "tokens": {"prompt_tokens": "prompt", "completion_tokens": "completion"},
        "dollars": {"dollars": "US dollars"},
    }
    if of not in parts:
        raise InputError(f"cost: of must be one of {', '.join(parts)}, but is {of!r}{near(of, parts)}")
    rows = [
        {"stage": stage["name"], "what": what, of: stage[name]}
        for stage in stages
        for name, what in parts[of].items()
        if stage[name]
    ]
    colours = dict(zip(parts[of].values(), PALETTE, strict=False))
    return bars(rows, "stage", [stage["name"] for stage in stages if _spent(stage, of)], of, "what", colours)


def _spent(stage: dict[str, Any], of: str) -> bool:
    return of == "seconds" or bool(stage["calls"])


def reasons(run: Run, query: Query | None = None) -> alt.Chart:
    """Return how many rows were left out for each reason, the REASONS most frequent ones."""
    with asked(run, query) as open_query:
        found = open_query.arrow(f"SELECT * FROM reasons LIMIT {REASONS}").to_pylist()
    for row in found:
        row["what"] = "failed" if row["reason"].startswith("failed:") else "rejected"
        row["reason"] = f"{row['step']}: {row['reason']}"
    order = [row["reason"] for row in found]
    return bars(found, "reason", order, "rows", "what", {k: VERDICTS[k] for k in ("rejected", "failed")})


# What the rows are like.


def labels(run: Run, label: str = "label", query: Query | None = None) -> alt.Chart:
    """Return how many rows of each label were kept and left out; the LABELS largest ones."""
    with asked(run, query) as open_query:
        rows = label_counts(open_query, label)
    order = list(dict.fromkeys(row["label"] for row in rows))[:LABELS]
    shown = [row for row in rows if row["label"] in set(order)]
    return bars(shown, "label", order, "rows", "what", _but("replaced"), title=label)


def label_counts(query: Query, label: str) -> list[dict[str, Any]]:
    """Return label, what (became of the rows) and rows; the labels with the most rows first."""
    name = require(query, label)
    rows: list[dict[str, Any]] = query.arrow(
        f"WITH held AS (SELECT {_shown(name)} AS shown, {VERDICT} AS what FROM rows) "
        "SELECT shown AS label, what, count(*) AS rows FROM held GROUP BY shown, what "
        "ORDER BY sum(count(*)) OVER (PARTITION BY shown) DESC, label, what"
    ).to_pylist()
    return rows


def lengths(
    run: Run, text: str = "text", by: str | None = None, query: Query | None = None
) -> alt.Chart | alt.LayerChart:
    """Return how long the texts are in characters, kept and left out; the last bar has the longest 0.5 %.

    With `by`, a column: for each of its values, of the kept rows, the range from the 5th to the 95th
    percentile, the middle half and the median.
    """
    with asked(run, query) as open_query:
        if by is not None:
            return _ranges(quantiles(open_query, text, by), by)
        rows = _histogram(open_query, require(open_query, text))
    import altair as alt

    chart: alt.Chart = (
        alt.Chart(data(rows))
        .mark_bar(binSpacing=1, orient="vertical")
        .encode(
            x=alt.X("low:Q", title="characters", scale=alt.Scale(zero=False, nice=False), axis=ticks(True)),
            x2="high:Q",
            y=alt.Y("rows:Q", title="rows", stack="zero", axis=alt.Axis(tickMinStep=1)),
            color=coloured("what", needed(_but("replaced"), rows, "what")),
            order=alt.Order("place:Q"),
            tooltip=[
                alt.Tooltip("low:Q", title="from"),
                alt.Tooltip("high:Q", title="below"),
                alt.Tooltip("what:N", title="were"),
                alt.Tooltip("rows:Q", format=","),
            ],
        )
        .properties(width=WIDTH, height=200)
    )
    return chart


def _histogram(query: Query, text: str) -> list[dict[str, Any]]:
    low, high, longest = query.rows(
        f"SELECT min(length({text})), quantile_cont(length({text}), 0.995), max(length({text})) FROM rows"
    )[0]
    if low is None:
        return []
    width = _nice((high - low) / BINS)
    last = int(high // width)
    found = query.rows(
        f"SELECT least(length({text}) // {width}, {last}) AS bin, {VERDICT} AS what, count(*) FROM rows "
        f"WHERE {text} IS NOT NULL GROUP BY ALL ORDER BY ALL"
    )
    end = max((last + 1) * width, 0) if longest < (last + 1) * width else (last + 2) * width
    return [
        {
            "low": place * width,
            "high": end if place == last else (place + 1) * width,
            "what": what,
            "rows": rows,
            "place": list(VERDICTS).index(what),
        }
        for place, what, rows in found
    ]


def _nice(width: float) -> int:
    """Return the whole number 1, 2 or 5 times a power of ten that is not below `width`."""
    power = 10 ** max(0, math.floor(math.log10(max(width, 1))))
    return next(int(power * step) for step in (1, 2, 5, 10) if power * step >= width)


def quantiles(query: Query, text: str, by: str | None) -> list[dict[str, Any]]:
    """Return value, n and the percentiles 5, 25, 50, 75, 95 of the kept texts' length; most rows first."""
    length = f"length({require(query, text)})"
    group = _shown(require(query, by)) if by else "'all'"
    parts = ", ".join(f"quantile_cont({length}, 0.{p:02}) AS p{p:02}" for p in (5, 25, 50, 75, 95))
    rows: list[dict[str, Any]] = query.arrow(
        f"SELECT {group} AS value, count({length}) AS n, {parts} FROM dataset GROUP BY ALL HAVING n > 0 "
        "ORDER BY n DESC, value"
    ).to_pylist()
    return rows


def _ranges(rows: list[dict[str, Any]], by: str) -> alt.LayerChart:
    import altair as alt

    shown = rows[:LABELS]
    order = [row["value"] for row in shown]
    base = alt.Chart(data(shown)).encode(
        y=ordered("y", "value", order, by),
        tooltip=[
            alt.Tooltip("value:N"),
            *(alt.Tooltip(f"{p}:Q") for p in ("p05", "p25", "p50", "p75", "p95")),
        ],
    )
    chart: alt.LayerChart = alt.LayerChart(
        layer=[
            base.mark_rule(color=OTHERS).encode(x=alt.X("p05:Q", title="characters"), x2="p95:Q"),
            base.mark_bar(color=PALETTE[0], size=8).encode(x="p25:Q", x2="p75:Q"),
            base.mark_tick(color=PALETTE[1], thickness=3, size=14).encode(x="p50:Q"),
        ]
    ).properties(width=WIDTH, height=height(order))
    return chart


def coverage(
    run: Run, column: str, label: str | None = "label", query: Query | None = None
) -> alt.Chart | alt.LayerChart:
    """Return how often each value of a column comes with each label in the dataset, nought where it was lost.

    The values are those of all rows, the VALUES most frequent ones; without a label, plain bars.
    """
    import altair as alt

    with asked(run, query) as open_query:
        name = require(open_query, column)
        split = _shown(require(open_query, label)) if label else "'rows'"
        rows = open_query.arrow(f"""
            WITH held AS (
                SELECT {_shown(name)} AS value, {split} AS kind, reject_reason IS NULL AS kept FROM rows
            ),
            most AS (SELECT value, count(*) AS size FROM held GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {VALUES}),
            kinds AS (SELECT kind, count(*) AS size FROM held GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {LABELS}),
            counted AS (SELECT value, kind, count(*) FILTER (kept) AS rows FROM held GROUP BY 1, 2)
            SELECT most.value, kinds.kind AS label, coalesce(counted.rows, 0) AS rows
            FROM most CROSS JOIN kinds LEFT JOIN counted USING (value, kind)
            ORDER BY most.size DESC, most.value, kinds.size DESC, kinds.kind
        """).to_pylist()
    order = list(dict.fromkeys(row["value"] for row in rows))
    kinds = list(dict.fromkeys(row["label"] for row in rows))
    if label is None:
        return bars(rows, "value", order, "rows", "label", {"rows": PALETTE[0]}, title=column)
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .mark_rect()
        .encode(
            x=ordered("x", "label", kinds, label),
            y=ordered("y", "value", order, column),
            color=alt.Color(
                "rows:Q",
                title="rows kept",
                scale=alt.Scale(range=["rgba(59,130,196,0.07)", PALETTE[0]], domainMin=0),
            ),
            tooltip=[alt.Tooltip("value:N"), alt.Tooltip("label:N"), alt.Tooltip("rows:Q", format=",")],
        )
        .properties(width=WIDTH, height=height(order, 20))
    )
    return chart


# Where the texts lie.


def map(
    run: Run,
    text: str = "text",
    label: str | None = "label",
    embedding: str | None = None,
    points: int = POINTS,
    query: Query | None = None,
) -> alt.Chart:
    """Return a map of a sample of the texts by label and verdict; what near means says `synthray.plane`."""
    from synthray.plane import laid

    with asked(run, query) as open_query:
        held = laid(open_query, text, label, embedding, points, int(run.state.get("seed", 0)))
    return mapped(held, label)


def mapped(held: Plane, label: str | None) -> alt.Chart:
    """Return a sample as a chart: its ten largest labels in colours, the rest in grey."""
    import altair as alt

    sizes: dict[str, int] = {}
    for row in held.rows:
        sizes[row["label"]] = sizes.get(row["label"], 0) + 1
    largest = sorted(sizes, key=lambda one: (-sizes[one], one))
    named = largest if len(largest) <= len(PALETTE) else largest[: len(PALETTE) - 1]
    colours = dict(zip(named, PALETTE, strict=False))
    rest = f"{len(largest) - len(named)} others"
    if len(named) < len(largest):
        colours[rest] = OTHERS
    rows = [{**row, "colour": row["label"] if row["label"] in colours else rest} for row in held.rows]
    plain = alt.Axis(labels=False, ticks=False, domain=False, grid=False)
    shapes = needed({"kept": "circle", "rejected": "cross", "failed": "triangle-up"}, rows, "what")
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .mark_point(filled=True, opacity=0.75, size=70 if len(rows) <= FEW else 30)
        .encode(
            x=alt.X("x:Q", axis=plain, title=None, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=plain, title=None, scale=alt.Scale(zero=False)),
            color=coloured("colour", colours, title=label or "rows"),
            shape=alt.Shape(
                "what:N",
                title="verdict",
                legend=alt.Legend(orient="bottom"),
                scale=alt.Scale(domain=list(shapes), range=list(shapes.values())),
            ),
            tooltip=[
                alt.Tooltip("text:N"),
                alt.Tooltip("label:N"),
                alt.Tooltip("what:N", title="verdict"),
                alt.Tooltip("why:N"),
                alt.Tooltip("row_id:N"),
            ],
        )
        .properties(width=WIDTH, height=480)
    )
    return chart


def _but(left: str) -> dict[str, str]:
    return {what: colour for what, colour in VERDICTS.items() if what != left}


def _shown(name: str) -> str:
    return f"coalesce(CAST({name} AS VARCHAR), '(none)')"
