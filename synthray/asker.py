"""What asks a model for rows and reads the answers: draws, bad answers shown again, failures told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from synthray import template
from synthray.errors import InputError, ModelError
from synthray.lineage import uniform
from synthray.model import answer
from synthray.model.answer import SHOWN
from synthray.model.calls import Calls, Origin, opened

if TYPE_CHECKING:
    from synthray.model.language import Choice, Request
    from synthray.operator import Context

SOURCES = (Path(__file__), template.SOURCE, Path(answer.__file__))
"""For the fingerprints of operators that ask: what is sent and what is read in the answer."""

_BAD = ("InvalidAnswer", "NoText")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """A request as it is sent first (the draw's seed is the asker's), and how an answer's text is read.

    `read` raises a ValueError that says what is wrong; the model is shown it.
    """

    request: Request
    read: Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What became of a question: `value` is what was read, or `failed` (see lineage.FAILED) why nothing was.

    `call` and `choice` are the kept call and the answer that was read last; None when there was none.
    """

    value: Mapping[str, Any] | None = None
    failed: Mapping[str, Any] | None = None
    call: str | None = None
    choice: Choice | None = None


@runtime_checkable
class Asks(Protocol):
    """An operator that asks by an Asker; a plan counts its questions and shows them."""

    max_tokens: int | None

    @property
    def asker(self) -> Asker:
        """What asks."""

    def questions(self, row: Row) -> Sequence[Question]:
        """Return what a row is asked."""


@dataclass(frozen=True)
class Asker:
    """Asks `n` questions a row for the step `step`, as the run's `context` says.

    The draw of a question is (row_id, step, its place). A bad answer is shown to the model again at most
    `reasks` times; `together` asks for n answers to one question in one call.
    """

    context: Context
    step: str
    n: int = 1
    reasks: int = 0
    together: bool = False

    def check(self, request: Request) -> None:
        """Raise an InputError when the model cannot do what such a request asks."""
        if self.context.language is not None:
            self.context.language.check_request(replace(request, n=self.n if self.together else 1))

    def answers(
        self, rows: Sequence[Row], questions: Callable[[Row], Sequence[Question]]
    ) -> list[list[Answer]]:
        """Return the n answers of each row; all rows are asked at once, each when its turn comes."""
        if self.context.language is None:
            raise InputError(f"{self.step} needs a model: Context(language=...)")
        calls = opened(self.context.language, self.context.calls, self.context.limiter)
        return calls.run(_Asking(self, calls, questions).all(rows))


