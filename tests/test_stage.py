"""A stage accounts for every row: made, folded, lost, failed, passed by."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import operators
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray.cloudpickle
from operators import Doubles, Fails, Folds, Forgets, Loses, Orphans, Splits, Upper

from synthray.errors import ConservationError, RunFailed
from synthray.operator import Operator
from synthray.pipeline import Pipeline
from synthray.run import Run
from synthray.source.table import Table
from synthray.statement import Derive, Select, Statement, Union, Where
from synthray.step import Step
from synthray.table import Table as Files

if TYPE_CHECKING:
    from synthray.stage import Stage

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
ray.cloudpickle.register_pickle_by_value(operators)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

TEXTS = ["alpha beta", "gamma", "", "avocado pear fig", "delta", "alpha beta"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS)))
    return path


@pytest.fixture
def run(texts: Path, tmp_path: Path) -> Callable[..., Run]:
    def done(*steps: Operator | Statement | Step, **settings: object) -> Run:
        pipeline = Pipeline([Table(path=str(texts)), *steps], max_failed=1.0, **settings)  # type: ignore[arg-type]
        return pipeline.run(tmp_path / "run", quiet=True)

    return done


def counts(run: Run, step: str) -> dict[str, int]:
    row = run.sql(f"SELECT * FROM steps WHERE step = '{step}'").to_pylist()[0]
    return {name.removeprefix("rows_"): row[name] for name in row if name.startswith("rows_") and row[name]}


def test_an_operator_adds_columns_and_keeps_all_rows(run: Callable[..., Run]) -> None:
    done = run(Upper())
    assert counts(done, "operators") == {"in": 6, "kept": 6}
    assert sorted(done.sql("SELECT upper FROM dataset")["upper"].to_pylist())[-1] == "GAMMA"


def test_failed_rows_go_to_failures_with_their_error(run: Callable[..., Run]) -> None:
    done = run(Fails())
    assert counts(done, "operators") == {"in": 6, "kept": 3, "failed": 3}
    rows = done.sql("SELECT step, error, message, attempts FROM failures").to_pylist()
    assert rows == [{"step": "operators", "error": "Starts", "message": "a", "attempts": 2}] * 3
    assert done.sql(
        "SELECT text FROM rows WHERE reject_reason = 'failed:Starts' ORDER BY text LIMIT 1"
    ).to_pylist() == [{"text": "alpha beta"}]


def test_children_replace_their_parent_and_a_childless_parent_has_a_reason(run: Callable[..., Run]) -> None:
    done = run(Splits())
    assert counts(done, "operators") == {"in": 6, "made": 9, "kept": 9, "rejected": 1, "expanded": 5}
    rejects = done.sql("SELECT text, n, reject_step, reject_reason FROM rejects").to_pylist()
    assert rejects == [{"text": "", "n": 2, "reject_step": "operators", "reject_reason": "no_children"}]


def test_a_fold_accounts_for_its_parents(run: Callable[..., Run]) -> None:
    done = run(Folds(), blocks=1)
    assert counts(done, "operators") == {"in": 6, "made": 1, "kept": 1, "expanded": 6}
    assert len(done.sql("SELECT parents FROM dataset")["parents"][0]) == 6


def test_a_fold_may_span_any_number_of_blocks(run: Callable[..., Run]) -> None:
    done = run(Folds(), blocks=3)
    assert counts(done, "operators") == {"in": 6, "made": 3, "kept": 3, "expanded": 6}


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (Loses(), "lost 3 rows"),
        (Doubles(), "more than once"),
        (Orphans(), "name no parent"),
    ],
    ids=["loses", "doubles", "orphans"],
)
def test_rows_that_do_not_add_up_stop_the_run(
    run: Callable[..., Run], tmp_path: Path, operator: Operator, message: str
) -> None:
    with pytest.raises(ConservationError, match=message):
        run(operator, blocks=1)
    held = Run.read(tmp_path / "run")
    assert held.state["state"] == "failed"
    assert len(held.stages()) == 1, "the stage must not be committed"


def test_a_declared_column_that_is_missing_is_said(run: Callable[..., Run]) -> None:
    with pytest.raises(RunFailed, match="did not add promised"):
        run(Forgets())


def test_rows_that_when_does_not_pick_pass_by_with_nulls(run: Callable[..., Run]) -> None:
    done = run(Step(Upper(), when="n >= 4"), Step(Fails(letter="g"), name="short", when="n < 2"))
    assert counts(done, "operators") == {"in": 6, "kept": 6}
    assert counts(done, "short") == {"in": 6, "kept": 5, "failed": 1}
    rows = done.sql("SELECT n, upper, length FROM dataset ORDER BY n").to_pylist()
    assert [row["n"] for row in rows if row["upper"]] == [4, 5]
    assert [row["n"] for row in rows if row["length"] is not None] == [0]


def test_an_operator_over_no_rows_keeps_the_schema(run: Callable[..., Run]) -> None:
    done = run(Where("n > 99", reason="all"), Upper())
    assert counts(done, "operators") == {}
    assert "upper" in done.sql("SELECT * FROM dataset").column_names
    assert done.sql("SELECT DISTINCT reject_reason FROM rows").to_pylist() == [{"reject_reason": "all"}]


def test_a_cast_that_fails_makes_the_row_failed_and_null_its_own_reason(run: Callable[..., Run]) -> None:
    done = run(
        Derive({"number": "CASE WHEN n = 1 THEN CAST(text AS INTEGER) WHEN n = 2 THEN NULL ELSE n END"}),
        Where("number > 3", reason="small"),
    )
    assert counts(done, "derive") == {"in": 6, "kept": 5, "failed": 1}
    assert counts(done, "where_small") == {"in": 5, "kept": 2, "rejected": 3}
    answer = done.sql("SELECT reject_reason, count(*) AS n FROM rows GROUP BY 1").to_pylist()
    reasons = {row["reject_reason"]: row["n"] for row in answer}
    assert reasons == {None: 2, "small": 2, "small:null": 1, "failed:ConversionError": 1}


def test_wheres_in_a_row_are_one_stage_and_each_is_counted(run: Callable[..., Run]) -> None:
    done = run(Where("n > 0", reason="first"), Where("length(text) > 0", reason="empty"))
    assert len(done.stages()) == 2
    assert counts(done, "where_first") == {"in": 6, "kept": 5, "rejected": 1}
    assert counts(done, "where_empty") == {"in": 5, "kept": 4, "rejected": 1}


def test_every_rejected_row_keeps_the_columns_it_had(run: Callable[..., Run]) -> None:
    done = run(Derive({"twice": "n * 2"}), Where("twice < 5", reason="large"))
    rows = done.sql("SELECT text, twice FROM rejects ORDER BY twice").to_pylist()
    assert rows == [{"text": TEXTS[n], "twice": 2 * n} for n in (3, 4, 5)]


def test_a_sql_filter_rejects_what_it_leaves_out_and_adds_its_columns(run: Callable[..., Run]) -> None:
    done = run(Select("SELECT row_id, n + 1 AS next FROM rows WHERE n < 2", reason="late"))
    assert counts(done, "sql_late") == {"in": 6, "kept": 2, "rejected": 4}
    assert done.sql("SELECT n, next FROM dataset ORDER BY n").to_pylist() == [
        {"n": 0, "next": 1},
        {"n": 1, "next": 2},
    ]


def test_a_sql_step_that_answers_a_row_twice_stops_the_run(run: Callable[..., Run]) -> None:
    with pytest.raises(RunFailed, match="answers a row twice"):
        run(Select("SELECT row_id FROM rows UNION ALL SELECT row_id FROM rows"))


def test_a_sql_table_folds_the_rows_into_its_own(run: Callable[..., Run]) -> None:
    done = run(Select("SELECT text, list(row_id) AS parents FROM rows WHERE n <> 1 GROUP BY text"))
    assert counts(done, "sql") == {"in": 6, "made": 4, "kept": 4, "rejected": 1, "expanded": 5}


def test_a_sql_measurement_leaves_the_rows(run: Callable[..., Run]) -> None:
    done = run(Select("SELECT 'mean' AS metric, avg(n) AS value FROM rows"))
    assert counts(done, "sql") == {"in": 6, "kept": 6}
    assert done.sql("SELECT step, metric, value FROM metrics").to_pylist() == [
        {"step": "sql", "metric": "mean", "value": 2.5}
    ]


def test_a_union_makes_rows_with_ids_of_their_content(run: Callable[..., Run], tmp_path: Path) -> None:
    extra = tmp_path / "extra.jsonl"
    extra.write_text('{"text": "more", "from": "x"}\n{"text": "more", "from": "x"}\n')
    done = run(Union("extra"), tables={"extra": Files.find(str(extra), tmp_path)})
    assert counts(done, "union") == {"in": 6, "made": 2, "kept": 8}
    assert done.sql("SELECT count(DISTINCT row_id) AS n FROM dataset").to_pylist() == [{"n": 8}]


# Columns beside the rows.


@dataclass(frozen=True)
class Marks(Operator):
    """Add `mark` beside the rows: the text in upper case, where there is one. `wrong` says what it does wrong."""

    text: str = "text"
    wrong: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.text,)

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"mark": pa.string()}

    def _upper(self, table: pa.Table) -> pa.Table:
        assert table.column_names == ["row_id", self.text], "it sees the columns that it asked for alone"
        if self.wrong == "breaks":
            raise ValueError("no such letter")
        return pa.table({"row_id": table["row_id"], "mark": pc.utf8_upper(table[self.text])})

    def apply(self, stage: Stage) -> None:
        rows = stage.dataset(["row_id", self.text])
        made = stage.narrow(rows, self._upper, stage.path / "narrow", "arrow")
        assert made.kind == "arrow"
        marks = pa.concat_tables(pa.ipc.open_file(path).read_all() for path in made.files)
        marks = marks.filter(pc.greater(pc.utf8_length(marks["mark"]), 0))
        if self.wrong == "strange":
            marks = pa.concat_tables([marks, pa.table({"row_id": ["stranger"], "mark": ["X"]})])
        elif self.wrong == "twice":
            marks = pa.concat_tables([marks, marks.slice(0, 1)])
        stage.added(marks)


def test_marks_stand_beside_the_rows_which_are_not_written_again(run: Callable[..., Run]) -> None:
    done = run(
        Step(Marks(), name="mark"),
        Step(Marks(text="mark_mark"), name="again"),
        Upper(text="again_mark"),
        Where("upper IS NOT NULL", reason="unmarked"),
        blocks=2,
    )
    source, mark, again, *_ = done.stages()
    assert source.files == mark.files == again.files
    assert (len(mark.added), len(again.added)) == (1, 2)
    for stage, groups in ((mark, mark.added), (again, again.added)):
        held = json.loads((done.root / "stages" / stage.folder / "stage.json").read_text())
        assert held["added"] == [list(group) for group in groups]
        assert all(file.startswith(f"stages/{stage.folder}/") for file in groups[-1])
        assert not list((done.root / "stages" / stage.folder).glob("rows*"))
    assert counts(done, "mark") == counts(done, "again") == {"in": 6, "kept": 6}
    rows = done.sql("SELECT text, mark_mark, again_mark, upper FROM dataset ORDER BY n").to_pylist()
    assert [set(row.values()) for row in rows] == [{text, text.upper()} for text in TEXTS if text]
    rejects = done.sql("SELECT text, mark_mark, again_mark, reject_reason FROM rejects").to_pylist()
    assert rejects == [{"text": "", "mark_mark": None, "again_mark": None, "reject_reason": "unmarked"}]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("strange", ConservationError, "mark: marks row_id 'stranger', which is no row"),
        ("twice", ConservationError, "mark: row_id '[0-9a-f]+' is there more than once"),
        ("breaks", RunFailed, r"mark: ValueError: no such letter \(test_stage.py, line \d+\)"),
    ],
)
def test_marks_that_are_wrong_stop_the_run(
    run: Callable[..., Run], tmp_path: Path, wrong: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(Step(Marks(wrong=wrong), name="mark"))
    assert len(Run.read(tmp_path / "run").stages()) == 1, "the stage must not be committed"


def marked(run: Run) -> dict[int, str | None]:
    return {row["n"]: row["mark"] for row in run.sql("SELECT n, mark FROM dataset").to_pylist()}


def test_rows_that_when_does_not_pick_have_no_marks_and_a_failing_one_is_a_failed_row(
    run: Callable[..., Run],
) -> None:
    done = run(Step(Marks(), name="mark", when="n > 2"))
    assert marked(done) == {n: text.upper() if n > 2 else None for n, text in enumerate(TEXTS)}
    assert len(done.stages()[-1].added) == 1
    done = run(Step(Marks(), name="mark", when="n > 9"))
    assert marked(done) == dict.fromkeys(range(6))
    assert counts(done, "mark") == {"in": 6, "kept": 6}
    # One row's value fails: it is no row any more, so that the rows that are left are written.
    fails = "CASE WHEN n = 4 THEN CAST(text AS INTEGER) ELSE n END > -1"
    done = run(Step(Marks(), name="mark", when=fails), Where("mark IS NULL", reason="marked"))
    assert counts(done, "mark") == {"in": 6, "kept": 5, "failed": 1}
    assert done.stages()[1].added == ()
    assert marked(done) == {2: None}
    assert done.sql("SELECT error FROM failures").to_pylist() == [{"error": "ConversionError"}]
    rejects = done.sql("SELECT n, mark FROM rejects ORDER BY n").to_pylist()
    assert rejects == [{"n": n, "mark": TEXTS[n].upper()} for n in (0, 1, 3, 5)]
    # The same where other rows pass by.
    done = run(Step(Marks(), name="mark", when=fails.replace("-1", "2")), Where("true"))
    assert counts(done, "mark") == {"in": 6, "kept": 5, "failed": 1}
    assert marked(done) == {0: None, 1: None, 2: None, 3: TEXTS[3].upper(), 5: TEXTS[5].upper()}


def test_rows_that_pass_by_keep_an_earlier_column_of_the_same_name(run: Callable[..., Run]) -> None:
    done = run(Derive({"mark": "'old'"}), Step(Marks(), name="mark", when="n > 2"))
    assert marked(done) == {n: text.upper() if n > 2 else "old" for n, text in enumerate(TEXTS)}
    assert done.stages()[-1].files == done.stages()[-2].files, "the rows are not written again"
