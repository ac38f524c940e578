"""The command line: answers on stdout, the rest on stderr, and exit codes that programs can trust."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RECIPE

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


def test_help_lists_the_commands_and_the_exit_codes(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    for word in ("run", "plan", "show", "sql", "ops", "recipes", "3 the gate refused"):
        assert word in out


def test_operators_and_recipes_are_listed_and_shown(call: Call) -> None:
    operators = json.loads(call("ops", "--json")[1])
    names = [one["operator"] for one in operators]
    assert "curate.near_duplicate" in names and len(set(names)) == len(names)
    assert all(one["what"].endswith(".") for one in operators)
    assert "threshold" in call("ops", "curate.near_duplicate")[1]
    recipes = json.loads(call("recipes", "--json")[1])
    assert recipes[0]["recipe"] == "quickstart"
    assert call("recipes", "quickstart")[1].startswith("# quickstart: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "no_such_recipe"], "no recipe 'no_such_recipe'"),
        (["ops", "curate.near_dup"], "did you mean 'curate.near_duplicate'"),
        (["show", "nowhere"], "holds no run"),
        (["sql", "nowhere", "SELECT 1"], "holds no run"),
        (["sql", "nowhere"], "needs either a query or -f FILE"),
        (["run", "quickstart", "--rows", "0"], "greater than or equal to 1"),
        (["run"], "Missing argument"),
        (["fly"], "No such command"),
    ],
    ids=" ".join,
)
def test_wrong_words_end_with_2_and_one_line(call: Call, words: list[str], message: str) -> None:
    code, out, err = call(*words)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_is_told_shown_and_queried(call: Call, write: Callable[..., Path], tmp_path: Path) -> None:
    recipe, out = str(write(RECIPE)), str(tmp_path / "run")
    code, shown, err = call("run", recipe, "--out", out)
    assert code == 0
    for text in ("Why rows were left out", "Metrics", "12 made by the last run", f"Dataset: {out}/dataset"):
        assert text in shown
    assert shown.count(f"synthray sql {out}") == 2
    assert "prompt: done" in err
    again = json.loads(call("run", recipe, "--out", out, "--json")[1])
    assert again["calls"]["made_now"] == 0
    assert again["gate"][0]["passed"] is True
    query = "SELECT reject_reason, count(*) AS n FROM rows GROUP BY ALL ORDER BY n"
    reasons = json.loads(call("sql", out, query, "--json")[1])
    assert {row["reject_reason"] for row in reasons} == {None, "length"}
    assert sum(row["n"] for row in reasons) == 12
    (tmp_path / "q.sql").write_text("SELECT 1 AS one")
    assert json.loads(call("sql", out, "-f", str(tmp_path / "q.sql"), "--json")[1]) == [{"one": 1}]
    code, _, err = call("sql", out, "SELECT nothing FROM rows")
    assert (code, "nothing" in err) == (2, True)
    code, _, err = call("sql", out, "SELECT * FROM read_text('/etc/hostname')")
    assert (code, "disabled by configuration" in err) == (2, True)
    assert "funnel" in json.loads(call("show", out, "--json")[1])
    refused = write(RECIPE.replace("distinct_1.value > 0", "distinct_1.value > 9"), "refused.yaml")
    code, shown, err = call("run", str(refused), "--out", out)
    assert (code, "the gate refused" in err) == (3, True)
    assert "distinct_1.value > 9" in shown


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_too_many_failures_end_with_1_and_say_how_to_go_on(
    call: Call, write: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write(RECIPE.replace("answers: [", "answers: [{error: Boom}, "))
    code, _, err = call("run", str(recipe), "--out", str(tmp_path / "run"))
    assert code == 1
    assert "more than max_failed (5%)" in err
    assert "--retry-failed" in err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_spent_budget_ends_with_4_keeps_all_answers_and_a_raised_one_goes_on(
    call: Call, write: Callable[..., Path], tmp_path: Path
) -> None:
    # A call may take 64 + 16 tokens of template, 3 of the prompt and 20 of the answer, and takes about 6.
    priced = RECIPE.replace(
        "{language: fake", "{language: fake, price: {input: 1, output: 1}, budget_usd: 0.00015"
    )
    recipe = str(write(priced.replace("writes: text", "writes: text, max_tokens: 20")))
    code, out, err = call("run", recipe, "--out", str(tmp_path / "run"))
    assert (code, out) == (4, "")
    assert "budget_usd: 0.0000" in err
    assert "of 0.000150 US dollars are spent and the next call may cost 0.000" in err
    assert "run the same command again" in err
    kept = json.loads(
        call("sql", str(tmp_path / "run"), "SELECT sum(cost) AS usd, count(*) AS n FROM calls", "--json")[1]
    )
    assert 0 < kept[0]["usd"] <= 0.00015
    assert 1 < kept[0]["n"] < 12
    words = ("run", recipe, "--out", str(tmp_path / "run"), "--set", "model.budget_usd=1", "--json")
    done = json.loads(call(*words)[1])
    assert done["calls"]["made_now"] == 12 - kept[0]["n"]
    assert "US dollars" in call("show", str(tmp_path / "run"))[1]


def test_model_output_cannot_steer_the_terminal(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_table([{"text": "\x1b[2Jgone [red]not red[/red]"}])
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out
    assert "[red]not red[/red]" in out


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m synthray.cli recipes quickstart | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("# quickstart")
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(
    call: Call, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synthray.pipeline.Pipeline.run", interrupted)
    code, out, err = call("run", str(write(RECIPE)))
    assert (code, out) == (130, "")
    assert "run the same command again to go on" in err
