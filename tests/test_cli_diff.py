"""`synthray diff` on the command line: the answer alone on stdout, nothing of a text's control characters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from synthray import cli


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command line in this process."""

    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["synthray", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return called


Call = Callable[..., tuple[int, str, str]]


def written(path: Path, *texts: str, **more: object) -> str:
    path.write_text("\n".join(json.dumps({"text": text, **more}) for text in texts))
    return str(path)


def test_it_says_what_differs_and_what_does_not(call: Call, tmp_path: Path) -> None:
    a = written(tmp_path / "a.jsonl", *(f"one two {number}" for number in range(30)))
    b = written(tmp_path / "b.jsonl", *(f"one two three four {number}" for number in range(30)))
    code, out, err = call("diff", a, b, "--resamples", "99")
    assert (code, err) == (0, "")
    assert out.startswith("The datasets differ more than by chance in mean_words")
    assert "tests: 30 and 30 rows; none are of both" in out
    assert call("diff", a, a) == (0, "Nothing differs: 30 rows are the same on both sides.\n", "")


def test_json_is_for_programs(call: Call, tmp_path: Path) -> None:
    a = written(tmp_path / "a.jsonl", *(f"one two {number}" for number in range(9)), score=float("nan"))
    b = written(tmp_path / "b.jsonl", *(f"one {number}" for number in range(9)), score=1.5)
    code, out, _ = call("diff", a, b, "--json", "--resamples", "99", "--rows", "1")
    found = json.loads(out)
    assert code == 0
    assert [row["row"] for row in found["samples"]] == ["lost", "gained"]
    assert {row["metric"]: row["p"] for row in found["tests"]}["mean_words"] == 0.01
    assert json.loads(call("diff", a, a, "--json")[1])["same"] is True


def test_no_text_reaches_the_terminal_as_more_than_text(call: Call, tmp_path: Path) -> None:
    bad = "\x1b[31mred\x1b]0;title\x07 [bold]x[/bold] \u202e" + "long " * 200
    a = written(tmp_path / "a.jsonl", "one", "two", label="\x1b[2J")
    b = written(tmp_path / "b.jsonl", bad, "three", label="[blink]")
    code, out, _ = call("diff", a, b, "--resamples", "99")
    assert code == 0
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert "[bold]x[/bold]" in out and "[blink]" in out and r"\x1b[2J" in out
    assert max(map(len, out.splitlines())) < 1500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "a.jsonl"], "nowhere is no run (it has no run.json) and no dataset: no file"),
        (["a.jsonl", "a.jsonl", "--text", "body"], "a.jsonl has no column 'body'; there is text (--text)"),
        (["a.jsonl", "a.jsonl", "--alpha", "2"], "alpha must be between 0 and 1, but is 2.0"),
        (["a.jsonl", "a.jsonl", "--resamples", "10"], "cannot show a p-value of alpha 0.05"),
        (["a.jsonl"], "Missing argument"),
    ],
    ids=" ".join,
)
def test_wrong_words_end_with_2_and_one_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.jsonl", "one", "two")
    code, out, err = call("diff", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
