"""The final answer in a worked solution: found, brought to one form, compared."""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Literal

Kind = Literal["numeric", "exact", "choice"]
"""What an answer is: a number, a text, or the letter of a choice."""

SOURCE = Path(__file__)
"""For the fingerprints of operators that read answers."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# A minus is a sign unless something stands right before it, as in 10-5.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)\]])[-+] ?)?(?<![A-Za-z_0-9])(?P<over>{_DIGITS})(?:[eE](?P<power>[-+]?[0-9]{{1,3}})"
    rf"(?![0-9A-Za-z])|[ ]?/[ ]?(?P<under>{_DIGITS}))?(?P<percent> ?(?:%|percent\b|per cent\b))?"
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_STYLE = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit)\{([^{}]*)\}")
_NOISE = re.compile(r"\\[!,;: ]|[$€£¥]|\\(?=%)|\{(?=,\})|(?<=,)\}")
_SAID = re.compile(r"\b(?:final |correct )?answer\b(?: is:?|:)[* ]*|^A: *", re.IGNORECASE | re.MULTILINE)
_LETTER = r"[A-J]"
_CHOICES = [
    re.compile(rf"\({_LETTER}\)"),
    re.compile(rf"^ *\**({_LETTER})\**(?:[).:]|$)", re.MULTILINE),
]
_AROUND = " \"'`*_$\u201c\u201d\u2018\u2019"
_LONGEST = 400
"""How many characters a number may have; more is no answer."""


def final(text: str, kind: Kind) -> str | None:
    r"""Return the final answer in `text` in its canonical form; None where there is none.

    It is looked for in the last `\boxed{...}`, else after the last `####`, else after the last "answer is",
    "answer:" or, at the start of a line, "A:". Without any of these a number is the last one in the text, a
    choice the last letter from A to J that stands in brackets, or alone at the start of a line, and an
    exact answer the whole text.

    A number loses thousands separators and currency; fractions and powers of ten are worked out, and a
    percent sign stays: "$1,200.50" is "1200.5", "\frac{3}{6}" is "0.5", "50 percent" is "50%". A text is
    compared in Unicode's form NFKC, case folded, white space as one space, without quotation marks,
    Markdown's marks and closing punctuation around it.
    """
    part, first = _part(text)
    if kind == "exact":
        return _plain(part) or None
    if kind == "choice":
        return _choice(part, marked=first is not None)
    found = [number for number in map(_number, _NUMBER.finditer(_clean(part))) if number]
    return (found[0] if first else found[-1]) if found else None


def same(one: str | None, other: str | None, kind: Kind, tolerance: float = 0.0) -> bool:
    """Say whether two answers in canonical form are equal; one that is missing equals nothing.

    Numbers may differ by `tolerance` relative to the larger; a percent is the number before its sign, and
    where only one of the two has the sign also a hundredth of it: 50% is 50 and 0.5.
    """
    if one is None or other is None:
        return False
    if kind != "numeric":
        return one == other
    mine, theirs = value(one), value(other)
    pairs = [(mine, theirs)]
    if one.endswith("%") != other.endswith("%"):
        pairs.append((mine / 100, theirs) if one.endswith("%") else (mine, theirs / 100))
    return any(
        first == second or abs(first - second) <= Fraction(tolerance) * max(abs(first), abs(second))
        for first, second in pairs
    )


def value(number: str) -> Fraction:
    """Return a number in canonical form, its percent sign left out."""
    return Fraction(number.removesuffix("%"))


def _part(text: str) -> tuple[str, bool | None]:
    """Return where the answer stands, and whether its first number counts; None: nothing marks the place."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed, False
    _, mark, after = text.rpartition("####")
    if mark:
        return after.strip().partition("\n")[0], True
    said = list(_SAID.finditer(text))
    if said:
        return text[said[-1].end() :].strip().partition("\n")[0], True
    return text, None


def _boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start)
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return _STYLE.sub(r"\1", text[start + 1 : place])
    return None


def _clean(text: str) -> str:
    text = text.replace("\u2212", "-").replace("\u00a0", " ")
    return _NOISE.sub("", _FRACTION.sub(r" \1/\2 ", text))


def _number(found: re.Match[str]) -> str | None:
    if len(found[0]) > _LONGEST:
        return None
    number = Fraction(found["over"].replace(",", ""))
    if found["power"]:
        number *= Fraction(10) ** int(found["power"])
    if found["under"]:
        under = Fraction(found["under"].replace(",", ""))
        if not under:
            return None
        number /= under
    if found["sign"] and found["sign"][0] == "-":
        number = -number
    return _shown(number) + ("%" if found["percent"] else "")


def _shown(number: Fraction) -> str:
    """Return a number in decimals where they end, else as a fraction."""
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest > 1:
        return str(number)
    digits = math.ceil(math.log10(abs(number.numerator) + 1)) + number.denominator.bit_length() + 1
    quotient = Context(prec=digits + 10).divide(Decimal(number.numerator), Decimal(number.denominator))
    shown = f"{quotient:f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def _plain(text: str) -> str:
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return (
        folded.strip(" \"'`*_\u201c\u201d\u2018\u2019$")
        .rstrip(".!?;:, ")
        .strip(" \"'`*_\u201c\u201d\u2018\u2019$")
    )


def _choice(part: str, *, marked: bool) -> str | None:
    bare = re.fullmatch(rf"\W*({_LETTER})\W*", part.strip(), re.IGNORECASE)
    if bare:
        return bare[1].upper()
    if marked:
        first = re.match(rf"\W*(?:option |choice )?\W*({_LETTER})\b", part)
        if first:
            return first[1]
    for pattern in _CHOICES:
        found = [one for one in re.findall(pattern, part) if one]
        if found:
            return str(found[-1]).strip("()")
    return None
