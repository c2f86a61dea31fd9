"""
SageMaker's runtime: a request to an endpoint, and what AWS makes of the container's answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from jina_sm.local import container
from jina_sm.local.container import BODY_LIMIT, Broken
from jina_sm.local.models import Rounds
from jina_sm.local.protocol import Reply
from jina_sm.local.state import Deployment, Region, State

STAND_IN = {"x-jina-sm-stand-in": "true"}


async def invoke(
    state: State,
    region: Region,
    name: str,
    headers: Mapping[str, str],
    body: bytes,
    rounds: Callable[[Deployment], Rounds],
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
        answer = await container.answer(model, headers.get("content-type", ""), body, rounds(endpoint.serving))
    except Broken as broken:
        return model_error(region, name, broken)
    told = {"x-Amzn-Invoked-Production-Variant": variant["VariantName"]}
    if attributes := headers.get("x-amzn-sagemaker-custom-attributes"):
        told["X-Amzn-SageMaker-Custom-Attributes"] = attributes
    return Reply(answer, 200, {**_headers(), **STAND_IN, **told})


def model_error(region: Region, endpoint: str, broken: Broken) -> Reply:
    """What SageMaker makes of a container's error."""
    # Status 0 is SageMaker's own: the container did not answer.
    detail = orjson.dumps({"detail": broken.detail}).decode() if broken.status else broken.detail
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
    return _error("ModelError", 424, said)


def _error(code: str, status: int, said: Mapping[str, Any]) -> Reply:
    return Reply(orjson.dumps(said), status, {**_headers(), **STAND_IN, "x-amzn-ErrorType": code})


def _headers() -> dict[str, str]:
    return {"Content-Type": "application/json", "x-amzn-RequestId": str(uuid.uuid4())}
