"""A recipe that is wrong ends before any work, with what, where and the cure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from synthray.cookbook import listed
from synthray.errors import InputError, RecipeError
from synthray.model.fake import Fake
from synthray.operator import Operator
from synthray.pipeline import Pipeline
from synthray.recipe import load

Small = Callable[..., Pipeline]
Write = Callable[..., Path]


def test_a_recipe_is_the_pipeline_that_python_would_build(small: Small) -> None:
    pipeline = small()
    assert (pipeline.name, pipeline.seed, pipeline.max_failed) == ("small", 5, 0.05)
    assert [one.name for one in pipeline.check()] == [
        "conditions",
        "prompt",
        "where_length",
        "diversity",
        "parquet",
    ]
    assert list(pipeline.task.labels) == ["a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "generate.prompt",
            "generate.prmpt",
            "line 8: no operator 'generate.prmpt'; did you mean 'generate.prompt'",
        ),
        ("generate.prompt", "generat.prompt", "no operator 'generat.prompt'; did you mean 'generate.prompt'"),
        (
            "  - evaluate.diversity",
            "  - repeat: {max: 2}\n  - evaluate.diversity",
            "repeat is a mapping of steps, max, keep",
        ),
        (
            "writes: text",
            "wrtes: text",
            "line 8: step generate.prompt: no setting 'wrtes'; did you mean 'writes'",
        ),
        (
            "rows: 12",
            "rows: twelve",
            "line 7: step source.conditions: rows should be a valid integer, but is 'twelve'",
        ),
        ("rows: 12", "rows: true", "rows should be a valid integer"),
        ("rows: 12", "rows: -1", "rows should be greater than or equal to 1, but is -1"),
        ("rows: 12", "rows: 1000000000000", "rows should be less than or equal to"),
        ("rows: 12, ", "", "needs the setting 'rows'"),
        (
            "{text: text}",
            "{text: txet}",
            "'diversity' .line 11.: reads the column 'txet'.*did you mean 'text'",
        ),
        ("{{ label }}", "{{ lable }}", "'prompt' .line 8.: reads the column 'lable'.*did you mean 'label'"),
        ("{{ label }}", "{{ label", "the template does not parse"),
        ("{{ label }}", "{{ labels }}", "reads the column 'labels'"),
        ("length(text) > 10", "length(text > 10", "'where_length' .line 9.: Parser Error"),
        ("length(text) > 10", "length(txt) > 10", "'where_length' .line 9.: Binder Error.*txt"),
        ("length(text) > 10", "length(text)", "must be true or false for each row"),
        ("length(text) > 10", "random() > 0.1", "random.. is refused.*chance"),
        ("reason: length", "reson: length", "no key 'reson' beside it; did you mean 'reason'"),
        ("language: fake", "language: fkae", "line 5: no language 'fkae'; did you mean 'fake'"),
        (
            "language: fake",
            "language: fake, retries: -1",
            "model fake: retries should be greater than or equal to 0",
        ),
        ("task: {labels", "tsk: {labels", "line 4: no key 'tsk' in a recipe; did you mean 'task'"),
        ("task: {labels", "task: {lables", "task: no key 'lables'; did you mean 'labels'"),
        (
            "steps:",
            "tables: {dataset: x.jsonl}\nsteps:",
            "table .dataset.: the name must be an identifier, and none of",
        ),
        ("label: task.labels", "label: []", "columns.label: the list of values is empty"),
        ("label: task.labels", "row_id: [a]", "column 'row_id' is reserved"),
        ("label: task.labels", "label: {from: nowhere}", "no table 'nowhere'"),
        ("seed: 5", "seed: many", "line 3: seed must be a int"),
        ("name: small", "name: ../small", "name '../small': must be letters"),
        ("name: small", "name: small\nname: other", "'name' is there twice"),
        ("gate:", "max_failed: 3\ngate:", "max_failed must be from 0 to 1"),
        ("gate:", "blocks: 0\ngate:", "blocks must be from 1"),
        (
            "diversity.distinct_1.value > 0",
            "diversty.distinct_1.value > 0",
            "no step 'diversty'.*did you mean 'diversity'",
        ),
        ("diversity.distinct_1.value > 0", "diversity.distinct_1.mean > 0", "field of value, ci_low"),
        ("diversity.distinct_1.value > 0", "1 > 0", "names no metric"),
        ("diversity.distinct_1.value > 0", "diversity.distinct_1.value >", "Parser Error"),
        ("{train: 0.5, test: 0.5}", "{train: 0.5, test: 0.9}", "shares above 0 that sum to 1"),
        ("{train: 0.5, test: 0.5}", "{../train: 1.0}", "letters, digits and _ only"),
        (
            "diversity.distinct_1.value > 0",
            "diversity.distnct_1.value > 0",
            "measures no 'distnct_1'; did you mean 'distinct_1'",
        ),
        ("{{ label }}", "{{ task.txt }}", "the template's task.txt does not exist; did you mean 'text'"),
        ("number: {range", "Label: [x], number: {range", "differs from .* in case alone"),
        ("steps:", "tables: {_x: x.jsonl}\nsteps:", "table '_x': the name must be an identifier"),
        ("steps:", "steps: 3\nstps:", "no key 'stps'"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_bad_input_is_named_with_its_line_and_the_nearest_right_name(
    small: Small, old: str, new: str, message: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        small(**{old: new}).check()
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 6


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{language: openai}", "openai needs name"),
        ("{language: openai, name: x}", "environment variable OPENAI_API_KEY is not set"),
        ("{language: openai, name: x, base_url: 'ftp://x'}", "base_url must start with http"),
        (
            "{language: openai, name: x, base_url: 'http://user:word@host/v1'}",
            "base_url must hold no user or password",
        ),
        ("{language: embedded, path: none.gguf}", "no file 'none.gguf'"),
        ("{language: fake, answers: []}", "fake needs answers"),
    ],
    ids=["name", "key", "scheme", "secret", "file", "answers"],
)
def test_a_model_that_cannot_be_opened_is_found_before_any_call(
    small: Small, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fake = "{language: fake, answers: [one two three, four five six seven, eight nine]}"
    with pytest.raises(InputError, match=message):
        small(**{fake: model}).check()


URL = "language: openai, name: m, base_url: 'http://127.0.0.1:9/v1'"
FAKE = "{language: fake, answers: [one two three, four five six seven, eight nine]}"
ASKS = '{template: "{{ label }} {{ number }}", writes: text'


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (f"{{{URL}, budget_usd: 1}}", {}, "budget_usd needs the model's price.*prices:"),
        (f"{{{URL}, budget_usd: 0}}", {}, "line 5: model openai: budget_usd should be greater than 0"),
        (f"{{{URL}, price: {{input: 1}}}}", {}, "line 5: model: price must say input and output"),
        (f"{{{URL}, price: {{input: -1, output: 1}}}}", {}, "price should be greater than or equal to 0"),
        (
            f"{{{URL}, budget_usd: 1}}",
            {"steps:": "prices: none.yaml\nsteps:"},
            "line 6: prices: .*none.yaml cannot be read",
        ),
        (f"{{{URL}}}", {"steps:": "prices: [1]\nsteps:"}, "line 6: prices must map models to .* but is"),
        (
            f"{{{URL}, budget_tokens: 9}}",
            {ASKS: f"{ASKS}, max_tokens: null"},
            "budget_tokens cannot be kept without max_tokens",
        ),
        (
            f"{{{URL}, tokens_per_minute: 99}}",
            {ASKS: f"{ASKS}, n: 2, together: true"},
            "is 512, more than tokens_per_minute",
        ),
        (
            f"{{{URL}, requests_per_minute: 0}}",
            {},
            "requests_per_minute should be greater than or equal to 1",
        ),
    ],
    ids=["price", "zero", "half", "negative", "file", "list", "max_tokens", "too few", "no requests"],
)
def test_a_limit_that_cannot_be_kept_is_found_before_any_call(
    small: Small, model: str, more: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        small(**{FAKE: model, **more}).check()


def test_a_model_costs_what_the_recipe_or_its_price_list_says(
    small: Small, write: Callable[..., Path]
) -> None:
    write("m: {input: 1, output: 2}\nother: {input: 9, output: 9}\n", "prices.yaml")
    listed = small(**{FAKE: f"{{{URL}}}", "steps:": "prices: prices.yaml\nsteps:"})
    own = f"{{{URL}, price: {{input: 3, output: 4}}}}"
    named = small(**{FAKE: own, "steps:": "prices: prices.yaml\nsteps:"})
    assert listed.model and listed.model.price == {"input": 1, "output": 2}
    assert named.model and named.model.price == {"input": 3, "output": 4}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no file .*none.jsonl"),
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("broken.jsonl", '{"text": "a"}\n{"text":\n{"text": "b"}\n', "broken.jsonl.*line"),
        ("short.csv", "text,label\none,a\ntwo\n", "short.csv"),
        ("head.csv", "text,label\n", "no rows"),
        ("bytes.parquet", "not parquet", "bytes.parquet"),
        ("odd.txt", "text", "must be all Parquet, JSON lines, CSV or YAML"),
        (
            "ids.jsonl",
            '{"row_id": "1", "text": "a"}\n{"row_id": "1", "text": "b"}\n',
            "row_id must be there and differ",
        ),
    ],
    ids=[
        "missing",
        "empty",
        "broken json",
        "short csv",
        "only a header",
        "no parquet",
        "unknown kind",
        "ids",
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    write: Write, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        write(content, name)
    recipe = write(f"steps:\n  - source.table: {{path: {name}}}\n  - evaluate.diversity: {{text: text}}\n")
    with pytest.raises(InputError, match=f"(?s){message}"):
        load(recipe).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "a recipe is a mapping"),
        ("steps: [", "not YAML"),
        ("name: x", "steps must be a list"),
        ("steps: []", "steps must be a list of at least one step"),
        ("steps: [3]", "a step is a mapping"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(8)
            ),
            "too large",
        ),
    ],
    ids=["list", "broken", "no steps", "empty steps", "number", "aliases"],
)
def test_what_is_no_recipe_is_refused(write: Write, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(write(text))


def test_settings_override_by_key_and_by_step(small: Small) -> None:
    pipeline = small("seed=9", "prompt.n=3", "length.where=length(text) > 2", rows=4)
    conditions, prompt, where, *_ = [one.step.work for one in pipeline.check()]
    assert pipeline.seed == 9
    assert (conditions.rows, prompt.n) == (4, 3)  # type: ignore[union-attr]
    assert where.predicate.endswith("> 2)")  # type: ignore[union-attr]
    assert pipeline.recipe["steps"][1]["generate.prompt"]["n"] == 3


def test_settings_reach_the_steps_of_tables_and_loops(write: Write) -> None:
    recipe = write(
        "model: {language: fake}\ntables:\n  words: {steps: [{source.conditions: {rows: 2, columns: {w: [x]}}}]}\n"
        "steps:\n  - repeat:\n      max: 2\n      tables:\n"
        "        held: {steps: [{source.table: {table: pool}}, {where: 'true', reason: all}]}\n"
        "      steps: [{source.table: {table: words, children: true}}]\n"
    )
    changed = load(recipe, settings=["words_conditions.rows=3", "table.rows=1", "held_table.rows=4"]).recipe
    assert changed["tables"]["words"]["steps"][0]["source.conditions"]["rows"] == 3
    loop = changed["steps"][0]["repeat"]
    assert loop["steps"][0]["source.table"]["rows"] == 1
    assert loop["tables"]["held"]["steps"][0]["source.table"]["rows"] == 4
    with pytest.raises(
        RecipeError, match="no key or step 'word_conditions'; did you mean 'words_conditions'"
    ):
        load(recipe, settings=["word_conditions.rows=3"])


def test_a_tables_pipeline_has_the_model_that_the_recipe_is_given(write: Write) -> None:
    recipe = write(
        "task: {labels: {a: first}}\nmodel: {language: fake}\ntables:\n  said:\n    steps:\n"
        "      - source.conditions: {rows: 2, columns: {w: task.labels}}\n"
        "      - generate.prompt: {template: '{{ w }}', writes: text}\n"
        "steps:\n  - source.table: {table: said}\n"
    )
    pipeline = replace(load(recipe), model=Fake(answers=["other"]))
    table = pipeline.tables["said"]
    assert isinstance(table, Pipeline)
    prompt = table.of("said", pipeline).named()[1].work
    assert isinstance(prompt, Operator) and prompt.context.language == Fake(answers=["other"])
    own = replace(table, model=Fake(answers=["own"])).of("said", pipeline).named()[1].work
    assert isinstance(own, Operator) and own.context.language == Fake(answers=["own"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prompt.tempreature=1", "no setting 'tempreature'; did you mean 'temperature'"),
        ("promt.n=1", "no key or step 'promt'; did you mean 'prompt'"),
        ("seed", "must be a.b=value"),
        ("prompt.n=[", "the value is not YAML"),
        ("length.n=3", "the step has where, reason"),
    ],
)
def test_an_override_that_fits_nothing_is_named(small: Small, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        small(setting).check()


@pytest.mark.parametrize("name", [one["recipe"] for one in listed()])
def test_the_steps_of_a_shipped_recipe_fit_together(name: str) -> None:
    load(name).check()


def test_a_sql_step_may_stand_in_a_file(small: Small, write: Write) -> None:
    write("SELECT row_id, length(text) AS size FROM rows", "size.sql")
    pipeline = small(**{"  - evaluate.diversity": "  - sql: size.sql\n  - evaluate.diversity"})
    assert "size" in pipeline.check()[-1].after.names
