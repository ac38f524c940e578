"""The dataset as JSON lines, as the `datasets` library opens them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
from exporting import exported, opened, rows

from synthray.export.jsonl import Jsonl


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_every_row_is_a_line_that_datasets_reads_back(tmp_path: Path) -> None:
    values = {
        "text": ["one\ntwo", "über \u2028 \U0001f600", None],
        "score": [0.5, math.nan, math.inf],
        "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
    }
    dataset = exported(tmp_path, rows(**values), Jsonl(columns=["text", "score", "tags"]))
    assert opened(dataset)["train"] == [
        {"row_id": "a", "text": "one\ntwo", "score": 0.5, "tags": ["a"]},
        {"row_id": "b", "text": "über \u2028 \U0001f600", "score": None, "tags": []},
        {"row_id": "c", "text": None, "score": None, "tags": None},
    ]
    lines = (dataset / "data" / "train-00000-of-00001.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["row_id"] for line in lines] == ["a", "b", "c"], "a line each, in order"


def test_all_columns_are_written_unless_some_are_chosen() -> None:
    assert Jsonl().reads == ()
    assert Jsonl(columns=["text"], label="kind").reads == ("text", "kind")
