"""Mark rows whose text is nearly that of a row that is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from annotated_types import Ge, Gt, Le

from synthray.older import MarksDuplicates
from synthray.query import Query

if TYPE_CHECKING:
    from synthray.duplicate.search import Each, Found, Search
    from synthray.duplicate.shingle import Shingles
    from synthray.duplicate.signature import Signatures
    from synthray.stage import Stage

_STRICT = 0.7
"""Bands are chosen for this threshold, or for the floor, so that thresholds above share what was found."""


@dataclass(frozen=True)
class NearDuplicate(MarksDuplicates):
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

    threshold: Annotated[float, Gt(0), Le(1)] = 0.8
    words: Annotated[int, Ge(1), Le(50)] = 3
    characters: Annotated[int, Ge(1), Le(200)] | None = None
    permutations: Annotated[int, Ge(16), Le(1024)] = 128
    floor: Annotated[float, Gt(0), Le(1)] = 0.5

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return {
            "near_duplicate_of": pa.string(),
            "near_duplicate_similarity": pa.float64(),
            "near_duplicate_cluster": pa.string(),
            **({"near_duplicate_source": pa.string()} if self.against else {}),
        }

    def marks_of(self, table: pa.Table) -> pa.Table:
        """Return row_id and the marks of a whole table's rows."""
        from synthray.duplicate.signature import Signatures

        search = self._search(Signatures((self.signed(table),)), _one_by_one)
        with Query({"rows": table}, seed=self.context.seed) as query:
            return self._marks(search, search.found(self.least), query, [])

    def apply(self, stage: Stage) -> None:
        """Sign in a map pass, find pairs in tasks (a band or a share of the pairs each), and mark."""
        from synthray.duplicate.search import Found
        from synthray.duplicate.signature import Signatures

        def sign(folder: Path) -> None:
            stage.narrow(stage.dataset(["row_id", self.text]), self.signed, folder, "arrow")

        signed = stage.kept("signatures", [self.text, self.cut], sign)
        older = self.segments(stage, self.signed, "arrow")
        sizes = [len(Signatures(files)) for files in older]
        files = (*(file for files in older for file in files), *sorted(map(str, signed.iterdir())))
        search = self._search(Signatures(files), stage.tasks, sum(sizes))
        # Pairs are of numbers, which stand for places in just these files.
        deciding = [search.width, self.least, [Path(file).name for file in files]]
        pairs = stage.kept("pairs", deciding, lambda folder: search.found(self.least).write(folder))
        stage.added(self._marks(search, Found.read(pairs, search.old), stage.query, sizes))

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

    def _search(self, signatures: Signatures, each: Each, old: int = 0) -> Search:
        from synthray.duplicate.pair import band_width
        from synthray.duplicate.search import Search

        chosen_for = max(_STRICT, self.least) if self.threshold >= _STRICT else self.least
        return Search(signatures, self.permutations, band_width(chosen_for, self.permutations), each, old)

    def _marks(self, search: Search, found: Found, query: Query, older: list[int]) -> pa.Table:
        """Return row_id and the marks of the rows that are near others; `older`: sizes of the older data."""
        import numpy as np

        from synthray.duplicate.verdict import places, verdicts

        rows = found.involved()
        names = search.signatures.row_ids(rows)
        ends = np.cumsum(older)
        # Older data stand before all rows, in the order in which the step names them.
        source = np.searchsorted(ends, rows, "right")
        place = places(query, self.prefer, names, source, len(older))
        verdict = verdicts(found, self.threshold, place, names, search.compare)
        marks = verdict.select(["row", "of", "similarity", "cluster"])
        if self.against:
            number = verdict["number"].to_numpy(zero_copy_only=False)
            at = np.searchsorted(ends, np.nan_to_num(number.astype(float), nan=np.inf), "right")
            marks = marks.append_column("source", pa.array([*self.against, None]).take(pa.array(at)))
        return marks.rename_columns(["row_id", *self.adds()])


def _one_by_one(function: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [function(*one) for one in given]
