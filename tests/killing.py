"""A run in a process of its own that is killed at a chosen spot: `python tests/killing.py RUN RECIPE LOG [SPOT]`.

Every answer of the model is a line of LOG. SPOT is `call:N`, before the N-th answer; `write:FOLDER`, when a
file of the stage whose folder holds FOLDER is written, but the stage is not committed; or `commit:FOLDER`,
just after it was.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.lineage import digest
from synthray.model.fake import Fake
from synthray.query import Query
from synthray.recipe import load
from synthray.record import StageRecord

if TYPE_CHECKING:
    from synthray.model.language import Request


def main(run: str, recipe: str, log: str, spot: str = "") -> None:
    """Run the recipe on a model that answers one call at a time and keeps a log of them."""
    kind, _, place = spot.partition(":")
    model = _logging(Path(log), int(place) if kind == "call" else 0)
    if kind == "write":
        _kill_after(Query, "write", lambda arguments: place in str(arguments[-1]))
    if kind == "commit":
        _kill_after(StageRecord, "write", lambda arguments: place in arguments[0].folder)
    replace(load(Path(recipe)), model=model).run(run, quiet=True)


def _logging(log: Path, last: int) -> Fake:
    driver = os.getpid()

    def answer(request: Request) -> str:
        asked = digest(request.messages, request.seed)
        with log.open("a+", encoding="utf-8") as file:
            file.seek(0)
            if last and len(file.readlines()) + 1 >= last:
                os.kill(driver, signal.SIGKILL)
                signal.pause()  # this worker dies with its driver
            file.write(f"{asked}\n")
        number = int(asked, 16)
        return " ".join(f"w{(number >> shift) % 2}" for shift in (0, 7, 14))

    return Fake(script=answer, in_flight=1)


def _kill_after(kind: type, name: str, told: Callable[[tuple[Any, ...]], bool]) -> None:
    done = getattr(kind, name)

    def killed(*arguments: Any, **more: Any) -> Any:
        result = done(*arguments, **more)
        if told(arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(kind, name, killed)


if __name__ == "__main__":
    main(*sys.argv[1:])
