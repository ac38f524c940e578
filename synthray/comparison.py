"""Two datasets side by side: rows gained and lost, drift per label, tests whose unit is the lineage root."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from synthray.features import Features
from synthray.query import Query
from synthray.side import WORDS, Columns, Settings, Side, units
from synthray.statistic import contrast
from synthray.statistic.contrast import Cloud, Estimate, Kinds, Means
from synthray.statistic.interval import generator
from synthray.statistic.permutation import Design

LABELS = 50
"""So many labels, the most frequent ones, are tested each; the distance of the distributions is of all."""

_SAME = (
    "SELECT unit FROM (SELECT a.unit, count(*) AS n FROM a JOIN b USING (row_id) WHERE {} GROUP BY a.unit) "
    "JOIN (SELECT unit, count(*) AS n FROM a GROUP BY unit) USING (unit, n) "
    "JOIN (SELECT unit, count(*) AS n FROM b GROUP BY unit) USING (unit, n) ORDER BY unit"
)
"""The units that have the same rows on both sides."""

MISSING = {"text": "words", "label": "label"}
"""What is null where a row has no text, or no label."""

_ORDERS = {"vocabulary": 1, "distinct_2": 2, "distinct_3": 3}
_AT_MOST = 4


@dataclass
class Comparison:
    """Two datasets in narrow files: `a`, `b` and `units` (row_id, unit) are relations of `query`.

    Large data stays on disk: this process holds the row_ids (to find their roots), sums for each root, and
    the sample's texts.
    """

    sides: Sequence[Side]
    settings: Settings
    columns: Columns
    query: Query
    notes: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def of(cls, sides: Sequence[Side], settings: Settings) -> Iterator[Comparison]:
        """Write what is compared of both sides into narrow files, and give each row its unit."""
        settings.check()
        columns = Columns.of(sides, settings)
        with TemporaryDirectory(prefix="synthray-diff-") as folder:
            narrow = {}
            for name, side in zip("ab", sides, strict=True):
                narrow[f"rows_{name}"] = side.narrow(columns, settings, Path(folder) / f"{name}.parquet")
            with Query({**narrow, "units": units(sides, narrow, settings)}, writable=Path(folder)) as query:
                for name in "ab":
                    query.view(name, f"SELECT * FROM rows_{name} JOIN units USING (row_id)")
                yield cls(sides, settings, columns, query, list(columns.notes))

    def rows(self) -> dict[str, Any]:
        """Return how many rows there are, gained, lost and changed, by row_id."""
        a, b = (self.query.value(f"SELECT count(*) FROM {name}") for name in "ab")
        both, changed, texts, labels = self.query.rows(
            "SELECT count(*), count(*) FILTER (WHERE a.whole <> b.whole), "
            "count(*) FILTER (WHERE a.text IS DISTINCT FROM b.text), "
            "count(*) FILTER (WHERE a.label IS DISTINCT FROM b.label) FROM a JOIN b USING (row_id)"
        )[0]
        return {
            "a": a,
            "b": b,
            "both": both,
            "lost": a - both,
            "lost_share": (a - both) / a if a else None,
            "gained": b - both,
            "gained_share": (b - both) / b if b else None,
            "changed": changed,
            "changed_text": texts,
            "changed_label": labels,
        }

    def samples(self) -> list[dict[str, Any]]:
        """Return texts of rows lost, gained and changed, chosen by a hash of row_id."""
        most = f"ORDER BY chance(row_id, 'diff'), row_id LIMIT {int(self.settings.rows)}"
        parts = {
            "lost": "SELECT row_id, label, text, NULL AS other FROM a ANTI JOIN b USING (row_id)",
            "gained": "SELECT row_id, label, text, NULL AS other FROM b ANTI JOIN a USING (row_id)",
            "changed": "SELECT row_id, b.label, a.text, b.text AS other FROM a JOIN b USING (row_id) "
            "WHERE a.text IS DISTINCT FROM b.text OR a.label IS DISTINCT FROM b.label",
        }
        return [
            {"row": kind, "row_id": row_id, "label": label, "text": text, **({"now": other} if other else {})}
            for kind, sql in parts.items()
            for row_id, label, text, other in self.query.rows(f"SELECT * FROM ({sql}) {most}")
        ]

    def labels(self) -> list[dict[str, Any]]:
        """Return each label's rows, share and mean length on both sides."""
        if self.columns.label is None:
            return []
        held = {
            name: {
                label: (rows, share, words)
                for label, rows, share, words in self.query.rows(
                    "SELECT label, count(*), count(*) / sum(count(*)) OVER (), avg(words) "
                    f"FROM {name} GROUP BY ALL"
                )
            }
            for name in "ab"
        }
        every = sorted({*held["a"], *held["b"]}, key=lambda one: (one is None, one))
        none = (0, 0.0, None)
        return [
            {"label": label}
            | {
                f"{what}_{name}": held[name].get(label, none)[place]
                for place, what in enumerate(("rows", "share", "words"))
                for name in "ab"
            }
            for label in every
        ]

    def tests(self) -> list[dict[str, Any]]:
        """Return the statistics of both sides, their difference with its interval, and what the test says."""
        return _Trial(self).results()


