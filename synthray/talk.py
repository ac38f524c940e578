"""A talk of two sides as it grows: what was said, who speaks next and is told what, and why it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.asker import BAD, Answer, Ask, Question, unmade
from synthray.model.wire import CONTEXT_WINDOW

if TYPE_CHECKING:
    from synthray.role import Message, Role

SOURCE = Path(__file__)
"""For the fingerprints of operators whose models converse."""


@dataclass
class Talk:
    """Two sides in turn, `turns` times; `before` is what one alone is told first, `said` what both heard.

    `until(message, turn)` says whether it is over. `end` says why it is, `failed` (see lineage.FAILED) why
    its row fails, and `answers` are what became of the messages that were asked for.
    """

    sides: tuple[Role, Role]
    turns: int
    before: Mapping[str, tuple[Message, ...]]
    until: Callable[[Message, int], bool]
    said: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    end: str | None = None
    failed: Mapping[str, Any] | None = None

    @property
    def speaker(self) -> Role:
        """Who speaks next."""
        return self.sides[len(self.said) % 2]

    def question(self) -> Question:
        """Return what asks for the next message."""
        return Question(self.speaker.request(self.before[self.speaker.name], self.said), _message)

    def say(self, text: str) -> None:
        """Add the next message."""
        self.said.append({"role": self.speaker.name, "content": text})

    async def held(self, ask: Ask) -> None:
        """Ask for one message after the other until it is over.

        While nothing is answered yet, what is bad may be drawn again in a run that tries failures again;
        later it ends the talk, which is no failure and stays as it is.
        """
        while self.end is None and self.failed is None:
            speaker = self.speaker
            answer = await ask(self.question(), len(self.said), speaker.model, retried=len(self.said) < 2)
            self.answers.append(answer)
            if answer.value is None:
                self._lose(speaker, answer)
            else:
                self.say(answer.value["content"])
                self._look()
        if self.failed is None and len(self.said) % 2:
            self.said.pop()  # nobody answers it

    def _lose(self, speaker: Role, answer: Answer) -> None:
        """End where there is no next message, if the model is why; a call that failed may yet succeed."""
        assert answer.failed is not None
        error = answer.failed["error"]
        self.end = f"{speaker.name}_{_WHY[error]}" if error in _WHY else None
        if self.end is None or len(self.said) < 2:
            self.failed = {**answer.failed, "message": f"{speaker.name}: {answer.failed['message']}"}

    def _look(self) -> None:
        """Say whether the last message was the last."""
        try:
            over = self.until(self.said[-1], (len(self.said) + 1) // 2)
        except Exception as error:  # a filter raises what it likes on a value that it cannot take
            self.failed = unmade(error).failed
            return
        if over:
            self.end = "until"
            if len(self.said) < 2:
                said = self.said[-1]["content"][:200]
                message = f"until is true of the first message, which nobody answered: {said}"
                self.failed = {"error": BAD[0], "message": message, "attempts": 1}
        elif len(self.said) == 2 * self.turns:
            self.end = "turns"


_WHY = {"InvalidAnswer": "empty", "NoText": "no_text", CONTEXT_WINDOW: "context"}


def _message(text: str) -> Mapping[str, Any]:
    """Read a message; ValueError for one of nothing."""
    if not text.strip():
        raise ValueError("an empty message")
    return {"content": text.strip()}
