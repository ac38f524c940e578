"""Scripted answers, so that a recipe is tested without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from synthray.errors import InputError, ModelError
from synthray.lineage import canonical
from synthray.model.language import Complete, Language, Request, Response

Script = Callable[[Request], "str | Response | ModelError"]


@dataclass(frozen=True)
class Fake(Language):
    """Answer by `script` (a picklable function) or with one of `answers`, drawn by the request's seed.

    An answer is a text, a mapping (sent as JSON), or `{error: KIND}`, which makes the call fail.
    """

    answers: Sequence[str | Mapping[str, Any]] = ("A scripted answer.",)
    script: Script | None = field(default=None, repr=False)

    def identity(self) -> dict[str, Any]:
        """Return the script's name and the answers."""
        name = getattr(self.script, "__qualname__", None)
        return {**super().identity(), "script": name, "answers": list(self.answers)}

    def check(self) -> None:
        """Raise an InputError when there is nothing to answer."""
        if not self.answers and self.script is None:
            raise InputError("model: fake needs answers, such as answers: [one, two]")

    def open(self) -> Complete:
        """Answer at once."""
        return self._complete

    async def _complete(self, request: Request) -> Response:
        if self.script:
            answer = self.script(request)
        else:
            answer = _scripted(self.answers[request.seed % len(self.answers)])
        if isinstance(answer, ModelError):
            raise answer
        if isinstance(answer, Response):
            return answer
        prompt = sum(len(message["content"].split()) for message in request.messages)
        return Response(answer, prompt_tokens=prompt, completion_tokens=len(answer.split()))


def _scripted(answer: str | Mapping[str, Any]) -> str | ModelError:
    if isinstance(answer, str):
        return answer
    if set(answer) == {"error"}:
        return ModelError(f"scripted failure {answer['error']}", str(answer["error"]))
    return canonical(answer)
