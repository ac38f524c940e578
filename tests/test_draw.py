"""Some rows are picked and some drawn by chance, and from how each came a fair estimate of all can be made."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from reviewing import LABELS, cells, fill, finished, rows

from synthray.draw import Draw, Drawn, give_out
from synthray.errors import InputError, RunError
from synthray.query import Query
from synthray.questionnaire import take_in
from synthray.review import FOLDER, Reviews
from synthray.run import Run

ROWS = rows()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path / "run", ROWS)


def given(run: Path, draw: Draw | None = None) -> Drawn:
    return give_out(run, draw or Draw(budget=40), "csv", None)[0]


def picked(drawn: Drawn) -> set[str]:
    return {row.row_id for row in drawn.batch.rows if row.picked}


def by_chance(drawn: Drawn) -> set[str]:
    return {row.row_id for row in drawn.batch.rows if row.slice}


def chances(names: list[str], seed: int = 3) -> dict[str, float]:
    with Query({"rows": pa.table({"row_id": names})}, seed=seed) as query:
        return dict(query.rows("SELECT row_id, chance(row_id, 'review') FROM rows"))


def test_the_least_sure_are_picked_and_beside_them_those_of_least_chance(run: Path) -> None:
    drawn = given(run)
    least = ROWS.sort_by("label_quality")["row_id"].to_pylist()[:32]
    assert picked(drawn) == set(least)
    chance = chances(ROWS["row_id"].to_pylist())
    assert by_chance(drawn) == set(sorted(chance, key=lambda name: chance[name])[:8])
    assert (drawn.batch.frame, drawn.batch.rate) == (200, 8 / 200)
    assert drawn.batch.cutoff == max(chance[name] for name in by_chance(drawn))
    assert len(drawn.items) == len(picked(drawn) | by_chance(drawn))
    assert Reviews(run / FOLDER).batches == [drawn.batch]


def test_chance_does_not_look_at_the_rank(tmp_path: Path) -> None:
    """A row is in the slice as often whether it is picked or not, over many seeds."""
    hits: Counter[bool] = Counter()
    for seed in range(60):
        drawn = given(
            finished(
                tmp_path / str(seed), ROWS.select(["row_id", "text", "label", "label_quality"]), seed=seed
            )
        )
        hits[True] += len(by_chance(drawn) & picked(drawn))
        hits[False] += len(by_chance(drawn) - picked(drawn))
    assert hits.total() == 60 * 8
    assert hits[True] / hits.total() == pytest.approx(32 / 200, abs=0.06)


def test_a_second_batch_goes_on_and_gives_out_no_row_twice(run: Path) -> None:
    first, second = given(run), given(run)
    assert not picked(first) & picked(second)
    assert not by_chance(first) & by_chance(second)
    least = ROWS.sort_by("label_quality")["row_id"].to_pylist()
    assert picked(second) == set(least[32:64]), "also those that were in the slice before"
    shown = [item.row_id for item in (*first.items, *second.items)]
    assert len(shown) == len(set(shown))
    # Two draws of eight are one of sixteen.
    chance = chances(ROWS["row_id"].to_pylist())
    assert by_chance(first) | by_chance(second) == set(sorted(chance, key=lambda name: chance[name])[:16])
    assert second.batch.rate == 16 / 200
    assert (first.batch.name, second.batch.name) == ("batch-1", "batch-2")


def test_again_gives_the_same_rows_to_others(run: Path) -> None:
    first = given(run)
    again = given(run, Draw(budget=40, again=True))
    assert (picked(again), by_chance(again)) == (picked(first), by_chance(first))
    assert {item.row_id for item in again.items} == {item.row_id for item in first.items}


def test_a_row_with_another_text_is_given_out_again(run: Path, tmp_path: Path) -> None:
    first = given(run, Draw(budget=200, random="0"))
    table = ROWS.set_column(
        ROWS.column_names.index("text"),
        "text",
        pa.array(
            [
                "new" if one == "row0007" else text
                for one, text in zip(ROWS["row_id"].to_pylist(), ROWS["text"].to_pylist(), strict=True)
            ]
        ),
    )
    with pytest.raises(InputError, match="nothing new to review: of 200 rows 200 are given out"):
        given(run, Draw(budget=200, random="0"))
    (run / "stages").rename(tmp_path / "old")
    finished(run, table)
    assert len(first.items) == 200
    assert [item.row_id for item in given(run, Draw(budget=200, random="0")).items] == ["row0007"]


def test_nothing_depends_on_the_order_of_rows(run: Path, tmp_path: Path) -> None:
    turned = finished(tmp_path / "turned", ROWS.take(list(range(200))[::-1]))
    assert given(turned) == given(run)


def test_the_order_does_not_tell_picked_rows_from_others(run: Path) -> None:
    drawn = given(run, Draw(budget=100, random="0.5"))
    order = [item.row_id for item in drawn.items]
    assert order != sorted(order)
    places = [place for place, name in enumerate(order) if name in picked(drawn)]
    assert abs(sum(places) / len(places) - len(order) / 2) < len(order) / 8


@pytest.mark.parametrize(
    ("random", "number"),
    [("0", 0), ("0.0", 0), ("0.25", 10), ("25%", 10), ("7", 7), ("40", 40), ("1.0", 40), ("1", 1)],
)
def test_the_slice_is_a_share_or_a_number_of_rows(run: Path, random: str, number: int) -> None:
    drawn = given(run, Draw(budget=40, random=random))
    assert (len(by_chance(drawn)), len(picked(drawn))) == (number, 40 - number)


def test_a_budget_above_all_gives_all(run: Path) -> None:
    drawn = given(run, Draw(budget=1000))
    assert len(drawn.items) == 200
    assert by_chance(drawn) == set(ROWS["row_id"].to_pylist())
    assert drawn.batch.rate == 1


def test_disagreement_picks_rows_whose_labels_differ_the_least_sure_first(run: Path) -> None:
    unlike = [row for row in ROWS.to_pylist() if row["label"] != row["suggested_label"]]
    drawn = given(run, Draw(budget=10, random="0", by="disagreement"))
    unlike.sort(key=lambda row: row["label_quality"])
    assert picked(drawn) == {row["row_id"] for row in unlike[:10]}
    rest = given(run, Draw(budget=200, random="0", by="disagreement"))
    assert len(picked(rest)) == len(unlike) - 10, "and no row besides"


def test_any_sql_ranks_the_largest_first(run: Path) -> None:
    drawn = given(run, Draw(budget=3, random="0", by="CASE WHEN row_id < 'row0005' THEN length(text) END"))
    longest = sorted(ROWS.to_pylist()[:5], key=lambda row: -len(row["text"]))
    assert {len(item.text) for item in drawn.items} == {len(row["text"]) for row in longest[:3]}


def test_people_see_the_label_the_suggestion_and_the_most_similar_rows(run: Path) -> None:
    drawn = given(run)
    known = {row["row_id"]: row for row in ROWS.to_pylist()}
    for item in drawn.items:
        row = known[item.row_id]
        assert (item.text, item.label, item.suggested) == (row["text"], row["label"], row["suggested_label"])
        assert len(item.neighbours) == 3 and item.text not in [text for _, text in item.neighbours]
        assert f"label_quality {row['label_quality']:.3g}" in item.why, "of picked and drawn rows alike"
    words = [(item.text.split()[0], item.neighbours[0][1].split()) for item in drawn.items]
    assert sum(word in neighbour for word, neighbour in words) > 0.8 * len(words)
    assert (drawn.guide.labels, drawn.guide.guideline) == (LABELS, "One label.")


def test_neighbours_that_a_column_names_are_taken(tmp_path: Path) -> None:
    named = ROWS.append_column("neighbours", pa.array([["row0001", "row0000", "gone"]] * 200))
    drawn = given(finished(tmp_path / "run", named))
    texts = ROWS["text"].to_pylist()
    assert {tuple(text for _, text in item.neighbours) for item in drawn.items} == {(texts[1], texts[0])}


def test_without_labels_in_the_recipe_those_of_the_rows_are_allowed(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", ROWS, labels=None)
    assert given(run).batch.labels == tuple(sorted(LABELS))


def test_rows_without_a_text_are_not_picked(tmp_path: Path) -> None:
    table = ROWS.set_column(
        ROWS.column_names.index("text"), "text", pa.array([None, " ", *ROWS["text"].to_pylist()[2:]])
    )
    drawn = given(finished(tmp_path / "run", table), Draw(budget=200, random="0"))
    assert picked(drawn) == set(ROWS["row_id"].to_pylist()[2:])


def test_rows_without_any_text_can_be_drawn_and_have_no_neighbours(tmp_path: Path) -> None:
    table = ROWS.set_column(ROWS.column_names.index("text"), "text", pa.array([""] * 200))
    drawn = given(finished(tmp_path / "run", table), Draw(budget=10, random="1.0"))
    assert [item.neighbours for item in drawn.items] == [()] * 10


def test_rejected_rows_are_asked_about_where_a_view_has_them(run: Path) -> None:
    assert len(given(run, Draw(budget=10, relation="rows")).items) > 5


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (Draw(label="labels"), "--label 'labels': the run has no such column; did you mean 'label'"),
        (Draw(text="label_quality"), "--text 'label_quality' must hold text, but is double"),
        (Draw(by="nothing"), 'as SQL over the rows: .*"nothing" not found'),
        (Draw(by="text"), "must be a number for each row, but is string"),
        (Draw(by="max(label_quality)"), "as SQL over the rows: .*must appear in the GROUP BY"),
        (Draw(random="1.5"), "must be a share of the budget such as 0.2 or 20%"),
        (Draw(random="101"), r"or a number of rows up to the budget \(100\)"),
        (Draw(random="many"), "must be a share"),
        (Draw(random="nan"), "must be a share"),
        (Draw(relation="stages"), "has no row_id"),
        (Draw(relation="nowhere"), "nowhere"),
        (Draw(relation="rows; DROP"), "must name a view"),
        (Draw(batch="../up"), "--batch '../up' must be letters"),
    ],
    ids=str,
)
def test_a_wrong_wish_is_told_and_nothing_is_given_out(run: Path, draw: Draw, message: str) -> None:
    with pytest.raises(InputError, match=message):
        given(run, draw)
    assert not (run / FOLDER).exists()


@pytest.mark.parametrize(
    ("column", "by", "message"),
    [
        ("label_quality", "uncertainty", "needs one of the columns label_quality, label_entropy"),
        (
            "suggested_label",
            "disagreement",
            "needs another label than 'label' in one of the columns new_label",
        ),
    ],
)
def test_a_rank_that_the_run_has_not_is_told(tmp_path: Path, column: str, by: str, message: str) -> None:
    run = finished(tmp_path / "run", ROWS.drop_columns([column]))
    with pytest.raises(InputError, match=message):
        given(run, Draw(by=by))
    assert len(given(run, Draw(by=by, random="1.0", budget=5)).items) == 5, "chance needs no rank"


def test_a_batch_has_a_name_of_its_own(run: Path) -> None:
    given(run, Draw(budget=5, batch="first"))
    with pytest.raises(InputError, match="there is a batch 'first' already"):
        given(run, Draw(budget=5, batch="first"))
    with pytest.raises(InputError, match="--format 'xls' is none"):
        give_out(run, Draw(), "xls", None)


def test_a_run_that_is_none_or_in_use_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        given(tmp_path / "nowhere")
    held = Run.claim(run, "news")
    with pytest.raises(RunError, match="another process is writing"):
        given(run)
    held.release()
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**state, "stages": []}))
    with pytest.raises(RunError, match="no finished stage"):
        given(run)


def test_a_file_that_cannot_be_written_gives_nothing_out(run: Path) -> None:
    with pytest.raises(InputError):
        give_out(run, Draw(), "csv", run / "run.json" / "file.csv")
    assert Reviews(run / FOLDER).batches == []


def test_what_is_filled_in_is_taken_in_by_parts(run: Path, tmp_path: Path) -> None:
    drawn, (file, _) = give_out(run, Draw(budget=40), "csv", tmp_path / "ask.csv")
    half = fill(file, ROWS, tmp_path / "half.csv", 0.5)
    whole = fill(file, ROWS, tmp_path / "whole.csv")
    counts = [vars(take_in(run, path, "ann")[0]) for path in (half, half, whole)]
    n, many = round(0.5 * len(drawn.items)), len(drawn.items)
    assert counts == [
        {"new": n, "changed": 0, "known": 0},
        {"new": 0, "changed": 0, "known": n},
        {"new": many - n, "changed": 0, "known": n},
    ]
    other = cells(file)[0]["row_id"]
    label = next(one for one in LABELS if one != ROWS.to_pylist()[int(other[3:])]["true"])
    changed = fill(file, ROWS, tmp_path / "changed.csv", **{other: label})
    assert vars(take_in(run, changed, "ann")[0]) == {"new": 0, "changed": 1, "known": many - 1}


def test_settings_stand_alone() -> None:
    assert replace(Draw(), budget=10).by_chance() == 2
