"""What the tests of models share: one endpoint in a process of its own, its script new for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest
from endpoint import Endpoint, Script

from synthray.model.openai import OpenAI


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthray.model.calls._FIRST_PAUSE_S", 0.001)


@pytest.fixture(scope="session")
def process() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(process: Endpoint) -> Endpoint:
    process.script(**asdict(Script()))
    process.reset()
    return process


@pytest.fixture
def model(endpoint: Endpoint) -> OpenAI:
    return OpenAI(name="m-1", base_url=endpoint.url)
