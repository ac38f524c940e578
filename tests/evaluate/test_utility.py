"""What a dataset is worth is what a student trained on it scores on other rows."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score
from teaching import REAL, TEST, TRAIN, WORDS, texts

from synthray.errors import InputError, SynthrayError
from synthray.evaluate.utility import Utility
from synthray.gate import asked_for, check_conditions, decide
from synthray.lineage import uniform
from synthray.metric import METRICS
from synthray.model.student import Student
from synthray.operator import Context
from synthray.query import Query
from synthray.table import Table
from synthray.trial import Part, Trial, codes


def operator(test: pa.Table | None, folder: Path, **settings: Any) -> Utility:
    """Return the operator with a test table that is a real file, and one of real rows where they are given."""
    given = {"test": test, "real": settings.pop("real", None)}
    context = Context(seed=settings.pop("seed", 0))
    for name, table in given.items():
        if table is not None:
            pq.write_table(table, folder / f"{name}.parquet")
            tables = {**context.tables, name: Table.find(f"{name}.parquet", folder)}
            context = replace(context, tables=tables, schemas={**context.schemas, name: table.schema})
    if given["real"] is not None:
        settings["real"] = "real"
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
    from sklearn.metrics import accuracy_score

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
    for name in ("accuracy", "macro_f1", "gain_over_majority"):
        row = found[name]
        assert math.isnan(row["value"]), name
        assert (row["ci_low"], row["n"]) == (None, len(test))
    assert math.isnan(found["majority"]["value"]) == (not len(test)), "which needs no training"
    assert found["train_rows"]["value"] == len(train)
    assert not [name for name in found if name.startswith("label=")]


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


# Beside real rows.

MANY = texts(2, ["money", "pets", "pets", "food"] * 60)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return measured(MANY, tmp_path_factory.mktemp("beside"), real=REAL)


def accuracy(train: pa.Table, folder: Path, **settings: Any) -> dict[str, Any]:
    return measured(TEST, folder, train, **settings)["accuracy"]


def test_what_is_measured_without_real_rows_stays_as_it_is(
    found: dict[str, dict[str, Any]], beside: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    alone = measured(MANY, tmp_path)
    assert {name: beside[name] for name in alone} == alone
    assert {name for name in beside if "=" not in name} | {"f1"} == set(
        Utility(text="text", label="label", test="test", real="real").metrics()
    )
    assert {name for name in found if "=" not in name} | {"f1"} == set(
        Utility(text="text", label="label", test="test").metrics()
    )


def test_real_rows_are_as_many_and_stratified(beside: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert (beside["real_rows"]["value"], beside["real_rows"]["n"]) == (60, 60)
    few = REAL.slice(0, 21)
    found = measured(TEST, tmp_path, real=few)
    assert found["real_rows"]["value"] == 21, "all that there are"
    alone = accuracy(few, tmp_path)
    assert {**found["real_accuracy"], "metric": "accuracy"} == alone
    both = accuracy(pa.concat_tables([TRAIN, few]), tmp_path)
    assert found["mixed_accuracy"]["value"] == both["value"]


def test_gains_are_paired_and_recovery_is_corrected_for_chance(
    beside: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    value = {name: row["value"] for name, row in beside.items()}
    assert value["gain_over_majority"] == pytest.approx(value["accuracy"] - value["majority"], abs=1e-12)
    assert value["gain_over_real"] == pytest.approx(value["accuracy"] - value["real_accuracy"], abs=1e-12)
    assert value["gain_of_mixing"] == pytest.approx(
        value["mixed_accuracy"] - value["real_accuracy"], abs=1e-12
    )
    recovered = (value["accuracy"] - value["majority"]) / (value["real_accuracy"] - value["majority"])
    assert value["recovery"] == pytest.approx(recovered, abs=1e-12)
    assert beside["recovery"]["ci_low"] < recovered < beside["recovery"]["ci_high"]
    constant = f1_score(MANY["label"].to_pylist(), ["pets"] * 240, average="macro", zero_division=0)
    assert value["majority_macro_f1"] == pytest.approx(constant, abs=1e-12)
    recovered = (value["macro_f1"] - constant) / (value["real_macro_f1"] - constant)
    assert value["recovery_macro_f1"] == pytest.approx(recovered, abs=1e-12)
    widths = {
        name: row["ci_high"] - row["ci_low"] for name, row in beside.items() if row["ci_low"] is not None
    }
    unpaired = math.hypot(widths["accuracy"], widths["real_accuracy"])
    assert widths["gain_over_real"] < 0.85 * unpaired, "students err on the same rows"
    same = measured(MANY, tmp_path, real=TRAIN)
    assert [same["gain_over_real"][name] for name in ("value", "ci_low", "ci_high")] == [0, 0, 0]
    assert [same["recovery"][name] for name in ("value", "ci_low", "ci_high")] == [1, 1, 1]


def test_intervals_of_gains_are_those_of_the_same_samples_by_force(tmp_path: Path) -> None:
    few, order = REAL.slice(0, 40), [("text", "ascending"), ("label", "ascending")]
    # No label is most, so that real rows teach something on each sample; `pets` is the last of three.
    even = texts(2, ["money", "pets", "food"] * 80)
    test = even.sort_by(order)
    truth = np.array(test["label"].to_pylist())

    def right(train: pa.Table) -> Any:
        held = train.sort_by(order)
        student = Student().fit(held["text"].to_pylist(), held["label"].to_pylist())
        return np.array(student.predict(test["text"].to_pylist())) == truth

    found = measured(even, tmp_path, real=few)
    random = np.random.default_rng(int(uniform("bootstrap", 0) * 2**31))
    samples = random.integers(0, 240, (100, 240))
    one, other, constant = (
        held[samples].mean(axis=1) for held in (right(TRAIN), right(few), truth == "pets")
    )
    expected = {"gain_over_real": one - other, "recovery": (one - constant) / (other - constant)}
    for name, resampled in expected.items():
        interval = tuple(np.quantile(resampled, [0.025, 0.975]))
        assert (found[name]["ci_low"], found[name]["ci_high"]) == pytest.approx(interval, abs=1e-9)


def test_where_real_rows_teach_nothing_there_is_no_recovery(tmp_path: Path) -> None:
    spoilt = REAL.set_column(2, "label", pa.array(["food", "money", "pets"] * 40))
    found = measured(TEST, tmp_path, real=spoilt)
    assert found["real_accuracy"]["value"] < found["majority"]["value"]
    assert math.isnan(found["recovery"]["value"])
    assert found["gain_over_real"]["ci_low"] > 0
    one_label = measured(TEST, tmp_path, real=texts(5, ["pets"] * 10))
    assert math.isnan(one_label["real_accuracy"]["value"]) and math.isnan(
        one_label["gain_over_real"]["value"]
    )
    assert one_label["mixed_accuracy"]["value"] > 0.4


def test_weights_count_among_real_rows_where_they_have_them(tmp_path: Path) -> None:
    weight = pa.array([1.0] * 60)
    spoilt = pa.array([*["pets", "food", "money"] * 20, *REAL["label"].to_pylist()[60:]])
    real = REAL.set_column(2, "label", spoilt).append_column("weight", pa.array([0] * 60 + [2] * 60))
    train = TRAIN.append_column("weight", weight)
    found = measured(TEST, tmp_path, train, real=real, weight="weight")
    assert found["real_rows"]["value"] == 60
    assert found["real_accuracy"]["value"] == accuracy(REAL.slice(60), tmp_path)["value"]
    plain = measured(TEST, tmp_path, train, real=REAL, weight="weight")
    assert plain["real_accuracy"] == measured(TEST, tmp_path, real=REAL)["real_accuracy"]


# Students, subsets, sizes.


def test_several_students_have_slices_and_their_mean(
    found: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    both = rows_of(operator(TEST, tmp_path, students=["linear", "bayes"])(TRAIN))
    bayes = rows_of(operator(TEST, tmp_path, students=["bayes"])(TRAIN))
    for metric in ("accuracy", "macro_f1"):
        linear = both[metric, "student=linear"]
        assert {**linear, "slice": None} == found[metric]
        assert both[metric, "student=bayes"]["value"] == bayes[metric, None]["value"]
        mean = (linear["value"] + bayes[metric, None]["value"]) / 2
        assert both[metric, None]["value"] == pytest.approx(mean, abs=1e-12)
    assert bayes["accuracy", None]["value"] != found["accuracy"]["value"]
    assert ("accuracy", "student=bayes") not in bayes, "one student is the whole"


def rows_of(table: pa.Table) -> dict[tuple[str, str | None], dict[str, Any]]:
    return {(row["metric"], row["slice"]): row for row in table.to_pylist()}


def test_subsets_have_a_mean_and_their_spread_is_in_the_interval(tmp_path: Path) -> None:
    settings = {"subset_share": 0.3, "resamples": 1000}
    found = measured(TEST, tmp_path, subsets=6, **settings)["accuracy"]
    bench = operator(TEST, tmp_path).bench
    values, right = [], []
    with Query({"rows": TRAIN, "test": TEST}) as query:
        truth = codes(bench.asked(query, "test")["label"].to_pylist(), sorted(WORDS))
        for subset in range(6):
            said = bench.said(query, Trial("linear", (Part("rows", 18, ("subset", subset)),)), "test")
            right.append(said == truth)
            values.append(right[-1].mean())
    assert found["value"] == pytest.approx(np.mean(values), abs=1e-12)
    assert np.std(values) > 0.02
    random = np.random.default_rng(0)
    held = np.stack(right)
    test_alone = [held[:, random.integers(0, 60, 60)].mean() for _ in range(1000)]
    together = [held[random.integers(0, 6, 6)][:, random.integers(0, 60, 60)].mean() for _ in range(1000)]
    width = found["ci_high"] - found["ci_low"]
    assert width == pytest.approx(np.diff(np.quantile(together, [0.025, 0.975]))[0], rel=0.12)
    assert width > 1.05 * np.diff(np.quantile(test_alone, [0.025, 0.975]))[0]


def test_with_subsets_real_rows_are_as_many_as_in_each(tmp_path: Path) -> None:
    found = measured(TEST, tmp_path, subsets=3, subset_share=0.5, real=REAL, sizes=[30])
    assert found["real_rows"]["value"] == 30
    assert found["train_rows"]["value"] == 60
    assert found["size=30"]["value"] == found["accuracy"]["value"], "the same subsets"


def test_a_curve_of_sizes_ends_in_all_rows(found: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    held = measured(TEST, tmp_path, sizes=[60, 12, 30, 2, 61, 30])
    assert [name for name in held if name.startswith("size=")] == [
        "size=2",
        "size=12",
        "size=30",
        "size=60",
        "size=61",
    ]
    assert {**held["size=60"], "slice": None} == found["accuracy"]
    assert held["size=12"]["value"] < held["size=60"]["value"]
    assert held["size=12"]["ci_low"] < held["size=12"]["value"] < held["size=12"]["ci_high"]
    beyond = held["size=61"]
    assert math.isnan(beyond["value"]) and (beyond["n"], beyond["ci_low"]) == (0, None)
    assert {name: held[name] for name in found} == found


# Labels that one side lacks.


def test_labels_that_one_side_lacks_are_counted(found: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert (found["unknown_labels"]["value"], found["missing_labels"]["value"]) == (0, 0)
    train = TRAIN.set_column(2, "label", pa.array(["money", "money", "pets", "sports"] * 15))
    held = measured(TEST, tmp_path, train)
    assert (held["unknown_labels"]["value"], held["unknown_labels"]["n"]) == (0.25, 60)
    assert (held["missing_labels"]["value"], held["missing_labels"]["n"]) == (1, 3)
    assert held["label=food"]["value"] == 0
    assert "label=sports" not in held
    weighed = train.append_column("weight", pa.array([1.0, 1.0, 1.0, 0.0] * 15))
    none = measured(TEST, tmp_path, weighed, weight="weight")
    assert (none["unknown_labels"]["value"], none["unknown_labels"]["n"]) == (0, 45)
    assert none["missing_labels"]["value"] == 1
    empty = measured(TEST, tmp_path, TRAIN.slice(0, 0))
    assert math.isnan(empty["unknown_labels"]["value"]) and empty["missing_labels"]["value"] == 3


# The gate, and what cannot be.


def decided(found: Mapping[str, dict[str, Any]], one: Utility) -> list[bool]:
    conditions = asked_for(["default"], {"utility": one.gate()})
    table = pa.Table.from_pylist([{"step": "utility", **row} for row in found.values()], schema=METRICS)
    check_conditions(conditions, {"utility": one.metrics()})
    return [check.passed for check in decide(conditions, table)]


def test_its_gate_lets_pass_what_teaches_and_stops_what_does_not(tmp_path: Path) -> None:
    test, real = texts(2, ["money", "pets", "pets", "food"] * 50), texts(4, ["money", "pets", "food"] * 40)
    random_labels = [random.Random(3).choice(list(WORDS)) for _ in range(60)]
    spoilt = TRAIN.set_column(2, "label", pa.array(random_labels[::-1]))
    for train, expected in ((TRAIN, True), (spoilt, False), (TRAIN.take([0, 2] * 30), False)):
        assert decided(measured(test, tmp_path, train), operator(test, tmp_path)) == [expected]
        one = operator(test, tmp_path, real=real)
        assert all(decided(measured(test, tmp_path, train, real=real), one)) == expected
    # Real rows that teach nothing stop nobody who does.
    useless = real.set_column(2, "label", pa.array(["food", "money", "pets"] * 40))
    held = measured(test, tmp_path, real=useless)
    assert math.isnan(held["recovery"]["value"])
    assert decided(held, operator(test, tmp_path, real=useless)) == [True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"students": ["linaer"]}, "students: no student 'linaer'; did you mean 'linear'"),
        ({"students": []}, "students must name each once, of linear, bayes, but is"),
        ({"students": ["bayes", "bayes"]}, "students must name each once"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        operator(TEST, tmp_path, **settings).check(TRAIN.schema)


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the table 'real' has no column 'label'; did you mean 'labels'"):
        operator(TEST, tmp_path, real=REAL.rename_columns(["row_id", "text", "labels"])).check(TRAIN.schema)
    weighed = REAL.append_column("weight", pa.array(["much"] * 120))
    with pytest.raises(InputError, match="column 'weight' must hold numbers, the weights, but is string"):
        operator(TEST, tmp_path, real=weighed, weight="weight").check(TRAIN.schema)
    same = replace(operator(TEST, tmp_path), real="test")
    with pytest.raises(
        InputError, match="real and test are the same table 'test': rows that are learned from"
    ):
        same.check(TRAIN.schema)
    assert same.table_names == ("test", "test")


def test_stages_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stages needs a run, which knows the dataset as it stood"):
        operator(TEST, tmp_path, stages=True)(TRAIN)
