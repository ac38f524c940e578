"""Diversity is counted as its definitions say, for any division of the rows; collapses and leaks are refused."""

from __future__ import annotations

import collections
import gzip
import json
import math
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measuring import OPERATOR, Found, by_name, drawn, measured, refused, rows, whole

from synthray.errors import InputError, RunFailed, SynthrayError
from synthray.evaluate.diversity import WORD, Diversity
from synthray.features import Features
from synthray.operator import Context
from synthray.pipeline import Pipeline
from synthray.query import SQL
from synthray.recipe import load
from synthray.source.table import Table as Source
from synthray.statistic.bleu import self_bleu
from synthray.statistic.dispersion import distances, novel_sum
from synthray.statistic.moment import Moments
from synthray.table import Table


def test_words_are_counted_as_by_hand() -> None:
    # Words: a b a | a b | a b (again): 7, of which 2 kinds. Pairs: ab ba ab ab: 4, 2 kinds. Triples: aba.
    found = whole(measured(["a, b a", "A  b!", "A  b!", None]))
    assert found["distinct_1"] == (pytest.approx(2 / 7), 7)
    assert found["distinct_2"] == (pytest.approx(2 / 4), 4)
    assert found["distinct_3"] == (1.0, 1)
    assert found["vocabulary"] == (2, 7)
    assert found["root_type_token"] == (pytest.approx(2 / math.sqrt(7)), 7)
    assert found["duplicates"] == (pytest.approx(1 / 3), 3)
    assert found["mean_words"] == (pytest.approx(7 / 3), 3)
    assert found["self_bleu"][1] == 3


def test_n_grams_are_those_of_nltk_and_the_entropy_is_that_of_scipy() -> None:
    from nltk.util import ngrams
    from scipy.stats import entropy

    texts = drawn(1, 300)
    found = whole(measured(texts))
    for n in (1, 2, 3):
        counts = collections.Counter(gram for text in texts for gram in ngrams(text.split(), n))
        assert found[f"distinct_{n}"] == (pytest.approx(len(counts) / counts.total()), counts.total())
        if n == 1:
            bits = entropy(list(counts.values()), base=2)
            assert found["word_entropy"] == (pytest.approx(bits, abs=1e-9), counts.total())
    shares = [count / counts.total() for count in counts.values()]
    assert found["ingf_mean_count"][0] == pytest.approx(np.mean(list(counts.values())), abs=1e-9)
    assert found["ingf_squared_share"][0] == pytest.approx(sum(one * one for one in shares), abs=1e-12)


def test_words_of_scripts_without_spaces_are_signs() -> None:
    found = whole(measured(["我爱北京", "我爱上海", "don't — 42!"]))
    assert found["mean_words"] == (11 / 3, 3)
    assert found["vocabulary"] == (9, 11)
    for name in ("diversity", "boilerplate"):
        assert WORD in (SQL / f"metrics/{name}.sql").read_text(encoding="utf-8")


def test_the_compression_ratio_is_that_of_gzip_in_the_order_of_row_id() -> None:
    texts = [*drawn(2, 9000), "", "ünï\ncode", None]
    table = rows(texts)
    ordered = table.sort_by("row_id")["text"].drop_null().to_pylist()
    joined = "\n".join(ordered).encode()
    expected = len(joined) / len(gzip.compress(joined, 9, mtime=0))
    found = whole(measured(table))["compression_ratio"]
    assert found == (pytest.approx(expected, abs=1e-12), len(ordered))


def test_self_bleu_is_the_mean_over_the_texts() -> None:
    texts = drawn(5, 20, 5)
    value, size = whole(measured([text.upper() for text in texts]))["self_bleu"]
    assert (value, size) == (pytest.approx(self_bleu([text.split() for text in texts]).mean(), abs=1e-12), 20)


