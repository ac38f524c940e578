"""The student learns labels from words, the same for the same rows and seed."""

from __future__ import annotations

import numpy as np
import pytest

from synthray.model.student import fit, probabilities

TEXTS = ["the cat sat", "a cat purred", "my cat ate", "the stock fell", "a stock rose", "my stock split"]
LABELS = ["pets"] * 3 + ["money"] * 3


def test_a_student_learns_what_words_tell_apart() -> None:
    student = fit(TEXTS, LABELS, 0)
    assert list(student.predict(["cat", "stock"])) == ["pets", "money"]


def test_words_of_one_letter_count_and_pairs_of_words_too() -> None:
    words = fit(TEXTS, LABELS, 0)[0].vocabulary_
    assert "a" in words
    assert "cat sat" in words


def test_probabilities_stand_in_the_order_of_the_classes_and_are_0_for_an_unseen_one() -> None:
    student = fit(TEXTS, LABELS, 0)
    found = probabilities(student, ["cat", "stock"], ["pets", "sports", "money"])
    assert found.dtype == np.float64
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(found[:, 1], 0)
    assert found[0, 0] > 0.5 > found[1, 0]


def test_the_same_rows_and_seed_give_the_same_student() -> None:
    one, other = (probabilities(fit(TEXTS, LABELS, 7), TEXTS, ["money", "pets"]) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_one_label_is_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match="2 classes"):
        fit(TEXTS, ["pets"] * 6, 0)
