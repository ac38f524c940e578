"""Messages are those that chat templates take; settings are columns or templates over them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from exporting import MESSAGES

from synthray.errors import InputError, RunFailed
from synthray.export.chat import Chat
from synthray.training import checked, is_messages, is_template


def messages(spoken: str) -> list[dict[str, Any]]:
    """Return messages by the first letters of their roles."""
    roles = {"s": "system", "u": "user", "a": "assistant", "x": "tool"}
    return [{"role": roles[one.lower()], "content": " " if one.isupper() else one} for one in spoken]


@pytest.mark.parametrize("spoken", ["ua", "sua", "uaua", "suauaua"])
def test_turns_that_a_chat_template_takes(spoken: str) -> None:
    assert checked(messages(spoken), "assistant") == messages(spoken)


@pytest.mark.parametrize(
    ("spoken", "message"),
    [
        ("", "the last message must be of 'assistant', but is missing"),
        ("s", "the last message must be of 'assistant', but is missing"),
        ("u", "the last message must be of 'assistant', but is of 'user'"),
        ("uau", "the last message must be of 'assistant', but is of 'user'"),
        ("a", "message 1 is of 'assistant' where 'user' must speak"),
        ("uua", "message 2 is of 'user' where 'assistant' must speak"),
        ("suaa", "message 4 is of 'assistant' where 'user' must speak"),
        ("usa", "message 2 is of 'system' where 'assistant' must speak"),
        ("ssua", "message 2 is of 'system' where 'user' must speak"),
        ("ux", "message 2 is of the role 'tool'; allowed are system, user, assistant"),
        ("uA", r"message 2 \(assistant\) is empty"),
        ("Sua", r"message 1 \(system\) is empty"),
    ],
)
def test_turns_that_none_takes(spoken: str, message: str) -> None:
    with pytest.raises(RunFailed, match=message):
        checked(messages(spoken), "assistant")


def test_missing_messages_are_none() -> None:
    with pytest.raises(RunFailed, match="is missing"):
        checked(None, "assistant")
    with pytest.raises(RunFailed, match="is empty"):
        checked([{"role": "user", "content": None}], "user")


def test_an_answer_begins_with_the_assistant() -> None:
    assert checked(messages("aua"), "assistant", first="assistant") == messages("aua")
    with pytest.raises(RunFailed, match="message 1 is of 'system' where 'assistant' must speak"):
        checked(messages("sa"), "assistant", first="assistant")


@pytest.mark.parametrize(
    ("kind", "are"),
    [
        (MESSAGES, True),
        (pa.large_list(pa.struct([("content", pa.large_string()), ("role", pa.string())])), True),
        (pa.list_(pa.string()), False),
        (pa.list_(pa.struct([("role", pa.string())])), False),
        (pa.list_(pa.struct([("role", pa.string()), ("content", pa.int64())])), False),
        (pa.string(), False),
    ],
)
def test_messages_are_lists_of_role_and_content(kind: pa.DataType, are: bool) -> None:
    assert is_messages(kind) is are


def test_what_has_braces_is_a_template() -> None:
    assert [is_template(one) for one in ("q", "{{ q }}", "{% if q %}x{% endif %}", "a { b }")] == [
        False,
        True,
        True,
        False,
    ]
    chat = Chat(user="{{ b }} {{ a }} {{ task.text }}", assistant="c", columns=["d", "c"], label="e")
    assert chat.reads == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (Chat(), "name the column that holds messages, or user and assistant"),
        (Chat(user="q"), "name the column that holds messages, or user and assistant"),
        (Chat(messages="talk", system="q"), "messages hold the whole conversation"),
        (Chat(messages="q"), r"messages: column 'q' must hold lists of \{role, content\}"),
        (Chat(user="q", assistant="talk"), "column 'talk' must hold text"),
        (Chat(messages="talk", columns=["row_id"]), "columns: 'row_id' is what the format itself writes"),
    ],
)
def test_settings_that_name_no_conversation_are_refused(chat: Chat, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chat.check(pa.schema({"row_id": pa.string(), "q": pa.string(), "talk": MESSAGES}))


def test_a_template_that_fails_at_a_row_says_so() -> None:
    chat = Chat(user="{{ 1 / n }}", assistant="{{ n }}")
    assert chat.line({"n": 2})["messages"][0] == {"role": "user", "content": "0.5"}
    with pytest.raises(RunFailed, match=r"the template .* ZeroDivisionError"):
        chat.line({"n": 0})
