"""Vectors of texts: by hashed n-grams, by sentence-transformers, or from an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import base64
import copy
import functools
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from synthray.errors import InputError, ModelError
from synthray.model.language import Complete, Request, Response
from synthray.model.openai import OpenAI
from synthray.model.wire import Wire

SOURCE = Path(__file__)
"""This source, for fingerprints."""

_PER_POST = 256 << 10
"""Bytes of text in one POST: endpoints limit its tokens (OpenAI: 300,000), and a token is at least a byte."""

_LARGEST = 256 << 20
_LINGER_S = 0.005

Numbers = np.ndarray[Any, np.dtype[Any]]


def request_of(text: str) -> Request:
    """Return the request for the vector of a text."""
    return Request(prompt=text, max_tokens=0, temperature=0.0)


def vector_of(response: Response) -> Numbers:
    """Return the vector in an answer: the base64 of little-endian float32."""
    return np.frombuffer(base64.b64decode(response.text), "<f4")


@dataclass(frozen=True)
class Embedding(OpenAI):
    """Vectors from the model `name` at `base_url`/embeddings, such as text-embedding-3-small.

    Address and key are as of openai. Each text is a call of its own, kept and never paid twice; calls that
    wait at the same time go out as one POST of up to `batch` texts. So `in_flight` and
    `requests_per_minute` count texts. `dimensions` asks for shorter vectors, where the model can.
    """

    in_flight: Annotated[int, Ge(1), Le(10_000)] = 256
    batch: Annotated[int, Ge(1), Le(2048)] = 64
    dimensions: Annotated[int, Ge(1), Le(100_000)] | None = None

    @property
    def lacks(self) -> frozenset[str]:
        """All but a text that goes in as it is."""
        return frozenset({"n", "prefill", "logprobs", "logit_bias", "schema", "stop"})

    def identity(self) -> dict[str, Any]:
        """Return the model's name, where it is served, and the size that is asked for."""
        return {**super().identity(), "dimensions": self.dimensions}

    def check(self) -> None:
        """Raise an InputError when the name is missing or the key is not in the environment."""
        if not self.name:
            raise InputError("model: embedding needs name, such as name: text-embedding-3-small")
        if self.send_seed:
            raise InputError("model: embedding draws nothing, so there is no seed to send; remove send_seed")
        super().check()

    def check_request(self, request: Request) -> None:
        """Raise an InputError for a request of a text: there are vectors alone."""
        if request.prompt is None or request.max_tokens != 0:
            raise InputError(
                "model: embedding answers with vectors and writes no text; it is for curate.embedding "
                "(by: endpoint), so choose another model for this step"
            )
        super().check_request(request)

    def open(self) -> Complete:
        """Connect on first use."""
        address, key = self._address()
        wire = _Batches(address, self.name, key=key, timeout_s=self.timeout_s)
        wire.batch, wire.dimensions = self.batch, self.dimensions
        return wire.complete


_Waiting = tuple[Request, "asyncio.Future[Response]"]


