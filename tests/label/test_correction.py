"""An estimate of all from the answers of a few: unbiased, as narrow as the model allows, covering as it says."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from synthray.label.correction import Stratum, joined

Numbers = np.ndarray[Any, np.dtype[Any]]


def population(
    accuracy: float, size: int = 5000, seed: int = 0, sharp: float = 2.0
) -> tuple[Numbers, Numbers]:
    """Return which labels are right, and beliefs that lean the right way but are not calibrated."""
    random = np.random.default_rng(seed)
    right = (random.random(size) < accuracy).astype(float)
    return right, 1 / (1 + np.exp(-(sharp * (right - 0.5) + random.normal(0, 1, size))))


def slice_of(right: Numbers, beliefs: Numbers, places: Numbers) -> Stratum:
    return Stratum(len(right), beliefs.mean(), right[places], beliefs[places], np.ones(len(places)))


def test_the_value_is_that_of_ppi_plus_plus() -> None:
    right, _ = population(0.8)
    random = np.random.default_rng(3)
    beliefs = np.where(random.random(len(right)) < 0.85, right, 1 - right) * 0.9
    labelled = np.random.default_rng(1).choice(len(right), 200, replace=False)
    others = np.setdiff1d(np.arange(len(right)), labelled)
    y, f, rest = right[labelled], beliefs[labelled], beliefs[others]
    # By the paper: the labelled rows against the rows without labels, and its tuning.
    tuning = np.cov(y, f)[0, 1] / np.var(f, ddof=1) / (1 + len(labelled) / len(others))
    by_paper = tuning * rest.mean() + (y - tuning * f).mean()
    found = slice_of(right, beliefs, labelled).estimate()
    assert found.value == pytest.approx(by_paper, abs=1e-12)
    assert 0.1 < found.tuning < 1
    assert found.n == 200


def test_untuned_it_is_wilsons_interval_of_the_answers_alone() -> None:
    right, beliefs = population(0.8)
    answers = np.random.default_rng(1).choice(len(right), 80, replace=False)
    many = Stratum(10**9, 0.5, right[answers], beliefs[answers], np.ones(80)).estimate(tuned=False)
    oracle = binomtest(int(right[answers].sum()), 80).proportion_ci(0.95, "wilson")
    assert (many.value, many.low, many.high) == pytest.approx(
        (right[answers].mean(), oracle.low, oracle.high), abs=1e-6
    )
    narrow = Stratum(160, 0.5, right[answers], beliefs[answers], np.ones(80)).estimate(tuned=False)
    # Of half of the rows the variance is half.
    assert (narrow.high - narrow.low) / (many.high - many.low) == pytest.approx(math.sqrt(0.5), abs=0.02)


def test_where_all_are_answered_nothing_is_left_to_guess() -> None:
    right, beliefs = population(0.7, 50)
    found = slice_of(right, beliefs, np.arange(50)).estimate()
    assert (found.low, found.high) == (found.value, found.value)
    assert found.value == pytest.approx(right.mean())


@pytest.mark.parametrize("answers", [10, 14, 23, 50, 110])
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_answers_that_are_all_alike_are_not_certainty(answers: int, right: float) -> None:
    beliefs = np.random.default_rng(answers).random(answers)
    held = Stratum(10**6, 0.5, np.full(answers, right), beliefs, np.full(answers, 0.1))
    found, alone = held.estimate(), held.estimate(tuned=False)
    oracle = binomtest(int(right) * answers, answers).proportion_ci(0.95, "wilson")
    assert (alone.low, alone.high) == pytest.approx((oracle.low, oracle.high), abs=1e-4)
    assert found.value == pytest.approx(right)
    # Student's t for the normal: a little wider, the more the fewer they are.
    assert 1 < (found.high - found.low) / (alone.high - alone.low) < 1.35


def test_a_model_that_says_just_what_people_say_is_not_certainty_either() -> None:
    right = np.tile([1.0, 1.0, 0.0], 20)
    found = Stratum(10**6, 2 / 3, right, right, np.ones(60)).estimate()
    assert found.high - found.low > 0.1


def test_a_good_model_narrows_the_interval_and_a_useless_one_hardly_widens_it() -> None:
    right, beliefs = population(0.8, sharp=4.0)
    useless = np.random.default_rng(9).random(len(right))
    answers = np.random.default_rng(2).choice(len(right), 200, replace=False)
    alone = slice_of(right, beliefs, answers).estimate(tuned=False)
    good, bad = (slice_of(right, held, answers).estimate() for held in (beliefs, useless))
    width = alone.high - alone.low
    assert (good.high - good.low) / width < 0.7
    assert (bad.high - bad.low) / width < 1.03
    assert bad.tuning < 0.2 < good.tuning


def test_a_wrong_model_does_not_bias() -> None:
    right, _ = population(0.8)
    misled = np.where(right == 1, 0.3, 0.2)  # believes that nearly all is wrong
    random = np.random.default_rng(4)
    found = [
        slice_of(right, misled + random.normal(0, 0.05, len(right)).clip(-0.1, 0.1), answers).estimate().value
        for answers in (random.choice(len(right), 100, replace=False) for _ in range(400))
    ]
    assert np.mean(found) == pytest.approx(right.mean(), abs=0.006)


@pytest.mark.parametrize("answers", [0, 1])
def test_of_fewer_than_two_answers_nothing_follows(answers: int) -> None:
    few = Stratum(100, 0.9, np.ones(answers), np.ones(answers), np.ones(answers))
    found = joined([few])
    assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.tuning)
    assert found.n == answers
    # Beside others it may be anything, for as much as it is of the rows.
    known = Stratum(100, 0.5, np.ones(100), np.ones(100), np.ones(100))
    both = joined([few, known])
    assert (both.low, both.high, both.value) == pytest.approx((0.5, 1.0, 0.95))


def test_strata_count_by_their_size() -> None:
    picked = Stratum(100, 0.2, np.repeat([1.0, 0.0], [20, 80]), np.full(100, 0.2), np.ones(100))
    rest = Stratum(900, 0.9, np.repeat([1.0, 0.0], [90, 10]), np.full(100, 0.9), np.ones(100))
    found = joined([picked, rest])
    assert found.value == pytest.approx(0.1 * 0.2 + 0.9 * 0.9)
    own = rest.estimate()
    # What is known adds no width.
    assert found.high - found.low == pytest.approx(0.9 * (own.high - own.low))


def test_weights_undo_unequal_chances() -> None:
    right, beliefs = population(0.7)
    chance = np.where(right == 1, 0.02, 0.06)  # wrong labels are drawn three times as often
    random = np.random.default_rng(5)
    found, plain, hits = [], [], 0
    for _ in range(500):
        answers = np.flatnonzero(random.random(len(right)) < chance)
        held = Stratum(len(right), beliefs.mean(), right[answers], beliefs[answers], 1 / chance[answers])
        one = held.estimate()
        found.append(one.value)
        hits += one.low <= right.mean() <= one.high
        plain.append(right[answers].mean())
    assert np.mean(plain) < right.mean() - 0.2
    assert np.mean(found) == pytest.approx(right.mean(), abs=0.01)
    assert 0.93 <= hits / 500 <= 0.98


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("answers", [50, 200])
def test_the_interval_covers_as_often_as_it_says(accuracy: float, answers: int) -> None:
    right, beliefs = population(accuracy, seed=3)
    assert coverage(right, beliefs, answers, 800, 0.95) == pytest.approx(0.95, abs=0.02)


def test_another_confidence_covers_as_it_says() -> None:
    assert coverage(*population(0.8, seed=3), 200, 800, 0.8) == pytest.approx(0.8, abs=0.04)


def test_picked_rows_beside_a_slice_cover_too_and_would_mislead_without_their_weights() -> None:
    right, beliefs = population(0.8, seed=6)
    order = np.argsort(beliefs)
    picked, rest = order[:100], order[100:]
    random, hits, plain = np.random.default_rng(7), 0, []
    for _ in range(800):
        drawn = random.choice(len(right), 60, replace=False)
        own = drawn[~np.isin(drawn, picked)]
        sure = Stratum(100, beliefs[picked].mean(), right[picked], beliefs[picked], np.ones(100))
        slice_ = Stratum(len(rest), beliefs[rest].mean(), right[own], beliefs[own], np.ones(len(own)))
        found = joined([sure, slice_])
        hits += found.low <= right.mean() <= found.high
        plain.append(right[np.union1d(drawn, picked)].mean())
    assert 0.93 <= hits / 800 <= 0.975
    assert np.mean(plain) < right.mean() - 0.2


@pytest.mark.skipif("SYNTHRAY_DATA" not in os.environ, reason="SYNTHRAY_DATA names no folder of real data")
@pytest.mark.parametrize("answers", [50, 200])
def test_it_covers_on_labels_that_crowd_workers_gave(answers: int) -> None:
    right, beliefs = crowd()
    assert coverage(right, beliefs, answers, 1500, 0.95) == pytest.approx(0.95, abs=0.02)
    assert 0.3 < np.corrcoef(right, beliefs)[0, 1] < 0.7


def coverage(right: Numbers, beliefs: Numbers, answers: int, draws: int, confidence: float) -> float:
    random, truth, hits = np.random.default_rng(8), right.mean(), 0
    for _ in range(draws):
        places = random.choice(len(right), answers, replace=False)
        found = slice_of(right, beliefs, places).estimate(confidence)
        hits += found.low <= truth <= found.high
    return hits / draws


def crowd() -> tuple[Numbers, Numbers]:
    """Return which labels of noisy_agnews are right, and how a student of other rows believes in them."""
    import pyarrow.parquet as pq
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    table = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "noisy_agnews.parquet")
    rows = [row for row in table.to_pylist() if row["split"] == "noisy_10k"]
    student = make_pipeline(HashingVectorizer(), SGDClassifier(loss="log_loss", random_state=0))
    student.fit([row["text"] for row in rows[:3000]], [row["given_label"] for row in rows[:3000]])
    judged = rows[3000:]
    given = np.array([row["given_label"] for row in judged])
    probabilities = student.predict_proba([row["text"] for row in judged])
    right = (given == np.array([row["true_label"] for row in judged])).astype(float)
    return right, probabilities[np.arange(len(judged)), np.searchsorted(student.classes_, given)]
