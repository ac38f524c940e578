"""A softmax (multinomial logistic) head: what it learns from weighted rows, and what each row did to it.

Its loss is strictly convex, so that the optimum is one, and what a row's weight changes in it is exact: the
implicit function theorem gives -H^-1 g for a row with gradient g (Cook and Weisberg 1982; Koh and Liang 2017,
arXiv 1703.04730), and conjugate gradients give H^-1 times a vector without H ever being made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]
Loss = Literal["cross_entropy", "reverse_cross_entropy"]

SURE = 10.0
"""What reverse cross-entropy takes a given label for: softmax of 10 at the label and 0 elsewhere (SunGen)."""

BATCH = 256
"""Rows of a step of Adam."""

_NEWTON_STEPS = 100
_CONJUGATE_STEPS = 1_000
_HALVINGS = 40
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


@dataclass(frozen=True)
class Rows:
    """What a head is learned from or measured on: `inputs` (n, d), CSR or dense, finite; classes 0 to K-1.

    Its coefficients W are (d + 1, K), float64; the last line is the bias, the input of which is 1.
    """

    inputs: Any
    given: Numbers
    classes: int

    def __len__(self) -> int:
        return len(self.given)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the coefficients."""
        return self.inputs.shape[1] + 1, self.classes

    @cached_property
    def _turned(self) -> Any:
        return self.inputs.T

    def taken(self, places: Numbers) -> Rows:
        """Return some of the rows."""
        return Rows(self.inputs[places], self.given[places], self.classes)

    def scores(self, coefficients: Numbers) -> Numbers:
        """Return the (n, K) logits."""
        found: Numbers = self.inputs @ coefficients[:-1] + coefficients[-1]
        return found

    def probabilities(self, coefficients: Numbers) -> Numbers:
        """Return the (n, K) probabilities."""
        found = self.scores(coefficients)
        found -= found.max(axis=1, keepdims=True)
        np.exp(found, out=found)
        found /= found.sum(axis=1, keepdims=True)
        return found

    def gathered(self, by_row: Numbers) -> Numbers:
        """Return the sum over rows of input times its line of `by_row` (n, K), in the shape of W."""
        return np.vstack([self._turned @ by_row, by_row.sum(axis=0)])

    def errors(self, probabilities: Numbers) -> Numbers:
        """Return the gradient of each row's cross-entropy by its logits: p - y."""
        found = probabilities.copy()
        found[np.arange(len(self)), self.given] -= 1
        return found

    def losses(self, probabilities: Numbers, loss: Loss = "cross_entropy") -> Numbers:
        """Return each row's loss.

        Reverse cross-entropy is -sum_k p_k log q_k with q = softmax(SURE at the given class, 0 elsewhere), so
        for any number of classes log(e^SURE + K - 1) - SURE p_y: a wrong row costs at most SURE, however sure
        the head is, where cross-entropy has no bound.
        """
        own = probabilities[np.arange(len(self)), self.given]
        if loss == "cross_entropy":
            found: Numbers = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
            return found
        reverse: Numbers = np.log(np.exp(SURE) + self.classes - 1) - SURE * own
        return reverse

    def slopes(self, probabilities: Numbers, loss: Loss = "cross_entropy") -> Numbers:
        """Return the (n, K) gradient of each row's loss by its logits."""
        errors = self.errors(probabilities)
        if loss == "cross_entropy":
            return errors
        own = probabilities[np.arange(len(self)), self.given]
        return SURE * own[:, None] * errors

    def gradient(self, coefficients: Numbers, loss: Loss = "cross_entropy", weights: Any = None) -> Numbers:
        """Return the gradient of the weighted mean of the rows' losses; 1 each unless weights are given."""
        share = np.full(len(self), 1.0) if weights is None else np.asarray(weights, np.float64)
        slopes = self.slopes(self.probabilities(coefficients), loss)
        return self.gathered(slopes * (share / share.sum())[:, None])


