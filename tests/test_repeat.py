"""Loops: rounds that append or replace, exactly N rows, what their SQL sees, and how they end and go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from synthray.errors import InputError, RunFailed
from synthray.recipe import load
from synthray.run import Run

if TYPE_CHECKING:
    import synthray

Write = Callable[..., Path]

EXACT = """
name: exact
seed: 3
task: {labels: {a: first, b: second}}
model: {language: fake, answers: [one two three, four five six, seven eight nine, ten eleven twelve,
  alpha beta gamma, delta epsilon zeta, eta theta iota]}
steps:
  - repeat:
      max: 12
      target: 5
      by: label
      steps:
        - source.conditions:
            rows: "SELECT sum(missing) + 2 FROM deficit"
            columns: {label: {sql: "SELECT label, missing AS weight FROM deficit"}}
        - generate.prompt: {template: "Say {{ label }}.", writes: text}
        - derive: {text: "label || ' ' || text"}
        - curate.near_duplicate: {text: text, words: 2, threshold: 0.9, against: [pool]}
        - where: near_duplicate_of IS NULL
          reason: near_duplicate
  - derive: {size: length(text)}
"""

GROWING = """
name: growing
seed: 1
model: {language: fake}
tables: {seeds: seeds.jsonl}
steps:
  - source.table: {table: seeds}
  - repeat:
      max: 3
      steps:
        - source.table: {sql: "SELECT row_id, word || 'x' AS word, size + 1 AS size FROM STARTS", children: true}
        - where: length(word) < 5
          reason: long
  - derive: {done: "true"}
"""

REPLACING = """
name: replacing
seed: 1
model: {language: fake, answers: [a, b, c]}
tables: {seeds: seeds.jsonl}
steps:
  - source.table: {table: seeds}
  - repeat:
      keep: replace
      max: 4
      until: "UNTIL"
      steps:
        - generate.prompt: {template: "{{ word }}", writes: letter}
        - derive: {word: "word || letter", seen: "coalesce(seen, 0) + 1"}
"""

SEEDS = '{"word": "a", "size": 1, "seen": 0}\n{"word": "bb", "size": 2, "seen": 0}\n'


def started(write: Write, text: str, **parts: str) -> synthray.Pipeline:
    write(SEEDS, "seeds.jsonl")
    for name, part in parts.items():
        text = text.replace(name, part)
    return load(write(text))


def column(run: Run, sql: str) -> list[Any]:
    return [row["x"] for row in run.sql(sql).to_pylist()]


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("target: 5", "target: 0", r"target must be whole numbers of at least 0, not all 0"),
        ("target: 5", "target: {a: 1, b: -1}", r"target must be whole numbers"),
        ("by: label", "by: labl", r"labl"),
        ("      by: label\n", "      target: {a: 3}\n", r"'target' is there twice"),
        ("max: 12", "max: 0", r"max should be|max must be"),
        ("max: 12", "until: lenght(1)", r"lenght"),
        ("max: 12", "until: number + 1", r"until must be true or false"),
        ("max: 12", "until: random() > 0.5", r"until: random\(\) is refused"),
        ("max: 12", "tables: {more: recipe.yaml}", r"'more' is files; name it under the recipe's tables"),
        (
            "        - source.conditions:",
            "        - derive: {x: '1'}\n        - source.conditions:",
            r"append begins",
        ),
        ("max: 12", "keep: replace", r"keep: append"),
        ("max: 12", "prefer: nothing DESC", r"prefer: .*nothing"),
        ("max: 12", "patiense: 3", r"no key 'patiense'; did you mean 'patience'"),
        ('FROM deficit"\n', 'FROM defcit"\n', r"defcit"),
        ("against: [pool]", "against: [pol]", r"pol"),
        (
            "  - derive: {size: length(text)}",
            "  - generate.prompt: {template: hi, writes: other}",
            r"prompt is used in the loop and outside",
        ),
        (
            "        - derive:",
            "        - export.parquet: {}\n        - derive:",
            r"a table's own pipeline or a loop exports nothing",
        ),
        (
            "        - derive:",
            "        - repeat: {steps: [{where: 'true'}]}\n        - derive:",
            r"a loop holds no loop",
        ),
        ("length(text)", "length(txt)", r"txt"),
    ],
)
def test_what_makes_no_loop_is_said_before_any_work(write: Write, old: str, new: str, message: str) -> None:
    assert old in EXACT
    with pytest.raises(InputError, match=f"(?s){message}"):
        load(write(EXACT.replace(old, new, 1))).check()


def test_a_table_may_not_have_the_name_of_a_loops(write: Write) -> None:
    write(SEEDS, "seeds.jsonl")
    with pytest.raises(InputError, match="the table 'pool' has a name that a loop gives"):
        load(write(EXACT.replace("model:", "tables: {pool: seeds.jsonl}\nmodel:"))).check()


def test_what_a_loop_makes_it_may_read(write: Write) -> None:
    more = """
      until: "number > 2 AND (SELECT count(*) FROM rejects) > 9 AND (SELECT max(value) FROM metrics) > 0"
"""
    text = EXACT.replace("      by: label\n", f"      by: label{more}")
    text = text.replace(
        "- derive: {text: ", "- derive: {made: 'coalesce((SELECT max(made) FROM pool), 0) + 1', text: "
    )
    schema = load(write(text)).check()[-1].after
    assert str(schema.field("made").type) == "int32"


def test_a_deficit_is_of_a_target(write: Write) -> None:
    with pytest.raises(InputError, match="deficit"):
        load(write(EXACT.replace("      target: 5\n      by: label\n", ""))).check()


def test_two_loops_share_no_step(write: Write) -> None:
    twice = EXACT.replace("  - derive: {size: length(text)}\n", "") + EXACT.partition("steps:\n")[2]
    with pytest.raises(InputError, match="is a step of the loop 'repeat_2' too; give one `as: NAME`"):
        load(write(twice)).check()


def test_a_loops_step_takes_settings_from_the_command_line(write: Write) -> None:
    pipeline = load(write(EXACT), settings=["prompt.max_tokens=7", "repeat.max=2"])
    loop = pipeline.steps[0].work
    assert loop.max == 2
    assert loop.steps[1].work.max_tokens == 7
