"""What rows copy from seeds, test sets and other texts, shown and counted."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from synthray import gate
from synthray.errors import InputError, RunFailed
from synthray.evaluate import memorisation
from synthray.evaluate.memorisation import Memorisation
from synthray.operator import Context
from synthray.recipe import load

LONG = "the old ferry left the harbour at nine with forty people and one very small dog on board"
DIRECTIONS = "how do I get from the station to the big museum"  # 11 words
SHORT = "play some music"


def table(texts: Sequence[str | None], name: str = "row", **more: Any) -> pa.Table:
    ids = [f"{name}-{number:04}" for number in range(len(texts))]
    return pa.table({"row_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string()), **more})


def operator(**tables: pa.Table) -> Memorisation:
    return settled({}, **tables)


def settled(settings: dict[str, Any], **tables: pa.Table) -> Memorisation:
    context = Context(tables=tables, schemas={name: held.schema for name, held in tables.items()})
    made = Memorisation(text="text", against=list(tables), context=context, **settings)
    made.check(pa.schema({"row_id": pa.string(), "text": pa.string()}))
    return made


def marks(made: Memorisation, texts: Sequence[str | None]) -> list[dict[str, Any]]:
    return made(table(texts)).to_pylist()


def measured(made: Memorisation, rows: pa.Table) -> dict[tuple[str, str | None], dict[str, Any]]:
    found = made.examined(rows)[1].to_pylist()
    return {(one["metric"], one["slice"]): one for one in found}


def test_a_copied_run_is_shown_with_the_row_that_it_is_from() -> None:
    row = marks(operator(test=table(["another", LONG], "test")), [f"Breaking: {LONG.upper()}!"])[0]
    assert row["memorisation_leaks"] is True
    assert row["memorisation_span"] == LONG
    assert row["memorisation_words"] == len(LONG.split())
    assert (row["memorisation_table"], row["memorisation_of"]) == ("test", "test-0001")
    assert row["memorisation_nearest"] == "test-0001"
    assert 0.8 < row["memorisation_similarity"] < 1


@pytest.mark.parametrize(
    ("words", "leaks", "shown"),
    [(14, True, 14), (13, True, 13), (12, False, 12), (8, False, 8), (7, False, 0)],
)
def test_a_run_leaks_from_span_words_on_and_is_shown_from_least(words: int, leaks: bool, shown: int) -> None:
    text = " ".join(["yesterday", *LONG.split()[:words], "said several of those people who had seen it"])
    row = marks(operator(test=table([LONG])), [text])[0]
    assert row["memorisation_leaks"] is leaks
    assert row["memorisation_words"] == shown
    assert row["memorisation_span"] == (" ".join(LONG.split()[:shown]) or None)


@pytest.mark.parametrize(
    ("text", "held", "leaks"),
    [
        pytest.param(f"Sure! {DIRECTIONS}, please?", DIRECTIONS, True, id="a short text within a row"),
        pytest.param(
            DIRECTIONS, f"He asked: {DIRECTIONS} - nobody knew.", True, id="a short row within a text"
        ),
        pytest.param(
            "how do I get from the station to the old museum", DIRECTIONS, False, id="a word is changed"
        ),
        pytest.param("Play some music!", SHORT, True, id="very short and equal"),
        pytest.param("please play some music", SHORT, False, id="very short and within another"),
        pytest.param("...", "???", False, id="no words"),
        pytest.param(
            "東京は今日もとても良い天気ですね。", "東京は今日もとても良い天気ですね", True, id="no spaces"
        ),
    ],
)
def test_short_texts_count_whole(text: str, held: str, leaks: bool) -> None:
    row = marks(operator(test=table([held])), [text])[0]
    assert bool(row["memorisation_leaks"]) is leaks


def test_shares_are_of_rows_of_words_and_of_the_table() -> None:
    half = " ".join(LONG.split()[:13])
    rows = table(
        [LONG, f"{half} then something else happened that nobody expected at all in here", "quite new", None]
    )
    found = measured(operator(test=table([LONG, DIRECTIONS, "...", "fine"], "test")), rows)
    assert (found["leaked", None]["value"], found["leaked", None]["n"]) == (pytest.approx(2 / 3), 3)
    assert found["copied", None]["value"] == pytest.approx((1 + 13 / 24 + 0) / 3)
    assert found["longest_span", None]["value"] == 18
    assert found["longest_span_p50", None]["value"] == 13
    assert (found["exposed", None]["value"], found["exposed", None]["n"]) == (pytest.approx(1 / 3), 3)


def test_each_table_is_a_slice_and_all_of_them_the_whole() -> None:
    rows = table([LONG, DIRECTIONS, "nothing of the kind"])
    made = operator(seeds=table([LONG, "a"], "seed"), test=table([DIRECTIONS, LONG, "b", "c"], "test"))
    found = measured(made, rows)
    assert found["leaked", None]["value"] == pytest.approx(2 / 3)
    assert found["leaked", "table=seeds"]["value"] == pytest.approx(1 / 3)
    assert found["leaked", "table=test"]["value"] == pytest.approx(2 / 3)
    assert [found["exposed", one]["value"] for one in (None, "table=seeds", "table=test")] == [
        3 / 6,
        1 / 2,
        2 / 4,
    ]
    assert {name for name, slice in found if slice is None} == set(made.metrics())
    kept = made(rows).to_pylist()
    assert [row["memorisation_table"] for row in kept] == ["seeds", "test", None], "of equal ones the first"


def test_the_nearest_row_is_the_one_with_the_largest_cosine() -> None:
    random = np.random.default_rng(1)
    vectors, others = random.normal(size=(30, 6)), random.normal(size=(20, 6))
    kind = pa.list_(pa.float64())
    rows = table(["a b"] * 30, vector=pa.array(vectors.tolist(), kind))
    real = table(["c d"] * 20, "real", vector=pa.array(others.tolist(), kind))
    context = Context(tables={"real": real}, schemas={"real": real.schema})
    made = Memorisation(text="text", against=["real"], embedding="vector", context=context)
    made.check(rows.schema)
    cosines = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ (
        others / np.linalg.norm(others, axis=1, keepdims=True)
    ).T
    kept = made(rows).to_pylist()
    assert [row["memorisation_nearest"] for row in kept] == [
        f"real-{one:04}" for one in cosines.argmax(axis=1)
    ]
    assert [row["memorisation_similarity"] for row in kept] == pytest.approx(cosines.max(axis=1), abs=1e-5)
    found = measured(made, rows)
    assert found["nearest", None]["value"] == pytest.approx(cosines.max(axis=1).mean(), abs=1e-5)
    assert found["nearest_p95", None]["value"] == pytest.approx(
        np.quantile(cosines.max(axis=1), 0.95), abs=1e-5
    )
    assert found["leaked", None]["value"] == 0, "vectors are not words"


def test_a_table_that_a_worker_holds_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    letters = np.array(list("abcd"))
    texts = [" ".join(random.choice(letters, random.integers(1, 16))) for _ in range(60)]
    made = settled({"span": 6, "least": 4}, test=table(texts[:30], "test"))
    whole = (marks(made, texts[30:]), measured(made, table(texts[30:])))
    assert any(row["memorisation_leaks"] for row in whole[0])
    for name, value in (("_WORDS_AT_ONCE", 20), ("_ROWS_A_GROUP", 4), ("_ROWS_AT_ONCE", 7)):
        monkeypatch.setattr(memorisation, name, value)
    assert (marks(made, texts[30:]), measured(made, table(texts[30:]))) == whole


def test_data_measured_against_itself_is_all_copied() -> None:
    rows = table([LONG, DIRECTIONS, SHORT])
    found = measured(operator(itself=rows), rows)
    assert [found[name, None]["value"] for name in ("leaked", "copied", "exposed")] == [1, 1, 1]
    assert found["nearest", None]["value"] == 1


@pytest.mark.parametrize(
    ("texts", "held"), [([], [LONG]), ([None, "..."], [LONG]), ([LONG], []), ([LONG], [None])]
)
def test_where_there_is_nothing_to_compare_shares_are_none_or_nan(
    texts: list[str | None], held: list[str | None]
) -> None:
    found = measured(operator(test=table(held)), table(texts))
    share = found["leaked", None]["value"]
    assert share == 0 if texts == [LONG] else math.isnan(share)
    exposed = found["exposed", None]["value"]
    assert exposed == 0 if held == [LONG] else math.isnan(exposed)
    kept = marks(operator(test=table(held)), texts)
    assert len(kept) == len(texts)
    assert not any(row["memorisation_leaks"] for row in kept)


def test_without_nearest_there_are_no_vectors_and_no_columns_of_them() -> None:
    made = settled({"nearest": False}, test=table([LONG]))
    assert "memorisation_nearest" not in marks(made, [LONG])[0]
    assert not [name for name, _ in measured(made, table([LONG])) if name.startswith("nearest")]


@pytest.mark.parametrize(
    ("settings", "held", "message"),
    [
        pytest.param({}, None, "against names no table; name at least one", id="no table"),
        pytest.param(
            {},
            pa.table({"txt": ["a"]}),
            "the table 'test' has no column 'text'; did you mean 'txt'",
            id="other columns",
        ),
        pytest.param(
            {}, pa.table({"text": [1]}), "the table 'test' has 'text' as int64, but it must hold", id="int"
        ),
        pytest.param(
            {"against": ["test", "test"]}, table([LONG]), "names a table twice: test, test", id="twice"
        ),
        pytest.param(
            {"nearest": False, "embedding": "v"}, table([LONG]), "embedding is what the nearest", id="both"
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(
    settings: dict[str, Any], held: pa.Table | None, message: str
) -> None:
    schemas = {} if held is None else {"test": held.schema}
    made = Memorisation(
        **{"text": "text", "against": list(schemas), "context": Context(schemas=schemas), **settings}
    )
    with pytest.raises(InputError, match=message):
        made.check(table([LONG]).schema)


def test_a_vector_that_is_no_number_names_its_row() -> None:
    kind = pa.list_(pa.float64())
    real = table(["a", "b"], "real", vector=pa.array([[1.0, 2.0], [math.nan, 1.0]], kind))
    context = Context(tables={"real": real}, schemas={"real": real.schema})
    made = Memorisation(text="text", against=["real"], embedding="vector", context=context)
    with pytest.raises(RunFailed, match=r"real-0001.*not a finite number"):
        made(table(["a"], vector=pa.array([[1.0, 2.0]], kind)))


def refused(made: Memorisation, rows: pa.Table) -> list[str]:
    found = made.examined(rows)[1]
    named = found.add_column(0, "step", pa.array([made.step] * len(found)))
    conditions = gate.asked_for(["default"], {made.step: made.gate()})
    gate.check_conditions(conditions, {made.step: made.metrics()})
    return [check.condition for check in gate.decide(conditions, named) if not check.passed]


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
def test_the_default_gate_refuses_a_tenth_of_the_test_and_lets_real_splits_pass() -> None:
    rows = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / "banking77.parquet")
    train, test = (rows.filter(pc.equal(rows["split"], one))["text"].to_pylist() for one in ("train", "test"))
    made = settled({"nearest": False}, test=table(test, "test"))
    assert refused(made, table(train)) == []
    copied = np.random.default_rng(1).choice(len(test), len(test) // 10, replace=False)
    given_away = [*train, *(f"Question: {test[one]}" for one in copied)]
    assert refused(made, table(given_away)) == ["memorisation.exposed.value < 0.08"]
    tenth = [*train[:900], *test[:100]]
    assert refused(made, table(tenth)) == ["memorisation.leaked.value < 0.08"]


RECIPE = """
name: copied
seed: 3
tables: {made: rows.parquet, test: test.jsonl, seeds: seeds.parquet}
steps:
  - source.table: {table: made}
  - evaluate.memorisation: {text: text, against: [test, seeds], span: 6, least: 4}
    as: copies
  - where: NOT memorisation_leaks
    reason: copied
