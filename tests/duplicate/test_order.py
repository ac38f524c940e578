"""Sorting once, marking where equal ones begin, and laying runs of places one after the other."""

from __future__ import annotations

import random

import numpy as np
import pytest

from synthray.duplicate.order import begins, once, runs


@pytest.mark.parametrize("size", [0, 1, 2, 500])
def test_numbers_are_there_once_and_ascending(size: int) -> None:
    held = [random.Random(size).randrange(100) for _ in range(size)]
    assert once(np.array(held, np.int64)).tolist() == sorted(set(held))


def test_the_first_of_its_kind_is_marked() -> None:
    assert begins(np.array([4, 4, 2, 2, 2, 7])).tolist() == [True, False, True, False, False, True]
    assert begins(np.array([], np.int64)).tolist() == []


def test_runs_follow_each_other() -> None:
    assert runs(np.array([10, 3, 0, 5]), np.array([2, 0, 3, 1])).tolist() == [10, 11, 0, 1, 2, 5]
    assert runs(np.array([], np.int64), np.array([], np.int64)).tolist() == []
