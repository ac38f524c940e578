"""What a recipe would do: rows, calls and tokens before any is spent, and sample prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from synthray.asker import Asks
from synthray.operator import Operator, path_of
from synthray.pipeline import Pipeline
from synthray.statement import Union

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from synthray.model.language import Request
    from synthray.pipeline import Checked
    from synthray.statement import Statement
    from synthray.table import Table as Files

SAMPLES = 3
_BYTES_PER_TOKEN = 4


def planned(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Return a line for each step: at most how many rows it sees, and what it may ask of a model.

    Rows are an upper bound (a filter may drop any number). Prompt tokens are estimated from the bytes of
    sample prompts, completion tokens are at most `max_tokens` an answer.
    """
    lines, _ = _planned(pipeline)
    names = list(dict.fromkeys(name for line in lines for name in line))
    return [{name: line.get(name) for name in names} for line in lines]


def _planned(pipeline: Pipeline) -> tuple[list[dict[str, Any]], int]:
    """Return the lines and at most how many rows come out, tables that are pipelines first."""
    lines: list[dict[str, Any]] = []
    made: dict[str, int] = {}
    for name, table in pipeline.tables.items():
        if isinstance(table, Pipeline):
            held, made[name] = _planned(table.of(name))
            lines += held
        else:
            made[name] = _count(table)
    rows = 0
    for one in pipeline.check():
        work = one.step.work
        line: dict[str, Any] = {"step": one.name, "operator": _kind(work), "rows_at_most": rows}
        if isinstance(work, Operator):
            if work.makes() == "rows":
                rows = line["rows_at_most"] = _source_rows(one, made)
            if work.uses_model:
                n, together = (work.asker.n, work.asker.together) if isinstance(work, Asks) else (1, False)
                calls = rows if together else rows * n
                prompt = calls * _prompt_tokens(pipeline, one)
                most = getattr(work, "max_tokens", None)
                answer = None if most is None else rows * n * most
                line |= {
                    "calls": calls,
                    "prompt_tokens_about": prompt,
                    "completion_tokens_at_most": answer,
                    "usd_about": _usd(work, prompt, answer),
                }
                rows *= n if work.makes() == "children" else 1
        elif isinstance(work, Union):
            rows += made[work.table]
        lines.append(line)
    return lines, rows


def samples(pipeline: Pipeline) -> list[dict[str, str]]:
    """Return the prompts of the first rows, for each model step whose columns the source makes."""
    found = []
    checked = pipeline.check()
    rows = _first_rows(checked[0])
    for one in checked:
        for row, texts in _prompts(one, rows):
            found += [
                {"step": one.name, "row_id": row["row_id"], "prompt": text} for text in dict.fromkeys(texts)
            ]
    return found


def _prompts(one: Checked, rows: list[dict[str, Any]]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Return the rows that can be asked for now, with the texts of their questions."""
    work = one.step.work
    if not isinstance(work, Operator) or not isinstance(work, Asks):
        return []
    if not set(work.table_names) <= set(work.context.tables):
        return []  # a table that is a pipeline of its own has no rows yet
    able = [row for row in rows if set(work.reads) <= set(row)]
    return [(row, [_text(question.request) for question in work.questions(row)]) for row in able]


def _text(request: Request) -> str:
    said = [message["content"] for message in request.messages]
    return "\n".join(said if request.prompt is None else [request.prompt])


def _first_rows(source: Checked) -> list[dict[str, Any]]:
    import pyarrow as pa

    from synthray.query import Query
    from synthray.source.conditions import Conditions
    from synthray.source.table import Table

    work = source.step.work
    if not isinstance(work, Operator) or not set(work.table_names) <= set(work.context.tables):
        return []  # a table that is a pipeline of its own has no rows yet
    if isinstance(work, Conditions):
        count = min(SAMPLES, work.rows)
        made: list[dict[str, Any]] = replace(work, rows=count)(
            pa.table({"id": list(range(count))})
        ).to_pylist()
        return made
    if isinstance(work, Table):
        with Query({"given": work.given()}) as query:
            rows: list[dict[str, Any]] = query.arrow(
                f"SELECT * FROM ({work.sql(query)}) LIMIT {SAMPLES}"
            ).to_pylist()
            return rows
    return []


def _count(table: Files) -> int:
    from synthray.query import Query

    with Query({"given": table}) as query:
        return int(query.value("SELECT count(*) FROM given"))


def _source_rows(source: Checked, made: Mapping[str, int]) -> int:
    from synthray.query import Query
    from synthray.source.table import Table

    work = source.step.work
    if isinstance(work, Table) and work.table in made:
        return min(work.rows or made[work.table], made[work.table])
    if isinstance(work, Table):
        with Query({"given": work.given()}) as query:
            return int(query.value(f"SELECT count(*) FROM ({work.sql(query)})"))
    return int(getattr(work, "rows", 0))


def _prompt_tokens(pipeline: Pipeline, one: Checked) -> int:
    prompts = [text for _, texts in _prompts(one, _first_rows(pipeline.check()[0])) for text in texts]
    if not prompts:
        return 0
    return round(sum(len(text.encode()) for text in prompts) / len(prompts) / _BYTES_PER_TOKEN)


def _usd(work: Operator, prompt_tokens: int, answer_tokens: int | None) -> float | None:
    """Return what so many tokens cost; None where nobody said what a token costs or how many there are."""
    language = work.context.language
    if language is None or answer_tokens is None or not language.prices().known:
        return None
    return language.prices().cost(prompt_tokens, answer_tokens).usd


def budget(pipeline: Pipeline, lines: Sequence[Mapping[str, Any]]) -> str:
    """Return what the lines add up to, and which budgets there are."""
    calls, prompt, answer = (
        sum(line.get(name) or 0 for line in lines)
        for name in ("calls", "prompt_tokens_about", "completion_tokens_at_most")
    )
    if not calls:
        return "No model calls."
    asking = [line for line in lines if line.get("calls")]
    priced = [line["usd_about"] for line in asking if line.get("usd_about") is not None]
    usd = f"about {sum(priced):.4f} US dollars" if len(priced) == len(asking) else "at no known price"
    text = f"In all {calls} calls, about {prompt} prompt and at most {answer} completion tokens, {usd}."
    for language in [pipeline.model, *pipeline.models.values()]:
        for name in ("budget_usd", "budget_tokens"):
            held = getattr(language, name, None)
            over = held is not None and held < (sum(priced) if name == "budget_usd" else prompt + answer)
            if held is not None:
                text += f" {name} is {held}{': the run may end at it' if over else ''}."
    return text + " An answer that does not fit its schema is asked for again, which adds to this."


def _kind(work: Operator | Statement) -> str:
    if isinstance(work, Operator):
        return path_of(work)
    return work.kind
