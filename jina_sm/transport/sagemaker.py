"""
A SageMaker endpoint, by boto3's ``invoke_endpoint``.

The service gives a model 60 s; our own read timeout is longer, so that its answer arrives first.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from jina_sm import errors
from jina_sm.transport import Request, Response
from jina_sm.transport.session import auth_error, client, session, translated

_log = logging.getLogger(__name__)
READ_TIMEOUT_S = 70

# By code, never by status: a throttle arrives as 400, and a model that is loading as 429.
MEANINGS: Mapping[str, type[errors.InvocationError]] = {
    "ValidationError": errors.BadRequestError,
    "ValidationException": errors.BadRequestError,
    "ThrottlingException": errors.ThrottledError,
    "Throttling": errors.ThrottledError,
    "TooManyRequestsException": errors.ThrottledError,
    "429": errors.ThrottledError,
    "413": errors.PayloadTooLargeError,
    "RequestEntityTooLarge": errors.PayloadTooLargeError,
    "ModelStreamError": errors.ModelUnavailableError,  # the model's connection broke, or see ``meaning``
    "InternalStreamFailure": errors.ModelUnavailableError,
    "ModelNotReadyException": errors.ModelUnavailableError,
    "ServiceUnavailable": errors.ModelUnavailableError,
    "InternalFailure": errors.ModelUnavailableError,
    "InternalDependencyException": errors.ModelUnavailableError,
    "408": errors.ModelUnavailableError,
    "500": errors.ModelUnavailableError,
    "502": errors.ModelUnavailableError,
    "503": errors.ModelUnavailableError,
    "504": errors.ModelUnavailableError,
}
# What the container answered, behind AWS's ModelError.
CONTAINER: Mapping[int, type[errors.InvocationError]] = {
    0: errors.ModelTimeoutError,
    408: errors.ModelTimeoutError,
    413: errors.PayloadTooLargeError,
    429: errors.ThrottledError,
    500: errors.ModelFailedError,
    502: errors.ModelUnavailableError,
    503: errors.ModelUnavailableError,
    504: errors.ModelUnavailableError,
}
_LOGS = re.compile(r"https://\S*console\.aws\.amazon\.com\S*")


class SageMakerTransport:
    """One endpoint in one region. The boto3 client is made at the first request and then shared by all threads."""

    def __init__(
        self,
        endpoint_name: str,
        region: str,
        *,
        aws: Any = None,
        url: str | None = None,
        connections: int = 10,
    ) -> None:
        self.endpoint_name = endpoint_name
        self.region = region
        self._aws = aws
        self._url = url
        self._connections = connections
        self._client: Any = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.endpoint_name

    @property
    def wire(self) -> str:
        return "container"

    def instances(self) -> int | None:
        """Of all variants, as DescribeEndpoint says; None where the caller may not ask."""
        try:
            self._aws = self._aws or session()  # kept: it has read the service's description when it is asked again
            with contextlib.closing(client(self._aws, "sagemaker", self.region, url=self._url)) as aws:
                told = aws.describe_endpoint(EndpointName=self.endpoint_name)
            return sum(each.get("CurrentInstanceCount", 0) for each in told["ProductionVariants"]) or None
        except Exception as error:  # nobody's call fails because a helpful question did
            _log.info("how many instances %s in %s has is not known: %s", self.endpoint_name, self.region, error)
            return None

    def send(self, request: Request) -> Response:
        with self._translated():
            answer = self._runtime().invoke_endpoint(**self._asked(request))
            body = answer["Body"].read()
        meta = answer["ResponseMetadata"]
        return Response(body, meta.get("RequestId"), meta.get("HTTPHeaders", {}))

    def stream(self, request: Request) -> Generator[bytes, None, None]:
        """The answer's bytes as they come, in parts whose ends mean nothing. Raises as ``send`` does, at any part.

        It is asked at the first part, and the connection is closed when the iterator is.
        """
        with self._translated():
            answer = self._runtime().invoke_endpoint_with_response_stream(**self._asked(request))
            with contextlib.closing(answer["Body"]) as events:
                for event in events:
                    yield event.get("PayloadPart", {}).get("Bytes", b"")

    def _asked(self, request: Request) -> dict[str, Any]:
        return {
            "EndpointName": self.endpoint_name,
            "Body": request.body,
            "ContentType": request.content_type,
            "Accept": request.accept,
        }

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import botocore.eventstream
        import botocore.exceptions as boto
        import urllib3.exceptions

        where: dict[str, Any] = {"target": self.endpoint_name, "region": self.region}
        with translated(**where, unreachable=errors.ModelUnavailableError):
            try:
                yield
            except boto.ClientError as error:
                raise meaning(error.response, **where) from None
            except (boto.ReadTimeoutError, urllib3.exceptions.ReadTimeoutError) as error:
                raise errors.ModelTimeoutError(f"no answer within {READ_TIMEOUT_S} s", **where) from error
            # A stream is read past botocore, which would have translated these.
            except (urllib3.exceptions.HTTPError, botocore.eventstream.ParserError) as error:
                raise errors.ModelUnavailableError(f"the stream broke off: {error}", **where) from error

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _runtime(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = client(
                    self._aws or session(),
                    "sagemaker-runtime",
                    self.region,
                    url=self._url,
                    read_timeout=READ_TIMEOUT_S,
                    retries={"mode": "standard", "total_max_attempts": 1},  # one retry loop, ours
                    max_pool_connections=self._connections,
                    tcp_keepalive=True,
                )
            return self._client


def meaning(answer: Mapping[str, Any], *, target: str, region: str) -> errors.JinaSMError:
    """A ClientError's response as one of our errors."""
    code, said = answer["Error"].get("Code", ""), answer["Error"].get("Message") or "no reason given"
    meta = answer.get("ResponseMetadata", {})
    if refused := auth_error(code, said, region=region, target=target):
        return refused
    facts: dict[str, Any] = {"code": code, "target": target, "region": region, "request_id": meta.get("RequestId")}
    if code == "ModelError":
        status = answer.get("OriginalStatusCode", 0)
        kind = CONTAINER.get(status, errors.ModelUnavailableError if status > 500 else errors.BadRequestError)
        logs = _LOGS.search(answer.get("Message") or said)
        facts |= {"status": status or None, "log_link": logs.group() if logs else None}
        return kind(_container_said(status, answer.get("OriginalMessage") or said), **facts)
    if "not found" in said and code in ("ValidationError", "ValidationException"):
        cure = "`jina-sm status` shows what is deployed, `jina-sm deploy` makes it."
        return errors.EndpointNotFoundError(said.rstrip("."), cure=cure, **facts)
    if code == "ModelStreamError" and "timed out" in said:
        return errors.ModelTimeoutError(f"the model did not finish in time: {said}".rstrip("."), **facts)
    status = meta.get("HTTPStatusCode")
    kind = MEANINGS.get(code) or (errors.BadRequestError if (status or 500) < 500 else errors.ModelUnavailableError)
    wait = (meta.get("HTTPHeaders") or {}).get("retry-after", "")
    retry_after_s = float(wait) if wait.isdigit() else None
    return kind(f"{code}: {said}".rstrip("."), status=status, retry_after_s=retry_after_s, **facts)


def _container_said(status: int, message: str) -> str:
    if status == 0:
        return "the model did not answer within 60 s"
    return f"the model's container answered: {message[:500]}"
