"""
The container behind an endpoint, with the stand-in inside.

It speaks the model's own dialect and refuses as Jina's does, each generation with its own statuses and words: the
older ones answer 422 to a body of the wrong shape and 500 to nearly everything else. Like a container in network
isolation it fetches no URL.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np

from jina_sm import wire
from jina_sm.catalog import Model
from jina_sm.errors import InputError
from jina_sm.local.models import NORM, FullError, Rounds, fitted, markdown, of_bytes, relevance, words
from jina_sm.values import Completion, EmbedRequest, Item, Media, MultiRows, ReadRequest, RerankRequest, Rows, Vectors

# One thread: several would take the interpreter from each other, and from the loop, several times a millisecond.
_LONG = ThreadPoolExecutor(1, "jina_sm container")
_Worked = TypeVar("_Worked")
_log = logging.getLogger(__name__)
BODY_LIMIT = 6_291_456
"""Bytes in a body, either way."""
SHORT = 1024
"""Bytes in a body that is worked on at once: to go to another thread and back would take longer."""
MEDIA_TOKENS = 500
"""What an image, a recording or a PDF counts here; the models count hundreds to thousands."""
MULTIVECTOR_WIDTH = 128
"""Of an embedding model that is asked for a vector a token."""

_STATUS: Mapping[str, Mapping[str, int]] = {
    "A": {"shape": 422, "parameter": 500, "input": 500, "length": 500},
    "B": {"shape": 422, "parameter": 422, "input": 400, "length": 400},
    "C": {"shape": 400, "parameter": 400, "input": 400, "length": 400},
}


class Broken(Exception):
    """What the container answers instead of vectors. Status 0 is SageMaker's own word: it did not answer."""

    def __init__(self, status: int, body: Mapping[str, Any] | str) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = {"detail": body} if status and isinstance(body, str) else body


