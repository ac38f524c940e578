"""A step: an operator, a statement or a loop, with its name in the recipe; and stages of steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synthray.errors import InputError, RecipeError
from synthray.operator import Operator
from synthray.statement import NOT_IN_RESULT, Select, Statement, Where

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.repeat import Repeat


@dataclass(frozen=True)
class Step:
    """What is done, named; `when` and `model` as in a recipe, `line` where the recipe has it."""

    work: Operator | Statement | Repeat
    name: str = ""
    when: str | None = None
    model: str | None = None
    line: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no step, such as a table: Python checks no types."""
        if not (isinstance(self.work, Operator | Statement) or hasattr(self.work, "steps")):
            raise RecipeError(
                f"a step is an operator, a statement or a Repeat, but one is {type(self.work).__name__}; a "
                'table is named, Pipeline(..., tables={"mine": table}), and read by source.table'
            )

    def default_name(self) -> str:
        """Return the name of a step that was given none."""
        if isinstance(self.work, Operator):
            return type(self.work).__module__.rpartition(".")[2]
        reason = self.work.reason if isinstance(self.work, Where | Select) else ""
        if reason and reason != NOT_IN_RESULT:
            return f"{self.work.kind}_" + re.sub(r"\W+", "_", reason)
        return self.work.kind

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what it measures, as far as its settings say them."""
        return () if isinstance(self.work, Statement) else self.work.metrics()

    @property
    def measures(self) -> bool:
        """Whether a gate may name it."""
        if isinstance(self.work, Operator) and self.work.makes() == "nothing":
            return not self.work.uses_gate
        return isinstance(self.work, Select) or bool(self.metrics)


@dataclass(frozen=True)
class Checked:
    """A step that is known to fit: settled, with the rows' schemas before and after it."""

    step: Step
    before: pa.Schema
    after: pa.Schema

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name

    @property
    def origin(self) -> str:
        """The name with the round that the step is in, as the run's records have it."""
        work = self.step.work
        return work.origin if isinstance(work, Operator) else work.step


def stages(checked: Sequence[Checked]) -> list[list[Checked]]:
    """Group steps into stages: an operator alone; wheres together, and what follows them if it is SQL too.

    Only the last statement of a stage may add columns or rows, so that the columns of every rejected row
    stand in the stage before.
    """
    groups: list[list[Checked]] = []
    is_open = False
    for one in checked:
        if is_open and isinstance(one.step.work, Statement):
            groups[-1].append(one)
        else:
            groups.append([one])
        is_open = isinstance(one.step.work, Where)
    return groups


def where(step: Step) -> str:
    """Return how a message names a step."""
    name = step.name or step.default_name()
    return f"step {name!r} (line {step.line})" if step.line else f"step {name!r}"


@contextmanager
def told(step: Step) -> Iterator[None]:
    """Say in an error which step it is about."""
    try:
        yield
    except InputError as error:
        raise RecipeError(f"{where(step)}: {error}") from None
