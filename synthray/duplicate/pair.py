"""Pairs of texts that are near: candidates by the bands of their signatures, verified by their shingles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from synthray.duplicate.order import begins, once, runs
from synthray.duplicate.shingle import BITS

if TYPE_CHECKING:
    from synthray.duplicate.shingle import Numbers, Places
    from synthray.duplicate.signature import Signatures

CROWD = 64
"""A bucket with more texts is a crowd: to compare each with each would take the square of their number."""

_MISSED = 0.0125
_AT_ONCE = 1 << 22
_HALF = 31
"""Bits of a text's number where two make one key: two thousand million texts."""


@dataclass(frozen=True)
class Candidates:
    """What may be near: pairs of texts' numbers, `one` below `other`, and the members of crowds.

    `crowd` numbers the bucket that each of `members` is in.
    """

    one: Places = field(default_factory=lambda: np.zeros(0, np.int64))
    other: Places = field(default_factory=lambda: np.zeros(0, np.int64))
    crowd: Places = field(default_factory=lambda: np.zeros(0, np.int64))
    members: Places = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def merged(cls, found: Iterable[Candidates]) -> Candidates:
        """Return the candidates of several bands, each pair once."""
        held = list(found)
        keys = once(np.concatenate([np.zeros(0, np.int64), *((c.one << _HALF) | c.other for c in held)]))
        starts = np.cumsum([0, *(int(c.crowd.max(initial=-1)) + 1 for c in held)])
        crowds = [c.crowd + start for c, start in zip(held, starts, strict=False)]
        return cls(
            keys >> _HALF,
            keys & ((1 << _HALF) - 1),
            np.concatenate([np.zeros(0, np.int64), *crowds]),
            np.concatenate([np.zeros(0, np.int64), *(c.members for c in held)]),
        )


def band_width(threshold: float, permutations: int) -> int:
    """Return how many values of a signature make a band: the most that miss few pairs at `threshold`.

    A pair at the threshold itself is missed in at most 1.25 of 100 cases, one well above it hardly ever: of
    128 permutations, 25 bands of 5 find 0.990 of the pairs at 0.7, and 0.9989 of those at 0.75.
    """
    for width in range(permutations, 1, -1):
        if (1 - threshold**width) ** (permutations // width) <= _MISSED:
            return width
    return 1


def same(signatures: Signatures) -> tuple[Places, Places]:
    """Return the numbers of texts whose shingles are all those of an earlier one, and of the first such."""
    content = signatures.column("content")
    order = np.argsort(content, kind="stable")
    first = begins(content[order])
    leaders = order[np.flatnonzero(first)[np.cumsum(first) - 1]]
    return order[~first], leaders[~first]


def banded(signatures: Signatures, band: int, width: int, without: Places, old: int) -> Candidates:
    """Return the candidates of one band among all texts but `without`, none of two of the first `old`."""
    key = np.zeros(len(signatures), np.uint64)
    for place in range(band * width, (band + 1) * width):
        key *= np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
        key += signatures.column(f"s{place}")
    numbers = np.ones(len(key), bool)
    numbers[without] = False
    texts = np.flatnonzero(numbers)
    order = texts[np.argsort(key[texts], kind="stable")]
    bucket = np.concatenate([[0], np.cumsum(key[order][1:] != key[order][:-1])])[: len(order)]
    sizes = np.bincount(bucket)
    # A bucket of old texts alone says nothing about new ones.
    news = np.bincount(bucket, weights=order >= old, minlength=len(sizes)) > 0
    some = ((sizes > 1) & (sizes <= CROWD) & news)[bucket]
    one, other = _each_with_each(order[some], bucket[some])
    fresh = other >= old
    many = np.flatnonzero((sizes > CROWD) & news)
    crowded = np.isin(bucket, many)
    return Candidates(
        one[fresh], other[fresh], np.searchsorted(many, bucket[crowded]), order[crowded].astype(np.int64)
    )


def _each_with_each(members: Places, bucket: Places) -> tuple[Places, Places]:
    ones, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for distance in range(1, min(CROWD, len(bucket))):
        at = np.flatnonzero(bucket[distance:] == bucket[:-distance])
        if not len(at):
            break
        ones.append(members[at])
        others.append(members[at + distance])
    one, other = np.concatenate(ones), np.concatenate(others)
    return np.minimum(one, other), np.maximum(one, other)


def jaccard(signatures: Signatures, one: Places, other: Places) -> np.ndarray:
    """Return the true Jaccard similarity of the shingles of each pair."""
    out = np.zeros(len(one))
    texts = once(np.concatenate([one, other]))
    place = np.searchsorted(texts, np.concatenate([one, other]))
    hashes, sizes = signatures.shingles(texts)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    left, right = place[: len(one)], place[len(one) :]
    total = sizes[left] + sizes[right]
    work = np.cumsum(total)
    first = 0
    while first < len(one):
        done = work[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(work, done + _AT_ONCE, "right")))
        # Pairs are numbered above the hashes; more of them than fit there would need larger hashes.
        last = min(last, first + (1 << 16))
        common = _common(hashes, ends, left[first:last], right[first:last])
        out[first:last] = common / (total[first:last] - common)
        first = last
    return out


def _common(hashes: Numbers, ends: Places, left: Places, right: Places) -> Places:
    """Return how many hashes the two texts of each pair share."""
    keys = np.concatenate([_numbered(hashes, ends, left), _numbered(hashes, ends, right)])
    keys.sort()
    twice = keys[1:][keys[1:] == keys[:-1]]
    return np.bincount((twice >> BITS).astype(np.int64), minlength=len(left))


def _numbered(hashes: Numbers, ends: Places, texts: Places) -> Numbers:
    sizes = ends[texts + 1] - ends[texts]
    at = runs(ends[texts], sizes)
    pair = np.repeat(np.arange(len(texts), dtype=np.uint64), sizes)
    numbered: Numbers = hashes[at] | (pair << BITS)
    return numbered
