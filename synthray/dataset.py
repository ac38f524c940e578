"""The dataset that a run exports: its folder, its splits, and the base of operators that write it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from synthray import ancestry, card
from synthray.errors import InputError, RunFailed
from synthray.lineage import uniform
from synthray.operator import Makes, Operator
from synthray.spelling import identifier

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.query import Query
    from synthray.stage import Stage

SOURCES = (Path(__file__), Path(ancestry.__file__), card.SOURCE)
"""The files that decide what an export writes beside its own."""

_GROUPS = ("parent_id", "near_duplicate_cluster", "document_id")
_BREAKS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
"""What some readers take for the end of a line, as JSON spells it."""


@dataclass(frozen=True)
class Export(Operator):
    """Base of operators that write the dataset: RUN/dataset, rows sorted by row_id, and README.md, its card.

    `split` maps names to shares. It is stratified by `label` (default: the column label, if there is one);
    rows of one lineage root, near-duplicate cluster or document never straddle a split.

    `datasets.load_dataset("RUN/dataset")` opens what a recipe's first export wrote. Each further one writes a
    dataset with a card of its own to a folder in it that is named after the step: `load_dataset(
    "RUN/dataset/chat")`. JSON lines are UTF-8; a split without rows has no file of them.
    """

    uses_gate: ClassVar[bool] = True
    suffix: ClassVar[str] = "jsonl"

    split: Mapping[str, float] = field(default_factory=lambda: {"train": 1.0}, kw_only=True)
    label: str | None = field(default=None, kw_only=True)

    @property
    def reads(self) -> tuple[str, ...]:
        """What lines are made of, and the label."""
        return tuple(dict.fromkeys((*self.needs(), *([self.label] if self.label else []))))

    def needs(self) -> tuple[str, ...]:
        """Return the columns that lines are made of; none: all there are."""
        return ()

    def line(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what is written of a row beside its row_id; `row` has the columns of `needs`.

        A RunFailed says what is wrong with it, and the row is then named.
        """
        return row

    def files(self) -> tuple[Path, ...]:
        """Return the sources of what it stands on."""
        return SOURCES

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the shares are none, or a name cannot be one of a file or a form."""
        shares = list(self.split.values())
        if not shares or min(shares) <= 0 or not abs(sum(shares) - 1) <= 1e-6:
            raise InputError(f"split must be shares above 0 that sum to 1, but is {dict(self.split)}")
        for name in self.split:
            if not name.replace("_", "").isalnum() or not name.isascii():
                raise InputError(f"split {name!r}: a name has letters, digits and _ only")
            if name.lower() == "all":
                raise InputError(f"split {name!r}: to the datasets library all means all splits together")
        if self.context.step.lower() == "data":
            raise InputError("an export cannot be named 'data': the first one's files are in such a folder")
        if self.suffix == "jsonl":
            for column in before:
                if column.name in (self.needs() or before.names) and _has_bytes(column.type):
                    raise InputError(
                        f"column {column.name!r} holds bytes ({column.type}), for which JSON has no form; "
                        "leave it out, or use export.parquet"
                    )

    def apply(self, stage: Stage) -> None:
        """Write beside the old dataset, then put the new one in its place."""
        scratch, final = stage.run.root / ".dataset.part", stage.run.root / "dataset"
        _remove(scratch)
        if stage.before is not None and stage.before.outputs:  # an export stands just before this one
            shutil.copytree(final, scratch)
            self._write(stage, scratch / self.step)
        else:
            self._write(stage, scratch)
        old = stage.run.root / ".dataset.old"
        _remove(old)
        # Between the two renames a crash leaves a dataset that is nobody's: the next run exports again.
        stage.run.save(dataset=None)
        if final.exists():
            final.rename(old)
        scratch.rename(final)
        _remove(old)
        stage.run.keep(final)
        stage.exported([path for path in sorted(final.rglob("*")) if path.is_file()])

    def _write(self, stage: Stage, folder: Path) -> None:
        """Write the splits and the card to a folder that is new."""
        (folder / "data").mkdir(parents=True)
        names = stage.query.schema("SELECT * FROM rows").names
        splits = self._assign(stage, names)
        chosen = ["row_id", *(name for name in (self.needs() or names) if name != "row_id")]
        listed = ", ".join(identifier(name) for name in chosen)
        sizes: dict[str, int] = {}
        with stage.over({"rows": stage.input, "splits": splits}, folder) as query:
            for name in self.split:
                picked = f"SELECT row_id FROM splits WHERE split = '{name}'"
                sql = f"SELECT {listed} FROM rows SEMI JOIN ({picked}) USING (row_id) ORDER BY row_id"
                sizes[name] = self.write(query, sql, folder / f"data/{name}-00000-of-00001.{self.suffix}")
        text = card.card(stage, sizes, self.suffix)
        (folder / "README.md").write_text(text, encoding="utf-8")

    def write(self, query: Query, sql: str, path: Path) -> int:
        """Write the rows of a split to a file; return how many there are."""
        count = 0
        for block in query.blocks(f"({sql}) ORDER BY row_id"):
            if len(block):
                with path.open("a", encoding="utf-8", newline="\n") as file:
                    file.writelines(self._encoded(row) for row in block.to_pylist())
            count += len(block)
        return count

    def _encoded(self, row: dict[str, Any]) -> str:
        row_id = row.pop("row_id")
        try:
            line = self.line(row)
        except RunFailed as error:
            raise RunFailed(f"{self.step}: row {row_id!r}: {error}") from None
        return encoded({"row_id": row_id, **line})

    def _assign(self, stage: Stage, names: list[str]) -> pa.Table:
        """Return row_id and split, over ids and labels alone."""
        import pyarrow as pa

        label = self.label or ("label" if "label" in names else None)
        keys = [identifier(name) for name in names if name.endswith(_GROUPS)]
        lists = "list_concat([{0}], parents)" if "parents" in names else "[{0}]"
        value = f"CAST({identifier(label)} AS VARCHAR)" if label else "''"
        rows = stage.query.rows(
            f"SELECT row_id, coalesce({value}, ''), {lists.format(', '.join(keys))} FROM rows ORDER BY row_id"
        )
        roots = ancestry.roots(rows, ancestry.parents(stage.run, stage.run.stages()))
        groups: dict[str, list[tuple[str, str]]] = {}
        for row_id, stratum, _ in rows:
            groups.setdefault(roots[row_id], []).append((row_id, stratum))
        split_of = fill(groups, self.split, self.context.seed)
        ids = [row[0] for row in rows]
        return pa.table(
            {
                "row_id": pa.array(ids, pa.string()),
                "split": pa.array([split_of[roots[one]] for one in ids], pa.string()),
            }
        )


def fill(
    groups: Mapping[str, Sequence[tuple[str, str]]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Give each group, in a seeded order, to the split that lacks most rows of the group's main label."""
    held: dict[tuple[str, str], int] = {}
    seen: dict[str, int] = {}
    split_of = {}
    for name in sorted(groups, key=lambda one: uniform("split", seed, one)):
        strata = [stratum for _, stratum in groups[name]]
        main = max(sorted(set(strata)), key=strata.count)
        seen[main] = seen.get(main, 0) + len(strata)
        split = max(shares, key=lambda one: shares[one] * seen[main] - held.get((one, main), 0))
        held[split, main] = held.get((split, main), 0) + len(strata)
        split_of[name] = split
    return split_of


def encoded(line: Mapping[str, Any]) -> str:
    """Return a line of JSON with its end; a number that JSON has not (NaN, infinity) is null.

    What JSON has no type for (dates, times, decimals) is text.
    """
    try:
        text = json.dumps(line, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(line), ensure_ascii=False, allow_nan=False, default=str)
    for mark, spelled in _BREAKS.items():
        text = text.replace(mark, spelled)
    return text + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def _has_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    return any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields))


def _remove(path: Path) -> None:
    """Remove a folder of ours; never what a link put in its place points at."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