def test_boilerplate_is_the_widest_run_of_six_words_among_different_texts() -> None:
    lead = "Sure, here is a short report"
    texts = [f"{lead} on {one}" for one in ("rain", "wind", "snow")] + [f"it is {one}" for one in "abcdefg"]
    found = measured([*texts, *texts[-1:] * 40, "SURE here is a   short report on rain", None, " "])
    assert found["boilerplate", None] == (pytest.approx(3 / 10), 10)
    assert found["boilerplate", "run=sure here is a short report"] == (pytest.approx(3 / 10), 10)
    assert whole(measured(["one two three four five six seven"] * 9))["boilerplate"] == (0, 1)


# Vectors.


def table_of_vectors(count: int = 150, size: int = 9) -> pa.Table:
    generator = np.random.default_rng(count)
    vectors = generator.normal(size=(count, size)) + 0.5
    labels = [None if number % 10 == 0 else "xyz"[number % 3] for number in range(count)]
    return rows(drawn(3, count), label=labels, vector=pa.array(list(vectors), pa.list_(pa.float64())))


def test_vectors_are_measured_over_all_rows_and_by_label() -> None:
    table = table_of_vectors()
    operator = Diversity(text="text", label="label", embedding="vector", vendi_order=2.0)
    found = measured(table, operator)
    unit = np.array(table["vector"].to_pylist())
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    labels = table["label"].to_pylist()
    expected = Moments.of(unit, labels)
    upper = np.triu_indices(150, 1)
    assert found["similarity", None] == (pytest.approx((unit @ unit.T)[upper].mean(), abs=1e-6), 150)
    assert found["vendi", None] == (pytest.approx(expected.vendi(2), abs=1e-5), 150)
    assert found["similarity_within", None] == (pytest.approx(expected.within().value, abs=1e-6), 135)
    assert found["similarity_between", None] == (pytest.approx(expected.between().value, abs=1e-6), 135)
    for label in "xyz":
        n = labels.count(label)
        within, between = expected.within(label).value, expected.between(label).value
        assert found["similarity_within", f"label={label}"] == (pytest.approx(within, abs=1e-6), n)
        assert found["similarity_between", f"label={label}"] == (pytest.approx(between, abs=1e-6), n)
    clique, nearest = distances(unit)
    assert found["remote_clique", None] == (pytest.approx(clique, abs=1e-6), 150)
    assert found["nearest_distance", None] == (pytest.approx(nearest, abs=1e-6), 150)
    assert found["novel_sum", None] == (pytest.approx(novel_sum(unit), abs=1e-6), 150)


def test_without_an_embedding_vectors_are_hashed_n_grams() -> None:
    table = rows([*drawn(4, 50), None, " "])
    unit = Features("text").of(table, "test").unit
    found = whole(measured(table))
    assert found["similarity"] == (pytest.approx(Moments.of(unit).similarity().value, abs=1e-12), 50)
    assert found["vendi"] == (pytest.approx(Moments.of(unit).vendi(), abs=1e-9), 50)


def test_equal_vectors_are_one_to_novel_sum() -> None:
    texts = drawn(4, 30)
    once, often = (whole(measured(one))["novel_sum"] for one in (texts, [*texts, *texts[:3] * 20]))
    assert often == (pytest.approx(once[0]), 30)


def test_a_sample_is_drawn_by_the_seed_and_not_by_the_order_of_rows() -> None:
    small = replace(OPERATOR, sample=15)
    table = rows(drawn(6, 60))
    first = measured(table, small)
    sampled = ("self_bleu", "remote_clique", "nearest_distance", "novel_sum")
    assert {first[name, None][1] for name in sampled} == {15}
    assert first["similarity", None][1] == 60
    assert measured(table.take(list(range(60))[::-1]), small) == {
        key: (pytest.approx(value, abs=1e-12), n) for key, (value, n) in first.items()
    }
    other = measured(table, replace(small, context=Context(seed=1)))
    assert {name for (name, _), value in other.items() if value != first[name, None]} == {*sampled}


