"""Pairs for training on preferences, as the `datasets` library opens them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from exporting import MESSAGES, exported, opened, rows

from synthray.errors import InputError, RunFailed
from synthray.export.preference import Preference

USER, GOOD, BAD = (
    {"role": role, "content": text}
    for role, text in (("user", "why?"), ("assistant", "so"), ("assistant", "no"))
)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_pairs_are_texts_or_trls_conversations(tmp_path: Path) -> None:
    table = rows(
        prompt=["why?"], good=["so"], bad=["no"], s=["be kind"], talk=pa.array([[USER]], MESSAGES), gap=[0.5]
    )
    plain = Preference(chosen="good", rejected="bad", columns=["gap"])
    assert opened(exported(tmp_path / "texts", table, plain))["train"] == [
        {"row_id": "a", "prompt": "why?", "chosen": "so", "rejected": "no", "gap": 0.5}
    ]
    system = {"role": "system", "content": "be kind"}
    turns = Preference(chosen="good", rejected="bad", system="s", messages=True)
    assert opened(exported(tmp_path / "turns", table, turns))["train"] == [
        {"row_id": "a", "prompt": [system, USER], "chosen": [GOOD], "rejected": [BAD]}
    ]
    talks = Preference(prompt="talk", chosen="good", rejected="{{ bad }}", messages=True)
    assert talks.line({"talk": [USER], "good": "so", "bad": "no"}) == {
        "prompt": [USER],
        "chosen": [GOOD],
        "rejected": [BAD],
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "x", "rejected": "x"}, "chosen and rejected are equal"),
        ({"prompt": "p", "chosen": "x", "rejected": None}, "rejected is empty"),
        ({"prompt": " ", "chosen": "x", "rejected": "y"}, "prompt is empty"),
        (
            {"prompt": [USER, GOOD], "chosen": "x", "rejected": "y"},
            "last message must be of 'user', but is of 'assis",
        ),
        (
            {"prompt": [USER], "chosen": [USER], "rejected": "y"},
            "chosen: message 1 is of 'user' where 'assistant'",
        ),
    ],
)
def test_what_is_no_pair_cannot_be_written(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RunFailed, match=message):
        Preference(messages=True).line(row)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (Preference(prompt="talk"), "column 'talk' holds messages; say `messages: true`"),
        (Preference(prompt="n"), "column 'n' must hold text"),
        (Preference(system="prompt"), "system goes before a prompt of text with `messages: true`"),
        (Preference(prompt="talk", system="prompt", messages=True), "system goes before a prompt of text"),
    ],
)
def test_settings_that_cannot_work_are_refused(pair: Preference, message: str) -> None:
    text = dict.fromkeys(("prompt", "chosen", "rejected"), pa.string())
    with pytest.raises(InputError, match=message):
        pair.check(pa.schema({**text, "talk": MESSAGES, "n": pa.int64()}))
