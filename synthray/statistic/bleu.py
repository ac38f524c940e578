"""Self-BLEU: how much of a text the other texts say too (Zhu et al. 2018, arXiv 1802.01886)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]

_EPSILON = 0.1
"""What smoothing method 1 says instead of no match."""


def self_bleu(texts: Sequence[Sequence[str]], order: int = 4) -> Numbers:
    """Return for each text, a list of words, its BLEU against all others; of fewer than two texts, none.

    Weights are uniform over n-grams up to `order`, smoothing is method 1 (epsilon 0.1): equal to NLTK's
    sentence_bleu on each text. But n-grams are counted once for all references, so that the cost grows with
    the number of words and not with the square of the texts.
    """
    if len(texts) < 2:
        return np.zeros(0)
    length = np.array([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), length)
    codes: dict[str, int] = {}
    word = np.array([codes.setdefault(one, len(codes)) for text in texts for one in text], np.int64)
    logs, said = np.zeros(len(texts)), np.zeros(len(texts), bool)
    code = np.zeros(len(word), np.int64)
    for n in range(order):
        inside = owner[: max(0, len(word) - n)] == owner[n:]
        code = np.unique(code[: len(inside)] * (len(word) + 1) + word[n:], return_inverse=True)[1]
        matches, grams = _clipped(code[inside], owner[n:][inside], len(texts))
        if not n:
            said = matches > 0
        logs += np.log(np.where(matches > 0, matches, _EPSILON) / np.maximum(1, grams)) / order
    closest = _closest(length)
    short = np.where(length > closest, 0.0, 1 - closest / np.maximum(1, length))
    return np.where(said, np.exp(logs + short), 0.0)


def _clipped(code: Numbers, owner: Numbers, texts: int) -> tuple[Numbers, Numbers]:
    """Return for each text how many of its n-grams another text has, as often, and how many it has."""
    pairs, count = np.unique(code * texts + owner, return_counts=True)
    gram, text = np.divmod(pairs, texts)
    order = np.lexsort((-count, gram))
    gram, text, count = gram[order], text[order], count[order]
    first = np.searchsorted(gram, gram)
    following = np.append(np.where(gram[1:] == gram[:-1], count[1:], 0), 0)[: len(gram)]
    # Each text is compared with the one that has the n-gram most often, and that one with the next.
    matched = np.where(np.arange(len(gram)) == first, following, count)
    return np.bincount(text, matched, texts), np.bincount(owner, minlength=texts)


def _closest(length: Numbers) -> Numbers:
    """Return for each length the nearest of another text, the shorter of two equally near."""
    order = np.argsort(length, kind="stable")
    ordered = length[order]
    shorter = np.concatenate([[ordered[1]], ordered[:-1]])
    longer = np.concatenate([ordered[1:], [ordered[-2]]])
    out = np.empty(len(length), np.int64)
    out[order] = np.where(np.abs(ordered - shorter) <= np.abs(longer - ordered), shorter, longer)
    return out