# Attributes.

PLACES = [
    ("north", "rain", "x"),
    ("north", "rain", "x"),
    ("north", "wind", "y"),
    ("south", "wind", "y"),
    ("south", None, "y"),
    ("west", "fog", None),
]


def attributed(operator: Diversity, count: int = 1) -> Found:
    place, weather, label = zip(*PLACES * count, strict=True)
    table = rows(["a text"] * len(place), place=place, weather=pa.array(weather, pa.string()), label=label)
    return measured(table, operator)


def test_attributes_are_measured_each_and_the_worst_speaks_for_all() -> None:
    from sklearn.metrics import homogeneity_score

    operator = Diversity(
        text="text",
        label="label",
        attributes=["place", "weather"],
        possible={"place": ["north", "south", "east", "west", "up"], "weather": ["rain", "wind"]},
    )
    found = attributed(operator)
    place = {metric: one for (metric, name), one in found.items() if name == "attribute=place"}
    assert place["coverage"] == (3 / 5, 6)
    shares = np.array([3, 2, 1]) / 6
    assert place["evenness"] == (pytest.approx(-(shares * np.log(shares)).sum() / math.log(5)), 6)
    assert place["label_coverage"] == (3 / 10, 6)
    assert place["unset"] == place["unlisted"] == (0, 6)
    both = [(one, label) for one, _, label in PLACES if label]
    truth = homogeneity_score([label for _, label in both], [one for one, _ in both])
    assert place["bias"] == (pytest.approx(truth, abs=1e-9), 5)
    weather = {metric: one for (metric, name), one in found.items() if name == "attribute=weather"}
    assert weather["coverage"] == (1, 6)
    assert weather["unset"] == weather["unlisted"] == (1 / 6, 6)
    assert weather["bias"] == (pytest.approx(1), 4)
    totals = whole(found)
    for name, worst in {
        "coverage": place,
        "label_coverage": place,
        "bias": weather,
        "unset": weather,
    }.items():
        assert totals[name] == worst[name]


def test_possible_values_stand_in_a_table_or_are_those_seen(tmp_path: Path) -> None:
    pq.write_table(pa.table({"kind": ["north", "down", "north", None]}), tmp_path / "kinds.parquet")
    table = Table.find("kinds.parquet", tmp_path)
    context = Context(tables={"kinds": table}, schemas={"kinds": pa.schema([("kind", pa.string())])})
    operator = Diversity(
        text="text", attributes=["place"], possible={"place": {"from": "kinds", "column": "kind"}}
    )
    operator = replace(operator, context=context)
    assert operator.table_names == ("kinds",)
    operator.check(rows([], place=pa.array([], pa.string())).schema)
    found = attributed(operator)
    assert found["coverage", None] == (1 / 2, 6)
    assert found["unlisted", None] == (3 / 6, 6)
    assert not {"bias", "label_coverage"} & {metric for metric, _ in found}, "there is no label"
    assert whole(attributed(Diversity(text="text", attributes=["place"])))["coverage"] == (1, 6)


# Runs.

TEXTS = [*drawn(7, 400), *drawn(7, 40), None, "  "]
SETTINGS: dict[str, Any] = {"label": "label", "attributes": ["size"], "sample": 100}


def source(folder: Path, texts: Sequence[str | None] = TEXTS) -> Path:
    path = folder / "rows.parquet"
    held = {
        "text": pa.array(texts, pa.string()),
        "label": pa.array([f"l{number % 3}" for number in range(len(texts))], pa.string()),
        "size": pa.array([number % 7 for number in range(len(texts))], pa.int64()),
    }
    pq.write_table(pa.table(held), path)
    return path


def ran(folder: Path, operator: Diversity, blocks: int | None, *before: Any) -> Found:
    steps = [Source(path="rows.parquet", base=str(folder)), *before, operator]
    run = Pipeline(steps, blocks=blocks).run(folder / f"run-{blocks}-{len(before)}", quiet=True)
    held = run.sql("SELECT * FROM metrics WHERE step = 'diversity'")
    return by_name(held.drop_columns(["step"]).to_pylist())


