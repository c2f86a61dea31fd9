"""
The dialects of Jina's public API, which a self-hosted server speaks too.

Embeddings are OpenAI's request with more parameters, and OpenAI's answer; ColBERT models have a path of their own.
What changes the meaning of a vector (task, dimensions, late chunking) is taken where the model's container takes it.
``normalized``, ``truncate`` and ``embedding_type`` are published for the API as a whole and not verified model by
model, so every model takes them here. The readers are not to be had this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from jina_sm.values import RerankRequest, Rows
from jina_sm.wire import embeddings, expect, items, named, parse_request, rerankers, whole
from jina_sm.wire.embeddings import Embeddings

_READ_BY = rerankers.Reranker()
"""Reads every likely shape of an answer, this one among them."""
_EVERY = {"normalized": "normalized", "truncate": "truncate", "base64": "embedding_type"}


@dataclass(frozen=True, kw_only=True)
class Reranker:
    """The API's. ``listwise`` as in the container's dialect."""

    media: Mapping[str, str] = field(default_factory=dict)
    listwise: bool = False
    generation: str = "B"
    path: str = "/v1/rerank"
    takes: Mapping[str, str] = field(default_factory=lambda: {"top_n": "top_n", "return_documents": "return_documents"})
    model: str = ""

    def encode_request(self, request: RerankRequest) -> bytes:
        documents: list[Any] = list(request.documents)
        if not all(isinstance(document, str) for document in documents):
            documents = [items.encode(document, self.media) for document in documents]
        asked = {
            "model": self.model,
            "query": request.query,
            "documents": documents,
            "return_documents": request.return_documents,
        }
        if request.top_n is not None:
            asked["top_n"] = request.top_n
        return orjson.dumps(asked)

    def decode_request(self, body: bytes) -> RerankRequest:
        asked = parse_request(body)
        named(asked, self.model)
        return self.read_request(asked)

    def read_request(self, asked: Mapping[str, Any]) -> RerankRequest:
        """The request, whichever model it names. Raises Unacceptable."""
        documents = expect(asked.get("documents"), list, "documents")
        top_n, whether = asked.get("top_n"), asked.get("return_documents")
        return RerankRequest(
            query=expect(asked.get("query"), str, "query"),
            documents=tuple(
                item if isinstance(item, str) else items.decode(item, self.media, "documents", index)
                for index, item in enumerate(documents)
            ),
            top_n=None if top_n is None else whole(top_n, "top_n"),
            return_documents=True if whether is None else expect(whether, bool, "return_documents"),
        )

    def encode_response(self, request: RerankRequest, rows: Rows) -> bytes:
        results: list[dict[str, Any]] = []
        for index in np.argsort(-rows.values, kind="stable")[: request.top_n].tolist():
            result: dict[str, Any] = {"index": index, "relevance_score": float(rows.values[index])}
            if request.return_documents:
                result["document"] = items.encode(request.documents[index], self.media)
            results.append(result)
        usage = {"total_tokens": rows.tokens}
        return orjson.dumps({"model": self.model, "object": "list", "usage": usage, "results": results})

    def decode_response(self, request: RerankRequest, body: bytes) -> Rows:
        return _READ_BY.decode_response(request, body)


def _embeddings(container: Embeddings, **differing: Any) -> Embeddings:
    """A model's dialect of the API, by that of its container."""
    same: dict[str, Any] = {
        "path": "/v1/embeddings",
        "takes": {**container.takes, **_EVERY},
        "media": {kind: kind for kind in container.media.values()},  # an image is an "image" here, CLIP's too
        "several": container.several,
    }
    return Embeddings(generation="B", flat=True, bare=True, **{**same, **differing})


DIALECTS: Mapping[str, Embeddings | Reranker] = {
    **{name: _embeddings(container) for name, container in embeddings.DIALECTS.items()},
    "colbert": _embeddings(embeddings.DIALECTS["colbert"], path="/v1/multi-vector", takes={"task": "input_type"}),
    "reranker-v2": Reranker(),
    "reranker-v3": Reranker(listwise=True),
    "reranker-m0": Reranker(media={"image": "image"}),
}
