"""Strengths by Bradley and Terry: maximum likelihood, the prior, and what cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from synthray.statistic.strength import ELO, elo, group, parted, strengths


def games(size: int, count: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return wins (S, S), with ties as half wins, and the strengths they were drawn by."""
    random = np.random.default_rng(seed)
    theta = random.normal(0, spread, size)
    theta -= theta.mean()
    wins = np.zeros((size, size))
    for _ in range(count):
        one, other = random.choice(size, 2, replace=False)
        if random.random() < 0.1:
            wins[one, other] += 0.5
            wins[other, one] += 0.5
        elif random.random() < 1 / (1 + math.exp(theta[other] - theta[one])):
            wins[one, other] += 1
        else:
            wins[other, one] += 1
    return wins, theta


def likelihood(theta: np.ndarray, wins: np.ndarray, prior: float) -> float:
    apart = theta[:, None] - theta[None, :]
    own = np.logaddexp(0, -theta).sum() + np.logaddexp(0, theta).sum()
    return float((wins * np.logaddexp(0, -apart)).sum() + prior / 2 * own)


@pytest.mark.parametrize("prior", [0.0, 0.1, 5.0])
def test_they_have_the_largest_likelihood(prior: float) -> None:
    for seed in range(4):
        wins, _ = games(6, 300, seed)
        found = strengths(wins, prior)
        start = np.zeros(6)
        best = minimize(likelihood, start, (wins, prior), method="BFGS", options={"gtol": 1e-9}).x
        assert found == pytest.approx(best - best.mean(), abs=1e-5)
        assert found.mean() == pytest.approx(0, abs=1e-12)


def test_they_are_a_logistic_regression_without_penalty() -> None:
    from sklearn.linear_model import LogisticRegression

    wins, _ = games(5, 400, 1)
    rows, labels, weights = [], [], []
    for one, other in np.argwhere(wins > 0):
        line = np.zeros(5)
        line[one], line[other] = 1, -1
        rows += [line, -line]
        labels += [1, 0]
        weights += [wins[one, other]] * 2
    # The first one's strength is 0; a pair and its mirror hold the intercept there, too.
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)
    model.fit(np.array(rows)[:, 1:], labels, sample_weight=weights)
    expected = np.concatenate([[0.0], model.coef_[0]])
    assert strengths(wins) == pytest.approx(expected - expected.mean(), abs=1e-6)


def test_of_two_they_are_the_log_odds() -> None:
    found = strengths(np.array([[0.0, 3.0], [1.0, 0.0]]))
    assert found[0] - found[1] == pytest.approx(math.log(3), abs=1e-12)
    assert ELO * math.log(10) == pytest.approx(400)


def test_with_a_prior_who_never_lost_stays_finite_and_without_there_is_no_answer() -> None:
    wins = np.array([[0.0, 50.0, 1e6], [0.0, 0.0, 20.0], [0.0, 10.0, 0.0]])
    found = strengths(wins, 0.1)
    assert found[0] > found[1] > found[2]
    slope = minimize(likelihood, found, (wins, 0.1), method="BFGS", options={"gtol": 1e-9})
    assert found == pytest.approx(slope.x - slope.x.mean(), abs=1e-3)
    assert np.isnan(strengths(wins)).all()


def test_far_apart_ones_are_reached() -> None:
    wins = np.array([[0.0, 1e6, 0.0], [1.0, 0.0, 1e6], [0.0, 1.0, 0.0]])
    found = strengths(wins)
    assert found[0] - found[1] == pytest.approx(math.log(1e6), rel=1e-9)
    assert found[1] - found[2] == pytest.approx(math.log(1e6), rel=1e-9)


def test_a_group_is_connected_by_games_or_without_a_prior_by_wins_to_and_fro() -> None:
    wins = np.zeros((6, 6))
    wins[0, 1] = wins[1, 0] = 1  # beat each other
    wins[2, 0] = 3  # never lost
    wins[3, 4] = wins[4, 3] = 1  # apart from them
    assert group(wins, 0.1).tolist() == [True, True, True, False, False, False]
    assert group(wins).tolist() == [True, True, False, False, False, False]
    assert group(wins, 0.1, anchor=4).tolist() == [False, False, False, True, True, False]
    assert not group(wins, 0.1, anchor=5).any(), "alone there is nothing to compare"
    assert len(set(parted(wins).tolist())) == 3
    assert not len(group(np.zeros((0, 0))))
    assert not len(strengths(np.zeros((0, 0)), 1.0))


def test_elo_moves_by_what_was_not_expected() -> None:
    assert elo([(0, 1, 1.0)], 2, 32, 1000) == [1016, 984]
    after = elo([(0, 1, 1.0), (1, 0, 0.5)], 2, 32, 1000)
    moved = 32 * (1 / (1 + 10 ** (-32 / 400)) - 0.5)
    assert after == pytest.approx([1016 - moved, 984 + moved], abs=1e-9)
    assert elo([], 2, 32, 1000) == [1000, 1000]


def test_a_lopsided_graph_is_climbed_where_newtons_own_steps_run_away() -> None:
    wins = np.zeros((5, 5))
    for one, other, count in (
        (0, 3, 6),
        (1, 0, 3),
        (2, 0, 57383),
        (2, 4, 1048),
        (3, 1, 10),
        (3, 4, 29817),
        (4, 1, 1),
    ):
        wins[one, other] = count
    found = strengths(wins, 0.1)
    for place in range(5):
        for step in (-1e-3, 1e-3):
            moved = found.copy()
            moved[place] += step
            # The prior holds the level: the answer is compared at its own best one.
            best, other = (
                min(likelihood(theta + shift, wins, 0.1) for shift in np.linspace(-8, 8, 3201))
                for theta in (found, moved)
            )
            assert best < other
