"""What Ray's dashboard and Prometheus show of a run on a cluster: counters, by ray.util.metrics.

Each is counted when its stage is committed, so that what is tried again is not counted twice.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthray.record import StageRecord

_OUTCOMES = ("made", "kept", "rejected", "failed", "expanded")


def count(run: str, record: StageRecord, reasons: Mapping[tuple[str, str], int]) -> None:
    """Count a committed stage of the recipe `run`; `reasons` are its rejected rows by step and reason.

    ```
    synthray_rows           run, step, outcome: made, kept, rejected, failed, expanded
    synthray_rejected_rows  run, step, reason
    synthray_calls          run, step; synthray_tokens: kind too, prompt or completion
    synthray_cost_usd       run, step
    ```
    """
    for step in record.steps:
        for outcome in _OUTCOMES:
            _add("rows", getattr(step, f"rows_{outcome}"), run=run, step=step.step, outcome=outcome)
    for (name, reason), rows in reasons.items():
        _add("rejected_rows", rows, run=run, step=name, reason=reason)
    last = record.steps[-1].step
    _add("calls", record.calls, run=run, step=last)
    _add("tokens", record.prompt_tokens, run=run, step=last, kind="prompt")
    _add("tokens", record.completion_tokens, run=run, step=last, kind="completion")
    _add("cost_usd", record.cost or 0.0, run=run, step=last)


_SAYS = {
    "rows": "What became of rows.",
    "rejected_rows": "Rows that were rejected, by reason.",
    "calls": "Model calls that were answered.",
    "tokens": "Tokens of answered model calls.",
    "cost_usd": "US dollars for answered model calls.",
}


def _add(name: str, number: float, **tags: str) -> None:
    if number > 0:
        _counter(name, tuple(tags)).inc(number, tags=tags)


@functools.cache
def _counter(name: str, tags: tuple[str, ...]) -> Any:
    from ray.util.metrics import Counter

    return Counter(f"synthray_{name}", description=_SAYS[name], tag_keys=tags)
