"""Operators over given probabilities share their settings, and mark as what judges for them finds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from synthray.curate.label_issue import LabelIssue
from synthray.curate.multilabel_issue import MultilabelIssue
from synthray.curate.token_issue import TokenIssue
from synthray.errors import InputError
from synthray.issue import Issues
from synthray.judge import Judge
from synthray.operator import Context


@dataclass(frozen=True)
class Plain(Judge):
    """One label a row."""

    kind: ClassVar[type[Issues]] = Issues


def table() -> pa.Table:
    generator = np.random.default_rng(0)
    held = generator.dirichlet([0.4] * 3, 200)
    labels = ["abc"[place] for place in np.where(generator.random(200) < 0.8, held.argmax(axis=1), 0)]
    return pa.table({"row_id": [f"{row:03}" for row in range(200)], "label": labels, "p": held.tolist()})


def test_the_settings_reach_what_judges() -> None:
    plain = Plain(
        label="label", probabilities="p", filter_by="both", score="normalized_margin", frac_noise=0.5
    )
    expected = LabelIssue(
        label="label", probabilities="p", filter_by="both", score="normalized_margin", frac_noise=0.5
    )
    assert plain(table()) == expected(table())
    assert plain(table()) != Plain(label="label", probabilities="p")(table())


def test_all_have_the_settings_of_label_issue_under_the_same_names() -> None:
    own = {one.name: one.default for one in fields(LabelIssue)}
    for one in fields(Judge):
        assert one.name in own
        if one.name not in ("label", "probabilities"):
            assert one.default == own[one.name], one.name
    assert {type(operator).kind for operator in (MultilabelIssue("l", "p"), TokenIssue("l", "p"))} != {Issues}


def test_columns_that_cannot_be_judged_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="column 'label' must hold lists of floating-point numbers"):
        Plain(label="label", probabilities="label").check(table().schema)


def test_marks_are_under_the_step_s_prefix() -> None:
    made = Plain(label="label", probabilities="p", context=Context(prefix="second_"))(table())
    assert {f"second_{name}" for name in Issues.adds} <= set(made.column_names)
