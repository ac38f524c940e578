from pathlib import Path
from typing import Any

import pytest
import reported

from synthray import figure
from synthray.chart import PALETTE
from synthray.errors import InputError
from synthray.run import Run

FIGURES = {
    "funnel": figure.funnel,
    "seconds": figure.cost,
    "tokens": lambda run: figure.cost(run, "tokens"),
    "dollars": lambda run: figure.cost(run, "dollars"),
    "reasons": figure.reasons,
    "labels": figure.labels,
    "lengths": figure.lengths,
    "spread": lambda run: figure.lengths(run, by="label"),
    "coverage": lambda run: figure.coverage(run, "topic"),
    "bars": lambda run: figure.coverage(run, "topic", None),
    "metrics": figure.metrics,
    "bought": figure.bought,
    "sizes": figure.sizes,
    "map": figure.map,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reported.run(tmp_path_factory.mktemp("figure") / "run")


def values(chart: Any) -> list[dict[str, Any]]:
    """Return what the chart's first data are."""
    held = chart.to_dict()
    return next(iter(held["datasets"].values()))


def test_the_funnel_adds_up_to_the_rows(run: Run) -> None:
    rows = values(figure.funnel(run))
    for step in run.sql("SELECT * FROM funnel").to_pylist():
        found = {row["what"]: row["rows"] for row in rows if row["step"] == step["step"]}
        assert sum(found.values()) == step["rows_in"] + step["rows_made"]
        assert found.get("kept", 0) == step["rows_kept"]


def test_labels_and_lengths_and_the_map_count_every_row_with_one(run: Run) -> None:
    texts = run.sql("SELECT count(text) AS n FROM rows").to_pylist()[0]["n"]
    assert sum(row["rows"] for row in values(figure.labels(run))) == 40
    bars = values(figure.lengths(run))
    assert sum(row["rows"] for row in bars) == texts == len(values(figure.map(run))) == 38
    assert {row["what"] for row in bars} == {"kept", "rejected"}
    longest = run.sql("SELECT min(length(text)) AS low, max(length(text)) AS high FROM rows").to_pylist()[0]
    assert min(row["low"] for row in bars) <= longest["low"]
    assert max(row["high"] for row in bars) > longest["high"]


def test_the_histogram_holds_a_text_far_longer_than_the_rest_in_its_last_bar(tmp_path: Path) -> None:
    texts = [{"text": "x" * (10 + number % 50)} for number in range(500)] + [{"text": "x" * 90_000}]
    bars = values(figure.lengths(reported.bare(tmp_path / "run", texts)))
    assert len(bars) <= figure.BINS + 1
    assert max(row["high"] for row in bars) < 200
    assert sum(row["rows"] for row in bars) == 501


def test_coverage_has_a_nought_where_a_value_was_lost(tmp_path: Path, run: Run) -> None:
    rows = values(figure.coverage(run, "topic"))
    assert len(rows) == 7 * 3, "each value with each label"
    assert sum(row["rows"] for row in rows) == run.arrow().num_rows
    kept = run.sql("SELECT topic, label, count(*) AS n FROM dataset GROUP BY ALL").to_pylist()
    assert {(row["value"], row["label"], row["rows"]) for row in rows if row["rows"]} == {
        (row["topic"], row["label"], row["n"]) for row in kept
    }
    plain = values(figure.coverage(run, "topic", None))
    assert sum(row["rows"] for row in plain) == run.arrow().num_rows


def test_what_a_stage_took_is_told_in_three_ways(run: Run) -> None:
    assert {row["what"]: row["tokens"] for row in values(figure.cost(run, "tokens"))} == {
        "prompt": 360,
        "completion": 200,
    }
    assert [row["dollars"] for row in values(figure.cost(run, "dollars"))] == [0.25]
    assert len(values(figure.cost(run))) == 7
    with pytest.raises(InputError, match=r"of must be one of .*did you mean 'tokens'"):
        figure.cost(run, "token")  # type: ignore[arg-type]


def test_many_labels_are_ten_colours_and_a_grey(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": f"label {number % 30}"} for number in range(90)]
    chart = figure.map(reported.bare(tmp_path / "run", rows))
    colours = {row["colour"] for row in values(chart)}
    assert len(colours) == len(PALETTE)
    assert "21 others" in colours


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_the_data_stands_anywhere_but_among_values(tmp_path: Path, name: str) -> None:
    """Vega reads expressions and names of fields: neither may come from a model."""
    run = reported.run(tmp_path / "run", mark=reported.HOSTILE)
    held = FIGURES[name](run).to_dict()
    held.pop("datasets")

    def texts(value: Any, place: str = "") -> list[tuple[str, str]]:
        if isinstance(value, dict):
            return [one for key, item in value.items() for one in texts(item, f"{place}.{key}")]
        if isinstance(value, list):
            return [one for item in value for one in texts(item, place)]
        return [(place, value)] if isinstance(value, str) and reported.HOSTILE[:20] in value else []

    assert {place.rpartition(".")[2] for place, _ in texts(held)} <= {"domain"}


@pytest.mark.parametrize("name", FIGURES)
def test_a_run_without_a_row_has_empty_figures(tmp_path: Path, name: str) -> None:
    import pyarrow as pa

    schema = pa.schema([(one, pa.string()) for one in ("text", "label", "topic")])
    FIGURES[name](reported.bare(tmp_path / "run", [], schema=schema)).to_dict()


def test_one_row_is_counted_in_whole_numbers(tmp_path: Path) -> None:
    run = reported.bare(tmp_path / "run", [{"text": "one"}])
    held = figure.lengths(run).to_dict()["encoding"]
    assert held["y"]["axis"]["tickMinStep"] == held["x"]["axis"]["tickMinStep"] == 1


@pytest.mark.parametrize("name", ["labels", "lengths", "coverage", "map"])
def test_a_column_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, name: str) -> None:
    run = reported.bare(tmp_path / "run", [{"texts": "one", "lable": "a", "topics": "b"}])
    with pytest.raises(InputError, match="did you mean"):
        FIGURES[name](run)
