"""Signatures are datasketch's, bit for bit, of the texts that have words; they are read by number."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH

import synthray.duplicate.signature as module
from synthray.duplicate.shingle import Shingles
from synthray.duplicate.signature import Signatures, minhash, signed

WORDS = Shingles("words", 2)


def rows(texts: list[str | None], prefix: str = "r") -> pa.Table:
    ids = [f"{prefix}{number:03}" for number in range(len(texts))]
    return pa.table({"row_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})


def random_texts(seed: int, count: int, longest: int = 60) -> list[str | None]:
    generator = random.Random(seed)
    return [
        " ".join(f"w{generator.randrange(300)}" for _ in range(generator.randrange(1, longest)))
        for _ in range(count)
    ]


def datasketchs(shingles: list[int], permutations: int) -> MinHash:
    """Return datasketch's own MinHash of the same 32-bit values."""
    own = MinHash(num_perm=permutations, hashfunc=lambda value: value)
    for one in shingles:
        own.update(one & 0xFFFFFFFF)
    return own


def values(table: pa.Table, row: int, permutations: int) -> np.ndarray:
    return np.array([table[f"s{number}"][row].as_py() for number in range(permutations)], np.uint32)


def file(folder: Path, table: pa.Table, name: str, chunk: int | None = None) -> str:
    path = folder / f"{name}.arrow"
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, chunk)
    return str(path)


@pytest.mark.parametrize("permutations", [16, 128, 200])
def test_signatures_are_datasketchs_bit_for_bit(permutations: int) -> None:
    # With the literal test below, this also notices a datasketch that hashes or permutes otherwise.
    table = signed(rows(random_texts(1, 30)), "text", WORDS, permutations)
    assert table.column_names == ["row_id", "shingles", "content", *(f"s{n}" for n in range(permutations))]
    for row, shingles in enumerate(table["shingles"].to_pylist()):
        assert (values(table, row, permutations) == datasketchs(shingles, permutations).hashvalues).all()


def test_datasketchs_index_takes_them_and_estimates_the_true_similarity() -> None:
    one = " ".join(f"w{number}" for number in range(200))
    other = " ".join(f"w{number}" for number in range(5, 200))
    table = signed(rows([one, other, *random_texts(2, 20)]), "text", WORDS, 128)
    sketches = [
        MinHash(num_perm=128, hashvalues=values(table, row, 128), scheme="affine32")
        for row in range(len(table))
    ]
    index = MinHashLSH(threshold=0.7, num_perm=128)
    for number, sketch in enumerate(sketches[1:], start=1):
        index.insert(number, sketch)
    assert index.query(sketches[0]) == [1]
    assert sketches[0].jaccard(sketches[1]) == pytest.approx(194 / 199, abs=0.05)


def test_values_never_change() -> None:
    # Indexes hold them: another datasketch (its private _fmix, its permutations) must not go unnoticed.
    table = signed(rows(["a b c", "a"]), "text", WORDS, 16)
    assert [values(table, row, 16)[[0, 7, 15]].tolist() for row in (0, 1)] == [
        [669772170, 2044776476, 717170544],
        [1628656487, 4241870325, 1439241519],
    ]
    mixed = minhash(np.array([1, 2, 1 << 47], np.uint64), np.array([0, 1, 3]), 16)
    assert (mixed[:, 0] == datasketchs([1], 16).hashvalues).all()
    assert (mixed[:, 1] == datasketchs([2, 0], 16).hashvalues).all(), "the upper bits do not count"


def test_many_shingles_are_permuted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer texts than a part, texts that end where a part does, and many in one part.
    texts = rows([*random_texts(3, 40), " ".join(f"w{n}" for n in range(500)), "a b", "a b"])
    whole = signed(texts, "text", WORDS, 16)
    for at_once in (1, 2, 7, 64, 499):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        assert signed(texts, "text", WORDS, 16).equals(whole), at_once


def test_a_text_with_more_shingles_than_a_part_has_the_smallest_of_all() -> None:
    generator = np.random.default_rng(4)
    hashes = np.unique(generator.integers(0, 1 << 48, 200_000, np.uint64))
    ends = np.array([0, 3, 150_000, len(hashes)])
    found = minhash(hashes, ends, 16)
    for text in range(3):
        alone = minhash(hashes[ends[text] : ends[text + 1]], np.array([0, ends[text + 1] - ends[text]]), 16)
        assert (found[:, text] == alone[:, 0]).all()


