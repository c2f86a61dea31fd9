"""
SageMaker's runtime: a request to an endpoint, the container behind it, and what AWS makes of the container's answer.

The container speaks the model's own dialect and refuses as Jina's does: 400 for a content type other than exactly
``application/json``, 422 for a body of the wrong shape, 500 for nearly everything else.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from jina_sm import wire
from jina_sm.catalog import Model
from jina_sm.errors import InputError
from jina_sm.local.models import FullError, Rounds, fitted, relevance
from jina_sm.local.protocol import Reply
from jina_sm.local.state import Endpoint, Region, State
from jina_sm.values import EmbedRequest, RerankRequest, Rows

BODY_LIMIT = 6_291_456
"""Bytes in a body, either way."""
STAND_IN = {"x-jina-sm-stand-in": "true"}


class Broken(Exception):
    """What the container answers instead of vectors."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


async def invoke(
    state: State, region: Region, name: str, headers: Mapping[str, str], body: bytes, rounds: Rounds
) -> Reply:
    """InvokeEndpoint; the first variant answers. A body over the limit may come cut: it is refused by its length."""
    if len(body) > BODY_LIMIT:
        return Reply(
            orjson.dumps({"message": f"a body has at most {BODY_LIMIT} bytes"}), 413, {**_headers(), **STAND_IN}
        )
    endpoint = region.endpoints.get(name)
    if endpoint is None or endpoint.serving is None or endpoint.doing == "Deleting":
        message = f"Endpoint {name} of account {region.account} not found."
        # The runtime spells the word with a capital, and its errors carry a code of their own.
        return _error("ValidationError", 400, {"ErrorCode": "NO_SUCH_ENDPOINT", "Message": message})
    variant = endpoint.serving.params["ProductionVariants"][0]
    try:
        package = endpoint.serving.packages.get(variant.get("ModelName", ""))
        model = state.packaged(package, region.name) if package else None
        if model is None:
            raise Broken(500, "the local stack runs the catalogue's model packages, and this is none of them")
        answer = await _contained(model, headers.get("content-type", ""), body, rounds)
    except Broken as broken:
        return _model_error(region, endpoint, broken)
    told = {"x-Amzn-Invoked-Production-Variant": variant["VariantName"]}
    if attributes := headers.get("x-amzn-sagemaker-custom-attributes"):
        told["X-Amzn-SageMaker-Custom-Attributes"] = attributes
    return Reply(answer, 200, {**_headers(), **STAND_IN, **told})


async def _contained(model: Model, content_type: str, body: bytes, rounds: Rounds) -> bytes:
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
    answer = await asyncio.to_thread(dialect.encode_response, asked, Rows(values, counted))
    if len(answer) > BODY_LIMIT:
        raise Broken(413, f"the answer has {len(answer)} bytes, and the service takes {BODY_LIMIT}")
    return answer


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


def _model_error(region: Region, endpoint: Endpoint, broken: Broken) -> Reply:
    detail = orjson.dumps({"detail": broken.detail}).decode()
    side = "client" if 400 <= broken.status < 500 else "server"
    group = f"/aws/sagemaker/Endpoints/{endpoint.name}"
    console = f"https://{region.name}.console.aws.amazon.com/cloudwatch/home?region={region.name}"
    message = (
        f'Received {side} error ({broken.status}) from primary with message "{detail}". '
        f"See {console}#logEventViewer:group={group} in account {region.account} for more information."
    )
    said = {
        "ErrorCode": f"{side.upper()}_ERROR_FROM_MODEL",
        "LogStreamArn": f"arn:aws:logs:{region.name}:{region.account}:log-group:{group}",
        "OriginalMessage": detail,
        "OriginalStatusCode": broken.status,
        "Message": message,
    }
    return _error("ModelError", 424, said)


def _error(code: str, status: int, said: Mapping[str, Any]) -> Reply:
    return Reply(orjson.dumps(said), status, {**_headers(), **STAND_IN, "x-amzn-ErrorType": code})


def _headers() -> dict[str, str]:
    return {"Content-Type": "application/json", "x-amzn-RequestId": str(uuid.uuid4())}
