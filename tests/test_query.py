import random
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from synthray.errors import InputError, QueryError
from synthray.query import Query, shipped
from synthray.spelling import identifier
from synthray.table import Table

ROWS = [
    {"row_id": f"r{number:02d}", "grp": "xyz"[number % 3], "n": number // 4, "text": f"t{number % 5}"}
    for number in range(24)
]


def table(seed: int = 0) -> pa.Table:
    """Return ROWS, shuffled unless the seed is 0."""
    held = list(ROWS)
    if seed:
        random.Random(seed).shuffle(held)
    return pa.Table.from_pylist(held)


@pytest.fixture(scope="module")
def query() -> Iterator[Query]:
    with Query({"rows": table()}, seed=7) as held:
        yield held


@pytest.fixture(scope="module")
def shuffled() -> Iterator[list[Query]]:
    held = [Query({"rows": table(seed)}, seed=7) for seed in (0, 1, 2)]
    yield held
    for one in held:
        one.close()


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Query, Path]]:
    """A query that may read allowed/a.csv and write into writable/, and the folder with its secrets."""
    root = tmp_path_factory.mktemp("shut")
    for folder in ("allowed", "writable"):
        (root / folder).mkdir()
    (root / "allowed" / "a.csv").write_text("n\n1\n2\n")
    (root / "allowed" / "beside.csv").write_text("n\n666\n")
    (root / "secret.csv").write_text("n\n666\n")
    (root / "allowed" / "link.csv").symlink_to(root / "secret.csv")
    listed = Table.find("a.csv", root / "allowed")
    with Query({"listed": listed}, writable=root / "writable") as held:
        yield held, root


# The sandbox.


def test_listed_files_are_read(shut: tuple[Query, Path]) -> None:
    query, root = shut
    assert query.rows("SELECT n FROM listed ORDER BY n") == [(1,), (2,)]
    assert query.value(f"SELECT count(*) FROM '{root}/allowed/a.csv'") == 2


@pytest.mark.parametrize(
    "relation",
    [
        "'{root}/secret.csv'",
        "'{root}/allowed/beside.csv'",
        "'{root}/allowed/link.csv'",
        "'{root}/allowed/../secret.csv'",
        "'{root}/writable/../secret.csv'",
        "'{root}/allowed/*.csv'",
        "read_csv('{root}/secret.csv')",
        "read_text('{root}/secret.csv')",
        "read_blob('{root}/secret.csv')",
        "glob('{root}/*')",
        "sniff_csv('{root}/secret.csv')",
        "'https://localhost:1/secret.csv'",
        "'s3://bucket/secret.parquet'",
        "query('FROM ''{root}/secret.csv''')",
    ],
)
def test_nothing_else_is_read(shut: tuple[Query, Path], query: Query, relation: str) -> None:
    for held in (shut[0], query):  # one that may read a file, and one that may read none
        with pytest.raises(QueryError, match=r"Permission Error|Missing Extension|disabled"):
            held.rows(f"SELECT * FROM {relation.format(root=shut[1])}")


def test_queries_that_read_no_file_see_nothing_of_each_other() -> None:
    with Query({"rows": table()}, seed=1) as one, Query({"rows": table().slice(20)}, seed=2) as other:
        one.view("view_of_one", "SELECT * FROM rows")
        assert (one.value("SELECT count(*) FROM view_of_one"), len(other.rows("FROM rows"))) == (24, 4)
        with pytest.raises(QueryError, match="view_of_one does not exist"):
            other.rows("FROM view_of_one")
        assert one.value("SELECT chance('a', 'b')") != other.value("SELECT chance('a', 'b')")
        with pytest.raises(duckdb.Error, match="locked"):
            one.connection.execute("SET allowed_directories = ['/']").fetchall()


