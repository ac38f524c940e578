"""An operator is found by its path, names its columns and types what it adds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest

from synthray.curate.near_duplicate import NearDuplicate
from synthray.errors import InputError, RecipeError
from synthray.evaluate.diversity import Diversity
from synthray.operator import Context, Operator, find_operator, operator_in, operator_paths


@dataclass(frozen=True)
class Lengths(Operator):
    """Add the length of `text`."""

    text: str = "text"

    def adds(self) -> Mapping[str, pa.DataType]:
        return {"length": pa.int32(), "long": pa.bool_()}


@pytest.fixture
def rows() -> pa.Table:
    return pa.table({"row_id": ["a", "b", "c"], "text": ["one", "three", ""]})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that installs a package with one entry point."""

    def installed(value: str, source: str) -> None:
        name = value.partition(":")[0]
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[synthray.operators]\nacme.shout = {value}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return installed


def test_an_operator_is_the_file_at_its_path() -> None:
    assert find_operator("curate.near_duplicate") is NearDuplicate
    assert find_operator("evaluate.diversity") is Diversity


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        pytest.param("curate.near_duplicat", "curate.near_duplicate", id="name misspelt"),
        pytest.param("curat.label_issue", "curate.label_issue", id="folder misspelt"),
        pytest.param("generate.promt", "generate.prompt", id="letter left out"),
    ],
)
def test_an_unknown_operator_is_answered_with_the_nearest(path: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=f"no operator '{path}'; did you mean '{nearest}'\\?"):
        find_operator(path)


@pytest.mark.parametrize("path", ["os.path", "curate", "", "curate.", "curate..near_duplicate", "model.fake"])
def test_nothing_outside_the_five_folders_is_an_operator(path: str) -> None:
    with pytest.raises(RecipeError, match="no operator"):
        find_operator(path)


def test_an_operator_like_none_is_answered_with_all_there_are() -> None:
    with pytest.raises(RecipeError, match=r"there is curate\.cluster, .*source\.table"):
        find_operator("xyzzy")


def test_a_module_holds_exactly_one_operator() -> None:
    assert operator_in("synthray.curate.near_duplicate") is NearDuplicate
    with pytest.raises(RecipeError, match=r"synthray\.operator must define one operator, but defines 2"):
        operator_in("synthray.operator")
    with pytest.raises(RecipeError, match=r"synthray\.errors must define one operator, but defines 0"):
        operator_in("synthray.errors")


def test_operators_are_listed_with_what_they_do() -> None:
    listed = dict(operator_paths())
    assert listed["curate.near_duplicate"] == "Mark rows whose text is nearly that of a row that is kept."
    assert set(listed) >= {"source.conditions", "source.table", "generate.prompt", "export.parquet"}
    assert all(listed.values())
    assert not any("__init__" in path for path in listed)


