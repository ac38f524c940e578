"""Conversations as messages that a chat template takes, as the `datasets` library opens them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from exporting import MESSAGES, exported, opened, rows

from synthray.errors import RunFailed
from synthray.export.chat import Chat

TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "ciao"},
]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_column_of_messages_is_written_as_it_is(tmp_path: Path) -> None:
    table = rows(talk=pa.array([TALK, TALK[1:3]], MESSAGES), topic=["x", "y"])
    assert opened(exported(tmp_path, table, Chat(messages="talk", columns=["topic"])))["train"] == [
        {"row_id": "a", "messages": TALK, "topic": "x"},
        {"row_id": "b", "messages": TALK[1:3], "topic": "y"},
    ]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_columns_and_templates_make_a_turn_and_a_bad_row_is_named(tmp_path: Path) -> None:
    chat = Chat(user="{{ q }}\n\n{{ context }}", assistant="a", system="s")
    table = rows(q=["why?", "what?"], context=["facts", None], a=["so", "that"], s=["be kind", None])
    assert [row["messages"] for row in opened(exported(tmp_path, table, chat))["train"]] == [
        [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "why?\n\nfacts"},
            {"role": "assistant", "content": "so"},
        ],
        [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "that"}],
    ]
    bad = rows(q=["why?", "what?"], context=["facts", None], a=["so", " "], s=["", None])
    with pytest.raises(RunFailed, match=r"chat: row 'b': assistant is empty; drop such rows by a `where`"):
        exported(tmp_path, bad, chat)
    assert len(opened(tmp_path / "run" / "dataset")["train"]) == 2, "the old dataset is still there"
