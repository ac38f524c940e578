"""Rows around one direction are one cluster, whatever the order of rows; its medoid is its nearest row."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray import Context
from synthray.curate.cluster import Cluster
from synthray.errors import InputError, RunFailed

MARKS = ("cluster", "cluster_similarity", "cluster_medoid")


def rows(count: int = 90, groups: int = 5) -> tuple[pa.Table, list[int]]:
    """Return vectors around a few directions with ids in no order, and the direction of each."""
    generator = np.random.default_rng(4)
    truth = (np.arange(count) % groups) * (np.arange(count) % 3 > 0)
    held = np.eye(12)[truth] + generator.normal(size=(count, 12)) * 0.08
    ids = [f"{number:04}" for number in generator.permutation(count)]
    return table(held.tolist(), ids), truth.tolist()


def table(vectors: list[Any], ids: list[str] | None = None) -> pa.Table:
    names = ids or [f"{place:04}" for place in range(len(vectors))]
    kind = pa.list_(pa.float32())
    return pa.table({"row_id": pa.array(names, pa.string()), "embedding": pa.array(vectors, kind)})


def marks(out: pa.Table) -> dict[str, tuple[Any, ...]]:
    return {row["row_id"]: tuple(row[name] for name in MARKS) for row in out.to_pylist()}


def test_rows_around_one_direction_are_one_cluster() -> None:
    given, truth = rows()
    out = Cluster(clusters=5)(given)
    assert out["row_id"] == given["row_id"]
    assert [out.schema.field(name).type for name in MARKS] == [pa.int32(), pa.float64(), pa.bool_()]
    found = out["cluster"].to_pylist()
    assert len({*zip(found, truth, strict=True)}) == 5 == len({*found})
    sizes = np.bincount(found)
    assert sizes.argmax() == 0, "0 is the largest"


def test_the_medoid_is_the_row_nearest_to_its_centroid() -> None:
    held = marks(Cluster(clusters=5)(rows()[0]))
    for number in range(5):
        inside = [
            (-similarity, row, medoid) for row, (of, similarity, medoid) in held.items() if of == number
        ]
        assert [row for _, row, medoid in inside if medoid] == [min(inside)[1]]
    assert all(0.8 < similarity <= 1 for _, similarity, _ in held.values())


def test_the_first_of_equal_rows_is_the_medoid() -> None:
    held = marks(Cluster(clusters=2)(table([[0, 1], [1, 0], [0, 2], [1, 0]], list("dcba"))))
    assert {row for row, (_, _, medoid) in held.items() if medoid} == {"a", "b"}
    assert {similarity for _, similarity, _ in held.values()} == {1.0}


def test_the_order_of_rows_decides_nothing_and_the_seed_does() -> None:
    given, _ = rows()
    order = list(range(len(given)))
    random.Random(1).shuffle(order)
    operator = Cluster(clusters=9, sample=40)
    assert marks(operator(given.take(pa.array(order)))) == marks(operator(given))
    other = Cluster(clusters=9, sample=40, context=Context(seed=8))
    assert marks(other(given)) != marks(operator(given))


def test_rows_outside_of_the_sample_have_a_cluster_too() -> None:
    given, truth = rows(300)
    found = Cluster(clusters=5, sample=60)(given)["cluster"].to_pylist()
    assert len({*zip(found, truth, strict=True)}) == 5


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        pytest.param([], [], id="no rows"),
        pytest.param([None, None], [None, None], id="no vectors"),
        pytest.param([None, [0, 0], [1, 0]], [None, None, 0], id="one vector"),
        pytest.param([[1, 0]] * 3, [0] * 3, id="one vector many times"),
    ],
)
def test_more_clusters_than_vectors_are_no_error(vectors: list[Any], expected: list[int | None]) -> None:
    out = Cluster(clusters=7)(table(vectors))
    assert out["cluster"].to_pylist() == expected
    assert [one is None for one in out["cluster_medoid"].to_pylist()] == [one is None for one in expected]


def test_settings_and_columns_that_cannot_work_are_refused() -> None:
    schema = pa.schema([("embedding", pa.list_(pa.float32())), ("text", pa.string())])
    with pytest.raises(InputError, match="clusters is 9, more than the sample of 5 rows; raise sample"):
        Cluster(clusters=9, sample=5).check(schema)
    with pytest.raises(InputError, match="column 'text' must hold lists of numbers"):
        Cluster(clusters=9, embedding="text").check(schema)
    Cluster(clusters=9).check(schema)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (
            [[1, 0], [1, float("nan")]],
            "cluster: the vector of row_id '0001' in 'embedding' holds a value that is not",
        ),
        ([[1, 0], [1, 0, 0]], r"cluster: vectors must be all of one size.*3 numbers \(row_id '0001'\)"),
    ],
)
def test_a_bad_vector_is_told_with_its_row(vectors: list[Any], message: str) -> None:
    with pytest.raises(RunFailed, match=message):
        Cluster(clusters=2)(table(vectors))