class _Refusal(Exception):
    """Why the model does not answer: a status, or what is wrong, for which each generation has one."""

    def __init__(self, reason: int | str, message: str, detail: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.detail = detail

    def said(self, generation: str) -> Broken:
        status = self.reason if isinstance(self.reason, int) else _STATUS[generation][self.reason]
        if generation == "C":
            return Broken(status, {"object": "error", "message": self.message, "code": status})
        if generation == "A":
            return Broken(status, {"detail": list(self.detail) or self.message})
        code = "INPUT_TOKEN_LIMIT_EXCEEDED" if self.reason == "length" else ""
        return modern(status, self.message, self.detail, code=code)


def modern(status: int, message: str, detail: Sequence[Mapping[str, Any]] = (), *, code: str = "") -> Broken:
    """An error as the OpenAI-like containers say it, and Jina's API."""
    asked = uuid.uuid4().hex
    if status != 422:
        code = code or (HTTPStatus(status).name if status in list(HTTPStatus) else "ERROR")
        return Broken(status, {"detail": {"message": message, "request_id": asked, "code": code}})
    errors = [
        {"field": ".".join(map(str, each["loc"])), "message": each["msg"], "type": each["type"], "input": None}
        for each in detail
    ]
    return Broken(422, {"detail": message, "request_id": asked, "errors": errors})


async def answer(model: Model, content_type: str, body: bytes, rounds: Rounds, *, via: str = "container") -> bytes:
    """The container's answer, or what Jina's API makes of it. Raises Broken."""
    try:
        dialect = wire.dialect(model, wire=via)
    except InputError:
        why = f"the local stack does not speak {model.dialect}, the dialect of {model.key}"
        raise Broken(500, {"detail": why}) from None
    try:
        return await answer_in(model, dialect, content_type, body, rounds)
    except _Refusal as refusal:
        raise refusal.said(dialect.generation) from None
    except Broken:
        raise
    except Exception as error:  # as a container would: it answers 500 and serves on
        _log.exception("%s", model.key)
        raise Broken(500, f"the local stack failed: {error!r}") from None


async def answer_in(
    model: Model, dialect: wire.Dialect[Any, Any], content_type: str, body: bytes, rounds: Rounds
) -> bytes:
    """The answer in a dialect, once it is due. Raises Broken, and _Refusal."""
    if content_type != "application/json":
        raise _Refusal(400, f"Unsupported content type: {content_type}")
    short = len(body) <= SHORT
    try:
        asked = await _apart(short, dialect.decode_request, body)
    except wire.Unacceptable as error:
        raise _Refusal("shape", str(error), error.detail) from None
    told: Rows | MultiRows | Completion
    if isinstance(asked, ReadRequest):
        told = await _apart(short, _read, model, asked, rounds)
        rounds.begin(1, told.prompt_tokens)
    elif isinstance(asked, RerankRequest):
        listwise = getattr(dialect, "listwise", False)
        tokens = await _apart(short, _ranked_tokens, model, asked, rounds, listwise)
        rounds.begin(1 + len(asked.documents), tokens)
        told = Rows(relevance(await _vectors([asked.query, *asked.documents], rounds)), tokens)
    else:
        asked, tokens = await _apart(short, _checked, model, asked, rounds)
        rounds.begin(len(asked.items), tokens)
        if asked.multivector or model.kind == "multi-vector":
            told = MultiRows(await _many(model, asked, rounds), tokens)
        else:
            found = await _vectors(asked.items, rounds)
            told = Rows(await _apart(short, _given, model, asked, found), tokens)
    answered = await _apart(short, dialect.encode_response, asked, told)
    await rounds.due()
    if len(answered) > BODY_LIMIT:
        raise _Refusal(413, f"the answer has {len(answered)} bytes, and the service takes {BODY_LIMIT}")
    return answered


async def _apart(short: bool, work: Callable[..., _Worked], *asked: Any) -> _Worked:
    """What comes of the work: of long work in the thread for it, so that other requests and the control plane go on."""
    return work(*asked) if short else await asyncio.get_running_loop().run_in_executor(_LONG, work, *asked)


def _given(model: Model, asked: EmbedRequest, found: Vectors) -> Vectors:
    values = fitted(found, model, asked.dimensions)
    return values if asked.normalized else values * np.float32(NORM)


def _checked(model: Model, asked: EmbedRequest, rounds: Rounds) -> tuple[EmbedRequest, int]:
    """The request as the model reads it, and its tokens. Raises _Refusal for what the model does not take."""
    try:
        model.check_task(asked.task)
        model.check_dimensions(asked.dimensions)
    except InputError as error:
        raise _Refusal("parameter", error.message) from None
    if asked.multivector and asked.dimensions:
        raise _Refusal("parameter", "dimensions cannot be chosen with return_multivector")
    if not asked.normalized and len(model.modalities) > 1:
        raise _Refusal("input", f"{model.key} gives normalized vectors only")
    sizes = _sizes(model, asked.items, rounds)
    if asked.truncate:
        asked = replace(
            asked,
            items=tuple(
                item[: len(item) * model.max_tokens // size]
                if isinstance(item, str) and size > model.max_tokens
                else item
                for item, size in zip(asked.items, sizes, strict=True)
            ),
        )
        sizes = [min(size, model.max_tokens) for size in sizes]
    _check_length(model, sum(sizes) if asked.late_chunking else max(sizes))
    return asked, sum(sizes)


def _ranked_tokens(model: Model, asked: RerankRequest, rounds: Rounds, listwise: bool) -> int:
    query, *documents = _sizes(model, [asked.query, *asked.documents], rounds)
    _check_length(model, query + (sum(documents) if listwise else max(documents)))
    return query + sum(documents)


def _sizes(model: Model, items: Sequence[Item], rounds: Rounds) -> list[int]:
    for item in items:
        if isinstance(item, Media) and item.kind not in model.modalities:
            raise _Refusal("input", f"{model.key} takes {', '.join(model.modalities)}, and no {item.kind}")
        if isinstance(item, Media) and isinstance(item.source, str):
            raise _Refusal("input", f"{item.source[:80]} cannot be fetched: the container has no network; send bytes")
    return [MEDIA_TOKENS if isinstance(item, Media) else rounds.encoder.tokens(item) for item in items]


def _check_length(model: Model, tokens: int) -> None:
    if tokens > model.max_tokens:
        raise _Refusal("length", f"Input has about {tokens} tokens, and {model.key} takes {model.max_tokens}")


async def _vectors(items: Sequence[Item], rounds: Rounds) -> Vectors:
    """(n, 512) unit vectors: the encoder's of texts, those drawn from the bytes of all else."""
    texts = [item for item in items if isinstance(item, str)]
    try:
        coming = rounds.submit(texts) if texts else None
    except FullError:
        raise _Refusal(503, "too many requests are waiting") from None
    found: Vectors = np.empty((0, 0), np.float32)
    if coming:
        found = coming.result() if coming.done() else await asyncio.wrap_future(coming)
    if len(found) == len(items):
        return found
    encoded = iter(found)
    return np.stack([next(encoded) if isinstance(item, str) else of_bytes(item) for item in items])


async def _many(model: Model, asked: EmbedRequest, rounds: Rounds) -> tuple[Vectors, ...]:
    """For each item a vector a word, or one if it is no text."""
    parts: list[list[Item]] = [[*words(item)] if isinstance(item, str) else [item] for item in asked.items]
    places = {part: place for place, part in enumerate(dict.fromkeys(part for item in parts for part in item))}
    known = await _vectors(list(places), rounds)
    known = fitted(known, model, None if model.kind == "multi-vector" else MULTIVECTOR_WIDTH)
    return tuple(known[[places[part] for part in item]] for item in parts)


def _read(model: Model, asked: ReadRequest, rounds: Rounds) -> Completion:
    """The page by rules: what a model would leave out stays in, and an instruction of one's own changes nothing."""
    if asked.schema is not None:
        raise _Refusal("input", "the local stack has no model that extracts JSON by a schema; it gives Markdown only")
    size = rounds.encoder.tokens(asked.html)
    _check_length(model, size)
    try:
        text = markdown(asked.html)
    except ValueError as error:
        raise _Refusal(500, str(error)) from None
    return Completion(
        text=text, finish_reason="stop", prompt_tokens=size, completion_tokens=rounds.encoder.tokens(text)
    )
