"""Runs of words that texts share with other texts: found by hashes of runs, and compared word by word."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))


@dataclass(frozen=True)
class Words:
    """Texts as the hashes of their words: (T,) uint64 `tokens`, and (N + 1,) places where texts begin."""

    tokens: Numbers
    starts: Numbers

    @property
    def sizes(self) -> Numbers:
        """How many words each text has."""
        return np.diff(self.starts)

    @functools.cached_property
    def text(self) -> Numbers:
        """The number of the text that each word stands in."""
        owner: Numbers = np.repeat(np.arange(len(self.starts) - 1), self.sizes)
        return owner

    @functools.cached_property
    def _left(self) -> Numbers:
        """How many words there are from each to the end of its text."""
        left: Numbers = self.starts[1:][self.text] - np.arange(len(self.tokens))
        return left

    @functools.cached_property
    def _sums(self) -> tuple[Numbers, Numbers]:
        # A run's hash is the sum of token * base^place in it, moved to place 0, all modulo 2^64.
        powers, back = np.full((2, len(self.tokens) + 1), np.uint64(1))
        powers[1:], back[1:] = _BASE, _INVERSE
        sums = np.zeros(len(self.tokens) + 1, np.uint64)
        np.cumsum(self.tokens * np.cumprod(powers)[:-1], out=sums[1:])
        return sums, np.cumprod(back)

    def all(self, size: int) -> Numbers:
        """Return the places where runs of `size` words begin that stand in one text."""
        return np.flatnonzero(self._left >= size)

    def whole(self, size: int) -> Numbers:
        """Return the places where texts of just `size` words begin."""
        places: Numbers = self.starts[:-1][self.sizes == size]
        return places

    def hashes(self, places: Numbers, size: int) -> Numbers:
        """Return the hashes of runs of `size` words."""
        sums, back = self._sums
        found: Numbers = (sums[places + size] - sums[places]) * back[places]
        return found

    def same(self, places: Numbers, others: Words, at: Numbers, size: int) -> Numbers:
        """Return whether runs are the same, word by word."""
        equal = np.ones(len(places), bool)
        for step in range(size):
            equal &= self.tokens[places + step] == others.tokens[at + step]
        return equal


@dataclass(frozen=True)
class Copies:
    """What N texts copy from M others.

    `longest` is the number of words in the longest run that a text shares, `of` the first of the others that
    shares so many (-1: none), `place` where in the text that begins. `copied` says of each of the T words
    whether it stands in a run that leaks, `exposed` of each of the M others whether it is leaked.
    """

    longest: Numbers
    place: Numbers
    of: Numbers
    copied: Numbers
    exposed: Numbers


def copies(texts: Words, others: Words, span: int, least: int) -> Copies:
    """Return what texts copy: the same for any division of them, linear in the number of words.

    Two texts leak into each other that share a run of `span` words. Where one of them has fewer, all of it
    must stand in the other; where it has fewer than `least`, they must be equal. Runs of fewer than `least`
    words are not looked for, but for such equal texts.
    """
    leaking = np.zeros(len(texts.tokens) + 1, np.int64)
    exposed = np.zeros(len(others.sizes), bool)
    longest = _Longest(texts, others)
    for asked, held, size in _levels(texts, others, span, least):
        places, at = _met(texts, asked, others, held, size, exposed)
        np.add.at(leaking, places, 1)
        np.add.at(leaking, places + size, -1)
        if size < least:
            longest.met(places, at, size)
    longest.lengthen(least)
    return Copies(longest.size, longest.place, longest.of, np.cumsum(leaking[:-1]) > 0, exposed)


def _levels(texts: Words, others: Words, span: int, least: int) -> list[tuple[Numbers, Numbers, int]]:
    """Return which runs are to be compared with which, of how many words."""
    levels = [(texts.all(span), others.all(span), span)]
    for size in range(1, span):
        if size < least:
            levels.append((texts.whole(size), others.whole(size), size))
        else:
            levels.append((texts.whole(size), others.all(size), size))
            levels.append((texts.all(size), others.whole(size), size))
    return [level for level in levels if len(level[0]) and len(level[1])]


def _met(
    texts: Words, asked: Numbers, others: Words, held: Numbers, size: int, exposed: Numbers | None = None
) -> tuple[Numbers, Numbers]:
    """Return the places `asked` whose run is one of those `held`, and the first place that has it.

    All texts among the others that have such a run are `exposed`.
    """
    keys = others.hashes(held, size)
    order = np.argsort(keys, kind="stable")
    keys, held = keys[order], held[order]
    wanted = texts.hashes(asked, size)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    hit = keys[at] == wanted
    asked, at = asked[hit], at[hit]
    equal = texts.same(asked, others, held[at], size)
    asked, at = asked[equal], at[equal]
    if exposed is not None:
        first, once = np.unique(at, return_index=True)
        counts = np.searchsorted(keys, keys[first], "right") - first
        stops = np.cumsum(counts)
        twins = held[np.arange(int(counts.sum())) + np.repeat(first - (stops - counts), counts)]
        same = texts.same(np.repeat(asked[once], counts), others, twins, size)
        exposed[others.text[twins[same]]] = True
    return asked, held[at]


class _Longest:
    """The longest run of each text: where it begins, and in which of the others it stands."""

    def __init__(self, texts: Words, others: Words) -> None:
        self.texts, self.others = texts, others
        self.size = np.zeros(len(texts.sizes), np.int64)
        self.place = np.zeros(len(texts.sizes), np.int64)
        self.of = np.full(len(texts.sizes), -1)

    def met(self, places: Numbers, at: Numbers, size: int) -> None:
        """Keep a run of `size` words of the texts that have none of so many."""
        order = np.lexsort((places, self.others.text[at], self.texts.text[places]))
        places, at = places[order], at[order]
        owner, first = np.unique(self.texts.text[places], return_index=True)
        longer = self.size[owner] < size
        owner, first = owner[longer], first[longer]
        self.size[owner] = size
        self.place[owner] = places[first] - self.texts.starts[owner]
        self.of[owner] = self.others.text[at[first]]

    def lengthen(self, least: int) -> None:
        """Look for the longest by halving: a run of more words holds runs of fewer."""
        most = int(min(self.texts.sizes.max(initial=0), self.others.sizes.max(initial=0)))
        self._try(np.flatnonzero(self.texts.sizes >= least), least)
        low = self.size.copy()
        alive = np.flatnonzero(low >= least)
        step = 1 << max(0, most.bit_length() - 1)
        while step and len(alive):
            tried = low[alive] + step
            able = tried <= np.minimum(self.texts.sizes[alive], most)
            for size in np.unique(tried[able]).tolist():
                self._try(alive[able & (tried == size)], size)
            low[alive] = np.maximum(low[alive], self.size[alive])
            step >>= 1

    def _try(self, rows: Numbers, size: int) -> None:
        starts, counts = self.texts.starts[rows], self.texts.sizes[rows] - size + 1
        stops = np.cumsum(counts)
        asked = np.arange(int(counts.sum())) + np.repeat(starts - (stops - counts), counts)
        held = self.others.all(size)
        if len(asked) and len(held):
            self.met(*_met(self.texts, asked, self.others, held, size), size)
