"""Labels that do not fit their texts are found by students that never saw the row or its siblings."""

from __future__ import annotations

import functools
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import learning
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from synthray.curate.label_issue import LabelIssue
from synthray.errors import InputError, RunFailed
from synthray.label.confident import FilterBy, Score
from synthray.operator import Context
from synthray.task import Task

OPERATOR = LabelIssue(text="text", label="label", folds=3, context=Context(seed=1))


def rows(size: int = 120, flipped: int = 12) -> tuple[pa.Table, set[str]]:
    """Return texts with labels, and the ids of those whose label was flipped."""
    table = learning.rows(size, flipped)
    wrong = pc.not_equal(table["label"], table["true"])
    return table, set(table["row_id"].filter(wrong).to_pylist())


@pytest.fixture(scope="module")
def marked() -> tuple[pa.Table, set[str]]:
    table, wrong = rows()
    return OPERATOR(table), wrong


def test_flipped_labels_are_found(marked: tuple[pa.Table, set[str]]) -> None:
    table, wrong = marked
    found = {row["row_id"] for row in table.to_pylist() if row["label_issue"]}
    assert len(found & wrong) / len(wrong) >= 0.9, "recall"
    assert len(found & wrong) / len(found) >= 0.9, "precision"


def test_the_suggested_label_is_mostly_the_true_one_and_quality_tells_right_from_wrong(
    marked: tuple[pa.Table, set[str]],
) -> None:
    table, wrong = marked
    made = table.to_pylist()
    assert np.mean([row["suggested_label"] == row["true"] for row in made]) > 0.95
    quality = {row["row_id"]: row["label_quality"] for row in made}
    assert all(0 <= one <= 1 for one in quality.values())
    lowest = sorted(quality, key=lambda one: quality[one])[: len(wrong)]
    assert len(set(lowest) & wrong) / len(wrong) >= 0.9


