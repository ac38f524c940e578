"""The house's rules: shape of an operator, mirrored tests, one-way imports, a light command line, clean code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import synthray
from synthray.operator import FOLDERS, Operator, operator_in, operator_paths
from synthray.recipe import LANGUAGES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "synthray"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
OPERATORS = [path for path, _ in operator_paths()]
HEAVY = {
    "ray",
    "openai",
    "cleanlab",
    "datasketch",
    "pandas",
    "duckdb",
    "pyarrow",
    "sklearn",
    "numpy",
    "altair",
    "polars",
    "xllamacpp",
}


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", OPERATORS)
def test_an_operator_is_one_documented_frozen_dataclass(path: str) -> None:
    found = operator_in(f"synthray.{path}")
    assert issubclass(found, Operator)
    assert found.__doc__
    assert not found.__doc__.startswith(f"{found.__name__}("), "the docstring is the generated one"
    assert found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "".join(path.rpartition(".")[2].split("_")) == found.__name__.lower()
    makes = inspect.getsource(sys.modules[found.__module__])
    assert "def adds" in makes or "def makes" in makes or "Measure" in makes


@pytest.mark.parametrize("path", OPERATORS)
def test_every_setting_of_an_operator_has_a_type(path: str) -> None:
    for item in dataclasses.fields(operator_in(f"synthray.{path}")):
        assert item.type, item.name


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_its_test_and_a_docstring(module: Path) -> None:
    relative = module.relative_to(PACKAGE)
    mirrored = ROOT / "tests" / relative.parent / f"test_{relative.name}"
    assert mirrored.is_file(), f"{relative} has no {mirrored.relative_to(ROOT)}"
    assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))


def test_no_module_is_called_by_no_noun() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "manager", "core", "base", "misc"}
    assert not [module for module in MODULES if module.stem in vague]


def test_no_file_is_longer_than_500_lines() -> None:
    assert not [m for m in MODULES if len(m.read_text(encoding="utf-8").splitlines()) > 500]


def test_the_languages_are_those_in_the_folder() -> None:
    beside = [
        "answer",
        "calls",
        "journal",
        "key",
        "language",
        "limits",
        "mirror",
        "permits",
        "price",
        "store",
        "student",
        "wire",
    ]
    assert {path.stem for path in (PACKAGE / "model").glob("[a-z]*.py")} - {*beside} == set(LANGUAGES)


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert synthray.__all__ == sorted(synthray.__all__)
    for name in synthray.__all__:
        assert getattr(synthray, name).__doc__


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["ops"], ["recipes"]], ids=" ".join)
def test_help_and_listings_import_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys\nfrom synthray.cli import app\n"
        f"app({command!r}, standalone_mode=False)\n"
        f"print('HEAVY', *sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = set(done.stdout.rpartition("HEAVY")[2].split())
    # Listing recipes reads YAML with the recipe module, which knows Arrow's types; nothing more.
    assert heavy <= ({"pyarrow", "numpy"} if command == ["recipes"] else set())


def test_every_shipped_sql_file_says_what_it_takes_and_gives() -> None:
    files = sorted((ROOT / "sql").rglob("*.sql"))
    assert files
    for path in files:
        head = path.read_text(encoding="utf-8")
        assert head.startswith(f"-- {path.stem}: "), path
        assert "Takes: " in head, path
        assert "Gives: " in head, path


def test_imports_point_one_way() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_stage_folders_are_the_folders_of_the_house() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == {
        *FOLDERS,
        "model",
        "duplicate",
        "label",
        "report",
        "statistic",
    }


def test_the_code_is_linted() -> None:
    run("ruff", "check", "--output-format", "concise")


def test_the_code_is_formatted() -> None:
    run("ruff", "format", "--check", "--output-format", "concise")


def test_the_code_is_typed() -> None:
    run("mypy")