def test_variables_of_the_program_are_no_relations(query: Query) -> None:
    hidden = pa.table({"n": [1]})
    with pytest.raises(QueryError, match="hidden does not exist"):
        query.rows("SELECT * FROM hidden")
    assert len(hidden) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO '{root}/writable/out.csv'",
        "ATTACH '{root}/writable/other.db'",
        "CREATE TABLE t AS SELECT 1",
        "CREATE OR REPLACE VIEW listed AS SELECT 1",
        "DROP VIEW listed",
        "INSERT INTO listed VALUES (3)",
        "DELETE FROM listed",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET threads = 1",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "EXPORT DATABASE '{root}/writable/db'",
        "CALL pragma_version()",
        "EXPLAIN SELECT 1",
        *("SELECT 1; SELECT 2", "SELECT 1; DROP VIEW listed", "", "-- nothing"),
    ],
)
@pytest.mark.parametrize("method", ["arrow", "rows", "settled", "named", "schema"])
def test_all_but_one_select_is_refused(shut: tuple[Query, Path], statement: str, method: str) -> None:
    query, root = shut
    with pytest.raises(QueryError):
        getattr(query, method)(statement.format(root=root))
    assert not list((root / "writable").iterdir())
    assert query.value("SELECT count(*) FROM listed") == 2


def test_what_is_refused_is_named(query: Query) -> None:
    with pytest.raises(QueryError, match="must be one SELECT, but is SELECT, DROP"):
        query.arrow("SELECT 1; DROP VIEW rows")


@pytest.mark.parametrize(
    "statement", ["SELECT 1;", "FROM rows", "VALUES (1)", "WITH a AS (FROM rows) FROM a -- b"]
)
def test_a_select_in_any_dress_is_taken(query: Query, statement: str) -> None:
    assert query.rows(statement)
    assert query.settled(statement)


def test_an_answer_is_written_into_the_writable_folder_alone(shut: tuple[Query, Path]) -> None:
    query, root = shut
    path = root / "writable" / "out.parquet"
    assert query.write("SELECT n FROM listed", path) == 2
    assert query.value(f"SELECT sum(n) FROM '{path}'") == 3
    path.unlink()
    with pytest.raises(QueryError, match="Permission Error"):
        query.write("SELECT n FROM listed", root / "out.parquet")
    assert not (root / "out.parquet").exists()


def test_a_closed_query_answers_no_more() -> None:
    with Query({}) as query:
        assert query.value("SELECT 1") == 1
    with pytest.raises(QueryError):
        query.rows("SELECT 1")


# Relations.


def test_relations_are_arrow_tables_tables_and_sql(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n\n2\n")
    (tmp_path / "b.yaml").write_text("- {n: 3}\n")
    relations = {
        "arrow": pa.table({"n": [1]}),
        "files": Table.find("a.csv", tmp_path),
        "yaml": Table.find("b.yaml", tmp_path),
        "sql": "SELECT 4 AS n",
        'a "name"': "SELECT 5 AS n",
    }
    with Query(relations) as query:
        for number, name in enumerate(relations, start=1):
            assert query.rows(f"SELECT n FROM {identifier(name)}") == [(number,)]


def test_a_relation_that_is_bad_sql_is_refused_at_once() -> None:
    with pytest.raises(QueryError, match="missing does not exist"):
        Query({"rows": "SELECT * FROM missing"})


def test_a_view_is_one_more_relation(query: Query) -> None:
    query.view("first_group", "SELECT * FROM rows WHERE grp = 'x'")
    assert query.value("SELECT count(*) FROM first_group") == 8


def test_the_relations_that_a_statement_names_are_found_wherever_they_stand(query: Query) -> None:
    sql = "WITH a AS (FROM one) SELECT * FROM a JOIN two USING (x) WHERE y IN (SELECT y FROM three)"
    assert query.named(sql) == {"a", "one", "two", "three"}


def test_a_schema_is_known_without_running_the_statement(query: Query) -> None:
    schema = query.schema("SELECT error('ran')::INTEGER AS n, text FROM rows -- note")
    assert [(field.name, str(field.type)) for field in schema] == [("n", "int32"), ("text", "string")]


def test_shipped_sql_is_found_by_its_path() -> None:
    assert shipped("views/rows.sql").startswith("-- rows:")


# What changes from run to run.


@pytest.mark.parametrize(
    "expression",
    [
        *("random()", "RANDOM()", "main.random()", "uuid()", "gen_random_uuid()", "uuidv7()"),
        *("setseed(0.5)", "nextval('s')", "reservoir_quantile(n, 0.5)"),
        *("now()", "today()", "get_current_timestamp()", "transaction_timestamp()", "ago(INTERVAL 1 DAY)"),
        *("current_timestamp", "current_date", "CURRENT_TIME", "localtime", "localtimestamp"),
        *("current_localtimestamp()", "age(TIMESTAMP '2020-01-01')", "current_setting('threads')"),
    ],
)
def test_what_changes_from_run_to_run_is_refused_and_chance_is_named(query: Query, expression: str) -> None:
    name = expression.partition("(")[0].rpartition(".")[2]
    for sql in (
        f"SELECT {expression} FROM rows",
        f"WITH a AS (SELECT row_id FROM rows ORDER BY {expression}) SELECT * FROM a",
    ):
        with pytest.raises(QueryError, match=r"chance\(row_id, 'tag'\)") as caught:
            query.settled(sql)
        assert str(caught.value).lower().startswith(name.lower())
    with pytest.raises(QueryError, match=r"chance\("):
        query.expression(expression)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM rows USING SAMPLE 5",
        "SELECT * FROM rows TABLESAMPLE 10%",
        "SELECT * FROM (SELECT * FROM rows USING SAMPLE 5 ROWS) JOIN rows USING (row_id)",
        "SELECT * FROM (FROM rows) TABLESAMPLE reservoir(5)",
    ],
)
def test_a_sample_is_refused_and_chance_is_named(query: Query, sql: str) -> None:
    with pytest.raises(QueryError, match=r"WHERE chance\(row_id, 'tag'\) < 0.1"):
        query.settled(sql)


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM query('SELECT random()')", "FROM json_execute_serialized_sql('{}')"]
)
def test_sql_inside_a_text_is_refused(query: Query, sql: str) -> None:
    with pytest.raises(QueryError, match="is refused"):
        query.settled(sql)


