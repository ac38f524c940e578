"""How varied the texts are: distinct n-grams, vocabulary, repeats and Self-BLEU."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from synthray.metric import measurements
from synthray.operator import Measure
from synthray.query import SQL, Query, shipped
from synthray.spelling import identifier

if TYPE_CHECKING:
    import pyarrow as pa

_SQL = "metrics/diversity.sql"
_WORD = re.compile(r"[^\t\n\f\r ]+")  # the white space of the SQL's regular expressions


@dataclass(frozen=True)
class Diversity(Measure):
    """Measure distinct_1 to distinct_3, vocabulary, duplicates, mean_words and self_bleu of a text.

    distinct-n (Li et al. 2016) is distinct n-grams by all n-grams, `duplicates` the share of rows whose text
    an earlier row has. Self-BLEU (Zhu et al. 2018; lower is more varied) is the mean BLEU-4 of a text against
    all others of a seeded sample of `sample` texts: its cost grows with the sample's square.
    """

    text: str
    sample: Annotated[int, Ge(2), Le(5000)] = 500

    @property
    def reads(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the column holds no text."""
        self.require_text(before, self.text)

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured."""
        grams = tuple(f"distinct_{n}" for n in (1, 2, 3))
        return (*grams, "vocabulary", "duplicates", "mean_words", "self_bleu")

    def files(self) -> tuple[Path, ...]:
        """Return the SQL that measures."""
        return (SQL / _SQL,)

    def measure(self, query: Query) -> pa.Table:
        """Count in SQL, out of core; Self-BLEU over the sample."""
        text = identifier(self.text)
        query.view("texts", f"SELECT row_id, {text} AS text FROM rows WHERE {text} IS NOT NULL")
        found = query.arrow(shipped(_SQL)).to_pylist()
        sample = query.rows(
            f"SELECT text FROM texts ORDER BY chance(row_id, 'self_bleu'), row_id LIMIT {self.sample}"
        )
        scores = self_bleu([words(row[0]) for row in sample])
        value = sum(scores) / len(scores) if scores else None
        return measurements([*found, {"metric": "self_bleu", "value": value, "n": len(scores)}])


def words(text: str) -> list[str]:
    """Return the lower-case words of a text, as sql/metrics/diversity.sql splits them."""
    return _WORD.findall(text.lower())


def self_bleu(texts: Sequence[Sequence[str]], order: int = 4) -> list[float]:
    """Return for each text its BLEU against all others: uniform weights, smoothing method 1 (epsilon 0.1).

    Equal to NLTK's sentence_bleu on each text, but counts the references once for all.
    """
    if len(texts) < 2:
        return []
    counts = [[_grams(text, n) for n in range(1, order + 1)] for text in texts]
    tops = [_two_largest(counts, n) for n in range(order)]
    lengths = sorted(len(text) for text in texts)
    return [_bleu(number, counts, tops, lengths, len(text), order) for number, text in enumerate(texts)]


def _grams(text: Sequence[str], n: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(tuple(text[place : place + n]) for place in range(len(text) - n + 1))


_Tops = dict[tuple[str, ...], tuple[int, int, int]]


def _two_largest(counts: list[list[collections.Counter[tuple[str, ...]]]], n: int) -> _Tops:
    """Return for each n-gram its largest count, the text that has it, and the largest count elsewhere."""
    tops: _Tops = {}
    for number, grams in enumerate(counts):
        for gram, count in grams[n].items():
            most, owner, second = tops.get(gram, (0, -1, 0))
            if count > most:
                tops[gram] = (count, number, most)
            elif count > second:
                tops[gram] = (most, owner, count)
    return tops


def _bleu(
    number: int,
    counts: list[list[collections.Counter[tuple[str, ...]]]],
    tops: list[_Tops],
    lengths: list[int],
    length: int,
    order: int,
) -> float:
    logs = 0.0
    for n in range(order):
        clipped = 0
        for gram, count in counts[number][n].items():
            most, owner, second = tops[n][gram]
            clipped += min(count, second if owner == number else most)
        if not n and not clipped:
            return 0.0
        logs += math.log((clipped or 0.1) / max(1, counts[number][n].total())) / order
    closest = _closest(lengths, length)
    return math.exp(logs + (0.0 if length > closest else 1 - closest / length))


def _closest(lengths: list[int], length: int) -> int:
    """Return the length nearest to `length` among the others, the shorter of two equally near."""
    others = list(lengths)
    others.remove(length)
    return min(others, key=lambda other: (abs(other - length), other))
