"""A section of a report: words, tables, figures, texts side by side; and the run that is asked for them.

Texts come as they are; who writes them down escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from synthray.column import is_list, is_text
from synthray.errors import InputError, near
from synthray.plane import POINTS
from synthray.spelling import identifier
from synthray.vectors import check_column

if TYPE_CHECKING:
    import altair as alt
    import pyarrow as pa

    from synthray.query import Query
    from synthray.report.history import History
    from synthray.run import Run

Row = dict[str, Any]

LINES = 60
"""In a table of labels, values or slices; what is left out is said."""
FOLDED = 12
"""A longer table that may be folded is opened at will."""
ONE_LINE = 22
CHARACTERS = 700
"""Of a text in a table or beside its duplicates."""


@dataclass(frozen=True)
class Table:
    """Columns, rows of values, and in words what is not in it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    title: str = ""
    fold: bool = False

    @classmethod
    def of(
        cls, rows: Sequence[Row], *names: str, note: str = "", title: str = "", fold: bool = False
    ) -> Table:
        """Return the values `names` of rows; `a=b` shows the value a under the name b."""
        pairs = [name.partition("=") for name in names]
        held = [[row[key] for key, _, _ in pairs] for row in rows]
        return cls([shown or key for key, _, shown in pairs], held, note, title, fold)

    @property
    def kinds(self) -> list[str]:
        """How each column is set: 'number', 'id', 'short' (on one line) or 'long'."""
        return [
            self._kind(name, [row[place] for row in self.rows]) for place, name in enumerate(self.columns)
        ]

    def _kind(self, name: str, values: Sequence[Any]) -> str:
        there = [one for one in values if one is not None]
        if there and all(isinstance(one, int | float) and not isinstance(one, bool) for one in there):
            return "number"
        if name == "row_id":
            return "id"
        short = all(len(str(one)) <= ONE_LINE and "\n" not in str(one) for one in there)
        return "short" if short else "long"

    @property
    def folded(self) -> bool:
        """Whether it is opened at will: one that is no more than a supplement, and long."""
        return self.fold and len(self.rows) > FOLDED

    def cut(self, where: str = "") -> Table:
        """Return its first LINES rows, with a note of the others and of `where` they are."""
        rest = len(self.rows) - LINES
        if rest <= 0:
            return self
        note = f"{rest:,} more lines are left out{f'; {where} has all' if where else ''}."
        return Table(self.columns, self.rows[:LINES], note, self.title, self.fold)


@dataclass(frozen=True)
class Figure:
    """A chart, for those who cannot see it what it shows, and a title where its section has several."""

    name: str
    chart: alt.Chart | alt.LayerChart
    says: str
    title: str = ""


@dataclass(frozen=True)
class Group:
    """Texts side by side: a title and, of each, text, label and what became of it."""

    title: str
    members: Sequence[Row]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    intro: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    groups: Sequence[Group] = ()
    histories: Sequence[History] = ()


@dataclass
class Asked:
    """A run that is asked; `text`, `label` and `embedding` are None where its dataset has no such column.

    `without` says what that leaves out.
    """

    run: Run
    query: Query
    text: str | None = "text"
    label: str | None = "label"
    embedding: str | None = None
    points: int = POINTS
    row_ids: Sequence[str] = ()
    without: list[str] = field(default_factory=list)
    schema: pa.Schema = None

    @classmethod
    def of(
        cls,
        run: Run,
        query: Query,
        text: str | None,
        label: str | None,
        row_ids: Sequence[str],
        points: int = POINTS,
    ) -> Asked:
        """Return it with its columns found: those that are named must be there, `text` and `label` may be."""
        asked = cls(run, query, points=points, row_ids=row_ids)
        asked.schema = query.schema("SELECT * FROM dataset")
        asked.text = asked._column(text, "text", "lengths and the map of the texts")
        asked.label = asked._column(label, "label", "labels")
        asked.embedding = _embedding(asked.schema)
        if asked.text and not is_text(asked.schema.field(asked.text).type):
            kind = asked.schema.field(asked.text).type
            if text:
                raise InputError(f"the column {text!r} must hold text, but is {kind}")
            asked.without.append(f"The column 'text' holds {kind}, so nothing is said of texts.")
            asked.text = None
        return asked

    def _column(self, given: str | None, usual: str, what: str) -> str | None:
        names = self.schema.names
        if given is not None:
            if given not in names:
                raise InputError(f"the dataset has no column {given!r}{near(given, names)}")
            return given
        if usual in names:
            return usual
        self.without.append(f"There is no column {usual!r}, so {what} are left out; name one by --{usual}.")
        return None

    def arrow(self, sql: str) -> list[Row]:
        """Return the answer to a SELECT as mappings."""
        rows: list[Row] = self.query.arrow(sql).to_pylist()
        return rows

    @property
    def shown(self) -> str:
        """SQL of text and label, null where there is no such column, the text cut."""
        text = f"left({identifier(self.text)}, {CHARACTERS + 1})" if self.text else "CAST(NULL AS VARCHAR)"
        label = f"CAST({identifier(self.label)} AS VARCHAR)" if self.label else "CAST(NULL AS VARCHAR)"
        return f"{text} AS shown_text, {label} AS shown_label"

    def names(self, *more: str) -> tuple[str, ...]:
        """Return the columns of a table of example rows."""
        held = [("shown_text=text", self.text), ("shown_label=label", self.label)]
        return (*(name for name, there in held if there), *more, "row_id")


def _embedding(schema: pa.Schema) -> str | None:
    import pyarrow as pa

    found = []
    for one in schema:
        if is_list(one.type) and pa.types.is_float32(one.type.value_type):
            check_column(schema, one.name)
            found.append(one.name)
    return "embedding" if "embedding" in found else found[0] if found else None
