from collections.abc import Iterator
from pathlib import Path

import pytest
import reported

from synthray.report import outcome
from synthray.report.section import Asked


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    run = reported.run(tmp_path_factory.mktemp("outcome") / "run", rows=60)
    with run.query() as query:
        yield Asked.of(run, query, None, None, ())


def test_the_funnel_is_that_of_the_run(asked: Asked) -> None:
    section = outcome.funnel(asked)
    assert section is not None
    rows = {row[0]: row[1:] for row in section.tables[0].rows}
    assert rows["conditions"][:3] == [0, 60, 60]
    assert rows["where_length"][:4] == [58, 0, 53, 5]


def test_reasons_have_examples_and_failures_their_errors(asked: Asked) -> None:
    reasons = outcome.reasons(asked)
    assert reasons is not None
    counts = {row[1]: row[2] for row in reasons.tables[0].rows}
    assert counts == {"length": 5, "label_issue": 6, "failed:TimeoutError": 2}
    examples = {table.title: len(table.rows) for table in reasons.tables[1:]}
    assert examples == {"length (where_length), 5 rows": 3, "label_issue (where_label_issue), 6 rows": 3}
    failures = outcome.failures(asked)
    assert failures is not None
    assert failures.tables[0].rows == [["prompt", "TimeoutError", 2]]
    assert "no answer" in failures.tables[1].rows[0]


def test_metrics_keep_their_intervals_and_slices_their_names(asked: Asked) -> None:
    section = outcome.metrics(asked)
    assert section is not None
    rows = {(row[0], row[1]): row[2:] for row in section.tables[0].rows}
    assert rows["utility", "accuracy"] == [0.6, 0.5, 0.7, 120]
    assert section.tables[1].rows == [["utility", "f1", "label=Sports", 0.55, None, None, 30]]


def test_what_was_spent_is_in_the_table(asked: Asked) -> None:
    section = outcome.cost(asked)
    assert section is not None
    assert {figure.name for figure in section.figures} == {"tokens", "dollars", "seconds"}
    row = next(row for row in section.tables[0].rows if row[0] == "prompt")
    assert row == ["prompt", 60, 540, 300, 0.25, 1.5]


def test_rows_of_every_end_are_told(asked: Asked) -> None:
    section = outcome.lineage(asked)
    assert section is not None
    ends = [history.end for history in section.histories]
    assert ends == ["kept"] * 3 + ["rejected"] * 2 + ["failed"]


def test_a_run_in_which_nothing_happened_leaves_its_sections_out(tmp_path: Path) -> None:
    run = reported.bare(tmp_path / "run", [{"text": "one"}])
    with run.query() as query:
        asked = Asked.of(run, query, None, None, ())
        assert outcome.reasons(asked) is outcome.failures(asked) is outcome.metrics(asked) is None
        section = outcome.cost(asked)
    assert section is not None and section.tables[0].columns == ["stage", "seconds"]
