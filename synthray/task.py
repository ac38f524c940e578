"""The survey's task specification: what the dataset is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """What is written (`text`), as which labels (name -> meaning), by which `guideline`.

    It feeds prompts (`{{ task.text }}`), label columns (`task.labels`), schema enums and the dataset card.
    """

    text: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    guideline: str = ""
