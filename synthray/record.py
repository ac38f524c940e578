"""What a finished stage left: its files, and what became of its rows. `stage.json` is written last."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

COUNTS = ("rows_in", "rows_made", "rows_kept", "rows_rejected", "rows_failed", "rows_expanded")


@dataclass(frozen=True)
class StepCount:
    """What became of the rows in one step."""

    step: str
    operator: str
    rows_in: int = 0
    rows_made: int = 0
    rows_kept: int = 0
    rows_rejected: int = 0
    rows_failed: int = 0
    rows_expanded: int = 0

    def conserved(self) -> bool:
        """Say whether every row is accounted for."""
        out = self.rows_kept + self.rows_rejected + self.rows_failed + self.rows_expanded
        return self.rows_in + self.rows_made == out


@dataclass(frozen=True)
class StageRecord:
    """What `stage.json` holds; paths are relative to the run directory.

    `added` are groups of files with more columns of the rows in `files`, joined by row_id (see Table).
    """

    folder: str
    fingerprint: str
    before: str | None
    steps: tuple[StepCount, ...]
    files: tuple[str, ...]
    added: tuple[tuple[str, ...], ...] = ()
    rejects: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    seconds: float = 0.0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    @property
    def rows_kept(self) -> int:
        """How many rows go on."""
        return self.steps[-1].rows_kept

    def totals(self) -> dict[str, int]:
        """Return the counts of the whole stage."""
        total = {name: sum(getattr(step, name) for step in self.steps) for name in COUNTS}
        total["rows_in"] = self.steps[0].rows_in
        total["rows_kept"] = self.rows_kept
        return total

    def write(self, root: Path) -> None:
        """Commit the stage."""
        text = json.dumps({**asdict(self), **self.totals()}, indent=1)
        replace_file(root / "stages" / self.folder / "stage.json", text)

    @classmethod
    def read(
        cls, root: Path, folder: str, lacks: Callable[[Iterable[str]], Sequence[str]] | None = None
    ) -> Self | None:
        """Return the committed stage, or None when it is not whole; `lacks` says which files are missing."""
        path = root / "stages" / folder / "stage.json"
        if not path.is_file():
            return None
        try:
            record = cls._parsed(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError):
            return None
        found = (*record.listed(), *itertools.chain(*record.added))
        whole = not lacks(found) if lacks else all((root / file).is_file() for file in found)
        return record if whole else None

    def listed(self) -> tuple[str, ...]:
        """Return all files but `added`."""
        return (*self.files, *self.rejects, *self.failures, *self.metrics, *self.outputs)

    @classmethod
    def _parsed(cls, held: dict[str, Any]) -> Self:
        steps = tuple(StepCount(**step) for step in held["steps"])
        names = [name for name in cls.__dataclass_fields__ if name not in ("steps", "added")]
        lists = {name: tuple(held[name]) for name in names if isinstance(held[name], list)}
        added = tuple(tuple(group) for group in held.get("added", ()))
        for file in itertools.chain(*lists.values(), *added):
            if Path(file).is_absolute() or ".." in Path(file).parts:
                raise ValueError(f"{file} is outside of the run")
        return cls(**{name: held[name] for name in names} | lists, steps=steps, added=added)


def replace_file(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