gate: default
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_run_marks_and_measures_the_same_for_any_number_of_blocks(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    letters = np.array(list("abcdefgh"))
    texts = [" ".join(random.choice(letters, random.integers(1, 16))) for _ in range(260)]
    rows, seeds = table(texts[:200]), table(texts[190:220], "seed")
    pq.write_table(rows, tmp_path / "rows.parquet")
    pq.write_table(seeds, tmp_path / "seeds.parquet")
    lines = (f'{{"text": "{one}"}}\n' for one in texts[220:])
    (tmp_path / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "copied.yaml").write_text(RECIPE, encoding="utf-8")
    found = []
    for blocks in (1, 7, 64):
        pipeline = load(tmp_path / "copied.yaml")
        run = ran(pipeline, blocks, tmp_path / f"run-{blocks}")
        metrics = run.sql("SELECT * FROM metrics ORDER BY metric, slice").to_pylist()
        found.append((run.sql("SELECT * FROM rows ORDER BY row_id").to_pylist(), metrics))
    for marked, metrics in found[1:]:
        assert marked == found[0][0]
        for one, first in zip(metrics, found[0][1], strict=True):
            assert one == {**first, "value": pytest.approx(first["value"], abs=1e-9)}
    kept = {row["row_id"]: row for row in found[0][0]}
    alone = settled({"span": 6, "least": 4}, test=pa.table({"text": texts[220:]}), seeds=seeds)
    for row in alone(rows).to_pylist():
        mark = kept[row["row_id"]]
        assert mark["memorisation_span"] == row["memorisation_span"]
        assert mark["memorisation_of"] == row["memorisation_of"]
        assert mark["reject_reason"] == ("copied" if row["memorisation_leaks"] else None)
    assert {row["memorisation_leaks"] for row in kept.values()} == {True, False}


def ran(pipeline: Any, blocks: int, folder: Path) -> Any:
    from dataclasses import replace

    from synthray.errors import GateRefused
    from synthray.run import Run

    try:
        return replace(pipeline, blocks=blocks).run(folder, quiet=True)
    except GateRefused:
        return Run.read(folder)
