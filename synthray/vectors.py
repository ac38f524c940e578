"""Vectors of rows: read from a column, compared by cosine, gathered around k-means centroids.

Candidates come from float32 products, whose last digits depend on how many are multiplied at once. Each is
then computed by itself in float64 and rounded to 6 decimals, below which float32 is noise; ties go to the
lower row_id. So no answer depends on blocks, workers or threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthray import duplicate
from synthray.column import is_list, one_array
from synthray.duplicate.choice import components
from synthray.duplicate.order import runs
from synthray.errors import InputError, RunFailed
from synthray.lineage import uniform

SOURCES = (Path(__file__), *duplicate.SOURCES)
"""This source and those it stands on, for fingerprints."""

EXACT = 100_000
"""Among so many different vectors each is compared with each; more are looked for in cells."""

DECIMALS = 6
_MARGIN = 1e-5
"""More than a float32 product of unit vectors and the rounding can be wrong by."""

_AT_ONCE = 1 << 24
_QUERIES = 8192
_ITERATIONS = 20
_SAMPLE_A_CELL = 32

Numbers = np.ndarray[Any, np.dtype[Any]]


def check_column(schema: pa.Schema, name: str, whose: str = "column") -> None:
    """Raise an InputError when the column is there but does not hold lists of numbers."""
    if name not in schema.names:
        return
    kind = schema.field(name).type
    if is_list(kind) and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return
    raise InputError(
        f"{whose} {name!r} must hold lists of numbers, such as curate.embedding makes, but is {kind}"
    )


def check_size(held: Vectors, size: int, who: str) -> None:
    """Raise RunFailed for `who` when vectors are of another size than those that they are compared with."""
    if len(held) and held.unit.shape[1] != size:
        raise RunFailed(
            f"{who}: the vector of row_id {held.ids[0].as_py()!r} has {held.unit.shape[1]} numbers, but what "
            f"it is compared with has {size}; make both by the same model and settings"
        )


@dataclass(frozen=True)
class Vectors:
    """The row_ids of rows that have a vector with a direction, and the vectors, float32 and of length 1."""

    ids: pa.Array
    unit: Numbers

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, table: pa.Table, column: str, who: str, *, key: str = "row_id") -> Vectors:
        """Return the vectors of a column; null ones and those of zeros have no direction and are left out.

        Raises RunFailed for `who` where sizes differ or a value is not a finite number.
        """
        ids, held = one_array(table[key]).cast(pa.string()), one_array(table[column])
        there = pc.is_valid(held)
        ids, held = ids.filter(there), held.filter(there)
        size = _size(ids, held, who)
        unit = np.empty((len(ids), size), np.float32)
        whole = np.zeros(len(ids), bool)
        for start, stop in _spans(len(ids), max(1, _AT_ONCE // 8 // max(1, size))):
            part = held.slice(start, stop - start)
            values = np.asarray(part.flatten().cast(pa.float64(), safe=False)).reshape(-1, size)
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise RunFailed(
                    f"{who}: the vector of row_id {ids[start + int(bad[0])].as_py()!r} in {column!r} holds a "
                    "value that is not a finite number; drop such rows by a where, or embed them again"
                )
            largest = np.abs(values).max(axis=1, initial=0.0)
            whole[start:stop] = largest > 0
            values = values / np.where(largest > 0, largest, 1.0)[:, None]
            length = np.sqrt((values * values).sum(axis=1))
            unit[start:stop] = values / np.where(length > 0, length, 1.0)[:, None]
        return cls(ids, unit) if whole.all() else cls(ids.filter(pa.array(whole)), unit[whole])

    def sorted(self) -> Vectors:
        """Return them in the order of row_id."""
        order = np.asarray(pc.sort_indices(self.ids))
        return Vectors(self.ids.take(pa.array(order)), self.unit[order])

    def table(self) -> pa.Table:
        """Return `row_id` and `unit`, as read() takes them."""
        flat = pa.array(self.unit.reshape(-1), pa.float32())
        size = self.unit.shape[1]
        unit = pa.FixedSizeListArray.from_arrays(flat, size) if size else pa.nulls(len(self), _unit(0))
        return pa.table({"row_id": self.ids, "unit": unit})

    @classmethod
    def read(cls, tables: list[pa.Table], who: str) -> Vectors:
        """Return the vectors that table() made of parts, in the order of row_id."""
        tables = [table for table in tables if len(table)]
        sizes = {table["unit"].type.list_size: table["row_id"][0].as_py() for table in tables}
        if len(sizes) > 1:
            raise RunFailed(_of_two_sizes(who, sizes))
        if not tables:
            return cls(pa.array([], pa.string()), np.zeros((0, 0), np.float32))
        size = next(iter(sizes))
        parts = [np.asarray(one_array(table["unit"]).flatten()).reshape(-1, size) for table in tables]
        ids = pa.concat_arrays([one_array(table["row_id"]) for table in tables])
        return cls(ids, np.concatenate(parts)).sorted()


def _unit(size: int) -> pa.DataType:
    return pa.list_(pa.float32(), size)


def _size(ids: pa.Array, held: pa.Array, who: str) -> int:
    sizes, first = np.unique(np.asarray(pc.list_value_length(held)), return_index=True)
    if len(sizes) > 1 or 0 in sizes:
        raise RunFailed(
            _of_two_sizes(
                who,
                {
                    int(size): ids[int(place)].as_py()
                    for size, place in zip(sizes[:2], first[:2], strict=True)
                },
            )
        )
    return int(sizes[0]) if len(sizes) else 0


def _of_two_sizes(who: str, sizes: dict[int, str]) -> str:
    found = ", ".join(f"{size} numbers (row_id {row!r})" for size, row in sorted(sizes.items()))
    return f"{who}: vectors must be all of one size and not empty, but there are some of {found}"


def _spans(count: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(count, start + size)


def cosines(ones: Numbers, others: Numbers, one: Numbers, other: Numbers) -> Numbers:
    """Return the cosine of each pair of places among unit vectors, rounded."""
    out = np.empty(len(one))
    for start, stop in _spans(len(one), max(1, _AT_ONCE // 8 // max(1, ones.shape[1]))):
        left = ones[one[start:stop]].astype(np.float64)
        out[start:stop] = (left * others[other[start:stop]]).sum(axis=1)
    return np.round(np.clip(out, -1.0, 1.0), DECIMALS) + 0.0


# Neighbours.


@dataclass(frozen=True)
class Cells:
    """Centroids, and in which of their cells each vector lies."""

    centroids: Numbers
    label: Numbers


class Neighbours:
    """Vectors in which the nearest of any vector are looked for; equal ones are compared once."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors.sorted()
        unit = np.ascontiguousarray(self.vectors.unit)
        if unit.size:
            whole = unit.view(np.dtype((np.void, unit.dtype.itemsize * unit.shape[1]))).reshape(-1)
            _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
            inverse = inverse.reshape(-1)
        else:
            first, inverse = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.distinct = unit[first]
        self.members = np.argsort(inverse, kind="stable")
        """Places in the order of row_id, those of equal vectors together."""
        self.sizes = np.bincount(inverse, minlength=len(first))
        self.starts = np.cumsum(self.sizes) - self.sizes

    def cells(self, seed: int) -> Cells:
        """Cut the vectors into cells around k-means centroids, about two times as many as the square root."""
        count = max(1, round(2 * len(self.distinct) ** 0.5))
        stride = max(1, len(self.distinct) // (count * _SAMPLE_A_CELL))
        centroids = kmeans(self.distinct[::stride], count, seed)
        return Cells(centroids, assigned(self.distinct, centroids)[0])

    def of(
        self, queries: Vectors, k: int, *, own: bool, cells: Cells | None = None, probes: int = 0
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Return for queries the places of the k most similar vectors: (query, place, similarity) triples.

        They stand by query, most similar first, ties by row_id. With `own` a vector with the query's row_id
        is left out. With `cells` each query looks into the `probes` cells whose centroids are nearest.
        """
        most = k + 1 if own else k
        block = _QUERIES if cells else max(1, _AT_ONCE // max(1, len(self.distinct)))
        found = [
            self._expanded(start, *self._candidates(queries.unit[start:stop], most, cells, probes), most)
            for start, stop in _spans(len(queries), block)
        ]
        query, place, similarity = (
            (np.concatenate(part) for part in zip(*found, strict=True)) if found else _NONE
        )
        if own:
            same = np.asarray(pc.index_in(queries.ids, self.vectors.ids).fill_null(-1))
            others = place != same[query]
            query, place, similarity = query[others], place[others], similarity[others]
        first = np.searchsorted(query, query)
        nearest = np.arange(len(query)) - first < k
        return query[nearest], place[nearest], similarity[nearest]

    def _candidates(
        self, unit: Numbers, most: int, cells: Cells | None, probes: int
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Return (query, distinct vector, cosine) of at least the `most` nearest of each."""
        if not len(self.distinct):
            return _NONE
        one, other = self._by_all(unit, most) if cells is None else self._by_cells(unit, most, cells, probes)
        return one, other, cosines(unit, self.distinct, one, other)

    def _by_all(self, unit: Numbers, most: int) -> tuple[Numbers, Numbers]:
        product = unit @ self.distinct.T
        # The nearest of a part are a bound for the nearest of all, and most of the rest is below it.
        stride = max(1, product.shape[1] // max(4096, 8 * most))
        near = np.flatnonzero(product >= _least(product[:, ::stride], most)[:, None] - _MARGIN)
        one, other = np.divmod(near, product.shape[1])
        return _near_the_best(one, other, product.reshape(-1)[near], most)

    def _by_cells(self, unit: Numbers, most: int, cells: Cells, probes: int) -> tuple[Numbers, Numbers]:
        # Which cells are looked into decides the answer, so their last digits must not depend on the block.
        to_centroid = (unit.astype(np.float64) @ cells.centroids.T.astype(np.float64)).round(9)
        probed = np.argsort(-to_centroid, axis=1, kind="stable")[:, :probes]
        order = np.argsort(cells.label, kind="stable")
        ends = np.searchsorted(cells.label[order], np.arange(len(cells.centroids) + 1))
        bound = np.full(len(unit), -np.inf, np.float32)
        found: list[tuple[Numbers, Numbers, Numbers]] = []
        # The nearest cell comes first: it bounds what the others can add.
        for ranks in (probed[:, :1], probed[:, 1:]):
            by_cell = np.argsort(ranks.reshape(-1), kind="stable")
            query = np.repeat(np.arange(len(unit)), ranks.shape[1])[by_cell]
            numbers, starts = np.unique(ranks.reshape(-1)[by_cell], return_index=True)
            for number, all_asked in zip(numbers, np.split(query, starts[1:]), strict=False):
                inside = order[ends[number] : ends[number + 1]]
                for start, stop in _spans(len(all_asked), max(1, _AT_ONCE // max(1, len(inside)))):
                    asked = all_asked[start:stop]
                    product = unit[asked] @ self.distinct[inside].T
                    bound[asked] = np.maximum(bound[asked], _least(product, most))
                    near = np.nonzero(product >= bound[asked][:, None] - _MARGIN)
                    found.append((asked[near[0]], inside[near[1]], product[near]))
        one, other, product = (np.concatenate(part) for part in zip(*found, strict=True))
        return _near_the_best(one, other, product, most)

    def _expanded(
        self, start: int, one: Numbers, other: Numbers, similarity: Numbers, most: int
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Return the rows that stand behind different vectors, at most so many for each."""
        sizes = np.minimum(self.sizes[other], most)
        place = self.members[runs(self.starts[other], sizes)]
        query, similarity = np.repeat(one, sizes) + start, np.repeat(similarity, sizes)
        order = np.lexsort((place, -similarity, query))
        return query[order], place[order], similarity[order]


_NONE = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _least(product: Numbers, most: int) -> Numbers:
    """Return what the `most`-th largest of each line is, or nothing where there are not so many."""
    width = product.shape[1]
    if width < most:
        return np.full(len(product), -np.inf, np.float32)
    least: Numbers = np.partition(product, width - most, axis=1)[:, width - most]
    return least


def _near_the_best(one: Numbers, other: Numbers, product: Numbers, most: int) -> tuple[Numbers, Numbers]:
    """Return those pairs, sorted by `one`, that can be among the `most` best of each."""
    order = np.lexsort((-product, one))
    one, other, product = one[order], other[order], product[order]
    first = np.searchsorted(one, one)
    last = np.minimum(first + most - 1, np.searchsorted(one, one, "right") - 1)
    can = product >= product[last] - 2 * _MARGIN
    return one[can], other[can]


# K-means.


def kmeans(unit: Numbers, clusters: int, seed: int) -> Numbers:
    """Return spherical k-means centroids of unit vectors, those of the largest clusters first.

    They begin as by greedy k-means++ and move at most 20 times. Where there are fewer different vectors than
    `clusters`, each has its own. The order of the vectors is part of the answer.
    """
    centroids = _begun(unit, clusters, np.random.default_rng(int(uniform("kmeans", seed) * 2**53)))
    label = np.full(len(unit), -1)
    for _ in range(_ITERATIONS):
        before = label
        label, similarity = assigned(unit, centroids)
        if (label == before).all():
            break
        centroids = _moved(unit, label, similarity, centroids)
    sizes = np.bincount(label, minlength=len(centroids)) if len(unit) else np.zeros(0, np.int64)
    return centroids[np.argsort(-sizes, kind="stable")]


def assigned(unit: Numbers, centroids: Numbers) -> tuple[Numbers, Numbers]:
    """Return for each vector the number of the nearest centroid (ties: the lowest) and its cosine."""
    label = np.zeros(len(unit), np.int64)
    for start, stop in _spans(len(unit), max(1, _AT_ONCE // max(1, len(centroids)))):
        product = unit[start:stop] @ centroids.T
        label[start:stop] = product.argmax(axis=1)
        close = product >= product.max(axis=1, keepdims=True) - _MARGIN
        unsure = np.flatnonzero(close.sum(axis=1) > 1)
        one, other = np.nonzero(close[unsure])
        exact = cosines(unit[start:stop], centroids, unsure[one], other)
        order = np.lexsort((other, -exact, one))
        first = np.unique(one[order], return_index=True)[1]
        label[start + unsure] = other[order][first]
    return label, cosines(unit, centroids, np.arange(len(unit)), label)


def _begun(unit: Numbers, clusters: int, random: np.random.Generator) -> Numbers:
    """Return different vectors, each the best of a few that were drawn by their distance to those before."""
    if not len(unit):
        return unit
    trials = 2 + int(np.log(max(1, clusters)))
    chosen = [int(random.integers(len(unit)))]
    distance = _distance(unit, unit[chosen])[:, 0]
    while len(chosen) < clusters:
        total = np.cumsum(distance, dtype=np.float64)
        if total[-1] <= 0:
            break  # every vector is one of those that are chosen
        drawn = np.searchsorted(total, random.random(trials) * total[-1], "right")
        tried = np.minimum(_distance(unit, unit[drawn]), distance[:, None])
        best = int(tried.sum(axis=0, dtype=np.float64).round(DECIMALS).argmin())
        chosen.append(int(drawn[best]))
        distance = tried[:, best]
    return unit[chosen].copy()


def _distance(unit: Numbers, others: Numbers) -> Numbers:
    """Return one less the cosine; what float32 cannot tell from nothing is nothing."""
    distance = 1 - unit @ others.T
    distance[distance < _MARGIN] = 0
    return distance


def _moved(unit: Numbers, label: Numbers, similarity: Numbers, centroids: Numbers) -> Numbers:
    order = np.argsort(label, kind="stable")
    there, starts = np.unique(label[order], return_index=True)
    sums = np.add.reduceat(unit[order].astype(np.float64), starts, axis=0)
    length = np.sqrt((sums * sums).sum(axis=1))
    moved = centroids.copy()
    straight = length > 0
    moved[there[straight]] = sums[straight] / length[straight, None]
    empty = np.setdiff1d(np.arange(len(centroids)), there)
    # An empty cluster begins again at the vector that is furthest from its centroid.
    moved[empty] = unit[np.argsort(similarity, kind="stable")[: len(empty)]]
    return moved


# Near ones.


@dataclass(frozen=True)
class Choice:
    """What becomes of vectors in the order in which they are preferred.

    `of` is the place of the nearest kept vector before one that is not kept, else -1; `similarity` is theirs;
    `group` is the lowest place that pairs at or above the threshold connect a vector with.
    """

    of: Numbers
    similarity: Numbers
    group: Numbers


def chosen(unit: Numbers, threshold: float) -> Choice:
    """Keep each vector unless a kept one before it is at or above `threshold`."""
    count = len(unit)
    of, similarity = np.full(count, -1), np.full(count, np.nan)
    kept, group = np.ones(count, bool), np.arange(count)
    for start, stop in _spans(count, max(1, _AT_ONCE // max(1, count))):
        near = _near(unit, start, stop, threshold)
        group[:stop] = _joined(group[:stop], near, start)
        for row in range(start, stop):
            before = np.flatnonzero(near[row - start] & kept[:stop])
            if len(before):
                kept[row] = False
                exact = cosines(unit, unit, np.full(len(before), row), before)
                of[row], similarity[row] = before[exact.argmax()], exact.max()
    return Choice(of, similarity, group)


def _near(unit: Numbers, start: int, stop: int, threshold: float) -> Numbers:
    """Return which of the vectors before each of `start` to `stop` are at or above the threshold."""
    product = unit[start:stop] @ unit[:stop].T
    near: Numbers = product >= threshold
    unsure = np.nonzero(np.abs(product - threshold) < _MARGIN)
    near[unsure] = cosines(unit, unit, unsure[0] + start, unsure[1]) >= threshold
    near &= np.arange(stop)[None, :] < np.arange(start, stop)[:, None]
    return near


def _joined(group: Numbers, near: Numbers, start: int) -> Numbers:
    """Return the groups with more pairs; each is named by its lowest place."""
    one, other = np.nonzero(near)
    ties = np.concatenate([np.arange(len(group)), one + start]), np.concatenate([group, other])
    return components(*ties, len(group))
