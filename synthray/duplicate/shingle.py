"""Shingles: the overlapping runs of words or characters by which two texts are compared, as hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthray.duplicate.order import once

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.uint64]
    Places = npt.NDArray[np.int64]

VERSION = 1
"""Of how texts are cut and hashed: hashes of another version say nothing about these."""

BITS = np.uint64(48)
"""Of a shingle's hash: above it stands the number of the text, so that one sort orders all shingles."""

_MASK = np.uint64((1 << 48) - 1)
_TEXTS = 1 << 16
_NOT_ASCII = r"[^\x00-\x7f\pL\pM\pN]"
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
"""Scripts that put no space between words: each of their letters counts as a word."""

_WORD_BYTES = np.full(256, ord(" "), np.uint8)
for _byte in (*b"0123456789abcdefghijklmnopqrstuvwxyz_", *range(0x80, 0x100)):
    _WORD_BYTES[_byte] = _byte
_WORD_BYTES.flags.writeable = False


@dataclass(frozen=True)
class Shingles:
    """Runs of `size` words, or characters, of the lower-cased text; a shorter text is one run.

    Words are what is made of letters, marks, digits and underscores; a letter of a script without spaces
    is a word. Characters are those of the words, one space between them.
    """

    unit: Literal["words", "characters"]
    size: int

    def of(self, texts: pa.Array) -> tuple[Numbers, Places]:
        """Return the distinct shingles of each text as ascending hashes of 48 bits.

        They are one array and, as places in it, where each text begins and the last one ends. A text that
        is null or has no word has none.
        """
        parts, sizes = [], [np.zeros(1, np.int64)]
        for start in range(0, len(texts), _TEXTS):
            units, lengths = self._units(words(texts.slice(start, _TEXTS)))
            hashes, counts = _distinct(*_runs(units, lengths, self.size), len(lengths))
            parts.append(hashes)
            sizes.append(counts)
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64), np.cumsum(np.concatenate(sizes))

    def _units(self, held: pa.ListArray) -> tuple[Numbers, Places]:
        """Return a hash for each unit, and how many units each text has."""
        if self.unit == "words":
            encoded = held.flatten().dictionary_encode()
            hashes = np.fromiter((_hash(word) for word in encoded.dictionary.to_pylist()), np.uint64)
            return hashes[encoded.indices.to_numpy(zero_copy_only=False)], _lengths(held)
        joined = pc.binary_join(held, pa.scalar(" ", pa.large_string()))
        lengths = pc.utf8_length(joined).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        whole = "".join(text or "" for text in joined.to_pylist()).encode("utf-32-le")
        return mixed(np.frombuffer(whole, np.uint32).astype(np.uint64) + np.uint64(1)), lengths


def words(texts: pa.Array) -> pa.ListArray:
    """Return the lower-case words of each text; none of a null."""
    texts = texts.cast(pa.large_string())
    lower = pc.utf8_lower(texts.fill_null(""))
    plain = pc.string_is_ascii(lower)
    if not pc.all(plain).as_py():
        # Few texts need it, and it is the dearest part.
        other = pc.filter(lower, pc.invert(plain))
        other = pc.replace_substring_regex(other, _NOT_ASCII, " ")
        other = pc.replace_substring_regex(other, _UNSPACED, r" \1 ")
        lower = pc.replace_with_mask(lower, pc.invert(plain), other)
    _, offsets, held = lower.buffers()
    spaced = _WORD_BYTES[np.frombuffer(held, np.uint8)] if held is not None else np.zeros(0, np.uint8)
    lower = pa.LargeStringArray.from_buffers(
        len(lower), offsets, pa.py_buffer(spaced), offset=lower.offset, null_count=0
    )
    found = pc.ascii_split_whitespace(lower)
    # A leading or trailing space leaves an empty word.
    values = found.flatten()
    empty = pc.equal(pc.binary_length(values), 0)
    if not pc.any(empty).as_py():
        return found
    owner = np.repeat(np.arange(len(found)), _lengths(found))[~empty.to_numpy(zero_copy_only=False)]
    ends = np.cumsum(np.bincount(owner, minlength=len(found)))
    return pa.LargeListArray.from_arrays(
        pa.array(np.concatenate([[0], ends]), pa.int64()), values.filter(pc.invert(empty))
    )


def _lengths(held: pa.ListArray) -> Places:
    counted: Places = pc.list_value_length(held).to_numpy(zero_copy_only=False).astype(np.int64)
    return counted


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _runs(units: Numbers, lengths: Places, size: int) -> tuple[Numbers, Places]:
    """Return the hashes of all runs of `size` units that stand in one text, and the text of each."""
    short = (lengths > 0) & (lengths < size)
    if short.any():
        # A shorter text is filled up, so that it has one run.
        filled = np.where(short, size, lengths)
        ends = np.cumsum(filled)
        padded = np.zeros(int(ends[-1]), np.uint64)
        moved = ends - filled - (np.cumsum(lengths) - lengths)
        padded[np.arange(len(units)) + np.repeat(moved, lengths)] = units
        units, lengths = padded, filled
    owner = np.repeat(np.arange(len(lengths)), lengths)
    if len(units) < size:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    last = len(units) - size + 1
    hashes = units[:last].copy()
    for step in range(1, size):
        # A multiplication between two units, so that their order counts.
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
        hashes += units[step : step + last]
    within = owner[:last] == owner[size - 1 :]
    return mixed(hashes[within]) & _MASK, owner[:last][within]


def mixed(hashes: Numbers) -> Numbers:
    """Return the hashes with every bit spread over all (the finalizer of MurmurHash3, 64 bits)."""
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xFF51AFD7ED558CCD)
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes = hashes * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def _distinct(hashes: Numbers, owner: Places, texts: int) -> tuple[Numbers, Places]:
    """Return each text's hashes once and ascending, and how many each has."""
    keys = hashes | (owner.astype(np.uint64) << BITS)
    keys = once(keys)
    return keys & _MASK, np.bincount((keys >> BITS).astype(np.int64), minlength=texts)