@dataclass(frozen=True)
class Head:
    """A head to be learned: the least of sum_i w_i CE_i / n + l2 / 2 |W|^2 over `rows` with their weights.

    The bias counts to |W|, so that the Hessian is definite. The sum is divided by the number of rows, not by
    that of the weights: weights whose mean is 1 leave l2 what it is without any.
    """

    rows: Rows
    weights: Numbers
    l2: float

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise ValueError(f"l2 must be above 0, but is {self.l2}")
        if len(self.weights) != len(self.rows) or not len(self.rows):
            raise ValueError(f"{len(self.rows)} rows with {len(self.weights)} weights")

    @property
    def _share(self) -> Numbers:
        return (self.weights / len(self.rows))[:, None]

    def objective(self, coefficients: Numbers, probabilities: Numbers) -> float:
        """Return what is least at the optimum; `probabilities` are those of the coefficients."""
        losses = self.rows.losses(probabilities)
        return float(self._share[:, 0] @ losses + self.l2 / 2 * np.vdot(coefficients, coefficients))

    def gradient(self, coefficients: Numbers, probabilities: Numbers) -> Numbers:
        """Return the gradient of the objective."""
        return self.rows.gathered(self._share * self.rows.errors(probabilities)) + self.l2 * coefficients

    def hessian_product(self, probabilities: Numbers, direction: Numbers) -> Numbers:
        """Return the Hessian of the objective, where the probabilities are these, times a direction."""
        moved = probabilities * self.rows.scores(direction)
        moved -= probabilities * moved.sum(axis=1, keepdims=True)
        moved *= self._share
        return self.rows.gathered(moved) + self.l2 * direction

    def solve(
        self,
        probabilities: Numbers,
        right: Numbers,
        tolerance: float = 1e-8,
        start: Numbers | None = None,
    ) -> Numbers:
        """Return V with H V = right, by conjugate gradients until |H V - right| <= tolerance |right|.

        They begin at `start` (zeros). Raises ArithmeticError when a thousand steps do not reach it.
        """
        found = np.zeros_like(right) if start is None else start.copy()
        residual = right.copy() if start is None else right - self.hessian_product(probabilities, found)
        direction = residual.copy()
        square = float(np.vdot(residual, residual))
        enough = tolerance**2 * float(np.vdot(right, right))
        for _ in range(_CONJUGATE_STEPS):
            if square <= enough:
                return found
            product = self.hessian_product(probabilities, direction)
            step = square / float(np.vdot(direction, product))
            found += step * direction
            residual -= step * product
            before, square = square, float(np.vdot(residual, residual))
            direction *= square / before
            direction += residual
        raise ArithmeticError(
            f"conjugate gradients left a residual of {np.sqrt(square):.1e}, more than {np.sqrt(enough):.1e}, "
            f"after {_CONJUGATE_STEPS} steps; raise l2 ({self.l2})"
        )

    def optimum(self, start: Numbers | None = None, tolerance: float = 1e-8) -> Numbers:
        """Return the coefficients of least objective, from `start` (zeros), by Newton's method.

        Its gradient is then at most `tolerance` times that at zero. Raises ArithmeticError when it is not.
        """
        zero = np.zeros(self.rows.shape)
        uniform = np.full((len(self.rows), self.rows.classes), 1 / self.rows.classes)
        enough = tolerance * np.linalg.norm(self.gradient(zero, uniform))
        held = zero if start is None else start
        probabilities = self.rows.probabilities(held)
        for _ in range(_NEWTON_STEPS):
            gradient = self.gradient(held, probabilities)
            size = float(np.linalg.norm(gradient))
            if size <= enough:
                return held
            # Far from the optimum a rough step is as good; near it the step must be as exact as what is left.
            step = self.solve(probabilities, -gradient, max(min(0.1, np.sqrt(size)), 0.1 * enough / size))
            held, probabilities = self._moved(held, probabilities, step, float(np.vdot(gradient, step)))
        raise ArithmeticError(
            f"the head did not converge in {_NEWTON_STEPS} steps: its gradient is {size:.1e}, "
            f"above {enough:.1e}; raise l2 ({self.l2})"
        )

    def _moved(
        self, held: Numbers, probabilities: Numbers, step: Numbers, slope: float
    ) -> tuple[Numbers, Numbers]:
        """Go along a step as far as the objective falls."""
        before = self.objective(held, probabilities)
        length = 1.0
        for _ in range(_HALVINGS):
            there = held + length * step
            found = self.rows.probabilities(there)
            # Near the optimum what the objective falls by is less than its last digit.
            if self.objective(there, found) <= before + 1e-4 * length * slope + 1e-14 * abs(before):
                return there, found
            length /= 2
        raise ArithmeticError("the head did not converge: no step lowers its loss")

    def epochs(self, epochs: int, seed: int) -> Iterator[Numbers]:
        """Yield the coefficients after each epoch of Adam over batches of 256 rows.

        From zeros; the order of the rows is drawn by the seed, anew for each epoch. The same rows in the same
        order give the same.
        """
        random = np.random.default_rng(seed)
        held, adam = np.zeros(self.rows.shape), Adam(self.rows.shape)
        for _ in range(epochs):
            order = random.permutation(len(self.rows))
            for start in range(0, len(order), BATCH):
                places = np.sort(order[start : start + BATCH])
                batch = Head(self.rows.taken(places), self.weights[places], self.l2)
                held = adam.step(held, batch.gradient(held, batch.rows.probabilities(held)))
            yield held

    def influence(self, coefficients: Numbers, gradient: Numbers, tolerance: float = 1e-8) -> Numbers:
        """Return what each row's weight does to a loss with this gradient at the optimum, times n.

        That is -g_i . H^-1 gradient: below 0 more of the row lowers the loss, above 0 it harms; a row of
        weight 1 that is left out changes the loss by about -influence / n. n is the number of rows.
        """
        probabilities = self.rows.probabilities(coefficients)
        solved = self.solve(probabilities, gradient, tolerance)
        found: Numbers = -(self.rows.errors(probabilities) * self.rows.scores(solved)).sum(axis=1)
        return found


class Adam:
    """Steps of a size that each coefficient's own gradients decide (Kingma and Ba 2015, arXiv 1412.6980)."""

    def __init__(self, shape: tuple[int, ...], rate: float = 0.05) -> None:
        self.rate = rate
        self._first, self._second = np.zeros(shape), np.zeros(shape)
        self._steps = 0

    def step(self, held: Numbers, gradient: Numbers) -> Numbers:
        """Return new coefficients."""
        self._steps += 1
        self._first += (1 - _BETAS[0]) * (gradient - self._first)
        self._second += (1 - _BETAS[1]) * (gradient * gradient - self._second)
        spread = np.sqrt(self._second / (1 - _BETAS[1] ** self._steps)) + _EPSILON
        return held - self.rate / (1 - _BETAS[0] ** self._steps) * self._first / spread