def test_listing_the_operators_imports_none_of_them() -> None:
    program = (
        "import sys; from synthray.operator import operator_paths; assert list(operator_paths()); "
        "heavy = {'ray', 'pyarrow', 'duckdb', 'sklearn', 'cleanlab', 'numpy', 'openai', 'jinja2', "
        "'synthray.curate.near_duplicate'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_package_adds_an_operator_by_its_entry_point(package: Callable[[str, str], None]) -> None:
    package(
        "acme_shout:Shout",
        "from dataclasses import dataclass\nfrom synthray.operator import Operator\n\n"
        "@dataclass(frozen=True)\nclass Shout(Operator):\n    text: str = 'text'\n",
    )
    found = find_operator("acme.shout")
    assert issubclass(found, Operator)
    assert found().settings() == {"text": "text"}
    assert dict(operator_paths())["acme.shout"] == "from the package acme_shout"
    with pytest.raises(RecipeError, match=r"did you mean 'acme\.shout'"):
        find_operator("acme.shot")


@pytest.mark.parametrize(
    ("value", "source", "message"),
    [
        pytest.param("acme_int:five", "five = 5", "is 5, not an Operator", id="no class"),
        pytest.param("acme_str:Text", "Text = str", "not an Operator", id="another class"),
        pytest.param("acme_gone:Gone", "", "cannot be loaded: .*Gone", id="no such name"),
        pytest.param("acme_broken:X", "import no_such_module_x", "cannot be loaded: .*x", id="import fails"),
    ],
)
def test_an_entry_point_that_is_no_operator_is_named(
    package: Callable[[str, str], None], value: str, source: str, message: str
) -> None:
    package(value, source)
    with pytest.raises(RecipeError, match=f"the entry point 'acme.shout'.*{message}"):
        find_operator("acme.shout")


def test_added_columns_get_their_declared_types(rows: pa.Table) -> None:
    out = Lengths().add(rows, {"length": pa.array([3, 5, 0], pa.int64()), "long": [False, True, None]})
    assert out.schema.field("length").type == pa.int32()
    assert out.schema.field("long").type == pa.bool_()
    assert out.to_pylist()[1] == {"row_id": "b", "text": "three", "length": 5, "long": True}
    assert out["long"].to_pylist() == [False, True, None]


def test_a_prefix_stands_before_every_added_column(rows: pa.Table) -> None:
    operator = Lengths(context=Context(prefix="first_"))
    out = operator.add(rows, {"length": [3, 5, 0], "long": [False, True, False]})
    assert out.column_names == ["row_id", "text", "first_length", "first_long"]
    assert operator.schema(rows.schema) == out.schema


def test_a_column_made_again_replaces_the_old_one_as_the_schema_says(rows: pa.Table) -> None:
    old = rows.add_column(1, "length", pa.array(["x", "y", "z"]))
    out = Lengths().add(old, {"length": [3, 5, 0], "long": [False, True, False]})
    assert out["length"].to_pylist() == [3, 5, 0]
    assert out.schema == Lengths().schema(old.schema)


def test_marks_are_joined_by_row_id_and_rows_without_marks_get_nulls(rows: pa.Table) -> None:
    marks = pa.table({"row_id": ["c", "a"], "length": [0, 3], "long": [True, False]})
    out = Lengths().attach(rows, marks)
    assert out["row_id"].to_pylist() == ["a", "b", "c"]
    assert out["length"].to_pylist() == [3, None, 0]
    assert out["long"].to_pylist() == [False, None, True]


@pytest.mark.parametrize("chunks", [0, 2], ids=["no marks", "marks in two chunks"])
def test_marks_may_come_in_any_number_of_chunks(rows: pa.Table, chunks: int) -> None:
    one = pa.table({"row_id": ["b"], "length": pa.array([5], pa.int32()), "long": [True]})
    two = pa.table({"row_id": ["c"], "length": pa.array([0], pa.int32()), "long": [False]})
    marks = pa.concat_tables([one, two]) if chunks else pa.table([[], [], []], schema=one.schema)
    expected = [None, 5, 0] if chunks else [None, None, None]
    assert Lengths().attach(rows, marks)["length"].to_pylist() == expected


def test_a_column_that_must_hold_text_is_named_with_its_type() -> None:
    schema = pa.schema([("n", pa.int64()), ("t", pa.large_string()), ("nothing", pa.null())])
    Lengths().require_text(schema, "t", "nothing", "not there")
    with pytest.raises(InputError, match="column 'n' must hold text, but is int64"):
        Lengths().require_text(schema, "t", "n")


def test_settings_leave_the_context_out_and_the_step_is_the_file_unless_named() -> None:
    operator = NearDuplicate(text="text", threshold=0.5)
    assert operator.settings() == {
        **{"text": "text", "prefer": "", "against": ()},
        **{"threshold": 0.5, "words": 3, "characters": None, "permutations": 128, "floor": 0.5},
    }
    assert operator.step == "near_duplicate"
    named = replace(operator, context=Context(step="again"))
    assert named.step == "again"
    assert named == operator, "the context is no setting"


def test_an_operator_without_work_says_so(rows: pa.Table) -> None:
    with pytest.raises(TypeError, match="Lengths defines no __call__"):
        Lengths()(rows)


def test_a_measure_is_called_in_memory_and_leaves_measurements(rows: pa.Table) -> None:
    found = Diversity(text="text")(rows)
    assert found.column_names == ["metric", "value", "ci_low", "ci_high", "n", "slice"]


def test_a_column_that_steps_share_has_no_prefix(rows: pa.Table) -> None:
    @dataclass(frozen=True)
    class Trails(Operator):
        def adds(self) -> Mapping[str, pa.DataType]:
            return {"label_audit": pa.string(), "own": pa.string()}

    operator = Trails(context=Context(prefix="again_"))
    assert operator.schema(rows.schema).names[-2:] == ["label_audit", "again_own"]
    nothing = [None] * len(rows)
    assert operator.add(rows, {"label_audit": nothing, "own": nothing}).column_names[-2:] == [
        "label_audit",
        "again_own",
    ]


def test_the_column_of_a_steps_calls_names_the_step_once(rows: pa.Table) -> None:
    class Asks(Operator):
        def adds(self) -> dict[str, pa.DataType]:
            return {f"{self.step}_call": pa.string(), "said": pa.string()}

    operator = Asks(context=Context(step="strict", prefix="strict_"))
    made = operator.add(rows, {name: ["x"] * len(rows) for name in operator.adds()})
    assert made.column_names[-2:] == ["strict_call", "strict_said"]