class _Batches(Wire):
    """Gathers the requests that wait at the same time into POSTs of up to `batch` texts."""

    batch: int = 64
    dimensions: int | None = None

    def __init__(self, *where: Any, **settings: Any) -> None:
        super().__init__(*where, **settings)
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._posts: set[asyncio.Task[None]] = set()

    async def complete(self, request: Request) -> Response:
        """Send a text along with those that wait, once; every way it can fail is a ModelError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()
        size = len((request.prompt or "").encode(errors="replace"))
        if self._waiting and self._bytes + size > _PER_POST:
            self._send()
        self._waiting.append((request, future))
        self._bytes += size
        if len(self._waiting) >= self.batch:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(_LINGER_S, self._send)
        return await future

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        post = asyncio.get_running_loop().create_task(self._answer(waiting))
        self._posts.add(post)
        post.add_done_callback(self._posts.discard)

    async def _answer(self, waiting: Sequence[_Waiting]) -> None:
        """Give each that waits its answer or its error."""
        answers: Sequence[Response | Exception]
        try:
            answers = await self._asked([request for request, _ in waiting])
        except Exception as error:
            answers = [error] * len(waiting)
        for (_, future), answer in zip(waiting, answers, strict=True):
            if future.done():
                continue  # nobody waits for it any more
            if isinstance(answer, Exception):
                # Whoever catches it writes the attempts into it, so each has an error of its own.
                future.set_exception(copy.copy(answer))
            else:
                future.set_result(answer)

    async def _asked(self, requests: Sequence[Request]) -> list[Response | Exception]:
        body = {**self._body(requests[0]), "input": [request.prompt for request in requests]}
        try:
            raw = await self._posted("/embeddings", body, requests[0], _LARGEST)
        except ModelError as error:
            if len(requests) == 1 or error.fatal or error.again:
                raise
            # One text is refused, such as one that is too long: the others must not fail with it.
            half = len(requests) // 2
            parts = [await self._each(requests[:half]), await self._each(requests[half:])]
            return [answer for part in parts for answer in part]
        return self._vectors(raw, requests)

    async def _each(self, requests: Sequence[Request]) -> list[Response | Exception]:
        try:
            return await self._asked(requests)
        except ModelError as error:
            return [error] * len(requests)

    def _body(self, request: Request) -> dict[str, Any]:
        """Return what stands beside the texts."""
        del request
        asked = {} if self.dimensions is None else {"dimensions": self.dimensions}
        return {"model": self._name, "encoding_format": "base64", **asked}

    def _vectors(self, raw: bytes, requests: Sequence[Request]) -> list[Response | Exception]:
        try:
            answer = json.loads(raw)
            data = list(answer["data"])
            usage = answer.get("usage") or {}
            places = [one.get("index", place) for place, one in enumerate(data)]
            held = [
                one["embedding"] for _, one in sorted(zip(places, data, strict=True), key=lambda one: one[0])
            ]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            shown = self._without_key(raw[:200].decode(errors="replace"))
            raise self._bad(f"sent no embeddings: {shown}") from None
        if sorted(places) != list(range(len(requests))):
            found = (
                f"{len(data)} embeddings" if len(data) != len(requests) else f"embeddings of {places[:20]}"
            )
            raise self._bad(f"sent {found} to {len(requests)} texts")
        tokens = _shared(usage.get("prompt_tokens"), requests)
        return [self._vector(held[place], took) for place, took in enumerate(tokens)]

    def _vector(self, held: Any, tokens: int | None) -> Response | Exception:
        try:
            vector = _float32(held)
        except (ValueError, TypeError, OverflowError):
            return self._bad(f"sent an embedding that is none: {str(held)[:80]}")
        if not len(vector) or not np.isfinite(vector).all():
            return self._bad("sent an embedding that is empty or holds a value that is not a finite number")
        if self.dimensions is not None and len(vector) != self.dimensions:
            return self._lacks("dimensions", f"{len(vector)} numbers to dimensions={self.dimensions}")
        return Response(
            base64.b64encode(vector.tobytes()).decode(), prompt_tokens=tokens, completion_tokens=0
        )

    def _bad(self, what: str) -> ModelError:
        return self._error(what, "BadResponse", again=True, billed=True)


def _float32(held: Any) -> Numbers:
    """Return an embedding, sent as base64 or as a list of numbers."""
    if isinstance(held, str):
        return np.frombuffer(base64.b64decode(held, validate=True), "<f4")
    if not isinstance(held, list) or not all(type(one) in (int, float) for one in held):
        raise TypeError(held)
    with np.errstate(over="ignore"):
        return np.array(held, "<f8").astype("<f4")


def _shared(total: Any, requests: Sequence[Request]) -> list[int | None]:
    """Share the tokens of a POST among its texts by their bytes, to the last token."""
    if not isinstance(total, int) or isinstance(total, bool) or total < 0:
        return [None] * len(requests)
    sizes = [1 + len((request.prompt or "").encode(errors="replace")) for request in requests]
    ends = [total * sum(sizes[: place + 1]) // sum(sizes) for place in range(len(sizes))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


# Sentence-transformers.


def check_encoder(name: str) -> None:
    """Raise an InputError when sentence-transformers is not installed, or a folder is none."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise InputError(
            "by: sentence_transformers needs a package that is not installed; run: "
            "pip install 'synthray[embed]'"
        )
    path = Path(name)
    if (path.is_absolute() or name.startswith((".", "~"))) and not path.expanduser().is_dir():
        raise InputError(f"no folder {name!r}; name must be a folder with a model, or a model's name")


def encoded(texts: Sequence[str], name: str) -> Numbers:
    """Return the vectors of texts by the sentence-transformers model `name`, of length 1.

    Each text is computed by itself, since the last digits depend on what is computed together with it.
    """
    model = _encoder(name)
    found = [model.encode([text], normalize_embeddings=True, show_progress_bar=False)[0] for text in texts]
    return np.stack(found).astype(np.float32)


@functools.cache
def _encoder(name: str) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name)
    except Exception as error:  # the hub's client, torch and the tokenizers each raise their own
        raise InputError(
            f"the sentence-transformers model {name!r} cannot be loaded: {str(error)[:300]}; name a folder "
            "that holds one, or a model that can be downloaded here"
        ) from None


