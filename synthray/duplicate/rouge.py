"""ROUGE-L of texts with many others: the F1 of their longest common subsequence of words (Lin 2004).

With L words in the longest common subsequence of texts of m and n words, precision is L/m, recall L/n and
their harmonic mean 2L/(m+n).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthray.column import one_array
from synthray.duplicate.shingle import words
from synthray.duplicate.signature import Signatures

if TYPE_CHECKING:
    import numpy.typing as npt

    from synthray.duplicate.shingle import Numbers, Places

    Shares = npt.NDArray[np.float64]

VERSION = 1
"""Of how texts are cut into words and words are hashed."""

_QUERIES = 64
_CHOICES = 1 << 16
"""So many texts are compared with so many at once: more take memory, and no less time."""

_CHARACTERS = 0x110000
"""So many characters there are to stand for words."""


def worded(rows: pa.Table, text: str) -> pa.Table:
    """Return row_id and `words`, hashes of 64 bits, of the rows that have a text.

    Words are what rouge_score's tokeniser finds, runs of letters a to z and digits in lower case, and beyond
    it those of other scripts (see shingle.words); an underscore ends a word.
    """
    held = rows.filter(pc.is_valid(rows[text]))
    texts = pc.replace_substring(one_array(held[text]).cast(pa.large_string()), "_", " ")
    found = words(texts)
    encoded = found.flatten().dictionary_encode()
    hashes = np.fromiter((_hash(word) for word in encoded.dictionary.to_pylist()), np.uint64)
    numbers = hashes[encoded.indices.to_numpy(zero_copy_only=False)]
    ends = np.concatenate([[0], np.cumsum(pc.list_value_length(found).to_numpy(zero_copy_only=False))])
    listed = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(numbers, pa.uint64()))
    return pa.table({"row_id": one_array(held["row_id"]), "words": listed})


class Words(Signatures):
    """The words of texts, in files (memory is mapped) or tables; a text's number is its place in all."""

    def of(self, numbers: Places) -> Lines:
        """Return the words of the texts with these numbers, in their order."""
        order, parts = self._parts(numbers)
        if not parts:
            return Lines(np.zeros(0, np.uint64), np.zeros(1, np.int64))
        lists = pa.concat_arrays([one_array(table["words"]).take(pa.array(at)) for table, at in parts])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        lists = lists.take(pa.array(back))
        sizes = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        return Lines(np.asarray(lists.flatten()), np.concatenate([[0], np.cumsum(sizes)]))


@dataclass(frozen=True)
class Lines:
    """The hashes of texts' words in one array, and where in it each text begins and the last one ends."""

    hashes: Numbers
    ends: Places

    def __len__(self) -> int:
        """Return how many texts there are."""
        return len(self.ends) - 1

    @property
    def sizes(self) -> Places:
        """How many words each has."""
        return np.diff(self.ends)

    def part(self, first: int, last: int) -> Lines:
        """Return the texts from `first` to before `last`."""
        ends = self.ends[first : last + 1]
        return Lines(self.hashes[ends[0] : ends[-1]], ends - ends[0])

    def spelled(self, vocabulary: Numbers) -> Sequence[Sequence[int] | str]:
        """Return each text with a character for each word, 0 where it is none of `vocabulary`.

        A vocabulary larger than Unicode is spelled in numbers, which takes twice the time to compare.
        """
        at = np.searchsorted(vocabulary, self.hashes)
        known = np.append(vocabulary, 0)[at] == self.hashes
        codes = np.where(known & (at < len(vocabulary)), at + 1, 0)
        cuts = list(zip(self.ends[:-1].tolist(), self.ends[1:].tolist(), strict=True))
        if len(vocabulary) < _CHARACTERS:
            whole = codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
            return [whole[first:last] for first, last in cuts]
        return [array("Q", codes[first:last].astype(np.uint64).tobytes()) for first, last in cuts]


def rouge(ones: Lines, others: Lines) -> Iterator[Shares]:
    """Yield for each of `ones` the F1 with each of `others`; 0 where one of the two has no word."""
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    # A word that none of `ones` has is in no common subsequence, whichever it is.
    vocabulary = np.unique(ones.hashes)
    queries, choices = ones.spelled(vocabulary), others.spelled(vocabulary)
    sizes, lengths = ones.sizes.tolist(), others.sizes
    for first in range(0, len(ones), _QUERIES):
        common = cdist(
            queries[first : first + _QUERIES], choices, scorer=LCSseq.similarity, dtype=np.int32, workers=1
        )
        for size, line in zip(sizes[first:], common, strict=False):
            # Half of a whole number is exact, so that equal fractions are equal numbers.
            yield line / (np.maximum(lengths + size, 1) / 2)


@dataclass(frozen=True)
class Nearest:
    """The texts nearest to one, by their `places` in an order, the nearest first; and all shares' `total`."""

    places: Places
    shares: Shares
    total: float

    @classmethod
    def none(cls) -> Nearest:
        """Return what there is of nothing."""
        return cls(np.zeros(0, np.int64), np.zeros(0), 0.0)

    def and_more(self, places: Places, shares: Shares, count: int) -> Nearest:
        """Return the `count` nearest of these and others, the earlier of two that are as near.

        One that shares nothing is never among them.
        """
        total = self.total + float(shares.sum())
        least = np.partition(shares, len(shares) - count)[-count] if len(shares) > count else 0.0
        at = np.flatnonzero((shares >= least) & (shares > 0))
        places, shares = np.append(self.places, places[at]), np.append(self.shares, shares[at])
        order = np.lexsort((places, -shares))[:count]
        return Nearest(places[order], shares[order], total)


def compared(
    texts: Words, rows: Places, kept: Places, block: Places, count: int
) -> tuple[list[Nearest], Shares]:
    """Return for each of `rows` the nearest of `kept`, by their places among them; and shares with `block`.

    All are numbers of `texts`.
    """
    ones, others, beside = texts.of(rows), texts.of(kept), texts.of(block)
    nearest = [Nearest.none()] * len(rows)
    for start in range(0, len(kept), _CHOICES):
        part = others.part(start, min(start + _CHOICES, len(kept)))
        places = np.arange(start, start + len(part))
        for number, line in enumerate(rouge(ones, part)):
            nearest[number] = nearest[number].and_more(places, line, count)
    shares = np.zeros((len(rows), len(block)))
    for number, line in enumerate(rouge(ones, beside)):
        shares[number] = line
    return nearest, shares


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
