import dataclasses

import pytest

from synthray.task import Task


def test_a_task_that_says_nothing_has_no_labels() -> None:
    assert Task() == Task(text="", labels={}, guideline="")


def test_tasks_do_not_share_their_labels() -> None:
    assert Task().labels is not Task().labels


def test_a_task_keeps_the_order_of_its_labels() -> None:
    assert list(Task(labels={"b": "second letter", "a": "first letter"}).labels) == ["b", "a"]


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Task().text = "other"  # type: ignore[misc]
