"""Templates: Jinja in its sandbox over a row's columns and the task; what they read and what they give."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.errors import InputError, near
from synthray.task import Task

if TYPE_CHECKING:
    import jinja2

SOURCE = Path(__file__)
"""For the fingerprints of operators whose prompts are made here."""

_TASK = tuple(item.name for item in fields(Task))


def check(templates: Sequence[str], columns: Iterable[str]) -> None:
    """Raise an InputError when one of `templates` does not parse, or reads the task as what it is not."""
    named = frozenset().union(*map(variables, templates))
    for name in sorted(frozenset().union(*map(_task_parts, templates))):
        if name not in _TASK:
            raise InputError(f"the template's task.{name} does not exist{near(name, _TASK)}")
    for name in sorted(named & {"labels", "guideline"} - set(columns)):
        raise InputError(f"the template's {name!r} must be written task.{name}")


@functools.lru_cache(maxsize=64)
def variables(template: str) -> frozenset[str]:
    """Return the names that a template reads; InputError when it does not parse or asks for what is not."""
    from jinja2 import TemplateSyntaxError, meta, nodes

    try:
        tree = _environment().parse(template)
    except TemplateSyntaxError as error:
        raise InputError(f"the template does not parse: line {error.lineno}: {error.message}") from None
    # Jinja itself speaks of a missing one inside an `if` only when a row gets there.
    for kind, known in ((nodes.Filter, _environment().filters), (nodes.Test, _environment().tests)):
        for node in tree.find_all(kind):
            if node.name not in known:
                raise InputError(
                    f"the template's line {node.lineno}: Jinja has no {kind.__name__.lower()} "
                    f"{node.name!r}{near(node.name, known)}"
                )
    return frozenset(meta.find_undeclared_variables(tree))


def rendered(template: str, row: Mapping[str, Any], task: Task) -> str:
    """Return a template filled with a row's columns and `task`; raises what a filter or a lookup raises."""
    return _compiled(template).render({**row, "task": task})


@functools.lru_cache(maxsize=64)
def _task_parts(template: str) -> frozenset[str]:
    """Return what a template reads of the task."""
    from jinja2 import nodes

    found = _environment().parse(template).find_all(nodes.Getattr)
    return frozenset(
        one.attr for one in found if isinstance(one.node, nodes.Name) and one.node.name == "task"
    )


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.cache
def _environment() -> jinja2.Environment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    # What they give differs from run to run, so no kept call would be found again.
    del environment.filters["random"], environment.globals["lipsum"]
    return environment
