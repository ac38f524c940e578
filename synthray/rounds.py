"""The rounds of a loop: nothing is kept of them but their stages, so that running again is resuming."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from synthray.errors import QueryError, RunFailed
from synthray.lineage import digest
from synthray.metric import METRICS as MEASURED
from synthray.query import Query
from synthray.repeat import ABOUT, REJECTS, Acceptance, Beginning, Gathering, Repeat
from synthray.spelling import identifier
from synthray.step import Checked, Step
from synthray.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.record import StageRecord
    from synthray.statement import Statement
    from synthray.work import Work

_FIGURES = ("candidates", "accepted", "tokens", "usd")


@dataclass(frozen=True)
class Round:
    """A finished round: its stages and those of its tables, how many rows it had, and how many it gave.

    `shown` is what its steps saw.
    """

    records: tuple[StageRecord, ...]
    candidates: int
    accepted: int
    of_tables: tuple[StageRecord, ...] = ()
    shown: Mapping[str, Table] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return what it took and gave; `usd` is NaN where nobody said what its calls cost."""
        asked = [one for one in (*self.records, *self.of_tables) if one.calls]
        return {
            "candidates": self.candidates,
            "accepted": self.accepted,
            "tokens": sum(one.prompt_tokens + one.completion_tokens for one in asked),
            "usd": sum(math.nan if one.cost is None else one.cost for one in asked),
        }


