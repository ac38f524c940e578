"""Where the values of columns come from: the setting `columns` of a recipe, read into providers.

The values of a column are held in memory by each worker. Tables and SELECTs are read in an order of their
own, so that what is drawn does not depend on how rows lie in files.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from synthray.column import is_text
from synthray.errors import InputError, near
from synthray.lineage import RESERVED, uniform
from synthray.provider import Listed, Others, Pool, Pools, Provider, Range, Sample, missing, shuffled
from synthray.query import Query
from synthray.spelling import identifier

if TYPE_CHECKING:
    from synthray.operator import Context

SOURCE = Path(__file__)
"""For the fingerprints of operators whose columns are read here."""

FORMS = (
    "a list, task.labels, {from: TABLE or list}, {by: COLUMN, from: TABLE}, {by: COLUMN, values: {value: "
    "list}}, {sql: SELECT}, {weights: {value: weight}}, {range: [low, high]}, {ranges: [[low, high], ...]}, "
    "{tree: mapping or TABLE}, {others: COLUMN}, or {sample: k} or {words: k} beside a source"
)

_DRAWN = ("by", "sample", "words", "replacement")
_BESIDE: dict[str, tuple[str, ...]] = {
    "others": ("k", "from"),
    "range": (),
    "ranges": ("replacement",),
    "tree": ("depth", "replacement"),
    "weights": ("sample", "replacement"),
    "values": _DRAWN,
    "sql": _DRAWN,
    "from": _DRAWN,
}
"""The sources of values, and the keys that may stand beside each."""

_SPAN = pa.struct([("low", pa.int64()), ("high", pa.int64())])
_FALLBACK = "a SELECT with UNION ALL can add values for when there are none"

_Found = tuple[pa.DataType, pa.DataType | None, Pools | None]
"""The type of the values, that of the keys, and the pools (None: there are no rows yet)."""


def require_names(columns: Mapping[str, Any]) -> None:
    """Raise an InputError when no column is named, or one that every row has itself."""
    if not columns:
        raise InputError("columns is empty; name at least one, such as label: task.labels")
    for name in columns:
        if name in RESERVED:
            raise InputError(f"column {name!r} is reserved for lineage; choose another name")


def providers(
    columns: Mapping[str, Any],
    context: Context,
    salt: tuple[str, int],
    kinds: Mapping[str, pa.DataType] | None,
) -> dict[str, Provider]:
    """Return what draws each of `columns`; an InputError names the column that is no list of values.

    `kinds` are the types of the columns that rows have before; None when they are not known now.
    """
    found: dict[str, Provider] = {}
    for name, spec in columns.items():
        try:
            found[name] = _Spec(name, spec, context, salt, found, kinds).provider()
        except InputError as error:
            raise InputError(f"columns.{name}: {error}") from None
    return found


def named_tables(columns: Mapping[str, Any], context: Context) -> tuple[str, ...]:
    """Return the named tables that `columns` draw from."""
    names: list[str] = []
    for spec in columns.values():
        if isinstance(spec, dict):
            held = [spec.get("from"), spec.get("tree")]
            names += [one for one in held if isinstance(one, str) and one != "task.labels"]
            if isinstance(spec.get("sql"), str):
                names += tables_of(spec["sql"], context)
    return tuple(dict.fromkeys(names))


def tables_of(sql: str, context: Context) -> tuple[str, ...]:
    """Return the named tables of the context that a SELECT names; a name of a WITH is none."""
    known = {name.lower(): name for name in (*context.schemas, *context.tables)}
    with Query({}) as query:
        return tuple(sorted(known[name] for name in query.named(sql) if name in known))


def relations(named: Iterable[str], context: Context) -> tuple[dict[str, Any], bool]:
    """Return all tables of the context for a Query, and whether those `named` have their rows already.

    Others than those are without rows: they are there for what a message says of a misspelt one.
    """
    named = tuple(named)
    held: dict[str, Any] = {name: schema.empty_table() for name, schema in context.schemas.items()}
    held |= {name: context.tables[name] for name in named if name in context.tables}
    return held, all(name in context.tables for name in named)


@dataclass(frozen=True)
class _Spec:
    """A column's spec, being read."""

    name: str
    spec: Any
    context: Context
    salt: tuple[str, int]
    earlier: Mapping[str, Provider]
    kinds: Mapping[str, pa.DataType] | None

    def provider(self) -> Provider:
        spec = {"from": self.spec} if self.spec == "task.labels" or type(self.spec) is list else self.spec
        if not isinstance(spec, dict):
            raise InputError(f"must be {FORMS}, but is {self.spec!r}")
        source = next((key for key in _BESIDE if key in spec), None)
        if source is None:
            raise InputError(f"must be {FORMS}, but is {self.spec!r}")
        for key in spec:
            if key != source and key not in _BESIDE[source]:
                raise InputError(f"no key {key!r} beside {source}{near(str(key), _BESIDE[source])}")
        if source == "range":
            low, high = _limits("range", spec["range"])
            return Range(self.name, self.salt, pa.int64(), None, low, high)
        return self._others(spec) if source == "others" else self._drawn(source, spec)

    def _drawn(self, source: str, spec: Mapping[str, Any]) -> Provider:
        by = spec.get("by")
        if by is not None:
            self._require_column("by", by)
        counts = _counts(spec)
        if by is not None and (counts and None not in counts):
            raise InputError("words by part of speech have no by: the parts are the keys")
        keyed = by is not None or (bool(counts) and None not in counts)
        kind, key_kind, pools = self._pools(source, spec, keyed)
        label = _label(source, spec)
        if by is not None:
            self._require_keys(by, key_kind, pools, label)
        if not isinstance(spec.get("replacement", True), bool):
            raise InputError(f"replacement must be true or false, but is {spec['replacement']!r}")
        if not counts:
            replacement = spec.get("replacement", True)
            if not replacement and pools is not None:
                pools = {key: self._ordered(key, pool) for key, pool in pools.items()}
            return Listed(self.name, self.salt, kind, by, pools, label, replacement)
        if "replacement" in spec:
            raise InputError("replacement is for one value a row; the values of a sample are always distinct")
        if pools is not None:
            pools = {key: pool.once() for key, pool in pools.items()}
            self._require_counts(counts, pools, label, by)
        return Sample(self.name, self.salt, pa.list_(kind), by, pools, label, counts)

    def _ordered(self, key: Any, pool: Pool) -> Pool:
        """Return a pool in the order in which its values come, each at most once."""
        if pool.weights:
            return Pool(
                tuple(pool.by_chance(functools.partial(uniform, *self.salt, self.name, key, "order")))
            )
        order = shuffled(self.salt, self.name, key, 0, len(pool.values))
        return Pool(tuple(pool.values[place] for place in order))

    def _pools(self, source: str, spec: Mapping[str, Any], keyed: bool) -> _Found:
        """Return the type of the values, that of the keys, and the pools (None: there are no rows yet)."""
        held = spec[source]
        if source == "weights":
            pool = _weighted(held)
            return _kind(pool.values), None, {None: pool}
        if source == "ranges":
            if not isinstance(held, list) or not held:
                raise InputError(f"ranges must be a list of [low, high], but is {held!r}")
            spans = [dict(zip(("low", "high"), _limits("each of ranges", one), strict=True)) for one in held]
            return _SPAN, None, {None: Pool(tuple(spans))}
        if source == "tree":
            paths = self._paths(held, spec.get("depth"))
            return pa.list_(pa.string()), None, None if paths is None else {None: Pool(tuple(paths))}
        if source == "values":
            return _inline(held, keyed)
        if source == "from" and (held == "task.labels" or isinstance(held, list)):
            if keyed:
                raise InputError("a list has no keys; use values: {key: [value, ...]} or a table")
            values = self._labels() if held == "task.labels" else held
            return _kind(values), None, {None: Pool(tuple(values))}
        if not isinstance(held, str):
            what = "a SELECT" if source == "sql" else "a table, a list or task.labels"
            raise InputError(f"{source} must be {what}, but is {held!r}")
        return self._answered(held, spec, keyed) if source == "sql" else self._table(held, spec, keyed)

    def _labels(self) -> list[str]:
        if not self.context.task.labels:
            raise InputError("the recipe's task has no labels")
        return list(self.context.task.labels)

    # Tables and SELECTs.

    def _table(self, table: str, spec: Mapping[str, Any], keyed: bool) -> _Found:
        with self._opened(table) as query:
            names = query.schema(f"SELECT * FROM {identifier(table)}").names
            wanted = {"value": _pick(names, self.name, *(["word"] if "words" in spec else []), "value")}
            if keyed:
                wanted["key"] = _pick(names, spec.get("by") or "part_of_speech", "key")
            listed = ", ".join(f"{identifier(column)} AS {name}" for name, column in wanted.items())
            # A file's rows have an order; rows that a pipeline made have none but that of their ids.
            order = " ORDER BY row_id" if "row_id" in names else ""
            answer = query.arrow(f"SELECT {listed} FROM {identifier(table)}{order}")
        if table not in self.context.tables:
            return _kinds(answer, None)
        if not len(answer):
            raise InputError(f"the table {table!r} has no rows, so there is nothing to draw; {_FALLBACK}")
        # Its rows may repeat a value for many reasons, so each counts once.
        pools = {key: Pool(tuple(dict.fromkeys(pool.values))) for key, pool in _grouped(answer).items()}
        return _kinds(answer, pools)

    def _answered(self, sql: str, spec: Mapping[str, Any], keyed: bool) -> _Found:
        held, ready = relations(tables_of(sql, self.context), self.context)
        with Query(held, seed=self.context.seed) as query:
            query.bind(sql)
            settled = query.settled(sql)
            schema = query.schema(settled)
            wanted = {
                "value": schema.names[0] if len(schema) == 1 else _pick(schema.names, self.name, "value")
            }
            if keyed:
                wanted["key"] = _pick(schema.names, spec.get("by") or "part_of_speech", "key")
            if "weight" in schema.names and "weight" not in wanted.values():
                if not _is_number(schema.field("weight").type):
                    raise InputError(f"weight must be a number, but is {schema.field('weight').type}")
                wanted["weight"] = "weight"
            listed = ", ".join(f"{identifier(column)} AS {name}" for name, column in wanted.items())
            answer = query.arrow(
                f"SELECT {listed} FROM ({settled}\n) ORDER BY ALL"
                if ready
                else f"SELECT {listed} FROM ({settled}\n) LIMIT 0"
            )
        if not ready:
            return _kinds(answer, None)
        pools = _grouped(answer)
        if not pools:
            found = "only weights of 0" if len(answer) else "no rows"
            raise InputError(f"the SELECT answers {found}, so there is nothing to draw; {_FALLBACK}")
        return _kinds(answer, pools)

    def _opened(self, table: str) -> Query:
        if table not in self.context.tables and table not in self.context.schemas:
            raise InputError(
                f"no table {table!r}{near(table, (*self.context.tables, *self.context.schemas))}"
            )
        return Query(relations((table,), self.context)[0])

    # What belongs to other columns.

    def _require_column(self, key: str, column: Any) -> None:
        if column in self.earlier:
            kind = self.earlier[column].kind
        elif self.kinds is None:
            return
        elif column in self.kinds:
            kind = self.kinds[column]
        else:
            where = "a column of the rows or one above it" if self.kinds else "a column above it"
            raise InputError(
                f"{key}: {column!r} must be {where}{near(str(column), [*self.earlier, *self.kinds])}"
            )
        if pa.types.is_nested(kind):
            raise InputError(f"{key}: {column!r} must hold one plain value a row, but is {kind}")

    def _require_keys(self, by: str, key_kind: pa.DataType | None, pools: Pools | None, label: str) -> None:
        possible = self.earlier[by].possible() if by in self.earlier else None
        for one in possible if possible is not None and pools is not None else ():
            if one is not None and one not in (pools or {}):
                raise InputError(missing(label, self.name, by, one, pools or {}))
        kind = self.earlier[by].kind if by in self.earlier else (self.kinds or {}).get(by)
        if kind is not None and key_kind is not None and is_text(kind) != is_text(key_kind):
            raise InputError(f"by: {by!r} is {kind}, but the keys of {label} are {key_kind}")

    def _require_counts(self, counts: Mapping[Any, int], pools: Pools, label: str, by: str | None) -> None:
        for key, count in counts.items():
            # Which values a column of the rows has is not known: a row that lacks some will say so.
            other = self.earlier.get(by) if by is not None else None
            groups = (other.possible() or () if other else ()) if by is not None else (key,)
            for group in dict.fromkeys(groups):
                if group not in pools and (group is not None or by is None):
                    raise InputError(missing(label, self.name, None, group, pools))
                held = len(pools[group].values) if group in pools else count
                if count > held:
                    of = f" for {group!r}" if group is not None else ""
                    raise InputError(f"{count} distinct values are wanted, but {label} has {held}{of}")

    def _others(self, spec: Mapping[str, Any]) -> Provider:
        column, k = spec["others"], spec.get("k")
        self._require_column("others", column)
        if k is not None and (type(k) is not int or k < 1):
            raise InputError(f"k must be a whole number of at least 1, but is {k!r}")
        values: Iterable[Any] | None
        if "from" in spec:
            kind, _, pools = self._pools("from", spec, keyed=False)
            values = None if pools is None else pools[None].values
        elif column in self.earlier:
            provider = self.earlier[column]
            if not isinstance(provider, Listed):
                raise InputError(f"others: the values of {column!r} have no list; add from: TABLE or list")
            kind, values = provider.kind, provider.possible()
        else:
            raise InputError(
                f"others: which values {column!r} may have is not known here; add from: task.labels, a "
                "list or a table"
            )
        held = None if values is None else Pool(tuple(values)).once().values
        if held is not None and k is not None and k > len(held) - 1:
            raise InputError(f"k is {k}, but beside a value of {column} there are {len(held) - 1} others")
        return Others(self.name, self.salt, pa.list_(kind), column, held, k)

    def _paths(self, tree: Any, depth: Any) -> list[list[str]] | None:
        """Return the paths from the root to each leaf, sorted; None when the table has no rows yet."""
        if depth is not None and (type(depth) is not int or depth < 1):
            raise InputError(f"depth must be a whole number of at least 1, but is {depth!r}")
        if isinstance(tree, str):
            with self._opened(tree) as query:
                names = query.schema(f"SELECT * FROM {identifier(tree)}").names
                for name in ("parent", "child"):
                    _pick(names, name)
                rows = query.rows(
                    f"SELECT parent::VARCHAR, child::VARCHAR FROM {identifier(tree)} ORDER BY ALL"
                )
            if tree not in self.context.tables:
                return None
            found = list(_climbed(rows, tree))
        elif isinstance(tree, dict):
            found = list(_descended(tree, ()))
        else:
            raise InputError(
                f"tree must be a nested mapping or a table with parent and child, but is {tree!r}"
            )
        if not found:
            raise InputError("the tree is empty, so there is no leaf to draw")
        return [list(path) for path in sorted({path[:depth] for path in found})]