@dataclass(frozen=True)
class _Asking:
    asker: Asker
    calls: Calls
    questions: Callable[[Row], Sequence[Question]]

    async def all(self, rows: Sequence[Row]) -> list[list[Answer]]:
        answers = await asyncio.gather(*(self._turn(row) for row in rows), return_exceptions=True)
        return _raised(answers)

    async def _turn(self, row: Row) -> list[Answer]:
        async with self.calls.turns:
            return await self._of_row(row)

    async def _of_row(self, row: Row) -> list[Answer]:
        n = self.asker.n
        try:
            questions = self.questions(row)
        except Exception as error:  # a filter raises what it likes on a value that it cannot take
            return [_failure("TemplateError", str(error) or type(error).__name__)] * n
        if n == 1:
            return [await self._answer(row, questions[0], 0, None)]
        first: Sequence[Answer | None] = [None] * n
        if self.asker.together:
            try:
                first = await self._together(row, questions[0])
            except ModelError as error:
                if error.fatal:
                    raise
                return [_failure(error.kind, str(error), error.attempts)] * n
        answers = await asyncio.gather(
            *(self._answer(row, *asked) for asked in zip(questions, range(n), first, strict=True)),
            return_exceptions=True,
        )
        return _raised(answers)

    async def _together(self, row: Row, question: Question) -> list[Answer | None]:
        origin = (row["row_id"], self.asker.step, 0)
        n = self.asker.n
        request = replace(self._drawn(question.request, origin, again=False), n=n)
        call = await self.calls.ask(request, origin)
        answers = [Answer(call=call.key, choice=choice) for choice in call.response.choices()]
        return [*answers, *[None] * n][:n]  # what is missing is asked for one by one

    async def _answer(self, row: Row, question: Question, place: int, first: Answer | None) -> Answer:
        result = Answer()
        attempts = 0
        # A retry keeps the bad answer and draws another one, which is kept in its turn.
        for attempt in range(self.asker.context.retry + 1):
            origin = (row["row_id"], self.asker.step, place + attempt * self.asker.n)
            result = await self._read(question, origin, None if attempt else first, again=attempt > 0)
            if result.failed is None:
                return result
            attempts += result.failed["attempts"]
            if result.failed["error"] not in _BAD:
                break
        return replace(result, failed={**(result.failed or {}), "attempts": attempts})

    async def _read(
        self, question: Question, origin: Origin, answered: Answer | None, *, again: bool
    ) -> Answer:
        """Return one draw; a bad answer is shown to the model again with what is wrong."""
        request = question.request
        result = Answer()
        for reask in range(self.asker.reasks + 1):
            if answered is None:
                try:
                    call = await self.calls.ask(self._drawn(request, origin, again=again), origin)
                except ModelError as error:
                    if error.fatal:
                        raise
                    return _failure(error.kind, str(error), reask + error.attempts)
                answered = Answer(call=call.key, choice=call.response.choices()[0])
            choice = answered.choice
            assert choice is not None
            try:
                return replace(answered, value=_value(question, choice))
            except ValueError as error:
                kind = "NoText" if not choice.text and choice.finish_reason != "stop" else "InvalidAnswer"
                result = replace(answered, failed=_failure(kind, str(error), reask + 1).failed)
                if kind == "NoText" or choice.finish_reason == "length" or request.prompt is not None:
                    break  # it would be cut again, refused again, or there is no chat to go on with
                # With all the bad answers so far: to the same question there would be the same answer.
                request = _again(request, choice.text, str(error))
            answered = None
        return result

    def _drawn(self, request: Request, origin: Origin, *, again: bool) -> Request:
        # At temperature 0 the same question has the same answer: asking again needs some warmth.
        temperature = max(request.temperature, 0.3) if again else request.temperature
        # One answer for all who ask the same at temperature 0, whoever asks first.
        seed = int(uniform("draw", self.asker.context.seed, *origin) * 2**31) if temperature else 0
        return replace(request, temperature=temperature, seed=seed)


def _raised(results: Sequence[Any]) -> list[Any]:
    """Raise the first error among results.

    Called when no call is under way any more: what was answered meanwhile is kept too.
    """
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return list(results)


def _value(question: Question, choice: Choice) -> Mapping[str, Any]:
    """Return what is in an answer; ValueError says what is wrong with it."""
    if not choice.text and choice.finish_reason not in ("stop", "length"):
        raise ValueError(f"no text in the answer (finish_reason {choice.finish_reason!r})")
    try:
        return question.read(choice.text)
    except ValueError as error:
        cut = (
            f" (cut at max_tokens={question.request.max_tokens})" if choice.finish_reason == "length" else ""
        )
        raise ValueError(f"{error}{cut}; the answer was: {choice.text[:SHOWN]}") from None


def _again(request: Request, answer: str, wrong: str) -> Request:
    """Return a request with a bad answer and what is wrong with it."""
    wrong = wrong.partition("; the answer was: ")[0]
    asking = f"That answer cannot be used: {wrong}. Answer again, with the corrected JSON object alone."
    said = ({"role": "assistant", "content": answer}, {"role": "user", "content": asking})
    return replace(request, messages=(*request.messages, *said))


def _failure(error: str, message: str, attempts: int = 1) -> Answer:
    return Answer(failed={"error": error, "message": message, "attempts": attempts})
