import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import RunError
from synthray.lineage import FAILED
from synthray.metric import METRICS
from synthray.record import StageRecord, StepCount
from synthray.run import FORMAT, Run, versions

HOLD = """
import sys
from pathlib import Path
from synthray.run import FORMAT, Run
run = Run.claim(Path(sys.argv[1]), "news")
run.save(format=FORMAT, name="news")
print("held", flush=True)
sys.stdin.read()
"""


def written(root: Path, file: str, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> str:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return file


def row(name: str, **columns: Any) -> dict[str, Any]:
    return {"row_id": name, "parent_id": "p", "round": 0, "text": f"text {name}", **columns}


def asked(run: Run, sql: str) -> list[dict[str, Any]]:
    return run.sql(sql).to_pylist()


@pytest.fixture
def made(tmp_path: Path) -> Run:
    """A run made by hand: 4 rows; a where that rejects one; an operator that marks two and fails one."""
    root = tmp_path / "run"
    run = Run.claim(root, "news")
    failed = {"error": "TimeoutError", "message": "no answer", "attempts": 3}
    one, two, three = "01-source-aa", "02-where-bb", "03-mark-cc"
    StageRecord(
        folder=one,
        fingerprint="aa",
        before=None,
        steps=(StepCount("source", "source.table", rows_made=4, rows_kept=4),),
        files=tuple(
            written(root, f"stages/{one}/part-{number}.parquet", [row(name) for name in names])
            for number, names in enumerate(("ab", "cd"))
        ),
    ).write(root)
    StageRecord(
        folder=two,
        fingerprint="bb",
        before=one,
        steps=(
            StepCount("long", "where", rows_in=4, rows_kept=4),
            StepCount("where", "where", rows_in=4, rows_kept=3, rows_rejected=1),
        ),
        files=(written(root, f"stages/{two}/rows.parquet", [row(name) for name in "abc"]),),
        rejects=(
            written(
                root,
                f"stages/{two}/rejects.parquet",
                [{"row_id": "d", "step": "where", "reason": "short"}],
            ),
        ),
    ).write(root)
    marked = [row(name, mark=number) for number, name in enumerate("ab")]
    failures = pa.Table.from_pylist([row("c")]).schema.append(pa.field("failed", FAILED))
    failures = failures.append(pa.field("reject_step", pa.string()))
    StageRecord(
        folder=three,
        fingerprint="cc",
        before=two,
        steps=(StepCount("mark", "curate.mark", rows_in=3, rows_kept=2, rows_failed=1),),
        files=(written(root, f"stages/{three}/rows.parquet", marked),),
        failures=(
            written(
                root,
                f"stages/{three}/failures.parquet",
                [{**row("c"), "failed": failed, "reject_step": "mark"}],
                failures,
            ),
        ),
        metrics=(
            written(
                root,
                f"stages/{three}/metrics.parquet",
                [{"step": "mark", "metric": "share", "value": 0.5}],
                METRICS,
            ),
        ),
        seconds=1.5,
        calls=3,
        completion_tokens=30,
    ).write(root)
    run.save(format=FORMAT, name="news", seed=7, stages=[one, two, three])
    run.release()
    return run


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds tmp_path/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


# Claiming.


def test_a_claim_makes_the_directory_and_a_second_one_waits_for_its_release(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "news"
    first = Run.claim(root, "news")
    with pytest.raises(RunError, match="another process is writing"):
        Run.claim(root, "news")
    with pytest.raises(RunError, match="another process is writing"):
        Run(root).check_free("news")
    first.release()
    Run.claim(root, "news").release()


def test_a_run_that_another_process_writes_is_refused_until_that_process_is_killed(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    root = tmp_path / "run"
    with pytest.raises(RunError, match="another process is writing") as caught:
        Run.claim(root, "news")
    assert str(root) in str(caught.value)
    assert Run.read(root).state["name"] == "news"
    holder.kill()
    holder.wait()
    run = Run.claim(root, "news")
    assert run.state["name"] == "news"
    run.release()


def test_a_run_of_another_recipe_is_refused_by_its_name(made: Run) -> None:
    with pytest.raises(RunError, match="holds a run of the recipe 'news', not 'olds'; choose another --out"):
        Run.claim(made.root, "olds")
    again = Run.claim(made.root, "news")
    again.release()
    assert again.state["seed"] == 7


def test_a_directory_that_holds_other_things_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        Run.claim(tmp_path, "news")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="is a file; --out names a directory"):
        Run.claim(tmp_path / "run", "news")


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".run.json.part"]])
def test_a_directory_in_which_a_run_was_killed_at_its_start_is_taken(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).write_text("")
    Run.claim(tmp_path, "news").release()


