"""Weight rows by how far their labels can be trusted: SunGen, L2RW, or confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Gt, Le

from synthray.column import lines
from synthray.errors import InputError, RunFailed
from synthray.label import confident, softmax, weighting
from synthray.label.confident import Items, Score
from synthray.learner import Learner
from synthray.lineage import uniform
from synthray.metric import measurements
from synthray.query import Query

if TYPE_CHECKING:
    import numpy as np

    from synthray.stage import Stage

_FEWEST = 10
_DECIMALS = 6


@dataclass(frozen=True)
class Weight(Learner):
    """Add `weight`: not negative, 1 in the mean; 0 is not to be learned from. `weight: weight` uses it.

    `by: sungen` (Gao et al. 2023) needs no gold rows. Two softmax heads learn from one half of the rows each,
    and the weights of a half are turned, in `iterations` steps, so that its head fits the other half better
    by reverse cross-entropy, on the `share` of each label there that weighs most. Each label keeps its part
    of all weight. `by: l2rw` (Ren et al. 2018) has a few rows of sure labels, the table `gold` with the same
    columns: a row weighs what it moves a head the way that these do, the mean over `epochs`; if none does,
    all weigh 0. `by: confidence` is cleanlab's label quality (`score`) of out-of-fold probabilities, which
    students learn (`student`, `folds`, `calibrated`); or the column `quality`, such as the label_quality of
    curate.label_issue. `weight` names a column that counts in learning, as in all learning; it is not
    multiplied into what is found.

    SunGen's and L2RW's heads learn from `train_rows` at most and weigh all rows; the texts or vectors of all
    must fit into a worker's memory. Rows without text, vector, label or quality keep null. Measured:
    `effective_rows`, the square of the sum of weights by the sum of squares (Kish).
    """

    by: Literal["sungen", "l2rw", "confidence"] = "sungen"
    gold: str | None = None
    iterations: Annotated[int, Ge(1), Le(1000)] = 20
    share: Annotated[float, Gt(0), Le(1)] = 0.9
    epochs: Annotated[int, Ge(1), Le(1000)] = 10
    score: Score = "self_confidence"
    quality: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The quality, or what is learned from."""
        if self.quality:
            return (self.label, self.quality)
        return super().reads

    @property
    def table_names(self) -> tuple[str, ...]:
        """The gold table."""
        return () if self.gold is None else (self.gold,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the weight."""
        return {"weight": pa.float64()}

    def metrics(self) -> tuple[str, ...]:
        """Return the name of what is measured."""
        return ("effective_rows",)

    def files(self) -> tuple[Path, ...]:
        """Return the sources."""
        own = tuple(Path(str(one.__file__)) for one in (softmax, weighting, confident))
        return (*super().files(), *own)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when columns, or the gold table, are not what `by` needs."""
        if (self.by == "l2rw") != (self.gold is not None):
            raise InputError(
                "by: l2rw needs gold, a table of rows with sure labels"
                if self.by == "l2rw"
                else f"gold ({self.gold!r}) is for by: l2rw, but by is {self.by!r}"
            )
        if self.quality:
            self._check_quality(before)
        else:
            super().check(before)
        if self.gold:
            self.check_others(self.gold)

    def _check_quality(self, before: pa.Schema) -> None:
        if self.by != "confidence" or self.text or self.embedding:
            raise InputError(
                f"quality ({self.quality!r}) is for by: confidence, instead of a text or an embedding"
            )
        self.require_text(before, self.label)
        if self.quality in before.names and not pa.types.is_floating(before.field(self.quality).type):
            raise InputError(
                f"column {self.quality!r} must hold floating-point numbers from 0 to 1, but is "
                f"{before.field(self.quality).type}"
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Weight the rows of a whole table."""
        judged = self.by == "confidence" and not self.quality
        given = self.judged(table) if judged else self.given(table)
        return self.attach(table, self.weighed([given]))

    def apply(self, stage: Stage) -> None:
        """Narrow the rows, or learn their probabilities; weigh all in a task, which writes the column."""
        if self.by == "confidence" and not self.quality:
            files = self.learn(stage).files
        else:
            columns = [name for name in ("row_id", "parent_id", *self.reads) if name in stage.columns]
            files = self.some(stage.narrow(stage.dataset(columns), self.given, stage.path / "given")).files
        path = stage.path / "weights.parquet"
        rows, effective = stage.tasks(_weigh, [(self, files, path)])[0]
        stage.added([str(path)])
        stage.measured(measurements([{"metric": "effective_rows", "value": effective, "n": rows}]))

    # What is weighed.

    def given(self, table: pa.Table) -> pa.Table:
        """Return row_id and the quality of rows, or what is learned from them, in narrow columns."""
        if not self.quality:
            return self.narrowed(table)
        table = table.filter(pc.and_(pc.is_valid(table[self.quality]), pc.is_valid(table[self.label])))
        quality = table[self.quality].cast(pa.float64())
        # NaN is in no range.
        wrong = pc.invert(pc.and_(pc.greater_equal(quality, 0), pc.less_equal(quality, 1)))
        if pc.any(wrong).as_py():
            row, value = table["row_id"].filter(wrong)[0], quality.filter(wrong)[0]
            raise RunFailed(
                f"{self.step}: column {self.quality!r} of row_id {row.as_py()!r} holds {value.as_py()}, "
                "which is no quality (0 to 1)"
            )
        return pa.table({"row_id": table["row_id"], "quality": quality})

    def weighed(self, parts: Sequence[pa.Table]) -> pa.Table:
        """Return row_id, in its order, and the weight of all rows that were given, in any parts."""
        if self.by != "confidence":
            found = pa.concat_tables(parts).sort_by("row_id")
            weights = self._taught(found)
        else:
            if not self.quality:
                classes = sorted({label for part in parts for label in part["label"].unique().to_pylist()})
                parts = [self._trusted(part, classes) for part in parts]
            found = pa.concat_tables(parts).sort_by("row_id")
            weights = found["quality"].to_numpy()
        total = weights.sum()
        if total > 0:
            weights = weights * (len(weights) / total)
        # What is below these decimals depends on the order in which numbers were added up.
        return pa.table({"row_id": found["row_id"], "weight": pa.array(weights.round(_DECIMALS))})

    def _trusted(self, part: pa.Table, classes: Sequence[str]) -> pa.Table:
        """Return row_id and cleanlab's label quality of probabilities."""
        matrix = lines(part["probabilities"])
        given = pc.index_in(part["label"], pa.array(classes)).to_numpy()
        quality = confident.score(Items(given, matrix), self.score)
        return pa.table({"row_id": part["row_id"], "quality": pa.array(quality)})

    # What heads find.

    def _taught(self, rows: pa.Table) -> np.ndarray:
        """Return the weights of narrow rows, in the order of row_id, by SunGen or L2RW."""
        with Query({"narrow": rows}, seed=self.context.seed) as query:
            plan = self._plan(query)
            sample = query.arrow(self.sample(query, self.train_rows))["row_id"].combine_chunks()
        learned = pc.is_in(rows["row_id"], sample).to_numpy()
        base = rows["weight"].to_numpy() * learned
        self._require(plan.classes, int((base > 0).sum()))
        features = self.features(rows.filter(pa.array(base > 0)))
        taken = self.headed(rows, features, plan.classes)
        if self.gold is not None:
            gold = self.headed(self.others(self.gold, plan.classes), features, plan.classes)
            seed = int(uniform("l2rw", self.context.seed) * 2**31)
            return weighting.l2rw(taken, gold, base, self.epochs, seed)
        half = plan.folds(rows, 2) == 1
        if not (base[half].any() and base[~half].any()):
            raise RunFailed(
                f"{self.step}: rows of one parent or one content stay together, and there are too few others "
                "to cut all into halves of which each judges the other; give more rows"
            )
        return weighting.sungen(taken, half, base, self.iterations, self.share)[0]

    def _require(self, classes: Sequence[str], rows: int) -> None:
        if len(classes) < 2:
            raise RunFailed(
                f"{self.step}: needs at least two labels in column {self.label!r}, but found {list(classes)}"
            )
        if rows < _FEWEST:
            raise RunFailed(
                f"{self.step}: needs at least {_FEWEST} rows to learn from, with text or vector, label, and "
                f"a weight above 0, but found {rows}"
            )


def _weigh(operator: Weight, files: Sequence[str], path: Path) -> tuple[int, float]:
    """Write the weights; return how many rows have one, and how many equal rows they are worth."""
    import pyarrow.parquet as pq

    found = operator.weighed([pq.read_table(file) for file in files])
    pq.write_table(found.rename_columns(["row_id", operator.final("weight")]), path)
    weights = found["weight"].to_numpy()
    squares = float(weights @ weights)
    return len(weights), float(weights.sum()) ** 2 / squares if squares else 0.0
