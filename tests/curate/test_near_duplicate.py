"""Near duplicates are those that the true Jaccard similarity of word runs says, and a kept row is named."""

from __future__ import annotations

import os
import random
import re
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.near_duplicate import NearDuplicate
from synthray.duplicate.index import Index
from synthray.errors import InputError
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.run import Run

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


def test_a_crowd_that_shares_most_of_its_words_is_marked_as_if_each_were_compared_with_each() -> None:
    generator = random.Random(3)
    base = [f"w{number}" for number in range(40)]
    texts: dict[str, str | None] = {}
    for number in range(200):
        words = [*base, *(f"own{generator.randrange(60)}" for _ in range(generator.randrange(24)))]
        texts[f"{generator.randrange(16**6):06x}{number}"] = " ".join(words)
    pairs = pairs_by_force(texts, 0.75, 1)
    kept = kept_by_force(texts, pairs)
    assert 5 < len(kept) < 150 < len(pairs), "there must be some of both"
    found = marked(NearDuplicate(text="text", threshold=0.75, words=1), texts)
    assert {row for row, (of, _, _) in found.items() if of is None} == kept
    for row, (of, similarity, _) in found.items():
        if of is not None:
            assert similarity == pairs[of, row] == max(pairs[one, row] for one in kept if (one, row) in pairs)


@pytest.mark.parametrize(
    ("prefer", "kept"),
    [("", "a"), ("score DESC", "c"), ("score", "a"), ("length(text) DESC, score", "b"), ("row_id DESC", "d")],
)
def test_the_preferred_row_is_kept(prefer: str, kept: str) -> None:
    rows = table(dict.fromkeys("abcd", "the same five words here")).append_column(
        "score", pa.array([1.0, 2.0, 9.0, None])
    )
    rows = rows.set_column(
        1, "text", pa.array(["one two three", "One, two... three!", "one two three", "one two three"])
    )
    out = NearDuplicate(text="text", prefer=prefer)(rows)
    expected = [None if row == kept else kept for row in "abcd"]
    assert out["near_duplicate_of"].to_pylist() == expected
    assert set(out["near_duplicate_cluster"].to_pylist()) == {"a"}, "a cluster has one name, whoever is kept"


def test_a_chain_is_taken_in_the_order_that_is_preferred() -> None:
    words = [f"w{number}" for number in range(14)]
    rows = table({row: " ".join(words[at : at + 10]) for at, row in enumerate("abcde")})
    rows = rows.append_column("score", pa.array([0, 9, 0, 0, 0]))
    out = NearDuplicate(text="text", threshold=0.8, words=1, prefer="score DESC")(rows)
    assert out["near_duplicate_of"].to_pylist() == ["b", None, "b", None, "d"]


def test_characters_find_what_words_do_not() -> None:
    one = "Donaudampfschifffahrtsgesellschaftskapitän"
    texts: dict[str, str | None] = {
        "a": one,
        "b": one.replace("kapitän", "kapitäne"),
        "c": "你好世界你好世界",
        "d": "你好世界你好世",
    }
    assert [of for of, _, _ in marked(NearDuplicate(text="text", words=1), texts).values()] == [
        None,
        None,
        None,
        "c",
    ]
    found = marked(NearDuplicate(text="text", characters=5, threshold=0.7), texts)
    units = one.lower()
    runs_of = [{text[at : at + 5] for at in range(len(text) - 4)} for text in (units, units + "e")]
    assert found["b"][:2] == ("a", len(runs_of[0] & runs_of[1]) / len(runs_of[0] | runs_of[1]))
    assert found["d"][0] == "c"


@pytest.mark.parametrize("floor", [0.2, 0.5, 0.9])
def test_the_floor_changes_no_mark_and_a_threshold_below_it_takes_its_place(floor: float) -> None:
    texts = edited(random.Random(8))
    pairs = pairs_by_force(texts, 0.4, 1)
    found = marked(NearDuplicate(text="text", threshold=0.4, words=1, floor=floor), texts)
    assert {row for row, (of, _, _) in found.items() if of is None} == kept_by_force(texts, pairs)


