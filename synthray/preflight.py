"""What every machine of a cluster must have before any work: synthray, the models' keys, the run's folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synthray import cluster
from synthray.errors import InputError, RunError
from synthray.operator import Operator
from synthray.repeat import Repeat
from synthray.table import Table

if TYPE_CHECKING:
    from synthray.model.language import Language
    from synthray.pipeline import Pipeline
    from synthray.run import Run


def require(run: Run, pipeline: Pipeline) -> None:
    """Raise an InputError that names the machines on which something is missing.

    Workers have their own environment and files: that the driver has a key says nothing of them. Where no
    cluster is joined nothing is asked.
    """
    if not cluster.is_joined():
        return
    needed: list[Language] = []
    for language in _asked(pipeline):
        needed += [] if language in needed else [language]
    shared = None if run.remote else run.root / f".shared-{uuid.uuid4().hex}"
    if shared:
        shared.touch()
    try:
        found = cluster.on_each_node(_missing, needed, shared)
    finally:
        if shared:
            shared.unlink()
    told: dict[str, list[str]] = {}
    for node, missing in found.items():
        for one in missing:
            told.setdefault(one, []).append(node)
    if _NO_FOLDER in told:
        raise RunError(
            f"{run.root} is not on a disk that all machines of the cluster share (not on "
            f"{', '.join(told[_NO_FOLDER])}); name one mounted on all by --out, or s3://bucket/run"
        )
    for what, nodes in told.items():
        raise InputError(f"on {', '.join(nodes)}: {what}")


_NO_FOLDER = "no folder"


def _asked(pipeline: Pipeline) -> Iterator[Language]:
    """Yield the models that the steps ask, those of loops and of tables' own pipelines too."""
    for step in pipeline.named():
        if isinstance(step.work, Repeat):
            yield from _asked(pipeline.inside(step, 1))
        elif isinstance(step.work, Operator) and step.work.context.language:
            yield from (step.work.context.language, *step.work.context.models.values())
    for name, table in pipeline.tables.items():
        if not isinstance(table, Table):
            yield from _asked(table.of(name, pipeline))


def _missing(languages: Sequence[Language], shared: Path | None) -> list[str]:
    """Return what this machine lacks."""
    missing = [] if shared is None or shared.exists() else [_NO_FOLDER]
    for language in languages:
        try:
            language.check()
        except InputError as error:
            missing.append(str(error))
    return missing
