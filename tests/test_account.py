"""What became of rows is found by the ids before and after a step, whatever the operator says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pytest
from operators import Folds, Splits, Upper

from synthray.account import CHILDLESS, account, require_unique
from synthray.errors import ConservationError
from synthray.operator import Context, Operator
from synthray.query import Query

IDS = pa.schema([("row_id", pa.string()), ("parent_id", pa.string())])
FOLDED = IDS.append(pa.field("parents", pa.list_(pa.string())))


def rows(names: str, schema: pa.Schema = IDS, **parents: Any) -> pa.Table:
    """Return rows with one-letter ids; `parents` are their parent_ids, or lists of them."""
    held = [{"row_id": name, "parent_id": "", "parents": None} for name in names]
    for row in held:
        parent = parents.get(row["row_id"])
        row.update({"parents": parent} if isinstance(parent, list) else {"parent_id": parent})
    return pa.Table.from_pylist(held, schema=schema)


@contextmanager
def over(before: str, kept: pa.Table, failed: pa.Table | None = None) -> Iterator[Query]:
    relations = {
        "before": rows(before),
        "kept_rows": kept,
        "failed_rows": rows("") if failed is None else failed,
    }
    with Query(relations) as query:
        yield query


def named(operator: Operator) -> Operator:
    return replace(operator, context=Context(step="mark"))


@pytest.mark.parametrize(
    ("operator", "before", "kept", "failed", "expected", "childless"),
    [
        (Upper(), "abc", rows("abc"), rows(""), {"kept": 3}, ""),
        (Upper(), "abc", rows("cab"), rows(""), {"kept": 3}, ""),
        (Upper(), "abc", rows("a"), rows("bc"), {"kept": 1, "failed": 2}, ""),
        (Upper(), "", rows(""), rows(""), {}, ""),
        (
            Splits(),
            "abc",
            rows("xyz", x="a", y="a", z="b"),
            rows(""),
            {"made": 3, "kept": 3, "rejected": 1, "expanded": 2},
            "c",
        ),
        (
            Splits(),
            "abc",
            rows("ax", x="a"),
            rows("yb", y="c"),
            {"made": 2, "kept": 2, "failed": 2, "expanded": 1},
            "",
        ),
        (Splits(), "ab", rows(""), rows(""), {"rejected": 2}, "ab"),
        (
            Folds(),
            "abcd",
            rows("xy", FOLDED, x=["a", "b"], y=["b", "c"]),
            rows(""),
            {"made": 2, "kept": 2, "rejected": 1, "expanded": 3},
            "d",
        ),
    ],
    ids=[
        "all kept",
        "in any order",
        "some failed",
        "no rows",
        "children",
        "a parent stays, a child failed",
        "no children at all",
        "folded",
    ],
)
def test_every_row_is_accounted_for(
    operator: Operator,
    before: str,
    kept: pa.Table,
    failed: pa.Table,
    expected: dict[str, int],
    childless: str,
) -> None:
    with over(before, kept, failed) as query:
        count = account(query, named(operator), len(before))
        left = query.rows(f"SELECT row_id FROM {CHILDLESS} ORDER BY row_id")
    held = {name.removeprefix("rows_"): value for name, value in asdict(count).items() if value}
    rows_in = {"in": len(before)} if before else {}
    assert held == {"step": "mark", "operator": "operators", **rows_in, **expected}
    assert count.conserved()
    assert "".join(name for (name,) in left) == childless


@pytest.mark.parametrize(
    ("operator", "before", "kept", "message"),
    [
        (
            Upper(),
            "abc",
            rows("ab"),
            "mark: operators lost 1 rows and made 0 (such as row_id 'c'), but an operator only",
        ),
        (Upper(), "abc", rows("abcd"), "lost 0 rows and made 1 (such as row_id 'd')"),
        (Upper(), "abc", rows("abd"), "lost 1 rows and made 1 (such as row_id 'd')"),
        (Upper(), "abc", rows("abx", x="c"), "made 1 (such as row_id 'x')"),
        (Upper(), "abc", rows("abca"), "mark: row_id 'a' is there more than once"),
        (Splits(), "ab", rows("xyx", x="a", y="b"), "row_id 'x' is there more than once"),
        (Splits(), "ab", rows("xy", x="a", y="q"), "mark: 1 new rows name no parent in the rows before"),
        (Splits(), "ab", rows("xy", x="a"), "1 new rows name no parent"),
    ],
    ids=["lost", "made", "renamed", "a child", "twice", "a child twice", "a stranger's child", "no parent"],
)
def test_rows_that_do_not_add_up_are_named(
    operator: Operator, before: str, kept: pa.Table, message: str
) -> None:
    with over(before, kept) as query, pytest.raises(ConservationError) as caught:
        account(query, named(operator), len(before))
    assert message in str(caught.value)


def test_a_row_that_is_kept_and_failed_does_not_add_up() -> None:
    with (
        over("abc", rows("abc"), rows("c")) as query,
        pytest.raises(ConservationError, match="do not add up"),
    ):
        account(query, named(Upper()), 3)


def test_what_the_stage_before_has_counted_must_be_what_is_there() -> None:
    with over("abc", rows("abc")) as query, pytest.raises(ConservationError, match="do not add up"):
        account(query, named(Upper()), 4)


@pytest.mark.parametrize(("names", "twice"), [("abc", None), ("", None), ("abca", "a")])
def test_ids_must_be_unique_in_a_relation_by_its_name(names: str, twice: str | None) -> None:
    with Query({"marked": rows(names)}) as query:
        if twice is None:
            require_unique(query, "marked", "mark")
            return
        with pytest.raises(ConservationError, match=f"^mark: row_id '{twice}' is there more than once$"):
            require_unique(query, "marked", "mark")
