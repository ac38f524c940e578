"""The gate: conditions over the metrics that decide, on evidence, whether the dataset ships.

A condition is SQL over `step.metric.field`, such as `utility.accuracy.ci_low > utility.majority.value`. The
fields are those of the whole (value, ci_low, ci_high, n), and `lowest` and `highest` of the values of the
metric's slices: `utility.f1.lowest > 0.3` is of the worst label. A metric that is missing or not a number
refuses. `default` stands for the conditions that the recipe's operators have of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthray.errors import QueryError, RecipeError, near
from synthray.query import Query
from synthray.spelling import identifier

if TYPE_CHECKING:
    import pyarrow as pa

WHOLE = ("value", "ci_low", "ci_high", "n")
FIELDS = (*WHOLE, "lowest", "highest")
DEFAULT = "default"
_OWN = re.compile(rf"(?<![\w.\"])(\w+)\.({'|'.join(FIELDS)})\b")
"""A metric in a condition that an operator has of its own, which does not know its step's name."""


@dataclass(frozen=True)
class Check:
    """A condition, whether it holds, and the values it was decided on."""

    condition: str
    passed: bool
    found: str


def asked_for(gate: Sequence[str], own: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the conditions of a gate, `default` replaced by those of the steps: step -> its conditions."""
    asked: list[str] = []
    for line in gate:
        if line.strip() != DEFAULT:
            asked.append(line)
            continue
        default = [_of(step, one) for step, conditions in own.items() for one in conditions]
        if not default:
            raise RecipeError(
                "gate: default asks for nothing here, since no step has conditions of its own; add a step "
                "that measures, such as evaluate.diversity or evaluate.utility, or write conditions"
            )
        asked += default
    return tuple(dict.fromkeys(asked))


def _of(step: str, condition: str) -> str:
    """Return an operator's own condition as one over the metrics of `step`."""
    return _OWN.sub(lambda found: f"{_name(step)}.{_name(found[1])}.{found[2]}", condition)


def _name(name: str) -> str:
    """Return a name as one writes it in a condition: quoted only where it must be."""
    with Query({}) as query:
        try:
            plain = query.references(f"{name}.a.value") == [(name, "a", "value")]
        except QueryError:
            plain = False
    return name if plain else identifier(name)


def check_conditions(conditions: Iterable[str], steps: Mapping[str, tuple[str, ...]]) -> None:
    """Raise a RecipeError when a condition is no SQL, or names what no step measures.

    `steps` maps the steps that measure to their metrics; empty where only the run can tell.
    """
    with Query({}) as query:
        for condition in conditions:
            try:
                references = query.references(condition)
            except QueryError as error:
                raise RecipeError(
                    f"gate: {condition!r}: {error}; a name that is a word of SQL must stand in double quotes"
                ) from None
            if not references:
                raise RecipeError(f"gate: {condition!r} names no metric, such as utility.accuracy.ci_low")
            for reference in references:
                if len(reference) != 3 or reference[2] not in FIELDS:
                    raise RecipeError(
                        f"gate: {'.'.join(reference)!r} must be step.metric.field with a field of "
                        f"{', '.join(FIELDS)}"
                    )
                if reference[0] not in steps:
                    raise RecipeError(
                        f"gate: no step {reference[0]!r} measures anything{near(reference[0], steps)}"
                    )
                known = steps[reference[0]]
                if known and reference[1] not in known:
                    raise RecipeError(
                        f"gate: {reference[0]} measures no {reference[1]!r}{near(reference[1], known)}"
                    )
            _check_verdict(condition, references)


def _check_verdict(condition: str, references: Iterable[tuple[str, ...]]) -> None:
    """Raise a RecipeError when the condition, were each metric there, is not one true or false."""
    values: dict[str, dict[str, dict[str, Any]]] = {}
    for step, metric, _ in references:
        values.setdefault(step, {})[metric] = dict.fromkeys(FIELDS)
    with Query({"gate": _one_row(values)}) as query:
        try:
            expression = query.expression(condition, "gate")
            kind = query.schema(f"SELECT {expression} AS verdict FROM gate").field("verdict").type
        except QueryError as error:
            raise RecipeError(f"gate: {condition!r}: {error}") from None
    if str(kind) != "bool":
        raise RecipeError(f"gate: {condition!r} must be true or false, but is {kind}")


def decide(conditions: Iterable[str], metrics: pa.Table) -> list[Check]:
    """Return each condition with its verdict; `metrics` has the columns of RUN/metrics.parquet."""
    values = _by_step(metrics)
    with Query({"gate": _one_row(values)}) as query:
        return [_decide(query, condition, values) for condition in conditions]


def _decide(query: Query, condition: str, values: dict[str, dict[str, dict[str, Any]]]) -> Check:
    references = query.references(condition)
    found = {
        ".".join(reference): values.get(reference[0], {}).get(reference[1], {}).get(reference[2])
        for reference in references
    }
    shown = ", ".join(f"{name} = {_shown(value)}" for name, value in found.items())
    if any(value is None or math.isnan(value) for value in found.values()):
        return Check(condition, False, shown)
    expression = query.expression(condition, "gate")
    return Check(condition, query.value(f"SELECT {expression} FROM gate") is True, shown)


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4g}"


def _by_step(metrics: pa.Table) -> dict[str, dict[str, dict[str, Any]]]:
    values: dict[str, dict[str, dict[str, Any]]] = {}
    slices: dict[tuple[str, str], list[float | None]] = {}
    whole: set[tuple[str, str]] = set()
    for row in metrics.to_pylist():
        measured = values.setdefault(row["step"], {})
        known = next((name for name in measured if name.lower() == row["metric"].lower()), row["metric"])
        fields = measured.setdefault(known, dict.fromkeys(FIELDS))
        if row["slice"] is not None:
            slices.setdefault((row["step"], known), []).append(row["value"])
            continue
        # Two rows for one metric decide nothing: as good as missing.
        again = (row["step"], known) in whole
        whole.add((row["step"], known))
        fields |= {name: None if again else row[name] for name in WHOLE}
    for (step, metric), held in slices.items():
        sound = [one for one in held if one is not None and not math.isnan(one)]
        if len(sound) == len(held):
            values[step][metric] |= {"lowest": min(sound), "highest": max(sound)}
        else:
            # A slice of which nothing is known may be the worst one.
            values[step][metric] |= {"lowest": math.nan, "highest": math.nan}
    return values


def _one_row(values: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return SQL for one row with a struct of structs for each step."""

    def struct(fields: dict[str, str]) -> str:
        inner = ", ".join(f"{identifier(name)} := {value}" for name, value in fields.items())
        return f"struct_pack({inner})"

    columns = [
        struct(
            {
                metric: struct({name: _number(value) for name, value in held.items()})
                for metric, held in measured.items()
            }
        )
        + f" AS {identifier(step)}"
        for step, measured in values.items()
    ]
    return f"SELECT {', '.join(columns) or '1'}"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "NULL::DOUBLE"
    return f"'{value!r}'::DOUBLE"
