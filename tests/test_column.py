"""Columns are told by their kind and read whole, in any chunks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from synthray.column import is_list, is_text, lines, one_array


def test_kinds_are_told_apart() -> None:
    numbers = pa.float64()
    lists = [pa.list_(numbers), pa.large_list(numbers), pa.list_(numbers, 3)]
    texts = [pa.string(), pa.large_string(), pa.null()]
    assert [is_list(kind) for kind in (*lists, *texts, numbers)] == [True] * 3 + [False] * 4
    assert [is_text(kind) for kind in (*lists, *texts, numbers)] == [False] * 3 + [True] * 3 + [False]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.float64(), 2)]
)
def test_lists_are_lines_in_any_chunks_and_slices(kind: pa.DataType) -> None:
    held = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    whole = pa.array(held, kind)
    for column in (whole, pa.chunked_array([whole.slice(0, 1), whole.slice(1)])):
        np.testing.assert_array_equal(lines(column), held)
        assert one_array(column) == whole
    np.testing.assert_array_equal(lines(whole.slice(1)), held[1:])
    assert len(lines(whole.slice(3))) == 0
