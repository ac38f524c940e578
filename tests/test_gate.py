import math

import pyarrow as pa
import pytest

from synthray.errors import RecipeError
from synthray.gate import Check, asked_for, check_conditions, decide
from synthray.metric import METRICS

METRIC_ROWS = [
    {"step": "utility", "metric": "accuracy", "value": 0.8, "ci_low": 0.75, "ci_high": 0.85, "n": 400},
    {"step": "utility", "metric": "majority", "value": 0.25, "n": 400},
    {"step": "utility", "metric": "f1", "value": math.nan, "n": 0},
    {"step": "utility", "metric": "recall", "value": 0.1, "slice": "label=x"},
    {"step": "my-step", "metric": 'share of "a.b"', "value": 0.5},
    {"step": "large", "metric": "loss", "value": math.inf},
]


@pytest.fixture(scope="module")
def metrics() -> pa.Table:
    return pa.Table.from_pylist(METRIC_ROWS, schema=METRICS)


def verdict(metrics: pa.Table, condition: str) -> Check:
    return decide([condition], metrics)[0]


@pytest.mark.parametrize(
    ("condition", "passed"),
    [
        ("utility.accuracy.value > 0.79", True),
        ("utility.accuracy.value > 0.81", False),
        ("utility.accuracy.ci_low > utility.majority.value", True),
        ("utility.accuracy.ci_low < utility.majority.value", False),
        ("utility.accuracy.ci_high - utility.accuracy.ci_low < 0.11 AND utility.accuracy.n >= 400", True),
        ("utility.accuracy.value BETWEEN 0.9 AND 1", False),
        ("large.loss.value > 1e300", True),
        ('"my-step"."share of ""a.b""".value = 0.5', True),
    ],
)
def test_a_condition_compares_metrics(metrics: pa.Table, condition: str, passed: bool) -> None:
    found = verdict(metrics, condition)
    assert (found.condition, found.passed) == (condition, passed)


def test_a_check_shows_the_values_it_was_decided_on(metrics: pa.Table) -> None:
    found = verdict(metrics, "utility.accuracy.ci_low > utility.majority.value").found
    assert found == "utility.accuracy.ci_low = 0.75, utility.majority.value = 0.25"


@pytest.mark.parametrize(
    ("condition", "shown"),
    [
        ("utility.speed.value > 0", "missing"),
        ("nothing.accuracy.value > 0", "missing"),
        ("utility.majority.ci_low > 0", "missing"),
        ("utility.recall.value > 0", "missing"),
        ("utility.f1.value < 1", "nan"),
        ("NOT (utility.f1.value > 0.5)", "nan"),
        ("coalesce(utility.speed.value, 1) > 0", "missing"),
        ("coalesce(utility.f1.value, 1) >= 1", "nan"),
        ("utility.speed.value IS NULL", "missing"),
        ("true OR utility.speed.value > 0", "missing"),
    ],
    ids=[
        *("metric", "step", "field", "slice only", "nan", "not nan"),
        *("coalesce", "coalesce nan", "is null", "or true"),
    ],
)
def test_a_metric_that_is_missing_or_no_number_refuses_whatever_the_condition(
    metrics: pa.Table, condition: str, shown: str
) -> None:
    found = verdict(metrics, condition)
    assert found.passed is False
    assert found.found.endswith(f"= {shown}")


def test_a_condition_that_comes_out_null_refuses(metrics: pa.Table) -> None:
    assert verdict(metrics, "utility.accuracy.value > NULL").passed is False


def test_each_condition_has_its_verdict_in_order(metrics: pa.Table) -> None:
    conditions = ["utility.accuracy.value > 0.9", "utility.accuracy.value > 0.1"]
    assert [(one.condition, one.passed) for one in decide(conditions, metrics)] == [
        (conditions[0], False),
        (conditions[1], True),
    ]


def test_a_run_that_measured_nothing_is_refused() -> None:
    assert verdict(METRICS.empty_table(), "utility.accuracy.value > 0").passed is False


def test_no_condition_is_no_verdict() -> None:
    assert decide([], METRICS.empty_table()) == []


