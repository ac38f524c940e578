from pathlib import Path

import numpy as np
import pytest
import reported
from sklearn.neighbors import NearestNeighbors

from synthray.plane import laid, places
from synthray.query import Query


def groups(size: int = 60) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.normal(size=(3, 20))
    found = np.repeat(centres, size, axis=0) + 0.1 * random.normal(size=(3 * size, 20))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_what_is_near_in_many_dimensions_is_near_on_the_plane() -> None:
    unit = groups()
    found = places(unit, 7)
    near = NearestNeighbors(n_neighbors=6).fit(found).kneighbors(return_distance=False)
    group = np.repeat([0, 1, 2], 60)
    assert (group[near] == group[:, None]).mean() > 0.99


def test_places_depend_on_the_vectors_and_the_seed_alone() -> None:
    unit = groups(20)
    assert (places(unit, 7) == places(unit, 7)).all()
    # Equal vectors lie at one place and change no other's.
    twice = places(np.concatenate([unit, unit]), 7)
    assert (twice[:60] == twice[60:]).all()
    assert (twice[:60] == places(unit, 7)).all()


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9, 10, 11])
def test_few_vectors_have_places_too(rows: int) -> None:
    found = places(np.eye(12)[:rows], 7)
    assert found.shape == (rows, 2)
    assert np.isfinite(found).all()
    assert (found == 0).all() == (rows < 3)


def test_a_sample_is_stated_and_rows_without_a_vector_are_counted(tmp_path: Path) -> None:
    rows = [
        {"text": f"text {number}", "label": None, "embedding": [1.0, number] if number % 4 else None}
        for number in range(40)
    ]
    run = reported.bare(tmp_path / "run", rows)
    with run.query() as query:
        whole = laid(query, embedding="embedding")
        part = laid(query, points=10, label=None)
        again = laid(query, points=10, label=None)
    assert (len(whole.rows), whole.of, whole.without) == (30, 40, 10)
    assert "'embedding'" in whole.vectors and "spelling" in part.vectors
    assert part == again
    assert (len(part.rows), part.of) == (10, 40)
    assert {row["label"] for row in part.rows} == {"rows"}


def test_long_texts_are_cut_and_left_out_rows_say_why(tmp_path: Path) -> None:
    run = reported.run(tmp_path / "run", mark="x" * 400)
    with run.query() as query:
        assert isinstance(query, Query)
        rows = laid(query).rows
    assert max(len(row["text"]) for row in rows) < 310
    assert {row["what"] for row in rows} == {"kept", "rejected"}
    assert all(bool(row["why"]) == (row["what"] == "rejected") for row in rows)
