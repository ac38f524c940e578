"""The rounds of loops as they run: what joins the pool, what each round sees, why a loop ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from looped import EXACT, GROWING, REPLACING, Write, column, started

from synthray.errors import RecipeError, RunFailed
from synthray.recipe import load
from synthray.record import StageRecord, StepCount
from synthray.rounds import Round
from synthray.run import Run

if TYPE_CHECKING:
    from synthray.pipeline import Pipeline


def test_what_a_round_took_is_added_up_and_an_unknown_price_is_no_price() -> None:
    count = StepCount("prompt@1", "generate.prompt", rows_in=2, rows_kept=2)
    asked = StageRecord("a", "f", None, (count,), (), calls=2, prompt_tokens=5, completion_tokens=7, cost=0.5)
    free = StageRecord("b", "f", "a", (count,), ())
    figures = Round((asked, free), candidates=2, accepted=1).figures()
    assert figures == {"candidates": 2, "accepted": 1, "tokens": 12, "usd": 0.5}
    unknown = Round((StageRecord("a", "f", None, (count,), (), calls=2),), 2, 1).figures()
    assert unknown["usd"] != unknown["usd"]
    with_table = Round((free,), 2, 1, of_tables=(asked,)).figures()
    assert with_table == figures, "what the tables of a round ask counts"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestRounds:
    def test_exactly_n_rows_of_each_label_after_all_that_drops_rows(
        self, write: Write, tmp_path: Path
    ) -> None:
        run = load(write(EXACT)).run(tmp_path / "run", quiet=True)
        sql = "SELECT label, count(*) AS n, count(DISTINCT text) AS texts FROM dataset GROUP BY 1 ORDER BY 1"
        assert run.sql(sql).to_pylist() == [{"label": one, "n": 5, "texts": 5} for one in "ab"]
        reasons = set(
            column(run, "SELECT DISTINCT reject_reason AS x FROM rows WHERE reject_reason IS NOT NULL")
        )
        assert reasons == {"near_duplicate", "surplus"}
        rounds = column(run, "SELECT max(round) AS x FROM dataset")[0]
        assert rounds > 1
        measured = "SELECT value AS x FROM metrics WHERE step = 'repeat' AND slice IS NULL AND metric = "
        assert column(run, f"{measured}'rounds'") == [rounds]
        assert column(run, f"{measured}'accepted'") == [10]
        assert column(run, f"{measured}'missing'") == [0]
        held = column(
            run,
            "SELECT rows_in + rows_made - rows_kept - rows_rejected - rows_failed - rows_expanded AS x FROM steps",
        )
        assert set(held) == {0}
        # What was accepted once stays: another round adds, and no stage is made again.
        again = load(write(EXACT.replace("target: 5", "target: 6")))
        grown = again.run(tmp_path / "run", quiet=True)
        assert column(grown, "SELECT count(*) AS x FROM dataset") == [12]

    def test_blocks_change_no_row(self, write: Write, tmp_path: Path) -> None:
        found = [
            load(write(EXACT + f"blocks: {blocks}\n")).run(tmp_path / f"run-{blocks}", quiet=True)
            for blocks in (1, 5)
        ]
        sql = "SELECT row_id, label, text, round FROM dataset ORDER BY row_id"
        assert found[0].sql(sql).equals(found[1].sql(sql))

    def test_a_target_out_of_reach_fails_and_keeps_the_pool(self, write: Write, tmp_path: Path) -> None:
        few = EXACT.replace(
            "seven eight nine, ten eleven twelve,\n  alpha beta gamma, delta epsilon zeta, eta theta iota", ""
        )
        few = few.replace("four five six, ]", "four five six]")
        with pytest.raises(
            RunFailed, match=r"label 'a' has 2 of 5 rows, label 'b' has 2 of 5 rows"
        ) as caught:
            load(write(few)).run(tmp_path / "run", quiet=True)
        assert caught.value.exit_code == 1
        assert "3 rounds in a row gave no row" in str(caught.value)
        run = Run.read(tmp_path / "run")
        assert run.state["state"] == "failed"
        assert column(run, "SELECT count(*) AS x FROM dataset") == [4]
        assert column(run, "SELECT value AS x FROM metrics WHERE metric = 'missing'") == [6]

    def test_a_budget_of_candidates_ends_the_loop(self, write: Write, tmp_path: Path) -> None:
        pipeline = load(write(EXACT.replace("max: 12", "max: 12\n      candidates: 10")))
        with pytest.raises(RunFailed, match="the budget of 10 candidates is used up"):
            pipeline.run(tmp_path / "run", quiet=True)

    def test_an_appending_loop_begins_with_the_rows_that_come_in(self, write: Write, tmp_path: Path) -> None:
        run = started(write, GROWING, STARTS="pool").run(tmp_path / "run", quiet=True)
        words = column(run, "SELECT word AS x FROM dataset ORDER BY round, word")
        # Each round makes one of each row of the pool: the same word twice is two rows, with two parents.
        assert words[:4] == ["a", "bb", "ax", "bbx"]
        assert words.count("ax") == 3
        assert column(run, "SELECT count(*) AS x FROM dataset WHERE NOT done") == [0]
        lost = "SELECT count(*) AS x FROM dataset d ANTI JOIN dataset p ON d.parent_id = p.row_id WHERE d.round > 0"
        assert column(run, lost) == [0]
        assert column(run, "SELECT DISTINCT reject_reason AS x FROM rejects") == ["long"]

    def test_previous_holds_what_the_last_round_gave(self, write: Write, tmp_path: Path) -> None:
        first = "(SELECT * FROM previous UNION ALL SELECT * FROM pool WHERE (SELECT number FROM round) = 1)"
        run = started(write, GROWING, STARTS=first).run(tmp_path / "run", quiet=True)
        words = column(run, "SELECT word AS x FROM dataset ORDER BY round, word")
        assert words == ["a", "bb", "ax", "bbx", "axx", "bbxx", "axxx"]

    def test_a_round_without_rows_is_a_round(self, write: Write, tmp_path: Path) -> None:
        run = started(write, GROWING, STARTS="previous").run(tmp_path / "run", quiet=True)
        assert column(run, "SELECT count(*) AS x FROM dataset") == [2]
        assert column(run, "SELECT value AS x FROM metrics WHERE metric = 'rounds'") == [3]

    def test_a_replacing_loop_gives_each_round_the_rows_of_the_one_before(
        self, write: Write, tmp_path: Path
    ) -> None:
        run = started(write, REPLACING, UNTIL="(SELECT min(seen) >= 3 FROM pool)").run(
            tmp_path / "run", quiet=True
        )
        assert column(run, "SELECT seen AS x FROM dataset") == [3, 3]
        assert column(run, "SELECT length(word) AS x FROM dataset ORDER BY x") == [4, 5]
        # Each round draws anew for the same row.
        assert column(run, "SELECT count(DISTINCT key) AS x FROM calls") == [6]

    def test_until_sees_the_pool_as_the_round_found_it(self, write: Write, tmp_path: Path) -> None:
        same = "(SELECT count(*) > 0 FROM pool JOIN previous USING (row_id) WHERE pool.word[-1] = previous.word[-1])"
        run = started(write, REPLACING, UNTIL=same).run(tmp_path / "run", quiet=True)
        words = column(run, "SELECT word AS x FROM dataset")
        assert any(word[-1] == word[-2] for word in words) or column(
            run, "SELECT value AS x FROM metrics WHERE metric = 'rounds' AND slice IS NULL"
        ) == [4]

    def test_a_loop_has_tables_of_its_own(self, write: Write, tmp_path: Path) -> None:
        text = GROWING.replace(
            "      max: 3\n",
            "      max: 3\n      tables: {longest: {steps: [{source.table: {table: pool}}, "
            '{where: "size = (SELECT max(size) FROM rows)", reason: short}]}}\n',
        )
        run = started(write, text, STARTS="longest").run(tmp_path / "run", quiet=True)
        assert column(run, "SELECT word AS x FROM dataset ORDER BY round, word") == ["a", "bb", "bbx", "bbxx"]

    def test_running_again_makes_nothing_again(self, write: Write, tmp_path: Path) -> None:
        pipeline = load(write(EXACT))
        made = pipeline.run(tmp_path / "run", quiet=True)
        before = {path: path.stat().st_mtime_ns for path in (made.root / "stages").rglob("stage.json")}
        pipeline.run(tmp_path / "run", quiet=True)
        assert {
            path: path.stat().st_mtime_ns for path in (made.root / "stages").rglob("stage.json")
        } == before

    @pytest.mark.parametrize("marks", ["exact_duplicate", "near_duplicate", "novelty"])
    def test_duplicates_of_an_empty_pool_are_none(self, write: Write, tmp_path: Path, marks: str) -> None:
        write('{"text": "one two three"}\n{"text": "one two three"}\n{"text": "four five"}\n', "seeds.jsonl")
        novel = "novel" if marks == "novelty" else f"{marks}_of IS NULL"
        text = f"""