def test_texts_of_10_megabytes_are_compared_like_any_other() -> None:
    text = " ".join(f"w{number}" for number in range(1_400_000))
    assert len(text) > 10_000_000
    texts: dict[str, str | None] = {
        "a": text,
        "b": f"{text} end",
        "c": "end",
        "d": text.partition(" w700000")[0],
    }
    found = marked(NearDuplicate(text="text"), texts)
    runs_in_a = 1_400_000 - 2
    assert found["b"] == ("a", runs_in_a / (runs_in_a + 1), "a")
    assert (found["c"][0], found["d"][0]) == (None, None)


# In a run.


def files(folder: Path, texts: dict[str, str | None], parts: int = 3) -> Table:
    """Write the texts into some files, and return them as a table."""
    folder.mkdir(parents=True)
    for part in range(parts):
        pq.write_table(table(dict(list(texts.items())[part::parts])), folder / f"{part}.parquet")
    return Table.find(str(folder), Path())


def done(
    out: Path, table: Table, blocks: int = 2, tables: dict[str, Table] | None = None, **settings: Any
) -> Run:
    steps = [Source(table="documents"), NearDuplicate(text="text", **settings)]
    return Pipeline(steps, tables={"documents": table, **(tables or {})}, blocks=blocks).run(out, quiet=True)


def marks_of(run: Run) -> dict[str, tuple[Any, ...]]:
    columns = ", ".join(MARKS)
    return {
        row["row_id"]: tuple(row.values())[1:]
        for row in run.sql(f"SELECT row_id, {columns} FROM dataset").to_pylist()
    }


