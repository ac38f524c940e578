from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from synthray.errors import QueryError, RecipeError
from synthray.query import Query
from synthray.statement import Derive, Plan, Select, Statement, Union, Where, require_table

ROWS = [
    {"row_id": "a", "grp": "x", "n": 1, "text": "1"},
    {"row_id": "b", "grp": "x", "n": 2, "text": "2"},
    {"row_id": "c", "grp": "y", "n": 3, "text": "three"},
    {"row_id": "d", "grp": "y", "n": None, "text": None},
]
SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("parent_id", pa.string()),
        ("round", pa.int32()),
        ("grp", pa.string()),
        ("n", pa.int64()),
        ("text", pa.string()),
    ]
)
TABLES = {
    "more": pa.table({"text": ["1", "new", "new"], "extra": [True, None, False]}),
    "own": pa.table({"row_id": ["mine"], "parent_id": ["p"], "round": pa.array([2], pa.int32()), "n": [9]}),
    "conflict": pa.table({"n": ["9"]}),
    "nulls": pa.table({"n": pa.nulls(1)}),
    "same": pa.table({"grp": ["x"], "n": [1], "text": ["1"]}),
}


@pytest.fixture(scope="module")
def query() -> Iterator[Query]:
    rows = pa.Table.from_pylist([{"round": 0, **row} for row in ROWS], schema=SCHEMA)
    with Query({"rows": rows, **TABLES}, seed=7) as held:
        yield held


def plan(query: Query, statement: Statement, *, guard: bool = False) -> Plan:
    return replace(statement, step="here").settle(query).plan(query, "rows", guard=guard)


def answer(query: Query, sql: str | None) -> list[dict[str, Any]]:
    assert sql is not None
    return sorted(query.arrow(sql).to_pylist(), key=lambda row: str(row.get("row_id")))


def ids(query: Query, sql: str | None) -> str:
    return "".join(str(row["row_id"]) for row in answer(query, sql))


def column(query: Query, sql: str | None, name: str) -> list[Any]:
    return [row[name] for row in answer(query, sql)]


# where


def test_where_keeps_true_and_rejects_the_rest_with_the_reason(query: Query) -> None:
    done = plan(query, Where("n > 1", "small"))
    assert ids(query, done.rows) == "bc"
    assert query.arrow(done.rows).schema == SCHEMA
    assert answer(query, done.rejects) == [
        {"row_id": "a", "step": "here", "reason": "small"},
        {"row_id": "d", "step": "here", "reason": "small:null"},
    ]
    assert done.failures is None


def test_where_without_a_reason_gives_the_predicate_as_the_reason(query: Query) -> None:
    done = plan(query, Where("grp = 'x'"))
    assert column(query, done.rejects, "reason") == ["(grp = 'x')"] * 2


def test_a_reason_may_hold_quotes(query: Query) -> None:
    assert column(query, plan(query, Where("n > 2", "it's")).rejects, "reason")[0] == "it's"


def test_a_window_in_where_sees_the_rows_that_are_rejected(query: Query) -> None:
    done = plan(query, Where("n < 3 AND count(*) OVER () = 4 AND max(n) OVER () = 3", "r"))
    assert ids(query, done.rows) == "ab"
    assert ids(query, done.rejects) == "cd"


def test_where_takes_one_row_of_each_group_by_a_window(query: Query) -> None:
    done = plan(query, Where("row_number() OVER (PARTITION BY grp) = 1", "again"))
    assert (ids(query, done.rows), ids(query, done.rejects)) == ("ac", "bd")


def test_a_row_whose_cast_raises_is_failed_in_the_guarded_plan_and_neither_kept_nor_rejected(
    query: Query,
) -> None:
    with pytest.raises(QueryError, match="three"):
        query.arrow(plan(query, Where("text::INTEGER > 1", "r")).rows)
    done = plan(query, Where("text::INTEGER > 1", "r"), guard=True)
    assert ids(query, done.rows) == "b"
    assert [(row["row_id"], row["reason"]) for row in answer(query, done.rejects)] == [
        ("a", "r"),
        ("d", "r:null"),
    ]
    assert [(row["row_id"], row["text"]) for row in answer(query, done.failures)] == [("c", "three")]