def _label(source: str, spec: Mapping[str, Any]) -> str:
    held = spec[source]
    if source == "from" and isinstance(held, str):
        return held
    return {"sql": "the SELECT", "from": "the list"}.get(source, source)


def _counts(spec: Mapping[str, Any]) -> dict[Any, int]:
    """Return how many values a row has of which pool; none when it has one value."""
    if "sample" in spec and "words" in spec:
        raise InputError("sample and words say the same; leave one out")
    for key in ("sample", "words"):
        if key in spec:
            held = spec[key]
            counts = held if key == "words" and isinstance(held, dict) else {None: held}
            if not counts or not all(type(count) is int and count >= 1 for count in counts.values()):
                many = " or {part of speech: number}" if key == "words" else ""
                raise InputError(f"{key} must be a whole number of at least 1{many}, but is {held!r}")
            return dict(counts)
    return {}


def _limits(what: str, held: Any) -> tuple[int, int]:
    whole = isinstance(held, list) and len(held) == 2 and all(type(one) is int for one in held)
    if not whole or held[0] > held[1]:
        raise InputError(f"{what} must be [low, high] in whole numbers, but is {held}")
    return held[0], held[1]


def _weighted(held: Any) -> Pool:
    if not isinstance(held, dict):
        raise InputError(f"weights must be {{value: weight}}, but is {held!r}")
    weights = list(held.values())
    if (
        not weights
        or not all(isinstance(one, int | float) and 0 <= one < math.inf for one in weights)
        or not sum(weights)
    ):
        raise InputError(f"weights must be numbers of at least 0, not all 0, but are {weights}")
    drawn = {value: weight for value, weight in held.items() if weight}
    return Pool(tuple(drawn), tuple(drawn.values()))


