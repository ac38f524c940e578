"""What is near is what float64 says of each pair by itself, whatever is compared at once and in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray import vectors
from synthray.errors import InputError, RunFailed
from synthray.vectors import Neighbours, Vectors, assigned, check_column, chosen, cosines, kmeans


def made(count: int, size: int = 24, seed: int = 1, groups: int = 8) -> Vectors:
    """Return vectors around a few directions, some of them equal, with ids in no order."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(groups, size))
    held = centres[random.integers(0, groups, count)] + random.normal(size=(count, size)) * 0.4
    held[count // 2 : count // 2 + 5] = held[0]
    ids = [f"{number:05}" for number in random.permutation(count)]
    return Vectors.of(table(held, ids), "embedding", "step")


def table(held: Any, ids: list[str] | None = None) -> pa.Table:
    rows = [None if one is None else list(one) for one in held]
    names = [f"{place:05}" for place in range(len(rows))] if ids is None else ids
    return pa.table(
        {"row_id": pa.array(names, pa.string()), "embedding": pa.array(rows, pa.list_(pa.float64()))}
    )


def by_force(queries: Vectors, held: Vectors, k: int, *, own: bool) -> list[list[tuple[str, float]]]:
    """Return for each query the k best (name, cosine), each pair computed by itself."""
    names, found = held.ids.to_pylist(), []
    for name, one in zip(queries.ids.to_pylist(), queries.unit.astype(np.float64), strict=True):
        near = [round(float(np.dot(one, other)), 6) for other in held.unit.astype(np.float64)]
        listed = sorted(zip((-c for c in near), names, strict=True))
        found.append([(other, -c) for c, other in listed if not own or other != name][:k])
    return found


def named(found: tuple[Any, Any, Any], index: Neighbours, count: int) -> list[list[tuple[str, float]]]:
    lists: list[list[tuple[str, float]]] = [[] for _ in range(count)]
    names = index.vectors.ids.to_pylist()
    for query, place, similarity in zip(*(part.tolist() for part in found), strict=True):
        lists[query].append((names[place], similarity))
    return lists


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda size: monkeypatch.setattr(vectors, "_AT_ONCE", size)


# Reading.


def test_vectors_have_length_1_and_those_without_a_direction_are_left_out() -> None:
    held = Vectors.of(table([[3, 4], None, [0, 0], [1e200, -1e200], [5e-324, 0]]), "embedding", "step")
    assert held.ids.to_pylist() == ["00000", "00003", "00004"]
    assert held.unit.tolist() == pytest.approx(np.array([[0.6, 0.8], [0.5**0.5, -(0.5**0.5)], [1, 0]]))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.int8(), 2)]
)
def test_each_kind_of_list_is_read_whole_or_sliced(kind: pa.DataType) -> None:
    held = table([[1, 0], [3, 4], [0, 2]])
    held = held.set_column(1, "embedding", held["embedding"].cast(pa.list_(pa.float64(), 2)).cast(kind))
    for part, first in ((held, 0), (held.slice(1), 1)):
        read = Vectors.of(part, "embedding", "step")
        assert read.unit.tolist() == pytest.approx(np.array([[1, 0], [0.6, 0.8], [0, 1]])[first:])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None], ids=str)
def test_a_value_that_is_no_finite_number_is_told_with_its_row(value: float | None) -> None:
    with pytest.raises(
        RunFailed, match="step: the vector of row_id '00001' in 'embedding' holds a value that"
    ):
        Vectors.of(table([[1, 0], [1, value]]), "embedding", "step")


@pytest.mark.parametrize("wrong", [[1, 2], [1, 2, 3, 4], []], ids=len)
def test_vectors_of_two_sizes_are_told_with_their_rows(wrong: list[float]) -> None:
    with pytest.raises(RunFailed, match=rf"{len(wrong)} numbers \(row_id '00001'\)"):
        Vectors.of(table([[1, 0, 0], wrong]), "embedding", "step")
    parts = [
        Vectors.of(table([one], [name]), "embedding", "s").table()
        for one, name in (([1], "a"), ([1, 2], "b"))
    ]
    with pytest.raises(RunFailed, match=r"1 numbers \(row_id 'a'\), 2 numbers \(row_id 'b'\)"):
        Vectors.read(parts, "step")


@pytest.mark.parametrize("kind", [pa.string(), pa.float64(), pa.list_(pa.string()), pa.null()], ids=str)
def test_a_column_that_holds_no_lists_of_numbers_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(
        InputError, match=r"column 'e' must hold lists of numbers, such as curate.embedding makes"
    ):
        check_column(pa.schema([("e", kind)]), "e")


