"""Runs code and queries that a model wrote, in a process of its own that can do nothing but compute."""

from __future__ import annotations

import json
import platform
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

from synthray import jail
from synthray.errors import InputError, RunFailed

SOURCES = (Path(__file__), Path(jail.__file__))
"""For the fingerprints of operators whose verdicts it decides."""

_MACHINES = tuple(jail.ALLOWED)
_START_S = 60
_GRACE_S = 10


class Outcome(NamedTuple):
    """What came of a program: `verified`, or the `reason` why not, with the `error` in words."""

    verified: bool | None
    reason: str | None = None
    error: str | None = None


class Sandbox:
    """A process that runs one program at a time, each in a locked child of its own; use it in `with`.

    What holds, and by what:
    - no file is opened, read or written, no socket made, no signal sent to another process, no limit lifted:
      the child's seccomp filter lets through the system calls of `jail.ALLOWED` alone;
    - no process, thread or program is started: the filter ends a child that tries (`processes`), so that
      nothing is left behind, and a child has one process to be ended;
    - `seconds` of CPU time (RLIMIT_CPU) and three times that by the clock: then SIGKILL, which nothing
      ignores (`timeout`);
    - `memory_mb` beyond what the empty process has (RLIMIT_AS): MemoryError or end (`memory`);
    - nothing written (RLIMIT_FSIZE 0; standard output is /dev/null), nothing inherited: an empty environment,
      an empty folder that is gone, no open file but the pipe of the verdict, `python -s -S -P -B`;
    - it ends with the process that holds it: the child dies with its parent, which ends when its input does.

    A verdict counts only with a random token that each child gets, written by the harness after the tests;
    and tests that passed are run again with an assertion that must fail behind them, so that code which says
    the verdict itself, or gets past its tests, is found out (`forged`). What is not found out is code that
    answers its tests with objects equal to everything: the tests run beside it, in one process.

    Needs Linux on x86_64 or aarch64. Code has the modules of `jail.MODULES`, and a fixed hash seed.
    """

    def __init__(self, seconds: int = 5, memory_mb: int = 512, *, sql: bool = False) -> None:
        self._limits = {"seconds": seconds, "memory_mb": memory_mb}
        self._sql = sql
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if sys.platform != "linux" or platform.machine() not in _MACHINES:
            raise InputError(
                f"code is executed on Linux alone ({', '.join(_MACHINES)}), whose kernel can shut it in, but "
                f"this is {sys.platform} on {platform.machine()}; verify answers, or run it there"
            )
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and whatever it runs."""
        self._end()

    def python(self, code: str, tests: str) -> Outcome:
        """Run `code`, then `tests` in the same module: verified when both end without an error."""
        outcome = self._ask({"kind": "python", "code": code, "tests": tests})
        if outcome.verified:
            false = f"{tests}\nraise AssertionError"
            if self._ask({"kind": "python", "code": code, "tests": false}).verified:
                return Outcome(False, "forged", "it passes tests that nothing can pass")
        return outcome

    def sql(self, query: str, setup: str, *, reference: str | None = None, expected: str = "") -> Outcome:
        """Run `setup`, then compare the rows of `query` with those of `reference`, or with `expected` JSON.

        A setup or reference that fails proves nothing: `verified` is None then, with the reason `reference`.
        """
        job = {"kind": "sql", "query": query, "setup": setup, "reference": reference, "expected": expected}
        outcome = self._ask(job)
        return outcome._replace(verified=None) if outcome.reason == "reference" else outcome

    def _ask(self, job: dict[str, Any]) -> Outcome:
        line = json.dumps({**job, **self._limits})
        for _ in range(2):
            if self._process is None:
                self._start()
            answer = self._answer(line, _GRACE_S + 3 * self._limits["seconds"])
            if answer is not None:
                reason, error = answer
                if reason == "unlocked":
                    return Outcome(None, "sandbox", error)
                return Outcome(reason is None, reason, error or None)
            self._end()  # the system ended it, perhaps for want of memory: the program gets another
        return Outcome(None, "sandbox", "the process around it was ended twice")

    def _start(self) -> None:
        folder = ""
        if self._sql:
            import duckdb

            folder = str(Path(duckdb.__file__).parent.parent)
        # The folder is gone once the process is in it: it stays empty, and nothing is left to clear away.
        with tempfile.TemporaryDirectory(prefix="synthray-sandbox-") as empty:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-B", jail.__file__, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=empty,
                env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
                start_new_session=True,
                text=True,
                encoding="utf-8",
            )
            answer = self._tried()
        if answer is None or answer[0] is not None:
            self._end()
            raise RunFailed(
                "code cannot be shut in here, so none was executed: "
                f"{answer[1] if answer else 'the process that would run it did not start'}; the kernel must "
                "allow seccomp filters (CONFIG_SECCOMP_FILTER, and containers that do not forbid prctl)"
            )

    def _tried(self) -> list[Any] | None:
        """Return what a new process says of its lock, and where it runs SQL whether it does."""
        try:
            answer = self._answer(None, _START_S)
            if answer == [None, ""] and self._sql:
                select_1 = "SELECT 1"
                job = {"kind": "sql", "query": select_1, "setup": "", "reference": select_1, "expected": ""}
                answer = self._answer(json.dumps({**job, **self._limits}), _START_S)
        except BaseException:
            self._end()
            raise
        return answer

    def _answer(self, line: str | None, seconds: float) -> list[Any] | None:
        """Send a line and return what is answered; None when the process is gone or silent."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            if line is not None:
                process.stdin.write(line + "\n")
                process.stdin.flush()
        except BrokenPipeError:
            return None
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        answered = process.stdout.readline()  # one line is written at once
        return list(json.loads(answered)) if answered else None

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # its child dies with it
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
