"""
The dialects of the rerankers: a query and documents in, scores out.

v1, v2 and the ColBERT rerankers take ``data`` as one object and m0 as a list of one. Results come sorted by score;
``index`` is the document's place in the request. v1, v2 and m0 score from 0 to 1, the others without bound. No
answer of v3's package has been published: it is asked as v2 is, and read in each of the shapes that are likely. m0
ignores top_n, and gives every document back whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from jina_sm.errors import ProtocolError
from jina_sm.values import Item, RerankRequest, Rows
from jina_sm.wire import Unacceptable, expect, items, parse, parse_request, whole


@dataclass(frozen=True, kw_only=True)
class Reranker:
    """One dialect. ``listwise``: the model reads the documents of a request together, so they share its tokens."""

    media: Mapping[str, str] = field(default_factory=dict)
    listed: bool = False
    listwise: bool = False
    generation: str = "A"
    path: str = "/invocations"
    takes: Mapping[str, str] = field(default_factory=lambda: {"top_n": "top_n"})
    model: str = ""

    def encode_request(self, request: RerankRequest) -> bytes:
        data: dict[str, Any] = {
            "query": request.query,
            "documents": [items.encode(document, self.media) for document in request.documents],
        }
        if request.top_n is not None:
            data["top_n"] = request.top_n
        return orjson.dumps({"data": [data] if self.listed else data})

    def decode_request(self, body: bytes) -> RerankRequest:
        return self.read_request(parse_request(body))

    def read_request(self, asked: Mapping[str, Any]) -> RerankRequest:
        """The request of a body that is parsed already. Raises Unacceptable."""
        data = asked.get("data")
        path: tuple[str | int, ...] = ("data",)
        if self.listed and isinstance(data, list):
            if len(data) != 1:
                raise Unacceptable(*path, message="one query a request is read here", kind="value_error.list.max_items")
            (data,), path = data, ("data", 0)
        told = expect(data, dict, *path)
        documents = expect(told.get("documents"), list, *path, "documents")
        top_n = None if told.get("top_n") is None else whole(told["top_n"], *path, "top_n")
        if top_n is not None and top_n < 1:
            raise Unacceptable(
                *path, "top_n", message="ensure this value is greater than 0", kind="value_error.number.not_gt"
            )
        return RerankRequest(
            query=expect(told.get("query"), str, *path, "query"),
            documents=tuple(
                items.decode(item, self.media, *path, "documents", index) for index, item in enumerate(documents)
            ),
            top_n=top_n,
        )

    def encode_response(self, request: RerankRequest, rows: Rows) -> bytes:
        share, rest = divmod(rows.tokens, len(rows))
        order = np.argsort(-rows.values, kind="stable")[: None if self.listed else request.top_n].tolist()
        results = []
        known: dict[str, Any]
        for index in order:
            document, known = request.documents[index], self._id(index, request.documents[index])
            results.append(
                {
                    **known,
                    "index": index,
                    "document": items.echo(document, self.media)
                    if self.listed
                    else {**known, **items.encode(document, self.media)},
                    "relevance_score": float(rows.values[index]),
                    "usage": {**known, "total_tokens": share + (index < rest)},
                }
            )
        known = self._id(-1, request.query)
        answer = {
            **known,
            "query_usage": {**known, "total_tokens": 0},
            "docs_usage": {**known, "total_tokens": rows.tokens},
            "results": results,
        }
        return orjson.dumps({"data": [answer], **({"header": None, "parameters": None} if self.listed else {})})

    def decode_response(self, request: RerankRequest, body: bytes) -> Rows:
        answer = parse(body)
        count = len(request.documents)
        scores = np.full(count, -np.inf, dtype=np.float32)
        try:
            found = _found(answer)
            results = found["results"]
            for result in results:
                index, score = result["index"], float(result["relevance_score"])
                if type(index) is not int or not 0 <= index < count:
                    raise ProtocolError(f"a score came for document {index!r} of {count}")
                if scores[index] != -np.inf or not math.isfinite(score):
                    raise ProtocolError(f"document {index} has two scores, or one that is not finite")
                scores[index] = score
            tokens = _tokens(found)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ProtocolError(f"the answer has not the shape of a reranker's: {error!r}") from None
        if len(results) < min(count, request.top_n or count):
            raise ProtocolError(f"{len(results)} scores came for {count} documents")
        return Rows(scores, tokens)

    def _id(self, index: int, item: Item) -> dict[str, Any]:
        return {} if self.listed else {"id": items.identity(index, item)}


def _found(answer: dict[str, Any]) -> dict[str, Any]:
    """The object that holds ``results``: the answer itself, or the one in its data, unless the data are the results."""
    if "results" in answer:
        return answer
    data = answer["data"]
    if any("relevance_score" in each for each in data):
        return {**answer, "results": data}
    (found,) = data
    return dict(found)


def _tokens(found: dict[str, Any]) -> int:
    """docs_usage is missing from v1 answers; the results then say theirs, one by one."""
    if usage := found.get("usage"):
        return int(usage["total_tokens"])
    query = int((found.get("query_usage") or {}).get("total_tokens") or 0)
    if documents := found.get("docs_usage"):
        return query + int(documents["total_tokens"])
    return query + sum(int((result.get("usage") or {}).get("total_tokens") or 0) for result in found["results"])


DIALECTS: Mapping[str, Reranker] = {
    "reranker-v2": Reranker(),
    "reranker-v3": Reranker(listwise=True),
    "reranker-m0": Reranker(media={"url": "image", "bytes": "image", "image": "image"}, listed=True),
}
