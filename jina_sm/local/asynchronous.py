"""
InvokeEndpointAsync: the answer is 202 and where the result will be; the result goes to the stack's own S3.

What is wrong with the request itself is refused at once; what goes wrong later is written where failures go.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from jina_sm.local.behind import Behind
from jina_sm.local.container import Broken
from jina_sm.local.protocol import Reply
from jina_sm.local.runtime import STAND_IN, error, headers_of, model_error, serving
from jina_sm.local.state import Endpoint, Region

_log = logging.getLogger(__name__)
INLINE_LIMIT = 128_000
"""Bytes in a body that is sent with the request."""
_HEADER = "x-amzn-sagemaker-"


class Asynchronous:
    """What is still being worked on."""

    def __init__(self, behind: Behind) -> None:
        self._behind = behind
        self._running: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        for task in self._running:
            task.cancel()

    async def invoke(
        self,
        region: Region,
        name: str,
        headers: Mapping[str, str],
        body: bytes,
        answered: Callable[[Endpoint, str, bytes], Awaitable[bytes]],
    ) -> Reply:
        """``answered`` asks the container."""
        endpoint = serving(region, name)
        if isinstance(endpoint, Reply):
            return endpoint
        source = headers.get(f"{_HEADER}inputlocation")
        assert endpoint.serving is not None
        wanted = endpoint.serving.params.get("AsyncInferenceConfig")
        if wanted is None:
            return _invalid(f"Endpoint {name} has no AsyncInferenceConfig and cannot be invoked asynchronously.")
        if bool(source) == bool(body):
            return _invalid("Exactly one of InputLocation and Body must be given.")
        if len(body) > INLINE_LIMIT:
            return _invalid(f"Body has {len(body)} bytes, and an inline body has at most {INLINE_LIMIT}.")
        inference = headers.get(f"{_HEADER}inference-id") or str(uuid.uuid4())
        result, failure = await self._places(region, wanted["OutputConfig"], headers)

        async def work() -> None:
            try:
                sent = await asyncio.to_thread(self._behind.read, region.account, source) if source else body
                if sent is None:
                    raise Broken(500, f"there is no object {source}")
                said = await answered(endpoint, headers.get(f"{_HEADER}content-type", ""), sent)
                place = result
            except Broken as broken:
                said, place = model_error(region, name, broken).body, failure
            if not await asyncio.to_thread(self._behind.write, region.account, place, said):
                _log.warning("an answer of %s is lost: it could not be written to %s", name, place)

        task = asyncio.create_task(work())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        told = {"X-Amzn-SageMaker-OutputLocation": result, "X-Amzn-SageMaker-FailureLocation": failure}
        return Reply(orjson.dumps({"InferenceId": inference}), 202, {**headers_of(), **STAND_IN, **told})

    async def _places(self, region: Region, config: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[str, str]:
        """Where the result goes, and where a failure."""
        bucket = f"sagemaker-{region.name}-{region.account}"
        if "S3OutputPath" not in config:  # then it is the account's default bucket
            await asyncio.to_thread(self._behind.make_bucket, region.account, bucket)
        output = config.get("S3OutputPath", f"s3://{bucket}/async-endpoint-outputs").rstrip("/")
        failures = config.get("S3FailurePath", output).rstrip("/")
        if extension := headers.get(f"{_HEADER}s3outputpathextension"):
            output, failures = f"{output}/{extension.strip('/')}", f"{failures}/{extension.strip('/')}"
        stem = headers.get(f"{_HEADER}filename") or str(uuid.uuid4())
        return f"{output}/{stem}.out", f"{failures}/{stem}-error.out"


def _invalid(message: str) -> Reply:
    return error("ValidationError", 400, {"Message": message})
