"""Chunks are rows that know where they stand, with ids that only content decides."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_document import pdf

from synthray.document import read
from synthray.errors import InputError
from synthray.recipe import load
from synthray.source.documents import Documents

WORDS = ["river", "stone", "light", "paper", "Wind.", "House.\n\n", "tree", "seven"]


def folder(root: Path, order: list[str]) -> Path:
    """Write some documents, in this order."""
    chance = random.Random(2)
    long = {name: " ".join(chance.choices(WORDS, k=300)) for name in "abc"}
    contents: dict[str, str | bytes] = {
        "a.txt": long["a"],
        "copy.txt": long["a"],
        "b.md": f"# Title\n\n{long['b']}",
        "c.html": f"<title>Page</title><p>{long['c']}</p>",
        "d.pdf": pdf("First page of it.", "Second page.", title="Paper"),
        "scan.pdf": pdf(""),
    }
    for name in order:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = contents[Path(name).name]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


ALL = ["a.txt", "copy.txt", "b.md", "c.html", "d.pdf", "scan.pdf"]


def made(operator: Documents) -> list[dict[str, Any]]:
    operator.check(pa.schema([]))
    table = operator(pa.table({"id": list(range(len(operator.given)))}))
    assert table.schema.names == [*operator.schema(pa.schema([])).names, "failed"]
    rows: list[dict[str, Any]] = table.to_pylist()
    return sorted(rows, key=lambda row: row["row_id"])


def fine(operator: Documents) -> list[dict[str, Any]]:
    return [row for row in made(operator) if not row["failed"]]


def test_a_chunk_stands_where_it_says(tmp_path: Path) -> None:
    rows = fine(Documents(path=str(folder(tmp_path / "d", ALL)), characters=300, overlap=40))
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["document"], []).append(row)
    assert set(by_name) == set(ALL) - {"scan.pdf"}
    for name, own in by_name.items():
        held = read(tmp_path / "d" / name)
        own.sort(key=lambda row: row["chunk"])
        assert [row["chunk"] for row in own] == list(range(len(own)))
        assert all(held.text[row["start"] : row["end"]] == row["text"] for row in own)
        assert {row["title"] for row in own} == {held.title}
        assert {row["page"] for row in own} == ({1} if name == "d.pdf" else {None})
    assert len(by_name["a.txt"]) > 4
    assert len({row["row_id"] for row in rows}) == len(rows), "equal chunks of two documents are two rows"
    assert {row["document_id"] for row in by_name["a.txt"]} == {
        row["document_id"] for row in by_name["copy.txt"]
    }


def test_pages_are_told_of_chunks_that_start_in_them(tmp_path: Path) -> None:
    rows = fine(Documents(path=str(folder(tmp_path, ["d.pdf"])), characters=18, overlap=0))
    assert [(row["text"], row["page"]) for row in sorted(rows, key=lambda row: row["chunk"])] == [
        ("First page of it.", 1),
        ("Second page.", 2),
    ]


def test_ids_come_from_content_and_not_from_names_or_order(tmp_path: Path) -> None:
    one = Documents(path=str(folder(tmp_path / "one", ALL)), characters=300, overlap=40)
    other = Documents(
        path=str(folder(tmp_path / "other", [f"z/{name}" for name in ALL[::-1]])), characters=300, overlap=40
    )
    assert made(one) == made(other), "names are below the folder that holds all"
    shutil.move(tmp_path / "other/z/b.md", tmp_path / "other/renamed.md")
    moved = Documents(path=str(tmp_path / "other"), characters=300, overlap=40)
    assert [row["row_id"] for row in made(moved)] == [row["row_id"] for row in made(one)]
    (tmp_path / "other/0.txt").write_text("Another one.")
    more = Documents(path=str(tmp_path / "other"), characters=300, overlap=40)
    assert {row["row_id"] for row in made(one)} < {row["row_id"] for row in made(more)}


def test_a_document_without_text_is_a_failed_row_and_the_others_go_on(tmp_path: Path) -> None:
    rows = made(Documents(path=str(folder(tmp_path, ALL))))
    (failed,) = [row for row in rows if row["failed"]]
    assert failed["document"] == "scan.pdf"
    assert failed["failed"]["error"] == "no_text"
    assert "OCR" in failed["failed"]["message"]
    assert len({row["row_id"] for row in rows}) == len(rows)


def test_settings_that_cannot_work_are_refused_before_any_work(tmp_path: Path) -> None:
    folder(tmp_path, ["a.txt"])
    with pytest.raises(InputError, match=r"overlap \(200\) must be at most half of characters \(300\)"):
        Documents(path=str(tmp_path), characters=300).check(pa.schema([]))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        Documents(path=str(tmp_path)).check(pa.schema([]))
    (tmp_path / "x.docx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"but this is \.docx"):
        Documents(path="x.docx", base=str(tmp_path)).check(pa.schema([]))


def test_what_decides_the_rows_is_in_the_fingerprint_and_where_they_lie_is_not(tmp_path: Path) -> None:
    one = Documents(path=str(folder(tmp_path / "one", ALL)))
    other = Documents(path="other", base=str(folder(tmp_path / "other", ALL).parent))
    assert one.settings() == other.settings()
    assert len(one.files()) == len(ALL) + 1
    assert Documents(path=str(tmp_path / "one"), by="words").settings() != one.settings()


RECIPE = """
name: grounded
seed: 3
max_failed: 0.5
model: {{language: fake, answers: ['{{"claims": [{{"claim": "c", "supported": true, "evidence": "river"}}]}}']}}
steps:
  - source.documents: {{path: docs, characters: 300, overlap: 40{rows}}}
{more}"""
GROUNDED = """
  - generate.prompt: {template: "Ask about: {{ text }}", writes: question}
  - evaluate.groundedness: {text: question, source: text}
  - where: grounded = 1
  - export.parquet: {split: {train: 0.5, test: 0.5}}
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_are_the_same_for_any_blocks_and_a_limit_takes_the_first(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder(tmp_path / "docs", ALL)
    wanted = [
        row["row_id"] for row in fine(Documents(path=str(tmp_path / "docs"), characters=300, overlap=40))
    ]
    for number, settings in enumerate(([], ["blocks=7"])):
        recipe = write(RECIPE.format(rows="", more=""))
        run = load(recipe, settings=settings).run(tmp_path / f"run{number}", quiet=True)
        assert run.sql("SELECT row_id FROM dataset ORDER BY row_id")["row_id"].to_pylist() == wanted
        assert run.sql("SELECT error FROM failures")["error"].to_pylist() == ["no_text"]
    run = load(write(RECIPE.format(rows="", more="")), rows=5).run(tmp_path / "few", quiet=True)
    assert run.sql("SELECT row_id FROM dataset ORDER BY row_id")["row_id"].to_pylist() == wanted[:5]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_grounded_generation_keeps_what_its_chunk_supports_and_splits_by_document(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder(tmp_path / "docs", ALL)
    run = load(write(RECIPE.format(rows="", more=GROUNDED))).run(tmp_path / "run", quiet=True)
    rows = run.sql("SELECT text, grounded, document_id FROM dataset").to_pylist()
    assert rows
    assert all("river" in row["text"] for row in rows), "the quote is looked up in the chunk"
    assert run.sql("SELECT count(*) AS n FROM rejects")["n"].to_pylist() != [0]
    splits = {
        part: set(
            pq.read_table(tmp_path / f"run/dataset/data/{part}-00000-of-00001.parquet")[
                "document_id"
            ].to_pylist()
        )
        for part in ("train", "test")
    }
    assert not splits["train"] & splits["test"], "a document never straddles a split"
    requests = run.sql("SELECT request FROM calls WHERE step = 'prompt'")["request"].to_pylist()
    assert any(json.dumps(rows[0]["text"])[1:-1] in request for request in map(str, requests))