@dataclass
class Rounds:
    """Runs the loop `checked`: `at` begins the names of its folders, `note` takes those that stand."""

    work: Work
    checked: Checked
    at: str
    note: Callable[[list[str]], None]
    done: list[Round] = field(default_factory=list)
    records: list[StageRecord] = field(default_factory=list)
    accepted: list[Table] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)
    """How many rows were accepted, by the values of the target's `by`."""
    why: str = ""
    """Why it ended."""

    def __post_init__(self) -> None:
        assert isinstance(self.checked.step.work, Repeat)
        self.loop = self.checked.step.work
        self.name = self.checked.name
        self.wanted = self.loop.wanted(self.work.pipeline.task)

    def run(self, before: StageRecord | None, fingerprint: str) -> tuple[list[StageRecord], str]:
        """Return the loop's stages and its fingerprint; `require_target` is to be asked then."""
        schema = self.checked.after
        self.folder = self.work.run.root / "artifacts" / f"{self.at}-{self.name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.nothing = self._written("nothing", schema.empty_table())
        self.digest = digest("pool", fingerprint, str(schema))
        begun = self._stage(0, self.digest, Beginning(step=f"{self.name}@0"), before, {}, self.nothing)
        self.pool, self.previous = self.work.run.table(begun), self.nothing
        for number in range(1, self.loop.max + 1):
            if self.wanted and not sum(self.missing().values()):
                break
            self.done.append(self._round(number))
            self.why = self._ends(number)
            if self.why:
                break
        last = begun if self.loop.appends else self.records[-1]
        end = digest(self.digest, self.loop.keep)
        gathering = Gathering(step=self.name, measured=self._measured(), appends=self.loop.appends)
        accepted = {"accepted": _joined([self.nothing, *self.accepted])}
        self._stage(None, end, gathering, last, accepted)
        return self.records, end

    def require_target(self) -> None:
        """Raise a RunFailed when the loop ended short of its target; the pool stands."""
        short = {value: count for value, count in self.missing().items() if count > 0}
        if not short:
            return
        of = [
            f"{f'{self.loop.by} {value!r} has ' if value else ''}{self.wanted[value] - count} of "
            f"{self.wanted[value]} rows"
            for value, count in short.items()
        ]
        candidates = sum(one.candidates for one in self.done)
        raise RunFailed(
            f"{self.name}: {', '.join(of)} after {len(self.done)} rounds and {candidates} candidates "
            f"({self.why}); what was accepted is kept: synthray sql {self.work.run.where} "
            '"SELECT reject_step, reject_reason, count(*) FROM rows GROUP BY ALL" says why rows were left '
            "out; raise max, candidates or patience to go on, or change what rejects them"
        )

    def missing(self) -> dict[str, int]:
        """Return how many rows are still to be accepted of each value that the target names."""
        return {value: count - self.held[value] for value, count in self.wanted.items()}

    # A round.

    def _round(self, number: int) -> Round:
        work, pipeline = self.work, self.work.pipeline.inside(self.checked.step, number)
        shown = {"round": self._about(number)}
        if self.wanted:
            shown["deficit"] = self.loop.deficit(self.missing())
        tables = {name: self._written(f"{name}-{number}", rows) for name, rows in shown.items()}
        tables |= {"pool": self.pool, "previous": self.previous}
        digests = {name: digest(rows.to_pylist()) for name, rows in shown.items()}
        digests |= {"pool": self.digest, "previous": digest(self.digest, number)}
        inner = work.within(pipeline, tables, digests, self.loop.schemas)
        of_tables: list[StageRecord] = []
        for name, table in self.loop.tables.items():
            of_tables += inner.make_table(name, table.of(name, pipeline), f"{self.at}.{number}")
        appends = self.loop.appends
        held = list(self.records)
        checked = pipeline.checked(self.loop.schemas, None if appends else self.checked.after)
        records, fingerprint = inner.chain(
            checked,
            lambda made: self.note([*_folders(held), *made]),
            None if appends else held[-1],
            digest("round", self.name, pipeline.seed, "" if appends else self.digest),
            f"{self.at}.{number}.",
        )
        self.records += records
        candidates = sum(one.totals()["rows_made"] - one.totals()["rows_expanded"] for one in records)
        done = functools.partial(Round, tuple(records), of_tables=tuple(of_tables), shown=inner.tables)
        if appends:
            return done(candidates, self._accept(number, records[-1], fingerprint, tables))
        if not _same(checked[-1].after, self.checked.after):
            # The steps drop columns, as a fold does: the next round has them, empty.
            widening = Beginning(step=f"{self.name}@{number}")
            self._stage(number, digest(fingerprint, str(self.checked.after)), widening, records[-1], {})
        last = self.records[-1]
        self.previous, self.pool = self.pool, self.work.run.table(last)
        self.digest = fingerprint
        return done(candidates + held[-1].rows_kept, last.rows_kept)

    def _accept(self, number: int, last: StageRecord, fingerprint: str, tables: Mapping[str, Table]) -> int:
        """Let what a round gave join the pool; return how many rows that are."""
        loop, missing = self.loop, self.missing()
        acceptance = Acceptance(
            step=f"{self.name}@{number}", by=loop.by, prefer=loop.prefer, counted=bool(missing)
        )
        deciding = digest(fingerprint, self.digest, loop.by, loop.prefer, missing)
        record = self._stage(number, deciding, acceptance, last, tables)
        self.previous = self.work.run.table(record)
        self.accepted.append(self.previous)
        if self.wanted:
            by = f"CAST({identifier(loop.by)} AS VARCHAR)" if loop.by else "''"
            with Query({"accepted": self.previous}) as query:
                self.held.update(dict(query.rows(f"SELECT {by}, count(*) FROM accepted GROUP BY ALL")))
        self.pool = _joined([self.pool, self.previous])
        self.digest = digest(self.digest, deciding)
        return record.rows_kept

    def _stage(
        self,
        number: int | None,
        fingerprint: str,
        statement: Statement,
        before: StageRecord | None,
        tables: Mapping[str, Table],
        given: Table | None = None,
    ) -> StageRecord:
        """Return the stage of a statement of the loop's own, and note it."""
        step = Step(statement, statement.step)
        checked = Checked(step, self.checked.after, self.checked.after)
        inner = self.work.within(self.work.pipeline, {**tables, "nothing": self.nothing}, {})
        place = self.at if number is None else f"{self.at}.{number}"
        record: StageRecord = inner.stage(place, fingerprint, [checked], before, given)
        self.records.append(record)
        self.note(_folders(self.records))
        return record

    def _about(self, number: int) -> pa.Table:
        """Return the relation `round`: its number, and what the finished rounds took and gave."""
        import pyarrow as pa

        rounds = [one.figures() for one in self.done]
        row: dict[str, Any] = {"number": number}
        for name in _FIGURES:
            row[name] = rounds[-1][name] if rounds else 0
        for name in _FIGURES:
            row[f"all_{name}"] = sum(one[name] for one in rounds)
        # To SQL, NaN is more than any number: `until: all_usd > 5` would hold of what nobody knows.
        known = {name: None if value != value else value for name, value in row.items()}
        return pa.Table.from_pylist([known], schema=ABOUT)

    def _written(self, name: str, rows: pa.Table) -> Table:
        import pyarrow.parquet as pq

        path = self.folder / f"{name}.parquet"
        pq.write_table(rows, path)
        return Table((str(path),), "parquet")

    # The end.

    def _ends(self, number: int) -> str:
        """Return why no further round begins, or nothing."""
        loop, patience = self.loop, self.done[-self.loop.patience :]
        if self.wanted and not sum(self.missing().values()):
            return "the target is reached"
        if loop.until and self._holds(number):
            return f"until holds: {loop.until}"
        if len(patience) == loop.patience and not any(one.accepted for one in patience):
            return f"{loop.patience} rounds in a row gave no row"
        if loop.candidates is not None and sum(one.candidates for one in self.done) >= loop.candidates:
            return f"the budget of {loop.candidates} candidates is used up"
        return f"max: {loop.max} rounds" if number == loop.max else ""

    def _holds(self, number: int) -> bool:
        run, records = self.work.run, self.done[-1].records
        rejects = [file for one in records for file in run.paths(one.rejects)]
        metrics = [file for one in records for file in run.paths(one.metrics)]
        relations: dict[str, Any] = {**self.done[-1].shown, "pool": self.pool, "previous": self.previous}
        relations["round"] = self._about(number)
        if self.wanted:
            relations["deficit"] = self.loop.deficit(self.missing())
        relations["metrics"] = Table(tuple(metrics), "parquet") if metrics else MEASURED.empty_table()
        relations["rejects"] = Table(tuple(rejects), "parquet") if rejects else REJECTS.empty_table()
        with Query(relations, seed=self.work.pipeline.seed) as query:
            try:
                return bool(query.value(self.loop.ending(query)))
            except QueryError as error:
                raise RunFailed(f"{self.name}: until: {error}") from error

    def _measured(self) -> tuple[tuple[str, float, int, str | None], ...]:
        """Return metric, value, n and slice of what the loop measures of itself."""

        def of(rounds: Sequence[Round], part: str | None) -> list[tuple[str, float, int, str | None]]:
            candidates = sum(one.candidates for one in rounds)
            accepted = sum(one.accepted for one in rounds)
            share = accepted / candidates if candidates else math.nan
            return [
                ("candidates", float(candidates), len(rounds), part),
                ("accepted", float(accepted), len(rounds), part),
                ("yield", share, candidates, part),
            ]

        found = [("rounds", float(len(self.done)), len(self.done), None), *of(self.done, None)]
        if self.wanted:
            found.append(("missing", float(sum(self.missing().values())), sum(self.wanted.values()), None))
        for number, one in enumerate(self.done, start=1):
            found += of([one], f"round={number}")
        return tuple(found)


def _folders(records: Sequence[StageRecord]) -> list[str]:
    return [one.folder for one in records]


def _same(ours: pa.Schema, theirs: pa.Schema) -> bool:
    """Say whether both have the same columns, in whatever order."""
    return {(one.name, one.type) for one in ours} == {(one.name, one.type) for one in theirs}


def _joined(tables: Sequence[Table]) -> Table:
    """Return one table of files that all have the pool's columns."""
    return Table(tuple(file for one in tables for file in one.files), "parquet")
