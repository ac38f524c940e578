"""Systems are rated by the comparisons of them; intervals cover; what cannot be rated is told, not made up."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from synthray.errors import InputError, RunFailed
from synthray.evaluate.preference import Preference
from synthray.gate import asked_for, decide
from synthray.metric import METRICS
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.source.table import Table as Source
from synthray.statistic.strength import ELO, strengths

STRENGTHS = {"ann": 0.9, "bob": 0.2, "cy": -0.3, "di": -0.8}


def drawn(count: int, seed: int, groups: int | None = None) -> list[dict[str, Any]]:
    """Return comparisons; with groups, those of one go the same way more often than by chance."""
    draw = random.Random(seed)
    rows = []
    turns = [draw.random() for _ in range(groups or 1)]
    for number in range(count):
        left, right = draw.sample(list(STRENGTHS), 2)
        group = number % groups if groups else number
        luck = turns[group] if groups and draw.random() < 0.8 else draw.random()
        won = luck < 1 / (1 + math.exp(STRENGTHS[right] - STRENGTHS[left]))
        winner = "tie" if draw.random() < 0.1 else draw.choice(["left", left]) if won else "right"
        rows.append(
            {"row_id": f"{number:05}", "left": left, "right": right, "winner": winner, "prompt": f"p{group}"}
        )
    return rows


def measured(rows: list[dict[str, Any]], **settings: Any) -> dict[str, dict[str, Any]]:
    fields = [(name, pa.string()) for name in ("row_id", "left", "right", "winner", "prompt")]
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    settings = {"left": "left", "right": "right", "winner": "winner", "resamples": 100, **settings}
    operator = Preference(**settings, context=Context(step="preference", seed=1))
    operator.check(table.schema)
    found = operator(table).to_pylist()
    assert {one["metric"] for one in found} == set(operator.metrics())
    return {f"{one['metric']} {one['slice']}" if one["slice"] else one["metric"]: one for one in found}


def game(number: int, left: str | None, right: str | None, winner: str | None) -> dict[str, Any]:
    return {"row_id": f"{number:05}", "left": left, "right": right, "winner": winner}


def test_ratings_are_strengths_on_the_elo_scale_and_rates_are_counts() -> None:
    rows = drawn(300, 1)
    found = measured(rows, prior=0.0, k=4.0)
    names = sorted(STRENGTHS)
    wins = np.zeros((4, 4))
    for row in rows:
        one, other = names.index(row["left"]), names.index(row["right"])
        score = 0.5 if row["winner"] == "tie" else 0.0 if row["winner"] == "right" else 1.0
        wins[one, other] += score
        wins[other, one] += 1 - score
    expected = 1000 + ELO * strengths(wins)
    for place, name in enumerate(names):
        rating, rate = found[f"rating system={name}"], found[f"win_rate system={name}"]
        assert rating["value"] == pytest.approx(expected[place], abs=1e-6)
        assert rating["ci_low"] < rating["value"] < rating["ci_high"]
        played = wins[place].sum() + wins[:, place].sum()
        assert rate["value"] == pytest.approx(wins[place].sum() / played)
        assert rating["n"] == rate["n"] == played
        assert found[f"elo system={name}"]["value"] == pytest.approx(rating["value"], abs=80)
    pair = found["win_rate pair=ann,bob"]
    assert pair["value"] == pytest.approx(wins[0, 1] / (wins[0, 1] + wins[1, 0]))
    assert found["tie_rate"]["value"] == sum(row["winner"] == "tie" for row in rows) / 300
    assert found["components"]["value"] == 1


def test_no_order_of_the_rows_and_no_swap_of_the_sides_shows() -> None:
    rows = drawn(200, 2)
    shuffled = random.Random(3).sample(rows, len(rows))
    settings: dict[str, Any] = {"k": 8.0, "group": "prompt"}
    assert measured(rows, **settings) == measured(shuffled, **settings)
    sides = {"left": "right", "right": "left"}
    swapped = [
        {**row, "left": row["right"], "right": row["left"], "winner": sides.get(row["winner"], row["winner"])}
        for row in rows
    ]
    for name, one in measured(rows).items():
        assert measured(swapped)[name]["value"] == pytest.approx(one["value"], abs=1e-9)


def test_an_anchor_has_the_base_and_the_mean_has_it_without() -> None:
    rows = drawn(200, 1)
    free, held = measured(rows, base_rating=0.0), measured(rows, base_rating=500.0, anchor="cy")
    ratings = [free[f"rating system={name}"]["value"] for name in STRENGTHS]
    assert sum(ratings) == pytest.approx(0, abs=1e-9)
    assert held["rating system=cy"]["value"] == held["rating system=cy"]["ci_low"] == 500
    apart = free["rating system=ann"]["value"] - free["rating system=cy"]["value"]
    assert held["rating system=ann"]["value"] - 500 == pytest.approx(apart, abs=1e-9)


def test_intervals_of_ratings_cover_what_was_drawn() -> None:
    mean = np.mean(list(STRENGTHS.values()))
    hits = 0
    for seed in range(30):
        found = measured(drawn(250, seed), pairs=0)
        for name, strength in STRENGTHS.items():
            # A tie in ten pulls the strengths together: the truth is of wins and half the ties.
            one = found[f"rating system={name}"]
            hits += one["ci_low"] <= 1000 + ELO * 0.9 * (strength - mean) <= one["ci_high"]
    assert 0.88 <= hits / 120 <= 0.995


def test_comparisons_of_one_prompt_are_no_independent_ones() -> None:
    rows = drawn(600, 1, groups=30)
    alone, grouped = measured(rows), measured(rows, group="prompt")
    name = "rating system=ann"
    assert alone[name]["value"] == grouped[name]["value"]
    width = [one[name]["ci_high"] - one[name]["ci_low"] for one in (alone, grouped)]
    assert width[1] > 1.3 * width[0]


def test_one_that_never_lost_is_finite_by_the_prior_alone_and_has_no_interval() -> None:
    rows = [game(n, "best", name, "left") for n, name in enumerate(["a", "b"] * 10)]
    rows += [game(20 + n, "a", "b", "left" if n % 3 else "right") for n in range(12)]
    found = measured(rows)
    best = found["rating system=best"]
    assert found["rating system=a"]["value"] < best["value"] < 3000
    assert best["ci_low"] is None
    assert found["rating system=a"]["ci_low"] is not None
    assert found["win_rate system=best"]["ci_low"] < 1
    plain = measured(rows, prior=0.0)
    assert math.isnan(plain["rating system=best"]["value"])
    apart = plain["rating system=a"]["value"] - plain["rating system=b"]["value"]
    assert apart == pytest.approx(ELO * math.log(2), abs=1e-6), "eight to four"


def test_systems_that_nothing_connects_are_not_rated_and_the_default_gate_refuses() -> None:
    rows = [game(n, "a", "b", "left" if n % 2 else "right") for n in range(6)]
    rows += [game(6 + n, "b", "c", "tie") for n in range(3)]
    rows += [game(9 + n, "x", "y", "left" if n % 2 else "right") for n in range(4)]
    found = measured(rows)
    assert found["components"]["value"] == 2
    assert math.isnan(found["rating system=x"]["value"])
    assert found["rating system=c"]["value"] == pytest.approx(1000)
    anchored = measured(rows, anchor="y")
    assert math.isnan(anchored["rating system=a"]["value"])
    assert anchored["rating system=y"]["value"] == 1000
    gate = asked_for(["default"], {"preference": Preference(left="a", right="b").gate()})
    for held, passed in ((found, False), (measured(rows[:9]), True)):
        metrics = pa.Table.from_pylist([{"step": "preference", **one} for one in held.values()], METRICS)
        assert [one.passed for one in decide(gate, metrics)] == [passed]


def test_no_comparison_and_one_are_defined() -> None:
    nothing = measured([game(0, "a", None, "left"), game(1, "a", "b", None)], k=32.0)
    for name in ("rating", "win_rate", "tie_rate", "components", "elo"):
        assert math.isnan(nothing[name]["value"])
        assert nothing[name]["n"] == 0
    one = measured([game(0, "a", "b", "b")], k=32.0)
    assert one["win_rate system=b"]["value"] == 1
    assert one["rating system=b"]["value"] > one["rating system=a"]["value"]
    assert one["rating system=b"]["ci_low"] is None
    assert one["elo system=b"]["value"] == 1016


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("a", "b", "c"),
            "row_id '00007' winner is 'c', which is neither 'a' nor 'b' nor left, right or tie",
        ),
        (("a", "a", "tie"), "row_id '00007' compares 'a' with itself"),
        (("a", "left", "left"), "row_id '00007' has a system called 'left', as a verdict is"),
    ],
)
def test_a_row_that_is_no_comparison_is_named(row: tuple[str, str, str], message: str) -> None:
    with pytest.raises(RunFailed, match=message):
        measured([game(0, "a", "b", "left"), game(7, *row)])


def test_settings_that_cannot_work_are_found() -> None:
    with pytest.raises(InputError, match="must be three columns, but are 'left', 'left', 'winner'"):
        measured([], right="left")
    with pytest.raises(InputError, match="column 'number' must hold text, but is int64"):
        Preference(left="number", right="right").check(pa.schema([("number", pa.int64())]))
    with pytest.raises(RunFailed, match="anchor 'anna' is in no comparison; did you mean 'ann'"):
        measured(drawn(20, 1), anchor="anna")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_it_measures_a_stage(tmp_path: Path) -> None:
    path = tmp_path / "games.csv"
    rows = drawn(50, 1)
    path.write_text(
        "left,right,winner\n" + "".join(f"{r['left']},{r['right']},{r['winner']}\n" for r in rows)
    )
    step = Preference(left="left", right="right", winner="winner", resamples=100)
    run = Pipeline([Source(path=str(path)), step], name="games").run(tmp_path / "run", quiet=True)
    found = run.sql("SELECT value FROM metrics WHERE slice = 'system=ann' AND metric = 'rating'").to_pylist()
    assert found[0]["value"] == pytest.approx(measured(rows)["rating system=ann"]["value"], abs=1e-9)
