"""The command line: run, submit, plan, show, sql, report, diff, review, ops, recipes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthray.errors import BudgetSpent, GateRefused, InputError, RunFailed, SynthrayError

if TYPE_CHECKING:
    from synthray.run import Run

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Generate, curate and evaluate synthetic data: every row has a lineage, every reject a reason.",
    epilog="Exit codes: 0 done; 1 failed; 2 wrong input; 3 the gate refused; 4 budget spent; 130 stopped.",
)
INTERRUPTED = 130

Recipe = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")]
RunDirectory = Annotated[str, typer.Argument(metavar="RUN", help="A run: a directory, or s3://bucket/run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Rows = Annotated[int | None, typer.Option(min=1, help="How many rows the first step makes.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a setting: seed=8, prompt.n=3."),
]


@app.command()
def run(
    recipe: Recipe,
    out: Annotated[str | None, typer.Option(metavar="RUN", help="Default: runs/NAME.")] = None,
    rows: Rows = None,
    settings: Settings = None,
    retry_failed: Annotated[bool, typer.Option(help="Try the rows again that failed.")] = False,
    as_json: Json = False,
) -> None:
    """Run a recipe into a directory; running again goes on where it stopped and repays nothing."""
    from synthray import recipe as recipes
    from synthray.run import Run

    pipeline = recipes.load(recipe, rows=rows, settings=settings or [])
    root = out or f"runs/{pipeline.name}"
    try:
        done = pipeline.run(root, retry_failed=retry_failed)
    except GateRefused:
        _report(Run.read(root), root, as_json)
        raise
    _report(done, root, as_json)


@app.command()
def submit(
    recipe: Recipe,
    address: Annotated[
        str, typer.Option(metavar="URL", help="The dashboard of the cluster's head.")
    ] = "http://127.0.0.1:8265",
    out: Annotated[
        str | None, typer.Option(metavar="RUN", help="s3://bucket/run, or a shared folder.")
    ] = None,
    rows: Rows = None,
    settings: Settings = None,
    retry_failed: Annotated[bool, typer.Option(help="Try the rows again that failed.")] = False,
) -> None:
    """Run a recipe as a job on a cluster, follow it, and end with its exit code."""
    from synthray.submit import submit as submitted

    code = submitted(recipe, address, out, rows=rows, settings=settings or [], retry_failed=retry_failed)
    if code:
        raise typer.Exit(code)
    print(f"Done: {out} (see: synthray show {out})")


@app.command()
def plan(recipe: Recipe, rows: Rows = None, settings: Settings = None, as_json: Json = False) -> None:
    """Check a recipe and say what it would do and ask, with sample prompts; nothing is spent."""
    from synthray import recipe as recipes
    from synthray.plan import budget, planned, samples

    pipeline = recipes.load(recipe, rows=rows, settings=settings or [])
    lines = planned(pipeline)
    prompts = samples(pipeline)
    if as_json:
        _print_json({"steps": lines, "prompts": prompts})
        return
    _print_table(lines)
    print(f"\n{budget(pipeline, lines)}")
    for sample in prompts:
        print(_shown(f"\n{sample['step']}, row {sample['row_id']}:\n{sample['prompt']}"))


@app.command()
def show(run: RunDirectory, as_json: Json = False) -> None:
    """Show a run: the funnel, why rows were rejected, the metrics and the gate."""
    from synthray.run import Run

    _report(Run.read(run), run, as_json)


@app.command()
def sql(
    run: RunDirectory,
    query: Annotated[str | None, typer.Argument(help="One SELECT.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A file with one SELECT.")] = None,
    as_json: Json = False,
) -> None:
    """Ask a run: rows, dataset, rejects, failures, calls, stages, steps, funnel, reasons, measured."""
    from synthray.run import Run

    if (query is None) == (file is None):
        raise InputError("sql needs either a query or -f FILE")
    if file is not None:
        if not file.is_file():
            raise InputError(f"no file {str(file)!r}")
        try:
            query = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{file} is not UTF-8 text") from None
    answer = Run.read(run).sql(query or "").to_pylist()
    _print_rows(answer, as_json)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run directory, or a file or folder of rows.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same, to compare it with.")],
    text: Annotated[str | None, typer.Option(help="The column of the text. Default: text.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of the label. Default: label.")] = None,
    unit: Annotated[
        str | None, typer.Option(help="Rows that depend on each other. Default: their lineage root.")
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="A column of vectors. Default: hashed n-grams of the text.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="How often to call any difference that is none.")] = 0.05,
    resamples: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many permutations.")] = 999,
    sample: Annotated[int, typer.Option(min=2, help="Rows of a side for n-grams and vectors.")] = 5000,
    rows: Annotated[int, typer.Option(min=0, max=1000, help="How many rows of each kind to show.")] = 3,
    as_json: Json = False,
) -> None:
    """Say what differs between two runs, and which differences of their datasets are more than chance."""
    from synthray.diff import diff as differences
    from synthray.diff import sections
    from synthray.side import Settings

    found = differences(a, b, Settings(text, label, unit, embedding, alpha, resamples, sample, rows))
    if as_json:
        _print_json(found)
        return
    print(_shown(found["verdict"]))
    for title, lines in sections(found):
        print(f"\n{title}")
        _print_table(lines)
    for note in found["notes"]:
        print(_shown(f"\n{note}"))


@app.command()
def report(
    run: RunDirectory,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: RUN/report.html.")] = None,
    row: Annotated[
        list[str] | None, typer.Option(metavar="ROW_ID", help="Tell where this row comes from.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What people read. Default: text.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What the rows are of. Default: label.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what a run is as one HTML file: the gate, the funnel, metrics, rejects, texts, lineage, cost."""
    from synthray.report.page import write

    path = write(run, out, rows=row or [], text=text, label=label)
    size = path.stat().st_size if isinstance(path, Path) else 0
    if as_json:
        _print_json({"report": str(path), "bytes": size})
    elif not size:
        print(f"{path} (it needs no network: fetch it and open it in a browser)")
    else:
        print(f"{path} ({size / 1e6:.1f} MB; it needs no network: open it in a browser)")


