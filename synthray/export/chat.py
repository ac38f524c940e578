"""Conversations as messages with roles, for fine-tuning with a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthray.training import Conversations

if TYPE_CHECKING:
    from synthray.operator import Makes


@dataclass(frozen=True)
class Chat(Conversations):
    """Write RUN/dataset with a line {"row_id", "messages": [{"role", "content"}, ...]} for each row.

    The conversation is the column `messages` (lists of {role, content}, as generate.dialogue makes them), or
    one turn of `user` and `assistant`, after `system` where that is not empty: columns, or Jinja templates
    over them (what has `{{` or `{%`; a null is empty there). It must be what chat templates take: a system
    message or none, then user and assistant in turns, the assistant last, none empty. The first row that is
    otherwise ends the run and is named. `columns` are written beside. Splits, label and several exports: as
    in export.parquet.
    """

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def keys(self) -> tuple[str, ...]:
        """Return what a line has."""
        return ("messages",)

    def line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is written of a row."""
        return {"messages": self.turns(row), **self.beside(row)}
