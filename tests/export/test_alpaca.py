"""Instructions in Alpaca's form, as the `datasets` library opens them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from exporting import exported, opened, rows

from synthray.errors import InputError, RunFailed
from synthray.export.alpaca import Alpaca


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_input_that_is_missing_is_empty_and_the_splits_keep_to_labels(tmp_path: Path) -> None:
    table = rows(
        task=["add", "name a city", "sum", "name a river"],
        given=["1 2", None, "3 4", ""],
        output=["3", "Rome", "7", "Po"],
        label=["x", "y", "x", "y"],
    )
    alpaca = Alpaca(instruction="task", input="given", columns=["label"], split={"train": 0.5, "test": 0.5})
    found = opened(exported(tmp_path, table, alpaca))
    assert sorted(row["row_id"] for part in found.values() for row in part) == ["a", "b", "c", "d"]
    assert all(sorted(row["label"] for row in part) == ["x", "y"] for part in found.values())
    by_id = {row.pop("row_id"): row for part in found.values() for row in part}
    assert by_id["a"] == {"instruction": "add", "input": "1 2", "output": "3", "label": "x"}
    assert (by_id["b"]["input"], by_id["d"]["input"]) == ("", "")


def test_a_row_without_an_answer_cannot_be_written() -> None:
    row = {"instruction": "add", "output": None}
    with pytest.raises(RunFailed, match="output is empty"):
        Alpaca().line(row)
    assert Alpaca().line({**row, "output": "3"}) == {"instruction": "add", "input": "", "output": "3"}


@pytest.mark.parametrize(
    ("alpaca", "message"),
    [
        (Alpaca(output="n"), r'column \'n\' must hold text, but is int64; write it by a template: "{{ n }}"'),
        (Alpaca(columns=["output"]), "columns: 'output' is what the format itself writes"),
        (Alpaca(output="{{ n "), "the template does not parse"),
        (Alpaca(output="{{ n | nope }}"), "Jinja has no filter 'nope'"),
        (Alpaca(split={"train": 0.5}), "split must be shares above 0 that sum to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(alpaca: Alpaca, message: str) -> None:
    before = pa.schema([("instruction", pa.string()), ("output", pa.string()), ("n", pa.int64())])
    with pytest.raises(InputError, match=message):
        alpaca.check(before)
    Alpaca(output="{{ n }}", columns=["n"]).check(before)
