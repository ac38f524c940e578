"""Conversations in ShareGPT's form, as the `datasets` library opens them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from exporting import MESSAGES, exported, opened, rows

from synthray.export.sharegpt import Sharegpt


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_roles_have_the_forms_names(tmp_path: Path) -> None:
    talk = [("system", "be kind"), ("user", "hi"), ("assistant", "hello")]
    messages = pa.array([[{"role": role, "content": text} for role, text in talk]], MESSAGES)
    assert opened(exported(tmp_path, rows(m=messages), Sharegpt(messages="m")))["train"] == [
        {
            "row_id": "a",
            "conversations": [
                {"from": "system", "value": "be kind"},
                {"from": "human", "value": "hi"},
                {"from": "gpt", "value": "hello"},
            ],
        }
    ]
