"""Two datasets side by side: what is called different must differ, whatever the order and number of rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from synthray.comparison import Comparison
from synthray.side import Settings, Side

WORDS = np.array([f"w{number}" for number in range(3000)])
FAST = Settings(resamples=99)


def texts(n: int, random: np.random.Generator, length: float = 12, vocabulary: int = 3000) -> list[str]:
    share = 1 / np.arange(1, vocabulary + 1)
    share /= share.sum()
    return [
        " ".join(random.choice(WORDS[:vocabulary], 1 + random.poisson(length), p=share)) for _ in range(n)
    ]


def rows(n: int, random: np.random.Generator, **changed: Any) -> dict[str, Any]:
    held = {
        "text": texts(n, random),
        "label": random.choice(list("abc"), n).tolist(),
        "score": random.random(n).tolist(),
    }
    return {**held, **changed}


def written(folder: Path, name: str, columns: Mapping[str, Any], files: int = 1) -> Side:
    table = pa.table(dict(columns))
    where = folder / name
    where.mkdir()
    for number in range(files):
        part = table.take(np.arange(number, len(table), files)[::-1])
        if len(part) or files == 1:
            pq.write_table(part, where / f"{number}.parquet")
    return Side.open(where)


def compared(
    folder: Path, a: Mapping[str, Any], b: Mapping[str, Any], settings: Settings = FAST, files: int = 1
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    folder.mkdir(exist_ok=True)
    sides = [written(folder, name, held, files) for name, held in (("a", a), ("b", b))]
    with Comparison.of(sides, settings) as held:
        return {row["metric"]: row for row in held.tests()}, held.notes


def differing(tests: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {name for name, row in tests.items() if row["differs"]}


def test_what_differs_is_called_and_nothing_else(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    a, b = rows(300, random), rows(300, random)
    assert differing(compared(tmp_path / "same", a, b)[0]) == set()
    shifted = {**b, "score": (np.array(b["score"]) + 0.15).tolist()}
    assert differing(compared(tmp_path / "score", a, shifted)[0]) == {"mean score"}
    labels = random.choice(list("abc"), 300, p=[0.55, 0.3, 0.15]).tolist()
    assert differing(compared(tmp_path / "label", a, {**b, "label": labels})[0]) >= {"labels", "share of a"}
    poor = {**b, "text": texts(300, random, vocabulary=150)}
    found = differing(compared(tmp_path / "poor", a, poor)[0])
    assert found >= {"vocabulary", "distinct_2", "vectors"} and "mean score" not in found
    ten = {**b, "text": random.choice(b["text"][:10], 300).tolist()}
    tests = compared(tmp_path / "ten", a, ten)[0]
    assert differing(tests) >= {"duplicates", "vocabulary"}
    assert tests["duplicates"]["b"] == pytest.approx(1 - 10 / 300)


def test_a_shift_is_seen_at_equal_numbers_and_half_the_rows_are_no_shift(tmp_path: Path) -> None:
    # A t-test on counts of a histogram (PEERS.md, M2) says the opposite of both.
    random = np.random.default_rng(2)
    a = rows(1000, random)
    spread = np.std(a["score"])
    far = {**rows(1000, random), "score": (random.random(1000) + 5 * spread).tolist()}
    tests = compared(tmp_path / "far", a, far)[0]
    assert tests["mean score"]["differs"] and tests["mean score"]["p_adjusted"] == 1 / 100
    half = {name: values[:500] for name, values in a.items()}
    tests, notes = compared(tmp_path / "half", a, half)
    assert differing(tests) == set()
    assert "500 are of both, 500 of them unchanged" in notes[0]
    assert tests["mean_words"]["p"] > 0.01
    assert tests["vocabulary"]["n_a"] == tests["vocabulary"]["n_b"] == 500
    fresh = rows(500, random)
    assert differing(compared(tmp_path / "fresh", a, fresh)[0]) == set()


def test_of_rows_that_a_filter_dropped_by_what_it_measures_the_change_is_seen(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    a = rows(600, random)
    for share, name in ((0.1, "few"), (0.7, "most")):
        kept = np.flatnonzero(np.array(a["score"]) > share)
        b = {column: [values[place] for place in kept] for column, values in a.items()}
        found = differing(compared(tmp_path / name, a, b)[0])
        assert found == {"mean score"}


def test_the_same_for_1_7_and_64_blocks(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    a, b = rows(300, random), rows(200, random)
    a["row_id"], b["row_id"] = [f"a{n}" for n in range(300)], [f"b{n}" for n in range(200)]
    a["parent_id"] = [f"p{n // 3}" for n in range(300)]
    b["parent_id"] = [f"p{n // 2}" for n in range(200)]
    settings = Settings(resamples=99, sample=80)
    one, *others = [compared(tmp_path / str(files), a, b, settings, files) for files in (1, 7, 64)]
    for other in others:
        assert other[1] == one[1]
        for name, row in one[0].items():
            for field, value in row.items():
                assert other[0][name][field] == pytest.approx(value, abs=1e-9, nan_ok=True), (name, field)


def test_shared_roots_are_paired_and_others_are_dealt_anew(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    a, b = rows(200, random), rows(200, random)
    seeds = [f"s{n // 2}" for n in range(200)]
    unit = Settings(resamples=99, unit="seed")
    _, notes = compared(tmp_path / "paired", {**a, "seed": seeds}, {**b, "seed": seeds}, unit)
    assert "tests: 100 and 100 roots (200 and 200 rows); 100 are of both, so that each swaps" in notes[0]
    others = [f"t{n // 4}" for n in range(200)]
    _, notes = compared(tmp_path / "other", {**a, "seed": seeds}, {**b, "seed": others}, unit)
    assert "100 and 50 roots (200 and 200 rows); none are of both; which side each is on" in notes[0]


def test_rows_of_a_seed_do_not_make_halves_different(tmp_path: Path) -> None:
    # Each seed has a label and a text of its own: by row, the halves differ for sure.
    random = np.random.default_rng(6)
    label, text = random.choice(list("ab"), 24), texts(24, random)
    order = random.permutation(24)
    sides = [
        {
            "text": [f"{text[one]} {n}" for one in half for n in range(20)],
            "label": [label[one] for one in half for _ in range(20)],
            "seed": [f"seed{one}" for one in half for _ in range(20)],
        }
        for half in (order[:12], order[12:])
    ]
    by_seed, _ = compared(tmp_path / "seed", *sides, Settings(resamples=99, unit="seed"))
    assert differing(by_seed) == set()
    by_row, _ = compared(tmp_path / "row", *sides, Settings(resamples=99))
    assert differing(by_row) >= {"mean_words", "vectors"}


def test_the_sample_is_told_and_equal(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    tests, notes = compared(
        tmp_path / "x", rows(500, random), rows(250, random), Settings(resamples=99, sample=100)
    )
    assert any(note.startswith("n-grams and vectors: ") for note in notes)
    row = tests["distinct_2"]
    assert row["n_a"] == row["n_b"] == pytest.approx(100, abs=10)
    assert tests["mean_words"]["n_a"] == 500


def test_texts_of_words_that_are_many_are_no_richer(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    tests, _ = compared(tmp_path / "x", rows(900, random), rows(150, random))
    row = tests["vocabulary"]
    assert row["ci_low"] < 0 < row["ci_high"] and not row["differs"]


@pytest.mark.parametrize(
    ("size", "other"),
    [pytest.param(0, 5, id="none"), pytest.param(1, 1, id="one"), pytest.param(0, 0, id="neither")],
)
def test_what_cannot_be_tested_says_so(tmp_path: Path, size: int, other: int) -> None:
    random = np.random.default_rng(9)
    schema = pa.schema([("text", pa.string()), ("label", pa.string()), ("score", pa.float64())])
    sides = []
    for name, n in (("a", size), ("b", other)):
        held = pa.table(rows(n, random), schema=schema) if n else schema.empty_table()
        pq.write_table(held, tmp_path / f"{name}.parquet")
        sides.append(Side.open(tmp_path / f"{name}.parquet"))
    with Comparison.of(sides, FAST) as held:
        assert held.tests() == []
        assert held.notes == ["no tests: each side must have rows, and one of them of two roots or more"]
        assert held.rows()["gained"] == other
        held.samples()
        held.labels()


def test_one_row_against_many_and_columns_without_a_value(tmp_path: Path) -> None:
    random = np.random.default_rng(10)
    tests, _ = compared(tmp_path / "one", rows(1, random), rows(30, random))
    assert differing(tests) == set()
    nothing = {**rows(30, random), "score": [float("nan")] * 30}
    tests, _ = compared(tmp_path / "nan", rows(30, random), nothing)
    assert np.isnan(tests["mean score"]["p"]) and not tests["mean score"]["differs"]
    assert (tests["mean score"]["n_a"], tests["mean score"]["n_b"]) == (30, 0)
    partly = {**rows(30, random), "score": [float("nan"), float("inf"), *[0.5] * 28]}
    tests, _ = compared(tmp_path / "partly", rows(30, random), partly)
    assert tests["mean score"]["b"] == 0.5 and tests["mean score"]["n_b"] == 28
    blank = {**rows(30, random), "text": [" "] * 15 + [""] * 15}
    tests, _ = compared(tmp_path / "blank", rows(30, random), blank)
    assert np.isnan(tests["mean_words"]["p"]) and "vocabulary" not in tests


def test_rows_gained_lost_and_changed_are_counted_and_shown(tmp_path: Path) -> None:
    a = {"row_id": ["1", "2", "3"], "text": ["one", "two", "three"], "label": ["x", "x", "y"]}
    b = {
        "row_id": ["2", "3", "4", "5"],
        "text": ["two", "tree", "four", None],
        "label": ["z", "y", "x", None],
    }
    sides = [written(tmp_path, name, held) for name, held in (("a", a), ("b", b))]
    with Comparison.of(sides, FAST) as held:
        assert held.rows() == {
            "a": 3, "b": 4, "both": 2, "lost": 1, "lost_share": 1 / 3, "gained": 2, "gained_share": 0.5,
            "changed": 2, "changed_text": 1, "changed_label": 1,
        }  # fmt: skip
        shown = {(row["row"], row["row_id"]): row for row in held.samples()}
        assert set(shown) == {
            ("lost", "1"),
            ("gained", "4"),
            ("gained", "5"),
            ("changed", "2"),
            ("changed", "3"),
        }
        assert shown["changed", "3"]["now"] == "tree"
        labels = {row["label"]: row for row in held.labels()}
        assert (labels["x"]["rows_a"], labels["x"]["rows_b"], labels["x"]["share_a"]) == (2, 1, 2 / 3)
        assert labels["z"]["share_a"] == 0 and labels[None]["rows_b"] == 1


def test_vectors_of_a_column_are_compared(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    base = random.normal(size=(200, 8))
    a = {**rows(100, random), "vector": list(base[:100])}
    b = {**rows(100, random), "vector": list(base[100:])}
    settings = Settings(resamples=199, embedding="vector")
    assert not compared(tmp_path / "same", a, b, settings)[0]["vectors"]["differs"]
    b["vector"] = list(base[100:] + np.array([2, *[0] * 7]))
    assert compared(tmp_path / "far", a, b, settings)[0]["vectors"]["differs"]


@pytest.mark.skipif("SYNTHRAY_DATA" not in os.environ, reason="SYNTHRAY_DATA names no folder of real data")
def test_the_rewrites_of_two_models_differ_and_those_of_one_do_not(tmp_path: Path) -> None:
    table = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "gpt_augmented_sentiment.parquet")
    table = table.filter(pc.equal(table["sampling"], "proportional")).select(
        ["generator", "seed_text", "text", "label"]
    )
    by = {
        name: table.filter(pc.equal(table["generator"], name)).drop_columns(["generator"])
        for name in ("gpt-4", "gpt-3.5-turbo")
    }
    place = np.random.default_rng(0).permutation(len(by["gpt-4"]))
    halves = [by["gpt-4"].take(place[start::2]).to_pydict() for start in (0, 1)]
    settings = Settings(resamples=199, sample=800, unit="seed_text")
    assert differing(compared(tmp_path / "same", *halves, settings)[0]) == set()
    found = differing(compared(tmp_path / "other", halves[0], by["gpt-3.5-turbo"].to_pydict(), settings)[0])
    assert found >= {"mean_words", "vocabulary", "distinct_2", "vectors"}


def test_labels_that_no_longer_fit_their_texts_are_seen(tmp_path: Path) -> None:
    random = np.random.default_rng(4)

    def drawn(number: int, flipped: float) -> dict[str, Any]:
        label = random.integers(0, 2, number)
        held = [
            texts(1, np.random.default_rng(10_000 + one), vocabulary=300)
            for one in random.integers(0, 4000, number)
        ]
        told = np.where(random.random(number) < flipped, 1 - label, label)
        return {
            "text": [
                f"{'goal match' if one else 'bank share'} {text[0]}"
                for one, text in zip(label, held, strict=True)
            ],
            "label": [f"label {one}" for one in told],
        }

    sound = compared(tmp_path / "a", drawn(400, 0), drawn(400, 0))[0]
    assert "vectors with labels" in sound
    assert "vectors with labels" not in differing(sound)
    assert "vectors with labels" in differing(compared(tmp_path / "b", drawn(400, 0), drawn(400, 0.25))[0])


def test_texts_and_labels_that_are_gone_are_seen(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    sound, spoilt = rows(200, random), rows(200, random)
    spoilt["text"] = [None if place % 5 == 0 else text for place, text in enumerate(spoilt["text"])]
    spoilt["label"] = [None if place % 4 == 0 else label for place, label in enumerate(spoilt["label"])]
    found = differing(compared(tmp_path, sound, spoilt)[0])
    assert {"share without text", "share without label"} <= found
