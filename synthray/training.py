"""Texts and messages for training: where in a row they stand, and whether a chat template takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray import template
from synthray.column import is_list, is_text
from synthray.dataset import SOURCES, Export
from synthray.errors import InputError, RunFailed

if TYPE_CHECKING:
    import pyarrow as pa

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class TrainingExport(Export):
    """Base of exports whose settings name columns or are templates over them.

    A setting with `{{` or `{%` is a Jinja template over the row's columns and `task`, in which a null is
    empty, and the spaces around what it gives are left out; any other is a column. `columns` are written
    beside.
    """

    columns: Sequence[str] = field(default=(), kw_only=True)

    def sources(self) -> tuple[str, ...]:
        """Return the settings that are columns or templates."""
        raise TypeError(f"{type(self).__name__} defines no sources")

    def keys(self) -> tuple[str, ...]:
        """Return what a line has beside `row_id` and `columns`."""
        raise TypeError(f"{type(self).__name__} defines no keys")

    def needs(self) -> tuple[str, ...]:
        """Return the columns that the settings name, and `columns`."""
        named: list[str] = []
        for source in self.sources():
            named += sorted(template.variables(source) - {"task"}) if is_template(source) else [source]
        return tuple(dict.fromkeys((*named, *self.columns)))

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what it stands on."""
        return (*SOURCES, template.SOURCE, Path(__file__))

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when a template is none, or a column would be written over."""
        super().check(before)
        template.check([one for one in self.sources() if is_template(one)], before.names)
        taken = [name for name in self.columns if name in (*self.keys(), "row_id")]
        if taken:
            raise InputError(
                f"columns: {taken[0]!r} is what the format itself writes; rename the column by `derive`"
            )

    def check_text(self, before: pa.Schema, *sources: str) -> None:
        """Raise an InputError when one of these settings is a column that holds no text."""
        for source in sources:
            kind = None if is_template(source) else before.field(source).type
            if kind is not None and not is_text(kind):
                raise InputError(
                    f"column {source!r} must hold text, but is {kind}; write it by a template: "
                    f'"{{{{ {source} }}}}"'
                )

    def text(self, source: str, row: Mapping[str, Any]) -> str:
        """Return what a setting gives for a row; '' where its column is null."""
        import jinja2

        if not is_template(source):
            return row[source] or ""
        filled = {name: "" if value is None else value for name, value in row.items()}
        try:
            return template.rendered(source, filled, self.context.task).strip()
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise RunFailed(f"the template {source!r}: {type(error).__name__}: {error}") from None

    def filled(self, name: str, source: str, row: Mapping[str, Any]) -> str:
        """Return what a setting gives for a row; RunFailed where that is nothing."""
        text = self.text(source, row)
        if not text.strip():
            raise RunFailed(f"{name} is empty; drop such rows by a `where`")
        return text

    def beside(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns that are written beside."""
        return {name: row[name] for name in self.columns}


@dataclass(frozen=True)
class Conversations(TrainingExport):
    """Base of exports of conversations: from a column of messages, or from `user` and `assistant`."""

    messages: str | None = None
    user: str | None = None
    assistant: str | None = None
    system: str | None = None

    def sources(self) -> tuple[str, ...]:
        """Return the settings that are columns or templates."""
        return tuple(one for one in (self.messages, self.system, self.user, self.assistant) if one)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the settings name no conversation."""
        if self.messages and any((self.user, self.assistant, self.system)):
            raise InputError("messages hold the whole conversation; name them, or user and assistant")
        if not self.messages and not (self.user and self.assistant):
            raise InputError("name the column that holds messages, or user and assistant")
        super().check(before)
        if self.messages:
            check_messages(before, self.messages)
        else:
            self.check_text(before, *self.sources())

    def turns(self, row: Mapping[str, Any]) -> Messages:
        """Return the messages of a row; RunFailed where a chat template would not take them."""
        if self.messages:
            return checked(row[self.messages], "assistant")
        assert self.user
        assert self.assistant
        pairs = [("user", self.user), ("assistant", self.assistant)]
        made = [{"role": role, "content": self.filled(role, source, row)} for role, source in pairs]
        system = self.text(self.system, row) if self.system else ""
        return [*([{"role": "system", "content": system}] if system.strip() else []), *made]


def is_template(source: str) -> bool:
    """Return whether a setting is a template and no column."""
    return "{{" in source or "{%" in source


def is_messages(kind: pa.DataType) -> bool:
    """Return whether a column holds lists of {role, content}, both text."""
    import pyarrow as pa

    if not is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    held = {one.name: one.type for one in kind.value_type}
    return all(name in held and is_text(held[name]) for name in ("role", "content"))


def check_messages(before: pa.Schema, column: str) -> None:
    """Raise an InputError when a column holds no messages."""
    kind = before.field(column).type
    if not is_messages(kind):
        raise InputError(
            f"messages: column {column!r} must hold lists of {{role, content}} (as generate.dialogue makes "
            f"them), but is {kind}"
        )


def checked(messages: Sequence[Mapping[str, Any]] | None, last: str, *, first: str = "user") -> Messages:
    """Return messages as {role, content}; RunFailed says which one a chat template would not take.

    A system message may come first; then user and assistant take turns, from `first` to `last`.
    """
    held = [{"role": one["role"], "content": one["content"]} for one in messages or ()]
    begins = 1 if held and held[0]["role"] == "system" and first == "user" else 0
    for number, one in enumerate(held, start=1):
        if one["role"] not in ("system", "user", "assistant"):
            raise RunFailed(
                f"message {number} is of the role {one['role']!r}; allowed are system, user, assistant"
            )
        if not (one["content"] or "").strip():
            raise RunFailed(f"message {number} ({one['role']}) is empty; drop such rows by a `where`")
        if number <= begins:
            continue
        turn = ("user", "assistant")[(number - 1 - begins + (first == "assistant")) % 2]
        if one["role"] != turn:
            raise RunFailed(
                f"message {number} is of {one['role']!r} where {turn!r} must speak: after a system message, "
                f"if there is one, they take turns"
            )
    if len(held) == begins or held[-1]["role"] != last:
        found = f"is of {held[-1]['role']!r}" if len(held) > begins else "is missing"
        raise RunFailed(f"the last message must be of {last!r}, but {found}; drop such rows by a `where`")
    return held
