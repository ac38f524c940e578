"""The novelty gate keeps what Self-Instruct's loop keeps, with its traces, for any blocks and workers."""

from __future__ import annotations

import random
import re
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.curate.novelty import Novelty
from synthray.errors import InputError
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.statement import Where
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.run import Run

Texts = dict[str, str | None]


def table(texts: Texts) -> pa.Table:
    return pa.table({"row_id": pa.array(texts, pa.string()), "text": pa.array(texts.values(), pa.string())})


def marked(operator: Novelty, texts: Texts) -> dict[str, dict[str, Any]]:
    out = operator(table(texts))
    assert out["row_id"].to_pylist() == list(texts), "no row is lost or moved"
    return {row.pop("row_id"): row for row in out.drop_columns(["text"]).to_pylist()}


def share(one: str, other: str) -> float:
    """ROUGE-L's F1 by the textbook's table of lengths, over the words of rouge_score."""
    left, right = (re.findall(r"[a-z0-9]+", text.lower()) for text in (one, other))
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, word in enumerate(left):
        for j, beside in enumerate(right):
            lengths[i + 1][j + 1] = (
                lengths[i][j] + 1 if word == beside else max(lengths[i][j + 1], lengths[i + 1][j])
            )
    return 2 * lengths[-1][-1] / (len(left) + len(right)) if left and right else 0.0


def self_instructs(texts: Texts, older: Texts, threshold: float) -> dict[str, dict[str, Any]]:
    """The loop of Self-Instruct: each instruction against all older ones and those accepted before it."""
    pool = [(row, text) for row, text in sorted(older.items()) if text is not None]
    marks: dict[str, dict[str, Any]] = {}
    for row, text in sorted(texts.items()):
        if text is None:
            marks[row] = dict.fromkeys(("novel", "of", "similarity", "mean", "nearest"))
            continue
        scores = [share(text, other) for _, other in pool]
        near = sorted((n for n in range(len(pool)) if scores[n]), key=lambda n: (-scores[n], n))[:10]
        best = max(scores, default=0.0)
        marks[row] = {
            "novel": best < threshold,
            "of": pool[near[0]][0] if near else None,
            "similarity": best,
            "mean": pytest.approx(sum(scores) / len(pool), abs=1e-9) if pool else None,
            "nearest": [(pool[n][0], scores[n]) for n in near],
        }
        if best < threshold:
            pool.append((row, text))
    return marks


def plain(marks: dict[str, Any]) -> dict[str, Any]:
    held = {name.removeprefix("novelty_"): value for name, value in marks.items()}
    held.pop("source", None)
    if held["nearest"] is not None:
        held["nearest"] = [(one["row_id"], one["similarity"]) for one in held["nearest"]]
    return held


def instructions(count: int, seed: int) -> Texts:
    """Return instructions, most of them an earlier one with some words changed."""
    generator = random.Random(seed)
    words = [
        "write",
        "a",
        "poem",
        "about",
        "the",
        "sea",
        "list",
        "ten",
        "names",
        "of",
        "towns",
        "why",
        "it",
        "rains",
    ]
    held: list[list[str]] = [generator.choices(words, k=generator.randrange(3, 14)) for _ in range(12)]
    while len(held) < count:
        one = list(generator.choice(held))
        for _ in range(generator.randrange(6)):
            at = generator.randrange(len(one))
            one[at : at + generator.randrange(2)] = generator.choices(words, k=1)
        held.append(one)
    made: Texts = {
        f"{generator.randrange(16**5):05x}{number}": " ".join(one) + generator.choice(["", ".", "!"])
        for number, one in enumerate(held)
    }
    return {**made, "empty": "", "marks": "?!", "missing": None}


@pytest.mark.parametrize("threshold", [0.4, 0.7, 1.0])
def test_the_marks_are_those_of_self_instructs_loop(threshold: float) -> None:
    texts = instructions(200, int(threshold * 10))
    found = {row: plain(marks) for row, marks in marked(Novelty("text", threshold=threshold), texts).items()}
    expected = self_instructs(texts, {}, threshold)
    assert 10 < sum(bool(one["novel"]) for one in expected.values()) < 190, "there must be some of both"
    assert found == expected


def test_no_two_kept_rows_are_alike_and_each_other_is_like_a_kept_one() -> None:
    texts = instructions(300, 1)
    marks = marked(Novelty("text"), texts)
    kept = [row for row, one in marks.items() if one["novel"]]
    assert max(share(str(texts[one]), str(texts[other])) for one, other in combinations(kept, 2)) < 0.7
    for row, one in marks.items():
        if one["novel"] is False:
            assert one["novelty_of"] in kept
            assert share(str(texts[row]), str(texts[one["novelty_of"]])) == one["novelty_similarity"] >= 0.7