def test_vectors_without_numbers_are_no_vectors() -> None:
    with pytest.raises(RunFailed, match=r"not empty, but there are some of 0 numbers \(row_id '00000'\)"):
        Vectors.of(table([[], []]), "embedding", "step")


def test_parts_that_were_written_are_read_in_the_order_of_row_id() -> None:
    held = made(30)
    parts = [Vectors(held.ids[at : at + 7], held.unit[at : at + 7]).table() for at in range(0, 30, 7)]
    empty = Vectors.of(table([None, None]), "embedding", "step").table()
    read = Vectors.read([*parts, empty], "step")
    assert read.ids.to_pylist() == sorted(held.ids.to_pylist())
    assert (read.unit == held.sorted().unit).all()
    assert len(Vectors.read([empty], "step")) == 0


# Neighbours.


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("k", [1, 3, 7, 500], ids="k={}".format)
def test_neighbours_are_those_of_comparing_each_with_each(
    own: bool, k: int, small_blocks: Callable[[int], None]
) -> None:
    held = made(300)
    index = Neighbours(held)
    expected = by_force(held, held, k, own=own)
    assert named(index.of(held, k, own=own), index, 300) == expected
    small_blocks(1000)
    assert named(index.of(held, k, own=own), index, 300) == expected


def test_equal_vectors_stand_by_row_id_and_none_is_its_own_neighbour() -> None:
    held = Vectors.of(table([[1, 1]] * 5 + [[1, 0]], list("edcbaz")), "embedding", "step")
    index = Neighbours(held)
    lists = named(index.of(held, 3, own=True), index, 6)
    assert lists[0] == [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    assert lists[4] == [("b", 1.0), ("c", 1.0), ("d", 1.0)]
    assert lists[5] == [(name, 0.707107) for name in "abc"]


def hardly_different(count: int) -> Vectors:
    """Return vectors that are all different, by less than float32 products can tell."""
    random = np.random.default_rng(6)
    held = random.normal(size=48) + random.normal(size=(count, 48)) * 2e-7
    return Vectors.of(table(held, [f"{at:03}" for at in random.permutation(count)]), "embedding", "step")


def test_what_float32_cannot_tell_apart_stands_by_row_id() -> None:
    held = hardly_different(200)
    index = Neighbours(held)
    assert len(index.distinct) == 200
    assert len({*(held.unit @ held.unit[0]).tolist()}) > 1, "the products must differ by their errors"
    for lists in (
        named(index.of(held, 3, own=False), index, 200),
        named(index.of(held, 3, own=False, cells=index.cells(1), probes=99), index, 200),
    ):
        assert lists == [[("000", 1.0), ("001", 1.0), ("002", 1.0)]] * 200
    assert assigned(held.unit, held.unit)[0].tolist() == [0] * 200


def test_all_cells_give_what_comparing_each_with_each_gives() -> None:
    held = made(400)
    index = Neighbours(held)
    cells = index.cells(3)
    assert len(cells.centroids) > 20
    expected = named(index.of(held, 4, own=True), index, 400)
    assert named(index.of(held, 4, own=True, cells=cells, probes=1000), index, 400) == expected


def test_a_few_cells_find_most_and_what_they_find_does_not_depend_on_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = made(2000, groups=40)
    index = Neighbours(held)
    cells = index.cells(3)
    found = named(index.of(held, 5, own=True, cells=cells, probes=12), index, 2000)
    exact = named(index.of(held, 5, own=True), index, 2000)
    recall = np.mean([len({*one} & {*other}) / 5 for one, other in zip(found, exact, strict=True)])
    assert recall > 0.9, "few are missed"
    few = named(index.of(held, 5, own=True, cells=cells, probes=1), index, 2000)
    assert few != exact, "one cell must not be all"
    monkeypatch.setattr(vectors, "_QUERIES", 37)
    assert named(index.of(held, 5, own=True, cells=cells, probes=12), index, 2000) == found


@pytest.mark.parametrize("own", [True, False])
def test_where_there_is_nobody_nobody_is_near(own: bool) -> None:
    nobody, one = (Vectors.of(table([held]), "embedding", "step") for held in (None, [1, 2]))
    assert [len(part) for part in Neighbours(nobody).of(one, 3, own=own)] == [0, 0, 0]
    assert [len(part) for part in Neighbours(one).of(nobody, 3, own=own)] == [0, 0, 0]
    assert len(Neighbours(one).of(one, 3, own=own)[0]) == (0 if own else 1)


def test_a_cosine_is_never_above_1_and_the_same_for_any_number_of_pairs() -> None:
    held = made(200, size=384).unit
    one, other = np.divmod(np.arange(40_000), 200)
    whole = cosines(held, held, one, other)
    assert whole.max() == 1.0
    assert whole.tolist() == [float(cosines(held, held, one[[at]], other[[at]])[0]) for at in range(40_000)]


# K-means.


def test_kmeans_finds_the_directions_that_vectors_lie_around() -> None:
    random = np.random.default_rng(5)
    centres = np.eye(16)[:6]
    truth = np.repeat(np.arange(6), [50, 40, 30, 20, 10, 5])
    held = centres[truth] + random.normal(size=(155, 16)) * 0.05
    unit = (held / np.linalg.norm(held, axis=1, keepdims=True)).astype(np.float32)
    centroids = kmeans(unit, 6, 3)
    label, similarity = assigned(unit, centroids)
    assert label.tolist() == truth.tolist(), "the largest cluster is the first"
    expected = [
        float(np.dot(one, centroids[at])) for one, at in zip(unit.astype(np.float64), label, strict=True)
    ]
    assert similarity.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_cluster_that_is_empty_begins_again_at_the_vector_furthest_from_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unit = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1]]
    monkeypatch.setattr(vectors, "_begun", lambda *_: np.array([[1, 0, 0], [-1, 0, 0]], np.float32))
    assert kmeans(unit, 2, 1).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_kmeans_is_drawn_by_the_seed_alone() -> None:
    unit = made(500).unit
    assert (kmeans(unit, 20, 1) == kmeans(unit, 20, 1)).all()
    assert not (kmeans(unit, 20, 1) == kmeans(unit, 20, 2)).all()