@pytest.mark.ray
def test_a_run_measures_the_same_for_any_number_of_blocks(tmp_path: Path, ray_session: None) -> None:
    source(tmp_path)
    operator = Diversity(text="text", **SETTINGS)
    first = ran(tmp_path, operator, 1)
    assert {name for name, value in first if value is None} == set(operator.metrics())
    assert first["similarity_within", "label=l1"][1] > 100
    for blocks in (7, 64):
        assert ran(tmp_path, operator, blocks) == {
            key: (pytest.approx(value, abs=1e-9, nan_ok=True), n) for key, (value, n) in first.items()
        }
    run = tmp_path / "run-7-0"
    held = Pipeline([Source(path="rows.parquet", base=str(tmp_path))], blocks=7).run(run, quiet=True)
    alone = measured(held.sql("SELECT * FROM dataset"), operator)
    assert alone == {
        key: (pytest.approx(value, abs=1e-9, nan_ok=True), n) for key, (value, n) in first.items()
    }


@pytest.mark.ray
def test_columns_that_stand_beside_the_rows_are_joined(
    write: Callable[..., Path], tmp_path: Path, ray_session: None
) -> None:
    source(tmp_path)
    steps = (
        "steps:\n  - source.table: {path: rows.parquet}\n  - curate.exact_duplicate: {text: text}\n"
        "  - evaluate.diversity: {text: text, label: exact_duplicate_of}\n"
    )
    found = load(write(steps)).run(tmp_path / "run", quiet=True).sql("SELECT * FROM metrics").to_pylist()
    within = [row for row in found if row["metric"] == "similarity_within" and row["slice"]]
    assert len(within) == 40
    assert all(row["n"] == 1 and math.isnan(row["value"]) for row in within)


@pytest.mark.ray
def test_a_run_without_rows_measures_nothing(tmp_path: Path, ray_session: None) -> None:
    source(tmp_path, [None, "  "])
    found = ran(tmp_path, Diversity(text="text", label="label"), None)
    assert {name: n for (name, _), (value, n) in found.items() if math.isnan(value)}.keys() >= {
        "similarity",
        "vendi",
        "self_bleu",
    }


