"""Give each text a vector: by hashed n-grams, by sentence-transformers or from an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from annotated_types import Ge, Le

from synthray.errors import InputError, ModelError
from synthray.lineage import FAILED, RESERVED
from synthray.model.calls import Calls, opened
from synthray.operator import Operator

_DIMENSIONS = 256


@dataclass(frozen=True)
class Embedding(Operator):
    """Add `embedding`, a list of float32, for curate.cluster, neighbours, semantic_duplicate and others.

    `by: hashed` projects counted n-grams of characters and words into `dimensions` numbers (default 256),
    with nothing to download: it sees spelling, and neither synonyms nor meaning, nor that two texts say the
    same in other words or in another language. `sentence_transformers` (pip install 'synthray[embed]')
    computes vectors by the model `name`: a folder, or a model that can be downloaded. `endpoint` asks the
    step's model, of which `models:` says `language: embedding`; each text is a kept call, a call that fails
    makes the row failed, and `STEP_call` is added, the key of the call. `writes` names another column. A null
    or blank text has a null vector.
    """

    text: str
    by: Literal["hashed", "sentence_transformers", "endpoint"] = "hashed"
    name: str = ""
    dimensions: Annotated[int, Ge(8), Le(65_536)] | None = None
    writes: str = "embedding"

    @property
    def uses_model(self) -> bool:  # type: ignore[override]
        """Whether an endpoint is asked."""
        return self.by == "endpoint"

    @property
    def reads(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    def adds(self) -> Mapping[str, pa.DataType]:
        """Return the vector and, of an endpoint, the call's key."""
        vector = {self.writes: pa.list_(pa.float32())}
        return {**vector, f"{self.step}_call": pa.string()} if self.by == "endpoint" else vector

    def files(self) -> tuple[Path, ...]:
        """Return what decides the vectors beside the settings: our code, and a model's files."""
        from synthray.model.embedding import SOURCE

        folder = Path(self.name).expanduser()
        if self.by != "sentence_transformers" or not folder.is_dir():
            return (SOURCE,)
        return (SOURCE, *sorted(path for path in folder.rglob("*") if path.is_file()))

    def check(self, before: pa.Schema) -> None:
        """Raise an InputError for a setting that is of another `by`, or where the model cannot be used."""
        from synthray.model.embedding import Embedding as Language
        from synthray.model.embedding import check_encoder, request_of

        self.require_text(before, self.text)
        if not self.writes or self.writes in RESERVED:
            raise InputError(f"writes must name a column, and none that is reserved, but is {self.writes!r}")
        if self.dimensions is not None and self.by != "hashed":
            where = "set it on the model" if self.by == "endpoint" else "its model has a size of its own"
            raise InputError(f"dimensions is a setting of by: hashed, not of by: {self.by}; {where}")
        if (self.by == "sentence_transformers") != bool(self.name):
            raise InputError(
                "by: sentence_transformers needs name, a folder with a model or a model's name"
                if not self.name
                else f"name is a setting of by: sentence_transformers, not of by: {self.by}"
            )
        if self.by == "sentence_transformers":
            check_encoder(self.name)
        if self.by == "endpoint" and self.context.language is not None:
            if not isinstance(self.context.language, Language):
                raise InputError(
                    "by: endpoint needs a model with language: embedding, but has "
                    f"{self.context.language.kind}; add models: {{vectors: {{language: embedding, ...}}}} to "
                    "the recipe and model: vectors to the step"
                )
            self.context.language.check_request(request_of(""))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Add the vectors; a row whose call fails gets `failed`."""
        texts = table[self.text].to_pylist()
        able = [place for place, text in enumerate(texts) if text and text.strip()]
        if self.by == "endpoint":
            return self._asked(table, texts, able)
        vectors: list[Any] = [None] * len(texts)
        for place, vector in zip(able, self._computed([texts[place] for place in able]), strict=True):
            vectors[place] = vector
        return self.add(table, {self.writes: pa.array(vectors, pa.list_(pa.float32()))})

    def _computed(self, texts: Sequence[str]) -> Sequence[Any]:
        from synthray.model.embedding import encoded, hashed

        if not texts:
            return []
        if self.by == "hashed":
            return list(hashed(texts, self.dimensions or _DIMENSIONS))
        return list(encoded(texts, self.name))

    def _asked(self, table: pa.Table, texts: Sequence[str], able: Sequence[int]) -> pa.Table:
        if self.context.language is None:
            raise InputError(f"{self.step} needs a model: Context(language=...)")
        calls = opened(self.context.language, self.context.calls, self.context.limiter)
        rows = table["row_id"].to_pylist()
        found = calls.run(self._all(calls, [(rows[place], texts[place]) for place in able]))
        answers: list[Mapping[str, Any]] = [{}] * len(texts)
        for place, answer in zip(able, found, strict=True):
            answers[place] = answer
        added = {
            self.writes: [answer.get("vector") for answer in answers],
            f"{self.step}_call": [answer.get("call") for answer in answers],
        }
        failed = pa.array([answer.get("failed") for answer in answers], FAILED)
        return self.add(table, added).append_column(pa.field("failed", FAILED), failed)

    async def _all(self, calls: Calls, rows: Sequence[tuple[str, str]]) -> list[Mapping[str, Any]]:
        found = await asyncio.gather(*(self._of_row(calls, *row) for row in rows), return_exceptions=True)
        # Raised when no call is under way any more: what was answered meanwhile is kept too.
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return [one for one in found if not isinstance(one, BaseException)]

    async def _of_row(self, calls: Calls, row_id: str, text: str) -> Mapping[str, Any]:
        from synthray.model.embedding import request_of, vector_of

        async with calls.turns:
            try:
                call = await calls.ask(request_of(text), (row_id, self.step, 0))
            except ModelError as error:
                if error.fatal:
                    raise
                failed = {"error": error.kind, "message": str(error), "attempts": error.attempts}
                return {"failed": failed}
        return {"vector": vector_of(call.response), "call": call.key}
