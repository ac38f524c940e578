"""How rows are dealt to splits, what a line of JSON is, and where several exports write."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from exporting import exported, opened, rows

from synthray.dataset import encoded, fill
from synthray.errors import InputError, RecipeError
from synthray.export.chat import Chat
from synthray.export.jsonl import Jsonl
from synthray.export.parquet import Parquet
from synthray.operator import Context
from synthray.step import Step

if TYPE_CHECKING:
    from synthray.pipeline import Pipeline

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def singles(labels: list[str]) -> dict[str, list[tuple[str, str]]]:
    return {f"row{number}": [(f"row{number}", label)] for number, label in enumerate(labels)}


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param({}, id="none"),
        pytest.param({"train": 0.9}, id="too little"),
        pytest.param({"train": 0.9, "test": 0.2}, id="too much"),
        pytest.param({"train": 1.0, "test": 0.0}, id="nothing"),
        pytest.param({"train": 1.5, "test": -0.5}, id="below nothing"),
        pytest.param({"train": float("nan")}, id="NaN"),
    ],
)
def test_shares_that_do_not_sum_to_1_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"split must be shares above 0 that sum to 1, but is \{"):
        Parquet(split=shares).check(pa.schema([]))


def test_shares_may_miss_1_by_rounding() -> None:
    Parquet(split=dict.fromkeys("abcdefghij", 0.1)).check(pa.schema([]))
    Parquet(split={"a": 0.3333333, "b": 0.3333333, "c": 0.3333334}).check(pa.schema([]))
    Parquet().check(pa.schema([]))


@pytest.mark.parametrize("name", ["../train", "a b", "a/b", "train-1", "", "_", "früh", "a'b"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="a name has letters, digits and _ only"):
        Parquet(split={name: 1.0}).check(pa.schema([]))


def test_a_split_that_datasets_cannot_open_is_refused() -> None:
    with pytest.raises(InputError, match="split 'all': to the datasets library all means all splits"):
        Jsonl(split={"all": 1.0}).check(pa.schema([]))


def test_shares_are_as_asked_for_in_every_label() -> None:
    labels = ["common"] * 700 + ["rare"] * 50 + ["other"] * 250
    split = fill(singles(labels), SHARES, 1)
    assert len(split) == 1000
    for label, size in Counter(labels).items():
        held = Counter(split[f"row{number}"] for number, one in enumerate(labels) if one == label)
        for name, share in SHARES.items():
            assert abs(held[name] - share * size) <= 1


def test_shares_are_near_the_asked_ones_for_groups_of_rows() -> None:
    groups = {
        f"group{number}": [(f"row{number}-{n}", "ab"[number % 2]) for n in range(1 + number % 7)]
        for number in range(300)
    }
    split = fill(groups, SHARES, 2)
    assert set(split) == set(groups), "a group is in one split as a whole"
    total = sum(len(rows) for rows in groups.values())
    for name, share in SHARES.items():
        held = sum(len(rows) for group, rows in groups.items() if split[group] == name)
        assert abs(held / total - share) < 0.02


def test_rows_are_dealt_by_the_seed_and_not_by_their_order() -> None:
    groups = singles(["a", "b"] * 100)
    one = fill(groups, SHARES, 1)
    assert fill(dict(reversed(groups.items())), SHARES, 1) == one
    other = fill(groups, SHARES, 2)
    assert other != one
    assert Counter(other.values()) == Counter(one.values())
    assert [one[f"row{number}"] for number in range(160)] != ["train"] * 160, "not the first rows"


def test_one_split_takes_all() -> None:
    assert set(fill(singles(["a"] * 9), {"all": 1.0}, 0).values()) == {"all"}


def test_a_line_is_one_line_of_json_whatever_is_in_it() -> None:
    held = {
        "text": 'a\nb\r\u2028c\u2029d\x85e\x0b\x0c\x1cf ü 你 \U0001f600 "q"',
        "numbers": [1.5, math.nan, {"deep": -math.inf}],
        "day": datetime.date(2024, 2, 29),
        "price": decimal.Decimal("1.50"),
        "none": None,
    }
    line = encoded(held)
    assert line.splitlines() == [line.removesuffix("\n")], "no reader of lines sees two"
    assert "ü 你 \U0001f600" in line, "UTF-8, not escapes"

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(line, parse_constant=refused)
    assert found["text"] == held["text"]
    assert found["numbers"] == [1.5, None, {"deep": None}]
    assert (found["day"], found["price"], found["none"]) == ("2024-02-29", "1.50", None)


@pytest.mark.parametrize("kind", [pa.binary(), pa.list_(pa.struct([("x", pa.large_binary())])), pa.binary(4)])
def test_bytes_have_no_form_in_json(kind: pa.DataType) -> None:
    before = pa.schema([("text", pa.string()), ("raw", kind)])
    with pytest.raises(InputError, match=r"column 'raw' holds bytes .*leave it out, or use export.parquet"):
        Jsonl().check(before)
    Jsonl(columns=["text"]).check(before)
    Parquet().check(before)


@pytest.mark.parametrize("name", ["data", "Data"])
def test_an_export_cannot_have_the_name_of_the_first_ones_folder(name: str) -> None:
    with pytest.raises(InputError, match="an export cannot be named"):
        Jsonl(context=Context(step=name)).check(pa.schema([]))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_several_exports_are_several_datasets_and_nothing_is_left_of_others(tmp_path: Path) -> None:
    table = rows(q=[f"question {n}" for n in range(10)], a=[f"answer {n}" for n in range(10)])
    split = {"train": 0.7, "test": 0.3}
    chat = Chat(user="q", assistant="a", split=split)
    steps = [Parquet(split=split), chat, Step(Jsonl(columns=["a"], split={"every": 1.0}), "plain")]
    for _ in range(2):  # the second run finds a dataset
        dataset = exported(tmp_path, table, *steps)
        files = sorted(str(path.relative_to(dataset)) for path in dataset.rglob("*") if path.is_file())
        assert files == [
            "README.md",
            "chat/README.md",
            *(f"chat/data/{name}-00000-of-00001.jsonl" for name in ("test", "train")),
            *(f"data/{name}-00000-of-00001.parquet" for name in ("test", "train")),
            "plain/README.md",
            "plain/data/every-00000-of-00001.jsonl",
        ]
    first, second, third = opened(dataset), opened(dataset / "chat"), opened(dataset / "plain")
    assert {name: len(part) for name, part in first.items()} == {"train": 7, "test": 3}
    for name in split:
        assert [row["row_id"] for row in first[name]] == [row["row_id"] for row in second[name]]
    assert [row["a"] for row in third["every"]] == [f"answer {n}" for n in range(10)]
    alone = exported(tmp_path, table, chat)
    assert sorted(path.name for path in alone.iterdir()) == ["README.md", "data"]
    assert opened(alone) == second


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_split_without_rows_has_no_file_and_the_others_open(tmp_path: Path) -> None:
    dataset = exported(tmp_path, rows(text=["x"]), Jsonl(columns=["text"], split={"train": 0.9, "test": 0.1}))
    assert opened(dataset) == {"train": [{"row_id": "a", "text": "x"}]}
    assert "| test | 0 |" in (dataset / "README.md").read_text()


def test_nothing_follows_an_export_but_exports(small: Callable[..., Pipeline]) -> None:
    more = "gate:\n"
    with pytest.raises(RecipeError, match="nothing may follow"):
        small(**{more: "  - where: 'true'\n" + more}).check()
    small(**{more: "  - export.jsonl: {columns: [text]}\n" + more}).check()