def _inline(held: Any, keyed: bool) -> _Found:
    if not keyed:
        raise InputError("values: {key: list} needs by: COLUMN, or words by part of speech")
    if not isinstance(held, dict) or not all(isinstance(one, list) and one for one in held.values()):
        raise InputError(f"values must map each key to a list that is not empty, but is {held!r}")
    kind = _kind(list(itertools.chain.from_iterable(held.values())))
    return kind, _kind(list(held)), {key: Pool(tuple(values)) for key, values in held.items()}


def _kind(values: Sequence[Any]) -> pa.DataType:
    if not values:
        raise InputError("the list of values is empty")
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise InputError(f"values must be of one type, but are {values[:5]}") from None


def _kinds(answer: pa.Table, pools: Pools | None) -> _Found:
    key = answer.schema.field("key").type if "key" in answer.column_names else None
    if key is not None and pa.types.is_nested(key):
        raise InputError(f"the keys must be plain values, but are {key}")
    return answer.schema.field("value").type, key, pools


def _grouped(answer: pa.Table) -> dict[Any, Pool]:
    """Return the pools of an answer with value and maybe key and weight; weights of 0 are left out."""
    held = answer.to_pydict()
    keys = held.get("key", itertools.repeat(None))
    grouped: dict[Any, tuple[list[Any], list[float]]] = {}
    for value, key, weight in zip(held["value"], keys, held.get("weight", itertools.repeat(1)), strict=False):
        if weight is None or not 0 <= weight < math.inf:
            raise InputError(f"weight must be a number of at least 0, but that of {value!r} is {weight}")
        if weight:
            values, weights = grouped.setdefault(key, ([], []))
            values.append(value)
            weights.append(float(weight))
    by_weight = "weight" in held
    return {
        key: Pool(tuple(values), tuple(weights) if by_weight else ())
        for key, (values, weights) in grouped.items()
    }


