"""Loops as they are written: what their SQL sees, and what is wrong with one is said before any work."""

from __future__ import annotations

import pytest
from looped import EXACT, SEEDS, Write

from synthray.errors import InputError
from synthray.recipe import load


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
