"""Each error has its exit code and survives the way between processes; near names what was meant."""

import pickle

import pytest

from synthray.errors import (
    BudgetSpent,
    ConservationError,
    GateRefused,
    InputError,
    ModelError,
    QueryError,
    RecipeError,
    RunError,
    RunFailed,
    SourceError,
    SynthrayError,
    TooManyFailed,
    near,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        *((kind, 2) for kind in (InputError, RecipeError, SourceError, QueryError, RunError)),
        *((kind, 1) for kind in (SynthrayError, RunFailed, ConservationError, TooManyFailed)),
        (GateRefused, 3),
        (BudgetSpent, 4),
    ],
)
def test_each_error_has_its_exit_code(kind: type[SynthrayError], code: int) -> None:
    error = kind("text")
    assert isinstance(error, SynthrayError)
    assert error.exit_code == code


def test_a_model_error_is_one_try_of_one_row_that_costs_nothing_unless_it_says_so() -> None:
    error = ModelError("no answer", "timeout")
    assert isinstance(error, RunFailed)
    assert (error.exit_code, error.kind, error.fatal, error.attempts) == (1, "timeout", False, 1)
    assert (error.again, error.after_s, error.billed) == (False, None, False)


def test_a_model_error_survives_the_way_between_processes_with_all_it_says() -> None:
    said = {"fatal": True, "attempts": 3, "again": True, "after_s": 0.5, "billed": True}
    error = pickle.loads(pickle.dumps(ModelError("no key", "auth", **said)))  # type: ignore[arg-type]
    assert type(error) is ModelError
    assert (str(error), vars(error)) == ("no key", {"kind": "auth", **said})


def test_near_names_the_most_alike_option() -> None:
    assert near("lenght", ["width", "length", "depth"]) == "; did you mean 'length'?"


def test_near_lists_each_option_once_when_none_is_alike() -> None:
    assert near("zzz", iter(["b", "a", "b"])) == "; there is a, b"


def test_near_says_nothing_when_there_is_nothing() -> None:
    assert near("zzz", []) == ""


def test_near_takes_a_word_that_is_no_text() -> None:
    assert near(True, ["True"]) == "; did you mean 'True'?"  # type: ignore[arg-type]
