"""What tests ask of Calls, and a model that says how often it was asked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthray.errors import ModelError
from synthray.model.calls import Call, Calls, Origin
from synthray.model.language import Complete, Language, Request, Response

Work = tuple[Request, Origin]
ORIGIN = ("row", "step", 0)


@dataclass(frozen=True)
class Counted(Language):
    """Answers with the number of the call, after giving others a turn; the first calls meet the `errors`."""

    seen: list[Request] = field(default_factory=list, compare=False)
    at_once: list[int] = field(default_factory=lambda: [0, 0], compare=False)
    errors: tuple[BaseException | None, ...] = field(default=(), compare=False)
    name: str = "counted"

    def identity(self) -> dict[str, Any]:
        return {"language": self.name}

    def open(self) -> Complete:
        async def complete(request: Request) -> Response:
            self.seen.append(request)
            number = len(self.seen)
            self.at_once[0] += 1
            self.at_once[1] = max(self.at_once)
            for _ in range(5):
                await asyncio.sleep(0)
            self.at_once[0] -= 1
            if error := dict(enumerate(self.errors, 1)).get(number):
                raise error
            return Response(f"answer {number}", "length", 3, 4, 2)

        return complete


def no(kind: str, **said: Any) -> ModelError:
    return ModelError("not now", kind, **said)


def request(text: str = "Say it.", **settings: Any) -> Request:
    return Request(messages=({"role": "user", "content": text},), **settings)


def asked(calls: Calls, *work: Work) -> list[Call]:
    async def all_of_them() -> list[Call]:
        return list(await asyncio.gather(*(calls.ask(one, origin) for one, origin in work)))

    return calls.run(all_of_them())


def many(count: int, **settings: Any) -> list[Work]:
    """Return requests of which no two are alike."""
    return [(request(f"Say {n:03}.", **settings), (f"row{n}", "step", 0)) for n in range(count)]


def errors(calls: Calls, *work: Work) -> list[Any]:
    async def all_of_them() -> list[Any]:
        asking = asyncio.gather(*(calls.ask(one, origin) for one, origin in work), return_exceptions=True)
        return await asyncio.wait_for(asking, 30)

    return calls.run(all_of_them())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]
