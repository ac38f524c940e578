"""Names and texts come back from SQL as they were."""

from __future__ import annotations

import pytest

from synthray.query import Query
from synthray.spelling import identifier, quoted

HARD = ['"', "'", '";DROP', "a'b\"c", "snow ☃", "\n", "--", "\\", "$$"]


@pytest.mark.parametrize("text", HARD)
def test_a_text_comes_back_as_it_was(text: str) -> None:
    with Query({}) as query:
        assert query.value(f"SELECT {quoted(text)}") == text


@pytest.mark.parametrize("name", HARD)
def test_a_name_comes_back_as_it_was(name: str) -> None:
    with Query({}) as query:
        assert query.schema(f"SELECT 1 AS {identifier(name)}").names == [name]
