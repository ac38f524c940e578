"""Several annotators' labels become one; each row keeps its own, and each annotator's worth is measured."""

from __future__ import annotations

import json
import random
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cleanlab.multiannotator import get_label_quality_multiannotator

from synthray.curate.consensus import Consensus
from synthray.errors import InputError, RunFailed
from synthray.label.audit import AUDIT
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.step import Step
from synthray.table import Table
from synthray.task import Task

if TYPE_CHECKING:
    from synthray.run import Run

CLASSES = ["x", "y", "z"]
EARLIER = {"step": "first", "old": "z", "new": "x", "who": "anna", "why": "read it"}


def simulated(size: int = 300, seed: int = 1, missing: float = 0.3) -> tuple[pa.Table, list[str]]:
    """Return rows labelled by two good annotators and three that say mostly y, and the true labels."""
    draw = random.Random(seed)
    true = [draw.choice(CLASSES) for _ in range(size)]

    def said(label: str, right: float) -> str | None:
        if draw.random() < missing:
            return None
        return label if draw.random() < right else draw.choice(["y", "y", "y", *CLASSES])

    columns = {f"w{n}": [said(label, 0.9 if n < 2 else 0.1) for label in true] for n in range(5)}
    chances = []
    for label in true:
        at = CLASSES.index(label if draw.random() < 0.7 else draw.choice(CLASSES))
        chances.append([0.6 if place == at else 0.2 for place in range(3)])
    ids = {"row_id": [f"r{n:04}" for n in range(size)], "old": ["x"] * size, "probabilities": chances}
    return pa.table({**ids, **columns}), true


WORKERS = [f"w{n}" for n in range(5)]


def consensus(table: pa.Table, **settings: Any) -> list[dict[str, Any]]:
    context = settings.pop("context", Context(step="agreed", seed=2))
    operator = Consensus(**{"labels": WORKERS, **settings}, context=context)
    operator.check(table.schema)
    found: list[dict[str, Any]] = operator(table).to_pylist()
    return found


def crowd(folder: Path, lines: list[dict[str, Any]]) -> Context:
    path = folder / "crowd.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    schema = pa.schema([(name, pa.string()) for name in ("row_id", "annotator", "label")])
    return Context(step="agreed", tables={"crowd": Table((str(path),), "json")}, schemas={"crowd": schema})


def test_the_majority_is_counted_with_its_share() -> None:
    table, _ = simulated()
    for row in consensus(table, by="majority"):
        given = [row[name] for name in WORKERS if row[name]]
        if not given:
            assert row["consensus_label"] is row["consensus_quality"] is row["label_audit"] is None
            continue
        most = max(Counter(given).values())
        assert given.count(row["consensus_label"]) == most
        assert row["consensus_quality"] == row["consensus_agreement"] == pytest.approx(most / len(given))


def test_dawid_skene_sees_through_annotators_that_say_one_thing() -> None:
    table, true = simulated(1000, missing=0.0)
    right = {}
    for by in ("majority", "dawid_skene"):
        found = [row["consensus_label"] for row in consensus(table, by=by)]
        right[by] = np.mean([one == other for one, other in zip(found, true, strict=True)])
    assert right["dawid_skene"] > right["majority"] + 0.15, right
    assert right["dawid_skene"] > 0.9


