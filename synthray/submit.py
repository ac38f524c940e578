"""A recipe run as a job on a cluster: its folder travels there, its progress and exit code come back."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import shlex
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthray import cookbook, recipe
from synthray.bucket import is_url
from synthray.errors import InputError, RunFailed

LEFT_OUT = (".?*", "runs", "venv", "__pycache__", "node_modules")
"""What of the recipe's folder does not travel: hidden files, which may hold keys, and what is made.

(To Ray `.*` would be the folder itself.)"""
_MOST_BYTES = 100 << 20
_CONNECT_S = 10
_STOPPED, _NOT_FOUND = 130, 127


def submit(
    name: str,
    address: str,
    out: str | None,
    *,
    rows: int | None = None,
    settings: Sequence[str] = (),
    retry_failed: bool = False,
) -> int:
    """Run the recipe `name` on the cluster whose dashboard is at `address`; return the run's exit code.

    What the job prints goes to stderr as it comes. No variable and no key of this machine is sent: the
    cluster's machines have their own. Raises an InputError before anything is sent when the recipe does not
    parse, `out` is on one machine, the folder is too large, or no such cluster answers.
    """
    recipe.load(name, rows=rows, settings=settings)
    if not out or not (is_url(out) or out.startswith("/")):
        raise InputError(
            f"--out {out or 'is missing'}: name s3://bucket/run, or a folder from / on that all machines of "
            "the cluster share; a job's own folder is gone with it"
        )
    path = cookbook.find(name).resolve()
    own = path.parent != cookbook.SHIPPED.resolve()
    if own:
        _check_size(path.parent)
    client = _client(address)
    command = ["synthray", "run", path.name if own else name, "--out", out]
    command += ["--rows", str(rows)] if rows is not None else []
    command += [part for setting in settings for part in ("--set", setting)]
    command += ["--retry-failed"] if retry_failed else []
    environment: dict[str, Any] = {"env_vars": {"PYTHONUNBUFFERED": "1"}}
    if own:
        environment |= {"working_dir": str(path.parent), "excludes": [*LEFT_OUT]}
    try:
        job = client.submit_job(entrypoint=shlex.join(command), runtime_env=environment)
    except (RuntimeError, ConnectionError, OSError) as error:
        told = " ".join(str(error).split())
        raise RunFailed(f"{address}: the cluster takes no job now: {told}") from None
    print(f"job {job}: {shlex.join(command)}", file=sys.stderr)
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        print(
            f"\nthe job goes on; follow it:  ray job logs --follow --address {address} {job}\n"
            f"stop it, to be gone on with: ray job stop --address {address} {job}",
            file=sys.stderr,
        )
        raise
    return _ended(client.get_job_info(job), address)


def _check_size(folder: Path) -> None:
    size = 0
    for root, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not _is_left_out(one)]
        size += sum(Path(root, one).lstat().st_size for one in files if not _is_left_out(one))
        if size > _MOST_BYTES:
            raise InputError(
                f"{folder} holds more than {_MOST_BYTES >> 20} MiB, and the recipe's folder travels with the "
                "job; put the recipe into a folder of its own, and large tables where all machines read them"
            )


def _is_left_out(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT)


def _client(address: str) -> Any:
    """Return Ray's client for jobs, once something that is a Ray of this version answers."""
    try:
        from ray import __version__
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise InputError("to submit needs Ray's job client: pip install 'synthray[cluster]'") from None
    if not address.startswith(("http://", "https://")):
        raise InputError(f"--address {address}: must be the dashboard's, such as http://127.0.0.1:8265")
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=_CONNECT_S) as answer:
            there = str(json.load(answer)["ray_version"])
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--address {address}: no Ray dashboard answers there ({error}); it is on the head, port 8265: "
            "`ray dashboard cluster.yaml` brings it to http://127.0.0.1:8265"
        ) from None
    if there != __version__:
        raise InputError(
            f"--address {address}: the cluster has Ray {there}, this machine {__version__}; "
            f"pip install 'ray[default]=={there}' here, or that version there"
        )
    try:
        return JobSubmissionClient(address)
    except (RuntimeError, ConnectionError, ImportError) as error:
        raise InputError(f"--address {address}: {' '.join(str(error).split())}") from None


async def _follow(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", file=sys.stderr, flush=True)


def _ended(job: Any, address: str) -> int:
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        print("the job was stopped; submit it again to go on", file=sys.stderr)
        return _STOPPED
    code = job.driver_exit_code
    if code == _NOT_FOUND:
        raise RunFailed(
            f"{address}: the cluster's head has no `synthray` on its PATH; pip install synthray there, and "
            "start Ray with that environment activated"
        )
    if code is None:
        raise RunFailed(f"{address}: the job failed: {job.message}")
    return int(code)
