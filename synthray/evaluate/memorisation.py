"""What the rows copy from seeds, test sets or other texts: the longest run of words, and the nearest row."""

from __future__ import annotations

import functools
import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Le

from synthray import cluster, duplicate, statistic, vectors
from synthray.column import one_array
from synthray.errors import InputError
from synthray.features import Features
from synthray.lineage import content_ids
from synthray.metric import measurements
from synthray.operator import Operator
from synthray.query import Query
from synthray.spelling import identifier
from synthray.statistic.span import Words, copies
from synthray.table import Table
from synthray.vectors import Cells, Neighbours, Vectors

if TYPE_CHECKING:
    from synthray.stage import Stage

_WORDS_AT_ONCE = 1 << 22
_ROWS_AT_ONCE = 100_000
_ROWS_A_GROUP = 10_000
_PROBES = 64
_JUDGED = pa.schema(
    [
        ("row_id", pa.string()),
        ("table", pa.int32()),
        ("leaks", pa.bool_()),
        ("copied", pa.float64()),
        ("words", pa.int32()),
        ("similarity", pa.float64()),
    ]
)
"""What is known of a row and a table; `table` is null for all of them together."""


@dataclass(frozen=True)
class Memorisation(Operator):
    """Mark and measure what rows copy from the tables `against`: seeds, test sets, samples of other texts.

    Two texts leak into each other that share a run of `span` words, 13 as in GPT-3's decontamination (Brown
    et al. 2020, arXiv 2005.14165, which takes 8 to 13). Short texts count whole: where one of the two has
    fewer words than `span`, all of it must stand in the other, and where it has fewer than `least`, they must
    be equal. Case, punctuation and white space do not count; a letter of a script without spaces is a word.
    Every run is compared word by word, and none is left out.

    Adds `memorisation_leaks`; `memorisation_span`, the longest run that is copied, of `memorisation_words`
    words (shown from `least` words on, also where that is no leak), from the row `memorisation_of` of
    `memorisation_table`; and `memorisation_nearest`, the most similar row of all tables, with
    `memorisation_similarity`, the cosine of their vectors (`embedding`, else hashed n-grams, which see
    spelling alone). Against more than 100,000 different vectors the nearest is looked for in k-means cells,
    as curate.neighbours does; `nearest: false` leaves it out. Rows without a word have nulls.

    Measures over rows with words, and for each table in the slice table=NAME: `leaked`, the share of rows
    that leak; `copied`, the mean share of a row's words in such runs; `longest_span`, the most words in a
    run, with `longest_span_p50` and `_p95` over rows; `nearest`, the mean similarity to the nearest row, with
    `nearest_p50` and `_p95`; and of the tables' side `exposed`, the share of their texts that some row leaks.
    The runs are in the columns: look at them before you believe a share.
    """

    text: str
    against: Sequence[str]
    embedding: str | None = None
    span: Annotated[int, Ge(2), Le(1000)] = 13
    least: Annotated[int, Ge(1), Le(1000)] = 8
    nearest: bool = True

    @property
    def reads(self) -> tuple[str, ...]:
        """Text, and vectors where they are named."""
        return self.features.reads

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables that are compared with."""
        return tuple(self.against)

    @property
    def features(self) -> Features:
        """What is seen of a row."""
        return Features(self.text, self.embedding)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return {
            "memorisation_leaks": pa.bool_(),
            "memorisation_span": pa.string(),
            "memorisation_words": pa.int32(),
            "memorisation_table": pa.string(),
            "memorisation_of": pa.string(),
            **(
                {"memorisation_nearest": pa.string(), "memorisation_similarity": pa.float64()}
                if self.nearest
                else {}
            ),
        }

    def metrics(self) -> tuple[str, ...]:
        """Return the names of what is measured, slices left out."""
        spread = ("", "_p50", "_p95")
        similar = tuple(f"nearest{part}" for part in spread) if self.nearest else ()
        return ("leaked", "copied", *(f"longest_span{part}" for part in spread), *similar, "exposed")

    def gate(self) -> tuple[str, ...]:
        """Refuse rows that were copied, and tables that were given away."""
        # By themselves news of one source share 0.05, and published training sets 0.03 of their tests; where
        # one text in ten was copied it is 0.1 and more (benchmarks/faithfulness.py).
        return ("leaked.value < 0.08", "exposed.value < 0.08")

    def files(self) -> tuple[Path, ...]:
        """Return the sources of words, runs and vectors."""
        return (*Features.sources(), *duplicate.SOURCES, *statistic.SOURCES)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when rows or a table lack a column, or settings contradict each other."""
        if not self.against:
            raise InputError("against names no table; name at least one, such as the seeds or the test set")
        if len(set(self.against)) < len(self.against):
            raise InputError(f"against names a table twice: {', '.join(self.against)}")
        if self.embedding and not self.nearest:
            raise InputError(
                "embedding is what the nearest row is found by; leave it out, or set nearest: true"
            )
        self.features.check(before)
        for name in self.against:
            self.features.check(self.context.schemas[name], name)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table."""
        return self.attach(table, self.examined(table)[0])

    def examined(self, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return row_id and the marks of the rows that have words, and the measurements, without Ray."""
        import pyarrow.feather as feather
        import pyarrow.parquet as pq

        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.arrow"
            feather.write_feather(self.narrowed(table), str(rows))
            files, found = self.judged(one_by_one, [str(rows)], Path(folder), 1)
            marks = pq.read_table(files[0])
        return marks.rename_columns(["row_id", *self.adds()]), found

    def apply(self, stage: Stage) -> None:
        """Read tables in a task each, compare shares of the rows in tasks, and mark."""
        folder = stage.path / "memorisation"
        given = stage.dataset(["row_id", *self.reads])
        narrow = stage.narrow(given, self.narrowed, folder / "rows", "arrow")
        marks, found = self.judged(stage.tasks, narrow.files, folder, cluster.cores())
        stage.added(marks)
        stage.measured(found)
        shutil.rmtree(folder / "rows")

    def narrowed(self, table: pa.Table) -> pa.Table:
        """Return what is read of rows."""
        return table.select(["row_id", *self.reads])

    def judged(
        self, each: Each, files: Sequence[str], folder: Path, workers: int
    ) -> tuple[list[str], pa.Table]:
        """Write the marks of the rows in `files` into `folder`; return their files and the measurements."""
        tables = self.context.tables
        held = each(
            _read,
            [(self, tables[name], folder / f"table-{place}") for place, name in enumerate(self.against)],
        )
        shares = [share for worker in range(workers) if (share := list(files[worker::workers]))]
        found = each(
            _compared, [(self, held, share, folder / f"share-{place}") for place, share in enumerate(shares)]
        )
        judged = Table(
            tuple(str(folder / f"share-{place}" / "judged.parquet") for place in range(len(shares))),
            "parquet",
        )
        exposed = [
            len(functools.reduce(np.union1d, [one[place] for one in found]))
            for place in range(len(self.against))
        ]
        with Query({"judged": judged}) as query:
            measured = self._measured(query, [(one.texts, n) for one, n in zip(held, exposed, strict=True)])
        for place in range(len(self.against)):
            shutil.rmtree(folder / f"table-{place}")
        return [str(folder / f"share-{place}" / "marks.parquet") for place in range(len(shares))], measured

    def _measured(self, query: Query, exposed: Sequence[tuple[int, int]]) -> pa.Table:
        """Return the measurements: of all tables, and of each."""
        texts, leaked = (sum(part) for part in zip(*exposed, strict=True))
        found = self._of_rows(query, "IS NULL", {})
        found.append({"metric": "exposed", "value": leaked / texts if texts else math.nan, "n": texts})
        for place, name in enumerate(self.against):
            texts, leaked = exposed[place]
            one = {"slice": f"table={name}"}
            found += self._of_rows(query, f"= {place}", one)
            found.append(
                {"metric": "exposed", "value": leaked / texts if texts else math.nan, "n": texts, **one}
            )
        return measurements(found)

    def _of_rows(self, query: Query, which: str, place: dict[str, str]) -> list[dict[str, Any]]:
        values = {
            "leaked": "avg(leaks::INTEGER)",
            "copied": "avg(copied)",
            "longest_span": "max(words)::DOUBLE",
            "longest_span_p50": "quantile_cont(words, 0.5)",
            "longest_span_p95": "quantile_cont(words, 0.95)",
        }
        similar = {
            "nearest": "avg(similarity)",
            "nearest_p50": "quantile_cont(similarity, 0.5)",
            "nearest_p95": "quantile_cont(similarity, 0.95)",
        }
        names = [*values, *(similar if self.nearest else {})]
        listed = ", ".join({**values, **similar}[name] for name in names)
        sql = f'SELECT count(*), count(similarity), {listed} FROM judged WHERE "table" {which}'
        rows, compared, *given = query.rows(sql)[0]
        return [
            {
                "metric": name,
                "value": math.nan if value is None else value,
                "n": compared if name in similar else rows,
                **place,
            }
            for name, value in zip(names, given, strict=True)
        ]


Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a function with each of some arguments, anywhere, and returns what it returned in their order."""


def one_by_one(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call it here."""
    return [function(*given) for given in arguments]


