"""The history of a row: from its seed or condition through each step to its end, with the calls for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from synthray.errors import InputError
from synthray.lineage import RESERVED
from synthray.model.store import calls_relation
from synthray.query import Query
from synthray.repeat import Repeat
from synthray.spelling import quoted
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.record import StageRecord
    from synthray.run import Run

Row = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """What happened to the row `row_id` in `step`.

    `what` is made, changed (it got or changed `columns`; a new one that is null is left out), passed,
    rejected, failed or replaced (by children, or folded into another row); `detail` says why. `calls` are the
    kept calls that `columns` name.
    """

    row_id: str
    step: str
    what: str
    detail: str = ""
    columns: Row = field(default_factory=dict)
    calls: tuple[Row, ...] = ()


@dataclass(frozen=True)
class History:
    """The events of a row, those of the rows that it descends from first; `row` is how it stood at last."""

    row_id: str
    events: tuple[Event, ...]
    row: Row

    @property
    def end(self) -> str:
        """What became of the row: kept, rejected, failed or replaced."""
        last = self.events[-1].what if self.events else ""
        return last if last in ("rejected", "failed", "replaced") else "kept"


@dataclass
class _Stage:
    """What a stage says of the rows that are asked for."""

    record: StageRecord
    aside: bool = False
    """Whether it is of a table that a loop makes in each round, mostly of copies of the pool's rows."""
    kept: dict[str, Row] = field(default_factory=dict)
    rejected: dict[str, tuple[str, str]] = field(default_factory=dict)
    failed: dict[str, Row] = field(default_factory=dict)
    children: dict[str, int] = field(default_factory=dict)


def histories(run: Run, row_ids: Sequence[str]) -> list[History]:
    """Return the histories of rows, wherever they ended; InputError names the nearest for an unknown one."""
    records = run.all_stages()
    files: list[str] = []
    relations: dict[str, Any] = {"calls": calls_relation(run.kept_calls(), files)}
    for number, record in enumerate(records):
        relations[f"kept_{number}"] = run.table(record)
        for name in ("rejects", "failures"):
            if listed := getattr(record, name):
                relations[f"{name}_{number}"] = Table(run.paths(listed), "parquet")
    with Query(relations, seed=run.state.get("seed", 0), files=tuple(files)) as query:
        aside = run.loop_tables()
        stages = [_Stage(record, record.folder in aside) for record in records]
        parents = _read(query, stages, relations, row_ids)
        for one in row_ids:
            if not any(one in stage.kept or one in stage.failed for stage in stages):
                raise InputError(f"no row {one!r} in {run.root}{_nearest(query, one, len(stages))}")
        calls = _calls(query, stages)
    return [_history(one, stages, parents, calls) for one in row_ids]


# Reading.


