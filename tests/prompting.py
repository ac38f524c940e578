"""What tests of generate.prompt share: rows with a column x, and what is asked and answered for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from synthray.errors import ModelError
from synthray.model.fake import Fake
from synthray.model.language import Request, Response
from synthray.operator import Context
from synthray.task import Task

if TYPE_CHECKING:
    from synthray.generate.prompt import Prompt

TASK = Task(labels={"World": "abroad", "Sports": "games"})
Answer = str | Response | ModelError


def rows(*x: Any) -> pa.Table:
    size = len(x)
    return pa.table(
        {
            "row_id": [f"r{n}" for n in range(size)],
            "parent_id": pa.nulls(size, pa.string()),
            "round": pa.array([0] * size, pa.int32()),
            "x": list(x),
        }
    )


def ask(
    operator: Prompt, table: pa.Table, answer: Callable[[Request], Answer] | Answer, **context: Any
) -> tuple[pa.Table, list[Request]]:
    """Return what the operator makes of a table, and what the model was asked."""
    asked: list[Request] = []

    def script(request: Request) -> Answer:
        asked.append(request)
        return answer(request) if callable(answer) else answer

    made = Context(step="write", task=TASK, language=Fake(script=script, retries=0), **context)
    return replace(operator, context=made)(table), asked
