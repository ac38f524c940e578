"""A sample of a run's texts laid on a plane, near each other where they are alike: what the map draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthray.column import filled

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.query import Query

POINTS = 3000
"""Rows on the map, unless told otherwise."""
TEXT = 300
"""Characters of a text that are shown beside its point."""
COMPONENTS = 50
ITERATIONS, ANGLE = 400, 0.7
"""Of t-SNE: so many steps, with forces as rough as that, settle three thousand points in seconds."""


@dataclass(frozen=True)
class Plane:
    """Places: `rows` has x, y, row_id, text, label, what (became of it) and why.

    `of` is how many rows with a text they were drawn from, `vectors` says in words what is compared,
    `without` how many of those drawn have no vector, such as rows rejected before they were embedded.
    """

    rows: list[dict[str, Any]]
    of: int
    vectors: str
    without: int


def laid(
    query: Query,
    text: str = "text",
    label: str | None = "label",
    embedding: str | None = None,
    points: int = POINTS,
    seed: int = 0,
) -> Plane:
    """Return at most `points` rows, chosen by a hash of row_id and the query's seed, laid on a plane.

    Rows are near each other where their vectors are: those of the column `embedding`, else hashed n-grams
    of the text, which see spelling and no meaning. On a map neighbourhoods mean something; distances between
    groups, and how large a group looks, little.
    """
    import pyarrow.compute as pc

    from synthray.features import Features

    features = Features(text, embedding)
    features.check(query.schema("SELECT * FROM dataset"))
    more = [*([label] if label else []), "reject_step", "reject_reason", "failed"]
    table = features.rows(query, "rows", "map", points, more)
    held = features.of(table, "the map")
    drawn = len(table)
    table = table.take(pc.index_in(held.ids, table["row_id"].combine_chunks()))
    kind = f"vectors of the column {embedding!r}" if embedding else "hashed n-grams (spelling, not meaning)"
    total = int(query.value(f"SELECT count(*) FROM rows WHERE {filled(text)}"))
    return Plane(_placed(table, places(held.unit, seed), text, label), total, kind, drawn - len(table))


def _placed(table: pa.Table, where: Any, text: str, label: str | None) -> list[dict[str, Any]]:
    return [
        {
            "row_id": row["row_id"],
            "x": round(x, 2),
            "y": round(y, 2),
            "text": row[text] if len(row[text]) <= TEXT else row[text][:TEXT] + " …",
            "label": "rows" if label is None else "(none)" if row[label] is None else str(row[label]),
            "what": "kept" if row["reject_reason"] is None else "failed" if row["failed"] else "rejected",
            "why": f"{row['reject_step']}: {row['reject_reason']}" if row["reject_reason"] else "",
        }
        for row, (x, y) in zip(table.to_pylist(), where.tolist(), strict=True)
    ]


def places(unit: Any, seed: int = 0) -> Any:
    """Return (n, 2) places of (n, d) vectors: principal components, then t-SNE of those that differ.

    Equal vectors lie at one place. Of fewer than 10 different ones there are no neighbourhoods to keep, so
    that their first two components are the places; fewer than 3 are all at 0.
    """
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    different, which = np.unique(np.asarray(unit, np.float64), axis=0, return_inverse=True)
    if len(different) < 3:
        return np.zeros((len(unit), 2))
    size = min(COMPONENTS, len(different) - 1, different.shape[1])
    reduced = PCA(size, svd_solver="full").fit_transform(different)
    if size < 2:
        reduced = np.column_stack([reduced, np.zeros(len(reduced))])
    if len(different) < 10:
        return reduced[which, :2]
    perplexity = min(30.0, (len(different) - 1) / 3)
    method = TSNE(
        2,
        init="pca",
        perplexity=perplexity,
        max_iter=ITERATIONS,
        angle=ANGLE,
        random_state=seed % 2**32,
    )
    # Threads of t-SNE wait for each other busily: on a machine that has other work one alone is fastest.
    with threadpool_limits(1):
        return method.fit_transform(reduced)[which]