def test_looking_whether_a_directory_is_free_writes_nothing(tmp_path: Path) -> None:
    Run(tmp_path / "run").check_free("news")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1, "na', "run.json is damaged"),
        ("[]", "run.json is damaged"),
        ("\xff", "run.json is damaged"),
        ('{"format": 99, "name": "news"}', f"has format 99, this synthray reads {FORMAT}"),
        ('{"name": "news"}', "has format None"),
    ],
    ids=["torn", "list", "bytes", "newer", "none"],
)
def test_a_run_that_cannot_be_understood_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    for opened in (Run.read, lambda root: Run.claim(root, "news")):
        with pytest.raises(RunError, match=message) as caught:
            opened(tmp_path)
        assert str(tmp_path) in str(caught.value)


def test_where_there_is_no_run_none_is_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run \(no run.json\)"):
        Run.read(tmp_path)


def test_what_is_saved_is_read_and_the_rest_stays(made: Run) -> None:
    made.save(state="done")
    state = Run.read(made.root).state
    assert (state["state"], state["seed"], state["name"]) == ("done", 7, "news")


def test_a_stage_is_read_as_it_was_written(made: Run) -> None:
    for record in made.stages():
        assert StageRecord.read(made.root, record.folder) == record
    assert [record.rows_kept for record in made.stages()] == [4, 3, 2]


def test_the_totals_of_a_stage_go_from_its_first_rows_to_its_last(made: Run) -> None:
    totals = made.stages()[1].totals()
    assert totals == {
        **{"rows_in": 4, "rows_made": 0, "rows_kept": 3},
        **{"rows_rejected": 1, "rows_failed": 0, "rows_expanded": 0},
    }
    held = json.loads((made.root / "stages" / "02-where-bb" / "stage.json").read_text())
    assert {name: held[name] for name in totals} == totals


def test_files_that_no_stage_lists_are_not_read(made: Run) -> None:
    last = made.stages()[-1]
    written(made.root, f"stages/{last.folder}/rows-stray.parquet", [row("stray", mark=9)])
    written(made.root, "stages/09-old-dd/rows.parquet", [row("old", mark=9)])
    assert made.sql("SELECT row_id FROM rows ORDER BY 1")["row_id"].to_pylist() == list("abcd")


@pytest.mark.parametrize("kind", ["files", "rejects", "failures", "metrics", "outputs"])
def test_a_stage_that_misses_a_listed_file_is_not_whole(made: Run, kind: str) -> None:
    record = replace(made.stages()[-1], **{kind: (written(made.root, "gone.parquet", [row("a")]),)})
    record.write(made.root)
    assert made.stage(record.folder) == record
    (made.root / "gone.parquet").unlink()
    assert made.stage(record.folder) is None
    assert [stage.folder for stage in made.stages()] == ["01-source-aa", "02-where-bb"]


@pytest.mark.parametrize("file", ["{out}/outside.parquet", "../outside.parquet"])
@pytest.mark.parametrize("kind", ["files", "added"])
def test_a_stage_that_lists_a_file_outside_of_the_run_is_not_read(made: Run, kind: str, file: str) -> None:
    written(made.root.parent, "outside.parquet", [row("a")])
    record, file = made.stages()[-1], file.format(out=made.root.parent)
    listed = (*record.files, file)
    replace(record, **{kind: (listed,) if kind == "added" else listed}).write(made.root)
    assert (made.root / file).is_file(), "it is refused though it is there"
    assert made.stage(record.folder) is None


def test_a_stage_without_stage_json_is_not_committed(made: Run) -> None:
    (made.root / "stages" / "03-mark-cc" / "stage.json").unlink()
    assert made.stage("03-mark-cc") is None


@pytest.mark.parametrize("added", [1, None, [None], [[1]], "ab"])
def test_added_must_be_a_list_of_groups_and_may_be_missing(made: Run, added: Any) -> None:
    path = made.root / "stages" / "03-mark-cc" / "stage.json"
    held = json.loads(path.read_text())
    assert held.pop("added") == []
    path.write_text(json.dumps(held))
    assert made.stages()[-1].added == (), "as older stages have none"
    path.write_text(json.dumps({**held, "added": added}))
    assert made.stage("03-mark-cc") is None


@pytest.mark.parametrize("text", ["", '{"folder": "x"', "{}", "[]", '{"steps": [{"other": 1}]}'])
def test_a_damaged_stage_json_is_no_stage(made: Run, text: str) -> None:
    (made.root / "stages" / "03-mark-cc" / "stage.json").write_text(text)
    assert made.stage("03-mark-cc") is None


def test_a_fresh_folder_holds_nothing_of_an_unfinished_attempt(made: Run) -> None:
    written(made.root, "stages/04-new-dd/deep/rows.parquet", [row("a")])
    path = made.fresh_folder("04-new-dd")
    assert path == made.root / "stages" / "04-new-dd"
    assert list(path.iterdir()) == []