def _read(
    query: Query, stages: list[_Stage], relations: dict[str, Any], row_ids: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Fill the stages with the rows and their ancestors; return each row's parents."""
    parents: dict[str, tuple[str, ...]] = {}
    wanted = set(row_ids)
    while wanted:
        found: dict[str, tuple[str, ...]] = {}
        for number, stage in enumerate(stages):
            _read_stage(query, stage, number, relations, wanted)
            for one in wanted:
                row = stage.kept.get(one) or stage.failed.get(one)
                if row:
                    above = (*(row.get("parents") or ()), *filter(None, [row["parent_id"]]))
                    found[one] = tuple(dict.fromkeys((*found.get(one, ()), *above)))
        parents |= found
        wanted = {parent for above in found.values() for parent in above} - set(parents)
        wanted -= {one for one in wanted if one in found}
    return parents


def _read_stage(
    query: Query, stage: _Stage, number: int, relations: dict[str, Any], wanted: set[str]
) -> None:
    listed = ", ".join(quoted(one) for one in sorted(wanted))
    kept, rejects, failures = f"kept_{number}", f"rejects_{number}", f"failures_{number}"
    for row in query.arrow(f"SELECT * FROM {kept} WHERE row_id IN ({listed})").to_pylist():
        stage.kept[row["row_id"]] = row
    if rejects in relations:
        for one, step, why in query.rows(
            f"SELECT row_id, step, reason FROM {rejects} WHERE row_id IN ({listed})"
        ):
            stage.rejected[one] = (step, why)
    if failures in relations:
        for row in query.arrow(f"SELECT * FROM {failures} WHERE row_id IN ({listed})").to_pylist():
            stage.failed[row["row_id"]] = row
    if any(step.rows_expanded for step in stage.record.steps):
        folds = "parents" in query.schema(f"SELECT * FROM {kept}").names
        more = f" UNION ALL SELECT unnest(parents) FROM {kept}" if folds else ""
        for one, many in query.rows(
            f"SELECT parent_id, count(*) FROM (SELECT parent_id FROM {kept}{more}) "
            f"WHERE parent_id IN ({listed}) GROUP BY ALL"
        ):
            stage.children[one] = many


def _calls(query: Query, stages: list[_Stage]) -> dict[str, Row]:
    keys = {key for stage in stages for row in stage.kept.values() for key in _keys(row)}
    keys |= {key for stage in stages for row in stage.failed.values() for key in _keys(row)}
    listed = ", ".join(quoted(key) for key in sorted(keys))
    if not listed:
        return {}
    found = query.arrow(
        "SELECT key, step, model, request, response, finish_reason, prompt_tokens, completion_tokens, cost, "
        "attempts, latency_s FROM (SELECT DISTINCT ON (key) * FROM calls "
        f'WHERE error IS NULL AND key IN ({listed}) ORDER BY key, "at")'
    ).to_pylist()
    return {row["key"]: {**row, "prompt": prompt(row["request"])} for row in found}


def _keys(row: Row) -> list[str]:
    """Return the keys of calls that a row's columns hold: STEP_call, a key or a list of them."""
    named = [value for name, value in row.items() if name.endswith("_call") and value]
    return [
        key
        for value in named
        for key in (value if isinstance(value, list) else [value])
        if isinstance(key, str)
    ]


def prompt(request: str | None) -> str:
    """Return what a kept request asked, its messages under the names of who says them."""
    try:
        held = json.loads(request or "{}")
    except ValueError:
        return request or ""
    if not isinstance(held, dict):
        return request or ""
    messages = held.get("messages")
    if isinstance(messages, list) and all(isinstance(one, dict) for one in messages):
        alone = len(messages) == 1
        return "\n\n".join(
            str(one.get("content", "")) if alone else f"{one.get('role', '')}: {one.get('content', '')}"
            for one in messages
        )
    return str(held.get("prompt", request or ""))


def _nearest(query: Query, row_id: str, stages: int) -> str:
    union = " UNION ".join(f"SELECT row_id FROM kept_{number}" for number in range(stages))
    found = query.rows(
        f"SELECT row_id FROM ({union}) "
        f"ORDER BY jaro_winkler_similarity(row_id, {quoted(row_id)}) DESC, row_id LIMIT 3"
    )
    return f"; near ones are {', '.join(one for (one,) in found)}" if found else ""


# Telling.


def _history(
    row_id: str, stages: list[_Stage], parents: dict[str, tuple[str, ...]], calls: dict[str, Row]
) -> History:
    line: dict[str, None] = {}

    def above(one: str) -> None:
        for parent in parents.get(one, ()):
            if parent not in line and parent != row_id:
                line[parent] = None
                above(parent)

    above(row_id)
    events = [event for one in [*reversed(line), row_id] for event in _events(one, stages, calls)]
    stood = [held[row_id] for stage in stages for held in (stage.kept, stage.failed) if row_id in held]
    return History(row_id, tuple(events), stood[-1])


def _events(row_id: str, stages: list[_Stage], calls: dict[str, Row]) -> list[Event]:
    """Return what happened to one row; a table's own pipeline is left behind where a union takes its rows."""
    events: list[Event] = []
    before: Row | None = None
    last = ""
    there = [stage for stage in stages if row_id in stage.kept or row_id in stage.failed]
    alone = all(stage.aside for stage in there)
    for stage in stages:
        if stage.aside and not alone:
            continue  # a loop's table chooses among copies of rows, which go on elsewhere
        record = stage.record
        # The end of a loop takes up the rows that its rounds accepted.
        follows = record.before == last or record.steps[-1].operator == Repeat.kind
        row, goes_on = stage.kept.get(row_id), before is not None and follows
        if row is not None:
            events += _went_on(row_id, row, before if goes_on else None, record, calls)
            before, last = row, record.folder
        elif row_id in stage.failed:
            events.append(_failed(row_id, stage.failed[row_id], before if goes_on else None, calls))
            before = None
        elif goes_on:
            events += _ended(row_id, stage)
            before = None
    return events


def _went_on(
    row_id: str, row: Row, before: Row | None, record: StageRecord, calls: dict[str, Row]
) -> list[Event]:
    if before is None:
        made = [step for step in record.steps if step.rows_made] or list(record.steps)
        return [_event(row_id, ", ".join(step.step for step in made), "made", row, {}, calls)]
    event = _event(row_id, _names(record), "changed", row, before, calls)
    return [event if event.columns else Event(row_id, event.step, "passed")]


def _event(row_id: str, step: str, what: str, row: Row, before: Row, calls: dict[str, Row]) -> Event:
    columns = {
        name: value
        for name, value in row.items()
        if name not in RESERVED and (before[name] != value if name in before else value is not None)
    }
    asked = tuple(calls[key] for key in _keys(columns) if key in calls)
    return Event(row_id, step, what, columns=columns, calls=asked)


def _failed(row_id: str, row: Row, before: Row | None, calls: dict[str, Row]) -> Event:
    told = row["failed"]
    event = _event(row_id, row["reject_step"], "failed", row, before or {}, calls)
    detail = f"{told['error']}: {told['message']} (attempts: {told['attempts']})"
    return Event(row_id, event.step, "failed", detail, event.columns, event.calls)


def _ended(row_id: str, stage: _Stage) -> list[Event]:
    names = [step.step for step in stage.record.steps]
    if row_id in stage.rejected:
        step, why = stage.rejected[row_id]
        passed = names[: names.index(step)] if step in names else []
        first = [Event(row_id, ", ".join(passed), "passed")] if passed else []
        return [*first, Event(row_id, step, "rejected", why)]
    many = stage.children.get(row_id, 0)
    detail = f"{many} row{'' if many == 1 else 's'} came of it" if many else "nothing of it is left"
    return [Event(row_id, ", ".join(names), "replaced", detail)]


def _names(record: StageRecord) -> str:
    return ", ".join(step.step for step in record.steps)
