"""A plan says what a recipe would do and ask, and spends nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from synthray.pipeline import Pipeline
from synthray.plan import budget, planned, samples
from synthray.recipe import load

Small = Callable[..., Pipeline]


def test_calls_and_tokens_are_bounded_before_any_is_spent(small: Small) -> None:
    lines = {line["step"]: line for line in planned(small("prompt.n=3", "prompt.max_tokens=50"))}
    assert lines["conditions"]["rows_at_most"] == 12
    assert lines["prompt"]["calls"] == 36
    assert lines["prompt"]["completion_tokens_at_most"] == 36 * 50
    assert lines["prompt"]["prompt_tokens_about"] == 36  # 'a 5' is three bytes, about one token
    assert lines["where_length"]["rows_at_most"] == 36
    assert lines["where_length"]["calls"] is None


def test_sample_prompts_are_those_of_the_first_rows(small: Small) -> None:
    found = samples(small())
    assert len(found) == 3
    assert {sample["prompt"][0] for sample in found} == {"a", "b"}
    assert [sample["row_id"] for sample in found] == [s["row_id"] for s in samples(small(rows=3))]


def test_rows_of_files_are_counted(write: Callable[..., Path]) -> None:
    write('{"text": "a"}\n{"text": "b"}\n', "two.jsonl")
    recipe = write(
        "model: {language: fake}\nsteps:\n  - source.table: {path: two.jsonl}\n"
        "  - generate.prompt: {template: 'Say {{ text }}.', writes: said}\n"
    )
    lines = planned(load(recipe))
    assert [line["rows_at_most"] for line in lines] == [2, 2]
    assert sorted(sample["prompt"] for sample in samples(load(recipe))) == ["Say a.", "Say b."]


def test_columns_that_later_steps_make_have_no_sample_yet(small: Small) -> None:
    second = (
        "  - generate.prompt: {template: '{{ text }}', writes: more}\n    as: again\n  - evaluate.diversity"
    )
    found = samples(small(**{"  - evaluate.diversity": second}))
    assert {sample["step"] for sample in found} == {"prompt"}


def test_a_plan_writes_nothing(small: Small, tmp_path: Path) -> None:
    pipeline = small()
    before = sorted(tmp_path.rglob("*"))
    planned(pipeline)
    samples(pipeline)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_calls_of_a_table_of_its_own_are_in_the_plan(small: Small) -> None:
    inner = "[{source.conditions: {rows: 5, columns: {w: [x]}}}, {generate.prompt: {template: '{{ w }}', writes: text}}]"
    tables = f"tables:\n  more: {{steps: {inner}}}\nsteps:"
    union = "  - union: more\n  - evaluate.diversity"
    lines = planned(small(**{"steps:": tables, "  - evaluate.diversity": union}))
    assert {line["step"]: line["calls"] for line in lines if line["calls"]} == {
        "more_prompt": 5,
        "prompt": 12,
    }
    assert lines[-1]["rows_at_most"] == 17


PRICED = "language: fake, price: {input: 1000000, output: 2000000}"


def test_money_is_told_for_each_step_and_in_all_before_any_is_spent(small: Small) -> None:
    pipeline = small("prompt.n=3", "prompt.max_tokens=50", **{"language: fake": f"{PRICED}, budget_usd: 100"})
    lines = planned(pipeline)
    # A million dollars for a million tokens: 36 prompt tokens, and 36 answers of at most 50 tokens for two each.
    assert {line["step"]: line["usd_about"] for line in lines if line["calls"]} == {"prompt": 36 + 2 * 1800}
    told = budget(pipeline, lines)
    assert "In all 36 calls, about 36 prompt and at most 1800 completion tokens" in told
    assert "about 3636.0000 US dollars" in told
    assert "budget_usd is 100.0: the run may end at it" in told


def test_a_plan_without_prices_says_that_the_money_is_not_known(small: Small) -> None:
    pipeline = small("prompt.n=4", "prompt.together=true")
    lines = planned(pipeline)
    assert [line["calls"] for line in lines if line["calls"]] == [12], "four answers are one call"
    assert "at no known price" in budget(pipeline, lines)
    assert "budget" not in budget(pipeline, lines)


def test_a_prompt_of_an_answer_is_as_long_as_the_answer_may_be(small: Small) -> None:
    second = (
        "  - derive: {said: text || '!', made: md5(label)}\n"
        "  - generate.prompt: {template: '{{ said }} {{ made }}', writes: more, max_tokens: 7}\n    as: again\n"
        "  - evaluate.diversity"
    )
    pipeline = small("prompt.max_tokens=100", **{"  - evaluate.diversity": second})
    lines = {line["step"]: line for line in planned(pipeline)}
    assert lines["again"]["prompt_tokens_about"] == 12 * round((400 + 1 + 1 + 32) / 4)
    assert "not known" not in budget(pipeline, [*lines.values()])


def test_a_prompt_whose_columns_no_one_knows_before_costs_what_no_one_knows(small: Small) -> None:
    second = (
        "  - sql: SELECT row_id, count(*) OVER () AS many FROM rows\n"
        "  - generate.prompt: {template: '{{ many }}', writes: more}\n    as: again\n"
        "  - evaluate.diversity"
    )
    pipeline = small(**{"  - evaluate.diversity": second, "language: fake": PRICED})
    lines = {line["step"]: line for line in planned(pipeline)}
    assert lines["again"]["calls"] == 12
    assert lines["again"]["prompt_tokens_about"] is None and lines["again"]["usd_about"] is None
    said = budget(pipeline, [*lines.values()])
    assert "How long the prompts of again are is not known before, nor in this." in said


def test_a_talk_costs_what_its_dearer_model_costs_and_its_history_too(write: Callable[..., Path]) -> None:
    recipe = write(
        "model: {language: fake, price: {input: 1000000, output: 1000000}}\n"
        "models: {person: {language: fake, price: {input: 2000000, output: 2000000}}}\nsteps:\n"
        "  - source.conditions: {rows: 2, columns: {word: [abcd]}}\n"
        "  - generate.dialogue: {opening: '{{ word }}', turns: 2, user: {model: person, max_tokens: 10},"
        " assistant: {max_tokens: 30}}\n"
    )
    line = planned(load(recipe))[1]
    assert line["calls"] == 2 * 3, "two answers and a question between them"
    # The question is asked over an answer, the second answer over an answer and a question.
    assert line["prompt_tokens_about"] - 2 * (30 + 30 + 10) in range(6 * 60)
    assert line["usd_about"] == 2 * (line["prompt_tokens_about"] + line["completion_tokens_at_most"])


def test_a_loop_whose_rows_grow_is_counted_round_by_round(write: Callable[..., Path]) -> None:
    write('{"word": "a"}\n{"word": null}\n{"word": "c"}\n', "three.jsonl")
    recipe = write(
        "model: {language: fake}\ntables: {seeds: three.jsonl}\nsteps:\n  - source.table: {table: seeds}\n"
        "  - repeat: {keep: replace, max: 3, steps: [{generate.prompt: {template: '{{ word.upper() }}', "
        "writes: said, n: 2, max_tokens: null}}]}\n"
        "  - sql: SELECT word, said FROM rows, range(10)\n"
        "  - generate.prompt: {template: '{{ said }}', writes: more}\n    as: again\n"
    )
    lines = {line["step"]: line for line in planned(load(recipe))}
    assert lines["prompt"]["calls"] == 3 * 2 + 6 * 2 + 12 * 2
    assert lines["sql"]["rows_at_most"] == 24
    assert lines["again"]["calls"] is None, "a SELECT makes as many rows as it likes"
    said = budget(load(recipe), [*lines.values()])
    assert "The answers of prompt may be of any length, which is not in this." in said
    assert [one["prompt"] for one in samples(load(recipe))] == ["A", "C"], (
        "the row that cannot be asked is none"
    )
