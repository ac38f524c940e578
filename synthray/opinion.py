"""What a model or people think of a row: read in plain words, gathered from votes, missing for a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from synthray.column import is_list, is_text
from synthray.errors import InputError, RunFailed
from synthray.lineage import digest, ordered

if TYPE_CHECKING:
    from synthray.asker import Answer

SOURCE = Path(__file__)
"""For the fingerprints of operators that read opinions."""


def fenced(value: Any) -> str:
    """Return a value as text between marks that it cannot hold, since they are made from it.

    So a text cannot pretend to have ended and go on as the one who asks. That the model does not follow
    what stands inside is asked of it, not made sure.
    """
    text = value if isinstance(value, str) else ordered(value)
    mark = f"text-{digest('fence', text)[:8]}"
    return f"<{mark}>\n{text}\n</{mark}>"


def said(text: str, says: Mapping[str, str]) -> str:
    """Return which of `says` (what is meant -> its words) an answer holds last; ValueError for none.

    Last, since reasons come before a verdict; of words at one place the longest.
    """
    found = max((text.rfind(words), len(words), meant) for meant, words in says.items())
    if found[0] < 0:
        raise ValueError(f"the answer holds none of {', '.join(map(repr, says.values()))}")
    return found[2]


def unread(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return why a row fails of which no answer counts, by the first; see lineage.FAILED."""
    failures = [answer.failed for answer in answers if answer.failed is not None]
    first = failures[0]
    told = first["message"] if len(answers) == 1 else f"all {len(answers)} answers: {first['message']}"
    return {
        "error": first["error"],
        "message": told,
        "attempts": sum(failure["attempts"] for failure in failures),
    }


def check_votes(before: pa.Schema, column: str, *, texts: bool, numbers: bool, what: str) -> None:
    """Raise an InputError when the column is there but holds no votes of people, or lists of them."""
    if column not in before.names:
        return
    kind = before.field(column).type
    inner = kind.value_type if is_list(kind) else kind
    counts = pa.types.is_integer(inner) or pa.types.is_floating(inner)
    if not (pa.types.is_null(inner) or (texts and is_text(inner)) or (numbers and counts)):
        raise InputError(
            f"human: column {column!r} must hold what people say, {what}, or a list of it for several "
            f"people, but is {kind}; cast it by derive"
        )


def votes(column: pa.ChunkedArray) -> list[list[Any]]:
    """Return the votes of each row; null and NaN are none."""
    lists = is_list(column.type)
    return [
        [vote for vote in (held or []) if vote is not None and vote == vote]
        for held in (column.to_pylist() if lists else ([one] for one in column.to_pylist()))
    ]


def numbers(who: str, column: str, table: pa.Table, levels: Mapping[str, float]) -> list[float]:
    """Return the mean of each row's votes, NaN for none; a text counts what `levels` says.

    Raises RunFailed, with the row, for a text that is no level and for an infinite number.
    """
    means = []
    for row_id, held in zip(table["row_id"].to_pylist(), votes(table[column]), strict=True):
        values = [levels.get(vote, math.inf) if isinstance(vote, str) else float(vote) for vote in held]
        for vote, value in zip(held, values, strict=True):
            if math.isinf(value):
                known = f"a level ({', '.join(levels)})" if isinstance(vote, str) else "a finite number"
                raise RunFailed(f"{who}: human: row_id {row_id!r} holds {vote!r}, which is not {known}")
        means.append(math.fsum(values) / len(values) if values else math.nan)
    return means
