"""What a choice of rows did beyond a random choice of as many: its score beside those of random controls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from synthray.statistic.paired import Score

Numbers = np.ndarray[Any, np.dtype[Any]]


def over_chance(chosen: Score, controls: Score, right: Numbers, random: np.random.Generator) -> Score:
    """Return `chosen` less the mean of random `controls`, with the chance of drawing rows in its samples.

    `right` (n, c) says how right each of c controls is on each of n test rows. Were the choice a random one,
    it would be off their mean by its own draw and by theirs: by the variance of their accuracies times
    1 + 1/c, which is known from c controls, so that Student's t with c - 1 degrees of freedom tells how far.
    The samples of test rows add what they show beyond that, when the choice errs on other rows than controls
    do among themselves. The interval of a random choice then leaves 0 out as rarely as it says
    (benchmarks/utility.py). Not defined (NaN samples) for fewer than two test rows or two controls.
    """
    gain = chosen - controls
    number = right.shape[1]
    between, noise = spread(right)
    of_draws, of_rows = between * (1 + 1 / number), noise * (1 + 1 / number)
    shown = float(gain.resampled.var())
    # Controls differ on finitely many test rows by more than their draws: that part is in both.
    beyond = math.sqrt(max(0.0, 1 - of_rows / shown)) if shown > 0 else 0.0
    moved = random.standard_t(max(1, number - 1), len(gain.resampled)) * math.sqrt(of_draws)
    return Score(gain.value, gain.value + (gain.resampled - gain.value) * beyond + moved)


def spread(right: Numbers) -> tuple[float, float]:
    """Return the variance of the accuracies of c controls, and how much of it their n test rows explain.

    The second is the interaction of a two-way analysis of variance by n: what the accuracies of controls that
    are equally good differ by, since each errs on rows of its own.
    """
    rows, controls = right.shape
    if rows < 2 or controls < 2:
        return math.nan, math.nan
    means = right.mean(axis=0)
    rest = right - right.mean(axis=1, keepdims=True) - means + right.mean()
    return float(means.var(ddof=1)), float((rest**2).sum() / ((rows - 1) * (controls - 1)) / rows)
