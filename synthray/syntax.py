"""A SELECT's syntax tree, as DuckDB writes it: what it may hold, and what gives one input one answer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from synthray.errors import QueryError

CLOCK = frozenset({"current_timestamp", "current_date", "current_time", "localtime", "localtimestamp"})
HIDDEN = frozenset(
    {
        *("ago", "current_localtime", "current_localtimestamp", "pg_conf_load_time"),
        *("pg_postmaster_start_time", "reservoir_quantile"),
        *("query", "query_table", "json_execute_serialized_sql"),
        *("version", "current_setting", "pg_sleep"),
    }
)
"""What reads the clock or the machine, draws lots or runs other SQL, though DuckDB does not say so."""

TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "generate_subscripts", "repeat_row"),
        *("json_each", "json_tree", "regexp_split_to_table"),
    }
)
"""Table functions that read neither a file nor the machine."""

_QUERIES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""What a SELECT is made of; others write, though they stand in a WITH."""

ORDERED = frozenset(
    {
        *("first", "last", "any_value", "arbitrary", "list", "array_agg"),
        *("string_agg", "group_concat", "listagg", "mode", "approx_quantile", "approx_top_k"),
        *("arg_max", "arg_min", "arg_max_null", "arg_min_null", "arg_max_nulls_last", "arg_min_nulls_last"),
        *("argmax", "argmin", "max_by", "min_by"),
    }
)
"""Aggregates whose answer depends on the order of their input."""

_FLOATING = frozenset(
    {
        *(
            "sum",
            "avg",
            "mean",
            "favg",
            "fsum",
            "kahan_sum",
            "sumkahan",
            "product",
            "geomean",
            "geometric_mean",
        ),
        *("stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp", "sem", "skewness"),
        *("kurtosis", "kurtosis_pop", "corr", "covar_pop", "covar_samp", "entropy"),
        *("regr_avgx", "regr_avgy", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy"),
        "regr_syy",
    }
)
"""Aggregates that add up: the last digits of floating point numbers depend on the order."""

_UNORDERED = {
    "json_group_array": "to_json(list(x))",
    "variant_group_array": "list(x)",
    "json_group_object": "to_json(map_from_entries(list((k, v))))",
    "json_group_structure": "json_structure(to_json(list(x)))",
}
"""Macros over an ordered aggregate that take no ORDER BY, and what does."""

POSITIONAL = frozenset(f"WINDOW_{name}" for name in ("ROW_NUMBER", "NTILE", "LEAD", "LAG"))
"""Windows whose answer tells apart rows that their ORDER BY holds equal; rank() does not."""

CHOSEN = frozenset(f"WINDOW_{name}" for name in ("FIRST_VALUE", "LAST_VALUE", "NTH_VALUE"))
"""Windows that choose a row of their frame."""

MULTIPLIES = frozenset({"unnest", "generate_subscripts", "regexp_split_to_table"})
"""Functions that make several rows of one."""


def check_queries(tree: dict[str, Any]) -> None:
    """Raise a QueryError when something that is no SELECT stands in a WITH."""
    for node in nodes(tree):
        kind = str(node.get("type"))
        if kind.endswith("_NODE") and kind not in _QUERIES:
            raise QueryError(f"must be one SELECT, but holds {kind.removesuffix('_QUERY_NODE')}")


def settle(tree: dict[str, Any]) -> None:
    """Change a tree so that one input has one answer: row_id becomes the last sort key.

    It is added to windows, order-sensitive aggregates and to a LIMIT's ORDER BY. Raises QueryError for
    random(), now() and their like, for samples, and for what reads files or the machine or may never end.
    """
    for node in nodes(tree):
        _refuse_volatile(node)
        _refuse_machine(node)
        if node.get("type") == "RECURSIVE_CTE_NODE":
            raise QueryError("WITH RECURSIVE is refused, since it may never end")
        _add_order(node)


def nodes(tree: Any, *, subqueries: bool = True) -> Iterator[dict[str, Any]]:
    """Yield every node of a tree; without `subqueries` those of its own query alone."""
    if isinstance(tree, dict):
        yield tree
        if not subqueries and tree.get("class") == "SUBQUERY":
            tree = tree["child"]
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from nodes(part, subqueries=subqueries)


def _add_order(node: dict[str, Any]) -> None:
    if node.get("class") == "WINDOW":
        if node["type"] in CHOSEN or node["function_name"].lower() in ORDERED:
            # Not into OVER (...), where a sort key would also narrow the frame that the function is over.
            node["arg_orders"] = node["arg_orders"] or list(node["orders"])
            _append_key(node["arg_orders"])
        if node["type"] in POSITIONAL or "ROWS" in f"{node['start']}_{node['end']}".split("_"):
            _append_key(node["orders"])
    elif node.get("class") == "FUNCTION" and node["function_name"].lower() in _FLOATING:
        node["order_bys"]["orders"] = [_key(argument["expression"]) for argument in node["arguments"]]
    elif node.get("class") == "FUNCTION" and node["function_name"].lower() in ORDERED:
        orders = node["order_bys"]["orders"]
        if not node["distinct"]:
            _append_key(orders)
        elif not orders:
            # The values are all that is left to sort by.
            orders.append(_key(node["arguments"][0]["expression"]))
    elif node.get("type") in ("SELECT_NODE", "SET_OPERATION_NODE"):
        kinds = {modifier["type"] for modifier in node["modifiers"]}
        if kinds & {"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"}:
            _order_modifier(node)


def _order_modifier(node: dict[str, Any]) -> None:
    distinct_on = any(modifier.get("distinct_on_targets") for modifier in node["modifiers"])
    limit = any(modifier["type"].startswith("LIMIT") for modifier in node["modifiers"])
    if not (limit or distinct_on):
        return
    for modifier in node["modifiers"]:
        if modifier["type"] == "ORDER_MODIFIER":
            _append_key(modifier["orders"])
            return
    node["modifiers"].insert(0, {"type": "ORDER_MODIFIER", "orders": [_KEY]})


def _key(expression: dict[str, Any]) -> dict[str, Any]:
    return {"type": "ORDER_DEFAULT", "null_order": "ORDER_DEFAULT", "expression": expression}


_KEY = _key({"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": ["row_id"]})


def _append_key(orders: list[dict[str, Any]]) -> None:
    last = orders[-1]["expression"].get("column_names", []) if orders else []
    if last[-1:] != ["row_id"]:
        orders.append(_KEY)


def _refuse_volatile(node: dict[str, Any]) -> None:
    found = ""
    if node.get("class") == "FUNCTION":
        name = node["function_name"].lower()
        # age(x) is measured from today, age(x, y) is not.
        if name in _volatile_functions() or (name == "age" and len(node["arguments"]) == 1):
            found = f"{name}()"
        if name in _UNORDERED:
            raise QueryError(f"{name}() takes rows in any order; use {_UNORDERED[name]}")
    if node.get("class") == "COLUMN_REF" and node["column_names"][-1].lower() in CLOCK:
        found = node["column_names"][-1]
    if found:
        raise QueryError(
            f"{found} is refused, since its answer changes from run to run; "
            "chance(row_id, 'tag') is a seeded number in [0, 1)"
        )
    if node.get("ref_type") == "ASOF":
        raise QueryError("an ASOF join is refused, since it takes any of equal rows; use a window and row_id")
    if node.get("ref_type") == "POSITIONAL":
        raise QueryError("a positional join is refused, since rows have no positions; join by row_id")
    if node.get("sample"):
        raise QueryError("a sample is refused; use: WHERE chance(row_id, 'tag') < 0.1")


def _refuse_machine(node: dict[str, Any]) -> None:
    """Refuse what shows files, settings or the state of the machine as a table."""
    if node.get("type") == "SHOW_REF":
        raise QueryError("SHOW, DESCRIBE and SUMMARIZE are refused in a recipe; select from a relation")
    if node.get("type") == "TABLE_FUNCTION":
        name = node["function"]["function_name"].lower()
        if name not in TABLE_FUNCTIONS:
            raise QueryError(
                f"the table function {name}() is refused; a statement sees rows and the recipe's tables, so "
                f"name a file under tables:. Allowed are {', '.join(sorted(TABLE_FUNCTIONS))}"
            )


@functools.cache
def _volatile_functions() -> frozenset[str]:
    import duckdb

    with duckdb.connect() as connection:
        answer = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE stability <> 'CONSISTENT' AND function_name NOT IN ('error', 'getvariable')"
        ).fetchall()
    return HIDDEN | {str(row[0]) for row in answer}
