"""Mark rows whose text is like that of none that is kept: Self-Instruct's novelty gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Gt, Le

from synthray.older import MarksDuplicates
from synthray.query import Query

if TYPE_CHECKING:
    from synthray.duplicate.admission import Admission
    from synthray.duplicate.rouge import Words
    from synthray.duplicate.search import Each
    from synthray.duplicate.shingle import Places
    from synthray.stage import Stage

_NEAREST = pa.list_(
    pa.struct([("row_id", pa.string()), ("source", pa.string()), ("similarity", pa.float64())])
)


@dataclass(frozen=True)
class Novelty(MarksDuplicates):
    """Add `novel` (true: keep), `novelty_of`, `novelty_similarity`, `novelty_mean`, `novelty_nearest`.

    The gate of Self-Instruct (Wang et al. 2023, arXiv 2212.10560): rows are taken in the order of `prefer`
    (such as "score DESC"), then row_id, and one is novel if its highest ROUGE-L F1 is below `threshold` with
    all of `against` (runs, named tables, files: the seeds, the pool) and all novel rows before it. So no two
    of what is kept are at the threshold or above, and whether a row is novel hangs on those before it alone.
    (The paper's code lets a pair in that is at the threshold itself.)

    `novelty_similarity` is that highest F1 and `novelty_of` the row that it is with, the earliest of several,
    null where the row shares no word with any; `novelty_mean` is the mean F1 over all that were kept before,
    null where there was none; `novelty_nearest` holds the `nearest` of them (row_id, source, similarity) that
    share a word, the nearest first, and is left out by `nearest: 0`. `source`, and `novelty_source` for
    `novelty_of`, say which of `against` a row is of, null for the step's own rows.

    Words are runs of letters and digits in lower case without stemming, as by the tokeniser of rouge_score,
    but letters of all scripts count (of those that put no space between words each letter is a word). A text
    without a word shares nothing and is novel; of a missing text all marks are null, and it is not kept.

    Every row is compared with every kept one: exact, about 25 million pairs a second and core for texts of up
    to 64 words, a hundred times fewer for texts of more.
    """

    threshold: Annotated[float, Gt(0), Le(1)] = 0.7
    nearest: Annotated[int, Ge(0), Le(1000)] = 10

    @property
    def cut(self) -> Mapping[str, Any]:
        """What decides a text's words."""
        from synthray.duplicate.rouge import VERSION

        return {"version": VERSION, "words of": "rouge"}

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the marks."""
        return {
            "novel": pa.bool_(),
            "novelty_of": pa.string(),
            "novelty_similarity": pa.float64(),
            "novelty_mean": pa.float64(),
            **({"novelty_nearest": _NEAREST} if self.nearest else {}),
            **({"novelty_source": pa.string()} if self.against else {}),
        }

    def marks_of(self, table: pa.Table) -> pa.Table:
        """Return row_id and the marks of a whole table's rows."""
        from synthray.duplicate.rouge import Words

        with Query({"rows": table}, seed=self.context.seed) as query:
            return pa.concat_tables(self._marks(Words((self.worded(table),)), query, [], _one_by_one, 1))

    def apply(self, stage: Stage) -> None:
        """Find words in a map pass; compare blocks of rows in tasks, and decide on one after the other."""
        import pyarrow.parquet as pq

        from synthray import cluster
        from synthray.duplicate.rouge import Words

        def keep(folder: Path) -> None:
            stage.narrow(stage.dataset(["row_id", self.text]), self.worded, folder, "arrow")

        own = sorted(map(str, stage.kept("words", [self.text, self.cut], keep).iterdir()))
        older = self.segments(stage, self.worded, "arrow")
        sizes = [len(Words(files)) for files in older]
        texts = Words((*(file for files in older for file in files), *own))
        written: list[str] = []
        for marks in self._marks(texts, stage.query, sizes, stage.tasks, cluster.cores()):
            written.append(str(stage.path / f"marks-{len(written)}.parquet"))
            named = ["row_id", *map(self.final, self.adds())]
            pq.write_table(marks.rename_columns(named), written[-1], compression="zstd")
        stage.added(written)

    def worded(self, table: pa.Table) -> pa.Table:
        """Return the words of a block; see synthray.duplicate.rouge."""
        from synthray.duplicate.rouge import worded

        return worded(table, self.text)

    def _marks(
        self, texts: Words, query: Query, older: list[int], each: Each, workers: int
    ) -> Iterator[pa.Table]:
        """Yield row_id and the marks of rows that have a text, and first those of none.

        `older` are the numbers of texts of the older data, which stand before the rows.
        """
        from synthray.duplicate.admission import Gate
        from synthray.duplicate.verdict import places

        yield pa.schema({"row_id": pa.string(), **self.adds()}).empty_table()
        numbers = np.arange(len(texts))
        names = texts.row_ids(numbers)
        source = np.searchsorted(np.cumsum(older), numbers, "right")
        order = np.argsort(places(query, self.prefer, names, source, len(older)))
        old = sum(older)
        gate = Gate(texts, order[:old], self.threshold, max(1, self.nearest), each, workers)
        sources = pa.array([*self.against, None], pa.string()).take(pa.array(source))
        for admission in gate.admissions(order[old:]):
            yield self._marked(admission, gate.kept, names, sources)

    def _marked(self, found: Admission, kept: Places, names: pa.Array, sources: pa.Array) -> pa.Table:
        ends = np.cumsum([0, *(len(one.places) for one in found.nearest)])
        near = pa.array(kept[np.concatenate([one.places for one in found.nearest])])
        shares = np.concatenate([one.shares for one in found.nearest])
        alone = np.diff(ends) == 0
        first = pa.array(np.where(alone, 0, ends[:-1]), mask=alone)
        of = near.take(first)
        total = np.array([one.total for one in found.nearest])
        struct = pa.StructArray.from_arrays(
            [names.take(near), sources.take(near), pa.array(shares)], fields=list(_NEAREST.value_type)
        )
        marks = {
            "row_id": names.take(pa.array(found.rows)),
            "novel": pa.array(found.let_in),
            "novelty_of": names.take(of),
            "novelty_similarity": pa.array(shares).take(first).fill_null(0.0),
            "novelty_mean": pa.array(total / np.maximum(found.before, 1), mask=found.before == 0),
            "novelty_nearest": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), struct),
            "novelty_source": sources.take(of),
        }
        return pa.table(marks).select(["row_id", *self.adds()])


def _one_by_one(function: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [function(*one) for one in given]
