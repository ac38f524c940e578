"""How like real rows the rows are: the measures, their floors, and what the default gate makes of them."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from synthray import gate
from synthray.errors import InputError, RunFailed
from synthray.evaluate.faithfulness import Faithfulness, Texts
from synthray.model.student import Student
from synthray.operator import Context
from synthray.query import Query
from synthray.recipe import load

DATA = os.environ.get("SYNTHRAY_DATA")
real_data = pytest.mark.skipif(not DATA, reason="SYNTHRAY_DATA names no folder of real data")

WORDS = {
    "money": ["stock", "bank", "share", "profit", "market", "price"],
    "pets": ["cat", "dog", "fur", "purr", "bark", "paw"],
    "food": ["soup", "bread", "salt", "oven", "bake", "dish"],
}
COMMON = ["the", "a", "of", "and", "to", "in", "it", "is", "was", "on"]
Found = dict[tuple[str, str | None], dict[str, Any]]


def texts(seed: int, count: int, name: str = "row", extra: Sequence[str] = ()) -> pa.Table:
    """Texts of three labels, one for each; each holds two words of `extra`."""
    generator = random.Random(seed)
    labels = [sorted(WORDS)[number % 3] for number in range(count)]
    made = [
        " ".join([*generator.choices(WORDS[one], k=2), *generator.choices(COMMON, k=6)]) for one in labels
    ]
    if extra:
        made = [f"{text} {' '.join(generator.choices(extra, k=2))}" for text in made]
    ids = pa.array([f"{name}-{number:04}" for number in range(count)], pa.string())
    return pa.table(
        {"row_id": ids, "text": pa.array(made, pa.string()), "label": pa.array(labels, pa.string())}
    )


def operator(real: pa.Table, **settings: Any) -> Faithfulness:
    context = Context(tables={"real": real}, schemas={"real": real.schema}, seed=settings.pop("seed", 0))
    return Faithfulness(text="text", against="real", context=context, **{"resamples": 100, **settings})


def measured(rows: pa.Table, real: pa.Table, **settings: Any) -> Found:
    made = operator(real, **settings)
    made.check(rows.schema)
    found = made(rows).to_pylist()
    assert {one["metric"] for one in found} == set(made.metrics())
    return {(one["metric"], one["slice"]): one for one in found}


def refused(rows: pa.Table, real: pa.Table, **settings: Any) -> list[str]:
    """Return the metric that each of the gate's lines begins with that refuses."""
    made = operator(real, **settings)
    found = made(rows)
    named = found.add_column(0, "step", pa.array([made.step] * len(found)))
    conditions = gate.asked_for(["default"], {made.step: made.gate()})
    gate.check_conditions(conditions, {made.step: made.metrics()})
    return [one.condition.split(".")[1] for one in gate.decide(conditions, named) if not one.passed]


# What is measured.


def test_distances_are_those_of_the_reference_packages_on_equally_many_rows() -> None:
    from prdc import compute_prdc
    from scipy.linalg import sqrtm

    generator = np.random.default_rng(1)
    kind = pa.list_(pa.float64())
    rows, real = texts(1, 90), texts(2, 140, "real")
    rows = rows.append_column("vector", pa.array((generator.normal(size=(90, 6)) + 0.4).tolist(), kind))
    real = real.append_column("vector", pa.array(generator.normal(size=(140, 6)).tolist(), kind))
    made = operator(real, embedding="vector", neighbours=4)
    found = {one["metric"]: one for one in made(rows).to_pylist()}
    with Query({"rows": rows, "real": real}) as query:
        sides = made._sides(query)
    assert {found[name]["n"] for name in ("mauve", "precision", "frechet_floor")} == {70}, (
        "half of the real rows"
    )
    halves = {*sides.half.texts.ids, *sides.other.texts.ids}
    assert halves == set(real["row_id"].to_pylist())
    for other, suffix in ((sides.made, ""), (sides.other, "_floor")):
        for name, value in compute_prdc(sides.half.unit, other.unit, 4).items():
            assert found[f"{name}{suffix}"]["value"] == pytest.approx(value, abs=1e-6), name
        one, two = (np.cov(held.unit.astype(float), rowvar=False) for held in (sides.half, other))
        apart = sides.half.unit.mean(axis=0, dtype=float) - other.unit.mean(axis=0, dtype=float)
        printed = apart @ apart + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
        assert found[f"frechet{suffix}"]["value"] == pytest.approx(printed, abs=1e-6)
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name]["ci_low"] < found[name]["value"] < found[name]["ci_high"]


