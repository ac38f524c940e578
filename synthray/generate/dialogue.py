"""A conversation of a user and an assistant, each played by a model of its own (UltraChat)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from annotated_types import Ge, Le

from synthray import asker, role, talk, template
from synthray.asker import Ask, Asker, Question, unmade
from synthray.errors import InputError, near
from synthray.lineage import FAILED, RESERVED, uniform
from synthray.operator import Operator
from synthray.role import Message, Role
from synthray.talk import Talk
from synthray.template import rendered, variables

MOST_TURNS = 100

_PERSON = """\
Play a person who talks with an AI assistant: you write what the person says, I write what the assistant \
answers. Stay that person. Ask, answer, object, or go on to what follows from the assistant's last answer. \
Write the person's next message and nothing else, without a name before it."""

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_FORMS = "a number, {range: [2, 7]} or {column: NAME, most: 7}"
_SEEN = frozenset({"task", "said", "role", "turn"})
"""What `until` may read beside the row's columns."""


@dataclass(frozen=True)
class Dialogue(Operator):
    """Let two models converse for `turns` turns, each a message of the user and the assistant's answer.

    From UltraChat (Ding et al. 2023): one model plays the user, another answers, and neither sees what the
    other is told. `opening` is the first message (a template); without it the user's model begins. `turns` is
    a number, {range: [2, 7]} drawn for each row, or {column: NAME, most: 7}. `user` and `assistant` each take
    `system` (a template), `model` (a name of `models:`; without it the step's own), `temperature`, `top_p`,
    `max_tokens` and `stop`; `user` takes `template` too, which tells its model to play a person. The
    conversation is over before its turns are when the Jinja expression `until` is true of a message: it sees
    the columns, `said`, its `role` and `turn` (from 1).

    `writes` holds the messages, a list of {role, content}, from the user's first to the last answer; with
    `keep_system` the assistant's system prompt before them. Also added: `STEP_turns`, how many there were to
    be; `STEP_end`, why there are no more: `turns`, `until`, or who (`user_`, `assistant_`) said nothing
    more: `empty`, `no_text` (refused by the endpoint), `context` (it no longer fits the model). What was
    answered until then is kept; when nothing was, and when a call fails, the row fails. `STEP_finish`
    ('length': cut at max_tokens) and `STEP_call` are lists, one of each message that was asked for.
    """

    uses_model: ClassVar[bool] = True

    turns: Annotated[int, Ge(1), Le(MOST_TURNS)] | Mapping[str, Any]
    opening: str | None = None
    user: Mapping[str, Any] = field(default_factory=dict)
    assistant: Mapping[str, Any] = field(default_factory=dict)
    until: str | None = None
    keep_system: bool = False
    writes: str = "messages"

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that the templates and `turns` name."""
        named = frozenset().union(*map(variables, self._templates())) - {"task"}
        named |= variables(_test(self.until)) - _SEEN if self.until is not None else frozenset()
        column = (
            {self.turns["column"]} if isinstance(self.turns, Mapping) and "column" in self.turns else set()
        )
        return tuple(sorted(named | column))

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models that play a side."""
        named = (self.user.get("model"), self.assistant.get("model"))
        return tuple(dict.fromkeys(name for name in named if isinstance(name, str)))

    @property
    def max_tokens(self) -> int | None:
        """How long a message may be at most."""
        lengths = [one.max_tokens for one in self._roles]
        return None if None in lengths else max(one for one in lengths if one is not None)

    @property
    def history_tokens(self) -> int | None:
        """How many tokens of earlier messages the prompts of a row hold at most, all together."""
        lengths = {one.name: one.max_tokens for one in self._roles}
        if None in lengths.values():
            return None
        first = 0 if self.opening is None else 1
        said = [
            (lengths["user"] or 0, lengths["assistant"] or 0)[place % 2] for place in range(2 * self._most)
        ]
        said[:first] = [0] * first
        return sum(sum(said[:place]) for place in range(first, len(said)))

    @functools.cached_property
    def _roles(self) -> tuple[Role, Role]:
        return (
            Role.of("user", {"template": _PERSON, **self.user}),
            Role.of("assistant", self.assistant, "template"),
        )

    def _templates(self) -> tuple[str, ...]:
        opening = () if self.opening is None else (self.opening,)
        return (*opening, *(text for one in self._roles for text in one.templates()))

    def files(self) -> tuple[Path, ...]:
        """Return the source of what asks."""
        return (*asker.SOURCES, talk.SOURCE, role.SOURCE)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the messages and the conversation's traces."""
        return {
            self.writes: _MESSAGES,
            f"{self.step}_turns": pa.int64(),
            f"{self.step}_end": pa.string(),
            f"{self.step}_finish": pa.list_(pa.string()),
            f"{self.step}_call": pa.list_(pa.string()),
        }

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for turns that are none, a name that is taken, or what a model has not."""
        for name in self.adds():
            if name in RESERVED or not name:
                raise InputError(f"cannot write {name!r}: the name is reserved for lineage")
        self._check_turns(before)
        template.check(self._templates(), before.names, self.context.task)
        if self.until is not None:
            template.check([_test(self.until)], [*before.names, *_SEEN])
        if self.keep_system and self._roles[1].system is None:
            raise InputError("keep_system keeps the assistant's system prompt; give assistant: {system: ...}")
        for one in self._roles:
            self._asker_of(one).check(one.request((), ({"role": "user", "content": ""},)))

    def _check_turns(self, before: pa.Schema) -> None:
        turns = self.turns
        if isinstance(turns, int):
            return
        if set(turns) == {"range"}:
            held = turns["range"]
            fine = isinstance(held, list | tuple) and len(held) == 2 and all(type(one) is int for one in held)
            if not fine or not 1 <= held[0] <= held[1] <= MOST_TURNS:
                raise InputError(f"turns: range must be [low, high], from 1 to {MOST_TURNS}, but is {held!r}")
        elif set(turns) == {"column", "most"}:
            if type(turns["most"]) is not int or not 1 <= turns["most"] <= MOST_TURNS:
                raise InputError(f"turns: most must be from 1 to {MOST_TURNS}, but is {turns['most']!r}")
            name = turns["column"]
            if name not in before.names:
                raise InputError(f"turns: no column {name!r}{near(str(name), before.names)}")
            if not pa.types.is_integer(before.field(name).type):
                raise InputError(
                    f"turns: column {name!r} must hold whole numbers, but is {before.field(name).type}"
                )
        else:
            raise InputError(f"turns must be {_FORMS}, but is {turns!r}")

    @property
    def _most(self) -> int:
        if isinstance(self.turns, int):
            return self.turns
        return int(self.turns["range"][1] if "range" in self.turns else self.turns["most"])

    def _turns_of(self, row: Mapping[str, Any]) -> int:
        if isinstance(self.turns, int):
            return self.turns
        if "range" in self.turns:
            low, high = self.turns["range"]
            chance = uniform("turns", self.context.seed, self.origin, row["row_id"])
            return int(low + chance * (high - low + 1))
        name = self.turns["column"]
        if row[name] is None or not 1 <= row[name] <= self._most:
            raise ValueError(f"turns: column {name!r} must be from 1 to {self._most}, but is {row[name]!r}")
        return int(row[name])

    # Asking.

    @property
    def asker(self) -> Asker:
        """What asks: of a row at most for each message, but the opening."""
        return Asker(self.context, self.origin, 2 * self._most - (self.opening is not None))

    def _asker_of(self, one: Role) -> Asker:
        if one.model is None:
            return self.asker
        if one.model not in self.context.models:
            raise InputError(f"{one.name}: no model {one.model!r}{near(one.model, self.context.models)}")
        return Asker(self.context.of(one.model), self.origin)

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        """Return what a row is asked at most, with words in the place of what is not said yet."""
        held = self._begun(row)
        questions = []
        while len(held.said) < 2 * self._most:
            questions.append(held.question())
            held.say(f"({held.speaker.name}'s message {len(held.said) // 2 + 1})")
        return questions

    def __call__(self, table: pa.Table) -> pa.Table:
        """Let all rows converse at once; a row of which nothing is answered gets `failed`."""
        told = self.asker.talks(table.to_pylist(), self._told, self.model_names)
        table = self.add(table, {name: [columns.get(name) for columns, _ in told] for name in self.adds()})
        return table.append_column(pa.field("failed", FAILED), pa.array([why for _, why in told], FAILED))

    async def _told(
        self, row: Mapping[str, Any], ask: Ask
    ) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
        """Return the columns of a row that has conversed, and why it fails."""
        try:
            held = self._begun(row)
        except Exception as error:  # a filter raises what it likes on a value that it cannot take
            return {}, unmade(error).failed
        await held.held(ask)
        system = held.before["assistant"] if self.keep_system else ()
        choices = [answer.choice for answer in held.answers]
        columns = {
            self.writes: [*system, *held.said],
            f"{self.step}_turns": held.turns,
            f"{self.step}_end": held.end,
            f"{self.step}_finish": [choice and choice.finish_reason for choice in choices],
            f"{self.step}_call": [answer.call for answer in held.answers],
        }
        return columns, held.failed

    def _begun(self, row: Mapping[str, Any]) -> Talk:
        """Return the conversation of a row with its opening said."""
        task, before = self.context.task, {}
        for one in self._roles:
            texts = (("system", one.system), ("user", one.template))
            before[one.name] = tuple(
                {"role": by, "content": rendered(text, row, task)} for by, text in texts if text is not None
            )

        def until(message: Message, turn: int) -> bool:
            seen = {**row, "said": message["content"], "role": message["role"], "turn": turn}
            return bool(self.until is not None and rendered(_test(self.until), seen, task))

        begun = Talk(self._roles, self._turns_of(row), before, until)
        if self.opening is not None:
            opening = rendered(self.opening, row, task).strip()
            if not opening:
                raise ValueError("the opening is empty")
            begun.say(opening)
        return begun


def _test(expression: str) -> str:
    """Return the template that is empty where an expression is not true."""
    return f"{{% if {expression} %}}1{{% endif %}}"
