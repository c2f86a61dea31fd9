"""
The container behind an endpoint, with the stand-in inside.

It speaks the model's own dialect and refuses as Jina's does: 400 for a content type other than exactly
``application/json``, 422 for a body of the wrong shape, 500 for nearly everything else.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jina_sm import wire
from jina_sm.catalog import Model
from jina_sm.errors import InputError
from jina_sm.local.models import FullError, Rounds, fitted, relevance
from jina_sm.values import EmbedRequest, RerankRequest, Rows

BODY_LIMIT = 6_291_456
"""Bytes in a body, either way."""


class Broken(Exception):
    """What the container answers instead of vectors."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


async def answer(model: Model, content_type: str, body: bytes, rounds: Rounds) -> bytes:
    """The container's answer. Raises Broken."""
    try:
        dialect = wire.dialect(model)
    except InputError:
        raise Broken(500, f"the local stack does not speak {model.dialect}, the dialect of {model.key}") from None
    if content_type != "application/json":
        raise Broken(400, f"Unsupported content type: {content_type}")
    try:
        # Long texts are read in a thread, so that other requests and the control plane go on.
        asked = await asyncio.to_thread(dialect.decode_request, body)
    except wire.Unacceptable as error:
        raise Broken(422, error.detail) from None
    texts = [asked.query, *asked.documents] if isinstance(asked, RerankRequest) else list(asked.texts)
    counted = await asyncio.to_thread(_checked, model, asked, texts, rounds)
    try:
        vectors = await asyncio.wrap_future(rounds.submit(texts))
    except FullError:
        raise Broken(503, "too many requests are waiting") from None
    values = relevance(vectors) if isinstance(asked, RerankRequest) else fitted(vectors, model, asked.dimensions)
    answered = await asyncio.to_thread(dialect.encode_response, asked, Rows(values, counted))
    if len(answered) > BODY_LIMIT:
        raise Broken(413, f"the answer has {len(answered)} bytes, and the service takes {BODY_LIMIT}")
    return answered


def _checked(model: Model, asked: EmbedRequest | RerankRequest, texts: list[str], rounds: Rounds) -> int:
    """How many tokens the model reads. Raises Broken for what the model does not take."""
    sizes = [rounds.encoder.tokens(text) for text in texts]
    if isinstance(asked, RerankRequest):
        longest = sizes[0] + max(sizes[1:])
    else:
        longest = sum(sizes) if asked.late_chunking else max(sizes)
        try:
            model.check_task(asked.task)
            model.check_dimensions(asked.dimensions)
        except InputError as error:
            raise Broken(500, error.message) from None
    if longest > model.max_tokens:
        raise Broken(500, f"Input has about {longest} tokens, and {model.key} takes {model.max_tokens}")
    return sum(sizes)
