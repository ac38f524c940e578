"""Exact duplicates are rows whose normalised text is that of an earlier row or of older data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.exact_duplicate import ExactDuplicate
from synthray.errors import InputError
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.table import Table


def marked(texts: list[str | None], **settings: Any) -> list[tuple[str | None, int | None]]:
    """Return the marks of rows named a, b, c ... with a `score` that falls."""
    names = [chr(ord("a") + number) for number in range(len(texts))]
    table = pa.table({"row_id": names, "text": pa.array(texts, pa.string()), "score": range(len(texts))})
    out = ExactDuplicate(text="text", **settings)(table)
    assert out["row_id"].to_pylist() == names
    return list(
        zip(out["exact_duplicate_of"].to_pylist(), out["exact_duplicate_count"].to_pylist(), strict=True)
    )


SAME = [
    pytest.param("A cat.", "a  CAT.\n", {"text", "words"}, id="case and space"),
    pytest.param("a cat", "a cat!", {"words"}, id="punctuation"),
    pytest.param("\ufb01ne \uff11\uff12", "fine 12", {"text"}, id="compatibility forms"),
    pytest.param("e\u0301te\u0301", "\u00e9t\u00e9", {"text"}, id="combining marks"),
    pytest.param("a\u00a0cat", "a cat", {"text", "words"}, id="no-break space"),
    pytest.param("你好。", "你好", {"words"}, id="no Latin"),
    pytest.param("😀", "😀", {"text", "bytes"}, id="emoji"),
    pytest.param("", "", {"text", "bytes"}, id="empty"),
    pytest.param("\x00\x07", "\x00\x07", {"text", "bytes"}, id="control characters"),
    pytest.param("word", "word", {"text", "words", "bytes"}, id="one word"),
    pytest.param("x" * 10_000_000, "x" * 10_000_000, {"text", "words", "bytes"}, id="10 MB"),
    pytest.param("a cat", "a dog", set(), id="another text"),
    pytest.param(None, None, set(), id="null"),
]


@pytest.mark.parametrize(("one", "other", "same"), SAME)
@pytest.mark.parametrize("by", ["text", "words", "bytes"])
def test_texts_are_the_same_as_their_form_says(
    one: str | None, other: str | None, same: set[str], by: str
) -> None:
    marks = marked([one, other], by=by)
    assert marks == ([(None, 2), ("a", 2)] if by in same else [(None, None)] * 2)


def test_the_first_in_the_order_preferred_is_kept() -> None:
    texts: list[str | None] = ["x", "y", "x", "x", "y", "z"]
    assert [of for of, _ in marked(texts)] == [None, None, "a", "a", "b", None]
    assert [of for of, _ in marked(texts, prefer="score DESC")] == ["d", "e", "d", None, None, None]
    assert [count for _, count in marked(texts)] == [3, 2, 3, 3, 2, None]


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)prefer: .*scor.*"):
        ExactDuplicate(text="text", prefer="scor DESC").check(
            pa.schema([("row_id", pa.string()), ("text", pa.string()), ("score", pa.int64())])
        )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_older_data_come_first_and_an_index_grows_by_what_is_new(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"row_id": ["o1", "o2"], "text": ["Old one", "Old two"]}), tmp_path / "old.parquet"
    )
    pq.write_table(pa.table({"text": ["older"]}), tmp_path / "older.parquet")
    texts = ["old one", "new", "NEW", "OLDER", "alone"]
    pq.write_table(pa.table({"row_id": list("abcde"), "text": texts}), tmp_path / "rows.parquet")

    def run(name: str, against: list[str], **settings: Any) -> list[tuple[Any, ...]]:
        operator = ExactDuplicate(text="text", against=against, base=str(tmp_path), **settings)
        rows = Table.find("rows.parquet", tmp_path)
        pipeline = Pipeline([Source(table="news"), operator], name="x", tables={"news": rows}, blocks=3)
        found = pipeline.run(tmp_path / name, quiet=True).sql("SELECT * FROM dataset ORDER BY row_id")
        columns = ("row_id", "exact_duplicate_of", "exact_duplicate_source")
        return [tuple(row[name] for name in columns) for row in found.to_pylist()]

    marks = run("one", ["old.parquet"], index="seen")
    assert marks == [
        ("a", "o1", "old.parquet"),
        ("b", None, None),
        ("c", "b", None),
        ("d", None, None),
        ("e", None, None),
    ]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "seen").rglob("*.parquet")}
    marks = run("two", ["old.parquet", "older.parquet"], index="seen")
    assert marks[3][1] and marks[3][2] == "older.parquet"
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "seen").rglob("*.parquet")}
    assert before and set(before.items()) < set(after.items()), "what was there is not made again"
    assert run("three", ["one"])[4] == ("e", "e", "one"), "a run is older data too"
    with pytest.raises(InputError, match="was made with hash of: text, but this step has hash of: words"):
        run("four", ["old.parquet"], index="seen", by="words")