@pytest.mark.parametrize(
    "condition",
    [
        "utility.accuracy.ci_low > utility.majority.value",
        "coalesce(utility.accuracy.value, 0) > 0.5 OR diversity.distinct_1.n > 3",
        '"utility"."share of ""a.b""".value = 0.5',
    ],
)
def test_conditions_over_steps_that_measure_are_taken(condition: str) -> None:
    check_conditions([condition], dict.fromkeys(["utility", "diversity"], ()))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("utlity.accuracy.value > 0", "no step 'utlity' measures anything; did you mean 'utility'?"),
        ("zzz.accuracy.value > 0", "there is diversity, utility"),
        ("utility.accuracy.mean > 0", "'utility.accuracy.mean' must be step.metric.field"),
        ("utility.accuracy > 0", "'utility.accuracy' must be step.metric.field"),
        ("utility.accuracy.value.x > 0", "'utility.accuracy.value.x' must be step.metric.field"),
        ("1 > 0", "names no metric, such as utility.accuracy.ci_low"),
        ("utility.accuracy.value >", "syntax error"),
        ("utility.accuracy.value > 0; SELECT 1", "syntax error"),
        ("utility.accuracy.value > 0), (true", "must be one SQL expression"),
        ("utility.accuracy.value", "must be true or false, but is double"),
        ("lenght(utility.accuracy.value) > 0", 'Did you mean "length"'),
        ("utility.accuracy.value > random()", r"chance\("),
    ],
)
def test_a_condition_that_cannot_be_decided_is_found_before_the_run(condition: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check_conditions(
            ["utility.accuracy.value > 0", condition], dict.fromkeys(["utility", "diversity"], ())
        )
    assert str(caught.value).startswith("gate: ")


SLICES = pa.Table.from_pylist(
    [
        {"step": "utility", "metric": "f1", "value": 0.7, "slice": "label=a"},
        {"step": "utility", "metric": "f1", "value": 0.2, "slice": "label=b"},
        {"step": "utility", "metric": "F1", "value": 0.5},
        {"step": "faithful", "metric": "accuracy", "value": 0.9, "slice": "label=a"},
        {"step": "faithful", "metric": "accuracy", "value": math.nan, "slice": "label=b"},
    ],
    schema=METRICS,
)


@pytest.mark.parametrize(
    ("condition", "passed", "shown"),
    [
        ("utility.f1.lowest > 0.1", True, "0.2"),
        ("utility.f1.lowest > 0.3", False, "0.2"),
        ("utility.f1.highest < 0.8 AND utility.f1.value = 0.5", True, "0.7"),
        ("faithful.accuracy.lowest > 0", False, "nan"),
        ("faithful.accuracy.highest > 0", False, "nan"),
        ("faithful.accuracy.value > 0", False, "missing"),
    ],
)
def test_slices_are_judged_by_their_lowest_and_highest(condition: str, passed: bool, shown: str) -> None:
    found = verdict(SLICES, condition)
    assert found.passed is passed
    assert shown in found.found


def test_default_stands_for_the_conditions_of_the_steps_in_its_place() -> None:
    own = {
        "diversity": ("duplicates.value < 0.1",),
        "utility": ("accuracy.ci_low > majority.value", "f1.lowest > 0.05"),
        "my-step": ("loss.value < 1.5",),
        "quiet": (),
    }
    assert asked_for(["utility.f1.n > 3", "default", "utility.f1.n > 3"], own) == (
        "utility.f1.n > 3",
        "diversity.duplicates.value < 0.1",
        "utility.accuracy.ci_low > utility.majority.value",
        "utility.f1.lowest > 0.05",
        '"my-step".loss.value < 1.5',
    )


def test_default_without_a_step_that_measures_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.diversity"):
        asked_for(["default"], {"prompt": ()})


@pytest.mark.parametrize("step", ["select", "order", "default", "my-step", 'a"b'])
def test_an_operators_condition_holds_for_a_step_of_any_name(step: str) -> None:
    conditions = asked_for(["default"], {step: ("loss.value < 1",)})
    check_conditions(conditions, {step: ("loss",)})
    table = pa.Table.from_pylist([{"step": step, "metric": "loss", "value": 0.5}], schema=METRICS)
    assert decide(conditions, table)[0].passed
