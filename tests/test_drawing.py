"""Excluded rows are drawn again, by their own place alone, until they are allowed or nothing is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from synthray.drawing import Drawing, Exclusion
from synthray.errors import InputError
from synthray.operator import Context
from synthray.provider import Listed, Pool, Provider

SALT = ("step", 5)
TEXT = pa.string()


def listed(name: str, *values: str, **more: Any) -> Listed:
    return Listed(name, SALT, TEXT, None, {None: Pool(values)}, **more)


def exclusion(exclude: Any, *names: str, **context: Any) -> Exclusion:
    made = Exclusion.of(exclude, pa.schema([(name, TEXT) for name in names]), Context(**context))
    assert made is not None
    return made


def drawing(exclude: Any, *providers: Provider) -> Drawing:
    held = {one.name: one for one in providers}
    return Drawing(held, exclusion(exclude, *held))


def drawn(made: Drawing, places: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.table(made.columns([(place, {}, {}) for place in places])).to_pylist()
    return rows


def test_no_row_is_excluded_and_the_first_named_column_stays_balanced() -> None:
    made = drawing(
        ["label = 'A' AND tone = 'dry'", "label = 'B' AND tone = 'warm'"],
        listed("label", *"ABC"),
        listed("tone", "dry", "warm", "odd"),
        listed("beside", *"xy"),
    )
    rows = drawn(made, range(300))
    pairs = Counter((row["label"], row["tone"]) for row in rows)
    assert pairs["A", "dry"] == pairs["B", "warm"] == 0
    assert len(pairs) == 7
    assert set(Counter(row["label"] for row in rows).values()) == {100}
    assert set(Counter(row["beside"] for row in rows).values()) == {150}, "a column it does not name stays"


def test_rows_are_the_same_alone_in_batches_and_as_a_prefix() -> None:
    made = drawing("label = tone", listed("label", *"AB"), listed("tone", *"AB"))
    rows = drawn(made, range(60))
    assert drawn(made, range(20)) == rows[:20]
    assert [row for place in range(6) for row in drawn(made, [place])] == rows[:6]
    assert drawn(made, [*range(30, 60), *range(30)]) == [*rows[30:], *rows[:30]]


def test_the_first_allowed_draw_counts() -> None:
    values = listed("value", *"abcdef")
    for place, row in enumerate(drawn(drawing("value IN ('a', 'b', 'c', 'd')", values), range(30))):
        tries = (values.draw(place, {}, {}, attempt)[0] for attempt in range(1000))
        assert row["value"] == next(value for value in tries if value in "ef")


def test_where_the_first_column_allows_nothing_it_is_drawn_again_too() -> None:
    made = drawing("label = 'A'", listed("label", *"AB"))
    assert {row["label"] for row in drawn(made, range(40))} == {"B"}
    both = drawing(["label = 'A' AND tone IS NOT NULL"], listed("label", *"AB"), listed("tone", *"xy"))
    assert {row["label"] for row in drawn(both, range(40))} == {"B"}


def test_a_column_by_one_that_is_drawn_again_goes_with_it() -> None:
    pools = {"A": Pool(("a1", "a2")), "B": Pool(("b1", "b2"))}
    made = drawing("label = 'A'", listed("label", *"AB"), Listed("topic", SALT, TEXT, "label", pools))
    rows = drawn(made, range(40))
    assert all(row["topic"][0] == row["label"].lower() for row in rows)


def test_a_rare_allowed_value_is_found() -> None:
    values = [f"v{number}" for number in range(100)]
    made = drawing("value <> 'v7'", listed("value", *values))
    assert {row["value"] for row in drawn(made, range(5))} == {"v7"}


def test_an_exclusion_of_everything_is_an_error_with_an_example() -> None:
    made = drawing("label IS NOT NULL", listed("label", *"AB"), listed("tone", "x"))
    with pytest.raises(
        InputError,
        match=r"row 0: exclude .* allows none of 1000 draws, such as {'label': '[AB]', 'tone': 'x'}",
    ):
        drawn(made, range(3))


def test_columns_without_replacement_are_never_drawn_again() -> None:
    values = [f"v{number}" for number in range(30)]
    once = listed("value", *values, replacement=False)
    made = drawing("value = 'v3' AND tone = 'dry'", once, listed("tone", "dry", "warm"))
    rows = drawn(made, range(30))
    assert sorted(row["value"] for row in rows) == sorted(values)
    assert all(row["tone"] == "warm" for row in rows if row["value"] == "v3")
    with pytest.raises(InputError, match="allows none of"):
        drawn(drawing("value = 'v3'", once), range(30))


def test_an_exclusion_sees_columns_beside_and_named_tables(tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    from synthray.table import Table

    pq.write_table(pa.table({"tone": ["dry"]}), tmp_path / "used.parquet")
    tables = {"used": Table.find("used.parquet", tmp_path)}
    held = {"tone": listed("tone", "dry", "warm", "odd")}
    judged = exclusion(
        "tone IN (SELECT tone FROM used) OR (label = 'A' AND tone = 'odd')", "tone", "label", tables=tables
    )
    labels = ["A", "B"] * 20
    found = Drawing(held, judged).columns(
        [(f"id{place}", {}, None) for place in range(40)], pa.table({"label": labels})
    )["tone"]
    pairs = set(zip(labels, found.to_pylist(), strict=True))
    assert pairs == {("A", "warm"), ("B", "warm"), ("B", "odd")}


def test_a_predicate_that_is_null_excludes_nothing_and_no_predicate_is_none() -> None:
    assert exclusion("label = NULL", "label").excluded(pa.table({"label": ["a"]})) == [False]
    assert Exclusion.of((), pa.schema([("label", TEXT)]), Context()) is None


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("lable = 'A'", '(?s)exclude: .*"lable" not found'),
        ("label", "must be true or false for each row, but label is string"),
        ("", "must be one SQL expression, but is empty"),
        ("count(*) > 1", "(?i)aggregate"),
        ("row_number() OVER (ORDER BY label) > 1", "row_id|window"),
        ("rank() OVER (ORDER BY label) > 1", "(?i)window"),
        ("label IN (SELECT label FROM rows)", "judges each row alone, so it may not select from rows"),
        ("random() < 0.5", r"random\(\) is refused"),
    ],
)
def test_what_is_no_predicate_over_a_row_is_refused(exclude: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        exclusion(exclude, "label")


def test_a_value_that_a_predicate_cannot_take_is_an_error() -> None:
    with pytest.raises(InputError, match="exclude: Conversion Error"):
        exclusion("label::INTEGER > 3", "label").excluded(pa.table({"label": ["a"]}))
