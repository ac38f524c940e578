"""What a recipe would do: rows, calls and tokens before any is spent, and sample prompts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from synthray.asker import Asks
from synthray.errors import InputError
from synthray.operator import Operator, path_of
from synthray.pipeline import Pipeline
from synthray.repeat import Repeat
from synthray.statement import Derive, Select, Union
from synthray.table import Table as Files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from synthray.model.language import Request
    from synthray.statement import Statement
    from synthray.step import Checked

SAMPLES = 3
_BYTES_PER_TOKEN = 4


def planned(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Return a line for each step: at most how many rows it sees, and what it may ask of a model.

    Rows are an upper bound (a filter may drop any number); null where nobody knows before, as after a list
    that was exploded. The steps of a loop are counted for all of its rounds (`rounds`). Prompt tokens are
    estimated from the bytes of the first rows' prompts, in which an answer to an earlier step is as long as
    its `max_tokens`; null where the columns of a prompt are not known before. Completion tokens are at most
    `max_tokens` an answer, and money is that of the dearest model which a step asks.
    """
    lines = _Planning(pipeline).lines()
    names = list(dict.fromkeys(name for line in lines for name in line))
    return [{name: line.get(name) for name in names} for line in lines]


@dataclass
class _Planning:
    """A pipeline's steps, counted; `made` is how many rows its tables have at most."""

    pipeline: Pipeline
    made: dict[str, int | None] = field(default_factory=dict)
    schemas: dict[str, pa.Schema] = field(default_factory=dict)

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines, those of tables that are pipelines first."""
        checked, schemas = self.pipeline.checked_with_tables()
        self.schemas |= schemas
        lines: list[dict[str, Any]] = []
        for name, table in self.pipeline.tables.items():
            if isinstance(table, Files):
                self.made[name] = _count(table)
        for name, table in self.pipeline.tables.items():
            if isinstance(table, Pipeline):
                held = table.of(name, self.pipeline)
                more, self.made[name] = self.steps(held, held.checked(schemas), None)
                lines += more
        return [*lines, *self.steps(self.pipeline, checked, None)[0]]

    def steps(
        self, pipeline: Pipeline, checked: Sequence[Checked], rows: int | None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return the lines of steps over `rows` rows, and at most how many rows come out."""
        lines: list[dict[str, Any]] = []
        samples = _first_rows(checked[0])
        for one in checked:
            work = one.step.work
            if isinstance(work, Repeat):
                more, rows = self.loop(pipeline, one, rows)
                lines, samples = [*lines, *more], []
                continue
            line: dict[str, Any] = {"step": one.name, "operator": _kind(work), "rows_at_most": rows}
            if isinstance(work, Operator):
                if work.makes() == "rows":
                    rows = line["rows_at_most"] = _source_rows(one, self.made)
                if work.uses_model:
                    line |= _calls(one, rows, samples)
                if work.makes() == "children":
                    n = work.asker.n if isinstance(work, Asks) else None
                    rows = None if rows is None or n is None else rows * n
            elif isinstance(work, Union):
                more_rows = self.made[work.table]
                rows = None if rows is None or more_rows is None else rows + more_rows
            elif isinstance(work, Select) and self._makes_rows(pipeline, one):
                rows = None
            lines.append(line)
            samples = _after(one, samples)
        return lines, rows

    def _makes_rows(self, pipeline: Pipeline, one: Checked) -> bool:
        """Say whether a SELECT makes a new table, of as many rows as it likes."""
        assert isinstance(one.step.work, Select)
        with pipeline.empty(one.before, self.schemas) as query:
            return one.step.work.plan(query, "rows", guard=False).made is not None

    def loop(
        self, pipeline: Pipeline, one: Checked, rows: int | None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return the lines of a loop's steps for all rounds, and at most how many rows come out."""
        loop = one.step.work
        assert isinstance(loop, Repeat)
        inner = pipeline.inside(one.step, 1)
        self.made |= dict.fromkeys(("pool", "previous", "round", "deficit"))
        self.schemas |= loop.schemas
        lines: list[dict[str, Any]] = []
        for name, table in loop.tables.items():
            held = table.of(name, inner)
            more, self.made[name] = self.steps(held, held.checked(loop.schemas), None)
            lines += more
        checked = inner.checked(loop.schemas, None if loop.appends else one.after)
        rounds, last = [], rows
        for _ in range(loop.max):
            more, last = self.steps(inner, checked, last)
            rounds.append([*map(dict, lines), *more])
        lines = [_summed(same) for same in zip(*rounds, strict=True)]
        if not loop.appends:
            return lines, last
        wanted = sum(loop.wanted(pipeline.task).values())
        most = wanted or (None if last is None else last * loop.max)
        return lines, None if most is None else (rows or 0) + most


def _summed(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the line of a step for all rounds; null is what one round does not tell."""
    found = {**lines[0], "rounds": len(lines)}
    for name in ("rows_at_most", "calls", "prompt_tokens_about", "completion_tokens_at_most", "usd_about"):
        if name in found:
            values = [line[name] for line in lines if line.get(name) is not None]
            found[name] = sum(values) if len(values) == len(lines) else None
    return found


def _after(one: Checked, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return sample rows as a step leaves them, with the columns that can be known before the run."""
    import pyarrow as pa

    from synthray.query import Query

    work = one.step.work
    if isinstance(work, Asks):
        added = [column for column in one.after if column.name not in one.before.names]
        # How long an answer may be is known, not what it says.
        text = "x" * ((work.max_tokens or 0) * _BYTES_PER_TOKEN)
        told = {column.name: text for column in added if text and pa.types.is_string(column.type)}
        return [{**row, **told} for row in samples]
    if not samples or not isinstance(work, Derive):
        return samples if one.after.equals(one.before) or isinstance(work, Operator) else []
    try:
        with Query({"rows": pa.Table.from_pylist(samples)}) as query:
            found: list[dict[str, Any]] = query.arrow(
                work.settle(query).plan(query, "rows", guard=False).rows
            ).to_pylist()
            return found
    except InputError:  # it reads what a step makes that was not done, or another table
        return samples


def _calls(one: Checked, rows: int | None, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a step may ask of a model for so many rows, of which `samples` are some."""
    work = one.step.work
    assert isinstance(work, Operator)
    language = work.context.language
    model = None if language is None else language.identity().get("name", language.kind)
    if rows is None:
        return {"model": model, "calls": None}
    n, together = (work.asker.n, work.asker.together) if isinstance(work, Asks) else (1, False)
    calls = rows if together else rows * n
    tokens, history = _prompt_tokens(one, samples), getattr(work, "history_tokens", 0)
    prompt = None if tokens is None or history is None else calls * tokens + rows * history
    most = getattr(work, "max_tokens", None)
    answer = None if most is None else rows * n * most
    return {
        "model": model,
        "calls": calls,
        "prompt_tokens_about": prompt,
        "completion_tokens_at_most": answer,
        "usd_about": _usd(work, prompt, answer),
    }


def samples(pipeline: Pipeline) -> list[dict[str, str]]:
    """Return the prompts of the first rows, for each model step whose columns the source makes."""
    return _samples(pipeline, pipeline.check())


def _samples(
    pipeline: Pipeline, checked: Sequence[Checked], rows: Sequence[dict[str, Any]] = ()
) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    rows = rows or _first_rows(checked[0])
    for one in checked:
        loop = one.step.work
        if isinstance(loop, Repeat):
            inner = pipeline.inside(one.step, 1)
            begun = (None, []) if loop.appends else (one.after, rows)
            found += _samples(inner, inner.checked(loop.schemas, begun[0]), begun[1])
            continue
        for row, texts in _prompts(one, rows):
            found += [
                {"step": one.name, "row_id": row["row_id"], "prompt": text} for text in dict.fromkeys(texts)
            ]
    return found


def _prompts(one: Checked, rows: Sequence[dict[str, Any]]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Return the rows that can be asked for now, with the texts of their questions."""
    work = one.step.work
    if not isinstance(work, Operator) or not isinstance(work, Asks):
        return []
    if not set(work.table_names) <= set(work.context.tables):
        return []  # a table that is a pipeline of its own has no rows yet
    found: list[tuple[Mapping[str, Any], list[str]]] = []
    for row in rows:
        if set(work.reads) <= set(row):
            # A row that cannot be asked for fails when the recipe runs: it is no sample of the others.
            with suppress(Exception):
                found.append((row, [_text(question.request) for question in work.questions(row)]))
    return found


def _text(request: Request) -> str:
    said = [message["content"] for message in request.messages]
    return "\n".join(said if request.prompt is None else [request.prompt])


def _first_rows(source: Checked) -> list[dict[str, Any]]:
    import pyarrow as pa

    from synthray.source.conditions import Conditions
    from synthray.source.table import Table

    work = source.step.work
    if not isinstance(work, Operator) or not set(work.table_names) <= set(work.context.tables):
        return []  # a table that is a pipeline of its own has no rows yet
    if isinstance(work, Conditions):
        count = min(SAMPLES, work.row_count() or 0)
        made: list[dict[str, Any]] = replace(work, rows=count)(
            pa.table({"id": list(range(count))})
        ).to_pylist()
        return made
    if isinstance(work, Table):
        held: list[dict[str, Any]] = work.first(SAMPLES).to_pylist()
        return held
    return []


def _count(table: Files) -> int:
    from synthray.query import Query

    with Query({"given": table}) as query:
        return int(query.value("SELECT count(*) FROM given"))


def _source_rows(source: Checked, made: Mapping[str, int | None]) -> int | None:
    from synthray.source.table import Table

    work = source.step.work
    if isinstance(work, Table) and work.table in made:
        held = made[work.table]
        return work.rows if held is None else min(work.rows or held, held)
    return work.row_count() if isinstance(work, Operator) else None


def _prompt_tokens(one: Checked, samples: list[dict[str, Any]]) -> int | None:
    prompts = [text for _, texts in _prompts(one, samples) for text in texts]
    if not prompts:
        return None
    return round(sum(len(text.encode()) for text in prompts) / len(prompts) / _BYTES_PER_TOKEN)


def _usd(work: Operator, prompt_tokens: int | None, answer_tokens: int | None) -> float | None:
    """Return what so many tokens cost; None where nobody said what a token costs or how many there are."""
    asked = [work.context.language, *work.context.models.values()]
    prices = [language.prices() for language in asked if language is not None]
    if prompt_tokens is None or answer_tokens is None or not all(price.known for price in prices):
        return None
    return max((price.cost(prompt_tokens, answer_tokens).usd for price in prices), default=None)


def budget(pipeline: Pipeline, lines: Sequence[Mapping[str, Any]]) -> str:
    """Return what the lines add up to, and which budgets there are."""
    calls, prompt, answer = (
        sum(line.get(name) or 0 for line in lines)
        for name in ("calls", "prompt_tokens_about", "completion_tokens_at_most")
    )
    asking = [line for line in lines if line.get("calls")]
    unknown = ", ".join(line["step"] for line in lines if line.get("model") and line.get("calls") is None)
    beside = f" How many rows {unknown} will see is not known before: that is not in this." if unknown else ""
    untold = ", ".join(line["step"] for line in asking if line["prompt_tokens_about"] is None)
    long = ", ".join(line["step"] for line in asking if line["completion_tokens_at_most"] is None)
    beside += f" The answers of {long} may be of any length, which is not in this." if long else ""
    beside += f" How long the prompts of {untold} are is not known before, nor in this." if untold else ""
    if not calls:
        return beside.strip() or "No model calls."
    priced = [line["usd_about"] for line in asking if line.get("usd_about") is not None]
    usd = f"about {sum(priced):.4f} US dollars" if len(priced) == len(asking) else "at no known price"
    text = f"In all {calls} calls, about {prompt} prompt and at most {answer} completion tokens, {usd}."
    for language in [pipeline.model, *pipeline.models.values()]:
        for name in ("budget_usd", "budget_tokens"):
            held = getattr(language, name, None)
            over = held is not None and held < (sum(priced) if name == "budget_usd" else prompt + answer)
            if held is not None:
                text += f" {name} is {held}{': the run may end at it' if over else ''}."
    return f"{text}{beside} An answer that does not fit its schema is asked for again, which adds to this."


def _kind(work: Operator | Statement) -> str:
    if isinstance(work, Operator):
        return path_of(work)
    return work.kind
