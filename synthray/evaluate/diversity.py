"""How varied the rows are: words, repeats, leaked phrases, vectors, and the attributes asked for."""

from __future__ import annotations

import math
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from synthray import statistic
from synthray.errors import InputError, RunFailed, near
from synthray.features import Features
from synthray.issue import Share, shares
from synthray.metric import measurements
from synthray.operator import Measure
from synthray.query import SQL, Query, shipped
from synthray.spelling import identifier, quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage
    from synthray.statistic.moment import Mean, Moments
    from synthray.table import Table

_FILES = ("diversity", "boilerplate", "coverage", "bias")

WORD = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|"
    r"(?:[^\PL\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\pM\pN])+"
)
"""A word, as the SQL files have it: letters, digits and marks, or one sign of a script without spaces."""

_TEXT = (
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "vocabulary",
    "root_type_token",
    "word_entropy",
    "ingf_mean_count",
    "ingf_squared_share",
    "duplicates",
    "mean_words",
    "boilerplate",
    "compression_ratio",
    "self_bleu",
)
_VECTOR = ("similarity", "vendi", "remote_clique", "nearest_distance", "novel_sum")
_PAIRED = ("similarity_within", "similarity_between")
_WORST = {
    "coverage": min,
    "evenness": min,
    "label_coverage": min,
    "unset": max,
    "unlisted": max,
    "bias": max,
    "bias_by_chance": max,
}
"""Which of several attributes speaks for all, so that a gate can ask of one number."""

_OF_LABELS = ("label_coverage", "bias", "bias_by_chance")
_SOURCE = "_measured"
"""The rows, to statements in which `rows` is what a metric takes."""

_ROWS_AT_ONCE = 4096
_MOST_LABELS = 10_000
_LEVEL, _GZIP = 9, 31  # zlib's names for its best compression and for gzip's frame


@dataclass(frozen=True)
class Diversity(Measure):
    """Measure how varied the rows are, by their texts, their vectors and the attributes asked for.

    Words, exact over all rows (sql/metrics/diversity.sql): `distinct_1` to `distinct_3`, `vocabulary`,
    `root_type_token`, `word_entropy` in bits, inter-sample n-gram frequency by both published definitions
    (`ingf_mean_count`, `ingf_squared_share`), `duplicates` (share of rows whose text an earlier row has),
    `mean_words`. `boilerplate` is the share of different texts that hold the most widespread run of 6 words,
    which its slice names: a prompt that leaks into the outputs. `compression_ratio` is bytes by those of gzip
    at level 9, of the texts in the order of row_id, a line each; it sees repeats within 32 KiB.

    Vectors are the column `embedding`, or hashed n-grams of the text, which see spelling alone. Over all rows
    in one pass: `similarity` (mean cosine of all pairs), with `label` also `similarity_within` and
    `similarity_between` labels, a slice for each; `vendi` (score of order `vendi_order`, from 1 to the
    vectors' size). Over a seeded sample of `sample` rows, or all where there are no more (n tells):
    `self_bleu` (BLEU-4 against all others), `remote_clique` and `nearest_distance` (mean Euclidean distance
    of unit vectors to all others and to the nearest), `novel_sum` (of different vectors). Those depend on how
    many rows there are: compare them at equal n.

    Of each of `attributes`, a slice: `coverage` (values that occur of those `possible`), `evenness`,
    `label_coverage` (pairs with the label), `unset`, `unlisted`, `bias` (how much it tells of the label, see
    sql/metrics/bias.sql) and `bias_by_chance`; without slice stands the worst attribute. `possible` maps an
    attribute to a list, or to {from: TABLE, column: COLUMN}; without, the values seen are those possible.

    What is not defined is NaN: a ratio of no words, a distance of fewer than two vectors, a similarity
    without a pair, evenness of one value, bias of one label. A null text is no text; a row without text or
    with a vector of zeros has no vector.
    """

    text: str
    label: str | None = None
    embedding: str | None = None
    attributes: Sequence[str] = ()
    possible: Mapping[str, Any] = field(default_factory=dict)
    sample: Annotated[int, Ge(2), Le(20_000)] = 1000
    vendi_order: Annotated[float, Ge(0.5)] = 1.0

    @property
    def reads(self) -> tuple[str, ...]:
        """Text, label, vector and attributes."""
        named = (self.text, self.label, self.embedding, *self.attributes)
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables of possible values."""
        return tuple(
            dict.fromkeys(
                one["from"] for one in self.possible.values() if isinstance(one, dict) and "from" in one
            )
        )

    @property
    def features(self) -> Features:
        """What gives rows their vectors."""
        return Features(self.text, self.embedding)

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        paired = _PAIRED if self.label else ()
        of_attributes = _WORST if self.label else [name for name in _WORST if name not in _OF_LABELS]
        return (*_TEXT, *_VECTOR, *paired, *(of_attributes if self.attributes else ()))

    def gate(self) -> tuple[str, ...]:
        """Refuse a collapse to few texts, plain or varied a little, and a phrase that many texts share."""
        # From benchmarks/diversity.py, on 11 sound sets by people and models and faults planted in them.
        # Sound sets repeat up to 0.23 of their texts; a collapse to 10 texts 0.9 of 100 rows, 0.67 of 30.
        repeats = "duplicates.value < 0.5"
        # Sound sets have up to 0.04 of 100 texts and 0.02 of more; a phrase in a fifth of them 0.2. Of a
        # handful of texts two alike are no template.
        leak = "boilerplate.value < 0.1 OR boilerplate.n < 20"
        # Sound sets have 25 and more; 10 texts with a number at the end of each row 6 to 15 (once 21). Of
        # hashed n-grams: other vectors have a scale of their own. Below 100 rows there are too few.
        varied = "vendi.value > 15 OR vendi.n < 100"
        own = self.embedding is not None or self.vendi_order != 1
        return (repeats, leak) if own else (repeats, leak, varied)

    def files(self) -> tuple[Path, ...]:
        """Return the SQL, and the sources of vectors and statistics."""
        sql = tuple(SQL / f"metrics/{name}.sql" for name in _FILES)
        return (*sql, *self.features.sources(), *statistic.SOURCES)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when a column or a list of possible values is none."""
        self.require_text(before, self.text)
        self.features.check(before)
        twice = [name for name in self.attributes if list(self.attributes).count(name) > 1]
        if twice:
            raise InputError(f"attributes names {twice[0]!r} twice")
        for name in (*([self.label] if self.label else []), *self.attributes):
            _check_values(before, name)
        for name, held in self.possible.items():
            if name not in self.attributes:
                raise InputError(
                    f"possible names {name!r}, which is none of attributes {list(self.attributes)}"
                    f"{near(name, self.attributes)}"
                )
            self._check_possible(name, held)

    def _check_possible(self, name: str, held: Any) -> None:
        if isinstance(held, list) and held and all(isinstance(one, str | int) for one in held):
            return
        if not isinstance(held, dict) or not {"from"} <= set(held) <= {"from", "column"}:
            raise InputError(
                f"possible: {name} must be a list of values or {{from: TABLE, column: COLUMN}}, but is "
                f"{held!r}"
            )
        column, known = held.get("column", name), self.context.schemas[held["from"]].names
        if column not in known:
            raise InputError(
                f"possible: {name}: the table {held['from']!r} has no column {column!r}{near(column, known)}"
            )

    # The work.

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the measurements of `table`."""
        named = {name: self.context.tables[name] for name in self.table_names}
        with tempfile.TemporaryDirectory(prefix="synthray-") as folder:
            found = self._asked({**named, "rows": table}, Path(folder))
        batches = table.select(self._columns).to_batches(max_chunksize=_ROWS_AT_ONCE)
        return self._measurements(found, [self._part(batches)])

    def apply(self, stage: Stage) -> None:
        """Ask the SQL in one task, sum the vectors in one for each share of the row groups, join in one."""
        folder = stage.path / f"diversity-{uuid.uuid4().hex}"
        folder.mkdir()
        files = _files(stage, self._columns, folder)
        tables = {name: self.context.tables[name] for name in self.table_names}
        asked = stage.started_tasks(_asked, [(self, {**tables, "rows": stage.input}, folder)])
        dealt = shares(files, stage.blocks or _cores())
        parts = stage.started_tasks(_part, [(self, share) for share in dealt])
        stage.measured(stage.tasks(_joined, [(self, *asked, *parts)])[0])

    def _asked(self, relations: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
        """Return what SQL and the sample say; texts are sorted in `folder`."""
        with Query(relations, seed=self.context.seed, writable=folder) as query:
            query.view(_SOURCE, "SELECT * FROM rows")
            text = identifier(self.text)
            texts = f"SELECT row_id, {text} AS text FROM {_SOURCE}"
            found = [row for name in ("diversity", "boilerplate") for row in _shipped(query, name, texts)]
            found.append(self._compression(query, folder / "texts.parquet"))
            for name in self.attributes:
                found += self._of_attribute(query, name)
            found += self._worst(found)
            rows = self.features.rows(query, "rows", "diversity", self.sample)
        return found + self._of_sample(rows)

    def _compression(self, query: Query, path: Path) -> dict[str, Any]:
        import pyarrow.parquet as pq

        text = identifier(self.text)
        texts = query.write(f"SELECT {text} AS text FROM rows WHERE {text} IS NOT NULL ORDER BY row_id", path)
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(_ROWS_AT_ONCE)
            ratio = _compressed(one for batch in batches for one in batch["text"].to_pylist())
        path.unlink()
        return {"metric": "compression_ratio", "value": ratio, "n": texts}

    def _of_sample(self, rows: pa.Table) -> list[dict[str, Any]]:
        import numpy as np

        from synthray.statistic.bleu import self_bleu
        from synthray.statistic.dispersion import distances, novel_sum

        with Query({"sampled": rows}) as query:
            split = f"regexp_extract_all(lower({identifier(self.text)}), {quoted(WORD)})"
            words = [row[0] for row in query.rows(f"SELECT {split} FROM sampled ORDER BY row_id")]
        scores = self_bleu(words)
        bleu = float(scores.mean()) if len(scores) else math.nan
        unit = self.features.of(rows, self.step).sorted().unit
        clique, nearest = distances(unit)
        different = np.unique(unit, axis=0)
        return [
            {"metric": "self_bleu", "value": bleu, "n": len(words)},
            {"metric": "remote_clique", "value": clique, "n": len(unit)},
            {"metric": "nearest_distance", "value": nearest, "n": len(unit)},
            {"metric": "novel_sum", "value": novel_sum(different), "n": len(different)},
        ]

    # Attributes.

    def _of_attribute(self, query: Query, name: str) -> list[dict[str, Any]]:
        label = f"CAST({identifier(self.label)} AS VARCHAR)" if self.label else "CAST(NULL AS VARCHAR)"
        value = f"CAST({identifier(name)} AS VARCHAR)"
        rows = f"SELECT row_id, {value} AS attribute, {label} AS label FROM {_SOURCE}"
        listed = self._possible(name)
        if listed:
            rows += f" UNION ALL SELECT NULL, CAST(value AS VARCHAR), NULL FROM ({listed})"
        found = _shipped(query, "coverage", rows) + _shipped(query, "bias", rows)
        return [{**row, "slice": f"attribute={name}"} for row in found if row["metric"] in self.metrics()]

    def _possible(self, name: str) -> str:
        """Return SQL for the possible values of an attribute in the column `value`, or nothing."""
        held = self.possible.get(name)
        if isinstance(held, dict):
            return f"SELECT {identifier(held.get('column', name))} AS value FROM {identifier(held['from'])}"
        if not held:
            return ""
        texts = [str(one).lower() if isinstance(one, bool) else str(one) for one in held]
        return f"SELECT unnest([{', '.join(quoted(one) for one in texts)}]) AS value"

    def _worst(self, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return of each measure of attributes the worst, without slice; NaN where an attribute has none."""
        worst = []
        for metric, choose in _WORST.items():
            held = [row for row in found if row["metric"] == metric]
            undefined = [row for row in held if row["value"] is None]
            if held:
                one = undefined[0] if undefined else choose(held, key=lambda row: row["value"])
                worst.append({**one, "slice": None})
        return worst

    # Vectors.

    @property
    def _columns(self) -> list[str]:
        """The columns of the pass over the vectors."""
        named = ["row_id", *self.features.reads, *([self.label] if self.label else [])]
        return list(dict.fromkeys(named))

    def _part(self, batches: Iterable[pa.RecordBatch]) -> _Part | None:
        """Return the moments of the rows of some batches; None where no row has a vector."""
        return self._added(self._part_of(batch) for batch in batches)

    def _part_of(self, batch: pa.RecordBatch) -> _Part | None:
        import pyarrow as pa
        import pyarrow.compute as pc

        from synthray.statistic.moment import Moments

        table = pa.Table.from_batches([batch])
        there = pc.match_substring_regex(table[self.text], r"\S")
        held = self.features.of(table.filter(pc.fill_null(there, False)), self.step)
        if not len(held):
            return None
        labels: list[str | None] = []
        if self.label:
            place = pc.index_in(held.ids, table["row_id"].combine_chunks().cast(pa.string()))
            labels = table[self.label].take(place).cast(pa.string()).to_pylist()
        return _Part(held.unit.shape[1], held.ids[0].as_py(), Moments.of(held.unit, labels))

    def _added(self, parts: Iterable[_Part | None]) -> _Part | None:
        total: _Part | None = None
        for part in parts:
            if part is None:
                continue
            if total and total.size != part.size:
                raise RunFailed(
                    f"{self.step}: vectors must be all of one size, but that of row_id {total.first!r} has "
                    f"{total.size} numbers and that of {part.first!r} {part.size}; make all by the same model"
                )
            total = replace(total, moments=total.moments + part.moments) if total else part
            if len(total.moments.labels) > _MOST_LABELS:
                raise RunFailed(
                    f"{self.step}: column {self.label!r} holds more than {_MOST_LABELS} values, so that it "
                    "is no label; name another, or leave label out"
                )
        return total

    def _measurements(self, found: list[dict[str, Any]], parts: Iterable[_Part | None]) -> pa.Table:
        part = self._added(parts)
        rows = [*found, *self._of_moments(part.moments if part else None)]
        # SQL says null of what is not defined.
        return measurements(
            [{**row, "value": math.nan if row["value"] is None else row["value"]} for row in rows]
        )

    def _of_moments(self, moments: Moments | None) -> list[dict[str, Any]]:
        if moments is None:
            names = ("similarity", "vendi", *(_PAIRED if self.label else ()))
            return [{"metric": name, "value": None, "n": 0} for name in names]
        found = [
            _mean("similarity", moments.similarity()),
            {"metric": "vendi", "value": moments.vendi(self.vendi_order), "n": moments.every.count},
        ]
        if self.label:
            for metric, mean in zip(_PAIRED, (moments.within, moments.between), strict=True):
                found.append(_mean(metric, mean()))
                found += [
                    {**_mean(metric, mean(name)), "slice": f"{self.label}={name}"}
                    for name in sorted(moments.labels)
                ]
        return found


@dataclass(frozen=True)
class _Part:
    """The moments of some rows, the size of their vectors and the first's row_id."""

    size: int
    first: str
    moments: Moments


def _mean(metric: str, mean: Mean) -> dict[str, Any]:
    return {"metric": metric, "value": mean.value, "n": mean.n}


def _shipped(query: Query, name: str, rows: str) -> list[dict[str, Any]]:
    """Return what a shipped metric says of the relation `rows`."""
    sql = f"WITH rows AS ({rows}) SELECT * FROM (\n{shipped(f'metrics/{name}.sql')}\n)"
    found: list[dict[str, Any]] = query.arrow(sql).to_pylist()
    return found


def _compressed(texts: Iterable[str]) -> float | None:
    """Return bytes by compressed bytes of texts, a line each; None of nothing."""
    squeeze = zlib.compressobj(_LEVEL, wbits=_GZIP)
    before = after = 0
    for number, text in enumerate(texts):
        held = f"\n{text}".encode() if number else text.encode()
        before += len(held)
        after += len(squeeze.compress(held))
    return before / (after + len(squeeze.flush())) if before else None


def _check_values(before: pa.Schema, name: str) -> None:
    """Raise an InputError when a column is there whose values are no names of anything."""
    import pyarrow.types as kinds

    from synthray.column import is_text

    if name in before.names:
        kind = before.field(name).type
        if not (is_text(kind) or kinds.is_integer(kind) or kinds.is_boolean(kind)):
            raise InputError(
                f"column {name!r} must hold text, whole numbers or true and false, but is {kind}"
            )


def _files(stage: Stage, columns: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Return Parquet files with the columns: the stage's, or a joined one where marks stand beside."""
    import pyarrow.parquet as pq

    rows, *groups = (
        [set(pq.read_schema(file).names) for file in files]
        for files in (stage.input.files, *stage.input.added)
    )
    beside = {name for group in groups for names in group for name in names}
    if not beside & set(columns[1:]) and all(names.issuperset(columns) for names in rows):
        return stage.input.files
    path = folder / "columns.parquet"
    stage.tasks(_write, [(stage.input, columns, path, stage.rows_per_block)])
    return (str(path),)


def _cores() -> int:
    from synthray import cluster

    return cluster.cores()


# Tasks.


def _write(rows: Table, columns: Sequence[str], path: Path, group_rows: int) -> None:
    listed = ", ".join(identifier(name) for name in columns)
    with Query({"rows": rows}, writable=path.parent) as query:
        query.write(f"SELECT {listed} FROM rows", path, group_rows=group_rows)


def _asked(operator: Diversity, relations: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    return operator._asked(relations, folder)


def _part(operator: Diversity, share: Share) -> _Part | None:
    return operator._part(_batches(operator, share))


def _batches(operator: Diversity, share: Share) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for file, groups in share:
        with pq.ParquetFile(file) as held:
            yield from held.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=operator._columns)


def _joined(operator: Diversity, found: list[dict[str, Any]], *parts: _Part | None) -> pa.Table:
    return operator._measurements(found, parts)