def test_rows_like_the_real_ones_are_at_the_floor_and_others_are_not() -> None:
    real = texts(1, 300, "real")
    like, unlike = (
        measured(texts(2, 150), real),
        measured(texts(3, 150, extra=["zeta", "quark", "lambda"]), real),
    )
    for name, better in (("mauve", 1), ("frechet", -1), ("coverage", 1), ("word_divergence", -1)):
        floor = like[f"{name}_floor", None]["value"]
        assert abs(like[name, None]["value"] - floor) < 0.5 * abs(unlike[name, None]["value"] - floor), name
        assert better * (floor - unlike[name, None]["value"]) > 0, name
    assert like["two_sample_accuracy", None]["ci_low"] < 0.5 < like["two_sample_accuracy", None]["ci_high"]
    assert like["two_sample_p", None]["value"] > 0.01
    assert unlike["two_sample_accuracy", None]["ci_low"] > 0.8
    assert unlike["two_sample_p", None]["value"] < 1e-6
    assert like["two_sample_accuracy", None]["n"] == 300


def test_the_divergence_of_words_is_scipys() -> None:
    from collections import Counter

    from scipy.spatial.distance import jensenshannon

    rows, real = texts(1, 20), texts(2, 40, "real", extra=["Zeta!"])
    made = operator(real)
    found = {one["metric"]: one["value"] for one in made(rows).to_pylist()}
    with Query({"rows": rows, "real": real}) as query:
        sides = made._sides(query)
    counts = [
        Counter(" ".join(one.texts.texts).lower().replace("!", "").split())
        for one in (sides.half, sides.made, sides.other)
    ]
    known = sorted(set().union(*counts))
    half, own, other = ([held[word] for word in known] for held in counts)
    assert found["word_divergence"] == pytest.approx(jensenshannon(half, own, 2) ** 2, abs=1e-9)
    assert found["word_divergence_floor"] == pytest.approx(jensenshannon(half, other, 2) ** 2, abs=1e-9)
    value, floor = found["word_divergence"], found["word_divergence_floor"]
    assert found["domain_shift"] == pytest.approx((value - floor) / (1 - floor), abs=1e-12)


def test_copies_and_children_of_real_rows_do_not_vouch_for_themselves() -> None:
    real = texts(1, 200, "real")
    # Were a copy's original in another fold, a student would call the copy real each time: 0, not 0.5.
    itself = measured(real, real, sample=100)
    assert 0.35 < itself["two_sample_accuracy", None]["value"] < 0.65
    # A child of each real row says what its parent says and a word of its own.
    seeds, marks = real["text"].to_pylist(), [f"mark{number}" for number in range(200)]
    children = pa.table(
        {
            "row_id": [f"child-{number:04}" for number in range(200)],
            "parent_id": real["row_id"],
            "text": [f"{text} {mark} {mark}" for text, mark in zip(seeds, marks, strict=True)],
        }
    )
    found = measured(children, real, sample=100)["two_sample_accuracy", None]
    assert found["value"] > 0.35, "else a child's real parent told on it"


def test_families_are_parents_children_and_copies() -> None:
    held = Texts(["a", "b", "c", "d", "e"], [None, "a", "a", "x", None], ["1", "2", "3", "4", "4"])
    one, two, three, four, five = held.families()
    assert one == two == three
    assert four == five != one


def test_label_accuracy_is_what_a_student_of_the_real_rows_confirms() -> None:
    real, rows = texts(1, 240, "real"), texts(2, 120)
    labels = rows["label"].to_pylist()
    labels[:30] = ["pets"] * 30
    rows = rows.set_column(2, "label", pa.array(labels))
    found = measured(rows, real, label="label")
    student = Student("bayes").fit(real["text"].to_pylist(), real["label"].to_pylist())
    said = student.predict(rows["text"].to_pylist())
    right = [one == other for one, other in zip(said, labels, strict=True)]
    assert found["label_accuracy", None]["value"] == pytest.approx(sum(right) / 120)
    assert found["label_accuracy", None]["n"] == 120
    for label in WORDS:
        own = [one for one, other in zip(right, labels, strict=True) if other == label]
        row = found["label_accuracy", f"label={label}"]
        assert (row["value"], row["n"]) == (pytest.approx(sum(own) / len(own)), len(own))
    assert found["reference_accuracy", None]["n"] == 240
    assert found["reference_accuracy", None]["value"] > 0.9
    assert found["label_accuracy", "label=pets"]["value"] < 0.8


