"""A final answer is found where people put it, and equal answers are equal however they are written."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from synthray.final_answer import Kind, final, same, value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("First 3, then 4 and last 18 eggs.", "18"),
        ("9 * 2 = $<<9*2=18>>18\n#### 18", "18"),
        ("#### 1,234,567 dollars in 3 days", "1234567"),
        (r"So \boxed{\frac{3}{6}} of 9", "0.5"),
        (r"\boxed{1} no, \boxed{1{,}000}", "1000"),
        (r"\boxed{x = \text{about }7}", "7"),
        ("The answer is $1,200.50, not 7.", "1200.5"),
        ("The answer is 5.\nThe answer is: 6 of 9", "6"),
        ("A: 26", "26"),
        ("10-5", "5"),
        ("x = -5", "-5"),
        ("it is \u22121.5e3", "-1500"),
        ("1/3 of it", "1/3"),
        (".5", "0.5"),
        ("1,2,3", "3"),
        ("12.0", "12"),
        ("50 percent", "50%"),
        (r"\boxed{10\%}", "10%"),
        ("7\u00a0% of", "7%"),
        ("1/0", None),
        ("H2O", None),
        ("none", None),
        ("", None),
        ("9" * 5000, None),
        (r"\boxed{unclosed 7", "7"),
    ],
)
def test_a_number_is_found_and_brought_to_one_form(text: str, found: str | None) -> None:
    assert final(text, "numeric") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is (C).", "C"),
        ("Answer: D. foo (A)", "D"),
        ("(A) is wrong, so (B)", "B"),
        ("c.", "C"),
        ("**B**", "B"),
        ("A) red\nB) blue", "B"),
        (r"\boxed{\text{E}}", "E"),
        ("A dog and I", None),
        ("", None),
    ],
)
def test_a_choice_is_a_letter_and_not_an_article(text: str, found: str | None) -> None:
    assert final(text, "choice") == found


def test_a_text_loses_what_does_not_count() -> None:
    assert final("Long thought.\nThe final answer is: **Straße  1**.", "exact") == "strasse 1"
    assert final(" “Paris.” ", "exact") == final("paris", "exact") == "paris"
    assert final(" . ", "exact") is None


def test_numbers_are_equal_by_value_and_a_percent_is_a_hundredth_or_itself() -> None:
    assert same("0.5", "50%", "numeric")
    assert same("50", "50%", "numeric")
    assert not same("0.5", "50", "numeric")
    assert not same("5%", "50%", "numeric")
    assert not same("1/3", "0.333", "numeric")
    assert same("1/3", "0.333", "numeric", 1e-2)
    assert not same("0", "0.001", "numeric", 1e-2)
    assert not same(None, None, "exact")


@pytest.mark.parametrize(
    "number", ["0.1", "-3", "123456789.000001", "1/3", "1e-300", "1e300", "7e-9", "22/7"]
)
def test_the_form_of_a_number_is_exact(number: str) -> None:
    form = final(number, "numeric")
    assert form is not None
    assert value(form) == Fraction(number)
    assert final(form, "numeric") == form


@pytest.mark.parametrize("kind", ["numeric", "exact", "choice"])
def test_any_text_has_an_answer_or_none(kind: Kind) -> None:
    for text in (
        "\\boxed{" * 3000,
        "####" * 3000,
        "answer is " * 3000,
        "1/" * 3000,
        "(A" * 3000,
        "\ud800",
        "1e9" * 500,
    ):
        final(text, kind)


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_it_agrees_with_the_published_verdicts_on_gsm8k() -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "gsm8k_model_solutions.parquet").to_pylist()
    # 1,319 problems, 4 models; without the mark the last number of a solution must do.
    for mark in ("\nA: ", "\n"):
        texts = [
            (row["solution"].replace("\nA: ", mark), row["reference"], row["is_correct"]) for row in rows
        ]
        wrong = [
            one
            for one in texts
            if same(final(one[0], "numeric"), final(one[1], "numeric"), "numeric") != one[2]
        ]
        assert len(wrong) == 0
