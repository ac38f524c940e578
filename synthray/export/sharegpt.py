"""Conversations in ShareGPT's form, which many trainers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthray.training import Conversations

if TYPE_CHECKING:
    from synthray.operator import Makes

_FROM = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class Sharegpt(Conversations):
    """Write RUN/dataset with a line {"row_id", "conversations": [{"from", "value"}, ...]} for each row.

    `from` is system, human or gpt. Settings and what is refused: as in export.chat.
    """

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def keys(self) -> tuple[str, ...]:
        """Return what a line has."""
        return ("conversations",)

    def line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is written of a row."""
        turns = [{"from": _FROM[one["role"]], "value": one["content"]} for one in self.turns(row)]
        return {"conversations": turns, **self.beside(row)}
