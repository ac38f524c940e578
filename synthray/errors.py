"""What can go wrong, by whose hand, and with which exit code.

```
SynthrayError
├── InputError            2   what the user gave is wrong; nothing was done
│   ├── RecipeError           a recipe or a setting in it
│   ├── SourceError           a file that is read
│   ├── QueryError            a SQL statement
│   └── RunError              a run directory that cannot be used
├── RunFailed             1   the work itself failed; what was answered is kept
│   ├── ConservationError     a stage's rows do not add up
│   ├── TooManyFailed         more rows failed than `max_failed` allows
│   └── ModelError            a model call failed; `fatal` when every other would fail too
├── GateRefused           3   the run is whole, the evidence is not good enough
└── BudgetSpent           4   the next call could pass the budget; a raised one goes on
```
A message says who, what was found, what is allowed or near, and how to cure it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class SynthrayError(Exception):
    """Base of all errors that synthray raises on purpose."""

    exit_code = 1


class InputError(SynthrayError):
    """What the user gave is wrong; nothing was done."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe, or a setting in it, is wrong."""


class SourceError(InputError):
    """A file cannot be read as a table."""


class QueryError(InputError):
    """A SQL statement is wrong or not allowed."""


class RunError(InputError):
    """A run directory cannot be used."""


class RunFailed(SynthrayError):
    """The work failed; every answered call and committed stage is kept."""


class ConservationError(RunFailed):
    """`rows_in + rows_made = rows_kept + rows_rejected + rows_failed + rows_expanded` does not hold."""


class TooManyFailed(RunFailed):
    """More rows failed in a stage than `max_failed` allows."""


class ModelError(RunFailed):
    """A model call failed: `kind` names how, `fatal` says that every other call would fail too.

    `again` says that another attempt may do better, `after_s` how long the endpoint wants to be left alone,
    and `billed` that the attempt may have been paid for.
    """

    def __init__(
        self,
        message: str,
        kind: str,
        *,
        fatal: bool = False,
        attempts: int = 1,
        again: bool = False,
        after_s: float | None = None,
        billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.fatal = fatal
        self.attempts = attempts
        self.again = again
        self.after_s = after_s
        self.billed = billed

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way from a worker to the driver, keyword arguments included."""
        return _model_error, (str(self), self.kind, vars(self))


def _model_error(message: str, kind: str, said: dict[str, Any]) -> ModelError:
    return ModelError(message, **{**said, "kind": kind})


class BudgetSpent(SynthrayError):
    """The next call could pass the budget; every answered call is kept, and a raised budget goes on."""

    exit_code = 4


class GateRefused(SynthrayError):
    """The gate's conditions do not hold."""

    exit_code = 3


def near(word: str, options: Iterable[str]) -> str:
    """Return '; did you mean X?' for the option most like `word`, else the options themselves."""
    options = sorted(set(options))
    match = difflib.get_close_matches(str(word), options, n=1, cutoff=0.6)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; there is {', '.join(options)}" if options else ""