name: never
model: {{language: fake}}
tables: {{seeds: seeds.jsonl}}
steps:
  - repeat:
      target: 3
      steps:
        - source.table: {{table: seeds}}
        - curate.{marks}: {{text: text, against: [pool]}}
        - where: {novel}
          reason: seen
"""
        with pytest.raises(RunFailed, match=r"2 of 3 rows after 4 rounds .*3 rounds in a row gave no row"):
            load(write(text)).run(tmp_path / "run", quiet=True)
        kept = column(Run.read(tmp_path / "run"), "SELECT text AS x FROM dataset ORDER BY 1")
        assert kept == ["four five", "one two three"]


ASKING = """
name: asking
model: {language: fake, answers: [a]}
max_failed: 0.1
steps:
  - repeat:
      max: 3
      until: "UNTIL"
      tables:
        best:
          steps:
            - source.conditions: {rows: 2, columns: {word: [x, y]}}
            - generate.prompt: {template: "{{ word }}", writes: said}
      steps:
        - source.conditions: {rows: 3, columns: {word: [x, y]}}
        - generate.prompt: {template: "Say {{ word }}.", writes: text}
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestUntil:
    @pytest.mark.parametrize(
        ("until", "rounds"),
        [
            ("all_usd > 100", 3),  # nobody said what a call costs
            ("(SELECT count(*) FROM best WHERE said = 'a') >= 2", 1),
        ],
    )
    def test_it_sees_what_is_known_and_the_loops_tables(
        self, write: Write, tmp_path: Path, until: str, rounds: int
    ) -> None:
        run = load(write(ASKING.replace("UNTIL", until))).run(tmp_path / "run", quiet=True)
        assert column(run, "SELECT value AS x FROM metrics WHERE metric = 'rounds'") == [rounds]

    def test_it_stops_at_the_tokens_that_tables_took(self, write: Write, tmp_path: Path) -> None:
        run = load(write(ASKING.replace("UNTIL", "all_tokens > 6"))).run(tmp_path / "run", quiet=True)
        spent = column(
            run, "SELECT sum(prompt_tokens + completion_tokens) AS x FROM calls WHERE step LIKE '%@1'"
        )
        assert spent[0] > 6
        assert column(run, "SELECT value AS x FROM metrics WHERE metric = 'rounds'") == [1]


