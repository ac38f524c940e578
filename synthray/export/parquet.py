"""The dataset as Parquet in the Hugging Face layout, with a card that says how it came about."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from synthray import ancestry
from synthray.errors import InputError
from synthray.lineage import uniform
from synthray.operator import Makes, Operator
from synthray.spelling import identifier

if TYPE_CHECKING:
    import pyarrow as pa

    from synthray.stage import Stage

_GROUPS = ("parent_id", "near_duplicate_cluster", "document_id")


@dataclass(frozen=True)
class Parquet(Operator):
    """Write RUN/dataset: data/SPLIT-00000-of-00001.parquet, sorted by row_id, and README.md.

    `split` maps names to shares. It is stratified by `label` (default: the column label, if there is one);
    rows of one lineage root, near-duplicate cluster or document never straddle a split. `columns` picks
    columns (default: all); row_id is always there.
    """

    uses_gate: ClassVar[bool] = True

    split: Mapping[str, float] = field(default_factory=lambda: {"train": 1.0})
    label: str | None = None
    columns: Sequence[str] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The chosen columns."""
        return (*self.columns, *([self.label] if self.label else []))

    def files(self) -> tuple[Path, ...]:
        """Return the source of which rows belong together."""
        return (Path(ancestry.__file__),)

    def makes(self) -> Makes:
        """Leave the rows as they are."""
        return "nothing"

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError when the shares are none or a split's name is no file name."""
        shares = list(self.split.values())
        if not shares or min(shares) <= 0 or not abs(sum(shares) - 1) <= 1e-6:
            raise InputError(f"split must be shares above 0 that sum to 1, but is {dict(self.split)}")
        for name in self.split:
            if not name.replace("_", "").isalnum() or not name.isascii():
                raise InputError(f"split {name!r}: a name has letters, digits and _ only")

    def apply(self, stage: Stage) -> None:
        """Write beside the old dataset, then put the new one in its place."""
        part, final = stage.run.root / ".dataset.part", stage.run.root / "dataset"
        _remove(part)
        (part / "data").mkdir(parents=True)
        names = stage.query.schema("SELECT * FROM rows").names
        splits = self._assign(stage, names)
        chosen = ["row_id", *(name for name in (self.columns or names) if name != "row_id")]
        listed = ", ".join(identifier(name) for name in chosen)
        with stage.over({"rows": stage.input, "splits": splits}, part) as query:
            sizes = {}
            for name in self.split:
                picked = f"SELECT row_id FROM splits WHERE split = '{name}'"
                sql = f"SELECT {listed} FROM rows SEMI JOIN ({picked}) USING (row_id) ORDER BY row_id"
                sizes[name] = query.write(sql, part / "data" / f"{name}-00000-of-00001.parquet")
        (part / "README.md").write_text(_card(stage, sizes), encoding="utf-8")
        old = stage.run.root / ".dataset.old"
        _remove(old)
        # Between the two renames a crash leaves a dataset that is nobody's: the next run exports again.
        stage.run.save(dataset=None)
        if final.exists():
            final.rename(old)
        part.rename(final)
        _remove(old)
        stage.exported([path for path in sorted(final.rglob("*")) if path.is_file()])

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
        split_of = _fill(groups, self.split, self.context.seed)
        ids = [row[0] for row in rows]
        return pa.table(
            {
                "row_id": pa.array(ids, pa.string()),
                "split": pa.array([split_of[roots[one]] for one in ids], pa.string()),
            }
        )


def _remove(path: Path) -> None:
    """Remove a folder of ours; never what a link put in its place points at."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _fill(
    groups: Mapping[str, list[tuple[str, str]]], shares: Mapping[str, float], seed: int
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


def _card(stage: Stage, sizes: Mapping[str, int]) -> str:
    """Return the dataset card: what it is, how it came about, what was measured, what the gate says."""
    import yaml

    state = stage.run.state
    task = stage.task
    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in sizes]
    passed = all(check.passed for check in stage.checks)
    gate = "none" if not stage.checks else "passed" if passed else "refused"
    verdict = {"none": "none was asked for", "passed": "passed", "refused": "REFUSED"}[gate]
    head = {
        "configs": [{"config_name": "default", "data_files": files}],
        "tags": ["synthetic", "synthray"],
        "gate": gate,  # for programs
    }
    # Into how many blocks rows were cut changes no result, so it does not change the card.
    shown = {key: value for key, value in state["recipe"].items() if key != "blocks"}
    recipe = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    fence = "`" * (
        3 + max((len(run) for run in recipe.replace("\n", " ").split() if set(run) == {"`"}), default=0)
    )
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
            f"# {_plain(state['name'])}\n",
            "Synthetic data, made by synthray from the recipe below.\n",
            f"Task: {_plain(task.text)}\n" if task.text else "",
            *(f"- {_plain(name)}: {_plain(str(meaning or ''))}" for name, meaning in task.labels.items()),
            f"\nGuideline: {_plain(task.guideline)}\n" if task.guideline else "",
            "## Splits\n",
            _table([{"split": name, "rows": size} for name, size in sizes.items()]),
            f"## Gate: {verdict}\n",
            _table(
                [
                    {"condition": c.condition, "holds": "yes" if c.passed else "no", "measured": c.found}
                    for c in stage.checks
                ]
            ),
            "## What became of the rows\n",
            _table(stage.run.sql("SELECT * FROM funnel").to_pylist()),
            "## Why rows were left out\n",
            _table(stage.run.sql("SELECT * FROM reasons").to_pylist()),
            "## Measurements\n",
            _table(stage.run.sql("SELECT * EXCLUDE (slice) FROM measured WHERE slice IS NULL").to_pylist()),
            "### Of slices\n",
            _table(stage.run.sql("SELECT * FROM measured WHERE slice IS NOT NULL").to_pylist()),
            f"## Recipe (seed {state['seed']})\n",
            f"{fence}yaml\n{recipe}{fence}\n",
        ]
    )


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "None.\n"
    lines = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([_cell(value) for value in row.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else _plain(str(value))


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, HTML or table bars from data."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*_[]|#":
        text = text.replace(mark, f"\\{mark}")
    return text
