"""Candidates: which rows of pools may stand in a prompt as demonstrations, and the file that they stand in.

They are found once for a step, out of core: what is held out leaves, then what says the same twice, then what
is not among the best or not a medoid. The file is in the order of pool, group, label and row_id, is mapped
into memory by those who choose, and holds no order that the tables had.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthray import vectors
from synthray.column import is_text, one_array
from synthray.features import Features, require_ids
from synthray.lineage import content_ids
from synthray.query import Query
from synthray.spelling import identifier
from synthray.table import Table
from synthray.vectors import Cells, Neighbours, Vectors

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SOURCES = (Path(__file__), *Features.sources())
"""This source and those it stands on, for fingerprints."""

_LINEAGE = ("row_id", "key", "characters")
_GROUP = "pool, match, label"

Relation: TypeAlias = Table | pa.Table


@dataclass(frozen=True)
class Counts:
    """How many rows a pool was given, how many of them are held out, and how many may be chosen."""

    pool: str
    given: int
    held_out: int
    rows: int


@dataclass(frozen=True)
class Run:
    """The candidates of one pool, value of `match` and label: from `start` to before `stop`."""

    pool: int
    match: str | None
    label: str | None
    start: int
    stop: int


@dataclass(frozen=True)
class Candidates:
    """What decides which rows may be chosen; see generate.demonstrations, whose settings most fields are.

    `kinds` are the columns that are shown, `text` those by which a row is known; `vectors` says whether each
    needs a vector, and `searched` whether the nearest are looked for.
    """

    who: str
    seed: int
    kinds: pa.Schema
    text: tuple[str, ...]
    embedding: str | None = None
    match: str | None = None
    balance: str | None = None
    order: str = ""
    top: int | None = None
    medoids: int | None = None
    searched: bool = False
    probes: int = 0

    @property
    def seen(self) -> bool:
        """Whether each needs a vector."""
        return self.searched or self.medoids is not None

    def write(
        self, pools: Mapping[str, Relation], held_out: Mapping[str, Relation], folder: Path
    ) -> list[Counts]:
        """Write the candidates of `pools` into `folder`; return what became of each pool.

        A row is none when one of its texts is, but for case and white space, a text of a row of `held_out`
        (in any column: its columns may have other names), when it lacks the value of `match` or `balance`, or
        a vector where one is needed, and when a row before it has its row_id or its texts.
        """
        folder.mkdir(parents=True, exist_ok=True)
        hidden = _texts(held_out)
        given = [
            self._given(number, name, relation, hidden, folder)
            for number, (name, relation) in enumerate(pools.items())
        ]
        rest = folder / "rest.parquet"
        with Query({"given": Table(tuple(map(str, given)), "parquet")}, writable=folder) as query:
            query.write(f"{self._able()} ORDER BY {_GROUP}, row_id", rest)
            counted = query.rows("SELECT pool, count(*), count(*) FILTER (held) FROM given GROUP BY pool")
        kept = self._written(rest, folder)
        for path in (*given, rest):
            path.unlink()
        found = {number: (rows, held) for number, rows, held in counted}
        return [
            Counts(name, *found.get(number, (0, 0)), rows=kept.get(number, 0))
            for number, name in enumerate(pools)
        ]

    # The rows of a pool.

    def _given(self, number: int, name: str, relation: Relation, hidden: pa.Array, folder: Path) -> Path:
        """Write a pool's rows, block by block, with the hash of their texts and whether they are held out."""
        import pyarrow.parquet as pq

        path = folder / f"given-{number}.parquet"
        with Query({name: relation}, seed=self.seed) as query:
            names = query.schema(f"SELECT * FROM {identifier(name)}").names
            if "row_id" in names:
                require_ids(query, name)
            query.view("rows", content_ids(f"SELECT * FROM {identifier(name)}", names))
            writer: pq.ParquetWriter | None = None
            for block in query.blocks(f"({self._select(query, number)})"):
                made = self._marked(block, hidden)
                writer = writer or pq.ParquetWriter(path, made.schema)
                writer.write_table(made)
            assert writer is not None
            writer.close()
        return path

    def _select(self, query: Query, number: int) -> str:
        """Return SQL for what is needed of `rows`; columns that are shown are named by their place."""
        values = [(self.match, "match"), (self.balance, "label")]
        there = [f"{identifier(name)} IS NOT NULL" for name, _ in values if name]
        lengths = [f"coalesce(length({identifier(name)}::VARCHAR), 0)" for name in self.kinds.names]
        columns = {
            "row_id": "row_id::VARCHAR",
            "pool": f"{number}::INTEGER",
            "rank": f"({query.ordering(self.order) if self.order else 0})::BIGINT",
            **{held: f"{identifier(name) if name else 'NULL'}::VARCHAR" for name, held in values},
            "able": " AND ".join(there) or "true",
            "characters": f"({' + '.join(lengths)})::BIGINT",
            **{f"c{place}": identifier(name) for place, name in enumerate(self.kinds.names)},
            **{f"t{place}": identifier(name) for place, name in enumerate(self.text)},
            **({"vector": identifier(self.embedding)} if self.seen and self.embedding else {}),
        }
        return (
            f"SELECT {', '.join(f'{sql} AS {identifier(name)}' for name, sql in columns.items())} FROM rows"
        )

    def _marked(self, block: pa.Table, hidden: pa.Array) -> pa.Table:
        """Return a block with columns of their final types, `held`, `key` and, where needed, the texts."""
        names = [f"t{place}" for place in range(len(self.text))]
        held = [pc.is_in(hashed(block[name]), value_set=hidden, skip_nulls=True) for name in names]
        texts = joined(block, names)
        for place, field in enumerate(self.kinds):
            at = block.schema.get_field_index(f"c{place}")
            block = block.set_column(at, f"c{place}", block[f"c{place}"].cast(field.type))
        block = block.drop_columns(names).append_column("held", functools.reduce(pc.or_, held))
        block = block.append_column("key", self.key(texts, block["match"]))
        return block.append_column("texts", texts) if self.seen and not self.embedding else block

    def _able(self) -> str:
        """Return SQL for the rows that may be chosen, as far as SQL can tell."""
        # A row that is in two pools, or that says what another of its group says, stands in a prompt once.
        once = (
            "SELECT * FROM given WHERE able AND NOT held "
            "QUALIFY row_number() OVER (PARTITION BY row_id ORDER BY pool) = 1"
        )
        rows = (
            f"SELECT * FROM ({once}) QUALIFY row_number() OVER "
            "(PARTITION BY coalesce(key, row_id) ORDER BY pool, rank, row_id) = 1"
        )
        if self.top is None:
            return rows
        best = f"row_number() OVER (PARTITION BY {_GROUP} ORDER BY rank, row_id) <= {self.top}"
        return f"SELECT * FROM ({rows}) QUALIFY {best}"

    # What vectors decide.

    def _written(self, rest: Path, folder: Path) -> dict[int, int]:
        """Write the candidates and what is found by their vectors; return how many each pool has."""
        import pyarrow.parquet as pq

        groups = pq.read_table(rest, columns=["row_id", "pool", "match", "label"])
        places = np.arange(len(groups))
        if self.seen:
            places, unit = self._placed(groups, rest)
            np.save(folder / "unit.npy", unit)
        runs = _runs(groups.take(pa.array(places)))
        (folder / "runs.json").write_text(json.dumps([list(vars(run).values()) for run in runs]))
        shown = [f"c{place}" for place in range(len(self.kinds))]
        _copied(pq.ParquetFile(rest), places, [*_LINEAGE, *shown], folder / "rows.arrow")
        if self.searched and self.probes:
            self._cut(runs, folder)
        kept: dict[int, int] = {}
        for run in runs:
            kept[run.pool] = kept.get(run.pool, 0) + run.stop - run.start
        return kept

    def _placed(self, groups: pa.Table, rest: Path) -> tuple[vectors.Numbers, vectors.Numbers]:
        """Return the places of rows that have a vector, or of the medoids among them, and the vectors."""
        import pyarrow.parquet as pq

        name = "vector" if self.embedding else "texts"
        reader = self if self.embedding is None else replace(self, embedding=name)
        batches = pq.ParquetFile(rest).iter_batches(columns=["row_id", name])
        who = f"{self.who}: pool"
        parts = [reader.vectors(pa.Table.from_batches([batch]), [name], who).table() for batch in batches]
        held = Vectors.read(parts, who)
        at = one_array(pc.index_in(groups["row_id"], held.ids))
        places = np.flatnonzero(np.asarray(pc.is_valid(at)))
        unit = held.unit[np.asarray(at.drop_null())]
        if self.medoids is None:
            return places, unit
        own = [
            run.start + medoids(unit[run.start : run.stop], self.medoids, self.seed)
            for run in _runs(groups.take(pa.array(places)))
        ]
        chosen = np.concatenate([np.zeros(0, np.int64), *own])
        return places[chosen], unit[chosen]

    def vectors(self, table: pa.Table, texts: Sequence[str], who: str) -> Vectors:
        """Return the vectors of rows that have one: the embedding's, or hashed n-grams of their texts."""
        if self.embedding:
            return Vectors.of(table, self.embedding, who)
        given = pa.table({"row_id": table["row_id"], "text": joined(table, texts)})
        return Features("text").of(given.filter(pc.is_valid(given["text"])), who)

    def key(self, texts: pa.Array, match: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Return by what rows are known: equal for equal texts of one group, null for no text."""
        if not self.match:
            return hashed(texts)
        return pc.binary_join_element_wise(hashed(texts), one_array(match).cast(pa.string()), "#")

    def _cut(self, runs: Sequence[Run], folder: Path) -> None:
        """Cut runs that are too large to compare each row with each into cells, once for all who search."""
        held = Held(folder)
        for run in runs:
            index = held.index(run)
            if len(index.distinct) > vectors.EXACT:
                cells = index.cells(self.seed)
                np.savez(_cells(folder, run), centroids=cells.centroids, label=cells.label)


class Held:
    """Candidates as they were written: rows by place, runs of them, and their vectors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows: pa.Table = pa.ipc.open_file(pa.memory_map(str(folder / "rows.arrow"))).read_all()
        self.runs = [Run(*one) for one in json.loads((folder / "runs.json").read_text())]
        unit = folder / "unit.npy"
        self.unit = np.load(unit, mmap_mode="r") if unit.exists() else np.zeros((0, 0), np.float32)
        self._indices: dict[int, tuple[Neighbours, Cells | None]] = {}

    @functools.cached_property
    def ids(self) -> pa.Array:
        """The row_ids."""
        return one_array(self.rows["row_id"])

    @functools.cached_property
    def keys(self) -> pa.Array:
        """The hashes of the texts."""
        return one_array(self.rows["key"])

    @functools.cached_property
    def of(self) -> Mapping[tuple[int, str | None], Sequence[Run]]:
        """The runs by pool and value of `match`."""
        found: dict[tuple[int, str | None], list[Run]] = {}
        for run in self.runs:
            found.setdefault((run.pool, run.match), []).append(run)
        return found

    def index(self, run: Run) -> Neighbours:
        """Return the vectors of a run, to be searched."""
        return self.searched(run)[0]

    def searched(self, run: Run) -> tuple[Neighbours, Cells | None]:
        """Return the vectors of a run and the cells that they are cut into; made once."""
        if run.start not in self._indices:
            ids = self.ids.slice(run.start, run.stop - run.start)
            index = Neighbours(Vectors(ids, self.unit[run.start : run.stop]))
            self._indices[run.start] = index, self._cells(run)
        return self._indices[run.start]

    def _cells(self, run: Run) -> Cells | None:
        path = _cells(self._folder, run)
        if not path.exists():
            return None
        with np.load(path) as held:
            return Cells(held["centroids"], held["label"])


def _cells(folder: Path, run: Run) -> Path:
    return folder / f"cells-{run.start}.npz"


# Texts.


def normal(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return texts in Unicode's form NFKC, in lower case, white space as one space; null for none."""
    lower = pc.utf8_lower(pc.utf8_normalize(one_array(texts).cast(pa.large_string()), "NFKC"))
    spaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(lower, r"[\s\pZ]+", " "))
    return pc.if_else(pc.equal(spaced, ""), None, spaced)


def hashed(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a hash of 128 bits of each normal text; null for null."""
    hashes = [
        one and hashlib.blake2b(one.encode(), digest_size=16).hexdigest() for one in normal(texts).to_pylist()
    ]
    return pa.array(hashes, pa.string())


def joined(table: pa.Table, names: Sequence[str]) -> pa.Array:
    """Return the texts of columns as one, a line each; null where all are."""
    texts = [one_array(table[name]).cast(pa.large_string()) for name in names]
    line = pa.scalar("\n", pa.large_string())
    together = pc.binary_join_element_wise(*(pc.fill_null(one, "") for one in texts), line)
    return pc.if_else(functools.reduce(pc.or_, map(pc.is_valid, texts)), together, None)


def _texts(tables: Mapping[str, Relation]) -> pa.Array:
    """Return the hashes of all texts in all columns of tables, in lists and structs too."""
    found: set[str] = set()
    for name, relation in tables.items():
        with Query({name: relation}) as query:
            for block in query.blocks(f"(SELECT * FROM {identifier(name)})"):
                for column in block.columns:
                    for texts in _within(one_array(column)):
                        found.update(hashed(texts).drop_null().to_pylist())
    return pa.array(sorted(found), pa.string())


def _within(values: pa.Array) -> Iterator[pa.Array]:
    """Yield the arrays of texts of which values are made, such as those of a conversation's messages."""
    if is_text(values.type):
        yield values
    elif pa.types.is_struct(values.type):
        for part in values.flatten():
            yield from _within(part)
    elif pa.types.is_map(values.type):
        yield from _within(values.keys)
        yield from _within(values.items)
    elif pa.types.is_nested(values.type):
        yield from _within(values.flatten())


# Places.


def medoids(unit: vectors.Numbers, clusters: int, seed: int) -> vectors.Numbers:
    """Return, ascending, the places of the vectors nearest to k-means centroids, ties by place.

    Of not more vectors than `clusters` all are returned.
    """
    if len(unit) <= clusters:
        return np.arange(len(unit))
    label, similarity = vectors.assigned(unit, vectors.kmeans(unit, clusters, seed))
    order = np.lexsort((-similarity, label))
    return np.sort(order[np.unique(label[order], return_index=True)[1]])


def _runs(groups: pa.Table) -> list[Run]:
    """Return where, in the order of the file, each pool's group and label begins and ends."""
    with Query({"groups": groups}) as query:
        counted = query.rows(f"SELECT {_GROUP}, count(*) FROM groups GROUP BY ALL ORDER BY {_GROUP}")
    found: list[Run] = []
    for pool, match, label, count in counted:
        start = found[-1].stop if found else 0
        found.append(Run(pool, match, label, start, start + count))
    return found


def _copied(file: pq.ParquetFile, places: vectors.Numbers, columns: Sequence[str], path: Path) -> None:
    """Write some rows of a Parquet file as an Arrow file, which is read by place without being decoded."""
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    before = 0
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, schema) as writer:
        for batch in file.iter_batches(columns=list(columns)):
            inside = places[np.searchsorted(places, before) : np.searchsorted(places, before + len(batch))]
            writer.write_batch(batch.select(list(columns)).take(pa.array(inside - before)))
            before += len(batch)
