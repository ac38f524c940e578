"""How rows are dealt to splits and how a card shows data; the written export is tested with a run."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from synthray.errors import InputError
from synthray.export.parquet import Parquet, _fill, _plain, _table

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


def test_it_reads_the_chosen_columns_and_the_label() -> None:
    assert Parquet().reads == ()
    assert Parquet(columns=["text"], label="kind").reads == ("text", "kind")


def test_shares_are_as_asked_for_in_every_label() -> None:
    labels = ["common"] * 700 + ["rare"] * 50 + ["other"] * 250
    split = _fill(singles(labels), SHARES, 1)
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
    split = _fill(groups, SHARES, 2)
    assert set(split) == set(groups), "a group is in one split as a whole"
    total = sum(len(rows) for rows in groups.values())
    for name, share in SHARES.items():
        held = sum(len(rows) for group, rows in groups.items() if split[group] == name)
        assert abs(held / total - share) < 0.02


def test_rows_are_dealt_by_the_seed_and_not_by_their_order() -> None:
    groups = singles(["a", "b"] * 100)
    one = _fill(groups, SHARES, 1)
    assert _fill(dict(reversed(groups.items())), SHARES, 1) == one
    other = _fill(groups, SHARES, 2)
    assert other != one
    assert Counter(other.values()) == Counter(one.values())
    assert [one[f"row{number}"] for number in range(160)] != ["train"] * 160, "not the first rows"


def test_one_split_takes_all() -> None:
    assert set(_fill(singles(["a"] * 9), {"all": 1.0}, 0).values()) == {"all"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>", id="HTML"),
        pytest.param("a &lt; b", "a &amp;lt; b", id="entity"),
        pytest.param("*b* _i_ `c`", r"\*b\* \_i\_ \`c\`", id="emphasis"),
        pytest.param("[x](http://y) ![z](w)", r"\[x\](http://y) !\[z\](w)", id="links and images"),
        pytest.param("a | b", r"a \| b", id="table bar"),
        pytest.param("# a\n\n## b", r"\# a \#\# b", id="headings"),
        pytest.param("back\\slash \\*", r"back\\slash \\\*", id="escapes"),
        pytest.param("one\n\r\n two\u2028three", "one two three", id="lines"),
        pytest.param("plain text, (with) some: signs! é", "plain text, (with) some: signs! é", id="plain"),
    ],
)
def test_markup_in_data_is_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert _plain(text) == shown


def test_a_table_shows_each_value_in_a_cell_of_its_own() -> None:
    rows = [{"slice": "label=<b>|x", "value": 0.123456, "n": 12, "low": None}]
    assert _table(rows).splitlines() == [
        "| slice | value | n | low |",
        "| --- | --- | --- | --- |",
        r"| label=&lt;b>\|x | 0.1235 | 12 |  |",
    ]
    assert _table([]) == "None.\n"
