"""A column of an Arrow table: of what kind it is, and its values as one array or as lines of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from synthray.spelling import identifier

if TYPE_CHECKING:
    import numpy as np


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is of lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is of text, or of nulls alone."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def filled(name: str) -> str:
    """Return SQL that is true where the text column `name` holds more than white space."""
    return f"regexp_matches({identifier(name)}, '\\S')"


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def lines(column: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a column of n lists of one length, without a null, as an (n, length) array; none is (0, 0)."""
    held = one_array(column)
    flat: np.ndarray[Any, np.dtype[Any]] = held.flatten().to_numpy()
    return flat.reshape(len(held), len(flat) // max(1, len(held)))
