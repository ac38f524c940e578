"""What people said reaches the rows it is about, with how each row came to be asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reviewing import fill, finished, rows

from synthray.curate.review import Review
from synthray.draw import Draw, give_out
from synthray.errors import InputError
from synthray.label.audit import AUDIT
from synthray.operator import Context
from synthray.questionnaire import take_in
from synthray.recipe import load
from synthray.review import FOLDER
from synthray.run import Run
from synthray.table import Table

ROWS = rows()
TRUE = dict(zip(ROWS["row_id"].to_pylist(), ROWS["true"].to_pylist(), strict=True))
ADDED = ("human_label", "human_count", "review_slice", "review_batch", "review_weight", "label_audit")


def operator(run: Path, seed: int = 3, **settings: Any) -> Review:
    return Review(**settings, context=Context(step="review", seed=seed, reviews=str(run / FOLDER)))


def marked(held: Review, table: pa.Table = ROWS) -> dict[str, dict[str, Any]]:
    return {row["row_id"]: row for row in held(table).to_pylist()}


@pytest.fixture
def reviewed(tmp_path: Path) -> tuple[Path, Path]:
    """A run of which 40 rows were answered by ann; and the file that was given out."""
    run = finished(tmp_path / "run", ROWS)
    _, (file, _) = give_out(run, Draw(budget=40), "csv", tmp_path / "ask.csv")
    take_in(run, fill(file, ROWS, tmp_path / "ann.csv"), "ann")
    return run, file


def test_before_any_review_all_is_null(tmp_path: Path) -> None:
    for held in (operator(tmp_path), Review(context=Context(step="review"))):
        out = held(ROWS)
        assert out.column_names == [*ROWS.column_names, *ADDED]
        assert all(out[name].null_count == len(ROWS) for name in ADDED)
        assert out.schema == held.schema(ROWS.schema)


def test_answers_stand_beside_their_rows_and_the_label_stays(reviewed: tuple[Path, Path]) -> None:
    found = marked(operator(reviewed[0]))
    least = set(ROWS.sort_by("label_quality")["row_id"].to_pylist()[:32])
    slices = Counter(row["review_slice"] for row in found.values())
    assert slices["picked"] + slices["both"] == 32 and slices["random"] + slices["both"] == 8
    for name, row in found.items():
        asked = row["review_slice"] is not None
        assert row["human_label"] == (TRUE[name] if asked else None)
        assert row["human_count"] == (1 if asked else None)
        assert row["review_batch"] == ("batch-1" if asked else None)
        weight = 1.0 if name in least else 200 / 8
        assert row["review_weight"] == (weight if asked else None)
        assert (name in least) == (row["review_slice"] in ("picked", "both"))
    assert [row["label"] for row in found.values()] == ROWS["label"].to_pylist()


def test_the_trail_says_who_changed_what_and_keeps_what_it_had(reviewed: tuple[Path, Path]) -> None:
    earlier = {"step": "relabel", "old": "pets", "new": "food", "who": "model", "why": "because"}
    trail = pa.array([[earlier] if number % 2 else None for number in range(len(ROWS))], AUDIT)
    found = marked(operator(reviewed[0]), ROWS.append_column("label_audit", trail))
    for number, (name, row) in enumerate(found.items()):
        own = {
            "step": "review",
            "old": row["label"],
            "new": TRUE[name],
            "who": "ann",
            "why": f"{TRUE[name]} 1",
        }
        expected = ([earlier] if number % 2 else []) + ([own] if row["human_count"] else [])
        assert row["label_audit"] == (expected or None)


def test_the_most_frequent_answer_counts_and_a_tie_is_null(
    reviewed: tuple[Path, Path], tmp_path: Path
) -> None:
    run, file = reviewed
    name = next(name for name, row in marked(operator(run)).items() if row["review_slice"] == "random")
    other = next(label for label in ("food", "money") if label != TRUE[name])
    take_in(run, fill(file, ROWS, tmp_path / "bob.csv", **{name: other}), "bob")
    tie = marked(operator(run))[name]
    assert (tie["human_label"], tie["human_count"], tie["review_weight"]) == (None, 2, None)
    assert tie["label_audit"][0]["new"] is None and tie["label_audit"][0]["who"] == "ann, bob"
    take_in(run, fill(file, ROWS, tmp_path / "eve.csv", **{name: other}), "eve")
    settled = marked(operator(run))[name]
    assert (settled["human_label"], settled["human_count"]) == (other, 3)


def test_rows_that_were_asked_but_not_answered_are_told_from_others(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", ROWS)
    _, (file, _) = give_out(run, Draw(budget=40), "csv", tmp_path / "ask.csv")
    take_in(run, fill(file, ROWS, tmp_path / "half.csv", 0.5), "")
    asked = [row for row in marked(operator(run)).values() if row["review_slice"]]
    counts = Counter(row["human_count"] for row in asked)
    assert set(counts) == {0, 1} and abs(counts[0] - counts[1]) <= 1
    assert all((row["review_weight"] is None) == (row["human_count"] == 0) for row in asked)


def test_an_answer_does_not_go_to_another_text(reviewed: tuple[Path, Path]) -> None:
    changed = ROWS.set_column(
        ROWS.column_names.index("text"),
        "text",
        pa.array([f"new {text}" for text in ROWS["text"].to_pylist()]),
    )
    found = marked(operator(reviewed[0]), changed)
    assert not [row for row in found.values() if row["human_label"]]
    assert Counter(row["review_slice"] for row in found.values()) == {None: 192, "outside": 8}


def test_rows_that_came_after_the_draw_are_outside_of_the_slice(reviewed: tuple[Path, Path]) -> None:
    more = rows(400).slice(200)
    found = marked(operator(reviewed[0]), pa.concat_tables([ROWS, more]))
    outside = [row["row_id"] for row in found.values() if row["review_slice"] == "outside"]
    assert outside and set(outside) <= set(more["row_id"].to_pylist())
    # As many of them as there would be in the slice.
    assert 1 <= len(outside) <= 20


def test_nothing_depends_on_the_order_of_rows(reviewed: tuple[Path, Path]) -> None:
    turned = operator(reviewed[0])(ROWS.take(list(range(len(ROWS)))[::-1]))
    assert turned.sort_by("row_id").to_pylist() == operator(reviewed[0])(ROWS).to_pylist()


@pytest.mark.parametrize("kind", ["run", "file", "table"])
def test_answers_of_elsewhere(reviewed: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    run = reviewed[0]
    answers = pa.table(
        {
            "row_id": ["row0001", "row0002", "row0002", "gone", "row0003"],
            "human_label": ["food", "pets", "pets", "food", None],
            "reviewer": ["a", "a", "b", "a", "a"],
        }
    )
    pq.write_table(answers, tmp_path / "answers.parquet")
    context = Context(step="review", seed=99, reviews=str(tmp_path / "none"))
    if kind == "run":
        held = Review(reviews="run", base=str(tmp_path), context=context)
        assert marked(held) == marked(operator(run)), "drawn by that run's seed"
        assert held.files()[2:] == operator(run).files()[2:]
        return
    if kind == "table":
        tables = {"people": Table.find("answers.parquet", tmp_path)}
        context = replace(context, tables=tables, schemas={"people": answers.schema})
    held = Review(
        reviews="people" if kind == "table" else "answers.parquet", base=str(tmp_path), context=context
    )
    held.check(ROWS.schema)
    found = marked(held)
    assert [
        (found[name]["human_label"], found[name]["human_count"]) for name in ("row0001", "row0002", "row0003")
    ] == [
        ("food", 1),
        ("pets", 2),
        (None, None),
    ]
    assert {row["review_slice"] for row in found.values()} == {None}
    assert (tmp_path / "answers.parquet" in held.files()) == (kind == "file")
    assert held.table_names == (("people",) if kind == "table" else ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "label_quality"}, "column 'label_quality' must hold text"),
        ({"reviews": "nowhere.csv"}, "reviews 'nowhere.csv' is no table of the recipe; no run; no file"),
        ({"reviews": "other.csv"}, "has no column 'human_label'; did you mean 'human_labels'"),
    ],
)
def test_wrong_settings_are_told_before_any_work(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "other.csv").write_text("row_id,human_labels\na,b\n")
    with pytest.raises(InputError, match=message):
        Review(**settings, base=str(tmp_path)).check(ROWS.schema)


RECIPE = """
name: news
seed: 5
task: {labels: {food: "", money: "", pets: ""}}
model: {language: fake, answers: [one two, three]}
steps:
  - source.table: {path: rows.parquet}
  - generate.prompt: {template: "{{ text }}", writes: note}
  - curate.review: {}
  - evaluate.label_accuracy: {}
  - derive: {label: "coalesce(human_label, label)"}
  - where: label_quality > 0.4 OR human_label IS NOT NULL
    reason: quality
  - export.parquet: {}
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_run_review_import_run_again(write: Callable[..., Path], tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    recipe, out = write(RECIPE), tmp_path / "out"

    def folders() -> dict[str, str]:
        run = load(recipe).run(out, quiet=True)
        assert run.state["calls_made"] == (200 if not made else 0), "no call is repaid"
        return {record.steps[0].step: record.folder for record in run.stages()}

    made: list[dict[str, str]] = []
    made.append(folders())
    _, (file, _) = give_out(out, Draw(budget=60, random="0.5"), "csv", tmp_path / "ask.csv")
    made.append(folders())
    assert made[1] == made[0], "what is only given out changes nothing"
    take_in(out, fill(file, ROWS, tmp_path / "back.csv"), "ann")
    made.append(folders())
    kept = [step for step in made[2] if made[2][step] == made[1][step]]
    assert kept == ["table", "prompt"], "the answers reach their step, and all after it"
    run = Run.read(out)
    found = {row["row_id"]: row for row in run.sql("SELECT * FROM dataset").to_pylist()}
    expected = marked(operator(out, 5))
    for name, row in found.items():
        assert {column: row[column] for column in ADDED} == {
            column: expected[name][column] for column in ADDED
        }
        assert row["label"] == (expected[name]["human_label"] or expected[name]["label"])
    metrics = {row["metric"]: row for row in run.sql("SELECT * FROM metrics WHERE slice IS NULL").to_pylist()}
    answered = sum(row["human_label"] is not None for row in expected.values())
    assert (metrics["reviewed"]["value"], metrics["ties"]["value"], metrics["stale"]["value"]) == (
        answered,
        0,
        0,
    )
    load(recipe, settings=["gate=[review.reviewed.value > 0, review.stale.n > 0]"]).run(out, quiet=True)
    truth = sum(row["label"] == row["true"] for row in ROWS.to_pylist()) / len(ROWS)
    accuracy = metrics["accuracy"]
    assert accuracy["ci_low"] <= truth <= accuracy["ci_high"] and accuracy["n"] == answered
    # The frame is what reached the review, though the dataset holds less by now.
    drawn, _ = give_out(out, Draw(budget=30), "csv", tmp_path / "more.csv")
    assert drawn.batch.frame == 200 > len(found)
    assert json.loads((out / "run.json").read_text())["state"] == "done"
