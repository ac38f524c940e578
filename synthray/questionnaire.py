"""The files that people fill in and the ones that come back: CSV, JSON lines, Label Studio and Argilla.

Label Studio gets tasks with predictions (labelstud.io/guide/tasks, /guide/predictions) and a labelling
configuration, and gives its JSON or JSON-MIN export. Argilla gets and gives records as its
`dataset.records.to_json` and `from_json` have them, with settings for `rg.Settings.from_json`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from synthray.errors import InputError, near
from synthray.record import replace_file
from synthray.review import FOLDER, Answer, Reviews, Taken, claimed

ANSWER = "human_label"
"""The column, question or choice that people fill in."""

_CELL = 300
"""Characters of a neighbour's text; the row's own text is whole."""


@dataclass(frozen=True)
class Guide:
    """What people are told: what the texts are, how to decide, and the labels with their meanings."""

    text: str = ""
    guideline: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return it as a page."""
        labels = [f"- **{name}**{f': {meaning}' if meaning else ''}" for name, meaning in self.labels.items()]
        about = [
            f"Each text is {self.text}." if self.text else "",
            self.guideline,
            "Labels:",
            "\n".join(labels),
        ]
        return "\n\n".join(part for part in about if part) + "\n"


@dataclass(frozen=True)
class Item:
    """A row as people see it; `neighbours` are label and text of the rows most like it."""

    row_id: str
    batch: str
    text: str
    label: str
    suggested: str = ""
    neighbours: tuple[tuple[str, str], ...] = ()
    why: str = ""

    def likenesses(self) -> str:
        """Return the neighbours, one a line."""
        return "\n".join(f"[{label}] {' '.join(text.split())[:_CELL]}" for label, text in self.neighbours)

    def cells(self) -> dict[str, str]:
        """Return the row as cells of a table."""
        return {
            "row_id": self.row_id,
            "batch": self.batch,
            "text": self.text,
            "label": self.label,
            "suggested_label": self.suggested,
            ANSWER: "",
            "neighbours": self.likenesses(),
            "why": self.why,
        }


# Written.


def write(kind: str, path: Path, items: Sequence[Item], guide: Guide) -> list[Path]:
    """Write the file of a kind and beside it what guides people; InputError where one is there already."""
    suffix, guide_suffix, make = _KINDS[kind]
    if not path.name.endswith(suffix):
        raise InputError(f"--out {str(path)!r}: a file of --format {kind} ends with {suffix}")
    beside = path.with_name(path.name.removesuffix(suffix) + guide_suffix)
    for one in (path, beside):
        if one.exists():
            raise InputError(
                f"{one} is there already, and people may have worked on it; choose another --out"
            )
    content, instructions = make(items, guide)
    try:
        replace_file(beside, instructions)
        replace_file(path, content)
    except OSError as error:
        raise InputError(f"--out {str(path)!r} cannot be written: {error.strerror}") from None
    return [path, beside]


def _csv(items: Sequence[Item], guide: Guide) -> tuple[str, str]:
    out = io.StringIO()
    rows = [item.cells() for item in items]
    names = list(Item("", "", "", "").cells())
    writer = csv.DictWriter(out, names, lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _safe(value, name == "row_id") for name, value in row.items()})
    # Without the mark spreadsheets take UTF-8 for an older encoding.
    return "\ufeff" + out.getvalue(), guide.markdown()


def _safe(value: str, is_name: bool) -> str:
    """Return a cell that no spreadsheet takes for a formula, nor a name for a number; _unsafe undoes it."""
    formula = value.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "'", *_WIDE))
    return f"'{value}" if formula or (is_name and _NUMBER.fullmatch(value)) else value


_WIDE = "\uff1d\uff0b\uff0d\uff20"
"""The same signs as East Asian keyboards have them."""

_NUMBER = re.compile(r"\s*[\d.,]+\s*([eE][+-]?\d+)?\s*")


def _unsafe(value: str) -> str:
    return value[1:] if value.startswith("'") else value


def _jsonl(items: Sequence[Item], guide: Guide) -> tuple[str, str]:
    lines = [
        {
            **item.cells(),
            ANSWER: None,
            "neighbours": [{"label": label, "text": text} for label, text in item.neighbours],
        }
        for item in items
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), guide.markdown()


