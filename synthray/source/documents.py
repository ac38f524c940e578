"""Rows of documents: text, Markdown, HTML and PDF in chunks that know where they stand."""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Gt

from synthray import document
from synthray.document import Border, UnreadableDocument, chunks, read
from synthray.errors import InputError
from synthray.lineage import FAILED, IDENTITY, digest
from synthray.operator import Makes, Operator

if TYPE_CHECKING:
    from ray.data import Dataset

    from synthray.stage import Stage

_LEAST_FILES = 4


@dataclass(frozen=True)
class Documents(Operator):
    """Cut the documents at `path` (files, folders, globs, relative to the recipe's folder) into chunks.

    Text (.txt) and Markdown (.md, .markdown) must be UTF-8, HTML (.html, .htm) what it says itself; PDF
    (.pdf) is read as text, not by OCR. A chunk, a row, has at most `characters` of a document's text, ends at
    the end of a paragraph where it can, else of a sentence, else of a word (`by` says where to begin), and
    starts with up to `overlap` characters of the one before. `rows` keeps that many chunks, first by row_id.

    Adds `text`; `document_id`, from the file's content; `document`, its name; `title` (of a heading, HTML or
    PDF; else null); `chunk`, which it is in its document, from 0; `start` and `end` in characters, so that it
    is `synthray.document.read(file).text[start:end]`; and `page`, from 1, where it starts in a PDF.

    Row ids come from content: a file that is renamed, moved or read in another order gives the same rows.
    Files are read in tasks. One that gives no text (encrypted, damaged or scanned PDFs, empty ones) is a
    failed row that says how to cure it. Untrusted files are safe to read as far as their libraries are:
    nothing in them is fetched or run, and none is larger than `max_mb`.
    """

    path: str | Sequence[str]
    characters: Annotated[
        int,
        Ge(1),
    ] = 2000
    overlap: Annotated[int, Ge(0)] = 200
    by: Border = "paragraphs"
    rows: Annotated[int, Ge(1)] | None = None
    max_mb: Annotated[float, Gt(0)] = 64.0
    base: str = "."

    def makes(self) -> Makes:
        """Make rows."""
        return "rows"

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the text of a chunk and where it stands."""
        texts = dict.fromkeys(("text", "document_id", "document", "title"), pa.string())
        return {**texts, **dict.fromkeys(("chunk", "start", "end", "page"), pa.int64())}

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return identity columns and the chunk's."""
        return pa.schema([*IDENTITY.items(), *self.adds().items()])

    def check(self, before: pa.Schema) -> None:
        """Look at every file once: one that is no document is found now, not after the first paid call."""
        if self.overlap > self.characters // 2:
            raise InputError(
                f"overlap ({self.overlap}) must be at most half of characters ({self.characters}), or chunks "
                "would repeat each other"
            )
        for path in self.given:
            document.check(path, self.max_mb)

    def settings(self) -> dict[str, Any]:
        """Return what decides the rows; of where the files lie their names alone do."""
        named = {name: value for name, value in super().settings().items() if name not in ("path", "base")}
        return {**named, "names": list(self.given.values())}

    def files(self) -> tuple[Path, ...]:
        """Return the files that are read, and what reads them."""
        return (*self.given, document.SOURCE)

    @functools.cached_property
    def given(self) -> dict[Path, str]:
        """The documents and their names, in the order of names."""
        return document.found(self.path, Path(self.base))

    @functools.cached_property
    def copies(self) -> dict[Path, int]:
        """How many documents before it have a file's content; only files of one size are compared."""
        sized: dict[int, list[Path]] = defaultdict(list)
        for path in self.given:
            sized[path.stat().st_size].append(path)
        seen: dict[str, int] = defaultdict(int)
        numbers = {}
        for paths in sized.values():
            for path in paths if len(paths) > 1 else ():
                content = _content(path)
                numbers[path] = seen[content]
                seen[content] += 1
        return numbers

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the chunks of the documents whose places among `given` are in the column `id`."""
        given = list(self.given)
        rows = [row for place in table["id"].to_pylist() for row in self._rows(given[place])]
        schema = self.schema(pa.schema([])).append(pa.field("failed", FAILED))
        return pa.Table.from_pylist(rows, schema=schema)

    def apply(self, stage: Stage) -> Dataset:
        """Read in tasks, a few files each."""
        _ = self.copies  # found once, here
        dataset = stage.range(len(self.given))
        if not stage.blocks:
            dataset = dataset.repartition(max(1, len(self.given) // _LEAST_FILES))
        made = stage.map(dataset, self)
        if self.rows is None:
            return made
        # Which chunks are the first ones is settled by id, so it is the same for any order of files.
        ids = stage.narrow(dataset, functools.partial(_fine, self), stage.path / "ids")
        with stage.over({"ids": ids}) as query:
            first = query.rows(f"SELECT row_id FROM ids ORDER BY row_id LIMIT {self.rows}")
        last = first[-1][0] if first else ""
        return stage.map_batches(made, functools.partial(_upto, last))

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        document_id, copy = _content(path), self.copies.get(path, 0)
        known = {"round": self.context.round, "document_id": document_id, "document": self.given[path]}
        made = (self.origin, document_id, copy)
        try:
            held = read(path)
        except UnreadableDocument as error:
            failed = {"error": error.kind, "message": str(error), "attempts": 1}
            return [{**known, "row_id": digest("document", *made), "failed": failed}]
        places = chunks(held.text, self.characters, self.overlap, self.by)
        return [
            {
                **known,
                "row_id": digest("chunk", *made, start, end, held.text[start:end]),
                "text": held.text[start:end],
                "title": held.title,
                "chunk": number,
                "start": start,
                "end": end,
                "page": held.page(start),
            }
            for number, (start, end) in enumerate(places)
        ]


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


def _fine(operator: Documents, table: pa.Table) -> pa.Table:
    made = operator(table)
    return made.filter(pc.is_null(made["failed"])).select(["row_id"])


def _upto(last: str, table: pa.Table) -> pa.Table:
    """Return the failed rows, and those whose id is at most `last`."""
    kept = pc.less_equal(table["row_id"], last)
    return table.filter(
        pc.or_(kept, pc.is_valid(table["failed"])) if "failed" in table.column_names else kept
    )