@pytest.mark.ray
def test_a_task_that_finds_a_bad_vector_names_the_row(tmp_path: Path, ray_session: None) -> None:
    table = pa.table({"text": ["a", "b", "c"], "vector": [[1.0, 2.0], [1.0, math.nan], [2.0, 1.0]]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(RunFailed, match=r"diversity: the vector of row_id '\w+' in 'vector' holds a value"):
        ran(tmp_path, Diversity(text="text", embedding="vector"), None)


# What cannot be measured.


@pytest.mark.parametrize(
    ("texts", "defined"),
    [
        pytest.param([], {"vocabulary": (0, 0)}, id="no rows"),
        pytest.param([None, None], {"vocabulary": (0, 0)}, id="nulls"),
        pytest.param(
            ["one two"],
            {
                "distinct_1": (1, 2),
                "distinct_2": (1, 1),
                "vocabulary": (2, 2),
                "root_type_token": (pytest.approx(math.sqrt(2)), 2),
                "word_entropy": (pytest.approx(1), 2),
                "duplicates": (0, 1),
                "mean_words": (2, 1),
                "boilerplate": (0, 1),
                "compression_ratio": (pytest.approx(7 / len(gzip.compress(b"one two", 9))), 1),
                "vendi": (pytest.approx(1), 1),
            },
            id="one row",
        ),
        pytest.param(
            ["", " "],
            {
                "vocabulary": (0, 0),
                "duplicates": (0, 2),
                "mean_words": (0, 2),
                "compression_ratio": (pytest.approx(2 / len(gzip.compress(b"\n ", 9))), 2),
            },
            id="no words",
        ),
    ],
)
def test_what_is_not_defined_is_nan_and_always_there(
    texts: list[str | None], defined: Mapping[str, Any]
) -> None:
    found = measured(texts)
    assert sorted(whole(found)) == sorted(OPERATOR.metrics())
    assert {name: value for (name, _), value in found.items() if not math.isnan(value[0])} == defined


def test_attributes_without_values_are_nan() -> None:
    operator = Diversity(text="text", label="label", attributes=["place"])
    nulls = pa.nulls(3, pa.string())
    found = whole(measured(rows(["a"] * 3, place=nulls, label=pa.array(["x", "y", "x"])), operator))
    assert found["unset"] == (1, 3)
    assert all(math.isnan(found[name][0]) for name in ("coverage", "evenness", "label_coverage", "bias"))
    one = whole(measured(rows(["a"] * 3, place=pa.array(["p", "p", None]), label=["x", "x", "x"]), operator))
    assert one["coverage"] == (1, 3) and math.isnan(one["evenness"][0]) and math.isnan(one["bias"][0])
    assert math.isnan(one["similarity_between"][0]), "one label"
    both = replace(operator, attributes=["place", "label"])
    two = measured(rows(["a"] * 3, place=nulls, label=pa.array(["x", "y", "x"])), both)
    assert two["coverage", "attribute=label"] == (1, 3)
    assert math.isnan(two["coverage", None][0]), "what one attribute lacks is not decided by another"
    empty = rows([], place=pa.array([], pa.string()), label=pa.array([], pa.string()))
    assert math.isnan(whole(measured(empty, operator))["bias"][0])


def test_vectors_of_zeros_are_left_out_and_bad_ones_named() -> None:
    operator = Diversity(text="text", embedding="vector")

    def of(*vectors: list[float] | None) -> pa.Table:
        return rows(["a"] * len(vectors), vector=pa.array(vectors, pa.list_(pa.float64())))

    found = whole(measured(of([1.0, 0.0], [0.0, 0.0], None, [0.0, 1.0]), operator))
    assert found["similarity"] == (pytest.approx(0), 2)
    assert found["remote_clique"] == (pytest.approx(math.sqrt(2)), 2)
    assert found["vendi"] == (pytest.approx(2), 2)
    for bad in (math.nan, math.inf):
        table = of([1.0, 0.0], [bad, 1.0])
        with pytest.raises(RunFailed, match=f"row_id '{table['row_id'][1]}' .* not a finite number"):
            operator(table)
    with pytest.raises(RunFailed, match="vectors must be all of one size"):
        operator(of([1.0, 0.0], [1.0, 0.0, 0.0]))


def test_vectors_of_another_size_in_another_part_are_found() -> None:
    tables = [rows(["a"], vector=[[1.0, 0.0]]), rows(["b"], vector=[[1.0, 0.0, 2.0]])]
    operator = Diversity(text="text", embedding="vector")
    parts = [operator._part(table.select(["row_id", "text", "vector"]).to_batches()) for table in tables]
    with pytest.raises(RunFailed, match=r"one size, but that of row_id '\w+' has 2 numbers and that of .* 3"):
        operator._added(parts)


def test_a_column_of_ids_is_no_label() -> None:
    table = rows(["a"] * 10_001, label=[f"{number}" for number in range(10_001)])
    with pytest.raises(RunFailed, match="column 'label' holds more than 10000 values"):
        Diversity(text="text", label="label")(table)


SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("topic", pa.string()),
        ("score", pa.float64()),
    ]
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "score"}, "column 'score' must hold text, but is double"),
        ({"label": "score"}, "column 'score' must hold text, whole numbers or true and false, but is double"),
        ({"attributes": ["score"]}, "column 'score' must hold text, whole numbers"),
        ({"attributes": ["topic", "topic"]}, "attributes names 'topic' twice"),
        ({"embedding": "label"}, "must hold lists of numbers"),
        ({"embedding": "vektor"}, "no column 'vektor'"),
        ({"attributes": ["topic"], "possible": {"topik": ["a"]}}, "'topik', which is none .* mean 'topic'"),
        ({"attributes": ["topic"], "possible": {"topic": []}}, "possible: topic must be a list of values"),
        (
            {"attributes": ["topic"], "possible": {"topic": "kinds"}},
            "must be a list of values or .from: TABLE",
        ),
        ({"attributes": ["topic"], "possible": {"topic": {"from": "kinds"}}}, "no column 'topic'.*'topics'"),
        (
            {"attributes": ["topic"], "possible": {"topic": {"from": "kinds", "colunm": "topics"}}},
            "must be a list of values or",
        ),
    ],
)
def test_settings_that_cannot_work_are_told_before_any_work(settings: dict[str, Any], message: str) -> None:
    context = Context(schemas={"kinds": pa.schema([("topics", pa.string())])})
    operator = Diversity(**{"text": "text", "context": context, **settings})
    with pytest.raises(InputError, match=message):
        operator.check(SCHEMA)


