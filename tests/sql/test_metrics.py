"""Each shipped metric measures what its header says: rows in, measurements out."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synthray.metric import METRICS
from synthray.query import SQL, Query, shipped
from synthray.recipe import load
from synthray.statement import Select

FILES = sorted(path.stem for path in (SQL / "metrics").glob("*.sql"))
SCHEMA = pa.schema(
    [("row_id", pa.string()), ("text", pa.string()), ("label", pa.string()), ("attribute", pa.string())]
)


def entropy(*shares: float) -> float:
    return -sum(share * math.log(share) for share in shares)


# (text, label) of each row, and (metric, slice): (value, n) measured. The attribute is the text.
PAIRS: list[tuple[str, list[tuple[str | None, str | None]], Mapping[tuple[str, str | None], Any]]] = [
    (
        "balance",
        [("", "x"), ("", "x"), ("", "x"), ("", "y"), ("", None)],
        {
            ("share", "label=x"): (0.75, 3),
            ("share", "label=y"): (0.25, 1),
            ("labels", None): (2, 4),
            ("imbalance", None): (3, 4),
            ("evenness", None): (-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)), 4),
            ("unlabelled", None): (0.2, 5),
        },
    ),
    (
        "balance",
        [("", "x"), ("", "y"), ("", "z")],
        {
            ("share", "label=x"): (1 / 3, 1),
            ("share", "label=y"): (1 / 3, 1),
            ("share", "label=z"): (1 / 3, 1),
            ("labels", None): (3, 3),
            ("imbalance", None): (1, 3),
            ("evenness", None): (1, 3),
            ("unlabelled", None): (0, 3),
        },
    ),
    (
        "balance",
        [("", "x")],
        {
            ("share", "label=x"): (1, 1),
            ("labels", None): (1, 1),
            ("imbalance", None): (1, 1),
            ("evenness", None): (0, 1),
            ("unlabelled", None): (0, 1),
        },
    ),
    (
        "balance",
        [],
        {
            ("labels", None): (0, None),
            ("imbalance", None): (None, None),
            ("evenness", None): (None, None),
            ("unlabelled", None): (None, 0),
        },
    ),
    (
        # The attribute tells the label but where it is p: 3 of 5 are x there.
        "bias",
        [("p", "x")] * 3 + [("p", "y")] * 2 + [("q", "y")] * 4 + [("r", "x"), (None, "x"), ("p", None)],
        {
            ("bias", None): (
                1 - (5 / 10) * entropy(3 / 5, 2 / 5) / entropy(4 / 10, 6 / 10),
                10,
            ),
            ("bias_by_chance", None): (2 / (2 * 10 * entropy(4 / 10, 6 / 10)), 10),
        },
    ),
    (
        "bias",
        [("p", "x"), ("p", "y"), ("q", "x"), ("q", "y")] * 10,
        {("bias", None): (0, 40), ("bias_by_chance", None): (1 / (2 * 40 * math.log(2)), 40)},
    ),
    ("bias", [("p", "x"), ("q", "x")], {("bias", None): (None, 2), ("bias_by_chance", None): (None, 2)}),
    ("bias", [], {("bias", None): (None, 0), ("bias_by_chance", None): (None, 0)}),
    (
        # Runs of 6 words: the first two texts have one in common, the third is the first again.
        "boilerplate",
        [
            ("As an AI model, I cannot say", None),
            ("as an ai model i cannot know", None),
            ("as an ai model i cannot SAY.", None),
            ("one two three", None),
            ("一二三四五六七", None),
            ("...", None),
            (None, None),
        ],
        {
            ("boilerplate", None): (2 / 4, 4),
            ("boilerplate", "run=as an ai model i cannot"): (2 / 4, 4),
        },
    ),
    # A run counts once in a text.
    ("boilerplate", [("a a a a a a a a", None), ("b", None)], {("boilerplate", None): (0, 2)}),
    ("boilerplate", [(None, None)], {("boilerplate", None): (None, 0)}),
    (
        "coverage",
        [("p", "x"), ("p", "x"), ("p", "y"), ("q", "y"), ("q", None), (None, "x")],
        {
            ("coverage", None): (1, 6),
            ("evenness", None): (entropy(3 / 5, 2 / 5) / math.log(2), 6),
            ("label_coverage", None): (3 / 4, 6),
            ("unset", None): (1 / 6, 6),
            ("unlisted", None): (0, 6),
        },
    ),
    (
        "coverage",
        [],
        {(name, None): (None, 0) for name in ("coverage", "evenness", "label_coverage", "unset", "unlisted")},
    ),
    (
        # Words: a b a | a b | c; pairs: ab ba ab; triples: aba.
        "diversity",
        [("A b, a", None), ("a b", None), ("a b", None), ("c", None), (None, None)],
        {
            ("distinct_1", None): (3 / 8, 8),
            ("distinct_2", None): (2 / 4, 4),
            ("distinct_3", None): (1, 1),
            ("vocabulary", None): (3, 8),
            ("root_type_token", None): (3 / math.sqrt(8), 8),
            ("word_entropy", None): (entropy(4 / 8, 3 / 8, 1 / 8) / math.log(2), 8),
            ("ingf_mean_count", None): (1, 1),
            ("ingf_squared_share", None): (1, 1),
            ("duplicates", None): (1 / 4, 4),
            ("mean_words", None): (2, 4),
        },
    ),
    (
        "length",
        [("é" * n, "x") for n in (0, 10, 20, 30, 40)] + [("ab", None), (None, "x"), (None, "y")],
        {
            ("length_p05", None): (0.5, 6),
            ("length_p25", None): (4, 6),
            ("length_p50", None): (15, 6),
            ("length_p75", None): (27.5, 6),
            ("length_p95", None): (37.5, 6),
            ("length_p05", "label=x"): (2, 5),
            ("length_p25", "label=x"): (10, 5),
            ("length_p50", "label=x"): (20, 5),
            ("length_p75", "label=x"): (30, 5),
            ("length_p95", "label=x"): (38, 5),
            **{(f"length_p{p}", "label=null"): (2, 1) for p in ("05", "25", "50", "75", "95")},
        },
    ),
    ("length", [(None, "x")], {}),
    (
        "shape",
        [("Ab 12", None), ("- über\n\n* so…\nend...", None), ("日本\x00", None), (None, None)],
        {
            ("letters", None): (13 / 21, 21),
            ("digits", None): (2 / 21, 21),
            ("capitals", None): (1 / 11, 11),
            ("bullet_lines", None): (2 / 5, 5),
            ("trailing_off_lines", None): (2 / 5, 5),
            ("damaged", None): (1 / 3, 3),
        },
    ),
    (
        "shape",
        [("", None)],
        {
            **{(name, None): (None, 0) for name in ("letters", "digits", "capitals")},
            **{(name, None): (None, 0) for name in ("bullet_lines", "trailing_off_lines")},
            ("damaged", None): (0, 1),
        },
    ),
    (
        # Runs of 4: abab baba abab baba abab (3 of 5 again), then abcd, then none.
        "repetition",
        [("a b A b a b a b", None), ("A b c d", None), ("a", None), (None, None)],
        {
            ("repeated_runs", None): (3 / 6, 6),
            ("repeated_lines", None): (None, 0),
            ("repetitive_rows", None): (1 / 3, 3),
        },
    ),
    (
        "repetition",
        [("This line is said a second time\nend\nThis line is said a second time\nend", None)],
        {
            ("repeated_runs", None): (5 / 13, 13),
            ("repeated_lines", None): (1 / 2, 2),
            ("repetitive_rows", None): (0, 1),
        },
    ),
]


def measured(file: str, rows: Sequence[tuple[str | None, str | None]]) -> dict[tuple[str, str | None], Any]:
    """Return the measurements as a step of a recipe would write them."""
    held = [
        {"row_id": f"r{n}", "text": text, "label": label, "attribute": text}
        for n, (text, label) in enumerate(rows)
    ]
    step = replace(Select(shipped(f"metrics/{file}.sql")), step="here")
    with Query({"rows": pa.Table.from_pylist(held, schema=SCHEMA)}) as query:
        plan = step.settle(query).plan(query, "rows", guard=False)
        assert plan.metrics is not None
        found = query.arrow(plan.metrics)
        assert query.value(f"SELECT count(*) FROM ({plan.rows})") == len(rows), "a metric drops no row"
    assert found.schema.names == METRICS.names
    out = {(row["metric"], row["slice"]): (row["value"], row["n"]) for row in found.to_pylist()}
    assert len(out) == len(found), "a metric is named once for each slice"
    return out


def test_every_shipped_metric_has_a_pair() -> None:
    assert {file for file, *_ in PAIRS} == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_metric_says_in_its_header_what_it_takes_and_gives(file: str) -> None:
    head = [line for line in shipped(f"metrics/{file}.sql").splitlines() if line.startswith("--")]
    assert head[0].startswith(f"-- {file}: ")
    assert sum(line.startswith("-- Takes: ") and "Gives: metric, value, n" in line for line in head) == 1


@pytest.mark.parametrize(("file", "rows", "expected"), PAIRS)
def test_rows_are_measured(file: str, rows: list[Any], expected: Mapping[Any, Any]) -> None:
    found = measured(file, rows)
    assert found.keys() == expected.keys()
    for key, (value, n) in expected.items():
        assert found[key] == (value if value is None else pytest.approx(value, abs=1e-12), n), key


@pytest.mark.parametrize("file", FILES)
def test_the_order_of_rows_changes_no_digit(file: str) -> None:
    drawn = random.Random(1)
    words = ["red", "blau", "42", "日本", "...", "\n", "Über", "so it is said and said again", "!"]
    rows = [(" ".join(drawn.choices(words, k=30)), f"l{int(drawn.expovariate(0.01))}") for _ in range(3000)]
    first = measured(file, rows)
    drawn.shuffle(rows)
    assert measured(file, rows) == first


@pytest.mark.ray
def test_a_run_keeps_the_measurements_of_every_metric(
    write: Callable[..., Path], tmp_path: Path, ray_session: None
) -> None:
    rows = [
        {"text": "It rains in the north today", "label": "a", "attribute": 1},
        {"text": "It snows", "label": "b", "attribute": 2},
    ]
    write("".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    steps = "".join(f"  - sql: metrics/{file}.sql\n    as: {file}\n" for file in FILES)
    run = load(write(f"steps:\n  - source.table: {{path: rows.jsonl}}\n{steps}")).run(
        tmp_path / "run", quiet=True
    )
    found = run.sql("SELECT step, metric, slice, value FROM metrics").to_pylist()
    values = {(row["step"], row["metric"], row["slice"]): row["value"] for row in found}
    assert {row["step"] for row in found} == set(FILES)
    assert values["balance", "share", "label=a"] == 0.5
    assert values["length", "length_p50", "label=b"] == len("It snows")
    assert values["bias", "bias", None] == 1
    assert values["diversity", "distinct_1", None] == 7 / 8
    assert run.sql("SELECT count(*) AS n FROM dataset").to_pylist() == [{"n": 2}]