@functools.cache
def problem() -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """Return given classes, their probabilities, and both as rows in another order."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 3, 400)
    held = generator.dirichlet([0.5, 0.5, 0.5], 400)
    held[np.arange(400), labels] += generator.random(400)
    held /= held.sum(axis=1, keepdims=True)
    order = generator.permutation(400)
    table = pa.table(
        {
            "row_id": [f"row{place:03}" for place in order],
            "label": ["abc"[labels[place]] for place in order],
            "probabilities": [held[place].tolist() for place in order],
        }
    )
    return labels, held, table


GIVEN = LabelIssue(label="label", probabilities="probabilities")


@pytest.mark.parametrize("rule", get_args(FilterBy))
@pytest.mark.parametrize("score", get_args(Score))
def test_marks_by_given_probabilities_are_cleanlabs_own(rule: Any, score: Any) -> None:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels, held, table = problem()
    out = replace(GIVEN, filter_by=rule, score=score)(table)
    assert out["row_id"] == table["row_id"]
    out = out.sort_by("row_id")
    expected = find_label_issues(labels, held, filter_by=rule, n_jobs=1)
    assert out["label_issue"].to_pylist() == expected.tolist()
    assert 0 < expected.sum() < 400
    scores = get_label_quality_scores(labels, held, method=score)
    np.testing.assert_array_equal(out["label_quality"].to_numpy(), scores)
    assert out["suggested_label"].to_pylist() == ["abc"[place] for place in held.argmax(axis=1)]


def test_the_students_marks_are_those_of_its_probabilities(marked: tuple[pa.Table, set[str]]) -> None:
    learned = OPERATOR.judged(rows()[0])
    given = replace(GIVEN, context=OPERATOR.context)(learned).sort_by("row_id")
    for name in GIVEN.adds():
        assert given[name].to_pylist() == marked[0][name].to_pylist()


def test_classes_name_the_order_of_the_probabilities_and_may_hold_one_that_no_row_has() -> None:
    _, _, table = problem()
    turned = pa.array([[*line[::-1], 0.0] for line in table["probabilities"].to_pylist()])
    other = table.set_column(2, "probabilities", turned)
    expected = GIVEN(table)
    assert replace(GIVEN, classes=["c", "b", "a", "d"])(other).drop_columns(["probabilities"]) == (
        expected.drop_columns(["probabilities"])
    )
    task = Task(labels={"c": "", "b": "", "a": "", "d": ""})
    by_task = replace(GIVEN, classes="task.labels", context=Context(task=task))(other)
    assert by_task["suggested_label"] == expected["suggested_label"]
    assert replace(GIVEN, classes=["a", "b", "c", "d"])(other) != by_task
    assert replace(GIVEN, context=Context(task=task))(table) == expected, "a task alone changes no order"


def test_rows_without_label_or_probabilities_keep_nulls_and_change_nothing() -> None:
    _, _, table = problem()
    kind = table.schema.field("probabilities").type
    lacking = pa.table(
        {
            "row_id": ["x", "y"],
            "label": pa.array(["a", None]),
            "probabilities": pa.array([None, [float("nan"), 7.0]], kind),
        }
    )
    out = GIVEN(pa.concat_tables([lacking, table]))
    assert out.slice(2) == GIVEN(table)
    assert out.slice(0, 2).select(list(GIVEN.adds())).to_pylist() == [dict.fromkeys(GIVEN.adds())] * 2


def test_the_column_of_another_prefix() -> None:
    out = replace(GIVEN, context=Context(prefix="strong_"))(problem()[2])
    assert "strong_label_issue" in out.column_names


@pytest.mark.parametrize(
    ("labels", "settings", "told"),
    [
        (["a", "a"], {}, r"needs at least two labels among the rows, but found \['a'\] in column 'label'"),
        ([None, None], {}, r"needs at least two labels among the rows, but found \[\]"),
        (["a", "bee"], {"classes": ["a", "bees"]}, "'bee', which is none of the classes.*mean 'bees'"),
        (["a", "b"], {"classes": ["a", "b", "c"]}, "'1' holds 2 probabilities, but there are 3 classes"),
    ],
)
def test_labels_that_do_not_fit_are_told(labels: Any, settings: Any, told: str) -> None:
    held = pa.array([[0.5, 0.5], [0.25, 0.75]])
    table = pa.table({"row_id": ["1", "2"], "label": pa.array(labels, pa.string()), "probabilities": held})
    with pytest.raises(RunFailed, match=f"label_issue: .*{told}"):
        replace(GIVEN, **settings)(table)


def test_labels_of_rows_without_probabilities_are_nothing_to_judge() -> None:
    held = pa.nulls(2, pa.list_(pa.float64()))
    table = pa.table({"row_id": ["1", "2"], "label": ["a", "b"], "probabilities": held})
    with pytest.raises(RunFailed, match="no row has both 'label' and 'probabilities'"):
        GIVEN(table)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "needs text or embedding, .*; neither is set"),
        ({"text": "text", "probabilities": "probabilities"}, "needs text or embedding, .*; both are set"),
        ({"text": "text", "classes": ["a", "b"]}, "classes is the order of given probabilities"),
        ({"probabilities": "text"}, "column 'text' must hold lists of floating-point numbers"),
        ({"probabilities": "probabilities", "label": "number"}, "'number' must hold text, but is int64"),
        ({"probabilities": "probabilities", "classes": ["a", "a"]}, "classes names 'a' twice"),
        ({"probabilities": "probabilities", "classes": ["a"]}, "classes must name at least two"),
        ({"probabilities": "probabilities", "classes": "task.labels"}, "but the task has no labels"),
        (
            {
                "probabilities": "probabilities",
                "adjusted": True,
                "score": "confidence_weighted_entropy",
            },
            "adjusted goes with score self_confidence or normalized_margin",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Any, told: str) -> None:
    schema = pa.schema(
        [
            ("text", pa.string()),
            ("label", pa.string()),
            ("number", pa.int64()),
            ("probabilities", pa.list_(pa.float64())),
        ]
    )
    with pytest.raises(InputError, match=told):
        LabelIssue(**{"label": "label", **settings}).check(schema)
    GIVEN.check(schema)


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_the_stored_probabilities_of_20news_are_judged_as_by_cleanlab() -> None:
    from cleanlab.filter import find_label_issues

    news = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "label_errors_20news.parquet")
    given, held = np.array(news["given_label"]), np.array(news["pred_probs"].to_pylist())
    table = pa.table(
        {
            "row_id": [f"{place:05}" for place in range(len(news))],
            "label": [f"{label:02}" for label in given],
            "probabilities": news["pred_probs"],
        }
    )
    out = GIVEN(table)
    assert out["label_issue"].to_pylist() == find_label_issues(given, held, n_jobs=1).tolist()
    reviewed = np.array(news["reviewed"]) & np.array(out["label_issue"])
    wrong = np.array(news["validated_error"].fill_null(False))
    assert wrong[reviewed].mean() > 0.85


def test_marks_do_not_depend_on_the_order_of_rows(marked: tuple[pa.Table, set[str]]) -> None:
    table, _ = rows()
    order = random.Random(4).sample(range(len(table)), len(table))
    shuffled = OPERATOR(table.take(order))
    assert shuffled["row_id"].to_pylist() == [f"row{place:03}" for place in order]
    assert shuffled.sort_by("row_id").to_pylist() == marked[0].to_pylist()


def test_rows_without_text_or_label_keep_nulls_and_change_nothing(
    marked: tuple[pa.Table, set[str]],
) -> None:
    table, _ = rows()
    lacking = pa.table(
        {
            "row_id": ["x", "y", "z"],
            "parent_id": pa.nulls(3, pa.string()),
            "text": pa.array([None, "", "cat dog"]),
            "label": pa.array(["pets", "pets", None]),
            "true": ["pets"] * 3,
        }
    )
    out = OPERATOR(pa.concat_tables([lacking, table]))
    assert out.slice(3) == marked[0]
    for name in ("label_issue", "label_quality", "suggested_label"):
        assert out[name].to_pylist()[:3] == [None] * 3


def test_a_copy_of_the_row_among_its_siblings_does_not_vouch_for_it() -> None:
    table, _ = rows(flipped=0)
    wrong = {"text": "cat dog fur purr bark vet", "label": "money", "true": "pets", "parent_id": "one"}
    copies = pa.Table.from_pylist([{"row_id": f"copy{n}", **wrong} for n in range(6)], schema=table.schema)
    out = OPERATOR(pa.concat_tables([table, copies]))
    assert set(out["suggested_label"].to_pylist()[-6:]) == {"pets"}


def test_a_column_of_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="column 'label' must hold text, but is int64"):
        OPERATOR.check(pa.schema([("text", pa.string()), ("label", pa.int64())]))
