"""What stands in a WITH, a table function or a SHOW reaches no file and tells nothing of the machine."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import QueryError
from synthray.query import Query
from synthray.table import Table


@pytest.mark.parametrize(
    "statement",
    [
        "WITH x AS (COPY (SELECT 666 AS n) TO '{path}' (USE_TMP_FILE false)) SELECT 1",
        "SELECT * FROM (WITH x AS (COPY (SELECT 666 AS n) TO '{path}' (USE_TMP_FILE false)) SELECT 1)",
        "SELECT (WITH x AS (COPY (SELECT 6 AS n) TO '{path}' (USE_TMP_FILE false)) SELECT 1)",
        "WITH x AS (INSERT INTO kept VALUES (1) RETURNING *) SELECT * FROM x",
        "WITH x AS (DELETE FROM kept RETURNING *) SELECT * FROM x",
        "WITH x AS (UPDATE kept SET n = 3 RETURNING *) SELECT * FROM x",
    ],
)
@pytest.mark.parametrize("method", ["arrow", "settled", "schema", "bind"])
def test_a_statement_in_a_with_writes_nothing(statement: str, method: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"
    pq.write_table(pa.table({"n": [1, 2]}), path)
    before = path.read_bytes()
    with Query({"kept": Table((str(path),), "parquet")}) as query, pytest.raises(QueryError):
        getattr(query, method)(statement.format(path=path))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "relation",
    [
        "read_text('{root}/*')",
        "read_parquet('{root}/*')",
        "read_csv('{root}/secret.csv')",
        "glob('{root}/*')",
        "duckdb_settings()",
        "duckdb_views()",
        "duckdb_memory()",
        "pragma_database_size()",
        "pg_settings()",
        "(SHOW TABLES)",
        "(DESCRIBE rows)",
        "(SUMMARIZE rows)",
    ],
)
def test_a_statement_of_a_recipe_sees_its_relations_alone(relation: str, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("n\n666\n")
    with Query({"rows": pa.table({"row_id": ["a"]})}, writable=tmp_path) as query:
        for statement in ("SELECT * FROM {}", "SELECT row_id FROM rows WHERE EXISTS (SELECT * FROM {})"):
            with pytest.raises(QueryError, match="refused"):
                query.settled(statement.format(relation.format(root=tmp_path)))


@pytest.mark.parametrize("call", ["version()", "current_setting('threads')", "pg_sleep(1)"])
def test_a_function_of_the_machine_is_refused(call: str) -> None:
    with Query({}) as query, pytest.raises(QueryError, match="is refused"):
        query.settled(f"SELECT {call}")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM range(3)",
        "SELECT unnest([1, 2])",
        "SELECT * FROM unnest([1, 2])",
        "SELECT * FROM generate_series(1, 3)",
        "SELECT * FROM json_each('[1, 2]')",
        "WITH x AS MATERIALIZED (SELECT 1) SELECT * FROM x UNION SELECT 2",
    ],
)
def test_what_reads_nothing_is_taken(statement: str) -> None:
    with Query({}) as query:
        assert query.rows(query.settled(statement))


@pytest.mark.parametrize(
    "call",
    [
        "sum(x)",
        "avg(x)",
        "stddev(x)",
        "corr(x, y)",
        "product(1 + x / 1e15)",
        "sum(x) FILTER (y > 0)",
        "var_pop(x)",
    ],
)
def test_sums_do_not_depend_on_the_order_of_rows(call: str) -> None:
    generator = random.Random(3)
    rows = [
        {
            "row_id": str(n),
            "x": generator.gauss(0, 1) * 10 ** generator.randrange(12),
            "y": generator.random() - 0.5,
        }
        for n in range(3000)
    ]
    answers = set()
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        with Query({"rows": pa.Table.from_pylist(rows)}) as query:
            answers.add(query.value(query.settled(f"SELECT {call} FROM rows")))
    assert len(answers) == 1
    assert math.isfinite(answers.pop())


def test_times_are_those_of_one_zone_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with Query({}) as query:
        assert (
            query.value("SELECT '2026-01-01 12:00:00+00'::TIMESTAMPTZ::VARCHAR") == "2026-01-01 12:00:00+00"
        )


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT a.row_id FROM rows a ASOF JOIN rows b ON a.n >= b.n", "ASOF join is refused"),
        ("SELECT json_group_object(row_id, n) FROM rows", "takes rows in any order"),
    ],
)
def test_what_takes_any_of_several_rows_is_refused(statement: str, message: str) -> None:
    with (
        Query({"rows": pa.table({"row_id": ["a"], "n": [1]})}) as query,
        pytest.raises(QueryError, match=message),
    ):
        query.settled(statement)
