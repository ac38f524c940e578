"""Signatures: the MinHash of each text (Broder 1997), bit for bit datasketch's, beside its shingles."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from synthray.column import one_array

if TYPE_CHECKING:
    from synthray.duplicate.shingle import Numbers, Places, Shingles

_AT_ONCE = 1 << 16
"""Shingles that are permuted together: what fits into a core's cache."""


def signed(rows: pa.Table, text: str, shingles: Shingles, permutations: int) -> pa.Table:
    """Return row_id, `shingles`, `content` and `s0` to `s127` of the rows whose text has words.

    `shingles` are ascending hashes of 48 bits. `content` is equal where all shingles are. `s0` and so on
    are the values of datasketch's MinHash (scheme affine32, seed 1) over the lower 32 bits of the shingles.
    """
    hashes, ends = shingles.of(one_array(rows[text]))
    has = np.flatnonzero(np.diff(ends) > 0)
    ends = np.concatenate([ends[has], ends[-1:]])
    columns = {
        "row_id": one_array(rows["row_id"]).take(pa.array(has)),
        "shingles": pa.LargeListArray.from_arrays(pa.array(ends), pa.array(hashes)),
        "content": pa.array(_content(hashes, ends)),
    }
    values = minhash(hashes, ends, permutations)
    return pa.table(columns | {f"s{number}": pa.array(line) for number, line in enumerate(values)})


def minhash(hashes: Numbers, ends: Places, permutations: int) -> np.ndarray:
    """Return the signatures of texts, a row for each permutation; no text may be without shingles."""
    from datasketch import MinHash
    from datasketch.minhash import _fmix

    factors, terms = MinHash(num_perm=permutations).permutations
    mixed = _fmix(hashes.astype(np.uint32), 32)
    values = np.empty((permutations, len(ends) - 1), np.uint32)
    first = 0
    while first < len(ends) - 1:
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + _AT_ONCE, "right")) - 1)
        part = mixed[ends[first] : ends[last]]
        starts = ends[first:last] - ends[first]
        for number in range(permutations):
            values[number, first:last] = np.minimum.reduceat(part * factors[number] + terms[number], starts)
        first = last
    return values


@dataclass(frozen=True)
class Signatures:
    """Signatures in files (memory is mapped) or tables; a text's number is its place in all of them."""

    sources: tuple[str | pa.Table, ...]

    @functools.cached_property
    def tables(self) -> list[pa.Table]:
        """The tables."""
        return [
            pa.ipc.open_file(pa.memory_map(source)).read_all() if isinstance(source, str) else source
            for source in self.sources
        ]

    @functools.cached_property
    def starts(self) -> Places:
        """The number of each file's first text, and after them how many texts there are."""
        return np.cumsum([0, *(len(table) for table in self.tables)])

    def __len__(self) -> int:
        """Return how many texts there are."""
        return int(self.starts[-1])

    def __reduce__(self) -> tuple[object, ...]:
        """Travel without what is mapped."""
        return type(self), (self.sources,)

    def column(self, name: str) -> np.ndarray:
        """Return a column of numbers."""
        parts = [np.asarray(table[name].combine_chunks()) for table in self.tables]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def row_ids(self, numbers: Places) -> pa.Array:
        """Return the row_ids of the texts with these numbers."""
        order, parts = self._parts(numbers)
        found = [table["row_id"].combine_chunks().take(pa.array(at)) for table, at in parts]
        return _back(pa.concat_arrays(found), order) if found else pa.array([], pa.string())

    def shingles(self, numbers: Places) -> tuple[Numbers, Places]:
        """Return the shingles of the texts with these ascending numbers in one array, and their sizes."""
        _, parts = self._parts(numbers)
        lists = [table["shingles"].combine_chunks().take(pa.array(at)) for table, at in parts]
        values = [np.asarray(held.flatten()) for held in lists]
        sizes = [np.diff(np.asarray(held.offsets)) for held in lists]
        return (
            (np.concatenate(values), np.concatenate(sizes))
            if lists
            else (np.zeros(0, np.uint64), np.zeros(0, np.int64))
        )

    def _parts(self, numbers: Places) -> tuple[Places, Sequence[tuple[pa.Table, Places]]]:
        """Return the order of the numbers by file, and each file with the places in it."""
        file = np.searchsorted(self.starts, numbers, "right") - 1
        order = np.argsort(file, kind="stable")
        files, begins = np.unique(file[order], return_index=True)
        groups = np.split(numbers[order], begins[1:]) if len(begins) else []
        return order, [
            (self.tables[number], group - self.starts[number])
            for number, group in zip(files.tolist(), groups, strict=True)
        ]


def _back(held: pa.Array, order: Places) -> pa.Array:
    """Put what stands in `order` back into the order it came from."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return held.take(pa.array(places))


def _content(hashes: Numbers, ends: Places) -> Numbers:
    """Return a number for each text that is the same where the shingles are."""
    from synthray.duplicate.shingle import mixed

    held: Numbers = np.add.reduceat(mixed(hashes + np.uint64(1)), ends[:-1]) if len(ends) > 1 else hashes
    return mixed(held + np.diff(ends).astype(np.uint64))
