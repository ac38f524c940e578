"""No statement runs for ever, and none takes more memory than it may: it spills, or says what to do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from synthray.errors import InputError, QueryError
from synthray.query import MEMORY_MB, TIMEOUT_S, Query, _without_files, limit

ENDLESS = "SELECT count(*) FROM range(1000000000000) a, range(1000) b WHERE hash(a.range) = b.range"


@pytest.mark.parametrize("way", ["arrow", "write"])
def test_a_statement_that_runs_for_ever_is_ended(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_S, "1")
    with Query({}, writable=tmp_path) as query:
        with pytest.raises(QueryError, match=f"longer than 1 s and was ended; set {TIMEOUT_S}"):
            query.arrow(ENDLESS) if way == "arrow" else query.write(ENDLESS, tmp_path / "x.parquet")
        assert query.value("SELECT 1") == 1, "the connection answers on"


@pytest.mark.parametrize(
    "statement",
    [
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT * FROM t",
        "SELECT (WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t)",
    ],
)
def test_a_statement_of_a_recipe_may_not_call_itself(statement: str) -> None:
    with Query({}) as query, pytest.raises(QueryError, match="WITH RECURSIVE is refused"):
        query.settled(statement)


def test_what_does_not_fit_into_memory_goes_to_the_disk_and_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEMORY_MB, "400")  # the sorted rows take more than twice as much
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _without_files.cache_clear()  # the database of earlier tests spills elsewhere
    sorted_rows = "SELECT row_number() OVER (PARTITION BY i % 1000 ORDER BY md5(i::VARCHAR)) AS r"
    with Query({}) as query:
        assert query.rows(f"SELECT count(*), max(r) FROM ({sorted_rows} FROM range(8000000) t(i))") == [
            (8_000_000, 8000)
        ]
    assert [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()] == [0], "a lock alone"
    _without_files.cache_clear()  # as at the end of the process
    assert not list(tmp_path.iterdir())


def test_what_fits_nowhere_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY_MB, "100")
    with Query({}) as query:
        with pytest.raises(QueryError, match=rf"more memory than {MEMORY_MB} allows \(100 MiB\)"):
            query.arrow("SELECT list(i) FROM range(100000000) t(i)")
        assert query.value("SELECT 1") == 1


@pytest.mark.parametrize("value", ["0", "-1", "1GB", "1.5", "x"])
@pytest.mark.parametrize("name", [MEMORY_MB, TIMEOUT_S])
def test_a_bound_that_is_none_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name} must be a whole number above 0, but is '{value}'"):
        limit(name)


def test_the_bounds_have_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MEMORY_MB, TIMEOUT_S):
        monkeypatch.delenv(name, raising=False)
    assert (limit(MEMORY_MB), limit(TIMEOUT_S)) == (1024, 3600)
    with Query({}) as query:
        assert query.value("SELECT current_setting('memory_limit')") == "1.0 GiB"
    assert MEMORY_MB not in os.environ
