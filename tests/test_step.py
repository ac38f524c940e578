"""Steps: their names, and how they are grouped into stages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from synthray.errors import RecipeError
from synthray.generate.prompt import Prompt
from synthray.pipeline import Pipeline
from synthray.statement import Derive, Where
from synthray.step import stages

Small = Callable[..., Pipeline]


def test_steps_get_unique_names() -> None:
    wheres = [Where("true", reason="length"), Where("true", reason="length"), Derive({"a": "1"})]
    names = [step.name for step in Pipeline(wheres).named()]
    assert names == ["where_length", "where_length_2", "derive"]


def test_an_operator_used_twice_must_be_named() -> None:
    prompt = Prompt(template="x", writes="text")
    with pytest.raises(RecipeError, match="used twice; give the second one `as: NAME`"):
        Pipeline([prompt, prompt]).named()


def test_the_named_one_of_two_equal_operators_prefixes_its_columns(small: Small) -> None:
    near = "  - curate.near_duplicate: {text: text}\n"
    twice = f"{near}{near}    as: strict\n  - evaluate.diversity"
    after = small(**{"  - evaluate.diversity": twice}).check()[-1].after.names
    assert {"near_duplicate_of", "strict_near_duplicate_of"} <= set(after)


def test_only_the_last_statement_of_a_stage_adds_columns(small: Small) -> None:
    more = "  - where: true\n  - derive: {x: '1'}\n  - where: x = 1\n  - evaluate.diversity"
    groups = stages(small(**{"  - evaluate.diversity": more}).check())
    assert [[one.name for one in group] for group in groups][2:4] == [
        ["where_length", "where", "derive"],
        ["where_2"],
    ]
