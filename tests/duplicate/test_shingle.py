"""Shingles are the runs of a text's words or characters: equal hashes exactly where the runs are equal."""

from __future__ import annotations

import random
import unicodedata
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pytest

from synthray.duplicate.shingle import VERSION, Shingles, words

ALPHABET = [
    *"aabbcdZ",
    *"    \t\n\x00\x1f\x7f.,'-_7",
    *"ÄÖßéñ\u0301\u0308",
    *"\u2019“”\u2013—…\u00a0\u200b\u3000",
    *"\U0001f600\U0001f1e9",
    *"你好ひカไទ",
    *"жשع",
]
"""What random texts are made of: every kind of character that is cut otherwise than others."""

ALONE = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def words_by_force(text: str | None) -> list[str]:
    """Cut a text character by character, by what Unicode says of each."""
    cut = ""
    for letter in (text or "").lower():
        if letter != "_" and unicodedata.category(letter)[0] not in "LMN":
            cut += " "
        elif unicodedata.name(letter).startswith(ALONE):
            cut += f" {letter} "
        else:
            cut += letter
    return cut.split()


def runs_by_force(text: str | None, shingles: Shingles) -> set[tuple[str, ...]]:
    held = words_by_force(text)
    units = held if shingles.unit == "words" else list(" ".join(held))
    size = shingles.size
    return {tuple(units[at : at + size]) for at in range(max(1, len(units) - size + 1))} if units else set()


def cut(shingles: Shingles, texts: list[str | None] | pa.Array) -> list[list[int]]:
    """Return the hashes of each text."""
    held = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    hashes, ends = shingles.of(held)
    assert (hashes.dtype, len(ends), ends[0], ends[-1]) == (np.uint64, len(held) + 1, 0, len(hashes))
    return [hashes[start:end].tolist() for start, end in pairwise(ends)]


def random_texts(seed: int, count: int = 120) -> list[str | None]:
    """Return random texts, every third an edit of one before it, and some that are nothing."""
    generator = random.Random(seed)
    texts: list[str | None] = [None, "", " ", "a", "\U0001f600"]
    for number in range(count):
        letters = generator.choices(ALPHABET, k=generator.randrange(40))
        if number % 3 == 0:
            letters = list(generator.choice(texts) or "") + letters[:2]
        texts.append("".join(letters))
    return texts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(None, [], id="null"),
        pytest.param("", [], id="empty"),
        pytest.param(" \t\r\n\x0b\x0c", [], id="white space"),
        pytest.param("\U0001f600 !? … —", [], id="no words"),
        pytest.param("Word", ["word"], id="one word"),
        pytest.param("  two\nwords  ", ["two", "words"], id="space around"),
        pytest.param("snake_case x1 42", ["snake_case", "x1", "42"], id="underscores and digits"),
        pytest.param("a\x00b\x07c\x7fd\x85e", ["a", "b", "c", "d", "e"], id="control characters"),
        pytest.param("Ärger über ÖL, Straße", ["ärger", "über", "öl", "straße"], id="umlauts"),
        pytest.param("à Å", ["à", "å"], id="letters whose last byte is a space in Latin 1"),
        pytest.param("e\u0301te\u0301", ["e\u0301te\u0301"], id="combining marks"),
        pytest.param(
            "“naïve\u2019s” \u2013 don't—go", ["naïve", "s", "don", "t", "go"], id="quotes and dashes"
        ),
        pytest.param("hi\U0001f600there \U0001f469\u200d\U0001f52c", ["hi", "there"], id="emoji"),
        pytest.param("a\u00a0b\u3000c\u2028d", ["a", "b", "c", "d"], id="other spaces"),
        pytest.param("你好world", ["你", "好", "world"], id="Han"),
        pytest.param("ひらカタ", ["ひ", "ら", "カ", "タ"], id="Japanese"),
        pytest.param("ไทย", ["ไ", "ท", "ย"], id="Thai"),
        pytest.param("ລາວ ខែ မာ", list("ລາວខែမာ"), id="Lao, Khmer, Myanmar"),
        pytest.param("жизнь שלום عربي", ["жизнь", "שלום", "عربي"], id="other scripts with spaces"),
        pytest.param("x² Ⅷ ٣", ["x²", "ⅷ", "٣"], id="other digits"),
    ],
)
def test_words_are_what_is_made_of_letters_marks_digits_and_underscores(
    text: str | None, found: list[str]
) -> None:
    # A text beside it decides over the way that is taken for all.
    for beside in ("plain", "ümlaut", None):
        assert words(pa.array([beside, text])).to_pylist()[1] == found
    assert words_by_force(text) == found


