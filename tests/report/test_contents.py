from collections.abc import Iterator
from pathlib import Path

import pytest
import reported

from synthray.report import contents
from synthray.report.section import Asked


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    run = reported.run(tmp_path_factory.mktemp("contents") / "run", rows=60)
    with run.query() as query:
        yield Asked.of(run, query, None, None, ())


def test_labels_are_counted_and_those_of_the_task_without_a_row_named(asked: Asked) -> None:
    section = contents.labels(asked)
    assert section is not None
    kept = dict(asked.query.rows("SELECT label, count(*) FROM dataset GROUP BY ALL"))
    assert {row[0]: row[1] for row in section.tables[0].rows} == kept
    assert sum(row[3] for row in section.tables[0].rows) == pytest.approx(1)
    asked.run.state["recipe"]["task"]["labels"] = {"Health": "", "World": ""}
    again = contents.labels(asked)
    assert again is not None and "no row: Health." in again.intro


def test_one_label_is_one_value(tmp_path: Path) -> None:
    run = reported.bare(tmp_path / "run", [{"text": "one", "label": "a"}])
    with run.query() as query:
        section = contents.labels(Asked.of(run, query, None, None, ()))
    assert section is not None and section.intro == "1 value of the column label."


def test_lengths_are_told_whole_and_by_label(asked: Asked) -> None:
    section = contents.lengths(asked)
    assert section is not None
    rows = {row[0]: row[1:] for row in section.tables[0].rows}
    assert rows["all"][0] == sum(row[0] for name, row in rows.items() if name != "all")
    median = asked.query.value("SELECT median(length(text)) FROM dataset")
    assert rows["all"][3] == median


def test_coverage_names_the_values_that_were_lost(tmp_path: Path) -> None:
    maker = reported.Maker(tmp_path / "run", "lost")
    import pyarrow as pa

    schema = pa.schema(
        [*reported.IDENTITY, ("label", pa.string()), ("topic", pa.string()), ("n", pa.int64())]
    )
    rows = [
        {"row_id": f"r{n}", "round": 0, "label": "a", "topic": ("chess", "tea", "rain")[n % 3], "n": n % 2}
        for n in range(12)
    ]
    first = maker.file(maker.next(), "rows", pa.Table.from_pylist(rows, schema))
    maker.stage("conditions", "source.conditions", (first,), made=12)
    kept = [row for row in rows if row["topic"] != "tea"]
    second = maker.file(maker.next(), "rows", pa.Table.from_pylist(kept, schema))
    out = [(row["row_id"], "tea") for row in rows if row not in kept]
    maker.stage("where", "where", (second,), rejects=out)
    run = maker.end(name="lost")
    with run.query() as query:
        section = contents.coverage(Asked.of(run, query, None, None, ()))
    assert section is not None
    table = {row[0]: list(row[1:]) for row in section.tables[0].rows}
    assert table["topic"] == [3, 2, pytest.approx(2 / 3), 4, "tea"]
    assert table["n"] == [2, 2, 1, 4, ""]


def test_duplicates_stand_beside_what_they_repeat(asked: Asked) -> None:
    section = contents.duplicates(asked)
    assert section is not None
    assert [group.title for group in section.groups] == ["2 near duplicates"] * 3
    first, second = section.groups[0].members
    assert "similarity 0.900" in second["told"] and "similarity 0.900" not in first["told"]


def test_the_worst_labels_come_first(asked: Asked) -> None:
    section = contents.issues(asked)
    assert section is not None
    table = section.tables[0]
    quality = [row[table.columns.index("quality")] for row in table.rows]
    assert quality == sorted(quality) and len(quality) == 6
    assert {row[table.columns.index("became")] for row in table.rows} == {"where_label_issue: label_issue"}


def test_exact_duplicates_are_clusters_of_their_first(tmp_path: Path) -> None:
    rows = [{"text": "same", "exact_duplicate_of": None if n == 0 else "row0"} for n in range(6)]
    rows.append({"text": "other", "exact_duplicate_of": None})
    run = reported.bare(tmp_path / "run", rows)
    with run.query() as query:
        section = contents.duplicates(Asked.of(run, query, None, None, ()))
    assert section is not None
    assert [group.title for group in section.groups] == ["6 exact duplicates"]
    assert section.groups[0].note == "2 more are not shown."
    assert section.groups[0].members[0]["told"][-1] == "row0"