def stamps(folder: Path) -> dict[str, int]:
    """Return the files in a folder with the time at which each was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.arrow")}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_marks_the_same_in_any_number_of_blocks_and_a_new_threshold_signs_nothing_again(
    tmp_path: Path,
) -> None:
    texts = edited(random.Random(10))
    expected = {
        threshold: marked(NearDuplicate(text="text", threshold=threshold), texts) for threshold in (0.7, 0.9)
    }
    assert expected[0.7] != expected[0.9]
    held = files(tmp_path / "given", texts)
    for blocks in (1, 7, 64):
        run = done(tmp_path / f"run-{blocks}", held, blocks, threshold=0.7)
        assert marks_of(run) == expected[0.7], blocks
    artifacts = run.root / "artifacts"
    before = stamps(artifacts)
    assert sum("-signatures-" in name for name in before) > 1
    assert sum("-pairs-" in name for name in before) == 3
    again = done(run.root, held, 64, threshold=0.9)
    assert marks_of(again) == expected[0.9]
    assert stamps(artifacts) == before, "neither signatures nor pairs are made again"
    again = done(run.root, held, 64, threshold=0.7, words=2)
    assert marks_of(again) == marked(NearDuplicate(text="text", threshold=0.7, words=2), texts)
    after = stamps(artifacts)
    assert {name: after[name] for name in before} == before
    assert sum("-signatures-" in name for name in after) > sum("-signatures-" in name for name in before)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_near_older_data_are_marked_with_their_source_and_an_index_grows_by_what_is_new(
    tmp_path: Path,
) -> None:
    def text(name: str, *more: str) -> str:
        return " ".join([*(f"{name}{number}" for number in range(12)), *more])

    first: dict[str, str | None] = {"r1": text("run"), "r2": text("run", "x"), "shared": text("both")}
    held: dict[str, str | None] = {"t1": text("table"), "t2": text("table", "y"), "t3": None}
    filed: dict[str, str | None] = {"f1": text("file"), "f2": text("both", "z")}
    new: dict[str, str | None] = {
        "a": text("run", "x", "x2"),  # nearer to r2, which was a duplicate itself, but is an older row now
        "b": text("both"),
        "c": text("file", "q"),
        "d": text("file", "q"),
        "e": text("table"),
        "f1": text("own"),  # its name is that of an older row
        "g": text("own", "p"),
        "h": None,
    }
    done(tmp_path / "old", files(tmp_path / "first", first), words=1)
    files(tmp_path / "filed", filed)
    tables = {"held": files(tmp_path / "tables" / "held", held)}
    given = files(tmp_path / "new", new)
    against = ["old", "held", "filed"]
    settings: dict[str, Any] = {"words": 1, "tables": tables, "base": str(tmp_path)}
    expected = {
        "a": ("r2", 13 / 14, "old"),
        "b": ("shared", 1.0, "old"),
        "c": ("f1", 12 / 13, "filed"),
        "d": ("f1", 12 / 13, "filed"),
        "e": ("t1", 1.0, "held"),
        "g": ("f1", 12 / 13, None),
    }
    question = (
        "SELECT row_id, near_duplicate_of, near_duplicate_similarity, near_duplicate_source FROM dataset"
    )

    def named(run: Run) -> dict[str, tuple[Any, ...]]:
        return {
            row["row_id"]: tuple(row.values())[1:]
            for row in run.sql(question).to_pylist()
            if row["near_duplicate_of"]
        }

    # Without an index what is signed of older data lies in the run.
    alone = done(tmp_path / "alone", given, against=against, **settings)
    assert named(alone) == expected
    assert len(list((alone.root / "artifacts").glob("older-*/segment-*"))) == 3

    # With one it grows by what is new in it, for every run that names it.
    index = tmp_path / "index"
    one = done(tmp_path / "one", given, against=against[:2], index="index", **settings)
    assert {row: of for row, (of, _, _) in named(one).items()} == {
        "a": "r2",
        "b": "shared",
        "d": "c",
        "e": "t1",
        "g": "f1",
    }
    grown = stamps(index)
    assert len(list(index.glob("segment-*"))) == 2
    two = done(tmp_path / "two", given, against=against, index="index", **settings)
    assert named(two) == expected
    assert {name: stamps(index)[name] for name in grown} == grown, "what was there is not signed again"
    assert len(list(index.glob("segment-*"))) == 3
    assert not list((two.root / "artifacts").glob("older-*"))
    before = stamps(index)
    assert named(
        done(tmp_path / "two", given, against=against, index="index", threshold=0.93, **settings)
    ) == {row: mark for row, mark in expected.items() if mark[1] == 1.0} | {"d": ("c", 1.0, None)}
    assert stamps(index) == before


# What is refused before any work.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefer": "score DESCC"}, "prefer: .*DESCC"),
        ({"prefer": "scor DESC"}, "prefer: .*scor"),
        ({"prefer": "random()"}, "prefer: .*volatile"),
        ({"index": "index"}, "name that data by against"),
        (
            {"against": ["older.parqet"]},
            "against 'older.parqet' is no table of the recipe; .*no run; no file",
        ),
        (
            {"against": ["other.parquet"]},
            "against 'other.parquet' has no column 'text'; did you mean 'texts'",
        ),
        ({"against": ["older.parquet"], "index": "stray"}, r"stray is no index: it has no index\.json"),
        (
            {"against": ["older.parquet"], "index": "begun", "words": 4},
            "made with words: 3, but this step has words: 4",
        ),
        ({"against": ["older.parquet"], "index": "begun"}, None),
        ({"against": ["older.parquet"], "index": "new", "prefer": "score DESC, n"}, None),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(
    tmp_path: Path, settings: dict[str, Any], message: str | None
) -> None:
    pq.write_table(table({"a": "some text"}), tmp_path / "older.parquet")
    pq.write_table(pa.table({"texts": ["some text"]}), tmp_path / "other.parquet")
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "thesis.txt").write_text("mine")
    Index(tmp_path / "begun", NearDuplicate(text="text").cut).segment("aa", lambda _: None)
    before = sorted(tmp_path.rglob("*"))
    operator = NearDuplicate(text="text", base=str(tmp_path), **settings)
    schema = pa.schema(
        [("row_id", pa.string()), ("text", pa.string()), ("score", pa.float64()), ("n", pa.int64())]
    )
    if message is None:
        operator.check(schema)
    else:
        with pytest.raises(InputError, match=message):
            operator.check(schema)
    assert sorted(tmp_path.rglob("*")) == before, "looking makes nothing"


def test_older_data_take_a_run(tmp_path: Path) -> None:
    pq.write_table(table({"a": "some text"}), tmp_path / "older.parquet")
    operator = NearDuplicate(text="text", against=["older.parquet"], base=str(tmp_path))
    with pytest.raises(InputError, match="against needs a run"):
        operator(table({"b": "some text"}))


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
