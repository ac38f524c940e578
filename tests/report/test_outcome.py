from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import reported

from synthray.metric import METRICS
from synthray.report import outcome
from synthray.report.section import LINES, Asked


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
    assert section.tables[1].rows == [["f1", "label=Sports", 0.55, None, None, 30]]
    assert section.tables[1].title == "utility, by slice"
    assert {figure.title for figure in section.figures} == {"diversity", "utility"}


def test_slices_of_one_step_or_metric_hide_no_others(tmp_path: Path) -> None:
    maker = reported.Maker(tmp_path / "run", "slices")
    rows = pa.Table.from_pylist([{"row_id": "a", "round": 0}], pa.schema(reported.IDENTITY))
    maker.stage("table", "source.table", (maker.file(maker.next(), "rows", rows),), made=1)
    maker.stage("where_a", "where")
    names = [f"label {number:02}" for number in range(10)]
    told = {
        "label_issue": [("noise", f"given={one},true={two}") for one in names for two in names],
        "utility": [
            *(("bought", f"stage={one}") for one in ("where_a", "table")),
            *(("accuracy", f"size={one}") for one in (1000, 200, 50)),
            *(("f1", f"label={number}") for number in range(200)),
            *(("zeal", f"label={number}") for number in range(4)),
        ],
    }
    for step, slices in told.items():
        lines = [(step, metric, 0.5, None, None, 9, named) for metric, named in slices]
        table = pa.Table.from_pylist([dict(zip(METRICS.names, one, strict=True)) for one in lines], METRICS)
        maker.stage(step, "evaluate.utility", metrics=(maker.file(maker.next(), "metrics", table),))
    run = maker.end(name="slices")
    with run.query() as query:
        section = outcome.metrics(Asked.of(run, query, None, None, ()))
    assert section is not None
    _, noise, utility = section.tables
    assert (noise.title, len(noise.rows), noise.folded) == ("label_issue, by slice", LINES, True)
    assert noise.note.startswith("40 more lines are left out")
    assert (len(utility.rows), utility.folded) == (LINES, True)
    assert utility.note.startswith(f"{209 - LINES} more lines are left out")
    held = [(row[0], row[1]) for row in utility.rows]
    assert held[:5] == [
        *(("accuracy", f"size={one}") for one in (50, 200, 1000)),
        *(("bought", f"stage={one}") for one in ("table", "where_a")),
    ]
    assert held[5:8] == [("f1", f"label={one}") for one in (0, 1, 2)], "numbers by their value"
    assert held[-4:] == [("zeal", f"label={one}") for one in range(4)]
    assert [figure.name for figure in section.figures] == ["bought", "sizes"]


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
