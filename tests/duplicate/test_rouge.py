"""ROUGE-L is that of the longest common subsequence found by force, over the words of rouge_score."""

from __future__ import annotations

import functools
import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import synthray.duplicate.rouge as module
from synthray.duplicate.rouge import Lines, Nearest, Words, compared, rouge, worded


def table(texts: list[str | None]) -> pa.Table:
    return pa.table({"row_id": [f"r{n}" for n in range(len(texts))], "text": pa.array(texts, pa.string())})


def lines(texts: list[str | None]) -> Lines:
    held = Words((worded(table(texts), "text"),))
    return held.of(np.arange(len(held)))


def shares(ones: list[str | None], others: list[str | None]) -> list[list[float]]:
    return [line.tolist() for line in rouge(lines(ones), lines(others))]


def tokens(text: str) -> list[str]:
    """The tokeniser of rouge_score without stemming, as its documentation states it."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def rouge_by_force(one: list[str], other: list[str]) -> Fraction:
    """F1 of precision and recall of the longest common subsequence, by its recursive definition."""

    @functools.cache
    def longest(left: int, right: int) -> int:
        if not left or not right:
            return 0
        if one[left - 1] == other[right - 1]:
            return longest(left - 1, right - 1) + 1
        return max(longest(left - 1, right), longest(left, right - 1))

    common = longest(len(one), len(other))
    if not common:
        return Fraction(0)
    precision, recall = Fraction(common, len(one)), Fraction(common, len(other))
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        # Lin (2004), section 3: S1 "police killed the gunman", S2 "police kill the gunman",
        # S3 "the gunman kill police": ROUGE-L of S2 is 3/4 and of S3 2/4.
        ("police killed the gunman", "police kill the gunman", 3 / 4),
        ("police killed the gunman", "the gunman kill police", 2 / 4),
        ("a b c d e f g", "a b c d e f g h i j k l m", 14 / 20),
        ("Write a poem.", "write A POEM!", 1.0),
        ("a b", "b a", 0.5),
        ("a b c", "d e f", 0.0),
        ("", "a", 0.0),
        ("", "", 0.0),
        ("!?", "...", 0.0),
        ("snake_case it", "snake case it", 1.0),
    ],
)
def test_known_values(one: str, other: str, share: float) -> None:
    assert shares([one], [other]) == [[share]]
    assert shares([other], [one]) == [[share]], "F1 has no direction"


@pytest.mark.parametrize("longest", [8, 30, 80])
def test_it_is_what_the_definition_says_by_force(longest: int) -> None:
    generator = random.Random(longest)
    words = ["the", "a", "Of", "poem", "write", "Don't", "e-mail", "x_1", "2024", "U.S.", "list", "(ten)"]
    texts = [
        " ".join(generator.choices(words, k=generator.randrange(longest))) for _ in range(1_000 // longest)
    ]
    found = shares([*texts[:20]], [*texts])
    for one, line in zip(texts[:20], found, strict=True):
        assert line == [float(rouge_by_force(tokens(one), tokens(other))) for other in texts]


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        pytest.param("ein Straßenfest für uns", "EIN straßenfest für alle", 3 / 4, id="umlauts"),
        pytest.param("你好世界", "你好吗", 4 / 7, id="a letter is a word"),
        pytest.param("привет мир", "Привет, друг", 1 / 2, id="Cyrillic"),
        pytest.param("hi \U0001f600 there", "hi there", 1.0, id="emoji"),
    ],
)
def test_letters_of_other_scripts_are_words(one: str, other: str, share: float) -> None:
    assert shares([one], [other]) == [[share]]


def test_a_missing_text_has_no_words_and_an_empty_one_none() -> None:
    held = worded(table(["a", None, "", "b c"]), "text")
    assert held["row_id"].to_pylist() == ["r0", "r2", "r3"]
    assert [len(one) for one in held["words"].to_pylist()] == [1, 0, 2]
    assert len(worded(table([]), "text")) == len(worded(table([None]), "text")) == 0
    nothing = pa.table({"row_id": pa.array([], pa.string()), "text": pa.array([], pa.null())})
    assert worded(nothing, "text").schema == held.schema


def test_texts_are_read_by_number_from_several_files(tmp_path: Path) -> None:
    texts = [f"{'a ' * size}b{size}" for size in range(9)]
    files = []
    for place, part in enumerate((texts[:2], texts[2:2], texts[2:])):
        files.append(str(tmp_path / f"{place}.arrow"))
        held = worded(table([*part]), "text")
        with pa.OSFile(files[-1], "wb") as file, pa.ipc.new_file(file, held.schema) as writer:
            writer.write_table(held)
    numbers = np.array([8, 0, 3, 3, 1])
    found = Words(tuple(files)).of(numbers)
    expected = lines([texts[number] for number in numbers])
    assert found.sizes.tolist() == (numbers + 1).tolist()
    assert found.hashes.tolist() == expected.hashes.tolist()
    assert len(Words(tuple(files)).of(numbers[:0])) == 0


@pytest.mark.parametrize("characters", [0x110000, 3])
def test_a_vocabulary_larger_than_unicode_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    monkeypatch.setattr(module, "_CHARACTERS", characters)
    assert shares(["a b c d e", "x"], ["a c e", "y x", ""]) == [[0.75, 0, 0], [0, 2 / 3, 0]]


def test_a_vocabulary_with_the_surrogates_of_unicode_is_told_apart() -> None:
    # The 55,297th word and more have numbers that are no characters by themselves.
    many = " ".join(map("w{}".format, range(57_500)))
    ones, others = lines([many]), lines([many, "w0 w57499"])
    codes = ones.spelled(np.unique(ones.hashes))
    assert len(set(codes[0])) == 57_500
    (line,) = rouge(ones, others)
    assert line.tolist()[0] == 1.0
    assert line[1] == 2 * 2 / 57_502


def test_the_nearest_are_those_of_sorting_whatever_is_compared_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = random.Random(2)
    texts: list[str | None] = [" ".join(generator.choices("abcdefgh", k=5)) for _ in range(200)]
    held = Words((worded(table(texts), "text"),))
    rows, kept, block = np.arange(5), np.arange(10, 200)[::-1], np.arange(3)
    expected = None
    for choices in (1 << 16, 7, 1):
        monkeypatch.setattr(module, "_CHOICES", choices)
        nearest, beside = compared(held, rows, kept, block, 4)
        for row, one in zip(rows, nearest, strict=True):
            every = shares([texts[row]], [texts[number] for number in kept])[0]
            order = sorted(
                (place for place in range(len(every)) if every[place]), key=lambda p: (-every[p], p)
            )
            assert one.places.tolist() == order[:4], "the earlier of two that are as near"
            assert one.shares.tolist() == [every[place] for place in order[:4]]
            assert one.total == pytest.approx(sum(every), abs=1e-9)
        assert beside.tolist() == shares(texts[:5], texts[:3])
        expected = expected or [one.places.tolist() for one in nearest]
        assert [one.places.tolist() for one in nearest] == expected


def test_one_that_shares_nothing_is_never_among_the_nearest() -> None:
    near = Nearest.none().and_more(np.arange(4), np.array([0.0, 0.5, 0.0, 0.1]), 3)
    assert (near.places.tolist(), near.total) == ([1, 3], 0.6)
    more = near.and_more(np.array([4, 5]), np.array([0.5, 0.0]), 3)
    assert more.places.tolist() == [1, 4, 3]
