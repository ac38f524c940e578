"""Recovery is what the rows teach beyond the majority, by what real rows do."""

from __future__ import annotations

import numpy as np
import pytest

from synthray.statistic.paired import Score
from synthray.statistic.recovery import recovery


def score(value: float, *resampled: float) -> Score:
    return Score(value, np.array(resampled or [value]))


@pytest.mark.parametrize(
    ("student", "majority", "real", "expected"),
    [
        (0.7, 0.5, 0.9, 0.5),
        (0.9, 0.5, 0.9, 1.0),
        (0.95, 0.5, 0.9, 1.125),
        (0.5, 0.5, 0.9, 0.0),
        (0.4, 0.5, 0.9, -0.25),
        (0.7, 0.5, 0.5, np.nan),
        (0.7, 0.5, 0.4, np.nan),
        (np.nan, 0.5, 0.9, np.nan),
        (0.7, 0.5, np.nan, np.nan),
    ],
)
def test_it_is_the_gain_by_the_gain_of_real_rows(
    student: float, majority: float, real: float, expected: float
) -> None:
    found = recovery(score(student), score(majority), score(real))
    assert (found.value, found.resampled[0]) == pytest.approx((expected, expected), nan_ok=True)


def test_each_sample_has_its_own_and_one_without_has_no_interval() -> None:
    majority = score(0.5, 0.5, 0.4, 0.6)
    found = recovery(score(0.7, 0.7, 0.6, 0.8), majority, score(0.9, 0.9, 0.8, 0.7))
    assert found.resampled == pytest.approx([0.5, 0.5, 2.0])
    assert np.isfinite(found.interval(0.9)).all()
    undefined = recovery(score(0.7, 0.7, 0.6, 0.8), majority, score(0.9, 0.9, 0.8, 0.6))
    assert undefined.value == pytest.approx(0.5)
    assert np.isnan(undefined.interval(0.9)).all()
