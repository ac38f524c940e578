"""Labels that do not fit their texts are found by students that never saw the row or its siblings."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from synthray.curate.label_issue import LabelIssue
from synthray.errors import InputError, RunFailed
from synthray.operator import Context

WORDS = {
    "money": ["stock", "bank", "share", "profit", "market", "trade", "loan", "price", "bond", "fund"],
    "pets": ["cat", "dog", "fur", "purr", "bark", "leash", "paw", "kitten", "puppy", "vet"],
    "food": ["soup", "bread", "salt", "oven", "bake", "taste", "cheese", "onion", "cook", "spoon"],
}
COMMON = ["the", "a", "of", "and", "to", "in", "it", "is", "was", "on"]
OPERATOR = LabelIssue(text="text", label="label", folds=3, context=Context(seed=1))


def rows(size: int = 120, flipped: int = 12) -> tuple[pa.Table, set[str]]:
    """Return texts with labels, and the ids of those whose label was flipped."""
    generator = random.Random(2)
    labels = [list(WORDS)[number % 3] for number in range(size)]
    texts = [
        " ".join(generator.choices(WORDS[label], k=5) + generator.choices(COMMON, k=5)) for label in labels
    ]
    wrong = set(generator.sample(range(size), flipped))
    given = [
        generator.choice([other for other in WORDS if other != label]) if number in wrong else label
        for number, label in enumerate(labels)
    ]
    ids = [f"row{number:03}" for number in range(size)]
    table = pa.table(
        {
            "row_id": ids,
            "parent_id": pa.nulls(size, pa.string()),
            "text": texts,
            "label": given,
            "true": labels,
        }
    )
    return table, {ids[number] for number in wrong}


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


def test_the_mask_is_cleanlabs_own_on_the_same_probabilities() -> None:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    generator = np.random.default_rng(3)
    classes, size = ["a", "b", "c"], 90
    labels = generator.integers(0, 3, size)
    probabilities = generator.dirichlet([0.5, 0.5, 0.5], size)
    order = generator.permutation(size)
    judged = pa.table(
        {
            "row_id": [f"row{place:03}" for place in order],
            "label": [classes[labels[place]] for place in order],
            "probabilities": [probabilities[place].tolist() for place in order],
        }
    )
    for rule in ("prune_by_noise_rate", "both", "confident_learning", "low_self_confidence"):
        marks = replace(OPERATOR, filter_by=rule).marks(judged)
        expected = find_label_issues(labels, probabilities, filter_by=rule)
        assert marks["row_id"].to_pylist() == [f"row{place:03}" for place in range(size)]
        assert marks["label_issue"].to_pylist() == expected.tolist()
        assert 0 < expected.sum() < size
    scores = get_label_quality_scores(labels, probabilities)
    np.testing.assert_array_equal(marks["label_quality"].to_numpy(), scores)
    best = [classes[place] for place in probabilities.argmax(axis=1)]
    assert marks["suggested_label"].to_pylist() == best


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


def test_siblings_are_in_one_fold_and_strangers_in_all() -> None:
    table = pa.table(
        {
            "row_id": [f"row{number}" for number in range(300)],
            "parent_id": [f"parent{number // 5}" if number < 200 else None for number in range(300)],
            "text": ["text"] * 300,
            "label": ["a"] * 300,
        }
    )
    folds = OPERATOR.folded(table)["fold"].to_pylist()
    for start in range(0, 200, 5):
        assert len(set(folds[start : start + 5])) == 1
    for part in (folds[:200:5], folds[200:]):
        assert set(part) == {0, 1, 2}
    other = replace(OPERATOR, context=Context(seed=2)).folded(table)["fold"].to_pylist()
    assert other != folds


def test_a_copy_of_the_row_among_its_siblings_does_not_vouch_for_it() -> None:
    table, _ = rows(flipped=0)
    wrong = {"text": "cat dog fur purr bark vet", "label": "money", "true": "pets", "parent_id": "one"}
    copies = pa.Table.from_pylist([{"row_id": f"copy{n}", **wrong} for n in range(6)], schema=table.schema)
    out = OPERATOR(pa.concat_tables([table, copies]))
    assert set(out["suggested_label"].to_pylist()[-6:]) == {"pets"}


def test_without_parent_ids_each_row_is_on_its_own() -> None:
    table, _ = rows(30, 0)
    assert OPERATOR.folded(table.drop_columns(["parent_id"])) == OPERATOR.folded(table)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        pytest.param(["a"] * 10, r"\['a'\]", id="one label"),
        pytest.param([], r"\[\] in 0 rows", id="no rows"),
        pytest.param([None] * 4, r"\[\] in 0 rows", id="no labels"),
        pytest.param(["a"] * 9 + ["b"], r"\['a'\] in \d rows", id="a label that one fold holds alone"),
    ],
)
def test_one_label_is_nothing_to_learn_from(labels: list[str | None], found: str) -> None:
    table = pa.table(
        {
            "row_id": [f"{place}" for place in range(len(labels))],
            "text": pa.array([f"word{place} text" for place in range(len(labels))], pa.string()),
            "label": pa.array(labels, pa.string()),
        }
    )
    with pytest.raises(RunFailed, match=rf"label_issue: needs at least two labels .* but found {found}"):
        OPERATOR(table)


def test_a_column_of_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="column 'label' must hold text, but is int64"):
        OPERATOR.check(pa.schema([("text", pa.string()), ("label", pa.int64())]))
