"""A template is filled from a row and the task, reaches nothing else, and is found wrong before any row."""

from __future__ import annotations

import pytest

from synthray.errors import InputError
from synthray.task import Task
from synthray.template import check, rendered, variables

TASK = Task(text="news", labels={"World": "abroad"}, guideline="One topic.")


def test_a_template_is_filled_from_a_row_and_the_task() -> None:
    text = "{{ text|upper }}{% for name, meaning in task.labels.items() %} {{ name }}: {{ meaning }}{% endfor %}\n"
    assert rendered(text, {"text": "a {{ b }}"}, TASK) == "A {{ B }} World: abroad"


def test_its_variables_are_what_it_reads_and_does_not_set_itself() -> None:
    text = "{% set x = a %}{{ x }}{% for one in many %}{{ one }}{{ loop.index }}{% endfor %}{{ task.text }}"
    assert variables(text) == {"a", "many", "task"}


@pytest.mark.parametrize("text", ["{{ missing }}", "{{ ''.__class__.__mro__ }}", "{{ lipsum() }}"])
def test_what_is_not_the_rows_is_an_error(text: str) -> None:
    with pytest.raises(Exception, match=r"undefined|unsafe"):
        rendered(text, {"text": "a"}, TASK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n{{ b", "does not parse: line 2"),
        ("{{ a|shout }}", "line 1: Jinja has no filter 'shout'"),
        ("{{ [1, 2]|random }}", "Jinja has no filter 'random'"),
        ("{{ task.label }}", "task.label does not exist; did you mean 'labels'"),
        ("{{ labels }}", "'labels' must be written task.labels"),
    ],
)
def test_a_template_that_cannot_work_is_found_without_a_row(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(["{{ fine }}", text], ["text"])
    check(["{{ labels }} {{ task.labels }}"], ["labels"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "more than 200000 steps .*end sooner",
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
            "more than 200000 steps",
        ),
        (
            "{% for a in many %}{% for b in many %}{% for c in many %}{% endfor %}{% endfor %}{% endfor %}",
            "steps",
        ),
        ("{% for a in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}", "steps|recursion"),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
            "more than 200000 steps",
        ),
        ("{{ 'a' * 10 ** 10 }}", "10000000000 characters, items or bits, and 8388608 is the most"),
        ("{{ 10 ** 10 * [1] }}", "10000000000 characters, items or bits"),
        ("{{ 9 ** (9 ** 9) }}", "is the most"),
        (
            "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "16777216 characters or items",
        ),
        (
            "{% set ns = namespace(x='aa') %}{% for i in range(60) %}"
            "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
            "16777216 characters or items",
        ),
        (
            "{% macro f(x, n) %}{% if n %}{{ f(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ f('aa', 60) }}",
            "16777216 characters or items",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1)|replace('a', 'aa') }}{% else %}a{% endif %}{% endmacro %}"
            "{{ f(60) }}",
            "16777216 characters or items",
        ),
        (
            "{% for i in range(999) %}{{ 'a' * 99999 }}{% endfor %}",
            "makes more than 8388608 characters.*text",
        ),
    ],
)
def test_what_loops_or_grows_without_end_is_an_error(text: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        rendered(text, {"many": list(range(300))}, TASK)


def test_steps_that_are_slow_each_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthray.template._SECONDS", 0.0)
    with pytest.raises(ValueError, match="was not done after 0 s; let it do less"):
        rendered("{% for i in many %}{{ many|sum }}{% endfor %}", {"many": [1, 2]}, TASK)
    assert rendered("no steps", {}, TASK) == "no steps"


def test_each_text_has_steps_of_its_own_and_counting_changes_none() -> None:
    whole = "{% for i in range(99999) %}{{ i }}{% endfor %}"
    for _ in range(3):
        assert len(rendered(whole, {}, TASK)) == len("".join(map(str, range(99999))))
    text = (
        "{% set a, b = 1, 2 %}{% set ns = namespace(k=0) %}"
        "{% for i in range(4) if i %}{% set ns.k = ns.k + i %}{{ loop.index }}/{{ loop.length }}"
        "{% if not loop.last %},{% endif %}{% else %}none{% endfor %} {{ a }}{{ b }}{{ ns.k }}"
        "{% set z %}<{{ text }}>{% endset %}{{ z }}"
        "{% macro m(x) %}({{ x }}{{ caller() }}){% endmacro %}{% call m(1) %}in{% endcall %}"
        "{{ text.upper() }}{{ 2 * 3 }}{{ 'a' * 3 }}{{ 2 ** 5 }}{{ text|map('upper')|join('-') }}"
        "{% for one in [] %}x{% else %}none{% endfor %}"
        "{% for c in [[1, [2]]] recursive %}{{ c if c is number else loop(c) }}{% endfor %}"
    )
    assert rendered(text, {"text": "tv"}, TASK) == "1/3,2/3,3/3 126<tv>(1in)TV6aaa32T-Vnone12"
    assert variables("{% for a in b %}{% set c = a %}{% endfor %}") == {"b"}


def test_a_template_of_no_column_that_cannot_be_filled_is_found_without_a_row() -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    for text, message in ((loop, "more than 200000 steps"), ("{{ task.labels.Word.x }}", "has no attribute")):
        with pytest.raises(InputError, match=f"the template cannot be filled: .*{message}"):
            check(["{{ fine }}", text], ["fine"], TASK)
        check([text], ["fine"])
    check(["{{ column / 0 }}"], ["column"], TASK)