def test_texts_without_words_are_left_out() -> None:
    texts = [None, "a b", "", "!?", "c", "\U0001f600"]
    table = signed(rows(texts), "text", WORDS, 16)
    assert table["row_id"].to_pylist() == ["r001", "r004"]
    assert (
        table.slice(1)
        .drop_columns("row_id")
        .equals(signed(rows(["c"]), "text", WORDS, 16).drop_columns("row_id"))
    )


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(rows([]), id="no rows"),
        pytest.param(rows([None, "!"]), id="no words"),
        pytest.param(pa.table({"row_id": ["a"], "text": pa.nulls(1)}), id="a column of nulls"),
        pytest.param(rows([]).schema.empty_table(), id="no chunks"),
    ],
)
def test_where_no_text_has_words_the_columns_are_there(given: pa.Table, tmp_path: Path) -> None:
    table = signed(given, "text", WORDS, 16)
    assert len(table) == 0
    assert table.schema == signed(rows(["a"]), "text", WORDS, 16).schema
    signatures = Signatures((file(tmp_path, table, "none"),))
    assert (len(signatures), len(signatures.column("content"))) == (0, 0)


def test_chunks_and_large_strings_are_signed_like_any() -> None:
    whole = rows(["a b", None, "c d e", "f"])
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    large = whole.set_column(1, "text", whole["text"].cast(pa.large_string()))
    expected = signed(whole, "text", WORDS, 16)
    assert signed(chunked, "text", WORDS, 16).equals(expected)
    assert signed(large, "text", WORDS, 16).equals(expected)


def test_content_is_equal_where_all_shingles_are_and_only_there() -> None:
    texts = ["a b c", "A, B; C!", "c b a", "a b", "b c", "a", "a b c a b", "a b c a b c", "b c a b c a", "aa"]
    table = signed(rows([*texts, *random_texts(5, 400, longest=4)]), "text", WORDS, 16)
    shingles = [tuple(one) for one in table["shingles"].to_pylist()]
    content = table["content"].to_pylist()
    assert len(set(shingles)) == len(set(content)) == len(set(zip(shingles, content, strict=True)))
    assert len(set(shingles)) < len(shingles), "some must be equal"
    assert content[0] == content[1]
    assert content[7] == content[8], "the same runs in another order"


@pytest.fixture
def several(tmp_path: Path) -> tuple[Signatures, pa.Table]:
    """Signatures in three files (one has several chunks) and a table, and all of them as one table."""
    parts = [
        signed(rows(random_texts(seed, size), f"{name}-"), "text", WORDS, 16)
        for seed, (name, size) in enumerate([("a", 5), ("b", 0), ("c", 17), ("d", 3)])
    ]
    sources = (
        file(tmp_path, parts[0], "first"),
        file(tmp_path, parts[1], "empty"),
        file(tmp_path, parts[2], "chunks", chunk=4),
        parts[3],
    )
    return Signatures(sources), pa.concat_tables(parts)


def test_a_texts_number_is_its_place_in_all_files(several: tuple[Signatures, pa.Table]) -> None:
    signatures, whole = several
    assert len(signatures) == len(whole) == 25
    assert signatures.starts.tolist() == [0, 5, 5, 22, 25]
    for name in ("content", "s0", "s15"):
        assert signatures.column(name).tolist() == whole[name].to_pylist()


@pytest.mark.parametrize(
    "numbers",
    [[], [0], [24], [4, 5], [21, 22], list(range(25)), [3, 9, 9, 23]],
    ids=["none", "first", "last", "over a seam", "over another", "all", "twice"],
)
def test_row_ids_and_shingles_are_read_by_number(
    several: tuple[Signatures, pa.Table], numbers: list[int]
) -> None:
    signatures, whole = several
    at = np.array(numbers, np.int64)
    names, shingles = whole["row_id"].to_pylist(), whole["shingles"].to_pylist()
    assert signatures.row_ids(at).to_pylist() == [names[number] for number in numbers]
    values, sizes = signatures.shingles(at)
    assert sizes.tolist() == [len(shingles[number]) for number in numbers]
    assert values.tolist() == [one for number in numbers for one in shingles[number]]


def test_row_ids_come_in_the_order_that_is_asked(several: tuple[Signatures, pa.Table]) -> None:
    signatures, whole = several
    names = whole["row_id"].to_pylist()
    numbers = np.random.default_rng(8).permutation(25)
    assert signatures.row_ids(numbers).to_pylist() == [names[number] for number in numbers]


def test_there_may_be_no_files() -> None:
    signatures = Signatures(())
    assert (len(signatures), len(signatures.column("s0"))) == (0, 0)
    assert len(signatures.row_ids(np.zeros(0, np.int64))) == 0


def test_signatures_travel_without_what_is_mapped(tmp_path: Path) -> None:
    table = signed(rows(random_texts(9, 300)), "text", WORDS, 128)
    signatures = Signatures((file(tmp_path, table, "all"),))
    assert signatures.tables[0].equals(table)
    packed = pickle.dumps(signatures)
    assert len(packed) < 1_000 < table.nbytes
    assert pickle.loads(packed).column("s127").tolist() == table["s127"].to_pylist()
