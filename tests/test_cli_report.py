"""`synthray report` writes one page; wrong input ends with 2 and writes none."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import reported

from synthray import cli

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["synthray", "report", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return called


def test_the_page_lies_in_the_run_or_where_it_is_wanted(call: Call, tmp_path: Path) -> None:
    run = reported.bare(tmp_path / "run", [{"question": "one", "intent": "a"}])
    code, out, err = call(str(run.root))
    assert (code, err) == (0, "")
    assert str(run.root / "report.html") in out
    assert (run.root / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    wanted = tmp_path / "page.html"
    named = ("--text", "question", "--label", "intent", "--row", "row0", "--out", str(wanted), "--json")
    code, out, _ = call(str(run.root), *named)
    assert json.loads(out) == {"report": str(wanted), "bytes": wanted.stat().st_size}
    assert "rejected" not in wanted.read_text(encoding="utf-8").partition('data-says="')[2][:20]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--row", "row9"], "no row 'row9'"),
        (["--text", "txt"], "no column 'txt'; did you mean 'text'"),
        (["--out", "no/such/page.html"], "there is no folder"),
    ],
)
def test_wrong_words_end_with_2_and_no_page(call: Call, tmp_path: Path, words: list[str], said: str) -> None:
    run = reported.bare(tmp_path / "run", [{"text": "one"}])
    code, out, err = call(str(run.root), *words)
    assert (code, out) == (2, "")
    assert said in err
    assert not (run.root / "report.html").exists()
