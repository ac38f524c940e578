"""What differs between two runs: settings by path, the funnel, measurements and datasets of real runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from synthray.diff import _flat, diff, sections
from synthray.errors import InputError
from synthray.recipe import load
from synthray.side import Settings

if TYPE_CHECKING:
    from synthray.pipeline import Pipeline

FAST = Settings(resamples=99)

RECIPE = """
name: small
seed: 5
task: {labels: {a: first, b: second}}
model: {language: fake, answers: [one two three, four five six seven, eight nine, ten eleven twelve]}
steps:
  - source.table: {path: seeds.jsonl}
  - generate.prompt: {template: "{{ topic }}", writes: text, n: 3}
  - where: length(text) > 10
    reason: length
  - evaluate.diversity: {text: text}
"""


def flat(value: Any) -> dict[str, Any]:
    return dict(_flat(value))


def test_settings_are_named_by_path_and_steps_by_name() -> None:
    recipe = {
        "seed": 1,
        "steps": [
            {"source.table": {"path": "x"}},
            {"where": "a > 1", "reason": "r"},
            {"where": "b > 1"},
            {"curate.embedding": {"text": "text"}, "as": "vectors"},
        ],
        "tables": {"t": {"steps": [{"source.table": {"path": "y"}}]}},
        "gate": ["x.y.value > 1"],
    }
    assert flat(recipe) == {
        "seed": 1,
        "steps.table.source.table.path": "x",
        "steps.where.where": "a > 1",
        "steps.where.reason": "r",
        "steps.where 2.where": "b > 1",
        "steps.vectors.curate.embedding.text": "text",
        "steps.vectors.as": "vectors",
        "steps (order)": "table, where, where 2, vectors",
        "tables.t.steps.table.source.table.path": "y",
        "tables.t.steps (order)": "table",
        "gate": '["x.y.value > 1"]',
    }


def test_two_files_are_compared_without_a_recipe(tmp_path: Path) -> None:
    for name, words in (("a", 3), ("b", 9)):
        lines = [json.dumps({"text": f"{name} {number} " + "word " * words}) for number in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    found = diff(tmp_path / "a.jsonl", tmp_path / "b.jsonl", FAST)
    assert "recipe" not in found and not found["same"]
    assert found["verdict"].startswith("The datasets differ more than by chance in mean_words")
    assert {title for title, _ in sections(found)} == {
        "Rows of the datasets, by row_id",
        "Rows",
        "Labels",
        "The datasets (difference is B less A)",
    } - {"Labels"}
    same = diff(tmp_path / "a.jsonl", tmp_path / "a.jsonl", FAST)
    assert same["same"] and same["verdict"] == "Nothing differs: 40 rows are the same on both sides."
    assert list(sections(same)) == []


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that runs the recipe, with parts replaced and settings overridden."""

    def run(name: str, *settings: str, **replaced: str) -> Path:
        lines = [json.dumps({"topic": f"topic {number}", "label": "ab"[number % 2]}) for number in range(30)]
        (tmp_path / "seeds.jsonl").write_text("\n".join(lines))
        text = RECIPE
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / f"{name}.yaml").write_text(text)
        pipeline: Pipeline = load(tmp_path / f"{name}.yaml", settings=settings)
        pipeline.run(tmp_path / name)
        return tmp_path / name

    return run


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_runs_are_compared_in_all_that_they_are(made: Callable[..., Path]) -> None:
    a = made("a")
    assert diff(a, a, FAST)["same"]
    assert diff(a, made("blocks", "blocks=7"), FAST)["same"], "blocks change no result"

    other = made("other", "seed=6")
    found = diff(a, other, FAST)
    assert found["recipe"] == [{"setting": "seed", "a": 5, "b": 6}]
    assert "30 and 28 roots (67 and 68 rows); 28 are of both, so that each swaps" in " ".join(found["notes"])
    assert found["verdict"].startswith(
        "1 setting differs; no metric that was tested differs by more than chance"
    )
    assert f"{found['rows']['changed_text']} of 49 rows on both sides have another text" in found["verdict"]
    assert found["rows"]["changed_text"] > 0, "rows of one lineage have one row_id in both runs"

    strict = made("strict", **{"length(text) > 10": "length(text) > 14"})
    found = diff(a, strict, FAST)
    assert {"setting": "recipe.steps.where.where", "a": "length(text) > 10", "b": "length(text) > 14"} in (
        found["recipe"]
    )
    funnel = {row["step"]: row for row in found["funnel"]}
    where = next(row for step, row in funnel.items() if "where" in step or step == "length")
    assert where["rows_rejected_b"] > where["rows_rejected_a"] > 0
    assert funnel["prompt"]["rows_made_a"] == funnel["prompt"]["rows_made_b"]
    reasons = {(row["step"], row["reason"]): row for row in found["reasons"]}
    assert next(iter(reasons.values()))["rows_b"] == where["rows_rejected_b"]
    metrics = {row["metric"]: row for row in found["metrics"]}
    assert metrics["mean_words"]["value_a"] < metrics["mean_words"]["value_b"]
    rejected = {row["label"]: row for row in found["rejected"]}
    assert rejected["a"]["rejected_b"] > rejected["a"]["rejected_a"]
    assert found["rows"]["gained"] == 0 and found["rows"]["lost"] > 0
    tests = {row["metric"]: row for row in found["tests"]}
    assert tests["mean_words"]["differs"] and not tests["labels"]["differs"]

    shutil.copytree(a, a.with_name("renamed"))
    state = json.loads((a / "run.json").read_text())
    (a.with_name("renamed") / "run.json").write_text(json.dumps({**state, "name": "another"}))
    assert (
        "the runs are of different recipes: small and another"
        in (diff(strict, a.with_name("renamed"), FAST)["notes"])
    )
    with pytest.raises(InputError, match="no column 'body'"):
        diff(a, other, Settings(text="body"))