def test_an_age_between_two_times_is_no_clock(query: Query) -> None:
    sql = query.settled("SELECT age(TIMESTAMP '2020-01-02', TIMESTAMP '2020-01-01')")
    assert query.value(sql).days == 1


def test_chance_is_seeded_and_lies_in_zero_to_one(query: Query) -> None:
    numbers = [row[0] for row in query.rows("SELECT chance(i, 'a') FROM range(4000) t(i) ORDER BY i")]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(number < 0.25 for number in numbers) == pytest.approx(1000, abs=120)
    ask = "SELECT chance(1, 'a')"
    assert query.value(ask) == numbers[1]
    with Query({}, seed=7) as same, Query({}, seed=8) as other:
        assert same.value(ask) == numbers[1]
        assert other.value(ask) != numbers[1]


def test_chance_depends_on_the_row_and_the_tag(query: Query) -> None:
    sql = "SELECT chance('a', 'bc'), chance('ab', 'c'), chance('a', 'b'), chance('b', 'a')"
    assert len(set(query.rows(sql)[0])) == 4
    assert query.value("SELECT chance(NULL, 'a')") is None


def test_chance_picks_the_same_rows_in_any_order(shuffled: list[Query]) -> None:
    sql = "SELECT row_id FROM rows WHERE chance(row_id, 'tag') < 0.5"
    picked = [{row[0] for row in query.rows(query.settled(sql))} for query in shuffled]
    assert picked[0] == picked[1] == picked[2]
    assert 0 < len(picked[0]) < len(ROWS)


