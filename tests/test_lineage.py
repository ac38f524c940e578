import random
from typing import Any

import pyarrow as pa
import pytest

from synthray.lineage import (
    FAILED,
    IDENTITY,
    RESERVED,
    canonical,
    child_id,
    condition_id,
    content_ids,
    digest,
    uniform,
)
from synthray.query import Query

ROWS = [{"text": "a", "n": 1}, {"text": "b", "n": 2}, {"text": "a", "n": 1}, {"text": None, "n": 3}]


def identified(rows: list[dict[str, Any]], step: str = "") -> pa.Table:
    table = pa.Table.from_pylist(rows)
    with Query({"given": table}) as query:
        return query.arrow(content_ids("SELECT * FROM given", table.column_names, step))


def ids(rows: list[dict[str, Any]], step: str = "") -> list[str]:
    return [str(value) for value in identified(rows, step)["row_id"].to_pylist()]


def test_equal_values_are_equal_text_whatever_the_order_of_keys() -> None:
    assert canonical({"b": [1, "ä"], "a": None}) == canonical({"a": None, "b": (1, "ä")})
    assert canonical({"b": [1, "ä"], "a": None}) == '{"a":null,"b":[1,"ä"]}'


def test_a_digest_is_96_bits_and_tells_types_and_places_apart() -> None:
    assert len(digest("a")) == 24
    assert len({digest("a", "b"), digest("ab"), digest("b", "a"), digest(1), digest("1")}) == 5


def test_a_digest_is_the_same_in_every_version() -> None:
    assert digest("condition", "step", 7, 0) == "998910724ccdb25feaed100b"


def test_condition_ids_are_prefix_stable() -> None:
    few = [condition_id("conditions", 7, index) for index in range(20)]
    many = [condition_id("conditions", 7, index) for index in range(200)]
    assert many[:20] == few
    assert len(set(many)) == 200


@pytest.mark.parametrize(
    "other", [("other", 7, 1), ("conditions", 8, 1), ("conditions", 7, 2)], ids=["step", "seed", "index"]
)
def test_a_condition_id_depends_on(other: tuple[str, int, int]) -> None:
    assert condition_id(*other) != condition_id("conditions", 7, 1)


@pytest.mark.parametrize(
    "other", [("q", "prompt", 1), ("p", "rewrite", 1), ("p", "prompt", 2)], ids=["parent", "step", "ordinal"]
)
def test_a_child_id_depends_on(other: tuple[str, str, int]) -> None:
    assert child_id(*other) != child_id("p", "prompt", 1)
    assert child_id("p", "prompt", 1) == child_id("p", "prompt", 1)


def test_uniform_numbers_lie_in_zero_to_one_and_fill_it() -> None:
    numbers = [uniform("seed", index) for index in range(2000)]
    assert all(0 <= number < 1 for number in numbers)
    assert [sum(number < edge for number in numbers) for edge in (0.25, 0.5, 0.75)] == pytest.approx(
        [500, 1000, 1500], abs=80
    )
    assert uniform("seed", 3) == numbers[3]


def test_content_ids_are_the_same_in_any_order_of_rows() -> None:
    shuffled = list(ROWS)
    random.Random(1).shuffle(shuffled)
    assert shuffled != ROWS
    held = {(row["row_id"], row["text"], row["n"]) for row in identified(ROWS).to_pylist()}
    assert {(row["row_id"], row["text"], row["n"]) for row in identified(shuffled).to_pylist()} == held


def test_repeated_content_gets_ids_of_its_own_by_occurrence() -> None:
    once, twice = set(ids(ROWS[:2])), set(ids(ROWS[:3]))
    assert len(twice) == 3
    assert once < twice


def test_a_row_that_is_added_changes_no_other_id() -> None:
    assert set(ids(ROWS)) < set(ids([{"text": "new", "n": 0}, *ROWS]))


def test_the_order_of_columns_changes_no_id() -> None:
    assert set(ids([{"n": row["n"], "text": row["text"]} for row in ROWS])) == set(ids(ROWS))


def test_content_that_differs_in_type_or_place_differs_in_id() -> None:
    different = [[{"a": "1"}], [{"a": 1}], [{"b": "1"}], [{"a": None}], [{"a": ""}], [{"a": "1", "b": None}]]
    assert len({ids(rows)[0] for rows in different}) == len(different)


def test_source_rows_get_every_identity_column_and_no_other() -> None:
    table = identified(ROWS)
    assert table.column_names == [*IDENTITY, "text", "n"]
    assert {name: table.schema.field(name).type for name in IDENTITY} == IDENTITY
    assert set(table["parent_id"].to_pylist()) == {None}
    assert set(table["round"].to_pylist()) == {0}


def test_rows_that_bring_a_row_id_keep_it_and_their_lineage() -> None:
    brought = [{"row_id": "mine", "parent_id": "p", "round": 2, "text": "a"}]
    assert identified(brought).to_pylist() == brought


def test_rows_that_bring_only_a_row_id_get_the_other_columns_as_nulls() -> None:
    table = identified([{"row_id": "mine", "text": "a"}])
    assert table.to_pylist() == [{"parent_id": None, "round": None, "row_id": "mine", "text": "a"}]
    assert table.schema.field("round").type == pa.int32()


def test_lineage_without_a_row_id_is_made_anew_and_counts_for_nothing() -> None:
    table = identified([{"parent_id": "gone", "round": 4, "text": "a"}])
    assert table["row_id"].to_pylist() == ids([{"text": "a"}])
    assert (table["parent_id"].to_pylist(), table["round"].to_pylist()) == ([None], [0])


def test_equal_rows_of_two_steps_are_two_rows() -> None:
    assert len({*ids(ROWS), *ids(ROWS, "union"), *ids(ROWS, "it's")}) == 3 * len(ROWS)


@pytest.mark.parametrize("name", ['say "hi"', "two words", "select", "ä.b"])
def test_columns_of_any_name_are_part_of_the_content(name: str) -> None:
    table = identified([{name: "a"}, {name: "b"}])
    assert sorted(table[name].to_pylist()) == ["a", "b"]
    assert len(set(table["row_id"].to_pylist())) == 2


def test_the_names_of_lineage_are_reserved() -> None:
    assert {"row_id", "parent_id", "round", "failed", "parents", "reject_step", "reject_reason"} == RESERVED


def test_a_failure_says_what_how_and_how_often() -> None:
    failure = {"error": "timeout", "message": "no answer", "attempts": 3}
    assert pa.array([failure, None], FAILED).to_pylist() == [failure, None]