def _label_studio(items: Sequence[Item], guide: Guide) -> tuple[str, str]:
    tasks = []
    for item in items:
        data = {name: value for name, value in item.cells().items() if name != ANSWER}
        task: dict[str, Any] = {"data": {**data, "guideline": guide.markdown()}}
        proposed = item.suggested or item.label
        if proposed in guide.labels:
            value = {
                "from_name": ANSWER,
                "to_name": "text",
                "type": "choices",
                "value": {"choices": [proposed]},
            }
            task["predictions"] = [{"model_version": "synthray", "result": [value]}]
        tasks.append(task)
    choices = "\n".join(
        f"    <Choice value={quoteattr(name)}{f' hint={quoteattr(meaning)}' if meaning else ''}/>"
        for name, meaning in guide.labels.items()
    )
    shown = "\n".join(
        f'  <Header value="{title}"/>\n  <Text name="{name}" value="${name}"/>'
        for name, title in (
            ("guideline", "Guideline"),
            ("text", "Text"),
            ("label", "Label that it has"),
            ("suggested_label", "Suggested label"),
            ("neighbours", "Most similar rows"),
            ("why", "What speaks against the label"),
        )
    )
    config = (
        f'<View>\n{shown}\n  <Choices name="{ANSWER}" toName="text" choice="single" showInLine="true">\n'
        f"{choices}\n  </Choices>\n</View>\n"
    )
    return json.dumps(tasks, ensure_ascii=False, indent=1), config


def _argilla(items: Sequence[Item], guide: Guide) -> tuple[str, str]:
    shown = ("text", "label", "suggested_label", "neighbours", "why")
    records = []
    for item in items:
        cells = item.cells()
        proposed = item.suggested or item.label
        suggestion = {ANSWER: {"value": proposed, "score": None, "agent": "synthray"}}
        records.append(
            {
                "id": item.row_id,
                "fields": {name: cells[name] for name in shown if cells[name] or name == "text"},
                "metadata": {"batch": item.batch},
                "suggestions": suggestion if proposed in guide.labels else {},
                "responses": {},
                "vectors": {},
            }
        )
    options = [
        {"value": name, "text": name, "description": meaning or None}
        for name, meaning in guide.labels.items()
    ]
    settings = {
        "guidelines": guide.markdown(),
        "allow_extra_metadata": False,
        "fields": [
            {
                "name": name,
                "title": name,
                "required": name == "text",
                "settings": {"type": "text", "use_markdown": False},
            }
            for name in shown
        ],
        "questions": [
            {
                "name": ANSWER,
                "title": "Label",
                "description": None,
                "required": True,
                "settings": {
                    "type": "label_selection",
                    "options": options,
                    "visible_options": len(options) if len(options) >= 3 else None,
                },
            }
        ],
        "metadata": [{"name": "batch", "title": "batch", "settings": {"type": "terms", "values": None}}],
        "vectors": [],
    }
    return json.dumps(records, ensure_ascii=False, indent=1), json.dumps(
        settings, ensure_ascii=False, indent=1
    )


_Make = Callable[[Sequence[Item], Guide], tuple[str, str]]

_KINDS: Mapping[str, tuple[str, str, _Make]] = {
    "csv": (".csv", ".guide.md", _csv),
    "jsonl": (".jsonl", ".guide.md", _jsonl),
    "label-studio": (".json", ".config.xml", _label_studio),
    "argilla": (".json", ".settings.json", _argilla),
}
SUFFIXES = {kind: suffix for kind, (suffix, _, _) in _KINDS.items()}
"""The kinds of files that are written, and how their names end."""


# Read.


def take_in(root: Path | str, path: Path, reviewer: str = "") -> tuple[Taken, Reviews]:
    """Keep what is new in a file that came back; return what that is, and all reviews of the run."""
    answers = read(path)
    with claimed(root) as run:
        reviews = Reviews(run.root / FOLDER)
        return reviews.take(answers, reviewer, str(path)), reviews


