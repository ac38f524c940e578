"""A softmax head learns what scikit-learn's does, and what a row did to it is what leaving it out shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from synthray.label.softmax import SURE, Adam, Head, Loss, Rows


def problem(size: int = 60, width: int = 4, classes: int = 3, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, width))
    given = np.arange(size) % classes
    return Rows(centres[given] + random.normal(size=(size, width)), given, classes)


def head(size: int = 60, l2: float = 0.02, **others: Any) -> Head:
    rows = problem(size, **others)
    return Head(rows, np.random.default_rng(1).uniform(0.2, 2.0, size), l2)


def numeric(function: Any, shape: tuple[int, ...], at: np.ndarray) -> np.ndarray:
    return approx_fprime(at.ravel(), lambda flat: function(flat.reshape(shape)), 1e-6).reshape(shape)


def hessian(of: Head, at: np.ndarray) -> np.ndarray:
    """Return the whole Hessian, a column for each coefficient."""
    probabilities = of.rows.probabilities(at)
    units = np.eye(at.size).reshape(-1, *at.shape)
    return np.stack([of.hessian_product(probabilities, one).ravel() for one in units], axis=1)


def test_the_optimum_is_scikit_learns_with_weights() -> None:
    given = head()
    found = given.optimum()
    # Its penalty is on all but the intercept, ours on a column of ones too: so it gets such a column.
    inputs = np.hstack([given.rows.inputs, np.ones((60, 1))])
    theirs = LogisticRegression(C=1 / (given.l2 * 60), fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(inputs, given.rows.given, given.weights)
    np.testing.assert_allclose(found, theirs.coef_.T, atol=1e-5)
    np.testing.assert_allclose(given.rows.probabilities(found), theirs.predict_proba(inputs), atol=1e-5)


@pytest.mark.parametrize("l2", [1e-8, 1e3])
def test_the_optimum_is_found_for_any_penalty_and_from_far_away(l2: float) -> None:
    given = head(l2=l2)
    zero = np.zeros(given.rows.shape)
    at_zero = np.linalg.norm(given.gradient(zero, given.rows.probabilities(zero)))
    for start in (None, 50 * np.random.default_rng(4).normal(size=given.rows.shape)):
        found = given.optimum(start)
        assert np.linalg.norm(given.gradient(found, given.rows.probabilities(found))) <= 1e-8 * at_zero


def test_sparse_rows_are_the_same_as_dense_ones() -> None:
    given = head()
    sparse = Head(Rows(csr_array(given.rows.inputs), given.rows.given, 3), given.weights, given.l2)
    np.testing.assert_allclose(sparse.optimum(), given.optimum(), atol=1e-9)


def test_weights_count_as_copies_do() -> None:
    rows = problem(30)
    copies = np.arange(30) % 3
    repeated = rows.taken(np.repeat(np.arange(30), copies))
    weighted = Head(rows, copies / copies.mean(), 0.05).optimum()
    np.testing.assert_allclose(weighted, Head(repeated, np.ones(len(repeated)), 0.05).optimum(), atol=1e-7)


def test_gradient_and_hessian_are_those_of_finite_differences() -> None:
    given = head()
    at = np.random.default_rng(2).normal(size=given.rows.shape)
    probabilities = given.rows.probabilities(at)
    slope = numeric(lambda one: given.objective(one, given.rows.probabilities(one)), at.shape, at)
    np.testing.assert_allclose(given.gradient(at, probabilities), slope, atol=1e-5)
    direction = np.random.default_rng(3).normal(size=at.shape)
    ahead, behind = (at + sign * 1e-5 * direction for sign in (1, -1))
    difference = given.gradient(ahead, given.rows.probabilities(ahead))
    difference = difference - given.gradient(behind, given.rows.probabilities(behind))
    np.testing.assert_allclose(given.hessian_product(probabilities, direction), difference / 2e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["cross_entropy", "reverse_cross_entropy"])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_gradient_of_a_mean_loss_is_that_of_finite_differences(loss: Loss, classes: int) -> None:
    rows = problem(40, classes=classes)
    weights = np.random.default_rng(5).uniform(0, 2, 40)
    at = np.random.default_rng(2).normal(size=rows.shape)

    def mean(one: np.ndarray) -> float:
        return float(rows.losses(rows.probabilities(one), loss) @ weights / weights.sum())

    np.testing.assert_allclose(rows.gradient(at, loss, weights), numeric(mean, at.shape, at), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_reverse_cross_entropy_is_its_definition_for_any_number_of_classes(classes: int) -> None:
    rows = problem(21, classes=classes)
    probabilities = np.random.default_rng(6).dirichlet(np.ones(classes), 21)
    surely = np.exp(SURE * np.eye(classes)[rows.given])
    defined = -(probabilities * np.log(surely / surely.sum(axis=1, keepdims=True))).sum(axis=1)
    np.testing.assert_allclose(rows.losses(probabilities, "reverse_cross_entropy"), defined, rtol=1e-12)


def test_a_solution_is_that_of_the_whole_hessian_also_when_begun_elsewhere() -> None:
    given = head()
    at = given.optimum()
    right = np.random.default_rng(7).normal(size=at.shape)
    exact = np.linalg.solve(hessian(given, at), right.ravel()).reshape(at.shape)
    probabilities = given.rows.probabilities(at)
    np.testing.assert_allclose(given.solve(probabilities, right, 1e-12), exact, rtol=1e-8, atol=1e-9)
    begun = given.solve(probabilities, right, 1e-12, start=exact + 1)
    np.testing.assert_allclose(begun, exact, rtol=1e-8, atol=1e-9)
    rough = given.solve(probabilities, right, 1e-2)
    left = np.linalg.norm(given.hessian_product(probabilities, rough) - right)
    assert 1e-9 * np.linalg.norm(right) < left <= 1e-2 * np.linalg.norm(right)


@pytest.mark.parametrize("loss", ["cross_entropy", "reverse_cross_entropy"])
def test_influence_is_what_leaving_a_row_out_shows(loss: Loss) -> None:
    rows, others = problem(90), problem(300)
    rows.given[:12] = (rows.given[:12] + 1) % 3  # wrong labels
    ones = np.ones(90)
    whole = Head(rows, ones, 0.02)
    at = whole.optimum()
    influence = whole.influence(at, others.gradient(at, loss))

    def measured(coefficients: np.ndarray) -> float:
        return float(others.losses(others.probabilities(coefficients), loss).mean())

    left_out = [
        measured(Head(rows, ones - np.eye(90)[place], 0.02).optimum(at)) - measured(at) for place in range(90)
    ]
    assert np.corrcoef(-influence / 90, left_out)[0, 1] > 0.98
    assert np.polyfit(-influence / 90, left_out, 1)[0] == pytest.approx(1, abs=0.25), "the scale, too"
    clear = np.abs(influence) > np.quantile(np.abs(influence), 0.2)
    assert (np.sign(-influence) == np.sign(left_out))[clear].mean() > 0.97
    assert influence[:12].mean() > 0 > influence[12:].mean(), "wrong labels harm"


def test_epochs_come_near_the_optimum_and_the_seed_decides_them() -> None:
    given = head(600)
    epochs = list(given.epochs(60, seed=1))
    optimum = given.optimum()
    least = given.objective(optimum, given.rows.probabilities(optimum))
    losses = [given.objective(one, given.rows.probabilities(one)) for one in epochs]
    assert losses[0] > losses[5] > losses[-1] >= least
    assert losses[-1] == pytest.approx(least, rel=0.01)
    assert len({one.tobytes() for one in epochs}) == 60, "none is the array of another"
    np.testing.assert_array_equal(epochs[3], list(given.epochs(4, seed=1))[3])
    assert (epochs[3] != list(given.epochs(4, seed=2))[3]).any()


def test_the_first_step_of_adam_is_the_rate_whatever_the_gradient() -> None:
    held = Adam((3,), rate=0.1).step(np.zeros(3), np.array([1e-3, -5.0, 0.0]))
    np.testing.assert_allclose(held, [-0.1, 0.1, 0.0], atol=1e-5)


def test_a_sure_head_has_finite_losses() -> None:
    rows = Rows(np.array([[1e4], [-1e4]]), np.array([0, 0]), 2)
    probabilities = rows.probabilities(np.array([[1.0, -1.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(probabilities, [[1, 0], [0, 1]])
    assert np.isfinite(rows.losses(probabilities)).all()


def test_no_penalty_and_weights_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="l2 must be above 0, but is 0"):
        Head(problem(), np.ones(60), 0)
    with pytest.raises(ValueError, match="60 rows with 59 weights"):
        Head(problem(), np.ones(59), 1)


def test_a_system_that_is_too_hard_is_told() -> None:
    given = Head(Rows(1e6 * problem().inputs, problem().given, 3), np.ones(60), 1e-12)
    right = np.random.default_rng(7).normal(size=given.rows.shape)
    uniform = np.full((60, 3), 1 / 3)
    with pytest.raises(ArithmeticError, match="conjugate gradients left a residual"):
        given.solve(uniform, right, 1e-14)
