"""A run as one HTML file that a person likes to read: self-contained, and nothing runs but its own script.

Texts, labels and names are written escaped, in HTML and in the JSON of the figures, and the page's policy
allows no script, style, picture or request but the scripts and the style whose hashes it names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from synthray.errors import InputError
from synthray.plane import POINTS
from synthray.record import replace_file
from synthray.repeat import Repeat
from synthray.report import contents, outcome
from synthray.report.history import Event
from synthray.report.section import CHARACTERS, Asked, Section
from synthray.run import Run

if TYPE_CHECKING:
    import jinja2

TEMPLATE = Path(__file__).with_suffix(".html.j2")
SECTIONS = (
    *(outcome.funnel, outcome.metrics, outcome.reasons, outcome.failures),
    *(contents.labels, contents.lengths, contents.coverage, contents.places),
    *(contents.duplicates, contents.issues, outcome.lineage, outcome.cost),
)
LONGEST = 4000
"""Characters of a value in the history of a row."""
NOTHING = "\N{EN DASH}"
_LISTED = 20
_NAME = 200


def write(
    root: str | Path,
    out: str | Path | None = None,
    *,
    rows: Sequence[str] = (),
    text: str | None = None,
    label: str | None = None,
    points: int = POINTS,
) -> Path | str:
    """Write the report of the run at `root` to `out` (default: RUN/report.html) and return its path or URL.

    `rows` are row_ids whose history is told. `text` and `label` name columns of the dataset; left out, they
    are `text` and `label` where there are such. `points` is how many texts are on the map.
    """
    run = Run.read(root)
    path = Path(out) if out is not None else run.root / "report.html"
    _check_out(path)
    try:
        replace_file(path, html(run, rows=rows, text=text, label=label, points=points))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    if run.remote and out is None:
        run.keep(path)
        return f"{run.where}/{path.name}"
    return path


def html(
    run: Run,
    *,
    rows: Sequence[str] = (),
    text: str | None = None,
    label: str | None = None,
    points: int = POINTS,
) -> str:
    """Return the report of a run; the same for the same run."""
    with run.query() as query:
        asked = Asked.of(run, query, text, label, rows, points)
        told = outcome.lineage(asked)  # first: a wrong row_id is found before the work
        made = [told if make is outcome.lineage else make(asked) for make in SECTIONS]
        sections = [section for section in made if section]
        head = _head(asked)
    specs = {figure.name: figure.chart.to_dict() for section in sections for figure in section.figures}
    return str(
        _template().render(
            head=head,
            sections=sections,
            without=asked.without,
            figures=_in_script(specs) if specs else "",
            library=_library() if specs else "",
        )
    )


def _check_out(path: Path) -> None:
    """Raise an InputError for a place that cannot be written, before the work."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; --out names a file")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"{path} cannot be written: permission denied; name another --out")


def _head(asked: Asked) -> dict[str, Any]:
    state = asked.run.state
    stages = asked.run.stages()
    steps = [step for stage in stages for step in stage.steps]
    every = asked.run.all_stages()
    dollars = [stage.cost for stage in every if stage.cost is not None]
    recipe = state.get("recipe") or {}
    task = recipe.get("task")
    task = task if isinstance(task, dict) else {}
    labels = task.get("labels")
    return {
        "name": state["name"],
        "state": state.get("state") or "unknown",
        "seed": state.get("seed", 0),
        "error": state.get("error"),
        "task": {name: task.get(name) or "" for name in ("text", "guideline")},
        "meanings": labels if isinstance(labels, dict) else {},
        "gate": state.get("gate") or [],
        "asked_for": recipe.get("gate") or [],
        "facts": [
            # A loop's pool holds the rows that its rounds made: they are not made twice.
            ("rows made", sum(step.rows_made for step in steps if step.operator != Repeat.kind)),
            ("rows kept", stages[-1].rows_kept),
            ("rejected", sum(step.rows_rejected for step in steps)),
            ("failed", sum(step.rows_failed for step in steps)),
            ("model calls", sum(stage.calls for stage in every)),
            ("tokens", sum(stage.prompt_tokens + stage.completion_tokens for stage in every)),
            *([("US dollars", round(sum(dollars), 6))] if dollars else []),
        ],
        "versions": state.get("versions") or {},
        "recipe": json.dumps(recipe, indent=1, ensure_ascii=False, default=str),
    }


def _in_script(value: Any) -> str:
    """Return JSON that ends no script element and begins no comment in one."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for one in "<>&\u2028\u2029":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text


def _finite(value: Any) -> Any:
    """Return `value` with null for what JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


@functools.cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed")).replace("</script", "<\\/script")


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": _cell, "named": _named, "hash": _hash, "value": _value, "merged": _merged}
    environment.globals["anchor"] = _anchor
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _hash(source: str) -> str:
    """Return what the page's policy calls a script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(source).encode()).digest()).decode()


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _merged(events: Sequence[Event]) -> list[Event]:
    """Return the events, steps that a row merely passed one after another in one."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if last and last.what == event.what == "passed" and last.row_id == event.row_id:
            found[-1] = Event(event.row_id, f"{last.step}, {event.step}", "passed")
        else:
            found.append(event)
    return found


def _cell(value: Any) -> str:
    """Return a value of a table as people read it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return NOTHING if value != value else f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
    text = str(value)
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} …"


def _named(text: str) -> Markup:
    """Return a text that may go to the next line after each dot and _, as long names must on a phone."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])(?=[^\W\d])", text) if len(text) <= _NAME else [text])


def _value(value: Any) -> str:
    """Return a value of a row, whatever it is; a long list of numbers by its first ones."""
    if isinstance(value, list) and len(value) > _LISTED and all(_numeric(one) for one in value):
        first = ", ".join(f"{one:.4g}" for one in value[:3])
        return f"[{first}, … {len(value):,} numbers]"
    if isinstance(value, str) or value is None or _numeric(value) or isinstance(value, bool):
        text = value if isinstance(value, str) else _cell(value)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str, indent=1)
    rest = len(text) - LONGEST
    return text if rest <= 0 else f"{text[:LONGEST]} … ({rest:,} more characters)"


def _anchor(section: Section) -> str:
    return f"section-{section.name}"