def test_the_order_of_rows_decides_nothing() -> None:
    texts = instructions(200, 3)
    rows = list(texts)
    expected = marked(Novelty("text"), texts)
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert marked(Novelty("text"), {row: texts[row] for row in rows}) == expected


def test_the_order_that_is_preferred_decides() -> None:
    texts: Texts = {"a": "one two three four", "b": "one two three five", "c": "one two nine five"}
    rows = table(texts).append_column("score", pa.array([1, 3, 2]))

    def novel(prefer: str) -> str:
        out = Novelty("text", prefer=prefer)(rows)
        return "".join(row for row, one in zip("abc", out["novel"].to_pylist(), strict=True) if one)

    # a and b share 3 of 4 words, b and c too, a and c two: who comes first decides.
    assert (novel(""), novel("score DESC"), novel("score")) == ("ac", "b", "ac")


def test_what_was_kept_before_a_row_counts_and_no_other() -> None:
    texts: Texts = {"a": "one two three four", "b": "one two three five", "c": "one two three five six"}
    marks = marked(Novelty("text"), texts)
    assert [marks[row]["novel"] for row in "abc"] == [True, False, True], "b is not kept, so c stands alone"
    assert marks["c"]["novelty_of"] == "a"
    assert marks["c"]["novelty_similarity"] == marks["c"]["novelty_mean"] == 6 / 9


def test_a_row_at_the_threshold_itself_is_not_novel() -> None:
    texts: Texts = {"a": "a b c d e f g", "b": "a b c d e f g h i j k l m"}
    assert marked(Novelty("text", threshold=0.7), texts)["b"]["novel"] is False, "14/20"
    assert marked(Novelty("text", threshold=0.7001), texts)["b"]["novel"] is True


def test_the_first_row_and_one_that_shares_nothing_are_novel() -> None:
    marks = marked(Novelty("text"), {"a": "some words", "b": "", "c": None, "d": "others"})
    nothing: dict[str, Any] = {"novelty_of": None, "novelty_similarity": 0.0, "novelty_nearest": []}
    assert marks["a"] == {"novel": True, "novelty_mean": None, **nothing}
    assert marks["b"] == marks["d"] == {"novel": True, "novelty_mean": 0.0, **nothing}
    assert set(marks["c"].values()) == {None}


@pytest.mark.parametrize("size", [0, 1])
def test_where_there_are_no_two_rows_the_marks_have_their_types(size: int) -> None:
    operator = Novelty("text", context=Context(prefix="again_"))
    out = operator(table(dict(list({"a": "some text"}.items())[:size])))
    assert out.schema.field("again_novel").type == pa.bool_()
    assert out["again_novel"].to_pylist() == [True] * size
    assert out.schema.names[2:] == [f"again_{name}" for name in operator.adds()]


def test_the_nearest_are_as_many_as_asked_for() -> None:
    texts = instructions(60, 5)
    full = marked(Novelty("text"), texts)
    for count in (1, 3):
        found = marked(Novelty("text", nearest=count), texts)
        for row, one in found.items():
            longer = full[row]["novelty_nearest"]
            assert one["novelty_nearest"] == (longer if longer is None else longer[:count])
    without = marked(Novelty("text", nearest=0), texts)
    for one in full.values():
        del one["novelty_nearest"]
    assert without == full


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (Novelty("n"), "column 'n' must hold text, but is int64"),
        (Novelty("text", prefer="n; SELECT 1"), "prefer: "),
        (Novelty("text", against=["nowhere"]), "against 'nowhere' is no table of the recipe"),
        (Novelty("text", index="x"), "index is where what older data have is kept"),
    ],
)
def test_what_cannot_be_done_is_refused(operator: Novelty, message: str) -> None:
    with pytest.raises(InputError, match=message):
        operator.check(pa.schema([("row_id", pa.string()), ("text", pa.string()), ("n", pa.int64())]))


def test_a_pool_that_is_only_known_by_its_columns_is_checked_by_them() -> None:
    before = pa.schema([("row_id", pa.string()), ("text", pa.string())])

    def operator(kind: pa.Schema) -> Novelty:
        return Novelty("text", against=["pool"], context=Context(schemas={"pool": kind}))

    operator(before).check(before)
    assert operator(before).table_names == ("pool",)
    with pytest.raises(
        InputError, match=r"against 'pool' has no column 'text'; .*columns are row_id, instruction"
    ):
        operator(pa.schema([("row_id", pa.string()), ("instruction", pa.string())])).check(before)