def read(path: Path) -> list[Answer]:
    """Return the answers in a file that came back, without empty ones; InputError where it is none."""
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}")
    readers = {
        **dict.fromkeys((".csv", ".tsv", ".txt"), _rows),
        **dict.fromkeys((".json", ".jsonl", ".ndjson"), _said),
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise InputError(
            f"{path}: answers come as {', '.join(readers)}, not as {suffix or 'a file without a suffix'}; "
            "a spreadsheet saves as CSV (UTF-8)"
        )
    try:
        text = path.read_text(encoding="utf-8-sig", errors="strict")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as CSV UTF-8"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise InputError(f"{path} is empty")
    return [answer for answer in readers[suffix](text, path) if answer.label]


def _rows(text: str, path: Path) -> Iterator[Answer]:
    """Yield the answers of a table as spreadsheets write it: any delimiter, line ends of any kind."""
    header = text.lstrip().partition("\n")[0]
    before = csv.field_size_limit(max(len(text), 1))
    try:
        lines = csv.reader(
            io.StringIO(text, newline=""), delimiter=max(",;\t|", key=header.count), strict=True
        )
        names = [name.strip() for name in next(lines)]
        for name in ("row_id", ANSWER):
            if name not in names:
                raise InputError(f"{path} has no column {name!r}{near(name, names)}")
            if names.count(name) > 1:
                raise InputError(f"{path} has two columns {name!r}")
        start = lines.line_num + 1
        for row in lines:
            place, start = f"line {start}", lines.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(names) or len(row) <= names.index("row_id"):
                raise InputError(
                    f"{path}, {place}: {len(row)} values, but the header names {len(names)} columns"
                )
            held = dict(zip(names, map(_unsafe, row), strict=False))
            yield Answer(
                held["row_id"],
                held.get(ANSWER, "").strip(),
                held.get("reviewer", "").strip(),
                held.get("batch", "").strip(),
                place,
            )
    except csv.Error as error:
        raise InputError(f"{path}, line {lines.line_num}: {error}") from None
    finally:
        csv.field_size_limit(before)


def _said(text: str, path: Path) -> Iterator[Answer]:
    """Yield the answers of records in JSON: a list, or one a line."""
    for place, record in _records(text, path):
        if not isinstance(record, dict):
            raise InputError(f"{path}, {place}: must be a record, but is {str(record)[:40]!r}")
        yield from _of(record, place, path)


def _records(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    if text.lstrip().startswith("["):
        try:
            held = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON: {error}") from None
        yield from ((f"record {number}", record) for number, record in enumerate(held, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not JSON: {error}") from None
            yield f"line {number}", record


def _of(record: Mapping[str, Any], place: str, path: Path) -> Iterator[Answer]:
    try:
        if "annotations" in record:
            yield from _annotated(record, place)
        elif "responses" in record:
            yield from _responded(record, place)
        elif "row_id" in record and ANSWER in record:
            reviewer = record.get("reviewer") or record.get("annotator")
            yield _answer(record["row_id"], record[ANSWER], reviewer, record.get("batch"), place)
        elif not ("row_id" in record or "data" in record or "fields" in record):
            raise ValueError("no row_id, so no row of a review")
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}, {place} is no answer as JSON lines, Label Studio or Argilla have it: {error}"
        ) from None


def _annotated(record: Mapping[str, Any], place: str) -> Iterator[Answer]:
    """Yield the answers of a Label Studio task; an annotation that was skipped is none."""
    data = record["data"]
    for annotation in record["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        who = annotation.get("completed_by")
        if isinstance(who, dict):
            who = who.get("email") or who.get("id")
        for result in annotation["result"]:
            if result.get("from_name") == ANSWER:
                yield _answer(data["row_id"], result["value"], who, data.get("batch"), place)


def _responded(record: Mapping[str, Any], place: str) -> Iterator[Answer]:
    """Yield the answers of an Argilla record; a draft or a discarded one is none."""
    for response in record["responses"].get(ANSWER, ()):
        if response.get("status") not in ("draft", "discarded"):
            batch = (record.get("metadata") or {}).get("batch")
            yield _answer(record["id"], response["value"], response.get("user_id"), batch, place)


def _answer(row_id: Any, value: Any, who: Any, batch: Any, place: str) -> Answer:
    if isinstance(value, dict):
        value = value["choices"]
    if isinstance(value, list):
        if len(value) > 1:
            raise ValueError(f"row {row_id!r} has {len(value)} labels, but must have one")
        value = value[0] if value else None
    if not isinstance(row_id, str) or not isinstance(value, str | None):
        raise ValueError(f"row_id and {ANSWER} must be texts, but are {row_id!r} and {value!r}")
    return Answer(row_id, (value or "").strip(), str(who or ""), str(batch or ""), place)
