"""Students learn labels from words or vectors, weighted and calibrated, the same for the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from synthray.model.student import Discriminant, Student, words

TEXTS = ["the cat sat", "a cat purred", "my cat ate", "the stock fell", "a stock rose", "my stock split"]
LABELS = ["pets"] * 3 + ["money"] * 3
KINDS = pytest.mark.parametrize("student", [Student("bayes"), Student("linear")], ids=["bayes", "linear"])


def crowd(size: int, wrong: float) -> tuple[list[str], list[str], list[str]]:
    """Return texts of three topics with given labels, a share of them wrong, and their true ones."""
    generator = np.random.default_rng(5)
    topics = {one: [f"{one}{number}" for number in range(30)] for one in ("art", "bio", "cars")}
    true = [list(topics)[number % 3] for number in range(size)]
    texts = [" ".join(generator.choice([*topics[one], *"nmopqrstuvwxyz"], 8)) for one in true]
    given = [
        one
        if generator.random() >= wrong
        else str(generator.choice([other for other in topics if other != one]))
        for one in true
    ]
    return texts, given, true


@KINDS
def test_a_student_learns_what_words_tell_apart(student: Student) -> None:
    assert student.fit(TEXTS, LABELS).predict(["cat", "stock"]) == ["pets", "money"]


def test_words_of_one_letter_count_and_pairs_of_words_too() -> None:
    vocabulary = words(TEXTS)[0].vocabulary_
    assert "a" in vocabulary
    assert "cat sat" in vocabulary


def test_letters_of_scripts_without_spaces_are_words() -> None:
    vocabulary = words(["猫が好き cat", "แมว"])[0].vocabulary_
    assert {"猫", "猫 が", "cat", "แ"} <= set(vocabulary)
    assert "猫が好き" not in vocabulary


def test_words_of_a_single_text_are_left_out_where_others_are_there() -> None:
    assert "purred" not in words(TEXTS, 2)[0].vocabulary_
    assert "the" in words(TEXTS, 2)[0].vocabulary_
    assert "purred" in words(["cat purred", "stock fell"], 2)[0].vocabulary_, "else there would be no word"


@KINDS
def test_probabilities_stand_in_the_order_of_the_classes_and_are_0_for_an_unseen_one(
    student: Student,
) -> None:
    found = student.fit(TEXTS, LABELS).probabilities(["cat", "stock"], ["pets", "sports", "money"])
    assert found.dtype == np.float64
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(found[:, 1], 0)
    assert found[0, 0] > 0.5 > found[1, 0]


@KINDS
def test_the_same_rows_give_the_same_student(student: Student) -> None:
    one, other = (student.fit(TEXTS, LABELS).probabilities(TEXTS, ["money", "pets"]) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@KINDS
def test_nothing_to_judge_is_an_empty_answer(student: Student) -> None:
    learned = student.fit(TEXTS, LABELS)
    assert learned.predict([]) == []
    assert learned.probabilities([], ["money", "pets"]).shape == (0, 2)


@KINDS
def test_a_weight_counts_as_so_many_copies_of_the_row(student: Student) -> None:
    _, given, _ = crowd(90, 0.2)
    weights = np.arange(90) % 3  # 0, 1 and 2 times
    code = np.unique(given, return_inverse=True)[1]
    vectors = np.random.default_rng(1).normal(size=(90, 4)) + np.eye(4)[code]
    again = np.repeat(np.arange(90), weights)
    classes = ["art", "bio", "cars"]
    weighted = student.fit(vectors, given, weights * 10.0).probabilities(vectors, classes)
    copied = student.fit(vectors[again], [given[row] for row in again]).probabilities(vectors, classes)
    unweighted = student.fit(vectors, given).probabilities(vectors, classes)
    # Not the same to the digit: what is shrunk or penalised depends on the number of rows.
    assert np.abs(weighted - copied).max() < 0.05
    assert np.abs(unweighted - copied).max() > 0.15


@KINDS
def test_rows_of_weight_0_are_as_if_not_there(student: Student) -> None:
    texts, given, _ = crowd(40, 0.0)
    weights = np.r_[np.ones(20), np.zeros(20)]
    one = student.fit(texts, [*given[:20], *["other"] * 20], weights)
    assert one.classes == ("art", "bio", "cars")
    expected = student.fit(texts[:20], given[:20]).probabilities(texts, one.classes)
    np.testing.assert_array_equal(one.probabilities(texts, one.classes), expected)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        Student().fit(TEXTS, LABELS, [1.0] * 5 + [weight])


@KINDS
def test_one_label_is_nothing_to_learn(student: Student) -> None:
    with pytest.raises(ValueError, match=r"needs 2 labels, but found \['pets'\]"):
        student.fit(TEXTS, ["pets"] * 6)
    with pytest.raises(ValueError, match=r"needs 2 labels, but found \['pets'\]"):
        student.fit(TEXTS, LABELS, [1.0] * 3 + [0.0] * 3)


@KINDS
def test_texts_without_a_word_are_refused_and_one_among_others_is_judged_by_the_classes_alone(
    student: Student,
) -> None:
    with pytest.raises(ValueError, match="empty vocabulary"):
        student.fit(["!", "?"], ["a", "b"])
    found = student.fit(TEXTS, LABELS).probabilities(["!!!"], ["money", "pets"])
    np.testing.assert_allclose(found, 0.5, atol=0.05)


def test_bayes_is_outvoted_less_by_wrong_labels_than_the_linear_one() -> None:
    texts, given, true = crowd(240, 0.4)
    right = {
        kind: np.mean(np.array(Student(kind).fit(texts, given).predict(texts)) == true)
        for kind in ("bayes", "linear")
    }
    assert right["bayes"] > right["linear"] + 0.05


@KINDS
def test_the_temperature_makes_probabilities_as_sure_as_they_are_right(student: Student) -> None:
    texts, given, _ = crowd(900, 0.3)
    held = np.arange(600) % 4 == 0
    raw, calibrated = student.fit(texts[:600], given[:600]), student.fit(texts[:600], given[:600], held=held)
    classes = raw.classes
    place = np.array([classes.index(one) for one in given[600:]])

    def surprise(learned: object) -> float:
        found = learned.probabilities(texts[600:], classes)  # type: ignore[attr-defined]
        return float(-np.log(np.maximum(found[np.arange(300), place], 1e-12)).mean())

    assert calibrated.temperature != 1.0
    assert surprise(calibrated) < surprise(raw)
    assert calibrated.predict(texts) == raw.predict(texts)


def test_a_temperature_without_anything_to_hold_out_is_1() -> None:
    none, every = np.zeros(6, bool), np.ones(6, bool)
    assert Student().fit(TEXTS, LABELS, held=none).temperature == 1.0
    assert Student().fit(TEXTS, LABELS, held=every).temperature == 1.0


def test_discriminants_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    labels = np.array(["a", "b", "c"])[generator.integers(0, 3, 3000)]
    vectors = generator.normal(size=(3000, 6)) @ (np.eye(6) + 0.3 * np.eye(6, k=1))
    vectors += np.eye(6)[:3][np.unique(labels, return_inverse=True)[1]]
    ours = Discriminant().fit(vectors, labels, np.ones(3000)).predict_proba(vectors)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(vectors, labels).predict_proba(vectors)
    np.testing.assert_allclose(ours, theirs, atol=0.02)  # shrunk a little
