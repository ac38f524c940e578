"""A run under way: what stands is skipped, what changed is made again, what fails too often ends it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from synthray.errors import TooManyFailed
from synthray.pipeline import Pipeline
from synthray.run import Run

Small = Callable[..., Pipeline]


Write = Callable[..., Path]


def digest_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ids(run: Run, view: str = "rows") -> list[str]:
    return run.sql(f"SELECT row_id FROM {view} ORDER BY 1")["row_id"].to_pylist()


with_ray = pytest.mark.usefixtures("ray_session")


@pytest.mark.ray
@with_ray
def test_a_second_run_computes_nothing_and_calls_nothing(small: Small, tmp_path: Path) -> None:
    first = small().run(tmp_path / "run", quiet=True)
    assert first.state["calls_made"] == 12
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "stages").rglob("*")}
    again = small().run(tmp_path / "run", quiet=True)
    assert again.state["calls_made"] == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "stages").rglob("*")} == times


@pytest.mark.ray
@with_ray
def test_a_changed_threshold_runs_only_from_there(small: Small, tmp_path: Path) -> None:
    before = small().run(tmp_path / "run", quiet=True)
    after = small(**{"length(text) > 10": "length(text) > 13"}).run(tmp_path / "run", quiet=True)
    assert after.state["calls_made"] == 0
    assert after.state["stages"][:2] == before.state["stages"][:2]
    assert not set(after.state["stages"][2:]) & set(before.state["stages"][2:])
    assert len(ids(after, "dataset")) < len(ids(before, "dataset"))


@pytest.mark.ray
@with_ray
def test_limits_and_blocks_are_in_no_fingerprint(small: Small, tmp_path: Path) -> None:
    before = small().run(tmp_path / "run", quiet=True).state["stages"]
    after = small("blocks=4", "max_failed=0.5", "model.in_flight=3").run(tmp_path / "run", quiet=True)
    assert after.state["stages"] == before


@pytest.mark.ray
@with_ray
def test_failures_stop_the_run_only_above_max_failed_and_can_be_retried(small: Small, tmp_path: Path) -> None:
    answers = {
        "[one two three, four five six seven, eight nine]": '[ok text, "not json", \'{"text": "fine and long"}\']'
    }
    rule = {"writes: text": "reasks: 0, writes: {text: string}"}
    pipeline = small(**answers, **rule)
    with pytest.raises(TooManyFailed, match=r"of 12 rows failed, more than max_failed \(5%\)"):
        pipeline.run(tmp_path / "run", quiet=True)
    failed = Run.read(tmp_path / "run").sql("SELECT error, message FROM failures").to_pylist()
    assert 0 < len(failed) < 12
    assert {row["error"] for row in failed} == {"InvalidAnswer"}
    lenient = replace(pipeline, max_failed=1.0)
    run = lenient.run(tmp_path / "run", quiet=True)
    assert run.state["calls_made"] == 0, "the failures are answered calls; asking again must be asked for"
    retried = lenient.run(tmp_path / "run", quiet=True, retry_failed=True)
    assert retried.state["calls_made"] == len(failed), "each failed row is drawn once more, the others never"
    left = retried.sql("SELECT count(*) AS n FROM failures").to_pylist()[0]["n"]
    assert left < len(failed)


@pytest.mark.ray
@with_ray
def test_a_deleted_dataset_is_exported_again(small: Small, tmp_path: Path) -> None:
    small().run(tmp_path / "run", quiet=True)
    before = digest_of(tmp_path / "run" / "dataset")
    for path in (tmp_path / "run" / "dataset" / "data").iterdir():
        path.unlink()
    small().run(tmp_path / "run", quiet=True)
    assert digest_of(tmp_path / "run" / "dataset") == before


@pytest.mark.ray
@with_ray
def test_a_table_may_be_a_pipeline_of_its_own(small: Small, tmp_path: Path) -> None:
    tables = (
        "tables:\n"
        "  places: {steps: [{source.conditions: {rows: 4, columns: {number: {range: [1, 9]}}}}, "
        "{derive: {place: \"'place ' || number\"}}]}\n"
        "steps:"
    )
    column = {"number: {range: [1, 9]}": "place: {from: places}", "{{ number }}": "{{ place }}"}
    run = small(**column, **{"steps:": tables}).run(tmp_path / "run", quiet=True)
    places = run.sql("SELECT DISTINCT place FROM places")["place"].to_pylist()
    used = run.sql("SELECT DISTINCT place FROM rows")["place"].to_pylist()
    assert set(used) == set(places)
    assert all(place.startswith("place ") for place in places)


@pytest.mark.ray
@with_ray
def test_a_table_of_its_own_shares_no_row_id_and_no_draw_with_the_recipe(
    small: Small, tmp_path: Path
) -> None:
    same = "source.conditions: {rows: 12, columns: {label: task.labels, number: {range: [1, 9]}}}"
    ask = 'generate.prompt: {template: "{{ label }} {{ number }}", writes: text}'
    tables = f"tables:\n  more: {{steps: [{{{same}}}, {{{ask}}}, {{where: length(text) > 10}}]}}\nsteps:"
    union = "  - union: more\n  - evaluate.diversity"
    run = small(**{"steps:": tables, "  - evaluate.diversity": union}).run(tmp_path / "run", quiet=True)
    assert run.state["calls_made"] == 24
    names = run.sql("SELECT DISTINCT step FROM steps")["step"].to_pylist()
    assert {"conditions", "more_conditions", "more_prompt", "union"} <= set(names)
    reasons = run.sql("SELECT DISTINCT reject_step FROM rejects")["reject_step"].to_pylist()
    assert "more_where" in reasons, "rows that a table's own steps reject are rows of the run too"


@pytest.mark.ray
@with_ray
def test_a_table_that_only_a_when_reads_is_in_the_fingerprint(
    small: Small, write: Write, tmp_path: Path
) -> None:
    tables = {"steps:": "tables: {Picked: picked.jsonl}\nsteps:"}
    when = {
        "  - evaluate.diversity": "  - curate.near_duplicate: {text: text}\n"
        "    when: number IN (SELECT n FROM picked)\n  - evaluate.diversity"
    }
    write('{"n": 1}\n', "picked.jsonl")
    before = small(**tables, **when).run(tmp_path / "run", quiet=True).state["stages"]
    write('{"n": 2}\n', "picked.jsonl")
    after = small(**tables, **when).run(tmp_path / "run", quiet=True).state["stages"]
    assert before[2] == after[2]
    assert before[3] != after[3]