def _pick(names: Sequence[str], *wanted: str) -> str:
    for name in wanted:
        if name in names:
            return name
    *first, last = map(repr, wanted)
    sought = f"neither a column {', '.join(first)} nor {last}" if first else f"no column {last}"
    raise InputError(f"the table has {sought}; it has {', '.join(names)}")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _descended(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the paths to the leaves of a nested mapping; what has nothing below it is a leaf."""
    if isinstance(node, dict) and node:
        for name, below in node.items():
            yield from _descended(below, (*path, str(name)))
    elif isinstance(node, list) and node:
        for one in node:
            if isinstance(one, list):
                raise InputError(f"the tree has a list in a list under {' > '.join(path)}")
            yield from _descended(one, path)
    elif node is None or node == {} or node == []:
        yield from [path] if path else []
    else:
        yield (*path, str(node))


def _climbed(rows: Iterable[tuple[str | None, str | None]], table: str) -> Iterator[tuple[str, ...]]:
    """Yield the paths to the leaves of a table of parents and children."""
    parents: dict[str, str | None] = {}
    for parent, child in rows:
        if child is None:
            raise InputError(f"the tree {table!r} has a row without a child (of {parent!r})")
        if parents.get(child, parent) not in (parent, None) and parent is not None:
            raise InputError(
                f"in the tree {table!r}, {child!r} has two parents, {parents[child]!r} and {parent!r}"
            )
        parents[child] = parent if parent is not None else parents.get(child)
    inner = set(parents.values())
    for leaf in sorted(parents):
        path, above = [leaf], parents[leaf]
        while above is not None:
            path.append(above)
            if len(path) > len(parents) + 1:
                raise InputError(f"the tree {table!r} goes round: {' < '.join(path[:4])} ...")
            above = parents.get(above)
        if leaf not in inner:
            yield tuple(reversed(path))