@app.command()
def review(
    run: RunDirectory,
    budget: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many rows at most.")] = 100,
    random: Annotated[str, typer.Option(help="Of these by chance: a share, or a number of rows.")] = "0.2",
    by: Annotated[str, typer.Option(help="uncertainty, disagreement, or SQL: the largest first.")] = (
        "uncertainty"
    ),
    kind: Annotated[str, typer.Option("--format", help="csv, jsonl, label-studio or argilla.")] = "csv",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: in RUN/reviews.")] = None,
    text: Annotated[str, typer.Option(help="The column that people read.")] = "text",
    label: Annotated[str, typer.Option(help="The column that they judge.")] = "label",
    relation: Annotated[
        str | None, typer.Option("--from", metavar="VIEW", help="Default: what reaches curate.review.")
    ] = None,
    batch: Annotated[str | None, typer.Option(metavar="NAME", help="Default: batch-1, batch-2 ...")] = None,
    again: Annotated[bool, typer.Option(help="Give out rows again, to other people.")] = False,
    back: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Take in a file that people filled in.")
    ] = None,
    reviewer: Annotated[
        str, typer.Option(metavar="NAME", help="Who answered, where the file is silent.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Give rows of a run to people, the least sure ones and some by chance, or take in their answers."""
    from synthray.draw import Draw, give_out
    from synthray.questionnaire import take_in

    if back is not None:
        taken, reviews = take_in(run, back, reviewer)
        _print_rows([{**vars(taken), **reviews.standing()}], as_json)
        return
    drawn, (file, guide) = give_out(
        run, Draw(budget, random, by, label, text, relation, again, batch), kind, out
    )
    told = drawn.counts()
    if as_json:
        _print_json({**told, "file": str(file), "guide": str(guide)})
        return
    _print_table([told])
    print(f"\nTo fill in: {file}\nBeside it: {guide}")
    print(f"Then: synthray review {run} --import {file}")


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(help="An operator, such as curate.near_duplicate.")] = None,
    as_json: Json = False,
) -> None:
    """List the operators, or show one with its settings."""
    from synthray.operator import find_operator, operator_paths

    if name is None:
        _print_rows([{"operator": path, "what": what} for path, what in operator_paths()], as_json)
        return
    found = find_operator(name)
    described = _described(found)
    if as_json:
        _print_json({"operator": name, "what": found.__doc__, "settings": described})
        return
    import inspect

    print(f"{name}: {inspect.getdoc(found)}\n")
    _print_table(described)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="A shipped recipe.")] = None, as_json: Json = False
) -> None:
    """List the shipped recipes by the survey's taxonomy, or print one to copy."""
    from synthray import cookbook

    if name is None:
        _print_rows(cookbook.listed(), as_json)
        return
    text = cookbook.find(name).read_text(encoding="utf-8")
    if as_json:
        _print_json({"recipe": name, "text": text})
    else:
        print(text, end="")


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = app(standalone_mode=False)
    except SynthrayError as error:
        _tell(error)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0
    except Exception as error:
        code = _usage(error)
    if code == INTERRUPTED:  # typer may have taken the interrupt itself
        print("interrupted; run the same command again to go on: answered calls are kept", file=sys.stderr)
    sys.exit(code or 0)


def _usage(error: Exception) -> int:
    """Tell of wrong words on the command line; anything else is a defect and shows its trace."""
    if not hasattr(error, "format_message"):
        raise error
    print(f"synthray: {error.format_message()}; see: synthray --help", file=sys.stderr)
    return InputError.exit_code


