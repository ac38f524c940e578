"""The small models that learn labels from texts or vectors: features, then a head that is linear in them.

Naive Bayes is the one that judges labels: it counts, so that a wrong label among many right ones is outvoted
where logistic regression bends to fit it, and it learns 2 to 28 times as fast (benchmarks/labels.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

Kind = Literal["bayes", "linear"]
Inputs = Sequence[str] | np.ndarray
"""Texts, or an (n, d) array of vectors."""

_TINY = 1e-300
_LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Thai, Lao, Burmese, Khmer, kana, Han: without spaces, each letter counts as a word."""

_WORD = rf"(?u)[{_LETTERS}]|[^\W{_LETTERS}]+"


@dataclass(frozen=True)
class Student:
    """What learns: TF-IDF of words and pairs of words (or vectors as they are) and a head, by `kind`.

    `bayes` is multinomial naive Bayes, for vectors linear discriminants (classes are normal with one
    covariance); it leaves out words of a single text. `linear` is logistic regression with C=10.
    """

    kind: Kind = "linear"
    seed: int = 0

    def fit(
        self,
        inputs: Inputs,
        labels: Sequence[str],
        weights: Sequence[float] | np.ndarray | None = None,
        held: np.ndarray | None = None,
    ) -> Learned:
        """Return what is learned from n inputs with their labels and weights (1 each unless given).

        `held` marks inputs that are first held out, to find the temperature at which the probabilities of the
        others' student fit them best (Guo et al. 2017); then all are learned from. Rows of weight 0 are as
        if not there. Raises ValueError for fewer than two labels with weight.
        """
        given = np.asarray(labels, dtype=object)
        weight = np.ones(len(given)) if weights is None else np.asarray(weights, dtype=np.float64)
        if not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError("weights must be finite and not negative")
        rows = np.flatnonzero(weight > 0)
        if len(set(given[rows])) < 2:
            raise ValueError(f"a student needs 2 labels, but found {sorted(set(given[rows]))}")
        learned = self._fit(_taken(inputs, rows), given[rows], weight[rows])
        if held is None:
            return learned
        return replace(learned, temperature=self._temperature(inputs, given, weight, held))

    def _fit(self, inputs: Inputs, labels: Any, weights: Any) -> Learned:
        # Weights say how much a row counts beside others, not how much all of them do beside the prior.
        weights = weights / weights.mean()
        if isinstance(inputs, np.ndarray):
            head: Any = Discriminant() if self.kind == "bayes" else LogisticRegression(C=10.0, max_iter=1000)
            return Learned(None, head.fit(inputs, labels, weights))
        features, counted = words(inputs, 2 if self.kind == "bayes" else 1)
        # 0.1: rare words may speak, as in the baselines; it is not tuned on any of the sets reported.
        head = MultinomialNB(alpha=0.1) if self.kind == "bayes" else self._logistic()
        return Learned(features, head.fit(counted, labels, weights))

    def _logistic(self) -> LogisticRegression:
        return LogisticRegression(C=10.0, max_iter=1000, random_state=self.seed)

    def _temperature(self, inputs: Inputs, labels: Any, weights: Any, held: np.ndarray) -> float:
        seen = np.flatnonzero(~held & (weights > 0))
        known = set(labels[seen])
        judged = np.flatnonzero(
            held & (weights > 0) & np.fromiter((one in known for one in labels), bool, len(labels))
        )
        if len(known) < 2 or not len(judged):
            return 1.0
        trial = self._fit(_taken(inputs, seen), labels[seen], weights[seen])
        scores = trial.scores(_taken(inputs, judged))
        place = {label: column for column, label in enumerate(trial.classes)}
        columns = np.array([place[label] for label in labels[judged]])

        def surprise(logarithm: float) -> float:
            found = log_softmax(scores / np.exp(logarithm), axis=1)[np.arange(len(judged)), columns]
            return float(-(found * weights[judged]).sum())

        return float(np.exp(minimize_scalar(surprise, bounds=(-3.0, 3.0), method="bounded").x))


@dataclass(frozen=True)
class Learned:
    """A fitted student: `features` (None for vectors), a `head` of scikit-learn's form, a temperature."""

    features: TfidfVectorizer | None
    head: Any
    temperature: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that it knows, sorted."""
        return tuple(str(label) for label in self.head.classes_)

    def scores(self, inputs: Inputs) -> np.ndarray:
        """Return the (n, K) log-probabilities in the order of `classes`, before the temperature."""
        if self.features is not None:
            inputs = self.features.transform(inputs)
        found: np.ndarray = np.log(np.maximum(self.head.predict_proba(inputs), _TINY))
        return found

    def probabilities(self, inputs: Inputs, classes: Sequence[str]) -> np.ndarray:
        """Return an (n, K) float64 array in the order of `classes`; 0 for a class the student never saw."""
        result = np.zeros((len(inputs), len(classes)))
        if len(inputs):
            place = {label: column for column, label in enumerate(classes)}
            result[:, [place[label] for label in self.classes]] = softmax(
                self.scores(inputs) / self.temperature, axis=1
            )
        return result

    def predict(self, inputs: Inputs) -> list[str]:
        """Return the likeliest label of each input."""
        if not len(inputs):
            return []
        return [self.classes[column] for column in self.scores(inputs).argmax(axis=1)]


class Discriminant:
    """Linear discriminant analysis with weights; the covariance is shrunk as Ledoit and Wolf (2004) do."""

    def fit(self, vectors: np.ndarray, labels: Any, weights: Any) -> Discriminant:
        """Learn the means of the classes and the covariance that they share."""
        from sklearn.covariance import ledoit_wolf

        vectors = np.asarray(vectors, dtype=np.float64)
        self.classes_, code = np.unique(labels.astype(str), return_inverse=True)
        total = np.bincount(code, weights)
        means = np.stack(
            [np.average(vectors[code == k], axis=0, weights=weights[code == k]) for k in range(len(total))]
        )
        spread = (vectors - means[code]) * np.sqrt(weights / weights.mean())[:, None]
        covariance, _ = ledoit_wolf(spread, assume_centered=True)
        self.coef_ = np.linalg.solve(covariance + 1e-9 * np.eye(len(covariance)), means.T)
        self.intercept_ = np.log(total / total.sum()) - 0.5 * (means * self.coef_.T).sum(axis=1)
        return self

    def predict_proba(self, vectors: np.ndarray) -> np.ndarray:
        """Return the (n, K) probabilities of the classes."""
        found: np.ndarray = softmax(
            np.asarray(vectors, dtype=np.float64) @ self.coef_ + self.intercept_, axis=1
        )
        return found


def words(texts: Sequence[str], least: int = 1) -> tuple[TfidfVectorizer, Any]:
    """Return fitted features, words and pairs of them in at least `least` texts, and the (n, d) CSR of these.

    Where no word is in so many texts, all words count. Raises ValueError when there is no word at all.
    """
    for least_texts in (least, 1):
        features = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD, min_df=least_texts
        )
        try:
            return features, features.fit_transform(list(texts))
        except ValueError:
            if least_texts == 1:
                raise
    raise AssertionError("unreachable")


def _taken(inputs: Inputs, rows: np.ndarray) -> Inputs:
    if isinstance(inputs, np.ndarray):
        taken: np.ndarray = inputs[rows]
        return taken
    return [inputs[row] for row in rows]