# One answer for one input.


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT row_id, row_number() OVER (PARTITION BY grp ORDER BY n) FROM rows",
        "SELECT row_id, row_number() OVER () FROM rows",
        "SELECT row_id, ntile(5) OVER (ORDER BY n) FROM rows",
        "SELECT row_id, lag(text) OVER (ORDER BY n), lead(text) OVER w FROM rows WINDOW w AS (ORDER BY n)",
        "SELECT row_id, first_value(text) OVER (PARTITION BY grp ORDER BY n) FROM rows",
        "SELECT row_id, last_value(text) OVER (PARTITION BY grp) FROM rows",
        "SELECT row_id, nth_value(text, 2) OVER (PARTITION BY n) FROM rows",
        "SELECT row_id, list(text) OVER (PARTITION BY grp) FROM rows",
        "SELECT row_id, count(*) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) FROM rows",
        "SELECT row_id, min(text) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM rows",
        "SELECT row_id FROM rows QUALIFY row_number() OVER (PARTITION BY grp ORDER BY n) <= 2",
        "SELECT grp, first(text), last(text), any_value(text) FROM rows GROUP BY grp",
        "SELECT grp, first(text ORDER BY n) FROM rows GROUP BY grp",
        "SELECT grp, list(text), array_agg(text), string_agg(text), listagg(text, ';') FROM rows GROUP BY ALL",
        "SELECT list(DISTINCT text), string_agg(DISTINCT grp, ';') FROM rows",
        "SELECT n, arg_max(text, grp), min_by(row_id, 1), mode(text) FROM rows GROUP BY n",
        "SELECT * FROM rows LIMIT 5",
        "SELECT * FROM rows ORDER BY n DESC LIMIT 5 OFFSET 2",
        "SELECT * FROM rows OFFSET 20",
        "SELECT * FROM rows LIMIT 30%",
        "SELECT row_id FROM rows WHERE row_id IN (SELECT row_id FROM rows ORDER BY grp LIMIT 3)",
        "WITH few AS (FROM rows LIMIT 3) SELECT max(row_id) FROM few",
        "SELECT row_id FROM rows WHERE n > 2 UNION ALL SELECT row_id FROM rows WHERE n < 2 LIMIT 4",
        "SELECT DISTINCT ON (grp) * FROM rows",
        "SELECT DISTINCT ON (grp) * FROM rows ORDER BY n DESC",
    ],
)
def test_the_answer_is_one_whatever_the_order_of_rows(shuffled: list[Query], sql: str) -> None:
    answers = [sorted(query.rows(query.settled(sql)), key=repr) for query in shuffled]
    assert answers[0]
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT row_id, rank() OVER (ORDER BY n) AS place FROM rows",
        "SELECT row_id, dense_rank() OVER (ORDER BY n) AS place FROM rows",
        "SELECT row_id, sum(n) OVER (ORDER BY n) AS place FROM rows",
    ],
)
def test_ties_stay_ties(query: Query, sql: str) -> None:
    settled = query.settled(sql)
    assert query.rows(f"{settled} ORDER BY row_id") == query.rows(f"{sql} ORDER BY row_id")
    assert query.value(f"SELECT count(DISTINCT place) FROM ({settled})") == 6


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("last_value(row_id)", "r21"),
        ("last(row_id)", "r21"),
        ("len(list(row_id)", 8),
        ("nth_value(row_id, 8)", "r21"),
    ],
)
def test_a_window_over_a_whole_group_stays_over_the_whole_group(
    query: Query, function: str, expected: object
) -> None:
    close = ")" if function.startswith("len(") else ""
    sql = query.settled(f"SELECT {function} OVER (PARTITION BY grp){close} FROM rows WHERE grp = 'x'")
    assert set(query.rows(sql)) == {(expected,)}


def test_a_running_list_holds_the_peers_of_its_row(query: Query) -> None:
    sql = query.settled("SELECT row_id, len(list(n) OVER (ORDER BY n)) AS held FROM rows")
    assert query.value(f"SELECT list(held ORDER BY row_id) FROM ({sql})")[:5] == [4, 4, 4, 4, 8]


def test_an_order_that_is_given_comes_before_row_id(query: Query) -> None:
    assert query.rows(query.settled("SELECT row_id FROM rows ORDER BY n DESC LIMIT 2")) == [
        ("r20",),
        ("r21",),
    ]
    assert query.value(query.settled("SELECT list(row_id ORDER BY n DESC) FROM rows"))[:2] == ["r20", "r21"]
    assert query.value(query.settled("SELECT first(row_id ORDER BY row_id DESC) FROM rows")) == "r23"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT text FROM (SELECT text FROM rows) LIMIT 2",
        "SELECT text, count(*) FROM rows GROUP BY text LIMIT 2",
        "SELECT text FROM rows UNION ALL SELECT text FROM rows LIMIT 2",
    ],
)
def test_an_answer_that_no_row_id_can_settle_is_refused_with_the_reason(query: Query, sql: str) -> None:
    with pytest.raises(QueryError, match="depends on the order of rows, so row_id must be there"):
        query.rows(query.settled(sql))


