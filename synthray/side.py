"""The two sides of a comparison: a run or files of rows, what is compared, which rows are of one root."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from synthray import ancestry
from synthray.bucket import is_url
from synthray.column import filled, is_text
from synthray.errors import InputError, SourceError, near
from synthray.evaluate.diversity import WORD
from synthray.features import Features
from synthray.lineage import RESERVED, content_ids, digest
from synthray.query import Query
from synthray.run import Run
from synthray.spelling import identifier, quoted
from synthray.table import Table

WORDS = f"regexp_extract_all(lower(text), {quoted(WORD)})"
"""SQL for the words of a text: those of metrics/diversity.sql."""


@dataclass(frozen=True)
class Settings:
    """How two datasets are compared; what is None is found out.

    `text`, `label`, `embedding` and `unit` name columns. `unit` names what rows depend on each other by;
    without it rows are of one unit when they descend from one row or are of one document. Differences are
    called at `alpha` over all statistics. N-grams and vectors are of at most about `sample` rows of each
    side.
    """

    text: str | None = None
    label: str | None = None
    unit: str | None = None
    embedding: str | None = None
    alpha: float = 0.05
    resamples: int = 999
    sample: int = 5000
    rows: int = 3

    def check(self) -> None:
        """Raise an InputError for a setting that is out of bounds."""
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must be between 0 and 1, but is {self.alpha}")
        if self.resamples + 1 < 1 / self.alpha:
            raise InputError(
                f"{self.resamples} resamples cannot show a p-value of alpha {self.alpha}; take at least "
                f"{math.ceil(1 / self.alpha) - 1}"
            )


@dataclass(frozen=True)
class Side:
    """One of the two: a run, or files of rows; `table` holds the rows."""

    where: str
    run: Run | None
    table: Table
    schema: pa.Schema

    @classmethod
    def open(cls, where: str | Path) -> Side:
        """Open a run directory, an exported dataset, a folder or a file of rows."""
        path = Path(where)
        if is_url(where) or (path / "run.json").is_file():
            run = Run.read(where)
            stages = run.stages()
            if run.state.get("state") not in ("done", "refused") or not stages:
                raise InputError(
                    f"{where}: the run is not finished, but {run.state.get('state')!r}; run it again to go on"
                )
            return cls._of(where, run, run.table(stages[-1]))
        try:
            table = Table.find(str(path / "data" if (path / "data").is_dir() else path), Path())
        except SourceError as error:
            told = str(error).removesuffix("; a path is relative to the recipe's folder")
            raise InputError(f"{where} is no run (it has no run.json) and no dataset: {told}") from None
        return cls._of(where, None, table)

    @classmethod
    def _of(cls, where: str | Path, run: Run | None, table: Table) -> Side:
        with Query({"given": table}) as query:
            return cls(str(where), run, table, query.schema("SELECT * FROM given"))

    def ties(self) -> list[tuple[str, str]]:
        """Return who descends from whom."""
        return ancestry.parents(self.run, self.run.all_stages()) if self.run else []

    def narrow(self, columns: Columns, settings: Settings, path: Path) -> Table:
        """Write what is compared to a file: row_id, keys that tie rows, text, words, label, whole, n0 ...

        `words` is null where there is no text; `whole` is a hash of the row; n0 ... are the numeric columns,
        null where they are not finite.
        """
        names = self.schema.names
        text = identifier(columns.text)
        label = f"CAST({identifier(columns.label)} AS VARCHAR)" if columns.label else "CAST(NULL AS VARCHAR)"
        keys = [
            f"CAST({identifier(one)} AS VARCHAR)"
            for one in names
            if one.endswith(("parent_id", "document_id"))
        ]
        if settings.unit:
            keys = [f"'unit ' || CAST({identifier(settings.unit)} AS VARCHAR)"]
        more = [
            f"CASE WHEN isfinite({identifier(one)}::DOUBLE) THEN {identifier(one)}::DOUBLE END AS n{place}"
            for place, one in enumerate(columns.numbers)
        ]
        if settings.embedding:
            more.append(f"{identifier(settings.embedding)} AS embedding")
        packed = ", ".join(f"{identifier(one)} := {identifier(one)}" for one in sorted(names))
        sql = (
            f"SELECT row_id::VARCHAR AS row_id, [{', '.join(keys) or 'NULL'}]::VARCHAR[] AS keys, "
            f"{text} AS text, {label} AS label, "
            f"hash(struct_pack({packed})) AS whole{''.join(f', {one}' for one in more)} "
            f"FROM ({content_ids('SELECT * FROM given', names)})"
        )
        sql = f"SELECT *, CASE WHEN {filled('text')} THEN len({WORDS}) END AS words FROM ({sql})"
        with Query({"given": self.table}, writable=path.parent) as query:
            query.write(sql, path)
        return Table((str(path),), "parquet")


@dataclass(frozen=True)
class Columns:
    """The columns that are compared, and what is to be said of those that are not."""

    text: str
    label: str | None
    numbers: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, sides: Sequence[Side], settings: Settings) -> Columns:
        """Find the columns; an InputError names the side that lacks one, and what it has."""
        schemas = [side.schema for side in sides]
        text = settings.text or "text"
        for side, schema in zip(sides, schemas, strict=True):
            for option, name in (("text", text), ("label", settings.label), ("unit", settings.unit)):
                if name and name not in schema.names:
                    raise InputError(
                        f"{side.where} has no column {name!r}{near(name, schema.names)} (--{option})"
                    )
            if not is_text(schema.field(text).type):
                raise InputError(
                    f"{side.where}: {text!r} must hold text, but is {schema.field(text).type} (--text)"
                )
            if settings.embedding:
                Features(text, settings.embedding).check(schema, side.where)
        notes, label = [], settings.label
        if label is None:
            there = ["label" in schema.names for schema in schemas]
            label = "label" if all(there) else None
            if any(there) and not all(there):
                lacking = sides[there.index(False)].where
                notes.append(f"{lacking} has no column 'label': labels are not compared")
        skipped = RESERVED | {text, label, settings.unit, "review_weight"}
        numbers = [
            one.name
            for one in schemas[0]
            if one.name in schemas[1].names
            and one.name not in skipped
            and _is_number(one.type)
            and _is_number(schemas[1].field(one.name).type)
        ]
        for one, other, side in ((0, 1, sides[0]), (1, 0, sides[1])):
            alone = sorted(set(schemas[one].names) - set(schemas[other].names))
            if alone:
                notes.append(f"{side.where} alone has the columns {', '.join(alone)}")
        return cls(text, label, tuple(numbers), tuple(notes))


def units(sides: Sequence[Side], narrow: Mapping[str, Table], settings: Settings) -> pa.Table:
    """Return row_id and unit of all rows: whole numbers in an order by chance, equal for rows of one root.

    Ids are made from lineage alone, so that roots of one name are one root in both runs. Raises InputError
    where a row_id is missing or repeats.
    """
    with Query(narrow) as query:
        for side, name in zip(sides, narrow, strict=True):
            twice = query.rows(
                f"SELECT row_id FROM {name} GROUP BY ALL HAVING count(*) > 1 OR row_id IS NULL LIMIT 1"
            )
            if twice:
                row_id = twice[0][0]
                what = "is missing in some" if row_id is None else f"{row_id!r} repeats"
                raise InputError(f"{side.where}: row_id must be there and differ in each row, but {what}")
        every = " UNION ALL ".join(f"SELECT row_id, keys FROM {name}" for name in narrow)
        rows = query.rows(f"SELECT * FROM ({every}) ORDER BY ALL")
    ties = [] if settings.unit else [tie for side in sides for tie in side.ties()]
    tied = ancestry.roots(rows, ties)
    ranked = sorted(set(tied.values()), key=lambda one: (digest("diff", one), one))
    number = {name: place for place, name in enumerate(ranked)}
    return pa.table(
        {
            "row_id": pa.array(list(tied), pa.string()),
            "unit": pa.array([number[name] for name in tied.values()], pa.int64()),
        }
    )


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    )
