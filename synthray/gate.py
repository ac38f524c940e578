"""The gate: conditions over the metrics that decide, on evidence, whether the dataset ships.

A condition is SQL over `step.metric.field` (field: value, ci_low, ci_high, n), such as
`utility.accuracy.ci_low > utility.majority.value`. A metric that is missing or not a number refuses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthray.errors import QueryError, RecipeError, near
from synthray.query import Query
from synthray.spelling import identifier

if TYPE_CHECKING:
    import pyarrow as pa

FIELDS = ("value", "ci_low", "ci_high", "n")


@dataclass(frozen=True)
class Check:
    """A condition, whether it holds, and the values it was decided on."""

    condition: str
    passed: bool
    found: str


def check_conditions(conditions: Iterable[str], steps: Mapping[str, tuple[str, ...]]) -> None:
    """Raise a RecipeError when a condition is no SQL, or names what no step measures.

    `steps` maps the steps that measure to their metrics; empty where only the run can tell.
    """
    with Query({}) as query:
        for condition in conditions:
            try:
                references = query.references(condition)
            except QueryError as error:
                raise RecipeError(f"gate: {condition!r}: {error}") from None
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
    for row in metrics.to_pylist():
        if row["slice"] is None:
            measured = values.setdefault(row["step"], {})
            # Two rows for one metric decide nothing: as good as missing.
            again = [name for name in measured if name.lower() == row["metric"].lower()]
            fields = {name: None if again else row[name] for name in FIELDS}
            measured[again[0] if again else row["metric"]] = fields
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
