"""A recipe is a pipeline as YAML; what is wrong with one is said with its line and the cure."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from synthray import cookbook
from synthray.errors import InputError, RecipeError, near
from synthray.gate import DEFAULT
from synthray.model.language import Language
from synthray.operator import Operator, find_operator
from synthray.pipeline import Pipeline
from synthray.query import SQL
from synthray.repeat import Repeat
from synthray.run import RELATIONS
from synthray.statement import Derive, Select, Statement, Union, Where
from synthray.step import Step
from synthray.table import Table
from synthray.task import Task

LANGUAGES = ("embedded", "embedding", "fake", "openai")
_KEYS = (
    "name",
    "seed",
    "task",
    "model",
    "models",
    "prices",
    "tables",
    "steps",
    "gate",
    "max_failed",
    "blocks",
)
_STATEMENTS = ("where", "derive", "sql", "union")
_LOOP = tuple(item.name for item in dataclasses.fields(Repeat) if item.name not in ("step", "schemas"))
_BESIDE = {
    "operator": ("as", "when", "model"),
    "where": ("as", "when", "reason"),
    "derive": ("as", "when"),
    "sql": ("as", "reason"),
    "union": ("as",),
    "repeat": ("as",),
}
_MOST_NODES = 100_000
_DEEPEST = 50

_Path = tuple[str | int, ...]


def load(recipe: str | Path, *, rows: int | None = None, settings: Sequence[str] = ()) -> Pipeline:
    """Return the pipeline of a recipe: a YAML file, or the name of a shipped one such as 'quickstart'.

    `rows` overrides how many rows the first step makes; `settings` are overrides like 'prompt.n=3' (a step's
    name and setting) or 'seed=8'. Raises RecipeError, with the line where one is known.
    """
    path = cookbook.find(str(recipe))
    source = _Source.read(path)
    for setting in settings:
        source.override(setting)
    if rows is not None:
        source.limit_rows(rows)
    return _Builder(source).pipeline()


@dataclasses.dataclass
class _Source:
    """A recipe's tree and the line of each of its parts."""

    path: Path
    tree: dict[str, Any]
    lines: dict[_Path, int]

    @classmethod
    def read(cls, path: Path) -> _Source:
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
        except yaml.YAMLError as error:
            raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError(f"{path}: a recipe is a mapping with the keys {', '.join(_KEYS)}")
        lines: dict[_Path, int] = {}
        tree = _tree(root, (), lines, path)
        return cls(path, tree, lines)

    def line(self, *place: str | int) -> int | None:
        for length in range(len(place), 0, -1):
            if place[:length] in self.lines:
                return self.lines[place[:length]]
        return None

    def steps(self) -> list[Any]:
        steps = self.tree.get("steps")
        return steps if isinstance(steps, list) else []

    def limit_rows(self, rows: int) -> None:
        for step in self.steps()[:1]:
            if isinstance(step, dict):
                for key, settings in step.items():
                    if key.startswith("source.") and isinstance(settings, dict):
                        settings["rows"] = rows
                        return
        raise RecipeError("--rows needs a recipe that starts with a source step")

    def override(self, setting: str) -> None:
        """Set 'a.b=value' in the tree; the value is YAML."""
        target, equals, text = setting.partition("=")
        names = target.strip().split(".")
        if not equals or not all(names):
            raise RecipeError(f"--set {setting!r}: must be a.b=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise RecipeError(f"--set {setting!r}: the value is not YAML") from None
        if names[0] in _KEYS:
            place: Any = self.tree
        else:
            place, names = self._step(setting, names)
        for name in names[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise RecipeError(f"--set {setting!r}: {name} has no settings")
        place[names[-1]] = value

    def _step(self, setting: str, names: list[str]) -> tuple[dict[str, Any], list[str]]:
        known: dict[str, tuple[dict[str, Any], str]] = {}
        for prefix, step in _every(self.tree):
            key = next((str(one) for one in step if str(one) not in _BESIDE["where"]), "")
            name = step.get("as") or step.get("reason") or key.rpartition(".")[2]
            known.setdefault(f"{prefix}{name}", (step, key))
        if names[0] not in known or len(names) < 2:
            raise RecipeError(
                f"--set {setting!r}: no key or step {names[0]!r}{near(names[0], [*_KEYS, *known])}"
            )
        step, key = known[names[0]]
        if names[1] in (key, *_BESIDE.get(key, _BESIDE["operator"])):
            return step, names[1:]
        if not isinstance(step[key], dict):
            raise RecipeError(f"--set {setting!r}: the step has {', '.join(step)}")
        return step[key], names[1:]


def _every(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield the steps of a tree with what their names begin with: then those of its loops, then of tables."""
    held, tables = tree.get("steps"), tree.get("tables")
    steps = [step for step in held if isinstance(step, dict) and step] if isinstance(held, list) else []
    yield from ((prefix, step) for step in steps)
    for step in steps:
        if isinstance(step.get("repeat"), dict):
            yield from _every(step["repeat"], prefix)
    for name, table in tables.items() if isinstance(tables, dict) else ():
        if isinstance(table, dict):
            yield from _every(table, f"{name}_")


def _expression(value: Any) -> Any:
    """Return the SQL of what YAML reads as a number or truth value: `derive: {weight: 1}`."""
    return str(value).lower() if isinstance(value, bool | int | float) else value


def _tree(node: yaml.Node, place: _Path, lines: dict[_Path, int], path: Path) -> Any:
    """Return the value of a YAML node, noting lines; aliases cannot make it larger than allowed."""
    lines[place] = node.start_mark.line + 1
    if len(lines) > _MOST_NODES:
        raise RecipeError(f"{path}: too large (over {_MOST_NODES} values, aliases counted)")
    if len(place) > _DEEPEST:
        raise RecipeError(f"{path}, line {lines[place]}: nested deeper than {_DEEPEST} levels")
    if isinstance(node, yaml.MappingNode):
        held: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key: Any = _scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str | int | float | bool):
                line = key_node.start_mark.line + 1
                raise RecipeError(f"{path}, line {line}: a key must be a text or a number")
            if key in held:
                raise RecipeError(f"{path}, line {key_node.start_mark.line + 1}: {key!r} is there twice")
            held[key] = _tree(value_node, (*place, str(key)), lines, path)
        return held
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item, (*place, number), lines, path) for number, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    constructor = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise RecipeError(f"line {node.start_mark.line + 1}: {error}") from None


class _Builder:
    """Makes the pipeline of a recipe's tree."""

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.base = source.path.parent

    def pipeline(self) -> Pipeline:
        tree = self.source.tree
        for key in tree:
            if key not in _KEYS:
                raise self.error(f"no key {key!r} in a recipe{near(key, _KEYS)}", key)
        name = self.typed("name", str, self.source.path.stem)
        if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
            raise self.error(
                f"name {name!r}: must be letters, digits, -, _ and . (it names the directory)", "name"
            )
        blocks = self.typed("blocks", int, 0)
        if blocks < 0 or ("blocks" in tree and blocks < 1) or blocks > 100_000:
            raise self.error(f"blocks must be from 1 to 100000, but is {blocks}", "blocks")
        max_failed = self.typed("max_failed", float, 0.05)
        if not 0 <= max_failed <= 1:
            raise self.error(f"max_failed must be from 0 to 1, but is {max_failed}", "max_failed")
        gate = [DEFAULT] if tree.get("gate") == DEFAULT else self.typed("gate", list, [])
        if not all(isinstance(line, str) for line in gate):
            raise self.error(
                "gate: each line must be default, or a condition such as utility.accuracy.ci_low > 0.5",
                "gate",
            )
        return Pipeline(
            steps=self.steps(tree.get("steps"), "steps"),
            name=name,
            seed=self.typed("seed", int, 0),
            task=self.task(),
            model=self.language(tree.get("model", {"language": "embedded"}), "model"),
            models={
                key: self.language(value, "models", key) for key, value in self.mapping("models").items()
            },
            tables=self.tables(self.mapping("tables"), "tables"),
            gate=tuple(gate),
            max_failed=max_failed,
            blocks=blocks or None,
            recipe=tree,
        )

    # Parts.

    def task(self) -> Task:
        held = self.mapping("task")
        for key in held:
            if key not in ("text", "labels", "guideline"):
                raise self.error(
                    f"task: no key {key!r}{near(key, ('text', 'labels', 'guideline'))}", "task", key
                )
        labels = held.get("labels") or {}
        if isinstance(labels, list):
            labels = dict.fromkeys(labels, "")
        if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels):
            raise self.error("task.labels must map each label (a text) to its meaning", "task", "labels")
        meanings = {name: str(meaning or "") for name, meaning in labels.items()}
        return Task(str(held.get("text") or ""), meanings, str(held.get("guideline") or ""))

    def language(self, held: Any, *place: str) -> Language:
        if not isinstance(held, dict):
            raise self.error(f"must be settings such as {{language: embedded}}, but is {held!r}", *place)
        name = held.get("language", "embedded")
        if name not in LANGUAGES:
            raise self.error(f"no language {name!r}{near(str(name), LANGUAGES)}", *place, "language")
        module = importlib.import_module(f"synthray.model.{name}")
        found = next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Language) and value.__module__ == module.__name__
        )
        settings = {key: value for key, value in held.items() if key != "language"}
        if settings.get("price") is None:
            price = self.prices().get(str(settings.get("name") or name))
            settings |= {} if price is None else {"price": price}
        made = typing.cast("Language", self.built(found, settings, f"model {name}", place))
        try:
            made.prices()
        except InputError as error:
            raise self.error(str(error), *place, "price") from None
        return made

    def prices(self) -> Mapping[str, Any]:
        """Return what models cost, by name: from the recipe, or from a YAML file beside it."""
        held = self.source.tree.get("prices")
        if isinstance(held, str):
            path = self.base / held
            try:
                held = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise self.error(f"prices: {path} cannot be read: {error}", "prices") from None
        if held is not None and not isinstance(held, dict):
            raise self.error(
                "prices must map models to {input: USD, output: USD} for a million tokens, or name a YAML "
                f"file that does, but is {held!r}",
                "prices",
            )
        return held or {}

    def tables(self, held: Mapping[str, Any], *place: str | int) -> dict[str, Table | Pipeline]:
        """Return named tables; one that is a pipeline may name files, and pipelines that stand above it."""
        if len({name.lower() for name in held}) < len(held):
            raise self.error("tables: two names differ in case alone", *place)
        tables: dict[str, Table | Pipeline] = {}
        for name in sorted(held, key=lambda name: isinstance(held[name], dict)):
            tables[name] = self.table(name, held[name], dict(tables), *place)
        return tables

    def table(
        self, name: str, held: Any, known: Mapping[str, Table | Pipeline], *place: str | int
    ) -> Table | Pipeline:
        if not name.isidentifier() or name.startswith("_") or name.lower() in RELATIONS:
            raise self.error(
                f"table {name!r}: the name must be an identifier, and none of {', '.join(sorted(RELATIONS))}",
                *place,
                name,
            )
        if isinstance(held, dict) and set(held) == {"steps"}:
            steps = self.steps(held["steps"], *place, name, "steps")
            return Pipeline(steps=steps, name=name, tables=known)
        if isinstance(held, str) or (isinstance(held, list) and all(isinstance(one, str) for one in held)):
            try:
                return Table.find(held, self.base)
            except Exception as error:
                raise self.error(f"table {name!r}: {error}", *place, name) from None
        raise self.error(f"table {name!r}: must be a path, a list of paths or {{steps: [...]}}", *place, name)

    def steps(self, held: Any, *place: str | int) -> list[Step]:
        if not isinstance(held, list) or not held:
            raise self.error("steps must be a list of at least one step", *place)
        return [self.step(step, *place, number) for number, step in enumerate(held)]

    def step(self, held: Any, *place: str | int) -> Step:
        if not isinstance(held, dict) or not held or not all(isinstance(name, str) for name in held):
            raise self.error(
                f"a step is a mapping such as `where: length(text) > 40`, but is {held!r}", *place
            )
        key = next((name for name in held if name in _BESIDE or "." in name), next(iter(held)))
        kind = key if key in (*_STATEMENTS, "repeat") else "operator"
        work: Operator | Statement | Repeat
        if kind == "repeat":
            work = self.loop(held[key], *place, key)
        elif kind == "operator":
            work = self.built_operator(key, held[key], *place)
        else:
            work = self.statement(key, held, *place)
        for other in held:
            if other != key and other not in _BESIDE[kind]:
                raise self.error(
                    f"step {key}: no key {other!r} beside it{near(other, _BESIDE[kind])}", *place, other
                )
        for other in ("as", "when", "model"):
            if other in held and not isinstance(held[other], str):
                raise self.error(f"step {key}: {other} must be a text, but is {held[other]!r}", *place, other)
        name = held.get("as", "")
        if name and not name.isidentifier():
            raise self.error(f"step {key}: as must be an identifier, but is {name!r}", *place, "as")
        return Step(work, name, held.get("when"), held.get("model"), self.source.line(*place, key))

    def loop(self, held: Any, *place: str | int) -> Repeat:
        if not isinstance(held, dict) or "steps" not in held:
            raise self.error(f"repeat is a mapping of {', '.join(_LOOP)}, but is {held!r}", *place)
        for name in held:
            if name not in _LOOP:
                raise self.error(f"repeat: no key {name!r}{near(str(name), _LOOP)}", *place, name)
        tables = held.get("tables") or {}
        if not isinstance(tables, dict) or not all(isinstance(one, str) for one in tables):
            raise self.error(f"repeat: tables must be a mapping, but is {tables!r}", *place, "tables")
        settings = {name: value for name, value in held.items() if name not in ("steps", "tables")}
        if "until" in settings:
            settings["until"] = _expression(settings["until"])
        loop = typing.cast("Repeat", self.built(Repeat, {"steps": [], **settings}, "repeat", place))
        return dataclasses.replace(
            loop,
            steps=self.steps(held["steps"], *place, "steps"),
            tables=self.tables(tables, *place, "tables"),
        )

    def operator(self, path: str, *place: str | int) -> type[Operator]:
        try:
            return find_operator(path)
        except RecipeError as error:
            raise self.error(str(error), *place) from None

    def built_operator(self, path: str, held: Any, *place: str | int) -> Operator:
        found = self.operator(path, *place)
        if held is not None and not isinstance(held, dict):
            raise self.error(f"step {path}: its settings must be a mapping, but are {held!r}", *place, path)
        settings = dict(held or {})
        if any(item.name == "base" for item in dataclasses.fields(found)):
            settings["base"] = str(self.base)
        return typing.cast("Operator", self.built(found, settings, f"step {path}", (*place, path)))

    def statement(self, key: str, held: Mapping[str, Any], *place: str | int) -> Statement:
        value = held[key]
        if key == "derive":
            columns = (
                {name: _expression(sql) for name, sql in value.items()} if isinstance(value, dict) else {}
            )
            if not columns or not all(isinstance(sql, str) for sql in columns.values()):
                raise self.error("derive must map columns to SQL expressions", *place, key)
            return Derive(columns)
        value = _expression(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(
                f"{key} must be {'a table' if key == 'union' else 'SQL'}, but is {value!r}", *place, key
            )
        reason = held.get("reason")
        if reason is not None and (not isinstance(reason, str) or not reason):
            raise self.error(f"reason must be a text, but is {reason!r}", *place, "reason")
        if key == "where":
            return Where(value, reason or "")
        if key == "union":
            return Union(value)
        if value.endswith(".sql"):
            path = next((folder / value for folder in (self.base, SQL) if (folder / value).is_file()), None)
            if path is None:
                raise self.error(
                    f"no file {value!r} beside the recipe or among the shipped sql/", *place, key
                )
            value = path.read_text(encoding="utf-8")
        return Select(value, reason) if reason else Select(value)

    # Settings.

    def built(self, kind: type, settings: Mapping[str, Any], what: str, place: _Path) -> object:
        """Return `kind(**settings)`, each setting checked against the type its field declares."""
        import pydantic

        hints = typing.get_type_hints(kind, include_extras=True)
        known = {item.name: item for item in dataclasses.fields(kind) if item.name != "context"}
        shown = [name for name in known if name != "base"]
        for name in settings:
            if name not in known:
                raise self.error(f"{what}: no setting {name!r}{near(name, shown)}", *place, name)
        checked = {}
        for name, item in known.items():
            if name not in settings:
                if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                    raise self.error(f"{what}: needs the setting {name!r}", *place)
                continue
            try:
                adapter = pydantic.TypeAdapter(hints[name])
                checked[name] = adapter.validate_python(settings[name], strict=True)
            except pydantic.ValidationError as error:
                why = error.errors()[0]["msg"].removeprefix("Input should be ")
                raise self.error(
                    f"{what}: {name} should be {why}, but is {settings[name]!r}", *place, name
                ) from None
        return kind(**checked)

    def mapping(self, key: str) -> dict[str, Any]:
        held = self.source.tree.get(key)
        if held is None:
            return {}
        if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
            raise self.error(f"{key} must be a mapping, but is {held!r}", key)
        return held

    def typed(self, key: str, kind: type, default: Any) -> Any:
        value = self.source.tree.get(key, default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.error(f"{key} must be a {kind.__name__}, but is {value!r}", key)
        return value

    def error(self, message: str, *place: str | int) -> RecipeError:
        line = self.source.line(*place)
        return RecipeError(f"{self.source.path}{f', line {line}' if line else ''}: {message}")
