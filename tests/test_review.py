"""Reviews keep who was asked what and every version of every answer; a wrong file leaves no trace."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import cohen_kappa_score

from synthray.errors import InputError, RunError
from synthray.review import Answer, Asked, Batch, Reviews, claimed, digest_of
from synthray.run import Run

LABELS = ("food", "money", "pets")


def asked(name: str, *, picked: bool = False, slice: bool = False, text: str = "") -> Asked:
    return Asked(name, digest_of(text or name), "food", picked, slice)


def batch(name: str, *rows: Asked, rate: float = 0.1, cutoff: float = 0.1) -> Batch:
    return Batch(name, "text", "label", LABELS, 7, 100, rate, cutoff, rows)


def said(row: str, label: str, reviewer: str = "ann", batch: str = "", place: str = "line 2") -> Answer:
    return Answer(row, label, reviewer, batch, place)


def texts(*names: str) -> dict[str, str]:
    return {name: digest_of(name) for name in names}


@pytest.fixture
def reviews(tmp_path: Path) -> Reviews:
    held = Reviews(tmp_path / "reviews")
    held.give(
        batch("one", asked("a", picked=True), asked("b", slice=True), asked("c", picked=True, slice=True))
    )
    return held


def again(reviews: Reviews) -> Reviews:
    return Reviews(reviews.folder)


def test_what_was_given_out_and_answered_is_read_again(reviews: Reviews) -> None:
    reviews.take([said("a", "pets"), said("b", "food", "bob")], "", "file")
    assert again(reviews).batches == reviews.batches
    assert [(one.row_id, one.label, one.reviewer, one.batch) for one in again(reviews).versions] == [
        ("a", "pets", "ann", "one"),
        ("b", "food", "bob", "one"),
    ]


def test_the_same_file_again_changes_nothing(reviews: Reviews) -> None:
    answers = [said("a", "pets"), said("b", "food")]
    first = reviews.take(answers, "", "file")
    files = reviews.files()
    second = again(reviews).take(answers, "", "file")
    assert (first.new, second.new, second.changed, second.known) == (2, 0, 0, 2)
    assert again(reviews).files() == files


def test_answers_come_in_parts_and_a_changed_one_is_a_later_version(reviews: Reviews) -> None:
    reviews.take([said("a", "pets")], "", "file")
    taken = reviews.take([said("a", "money"), said("b", "food"), said("c", "food")], "", "file")
    assert (taken.new, taken.changed, taken.known) == (2, 1, 0)
    held = again(reviews)
    assert [one.label for one in held.versions if one.row_id == "a"] == ["pets", "money"]
    assert held.said(texts("a"))["a"][0].label == "money"


def test_without_an_answer_no_file_decides_anything(reviews: Reviews) -> None:
    assert reviews.files() == ()
    reviews.take([said("a", "pets")], "", "file")
    assert len(reviews.files()) == 2


def test_who_answered_is_of_the_file_then_of_the_command_line(reviews: Reviews) -> None:
    reviews.take([said("a", "pets", "")], "", "file")
    reviews.take([said("a", "pets", ""), said("b", "pets", "ann")], "bob", "file")
    assert {one.key for one in reviews.versions} == {("a", "unnamed"), ("a", "bob"), ("b", "ann")}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param([said("x", "pets")], "line 2: no row 'x' was given out", id="unknown row"),
        pytest.param(
            [said("a", "pet")], "'pet' is no label of row 'a'; did you mean 'pets'", id="unknown label"
        ),
        pytest.param([said("a", "qqqqq")], "there is food, money, pets", id="no label is near"),
        pytest.param(
            [said("a", "pets"), said("a", "money", place="line 9")],
            "line 9: row 'a' is 'money' here, but 'pets' in line 2",
            id="twice",
        ),
        pytest.param(
            [said("a", "pets", batch="two")], "was not given out in batch 'two', but in one", id="batch"
        ),
    ],
)
def test_nothing_is_kept_of_a_file_with_one_wrong_answer(
    reviews: Reviews, answers: list[Answer], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        reviews.take([said("b", "food"), *answers], "", "answers.csv")
    assert message in str(caught.value) and str(caught.value).startswith("answers.csv: nothing is kept")
    assert again(reviews).versions == [] and reviews.versions == []


def test_ten_bad_lines_are_told_and_the_rest_counted(reviews: Reviews) -> None:
    with pytest.raises(InputError) as caught:
        reviews.take([said(f"x{number}", "pets", place=f"line {number}") for number in range(13)], "", "file")
    assert len(str(caught.value).splitlines()) == 12
    assert str(caught.value).endswith("... and 3 more")


def test_equal_answers_of_a_row_in_one_file_count_once(reviews: Reviews) -> None:
    assert reviews.take([said("a", "pets"), said("a", "pets", place="line 9")], "", "file").new == 1


def test_answers_before_any_were_asked_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows of this run were given out; `synthray review RUN`"):
        Reviews(tmp_path).take([said("a", "pets")], "", "file")


def test_a_picked_row_stands_for_itself_and_a_drawn_one_for_its_share(reviews: Reviews) -> None:
    reviews.take([said("a", "pets")], "", "file")
    found = reviews.places(texts("a", "b", "c"))
    assert {name: (place.slice, place.weight) for name, place in found.items()} == {
        "a": ("picked", 1.0),
        "b": ("random", 10.0),
        "c": ("both", 1.0),
    }


def test_the_slice_grows_and_what_was_drawn_before_stands_for_less(reviews: Reviews) -> None:
    reviews.give(batch("two", asked("d", slice=True), asked("b", picked=True), rate=0.4))
    reviews.take([said("a", "pets"), said("d", "pets")], "", "file")
    found = reviews.places(texts("a", "b", "c", "d"))
    assert (found["d"].weight, found["d"].batch) == (2.5, "two")
    assert (found["b"].slice, found["b"].weight, found["b"].batch) == ("both", 1.0, "two")
    assert found["a"].batch == "one"


def test_what_was_drawn_first_stands_for_what_the_whole_slice_stands_for(reviews: Reviews) -> None:
    reviews.give(batch("two", asked("d", slice=True), rate=0.4))
    reviews.take([said("b", "pets"), said("d", "pets")], "", "file")
    found = reviews.places(texts("b", "d"))
    assert found["b"].weight == found["d"].weight == 2.5


def test_a_batch_of_which_nothing_came_back_counts_for_nothing(reviews: Reviews) -> None:
    reviews.take([said("a", "pets")], "", "file")
    before = reviews.places(texts("a", "b", "c", "d"))
    reviews.give(batch("two", asked("d", slice=True), asked("b", picked=True), rate=0.4, cutoff=0.5))
    assert reviews.places(texts("a", "b", "c", "d")) == before
    assert reviews.cutoff() == 0.1


def test_an_answer_is_about_a_text(reviews: Reviews) -> None:
    reviews.take([said("a", "pets"), said("b", "pets")], "", "file")
    now = {**texts("a"), "b": digest_of("another text")}
    assert set(reviews.said(now)) == {"a"}
    assert set(reviews.places(now)) == {"a"}
    assert reviews.stale(now) == 1
    reviews.give(batch("two", asked("b", slice=True, text="another text")))
    reviews.take([said("b", "food", batch="two")], "", "file")
    assert reviews.said(now)["b"][0].label == "food"
    assert reviews.stale(now) == 0


def test_standing_says_how_people_agree_with_labels_and_each_other(tmp_path: Path) -> None:
    held = Reviews(tmp_path)
    names = [f"r{number}" for number in range(30)]
    held.give(
        Batch(
            "one",
            "text",
            "label",
            LABELS,
            7,
            100,
            0.3,
            0.3,
            tuple(
                Asked(name, digest_of(name), LABELS[number % 3], False, True)
                for number, name in enumerate(names)
            ),
        )
    )
    human = [LABELS[(number + (number % 5 == 0)) % 3] for number in range(20)]
    held.take([said(name, label) for name, label in zip(names, human, strict=False)], "", "file")
    found = held.standing()
    assert (found["asked"], found["answered"], found["left"], found["reviewers"]) == (30, 20, 10, 1)
    assert found["agree"] == pytest.approx(16 / 20)
    given = [LABELS[number % 3] for number in range(20)]
    assert found["kappa"] == pytest.approx(cohen_kappa_score(given, human))
    assert math.isnan(found["alpha"]) and math.isnan(found["reviewers_agree"])
    held.take([said(name, label, "bob") for name, label in zip(names[:10], given, strict=False)], "", "file")
    assert held.standing()["reviewers_agree"] == pytest.approx(8 / 10)
    assert Reviews(tmp_path / "none").standing()["asked"] == 0


def test_a_damaged_file_is_told(reviews: Reviews) -> None:
    assert reviews.folder is not None
    path = next((reviews.folder / "batches").iterdir())
    table = reviews.batches[0].table()
    about = json.loads(table.schema.metadata[b"synthray.review"])
    for wrong in (
        {"cutoff": "1 OR true"},
        {"more": 1},
        {"rate": 0},
        {"rate": math.nan},
        {"cutoff": math.inf},
        {"labels": [1, 2]},
        {"labels": "abc"},
    ):
        metadata = {b"synthray.review": json.dumps({**about, **wrong})}
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(RunError, match="batches is damaged"):
            again(reviews)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(RunError, match="batches is damaged"):
        again(reviews)
    path.write_bytes(b"no parquet")
    with pytest.raises(RunError, match="batches is damaged"):
        again(reviews)


def test_what_is_cut_off_while_it_is_written_is_not_there(
    reviews: Reviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synthray.review.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        reviews.take([said("a", "pets")], "", "file")
    assert again(reviews).versions == []


def test_a_half_written_file_is_none(reviews: Reviews) -> None:
    assert reviews.folder is not None
    (reviews.folder / "batches" / ".00002.parquet.part").write_bytes(b"half")
    assert again(reviews).batches == reviews.batches


def test_only_one_writes(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"), claimed(tmp_path):
        pass
    run = Run.claim(tmp_path / "run", "news")
    run.save(format=1, name="news")
    with pytest.raises(RunError, match="another process is writing"), claimed(tmp_path / "run"):
        pass
    run.release()
    with claimed(tmp_path / "run") as held:
        assert held.state["name"] == "news"


@pytest.mark.parametrize("wrong", [{"label": None}, {"row_id": None}, {"reviewer": None}, {"more": "x"}])
def test_a_damaged_answer_is_told(reviews: Reviews, wrong: dict[str, str | None]) -> None:
    assert reviews.folder is not None
    name = reviews.batches[0].rows[0].row_id
    reviews.take([said(name, LABELS[0])], "ann", "file")
    path = next((reviews.folder / "answers").iterdir())
    held = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([{**held[0], **wrong}]), path)
    with pytest.raises(RunError, match="answers is damaged"):
        again(reviews)


def test_of_many_strange_rows_only_those_that_are_shown_are_compared(
    reviews: Reviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    monkeypatch.setattr("synthray.review._like", lambda name, known: str(compared.append(name)))
    with pytest.raises(InputError, match=r"and 190 more"):
        reviews.take([said(f"strange{number}", LABELS[0]) for number in range(200)], "", "file")
    assert len(compared) == 10
