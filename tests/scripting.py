"""A shipped recipe with a scripted model; and what tests ask of its run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from synthray.model.fake import Fake, Script
from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.pipeline import Pipeline
    from synthray.run import Run

LABELS = ("World", "Sports", "Business", "Sci/Tech")
WORDS = {
    "World": "treaty border minister army election rebels ceasefire parliament embassy refugees summit envoy",
    "Sports": "match goal coach striker league final medal season referee stadium sprint captain",
    "Business": "shares profit bank quarter market investors merger bonds prices sales dividend debt",
    "Sci/Tech": "telescope software planet genes laboratory robot chip satellite virus browser orbit data",
}
"""What a report of a label is made of, by which a student tells it."""

COMMON = [
    "the",
    "of",
    "and",
    "after",
    "before",
    "said",
    "on",
    "monday",
    "in",
    "a",
    "with",
    "new",
    "old",
    "first",
    "week",
    "people",
]
"""What every report is made of."""


def scripted(recipe: str, script: Script, *settings: str) -> Pipeline:
    """Return a shipped recipe of which all calls are answered by `script`."""
    return replace(load(recipe, settings=settings), model=Fake(script=script))


def rows(run: Run, sql: str) -> list[dict[str, Any]]:
    """Return what a run answers."""
    return list(run.sql(sql).to_pylist())


def reasons(run: Run) -> Counter[str]:
    """Return how many rows were rejected for which reason."""
    return Counter(row["reject_reason"] for row in rows(run, "SELECT reject_reason FROM rejects"))


def conserved(run: Run) -> bool:
    """Return whether every step says of each of its rows what became of it."""
    sql = (
        "SELECT rows_in + rows_made - rows_kept - rows_rejected - rows_failed - rows_expanded AS x FROM steps"
    )
    return {row["x"] for row in rows(run, sql)} == {0}
