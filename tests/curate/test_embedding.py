"""A text that says something has a vector, one that says nothing has none, and what cannot be made is told early."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthray import Context
from synthray.curate.embedding import Embedding
from synthray.errors import InputError, ModelError
from synthray.model.embedding import Embedding as Language
from synthray.model.fake import Fake
from synthray.model.language import Complete, Request, Response
from synthray.recipe import load

TEXTS = ["one two", None, "", " \n", "three"]


def table(texts: list[str | None]) -> pa.Table:
    ids = pa.array([f"r{place}" for place in range(len(texts))], pa.string())
    return pa.table({"row_id": ids, "text": pa.array(texts, pa.string())})


def test_a_null_or_blank_text_has_a_null_vector() -> None:
    out = Embedding(text="text", dimensions=32)(table(TEXTS))
    assert out.schema.field("embedding").type == pa.list_(pa.float32())
    vectors = out["embedding"].to_pylist()
    assert [vector is None for vector in vectors] == [False, True, True, True, False]
    assert {len(vector) for vector in vectors if vector} == {32}
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)
    assert len(Embedding(text="text")(table(["x"]))["embedding"][0]) == 256


@pytest.mark.parametrize(
    "text",
    [
        "word",
        "你好世界",
        "Привет, мир",
        "مرحبا بالعالم",
        "\U0001f600\U0001f44d\U0001f3fd",
        "a\x00b\x1b[31m\x7f",
        "\u200b",
        "!?",
    ],
)
def test_every_text_that_is_not_blank_has_a_vector_of_length_1(text: str) -> None:
    (vector, same) = Embedding(text="text")(table([text, text]))["embedding"].to_pylist()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert vector == same


def test_a_table_without_rows_or_texts_has_the_column() -> None:
    for texts in ([], [None, ""]):
        out = Embedding(text="text")(table(texts))
        assert out["embedding"].to_pylist() == [None] * len(texts)
        assert out.schema.field("embedding").type == pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "endpoint", "dimensions": 8}, "dimensions is a setting of by: hashed.*; set it on the model"),
        (
            {"by": "sentence_transformers", "name": "m", "dimensions": 8},
            "dimensions is a setting of by: hashed.*; its model has a size of its own",
        ),
        ({"by": "sentence_transformers"}, "needs name, a folder with a model or a model's name"),
        ({"name": "m"}, "name is a setting of by: sentence_transformers, not of by: hashed"),
        (
            {"by": "endpoint", "name": "m"},
            "name is a setting of by: sentence_transformers, not of by: endpoint",
        ),
        ({"writes": "row_id"}, "writes must name a column, and none that is reserved, but is 'row_id'"),
        ({"writes": ""}, "writes must name a column"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Embedding(text="text", **settings).check(pa.schema([("text", pa.string())]))


def test_a_column_of_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="column 'n' must hold text, but is int64"):
        Embedding(text="n").check(pa.schema([("n", pa.int64())]))


def test_without_the_package_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"run: pip install 'synthray\[embed\]'"):
        Embedding(text="text", by="sentence_transformers", name="m").check(pa.schema([("text", pa.string())]))


def test_a_models_folder_decides_the_vectors_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    by_model = Embedding(text="text", by="sentence_transformers", name=str(tmp_path))
    assert {path.name for path in by_model.files()} == {"embedding.py", "config.json", "model.safetensors"}
    assert [path.name for path in Embedding(text="text").files()] == ["embedding.py"]


# An endpoint, here a scripted one; the real wire is in tests/model/test_embedding.py.


@dataclass(frozen=True)
class Scripted(Language):
    """Answers with the length of the text; refuses what holds an x, and ends at what holds a z."""

    def open(self) -> Complete:
        async def complete(request: Request) -> Response:
            text = request.prompt or ""
            if "x" in text or "z" in text:
                raise ModelError(f"no {text}", "HTTP400", fatal="z" in text)
            held = np.array([len(text), 1], "<f4").tobytes()
            return Response(base64.b64encode(held).decode(), prompt_tokens=len(text), completion_tokens=0)

        return complete


def by_endpoint(model: Any = None) -> Embedding:
    return Embedding(text="text", by="endpoint", context=Context(step="vectors", language=model))


def test_an_endpoint_is_asked_for_texts_that_say_something() -> None:
    operator = by_endpoint(Scripted(name="m"))
    assert operator.uses_model
    assert not Embedding(text="text").uses_model
    out = operator(table(["one", None, " ", "an x", "four"]))
    assert out["embedding"].to_pylist() == [[3, 1], None, None, None, [4, 1]]
    assert [failed and failed["error"] for failed in out["failed"].to_pylist()] == [
        None,
        None,
        None,
        "HTTP400",
        None,
    ]
    keys = out["vectors_call"].to_pylist()
    assert [key is None for key in keys] == [False, True, True, True, False]
    assert keys[0] != keys[4]


def test_an_error_that_every_call_would_meet_ends_the_run() -> None:
    with pytest.raises(ModelError, match="no z"):
        by_endpoint(Scripted(name="m"))(table(["one", "z"]))


def test_a_model_that_writes_text_is_refused() -> None:
    schema = pa.schema([("text", pa.string())])
    with pytest.raises(
        InputError, match=r"needs a model with language: embedding, but has fake; add models:"
    ):
        by_endpoint(Fake()).check(schema)
    by_endpoint(Scripted(name="m")).check(schema)
    with pytest.raises(InputError, match="vectors needs a model"):
        by_endpoint()(table(["x"]))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_endpoints_vectors_are_kept_and_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "an x", None, "four", "one"]}), tmp_path / "given.parquet")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "models: {vectors: {language: embedding, name: m, base_url: 'http://x/v1'}}\n"
        "max_failed: 1\n"
        "tables: {some: given.parquet}\n"
        "steps:\n  - source.table: {table: some}\n"
        "  - curate.embedding: {text: text, by: endpoint}\n    model: vectors\n"
    )
    recipe = replace(load(path), models={"vectors": Scripted(name="m", base_url="http://x/v1")})
    run = recipe.run(tmp_path / "run", quiet=True)
    found = run.sql("SELECT text, embedding FROM dataset ORDER BY text, row_id").to_pylist()
    assert [(row["text"], row["embedding"]) for row in found] == [
        ("four", [4, 1]),
        ("one", [3, 1]),
        ("one", [3, 1]),
        (None, None),
    ]
    assert run.sql("SELECT calls, prompt_tokens FROM stages WHERE calls > 0").to_pylist() == [
        {"calls": 2, "prompt_tokens": 7}
    ]


@pytest.mark.embed
def test_a_real_model_makes_the_vectors(minilm: str) -> None:
    operator = Embedding(text="text", by="sentence_transformers", name=minilm)
    operator.check(pa.schema([("text", pa.string())]))
    vectors = operator(table(["a cat", None, "a kitten", "the stock market fell", "\x00\x1b", "\U0001f600"]))
    held = vectors["embedding"].to_pylist()
    assert held[1] is None
    cat, kitten, market = (np.array(held[place]) for place in (0, 2, 3))
    assert cat @ kitten > 0.5 > cat @ market
    assert {len(one) for one in held if one} == {384}
