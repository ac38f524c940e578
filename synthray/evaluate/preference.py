"""Which systems are preferred, from recorded comparisons: Bradley-Terry on the Elo scale, win rates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from synthray import sample, statistic
from synthray.errors import InputError, RunFailed, near
from synthray.metric import measurements
from synthray.operator import Measure
from synthray.sample import Sample, measured
from synthray.spelling import identifier
from synthray.statistic.bootstrap import ratio
from synthray.statistic.interval import generator
from synthray.statistic.strength import ELO, elo, group, parted, strengths

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.query import Query

Numbers = np.ndarray[Any, np.dtype[Any]]

_SIDES = ("left", "right", "tie")


@dataclass(frozen=True)
class Preference(Measure):
    """Measure how strong systems are, such as models or sources, from rows that compare two of them.

    `left` and `right` are columns of the systems' names, `winner` the column of which is better: left, right,
    tie (as evaluate.judge adds it), or one of the two names. A row in which one of the three is null is no
    comparison. A tie is half a win of each.

    `rating` has a slice system=NAME for each system: the strength by Bradley and Terry (1952), by maximum
    likelihood, on the Elo scale: 400 points are odds of ten to one. The mean over the rated systems is
    `base_rating`, or the system `anchor` has it. `prior` gives each system so many more ties with one of
    strength 0, so that one that won or lost all keeps a finite rating; it says little of how far off it is,
    and has no interval. With prior 0 it is plain maximum likelihood. Systems that no comparisons connect
    cannot be rated together: those outside of the largest connected group, or of the anchor's, are NaN (with
    prior 0 also who beat all or lost to all), and `components` counts the groups. Intervals of ratings are of
    the distance to the mean, or to the anchor, whose own has no width.

    `win_rate` is the wins of all comparisons, ties counting half: a slice system=NAME each, and pair=A,B, how
    A did against B, for the `pairs` with the most comparisons. `tie_rate` is of all. With `k`, `elo` has the
    ratings by Elo's own updates with that step, which depend on the order of the games: it is the mean over
    `permutations` random orders, its interval their percentiles. Other intervals are by `resamples`
    bootstrap samples of the rows, or of the values of the column `group`, such as the prompt where a prompt
    has several comparisons: percentiles for ratings, which at 95% cover 91 times of 100 from 20 comparisons
    a system and 94 times from 80 (benchmarks/judges.py), Wilson's with the samples' variance for shares. No
    comparison at all: all is NaN.
    """

    left: str
    right: str
    winner: str = "judge_winner"
    group: str | None = None
    anchor: str | None = None
    base_rating: float = 1000.0
    prior: Annotated[float, Ge(0), Le(1000)] = 0.1
    pairs: Annotated[int, Ge(0), Le(10_000)] = 100
    k: Annotated[float, Gt(0), Le(1000)] | None = None
    permutations: Annotated[int, Ge(1), Le(10_000)] = 100
    resamples: Annotated[int, Ge(100), Le(100_000)] = 1000
    confidence: Annotated[float, Gt(0), Lt(1)] = 0.95

    @property
    def reads(self) -> tuple[str, ...]:
        """The systems, the verdict and what belongs together."""
        return (self.left, self.right, self.winner, *([] if self.group is None else [self.group]))

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        return ("rating", "win_rate", "tie_rate", "components", *(["elo"] if self.k else []))

    def gate(self) -> tuple[str, ...]:
        """Refuse ratings of systems that nothing connects: they are none."""
        return ("components.value <= 1",)

    def files(self) -> tuple[Path, ...]:
        """Return the source of what measures."""
        return (sample.SOURCE, *statistic.SOURCES)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when columns hold no names, or are one and the same."""
        named = (self.left, self.right, self.winner)
        if len(set(named)) < len(named):
            raise InputError(
                f"left, right and winner must be three columns, but are {', '.join(map(repr, named))}"
            )
        self.require_text(before, *named)

    def measure(self, query: Query) -> pa.Table:
        """Count the comparisons of each pair, and rate."""
        self._check_rows(query)
        columns = {name: identifier(getattr(self, name)) for name in ("left", "right", "winner")}
        read = Sample.read(
            query,
            columns,
            " AND ".join(f"{sql} IS NOT NULL" for sql in columns.values()),
            group=self.group,
            resamples=self.resamples,
            confidence=self.confidence,
            seed=self.context.seed,
        )
        games = _Games.of(read)
        if self.anchor is not None and games.names and self.anchor not in games.names:
            raise RunFailed(
                f"{self.step}: anchor {self.anchor!r} is in no comparison{near(self.anchor, games.names)}"
            )
        parts = len(set(parted(games.wins(np.ones(len(read)))).tolist()))
        found = [
            *read.ratios({("tie_rate", None): (games.score == 0.5, np.ones(len(read)))}),
            {"metric": "components", "value": parts if len(read) else np.nan, "n": len(read)},
            *self._standings(games),
            *(self._elo(games) if self.k else []),
        ]
        return measurements(found)

    def _check_rows(self, query: Query) -> None:
        """Raise RunFailed, with the row, for a verdict that is none, or a system against itself."""
        left, right, winner = (identifier(one) for one in (self.left, self.right, self.winner))
        bad = query.rows(
            f"SELECT row_id, {left}, {right}, {winner} FROM rows WHERE {left} = {right} OR "
            f"{left} IN {_SIDES} OR {right} IN {_SIDES} OR {winner} NOT IN ({left}, {right}, 'left', "
            "'right', 'tie') ORDER BY row_id LIMIT 1"
        )
        if not bad:
            return
        row_id, one, other, said = bad[0]
        what = f"{self.winner} is {said!r}, which is neither {one!r} nor {other!r} nor left, right or tie"
        if one == other and one is not None:
            what = f"compares {one!r} with itself; leave such rows out by a where"
        elif one in _SIDES or other in _SIDES:
            what = f"has a system called {one if one in _SIDES else other!r}, as a verdict is; rename it"
        raise RunFailed(f"{self.step}: row_id {row_id!r} {what}")

    def _standings(self, games: _Games) -> list[dict[str, Any]]:
        """Return ratings and win rates, all from how often each system won against each in a sample."""
        if not games.names:
            return [{"metric": name, "value": np.nan, "n": 0} for name in ("rating", "win_rate")]
        every = games.wins(np.ones(len(games.left)))
        anchor = None if self.anchor is None else games.names.index(self.anchor)
        rated, size = group(every, self.prior, anchor), len(games.names)
        pairs = self._pairs(every + every.T)

        def of(weight: Numbers) -> Numbers:
            wins = games.wins(weight)
            theta = np.full(size, np.nan)
            theta[rated] = strengths(wins[np.ix_(rated, rated)], self.prior)
            if rated.any():
                theta -= theta[rated].mean() if anchor is None else theta[anchor]
            shares = ratio(wins.sum(axis=1), (wins + wins.T).sum(axis=1))
            between = [ratio(wins[pair], wins[pair] + wins.T[pair]) for pair in pairs]
            return np.concatenate([self.base_rating + ELO * theta, shares, np.array(between, np.float64)])

        values, drawn = of(np.ones(len(games.left))), games.sample.bootstrap.drawn(of)
        named: list[tuple[str, tuple[int, ...]]] = [("rating", (place,)) for place in range(size)]
        named += [("win_rate", (place,)) for place in range(size)]
        named += [("win_rate", pair) for pair in pairs]
        if len(drawn):
            # In every sample they have won or lost all, so that chance shows nothing of how far off they are.
            drawn[:, :size][:, ~group(every)] = np.nan
        return [
            games.measured(metric, systems, float(value), drawn[:, place] if len(drawn) else drawn)
            for place, ((metric, systems), value) in enumerate(zip(named, values, strict=True))
        ]

    def _pairs(self, played: Numbers) -> list[tuple[int, int]]:
        """Return the pairs with the most comparisons."""
        pairs = [(int(one), int(other)) for one, other in np.argwhere(np.triu(played) > 0)]
        return sorted(pairs, key=lambda pair: (-played[pair], pair))[: self.pairs]

    def _elo(self, games: _Games) -> list[dict[str, Any]]:
        if not games.names:
            return [{"metric": "elo", "value": np.nan, "n": 0}]
        assert self.k is not None
        random = generator(self.context.seed, "elo")
        played = list(zip(games.left.tolist(), games.right.tolist(), games.score.tolist(), strict=True))
        size = len(games.names)
        orders = (random.permutation(len(played)) for _ in range(self.permutations))
        found = np.array(
            [elo((played[place] for place in order), size, self.k, self.base_rating) for order in orders]
        )
        tail = (1 - self.confidence) / 2
        lows, highs = np.quantile(found, [tail, 1 - tail], axis=0)
        counts = np.bincount(np.concatenate([games.left, games.right]))
        return [
            measured("elo", value, low, high, int(n), f"system={name}")
            for name, value, low, high, n in zip(
                games.names, found.mean(axis=0), lows, highs, counts, strict=True
            )
        ]


