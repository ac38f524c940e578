"""The parts of a chart: its data, axes, colours and bars; `synthray.figure` puts them together.

Vega groups by values as the keys of JavaScript objects. Names that every such object has, `__proto__` among
them, break a chart, so that `safe` sets a character without width before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import altair as alt

    from synthray.query import Query
    from synthray.run import Run

PALETTE = (
    *("#3b82c4", "#d9822b", "#2f9e6e", "#d1495b", "#8c6bc8"),
    *("#1f9aa8", "#c9a227", "#d16ba5", "#8f9a2f", "#a9744f"),
)
OTHERS = "#8b93a1"
WIDTH = 640
NO_WIDTH = "\N{ZERO WIDTH SPACE}"
_STEP = 24
_OF_OBJECTS = re.compile(
    f"{NO_WIDTH}*(constructor|hasOwnProperty|isPrototypeOf|propertyIsEnumerable|toLocaleString|toString|valueOf"
    "|__proto__|__(define|lookup)[GS]etter__)"
)
"""The properties of JavaScript's Object.prototype; with the character before, so that no two become one."""
_WHOLE = ("rows", "tokens")
"""Amounts that have no fractions, nor have their axes."""


@contextmanager
def asked(run: Run, query: Query | None) -> Iterator[Query]:
    """Yield `query`, or one over the run's views that is closed after use."""
    if query is not None:
        yield query
        return
    with run.query() as own:
        yield own


def safe(value: Any) -> Any:
    """Return a value, or a list of values, as Vega can group by it."""
    if isinstance(value, list):
        return [safe(one) for one in value]
    return NO_WIDTH + value if isinstance(value, str) and _OF_OBJECTS.fullmatch(value) else value


def data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Return rows as the data of a chart."""
    import altair as alt

    return alt.InlineData(values=[{name: safe(value) for name, value in row.items()} for row in rows])


def bars(
    rows: list[dict[str, Any]],
    name: str,
    order: Sequence[str],
    amount: str,
    colour: str,
    colours: dict[str, str],
    title: str | None = None,
) -> alt.Chart:
    """Return horizontal bars, one for each of `order`, stacked in the order of `colours`."""
    import altair as alt

    places = list(colours)
    held = [{**row, "place": places.index(row[colour])} for row in rows]
    there = needed(colours, rows, colour)
    chart: alt.Chart = (
        alt.Chart(data(held))
        .mark_bar()
        .encode(
            x=alt.X(f"{amount}:Q", title=amount, axis=ticks(amount in _WHOLE)),
            y=ordered("y", name, order, title),
            color=coloured(colour, there or colours, legend=len(there) > 1),
            order=alt.Order("place:Q"),
            tooltip=[
                alt.Tooltip(f"{name}:N"),
                alt.Tooltip(f"{colour}:N", title="what"),
                alt.Tooltip(f"{amount}:Q", format=",.6~g" if amount == "dollars" else ","),
            ],
        )
        .properties(width=WIDTH, height=height(order))
    )
    return chart


def ticks(whole: bool = False) -> alt.Axis:
    """Return an axis of about six ticks; `whole`: none between whole numbers."""
    import altair as alt

    return alt.Axis(tickCount=6, tickMinStep=1) if whole else alt.Axis(tickCount=6)


def ordered(axis: Literal["x", "y"], name: str, order: Sequence[str], title: str | None) -> Any:
    """Return an axis of names in this order."""
    import altair as alt

    # By the scale's domain: Vega-Lite makes an expression of a list to sort by, and no data may be in one.

    kind, angle = (alt.X, -40) if axis == "x" else (alt.Y, 0)
    scale = alt.Scale(domain=safe(list(order)))
    return kind(f"{name}:N", sort=None, title=title, scale=scale, axis=alt.Axis(labelAngle=angle))


def coloured(field: str, colours: dict[str, str], title: str | None = None, legend: bool = True) -> alt.Color:
    """Return a colour for each value of a field."""
    import altair as alt

    return alt.Color(
        f"{field}:N",
        scale=alt.Scale(domain=safe(list(colours)), range=list(colours.values())),
        legend=alt.Legend(title=title) if legend else None,
    )


def needed(colours: dict[str, str], rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, str]:
    """Return the colours of those values that rows have."""
    there = {row[name] for row in rows}
    return {key: colour for key, colour in colours.items() if key in there}


def height(order: Sequence[Any], step: int = _STEP) -> int:
    """Return the pixels that so many names need."""
    return max(1, len(order)) * step
