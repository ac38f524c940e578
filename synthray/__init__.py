"""synthray: generate, curate and evaluate synthetic data; every row has a lineage, every reject a reason.

A pipeline is a list of steps; a step is an operator (a function from an Arrow table to an Arrow table) or
a SQL statement; every row keeps its identity, every rejected row its reason, and every model call is kept.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthray.errors import GateRefused, InputError, RunFailed, SynthrayError
    from synthray.frame import identified
    from synthray.operator import Context, Measure, Operator
    from synthray.pipeline import Pipeline
    from synthray.recipe import load
    from synthray.repeat import Repeat
    from synthray.run import Run
    from synthray.statement import Derive, Select, Union, Where
    from synthray.step import Step
    from synthray.table import Table
    from synthray.task import Task

_PUBLIC = {
    "Context": "operator",
    "Derive": "statement",
    "GateRefused": "errors",
    "InputError": "errors",
    "Measure": "operator",
    "Operator": "operator",
    "Pipeline": "pipeline",
    "Repeat": "repeat",
    "Run": "run",
    "RunFailed": "errors",
    "Select": "statement",
    "Step": "step",
    "SynthrayError": "errors",
    "Table": "table",
    "Task": "task",
    "Union": "statement",
    "Where": "statement",
    "identified": "frame",
    "load": "recipe",
}

__all__ = [
    "Context",
    "Derive",
    "GateRefused",
    "InputError",
    "Measure",
    "Operator",
    "Pipeline",
    "Repeat",
    "Run",
    "RunFailed",
    "Select",
    "Step",
    "SynthrayError",
    "Table",
    "Task",
    "Union",
    "Where",
    "identified",
    "load",
    "open",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import synthray` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'synthray' has no attribute {name!r}")
    return getattr(importlib.import_module(f"synthray.{_PUBLIC[name]}"), name)


def open(run: str) -> Run:
    """Open a run directory for reading: `synthray.open("runs/news").sql("SELECT * FROM dataset")`."""
    from synthray.run import Run

    return Run.read(run)
