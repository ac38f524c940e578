"""What decides a result is in a step's fingerprint, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from operators import Upper

from synthray.fingerprint import operator_parts, statement_parts
from synthray.generate.prompt import Prompt
from synthray.lineage import digest
from synthray.model.fake import Fake
from synthray.operator import Context
from synthray.statement import Derive, Select, Statement, Union, Where
from synthray.task import Task

PROMPT = Prompt(
    template="{{ a }}",
    writes={"x": "string", "y": "string"},
    context=Context(step="p", seed=1, language=Fake(), task=Task("t", {"a": "", "b": ""})),
)


def parts(operator: Any = PROMPT, when: str | None = None, **digests: str) -> str:
    return digest(operator_parts(operator, when, digests))


def changed(**changes: Any) -> Prompt:
    return replace(PROMPT, context=replace(PROMPT.context, **changes))


@pytest.mark.parametrize(
    "other",
    [
        parts(replace(PROMPT, template="{{ b }}")),
        parts(replace(PROMPT, writes={"y": "string", "x": "string"})),
        parts(changed(seed=2)),
        parts(changed(step="q")),
        parts(changed(task=Task("t", {"b": "", "a": ""}))),
        parts(changed(language=Fake(answers=("other",)))),
        parts(when="a = 1"),
        parts(Upper()),
    ],
    ids=["template", "order", "seed", "step", "labels", "model", "when", "operator"],
)
def test_what_changes_the_result_changes_the_fingerprint(other: str) -> None:
    assert other != parts()


@pytest.mark.parametrize(
    "other",
    [
        changed(language=Fake(in_flight=3, retries=9, timeout_s=1.0)),
        changed(calls="elsewhere"),
        changed(retry=1),  # the run adds it for the steps that failed
    ],
    ids=["limits", "folder", "retry"],
)
def test_what_changes_no_result_is_in_no_fingerprint(other: Prompt) -> None:
    assert parts(other) == parts()


def test_a_table_that_a_when_reads_counts_whatever_its_case() -> None:
    when = "a IN (SELECT v FROM Picked)"
    assert parts(when=when, picked="1") != parts(when=when, picked="2")
    assert parts(when=when, picked="1", other="1") == parts(when=when, picked="1", other="2")


@pytest.mark.parametrize(
    "statement",
    [
        Where("a IN (SELECT v FROM picked)"),
        Derive({"b": "(SELECT max(v) FROM picked)"}),
        Select("SELECT row_id FROM rows JOIN picked USING (v)"),
        Union("picked"),
    ],
    ids=lambda statement: statement.kind,
)
def test_a_table_that_a_statement_names_counts(statement: Statement) -> None:
    one, two, other = ({"picked": "1"}, {"picked": "2"}, {"picked": "1", "other": "9"})
    assert statement_parts(statement, one) != statement_parts(statement, two)
    assert statement_parts(statement, one) == statement_parts(statement, other)