class _Trial:
    """The tests of a comparison: units into parts, rows into sums over parts."""

    def __init__(self, held: Comparison) -> None:
        self.held, self.query, self.settings = held, held.query, held.settings
        units = [self._column(f"SELECT DISTINCT unit FROM {name} ORDER BY unit") for name in "ab"]
        self.sizes = [len(one) for one in units]
        shared = np.intersect1d(*units)
        same = self._column(_SAME.format(self._alike()))
        alone = sum(self.sizes) - 2 * len(shared)
        self.shared, self.same = len(shared), len(same)
        paired = len(shared) > len(same) and len(shared) >= alone
        if paired:
            both = np.union1d(*units)
            self.units, self.common = [both, both], both[:0]
        else:
            self.units, self.common = [np.setdiff1d(one, same) for one in units], same
        self.design = Design(len(self.units[0]), len(self.units[1]), paired, len(self.common))

    def _alike(self) -> str:
        columns = ["text", "label", *(f"n{place}" for place in range(len(self.held.columns.numbers)))]
        return " AND ".join(f"a.{one} IS NOT DISTINCT FROM b.{one}" for one in columns)

    def results(self) -> list[dict[str, Any]]:
        if min(self.sizes) < 1 or self.design.parts < 3:
            self.held.notes.append("no tests: each side must have rows, and one of them of two roots or more")
            return []
        self._tell()
        from statistics import NormalDist

        z = NormalDist().inv_cdf(1 - self.settings.alpha / 2)
        means, names = self._means()
        kinds, clouds = self._sampled()
        found = contrast.tested(
            self.design,
            means,
            list(kinds.values()),
            list(clouds.values()),
            self.settings.resamples,
            generator(0, "diff"),
        )
        estimates = means.estimates(self.design, z)
        sides = self.design.observed
        counts = [tuple(int(one[side].sum()) for side in sides) for one in means.counts.T]
        if means.shares:
            names = [*names, "labels"]
            counts.append(counts[means.shares[0]])
        for name, one in kinds.items():
            names.append(name)
            counts.append((one.equal_rows(self.design),) * 2)
            estimate = one.estimate(self.design, z)
            estimates.append(_turned(estimate) if name == "duplicates" else estimate)
        for name, cloud in clouds.items():
            names.append(name)
            counts.append(tuple(int(cloud.rows[side[cloud.at]].sum()) for side in sides))
            apart = float(cloud.over((sides[0][None, :], sides[1][None, :]))[0, 0])
            estimates.append(Estimate(np.nan, np.nan, apart, np.nan, np.nan))
        return [
            {
                "metric": name,
                "a": one.first,
                "b": one.second,
                "difference": one.difference,
                "ci_low": one.low,
                "ci_high": one.high,
                "p": float(p),
                "p_adjusted": float(adjusted),
                "differs": bool(adjusted <= self.settings.alpha),
                "n_a": n_a,
                "n_b": n_b,
            }
            for name, one, (n_a, n_b), p, adjusted in zip(
                names, estimates, counts, found.p, found.adjusted, strict=True
            )
        ]

    def _tell(self) -> None:
        """Say what the units are and how they were permuted."""
        a, b = self.sizes
        rows = [self.query.value(f"SELECT count(*) FROM {name}") for name in "ab"]
        kind = "rows" if [a, b] == rows else f"roots ({rows[0]} and {rows[1]} rows)"
        shared = f"{self.shared} are of both" if self.shared else "none are of both"
        if self.design.paired:
            how = f"{shared}, so that each swaps its two sides"
        else:
            unchanged = f", {self.same} of them unchanged" if self.shared else ""
            how = f"{shared}{unchanged}; which side each is on is dealt anew"
        self.held.notes.append(
            f"tests: {a} and {b} {kind}; {how}; {self.settings.resamples} permutations; differences are "
            f"called at {self.settings.alpha:g} over all metrics (step-down max-T)"
        )

    def _column(self, sql: str) -> Any:
        return self.query.arrow(sql).column(0).to_numpy()

    def _at(self, units: Any, side: int) -> Any:
        """Return the parts that units have on a side; what is the same on both is one part."""
        own = np.searchsorted(self.units[side], units)
        if not len(self.common):
            return own + side * self.design.first
        place = np.minimum(np.searchsorted(self.common, units), len(self.common) - 1)
        common = self.common[place] == units
        return np.where(common, self.design.parts - self.design.both + place, own + side * self.design.first)

    def _means(self) -> tuple[Means, list[str]]:
        """Return sums over parts of words, labels and numeric columns."""
        fields = {"mean_words": "words"}
        fields |= {f"mean {name}": f"n{place}" for place, name in enumerate(self.held.columns.numbers)}
        fields |= {f"share without {name}": f"({MISSING[name]} IS NULL)::INTEGER" for name in self._missing()}
        names = list(fields)
        listed = ", ".join(
            f"coalesce(sum({one} ORDER BY row_id), 0)::DOUBLE, count({one})::DOUBLE"
            for one in fields.values()
        )
        labels = self._labels()
        size = len(names) + len(labels)
        sums, counts = np.zeros((2, self.design.parts, size))
        for side, name in enumerate("ab"):
            columns = self.query.arrow(
                f"SELECT unit, {listed} FROM {name} GROUP BY unit ORDER BY unit"
            ).columns
            at = self._at(columns[0].to_numpy(), side)
            for place in range(len(names)):
                sums[at, place], counts[at, place] = (columns[1 + 2 * place + k].to_numpy() for k in (0, 1))
            if labels:
                self._count_labels(name, side, labels, sums[:, len(names) :], counts[:, len(names) :])
        shares = range(len(names), size)
        return Means(sums, counts, tuple(shares)), [*names, *(f"share of {label}" for label in labels)]

    def _missing(self) -> list[str]:
        """Return which of text and label some row lacks."""
        every = "(SELECT words, label FROM a UNION ALL SELECT words, label FROM b)"
        named = [name for name in MISSING if name == "text" or self.held.columns.label is not None]
        return [
            name
            for name in named
            if self.query.value(f"SELECT count(*) > count({MISSING[name]}) FROM {every}")
        ]

    def _labels(self) -> list[str]:
        if self.held.columns.label is None:
            return []
        found = self.query.rows(
            "SELECT label, count(*) AS n FROM (SELECT label FROM a UNION ALL SELECT label FROM b) "
            "WHERE label IS NOT NULL GROUP BY ALL ORDER BY n DESC, label"
        )
        if len(found) > LABELS:
            self.held.notes.append(f"of {len(found)} labels the {LABELS} most frequent are tested")
        return [label for label, _ in found[:LABELS]]

    def _count_labels(self, name: str, side: int, labels: list[str], sums: Any, counts: Any) -> None:
        columns = self.query.arrow(
            f"SELECT unit, label, count(*)::DOUBLE FROM {name} WHERE label IS NOT NULL "
            "GROUP BY ALL ORDER BY ALL"
        ).columns
        at, size = self._at(columns[0].to_numpy(), side), columns[2].to_numpy()
        number = {label: place for place, label in enumerate(labels)}
        place = np.array([number.get(label, -1) for label in columns[1].to_pylist()], int)
        known = place >= 0
        sums[at[known], place[known]] = size[known]
        whole = np.bincount(at, size, self.design.parts)
        counts[np.unique(at)] = whole[np.unique(at), None]

    def _sampled(self) -> tuple[dict[str, Kinds], dict[str, Cloud]]:
        """Return the n-grams and vectors of as many rows of both sides."""
        sizes = [self.query.value(f"SELECT count(words) FROM {name}") for name in "ab"]
        if not all(sizes):
            return {}, {}
        rates = [size / max(1, held) for size, held in zip(sizes, self._parts(), strict=True)]
        shown = [f"words IS NOT NULL AND chance(row_id, 'rows') < {min(rates) / rate!r}" for rate in rates]
        if self.design.both:  # the sides hold the same rows
            shown = ["words IS NOT NULL"] * 2
        counts = np.zeros(self.design.parts)
        every = np.unique(np.concatenate([*self.units, self.common]))
        rows = np.zeros((2, len(every)))
        for side, name in enumerate("ab"):
            sql = f"SELECT unit, count(*)::DOUBLE FROM {name} WHERE {shown[side]} GROUP BY unit ORDER BY unit"
            unit, size = (one.to_numpy() for one in self.query.arrow(sql).columns)
            rows[side, np.searchsorted(every, unit)] = size
            counts[self._at(unit, side)] = size
        stop = _stop(rows, self.settings.sample)
        if stop < len(every):
            self.held.notes.append(
                f"n-grams and vectors: {rows[:, :stop].sum():.0f} rows, of {stop} roots chosen by a hash"
            )
        at = self._sample_parts(every[:stop])
        held = counts[at]
        texts = self._texts(shown, every[stop - 1], at)
        fewest = min(int((side[at] & (held > 0)).sum()) for side in self.design.observed)
        if not fewest:
            return {}, {}
        most = None if self.design.paired else fewest
        kinds = {}
        for name, order in _ORDERS.items():
            matrix, tokens = _grams(texts, order, len(at))
            kinds[name] = Kinds(at, matrix, held, tokens, most, order > 1)
        matrix, _ = _grams(texts, 0, len(at))
        kinds["duplicates"] = Kinds(at, matrix, held, held, most, True)
        return kinds, self._clouds(texts, at)

    def _parts(self) -> list[int]:
        return [int(side.sum()) for side in self.design.observed]

    def _sample_parts(self, units: Any) -> Any:
        """Return the parts of units, in the random order that the units' numbers are."""
        if self.design.paired:
            return np.concatenate([self._at(units, side) for side in (0, 1)])
        own = [units[np.isin(units, one)] for one in self.units]
        own.append(units[np.isin(units, self.common)])
        parts = np.concatenate([self._at(one, side) for one, side in zip(own, (0, 1, 0), strict=True)])
        return parts[np.lexsort((parts, np.concatenate(own)))]

    def _texts(self, shown: Sequence[str], last: int, at: Any) -> pa.Table:
        """Return row_id, text, vector if there is one, and the place in the sample of the sampled rows."""
        tables = []
        place = np.full(self.design.parts, -1)
        place[at] = np.arange(len(at))
        listed = f"row_id, unit, text, label, {WORDS} AS tokens"
        listed += ", embedding" if self.settings.embedding else ""
        for side, name in enumerate("ab"):
            sql = f"SELECT {listed} FROM {name} WHERE {shown[side]} AND unit <= {last} ORDER BY row_id"
            table = self.query.arrow(sql)
            if side and len(self.common):  # those are there already
                again = np.isin(table["unit"].to_numpy(), self.common)
                table = table.filter(pa.array(~again))
            own = pa.array(place[self._at(table["unit"].to_numpy(), side)])
            tables.append(table.drop_columns(["unit"]).append_column("place", own))
        return pa.concat_tables(tables)

    def _clouds(self, texts: pa.Table, at: Any) -> dict[str, Cloud]:
        """Return the vectors of the texts, and the same with their labels."""
        # Rows of both sides may have one row_id, so that their vectors are named by their number here.
        named = texts.set_column(0, "row_id", pa.array([str(number) for number in range(len(texts))]))
        vectors = Features("text", "embedding" if self.settings.embedding else None).of(named, "diff")
        if not len(vectors):
            return {}
        rows = vectors.ids.cast(pa.int64()).to_numpy()
        place = texts["place"].to_numpy()[rows]
        plain = contrast.features(vectors.unit, generator(0, "diff", "vectors"))
        found = {"vectors": plain}
        if self.held.columns.label is not None:
            labels = texts["label"].to_pylist()
            found["vectors with labels"] = contrast.joined(plain, [labels[row] for row in rows], 0)
        counts = np.bincount(place, minlength=len(at)).astype(np.float64)
        clouds = {}
        for name, held in found.items():
            sums = np.zeros((len(at), held.shape[1]))
            np.add.at(sums, place, held)
            clouds[name] = Cloud(at, sums, counts)
        return clouds


