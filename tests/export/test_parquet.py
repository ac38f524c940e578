"""The dataset as Parquet: the chosen columns, sorted, as the `datasets` library opens them."""

from __future__ import annotations

from pathlib import Path

import pytest
from exporting import exported, opened, rows

from synthray.export.parquet import Parquet


def test_it_reads_the_chosen_columns_and_the_label() -> None:
    assert Parquet().reads == ()
    assert Parquet(columns=["text"], label="kind").reads == ("text", "kind")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_datasets_opens_it(tmp_path: Path) -> None:
    table = rows(text=["x", "y", "z"], raw=[b"1", None, b"3"])
    dataset = exported(tmp_path, table, Parquet(columns=["raw", "text"]))
    assert opened(dataset) == {
        "train": [
            {"row_id": "a", "raw": b"1", "text": "x"},
            {"row_id": "b", "raw": None, "text": "y"},
            {"row_id": "c", "raw": b"3", "text": "z"},
        ]
    }
