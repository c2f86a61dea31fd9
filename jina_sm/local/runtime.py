"""
SageMaker's runtime: a request to an endpoint, and what AWS makes of the container's answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from jina_sm import transport
from jina_sm.local import container, eventstream
from jina_sm.local.container import BODY_LIMIT, Broken
from jina_sm.local.models import Rounds
from jina_sm.local.protocol import Refusal, Reply, check, service
from jina_sm.local.state import Endpoint, Region, State

JSON = "application/json"
STAND_IN = {transport.STAND_IN: "true"}
_HEADER = "x-amzn-sagemaker-"


Asks = Callable[[Endpoint, str, bytes], Awaitable[bytes]]
"""Puts a body of some content type to an endpoint's container. Raises Broken."""


def unacceptable(region: Region, operation: str, name: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
    """What AWS answers to what it does not take, or what suits no such endpoint; None: it is fine."""
    shape = service("sagemaker-runtime").operation_model(operation).input_shape
    asked: dict[str, Any] = {"EndpointName": name, **({"Body": ""} if body else {})}
    for member, of in shape.members.items():
        if of.serialization.get("location") == "header" and (said := headers.get(of.serialization["name"].lower())):
            asked[member] = int(said) if of.type_name == "integer" and said.isdecimal() else said
    try:
        check(shape, asked)
    except Refusal as refusal:
        return error("ValidationError", 400, {"Message": refusal.message})
    for member in ("TargetModel", "TargetContainerHostname", "InferenceComponentName"):
        if member in asked:
            return error("ValidationError", 400, {"Message": f"Endpoint {name} takes no {member}."})
    endpoint, variant = region.endpoints.get(name), asked.get("TargetVariant")
    if endpoint and endpoint.serving and variant and not _variant(endpoint, headers):
        return error("ValidationError", 400, {"Message": f"Variant {variant} of endpoint {name} not found."})
    return None


def _variant(endpoint: Endpoint, headers: Mapping[str, str]) -> Mapping[str, Any]:
    """The variant that a request names, or the first: traffic is not shared out by weight. Empty: there is none."""
    assert endpoint.serving is not None
    wanted = headers.get(f"{_HEADER}target-variant")
    found = (each for each in endpoint.serving.params["ProductionVariants"] if wanted in (None, each["VariantName"]))
    return next(found, {})


async def ask(
    state: State,
    region: Region,
    endpoint: Endpoint,
    headers: Mapping[str, str],
    content_type: str,
    body: bytes,
    rounds: Rounds,
) -> bytes:
    """The answer of an endpoint's variant. Raises Broken."""
    assert endpoint.serving is not None
    package = endpoint.serving.packages.get(_variant(endpoint, headers).get("ModelName", ""))
    model = state.packaged(package, region.name) if package else None
    if model is None:
        raise Broken(500, "the local stack runs the catalogue's model packages, and this is none of them")
    return await container.answer(model, content_type, body, rounds)


async def invoke(region: Region, name: str, headers: Mapping[str, str], body: bytes, asks: Asks) -> Reply:
    """InvokeEndpoint. A body over the limit may come cut: it is refused by its length."""
    endpoint = _open(region, name, body)
    if isinstance(endpoint, Reply):
        return endpoint
    try:
        answer = await asks(endpoint, headers.get("content-type", ""), body)
    except Broken as broken:
        return model_error(region, name, broken)
    told = {**_told(endpoint, headers), "Content-Type": _content_type(answer)}
    return Reply(answer, 200, {**headers_of(), **STAND_IN, **told})


async def stream(region: Region, name: str, headers: Mapping[str, str], body: bytes, asks: Asks) -> Reply:
    """InvokeEndpointWithResponseStream. A model that takes too long is told of in the stream, which has begun."""
    endpoint = _open(region, name, body)
    if isinstance(endpoint, Reply):
        return endpoint
    kind = JSON
    try:
        answer = await asks(endpoint, headers.get("content-type", ""), body)
        kind = _content_type(answer)
        frames = b"".join(eventstream.parts(answer, eventstream.PART if kind == JSON else eventstream.PIECE))
    except Broken as broken:
        if broken.status:
            return model_error(region, name, broken)
        said = {"Message": str(broken.body), "ErrorCode": "ModelInvocationTimeExceeded"}
        frames = eventstream.exception("ModelStreamError", orjson.dumps(said))
    told = {"Content-Type": eventstream.CONTENT_TYPE, "X-Amzn-SageMaker-Content-Type": kind}
    return Reply(frames, 200, {**headers_of(), **STAND_IN, **_told(endpoint, headers), **told})


def serving(region: Region, name: str) -> Endpoint | Reply:
    """The endpoint, or what AWS answers where none serves."""
    endpoint = region.endpoints.get(name)
    if endpoint is None or endpoint.serving is None or endpoint.doing == "Deleting":
        message = f"Endpoint {name} of account {region.account} not found."
        # The runtime spells the word with a capital, and its errors carry a code of their own.
        return error("ValidationError", 400, {"ErrorCode": "NO_SUCH_ENDPOINT", "Message": message})
    return endpoint


def _open(region: Region, name: str, body: bytes) -> Endpoint | Reply:
    """The endpoint, if it answers at once and takes such a body."""
    if len(body) > BODY_LIMIT:
        said = {"message": f"a body has at most {BODY_LIMIT} bytes"}
        return Reply(orjson.dumps(said), 413, {**headers_of(), **STAND_IN})
    endpoint = serving(region, name)
    if isinstance(endpoint, Endpoint) and endpoint.serving and "AsyncInferenceConfig" in endpoint.serving.params:
        return error("ValidationError", 400, {"Message": f"Endpoint {name} can be invoked only asynchronously."})
    return endpoint


def _content_type(answer: bytes) -> str:
    """The container's: a reader answers in server-sent events if it is asked to."""
    return "text/event-stream; charset=utf-8" if answer.startswith(b"data: ") else JSON


def _told(endpoint: Endpoint, headers: Mapping[str, str]) -> dict[str, str]:
    told = {"x-Amzn-Invoked-Production-Variant": str(_variant(endpoint, headers)["VariantName"])}
    if attributes := headers.get("x-amzn-sagemaker-custom-attributes"):
        told["X-Amzn-SageMaker-Custom-Attributes"] = attributes
    return told


def model_error(region: Region, endpoint: str, broken: Broken) -> Reply:
    """What SageMaker makes of a container's error."""
    # Status 0 is SageMaker's own: the container did not answer.
    detail = orjson.dumps(broken.body).decode() if broken.status else str(broken.body)
    side = "client" if 400 <= broken.status < 500 else "server"
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
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
    return error("ModelError", 424, said)


def error(code: str, status: int, said: Mapping[str, Any]) -> Reply:
    return Reply(orjson.dumps(said), status, {**headers_of(), **STAND_IN, "x-amzn-ErrorType": code})


def headers_of() -> dict[str, str]:
    return {"Content-Type": JSON, "x-amzn-RequestId": str(uuid.uuid4())}
