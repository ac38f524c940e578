"""Mark rows whose answer, code or query is right: compared with a reference, or run with its tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
from annotated_types import Ge, Le

from synthray import cluster, final_answer, sandbox
from synthray.errors import InputError
from synthray.final_answer import final, same
from synthray.operator import Operator
from synthray.sandbox import Outcome, Sandbox

if TYPE_CHECKING:
    from ray.data import Dataset

    from synthray.stage import Stage

_MISSING = Outcome(None, "missing")
_FENCED = re.compile(r"^[ ]{0,3}```[ ]*([\w+-]*)[^\n]*\n(.*?)^[ ]{0,3}```", re.MULTILINE | re.DOTALL)
_LANGUAGES = {"python": ("python", "py", "python3"), "sql": ("sql", "duckdb")}
_BLOCKS_PER_CORE = 8
_LEAST_ROWS, _MOST_ROWS = 16, 512
_NEEDS = {"answer": ("reference",), "python": ("tests",), "sql": ()}
_TAKES = {
    "answer": ("reference", "answer", "tolerance"),
    "python": ("tests", "execute", "seconds", "memory_mb"),
    "sql": ("setup", "reference", "expected", "execute", "seconds", "memory_mb"),
}


@dataclass(frozen=True)
class Verification(Operator):
    """Add `verified`, with `verification_reason` and `verification_error` where it is not true.

    The verifier of rejection sampling (STaR, Zelikman 2022; RFT, Yuan 2023): sample n, keep what is right.
    What is verified is the column `text`, in one of three ways:

    - `kind: answer` finds the final answer (see synthray.final_answer; `answer` says whether it is a number,
      a text or a choice) and compares it with that of the column `reference`, numbers up to a relative
      `tolerance`. Adds `final_answer`, in its canonical form. Reasons: `wrong`, `no_answer`.
    - `kind: python` runs the code and then the column `tests` (assertions, or what raises) in one module.
      Reasons: `tests` (an assertion failed), `error` (anything else was raised), `exit` (it ended before its
      tests did), `timeout`, `memory`, `processes` (it started a process or thread), `crash`, `forged` (it
      said that it had passed).
    - `kind: sql` runs the query in DuckDB, in memory, over what the column `setup` makes (statements, or a
      JSON object of table names with lists of rows), and compares its rows with those of the query in
      `reference`, or with `expected`: lists of rows, or JSON of that. Names of columns do not count, the
      order of rows only where the reference has an ORDER BY. Reasons as above, and `wrong`.

    Of a text in Markdown the fenced blocks are run: all of Python together, of SQL the last.

    Code runs only with `execute: true`: in a process of its own that opens no file and no socket and starts
    nothing, for `seconds` of CPU time (three times that by the clock) and with `memory_mb`; see
    synthray.sandbox for what holds by what, and for the one way to cheat that it leaves open.

    `verified` is null, not false, where nothing is known: a null or a text of white space in a column that is
    needed (`missing`), a reference that itself holds no answer or fails (`reference`), a sandbox that was
    ended from outside (`sandbox`). A text without an answer or code is false (`no_answer`). Bad code never
    stops a run.
    """

    text: str
    kind: Literal["answer", "python", "sql"] = "answer"
    reference: str | None = None
    answer: final_answer.Kind = "numeric"
    tolerance: Annotated[float, Ge(0), Le(1)] = 0.0
    tests: str | None = None
    setup: str | None = None
    expected: str | None = None
    execute: bool = False
    seconds: Annotated[int, Ge(1), Le(600)] = 5
    memory_mb: Annotated[int, Ge(16), Le(65_536)] = 512

    @property
    def reads(self) -> tuple[str, ...]:
        """The text and what it is verified with."""
        named = (self.reference, self.tests, self.setup, self.expected)
        return (self.text, *(name for name in named if name is not None))

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the verdict, why it is not true, and the answer that was found."""
        found = {"final_answer": pa.string()} if self.kind == "answer" else {}
        verdict = {"verified": pa.bool_(), "verification_reason": pa.string()}
        return {**verdict, "verification_error": pa.string(), **found}

    def files(self) -> tuple[Path, ...]:
        """Return the code that decides a verdict."""
        return (final_answer.SOURCE, *sandbox.SOURCES)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for settings of another kind, and for code that may or can not be executed."""
        columns = [("reference", self.reference), ("tests", self.tests), ("setup", self.setup)]
        given = {name for name, value in [*columns, ("expected", self.expected)] if value is not None}
        given |= {"execute"} if self.execute else set()
        strange = sorted(given - set(_TAKES[self.kind]))
        if strange:
            raise InputError(f"kind: {self.kind} has no setting {strange[0]!r}; {_settings(self.kind)}")
        missing = [name for name in _NEEDS[self.kind] if name not in given]
        if missing:
            raise InputError(f"kind: {self.kind} needs {missing[0]}, the name of a column")
        if self.kind == "sql" and (self.reference is None) == (self.expected is None):
            raise InputError("kind: sql needs either reference (a query) or expected (its rows)")
        self.require_text(before, self.text, *(v for n, v in columns if v and n != "reference"))
        if self.kind != "answer":
            self.require_text(before, *([self.reference] if self.reference else []))
            self._require_consent()

    def _require_consent(self) -> None:
        if not self.execute:
            raise InputError(
                f"kind: {self.kind} runs what stands in column {self.text!r}, which nobody has looked at. It "
                "would run in a process of its own, without files, network or other processes, for "
                f"{self.seconds} s of CPU time and with {self.memory_mb} MB; say execute: true to allow that"
            )
        with Sandbox(self.seconds, self.memory_mb, sql=self.kind == "sql"):
            pass  # an error says why nothing can be run here

    def __call__(self, table: pa.Table) -> pa.Table:
        """Verify row by row."""
        columns = {name: table[name].to_pylist() for name in dict.fromkeys(self.reads)}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if self.kind == "answer":
            compared = [self._compared(row) for row in rows]
            outcomes = [outcome for outcome, _ in compared]
            more: dict[str, Any] = {"final_answer": [found for _, found in compared]}
        else:
            outcomes, more = list(self._executed(rows)), {}
        return self.add(
            table,
            {
                "verified": [one.verified for one in outcomes],
                "verification_reason": [one.reason for one in outcomes],
                "verification_error": [one.error for one in outcomes],
                **more,
            },
        )

    def apply(self, stage: Stage) -> Dataset:
        """Verify row by row; code in small blocks, of which each core runs one."""
        dataset = stage.dataset()
        if self.kind != "answer" and not stage.blocks:
            share = -(-stage.rows_in // (cluster.cores() * _BLOCKS_PER_CORE))
            rows = min(_MOST_ROWS, max(_LEAST_ROWS, share))
            dataset = dataset.repartition(target_num_rows_per_block=rows)
        return stage.map(dataset, self)

    def _compared(self, row: Mapping[str, Any]) -> tuple[Outcome, str | None]:
        assert self.reference is not None
        text = row[self.text]
        found = final(text, self.answer) if _holds(text) else None
        if not _holds(text) or row[self.reference] is None:
            return _MISSING, found
        wanted = final(str(row[self.reference]), self.answer)
        if wanted is None:
            shown = str(row[self.reference])[:200]
            return Outcome(None, "reference", f"the reference holds no {self.answer} answer: {shown}"), found
        if found is None:
            return Outcome(False, "no_answer", f"no {self.answer} answer in the text"), None
        if same(found, wanted, self.answer, self.tolerance):
            return Outcome(True), found
        return Outcome(False, "wrong", f"{found[:200]} instead of {wanted[:200]}"), found

    def _executed(self, rows: list[dict[str, Any]]) -> Iterator[Outcome]:
        run = self._python if self.kind == "python" else self._sql
        with Sandbox(self.seconds, self.memory_mb, sql=self.kind == "sql") as box:
            for row in rows:
                needed = [row[name] for name in self.reads]
                if not all(one if isinstance(one, list) else _holds(one) for one in needed):
                    yield _MISSING
                    continue
                code = program(row[self.text], self.kind)
                yield run(box, code, row) if code else Outcome(False, "no_answer", "no code in the text")

    def _python(self, box: Sandbox, code: str, row: Mapping[str, Any]) -> Outcome:
        return box.python(code, row[self.tests or ""])

    def _sql(self, box: Sandbox, code: str, row: Mapping[str, Any]) -> Outcome:
        setup = row[self.setup] if self.setup else ""
        if self.reference:
            return box.sql(code, setup, reference=program(row[self.reference], "sql"))
        expected = row[self.expected or ""]
        held = expected if isinstance(expected, str) else json.dumps(expected, default=str)
        return box.sql(code, setup, expected=held)


def program(text: str, kind: str) -> str:
    """Return the code in a text: its fenced blocks of that language, or without one the text itself.

    Where no block says its language all count. Of Python they are one program, of SQL the last counts.
    """
    fenced = [(language.lower(), code) for language, code in _FENCED.findall(text)]
    own = [code for language, code in fenced if language in _LANGUAGES[kind]]
    found = own or [code for language, code in fenced if not language]
    if not fenced:
        return text if text.strip() else ""
    return "\n".join(found) if kind == "python" else (found or [""])[-1]


def _holds(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _settings(kind: str) -> str:
    return f"it takes text, {', '.join(_TAKES[kind])}"
