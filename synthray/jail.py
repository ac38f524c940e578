"""The process in which code that nobody trusts runs: a script of its own, started by `synthray.sandbox`.

It imports what code may use, then reads jobs, a JSON line each, and forks for every job a child that locks
itself up, works and says the verdict. The child may use the system calls of ALLOWED alone, so that there is
no file to open, not even for reading, no socket, no signal to another process and no way to lift the limits;
a call that starts a process or a thread ends it at once. The lock is seccomp's: the kernel holds it, whatever
the code does to the Python around it. A child that cannot lock itself up runs nothing.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import platform
import random
import resource
import select
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NoReturn

Done = Callable[[str | None, str], NoReturn]
"""Says why a program is not verified (None: it is) with details, and ends the child."""

MODULES = (
    "abc", "array", "ast", "base64", "binascii", "bisect", "builtins", "calendar", "cmath", "codecs",
    "collections", "collections.abc", "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal",
    "difflib", "enum", "errno", "fractions", "functools", "gc", "hashlib", "heapq", "hmac", "html",
    "html.parser", "inspect", "io", "itertools", "json", "keyword", "linecache", "locale", "logging",
    "math", "numbers", "operator", "os", "pickle", "pprint", "queue", "random", "re", "secrets",
    "shlex", "signal", "stat", "statistics", "string", "struct", "sys", "tempfile", "textwrap",
    "threading", "time", "timeit", "tokenize", "traceback", "types", "typing", "unicodedata",
    "unittest", "unittest.mock", "urllib.parse", "uuid", "warnings", "weakref", "xml.etree.ElementTree",
    "zlib", "_strptime", "encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.cp1252",
    "encodings.punycode", "encodings.utf_16", "encodings.utf_32",
)  # fmt: skip
"""What code may import: it is loaded before the door is shut."""

ALLOWED = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
        "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "writev": 20,
        "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getitimer": 36,
        "alarm": 37, "setitimer": 38, "getpid": 39, "exit": 60, "uname": 63, "gettimeofday": 96,
        "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107,
        "getegid": 108, "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202,
        "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
        "clock_nanosleep": 230, "exit_group": 231, "pselect6": 270, "ppoll": 271, "set_robust_list": 273,
        "getcpu": 309, "getrandom": 318, "membarrier": 324, "rseq": 334,
    },
    "aarch64": {
        "close": 57, "lseek": 62, "read": 63, "write": 64, "writev": 66, "pselect6": 72, "ppoll": 73,
        "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98, "set_robust_list": 99, "nanosleep": 101,
        "getitimer": 102, "setitimer": 103, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115,
        "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132,
        "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "uname": 160,
        "getrusage": 165, "getcpu": 168, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174,
        "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179, "brk": 214,
        "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278,
        "membarrier": 283, "rseq": 293,
    },
}  # fmt: skip
"""The system calls of a locked child, by machine; every other one is refused with EPERM."""

DEADLY = {
    "x86_64": {"clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "clone3": 435},
    "aarch64": {"clone": 220, "execve": 221, "execveat": 281, "clone3": 435},
}
"""The system calls that start a process, a thread or a program: they end the child."""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _DEATH_SIGNAL = 38, 22, 2, 1
_SAID = 16_384
"""How many bytes a child may say."""
_WAITS = 3
"""How many times its CPU seconds a child may take by the clock on the wall."""


def filter_program(machine: str) -> bytes:
    """Return the seccomp filter of a machine: instructions of 8 bytes (code, jumps, operand)."""
    steps = [
        (_LOAD, 0, 0, 4),  # which machine's numbers the call is made by
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call's number
    ]
    verdicts = [(_KILL, DEADLY[machine]), (_ALLOW, ALLOWED[machine])]
    for verdict, calls in verdicts:
        for number in calls.values():
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, verdict)]
    steps.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def lock() -> None:
    """Shut this process in, for good; OSError when the kernel does not do it."""
    program = filter_program(platform.machine())
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    given = ctypes.create_string_buffer(described, len(described))
    for option, value, more in (
        (_NO_NEW_PRIVILEGES, 1, 0),
        (_SECCOMP, _FILTER, ctypes.addressof(given)),
    ):
        if libc.prctl(option, value, more, 0, 0):
            raise OSError(ctypes.get_errno(), "the kernel refuses seccomp")


def limit(seconds: int, memory_mb: int) -> None:
    """Bound this process; memory is counted beyond what it has now."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  a script without pathlib
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + memory_mb * 2**20
    for what, value in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 4),
    ):
        resource.setrlimit(what, (value, value))


