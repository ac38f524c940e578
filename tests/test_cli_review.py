"""`synthray review` gives rows to people and takes their answers in; wrong input ends with 2 and keeps nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from reviewing import cells, fill, finished, rows, written

from synthray import cli
from synthray.review import FOLDER, Reviews

ROWS = rows()
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs `synthray review` in this process."""

    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["synthray", "review", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return called


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(finished(tmp_path / "run", ROWS))


def kept(run: str) -> int:
    return len(Reviews(Path(run) / FOLDER).versions)


def test_rows_are_given_out_and_taken_in(call: Call, run: str, tmp_path: Path) -> None:
    code, out, err = call(run, "--budget", "40", "--random", "0.25")
    assert (code, err) == (0, "")
    file = Path(run) / FOLDER / "batch-1.csv"
    assert f"To fill in: {file}" in out and f"synthray review {run} --import {file}" in out
    assert len(cells(file)) > 30
    half, whole = fill(file, ROWS, tmp_path / "half.csv", 0.5), fill(file, ROWS, tmp_path / "whole.csv")
    code, out, _ = call(run, "--import", str(half), "--reviewer", "ann")
    assert code == 0 and "answered" in out and "kappa" in out
    said = json.loads(call(run, "--import", str(whole), "--reviewer", "ann", "--json")[1])[0]
    many = len(cells(file))
    assert said["new"] + said["known"] == said["asked"] == said["answered"] == many
    assert (said["changed"], said["left"], said["alpha"]) == (0, 0, None), "NaN is null to programs"
    assert 0 < said["agree"] < 1
    assert {one.reviewer for one in Reviews(Path(run) / FOLDER).versions} == {"ann"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "label-studio", "argilla"])
def test_each_format_says_where_it_is(call: Call, run: str, kind: str, tmp_path: Path) -> None:
    told = json.loads(call(run, "--budget", "10", "--format", kind, "--json")[1])
    assert Path(told["file"]).is_file() and Path(told["guide"]).is_file()
    assert (told["batch"], told["from"], told["picked"], told["random"]) == ("batch-1", 200, 8, 2)
    code, _, err = call(run, "--budget", "10", "--format", kind, "--out", told["file"])
    assert code == 2 and "people may have worked on it" in err


def test_a_wrong_file_is_told_by_lines_and_leaves_nothing(call: Call, run: str, tmp_path: Path) -> None:
    file = Path(json.loads(call(run, "--budget", "20", "--json")[1])["file"])
    held = cells(file)
    for row in held:
        row["human_label"] = "food"
    held[0]["human_label"], held[1]["row_id"] = "fod", "row99999"
    held.append({**held[2], "human_label": "pets"})
    bad = written(held, tmp_path / "bad.csv")
    code, out, err = call(run, "--import", str(bad))
    assert (code, out, kept(run)) == (2, "", 0)
    assert "line 2: 'fod' is no label" in err and "did you mean 'food'" in err
    assert "no row 'row99999' was given out" in err
    for row in held:
        row["human_label"] = "food"
    held[1]["row_id"] = cells(file)[1]["row_id"]
    held[-1]["human_label"] = "pets"
    code, _, err = call(run, "--import", str(written(held, tmp_path / "twice.csv")))
    assert code == 2 and f"row {held[2]['row_id']!r} is 'pets' here, but 'food' in line" in err
    assert kept(run) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "holds no run"),
        (("nowhere", "--import", "x.csv"), "no file 'x.csv'"),
        (("{run}", "--budget", "0"), "greater than or equal to 1"),
        (("{run}", "--random", "2.0"), "must be a share of the budget"),
        (("{run}", "--by", "nonsense"), "--by 'nonsense' is not uncertainty, not disagreement"),
        (("{run}", "--format", "excel"), "--format 'excel' is none; there is argilla, csv"),
        (("{run}", "--from", "nowhere"), "nowhere"),
    ],
    ids=str,
)
def test_wrong_words_end_with_2(call: Call, run: str, words: tuple[str, ...], message: str) -> None:
    code, out, err = call(*(word.format(run=run) for word in words))
    assert (code, out) == (2, "")
    assert message in err


def test_what_is_filled_in_before_any_was_given_out_is_refused(call: Call, run: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_text("row_id,human_label\nrow0001,food\n")
    code, _, err = call(run, "--import", str(file))
    assert code == 2 and "no rows of this run were given out" in err
