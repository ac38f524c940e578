from typing import Any

import pyarrow as pa
import pytest
import reported

from synthray import measured
from synthray.metric import METRICS
from synthray.run import Run

NONE = float("nan")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with stages whose names do not sort as they follow each other."""
    maker = reported.Maker(tmp_path_factory.mktemp("measured") / "run", "measured")
    schema = pa.schema(reported.IDENTITY)
    rows = pa.Table.from_pylist([{"row_id": "a", "round": 0}], schema)
    maker.stage("table", "source.table", (maker.file(maker.next(), "rows", rows),), made=1)
    for step in ("where_z", "where_b"):
        maker.stage(step, "where")
    told = [
        ("fit", "mauve", 0.9, None, None),
        ("fit", "mauve_floor", 0.95, None, None),
        ("fit", "density", 0.5, 0.4, 0.6),
        ("fit", "density_floor", 0.7, None, None),
        ("fit", "vendi", 0.2, None, None),
        ("fit", "mine", 512.0, None, None),
        ("use", "recovery", 1.04, 0.9, 1.2),
        ("use", "gain", -0.1, -0.3, 0.1),
        ("use", "undefined", NONE, None, None),
        ("use", "alone_floor", 0.4, None, None),
    ]
    sliced = [
        ("bought", 0.01, 0.0, 0.02, "stage=where_b"),
        ("bought", 0.03, 0.01, 0.05, "stage=where_z"),
        ("bought_over_chance", 0.02, -0.01, 0.04, "stage=where_z"),
        ("bought_over_chance", NONE, None, None, "stage=where_b"),
        *(("accuracy", one / 1000, one / 2000, one / 900, f"size={one}") for one in (1000, 50, 200)),
        ("accuracy", NONE, None, None, "size=5000"),
        ("accuracy", 0.7, None, None, "stage=where_b"),
        ("f1", 0.7, None, None, "size=1"),
    ]
    lines = [(step, metric, value, low, high, 9, None) for step, metric, value, low, high in told]
    lines += [("use", metric, value, low, high, 9, named) for metric, value, low, high, named in sliced]
    table = pa.Table.from_pylist([dict(zip(METRICS.names, one, strict=True)) for one in lines], METRICS)
    for step in ("fit", "use"):
        part = table.filter(pa.compute.equal(table["step"], step))
        maker.stage(step, "evaluate.utility", metrics=(maker.file(maker.next(), "metrics", part),))
    return maker.end(name="measured")


def values(chart: Any, holds: str) -> list[dict[str, Any]]:
    return next(rows for rows in chart.to_dict()["datasets"].values() if holds in rows[0])


def test_a_metric_is_drawn_by_what_it_is_and_not_by_what_it_happens_to_be(run: Run) -> None:
    for metric in ("density", "density_floor", "vendi"):
        assert not measured.is_share(metric, 0.5)
        assert not measured.is_share(metric, 1.5)
    assert measured.is_share("recovery", 0.99)
    assert measured.is_share("recovery", 1.01)
    assert not measured.is_share("recovery", NONE)
    assert not measured.is_share("recovery", None)
    assert {row["name"] for row in values(measured.metrics(run), "name")} == {
        *("fit.mauve", "use.recovery", "use.gain", "use.alone_floor")
    }


def test_a_step_has_its_metrics_by_their_own_names_and_floors_in_their_rows(run: Run) -> None:
    chart = measured.metrics(run, "fit")
    assert [(row["name"], row["value"], row["floor"]) for row in values(chart, "name")] == [
        ("mauve", 0.9, 0.95)
    ]
    other = measured.metrics(run, "use")
    assert [row["name"] for row in values(other, "name")] == ["alone_floor", "gain", "recovery"]
    scale = other.to_dict()["layer"][1]["encoding"]["x"]["scale"]
    assert scale["domain"] == [-0.3, 1.2], "every dot and interval is on the axis"


def test_what_stages_bought_follows_the_stages(run: Run) -> None:
    chart = measured.bought(run)
    rows = values(chart, "name")
    assert [(row["name"], row["what"], row["value"]) for row in rows] == [
        ("where_z", "over the step before", 0.03),
        ("where_z", "over chance", 0.02),
        ("where_b", "over the step before", 0.01),
    ]
    drawn = chart.to_dict()["layer"]
    assert drawn[1]["encoding"]["y"]["scale"]["domain"] == ["where_z", "where_b"]
    assert (drawn[1]["mark"]["type"], drawn[2]["mark"]["type"]) == ("rule", "circle")
    assert (drawn[1]["encoding"]["x"]["field"], drawn[1]["encoding"]["x2"]["field"]) == ("ci_low", "ci_high")


def test_accuracy_by_size_goes_up_by_numbers_and_leaves_out_what_is_undefined(run: Run) -> None:
    rows = values(measured.sizes(run), "size")
    assert [(row["size"], row["value"]) for row in rows] == [(50, 0.05), (200, 0.2), (1000, 1.0)]
