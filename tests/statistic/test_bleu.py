"""Self-BLEU is NLTK's, text by text."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from synthray.statistic.bleu import self_bleu


def by_nltk(texts: Sequence[Sequence[str]], order: int = 4) -> list[float]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth, weights = SmoothingFunction(epsilon=0.1).method1, [1 / order] * order
    return [
        sentence_bleu([*texts[:at], *texts[at + 1 :]], text, weights, smoothing_function=smooth)
        for at, text in enumerate(texts)
    ]


def drawn(seed: int, size: int, vocabulary: int, low: int, high: int) -> list[list[str]]:
    generator = random.Random(seed)
    return [
        [f"w{generator.randrange(vocabulary)}" for _ in range(generator.randint(low, high))]
        for _ in range(size)
    ]


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(drawn(1, 40, 12, 1, 30), id="few words"),
        pytest.param(drawn(2, 40, 300, 5, 40), id="many words"),
        pytest.param(drawn(3, 25, 3, 1, 6), id="short"),
        pytest.param(drawn(4, 12, 5, 4, 9) * 2, id="each twice"),
        pytest.param([["a", "a", "a", "a", "a"]] * 3, id="one word again and again"),
        pytest.param([["a"] * number for number in range(1, 12)], id="lengths apart"),
        pytest.param([["a", "b"], ["c", "d"]], id="nothing in common"),
        pytest.param([["a", "b", "c"], ["a"]], id="two"),
    ],
)
@pytest.mark.parametrize("order", [2, 4])
def test_self_bleu_is_nltks(texts: list[list[str]], order: int) -> None:
    assert self_bleu(texts, order).tolist() == pytest.approx(by_nltk(texts, order), abs=1e-9)


def test_texts_without_words_say_nothing_that_others_say() -> None:
    texts = [["a", "b"], [], ["a", "b"], []]
    found = self_bleu(texts).tolist()
    assert found[1] == found[3] == 0
    assert found[0] == pytest.approx(by_nltk(texts)[0])
    assert self_bleu([[], []]).tolist() == [0, 0]


@pytest.mark.parametrize("texts", [[], [["a", "b"]]])
def test_there_must_be_others(texts: list[list[str]]) -> None:
    assert not len(self_bleu(texts))


def test_the_order_of_the_texts_does_not_matter() -> None:
    texts = drawn(5, 30, 9, 2, 12)
    assert self_bleu(texts[::-1])[::-1].tolist() == pytest.approx(self_bleu(texts).tolist(), abs=1e-12)
