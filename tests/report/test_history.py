from pathlib import Path

import pyarrow as pa
import pytest
import reported

from synthray.errors import InputError
from synthray.report.history import histories, prompt
from synthray.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reported.run(tmp_path_factory.mktemp("history") / "run")


def told(run: Run, row_id: str) -> list[tuple[str, str]]:
    return [(event.step, event.what) for event in histories(run, [row_id])[0].events]


def test_a_kept_row_is_told_from_its_condition_to_the_dataset_with_its_call(run: Run) -> None:
    kept = run.sql("SELECT min(row_id) AS one FROM dataset").to_pylist()[0]["one"]
    found = histories(run, [kept])[0]
    assert found.end == "kept"
    steps = {event.step: event for event in found.events}
    assert steps["conditions"].what == "made" and set(steps["conditions"].columns) == {"label", "topic"}
    assert set(steps["prompt"].columns) == {"text", "prompt_call"}
    call = steps["prompt"].calls[0]
    assert call["prompt"] == f"About {found.row['topic']}, please."
    assert call["response"] == found.row["text"]
    assert steps["label_issue"].columns["label_issue"] is False
    assert [event.what for event in found.events].count("passed") == 3


def test_rejected_and_failed_rows_are_told_to_their_end(run: Run) -> None:
    rejected, failed = histories(run, ["row009", "row039"])
    assert (rejected.end, failed.end) == ("rejected", "failed")
    last = rejected.events[-1]
    assert (last.step, last.detail) == ("where_length", "length")
    assert "TimeoutError: no answer (attempts: 3)" in failed.events[-1].detail
    assert [event.step for event in failed.events] == ["conditions", "prompt"]


def test_a_child_is_told_with_its_parent_and_a_parent_to_its_children(tmp_path: Path) -> None:
    maker = reported.Maker(tmp_path / "run", "tree")
    schema = pa.schema([*reported.IDENTITY, ("text", pa.string())])
    seeds = [{"row_id": name, "round": 0, "text": name} for name in ("a", "b")]
    first = maker.file(maker.next(), "rows", pa.Table.from_pylist(seeds, schema))
    maker.stage("seeds", "source.table", (first,), made=2)
    children = [{"row_id": f"a{n}", "parent_id": "a", "round": 0, "text": f"a {n}"} for n in range(3)]
    second = maker.file(maker.next(), "rows", pa.Table.from_pylist(children, schema))
    maker.stage("evolve", "generate.evolve", (second,), made=3, expanded=1, rejects=[("b", "no_children")])
    run = maker.end(name="tree")
    child = histories(run, ["a1"])[0]
    assert [(event.row_id, event.what) for event in child.events] == [
        ("a", "made"),
        ("a", "replaced"),
        ("a1", "made"),
    ]
    assert child.events[1].detail == "3 rows came of it"
    assert histories(run, ["a"])[0].end == "replaced"
    assert told(run, "b") == [("seeds", "made"), ("evolve", "rejected")]


def test_a_row_of_a_tables_own_pipeline_goes_on_where_a_union_takes_it(tmp_path: Path) -> None:
    maker = reported.Maker(tmp_path / "run", "two")
    schema = pa.schema([*reported.IDENTITY, ("text", pa.string())])
    rows = [{"row_id": name, "round": 0, "text": name} for name in ("t", "m")]
    of_table = maker.file(maker.next(), "rows", pa.Table.from_pylist(rows[:1], schema))
    maker.stage("old_table", "source.table", (of_table,), made=1)
    maker.before, maker.rows = None, 0
    own = maker.file(maker.next(), "rows", pa.Table.from_pylist(rows[1:], schema))
    maker.stage("table", "source.table", (own,), made=1)
    both = maker.file(maker.next(), "rows", pa.Table.from_pylist(rows, schema))
    maker.stage("union", "union", (both,), made=1)
    run = maker.end(name="two", stages=maker.folders[1:], table_stages={"old": maker.folders[:1]})
    assert told(run, "t") == [("old_table", "made"), ("union", "made")]
    assert told(run, "m") == [("table", "made"), ("union", "passed")]


def test_an_unknown_row_is_refused_with_near_ones(run: Run) -> None:
    with pytest.raises(InputError, match=r"no row 'row00x' in .*near ones are row00"):
        histories(run, ["row001", "row00x"])
    with pytest.raises(InputError, match="no row"):
        histories(run, ["'; DROP TABLE rows; --"])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ('{"messages": [{"role": "user", "content": "hi"}]}', "hi"),
        (
            '{"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]}',
            "system: be\n\nuser: hi",
        ),
        ('{"prompt": "once"}', "once"),
        ("[1]", "[1]"),
        ("torn {", "torn {"),
        (None, ""),
    ],
)
def test_a_prompt_is_what_was_said(request_: str | None, said: str) -> None:
    assert prompt(request_) == said
