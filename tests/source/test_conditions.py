"""Condition rows depend on the seed and their index alone, and use every listed value equally often."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synthray.errors import InputError
from synthray.lineage import condition_id
from synthray.operator import Context
from synthray.source.conditions import Conditions
from synthray.table import Table
from synthray.task import Task

LABELS = {"World": "abroad", "Sports": "games", "Business": "money"}
TOPICS = {"World": ["war", "vote"], "Sports": ["golf", "judo", "chess"], "Business": ["oil"]}
EVERYTHING: Mapping[str, Any] = {
    "label": "task.labels",
    "topic": {"by": "label", "from": "topics"},
    "tone": ["dry", "warm"],
    "place": {"from": "places"},
    "length": {"weights": {"short": 3, "long": 1}},
    "year": {"range": [1990, 1999]},
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    tmp_path = tmp_path_factory.mktemp("tables")
    lines = [f"{key}: [{', '.join(values)}]" for key, values in TOPICS.items()]
    (tmp_path / "topics.yaml").write_text("\n".join(lines))
    (tmp_path / "places.csv").write_text("place,inhabitants\nOslo,1\nRome,2\nOslo,3\nLima,4\n")
    tables = {name: Table.find(f"{name}.*", tmp_path) for name in ("topics", "places")}
    return Context(step="rows", seed=3, task=Task(labels=LABELS), tables=tables)


@pytest.fixture(scope="module")
def made(context: Context) -> Callable[..., pa.Table]:
    """Return a function that makes rows, as one batch of indices or as several."""

    def rows(columns: Mapping[str, Any], rows: int, batches: Any = None, **changes: Any) -> pa.Table:
        operator = Conditions(rows=rows, columns=columns, context=replace(context, **changes))
        operator.check(pa.schema([]))
        return pa.concat_tables(operator(pa.table({"id": list(batch)})) for batch in batches or [range(rows)])

    return rows


@pytest.fixture(scope="module")
def everything(made: Callable[..., pa.Table]) -> pa.Table:
    return made(EVERYTHING, 200)


def test_rows_have_identity_and_typed_values(everything: pa.Table) -> None:
    found = everything.slice(0, 5)
    kinds = dict(zip(found.schema.names, found.schema.types, strict=True))
    identity = {"row_id": pa.string(), "parent_id": pa.string(), "round": pa.int32()}
    texts = dict.fromkeys(["label", "topic", "tone", "place", "length"], pa.string())
    assert kinds == {**identity, **texts, "year": pa.int64()}
    assert found["row_id"].to_pylist() == [condition_id("rows", 3, index) for index in range(5)]
    assert found["parent_id"].null_count == 5
    assert found["round"].to_pylist() == [0] * 5


def test_fewer_rows_are_the_first_ones_of_more(made: Callable[..., pa.Table], everything: pa.Table) -> None:
    assert made(EVERYTHING, 20) == everything.slice(0, 20)


def test_rows_are_the_same_however_they_are_split_and_in_whatever_order_they_are_made(
    made: Callable[..., pa.Table], everything: pa.Table
) -> None:
    one_by_one = [[index] for index in range(20)]
    assert made(EVERYTHING, 200, [*one_by_one, range(20, 21), range(21, 200)]) == everything
    backwards = made(EVERYTHING, 200, [range(100, 200), range(100)])
    assert backwards.take([*range(100, 200), *range(100)]) == everything


def test_each_worker_draws_the_same_from_its_own_copy(context: Context, everything: pa.Table) -> None:
    operator = Conditions(rows=200, columns=EVERYTHING, context=context)
    copy = pickle.loads(pickle.dumps(operator))
    assert copy(pa.table({"id": range(50, 60)})) == everything.slice(50, 10)


@pytest.mark.parametrize("change", [{"seed": 4}, {"step": "other"}], ids=["seed", "step"])
def test_another_seed_or_step_draws_other_rows(
    made: Callable[..., pa.Table], everything: pa.Table, change: dict[str, Any]
) -> None:
    one, other = everything.slice(0, 40), made(EVERYTHING, 40, **change)
    assert not set(one["row_id"].to_pylist()) & set(other["row_id"].to_pylist())
    for name in EVERYTHING:
        assert one[name].to_pylist() != other[name].to_pylist(), name


@pytest.mark.parametrize("name", ["label", "tone", "place"])
def test_a_list_is_balanced_in_every_prefix(everything: pa.Table, name: str) -> None:
    values = everything[name].to_pylist()
    kinds = set(values)
    assert len(kinds) == {"label": 3, "tone": 2, "place": 3}[name]
    for end in range(1, 51):
        counts = Counter(values[:end])
        assert max(counts.values()) - min(counts[kind] for kind in kinds) <= 1


def test_cycles_are_shuffled_anew_and_columns_apart(made: Callable[..., pa.Table]) -> None:
    values = list("abcde")
    found = made({"one": values, "other": values}, 500)
    cycles = {tuple(found["one"].to_pylist()[start : start + 5]) for start in range(0, 500, 5)}
    assert len(cycles) > 40, "of 120 orders, 100 cycles show about 68"
    pairs = set(zip(found["one"].to_pylist(), found["other"].to_pylist(), strict=True))
    assert len(pairs) == 25, "two columns go through their lists independently"


def test_a_value_by_another_belongs_to_it_and_is_balanced_within_it(everything: pa.Table) -> None:
    rows = everything.to_pylist()
    for end in (6, 17, 90, 200):
        for label, topics in TOPICS.items():
            counts = Counter(row["topic"] for row in rows[:end] if row["label"] == label)
            assert set(counts) <= set(topics)
            assert max(counts.values()) - min(counts[topic] for topic in topics) <= 1


def test_a_table_by_names_its_columns_or_key_and_value(made: Callable[..., pa.Table], tmp_path: Path) -> None:
    (tmp_path / "named.csv").write_text("topic,label,more\nw,World,1\ns,Sports,2\nb,Business,3\n")
    named = {"topics": Table.find("named.csv", tmp_path)}
    columns = {name: EVERYTHING[name] for name in ("label", "topic")}
    for row in made(columns, 9, tables=named).to_pylist():
        assert row["topic"] == row["label"][0].lower()


def test_values_by_a_value_by_a_value_stay_together(
    made: Callable[..., pa.Table], context: Context, tmp_path: Path
) -> None:
    (tmp_path / "sides.yaml").write_text(
        "\n".join(f"{topic}: [{topic}1, {topic}2]" for topics in TOPICS.values() for topic in topics)
    )
    tables = {**context.tables, "sides": Table.find("sides.yaml", tmp_path)}
    columns = {
        **{name: EVERYTHING[name] for name in ("label", "topic")},
        "side": {"by": "topic", "from": "sides"},
    }
    rows = made(columns, 72, tables=tables).to_pylist()
    assert all(row["side"][:-1] == row["topic"] for row in rows)
    assert len({row["side"] for row in rows}) == 12


def test_weights_set_the_shares(made: Callable[..., pa.Table]) -> None:
    weights = {"a": 6, "b": 3, "c": 1, "never": 0}
    counts = Counter(made({"x": {"weights": weights}}, 4000)["x"].to_pylist())
    # Four standard deviations of a binomial share are below 0.032.
    for value, weight in weights.items():
        assert abs(counts[value] / 4000 - weight / 10) < 0.032
    assert counts["never"] == 0


def test_a_range_is_drawn_evenly_with_both_ends(made: Callable[..., pa.Table]) -> None:
    counts = Counter(made({"x": {"range": [-2, 2]}}, 2000)["x"].to_pylist())
    assert sorted(counts) == [-2, -1, 0, 1, 2]
    assert all(300 < count < 500 for count in counts.values())
    assert made({"x": {"range": [7, 7]}}, 3)["x"].to_pylist() == [7, 7, 7]


def test_a_by_table_goes_with_weights_too(made: Callable[..., pa.Table]) -> None:
    columns = {
        "label": {"weights": {"World": 1, "Sports": 1}},
        "topic": {"by": "label", "from": "topics"},
    }
    rows = made(columns, 200).to_pylist()
    assert all(row["topic"] in TOPICS[row["label"]] for row in rows)
    assert len({row["topic"] for row in rows}) == 5


@pytest.mark.parametrize(
    ("values", "kind"),
    [([1, 2], pa.int64()), ([1, 2.5], pa.float64()), ([True, False], pa.bool_()), (["a"], pa.string())],
    ids=["whole", "mixed numbers", "yes and no", "text"],
)
def test_a_list_has_the_type_of_its_values(
    made: Callable[..., pa.Table], values: list[Any], kind: pa.DataType
) -> None:
    found = made({"x": values}, 4)
    assert found.schema.field("x").type == kind
    assert set(found["x"].to_pylist()) == set(values)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param({}, "columns is empty; name at least one", id="no columns"),
        pytest.param({"row_id": ["a"]}, "'row_id' is reserved for lineage", id="reserved"),
        pytest.param({"x": []}, r"columns\.x: the list of values is empty", id="empty list"),
        pytest.param(
            {"x": [1, "a"]}, r"columns\.x: values must be of one type, but are \[1, 'a'\]", id="types"
        ),
        pytest.param({"x": [2**70]}, "values must be of one type", id="beyond all types"),
        pytest.param({"x": "labels"}, r"columns\.x: must be a list, .* but is 'labels'", id="a word"),
        pytest.param({"x": {"form": "places"}}, "must be a list, .*form", id="unknown key"),
        pytest.param({"x": {"from": "places", "k": 1}}, "no key 'k' beside from", id="key beside"),
        pytest.param({"x": {"by": "label"}}, "must be a list, .*by", id="by without from"),
        pytest.param({"x": {"weights": {"a": -1}}}, r"at least 0, not all 0, but are \[-1\]", id="below 0"),
        pytest.param({"x": {"weights": {"a": 0}}}, "not all 0", id="all 0"),
        pytest.param({"x": {"weights": {"a": float("inf")}}}, "weights must be", id="endless"),
        pytest.param({"x": {"weights": {"a": float("nan")}}}, "weights must be", id="NaN"),
        pytest.param({"x": {"weights": {"a": "1"}}}, "weights must be numbers", id="weight of text"),
        pytest.param({"x": {"weights": {}}}, "weights must be", id="no weights"),
        pytest.param(
            {"x": {"range": [3, 1]}}, r"range must be \[low, high\] .* but is \[3, 1\]", id="turned"
        ),
        pytest.param({"x": {"range": [1.5, 2]}}, "in whole numbers", id="no whole numbers"),
        pytest.param({"x": {"range": [True, 2]}}, "in whole numbers", id="true is no number"),
        pytest.param({"x": {"range": 5}}, "range must be", id="one end"),
        pytest.param({"place": {"from": "place"}}, "no table 'place'; did you mean 'places'", id="table"),
        pytest.param(
            {"x": {"from": "places"}}, "neither a column 'x' nor 'value'; it has place, inhabit", id="column"
        ),
        pytest.param(
            {"label": "task.labels", "topic": {"by": "lable", "from": "topics"}},
            r"columns\.topic: by: 'lable' must be a column above it; did you mean 'label'",
            id="by misspelt",
        ),
        pytest.param(
            {"topic": {"by": "label", "from": "topics"}, "label": "task.labels"},
            "must be a column above it",
            id="below",
        ),
        pytest.param(
            {"label": ["World", "Sport"], "topic": {"by": "label", "from": "topics"}},
            "topics has no topic for label 'Sport'; did you mean 'Sports'",
            id="label without topics",
        ),
        pytest.param(
            {"label": {"weights": {"World": 1, "Busines": 1}}, "topic": {"by": "label", "from": "topics"}},
            "no topic for label 'Busines'; did you mean 'Business'",
            id="weighted label without topics",
        ),
        pytest.param(
            {"label": {"range": [1, 10**9]}, "topic": {"by": "label", "from": "topics"}},
            "no topic for label 1",
            id="number without topics",
        ),
        pytest.param(
            {"place": {"from": "places"}, "topic": {"by": "place", "from": "topics"}},
            "no topic for place 'Oslo'",
            id="value of a table without topics",
        ),
    ],
)
def test_columns_that_cannot_be_drawn_are_refused_before_any_row(
    made: Callable[..., pa.Table], columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        made(columns, 3)


def test_labels_are_refused_when_the_task_has_none(made: Callable[..., pa.Table]) -> None:
    with pytest.raises(InputError, match=r"columns\.label: the recipe's task has no labels"):
        made({"label": "task.labels"}, 3, task=Task())


def test_a_table_that_is_made_later_gives_its_type_by_its_schema(context: Context) -> None:
    columns = {"label": "task.labels", "topic": {"by": "label", "from": "topics"}}
    schema = pa.schema([("label", pa.string()), ("topic", pa.int16())])
    later = replace(context, tables={}, schemas={"topics": schema})
    operator = Conditions(rows=3, columns=columns, context=later)
    operator.check(pa.schema([]))
    assert operator.schema(pa.schema([])).field("topic").type == pa.int16()


def test_a_table_of_numbers_keeps_its_type(made: Callable[..., pa.Table]) -> None:
    found = made({"inhabitants": {"from": "places"}}, 8)["inhabitants"]
    assert found.type == pa.int64()
    assert sorted(found.to_pylist()) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_the_tables_it_needs_are_those_it_names() -> None:
    operator = Conditions(rows=1, columns=EVERYTHING)
    assert operator.table_names == ("topics", "places")
    assert operator.makes() == "rows"


def test_all_ids_of_many_rows_differ() -> None:
    ids = Conditions(rows=5000, columns={"x": ["a"]})(pa.table({"id": range(5000)}))["row_id"].to_pylist()
    assert len(set(ids)) == 5000
    assert all(len(one) == 24 for one in itertools.islice(ids, 10))
