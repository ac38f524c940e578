"""Each shipped mark that a recipe may name marks every row as its header says."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.query import SQL, Query, shipped
from synthray.recipe import load
from synthray.statement import Derive, Select
from synthray.step import Step

ELSEWHERE = {"exact_duplicate": "tests/curate/test_exact_duplicate.py"}
"""Marks that an operator asks, over a relation of its own; tested with it."""

KINDS: dict[str, Any] = {
    "row_id": pa.string(),
    "label": pa.string(),
    "new_label": pa.string(),
    "label_entropy": pa.float64(),
    "student_label": pa.string(),
    "student_clean": pa.float64(),
}
Row = tuple[str, str | None, str | None, float | None, str | None, float | None]


def table(rows: Sequence[Row]) -> pa.Table:
    lines = [dict(zip(KINDS, row, strict=True)) for row in rows]
    schema = [*KINDS.items(), ("parent_id", pa.string()), ("round", pa.int32())]
    return pa.Table.from_pylist(lines, schema=pa.schema(schema))


def routes(rows: Sequence[Row], seed: int = 7) -> dict[str, str]:
    """Return the route of each row, as a step of a recipe would find it."""
    step = replace(Select(shipped("marks/route.sql")), step="route")
    with Query({"rows": table(rows)}, seed=seed) as query:
        plan = step.settle(query).plan(query, "rows", guard=False)
        found = query.arrow(plan.rows)
        assert set(KINDS) < set(found.schema.names), "the rows keep their columns"
        assert plan.rejects is None or not query.rows(plan.rejects)
    return dict(zip(found["row_id"].to_pylist(), found["route"].to_pylist(), strict=True))


def test_every_shipped_mark_is_tested() -> None:
    assert {path.stem for path in (SQL / "marks").glob("*.sql")} == {"route", *ELSEWHERE}
    assert all((Path(__file__).parent.parent.parent / test).is_file() for test in ELSEWHERE.values())


@pytest.mark.parametrize(
    ("row", "route"),
    [
        (("r", "a", "a", 0.0, "a", 0.71), "keep"),
        (("r", "a", None, None, "a", 0.71), "keep"),
        (("r", "a", None, None, "a", 0.7), "human"),
        (("r", "a", None, None, "b", 1.0), "human"),
        (("r", "a", None, None, None, None), "human"),
        (("r", None, None, None, "a", 1.0), "human"),
    ],
)
def test_a_row_that_student_and_model_confirm_is_kept_and_one_without_a_model_is_a_humans(
    row: Row, route: str
) -> None:
    assert routes([row]) == {"r": route}


def test_of_the_others_those_with_the_least_entropy_go_to_the_model() -> None:
    rows: list[Row] = [(f"r{n}", "a", "b", n / 10, "a", 0.9) for n in range(10)]
    rows += [(f"kept{n}", "a", "a", 0.0, "a", 0.9) for n in range(50)]
    rows += [(f"open{n}", "a", None, None, "b", 0.9) for n in range(5)]
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        found = routes(rows)
        assert [found[f"r{n}"] for n in range(10)] == ["model"] * 8 + ["human"] * 2
        assert {found[f"kept{n}"] for n in range(50)} == {"keep"}
        assert {found[f"open{n}"] for n in range(5)} == {"human"}


def test_of_equal_entropies_those_in_which_the_student_sides_with_the_model_come_first() -> None:
    rows: list[Row] = [(f"r{n:02}", "a", "b", 0.5, "b" if n >= 84 else "a", 0.1) for n in range(100)]
    found = routes(rows)
    assert {found[f"r{n}"] for n in range(84, 100)} == {"model"}
    others = [found[f"r{n:02}"] for n in range(84)]
    assert others.count("human") == 20
    assert routes(rows[::-1]) == found
    assert routes(rows, seed=8) != found, "chance is the seed's"
    assert others != ["model"] * 64 + ["human"] * 20, "not simply the first"


def test_nulls_are_routed_and_no_rows_are_no_error() -> None:
    assert routes([("r", None, None, None, None, None)]) == {"r": "human"}
    assert routes([]) == {}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_recipe_names_it_and_changes_the_labels_by_it(tmp_path: Path) -> None:
    rows: list[Row] = [(f"r{n}", "a", "b", n / 10, "a", 0.1) for n in range(10)]
    pq.write_table(table(rows), tmp_path / "rows.parquet")
    path = tmp_path / "recipe.yaml"
    path.write_text("steps:\n  - source.table: {path: rows.parquet}\n  - sql: marks/route.sql\n")
    steps = [*load(path).steps, Step(Derive({"label": "if(route = 'model', new_label, label)"}))]
    run = replace(load(path), steps=steps).run(tmp_path / "run", quiet=True)
    found = run.sql("SELECT label, count(*) AS n FROM dataset GROUP BY label ORDER BY label").to_pylist()
    assert found == [{"label": "a", "n": 2}, {"label": "b", "n": 8}]
