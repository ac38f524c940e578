"""Diversity is counted as its definitions say, and Self-BLEU is NLTK's."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pytest

from synthray.errors import InputError
from synthray.evaluate.diversity import Diversity, self_bleu, words
from synthray.operator import Context

OPERATOR = Diversity(text="text")


def measured(
    texts: Sequence[str | None], operator: Diversity = OPERATOR
) -> dict[str, tuple[float | None, int]]:
    ids = [f"row{number:04}" for number in range(len(texts))]
    table = pa.table({"row_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})
    out = operator(table).to_pylist()
    assert {(row["ci_low"], row["ci_high"], row["slice"]) for row in out} == {(None, None, None)}
    return {row["metric"]: (row["value"], row["n"]) for row in out}


def by_nltk(texts: Sequence[Sequence[str]]) -> list[float]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction(epsilon=0.1).method1
    return [
        sentence_bleu([*texts[:at], *texts[at + 1 :]], text, smoothing_function=smooth)
        for at, text in enumerate(texts)
    ]


def drawn(seed: int, size: int, vocabulary: int, low: int, high: int) -> list[list[str]]:
    generator = random.Random(seed)
    return [
        [f"w{generator.randrange(vocabulary)}" for _ in range(generator.randint(low, high))]
        for _ in range(size)
    ]


def test_ratios_are_those_counted_by_hand() -> None:
    # Words: a b a | a b | a b (again): 7, of which 2 kinds. Pairs: ab ba ab ab: 4, 2 kinds. Triples: aba.
    found = measured(["a b a", "A  b", "A  b", None])
    assert found["distinct_1"] == (pytest.approx(2 / 7), 7)
    assert found["distinct_2"] == (pytest.approx(2 / 4), 4)
    assert found["distinct_3"] == (1.0, 1)
    assert found["vocabulary"] == (2, 7)
    assert found["duplicates"] == (pytest.approx(1 / 3), 3)
    assert found["mean_words"] == (pytest.approx(7 / 3), 3)
    assert found["self_bleu"][1] == 3


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
    ],
)
def test_self_bleu_is_nltks(texts: list[list[str]]) -> None:
    assert self_bleu(texts) == pytest.approx(by_nltk(texts), abs=1e-9)


def test_self_bleu_is_the_mean_over_the_texts() -> None:
    texts = drawn(5, 20, 10, 4, 12)
    value, size = measured([" ".join(text).upper() for text in texts])["self_bleu"]
    scores = by_nltk(texts)
    assert (value, size) == (pytest.approx(sum(scores) / 20, abs=1e-9), 20)


def test_the_same_text_again_and_again_is_not_varied_at_all() -> None:
    found = measured(["one two three four five"] * 10)
    assert found["self_bleu"][0] == pytest.approx(1)
    assert found["duplicates"][0] == 0.9
    assert found["distinct_3"][0] == pytest.approx(0.1)


def test_the_sample_is_drawn_by_the_seed_and_not_by_the_order_of_rows() -> None:
    texts = [" ".join(text) for text in drawn(6, 60, 8, 3, 9)]
    small = replace(OPERATOR, sample=15)
    table = pa.table({"row_id": [f"row{n}" for n in range(60)], "text": texts})

    def value(operator: Diversity, rows: pa.Table) -> float:
        row = next(row for row in operator(rows).to_pylist() if row["metric"] == "self_bleu")
        assert row["n"] == 15
        return float(row["value"])

    first = value(small, table)
    assert value(small, table.take(list(range(60))[::-1])) == pytest.approx(first, abs=1e-12)
    assert value(replace(small, context=Context(seed=1)), table) != first


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param(
            [],
            {"duplicates": (None, 0), "mean_words": (None, 0), "self_bleu": (None, 0)},
            id="no rows",
        ),
        pytest.param(
            [None, None],
            {"duplicates": (None, 0), "mean_words": (None, 0), "self_bleu": (None, 0)},
            id="nulls",
        ),
        pytest.param(
            ["one two"],
            {
                "distinct_1": (1, 2),
                "distinct_2": (1, 1),
                "duplicates": (0, 1),
                "mean_words": (2, 1),
                "self_bleu": (None, 0),
                "vocabulary": (2, 2),
            },
            id="one row",
        ),
        pytest.param(
            ["", " "],
            {"duplicates": (0, 2), "mean_words": (0, 2), "self_bleu": (0, 2)},
            id="no words",
        ),
    ],
)
def test_what_cannot_be_measured_is_null_and_never_nan(
    texts: list[str | None], expected: dict[str, tuple[float | None, int]]
) -> None:
    found = measured(texts)
    assert found == expected
    assert not any(value is not None and math.isnan(value) for value, _ in found.values())


def test_words_are_split_in_python_as_in_sql() -> None:
    texts = ["One\u00a0two three", "x\u3000y", "a\tb\nc\rd\fe", " \u2003lead", "v\x0bt", "f\x1cs ÄÖ"]
    assert measured(texts)["mean_words"][0] == sum(len(words(text)) for text in texts) / len(texts)
    assert words(texts[-1]) == ["f\x1cs", "äö"]


def test_only_text_is_measured() -> None:
    assert OPERATOR.reads == ("text",)
    with pytest.raises(InputError, match="column 'text' must hold text, but is double"):
        OPERATOR.check(pa.schema([("text", pa.float64())]))


def test_the_sql_counts_for_the_fingerprint() -> None:
    (path,) = OPERATOR.files()
    assert "distinct_" in path.read_text()
