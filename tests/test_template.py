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