def cleanlabs(table: pa.Table) -> tuple[list[str], dict[str, Any]]:
    """Return the ids of the rows that someone labelled, and cleanlab's own answer for them."""
    labelled = [row for row in table.to_pylist() if any(row[name] for name in WORKERS)]
    matrix = pd.DataFrame(
        [[CLASSES.index(row[name]) if row[name] else np.nan for name in WORKERS] for row in labelled],
        columns=WORKERS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chances = np.array([row["probabilities"] for row in labelled])
        return [row["row_id"] for row in labelled], get_label_quality_multiannotator(matrix, chances)


def test_crowdlab_is_cleanlabs_own() -> None:
    table, _ = simulated()
    found = consensus(table, by="crowdlab", probabilities="probabilities")
    judged = [row for row in found if row["consensus_label"]]
    ids, own = cleanlabs(table)
    quality = own["label_quality"]
    assert [row["row_id"] for row in judged] == ids
    assert [CLASSES.index(row["consensus_label"]) for row in judged] == quality["consensus_label"].tolist()
    assert [row["consensus_quality"] for row in judged] == quality["consensus_quality_score"].tolist()
    assert [row["consensus_agreement"] for row in judged] == pytest.approx(quality["annotator_agreement"])


@pytest.mark.parametrize("by", ["majority", "dawid_skene", "crowdlab"])
def test_the_order_of_rows_and_columns_changes_nothing(by: str) -> None:
    table, _ = simulated(120)
    model = {"probabilities": "probabilities"} if by == "crowdlab" else {}
    first = consensus(table, by=by, **model)
    order = random.Random(4).sample(range(120), 120)
    again = consensus(table.take(pa.array(order)), by=by, **{**model, "labels": WORKERS[::-1]})
    assert sorted(again, key=lambda row: row["row_id"]) == first


def test_a_table_of_annotations_is_the_same_as_columns(tmp_path: Path) -> None:
    table, _ = simulated(100)
    lines = [
        {"row_id": row["row_id"], "annotator": name, "label": row[name]}
        for row in table.to_pylist()
        for name in WORKERS
    ]
    context = crowd(tmp_path, [*lines[::-1], *lines[:50], {"row_id": "who", "annotator": "w1", "label": "x"}])
    made = consensus(table, labels=(), annotations="crowd", context=context)
    assert made == consensus(table)
    some = replace(context, step="agreed")
    both = consensus(table, labels=["w0", "w1"], annotations="crowd", context=some)
    assert both == made, "an annotator that is a column and in the table is one"


def test_rows_that_nobody_labelled_keep_their_trail_and_the_others_go_on_with_it() -> None:
    table = pa.table(
        {
            "row_id": ["a", "b", "c"],
            "one": ["x", None, "y"],
            "two": ["x", None, "x"],
            "three": [None, None, "x"],
            "old": ["z", "z", "z"],
            "label_audit": pa.array([[EARLIER], [EARLIER], None], AUDIT),
        }
    )
    names = ["one", "two", "three"]
    found = consensus(table, labels=names, by="majority", label="old")
    new = {"step": "agreed", "old": "z", "new": "x", "who": "majority"}
    assert [row["label_audit"] for row in found] == [
        [EARLIER, {**new, "why": "2 of 2 annotators"}],
        [EARLIER],
        [{**new, "why": "2 of 3 annotators"}],
    ]
    assert [row["old"] for row in found] == ["z"] * 3
    assert consensus(table.slice(1, 1), labels=names)[0]["consensus_label"] is None, "all null"


@pytest.mark.parametrize("by", ["majority", "dawid_skene"])
def test_one_annotator_is_taken_at_its_word(by: str) -> None:
    table, _ = simulated(60)
    for row in consensus(table, labels=["w0"], by=by):
        assert row["consensus_label"] == row["w0"]


def test_rows_without_probabilities_are_not_judged_by_crowdlab() -> None:
    table, _ = simulated(60, missing=0.0)
    chances = table["probabilities"].to_pylist()
    chances[3] = None
    held = table.set_column(2, "probabilities", pa.array(chances, pa.list_(pa.float64())))
    found = consensus(held, by="crowdlab", probabilities="probabilities")
    assert [row["row_id"] for row in found if row["consensus_label"] is None] == ["r0003"]


# What goes wrong.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ()}, "needs annotations: name columns by labels"),
        ({"by": "crowdlab"}, "by: crowdlab needs probabilities"),
        (
            {"probabilities": "probabilities"},
            "probabilities is a setting of by: crowdlab, not of by: dawid_skene",
        ),
        (
            {"by": "crowdlab", "probabilities": "old"},
            "column 'old' must hold lists of floating-point numbers",
        ),
        ({"labels": ["probabilities"]}, "column 'probabilities' must hold text"),
        ({"classes": ["x", "y", "x"]}, "classes names a label twice"),
        ({"label": "label_audit"}, "column 'label_audit' must hold text"),
    ],
)
def test_settings_that_cannot_work_are_found_before_any_work(settings: dict[str, Any], message: str) -> None:
    table, _ = simulated(5)
    table = table.append_column("label_audit", pa.nulls(5, AUDIT))
    with pytest.raises(InputError, match=message):
        consensus(table, **settings)