@pytest.mark.parametrize(("unit", "size"), [("words", 1), ("words", 3), ("characters", 1), ("characters", 5)])
@pytest.mark.parametrize("seed", range(3))
def test_texts_share_exactly_the_hashes_of_the_runs_that_they_share(unit: str, size: int, seed: int) -> None:
    shingles, texts = Shingles(unit, size), random_texts(seed)  # type: ignore[arg-type]
    assert words(pa.array(texts)).to_pylist() == [words_by_force(text) for text in texts]
    hashes = [set(one) for one in cut(shingles, texts)]
    runs = [runs_by_force(text, shingles) for text in texts]
    assert [len(one) for one in hashes] == [len(one) for one in runs]
    shared = {
        (one, other): (len(hashes[one] & hashes[other]), len(runs[one] & runs[other]))
        for one, other in combinations(range(len(texts)), 2)
    }
    assert not {pair: both for pair, both in shared.items() if both[0] != both[1]}
    assert sum(both[1] > 0 for both in shared.values()) > 30, "the texts must share some"


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_the_order_of_units_and_their_number_count(unit: str) -> None:
    texts = ["a b c", "c b a", "a b", "a", "a b c d", "a a", "b a"]
    found = cut(Shingles(unit, 9), texts)  # type: ignore[arg-type]
    assert [len(one) for one in found] == [1] * len(texts), "a text shorter than a run is one run"
    assert len({one[0] for one in found}) == len(texts)


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_hashes_are_ascending_distinct_and_of_48_bits(unit: str) -> None:
    for one in cut(Shingles(unit, 2), ["a b a b a b c", *random_texts(4)]):  # type: ignore[arg-type]
        assert one == sorted(set(one))
        assert all(hashed < 1 << 48 for hashed in one)


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_a_texts_hashes_do_not_depend_on_the_texts_beside_it(unit: str) -> None:
    shingles, texts = Shingles(unit, 3), random_texts(5)  # type: ignore[arg-type]
    whole = cut(shingles, texts)
    assert [cut(shingles, [text])[0] for text in texts] == whole, "one by one"
    held = pa.array(texts, pa.string())
    assert cut(shingles, held.slice(7, 50)) == whole[7:57], "a slice"
    assert cut(shingles, held.cast(pa.large_string())) == whole, "large strings"
    order = list(range(len(texts)))
    random.Random(6).shuffle(order)
    assert cut(shingles, [texts[at] for at in order]) == [whole[at] for at in order], "another order"


@pytest.mark.parametrize("kind", [pa.string(), pa.null()])
def test_no_texts_have_no_hashes(kind: pa.DataType) -> None:
    for size in (0, 3):
        hashes, ends = Shingles("words", 3).of(pa.nulls(size, kind))
        assert (len(hashes), ends.tolist()) == (0, [0] * (size + 1))


def test_more_texts_than_fit_into_a_sort_key_are_each_cut_for_themselves() -> None:
    count = (1 << 16) + 1_500
    texts = [f"w{number % 997} w{number % 499} é{number}" for number in range(count)]
    found = cut(Shingles("words", 2), texts)
    for at in (0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, count - 1):
        assert found[at] == cut(Shingles("words", 2), [texts[at]])[0], at
    assert {len(one) for one in found} == {2}


def test_a_text_of_10_megabytes_is_cut_like_any_other() -> None:
    text = " ".join(f"w{number % 200_000}" for number in range(1_400_000))
    assert len(text) > 10_000_000
    (found,) = cut(Shingles("words", 3), [text])
    assert len(found) == 200_000, "the runs repeat, the last of a round goes over into the next"
    once = " ".join(f"w{number % 200_000}" for number in range(200_002))
    assert [found] == cut(Shingles("words", 3), [once])


def test_hashes_never_change() -> None:
    # Signatures in indexes are made of them: whoever changes one must raise the version.
    assert VERSION == 1
    texts = ["a b c", "a", "Ä ö", "你好"]
    assert cut(Shingles("words", 2), texts) == [
        [52247416642498, 169208827764846],
        [239830426748629],
        [269269999626927],
        [128346534802410],
    ]
    assert cut(Shingles("characters", 4), ["ab cd", "a", "Ä ö"]) == [
        [244811090094166, 255334189071122],
        [263896763846432],
        [169339488189899],
    ]