def _tell(error: SynthrayError) -> None:
    print(f"synthray: {_shown(error)}", file=sys.stderr)
    if isinstance(error, RunFailed | BudgetSpent):
        print("what was answered is kept: run the same command again to go on", file=sys.stderr)


def _described(found: Any) -> list[dict[str, Any]]:
    import dataclasses

    rows = []
    for item in dataclasses.fields(found):
        if item.name in ("context", "base"):
            continue
        default: Any = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        shown = "required" if default is dataclasses.MISSING else repr(default)
        rows.append({"setting": item.name, "type": str(item.type), "default": shown})
    return rows


def _report(run: Run, root: str, as_json: bool) -> None:
    """Print what a run is: for people as tables, for programs as one object."""
    state = run.state
    held = {
        "name": state["name"],
        "state": state["state"],
        "seed": state["seed"],
        "funnel": run.sql("SELECT * FROM funnel").to_pylist(),
        "reasons": run.sql("SELECT * FROM reasons").to_pylist(),
        "metrics": run.sql("SELECT * FROM measured").to_pylist(),
        "gate": state.get("gate") or [],
        "calls": run.sql(
            "SELECT count(*) FILTER (WHERE error IS NULL) AS kept, "
            "count(*) FILTER (WHERE error IS NOT NULL) AS lost, "
            "coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt_tokens, "
            "coalesce(sum(completion_tokens), 0)::BIGINT AS completion_tokens, "
            "sum(cost) AS cost_usd FROM calls"
        ).to_pylist()[0]
        | {"made_now": state.get("calls_made", 0)},
        "run": root,
        "dataset": f"{root.rstrip('/')}/dataset" if state.get("dataset") else None,
        "error": state.get("error"),
    }
    if as_json:
        _print_json(held)
        return
    print(_shown(f"{held['name']} (seed {held['seed']}): {held['state']}"))
    if held["error"]:
        print(_shown(held["error"]))
    whole = [row for row in held["metrics"] if row["slice"] is None]
    parts = len(held["metrics"]) - len(whole)
    for title, rows in (
        ("\nRows", [_narrow(row) for row in held["funnel"]]),
        ("\nWhy rows were left out", held["reasons"]),
        ("\nMetrics", [{name: row[name] for name in row if name != "slice"} for row in whole]),
        ("\nGate", [_required(row) for row in held["gate"]]),
    ):
        if rows:
            print(title)
            _print_table(rows)
        if title == "\nMetrics" and parts:
            print(f"  and of slices, such as labels and stages: {parts} (SELECT * FROM measured)")
    calls = held["calls"]
    print(
        f"\nModel calls: {calls['made_now']} made by the last run, {calls['kept']} kept in all "
        f"({calls['prompt_tokens']} prompt and {calls['completion_tokens']} completion tokens"
        f"{'' if calls['cost_usd'] is None else ', {:.6f} US dollars'.format(calls['cost_usd'])})"
    )
    if calls["lost"]:
        print(
            f"  {calls['lost']} more were sent, had no answer and may have been paid for; they count in full"
        )
    if held["dataset"]:
        print(f"Dataset: {held['dataset']} (files in data, a card in README.md)")
    print(f"All else: {root} (see: synthray show {root})")
    command = "uv run synthray" if os.environ.get("UV_RUN_RECURSION_DEPTH") else "synthray"
    print("\nTry:")
    print(f'  {command} sql {root} "SELECT reject_reason, count(*) FROM rows GROUP BY 1"')
    print(f'  {command} sql {root} "SELECT * EXCLUDE (row_id, parent_id, round) FROM dataset LIMIT 5"')


def _narrow(row: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the funnel as it fits a terminal."""
    return {name.removeprefix("rows_"): value for name, value in row.items() if name != "operator"}


def _required(row: dict[str, Any]) -> dict[str, Any]:
    """Return a condition of the gate as people read it: what was required, what was measured."""
    return {
        "required": row["condition"],
        "measured": row["found"],
        "": "holds" if row["passed"] else "REFUSED",
    }


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
    else:
        _print_table(rows)


def _print_json(value: Any) -> None:
    print(json.dumps(_without_nan(value), default=str, ensure_ascii=False, allow_nan=False))


def _without_nan(value: Any) -> Any:
    """Return `value` with null for what JSON cannot say: NaN and infinities."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("no rows")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        value = next((row[name] for row in rows if row.get(name) is not None), None)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(Text(_shown(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text, not markup: a value like [red] is data.
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    # Wide output into a pipe stays one line a row.
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False).print(table)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    # Control characters of a model's answer must not reach the terminal.
    return "".join(one if one.isprintable() or one == "\n" else f"\\x{ord(one):02x}" for one in text)


if __name__ == "__main__":
    main()
