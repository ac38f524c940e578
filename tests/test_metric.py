import math

import pyarrow as pa
import pytest

from synthray.metric import MEASUREMENT, METRICS, measurements


def test_what_a_measurement_leaves_out_is_null() -> None:
    table = measurements([{"metric": "accuracy", "value": 0.5}])
    assert table.to_pylist() == [
        {"metric": "accuracy", "value": 0.5, "ci_low": None, "ci_high": None, "n": None, "slice": None}
    ]


@pytest.mark.parametrize("rows", [[], [{"metric": "a", "value": 1, "n": 2, "slice": "label=x"}]])
def test_measurements_have_one_schema_whatever_they_hold(rows: list[dict[str, object]]) -> None:
    assert measurements(rows).schema == MEASUREMENT


def test_a_measurement_that_is_not_a_number_stays_that_and_is_not_null() -> None:
    value = measurements([{"metric": "a", "value": math.nan}])["value"][0].as_py()
    assert value is not None
    assert math.isnan(value)


def test_a_measurement_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        measurements([{"metric": "a", "value": "high"}])


def test_the_metrics_file_is_the_step_and_the_measurement() -> None:
    assert METRICS.names == ["step", *MEASUREMENT.names]
    assert METRICS.field("step").type == pa.string()
