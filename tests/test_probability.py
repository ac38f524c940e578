"""Probabilities are read as float64 lines; a value that is none is told with its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray.errors import InputError, RunFailed
from synthray.probability import Probabilities, check_column, check_labels, labels_of

IDS = pa.array(["first", "second", "third"])
HELD = Probabilities("judge", "p", ("a", "b"))


def lists(*rows: Any, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(rows, kind or pa.list_(pa.float64()))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float64(), 2),
        pa.list_(pa.float32()),
        pa.list_(pa.float16()),
    ],
    ids=str,
)
def test_lists_of_all_kinds_are_lines_of_float64(kind: pa.DataType) -> None:
    given = [np.array(row, np.float16) for row in ([0.25, 0.75], [0.1, 0.9], [1, 0])]
    read = HELD.summed(pa.array(given, kind), IDS)
    assert read.dtype == np.float64
    np.testing.assert_allclose(read, given, atol=1e-7)
    np.testing.assert_array_equal(HELD.summed(pa.array(given, kind).slice(1), IDS.slice(1)), read[1:])


def test_softmax_in_float32_passes() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(3, 50)).astype(np.float32) * 5
    held = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    classes = [f"{number}" for number in range(50)]
    kind = pa.list_(pa.float32())
    read = Probabilities("judge", "p", classes).summed(pa.array(list(held), kind), IDS)
    np.testing.assert_array_equal(read, held.astype(np.float64))
    above = np.nextafter(np.float32(1), np.float32(2))
    assert HELD.summed(lists([above, 0.0], kind=kind), IDS).tolist() == [[float(above), 0.0]]


@pytest.mark.parametrize(
    ("second", "told"),
    [
        pytest.param([0.5, 0.3, 0.2], r"holds 3 probabilities, but there are 2 classes \(a, b\)", id="long"),
        pytest.param([1.0], "holds 1 probabilities, but there are 2 classes", id="short"),
        pytest.param([], "holds 0 probabilities, but there are 2 classes", id="empty"),
        pytest.param([float("nan"), 1.0], "holds nan, which is no probability", id="nan"),
        pytest.param([float("inf"), 0.0], "holds inf, which is no probability", id="inf"),
        pytest.param([None, 1.0], "holds a null, which is no probability", id="null"),
        pytest.param([-0.25, 1.25], "holds -0.25, which is no probability", id="negative"),
        pytest.param([1.5, 0.0], "holds 1.5, which is no probability", id="above one"),
        pytest.param([0.6, 0.6], "holds probabilities that add up to 1.2, not to 1", id="sum"),
        pytest.param([0.2, 0.2], "holds probabilities that add up to 0.4, not to 1", id="low sum"),
    ],
)
def test_what_is_no_probability_is_told_with_its_row(second: Any, told: str) -> None:
    with pytest.raises(RunFailed, match=f"judge: column 'p' of row_id 'second' {told}"):
        HELD.summed(lists([0.5, 0.5], second, [1.0, 0.0]), IDS)


def test_the_row_of_a_token_is_told() -> None:
    rows = np.array([0, 2, 2])
    with pytest.raises(RunFailed, match=r"row_id 'third' holds probabilities that add up to 1\.4"):
        HELD.summed(lists([0.5, 0.5], [1.0, 0.0], [0.7, 0.7]), IDS, rows)


@pytest.mark.parametrize(
    ("kind", "depth", "fine"),
    [
        (pa.list_(pa.float64()), 1, True),
        (pa.list_(pa.float16(), 3), 1, True),
        (pa.list_(pa.list_(pa.float32())), 2, True),
        (pa.list_(pa.list_(pa.float32())), 1, False),
        (pa.list_(pa.float32()), 2, False),
        (pa.list_(pa.int64()), 1, False),
        (pa.float64(), 1, False),
        (pa.string(), 1, False),
    ],
)
def test_a_column_of_something_else_is_refused(kind: pa.DataType, depth: int, fine: bool) -> None:
    schema = pa.schema([("p", kind)])
    if fine:
        check_column(schema, "p", depth)
    else:
        with pytest.raises(InputError, match="column 'p' must hold lists"):
            check_column(schema, "p", depth)
    check_column(schema, "not there", depth)


def test_lists_of_labels_are_read_with_their_rows() -> None:
    kind = pa.list_(pa.string())
    flat, rows = labels_of("judge", "tags", lists(["x", "y"], [], ["z"], kind=kind), IDS)
    assert (flat.to_pylist(), rows.tolist()) == (["x", "y", "z"], [0, 0, 2])
    with pytest.raises(RunFailed, match="judge: column 'tags' of row_id 'third' holds a null label"):
        labels_of("judge", "tags", lists(["x"], [], ["y", None], kind=kind), IDS)
    check_labels(pa.schema([("tags", kind)]), "tags")
    with pytest.raises(InputError, match="column 'tags' must hold lists of labels, but is string"):
        check_labels(pa.schema([("tags", pa.string())]), "tags")
