"""Agreement of people, models and crowds is measured over the rows that they have in common, and gates."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sklearn.metrics import cohen_kappa_score

from synthray.errors import GateRefused, InputError, RunFailed
from synthray.evaluate.agreement import Agreement
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.table import Table


def rows(size: int = 400, seed: int = 1, people: float = 0.4) -> pa.Table:
    """Return a model's labels, those of a person for some of the rows, and a third's."""
    draw = random.Random(seed)
    label = [draw.choice("abc") for _ in range(size)]
    human = [
        (one if draw.random() < 0.8 else draw.choice("abc")) if draw.random() < people else None
        for one in label
    ]
    third = [one if draw.random() < 0.5 else draw.choice("abc") for one in label]
    ids = [f"r{n:04}" for n in range(size)]
    return pa.table({"row_id": ids, "label": label, "human_label": human, "third": third})


def measured(table: pa.Table, context: Context | None = None, **settings: Any) -> dict[Any, dict[str, Any]]:
    operator = Agreement(**settings, context=context or Context(step="agree", seed=4))
    operator.check(table.schema)
    return {(row["metric"], row["slice"]): row for row in operator(table).to_pylist()}


def test_people_and_a_model_are_compared_where_there_is_a_person() -> None:
    table = rows()
    both = [(row["label"], row["human_label"]) for row in table.to_pylist() if row["human_label"]]
    found = measured(table, labels=["label", "human_label"])
    kappa = cohen_kappa_score(*zip(*both, strict=True))
    for place in ("cohen_kappa", None), ("cohen_kappa", "pair=human_label,label"):
        assert found[place]["value"] == pytest.approx(kappa)
        assert found[place]["n"] == len(both)
        assert found[place]["ci_low"] < kappa < found[place]["ci_high"]
    assert found["agreement", None]["value"] == pytest.approx(sum(a == b for a, b in both) / len(both))
    assert found["unknown_rows", None]["value"] == 0
    wider = measured(table, labels=["label", "human_label"], confidence=0.99)
    assert wider["cohen_kappa", None]["ci_low"] < found["cohen_kappa", None]["ci_low"]


def test_every_pair_has_a_kappa_and_all_a_mean_of_them() -> None:
    table = rows()
    found = measured(table, labels=["label", "human_label", "third"])
    pairs = {key[1]: one["value"] for key, one in found.items() if key[1]}
    assert set(pairs) == {"pair=human_label,label", "pair=human_label,third", "pair=label,third"}
    assert found["cohen_kappa", None]["value"] == pytest.approx(sum(pairs.values()) / 3)
    assert found["fleiss_kappa", None]["n"] == 400
    alone = measured(table, labels=["label", "third"])["cohen_kappa", None]["value"]
    assert pairs["pair=label,third"] == pytest.approx(alone)
    assert {key[1] for key in measured(table, labels=["label", "human_label", "third"], pairs=1)} == {
        None,
        "pair=label,third",
    }


def test_neither_the_order_of_rows_nor_of_columns_changes_anything() -> None:
    table = rows()
    order = random.Random(2).sample(range(400), 400)
    again = measured(table.take(pa.array(order)), labels=["third", "human_label", "label"])
    assert again == measured(table, labels=["label", "human_label", "third"])


def crowd(folder: Path, table: pa.Table, *more: dict[str, Any]) -> Context:
    lines = [
        {"row_id": row["row_id"], "annotator": name, "label": row[name]}
        for row in table.to_pylist()
        for name in ("label", "human_label")
    ]
    path = folder / "crowd.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]))
    schema = pa.schema([(name, pa.string()) for name in ("row_id", "annotator", "label")])
    return Context(
        step="agree", seed=4, tables={"crowd": Table((str(path),), "json")}, schemas={"crowd": schema}
    )


def test_a_table_of_annotations_is_the_same_as_columns(tmp_path: Path) -> None:
    table = rows()
    context = crowd(tmp_path, table, {"row_id": "nobody", "annotator": "label", "label": "a"})
    found = measured(table, context, annotations="crowd")
    assert found["unknown_rows", None].pop("value") == 1
    expected = measured(table, labels=["label", "human_label"])
    assert {key: one for key, one in found.items() if key[0] != "unknown_rows"} == {
        key: one for key, one in expected.items() if key[0] != "unknown_rows"
    }
    both = measured(table, context, labels=["third"], annotations="crowd")
    assert ("cohen_kappa", "pair=label,third") in both


@pytest.mark.parametrize("people", [0.0, 1.0])
def test_without_rows_in_common_or_with_one_label_it_is_nan(people: float) -> None:
    table = rows(30, people=people)
    if people:
        same = pa.array(["a"] * 30)
        table = pa.table({"row_id": table["row_id"], "label": same, "human_label": same})
    found = measured(table, labels=["label", "human_label"])
    assert found["cohen_kappa", None]["value"] != found["cohen_kappa", None]["value"]
    assert found["fleiss_kappa", None]["n"] == (30 if people else 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs annotations: name columns by labels"),
        ({"labels": ["label"]}, "labels names one column alone, 'label'; name those"),
        ({"labels": ["label", "label"]}, "names the column 'label' twice"),
        ({"labels": ["label", "number"]}, "column 'number' must hold text, but is int64"),
    ],
)
def test_labels_that_cannot_be_compared_are_found_before_any_work(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        measured(rows(5).append_column("number", pa.array(range(5))), **settings)


def test_a_row_that_one_annotator_labelled_twice_is_told(tmp_path: Path) -> None:
    table = rows(5)
    other = "b" if table["label"][2].as_py() == "a" else "a"
    context = crowd(tmp_path, table, {"row_id": "r0002", "annotator": "label", "label": other})
    with pytest.raises(InputError, match="the annotator 'label' gave row_id 'r0002' several labels"):
        measured(table, context, annotations="crowd")
    quiet = Agreement(annotations="crowd", context=context)
    with pytest.raises(RunFailed, match="the annotator 'label' gave row_id 'r0002' several labels"):
        quiet(table)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_gate_refuses_labels_that_people_do_not_share(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows().to_pylist()))

    def run(gate: str) -> None:
        steps = [Source(path=str(path)), Agreement(labels=["label", "human_label"])]
        Pipeline(steps, name="agree", seed=4, gate=[gate]).run(tmp_path / "run", quiet=True)

    run("agreement.cohen_kappa.ci_low > 0.5")
    with pytest.raises(GateRefused, match="cohen_kappa"):
        run("agreement.cohen_kappa.ci_low > 0.95")
    with pytest.raises(InputError, match="cohens_kappa"):
        run("agreement.cohens_kappa.value > 0.5")
