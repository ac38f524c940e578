"""docs/methods.md names what there is: operators, recipes, and each method of the survey once."""

from __future__ import annotations

import re
from pathlib import Path

from synthray import cookbook
from synthray.operator import FOLDERS, operator_paths

TEXT = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| ") and "|---" not in line]
TABLE = [
    "ZeroGen",
    "SuperGen",
    "ProGen",
    "SunGen",
    "AttrPrompt",
    "ClinGen",
    "TinyStories",
    "SynthIE",
    "GPT3Mix",
    "DataTune",
    "Self-Instruct",
    "Alpaca",
    "Unnatural",
    "Synthetic",
    "Self-Prompting",
    "UltraChat",
    "Evol-Instruct",
    "LAB",
    "SymGen",
    "S3",
    "Explore-Instruct",
    "CLLM",
    "ReGen",
    "AlpaGasus",
    "WANLI",
    "LLMaAA",
    "CoAnnotating",
    "FreeAL",
    "MCKD",
    "Confident",
    "ARES",
    "Constitutional",
    "Self-Align",
    "FewGen",
    "Ada-Instruct",
]


def test_every_operator_that_it_names_is_there() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})\.\w+)`", TEXT))
    assert len(named) > 20
    assert named <= {path for path, _ in operator_paths()}


def test_shipped_recipes_are_those_that_it_says() -> None:
    said = re.findall(r"shipped: `(\w+)`", TEXT)
    assert len(said) == len(set(said))
    assert set(said) == {one["recipe"] for one in cookbook.listed()} - {"quickstart"}


def test_each_method_of_the_survey_has_a_row_that_says_how_or_why_not() -> None:
    names = [row[0].removeprefix("| ") for row in ROWS]
    for method in TABLE:
        assert sum(name.split(",")[0].split(" ")[0] == method for name in names) == 1, method
    for row in ROWS:
        assert "".join(row[1:]).strip(" |"), row[0]