def supervise(job: dict[str, Any]) -> tuple[str | None, str]:
    """Return why a job's program is not verified (None: it is), and details."""
    read_end, write_end = os.pipe()
    token = os.urandom(16).hex().encode()
    parent = os.getpid()
    child = os.fork()
    if not child:
        _child(job, token, write_end, parent)
    os.close(write_end)
    watched = os.pidfd_open(child)
    try:
        said, in_time = _hear(read_end, watched, time.monotonic() + _WAITS * job["seconds"])
    finally:
        os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        os.close(read_end)
        os.close(watched)
    if said and not said.startswith(token):
        return "forged", "it wrote to where only the verdict of its tests is written"
    if said and len(said) < _SAID:
        reason, error = json.loads(said.removeprefix(token))
        return reason, error
    return _ending(status, usage.ru_utime + usage.ru_stime, job["seconds"], in_time)


def _hear(pipe: int, watched: int, deadline: float) -> tuple[bytes, bool]:
    """Return what a child says until it ends, and whether it did so in time."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(watched, select.POLLIN)
    poll.register(0, 0)  # whoever wanted to know is gone: hung up
    said = b""
    while (left := deadline - time.monotonic()) > 0 and len(said) < _SAID:
        ready = {number for number, _ in poll.poll(left * 1000 + 1)}
        if 0 in ready:
            return b"", False
        if pipe in ready:
            more = os.read(pipe, _SAID - len(said))
            said += more
            if not more:
                poll.unregister(pipe)
        elif watched in ready:
            return said, True
    return said, len(said) >= _SAID


def _ending(status: int, used: float, seconds: int, in_time: bool) -> tuple[str, str]:
    """Say how a child ended that said no verdict."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not in_time:
        return "timeout", f"did not end in {_WAITS * seconds} s, of which it worked {used:.1f} s"
    if number == signal.SIGKILL and used >= seconds - 0.5:
        return "timeout", f"worked for more than {seconds} s"
    if number == signal.SIGSYS:
        return "processes", "started a process or a thread"
    if number == signal.SIGKILL:
        return "memory", "was ended by the system, which had no memory left"
    if number:
        return "crash", f"ended by {signal.Signals(number).name}"
    return "exit", f"ended itself with code {os.WEXITSTATUS(status)} before its tests did"


def _child(job: dict[str, Any], token: bytes, pipe: int, parent: int) -> NoReturn:
    """Lock up, work, say the verdict."""
    write, leave = os.write, os._exit

    def done(reason: str | None, error: str) -> NoReturn:
        said = json.dumps([reason, error[:2000].encode("utf-8", "replace").decode()])
        write(3, token + said.encode())
        leave(0)

    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.dup2(pipe, 3)
        os.closerange(4, 64)
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            leave(1)  # it died before this one could ask to be told
        work = _WORK[job["kind"]](job)
        limit(job["seconds"], job["memory_mb"])
        lock()
    except BaseException as error:  # whatever it is, nothing may run now
        done("unlocked", f"{type(error).__name__}: {error}")
    work(done)
    leave(1)


def _probe(job: dict[str, Any]) -> Callable[[Done], None]:
    """Return work that sees whether the lock holds."""

    def work(done: Done) -> None:
        for what in (lambda: os.open("/dev/null", os.O_RDONLY), socket.socket, lambda: os.kill(1, 0)):
            try:
                what()
            except PermissionError:
                continue
            except OSError:
                pass  # refused for another reason, which proves nothing
            done("unlocked", "a system call that must be refused was not")
        done(None, "")

    return work


def _python(job: dict[str, Any]) -> Callable[[Done], None]:
    """Return work that runs code and then its tests in one module."""
    # No module comes from a file any more: one that is not loaded is one that is not there.
    sys.meta_path[:] = [one for one in sys.meta_path if getattr(one, "__name__", "") != "PathFinder"]
    for name in ("ctypes", "_ctypes"):
        sys.modules.pop(name, None)
    sources = {"code": job["code"], "tests": job["tests"]}
    random.seed(0)

    def work(done: Done) -> None:
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        try:
            for name, source in sources.items():
                exec(compile(source, f"<{name}>", "exec"), module.__dict__)
        except MemoryError:
            done("memory", "needed more memory than it may have")
        except AssertionError as error:
            done("tests", _told(error, sources))
        except Exception as error:
            done("error", _told(error, sources))
        except BaseException as error:
            done("exit", f"{type(error).__name__} before its tests had ended")
        done(None, "")

    return work


