"""Passes over files find what one process finds, whatever the blocks, the order and where columns stand."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.label_issue import LabelIssue
from synthray.curate.multilabel_issue import MultilabelIssue
from synthray.curate.token_issue import TokenIssue
from synthray.errors import InputError, RunFailed
from synthray.issue import shares
from synthray.label.confident import FilterBy
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.step import Step
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.operator import Operator

CLASSES = ["a", "b", "c", "d"]
SETTINGS: dict[str, Any] = {"probabilities": "probabilities", "classes": CLASSES}


def rows(size: int = 600, rounded: bool = False) -> pa.Table:
    """Return labels, lists of them and labelled tokens, each with its probabilities, in no order."""
    random = np.random.default_rng(7)
    true = random.integers(0, 4, size)
    held = random.dirichlet(np.full(4, 0.4), size)
    held[np.arange(size), true] += random.random(size)
    if rounded:
        held = np.round(held * 4) + 0.25
    held /= held.sum(axis=1, keepdims=True)
    given = np.where(random.random(size) < 0.2, random.integers(0, 4, size), true)
    ends = np.append(0, np.cumsum(random.integers(0, 5, size)))
    tokens = random.integers(0, size, ends[-1])
    spans = list(itertools.pairwise(ends))
    table = pa.table(
        {
            "row_id": [f"row{place:04}" for place in range(size)],
            "label": [CLASSES[place] for place in given],
            "probabilities": held.tolist(),
            "labels": [sorted({CLASSES[place], "a"}) for place in given],
            "words": pa.array(
                [[CLASSES[given[one]] for one in tokens[start:end]] for start, end in spans],
                pa.list_(pa.string()),
            ),
            "word_probabilities": pa.array(
                [held[tokens[start:end]].tolist() for start, end in spans],
                pa.list_(pa.list_(pa.float64())),
            ),
        }
    )
    return table.take(pa.array(random.permutation(size)))


def run(table: pa.Table, steps: list[Any], path: Path, blocks: int | None = None) -> Any:
    path.mkdir(parents=True)
    pq.write_table(table, path / "given.parquet")
    tables = {"problem": Table((str(path / "given.parquet"),), "parquet")}
    pipeline = Pipeline([Source(table="problem"), *steps], name="labels", tables=tables, blocks=blocks)
    return pipeline.run(path / "run", quiet=True)


def marks(run: Any, operator: Operator) -> pa.Table:
    return run.sql(f"SELECT row_id, {', '.join(operator.adds())} FROM dataset ORDER BY row_id")


def expected(table: pa.Table, operator: Operator) -> pa.Table:
    return operator(table).select(["row_id", *operator.adds()]).sort_by("row_id")


OPERATORS = [
    LabelIssue(label="label", **SETTINGS),
    LabelIssue(label="label", filter_by="low_normalized_margin", **SETTINGS),
    MultilabelIssue(label="labels", filter_by="both", **SETTINGS),
    MultilabelIssue(label="labels", filter_by="low_self_confidence", **SETTINGS),
    TokenIssue(label="words", probabilities="word_probabilities", classes=CLASSES),
]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda one: f"{type(one).__name__}-{one.filter_by}")
@pytest.mark.parametrize("blocks", [1, 7])
def test_tasks_find_what_one_process_finds_ties_and_all(
    operator: Operator, blocks: int, tmp_path: Path
) -> None:
    table = rows(rounded=True)
    found = marks(run(table, [operator], tmp_path / "a", blocks), operator)
    assert found.equals(expected(table, operator).cast(found.schema))
    assert 10 < sum(filter(None, found["label_issue"].to_pylist())) < 500


@pytest.mark.parametrize("rule", get_args(FilterBy))
def test_of_tied_rows_those_are_marked_that_cleanlab_marks(rule: Any) -> None:
    from cleanlab.filter import find_label_issues

    table = rows(rounded=True)
    ordered = table.sort_by("row_id")
    given = np.array([CLASSES.index(label) for label in ordered["label"].to_pylist()])
    held = np.array(ordered["probabilities"].to_pylist())
    found = expected(table, LabelIssue(label="label", filter_by=rule, **SETTINGS))
    marked = find_label_issues(given, held, filter_by=rule, n_jobs=1)
    assert found["label_issue"].to_pylist() == marked.tolist()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_keeps_rate_thresholds_and_the_noise_matrix(tmp_path: Path) -> None:
    from cleanlab.count import estimate_py_and_noise_matrices_from_probabilities as estimated

    table = rows()
    operator = OPERATORS[0]
    held = run(table, [operator], tmp_path / "a", 3)
    metrics = held.sql("SELECT metric, slice, value, n FROM metrics WHERE step = 'label_issue'").to_pylist()
    found = {(one["metric"], one["slice"]): one for one in metrics}
    issues = expected(table, operator)["label_issue"].to_numpy()
    assert found["rate", None] == {"metric": "rate", "slice": None, "value": issues.mean(), "n": 600}
    given = np.array([CLASSES.index(label) for label in table["label"].to_pylist()])
    matrix = estimated(given, np.array(table["probabilities"].to_pylist()), converge_latent_estimates=False)[
        1
    ]
    for one in range(4):
        own = np.array(table["probabilities"].to_pylist())[given == one, one]
        threshold = found["threshold", f"given={CLASSES[one]}"]
        assert (threshold["value"], threshold["n"]) == (pytest.approx(own.mean()), len(own))
        for other in range(4):
            noise = found.get(("noise", f"given={CLASSES[one]},true={CLASSES[other]}"), {"value": 0.0})
            assert noise["value"] == matrix[one, other]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_columns_that_stand_beside_the_rows_are_judged_and_rows_that_pass_by_are_not(tmp_path: Path) -> None:
    table = rows()
    first, second = (
        LabelIssue(label="label", **SETTINGS),
        LabelIssue(label="first_suggested_label", **SETTINGS),
    )
    steps = [Step(first, name="first"), Step(second, name="second", when="first_label_quality < 0.5")]
    held = run(table, steps, tmp_path / "a", 2)
    found = held.sql(
        "SELECT row_id, second_label_issue AS label_issue, second_label_quality AS label_quality, "
        "second_suggested_label AS suggested_label FROM dataset ORDER BY row_id"
    )
    marked = first(table).sort_by("row_id")
    low = marked.filter(pa.array(marked["label_quality"].to_numpy() < 0.5))
    again = low.select(["row_id", "suggested_label", "probabilities"]).rename_columns(
        ["row_id", "first_suggested_label", "probabilities"]
    )
    judged = {row["row_id"]: row for row in expected(again, second).to_pylist()}
    nothing = dict.fromkeys(second.adds())
    assert 100 < len(judged) < 500
    assert found.to_pylist() == [
        judged.get(row, {"row_id": row, **nothing}) for row in marked["row_id"].to_pylist()
    ]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_bad_values_are_told_with_the_row_by_a_run(tmp_path: Path) -> None:
    table = rows(50)
    held = table["probabilities"].to_pylist()
    held[7] = [float("nan"), 0.0, 0.0, 1.0]
    table = table.set_column(2, "probabilities", pa.array(held))
    row = table["row_id"][7].as_py()
    with pytest.raises(RunFailed, match=f"label_issue: column 'probabilities' of row_id '{row}' holds nan"):
        run(table, [OPERATORS[0]], tmp_path / "a")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_column_that_is_not_there_is_found_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'probability'.*did you mean 'probabilities'"):
        run(rows(20), [LabelIssue(label="label", probabilities="probability")], tmp_path / "a")


def test_each_row_group_is_in_one_share(tmp_path: Path) -> None:
    files = []
    for size in (10, 3, 25):
        files.append(str(tmp_path / f"{size}.parquet"))
        pq.write_table(
            pa.table({"row_id": [f"{place}" for place in range(size)]}), files[-1], row_group_size=4
        )
    groups = [(files[0], place) for place in range(3)] + [(files[1], 0)]
    groups += [(files[2], place) for place in range(7)]
    for number in (1, 2, 5, 11, 64):
        dealt = shares(files, number)
        assert [(file, place) for share in dealt for file, places in share for place in places] == groups
        assert len(dealt) == min(number, len(groups)) or number > 5


def test_the_answer_of_one_process_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from synthray import issue

    table = rows(rounded=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = [expected(table, operator) for operator in OPERATORS]
        monkeypatch.setattr(issue, "_ROWS", 1)
        monkeypatch.setattr(issue, "_LEAST_ROWS", 13)
        monkeypatch.setattr(issue, "_TIED", 1)
        assert [expected(table, operator) for operator in OPERATORS] == whole