def test_labels_that_one_side_lacks_are_counted_over_all_rows() -> None:
    rows = pa.table(
        {"row_id": list("abcde"), "text": ["cat"] * 5, "label": ["pets", "cars", "cars", "Pets", None]}
    )
    real = pa.table({"text": ["dog", "fur", "soup"] * 4, "label": ["pets", "pets", "food"] * 4})
    found = measured(rows, real, label="label", sample=10)
    assert (found["unknown_labels", None]["value"], found["unknown_labels", None]["n"]) == (0.75, 4)
    assert (found["missing_labels", None]["value"], found["missing_labels", None]["n"]) == (0.5, 2)
    assert found["label_accuracy", "label=cars"]["value"] == 0, "no student says what it never heard"


def test_a_sample_is_as_large_as_it_says_and_depends_on_the_seed() -> None:
    rows, real = texts(1, 120), texts(2, 200, "real")
    found = measured(rows, real, sample=30)
    assert {found[name, None]["n"] for name in ("mauve", "coverage", "word_divergence_floor")} == {30}
    assert found["two_sample_accuracy", None]["n"] == 60
    assert measured(rows, real, sample=30) == found
    assert measured(rows, real, sample=30, seed=1)["frechet", None] != found["frechet", None]


def test_the_order_of_rows_does_not_count() -> None:
    rows, real = texts(1, 60), texts(2, 90, "real")
    turned = [pa.table(held.take(list(range(len(held)))[::-1])) for held in (rows, real)]
    assert measured(*turned, label="label") == measured(rows, real, label="label")


# Little to measure.


@pytest.mark.parametrize(("count", "real", "n"), [(0, 40, 0), (1, 40, 1), (40, 1, 0), (4, 40, 4), (40, 0, 0)])
def test_too_few_rows_are_nan_with_their_number(count: int, real: int, n: int) -> None:
    found = measured(texts(1, count), texts(2, real, "real"), label="label")
    for name in ("precision", "density_floor"):
        assert math.isnan(found[name, None]["value"])
        assert found[name, None]["n"] == n
    assert math.isnan(found["mauve", None]["value"]) is (n < 2)
    assert math.isnan(found["word_divergence", None]["value"]) is (n == 0)
    assert math.isnan(found["two_sample_accuracy", None]["value"]) is (n < 2)
    assert math.isnan(found["label_accuracy", None]["value"]) is (count == 0 or real < 2)
    if n == 0:
        # Before the first row there is nothing to know, and what is not known does not pass.
        assert refused(texts(1, count), texts(2, real, "real"), label="label")


def test_one_label_teaches_nothing() -> None:
    real = texts(1, 40, "real")
    one = real.set_column(2, "label", pa.array(["pets"] * 40))
    found = measured(texts(2, 30), one, label="label")
    assert math.isnan(found["label_accuracy", None]["value"])
    assert math.isnan(found["reference_accuracy", None]["value"])
    assert found["unknown_labels", None]["value"] == pytest.approx(2 / 3)


def test_identical_vectors_and_texts_without_words_have_a_result() -> None:
    kind = pa.list_(pa.float64())
    same = pa.array([[1.0, 2.0]] * 30, kind)
    rows, real = (texts(seed, 30).append_column("vector", same) for seed in (1, 2))
    found = measured(rows, real, embedding="vector")
    assert found["mauve", None]["value"] == pytest.approx(1)
    assert found["frechet", None]["value"] == pytest.approx(0, abs=1e-9)
    assert found["precision", None]["value"] == found["precision_floor", None]["value"] == 0
    dots = pa.array(["..."] * 30)
    silent = [held.set_column(1, "text", dots) for held in (rows, real)]
    found = measured(*silent, label="label")
    assert math.isnan(found["word_divergence", None]["value"])
    assert math.isnan(found["label_accuracy", None]["value"])


def test_rows_without_a_vector_are_left_out_and_what_is_no_number_names_its_row() -> None:
    kind = pa.list_(pa.float64())
    vectors = np.random.default_rng(1).normal(size=(40, 3)).tolist()
    rows, real = texts(1, 40), texts(2, 40, "real").append_column("vector", pa.array(vectors, kind))
    some = rows.append_column("vector", pa.array([None] * 25 + vectors[25:], kind))
    assert measured(some, real, embedding="vector")["mauve", None]["n"] == 15
    broken = rows.append_column("vector", pa.array([[math.nan, 1.0, 1.0], *vectors[1:]], kind))
    with pytest.raises(RunFailed, match=r"rows: the vector of row_id 'row-0000' .* not a finite number"):
        measured(broken, real, embedding="vector")
    short = rows.append_column("vector", pa.array([one[:2] for one in vectors], kind))
    with pytest.raises(RunFailed, match="has 2 numbers, but what it is compared with has 3"):
        measured(short, real, embedding="vector")