def test_a_recipe_with_a_label_that_is_not_there_is_refused(write: Callable[..., Path]) -> None:
    write(json.dumps({"text": "a", "label": "b"}) + "\n", "rows.jsonl")
    recipe = (
        "steps:\n  - source.table: {path: rows.jsonl}\n  - evaluate.diversity: {text: text, label: lable}\n"
    )
    with pytest.raises(SynthrayError, match=r"reads the column 'lable'.*did you mean 'label'"):
        load(write(recipe)).check()


def test_the_sql_counts_for_the_fingerprint() -> None:
    names = {path.name for path in OPERATOR.files()}
    assert names >= {
        "diversity.sql",
        "boilerplate.sql",
        "coverage.sql",
        "bias.sql",
        "moment.py",
        "features.py",
    }


def test_the_metrics_are_those_that_a_gate_may_name() -> None:
    operator = Diversity(text="text", label="label", attributes=["place"])
    assert set(whole(attributed(operator))) == set(operator.metrics())
    named = re.findall(r"([a-z_]+)\.(?:value|n)", " ".join(OPERATOR.gate()))
    assert set(named) <= set(OPERATOR.metrics())
    assert "vendi" not in " ".join(Diversity(text="text", embedding="vector").gate()), "of another scale"


# The gate, on real texts.

SETS = {
    "snips": "text",
    "banking77": "text",
    "fewgen_sst2_mnli_5seeds": "text2",
    "gpt_augmented_sentiment": "text",
    "noisy_agnews": "text",
}


def real(name: str) -> list[str]:
    held = pq.read_table(Path(os.environ["SYNTHRAY_DATA"]) / f"{name}.parquet")
    return random.Random(3).sample(held[SETS[name]].drop_null().to_pylist(), 1500)


@pytest.mark.skipif(not os.environ.get("SYNTHRAY_DATA"), reason="SYNTHRAY_DATA names no folder of real data")
@pytest.mark.parametrize("name", SETS)
def test_the_default_gate_lets_sound_texts_pass_and_refuses_broken_ones(name: str) -> None:
    texts, chosen = real(name), random.Random(1)
    assert refused(rows(texts)) == set()
    assert refused(rows(texts[:100])) == set()
    ten = texts[:10]
    assert "duplicates" in refused(rows([chosen.choice(ten) for _ in range(300)]))
    varied = [f"{chosen.choice(ten)} {number}" for number in range(300)]
    assert refused(rows(varied)) & {"vendi", "boilerplate"}
    leaked = [
        f"Sure! Here is a short text as you asked for: {text}" if number % 5 == 0 else text
        for number, text in enumerate(texts)
    ]
    assert refused(rows(leaked)) == {"boilerplate"}
