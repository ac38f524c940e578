"""What differs between two runs: recipe, what became of the rows, what was measured, the dataset itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.comparison import Comparison
from synthray.side import Settings, Side

if TYPE_CHECKING:
    from synthray.run import Run

_PLAIN = ("funnel", "metrics", "reasons")
_SHOWN = 300
"""Characters of a text that a terminal gets; JSON has it whole."""

_NO_RESULT = ("recipe.seed", "recipe.blocks")
"""The seed is told beside the recipe; into how many blocks rows are cut changes no result."""


def diff(a: str | Path, b: str | Path, settings: Settings | None = None) -> dict[str, Any]:
    """Return what differs between two runs (or exported datasets, or files of rows), for people and programs.

    `same` says that nothing does; then there is nothing else. `recipe` lists settings, the seed and versions
    by path, `funnel`, `metrics` and `reasons` stand side by side, `rejected` is the share of a label's rows
    that were left out. `rows`, `samples` and `labels` compare the datasets, and `tests` say which differences
    are more than chance: see synthray.comparison. `notes` say what the figures rest on. Raises InputError for
    what is no finished run and no dataset, and for columns that are not there.
    """
    settings = settings or Settings()
    sides = [Side.open(a), Side.open(b)]
    held: dict[str, Any] = {"a": str(a), "b": str(b), "same": False}
    runs = [side.run for side in sides]
    if runs[0] and runs[1]:
        held |= _runs(runs[0], runs[1])
    with Comparison.of(sides, settings) as comparison:
        held["rows"] = rows = comparison.rows()
        equal = rows["lost"] == rows["gained"] == rows["changed"] == 0
        if equal and not held.get("recipe") and _alike(held):
            told = f"Nothing differs: {rows['a']} rows are the same on both sides."
            return {**held, "same": True, "verdict": told, "notes": []}
        if runs[0] and runs[1] and comparison.columns.label:
            held["rejected"] = _rejected(runs[0], runs[1], comparison.columns.label)
        held["samples"] = comparison.samples()
        held["labels"] = comparison.labels()
        if equal:
            comparison.notes.append("the datasets are the same, row by row: nothing to test")
        held["tests"] = [] if equal else comparison.tests()
        held["notes"] = [*held.get("notes", []), *comparison.notes]
    return {**held, "verdict": _verdict(held, equal)}


def sections(found: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the titles and tables of a diff, as people read them; what is empty is left out."""
    if found["same"]:
        return
    titles = {
        "recipe": "Recipe: what is set otherwise",
        "funnel": "Rows, step by step",
        "reasons": "Why rows were left out",
        "metrics": "Metrics of the runs",
        "rejected": "Share of a label's rows that were left out",
        "rows": "Rows of the datasets, by row_id",
        "samples": "Rows",
        "labels": "Labels",
        "tests": "The datasets (difference is B less A)",
    }
    for name, title in titles.items():
        held = found.get(name) or []
        lines = _counts(found["rows"]) if name == "rows" else [_short(row) for row in held]
        if name in ("funnel", "samples"):  # counts that are 0 in each line, what no row has
            names = dict.fromkeys(one for line in lines for one in line)
            told = [one for one in names if any(line.get(one) for line in lines)]
            lines = [{one: line.get(one) for one in told} for line in lines]
        if lines:
            yield title, lines


def _counts(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"rows": "all", "a": rows["a"], "b": rows["b"]},
        {"rows": "on this side alone: lost, gained", "a": rows["lost"], "b": rows["gained"]},
        {"rows": "their share", "a": rows["lost_share"], "b": rows["gained_share"]},
        {"rows": "on both sides, with another text", "a": rows["changed_text"], "b": rows["changed_text"]},
        {"rows": "on both sides, with another label", "a": rows["changed_label"], "b": rows["changed_label"]},
    ]


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line as it fits a terminal: an interval in one column, a long text cut."""
    if "ci_low_a" not in row:
        return {
            name.removeprefix("rows_"): f"{value[:_SHOWN]} ..."
            if isinstance(value, str) and len(value) > _SHOWN
            else value
            for name, value in row.items()
        }
    shown = {name: value for name, value in row.items() if not name.startswith(("ci_", "n_"))}
    for side in "ab":
        low, high = row[f"ci_low_{side}"], row[f"ci_high_{side}"]
        shown[f"interval_{side}"] = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
    return shown


def _verdict(held: Mapping[str, Any], equal: bool) -> str:
    """Return in one line what differs."""
    parts = []
    if held.get("recipe"):
        many = len(held["recipe"])
        parts.append("1 setting differs" if many == 1 else f"{many} settings differ")
    if equal:
        parts.append("the datasets are the same, row by row")
    elif not held["tests"]:
        parts.append("the datasets differ; nothing could be tested")
    else:
        named = [one["metric"] for one in held["tests"] if one["differs"]]
        parts.append(
            f"the datasets differ more than by chance in {', '.join(named)}"
            if named
            else "no metric that was tested differs by more than chance"
        )
        untested = [one["metric"] for one in held["tests"] if math.isnan(one["p"])]
        if untested:
            parts.append(f"not tested, as alike in all rows or not there: {', '.join(untested)}")
    rows = held["rows"]
    parts += [
        f"{rows[f'changed_{name}']} of {rows['both']} rows on both sides have another {name}"
        for name in ("text", "label")
        if rows[f"changed_{name}"]
    ]
    told = "; ".join(parts)
    return f"{told[0].upper()}{told[1:]}."


def _alike(held: Mapping[str, Any]) -> bool:
    """Say whether the funnel, the metrics and the reasons are the same on both sides."""
    return all(
        _equal(row[name], row[f"{name[:-2]}_b"])
        for part in _PLAIN
        for row in held.get(part, ())
        for name in row
        if name.endswith("_a")
    )


def _equal(one: Any, other: Any) -> bool:
    """Say whether two values are the same; sums in another order still are, and so is NaN."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (one != one and other != other)
    return bool(one == other)


