"""
The dialect of jina-embeddings-v3: ``{"data": [{"text"}], "parameters": {...}}``.

Rows carry no index; their order is the request's. The container echoes the parameters with numbers as floats.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import orjson

from jina_sm.errors import ProtocolError
from jina_sm.values import EmbedRequest, Rows
from jina_sm.wire import Unacceptable, parse, parse_request, text_in


def encode_request(request: EmbedRequest) -> bytes:
    parameters: dict[str, Any] = {}
    if request.task is not None:
        parameters["task"] = request.task
    if request.dimensions is not None:
        parameters["dimensions"] = request.dimensions
    if request.late_chunking:
        parameters["late_chunking"] = True
    return orjson.dumps({"data": [{"text": text} for text in request.texts], "parameters": parameters})


def decode_request(body: bytes) -> EmbedRequest:
    asked = parse_request(body)
    if "data" not in asked:
        raise Unacceptable("data", message="field required", kind="value_error.missing")
    items = asked["data"] if isinstance(asked["data"], list) else [asked["data"]]
    if not items:
        raise Unacceptable("data", message="ensure this value has at least 1 items", kind="value_error.list.min_items")
    parameters = asked.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise Unacceptable("parameters", message="value is not a valid dict", kind="type_error.dict")
    dimensions = parameters.get("dimensions")
    if dimensions is not None:
        if not isinstance(dimensions, int | float) or isinstance(dimensions, bool) or dimensions != int(dimensions):
            raise Unacceptable(
                "parameters", "dimensions", message="value is not a valid integer", kind="type_error.integer"
            )
        dimensions = int(dimensions)
    task = parameters.get("task")
    if task is not None and not isinstance(task, str):
        raise Unacceptable("parameters", "task", message="str type expected", kind="type_error.str")
    return EmbedRequest(
        texts=tuple(text_in(item, "data", index) for index, item in enumerate(items)),
        task=task,
        dimensions=dimensions,
        late_chunking=bool(parameters.get("late_chunking")),
    )


def encode_response(request: EmbedRequest, rows: Rows) -> bytes:
    # Tokens are said a row on the wire and summed by the client, so how they are shared out does not matter.
    share, rest = divmod(rows.tokens, len(rows))
    data = []
    for index, (text, vector) in enumerate(zip(request.texts, rows.values, strict=True)):
        name = _id(index, text)
        usage = {"id": name, "total_tokens": share + (index < rest)}
        data.append({"id": name, "embedding": vector, "usage": usage})
    echo: dict[str, Any] = {"task": request.task, "late_chunking": request.late_chunking}
    if request.dimensions is not None:
        echo["dimensions"] = float(request.dimensions)
    return orjson.dumps({"data": data, "parameters": echo}, option=orjson.OPT_SERIALIZE_NUMPY)


def decode_response(request: EmbedRequest, body: bytes) -> Rows:
    answer = parse(body)
    try:
        data = answer["data"]
        vectors = np.array([row["embedding"] for row in data], dtype=np.float32)
        tokens = sum(int(usage["total_tokens"]) for row in data if (usage := row.get("usage")))
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the answer has not the shape of an embedding's: {error!r}") from None
    if len(vectors) != len(request.texts):
        raise ProtocolError(f"{len(vectors)} vectors came for {len(request.texts)} texts")
    if vectors.ndim != 2 or (request.dimensions is not None and vectors.shape[1] != request.dimensions):
        raise ProtocolError(f"vectors of shape {vectors.shape} came where {request.dimensions} dimensions were asked")
    if not np.isfinite(vectors).all():
        raise ProtocolError("a vector is not finite")
    return Rows(vectors, tokens)


def _id(index: int, text: str) -> str:
    return hashlib.md5(f"{index} {text}".encode(), usedforsecurity=False).hexdigest()
