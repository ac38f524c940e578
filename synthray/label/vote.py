"""Votes: which annotator gave which label to which item, with items of equal votes held once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = Path(__file__)
"""For the fingerprints of operators that count votes."""

Numbers = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Votes:
    """Of item i the votes `starts[i]` to `starts[i + 1]`, at least one; `weight[i]` rows have just these.

    `annotator` and `label` of each vote are places in `annotators` and `classes`.
    """

    starts: Numbers
    annotator: Numbers
    label: Numbers
    weight: Numbers
    annotators: Sequence[str]
    classes: Sequence[str]

    @cached_property
    def item(self) -> Numbers:
        """The item of each vote."""
        return np.repeat(np.arange(len(self.weight)), np.diff(self.starts))

    @cached_property
    def counts(self) -> Numbers:
        """How many votes each class has for each item."""
        width = len(self.classes)
        found = np.bincount(self.item * width + self.label, minlength=len(self.weight) * width)
        return found.reshape(len(self.weight), width)

    def of(self, annotator: int) -> Numbers:
        """Return the label that an annotator gave to each item, -1 where none."""
        given = np.full(len(self.weight), -1)
        own = self.annotator == annotator
        given[self.item[own]] = self.label[own]
        return given

    def majority(self) -> Numbers:
        """Return the label of most votes of each item.

        Of equal ones that with the most votes over all rows, then the first of the classes.
        """
        overall = (self.counts * self.weight[:, None]).sum(axis=0)
        order = np.lexsort((np.arange(len(overall)), -overall))
        return np.asarray(order[self.counts[:, order].argmax(axis=1)])

    def agreeing(self, labels: Numbers) -> Numbers:
        """Return how many votes of each item are for its label among `labels`."""
        return np.asarray(self.counts[np.arange(len(labels)), labels])
