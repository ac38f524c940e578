"""Outliers and rare classes are those that cleanlab's Datalab finds in the same numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray import vectors
from synthray.curate.outlier import Outlier
from synthray.errors import InputError, RunFailed
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.table import Table

CLASSES = ["a", "b", "c", "d"]
BY_VECTORS = Outlier(label="label")
BY_PROBABILITIES = Outlier(label="label", probabilities="probabilities")


@dataclass
class Lab:
    """What the issue managers ask of a Datalab."""

    labels: Any
    class_names: list[str] = field(default_factory=lambda: CLASSES)
    _label_map: dict[int, str] = field(default_factory=lambda: dict(enumerate(CLASSES)))

    def get_info(self, _: str) -> dict[str, Any]:
        return {}


def made(seed: int, size: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, pa.Table]:
    """Return classes (the last is rare), vectors, probabilities, and all of them as rows in another order."""
    random = np.random.default_rng(seed)
    given = random.integers(0, 3, size)
    given[:4] = 3
    centres = random.normal(size=(4, 16))
    held = (centres[given] + random.normal(size=(size, 16)) * 0.35).astype(np.float32)
    held[10:20] = random.normal(size=(10, 16))
    held[21] = held[22] = held[23]
    chance = random.dirichlet(np.full(4, 0.4), size)
    chance[np.arange(size), given] += random.random(size) * 1.5
    chance[30:35] = 1
    chance /= chance.sum(axis=1, keepdims=True)
    order = random.permutation(size)
    table = pa.table(
        {
            "row_id": [f"row{place:03}" for place in order],
            "label": [CLASSES[given[place]] for place in order],
            "embedding": pa.array([held[place] for place in order], pa.list_(pa.float32())),
            "probabilities": [chance[place].tolist() for place in order],
        }
    )
    return given, held, chance, table


def datalab(labels: Any, **inputs: Any) -> Any:
    from cleanlab.datalab.internal.issue_manager.outlier import OutlierIssueManager

    settings = inputs.pop("settings", {})
    manager = OutlierIssueManager(Lab(labels), **settings)
    manager.find_issues(**inputs)
    return manager


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", [{}, {"k": 3, "threshold": 0.6}], ids=["as it is", "set"])
def test_by_vectors_outliers_are_datalabs(seed: int, settings: Any) -> None:
    given, held, _, table = made(seed)
    expected = datalab(given, features=held.astype(np.float64), settings=settings).issues
    out = replace(BY_VECTORS, **settings)(table).sort_by("row_id")
    assert out["outlier"].to_pylist() == expected["is_outlier_issue"].tolist()
    assert 3 <= expected["is_outlier_issue"].sum() <= 60
    # Cosines are rounded to 6 decimals.
    np.testing.assert_allclose(out["outlier_score"].to_numpy(), expected["outlier_score"], atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", [{}, {"threshold": 0.5}], ids=["as it is", "set"])
def test_by_probabilities_outliers_are_datalabs(seed: int, settings: Any) -> None:
    given, _, chance, table = made(seed)
    expected = datalab(given, pred_probs=chance, settings=settings).issues
    out = replace(BY_PROBABILITIES, **settings)(table).sort_by("row_id")
    assert out["outlier"].to_pylist() == expected["is_outlier_issue"].tolist()
    assert 3 <= expected["is_outlier_issue"].sum() <= 150
    np.testing.assert_allclose(out["outlier_score"].to_numpy(), expected["outlier_score"], atol=1e-12)


@pytest.mark.parametrize("imbalance", [0.0, 0.05, 0.1, 1.0])
def test_rare_classes_are_datalabs(imbalance: float) -> None:
    from cleanlab.datalab.internal.issue_manager.imbalance import ClassImbalanceIssueManager

    given, _, _, table = made(1)
    manager = ClassImbalanceIssueManager(Lab(given), threshold=imbalance)
    manager.find_issues()
    expected = manager.issues["is_class_imbalance_issue"].tolist()
    for operator in (BY_VECTORS, BY_PROBABILITIES):
        out = replace(operator, imbalance=imbalance)(table).sort_by("row_id")
        assert out["rare_class"].to_pylist() == expected
    assert sum(expected) == (4 if imbalance >= 0.1 else 0)


def test_more_vectors_than_are_compared_with_each_other_are_looked_for_in_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = made(2)[3]
    exact = BY_VECTORS(table)
    monkeypatch.setattr(vectors, "EXACT", 100)
    found = replace(BY_VECTORS, probes=20)(table)
    np.testing.assert_allclose(found["outlier_score"].to_numpy(), exact["outlier_score"].to_numpy(), atol=0.1)
    assert replace(BY_VECTORS, probes=0)(table) == exact
    assert replace(BY_VECTORS, probes=1)(table) != exact


def test_rows_without_what_is_judged_keep_nulls_and_change_nothing() -> None:
    table = made(3)[3]
    lacking = pa.table(
        {
            "row_id": ["x", "y"],
            "label": ["d", None],
            "embedding": pa.array([None, [0.0] * 16], pa.list_(pa.float32())),
            "probabilities": pa.array([None, [0.25] * 4]),
        }
    )
    both = pa.concat_tables([lacking, table])
    for operator in (BY_VECTORS, BY_PROBABILITIES):
        out = operator(both)
        assert out.slice(0, 2)["rare_class"].to_pylist() == [True, None]
        for name in ("outlier", "outlier_score"):
            assert out[name].to_pylist()[:2] == [None, None]
            assert out.slice(2)[name] == operator(table)[name]


def test_one_row_has_no_others_and_none_is_none() -> None:
    table = made(3)[3]
    for size in (0, 1):
        out = Outlier()(table.slice(0, size))
        assert (
            out.select(["outlier", "outlier_score"]).to_pylist()
            == [{"outlier": None, "outlier_score": None}] * size
        )
    assert "rare_class" not in out.column_names


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "operator", [BY_VECTORS, BY_PROBABILITIES, Outlier()], ids=["vectors", "probabilities", "no label"]
)
def test_tasks_find_what_one_process_finds(operator: Outlier, tmp_path: Path) -> None:
    given, held, _, table = made(4)
    pq.write_table(table, tmp_path / "problem.parquet")
    tables = {"problem": Table((str(tmp_path / "problem.parquet"),), "parquet")}
    steps = [Source(table="problem"), operator]
    run = Pipeline(steps, name="far", tables=tables, blocks=3).run(tmp_path / "run", quiet=True)
    found = run.sql(f"SELECT row_id, {', '.join(operator.adds())} FROM dataset ORDER BY row_id")
    expected = operator(table).select(found.column_names).sort_by("row_id")
    assert found.to_pylist() == expected.to_pylist()
    metrics = run.sql("SELECT metric, slice, value, n FROM metrics WHERE step = 'outlier'").to_pylist()
    measured = {(one["metric"], one["slice"]): one["value"] for one in metrics}
    assert measured["rate", None] == np.mean(expected["outlier"].to_pylist())
    if operator is BY_VECTORS:
        cut = datalab(given, features=held.astype(np.float64)).info["issue_threshold"]
        assert measured["cut", None] == pytest.approx(cut, abs=1e-6)
    shares = {name: share for (metric, name), share in measured.items() if metric == "share"}
    counts = np.bincount(given) / len(given)
    assert shares == ({f"label={CLASSES[at]}": counts[at] for at in range(4)} if operator.label else {})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"embedding": "label"}, "column 'label' must hold lists of numbers"),
        ({"probabilities": "probabilities"}, "name the column label"),
        ({"probabilities": "label", "label": "label"}, "must hold lists of floating-point numbers"),
        ({"label": "embedding"}, "column 'embedding' must hold text"),
        ({"threshold": 1.5}, r"threshold must be at most 1 for vectors, but is 1\.5"),
        ({"classes": ["a", "b"]}, "there is no setting probabilities"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Any, told: str) -> None:
    schema = made(1, 50)[3].schema
    with pytest.raises(InputError, match=told):
        Outlier(**settings).check(schema)
    BY_PROBABILITIES.check(schema)
    BY_VECTORS.check(schema)


def test_bad_values_are_told_with_their_row() -> None:
    table = made(1, 50)[3]
    row = table["row_id"][0].as_py()
    for operator, column, bad in (
        (BY_VECTORS, "embedding", [float("nan")] * 16),
        (BY_PROBABILITIES, "probabilities", [0.9, 0.9, 0.0, 0.0]),
    ):
        held = [bad, *table[column].to_pylist()[1:]]
        place = table.column_names.index(column)
        with pytest.raises(RunFailed, match=f"outlier: .*row_id '{row}'"):
            operator(table.set_column(place, column, pa.array(held, table[column].type)))
