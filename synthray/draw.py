"""Which rows of a run people are asked about: the first by a rank, and beside them some by chance.

See synthray.review for what the two are worth. A row that was picked before is not picked again, and the
slice goes on where it ended; but a row that was drawn before can be picked: whether it is must not depend on
chance, or its probability would be unknown. Such a row is not given out again, so a batch may be smaller than
its budget.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthray.bucket import is_url
from synthray.errors import InputError, QueryError, RunError, near
from synthray.lineage import uniform
from synthray.query import Query
from synthray.questionnaire import SUFFIXES, Guide, Item, write
from synthray.review import CHANCE, FOLDER, Asked, Batch, Reviews, claimed, digest_of, listed
from synthray.spelling import identifier, quoted

if TYPE_CHECKING:
    from synthray.run import Run

UNCERTAIN = {
    "label_quality": ("label_quality", -1),
    "label_entropy": ("label_entropy", 1),
    "student_probabilities": ("list_max(student_probabilities)", -1),
    "probabilities": ("list_max(probabilities)", -1),
}
"""The columns that say how sure a label is, the best first; SQL for it, 1 where more is less sure."""

OTHERS = ("new_label", "suggested_label", "student_label", "consensus_label")
"""The columns in which another label than the given one may stand."""

NEIGHBOURS = 3
AMONG = 20_000
"""Where no column names the neighbours, they are looked for among so many rows, chosen by chance."""

_DIMENSIONS = 256
_MOST_LABELS = 1000


@dataclass(frozen=True)
class Drawn:
    """What is given out: the batch, those of its rows that people have not seen, and what guides them."""

    batch: Batch
    items: list[Item]
    guide: Guide

    def counts(self) -> dict[str, Any]:
        """Return how many rows were drawn in which way, from how many, and how many are to be filled in."""
        rows = self.batch.rows
        return {
            "batch": self.batch.name,
            "rows": len(self.items),
            "picked": sum(row.picked for row in rows),
            "random": sum(row.slice for row in rows),
            "both": sum(row.picked and row.slice for row in rows),
            "from": self.batch.frame,
        }


@dataclass(frozen=True)
class Draw:
    """How rows are drawn: `budget` of them in all, of which `random` by chance and the others `by` a rank.

    `by` is 'uncertainty', 'disagreement' or SQL over the rows, of which the largest come first. `again` draws
    as if nothing had been given out. `relation` is a view of the run; without one the rows are those
    that reach the recipe's curate.review, else the dataset.
    """

    budget: int = 100
    random: str = "0.2"
    by: str = "uncertainty"
    label: str = "label"
    text: str = "text"
    relation: str | None = None
    again: bool = False
    batch: str | None = None

    def chosen(self, run: Run, reviews: Reviews) -> Drawn:
        """Return what is to be given out, in an order that does not tell picked rows from others."""
        by_chance = self.by_chance()
        name = self.name(reviews)
        with self._frame(run) as query:
            self._check(query)
            rank = self._rank(query) if by_chance < self.budget else None
            frame = int(query.value("SELECT count(*) FROM given"))
            picked = self._picked(query, rank, self.budget - by_chance, reviews)
            drawn, cutoff = self._drawn(query, by_chance, reviews)
            rate = query.value(f"SELECT count(*) FROM given WHERE {_CHANCE} <= {cutoff!r}") / max(1, frame)
            rows = self._rows(query, {*picked, *drawn})
            known = set() if self.again else reviews.asked()
            shown = [row for row in rows if (row["row_id"], digest_of(row["text"])) not in known]
            if not shown:
                raise InputError(
                    f"there is nothing new to review: of {frame} rows {len(known)} are given out, and the "
                    "draw finds none beside them; --again gives rows out once more"
                )
            guide = self._guide(run, query)
            seed = run.state.get("seed", 0)
            shown.sort(key=lambda row: uniform("order", seed, name, row["row_id"]))
            items = self._items(query, shown, name)
        asked = tuple(
            Asked(
                one["row_id"],
                digest_of(one["text"]),
                one["label"],
                one["row_id"] in picked,
                one["row_id"] in drawn,
            )
            for one in rows
        )
        labels = tuple(guide.labels)
        return Drawn(
            Batch(name, self.text, self.label, labels, seed, frame, rate, cutoff, asked), items, guide
        )

    def by_chance(self) -> int:
        """Return how many rows are drawn by chance: `random` is a number of rows, or a share with a point."""
        try:
            if self.random.endswith("%"):
                share = float(self.random[:-1]) / 100
            elif self.random.isdecimal():
                share = int(self.random) / self.budget
            else:
                share = float(self.random)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise InputError(
                f"--random {self.random!r} must be a share of the budget such as 0.2 or 20%, or a number of "
                f"rows up to the budget ({self.budget})"
            )
        return round(share * self.budget)

    def name(self, reviews: Reviews) -> str:
        """Return the batch's name, which no other batch has."""
        taken = [batch.name for batch in reviews.batches]
        name = self.batch or f"batch-{len(taken) + 1}"
        if not all(one.isalnum() or one in "-_." for one in name) or name.startswith("."):
            raise InputError(f"--batch {name!r} must be letters, digits, -, _ and .")
        if name in taken:
            raise InputError(f"there is a batch {name!r} already; choose another --batch")
        return name

    # The rows to draw from.

    def _frame(self, run: Run) -> Query:
        seed = run.state.get("seed", 0)
        if self.relation is None:
            marked = [
                one for one in run.stages() if any(step.operator == "curate.review" for step in one.steps)
            ]
            if not run.stages():
                raise RunError(f"{run.where} has no finished stage yet")
            return Query({"given": run.table((marked or run.stages())[-1])}, seed=seed)
        query = run.query()
        try:
            if not self.relation.isidentifier():
                raise InputError(f"--from {self.relation!r} must name a view, such as dataset or rows")
            columns = query.schema(f"SELECT * FROM {identifier(self.relation)}").names
            if "row_id" not in columns:
                raise InputError(f"--from {self.relation!r} has no row_id; rows and dataset have")
            query.view("given", f"SELECT * FROM {identifier(self.relation)}")
        except BaseException:
            query.close()
            raise
        return query

    def _check(self, query: Query) -> None:
        schema = query.schema("SELECT * FROM given")
        for option, name in (("--text", self.text), ("--label", self.label)):
            if name not in schema.names:
                raise InputError(f"{option} {name!r}: the run has no such column{near(name, schema.names)}")
            if str(schema.field(name).type) not in ("string", "large_string"):
                raise InputError(f"{option} {name!r} must hold text, but is {schema.field(name).type}")

    def _rank(self, query: Query) -> str:
        """Return SQL for the rank: the largest come first, a row without one is not picked."""
        columns = query.schema("SELECT * FROM given").names
        if self.by == "uncertainty":
            rank = _unsure(columns)
            if rank is None:
                raise InputError(
                    f"--by uncertainty needs one of the columns {', '.join(UNCERTAIN)}, such as "
                    "curate.label_issue makes; the run has none of them. Rank by SQL, such as --by "
                    f"'length({self.text})', or draw all by chance: --random 1.0"
                )
            return rank
        if self.by == "disagreement":
            others = [name for name in OTHERS if name in columns and name != self.label]
            if not others:
                raise InputError(
                    f"--by disagreement needs another label than {self.label!r} in one of the columns "
                    f"{', '.join(OTHERS)}; the run has none of them"
                )
            unlike = " + ".join(
                f"coalesce({identifier(name)} <> {identifier(self.label)}, false)::INTEGER" for name in others
            )
            # Of those in which as many disagree, the least sure ones; that is less than one that disagrees.
            rank = _unsure(columns)
            return f"nullif({unlike}, 0)" + (f" + coalesce(1 / (1 + exp(-({rank}))), 0)" if rank else "")
        try:
            query.bind(self.by, "given")
            settled = query.expression(self.by, "given")
            kind = query.schema(f"SELECT row_id, ({settled}) AS rank FROM given").field("rank").type
        except QueryError as error:
            raise InputError(
                f"--by {self.by!r} is not uncertainty, not disagreement, and as SQL over the rows: {error}"
            ) from None
        if not str(kind).startswith(("int", "uint", "float", "double", "decimal", "bool")):
            raise InputError(f"--by {self.by!r} must be a number for each row, but is {kind}")
        return f"({settled})::DOUBLE"

    # What is drawn.

    def _picked(self, query: Query, rank: str | None, count: int, reviews: Reviews) -> set[str]:
        if rank is None:
            return set()
        before = set() if self.again else reviews.asked(lambda row: row.picked)
        text = identifier(self.text)
        found = query.rows(
            f"SELECT row_id, digest FROM (SELECT row_id, md5({text}) AS digest, {rank} AS rank FROM given "
            f"WHERE trim({text}) <> '') WHERE rank IS NOT NULL AND NOT isnan(rank::DOUBLE) "
            f"ORDER BY rank DESC, chance(row_id, 'tie'), row_id LIMIT {count + len(before)}"
        )
        return {row_id for row_id, _ in [one for one in found if one not in before][:count]}

    def _drawn(self, query: Query, count: int, reviews: Reviews) -> tuple[set[str], float]:
        """Return the next rows in the order of chance, and how far that goes."""
        before = set() if self.again else reviews.asked(lambda row: row.slice)
        found = query.rows(
            f"SELECT row_id, md5(coalesce({identifier(self.text)}, '')), {_CHANCE} FROM given "
            f"ORDER BY {_CHANCE}, row_id LIMIT {count + len(before)}"
        )
        new = [one for one in found if one[:2] not in before][:count]
        held = reviews.batches[-1].cutoff if reviews.batches and not self.again else 0.0
        return {row_id for row_id, _, _ in new}, new[-1][2] if new else held

    def _rows(self, query: Query, names: Collection[str]) -> list[dict[str, Any]]:
        """Return what is known of rows, in the order of row_id."""
        columns = query.schema("SELECT * FROM given").names
        others = [identifier(name) for name in OTHERS if name in columns and name != self.label]
        sure = next(
            ((name, value) for name, (value, _) in UNCERTAIN.items() if name in columns), ("", "NULL")
        )
        shown = [
            "row_id",
            f"{identifier(self.text)} AS text",
            f"{identifier(self.label)} AS label",
            f"coalesce({', '.join([*others, 'NULL'])})::VARCHAR AS suggested",
            f"{quoted(sure[0])} AS measured, ({sure[1]})::DOUBLE AS measure",
        ]
        sql = f"SELECT {', '.join(shown)} FROM given WHERE row_id IN ({listed(names)}) ORDER BY row_id"
        found: list[dict[str, Any]] = query.arrow(sql).to_pylist()
        return found

    # What is shown.

    def _guide(self, run: Run, query: Query) -> Guide:
        """Return what the recipe says of the task; without labels there, those of the rows are allowed."""
        recipe = run.state.get("recipe")
        task = (recipe.get("task") if isinstance(recipe, dict) else None) or {}
        labels = task.get("labels") or {}
        meanings = (
            {name: str(meaning or "") for name, meaning in labels.items()}
            if isinstance(labels, dict)
            else {str(name): "" for name in labels}
        )
        if not meanings:
            label = identifier(self.label)
            found = query.rows(
                f"SELECT DISTINCT {label} FROM given WHERE {label} IS NOT NULL ORDER BY 1 "
                f"LIMIT {_MOST_LABELS + 1}"
            )
            if not 0 < len(found) <= _MOST_LABELS:
                raise InputError(
                    f"the recipe names no task.labels, and the column {self.label!r} has "
                    f"{f'more than {_MOST_LABELS}' if found else 'no'} different ones; name them there"
                )
            meanings = {one: "" for (one,) in found}
        return Guide(str(task.get("text") or ""), str(task.get("guideline") or ""), meanings)

    def _items(self, query: Query, rows: Sequence[Mapping[str, Any]], batch: str) -> list[Item]:
        nearest = self._nearest(query, rows)
        return [
            Item(
                row_id=row["row_id"],
                batch=batch,
                text=row["text"] or "",
                label=row["label"] or "",
                suggested=row["suggested"] or "",
                neighbours=tuple(nearest.get(row["row_id"], ())),
                why=_why(row),
            )
            for row in rows
        ]

    def _nearest(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
        """Return label and text of the rows that are most like each of `rows`."""
        kinds = {one.name: str(one.type) for one in query.schema("SELECT * FROM given")}
        names = [row["row_id"] for row in rows]
        if kinds.get("neighbours", "").endswith(": string>"):
            found = query.rows(
                f"SELECT row_id, neighbours[1:{NEIGHBOURS}] FROM given WHERE row_id IN ({listed(names)})"
            )
            near_ones = {row_id: list(held or ()) for row_id, held in found}
        else:
            near_ones = self._by_spelling(query, rows)
        held = {name for names in near_ones.values() for name in names}
        shown = query.rows(
            f"SELECT row_id, {identifier(self.label)}, {identifier(self.text)} FROM given "
            f"WHERE row_id IN ({listed(held)})"
        )
        texts = {row_id: (label or "", text or "") for row_id, label, text in shown}
        return {name: [texts[one] for one in ones if one in texts] for name, ones in near_ones.items()}

    def _by_spelling(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
        import pyarrow as pa

        from synthray.model.embedding import hashed
        from synthray.vectors import Neighbours, Vectors

        text = identifier(self.text)
        among = query.arrow(
            f"SELECT row_id, {text} AS text FROM given WHERE trim({text}) <> '' "
            f"ORDER BY chance(row_id, 'among'), row_id LIMIT {AMONG}"
        )

        def vectors(ids: Sequence[str], texts: Sequence[str]) -> Vectors:
            made = pa.array(list(hashed(texts, _DIMENSIONS)), pa.list_(pa.float32()))
            return Vectors.of(
                pa.table({"row_id": pa.array(ids, pa.string()), "vector": made}), "vector", "review"
            )

        index = Neighbours(vectors(among["row_id"].to_pylist(), among["text"].to_pylist()))
        asked = vectors([row["row_id"] for row in rows], [row["text"] or "" for row in rows])
        found: dict[str, list[str]] = {}
        for one, other, _ in zip(*index.of(asked, NEIGHBOURS, own=True), strict=True):
            found.setdefault(asked.ids[int(one)].as_py(), []).append(index.vectors.ids[int(other)].as_py())
        return found


def give_out(root: Path | str, draw: Draw, kind: str, out: Path | None) -> tuple[Drawn, list[Path]]:
    """Draw rows of a run, write the file of a kind for people and keep what was given out."""
    if kind not in SUFFIXES:
        raise InputError(f"--format {kind!r} is none{near(kind, SUFFIXES)}")
    if out is None and is_url(root):
        raise InputError(f"{root} is on an object store; name the file that people fill in by --out FILE")
    with claimed(root) as run:
        folder = run.root / FOLDER
        reviews = Reviews(folder)
        drawn = draw.chosen(run, reviews)
        path = out or folder / f"{drawn.batch.name}{SUFFIXES[kind]}"
        written = write(kind, path, drawn.items, drawn.guide)
        # Last: what is kept as given out is in somebody's hands.
        reviews.give(drawn.batch)
    return drawn, written


_CHANCE = f"chance(row_id, {quoted(CHANCE)})"


def _unsure(columns: Collection[str]) -> str | None:
    """Return SQL for a rank in which the least sure label comes first."""
    found = [f"{sign} * {value}" for name, (value, sign) in UNCERTAIN.items() if name in columns]
    return found[0] if found else None


def _why(row: Mapping[str, Any]) -> str:
    """Return what speaks against a label: of each row, so that none says by it how it was chosen."""
    said = [f"{row['measured']} {row['measure']:.3g}"] if row["measure"] is not None else []
    if row["suggested"] and row["suggested"] != row["label"]:
        said.append(f"the model says {row['suggested']}")
    return "; ".join(said)
