"""Near duplicates are those that the true Jaccard similarity of word runs says, and a kept row is named."""

from __future__ import annotations

import os
import random
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.near_duplicate import NearDuplicate
from synthray.errors import InputError
from synthray.operator import Context

MARKS = ("near_duplicate_of", "near_duplicate_similarity", "near_duplicate_cluster")


def table(texts: dict[str, str | None]) -> pa.Table:
    return pa.table({"row_id": pa.array(texts, pa.string()), "text": pa.array(texts.values(), pa.string())})


def marked(operator: NearDuplicate, texts: dict[str, str | None]) -> dict[str, tuple[Any, ...]]:
    out = operator(table(texts))
    assert out["row_id"].to_pylist() == list(texts), "no row is lost or moved"
    return {row["row_id"]: tuple(row[name] for name in MARKS) for row in out.to_pylist()}


def runs(text: str, words: int) -> set[str]:
    found = re.findall(r"\w+", text.lower())
    return {" ".join(found[at : at + words]) for at in range(max(1, len(found) - words + 1))}


def pairs_by_force(
    texts: dict[str, str | None], threshold: float, words: int
) -> dict[tuple[str, str], float]:
    """Return all pairs at or above the threshold, each compared with each."""
    sets = {row: runs(text, words) for row, text in texts.items() if text and re.search(r"\w", text)}
    found = {}
    for one, other in combinations(sorted(sets), 2):
        similarity = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        if similarity >= threshold:
            found[one, other] = similarity
    return found


def kept_by_force(texts: dict[str, str | None], pairs: dict[tuple[str, str], float]) -> set[str]:
    kept: set[str] = set()
    for row in sorted(texts):
        if not any((one, row) in pairs for one in kept):
            kept.add(row)
    return kept


def edited(generator: random.Random, size: int = 160) -> dict[str, str | None]:
    """Return texts of 30 words, most of them an edit of an earlier one by up to a fifth of its words."""
    vocabulary = [f"w{number}" for number in range(400)]
    texts: list[list[str]] = [generator.choices(vocabulary, k=30) for _ in range(20)]
    while len(texts) < size:
        words = list(generator.choice(texts))
        for _ in range(generator.randrange(7)):
            words[generator.randrange(len(words))] = generator.choice(vocabulary)
        texts.append(words)
    return {
        f"{generator.randrange(16**6):06x}{number}": " ".join(words) for number, words in enumerate(texts)
    }


@pytest.mark.parametrize(("threshold", "words"), [(0.8, 3), (0.5, 1), (0.3, 2), (1.0, 3)])
def test_marks_are_those_of_comparing_each_with_each(threshold: float, words: int) -> None:
    texts = edited(random.Random(int(threshold * 10) + words))
    pairs = pairs_by_force(texts, threshold, words)
    kept = kept_by_force(texts, pairs)
    assert 20 <= len(kept) < len(texts), "the texts must hold both kinds"
    found = marked(NearDuplicate(text="text", threshold=threshold, words=words), texts)
    assert {row for row, (of, _, _) in found.items() if of is None} == kept
    for row, (of, similarity, _) in found.items():
        if of is not None:
            best = max(pairs[one, row] for one in kept if (one, row) in pairs)
            assert of in kept
            assert similarity == pairs[of, row] == best >= threshold


def test_clusters_are_what_pairs_connect() -> None:
    texts = edited(random.Random(5))
    pairs = pairs_by_force(texts, 0.6, 2)
    cluster = {row: row for row in texts}
    for _ in texts:
        for one, other in pairs:
            cluster[one] = cluster[other] = min(cluster[one], cluster[other])
    paired = {row for pair in pairs for row in pair}
    found = marked(NearDuplicate(text="text", threshold=0.6, words=2), texts)
    assert {row: name for row, (_, _, name) in found.items()} == {
        row: cluster[row] if row in paired else None for row in texts
    }


def test_marks_do_not_depend_on_the_order_of_rows() -> None:
    texts = edited(random.Random(6))
    operator = NearDuplicate(text="text", threshold=0.6)
    rows = list(texts)
    random.Random(7).shuffle(rows)
    assert marked(operator, {row: texts[row] for row in rows}) == marked(operator, texts)


def test_a_member_of_a_chain_is_marked_only_when_a_kept_row_is_near() -> None:
    words = [f"w{number}" for number in range(14)]
    texts: dict[str, str | None] = {row: " ".join(words[at : at + 10]) for at, row in enumerate("abcde")}
    # Neighbours share 9 of 11 words (0.82), the next but one 8 of 12 (0.67).
    found = marked(NearDuplicate(text="text", threshold=0.8, words=1), texts)
    assert {row: of for row, (of, _, _) in found.items()} == {
        "a": None,
        "b": "a",
        "c": None,
        "d": "c",
        "e": None,
    }
    assert {name for _, _, name in found.values()} == {"a"}
    assert found["b"][1] == pytest.approx(9 / 11, abs=1e-12)


