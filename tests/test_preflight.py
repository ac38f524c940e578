"""What a cluster's machines lack is told before any work, with the machines' names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from synthray import cluster, preflight
from synthray.errors import InputError, RunError
from synthray.model.openai import OpenAI
from synthray.recipe import load
from synthray.run import Run

if TYPE_CHECKING:
    from synthray.pipeline import Pipeline

KEYED = """
name: keyed
task: {labels: {a: first}}
model: {language: fake}
models: {judge: {language: openai, name: m, base_url: "http://127.0.0.1:9/v1", api_key_env: JUDGE_KEY}}
steps:
  - source.conditions: {rows: 2, columns: {label: task.labels}}
  - repeat:
      max: 1
      keep: replace
      steps:
        - generate.prompt: {template: "{{ label }}", writes: text}
          model: judge
          as: inner
"""


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Two machines with variables of their own, on one of which no folder is shared."""
    environments: dict[str, dict[str, str]] = {"10.0.0.1": {"JUDGE_KEY": "k"}, "10.0.0.2": {"JUDGE_KEY": "k"}}

    def on_each(function: Callable[..., Any], languages: Any, shared: Path | None) -> dict[str, Any]:
        answers = {}
        for name, variables in environments.items():
            with monkeypatch.context() as there:
                there.delenv("JUDGE_KEY", raising=False)
                for variable, value in variables.items():
                    there.setenv(variable, value)
                hidden = shared and shared.with_name("elsewhere") if variables.get("ALONE") else shared
                answers[name] = function(languages, hidden)
        return answers

    monkeypatch.setattr(cluster, "is_joined", lambda: True)
    monkeypatch.setattr(cluster, "on_each_node", on_each)
    monkeypatch.setenv("JUDGE_KEY", "k")
    return environments


@pytest.fixture
def keyed(tmp_path: Path) -> tuple[Run, Pipeline]:
    path = tmp_path / "keyed.yaml"
    path.write_text(KEYED)
    run = Run(tmp_path / "run")
    run.root.mkdir()
    return run, load(str(path))


def test_where_all_have_all_nothing_is_said_or_left(
    machines: dict[str, dict[str, str]], keyed: tuple[Run, Pipeline]
) -> None:
    preflight.require(*keyed)
    assert list(keyed[0].root.iterdir()) == []


def test_a_key_that_a_machine_lacks_is_told_with_its_name(
    machines: dict[str, dict[str, str]], keyed: tuple[Run, Pipeline]
) -> None:
    del machines["10.0.0.2"]["JUDGE_KEY"]
    with pytest.raises(
        InputError, match=r"^on 10\.0\.0\.2: model: the environment variable JUDGE_KEY is not"
    ):
        preflight.require(*keyed)
    assert list(keyed[0].root.iterdir()) == []


def test_a_folder_that_a_machine_does_not_share_is_told_with_the_cure(
    machines: dict[str, dict[str, str]], keyed: tuple[Run, Pipeline]
) -> None:
    machines["10.0.0.1"]["ALONE"] = "1"
    cure = r"not on 10\.0\.0\.1\); name one mounted on all by --out, or s3://bucket/run"
    with pytest.raises(RunError, match=cure):
        preflight.require(*keyed)


def test_the_models_of_loops_and_tables_are_asked_for(keyed: tuple[Run, Pipeline]) -> None:
    pipeline = keyed[1]
    assert [type(one) for one in preflight._asked(pipeline)] == [OpenAI]
    outer = replace(pipeline, steps=pipeline.steps[:1], tables={"inner": pipeline})
    assert [type(one) for one in preflight._asked(outer)] == [OpenAI]


def test_without_a_cluster_nothing_is_asked_and_ray_is_not_started(
    keyed: tuple[Run, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "start", lambda: pytest.fail("Ray was started"))
    preflight.require(*keyed)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:6379", "ray://127.0.0.1:9"])
def test_an_address_where_nothing_listens_is_told_at_once(address: str) -> None:
    program = "from synthray import cluster; cluster.start()"
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"RAY_ADDRESS={address}: no Ray cluster answers there" in done.stderr
    assert "unset RAY_ADDRESS to work on this machine" in done.stderr
