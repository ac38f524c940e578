"""The share of right labels: from people's answers and a model's beliefs, over all rows and for each label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from reviewing import rows

from synthray.errors import InputError, RunFailed
from synthray.evaluate.label_accuracy import LabelAccuracy
from synthray.label.correction import Stratum, joined
from synthray.operator import Context

OPERATOR = LabelAccuracy(context=Context(step="label_accuracy"))
BASE = rows(1000)
TRUTH = np.mean([row["label"] == row["true"] for row in BASE.to_pylist()])
QUALITY = np.array(BASE["label_quality"])
ORDER = np.argsort(QUALITY, kind="stable")


def reviewed(
    drawn: Sequence[int], picked: Sequence[int] = (), unanswered: Sequence[int] = (), table: pa.Table = BASE
) -> pa.Table:
    """Return rows of which people answered the drawn and the picked ones with the truth."""
    held = []
    chosen, by_rank, left = set(map(int, drawn)), set(map(int, picked)), set(map(int, unanswered))
    for number, row in enumerate(table.to_pylist()):
        both = number in chosen, number in by_rank
        slice_ = {(True, True): "both", (True, False): "random", (False, True): "picked"}.get(both)
        answered = slice_ and number not in left
        weight = 1.0 if number in by_rank else len(table) / max(1, len(chosen))
        held.append(
            {
                **row,
                "human_label": row["true"] if answered else None,
                "review_slice": slice_,
                "review_batch": "one" if slice_ else None,
                "review_weight": weight if answered else None,
            }
        )
    strings = ("human_label", "review_slice", "review_batch")
    kinds = [
        *table.schema,
        *(pa.field(name, pa.string()) for name in strings),
        pa.field("review_weight", pa.float64()),
    ]
    return pa.Table.from_pylist(held, schema=pa.schema(kinds))


def drawn(count: int, seed: int = 0) -> list[int]:
    return [int(place) for place in np.random.default_rng(seed).choice(len(BASE), count, replace=False)]


def measured(table: pa.Table, **settings: Any) -> dict[str, dict[str, Any]]:
    held = LabelAccuracy(**settings, context=OPERATOR.context)
    held.check(table.schema)
    return {row["slice"] or row["metric"]: row for row in held(table).to_pylist()}


def right(places: Sequence[int]) -> np.ndarray[Any, Any]:
    held = BASE.to_pylist()
    return np.array([held[place]["label"] == held[place]["true"] for place in places], float)


def test_it_is_the_estimate_of_the_slice_over_all_rows() -> None:
    places = sorted(drawn(100))
    found = measured(reviewed(places))
    whole = Stratum(1000, QUALITY.mean(), right(places), QUALITY[places], np.ones(100))
    expected, alone = joined([whole]), joined([whole], tuned=False)
    for name, one in (("accuracy", expected), ("classical", alone)):
        row = found[name]
        assert (row["value"], row["ci_low"], row["ci_high"]) == pytest.approx(
            (one.value, one.low, one.high), abs=1e-9
        )
        assert row["n"] == 100
    assert found["tuning"]["value"] == pytest.approx(expected.tuning, abs=1e-9)
    width = (expected.high - expected.low) / (alone.high - alone.low)
    assert found["width_ratio"]["value"] == pytest.approx(width, abs=1e-9)
    assert width < 0.8, "the model is worth something"
    assert found["outside"]["value"] == 0


def test_picked_rows_are_a_stratum_of_their_own() -> None:
    picked, places = [int(one) for one in ORDER[:60]], drawn(100)
    found = measured(reviewed(places, picked))
    rest, own = ORDER[60:], sorted(set(places) - set(picked))
    expected = joined(
        [
            Stratum(940, QUALITY[rest].mean(), right(own), QUALITY[own], np.ones(len(own))),
            Stratum(60, QUALITY[picked].mean(), right(picked), QUALITY[picked], np.ones(60)),
        ]
    )
    assert found["accuracy"]["value"] == pytest.approx(expected.value, abs=1e-9)
    assert found["accuracy"]["ci_low"] == pytest.approx(expected.low, abs=1e-9)
    assert found["accuracy"]["n"] == len(set(places) | set(picked))
    assert found["classical"]["n"] == 100, "the slice alone, with those that were picked too"
    naive = right([*picked, *own]).mean()
    assert abs(found["accuracy"]["value"] - TRUTH) < 0.05 < abs(naive - TRUTH)


def test_over_many_slices_it_covers_and_is_unbiased() -> None:
    picked = [int(one) for one in ORDER[:50]]
    found = [measured(reviewed(drawn(60, seed), picked))["accuracy"] for seed in range(100)]
    hits = sum(row["ci_low"] <= TRUTH <= row["ci_high"] for row in found)
    assert 0.89 <= hits / 100 <= 1
    assert np.mean([row["value"] for row in found]) == pytest.approx(TRUTH, abs=0.01)


def test_picked_rows_that_nobody_answered_yet_are_not_taken_for_others() -> None:
    picked = [int(one) for one in ORDER[:60]]
    half = measured(reviewed(drawn(100), picked, unanswered=picked[::2]))["accuracy"]
    whole = measured(reviewed(drawn(100), picked))["accuracy"]
    assert half["value"] == pytest.approx(whole["value"], abs=0.02)
    assert half["ci_high"] - half["ci_low"] > whole["ci_high"] - whole["ci_low"]
    nobody = measured(reviewed(drawn(100), picked, unanswered=picked))["accuracy"]
    # Of 6 % nothing is known but what the model believes.
    assert nobody["ci_high"] - nobody["ci_low"] > whole["ci_high"] - whole["ci_low"] + 0.02


def test_each_label_has_its_own_accuracy() -> None:
    found = measured(reviewed(drawn(300)))
    for label in ("food", "money", "pets"):
        own = [row for row in BASE.to_pylist() if row["label"] == label]
        truth = sum(row["true"] == label for row in own) / len(own)
        row = found[f"label={label}"]
        assert row["metric"] == "accuracy" and row["ci_low"] - 0.03 <= truth <= row["ci_high"] + 0.03
    assert sum(found[f"label={label}"]["n"] for label in ("food", "money", "pets")) == 300


@pytest.mark.parametrize(
    "belief", ["(suggested_label = label)::INTEGER", "suggested_label = label", "1", "0.25"]
)
def test_any_belief_is_allowed_and_none_biases(belief: str) -> None:
    found = measured(reviewed(drawn(200)), belief=belief)
    assert found["accuracy"]["value"] == pytest.approx(TRUTH, abs=0.06)
    if belief in ("1", "0.25"):
        assert found["tuning"]["value"] == 0
        assert found["accuracy"]["value"] == pytest.approx(found["classical"]["value"])


def test_rows_without_a_belief_have_the_mean_of_the_others() -> None:
    table = reviewed(drawn(200))
    gaps = [None if number % 10 == 0 else one for number, one in enumerate(QUALITY.tolist())]
    place = table.column_names.index("label_quality")
    found = measured(table.set_column(place, "label_quality", pa.array(gaps)))
    assert found["accuracy"]["value"] == pytest.approx(TRUTH, abs=0.06)
    none = measured(table.set_column(place, "label_quality", pa.nulls(1000, pa.float64())))
    assert none["tuning"]["value"] == 0 and none["accuracy"]["n"] == 200


def test_rows_without_a_label_are_not_counted() -> None:
    table = reviewed(drawn(200))
    place = table.column_names.index("label")
    labels = [None if number < 500 else one for number, one in enumerate(table["label"].to_pylist())]
    found = measured(table.set_column(place, "label", pa.array(labels)))
    assert found == measured(table.slice(500))
    assert found["accuracy"]["n"] < 150


@pytest.mark.parametrize("answers", [0, 1])
def test_of_fewer_than_two_answers_all_is_nan(answers: int) -> None:
    found = measured(reviewed(drawn(answers)))
    for name in ("accuracy", "classical", "tuning", "width_ratio", "label=food"):
        assert math.isnan(found[name]["value"]) and found[name]["ci_low"] is None
    assert found["accuracy"]["n"] == answers


def test_no_rows_are_nan_too() -> None:
    assert math.isnan(measured(reviewed([]).slice(0, 0))["accuracy"]["value"])


def test_what_the_slice_does_not_reach_may_be_anything() -> None:
    table = reviewed(drawn(100))
    # A tenth of the rows in which people would have been asked came too late for that.
    slices = table["review_slice"].to_pylist()
    late = [number for number, one in enumerate(slices) if one is None][:11]
    names = ["outside" if number in late else one for number, one in enumerate(slices)]
    found = measured(
        table.set_column(table.column_names.index("review_slice"), "review_slice", pa.array(names))
    )
    before = measured(table)["accuracy"]
    assert found["outside"]["value"] == pytest.approx(11 / 111)
    assert found["accuracy"]["ci_low"] == pytest.approx(before["ci_low"] - 0.09, abs=0.02)
    assert found["accuracy"]["ci_high"] > before["ci_high"]


def test_answers_that_nobody_drew_are_no_sample() -> None:
    table = reviewed(drawn(100))
    place = table.column_names.index("review_slice")
    found = measured(table.set_column(place, "review_slice", pa.nulls(1000, pa.string())))
    assert math.isnan(found["accuracy"]["value"]) and found["accuracy"]["n"] == 0


def test_nothing_depends_on_the_order_of_rows() -> None:
    table = reviewed(drawn(150), [int(one) for one in ORDER[:50]])
    assert OPERATOR(table.take(list(range(1000))[::-1])) == OPERATOR(table)


def test_a_higher_confidence_is_a_wider_interval() -> None:
    table = reviewed(drawn(100))
    narrow, wide = (measured(table, confidence=one)["accuracy"] for one in (0.8, 0.99))
    assert wide["ci_low"] < narrow["ci_low"] < narrow["ci_high"] < wide["ci_high"]


@pytest.mark.parametrize(
    ("belief", "message"),
    [
        ("label_qualty", "belief 'label_qualty' must be SQL for a number from 0 to 1.*label_qualty"),
        ("text", "must be SQL for a number.*it is string"),
        ("[1]", "must be SQL for a number"),
        ("", "must be SQL for a number"),
        ("max(label_quality)", "must be SQL for a number"),
    ],
)
def test_a_belief_that_is_no_number_is_told_before_any_work(belief: str, message: str) -> None:
    table = reviewed(drawn(10))
    with pytest.raises(InputError, match=message):
        LabelAccuracy(belief=belief).check(table.schema)


def test_a_belief_beyond_0_and_1_names_the_row() -> None:
    with pytest.raises(
        RunFailed, match=r"label_accuracy: belief .* must be from 0 to 1, but is .* in row_id 'row0"
    ):
        measured(reviewed(drawn(10)), belief="label_quality * 2")
    with pytest.raises(RunFailed, match="but is nan"):
        measured(reviewed(drawn(10)), belief="label_quality * 'nan'::DOUBLE")


def test_the_metrics_are_those_that_a_gate_may_name() -> None:
    found = measured(reviewed(drawn(50)))
    assert set(OPERATOR.metrics()) == {name for name in found if "=" not in name}
