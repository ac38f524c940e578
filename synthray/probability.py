"""Columns of class probabilities: what they must be, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthray.column import is_list, is_text
from synthray.errors import InputError, RunFailed

Numbers = np.ndarray[Any, np.dtype[Any]]

NEAR = 1e-6
"""What a probability may be below 0 or above 1, as cleanlab lets it."""

_SUM = 1e-3
"""What the probabilities of a row may add up to beside 1: some are rounded, some are float16."""


def check_column(before: pa.Schema, name: str, depth: int = 1) -> None:
    """Raise an InputError when the column is there but holds no lists (of lists) of numbers."""
    if name not in before.names:
        return
    kind = before.field(name).type
    for _ in range(depth):
        if not is_list(kind):
            break
        kind = kind.value_type
    else:
        if pa.types.is_floating(kind):
            return
    lists = "lists of lists" if depth > 1 else "lists"
    raise InputError(
        f"column {name!r} must hold {lists} of floating-point numbers, one for each class, but is "
        f"{before.field(name).type}"
    )


def check_labels(before: pa.Schema, name: str) -> None:
    """Raise an InputError when the column is there but holds no lists of labels."""
    kind = before.field(name).type if name in before.names else pa.list_(pa.string())
    if not (is_list(kind) and is_text(kind.value_type)):
        raise InputError(f"column {name!r} must hold lists of labels, but is {kind}")


def labels_of(who: str, column: str, lists: pa.Array, ids: pa.Array) -> tuple[pa.Array, Numbers]:
    """Return the labels in lists, and the place of each one's row; RunFailed, with the row, for a null."""
    rows = np.repeat(np.arange(len(lists)), np.asarray(pc.list_value_length(lists)))
    flat = lists.flatten()
    if flat.null_count:
        row = rows[np.flatnonzero(np.asarray(pc.is_null(flat)))[0]]
        raise RunFailed(f"{who}: column {column!r} of row_id {ids[int(row)].as_py()!r} holds a null label")
    return flat, rows


@dataclass(frozen=True)
class Probabilities:
    """A column of lists with a probability for each of `classes`, and `who` reads it."""

    who: str
    column: str
    classes: Sequence[str]

    def matrix(
        self, lists: pa.Array, ids: pa.Array, rows: Numbers | None = None, width: int | None = None
    ) -> Numbers:
        """Return lists as lines of float64; `rows` names the row of each where it has several.

        Raises RunFailed, with the row, for a list of another length and for a value that is no probability.
        """
        width = width or len(self.classes)
        lengths = np.asarray(pc.list_value_length(lists).fill_null(0))
        other = np.flatnonzero(lengths != width)
        if len(other):
            named = ", ".join(self.classes[:20]) + (" ..." if width > 20 else "")
            self._fail(
                ids,
                other[0] if rows is None else rows[other[0]],
                f"holds {lengths[other[0]]} probabilities, but there are {width} classes ({named}); name "
                "those of the probabilities, in their order, by classes",
            )
        flat = lists.flatten()
        # A null becomes NaN, and a comparison with NaN is false: it is found with all else.
        matrix = np.asarray(flat.cast(pa.float64())).reshape(-1, width)
        if len(matrix) and not (matrix.min() >= -NEAR and matrix.max() <= 1 + NEAR):
            place, at = np.argwhere(~((matrix >= -NEAR) & (matrix <= 1 + NEAR)))[0].tolist()
            value = flat[place * width + at].as_py()
            self._fail(
                ids,
                place if rows is None else rows[place],
                f"holds {'a null' if value is None else value}, which is no probability (0 to 1)",
            )
        return matrix

    def summed(self, lists: pa.Array, ids: pa.Array, rows: Numbers | None = None) -> Numbers:
        """Return matrix(); RunFailed, with the row, where a line does not add up to 1."""
        matrix = self.matrix(lists, ids, rows)
        sums = matrix.sum(axis=1)
        wrong = np.flatnonzero(np.abs(sums - 1) > _SUM)
        if len(wrong):
            self._fail(
                ids,
                wrong[0] if rows is None else rows[wrong[0]],
                f"holds probabilities that add up to {sums[wrong[0]]:.6g}, not to 1",
            )
        return matrix

    def _fail(self, ids: pa.Array, row: Any, what: str) -> NoReturn:
        raise RunFailed(f"{self.who}: column {self.column!r} of row_id {ids[int(row)].as_py()!r} {what}")
