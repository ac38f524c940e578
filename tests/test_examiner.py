"""What operators share that ask about rows: who is asked, what is shown, what fails, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from synthray.errors import InputError
from synthray.examiner import Examiner, holds
from synthray.metric import measurements
from synthray.model.fake import Fake
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.step import Step

if TYPE_CHECKING:
    from synthray.asker import Answer, Question
    from synthray.model.language import Request
    from synthray.query import Query


@dataclass(frozen=True)
class Echo(Examiner):
    """Ask for a word about a text, and count the answers."""

    text: str = "text"
    given: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def context_columns(self) -> tuple[str, ...]:
        return self.given

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"echo": pa.string(), f"{self.step}_call": pa.list_(pa.string())}

    def metrics(self) -> tuple[str, ...]:
        return ("answers", "long")

    def questions(self, row: Mapping[str, Any]) -> list[Question]:
        return [self.ask("{{ given|length }}: {{ text }}", row, {"text": row[self.text]}, None, self._read)]

    @staticmethod
    def _read(text: str) -> dict[str, Any]:
        if text == "bad":
            raise ValueError("it is bad")
        return {"echo": text}

    def columns(self, answers: Sequence[Answer], row: Mapping[str, Any]) -> dict[str, Any]:
        (answer,) = answers
        return dict(answer.value) if answer.value is not None else {"failed": answer.failed}

    def measure(self, query: Query) -> pa.Table:
        echo = self.own_column("echo")
        sample = self.sample(query, {"long": f"(length({echo}) > 3)::DOUBLE"}, f"{echo} IS NOT NULL")
        long = sample.numbers("long")
        found = sample.ratios({("long", None): (long, long * 0 + 1)})
        return measurements([{"metric": "answers", "value": len(sample), "n": len(sample)}, *found])


def script(request: Request) -> str:
    text = request.messages[-1]["content"]
    return "bad" if "bad" in text else text.rpartition(": ")[2]


def rows(*texts: str | None) -> pa.Table:
    return pa.table({"row_id": [f"r{n}" for n in range(len(texts))], "text": pa.array(texts, pa.string())})


def ask(
    operator: Echo, table: pa.Table, answer: Any = script, **context: Any
) -> tuple[pa.Table, list[Request]]:
    asked: list[Request] = []

    def seen(request: Request) -> str:
        asked.append(request)
        return str(answer(request))

    made = replace(operator, context=Context(step="echo", language=Fake(script=seen, retries=0), **context))
    made.check(table.schema)
    return made(table), asked


def test_a_row_without_text_is_not_asked_and_one_that_cannot_be_read_fails() -> None:
    out, asked = ask(Echo(reasks=1), rows("a", None, " \n", "bad"))
    assert out["echo"].to_pylist() == ["a", None, None, None]
    assert len(asked) == 3
    failed = out["failed"].to_pylist()
    assert failed[:3] == [None] * 3
    assert (failed[3]["error"], failed[3]["attempts"]) == ("InvalidAnswer", 2)
    assert [len(keys or []) for keys in out["echo_call"].to_pylist()] == [1, 0, 0, 1]


def test_what_stands_beside_is_shown_where_it_holds_something() -> None:
    table = rows("a", "b").append_column("more", pa.array([["x"], []]))
    _, asked = ask(Echo(given=("more",)), table)
    assert [one.messages[-1]["content"] for one in asked] == ["1: a", "0: b"]


def test_own_templates_and_settings_make_the_request() -> None:
    table = rows("a").append_column("place", pa.array(["Rome"]))
    operator = Echo(
        template="{{ place }}: {{ fenced(text) }}", system="Of {{ place }}.", temperature=0.5, max_tokens=9
    )
    assert operator.reads == ("place", "text")
    _, (request,) = ask(operator, table)
    assert request.messages[0] == {"role": "system", "content": "Of Rome."}
    assert "\na\n" in request.messages[1]["content"]
    assert (request.temperature, request.max_tokens) == (0.5, 9)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (Echo(text="echo"), "reads and writes the column 'echo'"),
        (Echo(template="{{ text"), "does not parse"),
        (Echo(template="{{ task.txt }}"), "task.txt does not exist"),
        (Echo(template="{{ text|nofilter }}"), "no filter 'nofilter'"),
    ],
)
def test_settings_that_cannot_work_are_found_before_any_call(operator: Echo, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(operator, rows("a").append_column("echo", pa.array(["x"])), lambda _: pytest.fail("asked"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a", True), (" \n", False), ("", False), (None, False), ([], False), (["", None], False), (0, True)],
)
def test_what_holds_something(value: Any, shown: bool) -> None:
    assert holds(value) == shown


def pipeline(folder: Path, *steps: Any, **settings: Any) -> Pipeline:
    path = folder / "rows.csv"
    path.write_text(
        "text,flag,echo\n" + "".join(f"text {n},{n % 2},old\n" for n in range(30)) + "bad,0,old\n"
    )
    model = Fake(script=script, retries=0)
    return Pipeline([Source(path=str(path)), *steps], name="echo", model=model, max_failed=1.0, **settings)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_are_kept_and_what_was_answered_is_measured_for_any_blocks(tmp_path: Path) -> None:
    found = []
    for blocks in (1, 7):
        made = pipeline(tmp_path, Step(Echo(template="{{ text }}"), name="e"), blocks=blocks)
        run = made.run(tmp_path / f"run{blocks}", quiet=True)
        assert run.sql("SELECT count(*) AS n FROM dataset WHERE e_call IS NOT NULL").to_pylist() == [
            {"n": 30}
        ]
        assert run.sql("SELECT count(*) AS n FROM failures").to_pylist() == [{"n": 1}]
        found.append(run.sql("SELECT * FROM metrics ORDER BY metric").to_pylist())
    assert found[0] == found[1]
    answers, long = found[0]
    assert (answers["step"], answers["value"], long["value"]) == ("e", 30, 1)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_that_when_lets_pass_are_not_measured_though_they_have_such_a_column(tmp_path: Path) -> None:
    made = pipeline(tmp_path, Step(Echo(template="{{ text }}"), name="e", when="flag = 1"))
    run = made.run(tmp_path / "run", quiet=True)
    assert run.sql("SELECT value FROM metrics WHERE metric = 'answers'").to_pylist() == [{"value": 15}]
    assert run.sql("SELECT count(*) AS n FROM dataset").to_pylist() == [{"n": 31}]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_when_every_row_fails_there_is_nothing_to_measure(tmp_path: Path) -> None:
    made = pipeline(tmp_path, Step(Echo(template="bad {{ text }}", reasks=0), name="e"))
    run = made.run(tmp_path / "run", quiet=True)
    assert run.sql("SELECT value, n FROM metrics WHERE metric = 'answers'").to_pylist() == [
        {"value": 0, "n": 0}
    ]
