"""A pipeline is checked whole, resumes, repays nothing, and is the same for any number of blocks."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray.cloudpickle
import yaml

from synthray.errors import GateRefused, InputError, ModelError, RecipeError
from synthray.generate.prompt import Prompt
from synthray.lineage import ordered
from synthray.model.fake import Fake
from synthray.model.language import Request, call_key
from synthray.pipeline import Pipeline
from synthray.run import Run
from synthray.source.conditions import Conditions
from synthray.statement import Where
from synthray.step import Step

Small = Callable[..., Pipeline]
Write = Callable[..., Path]


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def refuse(request: object) -> ModelError:
    return ModelError("the key is refused", "HTTP401", fatal=True)


def digest_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ids(run: Run, view: str = "rows") -> list[str]:
    return run.sql(f"SELECT row_id FROM {view} ORDER BY 1")["row_id"].to_pylist()


# Without Ray: names, checks, stages.


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Where("true")], "the first step must make rows"),
        ([], "there are no steps"),
        ([Conditions(rows=1, columns={"a": ["x"]})] * 2, "used twice"),
        (
            [
                Conditions(rows=1, columns={"a": ["x"]}),
                Step(Conditions(rows=1, columns={"a": ["x"]}), name="again"),
            ],
            "only the first step makes rows",
        ),
        ([Conditions(rows=1, columns={"a": ["x"]}), Where("b = 1")], '"b" not found'),
        (
            [Conditions(rows=1, columns={"a": ["x"]}), Prompt(template="{{ b }}", writes="t")],
            "reads the column 'b'",
        ),
        ([Conditions(rows=1, columns={"a": ["x"]}), Prompt(template="{{ a }}", writes="t")], "needs a model"),
    ],
    ids=[
        "no source",
        "no steps",
        "unnamed",
        "two sources",
        "missing in sql",
        "missing in template",
        "no model",
    ],
)
def test_what_does_not_fit_is_found_before_any_work(
    steps: list[object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        Pipeline(steps).run(tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_nothing_follows_an_export(small: Small) -> None:
    pipeline = small(gate="  - where: true\ngate")
    with pytest.raises(RecipeError, match="nothing may follow parquet"):
        pipeline.check()


def test_a_directory_of_another_recipe_is_left_alone(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"format": 1, "name": "other"}))
    with pytest.raises(InputError, match="holds a run of the recipe 'other', not 'small'"):
        small().run(out)
    assert [path.name for path in out.iterdir()] == ["run.json"]


# With Ray.

with_ray = pytest.mark.usefixtures("ray_session")


@pytest.mark.ray
@with_ray
def test_one_and_eight_blocks_give_the_same_rows_and_dataset(small: Small, tmp_path: Path) -> None:
    done = []
    for blocks in (1, 8):
        out = tmp_path / f"run{blocks}"
        done.append(small(f"blocks={blocks}").run(out, quiet=True))
        files = list((out / done[-1].state["stages"][1].join(["stages/", ""])).glob("rows-*.parquet"))
        assert len(files) == blocks, "the rows were not cut as asked"
    assert ids(done[0]) == ids(done[1])
    one, eight = (digest_of(tmp_path / f"run{blocks}" / "dataset") for blocks in (1, 8))
    assert len(one) == 3
    assert one == eight


@pytest.mark.ray
@with_ray
def test_a_run_replays_from_its_calls_to_the_byte(small: Small, tmp_path: Path) -> None:
    small().run(tmp_path / "run", quiet=True)
    before = digest_of(tmp_path / "run" / "dataset")
    (tmp_path / "replay").mkdir()
    (tmp_path / "run" / "calls").rename(tmp_path / "replay" / "calls")
    (tmp_path / "replay" / "run.json").write_text((tmp_path / "run" / "run.json").read_text())
    replayed = small().run(tmp_path / "replay", quiet=True)
    assert replayed.state["calls_made"] == 0
    assert digest_of(tmp_path / "replay" / "dataset") == before


@pytest.mark.ray
@with_ray
def test_equal_prompts_above_temperature_0_are_draws_and_at_0_one_call(small: Small, tmp_path: Path) -> None:
    same = {'"{{ label }} {{ number }}"': '"the same"', "length(text) > 10": "length(text) > 1"}
    warm = small("conditions.rows=100", **same).run(tmp_path / "warm", quiet=True)
    assert warm.state["calls_made"] == 100
    assert warm.sql("SELECT count(DISTINCT key) AS n FROM calls").to_pylist() == [{"n": 100}]
    assert warm.sql("SELECT count(DISTINCT response) AS n FROM calls").to_pylist() == [{"n": 3}]
    cold = small("prompt.temperature=0", **same).run(tmp_path / "cold", quiet=True)
    assert cold.sql("SELECT count(DISTINCT key) AS n FROM calls").to_pylist() == [{"n": 1}]


@pytest.mark.ray
@with_ray
def test_a_step_inserted_above_repays_nothing(small: Small, tmp_path: Path) -> None:
    before = small().run(tmp_path / "run", quiet=True)
    above = "  - derive: {extra: upper(label)}\n  - where: number > 0\n  - generate.prompt"
    after = small(**{"  - generate.prompt": above}).run(tmp_path / "run", quiet=True)
    assert after.state["calls_made"] == 0
    assert ids(after) == ids(before)


@pytest.mark.ray
@with_ray
def test_fewer_rows_are_the_first_of_the_full_run(small: Small, tmp_path: Path) -> None:
    full = small().run(tmp_path / "run", quiet=True)
    want = full.sql("SELECT row_id, label, number, text FROM rows").to_pylist()
    few = small(rows=5).run(tmp_path / "run", quiet=True)
    assert few.state["calls_made"] == 0
    got = few.sql("SELECT row_id, label, number, text FROM rows").to_pylist()
    assert len(got) == 5
    assert all(row in want for row in got)


@pytest.mark.ray
@with_ray
def test_an_error_that_every_call_would_meet_ends_the_run_at_once(tmp_path: Path) -> None:
    pipeline = Pipeline(
        [Conditions(rows=20, columns={"a": ["x"]}), Prompt(template="{{ a }}", writes="t")],
        model=Fake(script=refuse),
    )
    with pytest.raises(ModelError, match="the key is refused"):
        pipeline.run(tmp_path / "run", quiet=True)
    assert Run.read(tmp_path / "run").state["state"] == "failed"


@pytest.mark.ray
@with_ray
def test_the_gate_refuses_with_what_it_measured(small: Small, tmp_path: Path) -> None:
    pipeline = small(**{"diversity.distinct_1.value > 0": "diversity.distinct_1.value > 2"})
    with pytest.raises(GateRefused, match=r"distinct_1.value > 2 \(diversity.distinct_1.value = 0\."):
        pipeline.run(tmp_path / "run", quiet=True)
    run = Run.read(tmp_path / "run")
    assert run.state["state"] == "refused"
    assert run.state["gate"][0]["passed"] is False
    card = (tmp_path / "run" / "dataset" / "README.md").read_text()
    assert "## Gate: REFUSED" in card
    assert yaml.safe_load(card.split("---")[1])["gate"] == "refused"


SLOW = """
import sys, time
from synthray.model.fake import Fake
from synthray.model.language import Request, call_key
from synthray.recipe import load
from dataclasses import replace
import slow_script

