"""Mark rows whose text is nearly that of a row that is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from annotated_types import Ge, Gt, Le

from synthray.duplicate import SOURCES
from synthray.errors import InputError, QueryError
from synthray.lineage import digest
from synthray.older import Older
from synthray.operator import Operator
from synthray.query import Query

if TYPE_CHECKING:
    from synthray.duplicate.index import Index
    from synthray.duplicate.search import Each, Found, Search
    from synthray.duplicate.shingle import Shingles
    from synthray.duplicate.signature import Signatures
    from synthray.stage import Stage

_STRICT = 0.7
"""Bands are chosen for this threshold, or for the floor, so that thresholds above share what was found."""


@dataclass(frozen=True)
class NearDuplicate(Operator):
    """Add `near_duplicate_of` (null: keep), `near_duplicate_similarity` and `near_duplicate_cluster`.

    MinHash signatures (Broder 1997; datasketch's, `permutations` of them) over runs of `words` words, or of
    `characters` characters, find candidates by band; each is verified by the true Jaccard similarity of the
    two texts' runs. Rows are taken in the order of `prefer` (such as "score DESC"), then row_id: one is kept
    unless a kept row is at or above `threshold`, so that `near_duplicate_of` always names a kept row that
    near, and members of a chain may stay. A cluster is what such pairs connect; rows in none have a null, and
    so have texts that are null or without a word. Of the pairs at `threshold` itself 1 in 100 is missed, of
    those 0.05 above 1 in 1,000. Signatures and pairs above `floor` are kept: another threshold is quick.

    Rows that are near one of `against` (runs, named tables, files) are marked too: it comes first in the
    order, and `near_duplicate_source` says which it was. Its signatures are kept in the folder `index`, which
    grows by what is new in it; without one they are kept in the run.
    """

    text: str
    threshold: Annotated[float, Gt(0), Le(1)] = 0.8
    words: Annotated[int, Ge(1), Le(50)] = 3
    characters: Annotated[int, Ge(1), Le(200)] | None = None
    permutations: Annotated[int, Ge(16), Le(1024)] = 128
    prefer: str = ""
    floor: Annotated[float, Gt(0), Le(1)] = 0.5
    against: Sequence[str] = ()
    index: str | None = None
    base: str = "."

    @property
    def reads(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The named tables among the older data."""
        return tuple(
            name for name in self.against if name in self.context.schemas or name in self.context.tables
        )

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return {
            "near_duplicate_of": pa.string(),
            "near_duplicate_similarity": pa.float64(),
            "near_duplicate_cluster": pa.string(),
            **({"near_duplicate_source": pa.string()} if self.against else {}),
        }

    def settings(self) -> dict[str, Any]:
        """Return what decides the marks; where the index lies does not, nor where older files do."""
        return {name: value for name, value in super().settings().items() if name not in ("index", "base")}

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what it stands on, and the older files."""
        named = [name for name in self.against if name not in self.table_names]
        older = Older.find(named, {}, Path(self.base))
        return (*SOURCES, *(Path(path) for one in older for path in one.table.paths))

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when text, `prefer`, older data or index are not what they must be."""
        self.require_text(before, self.text)
        with Query({"rows": before.empty_table()}) as query:
            try:
                query.ordering(self.prefer)
            except QueryError as error:
                raise InputError(f"prefer: {error}") from None
        if self.index and not self.against:
            raise InputError("index is where signatures of older data are kept; name that data by against")
        if self.index:
            self._index(Path(self.base) / self.index).check()
        made = [name for name in self.table_names if name not in self.context.tables]
        for name in made:
            self.require_text(self.context.schemas[name], self.text)
        for one in self._older([name for name in self.against if name not in made]):
            one.check(self.text)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Mark the rows of a whole table; older data take a run."""
        if self.against:
            raise InputError("against needs a run: the signatures of older data are kept in its folder")
        from synthray.duplicate.signature import Signatures

        search = self._search(Signatures((self.signed(table),)), _one_by_one)
        with Query({"rows": table}, seed=self.context.seed) as query:
            return self.attach(table, self._marks(search, search.found(self.least), query, []))

    def apply(self, stage: Stage) -> None:
        """Sign in a map pass, find pairs in tasks (a band or a share of the pairs each), and mark."""
        from synthray.duplicate.search import Found
        from synthray.duplicate.signature import Signatures

        def sign(folder: Path) -> None:
            stage.narrow(stage.dataset(["row_id", self.text]), self.signed, folder, "arrow")

        signed = stage.kept("signatures", [self.text, self.cut], sign)
        segments = self._segments(stage)
        old = sum(len(Signatures(files)) for files in segments)
        files = (*(file for files in segments for file in files), *sorted(map(str, signed.iterdir())))
        search = self._search(Signatures(files), stage.tasks, old)
        deciding = [
            self.text,
            self.cut,
            search.width,
            self.least,
            [Path(files[0]).parent.name for files in segments if files],
        ]
        pairs = stage.kept("pairs", deciding, lambda folder: search.found(self.least).write(folder))
        stage.added(self._marks(search, Found.read(pairs, old), stage.query, segments))

    @property
    def shingles(self) -> Shingles:
        """How texts are cut."""
        from synthray.duplicate.shingle import Shingles

        if self.characters is None:
            return Shingles("words", self.words)
        return Shingles("characters", self.characters)

    @property
    def cut(self) -> dict[str, Any]:
        """What decides a text's signature."""
        from synthray.duplicate.shingle import VERSION

        unit = {"words": self.words} if self.characters is None else {"characters": self.characters}
        return {"version": VERSION, **unit, "permutations": self.permutations}

    @property
    def least(self) -> float:
        """From where on pairs are kept: a threshold below the floor takes its place."""
        return min(self.floor, self.threshold)

    def signed(self, table: pa.Table) -> pa.Table:
        """Return the signatures of a block; see synthray.duplicate.signature."""
        from synthray.duplicate.signature import signed

        return signed(table, self.text, self.shingles, self.permutations)

    def _index(self, folder: Path) -> Index:
        from synthray.duplicate.index import Index

        return Index(folder, self.cut)

    def _older(self, names: Sequence[str]) -> list[Older]:
        return Older.find(names, self.context.tables, Path(self.base))

    def _segments(self, stage: Stage) -> list[tuple[str, ...]]:
        """Return the files of the signatures of each of the older data."""
        if self.index:
            index = self._index(Path(self.base) / self.index)
        else:
            index = self._index(stage.run.root / "artifacts" / f"older-{digest(self.cut)}")

        def sign(one: Older, folder: Path) -> None:
            path = stage.path / "older.parquet"
            rows = one.write(self.text, path, stage.path, stage.rows_per_block)
            stage.narrow(stage.read((str(path),), rows), self.signed, folder, "arrow")
            path.unlink()

        return [
            index.segment(digest(one.table.digest(), self.text), functools.partial(sign, one))
            for one in self._older(self.against)
        ]

    def _search(self, signatures: Signatures, each: Each, old: int = 0) -> Search:
        from synthray.duplicate.pair import band_width
        from synthray.duplicate.search import Search

        chosen_for = max(_STRICT, self.least) if self.threshold >= _STRICT else self.least
        return Search(signatures, self.permutations, band_width(chosen_for, self.permutations), each, old)

    def _marks(self, search: Search, found: Found, query: Query, segments: list[tuple[str, ...]]) -> pa.Table:
        """Return row_id and the marks of the rows that are near others."""
        import numpy as np

        from synthray.duplicate.signature import Signatures
        from synthray.duplicate.verdict import places, verdicts

        rows = found.involved()
        names = search.signatures.row_ids(rows)
        ends = np.cumsum([len(Signatures(files)) for files in segments])
        # Older data stand before all rows, in the order in which the step names them.
        source = np.searchsorted(ends, rows, "right")
        place = places(query, self.prefer, names, source, len(segments))
        verdict = verdicts(found, self.threshold, place, names, search.compare)
        marks = verdict.select(["row", "of", "similarity", "cluster"])
        if self.against:
            number = verdict["number"].to_numpy(zero_copy_only=False)
            at = np.searchsorted(ends, np.nan_to_num(number.astype(float), nan=np.inf), "right")
            marks = marks.append_column("source", pa.array([*self.against, None]).take(pa.array(at)))
        return marks.rename_columns(["row_id", *self.adds()])


def _one_by_one(function: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [function(*one) for one in given]
