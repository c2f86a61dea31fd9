"""What a reader writes, as it writes it: over HTTP, by boto3, from the local stack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Generator, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import boto3
import pytest

from jina_sm import errors, wire
from jina_sm.local import eventstream
from jina_sm.transport import Request, Response
from jina_sm.transport.aio import AsyncSageMakerTransport
from jina_sm.transport.sagemaker import SageMakerTransport
from jina_sm.values import ReadRequest
from tests.conftest import Served
from tests.integration.test_local_profile import paced

__all__ = ["paced"]
READER = "ReaderLM-v2"
PAGE = "<h1>Bicycles</h1><p>" + "A bicycle is a vehicle with two wheels. " * 8 + "</p>"
ASKED = ReadRequest(html=PAGE, stream=True)
LOCAL = boto3.Session("local", "local", region_name="us-east-1")


class InTurns:
    """The transport of an event loop, asked as the one of threads is."""

    def __init__(self, name: str, region: str, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._transport = self._do(self._made(name, region, settings))

    async def _made(self, name: str, region: str, settings: dict[str, Any]) -> AsyncSageMakerTransport:
        return AsyncSageMakerTransport(name, region, **settings)

    def _do(self, act: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(act)

    def stream(self, request: Request) -> Generator[bytes, None, None]:
        coming = self._transport.stream(request)
        try:
            while True:
                try:
                    yield self._do(anext(coming))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            self._do(coming.aclose())

    def send(self, request: Request) -> Response:
        response: Response = self._do(self._transport.send(request))
        return response

    def close(self) -> None:
        self._do(self._transport.close())
        self._do(self._loop.shutdown_default_executor())
        self._loop.close()


@pytest.fixture(params=[SageMakerTransport, InTurns], ids=["threads", "event loop"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def transport(stack: Served, kind: Any) -> Iterator[Any]:
    stack.deploy(READER)
    made = kind("e", "us-east-1", aws=LOCAL, url=stack.url)
    yield made
    made.close()


def asked(stack: Served, request: ReadRequest = ASKED) -> Request:
    return Request(wire.dialect(stack.stack.state.catalog.model(READER)).encode_request(request))


def test_a_page_is_read_piece_by_piece(stack: Served, transport: Any) -> None:
    dialect = wire.dialect(stack.stack.state.catalog.model(READER))
    reading = dialect.reading(ASKED)  # type: ignore[attr-defined]
    told = [reading.feed(part) for part in transport.stream(asked(stack))]
    told.append(reading.end())
    plain = ReadRequest(html=PAGE)
    whole = dialect.decode_response(plain, transport.send(Request(dialect.encode_request(plain))).body)
    assert ("".join(told), reading.finish_reason) == (whole.text, "stop")
    assert sum(map(bool, told)) > 5
    assert whole.text.startswith("Bicycles\n====")


def test_a_stream_is_asked_for_and_had_in_one_body_too(stack: Served, transport: Any) -> None:
    said = transport.send(asked(stack))
    lines = [line for line in said.body.split(b"\n") if line]
    assert said.headers["content-type"].startswith("text/event-stream")
    assert len(lines) > 5
    assert all("text" in json.loads(line.removeprefix(b"data: "))["choices"][0] for line in lines[:-1])
    assert lines[-1] == b"data: [DONE]"
    streamed = stack.aws("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName="e", Body=asked(stack).body, ContentType="application/json"
    )
    assert streamed["ContentType"].startswith("text/event-stream")
    parts = [event["PayloadPart"]["Bytes"] for event in streamed["Body"]]
    assert len(parts) > 5
    assert b"".join(parts) == said.body


def test_a_stream_that_is_refused_is_an_error_of_ours(stack: Served, transport: Any, kind: Any) -> None:
    with pytest.raises(errors.BadRequestError, match="field required") as caught:
        next(transport.stream(Request(b'{"model": "ReaderLM-v2"}')))
    assert (caught.value.status, caught.value.target, caught.value.region) == (400, "e", "us-east-1")
    nowhere = kind("none", "us-east-1", aws=LOCAL, url=stack.url)
    with pytest.raises(errors.EndpointNotFoundError):
        next(nowhere.stream(asked(stack)))
    nowhere.close()


def test_a_model_that_takes_too_long_is_a_timeout_in_a_stream_too(paced: Served, kind: Any) -> None:
    transport = kind("e", "us-east-1", aws=LOCAL, url=paced.url)
    body = json.dumps({"data": [{"text": "word " * 100}]}).encode()
    with pytest.raises(errors.ModelTimeoutError, match="did not finish in time"):
        list(transport.stream(Request(body)))
    transport.close()


class Answers(ThreadingHTTPServer):
    """Answers any request with ``frames``, in chunks; then ends the stream, hangs up, or waits until the caller does."""

    daemon_threads = True
    frames: tuple[bytes, ...] = ()
    then = "ends"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.left = Event()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Answers)
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", eventstream.CONTENT_TYPE)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for frame in self.server.frames:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        if self.server.then == "ends":
            self.wfile.write(b"0\r\n\r\n")
        if self.server.then == "waits":
            with suppress(ConnectionResetError):  # who leaves with bytes unread resets
                assert self.rfile.read(1) == b""
            self.server.left.set()
        self.close_connection = True

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def answers() -> Iterator[Answers]:
    with Answers() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


FIRST = b"".join(eventstream.parts(b"data: "))


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (eventstream.exception("ModelStreamError", b'{"Message":"reset"}'), "ModelStreamError: reset"),
        (eventstream.exception("InternalStreamFailure", b'{"Message":"oops"}'), "InternalStreamFailure: oops"),
        (FIRST[:-1] + b"\0", "broke off: .*[Cc]hecksum"),
        (None, "broke off: "),
    ],
)
def test_a_stream_that_breaks_off_is_an_error_after_what_had_come(
    answers: Answers, second: bytes | None, why: str, kind: Any
) -> None:
    answers.frames, answers.then = ((FIRST, second), "ends") if second else ((FIRST,), "hangs up")
    transport = kind("e", "us-east-1", aws=LOCAL, url=f"http://127.0.0.1:{answers.server_port}")
    coming = transport.stream(Request(b"{}"))
    assert next(coming) == b"data: "
    with pytest.raises(errors.ModelUnavailableError, match=why) as caught:
        list(coming)
    assert (caught.value.target, caught.value.region) == ("e", "us-east-1")
    transport.close()


def test_a_stream_of_the_local_stack_can_break_off_too(stack: Served, transport: Any) -> None:
    stack.stack.stage.faults.add({"kind": "truncate", "operation": "InvokeEndpointWithResponseStream"})
    with pytest.raises(errors.ModelUnavailableError, match="broke off"):
        list(transport.stream(asked(stack)))


def test_a_stream_left_early_is_hung_up(answers: Answers, kind: Any) -> None:
    answers.frames, answers.then = (FIRST,) * 2, "waits"
    transport = kind("e", "us-east-1", aws=LOCAL, url=f"http://127.0.0.1:{answers.server_port}")
    coming = transport.stream(Request(b"{}"))
    assert next(coming) == b"data: "
    assert not answers.left.is_set()
    coming.close()
    assert answers.left.wait(30)
    transport.close()
