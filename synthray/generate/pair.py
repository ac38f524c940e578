"""Pairs of a chosen and a rejected answer to one question, from scored answers, to learn preferences from.

Which answers are paired differs between papers: the best against the worst (self-rewarding language models,
Yuan et al. 2024), the best against one of the others by chance (Zephyr, Tunstall et al. 2023), or all
(InstructGPT, Ouyang et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pyarrow as pa
from annotated_types import Ge

from synthray.column import filled
from synthray.errors import InputError, RunFailed
from synthray.lineage import IDENTITY
from synthray.metric import measurements
from synthray.operator import Makes, Operator
from synthray.spelling import identifier, quoted
from synthray.statistic.ratio import Ratio
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.query import Query
    from synthray.stage import Stage

_MADE = {
    "chosen": pa.string(),
    "rejected": pa.string(),
    "chosen_score": pa.float64(),
    "rejected_score": pa.float64(),
    "margin": pa.float64(),
    "parents": pa.list_(pa.string()),
}
_ROUNDING = 1e-9
"""Scores of one decimal differ by less than they should, by rounding."""


@dataclass(frozen=True)
class Pair(Operator):
    """Fold answers to one question into rows of `chosen` and `rejected`, for DPO and its like.

    Rows whose columns `by` are equal answer one question (rows of one parent, unless said otherwise);
    `answer` holds the text and `score` what it is worth, more being better. A pair's scores differ, at least
    by `margin`, and so do its texts. `pairs` says which are made: `best_worst` and `best_random` one a
    question, `all` each that there is, of n answers up to n (n - 1) / 2. Equal scores are told apart by
    row_id. The new rows hold the columns `prompt` (what was asked, by default the columns of `by`),
    chosen_score, rejected_score, their difference as `margin`, and as `parents` the row_ids of both; no
    other column. A row without a question, a text or a finite score, and one that is in no pair, is rejected
    as `no_children`.

    Measured is whether length is preferred, since who learns from such pairs learns to be long (Singhal et
    al. 2023, Park et al. 2024): `chosen_longer`, the share of pairs, among those of different lengths, in
    which the chosen text is longer, and `length_difference`, by how many characters on average; intervals
    count questions, not pairs. NaN where there are none. No figure says from where on it is broken, since
    better answers may well be longer: put one under `gate` that fits the task.
    """

    takes_when: ClassVar[bool] = False

    answer: str
    score: str
    prompt: str | Sequence[str] = ()
    by: str | Sequence[str] = "parent_id"
    margin: Annotated[float, Ge(0)] = 0.0
    pairs: Literal["best_worst", "best_random", "all"] = "best_worst"

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the question, the answer and the score."""
        return tuple(dict.fromkeys([*self._by, *self._prompt, self.answer, self.score]))

    @property
    def _by(self) -> tuple[str, ...]:
        return (self.by,) if isinstance(self.by, str) else tuple(self.by)

    @property
    def _prompt(self) -> tuple[str, ...]:
        named = (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)
        return named or tuple(name for name in self._by if name not in IDENTITY)

    def makes(self) -> Makes:
        """Fold rows."""
        return "children"

    def metrics(self) -> tuple[str, ...]:
        """Return what is measured."""
        return ("chosen_longer", "length_difference")

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a question that nobody named, and for columns of wrong types."""
        self.require_text(before, self.answer)
        kind = before.field(self.score).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise InputError(f"score: column {self.score!r} must hold numbers, but is {kind}")
        if not self._by:
            raise InputError("by names no column; leave it out to pair rows of one parent")
        if not self._prompt:
            raise InputError(
                "a pair needs what was asked; name its columns, such as prompt: instruction, which are equal "
                f"in all rows of one {self._by[0]}"
            )
        for name in self._prompt:
            if name in _MADE or name in IDENTITY:
                raise InputError(f"prompt: {name!r} is a column of the pair itself; derive another name")

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return the columns of pairs."""
        prompts = ((name, before.field(name).type) for name in self._prompt)
        return pa.schema([*IDENTITY.items(), *prompts, *_MADE.items()])

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the pairs of a table's rows, in the order of row_id."""
        from synthray.query import Query

        with Query({"rows": table}, seed=self.context.seed) as query:
            self._require_one_prompt(query)
            pairs = query.arrow(f"SELECT * FROM ({self._sql()}) ORDER BY row_id")
        return pairs.cast(self.schema(table.schema))

    def apply(self, stage: Stage) -> None:
        """Pair all rows by SQL, out of core, and measure."""
        self._require_one_prompt(stage.query)
        path = stage.path / "rows-pairs.parquet"
        stage.query.write(f"SELECT * FROM ({self._sql()}) ORDER BY row_id", path)
        stage.wrote(path)
        with stage.over({"rows": stage.input, "pairs": Table((str(path),), "parquet")}) as query:
            stage.measured(self.measured(query))

    # Which rows make pairs.

    def _answers(self) -> str:
        """Return the SQL of the rows that can be in a pair."""
        known = " AND ".join(f"{name} IS NOT NULL" for name in _listed(self._by))
        score = f"CAST({identifier(self.score)} AS DOUBLE)"
        return (
            f"SELECT row_id, {_packed(self._by)} AS asked, {_packed(self._prompt)} AS prompt, "
            f"{identifier(self.answer)} AS said, {score} AS score FROM rows "
            f"WHERE {known} AND {filled(self.answer)} AND isfinite({score})"
        )

    def _sql(self) -> str:
        """Return the SQL of the pairs."""
        best = "QUALIFY row_number() OVER (PARTITION BY asked ORDER BY score DESC, row_id) = 1"
        order = {
            "best_worst": "r.score, r.row_id",
            "best_random": f"chance(r.row_id, {quoted(self.origin)}), r.row_id",
        }.get(self.pairs)
        one = f"QUALIFY row_number() OVER (PARTITION BY c.asked ORDER BY {order}) = 1" if order else ""
        origin = quoted(f"{self.origin}#")
        prompts = "".join(f"c.prompt.c{n} AS {name}, " for n, name in enumerate(_listed(self._prompt)))
        return (
            f"WITH answers AS ({self._answers()}), best AS (SELECT * FROM answers {best if order else ''}) "
            f"SELECT md5('pair#' || {origin} || c.row_id || '#' || r.row_id)[:24] AS row_id, "
            f"CAST(NULL AS VARCHAR) AS parent_id, CAST({self.context.round} AS INTEGER) AS round, {prompts}"
            "c.said AS chosen, r.said AS rejected, c.score AS chosen_score, r.score AS rejected_score, "
            "c.score - r.score AS margin, [c.row_id, r.row_id] AS parents "
            "FROM best c JOIN answers r ON r.asked = c.asked AND r.score < c.score AND r.said <> c.said "
            f"AND c.score - r.score >= {self.margin} - {_ROUNDING} {one}"
        )

    def _require_one_prompt(self, query: Query) -> None:
        """Raise RunFailed, with two rows, when answers to one question were not asked the same."""
        first = "first_value(prompt) OVER (PARTITION BY asked ORDER BY row_id)"
        odd = "prompt IS DISTINCT FROM first"
        found = query.rows(
            f"WITH told AS (SELECT *, {first} AS first FROM ({self._answers()})) "
            f"SELECT min(row_id) AS one, min(row_id) FILTER ({odd}) FROM told GROUP BY asked "
            f"HAVING bool_or({odd}) ORDER BY one LIMIT 1"
        )
        if found:
            one, other = found[0]
            raise RunFailed(
                f"{self.step}: the rows {one!r} and {other!r} have one {', '.join(self._by)}, but differ in "
                f"{', '.join(self._prompt)}, so they answer different questions; put into `by` what tells "
                "them apart"
            )

    # What is measured.

    def measured(self, query: Query) -> pa.Table:
        """Return the measurements of the relation `pairs`, made from the rows of the relation `rows`."""
        # Sums of whole numbers: exact in any order.
        each = (
            f"WITH answers AS ({self._answers()}), longer AS (SELECT a.asked, "
            "length(p.chosen) - length(p.rejected) AS more FROM pairs p JOIN answers a "
            "ON a.row_id = p.parents[1]) SELECT count(*)::HUGEINT AS n, sum(more)::HUGEINT AS more, "
            "count(*) FILTER (more > 0)::HUGEINT AS won, count(*) FILTER (more <> 0)::HUGEINT AS uneven "
            "FROM longer GROUP BY asked"
        )

        def ratio(above: str, below: str) -> Ratio:
            products = (above, below, f"{above} * {above}", f"{above} * {below}", f"{below} * {below}")
            sums = ", ".join(f"coalesce(sum({one}), 0)::DOUBLE" for one in products)
            found = query.rows(f"SELECT count(*) FILTER ({below} > 0), {sums} FROM ({each})")
            return Ratio(*found[0])

        longer, more = ratio("won", "uneven"), ratio("more", "n")
        return measurements(
            [
                _measured("chosen_longer", longer.value, longer.share(), longer.b),
                _measured("length_difference", more.value, more.mean(), more.b),
            ]
        )


def _packed(names: Sequence[str]) -> str:
    """Return the SQL of one value that holds columns."""
    return f"struct_pack({', '.join(f'c{n} := {name}' for n, name in enumerate(_listed(names)))})"


def _listed(names: Sequence[str]) -> list[str]:
    return [identifier(name) for name in names]


def _measured(metric: str, value: float, interval: tuple[float, float], n: float) -> Mapping[str, Any]:
    low, high = (None if math.isnan(bound) else bound for bound in interval)
    return {"metric": metric, "value": value, "ci_low": low, "ci_high": high, "n": int(n)}