def test_a_cast_that_raises_under_a_window_is_refused_with_the_cure(query: Query) -> None:
    with pytest.raises(QueryError, match="use TRY_CAST"):
        plan(query, Where("sum(text::INTEGER) OVER () > 1", "r"), guard=True)


def test_when_lets_the_other_rows_pass_by(query: Query) -> None:
    done = plan(query, Where("n > 5", "r", when="grp = 'x' AND n = 2"))
    assert (ids(query, done.rows), ids(query, done.rejects)) == ("acd", "b")


def test_a_null_when_is_no_when(query: Query) -> None:
    assert ids(query, plan(query, Where("false", "r", when="n > 0")).rows) == "d"


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("n", "must be true or false for each row, but n is int64"),
        ("lenght(text) > 1", 'Did you mean "length"'),
        ("txet = 'a'", 'Candidate bindings: "text"'),
        ("random() < 0.5", r"chance\(row_id, 'tag'\)"),
        ("n > 1; DROP VIEW rows", "syntax error"),
        ("COLUMNS(*) IS NOT NULL", "one value for each row"),
        ("", "one SQL expression"),
    ],
)
def test_a_predicate_is_checked_before_anything_runs(query: Query, predicate: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Where(predicate, "r", step="here").settle(query)


def test_an_aggregate_is_no_predicate(query: Query) -> None:
    with pytest.raises(QueryError, match="must appear in the GROUP BY"):
        Where("count(*) > 1", "r", step="here").settle(query).schema(query)


# derive


def test_derive_replaces_and_adds_over_the_rows_as_they_were(query: Query) -> None:
    done = plan(query, Derive({"n": "n * 10", "before": "n", "text": "grp", "grp": "text"}))
    assert query.arrow(done.rows).schema.names == [*SCHEMA.names, "before"]
    assert answer(query, done.rows)[0] == {
        **{"row_id": "a", "parent_id": None, "round": 0},
        **{"grp": "1", "text": "x", "n": 10, "before": 1},
    }
    assert ids(query, done.rows) == "abcd"


def test_derive_does_not_see_what_it_makes(query: Query) -> None:
    with pytest.raises(QueryError, match=r'"one" not found'):
        plan(query, Derive({"one": "n", "two": "one + 1"}))


def test_derive_with_when_leaves_the_other_rows_their_value_or_null(query: Query) -> None:
    done = plan(query, Derive({"n": "-1", "mark": "'x'"}, when="grp = 'x'"))
    assert column(query, done.rows, "n") == [-1, -1, 3, None]
    assert column(query, done.rows, "mark") == ["x", "x", None, None]


def test_a_row_whose_derived_value_raises_is_failed_once(query: Query) -> None:
    done = plan(query, Derive({"one": "text::INTEGER", "two": "text::DOUBLE"}), guard=True)
    assert column(query, done.rows, "one") == [1, 2, None]
    assert ids(query, done.rows) == "abd"
    assert ids(query, done.failures) == "c"


def test_derive_takes_windows_and_odd_names(query: Query) -> None:
    done = plan(query, Derive({'a "b"': "row_number() OVER (ORDER BY grp DESC)"}))
    assert column(query, done.rows, 'a "b"') == [3, 4, 1, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"row_id": "text"}, "row_id: the name is reserved"),
        ({"Row_ID": "text"}, "Row_ID: the name is reserved"),
        ({"reject_reason": "text"}, "reserved"),
        ({"Text": "grp"}, "'Text' differs from 'text' in case alone"),
        ({"new": "1", "New": "2"}, "'New' differs from 'new' in case alone"),
        ({"m": "unnest([1, 2])"}, "one value for each row"),
        ({"m": "nn + 1"}, 'Candidate bindings: "n"'),
        ({"m": "now()"}, r"chance\("),
    ],
)
def test_a_derived_column_is_checked_before_anything_runs(
    query: Query, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        Derive(columns, step="here").settle(query)


# sql as a filter


def test_a_select_with_row_id_is_a_filter_with_columns(query: Query) -> None:
    sql = "SELECT row_id, n * 2 AS n, rank() OVER (ORDER BY n DESC) AS place FROM rows WHERE n > 1"
    done = plan(query, Select(sql, "low"))
    assert [(row["row_id"], row["text"], row["n"], row["place"]) for row in answer(query, done.rows)] == [
        ("b", "2", 4, 2),
        ("c", "three", 6, 1),
    ]
    assert answer(query, done.rejects) == [
        {"row_id": row, "step": "here", "reason": "low"} for row in ("a", "d")
    ]
    assert done.made is None and done.expanded is None
    assert all(not query.rows(sql) for sql in done.forbidden)


def test_a_filter_cannot_change_a_rows_lineage(query: Query) -> None:
    done = plan(query, Select("SELECT row_id, 'other' AS parent_id, 9 AS round FROM rows"))
    assert query.arrow(done.rows).schema.names == SCHEMA.names
    assert {(row["parent_id"], row["round"]) for row in answer(query, done.rows)} == {(None, 0)}


@pytest.mark.parametrize(
    ("sql", "meaning", "found"),
    [
        ("SELECT row_id FROM rows UNION ALL SELECT 'b'", "answers a row twice", "b"),
        ("SELECT row_id FROM rows UNION ALL SELECT 'zz'", "answers an unknown row", "zz"),
        ("SELECT NULL::VARCHAR AS row_id", "answers an unknown row", None),
    ],
    ids=["repeated", "unknown", "null"],
)
def test_a_filter_may_answer_each_row_once_and_no_other(
    query: Query, sql: str, meaning: str, found: str | None
) -> None:
    done = plan(query, Select(sql))
    broken = {text: query.rows(check) for check, text in done.forbidden.items() if query.rows(check)}
    assert broken == {meaning: [(found,)]}


def test_a_filter_cannot_add_a_reserved_column(query: Query) -> None:
    with pytest.raises(QueryError, match="reject_reason are reserved"):
        plan(query, Select("SELECT row_id, 'x' AS reject_reason FROM rows"))


def test_a_select_joins_named_tables(query: Query) -> None:
    done = plan(query, Select("SELECT row_id, extra FROM rows JOIN more USING (text)"))
    assert [(row["row_id"], row["extra"]) for row in answer(query, done.rows)] == [("a", True)]


# sql as a measurement


def test_a_select_with_metric_and_value_measures_and_leaves_the_rows(query: Query) -> None:
    sql = "SELECT 'share' AS metric, count(n) / count(*) AS value, count(*) AS n FROM rows"
    done = plan(query, Select(sql))
    assert ids(query, done.rows) == "abcd"
    assert done.rejects is None and done.made is None
    assert answer(query, done.metrics) == [
        {
            **{"step": "here", "metric": "share", "value": 0.75, "n": 4},
            **{"ci_low": None, "ci_high": None, "slice": None},
        }
    ]


# sql as a new table


def test_a_select_without_row_id_is_a_new_table_into_which_all_rows_go(query: Query) -> None:
    done = plan(query, Select("SELECT grp, count(*) AS size FROM rows GROUP BY grp"))
    made = answer(query, done.made)
    assert made == answer(query, done.rows)
    assert sorted((row["grp"], row["size"]) for row in made) == [("x", 2), ("y", 2)]
    assert len({row["row_id"] for row in made} | set("abcd")) == 6
    assert ids(query, done.expanded) == "abcd"
    assert done.rejects is None


def test_parents_name_the_rows_that_were_folded_and_the_others_are_rejected(query: Query) -> None:
    sql = "SELECT grp, list(row_id) AS parents FROM rows WHERE grp = 'x' GROUP BY grp"
    done = plan(query, Select(sql, "no_group"))
    assert column(query, done.rows, "parents") == [["a", "b"]]
    assert ids(query, done.expanded) == "ab"
    assert [(row["row_id"], row["reason"]) for row in answer(query, done.rejects)] == [
        ("c", "no_group"),
        ("d", "no_group"),
    ]
    assert all(not query.rows(sql) for sql in done.forbidden)


def test_parents_that_are_no_rows_are_found(query: Query) -> None:
    done = plan(query, Select("SELECT 1 AS one, ['a', 'zz'] AS parents"))
    found = {text: query.rows(sql) for sql, text in done.forbidden.items()}
    assert found == {"parents names no such row": [("zz",)]}


def test_a_select_is_settled_and_takes_no_when(query: Query) -> None:
    with pytest.raises(QueryError, match=r"chance\("):
        Select("SELECT row_id FROM rows ORDER BY random()").settle(query)
    with pytest.raises(QueryError, match="takes no `when`"):
        Select("SELECT row_id FROM rows", when="n > 1").settle(query)
    with pytest.raises(QueryError, match="must be one SELECT, but is DROP"):
        Select("DROP VIEW rows").settle(query)


# union


def test_a_union_appends_rows_and_fills_missing_columns_with_nulls(query: Query) -> None:
    done = plan(query, Union("more"))
    rows = query.arrow(done.rows)
    assert rows.schema.names == [*SCHEMA.names, "extra"]
    assert len(set(rows["row_id"].to_pylist())) == 7
    assert column(query, done.rows, "grp").count(None) == 3
    assert sorted(column(query, done.made, "text")) == ["1", "new", "new"]
    assert {row["round"] for row in answer(query, done.made)} == {0}


def test_rows_of_a_union_keep_the_row_ids_they_bring(query: Query) -> None:
    done = plan(query, Union("own"))
    made = next(row for row in answer(query, done.rows) if row["row_id"] == "mine")
    assert (made["parent_id"], made["round"], made["n"], made["text"]) == ("p", 2, 9, None)


def test_equal_rows_of_two_unions_are_two_rows(query: Query) -> None:
    one, two = (Union("same", step=step).plan(query, "rows", guard=False) for step in ("one", "two"))
    assert ids(query, one.made) != ids(query, two.made)


def test_a_column_of_two_types_is_refused_with_the_cure(query: Query) -> None:
    with pytest.raises(QueryError, match="'n' is int64 in the rows, but string in conflict; derive one"):
        plan(query, Union("conflict"))


def test_a_column_of_nulls_fits_every_type(query: Query) -> None:
    done = plan(query, Union("nulls"))
    assert query.arrow(done.rows).schema.field("n").type == pa.int64()


def test_a_union_takes_no_when(query: Query) -> None:
    with pytest.raises(QueryError, match="takes no `when`"):
        Union("more", when="n > 1").settle(query)


# All of them


@pytest.mark.parametrize(
    ("statement", "added"),
    [
        (Where("n > 1"), []),
        (Derive({"m": "n + 1"}), ["m"]),
        (Select("SELECT row_id, 1 AS m FROM rows"), ["m"]),
        (Select("SELECT 'a' AS metric, 1 AS value"), []),
        (Union("more"), ["extra"]),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_the_schema_after_is_known_from_empty_rows(statement: Statement, added: list[str]) -> None:
    empty = {name: held.slice(0, 0) for name, held in TABLES.items()}
    with Query({"rows": SCHEMA.empty_table(), **empty}) as query:
        after = replace(statement, step="here").settle(query).schema(query)
    assert sorted(after.names) == sorted([*SCHEMA.names, *added])


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (Where("n > (SELECT max(n) FROM own)"), {"rows", "own"}),
        (Derive({"a": "1", "b": "(SELECT count(*) FROM more)"}), {"rows", "more"}),
        (Select("SELECT row_id FROM rows ANTI JOIN own USING (row_id)"), {"rows", "own"}),
        (Union("more"), {"more"}),
    ],
    ids=["where", "derive", "sql", "union"],
)
def test_what_a_statement_asks_names_the_tables_it_reads(
    query: Query, statement: Statement, named: set[str]
) -> None:
    assert {name for sql in statement.sql() for name in query.named(sql)} == named


def test_statements_are_chained_over_any_relation(query: Query) -> None:
    query.view("kept", plan(query, Where("n < 3", "r")).rows)
    after = Derive({"m": "n + 1"}, step="two").plan(query, "kept", guard=False)
    assert column(query, after.rows, "m") == [2, 3]


def test_a_table_that_the_recipe_lacks_is_named_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no table 'topcis'; did you mean 'topics'"):
        require_table("topcis", {"topics": 1, "test": 2})
    with pytest.raises(RecipeError, match="the recipe has no tables"):
        require_table("topics", {})
    require_table("topics", {"topics": 1})