@dataclass(frozen=True)
class _Games:
    """Comparisons: the places of both systems among the names, and the left one's score (1, 0.5 or 0)."""

    sample: Sample
    names: list[str]
    left: Numbers
    right: Numbers
    score: Numbers

    @classmethod
    def of(cls, read: Sample) -> _Games:
        import pyarrow as pa
        import pyarrow.compute as pc

        left, right, winner = (read.rows[name].combine_chunks() for name in _COLUMNS)
        names = pc.unique(pa.concat_arrays([left, right])).sort()
        won = pc.or_(pc.equal(winner, left), pc.equal(winner, "left"))
        lost = pc.or_(pc.equal(winner, right), pc.equal(winner, "right"))
        score = pc.if_else(won, 1.0, pc.if_else(lost, 0.0, 0.5))
        one, other = (pc.index_in(held, names).to_numpy().astype(np.int64) for held in (left, right))
        return cls(read, names.to_pylist(), one, other, score.to_numpy(zero_copy_only=False))

    @cached_property
    def _cells(self) -> tuple[Numbers, Numbers]:
        size = len(self.names)
        return self.left * size + self.right, self.right * size + self.left

    def measured(self, metric: str, systems: tuple[int, ...], value: float, drawn: Numbers) -> dict[str, Any]:
        """Return the measurement of a system, or of a pair of them; n is how many comparisons they are in."""
        there = np.ones(len(self.left), bool)
        for one in systems:
            there &= (self.left == one) | (self.right == one)
        if metric == "rating":
            low, high = self.sample.bootstrap.interval(drawn)
        else:
            units = len(np.unique(self.sample.bootstrap.units[there]))
            low, high = self.sample.bootstrap.share(value, drawn, units)
        kind = "system" if len(systems) == 1 else "pair"
        part = f"{kind}={','.join(self.names[one] for one in systems)}"
        return measured(metric, value, low, high, int(there.sum()), part)

    def wins(self, weight: Numbers) -> Numbers:
        """Return how often each system won against each (S, S), for weights of the comparisons (n,)."""
        size = len(self.names)
        own, others = (
            np.bincount(cells, weight * score, size * size)
            for cells, score in zip(self._cells, (self.score, 1 - self.score), strict=True)
        )
        return np.asarray(own + others).reshape(size, size)


_COLUMNS = ("left", "right", "winner")