@dataclass(frozen=True)
class _Held:
    """A table as files: its words, in parts that a worker can hold, and its vectors; `texts` have words."""

    texts: int
    words: tuple[str, ...]
    vectors: tuple[str, ...]
    cells: Cells | None


def _read(operator: Memorisation, table: Table | pa.Table, folder: Path) -> _Held:
    """Write the words and the vectors of a table, in the order of row_id."""
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)  # a worker that died may have begun
    path = folder / "rows.parquet"
    who = f"{operator.step}: table {folder.name!r}"
    with Query({"given": table}, writable=folder) as query:
        columns = ", ".join(identifier(name) for name in operator.reads)
        source = content_ids("SELECT * FROM given", query.schema("SELECT * FROM given").names)
        query.write(
            f"SELECT CAST(row_id AS VARCHAR) AS row_id, {columns} FROM ({source}) ORDER BY row_id",
            path,
            group_rows=_ROWS_A_GROUP,
        )
    words: list[str] = []
    held: list[str] = []
    parts: list[pa.Table] = []
    texts = waiting = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_A_GROUP):
            rows = pa.Table.from_batches([batch])
            if operator.nearest:
                held.append(
                    _kept(operator.features.of(rows, who).table(), folder / f"vectors-{len(held)}.arrow")
                )
            _, hashed = tokens(rows[operator.text])
            texts += int((hashed.sizes > 0).sum())
            waiting += len(hashed.tokens)
            lists = pa.LargeListArray.from_arrays(pa.array(hashed.starts), pa.array(hashed.tokens))
            parts.append(pa.table({"row_id": rows["row_id"], "words": lists}))
            if waiting >= _WORDS_AT_ONCE:
                words.append(_kept(pa.concat_tables(parts), folder / f"words-{len(words)}.arrow"))
                parts, waiting = [], 0
    if parts:
        words.append(_kept(pa.concat_tables(parts), folder / f"words-{len(words)}.arrow"))
    path.unlink()
    index = _index(held, who)
    cells = index.cells(operator.context.seed) if len(index.distinct) > vectors.EXACT else None
    return _Held(texts, tuple(words), tuple(held), cells)