def test_the_nearest_kept_row_is_named() -> None:
    near = "a b c d e f g h i j k l m n o p q r s t"
    texts: dict[str, str | None] = {
        "1": near.replace("a b c", "x y z"),
        "2": near.replace("t", "u v w"),
        "3": near + " u",
    }
    found = marked(NearDuplicate(text="text", threshold=0.7, words=1), texts)
    assert [found[row][0] for row in "123"] == [None, None, "2"]


def test_a_pair_exactly_at_the_threshold_is_marked() -> None:
    texts: dict[str, str | None] = {"a": "one two three four", "b": "one two three four five"}
    assert marked(NearDuplicate(text="text", threshold=0.8, words=1), texts)["b"][:2] == ("a", 0.8)
    assert marked(NearDuplicate(text="text", threshold=0.81, words=1), texts)["b"] == (None, None, None)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        pytest.param(None, False, id="null"),
        pytest.param("", False, id="empty"),
        pytest.param(" \n\t", False, id="white space"),
        pytest.param("\U0001f600\U0001f44d\U0001f3fd !?", False, id="no words"),
        pytest.param("word", True, id="one word"),
        pytest.param("two words", True, id="shorter than a run"),
        pytest.param("ein Straßenfest für ÄÖÜ", True, id="umlauts"),
        pytest.param("你好 世界 再见", True, id="no Latin"),
        pytest.param("hi \U0001f600 there", True, id="emoji between words"),
        pytest.param(" ".join(f"w{n}" for n in range(6_000)), True, id="very long"),
    ],
)
def test_the_same_text_twice_is_a_duplicate_if_it_has_words(text: str | None, same: bool) -> None:
    found = marked(NearDuplicate(text="text"), {"a": text, "b": text, "c": "quite another text than that"})
    assert found["b"] == (("a", 1.0, "a") if same else (None, None, None))
    assert found["a"] == (None, None, "a" if same else None)
    assert found["c"] == (None, None, None)


def test_case_and_punctuation_do_not_tell_texts_apart() -> None:
    texts: dict[str, str | None] = {"a": "The cat, the DOG (and) I.", "b": "the cat the dog and I"}
    assert marked(NearDuplicate(text="text"), texts)["b"][0] == "a"


@pytest.mark.parametrize("size", [0, 1], ids=["no rows", "one row"])
def test_where_there_are_no_two_rows_there_is_no_mark(size: int) -> None:
    out = NearDuplicate(text="text")(table(dict(list({"a": "some text"}.items())[:size])))
    assert [out[name].to_pylist() for name in MARKS] == [[None] * size] * 3
    assert [out.schema.field(name).type for name in MARKS] == [pa.string(), pa.float64(), pa.string()]


def test_a_prefix_stands_before_the_marks() -> None:
    operator = NearDuplicate(text="text", context=Context(prefix="again_"))
    assert operator(table({"a": "x"})).column_names == [
        "row_id",
        "text",
        *(f"again_{name}" for name in MARKS),
    ]


def test_pairs_at_the_threshold_are_found_nearly_always() -> None:
    texts: dict[str, str | None] = {}
    generator = random.Random(9)
    for number in range(400):
        # 9 of 10 words and a word of its own: similarity 9/11, hardly above the threshold.
        words = [f"p{number}w{generator.randrange(10**6)}" for _ in range(10)]
        texts[f"{number:03}a"] = " ".join(words)
        texts[f"{number:03}b"] = " ".join([*words[1:], "other" + words[0]])
    found = marked(NearDuplicate(text="text", threshold=0.8, words=1), texts)
    missed = sum(found[row][0] != f"{row[:3]}a" for row in texts if row.endswith("b"))
    assert missed <= 2, "at most one in a thousand is missed on average"
    assert not [row for row in texts if row.endswith("a") and found[row][0]]


def test_a_column_of_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="column 'n' must hold text, but is int64"):
        NearDuplicate(text="n").check(pa.schema([("n", pa.int64())]))


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_of_1000_articles_the_ten_planted_pairs_are_found_and_nothing_else() -> None:
    rows = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "neardup_articles_1000.parquet")
    texts = dict(zip(rows["doc_id"].to_pylist(), rows["text"].to_pylist(), strict=True))
    planted = {
        tuple(sorted((one, other)))
        for one, other in zip(rows["doc_id"].to_pylist(), rows["duplicate_of"].to_pylist(), strict=True)
        if other
    }
    found = marked(NearDuplicate(text="text"), texts)
    assert len(planted) == 10
    assert {(of, row) for row, (of, _, _) in found.items() if of} == planted