@pytest.mark.parametrize(("rows", "clusters", "expected"), [(6, 9, 2), (1, 3, 1), (0, 3, 0)])
def test_there_are_no_more_centroids_than_different_vectors(rows: int, clusters: int, expected: int) -> None:
    held = Vectors.of(table([[1, 0], [0, 1]] * (rows // 2) + [[1, 1]] * (rows % 2)), "embedding", "step")
    centroids = kmeans(held.unit, clusters, 1)
    assert len(centroids) == expected
    if rows > 1:
        assert assigned(held.unit, centroids)[1].tolist() == [1.0] * rows


def test_a_vector_between_two_centroids_goes_to_the_first(small_blocks: Callable[[int], None]) -> None:
    centroids = np.array([[0, 1], [1, 0]], np.float32)
    unit = np.array([[0.5**0.5, 0.5**0.5], [1, 0], [0, 1]], np.float32)
    assert assigned(unit, centroids)[0].tolist() == [0, 1, 0]
    small_blocks(1)
    assert assigned(unit, centroids)[0].tolist() == [0, 1, 0]


# The choice.


def chosen_by_force(unit: Any, threshold: float) -> tuple[list[int], list[float | None], list[int]]:
    near = {
        (one, other): round(float(np.dot(unit[one].astype(np.float64), unit[other].astype(np.float64))), 6)
        for one in range(len(unit))
        for other in range(one)
    }
    of: list[int] = []
    group = list(range(len(unit)))
    for one in range(len(unit)):
        kept = [
            (-near[one, other], other)
            for other in range(one)
            if of[other] < 0 and near[one, other] >= threshold
        ]
        of.append(min(kept)[1] if kept else -1)
    for _ in unit:
        for (one, other), similarity in near.items():
            if similarity >= threshold:
                group[one] = group[other] = min(group[one], group[other])
    return of, [None if at < 0 else near[one, at] for one, at in enumerate(of)], group


@pytest.mark.parametrize("threshold", [0.7, 0.9, 1.0])
@pytest.mark.parametrize("at_once", [1 << 24, 900])
def test_what_is_kept_is_what_comparing_each_with_each_says(
    threshold: float, at_once: int, small_blocks: Callable[[int], None]
) -> None:
    unit = made(120, groups=12).unit
    small_blocks(at_once)
    choice = chosen(unit, threshold)
    of, similarity, group = chosen_by_force(unit, threshold)
    assert choice.of.tolist() == of
    assert [None if np.isnan(one) else one for one in choice.similarity.tolist()] == similarity
    assert choice.group.tolist() == group
    assert 5 <= sum(at >= 0 for at in of) < 115, "the vectors must hold both kinds"


def test_a_member_of_a_chain_is_gone_only_when_a_kept_one_is_near() -> None:
    turned = [[np.cos(angle), np.sin(angle)] for angle in np.radians([0, 10, 20, 30])]
    choice = chosen(np.array(turned, np.float32), float(np.cos(np.radians(11))))
    assert (choice.of.tolist(), choice.group.tolist()) == ([-1, 0, -1, 2], [0, 0, 0, 0])
