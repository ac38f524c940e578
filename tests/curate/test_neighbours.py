"""Neighbours are the most similar rows, never the row itself, by the names that the run or the table gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray import Context, vectors
from synthray.curate.embedding import Embedding
from synthray.curate.neighbours import Neighbours
from synthray.errors import InputError, RunFailed
from synthray.table import Table

VECTORS = pa.list_(pa.float32())


def table(held: dict[str, Any], key: str = "row_id") -> pa.Table:
    return pa.table({key: pa.array(held, pa.string()), "embedding": pa.array(held.values(), VECTORS)})


def turned(*degrees: float) -> list[list[float]]:
    return [[np.cos(one), np.sin(one)] for one in np.radians(degrees)]


def lists(out: pa.Table) -> dict[str, tuple[Any, Any]]:
    return {row["row_id"]: (row["neighbours"], row["neighbour_similarities"]) for row in out.to_pylist()}


ROWS = dict(zip("abcde", [*turned(0, 10, 30, 100), None], strict=True))


def test_the_most_similar_stand_first_and_none_is_its_own() -> None:
    out = Neighbours(k=2)(table(ROWS))
    assert out["row_id"].to_pylist() == list("abcde")
    assert out.schema.field("neighbour_similarities").type == pa.list_(pa.float64())
    found = lists(out)
    assert [found[row][0] for row in "abcde"] == [["b", "c"], ["a", "c"], ["b", "a"], ["c", "b"], None]
    assert found["a"][1] == pytest.approx(np.cos(np.radians([10, 30])), abs=1e-6)
    assert found["e"] == (None, None)


def test_below_the_threshold_nobody_is_a_neighbour() -> None:
    found = lists(Neighbours(k=9, threshold=0.9)(table(ROWS)))
    assert [found[row][0] for row in "abcde"] == [["b"], ["a", "c"], ["b"], [], None]


def test_equal_rows_stand_by_row_id() -> None:
    found = lists(Neighbours(k=2)(table({row: [1, 2] for row in "dcba"})))
    assert found["a"] == (["b", "c"], [1.0, 1.0])
    assert found["d"] == (["a", "b"], [1.0, 1.0])


@pytest.mark.parametrize("size", [0, 1, 2], ids="rows={}".format)
def test_k_may_be_larger_than_the_rows(size: int) -> None:
    out = Neighbours(k=50)(table(dict(list(ROWS.items())[:size])))
    assert out["neighbours"].to_pylist() == {0: [], 1: [[]], 2: [["b"], ["a"]]}[size]


def against(held: dict[str, Any], path: Path, key: str = "name", **settings: Any) -> Neighbours:
    pq.write_table(table(held, key), path / "others.parquet")
    others = Table((str(path / "others.parquet"),), "parquet")
    context = Context(tables={"others": others}, schemas={"others": table(held, key).schema})
    return Neighbours(against="others", id=key, context=context, **settings)


def test_a_named_tables_rows_are_neighbours_by_its_own_names(tmp_path: Path) -> None:
    others = dict(zip(["a", "x", "y", "z"], [*turned(0, 95, 12), None], strict=True))
    operator = against(others, tmp_path, k=2)
    operator.check(table(ROWS).schema)
    assert operator.table_names == ("others",)
    found = lists(operator(table(ROWS)))
    assert [found[row][0] for row in "abcde"] == [["a", "y"], ["y", "a"], ["y", "a"], ["x", "y"], None]
    assert found["a"][1][0] == 1.0, "a row of another table may have the same name and the same vector"


def test_more_vectors_than_are_compared_with_each_other_are_looked_for_in_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(20, 16))
    held = centres[np.arange(600) % 20] + generator.normal(size=(600, 16)) * 0.3
    given = table({f"{number:03}": one for number, one in enumerate(held.tolist())})
    exact = lists(Neighbours(k=5)(given))
    monkeypatch.setattr(vectors, "EXACT", 500)
    assert lists(Neighbours(k=5, probes=0)(given)) == exact
    found = lists(Neighbours(k=5, probes=6)(given))
    recall = np.mean([len({*found[row][0]} & {*exact[row][0]}) / 5 for row in exact])
    assert recall > 0.9
    assert lists(Neighbours(k=5, probes=1)(given)) != exact, "one cell must not be all"


def test_columns_and_tables_that_cannot_work_are_refused(tmp_path: Path) -> None:
    schema = table(ROWS).schema
    with pytest.raises(InputError, match="column 'row_id' must hold lists of numbers"):
        Neighbours(embedding="row_id").check(schema)
    with pytest.raises(InputError, match=r"id \('name'\) is a column of the table that against names"):
        Neighbours(id="name").check(schema)
    operator = against(ROWS, tmp_path, key="named")
    with pytest.raises(InputError, match="the table 'others' has no column 'name'; did you mean 'named'"):
        Neighbours(against="others", id="name", context=operator.context).check(schema)
    with pytest.raises(InputError, match="the table 'others': column 'named' must hold lists of numbers"):
        Neighbours(against="others", id="named", embedding="named", context=operator.context).check(
            pa.schema([("named", VECTORS)])
        )


def test_vectors_of_another_size_are_told(tmp_path: Path) -> None:
    operator = against({"x": [1, 2, 3]}, tmp_path)
    with pytest.raises(RunFailed, match="row_id 'a' has 2 numbers, but what it is compared with has 3"):
        operator(table(ROWS))
    with pytest.raises(RunFailed, match="neighbours: table 'others': the vector of row_id 'x'"):
        against({"x": [1, float("inf")]}, tmp_path)(table(ROWS))


def same_label(**settings: Any) -> float:
    """Return how often a bank's customer and the nearest of the others want the same of it."""
    rows = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "banking77.parquet").slice(0, 1_500)
    rows = rows.append_column("row_id", pa.array([f"{place:05}" for place in range(len(rows))]))
    rows = Neighbours(k=1)(Embedding(text="text", **settings)(rows))
    labels = dict(zip(rows["row_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    return float(np.mean([labels[row["neighbours"][0]] == row["label"] for row in rows.to_pylist()]))


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_the_nearest_question_wants_the_same_by_spelling_alone_of_four_in_five() -> None:
    assert same_label() > 0.8


@pytest.mark.embed
@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_a_real_model_sees_more_than_spelling(minilm: str) -> None:
    assert same_label(by="sentence_transformers", name=minilm) > same_label() + 0.03
