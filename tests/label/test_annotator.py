"""Dawid and Skene's annotators: simulated ones are found again, and no round makes their votes less likely."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from voting import drawn, grouped, votes

from synthray.label.annotator import RIGHT, SMOOTHING, Annotators
from synthray.label.vote import Votes

GOOD = [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]
MIXES = [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]
SPAMS = [[0.1, 0.8, 0.1]] * 3
CONFUSION = np.array([GOOD, GOOD, MIXES, SPAMS, SPAMS, SPAMS])
SHARES = np.array([0.5, 0.3, 0.2])


def simulated(size: int, seed: int, chance: float = 1.0) -> tuple[list[dict[int, int]], np.ndarray]:
    """Return the labels that annotators of known confusion give, and the true ones."""
    random = np.random.default_rng(seed)
    true = random.choice(3, size, p=SHARES)
    items = [
        {
            who: int(random.choice(3, p=CONFUSION[who, label]))
            for who in range(len(CONFUSION))
            if who == 0 or random.random() < chance
        }
        for label in true
    ]
    return items, true


def judged(items: list[dict[int, int]]) -> tuple[Annotators, np.ndarray, np.ndarray]:
    held = votes(*[(1, item) for item in items], annotators=len(CONFUSION))
    learned = Annotators.learned(held)
    labels, chance = learned.judged(held)
    return learned, labels, chance


@pytest.mark.parametrize("chance", [1.0, 0.6])
def test_confusions_and_shares_are_found_and_the_labels_beat_the_majority(chance: float) -> None:
    items, true = simulated(4000, seed=1, chance=chance)
    learned, labels, sure = judged(items)
    assert np.abs(learned.shares - SHARES).max() < 0.04
    assert np.abs(learned.confusion - CONFUSION).max() < 0.08
    assert np.abs(learned.quality() - np.einsum("k,jkk->j", SHARES, CONFUSION)).max() < 0.04
    majority = votes(*[(1, item) for item in items], annotators=len(CONFUSION)).majority()
    right, by_majority = (labels == true).mean(), (majority == true).mean()
    assert right > by_majority + 0.1, (right, by_majority)
    # The chances are calibrated: of rows held right with chance p a share of p is right.
    assert abs(sure.mean() - right) < 0.03
    unsure = sure < 0.8
    assert abs(sure[unsure].mean() - (labels == true)[unsure].mean()) < 0.08


def likelihood(held: Votes, learned: Annotators) -> float:
    """Return the log-likelihood of the votes and the log of the prior, by force over every true label."""
    total = SMOOTHING * (np.log(learned.shares).sum() + np.log(learned.confusion).sum())
    total += RIGHT * sum(np.log(np.diag(confusion)).sum() for confusion in learned.confusion)
    for item in range(len(held.weight)):
        own = range(held.starts[item], held.starts[item + 1])
        chance = sum(
            learned.shares[true]
            * np.prod([learned.confusion[held.annotator[v], true, held.label[v]] for v in own])
            for true in range(3)
        )
        total += held.weight[item] * np.log(chance)
    return float(total)


@pytest.mark.parametrize("seed", range(4))
def test_no_round_makes_the_votes_less_likely(seed: int) -> None:
    held = grouped(drawn(80, seed))
    objective = Annotators.learned(held).objective
    assert len(objective) > 2
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(objective))
    for rounds in (1, 3):
        # The objective told last is that of the parameters one round before.
        before = Annotators.learned(held, rounds=rounds)
        told = Annotators.learned(held, rounds=rounds + 1).objective[-1]
        assert told == pytest.approx(likelihood(held, before), rel=1e-12)


def test_the_chances_are_bayes_rule() -> None:
    held = grouped(drawn(60, seed=9))
    learned = Annotators.learned(held)
    labels, chance = learned.judged(held)
    for item in range(len(held.weight)):
        own = range(held.starts[item], held.starts[item + 1])
        joint = [
            learned.shares[true]
            * np.prod([learned.confusion[held.annotator[v], true, held.label[v]] for v in own])
            for true in range(3)
        ]
        assert chance[item] == pytest.approx(max(joint) / sum(joint))
        assert labels[item] == int(np.argmax(joint))


def test_items_held_once_and_work_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    items, _ = simulated(500, seed=3, chance=0.5)
    once = grouped(items)
    written = votes(
        *[(1, item) for item in sorted(items, key=lambda one: sorted(one.items()))], annotators=len(CONFUSION)
    )
    whole = Annotators.learned(votes(*[(1, i) for i in items], annotators=len(CONFUSION)))
    assert Annotators.learned(written).confusion == pytest.approx(whole.confusion, abs=1e-6)
    held = Votes(once.starts, once.annotator, once.label, once.weight, written.annotators, once.classes)
    assert Annotators.learned(held).confusion == pytest.approx(whole.confusion, abs=1e-6)
    monkeypatch.setattr("synthray.label.annotator._VOTES", 7)
    in_parts = Annotators.learned(held)
    assert in_parts.confusion == pytest.approx(whole.confusion, abs=1e-6)
    assert in_parts.judged(held)[0].tolist() == Annotators.learned(held).judged(held)[0].tolist()


def test_one_annotator_is_believed() -> None:
    held = grouped([{0: 0}] * 6 + [{0: 1}] * 3 + [{0: 2}])
    labels, chance = Annotators.learned(held).judged(held)
    assert labels.tolist() == [0, 1, 2]
    assert chance.min() > 0.9


def test_annotators_that_never_agree_have_a_result_and_ties_go_to_the_first_class() -> None:
    held = grouped([{0: 0, 1: 1}] * 4 + [{0: 1, 1: 0}] * 4)
    labels, chance = Annotators.learned(held).judged(held)
    assert np.isfinite(chance).all()
    assert labels.tolist() == [0, 0]
    assert chance == pytest.approx([0.5, 0.5], abs=0.01)