def _kept(table: pa.Table, path: Path) -> str:
    import pyarrow.feather as feather

    feather.write_feather(table, str(path), compression="uncompressed")
    return str(path)


def _index(files: Sequence[str], who: str) -> Neighbours:
    import pyarrow.feather as feather

    return Neighbours(Vectors.read([feather.read_table(file) for file in files], who))


def tokens(texts: pa.Array | pa.ChunkedArray) -> tuple[pa.LargeListArray, Words]:
    """Return the lower-case words of each text, and the hashes of them all."""
    from synthray.duplicate.shingle import words

    held = words(one_array(texts))
    encoded = held.flatten().dictionary_encode()
    hashes = np.fromiter(
        (
            int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            for word in encoded.dictionary.to_pylist()
        ),
        np.uint64,
    )
    sizes = pc.list_value_length(held).to_numpy(zero_copy_only=False).astype(np.int64)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return held, Words(hashes[codes], np.concatenate([[0], np.cumsum(sizes)]))


def _compared(
    operator: Memorisation, tables: Sequence[_Held], files: Sequence[str], folder: Path
) -> list[np.ndarray[Any, Any]]:
    """Write the marks and what is measured of rows; return the numbers of each table's exposed texts."""
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)  # a worker that died may have begun
    kinds = {operator.final(name): kind for name, kind in operator.adds().items()}
    schema = pa.schema({"row_id": pa.string(), **kinds})
    indices = [_index(table.vectors, operator.step) for table in tables]
    exposed = [np.zeros(0, np.int64) for _ in tables]
    with (
        pq.ParquetWriter(folder / "marks.parquet", schema) as marks,
        pq.ParquetWriter(folder / "judged.parquet", _JUDGED) as judged,
    ):
        for rows in _groups(files):
            comparison = _Comparison(operator, rows)
            for place, (table, index) in enumerate(zip(tables, indices, strict=True)):
                found, more = comparison.against(place, table, index)
                exposed[place] = np.union1d(exposed[place], more)
                judged.write_table(found)
            judged.write_table(
                comparison.judged(None, comparison.copied, comparison.best, comparison.similarity)
            )
            marks.write_table(comparison.marks().rename_columns(schema.names).cast(schema))
    return exposed


