"""
Jina's hosted API beside AWS on the same port, with the stand-in inside.

Any key is accepted, and none is not. There is no rate limit and no balance; faults on request reach the operations
JinaEmbeddings, JinaMultiVector and JinaRerank, which are in no region.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from jina_sm import wire
from jina_sm.catalog import Catalog, Model
from jina_sm.errors import InputError
from jina_sm.local import container
from jina_sm.local.acting import Stage
from jina_sm.local.container import Broken, modern
from jina_sm.local.models import Rounds
from jina_sm.local.protocol import Receive, Refusal, Reply, Send
from jina_sm.local.runtime import STAND_IN

OPERATIONS: Mapping[str, str] = {
    "/v1/embeddings": "JinaEmbeddings",
    "/v1/multi-vector": "JinaMultiVector",
    "/v1/rerank": "JinaRerank",
}


async def answer(
    catalog: Catalog,
    rounds: Rounds,
    stage: Stage,
    scope: Mapping[str, Any],
    body: bytes,
    receive: Receive,
    send: Send,
) -> Reply:
    """The API's answer to a POST, through whatever faults it meets. A body over the limit may come cut."""
    path, headers = scope["path"], {name.lower(): value for name, value in scope["headers"]}
    if not headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip():
        return _reply(modern(401, "an API key is needed, as the header Authorization: Bearer KEY"))
    firing = stage.faults.firing(OPERATIONS[path], "")
    match await stage.before(firing, "sagemaker-runtime", receive, send):  # whose errors are the most like
        case Refusal() as refusal:
            throttled = refusal.code == "ThrottlingException"  # which AWS says as 400
            return _reply(modern(429 if throttled else refusal.status, refusal.message))
        case Reply() as reply:
            return reply
    try:
        if len(body) > container.BODY_LIMIT:
            raise modern(413, f"a body has at most {container.BODY_LIMIT} bytes")
        told = await container.answer(_asked(catalog, path, body), "application/json", body, rounds, via="api")
        reply = Reply(told, 200, _headers())
    except Broken as broken:
        reply = _reply(broken)
    return await stage.after(firing, reply, receive, send)


def _asked(catalog: Catalog, path: str, body: bytes) -> Model:
    """The model that the body names, with unit vectors, as ``normalized`` is by default. Raises Broken."""
    try:
        model = catalog.model(wire.expect(wire.parse_request(body).get("model"), str, "model"))
        if wire.dialect(model, wire="api").path != path:
            raise InputError(f"{model.key} is not asked at {path}")
    except wire.Unacceptable as error:
        raise modern(422, str(error), error.detail) from None
    except InputError as error:
        detail = {"loc": ("body", "model"), "msg": error.message, "type": "value_error"}
        raise modern(422, error.message, [detail]) from None
    return dataclasses.replace(model, normalized=True)


def _reply(broken: Broken) -> Reply:
    return Reply(orjson.dumps(broken.body), broken.status, _headers())


def _headers() -> dict[str, str]:
    return {"Content-Type": "application/json", "x-request-id": uuid.uuid4().hex, **STAND_IN}
