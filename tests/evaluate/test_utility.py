"""What a dataset is worth is what a student trained on it scores on other rows."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import InputError, SynthrayError
from synthray.evaluate.utility import Utility
from synthray.model.student import Student
from synthray.operator import Context
from synthray.table import Table

WORDS = {
    "money": ["stock", "bank", "share", "profit", "market"],
    "pets": ["cat", "dog", "fur", "purr", "bark"],
    "food": ["soup", "bread", "salt", "oven", "bake"],
}
COMMON = ["the", "a", "of", "and", "to", "in", "it", "is", "was", "on"]


def texts(seed: int, labels: Sequence[str], sharp: int = 2) -> pa.Table:
    generator = random.Random(seed)
    made = [
        " ".join(generator.choices(WORDS[one], k=sharp) + generator.choices(COMMON, k=6)) for one in labels
    ]
    # A third of the texts says nothing, so that nobody scores 1.
    made = [text if number % 3 else "the a of" for number, text in enumerate(made)]
    ids = [f"{seed}-{number:03}" for number in range(len(made))]
    return pa.table({"row_id": ids, "text": made, "label": labels})


TRAIN = texts(1, ["money", "money", "pets", "food"] * 15)
TEST = texts(2, ["money", "pets", "pets", "food"] * 15)


def operator(test: pa.Table | None, folder: Path, **settings: Any) -> Utility:
    """Return the operator with a test table that is a real file."""
    context = Context(seed=settings.pop("seed", 0))
    if test is not None:
        pq.write_table(test, folder / "test.parquet")
        tables = {"test": Table.find("test.parquet", folder)}
        context = replace(context, tables=tables, schemas={"test": test.schema})
    return Utility(text="text", label="label", test="test", context=context, **{"resamples": 100, **settings})


def measured(
    test: pa.Table, folder: Path, train: pa.Table = TRAIN, **settings: Any
) -> dict[str, dict[str, Any]]:
    found = operator(test, folder, **settings)(train).to_pylist()
    return {row["slice"] or row["metric"]: row for row in found}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return measured(TEST, tmp_path_factory.mktemp("utility"))


def test_the_scores_are_those_of_sklearn(found: dict[str, dict[str, Any]]) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    train = TRAIN.sort_by([("text", "ascending"), ("label", "ascending")])
    student = Student().fit(train["text"].to_pylist(), train["label"].to_pylist())
    truth, said = TEST["label"].to_pylist(), student.predict(TEST["text"].to_pylist())
    assert found["accuracy"]["value"] == accuracy_score(truth, said)
    assert found["macro_f1"]["value"] == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-12)
    assert 0.4 < found["accuracy"]["value"] < 1, "neither hopeless nor perfect"
    for label, score in zip(sorted(WORDS), f1_score(truth, said, average=None), strict=True):
        row = found[f"label={label}"]
        assert (row["metric"], row["n"]) == ("f1", truth.count(label))
        assert row["value"] == pytest.approx(score, abs=1e-12)
    assert found["accuracy"]["n"] == 60
    assert found["train_rows"]["value"] == 60


def test_rows_of_weight_0_are_not_learned_from(tmp_path: Path) -> None:
    spoilt = TRAIN.set_column(2, "label", pa.array([*TRAIN["label"].to_pylist()[:30], *["food"] * 30]))
    weighted = spoilt.append_column("weight", pa.array([None] * 15 + [1.0] * 15 + [0.0] * 30))
    found = measured(TEST, tmp_path, weighted, weight="weight")
    assert found["accuracy"] == measured(TEST, tmp_path, TRAIN.slice(0, 30))["accuracy"]
    assert found["accuracy"]["value"] > measured(TEST, tmp_path, spoilt)["accuracy"]["value"] + 0.1
    none = measured(TEST, tmp_path, weighted.set_column(3, "weight", pa.array([0.0] * 60)), weight="weight")
    assert math.isnan(none["accuracy"]["value"]), "nothing is left to learn from"


def test_what_is_no_weight_is_told(tmp_path: Path) -> None:
    weighted = TRAIN.append_column("weight", pa.array([1.0] * 59 + [-2.0]))
    with pytest.raises(
        SynthrayError, match=r"column 'weight' of row_id '1-059' holds -2.0, which is no weight"
    ):
        measured(TEST, tmp_path, weighted, weight="weight")
    with pytest.raises(InputError, match="column 'text' must hold numbers, the weights, but is string"):
        operator(TEST, tmp_path, weight="text").check(TRAIN.schema)


def test_majority_is_the_share_of_the_tests_most_frequent_label(found: dict[str, dict[str, Any]]) -> None:
    assert found["majority"]["value"] == 0.5, "pets, of which most training rows are not"


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "majority"])
def test_an_interval_holds_its_value_and_has_a_width(found: dict[str, dict[str, Any]], metric: str) -> None:
    row = found[metric]
    assert 0 <= row["ci_low"] < row["value"] < row["ci_high"] <= 1
    # A share of 60 rows has a standard error of at most 0.065; 95 % are four of them wide.
    assert 0.1 < row["ci_high"] - row["ci_low"] < 0.35


def test_the_same_seed_gives_the_same_interval_and_another_another(
    found: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert measured(TEST, tmp_path) == found
    other = measured(TEST, tmp_path, seed=1)["accuracy"]
    assert other["value"] == found["accuracy"]["value"]
    assert (other["ci_low"], other["ci_high"]) != (found["accuracy"]["ci_low"], found["accuracy"]["ci_high"])


def test_a_lower_confidence_is_a_narrower_interval(found: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    narrow, wide = measured(TEST, tmp_path, confidence=0.5)["accuracy"], found["accuracy"]
    assert wide["ci_low"] < narrow["ci_low"] < narrow["ci_high"] < wide["ci_high"]


def test_the_order_of_rows_does_not_count(found: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    turned = measured(TEST.take(list(range(60))[::-1]), tmp_path, TRAIN.take(list(range(60))[::-1]))
    assert turned == found


def test_rows_without_text_or_label_are_neither_learned_nor_tested(
    found: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    lacking = pa.table(
        {"row_id": ["x", "y", "z"], "text": [None, "", "cat"], "label": ["pets", "pets", None]},
        schema=TRAIN.schema,
    )
    train, test = pa.concat_tables([TRAIN, lacking]), pa.concat_tables([lacking, TEST])
    assert measured(test, tmp_path, train) == found


@pytest.mark.parametrize(
    ("train", "test"),
    [
        pytest.param(texts(3, ["pets"] * 9), TEST, id="one label to learn"),
        pytest.param(TRAIN.slice(0, 0), TEST, id="nothing to learn"),
        pytest.param(TRAIN, TEST.slice(0, 0), id="nothing to test"),
    ],
)
def test_where_nothing_can_be_learned_or_tested_all_is_nan(
    train: pa.Table, test: pa.Table, tmp_path: Path
) -> None:
    found = measured(test, tmp_path, train)
    assert set(found) == {"accuracy", "macro_f1", "majority"}
    assert all(math.isnan(row["value"]) for row in found.values())
    assert {(row["ci_low"], row["n"]) for row in found.values()} == {(None, len(test))}


def test_a_label_that_was_never_learned_counts_against_the_student(tmp_path: Path) -> None:
    train = texts(1, ["money", "pets"] * 30)
    found = measured(TEST, tmp_path, train)
    assert found["label=food"]["value"] == 0
    scores = [found[f"label={label}"]["value"] for label in WORDS]
    assert found["macro_f1"]["value"] == pytest.approx(sum(scores) / 3, abs=1e-12)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        pytest.param(
            TEST.rename_columns(["row_id", "text", "labels"]),
            "the table 'test' has no column 'label'; did you mean 'labels'",
            id="label missing",
        ),
        pytest.param(
            TEST.select(["row_id", "label"]),
            "the table 'test' has no column 'text'; there is label, row_id",
            id="text missing",
        ),
        pytest.param(
            pa.table({"text": ["a"], "label": [1]}),
            "column 'label' must hold text, but is int64",
            id="numbers",
        ),
    ],
)
def test_a_test_table_that_does_not_fit_is_refused_before_training(
    test: pa.Table, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        operator(test, tmp_path).check(TRAIN.schema)


def test_without_its_test_table_it_says_which_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SynthrayError, match="test"):
        operator(None, tmp_path)(TRAIN)
    assert operator(None, tmp_path).table_names == ("test",)
