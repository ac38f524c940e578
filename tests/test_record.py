from pathlib import Path

import pytest

from synthray.record import StepCount, replace_file


def test_a_file_is_replaced_whole_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    replace_file(path, "old")
    with path.open() as reader:
        replace_file(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert [path.name for path in path.parent.iterdir()] == ["a.json"]


# Stages.


@pytest.mark.parametrize(
    ("count", "conserved"),
    [
        (StepCount("s", "o", rows_in=3, rows_kept=3), True),
        (StepCount("s", "o", 3, 4, 2, 1, 1, 3), True),
        (StepCount("s", "o", rows_in=3, rows_kept=2), False),
        (StepCount("s", "o", rows_in=3, rows_kept=4), False),
    ],
    ids=["kept", "all six", "lost", "invented"],
)
def test_rows_are_conserved_when_every_one_is_accounted_for(count: StepCount, conserved: bool) -> None:
    assert count.conserved() is conserved