def test_a_contradiction_in_the_table_is_found_before_any_work(tmp_path: Path) -> None:
    table, _ = simulated(5)
    twice = [{"row_id": "r0001", "annotator": "anna", "label": label} for label in ("x", "y")]
    with pytest.raises(InputError, match="the annotator 'anna' gave row_id 'r0001' several labels: 'x', 'y'"):
        consensus(table, labels=(), annotations="crowd", context=crowd(tmp_path, twice))


@pytest.mark.parametrize("task", [True, False])
def test_a_label_outside_of_the_task_is_told_with_row_and_annotator(task: bool) -> None:
    table, _ = simulated(5)
    column = pa.array([None, "Y", None, None, None])
    table = table.set_column(table.schema.get_field_index("w2"), "w2", column)
    given: dict[str, Any] = (
        {"context": Context(step="agreed", task=Task(labels=dict.fromkeys(CLASSES, "")))}
        if task
        else {"classes": CLASSES}
    )
    with pytest.raises(
        RunFailed, match="agreed: the annotator 'w2' gave row_id 'r0001' the label 'Y', which is"
    ):
        consensus(table, **given)


def test_probabilities_that_are_none_are_told_with_the_row() -> None:
    table, _ = simulated(20)
    for bad, message in (
        ([0.5, 0.5], "2 probabilities, but there are 3 classes"),
        ([0.9, 0.9, 0.9], "add up to"),
    ):
        chances = table["probabilities"].to_pylist()
        chances[7] = bad
        held = table.set_column(2, "probabilities", pa.array(chances, pa.list_(pa.float64())))
        with pytest.raises(RunFailed, match=f"'probabilities' of row_id 'r0007' holds .*{message}"):
            consensus(held, by="crowdlab", probabilities="probabilities")


def test_crowdlab_of_one_annotator_says_what_to_do() -> None:
    table, _ = simulated(20)
    with pytest.raises(RunFailed, match=r"none of the .* rows has two; use by: majority"):
        consensus(table, labels=["w0"], by="crowdlab", probabilities="probabilities")


# In a run.


def qualities(by: str, table: pa.Table, expected: dict[str, str | None]) -> dict[str, Any]:
    """Return what each annotator's quality must be."""
    if by == "crowdlab":
        stats = cleanlabs(table)[1]["annotator_stats"]["annotator_quality"]
        return {name: pytest.approx(value, abs=1e-12) for name, value in stats.items()}
    if by == "dawid_skene":  # what the annotators of `simulated` are: right, or y in about two of three
        good, bad = 0.9 + 0.1 / 6, 0.1 + 0.9 / 3
        return {f"w{n}": pytest.approx(good if n < 2 else bad, abs=0.15) for n in range(5)}
    rows = [row for row in table.to_pylist() if expected[row["row_id"]]]
    return {
        name: pytest.approx(np.mean([row[name] == expected[row["row_id"]] for row in rows if row[name]]))
        for name in WORKERS
    }


def run(folder: Path, table: pa.Table, *steps: Any, **settings: Any) -> Run:
    import pyarrow.parquet as pq

    pq.write_table(table, folder / "rows.parquet")
    made = Pipeline([Source(path=str(folder / "rows.parquet")), *steps], name="agreed", seed=2, **settings)
    return made.run(folder / "run", quiet=True)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("by", ["majority", "dawid_skene", "crowdlab"])