def _stop(rows: Any, most: int) -> int:
    """Return how many units, in their order, hold about `most` rows of each side."""
    sums = np.cumsum(rows, axis=1)
    enough = (sums.min(axis=0) >= most) | (sums.sum(axis=0) >= _AT_MOST * most)
    found = np.flatnonzero(enough)
    return int(found[0]) + 1 if len(found) else rows.shape[1]


def _grams(texts: pa.Table, order: int, parts: int) -> tuple[Any, Any]:
    """Return a sparse (kinds, parts) matrix of n-grams (0: whole texts) by rows, and occurrences by part."""
    from scipy import sparse

    number: dict[Any, int] = {}
    kinds: list[int] = []
    owners: list[int] = []
    tokens = np.zeros(parts)
    columns = (texts[name].to_pylist() for name in ("text", "tokens", "place"))
    for text, words, place in zip(*columns, strict=True):
        grams = [tuple(words[k : k + order]) for k in range(len(words) - order + 1)] if order else [text]
        tokens[place] += len(grams)
        own = {number.setdefault(gram, len(number)) for gram in grams}
        kinds += own
        owners += [place] * len(own)
    held = (np.ones(len(kinds)), (np.array(kinds, int), np.array(owners, int)))
    return sparse.csr_matrix(held, shape=(len(number), parts)), tokens


def _turned(one: Estimate) -> Estimate:
    """Return the share of repeated texts from that of different ones."""
    turned = (1 - one.first, 1 - one.second, 0.0 - one.difference, 0.0 - one.high, 0.0 - one.low)
    return Estimate(*(round(one, 12) for one in turned))