pipeline = load(sys.argv[1], settings=["conditions.rows=40"])
replace(pipeline, model=Fake(script=slow_script.answer, in_flight=4)).run(sys.argv[2], quiet=True)
"""
SCRIPT = """
import time

def answer(request):
    time.sleep(0.1)
    return "slow " + request.messages[0]["content"] + " and done"
"""


def answered(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (out / "calls").glob("*.jsonl"))


@pytest.mark.ray
@with_ray
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "ctrl-c"])
def test_a_killed_run_goes_on_and_sends_no_answered_call_again(
    small: Small, tmp_path: Path, sent: signal.Signals
) -> None:
    small()
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "slow_script.py").write_text(SCRIPT)
    out = tmp_path / "run"
    command = [sys.executable, "slow.py", "recipe.yaml", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while answered(out) < 8:
        assert running.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline, "no answers came"
        time.sleep(0.05)
    os.killpg(running.pid, sent)
    running.wait(timeout=120)
    assert running.returncode != 0
    before = answered(out)
    assert before < 40
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    run = Run.read(out)
    assert run.state["state"] == "done"
    keys = run.sql("SELECT count(*) AS n, count(DISTINCT key) AS kinds FROM calls").to_pylist()[0]
    assert keys == {"n": 40, "kinds": 40}, "an answered call was sent again, or one was lost"
    assert len(ids(run)) == 40


# What a review found: each was wrong once.


@pytest.mark.ray
@with_ray
def test_the_dataset_is_always_that_of_the_last_run(small: Small, tmp_path: Path) -> None:
    """RUN/dataset is one place for every export: going back to a recipe must bring its dataset back."""
    import pyarrow.parquet as pq

    def rows() -> int:
        return sum(len(pq.read_table(path)) for path in (tmp_path / "run" / "dataset" / "data").iterdir())

    small().run(tmp_path / "run", quiet=True)
    before = rows()
    small(rows=4).run(tmp_path / "run", quiet=True)
    assert rows() < before
    run = small().run(tmp_path / "run", quiet=True)
    assert rows() == before == len(ids(run, "dataset"))


def test_the_order_of_settings_is_in_the_fingerprint(small: Small) -> None:
    one = small()
    turned = small(**{"{a: first, b: second}": "{b: second, a: first}"})
    shown = [ordered(vars(pipeline.task)) for pipeline in (one, turned)]
    assert shown[0] != shown[1]
    answer = {"type": "object", "properties": {"why": {}, "label": {}}}
    other = {"type": "object", "properties": {"label": {}, "why": {}}}
    request = Request(messages=({"role": "user", "content": "x"},), schema=answer)
    assert call_key({}, request, None) != call_key({}, replace(request, schema=other), None)


@pytest.mark.ray
@with_ray
def test_a_when_that_picks_no_row_leaves_the_columns(small: Small, tmp_path: Path) -> None:
    steps = (
        "  - generate.prompt: {template: '{{ text }}', writes: more}\n    as: again\n    when: number > 99\n"
        "  - where: more IS NULL\n    reason: more\n  - evaluate.diversity"
    )
    run = small(**{"  - evaluate.diversity": steps}).run(tmp_path / "run", quiet=True)
    assert run.state["calls_made"] == 12
    assert run.sql("SELECT count(more) AS n FROM dataset").to_pylist() == [{"n": 0}]


@pytest.mark.ray
@with_ray
def test_a_when_whose_cast_fails_fails_the_row_alone(small: Small, tmp_path: Path) -> None:
    steps = (
        "  - curate.near_duplicate: {text: text}\n"
        "    when: CAST(CASE WHEN label = 'a' THEN 'x' ELSE '1' END AS INTEGER) = 1\n  - evaluate.diversity"
    )
    run = small("max_failed=1.0", **{"  - evaluate.diversity": steps}).run(tmp_path / "run", quiet=True)
    failed = run.sql("SELECT DISTINCT step, error FROM failures").to_pylist()
    assert failed == [{"step": "near_duplicate", "error": "ConversionError"}]
    assert run.sql("SELECT DISTINCT label FROM dataset").to_pylist() == [{"label": "b"}]


def test_a_run_of_somebody_else_reaches_nothing_outside_of_it(tmp_path: Path) -> None:
    target = tmp_path / "written.csv"
    for bad in (
        {"seed": f"0'))::BIGINT; COPY (SELECT 1) TO '{target}'; --"},
        {"stages": ["../../elsewhere"]},
        {"name": ["x"]},
    ):
        state = {"format": 1, "name": "x", "seed": 1, "stages": [], **bad}
        (tmp_path / "run.json").write_text(json.dumps(state))
        with pytest.raises(InputError, match="damaged"):
            Run.read(tmp_path).sql("SELECT 1")
    assert not target.exists()
