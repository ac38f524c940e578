"""The Ray cluster a run works on: the one it is started in, or a quiet local one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from synthray.errors import RunError

_QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's shuffle workers would otherwise be killed and started again after every operation.
    "RAY_num_workers_soft_limit": "12",
    # stderr belongs to the progress; what fails reaches the driver as an exception.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
_STORE_BYTES = 512 << 20
_CONNECT_S = 10
_BEGIN_S = 180


def start(cores: int | None = None) -> None:
    """Join the cluster of RAY_ADDRESS (`ray job submit` sets it), or start Ray on this machine's cores.

    `cores` says how many Ray is to count with; default: those that this process may use.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    if not ray.is_initialized():
        with _silent_stderr():
            _join_or_start(cores or len(os.sched_getaffinity(0)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # The newer reader merges small files into one block, whatever number of blocks is asked for.
    context.use_datasource_v2 = False


def is_joined() -> bool:
    """Say whether the work is done on a cluster that was there before, joining the one of RAY_ADDRESS."""
    if not os.environ.get("RAY_ADDRESS"):
        return False
    start()
    return True


def on_each_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return what a function returns on each machine, by the machine's address.

    Raises a RunError that names those on which it cannot run, as where synthray is not installed.
    """
    start()
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=1)(function)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = node["NodeManagerAddress"]
            name += f" ({node['NodeID'][:8]})" if name in asked else ""
            asked[name] = task.options(scheduling_strategy=there).remote(*arguments)
    answers = {}
    for name, answer in asked.items():
        try:
            answers[name] = ray.get(answer, timeout=_BEGIN_S)
        except ray.exceptions.GetTimeoutError:
            raise RunError(
                f"on {name}: no worker has begun within {_BEGIN_S} s; see Ray's logs there, such as "
                "/tmp/ray/session_latest/logs/raylet.out"
            ) from None
        except ray.exceptions.RayError as error:
            lacks = next((line for line in str(error).splitlines() if "No module named" in line), "")
            why = f"{lacks.strip()}; pip install synthray there, where Ray is" if lacks else error
            raise RunError(f"on {name}: {why}") from None
    return answers


def attempt() -> int:
    """Return how many workers have died of the task that asks, or were lost with their machine."""
    import ray

    if not ray.is_initialized():
        return 0
    # Ray's public context does not tell it; a test sees when this changes.
    return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())


def cores() -> int:
    """Return how many cores there are to work with, of all machines."""
    start()
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def nodes() -> int:
    """Return how many machines work; one where no cluster is to be joined."""
    import ray

    if not ray.is_initialized():
        if not os.environ.get("RAY_ADDRESS"):
            return 1  # what needs no Ray does not start it
        start()
    return sum(node["Alive"] for node in ray.nodes())


def _join_or_start(cores: int) -> None:
    import ray
    from ray._private import ray_constants

    # Under `uv run` Ray would start each worker by `uv run` too, in a copy of the working directory; a
    # cluster's machines have their own synthray, which the preflight sees to.
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    if address := os.environ.get("RAY_ADDRESS"):
        _require_listener(address)
        try:
            ray.init(log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, TimeoutError) as error:
            raise _unreachable(address, error) from None
        except RuntimeError as error:
            raise RunError(f"RAY_ADDRESS={address}: {_one_line(error)}") from None
        return
    # Ray's switch for "this machine alone": its servers then listen on loopback, not on every address.
    # It is read once, when ray is imported, so it is set in both places.
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=_STORE_BYTES,
        _node_ip_address="127.0.0.1",
    )


def _require_listener(address: str) -> None:
    """Raise a RunError where nothing listens: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # auto, local
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> RunError:
    return RunError(
        f"RAY_ADDRESS={address}: no Ray cluster answers there ({_one_line(error)}); start one by `ray start "
        "--head`, correct the address, or unset RAY_ADDRESS to work on this machine"
    )


def _one_line(error: Exception) -> str:
    """Return a message of Ray's, such as of other versions of Ray or Python there, as one line."""
    return " ".join(str(error).split())


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep Ray's native code from writing a line about its log level; what fails is raised."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
