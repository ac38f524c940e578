"""What people get can be filled in and read again, in four formats, and harms no spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from reviewing import cells, written

from synthray.errors import InputError
from synthray.questionnaire import SUFFIXES, Guide, Item, read, write

GUIDE = Guide("a short text", "One label.", {"+1": 'more & "better"', "<bad>": "", "-": "neither"})
ITEMS = [
    Item("row1", "one", "=HYPERLINK(0)", "+1", "<bad>", (("+1", "a\nneighbour"),), "label_quality 0.1"),
    Item("1e12", "one", 'says "no",\r\nthen ends', "-"),
    Item("@row", "one", "'quoted", "<bad>", "nothing"),
]


def made(kind: str, folder: Path, items: Sequence[Item] = ITEMS) -> list[Path]:
    return write(kind, folder / f"batch{SUFFIXES[kind]}", items, GUIDE)


def answered(kind: str, path: Path, labels: Sequence[str | None]) -> Path:
    """Fill a file in as the tool would give it back."""
    if kind == "csv":
        held = cells(path)
        for row, label in zip(held, labels, strict=True):
            row["human_label"] = label or ""
        return written(held, path.with_name("back.csv"))
    if kind == "jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        full = [{**line, "human_label": label} for line, label in zip(lines, labels, strict=True)]
        back = path.with_name("back.jsonl")
        back.write_text("\n".join(map(json.dumps, full)))
        return back
    records = json.loads(path.read_text())
    full = [_filled(kind, record, label) for record, label in zip(records, labels, strict=True)]
    back = path.with_name("back.json")
    back.write_text(json.dumps(full))
    return back


def _filled(kind: str, record: dict[str, Any], label: str | None) -> dict[str, Any]:
    if kind == "argilla":
        responses = {"human_label": [{"value": label, "user_id": "ann"}]} if label else {}
        return {**record, "responses": responses, "_server_id": "x"}
    result = {"from_name": "human_label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    annotation = {"id": 1, "completed_by": {"id": 3, "email": "ann"}, "result": [result] if label else []}
    return {"id": 7, **record, "annotations": [annotation], "project": 2}


@pytest.mark.parametrize("kind", SUFFIXES)
def test_what_is_filled_in_comes_back(kind: str, tmp_path: Path) -> None:
    back = answered(kind, made(kind, tmp_path)[0], ["<bad>", None, "+1"])
    found = read(back)
    assert [(one.row_id, one.label, one.batch) for one in found] == [
        ("row1", "<bad>", "one"),
        ("@row", "+1", "one"),
    ]
    who = "" if kind in ("csv", "jsonl") else "ann"
    assert {one.reviewer for one in found} == {who}


@pytest.mark.parametrize("kind", SUFFIXES)
def test_an_untouched_file_has_no_answers(kind: str, tmp_path: Path) -> None:
    assert read(made(kind, tmp_path)[0]) == []


@pytest.mark.parametrize("kind", SUFFIXES)
def test_what_people_may_have_filled_in_is_not_written_over(kind: str, tmp_path: Path) -> None:
    first = made(kind, tmp_path)
    before = first[0].read_bytes()
    with pytest.raises(InputError, match="is there already, and people may have worked on it"):
        made(kind, tmp_path, ITEMS[:1])
    assert first[0].read_bytes() == before
    with pytest.raises(InputError, match=f"ends with {SUFFIXES[kind]}"):
        write(kind, tmp_path / "batch.pdf", ITEMS, GUIDE)


def test_no_cell_begins_as_a_formula_and_no_name_as_a_number(tmp_path: Path) -> None:
    path = made("csv", tmp_path)[0]
    held = cells(path)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "else Excel takes it for an older encoding"
    assert not [cell for row in held for cell in row.values() if cell[:1] in "=+-@\t\r" and cell]
    assert held[0]["text"] == "'=HYPERLINK(0)" and held[2]["text"] == "''quoted"
    assert held[1]["row_id"] == "'1e12"
    assert [row["label"] for row in held] == ["'+1", "'-", "<bad>"]
    assert held[0]["neighbours"] == "[+1] a neighbour"


@pytest.mark.parametrize("label", ["'+1", "+1", " +1 "])
def test_a_label_is_taken_as_typed_or_as_shown(label: str, tmp_path: Path) -> None:
    back = answered("csv", made("csv", tmp_path)[0], [label, None, None])
    assert [one.label for one in read(back)] == ["+1"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spreadsheets_write_other_delimiters_marks_and_line_ends(
    delimiter: str, encoding: str, tmp_path: Path
) -> None:
    held = cells(made("csv", tmp_path)[0])
    held[1]["human_label"] = "<bad>"
    path = tmp_path / "back.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, held[0], delimiter=delimiter, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(held)
        file.write(delimiter * 7 + "\r\n\r\n")
    assert [(one.row_id, one.label, one.place) for one in read(path)] == [("1e12", "<bad>", "line 3")]


def test_a_place_is_the_line_on_which_a_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "back.csv"
    path.write_text('row_id,human_label,text\na,x,"one\ntwo"\nb,y,z\n')
    assert [one.place for one in read(path)] == ["line 2", "line 4"]


def test_cells_of_any_size_are_read(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = tmp_path / "back.csv"
    path.write_text(f"row_id,text,human_label\na,{'x' * 300_000},y\n")
    assert [one.label for one in read(path)] == ["y"]
    assert csv.field_size_limit() == before


def test_a_reviewer_may_stand_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "back.csv"
    path.write_text("row_id,human_label,reviewer\na,x,ann\na,y,bob\n")
    assert [(one.reviewer, one.label) for one in read(path)] == [("ann", "x"), ("bob", "y")]


def test_label_studio_gets_tasks_predictions_and_choices(tmp_path: Path) -> None:
    file, config = made("label-studio", tmp_path)
    tasks = json.loads(file.read_text())
    assert tasks[0]["data"]["text"] == "=HYPERLINK(0)", "no spreadsheet, no escape"
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["<bad>"]}
    assert "predictions" not in tasks[2], "what is no label cannot be chosen"
    tree = ElementTree.fromstring(config.read_text())
    choices = tree.find("Choices")
    assert choices is not None and choices.get("toName") == "text" and choices.get("choice") == "single"
    assert [(one.get("value"), one.get("hint")) for one in choices] == [
        ("+1", 'more & "better"'),
        ("<bad>", None),
        ("-", "neither"),
    ]
    shown = {str(one.get("value")) for one in tree.iter("Text")}
    assert shown == {f"${name}" for name in tasks[0]["data"] if name not in ("row_id", "batch")}


def test_label_studio_skips_and_short_exports_are_read(tmp_path: Path) -> None:
    data = {"row_id": "a", "batch": "one"}
    result = [{"from_name": "human_label", "value": {"choices": ["x"]}}]
    other = [{"from_name": "other", "value": {"choices": ["z"]}}]
    tasks = [
        {"data": data, "annotations": [{"was_cancelled": True, "result": result, "completed_by": 1}]},
        {"data": data, "annotations": [{"result": other, "completed_by": 1}]},
        {"data": data, "annotations": [{"result": result, "completed_by": 4}]},
        {**data, "human_label": "y", "annotator": 5, "id": 3},
        {**data, "human_label": {"choices": ["z"]}, "annotator": 6},
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    assert [(one.label, one.reviewer, one.place) for one in read(path)] == [
        ("x", "4", "record 3"),
        ("y", "5", "record 4"),
        ("z", "6", "record 5"),
    ]


def test_argilla_gets_records_and_settings(tmp_path: Path) -> None:
    file, settings_file = made("argilla", tmp_path)
    records, settings = json.loads(file.read_text()), json.loads(settings_file.read_text())
    question = settings["questions"][0]
    assert [one["value"] for one in question["settings"]["options"]] == list(GUIDE.labels)
    assert question["settings"]["type"] == "label_selection"
    fields = {one["name"] for one in settings["fields"]}
    assert all(set(record["fields"]) <= fields and record["fields"]["text"] for record in records)
    assert {one["name"] for one in settings["metadata"]} == set(records[0]["metadata"])
    assert records[0]["suggestions"] == {
        question["name"]: {"value": "<bad>", "score": None, "agent": "synthray"}
    }
    assert records[2]["suggestions"] == {}
    assert "One label." in settings["guidelines"] and "neither" in settings["guidelines"]


def test_argilla_drafts_are_no_answers_and_lines_do_too(tmp_path: Path) -> None:
    def record(name: str, **response: str) -> str:
        return json.dumps({"id": name, "metadata": None, "responses": {"human_label": [response]}})

    path = tmp_path / "records.jsonl"
    path.write_text(
        record("a", value="x", status="draft") + "\n\n" + record("b", value="y", status="submitted")
    )
    assert [(one.row_id, one.label, one.place) for one in read(path)] == [("b", "y", "line 3")]


def test_the_guide_stands_beside_a_table(tmp_path: Path) -> None:
    text = made("csv", tmp_path)[1].read_text()
    for part in ("a short text", "One label.", '- **+1**: more & "better"', "- **<bad>**"):
        assert part in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("back.csv", b"", "is empty"),
        ("back.csv", b"\xef\xbb\xbf \n", "is empty"),
        (
            "back.csv",
            "row_id,human_label\na,ü".encode("latin-1"),
            "is not UTF-8 text .* save it as CSV UTF-8",
        ),
        ("back.csv", "row_id\thuman_label\na\tx".encode("utf-16"), "is not UTF-8 text"),
        ("back.csv", b"row_id,human_labels\na,x", "no column 'human_label'; did you mean 'human_labels'"),
        ("back.csv", b"text,human_label\na,x", "no column 'row_id'"),
        ("back.csv", b"row_id,human_label,human_label\na,x,y", "two columns 'human_label'"),
        ("back.csv", b"row_id,human_label\na,x,y", "line 2: 3 values, but the header names 2 columns"),
        ("back.csv", b'row_id,human_label\na,"x\n', "line 2: unexpected end of data"),
        ("back.xlsx", b"PK", "not as .xlsx; a spreadsheet saves as CSV"),
        ("back", b"row_id", "not as a file without a suffix"),
        ("back.json", b"[{", "is not JSON"),
        ("back.json", b"[1]", "record 1: must be a record, but is '1'"),
        ("back.jsonl", b'{"row_id": "a", "human_label": "x"}\nno', "line 2: not JSON"),
        ("back.jsonl", b'{"row_id": "a", "human_label": 3}', "must be texts, but are 'a' and 3"),
        ("back.jsonl", b'{"row_id": "a", "human_label": ["x", "y"]}', "has 2 labels, but must have one"),
        ("back.json", b'[{"name": "other"}]', "record 1 is no answer .* no row_id"),
        ("back.json", b'[{"annotations": [{}], "data": {}}]', "record 1 is no answer .* 'result'"),
        ("back.json", b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_is_none_is_told(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)
    with pytest.raises(InputError, match="no file"):
        read(tmp_path / "absent.csv")
