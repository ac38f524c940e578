"""The verdict on each row: which kept row it duplicates, how near it is, and what it is connected with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from synthray.duplicate.choice import GONE, Choice, Pairs, components
from synthray.duplicate.order import begins, runs

if TYPE_CHECKING:
    from synthray.duplicate.choice import Compare
    from synthray.duplicate.search import Found
    from synthray.duplicate.shingle import Places
    from synthray.query import Query


def verdicts(found: Found, threshold: float, places: Places, names: pa.Array, compare: Compare) -> pa.Table:
    """Return `row`, `of`, `similarity`, `cluster` and `number` of the new rows that are near another row.

    `places` orders the rows of `found.involved()`, whose row_ids are `names`: of two that are near, the one
    with the lower place is kept; older rows must have the lowest. `compare` gives the similarity of pairs of
    numbers. `of` and `number` name the nearest kept row with a lower place, and are null where the row is
    kept itself. A `cluster` is what pairs at or above `threshold` connect, by its smallest row_id.
    """
    rows = found.involved()
    held = _Nodes.of(found, rows, places)
    near = found.pairs.at(threshold)
    old = int((rows[held.head] < found.old).sum())
    choice = Choice(Pairs(held.at(near.one), held.at(near.other), near.similarity), len(held.head), old)
    if len(found.members):
        numbers = held.twin[held.head]
        choice.settle_crowds(
            found.crowd,
            held.at(found.members),
            threshold,
            lambda one, other: compare(numbers[one], numbers[other]),
        )
    choice.settle()
    of, similarity = _nearest(choice, held, places)
    cluster = _clusters(choice, held, names)
    said = np.flatnonzero((cluster >= 0) & (rows >= found.old))
    gone = of[said] >= 0
    name = pa.array(of[said], mask=~gone)
    return pa.table(
        {
            "row": names.take(pa.array(said)),
            "of": names.take(name),
            "similarity": pa.array(similarity[said], mask=~gone),
            "cluster": names.take(pa.array(cluster[said])),
            "number": pa.array(rows[of[said]], mask=~gone),
        }
    )


def places(query: Query, prefer: str, names: pa.Array, source: Places, new: int) -> Places:
    """Return the place of each row: older sources first, then `rows` in the order `prefer`, then row_id.

    `names` are the row_ids, `source` numbers where each row is from; those of `new` are among `rows`.
    """
    import pyarrow.compute as pc

    if not prefer.strip():
        key = _ranks(names)
    else:
        sql = (
            f"SELECT row_id FROM (SELECT row_id, {query.ordering(prefer)} AS place FROM rows) ORDER BY place"
        )
        ordered = query.arrow(sql)["row_id"].combine_chunks()
        key = np.asarray(pc.index_in(names, ordered).fill_null(-1)).astype(np.int64)
        key = np.where(source == new, key, _ranks(names))
    place = np.empty(len(names), np.int64)
    place[np.lexsort((key, source))] = np.arange(len(names))
    return place


def _ranks(names: pa.Array) -> Places:
    import pyarrow.compute as pc

    rank = np.empty(len(names), np.int64)
    rank[np.asarray(pc.sort_indices(names))] = np.arange(len(names))
    return rank


@dataclass(frozen=True)
class _Nodes:
    """Rows whose shingles are all the same are one node; nodes are numbered by their first row's place."""

    rows: Places
    twin: Places
    node: Places
    head: Places

    @classmethod
    def of(cls, found: Found, rows: Places, places: Places) -> _Nodes:
        twin = rows.copy()
        twin[np.searchsorted(rows, found.twins)] = found.of
        order = np.lexsort((places, twin))
        first = begins(twin[order])
        heads = order[first]
        by_place = np.argsort(places[heads], kind="stable")
        number = np.empty_like(by_place)
        number[by_place] = np.arange(len(by_place))
        node = np.empty(len(rows), np.int64)
        node[order] = number[np.cumsum(first) - 1]
        return cls(rows, twin, node, heads[by_place])

    def at(self, numbers: Places) -> Places:
        """Return the nodes of rows by their numbers."""
        return self.node[np.searchsorted(self.rows, numbers)]


def _nearest(choice: Choice, held: _Nodes, places: Places) -> tuple[Places, np.ndarray]:
    """Return for each row the nearest kept row before it, -1 where it is kept, and how near that is."""
    gone = choice.state[held.node] == GONE
    is_head = np.zeros(len(held.rows), bool)
    is_head[held.head] = True
    # A twin of a kept row is as near to it as can be.
    of = np.where(gone | is_head, -1, held.head[held.node])
    similarity = np.where(of >= 0, 1.0, np.nan)
    beside = choice.kept_beside()
    order = np.lexsort((beside.other, -beside.similarity, beside.one))
    one, other, near = beside.one[order], beside.other[order], beside.similarity[order]
    rows = np.flatnonzero(gone)
    starts = np.searchsorted(one, held.node[rows])
    sizes = np.searchsorted(one, held.node[rows], "right") - starts
    pair = runs(starts, sizes)
    row = np.repeat(rows, sizes)
    before = places[held.head[other[pair]]] < places[row]
    row, pair = row[before], pair[before]
    first = begins(row)
    of[row[first]] = held.head[other[pair[first]]]
    similarity[row[first]] = near[pair[first]]
    return of, similarity


def _clusters(choice: Choice, held: _Nodes, names: pa.Array) -> Places:
    """Return for each row the row with the smallest row_id of its cluster, -1 where it is alone."""
    cluster = components(choice.pairs.one, choice.pairs.other, len(held.head))[held.node]
    rank = _ranks(names)
    by_name = np.argsort(rank)
    smallest = np.full(len(held.head), len(rank), np.int64)
    np.minimum.at(smallest, cluster, rank)
    alone = np.bincount(cluster, minlength=len(held.head)) == 1
    return np.where(alone[cluster], -1, by_name[np.minimum(smallest[cluster], len(rank) - 1)])
