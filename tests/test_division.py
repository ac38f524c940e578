"""Statements that are divided among machines answer as if they were not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray import division
from synthray.chain import FIRST, Chain
from synthray.ledger import Ledger
from synthray.lineage import IDENTITY
from synthray.query import Query
from synthray.statement import Derive, Select, Statement, Union, Where
from synthray.table import Table

ROWS = [
    {
        "row_id": f"r{number:03}",
        "parent_id": None,
        "round": 0,
        "label": "xyz"[number % 3] if number % 10 else None,
        "score": (number * 7919) % 101,
        "Text": f"text {number % 13}",
    }
    for number in range(200)
]
TOP = Where("row_number() OVER (PARTITION BY label ORDER BY score DESC, row_id) <= 20", "top", step="top")
SHORT = Where("length(\"Text\") < 7 AND chance(row_id, 'x') < 0.8", "short", step="short")
RANK = Derive({"rank": "rank() OVER (PARTITION BY LABEL, round ORDER BY score)"}, step="rank")


@pytest.fixture
def rows(tmp_path: Path) -> Table:
    files = []
    for number in range(4):
        files.append(str(tmp_path / f"rows-{number}.parquet"))
        pq.write_table(pa.Table.from_pylist(ROWS[number::4], schema=SCHEMA), files[-1])
    return Table(tuple(files), "parquet")


SCHEMA = pa.schema(
    [
        *IDENTITY.items(),
        ("label", pa.string()),
        ("score", pa.int64()),
        ("Text", pa.string()),
    ]
)


@pytest.fixture(scope="module")
def query() -> Iterator[Query]:
    with Query({"rows": SCHEMA.empty_table(), "other": SCHEMA.empty_table()}) as held:
        yield held


@pytest.mark.parametrize(
    ("statements", "together"),
    [
        pytest.param([Where("score > 3")], (), id="row by row"),
        pytest.param([Where("score > 3"), Derive({"a": "score + 1"})], (), id="several"),
        pytest.param([TOP], ("label",), id="a window"),
        pytest.param([SHORT, TOP, RANK], ("label",), id="what windows share"),
        pytest.param([RANK], ("label", "round"), id="two columns"),
        pytest.param([Where("row_number() OVER (ORDER BY score) < 9")], None, id="over all rows"),
        pytest.param([TOP, Where("count(*) OVER (PARTITION BY round) > 1")], None, id="nothing shared"),
        pytest.param([Where("count(*) OVER (PARTITION BY lower(label)) > 1")], None, id="an expression"),
        pytest.param([Where("score > (SELECT avg(score) FROM rows)")], None, id="a subquery"),
        pytest.param([Select("SELECT row_id FROM rows")], None, id="a whole statement"),
        pytest.param([Where("score > 3"), Union("other")], None, id="a union"),
    ],
)
def test_rows_stay_together_as_windows_need_it(
    query: Query, statements: list[Statement], together: tuple[str, ...] | None
) -> None:
    assert division.keys([one.settle(query) for one in statements], query) == together


def settled(query: Query, statements: list[Statement]) -> list[Statement]:
    return [one.settle(query) for one in statements]


def read(files: list[str]) -> list[dict[str, object]]:
    return sorted((row for file in files for row in pq.read_table(file).to_pylist()), key=str)


@pytest.mark.parametrize("statements", [[SHORT], [TOP], [SHORT, TOP, RANK]], ids=["rows", "window", "chain"])
@pytest.mark.parametrize("of", [1, 3, 7], ids=lambda of: f"{of} shares")
def test_shares_make_the_whole(
    rows: Table, query: Query, statements: list[Statement], of: int, tmp_path: Path
) -> None:
    chain = settled(query, statements)
    (tmp_path / "whole").mkdir()
    whole = Ledger(tmp_path / "whole")
    with Query({FIRST: rows}, seed=3, writable=whole.path) as connection:
        counts = Chain(chain, connection, whole).run(len(ROWS))
    together = division.keys(chain, query)
    assert together is not None
    shares = [
        division.share(chain, rows, together, number, of, tmp_path / f"share-{number}", 3)
        for number in range(of)
    ]
    ledger = Ledger(tmp_path)
    found = division.joined([share for share in shares if share], ledger)
    assert [(c.step, c.rows_in, c.rows_kept, c.rows_rejected) for c in found] == [
        (c.step, c.rows_in, c.rows_kept, c.rows_rejected) for c in counts
    ]
    assert 0 < counts[-1].rows_kept < len(ROWS)
    assert read(ledger.files) == read(whole.files)
    assert read(ledger.rejects) == read(whole.rejects)


def test_a_value_that_makes_sql_fail_calls_off_the_division(
    rows: Table, query: Query, tmp_path: Path
) -> None:
    chain = settled(query, [Where('"Text"::INTEGER > 3')])
    assert division.share(chain, rows, (), 0, 2, tmp_path / "share", 3) is None