def _groups(files: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of files, some of them together: what is sorted of a table serves them all."""
    import pyarrow.feather as feather

    held: list[pa.Table] = []
    for file in files:
        held.append(feather.read_table(file))
        if sum(map(len, held)) >= _ROWS_AT_ONCE:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


class _Comparison:
    """Rows beside one table after the other, and the most that is known of each."""

    def __init__(self, operator: Memorisation, rows: pa.Table) -> None:
        self.operator = operator
        held, words = tokens(rows[operator.text])
        there = pa.array(words.sizes > 0)
        self.rows = rows.filter(there)
        self.lists = held.filter(there)
        self.words = Words(words.tokens, np.concatenate([[0], np.cumsum(words.sizes[words.sizes > 0])]))
        self.ids = one_array(self.rows["row_id"])
        self.vectors = operator.features.of(self.rows, operator.step) if operator.nearest else None
        count = len(self.ids)
        self.copied = np.zeros(len(self.words.tokens), bool)
        self.best, self.place = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.table = np.full(count, -1)
        self.of = np.full(count, None, object)
        self.similarity, self.near = np.full(count, np.nan), np.full(count, None, object)

    def against(self, number: int, table: _Held, index: Neighbours) -> tuple[pa.Table, np.ndarray[Any, Any]]:
        """Return what is known of rows beside one table, and which of its texts are exposed."""
        import pyarrow.feather as feather

        operator = self.operator
        copied, longest = np.zeros(len(self.words.tokens), bool), np.zeros(len(self.ids), np.int64)
        exposed, before = [np.zeros(0, np.int64)], 0
        for file in table.words:
            part = feather.read_table(file, memory_map=True)
            lists = one_array(part["words"])
            others = Words(np.asarray(lists.values), np.asarray(lists.offsets))
            found = copies(self.words, others, operator.span, min(operator.least, operator.span))
            copied |= found.copied
            longest = np.maximum(longest, found.longest)
            exposed.append(np.flatnonzero(found.exposed) + before)
            before += len(part)
            better = np.flatnonzero(found.longest > self.best)
            self.best[better], self.place[better] = found.longest[better], found.place[better]
            self.table[better] = number
            self.of[better] = part["row_id"].take(pa.array(found.of[better])).to_pylist()
        self.copied |= copied
        similarity = self._nearest(index, table.cells)
        return self.judged(number, copied, longest, similarity), np.concatenate(exposed)

    def _nearest(self, index: Neighbours, cells: Cells | None) -> np.ndarray[Any, Any]:
        """Return how similar the nearest vector of a table is, and keep the nearest of all tables."""
        similarity = np.full(len(self.ids), np.nan)
        if self.vectors is None or not len(index.vectors):
            return similarity
        vectors.check_size(self.vectors, index.vectors.unit.shape[1], self.operator.step)
        query, place, found = index.of(self.vectors, 1, own=False, cells=cells, probes=_PROBES)
        rows = pc.index_in(self.vectors.ids, self.ids).to_numpy()[query]
        similarity[rows] = found
        nearer = ~(found <= self.similarity[rows])
        self.similarity[rows[nearer]] = found[nearer]
        self.near[rows[nearer]] = index.vectors.ids.take(pa.array(place[nearer])).to_pylist()
        return similarity

    def judged(
        self,
        number: int | None,
        copied: np.ndarray[Any, Any],
        longest: np.ndarray[Any, Any],
        similarity: np.ndarray[Any, Any],
    ) -> pa.Table:
        """Return what is measured of the rows."""
        words = np.bincount(self.words.text[copied], minlength=len(self.ids))
        columns = {
            "row_id": self.ids,
            "table": pa.array([number] * len(self.ids), pa.int32()),
            "leaks": pa.array(words > 0),
            "copied": pa.array(words / self.words.sizes, pa.float64()),
            "words": pa.array(longest, pa.int32()),
            "similarity": pa.array(similarity, from_pandas=True),
        }
        return pa.table(columns, schema=_JUDGED)

    def marks(self) -> pa.Table:
        """Return the marks of the rows."""
        runs: list[str | None] = [None] * len(self.ids)
        for row in np.flatnonzero(self.best).tolist():
            start = int(self.place[row])
            runs[row] = " ".join(self.lists[row].as_py()[start : start + int(self.best[row])])
        names = [self.operator.against[number] if number >= 0 else None for number in self.table.tolist()]
        leaks = np.bincount(self.words.text[self.copied], minlength=len(self.ids)) > 0
        columns = {
            "row_id": self.ids,
            "memorisation_leaks": pa.array(leaks),
            "memorisation_span": pa.array(runs, pa.string()),
            "memorisation_words": pa.array(self.best, pa.int32()),
            "memorisation_table": pa.array(names, pa.string()),
            "memorisation_of": pa.array(self.of.tolist(), pa.string()),
        }
        if self.operator.nearest:
            columns["memorisation_nearest"] = pa.array(self.near.tolist(), pa.string())
            columns["memorisation_similarity"] = pa.array(self.similarity, from_pandas=True)
        return pa.table(columns)