def test_a_run_that_is_moved_is_still_whole(made: Run) -> None:
    moved = made.root.rename(made.root.with_name("moved"))
    assert Run.read(moved).sql("SELECT count(*) AS n FROM rows")["n"].to_pylist() == [4]


@pytest.fixture
def layered(made: Run) -> Run:
    """The run, and two stages more with marks beside the same rows; the last rejects one of them."""
    root, third = made.root, made.stages()[-1]
    marks = written(root, "stages/04-near-dd/columns-0.parquet", [{"row_id": "b", "of": "a", "mark": 7}])
    later = written(root, "stages/05-last-ee/columns-0.parquet", [{"row_id": "a", "of": "z"}])
    far = [{"row_id": "b", "step": "w", "reason": "far"}]
    rejects = written(root, "stages/05-last-ee/rejects.parquet", far)
    fourth = replace(third, folder="04-near-dd", before=third.folder, failures=(), added=((marks,),))
    added, before = ((marks,), (later,)), fourth.folder
    fifth = replace(fourth, folder="05-last-ee", before=before, added=added, rejects=(rejects,))
    for record in (fourth, fifth):
        record.write(root)
    made.save(stages=[*made.state["stages"], "04-near-dd", "05-last-ee"])
    return made


def test_groups_of_files_are_read_as_they_were_written_and_miss_none(layered: Run) -> None:
    *_, fourth, fifth = layered.stages()
    groups = (("stages/04-near-dd/columns-0.parquet",), ("stages/05-last-ee/columns-0.parquet",))
    assert (fourth.added, fifth.added) == (groups[:1], groups)
    assert layered.table(fifth).added == tuple(layered.paths(group) for group in groups)
    for (file,), left in zip(reversed(groups), ([fourth], []), strict=True):
        (layered.root / file).unlink()
        assert layered.stages()[3:] == left, "a stage that misses an added file is not whole"


def test_the_views_show_rows_with_what_stands_beside_them(layered: Run) -> None:
    columns = 'SELECT row_id, mark, "of" FROM'
    assert asked(layered, f"{columns} dataset ORDER BY row_id") == [
        {"row_id": "a", "mark": None, "of": "z"},
        {"row_id": "b", "mark": 7, "of": None},
    ], "a column of a later group hides its namesake, whole"
    assert {one["row_id"] for one in asked(layered, "SELECT row_id FROM rows")} == set("abcd")
    before = asked(layered, f"{columns} rejects WHERE reject_step = 'w'")
    assert before == [{"row_id": "b", "mark": 7, "of": "a"}], "a reject has what stood beside it then"
    layered.save(stages=layered.state["stages"][:-1])
    assert asked(layered, f"{columns} rows WHERE reject_step IS NULL ORDER BY row_id") == [
        {"row_id": "a", "mark": None, "of": None},
        {"row_id": "b", "mark": 7, "of": "a"},
    ]


def test_a_named_table_keeps_its_added_files_and_needs_them(layered: Run) -> None:
    table = layered.table(layered.stages()[-1])
    layered.save(tables={"older": vars(table), "plain": {**vars(table), "added": ()}})
    again = Run.read(layered.root)
    assert again.named_tables()["older"] == table
    assert asked(again, "SELECT \"of\" FROM older WHERE row_id = 'a'") == [{"of": "z"}]
    Path(table.added[0][0]).unlink()
    assert set(again.named_tables()) == {"plain"}


# Views.


def test_rows_are_all_rows_with_what_became_of_them(made: Run) -> None:
    found = asked(made, "SELECT row_id, text, mark, reject_step, reject_reason FROM rows ORDER BY row_id")
    assert [tuple(one.values()) for one in found] == [
        ("a", "text a", 0, None, None),
        ("b", "text b", 1, None, None),
        ("c", "text c", None, "mark", "failed:TimeoutError"),
        ("d", "text d", None, "where", "short"),
    ]


def test_the_dataset_is_what_the_last_stage_kept_and_no_more(made: Run) -> None:
    found = made.sql("SELECT * FROM dataset ORDER BY row_id")
    assert found.column_names == ["row_id", "parent_id", "round", "text", "mark"]
    assert found["row_id"].to_pylist() == ["a", "b"]


def test_rejects_have_the_columns_they_had_before_the_step(made: Run) -> None:
    assert asked(made, "SELECT row_id, text, reject_step, reject_reason FROM rejects") == [
        {"row_id": "d", "text": "text d", "reject_step": "where", "reject_reason": "short"}
    ]


def test_failures_have_their_error(made: Run) -> None:
    assert asked(made, "SELECT * FROM failures") == [
        {
            **{"row_id": "c", "parent_id": "p", "step": "mark"},
            **{"error": "TimeoutError", "message": "no answer", "attempts": 3},
        }
    ]


