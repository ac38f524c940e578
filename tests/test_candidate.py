"""What may be chosen: nothing that is held out, nothing twice, and of each group the best or its medoids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray import vectors
from synthray.candidate import Candidates, Counts, Held, Run, hashed, joined, medoids, normal
from synthray.errors import RunFailed

VECTOR = pa.list_(pa.float64())
KINDS = pa.schema([("text", pa.string()), ("label", pa.string())])
POOL = Candidates("demonstrations", 3, KINDS, ("text",))


def table(*texts: str | None, labels: str = "", **columns: Any) -> pa.Table:
    """Return rows named a, b, c ..."""
    names = [chr(ord("a") + number) for number in range(len(texts))]
    given = {"row_id": names, "text": pa.array(texts, pa.string()), "label": list(labels or "x" * len(texts))}
    return pa.table({**given, **columns})


def written(folder: Path, candidates: Candidates = POOL, **relations: Any) -> tuple[list[str], list[Counts]]:
    """Return the row_ids of the candidates in their order, and the counts."""
    hidden = {name: relations.pop(name) for name in list(relations) if name.startswith("test")}
    counts = candidates.write(relations, hidden, folder)
    return Held(folder).ids.to_pylist(), counts


def test_a_text_of_the_test_set_is_held_out_whatever_its_case_spaces_and_label(tmp_path: Path) -> None:
    pool = table(
        "Cats purr.",
        "\uff23\uff21\uff34\uff33\u00a0 purr.",
        "Dogs\tbark.\n",
        "dogs bark",
        "",
        None,
        labels="uvwxyz",
    )
    tests = pa.table({"text": ["cats  PURR.", "dogs bark.", "", None], "label": ["p", "q", "r", "s"]})
    ids, [counts] = written(tmp_path, pool=pool, test=tests)
    assert ids == ["d", "e", "f"]
    assert counts == Counts("pool", given=6, held_out=3, rows=3)


def test_columns_of_other_names_are_compared_too_and_other_types_are_not(tmp_path: Path) -> None:
    pool = table("cats purr", "dogs bark", "7")
    first = pa.table({"sentence": ["Dogs bark"], "number": [7]})
    second = pa.table({"number": [7]})
    ids, [counts] = written(tmp_path, pool=pool, test=first, test_too=second)
    assert ids == ["a", "c"]
    assert counts.held_out == 1


def test_texts_in_lists_and_structs_are_held_out_too(tmp_path: Path) -> None:
    pool = table("Secret  question", "tag", "fine", "key", "note")
    messages = [[{"role": "user", "content": "secret question"}], [], None]
    test = pa.table(
        {
            "messages": pa.array(messages),
            "tags": pa.array([["Tag"], None, []]),
            "more": pa.array([[("key", 1)], None, []], pa.map_(pa.string(), pa.int64())),
            "nested": pa.array([{"a": ["NOTE"]}, None, {"a": None}]),
        }
    )
    ids, [counts] = written(tmp_path, pool=pool, test=test)
    assert (ids, counts.held_out) == (["c"], 4)


def test_of_rows_that_are_known_by_two_texts_one_that_is_held_out_is_enough(tmp_path: Path) -> None:
    pool = table("a man", "a man", "a dog", "a cat", other=["sleeps", "walks", "walks", None])
    candidates = replace(POOL, text=("text", "other"))
    assert written(tmp_path / "1", candidates, pool=pool)[0] == list("abcd")
    ids, _ = written(tmp_path / "2", candidates, pool=pool, test=pa.table({"premise": ["Walks"]}))
    assert ids == ["a", "d"]


def test_of_rows_that_say_the_same_the_first_pools_then_the_best_is_left(tmp_path: Path) -> None:
    pool = table("cats", "Cats ", "dogs", "birds", score=[1, 2, 3, 4])
    seeds = pa.table({"row_id": ["s", "d"], "text": ["DOGS", "fish"], "label": ["x", "x"], "score": [0, 0]})
    ids, counts = written(tmp_path, replace(POOL, order="score DESC", top=9), seeds=seeds, pool=pool)
    # The row d is in both pools, with other texts; the first one's counts.
    assert ids == ["d", "s", "b"]
    assert [one.rows for one in counts] == [2, 1]


def test_each_group_keeps_its_best(tmp_path: Path) -> None:
    score = np.random.default_rng(0).permutation(12)
    held = [None if one == 3 else float(one) for one in score]
    pool = table(*map(str, range(12)), labels="ppppqqqqrrrr", score=pa.array(held, pa.float64()))
    for settings in ({"balance": "label"}, {"match": "label"}):
        candidates = replace(POOL, order="score", top=2, **settings)
        ids, _ = written(tmp_path / str(settings), candidates, pool=pool)
        expected = [
            row_id
            for label in "pqr"
            for row_id in sorted(
                sorted(
                    (row for row in pool.to_pylist() if row["label"] == label),
                    key=lambda row: (row["score"] is None, row["score"] or 0.0),
                )[:2],
                key=lambda row: row["row_id"],
            )
        ]
        assert ids == [row["row_id"] for row in expected]
    assert len(written(tmp_path / "all", replace(POOL, order="score", top=2), pool=pool)[0]) == 2


def test_what_is_held_out_does_not_take_a_place_among_the_best(tmp_path: Path) -> None:
    pool = table("one", "two", "three", score=[1, 2, 3])
    ids, _ = written(
        tmp_path, replace(POOL, order="score", top=1), pool=pool, test=pa.table({"text": ["ONE"]})
    )
    assert ids == ["b"]


def test_rows_without_a_value_of_the_group_are_left_out(tmp_path: Path) -> None:
    pool = table(*"uvw", leaf=[1, None, 2])
    ids, [counts] = written(tmp_path, replace(POOL, match="leaf"), pool=pool)
    assert ids == ["a", "c"]
    assert counts == Counts("pool", 3, 0, 2)
    assert Held(tmp_path).runs == [Run(0, "1", None, 0, 1), Run(0, "2", None, 1, 2)]


def blobs(count: int, centres: int) -> np.ndarray[Any, Any]:
    """Return points around centres that are far apart, a round of all after another."""
    generator = np.random.default_rng(5)
    around = np.eye(centres, 8)
    return around[np.arange(count) % centres] + generator.normal(size=(count, 8)) * 0.1


def test_medoids_are_the_points_nearest_to_the_mean_of_each_blob() -> None:
    points = blobs(60, 4)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    expected = []
    for blob in range(4):
        own = unit[blob::4]
        mean = own.sum(axis=0)
        expected.append(blob + 4 * int((own @ mean).argmax()))
    assert medoids(unit.astype(np.float32), 4, 0).tolist() == sorted(expected)
    assert medoids(unit[:3], 4, 0).tolist() == [0, 1, 2]


def test_medoids_are_of_each_label_and_have_a_vector(tmp_path: Path) -> None:
    points = blobs(60, 4)
    labels = "".join("xy"[number % 4 // 2] for number in range(60))
    pool = table(*map(str, range(60)), labels=labels, vector=pa.array([None, *points[1:].tolist()], VECTOR))
    candidates = replace(POOL, embedding="vector", balance="label", medoids=2)
    ids, [counts] = written(tmp_path, candidates, pool=pool)
    assert counts.rows == len(ids) == 4
    assert "a" not in ids, "it has no vector"
    assert sorted((ord(one) - ord("a")) % 4 for one in ids) == [0, 1, 2, 3]
    held = Held(tmp_path)
    assert [(run.label, run.stop - run.start) for run in held.runs] == [("x", 2), ("y", 2)]
    places = [ord(one) - ord("a") for one in ids]
    lengths = np.linalg.norm(points[places], axis=1, keepdims=True)
    np.testing.assert_allclose(held.unit, points[places] / lengths, rtol=1e-6)


def test_cells_are_cut_once_for_large_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "EXACT", 30)
    pool = table(
        *map(str, range(50)), labels="x" * 40 + "y" * 10, vector=pa.array(blobs(50, 4).tolist(), VECTOR)
    )
    candidates = replace(POOL, embedding="vector", balance="label", searched=True, probes=2)
    written(tmp_path, candidates, pool=pool)
    held = Held(tmp_path)
    assert [held.searched(run)[1] is not None for run in held.runs] == [True, False]
    assert held.searched(held.runs[0]) is held.searched(held.runs[0])


def test_rows_of_files_are_named_by_their_content(tmp_path: Path) -> None:
    pool = table(*"uvw").drop_columns(["row_id"])
    one = written(tmp_path / "1", pool=pool)[0]
    other = written(tmp_path / "2", pool=pool.take(pa.array([2, 0, 1])))[0]
    assert one == other
    assert len({*one}) == 3


def test_names_that_repeat_are_told(tmp_path: Path) -> None:
    twice = table("u", "v").set_column(0, "row_id", pa.array(["a", "a"]))
    with pytest.raises(RunFailed, match="pool: 2 rows have row_id 'a'"):
        written(tmp_path, pool=twice)


def test_the_order_of_a_table_changes_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    pool = table(
        *map(str, range(80)),
        labels="xyz" * 26 + "xy",
        vector=pa.array(generator.normal(size=(80, 5)).tolist(), VECTOR),
    )
    candidates = replace(POOL, embedding="vector", balance="label", medoids=6, order="length(text)", top=20)
    one = written(tmp_path / "1", candidates, pool=pool)[0]
    other = written(tmp_path / "2", candidates, pool=pool.take(pa.array(generator.permutation(80))))[0]
    assert one == other
    assert np.array_equal(Held(tmp_path / "1").unit, Held(tmp_path / "2").unit)


def test_texts_are_normal_hashed_and_joined() -> None:
    texts = pa.array(["  \uff21\u00a0b\n C ", "", "  ", None])
    assert normal(texts).to_pylist() == ["a b c", None, None, None]
    assert hashed(texts).null_count == 3
    assert hashed(pa.array(["A b  c"]))[0] == hashed(texts)[0]
    two = pa.table({"one": ["a", None, None], "other": ["b", "c", None]})
    assert joined(two, ["one", "other"]).to_pylist() == ["a\nb", "\nc", None]
    assert joined(two, ["one"]).to_pylist() == ["a", None, None]
