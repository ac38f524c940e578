"""MAUVE, its kin, and the divergence of words."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import mauve
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from synthray.statistic.divergence import Divergence, _projected, cell, divergence, jensen_shannon


def clouds(seed: int, count: int, shift: float) -> np.ndarray:
    """Three clouds of unit vectors, the first of which counts for more as `shift` grows."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(3, 16)) * 1.5
    chosen = random.choice(3, count, p=np.array([1 + shift, 1, 1]) / (3 + shift))
    drawn = centres[chosen] + random.normal(size=(count, 16))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def package(p: np.ndarray, q: np.ndarray, labels: np.ndarray | None, monkeypatch: Any, seed: int = 25) -> Any:
    """What mauve-text says, over its own cells or over these."""
    if labels is not None:
        given = np.concatenate([labels[len(p) :], labels[: len(p)]])  # it puts q first
        index = SimpleNamespace(search=lambda data, k: (None, given.reshape(-1, 1)))
        fixed = SimpleNamespace(Kmeans=lambda *_, **__: SimpleNamespace(train=lambda data: None, index=index))
        monkeypatch.setattr(sys.modules["mauve.compute_mauve"], "faiss", fixed)
    return mauve.compute_mauve(p_features=p, q_features=q, seed=seed, kmeans_num_redo=1)


@pytest.mark.parametrize("shift", [0.0, 3.0, 50.0])
def test_over_the_same_cells_it_is_what_the_reference_package_says(
    shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, q = clouds(1, 160, 0.0), clouds(2, 130, shift)
    found = divergence(p, q, seed=3)
    said = package(p, q, cell(np.concatenate([p, q]), 13, 3), monkeypatch)
    assert said.num_buckets == 13
    for name, value in vars(found).items():
        assert value == pytest.approx(getattr(said, name), abs=1e-6), name
    assert found.mauve < 0.999 or not shift


def test_over_its_own_cells_it_is_the_package_within_what_its_seeds_differ_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, q = clouds(1, 200, 0.0), clouds(2, 200, 3.0)
    said = [package(p, q, None, monkeypatch, seed).mauve for seed in range(6)]
    own = [divergence(p, q, seed).mauve for seed in range(6)]
    error = np.hypot(np.std(said, ddof=1), np.std(own, ddof=1))
    assert abs(np.mean(said) - np.mean(own)) < 3 * error + 1e-9


def test_the_area_and_the_integral_are_those_of_the_definitions() -> None:
    counts, others = np.array([5, 3, 0, 2]), np.array([1, 3, 4, 0])
    p, q = counts / 10, others / 8

    def curve(weight: float) -> tuple[float, float]:
        mixed = weight * p + (1 - weight) * q
        return np.exp(-5 * entropy(q, mixed)), np.exp(-5 * entropy(p, mixed))

    corners = [(1.0, 0.0), *map(curve, np.linspace(1e-6, 1 - 1e-6, 25)), (0.0, 1.0)]
    area = sum((one[0] - other[0]) * (one[1] + other[1]) / 2 for one, other in itertools.pairwise(corners))

    def both(weight: float) -> float:
        mixed = weight * p + (1 - weight) * q
        return float(weight * entropy(p, mixed) + (1 - weight) * entropy(q, mixed))

    found = Divergence.of(counts, others)
    assert found.mauve == pytest.approx(area, abs=1e-12)
    assert found.frontier_integral == pytest.approx(2 * quad(both, 0, 1)[0], abs=1e-9)
    assert Divergence.of(counts * 2 + 1, others * 2 + 1).mauve == pytest.approx(found.mauve_star, abs=1e-12)


def test_equal_histograms_are_at_one_and_foreign_ones_near_nothing() -> None:
    same = Divergence.of(np.array([4, 9, 0, 7]), np.array([8, 18, 0, 14]))
    assert (same.mauve, same.frontier_integral) == pytest.approx((1, 0), abs=1e-12)
    apart = Divergence.of(np.array([4, 9, 0, 0]), np.array([0, 0, 3, 7]))
    assert apart.mauve < 0.01
    assert apart.frontier_integral == pytest.approx(1)


def test_copies_are_in_one_cell_and_few_different_vectors_make_few_cells() -> None:
    distinct = clouds(1, 4, 0.0)
    label = cell(np.repeat(distinct, 30, axis=0), 12, 0)
    assert len(set(label.tolist())) == 4
    assert (label.reshape(4, 30) == label[::30, None]).all()
    assert divergence(distinct[[0] * 40], distinct[[0] * 40], 0).mauve == pytest.approx(1)


def test_cells_are_cut_in_the_components_that_keep_nine_tenths_of_the_variance() -> None:
    from sklearn.decomposition import PCA

    vectors = clouds(1, 150, 0.0).astype(np.float64)
    kept = PCA().fit(np.repeat(vectors, 2, axis=0))
    count = int(np.searchsorted(np.cumsum(kept.explained_variance_ratio_), 0.9)) + 1
    expected = np.abs(kept.transform(vectors)[:, :count])
    assert np.abs(_projected(vectors, np.full(150, 2))) == pytest.approx(expected, abs=1e-5)
    assert _projected(vectors, np.full(150, 2)).shape == (150, count)


def test_the_same_seed_gives_the_same_cells() -> None:
    vectors = clouds(1, 200, 0.0)
    assert cell(vectors, 20, 7).tolist() == cell(vectors, 20, 7).tolist()


def test_the_divergence_of_words_is_scipys() -> None:
    p, q = np.array([4, 0, 3, 1]), np.array([1, 2, 0, 9])
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, 2) ** 2, abs=1e-12)
    assert jensen_shannon(p, p * 3) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon(np.array([1, 0]), np.array([0, 5])) == pytest.approx(1)
    assert np.isnan(jensen_shannon(np.array([0, 0]), np.array([0, 5])))
