"""The worth of a dataset as it stood after each step of a run, for any number of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.exact_duplicate import ExactDuplicate
from synthray.errors import InputError
from synthray.evaluate.utility import Utility
from synthray.pipeline import Pipeline
from synthray.query import Query
from synthray.source.table import Table as Rows
from synthray.statement import Derive, Union, Where
from synthray.step import Step
from synthray.table import Table
from synthray.trial import Part, Trial, codes

if TYPE_CHECKING:
    from synthray.run import Run

from teaching import REAL, TEST, TRAIN, WORDS, texts

STATES = [
    Step(Where("length(text) % 5 > 0", "length"), name="long"),
    Step(Where("text <> ''", "empty"), name="nothing"),
    Step(Where("row_id > '2'", "first"), name="late"),
    ExactDuplicate(text="text"),
    Step(Derive({"label": "CASE WHEN n < 30 THEN 'food' ELSE label END"}), name="spoil"),
    Step(Union("real"), name="more"),
    Step(Where("n IS NOT NULL OR label <> 'pets'", "pets"), name="fewer"),
]


def ran(folder: Path, steps: Sequence[Any], out: str, blocks: int = 2, **settings: Any) -> Run:
    rows = texts(1, ["money", "money", "pets", "food"] * 40)
    rows = rows.drop_columns(["row_id"]).append_column("n", pa.array(range(160)))
    for name, table in (("given", rows), ("test", TEST), ("real", REAL.drop_columns(["row_id"]))):
        pq.write_table(table, folder / f"{name}.parquet")
    tables = {name: Table.find(f"{name}.parquet", folder) for name in ("test", "real")}
    source = Rows(path=str(folder / "given.parquet"))
    utility = Utility(text="text", label="label", test="test", resamples=100, **settings)
    return Pipeline([source, *steps, utility], tables=tables, blocks=blocks).run(folder / out, quiet=True)


def metrics(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run.sql("SELECT * FROM metrics WHERE step = 'utility'").to_pylist()
    return found


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_stages_are_the_dataset_as_it_stood_after_each_step_that_changed_it(tmp_path: Path) -> None:
    run = ran(tmp_path, STATES, "run", stages=True, controls=3)
    found = {(row["metric"], row["slice"]): row for row in metrics(run)}
    steps = [name.removeprefix("stage=") for metric, name in found if metric == "train_rows" and name]
    assert steps == ["table", "long", "late", "spoil", "more", "fewer"], (
        "nothing and exact_duplicate change nothing"
    )
    shown: dict[str, dict[str, Any]] = {}
    for last in (3, 5, 7):
        shorter = ran(tmp_path, STATES[:last], "parts")
        name = shorter.stages()[-2].steps[-1].step
        shown[name] = {row["slice"] or row["metric"]: row for row in metrics(shorter)}
    before = None
    for step in steps:
        one = found["accuracy", f"stage={step}"]
        if step in shown:
            assert {**one, "slice": None} == shown[step]["accuracy"], step
            assert found["train_rows", f"stage={step}"]["value"] == shown[step]["train_rows"]["value"]
        if before is None:
            assert ("bought", f"stage={step}") not in found
        else:
            bought = found["bought", f"stage={step}"]
            assert bought["value"] == pytest.approx(one["value"] - before["value"], abs=1e-12)
            assert bought["ci_low"] <= bought["value"] <= bought["ci_high"]
        before = one
    assert sorted(shown) == ["fewer", "late", "spoil"]
    assert found["bought", "stage=spoil"]["value"] < -0.05
    changed = found["bought_over_chance", "stage=spoil"]
    assert changed["value"] == pytest.approx(found["bought", "stage=spoil"]["value"], abs=1e-12)
    assert math.isnan(found["bought_over_chance", "stage=more"]["value"]), "there are more rows than before"
    assert not math.isnan(found["bought_over_chance", "stage=fewer"]["value"])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_chance_is_the_mean_of_random_parts_of_the_rows_before(tmp_path: Path) -> None:
    found = {
        (row["metric"], row["slice"]): row for row in metrics(ran(tmp_path, STATES[:1], "run", stages=True))
    }
    rows = ran(tmp_path, [], "before").sql("SELECT * FROM dataset")
    size = int(found["train_rows", "stage=long"]["value"])
    assert size < len(rows)
    bench = Utility(text="text", label="label", test="test").bench
    scores = []
    with Query({"rows": rows, "test": TEST}) as query:
        truth = codes(bench.asked(query, "test")["label"].to_pylist(), sorted(WORDS))
        for control in range(5):
            part = Part("rows", size, ("control", "long", control), stratified=False)
            scores.append((bench.said(query, Trial("linear", (part,)), "test") == truth).mean())
    row = found["bought_over_chance", "stage=long"]
    expected = found["accuracy", "stage=long"]["value"] - np.mean(scores)
    assert row["value"] == pytest.approx(expected, abs=1e-12)
    assert row["ci_low"] < row["value"] < row["ci_high"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_number_of_blocks_changes_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "stages": True,
        "real": "real",
        "students": ["bayes"],
        "subsets": 2,
        "sizes": [20, 500],
        "controls": 2,
    }
    found = []
    for blocks in (1, 7, 64):
        (tmp_path / str(blocks)).mkdir()
        found.append(metrics(ran(tmp_path / str(blocks), STATES[:1], "run", blocks, **settings)))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert (one["metric"], one["slice"], one["n"]) == (same["metric"], same["slice"], same["n"])
            for name in ("value", "ci_low", "ci_high"):
                expected = pytest.approx(one[name], abs=1e-9, nan_ok=True)
                assert (one[name] is same[name] is None) or same[name] == expected, (one, same)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_stages_and_when_do_not_go_together(tmp_path: Path) -> None:
    utility = Utility(text="text", label="label", test="test", stages=True)
    pq.write_table(TEST, tmp_path / "test.parquet")
    pq.write_table(TRAIN, tmp_path / "given.parquet")
    tables = {"test": Table.find("test.parquet", tmp_path)}
    steps = [Rows(path=str(tmp_path / "given.parquet")), Step(utility, when="label <> 'pets'")]
    with pytest.raises(InputError, match="of which `when` cannot pick some; leave one of the two out"):
        Pipeline(steps, tables=tables).run(tmp_path / "run", quiet=True)
