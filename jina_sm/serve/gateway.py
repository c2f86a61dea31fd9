"""
The same doors in front of models elsewhere: a SageMaker endpoint behind the wire of OpenAI and of Jina.

What coalesces, retries and fails over is ``AsyncClient``; no batcher stands between. Media are passed on only from
hosts that were allowed, since whoever fetches them sits inside somebody's network. Nothing is fetched here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from jina_sm import errors
from jina_sm.catalog import Model
from jina_sm.client import AsyncClient
from jina_sm.errors import InputError, JinaSMError
from jina_sm.serve.backend import Refusal
from jina_sm.transport.target import Target
from jina_sm.values import EmbedRequest, Item, Media, RerankRequest, Rows

_log = logging.getLogger(__name__)
_SAID: tuple[tuple[type[JinaSMError], int, str], ...] = (
    (errors.InputError, 422, "invalid_request"),
    (errors.BadRequestError, 400, "invalid_request"),
    (errors.PayloadTooLargeError, 413, "too_large"),
    (errors.ThrottledError, 429, "overloaded"),
    (errors.DeadlineExceededError, 504, "timeout"),
    (errors.ModelTimeoutError, 504, "timeout"),
    (errors.ModelUnavailableError, 503, "upstream_unavailable"),
    (errors.EndpointNotFoundError, 502, "upstream_not_found"),
    (errors.AuthError, 502, "upstream_refused"),
    (errors.ModelFailedError, 502, "upstream_failed"),
    (errors.ProtocolError, 502, "upstream_failed"),
)


class Gateway:
    """Clients of the targets, one a model: at most one that embeds and one that reranks."""

    def __init__(self, targets: Sequence[Target], *, timeout_s: float = 60.0, url_hosts: Sequence[str] = ()) -> None:
        self._clients: dict[str, AsyncClient] = {}
        self._models: dict[str, Model] = {}
        self._url_hosts = frozenset(host.lower() for host in url_hosts)
        self._under_way = 0
        self._closed = False
        for key in dict.fromkeys(target.model for target in targets):
            named = [str(target) for target in targets if target.model == key]
            client = AsyncClient.at(*named, timeout_s=timeout_s)
            kind = "rerank" if client.model.kind == "reranker" else "embed"
            if client.model.kind in ("reader", "multi-vector"):
                raise InputError(f"{client.model.key} is a {client.model.kind} model, which has no door here")
            if kind in self._clients:
                raise InputError(
                    f"--upstream names two models that {kind}, {self._models[kind].key} and {client.model.key}",
                    cure="Targets of one model take over for each other; another model is another server's.",
                )
            self._clients[kind], self._models[kind] = client, client.model

    @property
    def embedder(self) -> Model | None:
        return self._models.get("embed")

    @property
    def scorer(self) -> Model | None:
        return self._models.get("rerank")

    @property
    def alive(self) -> bool:
        return True

    @property
    def idle(self) -> bool:
        return self._under_way == 0

    def look_after(self) -> None:
        pass

    def close(self) -> None:
        self._closed = True

    async def stop(self) -> None:
        for client in self._clients.values():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.close(), 5)

    async def embed(self, asked: EmbedRequest, *, caller: str, name: str = "input") -> Rows:
        client = self._of("embed")
        self._check(asked.items, name)
        if asked.multivector:
            raise Refusal(
                422, "this server gives one vector an item", code="invalid_parameter", param="return_multivector"
            )
        told = await self._asked(
            client.embed(
                asked.items,
                task=asked.task,
                dimensions=asked.dimensions,
                normalize=asked.normalized,
                late_chunking=asked.late_chunking,
                truncate=asked.truncate,
            ),
            name,
        )
        return Rows(told.vectors, told.usage.total_tokens)

    async def rerank(self, asked: RerankRequest, *, caller: str) -> Rows:
        client = self._of("rerank")
        self._check(asked.documents, "documents")
        told = await self._asked(client.rerank(asked.query, asked.documents, top_n=asked.top_n), "documents")
        scores = np.full(len(asked.documents), -np.inf, np.float32)
        scores[told.indices] = told.scores
        return Rows(scores, told.usage.total_tokens)

    def _of(self, kind: str) -> AsyncClient:
        if self._closed:
            raise Refusal(503, "the server is going down", code="shutting_down", retry_after_s=1)
        if kind not in self._clients:
            raise Refusal(404, f"no model that {kind}s is served here", code="model_not_found", param="model")
        return self._clients[kind]

    def _check(self, items: Sequence[Item], param: str) -> None:
        for place, item in enumerate(items):
            if isinstance(item, Media) and isinstance(item.source, str) and not _places(item.source) & self._url_hosts:
                said = f"{param}[{place}]: URLs of that host are not passed on; send the media as base64"
                raise Refusal(422, said, code="url_not_allowed", param=f"{param}[{place}]")

    async def _asked(self, call: Any, name: str) -> Any:
        self._under_way += 1
        try:
            return await call
        except JinaSMError as error:
            raise _refused(error, name) from error
        finally:
            self._under_way -= 1


def _places(url: str) -> set[str]:
    """What an allowed host may be called that has it: HOST:PORT, and HOST where the port is the scheme's own.

    None where whoever fetches it may not see the same host in it.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, own = parts.hostname or "", {"http": 80, "https": 443}.get(parts.scheme)
        port = parts.port or own
    except ValueError:
        return set()
    if "\\" in url or "@" in parts.netloc:
        return set()
    host = f"[{host}]" if ":" in host else host
    return {f"{host}:{port}", *([host] if port == own else [])}


def _refused(error: JinaSMError, name: str) -> Refusal:
    """The one table of this edge. The client calls items texts; ``name`` is what the door calls them."""
    status, code = next(((status, code) for kind, status, code in _SAID if isinstance(error, kind)), (502, "upstream"))
    item = None if error.item is None else re.sub(r"^texts\b", name, error.item)
    message = re.sub(r"^texts\b", name, error.message)
    said = message if item is None else f"{item}: {message}"
    if status == 422 and error.cure:
        said = f"{said}. {error.cure}"
    if status in (502, 503):
        # Where it stands and who may ask it is the operator's affair; what it said may repeat a text.
        facts = (type(error).__name__, error.target, error.region, error.status, error.attempts)
        _log.warning("upstream: %s (target %s, region %s, status %s, attempts %s)", *facts)
        said = f"what stands behind this gateway {'failed' if status == 502 else 'cannot serve just now'}"
    retry_after_s = (error.retry_after_s or 1.0) if status in (429, 503) else None
    return Refusal(status, said, code=code, param=item, retry_after_s=retry_after_s)