def test_reasons_add_up_rejects_and_failures(made: Run) -> None:
    assert asked(made, "SELECT * FROM reasons ORDER BY step") == [
        {"step": "mark", "reason": "failed:TimeoutError", "rows": 1},
        {"step": "where", "reason": "short", "rows": 1},
    ]


def test_the_funnel_is_a_line_for_each_step_in_order_and_every_line_adds_up(made: Run) -> None:
    assert [
        (one["step"], one["rows_in"], one["rows_kept"]) for one in asked(made, "SELECT * FROM funnel")
    ] == [("source", 0, 4), ("long", 4, 4), ("where", 4, 3), ("mark", 3, 2)]
    broken = (
        "SELECT * FROM funnel WHERE "
        "rows_in + rows_made <> rows_kept + rows_rejected + rows_failed + rows_expanded"
    )
    assert asked(made, broken) == []


def test_stages_and_steps_say_what_was_done_and_what_it_took(made: Run) -> None:
    found = asked(made, "SELECT folder, rows_in, rows_kept, seconds, calls FROM stages ORDER BY folder")
    assert [tuple(one.values()) for one in found] == [
        ("01-source-aa", 0, 4, 0.0, 0),
        ("02-where-bb", 4, 3, 0.0, 0),
        ("03-mark-cc", 3, 2, 1.5, 3),
    ]
    assert asked(made, "SELECT stage, operator FROM steps WHERE ordinal = 3") == [
        {"stage": "03-mark-cc", "operator": "curate.mark"}
    ]


def test_metrics_are_those_of_the_current_stages(made: Run) -> None:
    assert [(one["step"], one["metric"], one["value"]) for one in asked(made, "SELECT * FROM metrics")] == [
        ("mark", "share", 0.5)
    ]
    made.save(stages=made.state["stages"][:2])
    assert made.sql("SELECT * FROM metrics").schema == METRICS
    assert asked(made, "SELECT * FROM metrics") == []


def test_a_run_without_rejects_and_failures_has_their_views_empty(made: Run) -> None:
    made.save(stages=made.state["stages"][:1])
    for view in ("rejects", "failures", "reasons", "calls"):
        assert asked(made, f"SELECT * FROM {view}") == []
    assert made.sql("SELECT * FROM rows").num_rows == 4


def test_calls_are_read_from_all_journals_and_a_torn_last_line_is_passed_over(made: Run) -> None:
    made.kept_calls().mkdir()
    call = {"key": "k1", "step": "prompt", "row_id": "a", "ordinal": 0, "request": {"prompt": 'say "x"\n'}}
    torn = json.dumps({"key": "k3", "step": "prompt", "row_id": "c"})
    (made.kept_calls() / "1.jsonl").write_text(
        json.dumps({**call, "completion_tokens": 4}) + "\n" + torn[:-8]
    )
    (made.kept_calls() / "2.jsonl").write_text(json.dumps({**call, "key": "k2", "row_id": "b"}) + "\n")
    found = asked(made, "SELECT key, row_id, request->>'prompt' AS prompt FROM calls ORDER BY key")
    assert [tuple(one.values()) for one in found] == [("k1", "a", 'say "x"\n'), ("k2", "b", 'say "x"\n')]
    assert asked(made, "SELECT row_id FROM rows ANTI JOIN calls USING (row_id) ORDER BY 1") == [
        {"row_id": "c"},
        {"row_id": "d"},
    ]


def test_named_tables_are_seen_as_long_as_their_files_are_there(made: Run, tmp_path: Path) -> None:
    (tmp_path / "topics.csv").write_text("topic\nchess\n")
    files = [str(tmp_path / "topics.csv")]
    made.save(tables={"topics": {"files": files, "kind": "csv"}})
    assert asked(made, "SELECT topic FROM topics") == [{"topic": "chess"}]
    (tmp_path / "topics.csv").unlink()
    assert made.named_tables() == {}
    assert asked(made, "SELECT count(*) AS n FROM dataset") == [{"n": 2}]


def test_chance_in_a_query_over_a_run_is_that_of_the_run(made: Run) -> None:
    ask = "SELECT chance('a', 'tag') AS c"
    before = asked(made, ask)
    made.save(seed=8)
    assert asked(made, ask) != before


def test_a_run_without_a_finished_stage_has_nothing_to_query(tmp_path: Path) -> None:
    run = Run.claim(tmp_path / "run", "news")
    run.save(format=FORMAT, name="news", stages=[])
    with pytest.raises(RunError, match="has no finished stage yet"):
        run.sql("SELECT 1")
    run.release()


def test_versions_name_what_decides_a_result() -> None:
    assert {"synthray", "duckdb", "pyarrow", "ray"} <= set(versions())
