"""What decides a step's result: its settings, its source, and the digests of all that it reads.

Budgets, limits, timeouts, keys and numbers of blocks change no result and are in none of this.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.lineage import ordered
from synthray.query import Query

if TYPE_CHECKING:
    from synthray.operator import Operator
    from synthray.statement import Statement


_CODE = Path(__file__).parent


def operator_parts(operator: Operator, when: str | None, digests: Mapping[str, str]) -> list[Any]:
    """Return what decides an operator's result; `digests` are those of the named tables, in lower case."""
    context = operator.context
    named = {table.lower() for table in operator.table_names}
    if when:
        with Query({}) as query:
            named |= query.named(f"SELECT ({when}) FROM rows")
    return [
        type(operator).__module__,
        ordered(operator.settings()),
        _source_digest(type(operator)),
        [_file_digest(path) for path in operator.files()],
        _of(named, digests),
        context.language.identity() if operator.uses_model and context.language else None,
        {name: language.identity() for name, language in context.models.items()},
        ordered(vars(context.task)),
        (operator.origin, context.prefix, context.seed, when),
    ]


def artifact_parts(operator: Operator, when: str | None, parts: Any) -> list[Any]:
    """Return what decides an artifact of a step, beside the rows that come in: its code too."""
    return [
        type(operator).__module__,
        _source_digest(type(operator)),
        # Of the files only those of the code: an artifact says by `parts` what else it was made from.
        [_file_digest(path) for path in operator.files() if path.is_relative_to(_CODE)],
        (when, ordered(parts)),
    ]


def statement_parts(statement: Statement, digests: Mapping[str, str]) -> list[Any]:
    """Return what decides a statement's result: its settled text and the tables that it names."""
    with Query({}) as query:
        named = {table for sql in statement.sql() for table in query.named(sql)}
    return [repr(statement), _of(named, digests)]


def _of(named: set[str], digests: Mapping[str, str]) -> dict[str, str]:
    return {table: digests[table] for table in sorted(named & set(digests))}


def _source_digest(kind: type[Operator]) -> str:
    """Return a digest of the file that an operator is written in, or of the class where there is none."""
    try:
        source = inspect.getsource(sys.modules[kind.__module__]).encode()
    except (OSError, TypeError):
        import ray.cloudpickle

        source = ray.cloudpickle.dumps(kind)
    return hashlib.blake2b(source).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
