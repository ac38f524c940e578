"""Templates: Jinja in its sandbox over a row's columns and the task; what they read and what they give.

The sandbox bounds a `range`, but neither loops in loops nor what grows from turn to turn. Here each turn of a
loop and each call is a step, of which a text has so many, and what it holds has so many characters.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from synthray.errors import InputError, near
from synthray.task import Task

if TYPE_CHECKING:
    import jinja2
    from jinja2 import nodes

SOURCE = Path(__file__)
"""For the fingerprints of operators whose prompts are made here."""

MOST_STEPS = 200_000
LONGEST = 8 << 20
"""How many steps a text may take, and how many characters (or a list items) it and what it holds may have."""

_SECONDS = 5.0
"""Steps may be slow each, such as filters over long lists: by then it will never end."""

_TASK = tuple(item.name for item in fields(Task))


def check(templates: Sequence[str], columns: Iterable[str], task: Task | None = None) -> None:
    """Raise an InputError when one of `templates` does not parse, or reads the task as what it is not.

    With the `task`, also when one that reads no column cannot be filled: no row could be asked.
    """
    named = frozenset().union(*map(variables, templates))
    for name in sorted(frozenset().union(*map(_task_parts, templates))):
        if name not in _TASK:
            raise InputError(f"the template's task.{name} does not exist{near(name, _TASK)}")
    for name in sorted(named & {"labels", "guideline"} - set(columns)):
        raise InputError(f"the template's {name!r} must be written task.{name}")
    for template in templates if task is not None else ():
        assert task is not None
        if not variables(template) - {"task"}:
            try:
                rendered(template, {}, task)
            except Exception as error:  # a filter raises what it likes
                raise InputError(f"the template cannot be filled: {error or type(error).__name__}") from None


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
    """Return a template filled with a row's columns and `task`; raises what a filter or a lookup raises.

    Raises a ValueError for a text that takes more than MOST_STEPS or is longer than LONGEST.
    """
    pieces, size = [], 0
    _NOW.steps, _NOW.end = 0, time.monotonic() + _SECONDS
    for piece in _compiled(template).generate({**row, "task": task}):
        size += len(piece)
        if size > LONGEST:
            raise _too_long(f"more than {LONGEST} characters")
        pieces.append(piece)
    return "".join(pieces)


class _Now(threading.local):
    """The text that a thread is making."""

    steps = 0
    end = 0.0


_NOW = _Now()


def _step() -> None:
    """Count a step."""
    _NOW.steps += 1
    if _NOW.steps > MOST_STEPS:
        raise ValueError(
            f"the template takes more than {MOST_STEPS} steps (turns of its loops, and calls); let its loops "
            "end sooner, such as {% for one in many[:20] %}"
        )
    if time.monotonic() > _NOW.end:
        raise ValueError(f"the template was not done after {_SECONDS:g} s; let it do less")


def _hold(*values: Any) -> None:
    """Look at how large what a text goes on with is."""
    for value in values:
        if isinstance(value, str | list | tuple) and len(value) > LONGEST:
            raise _too_long(f"a value of {len(value)} characters or items")


def _too_long(what: str) -> ValueError:
    return ValueError(
        f"the template makes {what}, and {LONGEST} is the most; cut what it holds, by text[:1000]"
    )


def _binop(operator: str, left: Any, right: Any) -> None:
    """Refuse what has no end and is made in one go, such as a text times 10 ** 10."""
    size = 0
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        size = left.bit_length() * max(right, 0)
    for one, other in ((left, right), (right, left)):
        if operator == "*" and isinstance(one, str | list | tuple) and isinstance(other, int):
            size = len(one) * other
    if size > LONGEST:
        raise _too_long(f"a value of {size} characters, items or bits")


def turns(many: Iterable[Any]) -> Iterator[Any]:
    """Yield what a loop goes through, each a step; put into every loop of a template."""
    for one in many:
        _step()
        yield one


def held(*_: Any) -> None:
    """Do nothing; being called with what a `set` has set, it is looked at. Put behind every `set`."""


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
    from jinja2 import StrictUndefined, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    class Counted(NodeTransformer):
        """Counts the turns of each loop, and looks at what each `set` has set."""

        def visit_For(self, node: nodes.For) -> nodes.Node:
            self.generic_visit(node)
            node.iter = _called(turns, node, cast("nodes.Expr", node.iter))
            return node

        def visit_Assign(self, node: nodes.Assign | nodes.AssignBlock) -> list[nodes.Node]:
            self.generic_visit(node)
            return [node, nodes.ExprStmt(_called(held, node, *_read(node.target)), lineno=node.lineno)]

        visit_AssignBlock = visit_Assign

    class Environment(ImmutableSandboxedEnvironment):
        """Jinja in its sandbox, which counts."""

        intercepted_binops = frozenset({"*", "**"})

        def _generate(self, source: nodes.Template, *args: Any, **named: Any) -> str:
            return super()._generate(Counted().visit(source), *args, **named)

        def call(self, context: Any, called: Any, /, *args: Any, **named: Any) -> Any:
            _step()
            _hold(*args, *named.values())
            made = super().call(context, called, *args, **named)
            _hold(made)
            return made

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _binop(operator, left, right)
            return super().call_binop(context, operator, left, right)

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=False)
    # What they give differs from run to run, so no kept call would be found again.
    del environment.filters["random"], environment.globals["lipsum"]
    return environment


def _called(function: Callable[..., Any], node: nodes.Node, *given: nodes.Expr) -> nodes.Call:
    """Return a call of a function of this module, at a node's place."""
    from jinja2 import nodes

    name = nodes.ImportedName(f"{__name__}.{function.__name__}")
    call = nodes.Call(name, list(given), [], None, None)
    call.set_lineno(node.lineno).set_environment(_environment())
    return call


def _read(target: nodes.Node) -> list[nodes.Expr]:
    """Return what reads a target of `set`."""
    from jinja2 import nodes

    if isinstance(target, nodes.Tuple):
        return [read for one in target.items for read in _read(one)]
    name = nodes.Name(getattr(target, "name", ""), "load")
    return [nodes.Getattr(name, target.attr, "load") if isinstance(target, nodes.NSRef) else name]