# In a run.


def parquet(path: Path, texts: Texts, parts: int = 1) -> Table:
    path.mkdir(parents=True)
    for part in range(parts):
        pq.write_table(table(dict(list(texts.items())[part::parts])), path / f"{part}.parquet")
    return Table.find(str(path), Path())


def done(out: Path, tables: dict[str, Table], blocks: int = 2, **settings: Any) -> Run:
    steps = [Source(table="rows_given"), Novelty("text", **settings), Where("novel", reason="not_novel")]
    return Pipeline(steps, name="x", tables=tables, blocks=blocks).run(out, quiet=True)


def marks_of(run: Run, view: str = "dataset") -> dict[str, dict[str, Any]]:
    rows = run.sql(f"SELECT * EXCLUDE (parent_id, round, text) FROM {view}").to_pylist()
    return {row.pop("row_id"): row for row in rows}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_any_blocks_and_files_give_the_same_marks_and_no_pair_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthray.duplicate.admission._BLOCK", 40)
    texts, pool, seeds = instructions(130, 7), instructions(40, 8), instructions(20, 9)
    older = {
        **{f"0{row}": text for row, text in pool.items()},
        **{f"1{row}": text for row, text in seeds.items()},
    }
    expected = self_instructs(texts, older, 0.7)
    found = {}
    for blocks, parts in ((1, 1), (7, 3), (64, 2)):
        tables = {
            "rows_given": parquet(tmp_path / f"rows-{blocks}", texts, parts),
            "pool": parquet(
                tmp_path / f"pool-{blocks}", {f"0{row}": one for row, one in pool.items()}, parts
            ),
            "seeds": parquet(tmp_path / f"seeds-{blocks}", {f"1{row}": one for row, one in seeds.items()}),
        }
        run = done(tmp_path / f"run-{blocks}", tables, blocks, against=["pool", "seeds"])
        found[blocks] = marks_of(run, "rows")
        reasons = {row: one.pop("reject_reason") for row, one in found[blocks].items()}
        assert {row for row, why in reasons.items() if why == "not_novel"} == {
            row for row, one in expected.items() if one["novel"] is False
        }
        assert [row for row, why in reasons.items() if why == "not_novel:null"] == ["missing"]
    assert found[1] == found[7] == found[64]
    for row, one in found[1].items():
        assert (one.pop("failed"), one.pop("reject_step") is None) == (None, bool(one["novel"]))
        assert plain(one) == expected[row]
        assert one["novelty_source"] == {"0": "pool", "1": "seeds"}.get(str(one["novelty_of"])[0]) or (
            str(one["novelty_of"]) in {*texts, "None"}
        )
    kept = [str(texts[row]) for row, one in found[1].items() if one["novel"]]
    alike = [pair for pair in combinations(kept, 2) if share(*pair) >= 0.7]
    alike += [
        (one, str(other)) for one in kept for other in older.values() if share(one, str(other or "")) >= 0.7
    ]
    assert not alike


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_empty_pool_is_as_none_and_another_threshold_reads_no_text_again(tmp_path: Path) -> None:
    texts = instructions(80, 11)
    given = parquet(tmp_path / "rows", texts)
    # As in the first round of a loop: at the check there are its columns alone, and then no rows.
    pool = Pipeline([Source(table="rows_given"), Where("false")], tables={"rows_given": given})

    def run(threshold: float) -> dict[str, dict[str, Any]]:
        steps = [Source(table="rows_given"), Novelty("text", against=["pool"], threshold=threshold)]
        tables = {"rows_given": given, "pool": pool}
        return marks_of(Pipeline(steps, name="x", tables=tables).run(tmp_path / "run", quiet=True))

    def plainly(marks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        assert {one["novelty_source"] for one in marks.values()} == {None}
        return {row: plain(one) for row, one in marks.items()}

    assert plainly(run(0.7)) == self_instructs(texts, {}, 0.7)
    words = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "artifacts").rglob("*.arrow")}
    assert words
    assert plainly(run(0.5)) == self_instructs(texts, {}, 0.5)
    assert {path: path.stat().st_mtime_ns for path in words} == words


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_rows_without_any_text_are_not_kept(tmp_path: Path) -> None:
    run = done(tmp_path / "run", {"rows_given": parquet(tmp_path / "rows", {"a": None, "b": None})})
    assert run.sql("SELECT reject_reason AS why, count(*) AS n FROM rows GROUP BY 1").to_pylist() == [
        {"why": "not_novel:null", "n": 2}
    ]
