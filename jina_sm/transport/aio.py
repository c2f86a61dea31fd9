"""
The same two places for one event loop, over aiohttp: a server, and a SageMaker endpoint.

What an answer means is read by the tables of ``http`` and ``sagemaker``, so both ways raise the same errors. SageMaker
is asked with botocore's own credentials, signature, addresses and parser; a thread is taken where those may block: to
begin with, and when credentials are refreshed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import urllib.parse
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jina_sm import errors
from jina_sm.errors import MissingExtraError
from jina_sm.transport import Request, Response, http, sagemaker
from jina_sm.transport.session import client, session, translated

if TYPE_CHECKING:
    import aiohttp


class AsyncHttpTransport:
    """One server. The connections are made when first needed, and belong to the loop that was running then."""

    def __init__(
        self,
        base_url: str,
        *,
        wire: str = "api",
        api_key: str | None = None,
        region: str | None = None,
        connections: int = 10,
        read_timeout_s: float = http.READ_TIMEOUT_S,
    ) -> None:
        self.server = http.Server(base_url, wire, api_key, region, read_timeout_s)
        self._pool = _Pool(self.server.name, self.server.facts, connections, read_timeout_s)

    def __repr__(self) -> str:
        return f"AsyncHttpTransport({self.server.base_url!r})"

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def region(self) -> str | None:
        return self.server.region

    @property
    def wire(self) -> str:
        return self.server.wire

    async def instances(self) -> None:
        """Nobody tells."""

    async def send(self, request: Request) -> Response:
        url = self.server.base_url + request.path
        return self.server.answered(*await self._pool.post(url, self.server.headers(request), request.body))

    async def close(self) -> None:
        await self._pool.close()


class AsyncSageMakerTransport:
    """One endpoint in one region. AWS's settings are read at the first request, in a thread."""

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
        facts = {"target": endpoint_name, "region": region}
        self._pool = _Pool("AWS", facts, connections, sagemaker.READ_TIMEOUT_S)
        self._known: _Service | None = None
        self._learning = asyncio.Lock()
        self._asks = sagemaker.SageMakerTransport(endpoint_name, region, aws=aws, url=url)

    @property
    def name(self) -> str:
        return self.endpoint_name

    @property
    def wire(self) -> str:
        return "container"

    async def instances(self) -> int | None:
        """As SageMakerTransport.instances, which is asked in a thread."""
        return await asyncio.to_thread(self._asks.instances)

    async def send(self, request: Request) -> Response:
        with translated(region=self.region, target=self.endpoint_name, unreachable=errors.ModelUnavailableError):
            service = await self._service()
            url = f"{service.url}/endpoints/{urllib.parse.quote(self.endpoint_name, safe='')}/invocations"
            headers = await service.signed(url, request)
        status, told, body = await self._pool.post(url, headers, request.body)
        if status >= 300:
            raise sagemaker.meaning(service.refusal(status, told, body), target=self.endpoint_name, region=self.region)
        return Response(body, told.get("x-amzn-requestid"), told)

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """As ``SageMakerTransport.stream``: the answer's bytes as they come."""
        import aiohttp
        from botocore.eventstream import ParserError

        where: dict[str, Any] = {"target": self.endpoint_name, "region": self.region}
        with translated(**where, unreachable=errors.ModelUnavailableError):
            service = await self._service()
            path = f"/endpoints/{urllib.parse.quote(self.endpoint_name, safe='')}/invocations-response-stream"
            headers = await service.signed(service.url + path, request, accept="X-Amzn-SageMaker-Accept")
        async with self._pool.asked(service.url + path, headers, request.body) as answer:
            if answer.status >= 300:
                told = service.refusal(answer.status, lowered(answer.headers), await answer.read())
                raise sagemaker.meaning(told, **where)
            events = service.events()
            try:
                async for chunk in answer.content.iter_any():
                    for event in events(chunk):
                        if "Error" in event:
                            raise sagemaker.meaning(event, **where)
                        yield event.get("PayloadPart", {}).get("Bytes", b"")
            except (aiohttp.ClientPayloadError, ParserError) as error:
                raise errors.ModelUnavailableError(f"the stream broke off: {error}", **where) from error

    async def close(self) -> None:
        await self._pool.close()

    async def _service(self) -> _Service:
        async with self._learning:
            if self._known is None:
                self._known = await asyncio.to_thread(self._learn)
                self._pool.bundle = self._known.bundle
            return self._known

    def _learn(self) -> _Service:
        """What boto3 makes of all its settings: the address, whose keys, and how to sign."""
        import botocore.exceptions

        aws = self._aws or session()
        with contextlib.closing(client(aws, "sagemaker-runtime", self.region, url=self._url)) as made:
            meta = made.meta
        credentials = aws.get_credentials()
        if credentials is None:
            raise botocore.exceptions.NoCredentialsError
        # boto3 has no public word for a profile's ca_bundle.
        bundle = aws._session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        return _Service(meta.endpoint_url.rstrip("/"), meta.region_name, meta.service_model, credentials, bundle)