# Hashed n-grams.

_LENGTHS = (2, 3, 4, 5)
_WORD_WEIGHT = 0.5
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_CODES_AT_ONCE = 1 << 20
_TEXTS_AT_ONCE = 4096
_HASH_BITS = np.uint64(40)


def hashed(texts: Sequence[str], dimensions: int) -> Numbers:
    """Return vectors of length 1 by signed hashing of n-grams; a text without any has zeros.

    Runs of 2 to 5 characters (white space as one space, case folded) are features, and for half their weight
    words (letters and digits of any script) and pairs of neighbouring words. Each adds the logarithm of 1 +
    its number to one of `dimensions` sums, or takes it away, as its hash says: a random projection that keeps
    cosines on average, with an error of about 1/sqrt(dimensions) (Weinberger et al. 2009, arXiv 0902.2206).
    It depends on the text alone, and needs nothing learned or downloaded.
    """
    out = np.zeros((len(texts), dimensions), np.float32)
    for start, stop in _parts(texts):
        out[start:stop] = _hashed(texts[start:stop], dimensions)
    return out


def _parts(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = codes = 0
    for place, text in enumerate(texts):
        if place > start and (codes + len(text) > _CODES_AT_ONCE or place - start >= _TEXTS_AT_ONCE):
            yield start, place
            start, codes = place, 0
        codes += len(text)
    if start < len(texts):
        yield start, len(texts)


def _hashed(texts: Sequence[str], dimensions: int) -> Numbers:
    joined = [" ".join(text.casefold().split()) for text in texts]
    padded = [f" {text} " if text else "" for text in joined]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", errors="replace"), "<u4").astype(np.uint64)
    text = np.repeat(np.arange(len(texts)), [len(one) for one in padded])
    sums = np.zeros(len(texts) * dimensions)
    for kind, (owner, hashes) in enumerate(_features(codes, text)):
        weight = 1.0 if kind < len(_LENGTHS) else _WORD_WEIGHT
        keys = (owner.astype(np.uint64) << _HASH_BITS) | (_mixed(hashes, kind) >> np.uint64(64 - 40))
        keys, count = np.unique(keys, return_counts=True)
        content = keys & ((np.uint64(1) << _HASH_BITS) - np.uint64(1))
        bucket = (content >> np.uint64(1)) % np.uint64(dimensions)
        place = (keys >> _HASH_BITS) * np.uint64(dimensions) + bucket
        signed = np.where(content & np.uint64(1), weight, -weight) * np.log1p(count)
        sums += np.bincount(place.astype(np.int64), signed, len(sums))
    vectors = sums.reshape(len(texts), dimensions)
    length = np.sqrt((vectors * vectors).sum(axis=1))
    unit: Numbers = (vectors / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)
    return unit


def _features(codes: Numbers, text: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield (number of the text, hash) of each kind of feature: runs of characters, words, pairs of words."""
    run = codes + np.uint64(1)
    for length in range(2, max(_LENGTHS) + 1):
        run = run[:-1] * _MULTIPLIER + codes[length - 1 :] + np.uint64(1) if len(run) > 1 else run[:0]
        if length in _LENGTHS:
            inside = text[: len(run)] == text[length - 1 :] if len(run) else np.zeros(0, bool)
            yield text[: len(run)][inside], run[inside]
    different, which = np.unique(codes, return_inverse=True)
    in_word = np.array([chr(int(code)).isalnum() for code in different], bool)[which.reshape(-1)]
    starts = np.flatnonzero(in_word & ~np.concatenate([[False], in_word[:-1]]))
    if not len(starts):
        return
    ends = np.flatnonzero(in_word & ~np.concatenate([in_word[1:], [False]])) + 1
    sizes = ends - starts
    letters = np.flatnonzero(in_word)
    within = np.arange(len(letters)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    power = np.cumprod(np.full(int(sizes.max()), _MULTIPLIER, np.uint64))
    words = np.add.reduceat((codes[letters] + np.uint64(1)) * power[within], np.cumsum(sizes) - sizes)
    owner = text[starts]
    yield owner, words
    beside = owner[1:] == owner[:-1]
    yield owner[1:][beside], (_mixed(words[:-1], 0) * _MULTIPLIER + words[1:])[beside]


def _mixed(hashes: Numbers, kind: int) -> Numbers:
    """Return numbers whose every bit depends on every bit of the hash and on the kind (splitmix64)."""
    mixed: Numbers = hashes + np.uint64((kind + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed
