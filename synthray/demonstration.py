"""Demonstrations: which of the candidates stand in the prompt of a row.

A row's draw depends on the seed, the step, its row_id and what the pools hold, never on where either stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthray import candidate, vectors
from synthray.candidate import Candidates, Held, Run, joined
from synthray.column import is_text, one_array
from synthray.lineage import uniform
from synthray.statistic.interval import generator
from synthray.vectors import Vectors

SOURCES = (Path(__file__), *candidate.SOURCES)
"""This source and those it stands on, for fingerprints."""

Lists = list[list[int]]
"""Of each pool the places of candidates, those that come first before others."""


@dataclass(frozen=True)
class Choice:
    """How many of each pool a row has, of which rows, and how long they may be together.

    `origin` is the step with its round: draws depend on it.
    """

    candidates: Candidates
    origin: str
    counts: tuple[int, ...]
    share: float = 1.0
    max_characters: int | None = None

    @property
    def k(self) -> int:
        """How many demonstrations a row has at most."""
        return sum(self.counts)

    def of(self, rows: pa.Table, held: Held) -> pa.Table:
        """Return row_id, `demos` and `demos_row_ids` of rows.

        Of `rows` are read row_id, the column of `match`, for the nearest the embedding or the texts, and the
        texts, where they are there, to tell that a candidate is the row itself.
        """
        match = self._matched(rows)
        own = self._own(rows, held)
        ids = rows["row_id"].to_pylist()
        origin, seed = self.origin, self.candidates.seed
        has = [uniform("share", seed, origin, one) < self.share for one in ids]
        if self.candidates.match:
            has = [one and value is not None for one, value in zip(has, match, strict=True)]
        near = self._nearest(rows, match, own, has, held) if self.candidates.searched else None
        places: Lists = []
        for at, row_id in enumerate(ids):
            if not has[at]:
                places.append([])
                continue
            random = generator(seed, "demonstrations", origin, row_id)
            lists = self._drawn(match[at], own[at], random, held) if near is None else near[at]
            chosen = self._short(mixed(lists, self.counts), held)
            places.append([chosen[one] for one in random.permutation(len(chosen))])
        return self._shown(ids, places, held)

    def _own(self, rows: pa.Table, held: Held) -> list[set[int]]:
        """Return the places at which each row would be its own demonstration: two at most."""
        found = [pc.index_in(rows["row_id"].cast(pa.string()), held.ids)]
        candidates, texts = self.candidates, self.candidates.text
        if set(texts) <= set(rows.column_names) and all(is_text(rows[name].type) for name in texts):
            keys = candidates.key(joined(rows, texts), rows[candidates.match or "row_id"])
            found.append(pc.index_in(keys, held.keys, skip_nulls=True))
        return [set(one) - {None} for one in zip(*(column.to_pylist() for column in found), strict=True)]

    def _matched(self, rows: pa.Table) -> Sequence[str | None]:
        name = self.candidates.match
        held: Sequence[str | None] = rows[name].cast(pa.string()).to_pylist() if name else [None] * len(rows)
        return held

    def _drawn(self, match: str | None, own: set[int], random: np.random.Generator, held: Held) -> Lists:
        """Return for each pool places in a random order: one of each label, then another of each."""
        lists = []
        for number in range(len(self.counts)):
            live = [_shuffled(run, own, random) for run in held.of.get((number, match), [])]
            drawn: list[int] = []
            while live and len(drawn) < self.k:
                order = random.permutation(len(live)).tolist() if len(live) > 1 else [0]
                turn = {one: next(live[one], None) for one in order[: self.k - len(drawn)]}
                drawn += [place for place in turn.values() if place is not None]
                live = [one for at, one in enumerate(live) if turn.get(at, 0) is not None]
            lists.append(drawn)
        return lists

    def _nearest(
        self,
        rows: pa.Table,
        match: Sequence[str | None],
        own: Sequence[set[int]],
        has: Sequence[bool],
        held: Held,
    ) -> list[Lists]:
        """Return for each row, for each pool, the nearest places: of each label, then each label's next."""
        found: list[Lists] = [[[] for _ in self.counts] for _ in match]
        if not len(held.rows):
            return found
        who = self.candidates.who
        queries = self.candidates.vectors(rows, self.candidates.text, who)
        vectors.check_size(queries, held.unit.shape[1], who)
        # Vectors has those rows alone that have one.
        row_of = np.asarray(pc.index_in(queries.ids, one_array(rows["row_id"]).cast(pa.string())))
        of_match: dict[str | None, list[int]] = {}
        for place, row in enumerate(row_of.tolist()):
            if has[row]:
                of_match.setdefault(match[row], []).append(place)
        for value, some in of_match.items():
            asked = Vectors(queries.ids.take(pa.array(some)), queries.unit[some])
            owned = [own[row] for row in row_of[some]]
            for number in range(len(self.counts)):
                runs = held.of.get((number, value), [])
                lists = self._nearest_of(asked, owned, runs, held)
                for row, places in zip(row_of[some].tolist(), lists, strict=True):
                    found[row][number] = places
        return found

    def _nearest_of(self, asked: Vectors, own: Sequence[set[int]], runs: Sequence[Run], held: Held) -> Lists:
        """Return for each row that asks the nearest places in runs of one pool and match."""
        parts = [self._within(asked, own, run, held) for run in runs]
        if not parts:
            return [[] for _ in own]
        row, turn, place, similarity = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.lexsort((place, -similarity, turn, row))
        row, place = row[order], place[order]
        starts = np.searchsorted(row, np.arange(len(own)))
        ends = np.searchsorted(row, np.arange(len(own)), "right")
        return [
            place[start : min(end, start + self.k)].tolist() for start, end in zip(starts, ends, strict=True)
        ]

    def _within(
        self, asked: Vectors, own: Sequence[set[int]], run: Run, held: Held
    ) -> tuple[vectors.Numbers, ...]:
        """Return (row, how many of the run are nearer, place, similarity), the row itself left out."""
        index, cells = held.searched(run)
        # At most two candidates are the row itself: by its row_id, and by its texts.
        row, place, similarity = index.of(
            asked, self.k + 2, own=False, cells=cells, probes=self.candidates.probes
        )
        place = place + run.start
        pairs = zip(row.tolist(), place.tolist(), strict=True)
        others = np.array([one not in own[at] for at, one in pairs], bool)
        row, place, similarity = row[others], place[others], similarity[others]
        return row, np.arange(len(row)) - np.searchsorted(row, row), place, similarity

    def _short(self, places: list[int], held: Held) -> list[int]:
        """Return the first places, as many as together are not too long."""
        if self.max_characters is None or not places:
            return places
        lengths = np.cumsum(held.rows["characters"].take(pa.array(places)).to_numpy())
        return places[: int(np.searchsorted(lengths, self.max_characters, "right"))]

    def _shown(self, ids: Sequence[str], places: Lists, held: Held) -> pa.Table:
        ends = pa.array(np.cumsum([0, *map(len, places)]), pa.int32())
        taken = held.rows.take(pa.array([one for row in places for one in row], pa.int64()))
        kinds = self.candidates.kinds
        columns = [one_array(taken[f"c{place}"]) for place in range(len(kinds))]
        demos = pa.StructArray.from_arrays(columns, fields=list(kinds))
        made: dict[str, Any] = {
            "row_id": pa.array(ids, pa.string()),
            "demos": pa.ListArray.from_arrays(ends, demos),
            "demos_row_ids": pa.ListArray.from_arrays(ends, one_array(taken["row_id"])),
        }
        return pa.table(made)


def _shuffled(run: Run, own: set[int], random: np.random.Generator) -> Iterator[int]:
    """Yield the places of a run in a random order, as far as they are asked for (Fisher and Yates)."""
    moved: dict[int, int] = {}
    for place in range(run.start, run.stop):
        other = place + int(random.random() * (run.stop - place))
        picked = moved.get(other, other)
        moved[other] = moved.get(place, place)
        if picked not in own:
            yield picked


def mixed(lists: Sequence[Sequence[int]], counts: Sequence[int]) -> list[int]:
    """Return so many of each list; what one has too few of is filled up from the others, the first one first.

    They stand by turns: the first of each list, then the second of each.
    """
    taken = [min(count, len(one)) for count, one in zip(counts, lists, strict=True)]
    short = sum(counts) - sum(taken)
    for number, one in enumerate(lists):
        more = min(short, len(one) - taken[number])
        taken[number] += more
        short -= more
    turns = sorted((turn, number) for number, count in enumerate(taken) for turn in range(count))
    return [lists[number][turn] for turn, number in turns]