@pytest.mark.parametrize(
    ("sql", "cure"),
    [
        ("SELECT json_group_array(text) FROM rows", "to_json(list(x))"),
        ("SELECT * FROM rows a POSITIONAL JOIN rows b", "join by row_id"),
    ],
)
def test_what_cannot_be_put_in_order_is_refused_with_the_cure(query: Query, sql: str, cure: str) -> None:
    with pytest.raises(QueryError, match=re.escape(cure)):
        query.settled(sql)


# Expressions.


@pytest.mark.parametrize(
    "sql",
    [
        "n), (n",
        "n) AS a, (n",
        "1) UNION SELECT (2",
        "1) AS value FROM rows UNION ALL SELECT (2",
        "n FROM rows) --",
        "n) FROM rows WHERE (true",
        "n); DROP VIEW rows; SELECT (1",
        "n; SELECT 1",
        "n AS m",
        "n /*",
        "DISTINCT n",
        "(n",
        "n)",
        "*",
        "rows.*",
        "COLUMNS(*)",
        "COLUMNS(*) IS NOT NULL",
        "unnest([1, 2])",
        "n + unnest([1, 2])",
        "",
        "  \n",
    ],
)
def test_what_is_not_one_value_for_each_row_is_no_expression(query: Query, sql: str) -> None:
    with pytest.raises(QueryError):
        query.expression(sql)


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("n + 1 -- a note", 1),
        ("' AS '", " AS "),
        ("CASE WHEN n = 0 THEN 'a' ELSE 'b' END", "a"),
        ("(SELECT count(*) FROM rows)", 24),
        ("(SELECT sum(x) FROM (SELECT unnest([n, 2]) AS x))", 2),
        ("count(*) OVER ()", 24),
        ("row_number() OVER (ORDER BY n)", 1),
        ("rows.text", "t0"),
    ],
)
def test_an_expression_gives_a_value_for_each_row(query: Query, sql: str, value: object) -> None:
    expression = query.expression(sql)
    answer = query.rows(f"SELECT {expression}, row_id FROM rows ORDER BY row_id")
    assert len(answer) == len(ROWS)
    assert answer[0][0] == value


def test_references_are_the_dotted_names_each_once(query: Query) -> None:
    found = query.references('utility.accuracy.value > coalesce("a b".c, 0) + utility.accuracy.value')
    assert found == [("utility", "accuracy", "value"), ("a b", "c")]


# Messages.


@pytest.mark.parametrize(
    ("sql", "caret", "candidate"),
    [
        ("SELECT lenght(text) FROM rows", None, 'Did you mean "length"?'),
        ("SELECT txt FROM rows", None, '"text"'),
        ("SELECT * FROM row", None, 'Did you mean "rows"?'),
        ("SELECT n FROM rows WHERE >", ">", "syntax error"),
        ("SELECT text::INTEGER FROM rows", "::INTEGER", "Could not convert string"),
    ],
)
def test_a_message_shows_where_and_names_the_candidates(
    query: Query, sql: str, caret: str | None, candidate: str
) -> None:
    with pytest.raises(QueryError) as caught:
        query.rows(sql)
    text = str(caught.value)
    assert candidate in text
    if caret:
        line, marks = text.splitlines()[-2:]
        assert line == f"LINE 1: {sql}"
        assert marks.strip() and set(marks.strip()) == {"^"}
        assert line[marks.index("^") :].startswith(caret[0])


def test_an_error_keeps_what_duckdb_raised_as_its_cause(query: Query) -> None:
    with pytest.raises(QueryError) as caught:
        query.rows("SELECT text::INTEGER FROM rows")
    assert type(caught.value.__cause__).__name__ == "ConversionException"


def test_a_relation_is_named_by_its_name_alone_and_comes_in_blocks() -> None:
    with Query({"rows": pa.table({"n": list(range(25))})}) as query:
        with pytest.raises(InputError, match="no view 'row'; did you mean 'rows'"):
            query.relation("row")
        blocks = list(query.blocks(query.relation("rows"), 10))
        assert blocks[0].num_rows == 0, "the schema stands there for no rows too"
        assert sorted(n for block in blocks for n in block["n"].to_pylist()) == list(range(25))
        assert query.connection.sql("SELECT sum(n) FROM rows").fetchall() == [(300,)]
