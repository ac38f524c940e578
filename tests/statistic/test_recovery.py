"""Recovery is what the rows teach beyond the majority, by what real rows do."""

from __future__ import annotations

import numpy as np
import pytest

from synthray.statistic.interval import percentiles
from synthray.statistic.paired import Score
from synthray.statistic.recovery import Recovery, recovery


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


def sampled(undefined: int) -> Recovery:
    """Return a recovery of which so many of 1000 samples are not defined."""
    random = np.random.default_rng(2)
    real = np.full(1000, 0.9)
    real[random.permutation(1000)[:undefined]] = 0.5
    resampled = random.uniform(0.6, 0.8, 1000)
    return recovery(score(0.7, *resampled), score(0.5, *[0.5] * 1000), score(0.9, *real))


def test_each_sample_has_its_own() -> None:
    found = recovery(score(0.7, 0.7, 0.6, 0.8), score(0.5, 0.5, 0.4, 0.6), score(0.9, 0.9, 0.8, 0.7))
    assert found.resampled == pytest.approx([0.5, 0.5, 2.0])
    assert sampled(0).interval(0.95) == pytest.approx(percentiles(sampled(0).resampled, 0.95))


def test_samples_without_one_may_be_anything() -> None:
    whole, some = sampled(0), sampled(20)
    low, high = some.interval(0.95)
    held = np.sort(some.resampled[~np.isnan(some.resampled)])
    # 25 of 1000 are below the interval: 20 of them may be those that nothing is known of.
    assert held[3] <= low <= held[5] and held[-6] <= high <= held[-4]
    assert low < whole.interval(0.95)[0] and high > whole.interval(0.95)[1]
    assert np.isfinite(sampled(24).interval(0.95)).all()
    assert np.isnan(sampled(25).interval(0.95)).all()
    assert np.isnan(sampled(1000).interval(0.95)).all()
