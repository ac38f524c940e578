"""What asks a model for rows and reads the answers: draws, bad answers shown again, failures told apart.

The questions of a row are asked at once; or, by `talks`, one after the other, each made of the answers so
far, of one model or of several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

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

BAD = ("InvalidAnswer", "NoText")
"""The errors of answers that came and cannot be used; with any other there was no answer."""

Row = Mapping[str, Any]

T = TypeVar("T")


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


class Ask(Protocol):
    """Asks the next question of a row and returns its answer; see Asker.talks."""

    async def __call__(
        self, question: Question, place: int, model: str | None = None, *, retried: bool = True
    ) -> Answer:
        """Ask as the row's draw `place`, from 0 to below n; `model` is one that the operator names itself.

        A failed answer is drawn anew in a run that tries failures again, unless it is not to be `retried`.
        """


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
        asking = _Asking(self, {None: self._opened(self.context)})
        return asking.run(rows, lambda row: asking.of_row(row, questions))

    def talks(
        self,
        rows: Sequence[Row],
        talk: Callable[[Row, Ask], Coroutine[Any, Any, T]],
        models: Sequence[str] = (),
    ) -> list[T]:
        """Return what `talk` makes of each row, asking one question after the other; rows talk at once.

        It may ask `models`, which the operator names itself, beside the step's own, each within its limits.
        """
        calls: dict[str | None, Calls] = {None: self._opened(self.context)}
        calls |= {name: self._opened(self.context.of(name)) for name in models}
        asking = _Asking(self, calls)

        def asks(row: Row) -> Ask:
            async def ask(
                question: Question, place: int, model: str | None = None, *, retried: bool = True
            ) -> Answer:
                return await asking.answer(row, question, place, model=model, retried=retried)

            return ask

        return asking.run(rows, lambda row: talk(row, asks(row)))

    def _opened(self, context: Context) -> Calls:
        if context.language is None:
            raise InputError(f"{self.step} needs a model: Context(language=...)")
        return opened(context.language, context.calls, context.limiter)


def unmade(error: Exception) -> Answer:
    """Return the answer to a question that cannot be made: a filter raises what it likes on a value."""
    return _failure("TemplateError", str(error) or type(error).__name__)


@dataclass(frozen=True)
class _Asking:
    """Asks for many rows; `models` are the calls of the step's own model (None) and of others."""

    asker: Asker
    models: Mapping[str | None, Calls]

    def run(self, rows: Sequence[Row], work: Callable[[Row], Coroutine[Any, Any, T]]) -> list[T]:
        """Return what `work` makes of each row, each when its turn comes."""
        calls = self.models[None]

        async def turn(row: Row) -> T:
            async with calls.turns:
                return await work(row)

        async def all_of_them() -> list[T]:
            return _raised(await asyncio.gather(*map(turn, rows), return_exceptions=True))

        # Two names of one model are one.
        others = {id(one): one for one in self.models.values() if one is not calls}
        return calls.run(all_of_them(), tuple(others.values()))

    async def of_row(self, row: Row, made: Callable[[Row], Sequence[Question]]) -> list[Answer]:
        """Return the n answers of a row."""
        n = self.asker.n
        try:
            questions = made(row)
        except Exception as error:
            return [unmade(error)] * n
        if n == 1:
            return [await self.answer(row, questions[0], 0)]
        first: Sequence[Answer | None] = [None] * n
        if self.asker.together:
            try:
                first = await self._together(row, questions[0])
            except ModelError as error:
                if error.fatal:
                    raise
                return [_failure(error.kind, str(error), error.attempts)] * n
        answers = await asyncio.gather(
            *(self.answer(row, *asked) for asked in zip(questions, range(n), first, strict=True)),
            return_exceptions=True,
        )
        return _raised(answers)

    async def _together(self, row: Row, question: Question) -> list[Answer | None]:
        origin = (row["row_id"], self.asker.step, 0)
        n = self.asker.n
        request = replace(self._drawn(question.request, origin, again=False), n=n)
        call = await self.models[None].ask(request, origin)
        answers = [Answer(call=call.key, choice=choice) for choice in call.response.choices()]
        return [*answers, *[None] * n][:n]  # what is missing is asked for one by one

    async def answer(
        self,
        row: Row,
        question: Question,
        place: int,
        first: Answer | None = None,
        *,
        model: str | None = None,
        retried: bool = True,
    ) -> Answer:
        """Return the answer to a question; `first` is one that is there already, as it came."""
        calls = self.models[model]
        result = Answer()
        attempts = 0
        # A retry keeps the bad answer and draws another one, which is kept in its turn.
        for attempt in range(self.asker.context.retry + 1 if retried else 1):
            origin = (row["row_id"], self.asker.step, place + attempt * self.asker.n)
            answered = None if attempt else first
            result = await self._read(calls, question, origin, answered, again=attempt > 0)
            if result.failed is None:
                return result
            attempts += result.failed["attempts"]
            if result.failed["error"] not in BAD:
                break
        return replace(result, failed={**(result.failed or {}), "attempts": attempts})

    async def _read(
        self, calls: Calls, question: Question, origin: Origin, answered: Answer | None, *, again: bool
    ) -> Answer:
        """Return one draw; a bad answer is shown to the model again with what is wrong."""
        request = question.request
        result = Answer()
        for reask in range(self.asker.reasks + 1):
            if answered is None:
                try:
                    call = await calls.ask(self._drawn(request, origin, again=again), origin)
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
