"""The sides of a comparison: what can be opened, what is compared, and which rows are of one root."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray.errors import InputError
from synthray.side import Columns, Settings, Side, units

Rows = Callable[..., Side]


@pytest.fixture
def side(tmp_path: Path) -> Rows:
    """Return a function that writes rows and opens them."""

    def opened(name: str = "a", **columns: Sequence[Any]) -> Side:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(dict(columns)), path)
        return Side.open(path)

    return opened


def narrow(side: Side, folder: Path, settings: Settings | None = None, name: str = "rows_a") -> Any:
    settings = settings or Settings()
    return side.narrow(Columns.of([side, side], settings), settings, folder / f"{name}.narrow.parquet")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param(None, "is no run .it has no run.json. and no dataset: no file", id="nothing"),
        pytest.param({}, "is no run .it has no run.json. and no dataset: no file", id="an empty folder"),
        pytest.param({"a.txt": "x"}, "no dataset", id="something else"),
        pytest.param({"run.json": "{"}, "run.json is damaged", id="a damaged run"),
        pytest.param({"run.json": json.dumps({"format": 9})}, "has format 9", id="another format"),
        pytest.param(
            {"run.json": json.dumps({"format": 1, "name": "x", "seed": 1, "state": "interrupted"})},
            "the run is not finished, but 'interrupted'; run it again to go on",
            id="an unfinished run",
        ),
    ],
)
def test_what_is_no_side_is_refused(tmp_path: Path, found: dict[str, str] | None, message: str) -> None:
    where = tmp_path / "it"
    if found is not None:
        where.mkdir()
        for name, text in found.items():
            (where / name).write_text(text)
    with pytest.raises(InputError, match=message):
        Side.open(where)


def test_files_of_several_kinds_and_an_exported_folder_are_sides(tmp_path: Path) -> None:
    rows = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.csv").write_text("text,label\none,a\ntwo,b\n")
    data = tmp_path / "dataset" / "data"
    data.mkdir(parents=True)
    (tmp_path / "dataset" / "README.md").write_text("a card")
    pq.write_table(pa.Table.from_pylist(rows), data / "train-00000-of-00001.parquet")
    for where in ("a.jsonl", "a.csv", "dataset"):
        held = pq.read_table(narrow(Side.open(tmp_path / where), tmp_path).files[0])
        assert sorted(held["text"].to_pylist()) == ["one", "two"]
        assert held["words"].to_pylist() == [1, 1]


def test_a_text_or_label_that_is_not_there_is_named_with_what_is(side: Rows) -> None:
    both = [side(body=["x"], label=["a"]), side("b", body=["x"])]
    with pytest.raises(InputError, match=r"no column 'text'; there is body, label \(--text\)"):
        Columns.of(both, Settings())
    with pytest.raises(InputError, match=r"b.parquet has no column 'label'; there is body \(--label\)"):
        Columns.of(both, Settings(text="body", label="label"))
    with pytest.raises(InputError, match=r"'text' must hold text, but is int64 \(--text\)"):
        Columns.of([side("c", text=[1])] * 2, Settings())
    with pytest.raises(InputError, match=r"no column 'seed'.*\(--unit\)"):
        Columns.of(both, Settings(text="body", unit="seed"))
    assert "b.parquet has no column 'label': labels are not compared" in (
        " ".join(Columns.of(both, Settings(text="body")).notes)
    )


def test_numbers_of_both_sides_are_compared_and_those_of_one_are_told(side: Rows) -> None:
    a = side(text=["x"], score=[0.5], good=[True], round=[1], only=[1], kind=["k"])
    b = side("b", text=["x"], score=[1], good=[False], round=[2], kind=[7])
    held = Columns.of([a, b], Settings())
    assert held.numbers == ("score", "good")
    assert any("a.parquet alone has the columns only" in note for note in held.notes)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, float("nan")])
def test_settings_out_of_bounds_are_refused(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha must be between 0 and 1"):
        Settings(alpha=alpha).check()
    with pytest.raises(InputError, match=r"10 resamples cannot show a p-value of alpha 0\.05"):
        Settings(resamples=10).check()


def test_what_is_no_number_or_no_text_is_left_out_of_the_means(side: Rows, tmp_path: Path) -> None:
    a = side(
        text=["one two", " ", None, "a\u00a0b\tc"],
        score=[1.0, float("nan"), float("inf"), None],
        row_id=list("wxyz"),
    )
    held = pq.read_table(narrow(a, tmp_path).files[0]).sort_by("row_id")
    assert held["n0"].to_pylist() == [1.0, None, None, None]
    assert held["words"].to_pylist() == [2, None, None, 3]


def test_a_row_id_that_repeats_is_refused(side: Rows, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row_id must be there and differ in each row, but 'x' repeats"):
        a = side(text=["a", "b"], row_id=["x", "x"])
        held = narrow(a, tmp_path)
        units([a, a], {"rows_a": held, "rows_b": held}, Settings())


def test_rows_of_a_root_are_one_unit_in_both_runs(side: Rows, tmp_path: Path) -> None:
    a = side(text=list("abcd"), row_id=["1", "2", "3", "4"], parent_id=["p", "p", "q", None])
    b = side("b", text=list("abc"), row_id=["1", "8", "9"], parent_id=["p", "q", "z"])
    tables = {"rows_a": narrow(a, tmp_path), "rows_b": narrow(b, tmp_path, name="rows_b")}
    found = units([a, b], tables, Settings())
    unit = dict(zip(*(found[name].to_pylist() for name in ("row_id", "unit")), strict=True))
    assert unit["1"] == unit["2"] and unit["3"] == unit["8"]
    assert sorted(set(unit.values())) == [0, 1, 2, 3]


def test_rows_of_a_document_and_of_a_named_column_are_one_unit(side: Rows, tmp_path: Path) -> None:
    a = side(text=list("abc"), row_id=["1", "2", "3"], document_id=["d", "d", None], seed=["s", "t", "s"])
    for settings, together in ((Settings(), {"1", "2"}), (Settings(unit="seed"), {"1", "3"})):
        held = narrow(a, tmp_path, settings)
        found = units([a, a], {"rows_a": held, "rows_b": held}, settings).to_pylist()
        numbers = {one["row_id"]: one["unit"] for one in found}
        assert len({numbers[one] for one in together}) == 1
        assert len(set(numbers.values())) == 2
