from pathlib import Path

import pytest
import reported

from synthray.errors import InputError
from synthray.report.section import FOLDED, LINES, Asked, Table


def test_a_table_shows_columns_under_names_and_knows_how_to_set_them() -> None:
    rows = [
        {"a": 1, "b": None, "row_id": "r1", "t": "short", "flag": True},
        {"a": None, "b": 2.5, "row_id": "r2", "t": "word " * 20, "flag": False},
    ]
    table = Table.of(rows, "a=count", "b", "row_id", "t", "flag")
    assert table.columns == ["count", "b", "row_id", "t", "flag"]
    assert table.kinds == ["number", "number", "id", "long", "short"]


def test_what_is_cut_is_said() -> None:
    rows = [{"a": number} for number in range(LINES + 5)]
    cut = Table.of(rows, "a", title="t", fold=True).cut("there")
    assert len(cut.rows) == LINES
    assert cut.note == "5 more lines are left out; there has all."
    assert cut.folded
    assert not Table.of(rows[:FOLDED], "a", fold=True).folded
    assert not Table.of(rows, "a").folded
    assert Table.of(rows[:3], "a").cut().note == ""


def test_columns_are_found_or_said_to_be_missing(tmp_path: Path) -> None:
    run = reported.bare(tmp_path / "run", [{"text": "one", "intent": "a", "vector": [0.5]}])
    with run.query() as query:
        asked = Asked.of(run, query, None, None, ())
        assert (asked.text, asked.label) == ("text", None)
        assert len(asked.without) == 1 and "--label" in asked.without[0]
        assert Asked.of(run, query, None, "intent", ()).without == []
        with pytest.raises(InputError, match="no column 'intend'; did you mean 'intent'"):
            Asked.of(run, query, None, "intend", ())


def test_a_column_of_vectors_is_found_by_its_type(tmp_path: Path) -> None:
    import pyarrow as pa

    schema = pa.schema(
        [("text", pa.string()), ("mine", pa.list_(pa.float32())), ("p", pa.list_(pa.float64()))]
    )
    run = reported.bare(tmp_path / "run", [{"text": "a", "mine": [1.0], "p": [0.5]}], schema=schema)
    with run.query() as query:
        assert Asked.of(run, query, None, None, ()).embedding == "mine"
