"""Which rows are of one origin, by descent, cluster or document, over all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthray.ancestry import parents, roots
from synthray.lineage import child_id
from synthray.record import StageRecord
from synthray.run import Run


def test_parents_are_those_of_all_stages_and_of_folds(tmp_path: Path) -> None:
    stages = {
        "made": {"row_id": ["a", "b"], "parent_id": ["seed", None]},
        "folded": {"row_id": ["f"], "parent_id": [None], "parents": [["a", "b"]]},
    }
    records = []
    for name, columns in stages.items():
        kinds = {"row_id": pa.string(), "parent_id": pa.string(), "parents": pa.list_(pa.string())}
        table = pa.table({one: pa.array(held, kinds[one]) for one, held in columns.items()})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        records.append(StageRecord(name, "", None, (), (f"{name}.parquet",)))
    run = Run(tmp_path)
    assert sorted(parents(run, records)) == [("a", "seed"), ("f", "a"), ("f", "b")]
    assert parents(run, records[:1]) == [("a", "seed")]
    assert parents(run, []) == []


def rooted(rows: list[tuple[str, list[Any]]], ties: list[tuple[str, str]] | None = None) -> dict[str, str]:
    return roots([(row_id, "", keys) for row_id, keys in rows], ties or [])


def test_siblings_are_one_group_and_strangers_are_not() -> None:
    root = rooted([("a", ["p"]), ("b", ["p"]), ("c", ["q"]), ("d", [None])])
    assert root["a"] == root["b"]
    assert len({root["a"], root["c"], root["d"]}) == 3


def test_cousins_are_one_group_by_parents_that_are_rows_no_more() -> None:
    # grandparent -> one, other -> two children each; only the children are in the dataset.
    one, other = child_id("grand", "first", 0), child_id("grand", "first", 1)
    children = [(child_id(parent, "second", n), parent) for parent in (one, other) for n in range(2)]
    ties = [(one, "grand"), (other, "grand"), *children]
    root = rooted([(child, [parent]) for child, parent in children], ties)
    assert len(set(root.values())) == 1
    assert set(root) == {child for child, _ in children}
    assert len(set(rooted([(child, [parent]) for child, parent in children]).values())) == 2


def test_a_parent_that_stayed_is_with_its_children() -> None:
    root = rooted([("p", [None]), ("a", ["p"])], [("a", "p")])
    assert root["p"] == root["a"]


def test_clusters_and_documents_tie_rows_of_different_parents() -> None:
    rows = [
        ("a", ["p", "cluster1", None]),
        ("b", ["q", "cluster1", None]),
        ("c", ["q", None, None]),
        ("d", [None, None, "document1"]),
        ("e", ["p", None, "document1"]),
        ("f", ["r", "cluster2", "document2"]),
    ]
    root = rooted(rows)
    assert len({root[row] for row in "abcde"}) == 1
    assert root["f"] not in {root[row] for row in "abcde"}


def test_a_long_descent_is_one_group() -> None:
    ties = [(f"row{number}", f"row{number + 1}") for number in range(5000)]
    root = rooted([("row0", []), ("row4999", [])], ties)
    assert root["row0"] == root["row4999"]