@pytest.mark.parametrize(
    ("real", "settings", "message"),
    [
        pytest.param(
            pa.table({"sentence": ["a"]}), {}, "the table 'real' has no column 'text'", id="other columns"
        ),
        pytest.param(
            pa.table({"text": ["a"], "labels": ["b"]}),
            {"label": "label"},
            "the table 'real' has no column 'label'; did you mean 'labels'",
            id="no label",
        ),
        pytest.param(
            pa.table({"text": ["a"], "label": [1]}),
            {"label": "label"},
            "must hold text, but is int64",
            id="int",
        ),
        pytest.param(
            pa.table({"text": ["a"]}),
            {"embedding": "vector"},
            "the table 'real' has no column 'vector'.*make it by a pipeline of its own",
            id="no vectors",
        ),
    ],
)
def test_a_reference_that_does_not_fit_is_refused_before_any_work(
    real: pa.Table, settings: dict[str, Any], message: str
) -> None:
    before = texts(1, 1).append_column("vector", pa.array([[1.0]]))
    with pytest.raises(InputError, match=message):
        operator(real, **settings).check(before.schema)


# The default gate.


def read(name: str, column: str = "label") -> pa.Table:
    held = pq.read_table(Path(str(DATA)) / f"{name}.parquet")
    if "split" in held.column_names and name == "noisy_agnews":
        held = held.filter(pc.equal(held["split"], "clean_test"))
    shuffled = held.take(pa.array(np.random.default_rng(3).permutation(len(held))[:2400]))
    ids = pa.array([f"{name}-{number:05}" for number in range(len(shuffled))])
    return pa.table({"row_id": ids, "text": shuffled["text"], "label": shuffled[column]})


def flipped(rows: pa.Table) -> pa.Table:
    generator = random.Random(5)
    known = sorted(set(rows["label"].to_pylist()))
    labels = [
        generator.choice([other for other in known if other != one]) if generator.random() < 0.2 else one
        for one in rows["label"].to_pylist()
    ]
    return rows.set_column(2, "label", pa.array(labels))


@real_data
@pytest.mark.parametrize(
    ("name", "column", "foreign"),
    [
        ("snips", "label", "banking77"),
        ("banking77", "label", "snips"),
        ("noisy_agnews", "true_label", "medical_abstracts_test"),
    ],
)
def test_it_lets_real_rows_pass_and_refuses_flipped_labels_and_another_domain(
    name: str, column: str, foreign: str
) -> None:
    held = read(name, column)
    real, rows = held.slice(0, 1000), held.slice(1000, 500)
    settings = {"label": "label", "sample": 500}
    assert refused(rows, real, **settings) == []
    assert refused(flipped(rows), real, **settings) == ["label_accuracy"]
    other = read(foreign)
    assert refused(other, real, sample=400) == ["domain_shift"]


@real_data
def test_it_lets_what_a_model_wrote_for_the_domain_pass() -> None:
    held = pq.read_table(Path(str(DATA)) / "supergen_sst2_qnli.parquet", filters=[("task", "=", "SST-2")])
    held = held.rename_columns(["text" if name == "text1" else name for name in held.column_names])
    rows, real = (
        held.filter(pc.equal(held["split"], one)).select(["text", "label"])
        for one in ("synthetic_train", "real_test")
    )
    rows = rows.append_column("row_id", pa.array([str(number) for number in range(len(rows))]))
    found = measured(rows, real, label="label", sample=300)
    assert found["two_sample_accuracy", None]["ci_low"] > 0.9, "every student can tell them"
    assert refused(rows, real, label="label", sample=300) == []


# A run.

RECIPE = """
name: faithful
seed: 3
tables: {made: rows.parquet, real: real.parquet}
steps:
  - source.table: {table: made}
  - evaluate.faithfulness: {text: text, against: real, label: label, sample: 60, resamples: 100}
gate: default
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_measures_and_gates_the_same_for_any_number_of_blocks(tmp_path: Path) -> None:
    rows, real = texts(1, 90), texts(2, 200, "real")
    pq.write_table(rows, tmp_path / "rows.parquet")
    pq.write_table(real, tmp_path / "real.parquet")
    (tmp_path / "faithful.yaml").write_text(RECIPE, encoding="utf-8")
    alone = measured(rows, real, label="label", sample=60, seed=3)
    for blocks in (1, 7, 64):
        run = replace(load(tmp_path / "faithful.yaml"), blocks=blocks).run(
            tmp_path / f"run-{blocks}", quiet=True
        )
        found = {
            (one.pop("metric"), one.pop("slice")): one for one in run.sql("SELECT * FROM metrics").to_pylist()
        }
        assert set(found) == set(alone)
        for key, one in found.items():
            assert one["n"] == alone[key]["n"]
            assert one["value"] == pytest.approx(alone[key]["value"], abs=1e-9)
        assert [line["passed"] for line in run.state["gate"]] == [True, True]