def _told(error: Exception, sources: dict[str, str]) -> str:
    """Return an error with the line that raised it."""
    try:
        said = f"{type(error).__name__}: {error}"[:1000].removesuffix(": ")
        number, name = (error.lineno, error.filename) if isinstance(error, SyntaxError) else (None, "")
        trace = None if isinstance(error, SyntaxError) else error.__traceback__
        while trace:
            if trace.tb_frame.f_code.co_filename in ("<code>", "<tests>"):
                number, name = trace.tb_lineno, trace.tb_frame.f_code.co_filename
            trace = trace.tb_next
        lines = sources.get((name or "").strip("<>"), "").splitlines()
        shown = lines[number - 1].strip()[:300] if number and number <= len(lines) else ""
        return f"{said} ({name.strip('<>')}, line {number}: {shown})" if number and name else said
    except Exception:  # the error is of a class of the code's own making
        return "an error that cannot be shown"


def _sql(job: dict[str, Any]) -> Callable[[Done], None]:
    """Return work that compares a query's rows with a reference's."""
    import duckdb

    held = {
        "threads": "1",
        "memory_limit": f"{job['memory_mb'] * 3 // 5}MiB",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    connection = duckdb.connect(config=held)
    for setting in ("temp_directory = ''", "enable_external_access = false", "lock_configuration = true"):
        connection.execute(f"SET {setting}")

    def work(done: Done) -> None:
        try:
            _set_up(connection, job["setup"])
            if job["reference"] is None:
                wanted, ordered = _given(job["expected"]), False
            else:
                wanted, ordered = (
                    _rows(connection, job["reference"]),
                    _is_ordered(connection, job["reference"]),
                )
        except Exception as error:
            done("reference", _first_line(error))
        try:
            found = _rows(connection, job["query"])
        except (MemoryError, duckdb.OutOfMemoryException) as error:
            done("memory", _first_line(error))
        except Exception as error:
            done("error", _first_line(error))
        wrong = difference(found, wanted, ordered)
        done("wrong" if wrong else None, wrong)

    return work


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _set_up(connection: Any, setup: str) -> None:
    """Make the tables: by statements, or from JSON that maps their names to lists of rows."""
    if not setup.lstrip().startswith("{"):
        connection.execute(setup)
        return
    for name, rows in json.loads(setup).items():
        text = json.dumps(rows)
        shape = connection.execute("SELECT json_structure(?::JSON)", [text]).fetchone()[0]
        table = '"' + name.replace('"', '""') + '"'
        connection.execute(
            f"CREATE TABLE {table} AS SELECT unnest(one) FROM (SELECT unnest(from_json(?::JSON, ?)) AS one)",
            [text, shape],
        )


def _rows(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type.name != "SELECT":
        raise ValueError("must be one SELECT")
    return [tuple(row) for row in connection.execute(statements[0]).fetchall()]


def _is_ordered(connection: Any, sql: str) -> bool:
    tree = json.loads(connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()[0])
    modifiers = tree["statements"][0]["node"]["modifiers"] if not tree["error"] else []
    return any(one["type"] == "ORDER_MODIFIER" for one in modifiers)


def _given(expected: str) -> list[tuple[Any, ...]]:
    rows = json.loads(expected)
    if not isinstance(rows, list):
        raise ValueError("what is expected must be a list of rows")
    return [
        tuple(row.values() if isinstance(row, dict) else row if isinstance(row, list) else [row])
        for row in rows
    ]


def difference(found: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]], ordered: bool) -> str:
    """Say how two results differ; '' where they do not.

    Names of columns do not count, nor the order of rows unless `ordered`. Numbers are equal up to a
    millionth; dates and the like are compared as text.
    """
    if len(found) != len(wanted):
        return f"{len(found)} rows instead of {len(wanted)}"
    one, other = [[tuple(map(_plain, row)) for row in rows] for rows in (found, wanted)]
    if not ordered:
        one, other = sorted(one, key=_key), sorted(other, key=_key)
    for mine, theirs in zip(one, other, strict=True):
        if len(mine) != len(theirs) or not all(map(_equal, mine, theirs)):
            return f"has the row {mine} instead of {theirs}"[:1000]
    return ""


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)


def _key(row: tuple[Any, ...]) -> list[tuple[str, str, float]]:
    return [
        (type(value).__name__, "", float(f"{value:.5e}"))
        if isinstance(value, float)
        else (type(value).__name__, str(value), 0.0)
        for value in row
    ]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) or (one != one and other != other)
    return bool(one == other)


_WORK = {"probe": _probe, "python": _python, "sql": _sql}


def _answer(job: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(supervise(job)) + "\n")
    sys.stdout.flush()


def main(folder: str) -> None:
    """Read jobs and answer them; `folder` holds DuckDB for jobs of SQL, '' where there are none."""
    for name in MODULES:
        importlib.import_module(name)
    if folder:
        sys.path.append(folder)
        importlib.import_module("duckdb")
        sys.path.remove(folder)
    os.environ.clear()
    _answer({"kind": "probe", "seconds": 10, "memory_mb": 64})
    for line in sys.stdin:
        _answer(json.loads(line))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