def after_seeds(write: Write, loop: str) -> Pipeline:
    """Return a recipe of seeds that have a size, and the loop."""
    write('{"size": 1}\n', "seeds.jsonl")
    return load(
        write(
            "tables: {seeds: seeds.jsonl}\nsteps:\n  - source.table: {table: seeds}\n"
            f"  - repeat: {{max: 2, {loop}}}\n"
        )
    )


def test_what_orders_a_round_is_checked_over_its_rows(write: Write) -> None:
    recipe = after_seeds(
        write,
        "target: 2, prefer: size DESC, steps: [{source.conditions: {rows: 3, columns: {word: [x, y]}}}]",
    )
    with pytest.raises(RecipeError, match=r'prefer: .*"size"'):
        recipe.check()


def test_a_column_that_is_drawn_from_the_pool_keeps_its_type(write: Write) -> None:
    recipe = after_seeds(
        write,
        "steps: [{source.conditions: {rows: 3, columns: {size: "
        "{sql: 'SELECT coalesce(better, size) AS value FROM pool'}}}}, {derive: {better: size + 1}}]",
    )
    after = recipe.check()[-1].after
    assert str(after.field("size").type) == str(after.field("better").type) == "int64"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestFailures:
    def test_a_bad_answer_in_a_small_last_round_is_judged_beside_all_rounds(
        self, write: Write, tmp_path: Path
    ) -> None:
        answers = ", ".join(["{text: a}"] * 49 + ["{text: b}"])
        recipe = write(
            f"name: few\nseed: 11\nmodel: {{language: fake, answers: [{answers}]}}\nsteps:\n  - repeat:\n"
            "      max: 30\n      target: 60\n      steps:\n"
            "        - source.conditions: {rows: 'SELECT sum(missing) FROM deficit', columns: {word: [x, y]}}\n"
            "        - generate.prompt: {template: '{{ word }}', writes: {text: [a]}, reasks: 0}\n"
        )
        run = load(recipe).run(tmp_path / "run", quiet=True)
        last = column(run, "SELECT rows_failed / rows_in AS x FROM steps WHERE step = 'prompt@2'")
        assert last[0] > 0.05, "alone it would end the run"
        assert column(run, "SELECT count(*) AS x FROM dataset") == [60]

    def test_tables_of_two_loops_at_one_place_keep_their_records(self, write: Write, tmp_path: Path) -> None:
        write("".join(f'{{"size": {size}}}\n' for size in (1, 2, 3)), "seeds.jsonl")
        inner = (
            "[{source.table: {table: seeds}}, {repeat: {max: 1, tables: {best: {steps: [{source.table: "
            "{table: seeds}}, {where: size > LEAST, reason: REASON}]}}, "
            "steps: [{source.table: {sql: 'SELECT size + LEAST * 10 AS size FROM best'}}]}}]"
        )
        one, two = (
            inner.replace("LEAST", least).replace("REASON", reason)
            for least, reason in (("1", "small"), ("2", "tiny"))
        )
        recipe = write(f"tables:\n  seeds: seeds.jsonl\n  made: {{steps: {one}}}\nsteps: {two}\n")
        run = load(recipe).run(tmp_path / "run", quiet=True)
        assert set(column(run, "SELECT reason AS x FROM reasons")) == {"small", "tiny"}
