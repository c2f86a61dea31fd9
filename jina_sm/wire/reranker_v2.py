"""
The dialect of jina-reranker-v1 and v2 and of the ColBERT rerankers: ``data`` is one object.

Results come sorted by score; ``index`` is the document's place in the request. v1 and v2 score from 0 to 1, ColBERT
without bound.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import orjson

from jina_sm.errors import ProtocolError
from jina_sm.values import RerankRequest, Rows
from jina_sm.wire import Unacceptable, parse, parse_request, text_in


def encode_request(request: RerankRequest) -> bytes:
    data: dict[str, Any] = {
        "query": request.query,
        "documents": [{"text": document} for document in request.documents],
    }
    if request.top_n is not None:
        data["top_n"] = request.top_n
    return orjson.dumps({"data": data})


def decode_request(body: bytes) -> RerankRequest:
    data = parse_request(body).get("data")
    if not isinstance(data, dict):
        raise Unacceptable("data", message="value is not a valid dict", kind="type_error.dict")
    for name, kind in (("query", str), ("documents", list)):
        if name not in data:
            raise Unacceptable("data", name, message="field required", kind="value_error.missing")
        if not isinstance(data[name], kind):
            raise Unacceptable(
                "data", name, message=f"{kind.__name__} type expected", kind=f"type_error.{kind.__name__}"
            )
    top_n = data.get("top_n")
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool)):
        raise Unacceptable("data", "top_n", message="value is not a valid integer", kind="type_error.integer")
    if not data["documents"]:
        raise Unacceptable(
            "data",
            "documents",
            message="ensure this value has at least 1 items",
            kind="value_error.list.min_items",
        )
    return RerankRequest(
        query=data["query"],
        documents=tuple(text_in(item, "data", "documents", index) for index, item in enumerate(data["documents"])),
        top_n=top_n,
    )


def encode_response(request: RerankRequest, rows: Rows) -> bytes:
    share, rest = divmod(rows.tokens, len(rows))
    order = [int(index) for index in np.argsort(-rows.values, kind="stable")[: request.top_n]]
    results = []
    for index in order:
        document, name = request.documents[index], _id(index, request.documents[index])
        results.append(
            {
                "id": name,
                "index": index,
                "document": {"id": name, "text": document},
                "relevance_score": float(rows.values[index]),
                "usage": {"id": name, "total_tokens": share + (index < rest)},
            }
        )
    name = _id(-1, request.query)
    answer = {
        "id": name,
        "query_usage": {"id": name, "total_tokens": 0},
        "docs_usage": {"id": name, "total_tokens": rows.tokens},
        "results": results,
    }
    return orjson.dumps({"data": [answer]})


def decode_response(request: RerankRequest, body: bytes) -> Rows:
    answer = parse(body)
    count = len(request.documents)
    scores = np.full(count, -np.inf, dtype=np.float32)
    try:
        (found,) = answer["data"]
        results = found["results"]
        for result in results:
            index, score = result["index"], float(result["relevance_score"])
            if type(index) is not int or not 0 <= index < count:
                raise ProtocolError(f"a score came for document {index!r} of {count}")
            if scores[index] != -np.inf or not math.isfinite(score):
                raise ProtocolError(f"document {index} has two scores, or one that is not finite")
            scores[index] = score
        tokens = _tokens(found)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the answer has not the shape of a reranker's: {error!r}") from None
    if len(results) < min(count, request.top_n or count):
        raise ProtocolError(f"{len(results)} scores came for {count} documents")
    return Rows(scores, tokens)


def _tokens(found: dict[str, Any]) -> int:
    """docs_usage is missing from v1 answers; the results then say theirs, one by one."""
    query = int((found.get("query_usage") or {}).get("total_tokens", 0))
    if documents := found.get("docs_usage"):
        return query + int(documents["total_tokens"])
    return query + sum(int((result.get("usage") or {}).get("total_tokens", 0)) for result in found["results"])


def _id(index: int, text: str) -> str:
    return hashlib.md5(f"{index} {text}".encode(), usedforsecurity=False).hexdigest()
