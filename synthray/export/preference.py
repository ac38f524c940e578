"""Pairs of a chosen and a rejected answer, for training on preferences (DPO and its like)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthray.errors import InputError, RunFailed
from synthray.training import Messages, TrainingExport, checked, is_messages, is_template

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.operator import Makes


@dataclass(frozen=True)
class Preference(TrainingExport):
    """Write RUN/dataset with a line {"row_id", "prompt", "chosen", "rejected"} for each row.

    The three settings are columns, or Jinja templates over them (what has `{{` or `{%`; a null is empty
    there). They are written as texts, or with `messages: true` in TRL's conversational form: the prompt as
    messages that end with the user's, after `system` where that is not empty, each answer as messages of the
    assistant; then a setting may also be a column of messages (lists of {role, content}). The first row with
    an empty part, two equal answers or messages that no chat template takes ends the run and is named.
    `columns` are written beside. Splits, label and several exports: as in export.parquet.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    system: str | None = None
    messages: bool = False

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def sources(self) -> tuple[str, ...]:
        """Return the settings that are columns or templates."""
        return (self.prompt, self.chosen, self.rejected, *([self.system] if self.system else []))

    def keys(self) -> tuple[str, ...]:
        """Return what a line has."""
        return ("prompt", "chosen", "rejected")

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when a column holds neither text nor messages."""
        super().check(before)
        parts = (self.prompt, self.chosen, self.rejected)
        listed = [one for one in parts if not is_template(one) and is_messages(before.field(one).type)]
        self.check_text(before, *(one for one in self.sources() if one not in listed))
        if listed and not self.messages:
            raise InputError(f"column {listed[0]!r} holds messages; say `messages: true`")
        if self.system and (not self.messages or self.prompt in listed):
            raise InputError("system goes before a prompt of text with `messages: true`, and nowhere else")

    def line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is written of a row."""
        answers = {name: self._answer(name, row) for name in ("chosen", "rejected")}
        if answers["chosen"] == answers["rejected"]:
            raise RunFailed("chosen and rejected are equal; drop such rows by a `where`")
        prompt = self._prompt(row) if self.messages else self.filled("prompt", self.prompt, row)
        return {"prompt": prompt, **answers, **self.beside(row)}

    def _prompt(self, row: Mapping[str, Any]) -> Messages:
        if isinstance(row.get(self.prompt), list):
            return checked(row[self.prompt], "user")
        system = self.text(self.system, row) if self.system else ""
        return [
            *([{"role": "system", "content": system}] if system.strip() else []),
            {"role": "user", "content": self.filled("prompt", self.prompt, row)},
        ]

    def _answer(self, name: str, row: Mapping[str, Any]) -> Messages | str:
        source = str(getattr(self, name))
        if isinstance(row.get(source), list):
            try:
                return checked(row[source], "assistant", first="assistant")
            except RunFailed as error:
                raise RunFailed(f"{name}: {error}") from None
        text = self.filled(name, source, row)
        return [{"role": "assistant", "content": text}] if self.messages else text