def test_a_stage_gives_what_one_call_gives_in_any_number_of_blocks(tmp_path: Path, by: str) -> None:
    table, _ = simulated(200)
    model = {"probabilities": "probabilities"} if by == "crowdlab" else {}
    expected = {
        row["row_id"]: row["consensus_label"] for row in consensus(table, by=by, label="old", **model)
    }
    for blocks in (1, 7):
        folder = tmp_path / str(blocks)
        folder.mkdir()
        operator = Consensus(labels=WORKERS, by=by, label="old", **model)  # type: ignore[arg-type]
        done = run(folder, table, operator, blocks=blocks)
        found = done.sql("SELECT * FROM dataset ORDER BY row_id").to_pylist()
        assert {row["row_id"]: row["consensus_label"] for row in found} == expected
        assert {entry["step"] for row in found for entry in row["label_audit"] or []} == {"consensus"}
        metrics = {
            (row["metric"], row["slice"]): row for row in done.sql("SELECT * FROM metrics").to_pylist()
        }
        assert metrics["annotated", None]["value"] == sum(one is not None for one in expected.values())
        rows = table.to_pylist()
        for name, quality in qualities(by, table, expected).items():
            told = metrics["annotator_quality", f"annotator={name}"]
            assert told["value"] == quality
            assert told["n"] == sum(row[name] is not None for row in rows)
        confusion = [row for key, row in metrics.items() if key[0] == "confusion"]
        assert len(confusion) == (45 if by == "dawid_skene" else 0)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_that_pass_by_keep_their_trail_and_unknown_ids_are_counted(tmp_path: Path) -> None:
    table, _ = simulated(40, missing=0.0)
    table = table.append_column("label_audit", pa.array([[EARLIER]] * 40, AUDIT))
    table = table.append_column("hard", pa.array([n % 4 == 0 for n in range(40)]))
    context = crowd(
        tmp_path, [{"row_id": one, "annotator": "anna", "label": "y"} for one in ("r0000", "r0001", "no")]
    )
    steps = [
        Step(Consensus(labels=WORKERS, annotations="crowd"), name="first", when="hard"),
        Step(Consensus(labels=WORKERS, label="old", by="majority"), name="second", when="NOT hard"),
    ]
    done = run(tmp_path, table, *steps, tables=context.tables)
    found = done.sql("SELECT * FROM dataset ORDER BY row_id").to_pylist()
    for n, row in enumerate(found):
        steps_of_row = [entry["step"] for entry in row["label_audit"]]
        assert steps_of_row == ["first", "first" if n % 4 == 0 else "second"]
        assert (row["first_consensus_label"] is None) == (n % 4 != 0)
        assert (row["second_consensus_label"] is None) == (n % 4 == 0)
    unknown = done.sql(
        "SELECT value FROM metrics WHERE metric = 'unknown_rows' AND step = 'first'"
    ).to_pylist()
    assert unknown == [{"value": 2.0}], "one is no row, one is no row that the step sees"


@pytest.mark.parametrize("by", ["majority", "dawid_skene", "crowdlab"])
def test_columns_may_have_any_names(by: str) -> None:
    table, _ = simulated(60)
    names = {"old": "label", "probabilities": "size", **dict(zip(WORKERS, _OURS, strict=True))}
    renamed = table.rename_columns([names.get(name, name) for name in table.column_names])
    renamed = renamed.append_column("probabilities", pa.nulls(60)).append_column("row", pa.nulls(60))
    given: dict[str, Any] = {"by": by, "label": "old"}
    expected = consensus(table, **given, **({"probabilities": "probabilities"} if by == "crowdlab" else {}))
    given["label"] = "label"
    if by == "crowdlab":
        given["probabilities"] = "size"
    found = consensus(renamed, labels=_OURS, **given)
    for name in ("consensus_label", "consensus_quality", "consensus_agreement", "label_audit"):
        assert [row[name] for row in found] == [row[name] for row in expected]
    assert found[0]["label_audit"][0]["old"] == "x"


_OURS = ["agreeing", "given", "judged", "quality", "votes"]  # as the operator's own are named, sorted


def test_more_classes_than_confusions_can_hold_are_told() -> None:
    labels = [f"class{number}" for number in range(2_300)]
    table = pa.table({"row_id": labels, "one": labels, "two": labels})
    with pytest.raises(
        RunFailed, match=r"10,580,000 numbers of 2 annotators and 2,300 classes.*by: majority"
    ):
        Consensus(labels=["one", "two"], by="dawid_skene")(table)
    assert Consensus(labels=["one", "two"], by="majority")(table)["consensus_label"].to_pylist() == labels
