from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray.errors import InputError, RunFailed
from synthray.features import DIMENSIONS, Features
from synthray.query import Query

TEXTS = ["the match ended in a draw", "shares fell on monday", "the match ended", None, "  "]


def table(**more: Any) -> pa.Table:
    return pa.table({"row_id": list("abcde"), "text": TEXTS, **more})


def test_without_a_column_of_vectors_a_text_is_its_hashed_n_grams() -> None:
    found = Features("text").of(table(), "test").sorted()
    assert found.ids.to_pylist() == ["a", "b", "c"]
    assert found.unit.shape == (3, DIMENSIONS)
    assert np.allclose(np.linalg.norm(found.unit, axis=1), 1)
    near, far = found.unit[0] @ found.unit[2], found.unit[0] @ found.unit[1]
    assert near > 0.5 > far + 0.2


def test_a_column_of_vectors_is_taken_as_it_is_but_for_its_length() -> None:
    held = table(embedding=[[3.0, 4.0], [0.0, 0.0], None, [1.0, 0.0], [0.0, 2.0]])
    found = Features("text", "embedding").of(held, "test").sorted()
    assert found.ids.to_pylist() == ["a", "d", "e"]
    assert found.unit.round(6).tolist() == [pytest.approx([0.6, 0.8]), [1.0, 0.0], [0.0, 1.0]]


def test_rows_are_those_with_a_text_chosen_by_a_hash_and_sorted() -> None:
    features = Features("text")
    rows = pa.table({"row_id": [f"{n:03d}" for n in range(100)], "text": [f"text {n}" for n in range(100)]})
    shuffled = rows.take(np.random.default_rng(0).permutation(100))
    chosen = []
    for given in (rows, shuffled):
        with Query({"rows": given}, seed=3) as query:
            chosen.append(features.rows(query, "rows", "tag", 10).to_pydict())
    assert chosen[0] == chosen[1]
    assert chosen[0]["row_id"] == sorted(chosen[0]["row_id"])
    assert len(chosen[0]["row_id"]) == 10
    with Query({"rows": rows}, seed=4) as query:
        assert features.rows(query, "rows", "tag", 10).to_pydict() != chosen[0]
    with Query({"rows": table()}) as query:
        assert features.rows(query, "rows", "tag", 10)["row_id"].to_pylist() == ["a", "b", "c"]


def test_rows_of_a_table_without_ids_are_named_by_their_content() -> None:
    with Query({"real": pa.table({"text": ["one", "two", "one"], "label": ["x", "y", "x"]})}) as query:
        found = Features("text").rows(query, "real", "tag", 10, ["label"])
    assert found.column_names == ["row_id", "text", "label"]
    assert len(set(found["row_id"].to_pylist())) == 3


@pytest.mark.parametrize(
    ("schema", "embedding", "said"),
    [
        ({"texts": pa.string()}, None, "the table 'real' has no column 'text'"),
        ({"text": pa.int64()}, None, "it must hold text"),
        ({"text": pa.string()}, "vector", "curate.embedding"),
        ({"text": pa.string(), "vector": pa.string()}, "vector", "must hold lists of numbers"),
    ],
)
def test_a_missing_or_wrong_column_is_said_before_any_work(
    schema: dict[str, pa.DataType], embedding: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        Features("text", embedding).check(pa.schema(schema), "real")


@pytest.mark.parametrize(
    ("ids", "said"), [(["x", "x"], "2 rows have row_id 'x'"), (["x", None], "no row_id")]
)
def test_a_table_of_which_ids_repeat_or_are_missing_is_refused(ids: list[str | None], said: str) -> None:
    real = pa.table({"row_id": ids, "text": ["one", "two"]})
    with Query({"real": real}) as query, pytest.raises(RunFailed, match=said):
        Features("text").rows(query, "real", "tag", 10)


def test_white_space_of_any_kind_is_no_text() -> None:
    real = pa.table({"row_id": list("abcd"), "text": [" \n", "\t", "\u00e9", None]})
    with Query({"real": real}) as query:
        assert Features("text").rows(query, "real", "tag", 10)["row_id"].to_pylist() == ["c"]
