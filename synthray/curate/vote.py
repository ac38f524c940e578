"""Choose among several samples of a row by the answer that most of them give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from annotated_types import Ge, Le

from synthray import final_answer
from synthray.column import is_list, is_text
from synthray.errors import InputError
from synthray.final_answer import final
from synthray.operator import Operator


@dataclass(frozen=True)
class Vote(Operator):
    """Add the answer of most of the texts in the list column `samples` (self-consistency, Wang 2022).

    Each sample's final answer is found as in curate.verification (`answer` says of what kind it is) and has
    one vote; a sample without one, or that is null, has none. `vote_answer` is the answer with the most
    votes, `vote_count` how many it has, `vote_share` their share of all samples, those without an answer
    included, and `vote_sample` the chosen text: the shortest with that answer, of equally short ones the
    first. Of answers with equally many votes the one whose chosen text is shorter wins, then the one whose
    text stands first. Percent signs do not count: 50% and 50 are one answer.

    Below `least` share, `vote_answer` and `vote_sample` are null; so they are where no sample has an answer
    (`vote_count` is 0 then). The share of a row without samples is null.

    Over rows instead of lists, SQL counts the column `final_answer` of curate.verification.
    """

    samples: str
    answer: final_answer.Kind = "numeric"
    least: Annotated[float, Ge(0), Le(1)] = 0.0

    @property
    def reads(self) -> tuple[str, ...]:
        """The list of texts."""
        return (self.samples,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the answer, what speaks for it, and the chosen text."""
        counted = {"vote_count": pa.int64(), "vote_share": pa.float64()}
        return {"vote_answer": pa.string(), **counted, "vote_sample": pa.string()}

    def files(self) -> tuple[Path, ...]:
        """Return the code that reads an answer."""
        return (final_answer.SOURCE,)

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a column that holds no lists of texts."""
        if self.samples not in before.names:
            return
        kind = before.field(self.samples).type
        if not is_list(kind) or not is_text(kind.value_type):
            raise InputError(
                f"samples: column {self.samples!r} must hold lists of texts, but is {kind}; rows that are "
                "samples of one parent become a list by SQL, list(text ORDER BY row_id)"
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Count the votes of each row."""
        found = [self._elected(samples or []) for samples in table[self.samples].to_pylist()]
        return self.add(table, {name: [one.get(name) for one in found] for name in self.adds()})

    def _elected(self, samples: Sequence[str | None]) -> dict[str, Any]:
        """Return the columns of a row; votes are places in `samples`, of which the chosen one comes first."""
        votes: dict[str, list[tuple[int, int]]] = {}
        for place, text in enumerate(samples):
            found = final(text, self.answer) if text else None
            if found is not None:
                key = found.removesuffix("%") if self.answer == "numeric" else found
                votes.setdefault(key, []).append((len(text or ""), place))
        if not votes:
            return {"vote_count": 0, "vote_share": 0.0 if samples else None}
        chosen = min(votes, key=lambda answer: (-len(votes[answer]), min(votes[answer])))
        share = len(votes[chosen]) / len(samples)
        counted = {"vote_count": len(votes[chosen]), "vote_share": share}
        if share < self.least:
            return counted
        return {**counted, "vote_answer": chosen, "vote_sample": samples[min(votes[chosen])[1]]}
