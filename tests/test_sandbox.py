"""What the sandbox claims, each claim by code that tries."""

from __future__ import annotations

import os
import platform
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from synthray import jail, sandbox
from synthray.errors import InputError, RunFailed
from synthray.sandbox import Outcome, Sandbox

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in jail.ALLOWED, reason="the sandbox needs Linux"
)
REFUSED = "try:\n    {}\nexcept PermissionError:\n    pass\nelse:\n    raise ValueError('it could')"


def readable(descriptor: int, ms: int) -> bool:
    """Say whether it can be read from in time; `select` knows no more than 1,024 open files."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(ms))


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(seconds=1, memory_mb=128) as opened:
        yield opened


@pytest.fixture(scope="module")
def database() -> Iterator[Sandbox]:
    with Sandbox(seconds=2, memory_mb=256, sql=True) as opened:
        yield opened


def test_code_that_passes_its_tests_is_verified(box: Sandbox) -> None:
    code = "from dataclasses import dataclass\nimport re, math, heapq\n@dataclass\nclass P:\n    x: int\ndef f(n): return P(n)"
    assert box.python(code, "assert f(3) == P(3) and f(3).x == 3") == Outcome(True)
    assert box.python("", "") == Outcome(True)


@pytest.mark.parametrize(
    ("code", "tests", "reason", "error"),
    [
        (
            "def f(): return 1",
            "assert f() == 1\nassert f() == 2, 'two'",
            "tests",
            "two (tests, line 2: assert f() == 2",
        ),
        (
            "def f(): return 1 / 0",
            "f()",
            "error",
            "ZeroDivisionError: division by zero (code, line 1: def f()",
        ),
        ("def f(:", "", "error", "SyntaxError"),
        ("x = 1", "y = x +", "error", "tests, line 1"),
        ("import numpy", "", "error", "No module named 'numpy'"),
        ("x = '\0'", "", "error", "null bytes"),
        ("input()", "", "error", "EOFError"),
        ("raise SystemExit(0)", "", "exit", "SystemExit"),
        ("raise KeyboardInterrupt", "", "exit", "KeyboardInterrupt"),
        ("import os\nos._exit(0)", "assert False", "exit", "with code 0 before its tests did"),
        ("class E(Exception):\n    def __str__(self): return 1\nraise E", "", "error", "cannot be shown"),
        ("raise ValueError('x' * 10**7)", "", "error", "ValueError: xxx"),
        ("raise ValueError('\\ud800')", "", "error", "ValueError"),
    ],
)
def test_code_that_fails_says_why(box: Sandbox, code: str, tests: str, reason: str, error: str) -> None:
    outcome = box.python(code, tests)
    assert (outcome.verified, outcome.reason) == (False, reason)
    assert error in str(outcome.error)
    assert len(str(outcome.error)) < 2500


@pytest.mark.parametrize(
    "call",
    [
        "open('{path}').read()",
        "open('{path}', 'w')",
        "open('new.txt', 'w')",
        "open('/proc/self/environ')",
        "os.listdir('/')",
        "os.stat('{path}')",
        "os.remove('{path}')",
        "os.rename('{path}', '{path}2')",
        "os.chmod('{path}', 0)",
        "os.mkdir('folder')",
        "os.symlink('{path}', 'link')",
        "os.chdir('/')",
        "os.pipe()",
        "os.memfd_create('x')",
        "os.kill(os.getppid(), 9)",
        "os.kill(1, 0)",
        "os.setuid(0)",
        "__import__('socket').socket()",
        "__import__('socket').create_connection(('127.0.0.1', {port}))",
        "__import__('socket').socketpair()",
    ],
)
def test_no_file_no_socket_no_signal(box: Sandbox, tmp_path: Path, call: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        filled = call.format(path=secret, port=server.getsockname()[1])
        assert box.python("import os\n" + REFUSED.format(filled), "") == Outcome(True)
        assert not readable(server.fileno(), 0), "somebody connected"
    assert secret.read_text() == "secret"
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]
    assert box.python("", "") == Outcome(True), "it goes on with the next program"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True: os.fork()",
        "import os\nif not os.fork():\n    os.setsid()\n    os.fork()",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "try:\n    __import__('os').fork()\nexcept BaseException:\n    pass",
    ],
    ids=["bomb", "daemon", "thread", "exec", "spawn", "caught"],
)
def test_whoever_starts_a_process_is_ended(box: Sandbox, code: str) -> None:
    assert box.python(code, "") == Outcome(False, "processes", "started a process or a thread")


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal\nfor n in (1, 2, 15, 24, 14):\n    signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "while True: print('x' * 10**6)",
        "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
        "import time\ntime.sleep(1000)",
        "import os\nos.close(3)\nwhile True: pass",
    ],
    ids=["loop", "deaf", "stubborn", "flood", "stderr", "sleep", "mute"],
)
def test_whoever_does_not_end_is_ended(box: Sandbox, code: str) -> None:
    outcome = box.python(code, "")
    assert (outcome.verified, outcome.reason) == (False, "timeout")


@pytest.mark.parametrize(
    "code", ["x = [0] * 10**9", "x = []\nwhile True: x.append('x' * 10**6)", "bytearray(10**12)"]
)
def test_memory_is_bounded(box: Sandbox, code: str) -> None:
    assert box.python(code, "").reason == "memory"


def test_a_program_that_crashes_is_told_from_one_that_fails(box: Sandbox) -> None:
    deep = "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, n): return getattr(self, n)\nA().x"
    assert box.python(deep, "").reason in ("crash", "memory")
    assert box.python("import os\nos.abort()", "").reason == "crash"


WALK = """
import sys
frame = sys._getframe()
while frame:
    if "done" in frame.f_locals:
        frame.f_locals["done"](None, "")
    frame = frame.f_back