def _runs(a: Run, b: Run) -> dict[str, Any]:
    recipe = _recipe(a.state, b.state)
    notes = []
    if a.state["name"] != b.state["name"]:
        notes.append(f"the runs are of different recipes: {a.state['name']} and {b.state['name']}")
    if not recipe:
        apart = [
            one.folder
            for one, other in zip(a.stages(), b.stages(), strict=False)
            if one.fingerprint != other.fingerprint
        ]
        if apart:
            notes.append(
                f"the settings are the same, but not, from stage {apart[0]} on, the code or a file it reads"
            )
    return {
        "recipe": recipe,
        "funnel": _beside(a, b, "SELECT * EXCLUDE (operator) FROM funnel", ("step",)),
        "reasons": _beside(a, b, "SELECT * FROM reasons", ("step", "reason")),
        "metrics": _beside(a, b, "SELECT * FROM measured", ("step", "metric", "slice")),
        "notes": notes,
    }


def _recipe(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings, the seed and the versions that differ, by path."""
    flat = [
        dict(_flat({"recipe": one.get("recipe"), "seed": one.get("seed"), "versions": one.get("versions")}))
        for one in (a, b)
    ]
    named = dict.fromkeys([*flat[0], *flat[1]])
    return [
        {"setting": name, "a": flat[0].get(name), "b": flat[1].get(name)}
        for name in named
        if flat[0].get(name) != flat[1].get(name) and name not in _NO_RESULT
    ]


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield each setting by its path; a step goes by its name, and the order of steps is a setting too."""
    if isinstance(value, Mapping) and value:
        for name, one in value.items():
            yield from _flat(one, f"{path}.{name}" if path else str(name))
    elif (
        path.endswith("steps") and isinstance(value, list) and all(isinstance(one, Mapping) for one in value)
    ):
        seen: dict[str, int] = {}
        order = []
        for step in value:
            name = str(step.get("as") or next(iter(step), "")).rpartition(".")[2]
            seen[name] = seen.get(name, 0) + 1
            order.append(name if seen[name] == 1 else f"{name} {seen[name]}")
            yield from _flat(step, f"{path}.{order[-1]}")
        yield f"{path} (order)", ", ".join(order)
    else:
        yield (
            path,
            value if isinstance(value, str | int | float | None) else json.dumps(value, ensure_ascii=False),
        )


def _beside(a: Run, b: Run, sql: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the rows of both runs side by side, by their keys: the first's order, then the second's."""
    held: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    columns: dict[str, None] = {}
    for place, run in enumerate((a, b)):
        table = run.sql(sql)
        columns |= dict.fromkeys(name for name in table.column_names if name not in keys)
        times: dict[tuple[Any, ...], int] = {}
        for row in table.to_pylist():
            key = tuple(row[name] for name in keys)
            times[key] = times.get(key, 0) + 1
            held.setdefault((*key, times[key]), [{}, {}])[place] = row
    return [
        dict(zip(keys, key, strict=False))
        | {f"{name}_{side}": row.get(name) for name in columns for side, row in zip("ab", pair, strict=True)}
        for key, pair in held.items()
    ]


def _rejected(a: Run, b: Run, label: str) -> list[dict[str, Any]]:
    """Return the share of each label's rows that were left out, where rows had the label before."""
    from synthray.spelling import identifier

    name = identifier(label)
    return _beside(
        a,
        b,
        f"SELECT CAST({name} AS VARCHAR) AS label, count(*) AS rows, "
        "count(reject_step) / count(*) AS rejected FROM rows GROUP BY 1 ORDER BY 1",
        ("label",),
    )
