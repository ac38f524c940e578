"""Balls around real and made vectors: precision, recall, density and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from prdc import compute_prdc

from synthray.statistic import manifold
from synthray.statistic.manifold import Manifold


def spread(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, 12))
    drawn[:, 0] += shift
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def means(real: np.ndarray, made: np.ndarray, k: int) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in vars(Manifold.of(real, made, k)).items()}


@pytest.mark.parametrize(("shift", "k"), [(0.0, 5), (1.5, 3), (4.0, 5)])
def test_it_is_what_the_reference_package_says(shift: float, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold, "_AT_ONCE", 1000)  # many parts
    real, made = spread(1, 150), spread(2, 120, shift)
    assert means(real, made, k) == pytest.approx(compute_prdc(real, made, k), abs=1e-6)


def test_it_is_what_the_formulas_say_row_by_row() -> None:
    real, made, k = spread(1, 40), spread(2, 30, 1.0), 3
    found = Manifold.of(real, made, k)

    def reach(points: np.ndarray) -> list[float]:
        return [sorted(np.linalg.norm(points - one, axis=1))[k] for one in points]

    apart = np.array([[np.linalg.norm(one - other) for other in made] for one in real])
    inside = apart < np.array(reach(real))[:, None]
    assert found.precision.tolist() == inside.any(axis=0).tolist()
    assert found.density.tolist() == pytest.approx(inside.sum(axis=0) / k)
    assert found.coverage.tolist() == inside.any(axis=1).tolist()
    assert found.recall.tolist() == (apart < np.array(reach(made))).any(axis=1).tolist()


def test_texts_collapsed_into_few_reach_no_real_row() -> None:
    real = spread(1, 100)
    found = means(real, np.repeat(real[:5], 20, axis=0), 5)
    assert found["precision"] == 1
    assert found["recall"] == 0, "a ball around copies holds nothing"
    assert found["coverage"] < 0.5


def test_equal_vectors_are_at_no_distance_whatever_their_digits() -> None:
    drawn = np.random.default_rng(1).normal(size=(20, 300))
    unit = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    real = np.repeat(unit, 7, axis=0)
    assert means(real, real, 5) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_fewer_rows_than_neighbours_are_told() -> None:
    with pytest.raises(ValueError, match="5 neighbours need more than 5 vectors, but there are 5"):
        Manifold.of(spread(1, 5), spread(2, 9), 5)