"""
JUMP = """
import sys
def trace(frame, event, arg):
    if event == "line" and not hop:
        hop.append(1)
        frame.f_lineno = last
    return trace
hop = []
frame = sys._getframe(1)
last = max(line for _, _, line in frame.f_code.co_lines() if line)
frame.f_trace = trace
sys.settrace(trace)
"""
PATCH = """
import json, os, builtins
json.dumps = lambda *a, **k: '[null, ""]'
builtins.compile = lambda *a, **k: (lambda: 0).__code__
builtins.exec = lambda *a, **k: None
"""
GUESS = "import os\nos.write(3, b'0' * 32 + b'[null, \"\"]')\nos._exit(0)"


@pytest.mark.parametrize("code", [WALK, JUMP, PATCH, GUESS], ids=["frames", "trace", "patch", "guess"])
def test_code_that_says_its_own_verdict_is_not_verified(box: Sandbox, code: str) -> None:
    outcome = box.python(code, "assert False")
    assert outcome.verified is False
    if code in (WALK, GUESS):
        assert outcome.reason == "forged"


def test_the_environment_is_empty_and_chance_is_the_same_each_time(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "s3cr3t")
    with Sandbox(seconds=1, memory_mb=128) as other:
        assert other.python(
            "import os", "assert not os.environ and 'SECRET_KEY' not in str(os.environ)"
        ).verified
        code = "import random\nraise ValueError(f'{random.random()} {set(map(str, range(9)))}')"
        assert other.python(code, "").error == box.python(code, "").error


@pytest.mark.parametrize("victim", ["holder", "jailer"])
def test_it_ends_with_the_process_that_holds_it(victim: str) -> None:
    code = (
        "from synthray.sandbox import Sandbox\n"
        "box = Sandbox(60, 128).__enter__()\nprint(box._process.pid, flush=True)\n"
        "box.python('while True: pass', '')"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    jailer = int(holder.stdout.readline())
    watched = os.pidfd_open(jailer)
    try:
        while not (child := psutil.Process(jailer).children()):
            assert holder.poll() is None
        child_watched = os.pidfd_open(child[0].pid)
        os.kill(holder.pid if victim == "holder" else jailer, signal.SIGKILL)
        assert readable(watched, 20_000), "the jailer outlived its holder"
        assert readable(child_watched, 20_000), "the program outlived its jailer"
        os.close(child_watched)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        os.close(watched)


def test_a_kernel_that_does_not_lock_runs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "jail.py"
    source = (
        Path(jail.__file__)
        .read_text()
        .replace(
            "_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050001",
            "_KILL, _REFUSE, _ALLOW = 0x80000000, 0x7FFF0000",
        )
    )
    broken.write_text(source)
    monkeypatch.setattr(sandbox.jail, "__file__", str(broken))
    with (
        pytest.raises(RunFailed, match="none was executed: a system call that must be refused was not"),
        Sandbox(),
    ):
        pass
    broken.write_text("raise SystemExit(3)")
    with pytest.raises(RunFailed, match="did not start"), Sandbox():
        pass


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    with pytest.raises(InputError, match=r"on Linux alone \(x86_64, aarch64\).*riscv64"), Sandbox():
        pass


def test_one_that_was_ended_from_outside_is_started_again(box: Sandbox) -> None:
    assert box._process is not None
    box._process.kill()
    box._process.wait()
    assert box.python("", "") == Outcome(True)


SETUP = "CREATE TABLE t (a INTEGER, b DOUBLE); INSERT INTO t VALUES (1, 0.1), (2, 0.2), (NULL, NULL)"


@pytest.mark.parametrize(
    ("query", "reference", "reason"),
    [
        ("SELECT a AS x FROM t", "SELECT a FROM t ORDER BY a IS NULL, a", None),
        ("SELECT a FROM t ORDER BY a DESC NULLS LAST", "SELECT a FROM t ORDER BY a NULLS LAST", "wrong"),
        ("SELECT a FROM t ORDER BY a DESC", "SELECT a FROM t", None),
        ("SELECT sum(b) FROM t", "SELECT 0.3", None),
        ("SELECT a FROM t WHERE a > 1", "SELECT a FROM t", "wrong"),
        ("SELECT a, b FROM t", "SELECT a FROM t", "wrong"),
        ("SELECT a FROM u", "SELECT a FROM t", "error"),
        ("SELECT 1; SELECT 1", "SELECT 1", "error"),
        ("DELETE FROM t", "SELECT 1", "error"),
        ("SELECT 1", "SELECT nothing", "reference"),
        ("FROM read_csv('/etc/passwd')", "SELECT 1", "error"),
        ("COPY t TO '/tmp/t.csv'", "SELECT 1", "error"),
        (
            "SELECT count(*) FROM range(100000000000) a, range(1000) b WHERE a.range % 7 = b.range",
            "SELECT 1",
            "timeout",
        ),
        ("SELECT list(range) FROM range(1000000000)", "SELECT 1", "memory"),
    ],
)
def test_a_query_is_right_when_its_rows_are(
    database: Sandbox, query: str, reference: str, reason: str | None
) -> None:
    outcome = database.sql(query, SETUP, reference=reference)
    assert outcome.reason == reason
    assert outcome.verified is (None if reason == "reference" else reason is None)


def test_tables_may_come_as_json_and_so_may_the_rows_that_are_expected(database: Sandbox) -> None:
    setup = '{"my table": [{"a": 1, "d": "2024-01-02"}, {"a": 2}], "other": [{"b": [1, 2]}]}'
    query = 'SELECT a, d::DATE FROM "my table"'
    assert database.sql(query, setup, expected='[[2, null], {"x": 1, "y": "2024-01-02"}]') == Outcome(True)
    assert database.sql('SELECT a FROM "my table" WHERE a = 2', setup, expected="[2]") == Outcome(True)
    assert database.sql(query, "{broken", expected="[]").reason == "reference"
    assert database.sql(query, setup, expected="{}").reason == "reference"
