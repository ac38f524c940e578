"""A child row for each element of a list: of samples, of proposals, of the items of an answer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from synthray.column import is_list, one_array
from synthray.errors import InputError, near
from synthray.lineage import FAILED, RESERVED, child_id
from synthray.operator import Makes, Operator


@dataclass(frozen=True)
class Explode(Operator):
    """Replace each row by a child for each element of the list in `column`, written to the column `writes`.

    `column` may name several lists of one length, which are taken apart side by side, with as many names in
    `writes`. Of a list of structs `writes` may map new columns to fields: {question: q, answer: a}. A child
    has its parent's columns, but for the lists: null, since they stay with the parent. `ordinal` names a
    column for the element's place, from 0. A null element has no child; a row without an element is
    rejected as `no_children`, and one whose lists differ in length fails. What was taken apart is folded by
    SQL: see the step `sql` and its column `parents`.
    """

    column: str | Sequence[str]
    writes: str | Sequence[str] | Mapping[str, str]
    ordinal: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The lists."""
        return (self.column,) if isinstance(self.column, str) else tuple(self.column)

    def makes(self) -> Makes:
        """Make children."""
        return "children"

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for what is no list, and for names that do not fit it or are taken."""
        if not self.reads:
            raise InputError("column names no list")
        for name in self.reads:
            kind = before.field(name).type
            if not is_list(kind):
                raise InputError(f"column {name!r} must hold a list in each row, but is {kind}")
        if isinstance(self.writes, Mapping):
            self._check_fields(before)
        elif len(self._names) != len(self.reads):
            raise InputError(
                f"writes must name a column for each of {', '.join(self.reads)}, but names "
                f"{', '.join(self._names) or 'none'}"
            )
        for name, kind in self._written(before).items():
            self._check_name(name, kind, before)
        if len({*self._names, self.ordinal}) <= len(self._names):
            raise InputError("writes and ordinal must be columns of different names")

    def _check_fields(self, before: pa.Schema) -> None:
        assert isinstance(self.writes, Mapping)
        kind = before.field(self.reads[0]).type.value_type
        if len(self.reads) != 1 or not pa.types.is_struct(kind):
            raise InputError(
                f"writes maps columns to fields, so that column must be one list of structs, but "
                f"{self.column!r} is of {kind}; name the columns of the elements"
            )
        known = [field.name for field in kind]
        for field in self.writes.values():
            if field not in known:
                raise InputError(f"writes: the structs have no field {field!r}{near(str(field), known)}")
        if not self.writes:
            raise InputError("writes names no column")

    def _check_name(self, name: str, kind: pa.DataType, before: pa.Schema) -> None:
        if name in RESERVED:
            raise InputError(f"cannot write {name!r}: the name is reserved for lineage")
        if name in self.reads:
            raise InputError(f"writes {name!r}, which is the list itself; name another column")
        # Rows that `when` lets pass keep what they have in it.
        if name in before.names and before.field(name).type != kind:
            raise InputError(
                f"writes {name!r}, which is there as {before.field(name).type} and would become {kind}; "
                "name another column"
            )

    @property
    def _names(self) -> tuple[str, ...]:
        return (self.writes,) if isinstance(self.writes, str) else tuple(self.writes)

    def _written(self, before: pa.Schema) -> dict[str, pa.DataType]:
        """Return the new columns with their types."""
        kinds = [before.field(name).type.value_type for name in self.reads]
        if isinstance(self.writes, Mapping):
            written = {name: kinds[0].field(field).type for name, field in self.writes.items()}
        else:
            written = dict(zip(self._names, kinds, strict=True))
        return {**written, **({self.ordinal: pa.int64()} if self.ordinal else {})}

    def schema(self, before: pa.Schema) -> pa.Schema:
        """Return the schema of the children."""
        written = self._written(before)
        kept = [column for column in before if column.name not in written]
        return pa.schema([*kept, *(pa.field(name, kind) for name, kind in written.items())])

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the children of the rows, and the rows whose lists do not fit each other as failed."""
        lists = [one_array(table[name]) for name in self.reads]
        lengths = [pc.fill_null(pc.list_value_length(one), 0) for one in lists]
        fits = functools.reduce(pc.and_, (pc.equal(lengths[0], other) for other in lengths))
        children = self._children(table.filter(fits))
        return children if pc.all(fits).as_py() else self._with_odd(children, table.filter(pc.invert(fits)))

    def _with_odd(self, children: pa.Table, odd: pa.Table) -> pa.Table:
        """Return the children with the rows that fail."""
        failed = []
        for lists in zip(*(odd[name].to_pylist() for name in self.reads), strict=True):
            sizes = (f"{name} holds {len(held or ())}" for name, held in zip(self.reads, lists, strict=True))
            message = f"the lists differ in length: {', '.join(sizes)}"
            failed.append({"error": "InvalidValue", "message": message, "attempts": 1})
        for name in set(children.column_names) - set(odd.column_names):
            odd = odd.append_column(name, pa.nulls(len(odd), children.schema.field(name).type))
        odd = odd.select(children.column_names).cast(children.schema)
        children = children.append_column(pa.field("failed", FAILED), pa.nulls(len(children), FAILED))
        return pa.concat_tables(
            [children, odd.append_column(children.schema.field("failed"), pa.array(failed, FAILED))]
        )

    def _children(self, table: pa.Table) -> pa.Table:
        lists = [one_array(table[name]) for name in self.reads]
        parents = pc.list_parent_indices(lists[0]).to_pylist()
        ordinals = _ordinals(parents)
        elements = [pc.list_flatten(one) for one in lists]
        there = functools.reduce(pc.or_, (one.is_valid() for one in elements))
        children = table.take(pa.array(parents, pa.int64()))
        ids = table["row_id"].to_pylist()
        places = zip(parents, ordinals, strict=True)
        made: dict[str, Any] = {
            "row_id": [child_id(ids[one], self.origin, place) for one, place in places],
            "parent_id": [ids[one] for one in parents],
            **dict.fromkeys(self.reads, [None] * len(parents)),
            **self._values(elements, ordinals),
        }
        if self.context.round:
            made["round"] = [self.context.round] * len(parents)
        after = self.schema(table.schema)
        columns = [
            children[field.name] if field.name not in made else pa.array(made[field.name], field.type)
            for field in after
        ]
        return pa.table(columns, schema=after).filter(there)

    def _values(self, elements: Sequence[pa.Array], ordinals: Sequence[int]) -> dict[str, Any]:
        if isinstance(self.writes, Mapping):
            values = {name: pc.struct_field(elements[0], field) for name, field in self.writes.items()}
        else:
            values = dict(zip(self._names, elements, strict=True))
        return {**values, **({self.ordinal: pa.array(ordinals, pa.int64())} if self.ordinal else {})}


def _ordinals(parents: Sequence[int]) -> list[int]:
    """Return the place of each element among those of its parent."""
    places: list[int] = []
    for number, parent in enumerate(parents):
        places.append(places[-1] + 1 if number and parents[number - 1] == parent else 0)
    return places
