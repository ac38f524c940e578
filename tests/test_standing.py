"""The dataset as it stood after a step is what a run that ends with this step would have left."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import operators
import pytest
import ray.cloudpickle
from operators import Fails, Splits, Upper

from synthray.curate.exact_duplicate import ExactDuplicate
from synthray.errors import RunFailed
from synthray.pipeline import Pipeline
from synthray.query import Query
from synthray.source.table import Table
from synthray.standing import Standing, standings
from synthray.statement import Derive, Select, Union, Where
from synthray.step import Step
from synthray.table import Table as Files

if TYPE_CHECKING:
    from synthray.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
ray.cloudpickle.register_pickle_by_value(operators)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

TEXTS = [
    *("alpha beta", "gamma", "12", "avocado pear fig", "delta", "alpha beta"),
    *("7", "a b c d", "iota kappa", "epsilon"),
]


def written(folder: Path, name: str, texts: list[str]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(texts)))
    return path


def ran(folder: Path, steps: list[Any], out: str) -> Run:
    more = Files.find(str(written(folder, "more.jsonl", ["one", "two"])), folder)
    source = Table(path=str(written(folder, "texts.jsonl", TEXTS)))
    pipeline = Pipeline([source, *steps], tables={"more": more}, max_failed=1.0, blocks=2)
    return pipeline.run(folder / out, quiet=True)


def rows(standing: Standing) -> list[dict[str, Any]]:
    with Query({"held": standing.sql()}, files=standing.files) as query:
        found: list[dict[str, Any]] = query.arrow("SELECT * FROM held ORDER BY row_id").to_pylist()
        return found


def stood(run: Run) -> list[Standing]:
    return standings(run, run.stages()[-1])


STEPS: list[Any] = [
    Where("n <> 4", "fourth"),
    # The cast fails for two texts: rows fail among statements that reject others.
    Step(Where("CASE WHEN n IN (2, 7, 8) THEN text::INTEGER = 12 ELSE true END", "number"), name="numbers"),
    Where("n >= 0", "never"),
    Derive({"long": "length(text) > 7", "text": "CASE n WHEN 1 THEN 'changed' ELSE text END"}),
    ExactDuplicate(text="text"),
    Step(Where("exact_duplicate_of IS NULL", "duplicate"), name="unique"),
    Upper(),
    Union("more"),
    Where("n < 9 OR long IS NULL", "last"),
    Step(Splits(), name="splits"),
    Select(
        "SELECT string_agg(text, ' ' ORDER BY row_id) AS text, list(row_id ORDER BY row_id) AS parents, "
        "0::BIGINT AS n FROM rows GROUP BY n"
    ),
]


def test_after_each_step_it_is_what_a_run_to_there_leaves(tmp_path: Path) -> None:
    found = stood(ran(tmp_path, STEPS, "whole"))
    assert len(found) == len(STEPS) + 1
    sizes = []
    for last in (2, 4, 6, 8, 9, 11):
        shorter = ran(tmp_path, STEPS[:last], "parts")
        expected = shorter.sql("SELECT * FROM dataset ORDER BY row_id").to_pylist()
        assert found[last].step == shorter.stages()[-1].steps[-1].step
        assert rows(found[last]) == expected, found[last].step
        sizes.append(len(expected))
    assert len(set(sizes)) >= 4, "steps of all kinds change the rows"


def test_rows_that_failed_in_the_middle_of_a_stage_are_gone_from_there_on(tmp_path: Path) -> None:
    steps = [
        Step(Where("n <> 4", "fourth"), name="one"),
        Step(Where("CASE WHEN n < 6 THEN n <> 1 ELSE text::INTEGER = 7 END", "seven"), name="two"),
        Step(Where("n <> 0", "none"), name="three"),
    ]
    run = ran(tmp_path, steps, "run")
    assert len(run.stages()) == 2, "the statements are one stage"
    found = {
        one.step: [row["n"] for row in sorted(rows(one), key=lambda row: row["n"])] for one in stood(run)
    }
    assert found == {
        "table": [*range(10)],
        "one": [0, 1, 2, 3, 5, 6, 7, 8, 9],
        "two": [0, 2, 3, 5, 6],
        "three": [2, 3, 5, 6],
    }


def test_rows_that_an_operator_failed_are_gone(tmp_path: Path) -> None:
    found = stood(ran(tmp_path, [Fails(), Where("n > 1", "first")], "run"))
    assert [len(rows(one)) for one in found] == [10, 6, 5]


def test_steps_that_leave_the_rows_as_they_are_are_equal(tmp_path: Path) -> None:
    steps = [
        ExactDuplicate(text="text"),
        Where("true", "never"),
        Step(Where("true", "never"), name="again"),
        Where("n > 0", "first"),
    ]
    source, marked, never, again, first = stood(ran(tmp_path, steps, "run"))
    assert source != marked, "marks were added"
    assert source.only(["text", "n"]) == marked.only(["text", "n"]) == never.only(["text", "n"])
    assert never == again
    assert again != first
    assert source.only(["exact_duplicate_of"]) != marked.only(["exact_duplicate_of"])


def test_a_stage_that_is_gone_is_told(tmp_path: Path) -> None:
    run = ran(tmp_path, [Where("n > 0", "first")], "run")
    first, last = run.stages()
    (run.root / "stages" / first.folder / "stage.json").unlink()
    with pytest.raises(RunFailed, match="is not whole any more; run the recipe again"):
        standings(run, last)
