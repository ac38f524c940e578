"""Semantic duplicates are those that the cosine within a cluster says, and the preferred row is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.embedding import Embedding
from synthray.curate.semantic_duplicate import SemanticDuplicate
from synthray.errors import InputError, RunFailed
from synthray.recipe import load

MARKS = ("semantic_duplicate_of", "semantic_duplicate_similarity", "semantic_duplicate_cluster")


def table(held: dict[str, Any], **columns: list[Any]) -> pa.Table:
    vectors = pa.array(held.values(), pa.list_(pa.float32()))
    return pa.table({"row_id": pa.array(held, pa.string()), "embedding": vectors, **columns})


def marks(out: pa.Table) -> dict[str, tuple[Any, ...]]:
    return {row["row_id"]: tuple(row[name] for name in MARKS) for row in out.to_pylist()}


def turned(*degrees: float) -> list[list[float]]:
    return [[np.cos(one), np.sin(one)] for one in np.radians(degrees)]


CHAIN = dict(zip("dcbaz", [*turned(0, 10, 20, 120), None], strict=True))
AT = float(np.cos(np.radians(12)))


def test_the_first_row_is_kept_and_the_nearest_before_is_named() -> None:
    out = SemanticDuplicate(threshold=AT, clusters=1)(table(CHAIN))
    assert [out.schema.field(name).type for name in MARKS] == [pa.string(), pa.float64(), pa.string()]
    ten = pytest.approx(float(np.cos(np.radians(10))), abs=1e-6)
    assert marks(out) == {
        "d": (None, None, "b"),
        "c": ("b", ten, "b"),
        "b": (None, None, "b"),
        "a": (None, None, None),
        "z": (None, None, None),
    }


def test_the_preferred_row_is_kept() -> None:
    given = table(CHAIN, score=[1, 9, 1, 1, 1])
    found = marks(SemanticDuplicate(threshold=AT, clusters=1, prefer="score DESC")(given))
    assert {row: of for row, (of, _, _) in found.items()} == {
        "d": "c",
        "c": None,
        "b": "c",
        "a": None,
        "z": None,
    }
    assert {name for _, _, name in found.values()} == {"b", None}, "a cluster is named by its lowest row_id"


@pytest.mark.parametrize(("order", "kept"), [("", "out"), (" DESC", "in")])
def test_the_papers_order_is_by_the_cosine_to_the_centroid(order: str, kept: str) -> None:
    # The centroid lies among the many, so that of a pair one row is further inside.
    held = dict(zip(["in", "out", *"abcde"], turned(9, 14, 0, 0, 0, 0, 0), strict=True))
    held |= dict(zip("vwxyz", turned(180, 181, 182, 183, 184), strict=True))
    operator = SemanticDuplicate(
        threshold=float(np.cos(np.radians(7))), clusters=2, prefer=f"centroid_similarity{order}"
    )
    found = marks(operator(table(held)))
    other = {"in": "out", "out": "in"}[kept]
    assert (found[kept][0], found[other][0]) == (None, kept)


def test_only_rows_of_one_cluster_are_compared() -> None:
    held = {f"{number:02}": one for number, one in enumerate(turned(*range(0, 180, 3)))}
    whole = marks(SemanticDuplicate(threshold=0.99, clusters=1)(table(held)))
    cut = marks(SemanticDuplicate(threshold=0.99, clusters=8)(table(held)))
    assert len({name for _, _, name in whole.values()}) == 1
    assert len({name for _, _, name in cut.values()}) == 8
    for row, (of, _, name) in cut.items():
        assert of is None or cut[of][0] is None
        assert name == min(one for one in cut if cut[one][2] == name), row


def test_what_is_kept_does_not_depend_on_the_order_of_rows() -> None:
    generator = np.random.default_rng(2)
    centres = generator.normal(size=(30, 8))
    held = centres[np.arange(200) % 30] + generator.normal(size=(200, 8)) * 0.25
    given = table({f"{number:03}": one for number, one in enumerate(held.tolist())})
    operator = SemanticDuplicate(threshold=0.97, clusters=6, sample=80)
    found = marks(operator(given))
    assert 20 < sum(of is not None for of, _, _ in found.values()) < 180
    assert marks(operator(given.take(pa.array(generator.permutation(200))))) == found


@pytest.mark.parametrize("vectors", [[], [None], [[0, 0], None], [[1, 2]]], ids=len)
def test_where_there_are_no_two_vectors_there_is_no_mark(vectors: list[Any]) -> None:
    out = SemanticDuplicate()(table({str(place): one for place, one in enumerate(vectors)}))
    assert [out[name].to_pylist() for name in MARKS] == [[None] * len(vectors)] * 3


def test_copies_are_duplicates_of_the_first_at_any_threshold() -> None:
    found = marks(SemanticDuplicate(threshold=1)(table({row: [0.3, 0.1, 0.7] for row in "cba"})))
    assert found == {"a": (None, None, "a"), "b": ("a", 1.0, "a"), "c": ("a", 1.0, "a")}


def test_settings_that_cannot_work_are_refused() -> None:
    schema = table(CHAIN, score=[0] * 5).schema
    with pytest.raises(InputError, match="column 'score' must hold lists of numbers"):
        SemanticDuplicate(embedding="score").check(schema)
    with pytest.raises(InputError, match="clusters is 30, more than the sample of 20 rows"):
        SemanticDuplicate(clusters=30, sample=20).check(schema)
    for prefer, message in {
        "scores": "scores",
        "score DESC, random()": "volatile",
        "score) --": "must be what ORDER BY takes|syntax error",
    }.items():
        with pytest.raises(InputError, match=rf"prefer: .*({message})"):
            SemanticDuplicate(prefer=prefer).check(schema)
    for prefer in ("", "score DESC, row_id", "centroid_similarity", "cluster"):
        with_cluster = schema.append(pa.field("cluster", pa.int32()))
        SemanticDuplicate(prefer=prefer).check(with_cluster)


def test_a_bad_vector_is_told_with_its_row() -> None:
    with pytest.raises(
        RunFailed, match="semantic_duplicate: the vector of row_id 'b' in 'embedding' holds a value"
    ):
        SemanticDuplicate()(table({"a": [1, 0], "b": [float("inf"), 0]}))


# All that stands on vectors, in one recipe.

RECIPE = """
seed: 3
tables: {some: some.parquet, known: known.parquet}
steps:
  - source.table: {table: some}
  - curate.embedding: {text: text, dimensions: 64}
  - curate.cluster: {clusters: 6, sample: 50}
  - curate.neighbours: {k: 3}
  - curate.neighbours: {k: 2, against: known, id: name}
    as: known
  - curate.semantic_duplicate: {threshold: 0.8, clusters: 3, prefer: "length(text) DESC"}
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_gives_what_calls_give_for_any_number_of_blocks(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    words = [f"word{number}" for number in range(40)]
    texts: list[str | None] = [" ".join(generator.choice(words, 8)) for _ in range(60)]
    texts += [f"{text} {generator.choice(words)}" for text in texts[:30]] + [None, " ", "same", "same"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "some.parquet")
    known = pa.table(
        {"row_id": ["k1", "k2", "k3"], "name": [7, 8, 9], "text": ["word1 word2", "word3", "same"]}
    )
    pq.write_table(Embedding(text="text", dimensions=64)(known), tmp_path / "known.parquet")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    runs = [
        load(tmp_path / "recipe.yaml", settings=[f"blocks={blocks}"]).run(
            tmp_path / f"run{blocks}", quiet=True
        )
        for blocks in (1, 5)
    ]
    one, five = (run.sql("SELECT * FROM dataset ORDER BY row_id").to_pylist() for run in runs)
    assert one == five
    pipeline = load(tmp_path / "recipe.yaml")
    called = runs[0].sql("SELECT row_id, text FROM dataset ORDER BY row_id")
    for checked in pipeline.check()[1:]:
        called = checked.step.work(called)  # type: ignore[operator]
    assert [{name: row[name] for name in called.column_names} for row in one] == called.to_pylist()
    assert sum(row["semantic_duplicate_of"] is not None for row in one) >= 20
    assert {row["known_neighbours"][0] for row in one if row["text"] == "same"} == {"9"}


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_of_1000_articles_the_ten_planted_pairs_are_found_and_nothing_else() -> None:
    rows = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "neardup_articles_1000.parquet")
    rows = rows.rename_columns({"doc_id": "row_id"})
    planted = {
        tuple(sorted((one, other)))
        for one, other in zip(rows["row_id"].to_pylist(), rows["duplicate_of"].to_pylist(), strict=True)
        if other
    }
    held = Embedding(text="text", dimensions=1024)(rows)
    found = marks(SemanticDuplicate(threshold=0.97)(held))
    assert len(planted) == 10
    assert {(of, row) for row, (of, _, _) in found.items() if of} == planted
