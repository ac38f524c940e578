"""Tokens with a wrong label are those that cleanlab finds among the tokens of all rows."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from synthray.curate.token_issue import TokenIssue
from synthray.errors import InputError, RunFailed
from synthray.label.confident import FilterBy, Score

CLASSES = ("O", "person", "place")
OPERATOR = TokenIssue(label="labels", probabilities="probabilities", classes=CLASSES)
LISTS = pa.list_(pa.string())
LINES = pa.list_(pa.list_(pa.float64()))


def problem(seed: int, rounded: bool = False, size: int = 150) -> tuple[list[Any], list[np.ndarray]]:
    """Return the classes that the tokens of each row are given, and their probabilities."""
    random = np.random.default_rng(seed)
    ends = np.append(0, np.cumsum(random.integers(1, 12, size)))
    true = random.choice(3, ends[-1], p=[0.6, 0.2, 0.2])
    held = random.dirichlet(np.full(3, 0.4), ends[-1])
    held[np.arange(ends[-1]), true] += random.random(ends[-1])
    held = np.round(held * 4) + 0.25 if rounded else held
    held /= held.sum(axis=1, keepdims=True)
    given = np.where(random.random(ends[-1]) < 0.1, random.integers(0, 3, ends[-1]), true)
    spans = list(itertools.pairwise(ends))
    return [given[start:end].tolist() for start, end in spans], [held[start:end] for start, end in spans]


def rows(given: list[Any], held: list[np.ndarray], seed: int = 1) -> pa.Table:
    order = np.random.default_rng(seed).permutation(len(given))
    return pa.table(
        {
            "row_id": [f"row{place:03}" for place in order],
            "labels": pa.array([[CLASSES[one] for one in given[place]] for place in order], LISTS),
            "probabilities": pa.array([held[place].tolist() for place in order], LINES),
        }
    )


@pytest.mark.parametrize("rule", get_args(FilterBy))
@pytest.mark.parametrize("rounded", [False, True], ids=["no ties", "ties"])
def test_tokens_with_an_issue_are_cleanlabs(rule: Any, rounded: bool) -> None:
    from cleanlab.token_classification.filter import find_label_issues

    for seed in range(3):
        given, held = problem(seed, rounded)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = find_label_issues(given, held, filter_by=rule, n_jobs=1)
        out = replace(OPERATOR, filter_by=rule)(rows(given, held)).sort_by("row_id")
        places = out["issue_tokens"].to_pylist()
        assert {(row, place) for row, own in enumerate(places) for place in own} == set(expected)
        assert out["label_issue"].to_pylist() == [bool(own) for own in places]
        assert places == [sorted(own) for own in places]
        assert len(expected) > 10


@pytest.mark.parametrize("score", get_args(Score))
@pytest.mark.parametrize("of_rows", ["min", "softmin"])
def test_qualities_are_cleanlabs(score: Any, of_rows: Any) -> None:
    from cleanlab.token_classification.rank import get_label_quality_scores

    given, held = problem(5)
    expected, tokens = get_label_quality_scores(
        given,
        held,
        token_score_method=score,
        sentence_score_method=of_rows,
        sentence_score_kwargs={"temperature": 0.1},
    )
    operator = replace(OPERATOR, score=score, row_score=of_rows, temperature=0.1)
    out = operator(rows(given, held)).sort_by("row_id")
    np.testing.assert_allclose(out["label_quality"].to_numpy(), expected, rtol=1e-12)
    assert out["token_quality"].to_pylist() == [own.tolist() for own in tokens]
    assert out["suggested_label"].to_pylist() == [
        [CLASSES[place] for place in own.argmax(axis=1)] for own in held
    ]


def test_spans_of_one_kind_are_judged_by_one_probability_each() -> None:
    from cleanlab.experimental.span_classification import find_label_issues

    given, held = problem(6)
    inside = [[int(one == 1) for one in own] for own in given]
    chance = [own[:, 1] for own in held]
    table = rows(inside, held, seed=2).drop_columns(["probabilities"])
    order = [int(row.removeprefix("row")) for row in table["row_id"].to_pylist()]
    table = table.append_column("probabilities", pa.array([chance[place].tolist() for place in order]))
    operator = replace(OPERATOR, classes=("O", "person"))
    operator.check(table.schema)
    places = operator(table).sort_by("row_id")["issue_tokens"].to_pylist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = find_label_issues(inside, chance)
    assert {(row, place) for row, own in enumerate(places) for place in own} == set(expected)
    assert expected


def test_rows_without_tokens_keep_nulls_and_change_nothing() -> None:
    table = rows(*problem(7))
    lacking = pa.table(
        {
            "row_id": ["x", "y", "z"],
            "labels": pa.array([None, ["O"], []], LISTS),
            "probabilities": pa.array([[[1.0, 0.0, 0.0]], None, []], LINES),
        }
    )
    out = OPERATOR(pa.concat_tables([lacking, table]))
    assert out.slice(0, 3).select(list(OPERATOR.adds())).to_pylist() == [dict.fromkeys(OPERATOR.adds())] * 3
    assert out.slice(3) == OPERATOR(table)


@pytest.mark.parametrize(
    ("labels", "held", "told"),
    [
        (["O", "O"], [[1.0, 0, 0]], "row_id '1' has 2 labels in 'labels', but 1 tokens in 'probabilities'"),
        (["O", "per"], [[1.0, 0, 0]] * 2, "'per', which is none of the classes.*mean 'person'"),
        (["O", None], [[1.0, 0, 0]] * 2, "row_id '1' holds a null label"),
        (["O", "O"], [[1.0, 0, 0], [1.0, 0]], "row_id '1' holds 2 probabilities, but there are 3 classes"),
        (["O", "O"], [[1.0, 0, 0], [0.9, 0, 0]], r"row_id '1' holds probabilities that add up to 0\.9"),
        (["O", "O"], [[1.0, 0, 0], None], "row_id '1' holds 0 probabilities, but there are 3 classes"),
    ],
)
def test_bad_values_are_told(labels: Any, held: Any, told: str) -> None:
    fine = ["person"], [[0.0, 1.0, 0.0]]
    table = pa.table(
        {
            "row_id": ["0", "1"],
            "labels": pa.array([fine[0], labels], LISTS),
            "probabilities": pa.array([fine[1], held], LINES),
        }
    )
    with pytest.raises(RunFailed, match=f"token_issue: .*{told}"):
        OPERATOR(table)


def test_columns_that_are_not_of_tokens_are_refused() -> None:
    fine = {"labels": LISTS, "probabilities": LINES}
    OPERATOR.check(pa.schema(fine))
    with pytest.raises(InputError, match="'labels' must hold lists of labels, but is string"):
        OPERATOR.check(pa.schema({**fine, "labels": pa.string()}))
    with pytest.raises(InputError, match="'probabilities' must hold lists of lists of floating-point"):
        OPERATOR.check(pa.schema({**fine, "probabilities": pa.float64()}))
    with pytest.raises(InputError, match="of the second of two classes, but there are 3: O, person, place"):
        OPERATOR.check(pa.schema({**fine, "probabilities": pa.list_(pa.float64())}))