class _Service:
    """SageMaker's runtime as botocore knows it: its address, its signature and its errors."""

    def __init__(self, url: str, region: str, model: Any, credentials: Any, bundle: str | None) -> None:
        self.url = url
        self.bundle = bundle
        self._region = region
        self._model = model
        self._credentials = credentials
        self._refreshing: asyncio.Task[Any] | None = None

    async def signed(self, url: str, request: Request, accept: str = "Accept") -> dict[str, str]:
        """The request's headers, with a signature. ``accept``: how the operation calls that one."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        headers = {"Content-Type": request.content_type, accept: request.accept}
        unsigned = AWSRequest("POST", url, data=request.body, headers=headers)
        SigV4Auth(await self._keys(), self._model.signing_name, self._region).add_auth(unsigned)
        return {**unsigned.headers, "Accept-Encoding": "identity", "User-Agent": http.USER_AGENT}

    async def _keys(self) -> Any:
        """The credentials as they are now. One thread refreshes them, for all who wait."""
        needed = getattr(self._credentials, "refresh_needed", None)
        if needed is None or not needed():
            return self._credentials.get_frozen_credentials()
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(asyncio.to_thread(self._credentials.get_frozen_credentials))
        return await asyncio.shield(self._refreshing)  # who leaves does not end it for the others

    def events(self) -> Callable[[bytes], Iterator[dict[str, Any]]]:
        """A reader of event streams: fed bytes, it gives the events that are whole, an error as a ClientError's."""
        from botocore.eventstream import EventStreamBuffer
        from botocore.parsers import EventStreamJSONParser

        shape = self._model.operation_model("InvokeEndpointWithResponseStream").output_shape.members["Body"]
        buffer, parser = EventStreamBuffer(), EventStreamJSONParser()

        def read(chunk: bytes) -> Iterator[dict[str, Any]]:
            buffer.add_data(chunk)
            for message in buffer:
                yield parser.parse(message.to_response_dict(), shape)

        return read

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """An answer other than 200, as the ``response`` of botocore's ClientError."""
        from botocore.awsrequest import HeadersDict
        from botocore.parsers import create_parser

        said = {"status_code": status, "headers": HeadersDict(headers), "body": body}
        parser = create_parser(self._model.resolved_protocol)
        read: dict[str, Any] = parser.parse(said, self._model.operation_model("InvokeEndpoint").output_shape)
        shape = self._model.shape_for_error_code(read.get("Error", {}).get("Code", ""))
        return read | (parser.parse(said, shape) if shape else {})


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): said for name, said in headers.items()}


@dataclass
class _Pool:
    """Connections of one event loop, made when first needed. ``who`` is not there when they fail."""

    who: str
    facts: Mapping[str, Any]
    connections: int
    read_timeout_s: float
    bundle: str | None = None

    def __post_init__(self) -> None:
        if importlib.util.find_spec("aiohttp") is None:
            raise MissingExtraError("the asynchronous client", "async")
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None
        self._opening = asyncio.Lock()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case names, and body. Raises ModelTimeoutError or ModelUnavailableError."""
        async with self.asked(url, headers, body) as answer:
            return answer.status, lowered(answer.headers), await answer.read()

    @contextlib.asynccontextmanager
    async def asked(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """The answer as soon as it begins; what breaks while it is read is told apart as in ``post``."""
        import aiohttp
        from yarl import URL

        session = await self._open(url)
        try:
            async with session.post(
                URL(url, encoded=True),  # as it was signed
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
            ) as answer:
                yield answer
        except aiohttp.SocketTimeoutError as error:
            raise http.unanswered(self.read_timeout_s, **self.facts) from error
        except aiohttp.ClientSSLError as error:
            raise http.untrusted(self.who, error, **self.facts) from error
        except (aiohttp.ClientError, OSError) as error:
            raise http.unreachable(self.who, error, **self.facts) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _open(self, url: str) -> aiohttp.ClientSession:
        import aiohttp

        async with self._opening:
            if self._session is None:
                # aiohttp's own way to find a proxy also takes a .netrc's password for the server, in place of ours.
                self._proxy = http.proxy_of(url)
                secure = url.startswith("https:")
                context = await asyncio.to_thread(http.trust, self.bundle) if secure else True
                limits = aiohttp.ClientTimeout(
                    total=None, sock_connect=http.CONNECT_TIMEOUT_S, sock_read=self.read_timeout_s
                )
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=self.connections, ssl=context),
                    timeout=limits,
                    cookie_jar=aiohttp.DummyCookieJar(),
                )
            return self._session
