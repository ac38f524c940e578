"""Students judge rows that they never saw, nor any copy of them; the same for any blocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import learning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
from learning import Judges, rows

from synthray.curate.embedding import Embedding
from synthray.errors import InputError, RunFailed
from synthray.model.student import Student
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.query import Query
from synthray.source.table import Table as Source
from synthray.table import Table

ray.cloudpickle.register_pickle_by_value(learning)  # Ray's workers do not see tests/

OPERATOR = Judges(text="text", label="label", folds=3, context=Context(seed=1))
CLASSES = ["food", "money", "pets"]


def folds(operator: Judges, table: pa.Table) -> list[int]:
    """Return the fold of each row."""
    narrow = operator.narrowed(table)
    with Query({"narrow": narrow}, seed=operator.context.seed) as query:
        plan = operator._plan(query)
    found: list[int] = plan.folds(narrow, operator.folds).tolist()
    return found


def probabilities(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.array(table["probabilities"].to_pylist())


def test_each_fold_is_judged_by_a_student_of_the_others() -> None:
    table = rows()
    made = OPERATOR(table)
    found, fold = probabilities(made), np.array(folds(OPERATOR, table))
    texts, labels = (np.array(table[name].to_pylist(), object) for name in ("text", "label"))
    for one in range(3):
        student = Student("bayes", 1).fit(list(texts[fold != one]), list(labels[fold != one]))
        expected = student.probabilities(list(texts[fold == one]), CLASSES)
        np.testing.assert_array_equal(found[fold == one], expected)
    right = np.array(CLASSES)[found.argmax(axis=1)] == np.array(table["true"].to_pylist())
    assert right.mean() > 0.95


def test_the_order_of_rows_decides_nothing() -> None:
    table = rows()
    order = random.Random(4).sample(range(len(table)), len(table))
    assert OPERATOR(table.take(order)).sort_by("row_id") == OPERATOR(table)


def test_siblings_are_in_one_fold_and_strangers_in_all() -> None:
    table = pa.table(
        {
            "row_id": [f"row{number}" for number in range(300)],
            "parent_id": [f"parent{number // 5}" if number < 200 else None for number in range(300)],
            "text": [f"text {number}" for number in range(300)],
            "label": ["a"] * 300,
        }
    )
    found = folds(OPERATOR, table)
    for start in range(0, 200, 5):
        assert len(set(found[start : start + 5])) == 1
    for part in (found[:200:5], found[200:]):
        assert set(part) == {0, 1, 2}
    assert folds(replace(OPERATOR, context=Context(seed=2)), table) != found


def test_copies_are_in_one_fold_with_all_their_siblings() -> None:
    parents = [f"parent{number}" for number in range(50) for _ in range(2)] + [None, None]
    texts = [f"text {number}" for number in range(100)] + ["alone", "alone"]
    for number in range(10, 40):
        texts[2 * number] = texts[2 * number - 1]  # ties each family to the one before it
    table = pa.table(
        {
            "row_id": [f"row{number}" for number in range(102)],
            "parent_id": pa.array(parents, pa.string()),
            "text": texts,
            "label": ["a"] * 102,
        }
    )
    found = folds(OPERATOR, table)
    assert len(set(found[18:80])) == 1
    assert found[100] == found[101]
    assert len(set(found)) == 3


def test_no_copy_vouches_for_a_wrong_label() -> None:
    wrong = {"text": "cat dog fur purr bark vet", "label": "money", "true": "pets"}
    table = rows(flipped=0)
    for parents in (["one"] * 6, [None] * 6, [f"parent{number}" for number in range(6)]):
        copies = [
            {"row_id": f"copy{number}", "parent_id": parent, **wrong} for number, parent in enumerate(parents)
        ]
        made = OPERATOR(pa.concat_tables([table, pa.Table.from_pylist(copies, schema=table.schema)]))
        assert (probabilities(made)[-6:].argmax(axis=1) == CLASSES.index("pets")).all()


def test_rows_that_lack_something_keep_nulls_and_change_nothing() -> None:
    lacking = pa.table(
        {
            "row_id": ["x", "y", "z"],
            "parent_id": pa.nulls(3, pa.string()),
            "text": pa.array([None, "", "cat dog"]),
            "label": pa.array(["pets", "pets", None]),
            "true": ["pets"] * 3,
        }
    )
    out = OPERATOR(pa.concat_tables([lacking, rows()]))
    assert out.slice(3) == OPERATOR(rows())
    assert out["probabilities"].to_pylist()[:3] == [None] * 3


def test_rows_without_weight_are_judged_and_not_learned_from() -> None:
    table = rows(flipped=0)
    taught = np.arange(len(table)) % 2 == 0
    spoilt = [label if one else "food" for label, one in zip(table["label"].to_pylist(), taught, strict=True)]
    table = table.set_column(3, "label", pa.array(spoilt))
    weights = pa.array(np.where(taught, 1.0, 0.0))
    weighted = replace(OPERATOR, weight="weight")(table.append_column("weight", weights))
    right = np.array(CLASSES)[probabilities(weighted).argmax(axis=1)] == np.array(table["true"].to_pylist())
    assert right.mean() > 0.95
    plain = np.array(CLASSES)[probabilities(OPERATOR(table)).argmax(axis=1)] == np.array(
        table["true"].to_pylist()
    )
    assert plain.mean() < 0.8


def test_a_null_weight_counts_as_1() -> None:
    table = rows()
    weighted = table.append_column("weight", pa.nulls(len(table), pa.float64()))
    assert replace(OPERATOR, weight="weight")(weighted)["probabilities"] == OPERATOR(table)["probabilities"]


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf")])
def test_what_is_no_weight_names_its_row(weight: float) -> None:
    table = rows(30).append_column("weight", pa.array([1.0] * 7 + [weight] + [None] * 22))
    with pytest.raises(
        RunFailed, match=rf"column 'weight' of row_id 'row007' holds {weight}, which is no weight"
    ):
        replace(OPERATOR, weight="weight")(table)


def test_more_rows_than_train_rows_are_learned_from_by_a_sample_with_the_same_share_of_each_label() -> None:
    table = rows(300).sort_by([("label", "descending")])
    operator = replace(OPERATOR, train_rows=100)
    with Query({"narrow": operator.narrowed(table)}, seed=1) as query:
        sample = query.arrow(operator.sample(query, 150))
    with Query(
        {"narrow": operator.narrowed(table.slice(50).append_column("x", table["text"].slice(50)))}
    ) as query:
        less = query.arrow(operator.sample(query, 150))
    assert len(sample) == pytest.approx(150, abs=2), "each student sees two thirds of it"
    counts = {label: table["label"].to_pylist().count(label) for label in CLASSES}
    for label in CLASSES:
        assert sample["label"].to_pylist().count(label) == pytest.approx(counts[label] / 2, abs=1)
    assert sample["row_id"].to_pylist() == sorted(sample["row_id"].to_pylist())
    assert less["row_id"].to_pylist() != sample["row_id"].to_pylist()
    made = operator(table)
    assert made.sort_by("row_id") == operator(rows(300)).sort_by("row_id")
    right = np.array(CLASSES)[probabilities(made).argmax(axis=1)] == np.array(made["true"].to_pylist())
    assert right.mean() > 0.9
    assert made["probabilities"] != OPERATOR(table)["probabilities"]


def test_a_label_of_few_rows_is_not_lost_in_the_sample() -> None:
    table = rows(300)
    labels = ["rare", *table["label"].to_pylist()[1:]]
    operator = replace(OPERATOR, train_rows=30)
    with Query(
        {"narrow": operator.narrowed(table.set_column(3, "label", pa.array(labels)))}, seed=1
    ) as query:
        assert "rare" in query.arrow(operator.sample(query, 45))["label"].to_pylist()


def test_a_label_that_one_fold_holds_alone_has_no_chance_there() -> None:
    table = rows(60, 0)
    table = table.set_column(3, "label", pa.array(["rare", *table["label"].to_pylist()[1:]]))
    found = probabilities(OPERATOR(table))
    assert found.shape == (60, 4)
    assert found[0, 3] == 0
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_vectors_are_learned_from_and_go_together_with_texts() -> None:
    table = rows()
    table = Embedding(text="text", dimensions=64)(table)
    by_vector = replace(OPERATOR, text=None, embedding="embedding")(table)
    by_text, by_both = OPERATOR(table), replace(OPERATOR, embedding="embedding")(table)
    product = probabilities(by_vector) * probabilities(by_text)
    # The folds of rows without a parent are by their content: the text where there is one, else the vector.
    expected = product / product.sum(axis=1, keepdims=True)
    assert np.abs(probabilities(by_both) - expected).mean() < 0.05
    sure = probabilities(by_both).max(axis=1).mean()
    assert sure > max(probabilities(by_vector).max(axis=1).mean(), probabilities(by_text).max(axis=1).mean())
    for made in (by_vector, by_both):
        right = np.array(CLASSES)[probabilities(made).argmax(axis=1)] == np.array(table["true"].to_pylist())
        assert right.mean() > 0.9


def test_calibrated_students_are_less_sure_where_labels_are_wrong() -> None:
    table = rows(600, 240)
    raw, calibrated = (probabilities(replace(OPERATOR, calibrated=one)(table)) for one in (False, True))
    place = np.array([CLASSES.index(one) for one in table["label"].to_pylist()])
    surprise = [-np.log(np.maximum(found[np.arange(600), place], 1e-9)).mean() for found in (raw, calibrated)]
    assert surprise[1] < surprise[0]
    np.testing.assert_array_equal(raw.argmax(axis=1), calibrated.argmax(axis=1))


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
    with pytest.raises(
        RunFailed, match=rf"learning: cannot learn .* at least two labels.* but found {found}"
    ):
        OPERATOR(table)


def test_texts_without_a_word_are_nothing_to_learn_from() -> None:
    table = pa.table({"row_id": list("abcd"), "text": ["!", "?", ".", "-"], "label": ["x", "y", "x", "y"]})
    with pytest.raises(RunFailed, match="cannot learn"):
        OPERATOR(table)


@pytest.mark.parametrize(
    ("settings", "kinds", "message"),
    [
        ({"text": None}, {}, "nothing to learn from: name the column of the text, or an embedding"),
        ({}, {"label": pa.int64()}, "column 'label' must hold text, but is int64"),
        ({}, {"text": pa.float64()}, "column 'text' must hold text, but is double"),
        (
            {"weight": "weight"},
            {"weight": pa.string()},
            "column 'weight' must hold numbers, the weights, but is string",
        ),
        ({"embedding": "vector"}, {"vector": pa.string()}, "column 'vector' must hold"),
    ],
)
def test_columns_that_cannot_be_learned_from_are_refused(
    settings: dict[str, Any], kinds: dict[str, pa.DataType], message: str
) -> None:
    schema = pa.schema({"text": pa.string(), "label": pa.string(), **kinds})
    with pytest.raises(InputError, match=message):
        replace(OPERATOR, **settings).check(schema)


@pytest.fixture
def ran(tmp_path: Path) -> Callable[..., pa.Table]:
    """Run the operator over rows in a file, into one directory for the test."""
    pq.write_table(rows(), tmp_path / "rows.parquet")

    def run(operator: Judges, blocks: int | None = None, out: str = "run") -> pa.Table:
        done = Pipeline(
            [Source(table="texts_file"), operator],
            name="judged",
            seed=1,
            tables={"texts_file": Table((str(tmp_path / "rows.parquet"),), "parquet")},
            blocks=blocks,
        ).run(tmp_path / out, quiet=True)
        return done.sql("SELECT row_id, probabilities FROM dataset ORDER BY row_id")

    return run


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_stage_judges_as_one_process_does_for_any_blocks(ran: Callable[..., pa.Table]) -> None:
    expected = OPERATOR(rows()).select(["row_id", "probabilities"])
    for blocks in (None, 1, 7):
        assert ran(OPERATOR, blocks, f"run{blocks}").to_pylist() == expected.to_pylist()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_what_students_judged_is_kept_until_what_decides_it_changes(
    ran: Callable[..., pa.Table], tmp_path: Path
) -> None:
    ran(OPERATOR)
    artifacts = tmp_path / "run" / "artifacts"
    first = {path.name for path in artifacts.iterdir()}
    assert len(first) == 1
    ran(replace(OPERATOR, folds=4))
    assert len({path.name for path in artifacts.iterdir()} - first) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_what_is_wrong_with_the_rows_is_told_by_the_step(
    ran: Callable[..., pa.Table], tmp_path: Path
) -> None:
    table = rows(40)
    pq.write_table(table.set_column(3, "label", pa.array(["one"] * 40)), tmp_path / "rows.parquet")
    with pytest.raises(RunFailed, match=r"learning: cannot learn .* found \['one'\] in"):
        ran(OPERATOR)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_vectors_teach_over_a_stage_as_in_one_process(ran: Callable[..., pa.Table], tmp_path: Path) -> None:
    spread = np.random.default_rng(3).normal(0, 0.5, (120, 3))
    centres = np.eye(3)[[CLASSES.index(one) for one in rows()["true"].to_pylist()]]
    vectors = pa.array((centres + spread).tolist(), pa.list_(pa.float32()))
    table = rows().append_column("vector", vectors)
    pq.write_table(table, tmp_path / "rows.parquet")
    operator = replace(OPERATOR, text=None, embedding="vector")
    made = ran(operator)
    np.testing.assert_allclose(probabilities(made), probabilities(operator(table)), atol=1e-9)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_of_which_none_can_be_learned_from_are_told_by_what_is_read(
    ran: Callable[..., pa.Table], tmp_path: Path
) -> None:
    table = rows(40)
    pq.write_table(table.set_column(3, "label", pa.nulls(40, pa.string())), tmp_path / "rows.parquet")
    with pytest.raises(RunFailed, match=r"learning: no row has all that is read \('text', 'label'\)"):
        ran(OPERATOR)


def test_weights_may_be_decimals_as_sql_writes_them() -> None:
    table = pa.table(
        {
            "row_id": [f"{place}" for place in range(20)],
            "text": [f"{words} {place}" for place in range(10) for words in ("cat fur", "bank share")],
            "label": ["pets", "money"] * 10,
            "weight": pa.array([1.0, 0.5] * 10).cast(pa.decimal128(2, 1)),
        }
    )
    weighted = replace(OPERATOR, weight="weight")
    weighted.check(table.schema)
    floats = table.set_column(3, "weight", table["weight"].cast(pa.float64()))
    assert weighted.judged(table).equals(weighted.judged(floats))
