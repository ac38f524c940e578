"""Weights are low for wrong labels, by hypergradients that finite differences bear out, without gold or with."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from synthray.label import weighting
from synthray.label.softmax import Head, Rows
from synthray.label.weighting import Side, l2rw, sungen

CLASSES = 4


def blobs(size: int, flipped: float = 0.0, seed: int = 0) -> tuple[Rows, np.ndarray]:
    """Return rows of four overlapping classes, and which of them have another label than theirs."""
    random = np.random.default_rng(seed)
    centres = 2.0 * np.eye(CLASSES, 6)
    true = random.integers(0, CLASSES, size)
    wrong = random.random(size) < flipped
    given = np.where(wrong, (true + random.integers(1, CLASSES, size)) % CLASSES, true)
    return Rows(centres[true] + 0.7 * random.normal(size=(size, 6)), given, CLASSES), wrong


def halves(size: int) -> np.ndarray:
    return np.random.default_rng(1).random(size) < 0.5


def test_the_hypergradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighting, "_OPTIMUM", 1e-11)
    monkeypatch.setattr(weighting, "_SOLVED", 1e-11)
    rows, _ = blobs(50, 0.3)
    random = np.random.default_rng(2)
    base = random.choice([0.0, 1.0, 2.0], 50)
    one, other = (Side.of(rows, base, np.flatnonzero(here)) for here in (halves(50), ~halves(50)))
    weights = random.uniform(0.1, 1, len(one.places))
    outer = other.base * random.uniform(0, 1, len(other.places))

    def loss(held: np.ndarray) -> float:
        return one.hypergradient(held, other, outer, 0.01)[0]

    found = one.hypergradient(weights, other, outer, 0.01)[1]
    differences = np.array(
        [(loss(weights + step) - loss(weights - step)) / 2e-5 for step in 1e-5 * np.eye(len(weights))]
    )
    # The factor that all rows share, and what the row counts beside its weight.
    own = base[one.places]
    found = found * own / own.sum()
    np.testing.assert_allclose(found, differences, rtol=1e-4, atol=1e-8)
    assert np.abs(differences[own > 0]).min() > 0


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_sungen_finds_flipped_labels_without_gold(share: float) -> None:
    rows, wrong = blobs(800, 0.2)
    weights, losses = sungen(rows, halves(800), np.ones(800), 10, share)
    assert roc_auc_score(~wrong, weights) > 0.95
    assert weights[wrong].mean() < 0.5 * weights[~wrong].mean()
    assert (weights >= 0).all()
    assert losses[-1] < losses[0], "weights lower what they are to lower"


def test_a_head_of_the_weights_is_better_on_clean_rows() -> None:
    rows, _ = blobs(300, 0.4)
    clean, _ = blobs(5_000, seed=9)
    weights, _ = sungen(rows, halves(300), np.ones(300), 10)

    def accuracy(held: np.ndarray) -> float:
        found = clean.probabilities(Head(rows, held, 1e-3).optimum())
        return float((found.argmax(axis=1) == clean.given).mean())

    assert accuracy(weights) > accuracy(np.ones(300)) + 0.01


def test_each_class_stays_as_heavy_as_it_is() -> None:
    rows, _ = blobs(400, 0.3)
    base = np.random.default_rng(3).uniform(0.5, 2, 400)
    weights, _ = sungen(rows, halves(400), base, 5)
    assert weights.std() > 0.2
    for label in range(CLASSES):
        own = rows.given == label
        assert (weights * base)[own].sum() == pytest.approx(base[own].sum())


def test_a_row_without_base_teaches_nothing_but_is_weighted() -> None:
    rows, wrong = blobs(600, 0.2)
    base = (np.arange(600) % 2).astype(np.float64)
    weights, _ = sungen(rows, halves(600), base, 10)
    assert roc_auc_score(~wrong[base == 0], weights[base == 0]) > 0.9
    other = Rows(rows.inputs, np.where(base > 0, rows.given, (rows.given + 1) % CLASSES), CLASSES)
    again, _ = sungen(other, halves(600), base, 10)
    np.testing.assert_allclose(again[base > 0], weights[base > 0], atol=1e-9)


def test_a_label_of_one_half_and_rows_that_are_all_alike_are_weighted_too() -> None:
    rows, _ = blobs(60)
    half = halves(60)
    given = np.where(rows.given == 3, 0, rows.given)
    given[np.flatnonzero(half)[:3]] = 3
    weights, _ = sungen(Rows(rows.inputs, given, CLASSES), half, np.ones(60), 5)
    assert np.isfinite(weights).all()
    alike = Rows(np.zeros((40, 2)), np.arange(40) % 2, 2)
    weights, _ = sungen(alike, np.arange(40) % 4 < 2, np.ones(40), 5)
    np.testing.assert_allclose(weights, 1)


def test_the_outer_loss_is_of_the_heaviest_of_each_class() -> None:
    rows = Rows(np.zeros((10, 1)), np.repeat([0, 1], 5), 2)
    side = Side.of(rows, np.array([1, 1, 1, 1, 0, 2, 2, 2, 2, 2.0]), np.arange(10))
    weights = np.array([0.1, 0.4, 0.3, 0.2, 0.9, 0.5, 0.5, 0.5, 0.5, 0.1])
    np.testing.assert_array_equal(side.heaviest(weights, 0.5), [0, 1, 1, 0, 0, 2, 2, 2, 2, 0])
    np.testing.assert_array_equal(side.heaviest(weights, 1.0), side.base)


def test_l2rw_finds_flipped_labels_by_a_few_gold_rows() -> None:
    rows, wrong = blobs(800, 0.2)
    gold, _ = blobs(40, seed=5)
    weights = l2rw(rows, gold, np.ones(800), 5, seed=1)
    assert roc_auc_score(~wrong, weights) > 0.85
    assert (weights >= 0).all()
    assert (weights[wrong] == 0).mean() > 0.5, "most wrong rows never help"
    np.testing.assert_array_equal(weights, l2rw(rows, gold, np.ones(800), 5, seed=1))
    assert (weights != l2rw(rows, gold, np.ones(800), 5, seed=2)).any()


def test_one_batch_of_l2rw_is_its_formula() -> None:
    rows, _ = blobs(30, 0.3)
    gold, _ = blobs(8, seed=5)
    zero = np.zeros(rows.shape)
    base = np.arange(30) % 3.0
    own = [rows.taken(np.array([place])).gradient(zero) for place in range(30)]
    aligned = np.maximum(0, [np.vdot(one, gold.gradient(zero)) for one in own])
    expected = aligned * base.sum() / (aligned * base).sum()
    np.testing.assert_allclose(l2rw(rows, gold, base, 1, seed=1), expected, rtol=1e-12)


def test_rows_that_all_contradict_the_gold_rows_weigh_nothing() -> None:
    rows = Rows(np.ones((20, 2)), np.zeros(20, int), 2)
    gold = Rows(np.ones((3, 2)), np.ones(3, int), 2)
    np.testing.assert_array_equal(l2rw(rows, gold, np.ones(20), 3, seed=1), np.zeros(20))
