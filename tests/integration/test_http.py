"""A server over HTTP, on threads and in an event loop: the same answers, and the same errors."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from jina_sm import catalog, errors, local, retry, wire
from jina_sm.errors import InputError
from jina_sm.transport import Request, Response
from jina_sm.transport.aio import AsyncHttpTransport
from jina_sm.transport.http import STATUS, HttpTransport, retry_after_s, said
from jina_sm.transport.target import open_transport, parse
from jina_sm.values import EmbedRequest, RerankRequest
from tests.conftest import Served
from tests.raw import Act, answering, babble, cut, hang, reset, say

KEY = "jina_0123456789secret"
REQUEST = Request(b'{"a": 1}', path="/v1/embeddings")
Sends = Callable[..., Response]


def on_threads(url: str, *requests: Request, **settings: Any) -> Response:
    with contextlib.closing(HttpTransport(url, **settings)) as transport:
        return [transport.send(request) for request in requests or (REQUEST,)][-1]


def in_a_loop(url: str, *requests: Request, **settings: Any) -> Response:
    async def sends() -> Response:
        transport = AsyncHttpTransport(url, **settings)
        try:
            return [await transport.send(request) for request in requests or (REQUEST,)][-1]
        finally:
            await transport.close()

    return asyncio.run(sends())


@pytest.fixture(params=[on_threads, in_a_loop], ids=["threads", "loop"])
def send(request: pytest.FixtureRequest) -> Sends:
    """``send(url, *requests, **settings)``: what the last of them came to."""
    sends: Sends = request.param
    return sends


def failure(send: Sends, *acts: Act, **settings: Any) -> errors.JinaSMError:
    with answering(*acts) as raw, pytest.raises(errors.JinaSMError) as caught:
        send(raw.url, **settings)
    assert caught.value.target == f"127.0.0.1:{raw.port}"
    return caught.value


def test_a_request_goes_out_and_its_answer_comes_back(send: Sends) -> None:
    with answering(say(200, b'{"b": 2}', X_Request_Id="r-1")) as raw:
        response = send(f"{raw.url}/prefix/", api_key=f" {KEY}\n")
    assert (response.body, response.request_id, response.headers["x-request-id"]) == (b'{"b": 2}', "r-1", "r-1")
    (asked,) = raw.asked
    assert (asked.line, asked.body) == ("POST /prefix/v1/embeddings HTTP/1.1", REQUEST.body)
    assert {name: asked.headers[name] for name in ("content-type", "accept", "authorization")} == {
        "content-type": "application/json",
        "accept": "application/json",
        "authorization": f"Bearer {KEY}",
    }


def test_without_a_key_none_is_sent_and_an_address_may_end_in_v1(send: Sends) -> None:
    with answering(say()) as raw:
        send(f"{raw.url}/v1")
        send(f"{raw.url}/v1", Request(b"{}"), wire="container")
    assert "authorization" not in raw.asked[0].headers
    assert [asked.line.split()[1] for asked in raw.asked] == ["/v1/embeddings", "/v1/invocations"]


def test_a_connection_is_used_again(send: Sends) -> None:
    with answering(say()) as raw:
        send(raw.url, *[REQUEST] * 3, connections=1)
        assert len(raw.asked) == 3
    # One that the server has closed meanwhile is not.
    with answering(say(Connection="close")) as raw:
        send(raw.url, *[REQUEST] * 3, connections=1)


@pytest.mark.parametrize("status", [*STATUS, 409, 418, 501, 529])
def test_a_status_means_the_same_to_both(send: Sends, status: int) -> None:
    error = failure(send, say(status, b'{"detail": "because"}', X_Request_Id="r-1"))
    expected = STATUS.get(status) or (errors.BadRequestError if status < 500 else errors.ModelUnavailableError)
    assert type(error) is expected
    assert (error.status, error.request_id) == (status, "r-1")
    assert "the server answered: because" in str(error)


def test_every_status_that_has_a_meaning_has_a_rule_or_none_on_purpose() -> None:
    never = {kind for kind in STATUS.values() if retry.rule(kind("x")) == retry.NEVER}
    assert never == {errors.AuthError}


@pytest.mark.parametrize(
    ("body", "message", "code", "request_id"),
    [
        (b'{"detail": "no such task"}', "no such task", None, None),
        (b'{"detail": [{"loc": ["body", "data", 0], "msg": "field required", "type": "x"}]}', "body.data.0: field required", None, None),
        (b'{"detail": {"message": "too long", "request_id": "q", "code": "INPUT_TOKEN_LIMIT_EXCEEDED"}}', "too long", "INPUT_TOKEN_LIMIT_EXCEEDED", "q"),
        (b'{"detail": "bad", "request_id": "q", "errors": [{"field": "body.task", "message": "unknown", "type": "x", "input": 1}]}', "bad: body.task: unknown", None, "q"),
        (b'{"object": "error", "message": "no prompt", "code": 400}', "no prompt", None, None),
        (b'{"error": {"message": "wrong key", "code": "invalid_api_key"}}', "wrong key", "invalid_api_key", None),
        (b'{"error": "nope"}', "nope", None, None),
        (b'{"status": "odd"}', '{"status":"odd"}', None, None),
        (b'{"detail": ["a", {"msg": 3}, {"loc": 5}]}', "a; 3; 5: wrong", None, None),
        (b"[]", "[]", None, None),
        (b"upstream\nconnect   error", "upstream connect error", None, None),
        (b"<html><h1>502 Bad Gateway</h1><p>nginx</p></html>", "502 Bad Gateway nginx", None, None),
        (b"\xff\xfe", "\ufffd\ufffd", None, None),
        (b"", "no reason given", None, None),
    ],
)  # fmt: skip
def test_an_error_is_read_in_every_shape(
    send: Sends, body: bytes, message: str, code: str | None, request_id: str | None
) -> None:
    error = failure(send, say(400, body))
    assert (error.message, error.code, error.request_id) == (f"the server answered: {message}", code, request_id)


@pytest.mark.parametrize(("status", "cure"), [(401, "Check JINA_API_KEY"), (402, "balance"), (403, "Check JINA_API_KEY"), (404, "Check the address")])  # fmt: skip
def test_an_error_that_has_a_cure_says_it(send: Sends, status: int, cure: str) -> None:
    assert cure in (failure(send, say(status)).cure or "")


def test_the_key_is_in_no_error_no_log_and_no_repr(send: Sends, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    error = failure(send, say(403, f'{{"detail": "invalid key {KEY}"}}'.encode()), api_key=KEY)
    assert error.message == "the server answered: invalid key ***"
    transports = (HttpTransport("http://a", api_key=KEY), AsyncHttpTransport("http://a", api_key=KEY))
    assert KEY not in caplog.text + repr(transports) + repr([each.server for each in transports])


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "3"}, 3.0),
        ({"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT", "Date": "Fri, 31 Dec 1999 23:59:30 GMT"}, 29.0),
        ({"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT", "Date": "Sat, 01 Jan 2000 00:00:30 GMT"}, 0.0),
        ({"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT"}, None),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "-1"}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_read(send: Sends, headers: dict[str, str], seconds: float | None) -> None:
    assert failure(send, say(429, **headers)).retry_after_s == seconds


def test_a_redirect_is_not_followed(send: Sends) -> None:
    with answering(say()) as other:
        error = failure(send, say(308, b"", Location=f"{other.url}/secret?of=theirs"), api_key=KEY)
        assert not other.asked
    assert isinstance(error, errors.BadRequestError)
    assert error.message == "the server answered: a redirect to 127.0.0.1"


def test_silence_is_a_timeout(send: Sends) -> None:
    error = failure(send, hang, read_timeout_s=0.2)
    assert (type(error), error.message) == (errors.ModelTimeoutError, "no answer within 0.2 s")


@pytest.mark.parametrize("act", [reset, cut, babble])
def test_a_broken_answer_is_an_unavailable_model(send: Sends, act: Act) -> None:
    error = failure(send, act)
    assert type(error) is errors.ModelUnavailableError
    assert error.message.startswith(f"{error.target} could not be reached: ")
    assert "\n" not in error.message


def test_nobody_there_is_an_unavailable_model(send: Sends, free_port: int) -> None:
    with pytest.raises(errors.ModelUnavailableError, match="could not be reached"):
        send(f"http://127.0.0.1:{free_port}")


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS, and the file by which it can be trusted."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "raw")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "cert.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public


@pytest.fixture
def _no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_bundles")
def test_a_certificate_must_be_known(send: Sends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, public = certificate(tmp_path)
    with answering(say(), tls=tls) as raw:
        secure = f"https://127.0.0.1:{raw.port}"
        with pytest.raises(errors.ModelUnavailableError, match=r"no secure connection to .* certificate") as caught:
            send(secure)
        assert "SSL_CERT_FILE" in (caught.value.cure or "")
        assert not raw.asked
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):  # the later one counts
            monkeypatch.setenv(name, str(public))
            assert send(secure).body == b"{}"
            monkeypatch.setenv(name, str(tmp_path / "gone.pem"))
            with pytest.raises(InputError, match=r"gone\.pem' cannot be read"):
                send(secure)


@pytest.fixture
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("_no_proxies")
def test_a_proxy_is_asked_in_the_servers_place(send: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(say(200, b'"by proxy"')) as raw:
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{raw.port}")
        assert send("http://model.invalid:8080").body == b'"by proxy"'
        (asked,) = raw.asked
        assert asked.line == "POST http://model.invalid:8080/v1/embeddings HTTP/1.1"
        assert asked.headers["host"] == "model.invalid:8080"
        assert asked.headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert send(raw.url).body == b'"by proxy"'
        assert raw.asked[1].line.startswith("POST /v1")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(InputError, match="a socks5 proxy"):
        send("http://model.invalid")


@pytest.mark.parametrize("makes", [HttpTransport, AsyncHttpTransport])
def test_an_address_that_cannot_be_is_refused_when_it_is_given(makes: Any) -> None:
    for wrong in ("api.jina.ai", "http://a b", "http://", f"http://me:{KEY}@host", "http://host?key=x"):
        with pytest.raises(InputError) as caught:
            makes(wrong)
        assert KEY not in str(caught.value)
    with pytest.raises(InputError, match="container or api"):
        makes("http://host", wire="grpc")


def test_nobody_tells_how_many_instances_there_are() -> None:
    assert HttpTransport("http://a").instances() is None
    assert asyncio.run(AsyncHttpTransport("http://a").instances()) is None


def test_who_gives_up_frees_the_connection() -> None:
    async def gives_up() -> Response:
        transport = AsyncHttpTransport(raw.url, connections=1)
        try:
            leaving = asyncio.create_task(transport.send(REQUEST))
            while not raw.asked:
                await asyncio.sleep(0)
            leaving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leaving
            return await transport.send(REQUEST)
        finally:
            await transport.close()

    with answering(hang, say()) as raw:
        assert asyncio.run(gives_up()).body == b"{}"


KNOWN = catalog.load(environ={})


def test_the_api_embeds_and_ranks(send: Sends, stack: Served) -> None:
    spoken = wire.dialect(KNOWN.model("jina-embeddings-v3"), wire="api")
    asked = EmbedRequest(items=("a", "b"), dimensions=64, base64=True)
    answer = send(stack.url, Request(spoken.encode_request(asked), path=spoken.path), api_key="any")
    assert spoken.decode_response(asked, answer.body).values.shape == (2, 64)
    spoken = wire.dialect(KNOWN.model("jina-reranker-v3"), wire="api")
    ranked = RerankRequest(query="a dog", documents=("the stock market", "dogs and puppies"))
    answer = send(stack.url, Request(spoken.encode_request(ranked), path=spoken.path), api_key="any")
    assert spoken.decode_response(ranked, answer.body).values.argmax() == 1


def test_the_local_environment_leads_a_target_to_the_stack(stack: Served) -> None:
    spoken, asked = wire.dialect(KNOWN.model("jina-clip-v2"), wire="api"), EmbedRequest(items=("a",))
    request = Request(spoken.encode_request(asked), path=spoken.path)
    target, environ = parse("jina-api://?model=jina-clip-v2"), local.environment(stack.port)
    with contextlib.closing(open_transport(target, environ=environ)) as transport:
        assert spoken.decode_response(asked, transport.send(request).body).values.shape == (1, 1024)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["detail", "error", "errors", "message", "code", "loc", "msg"]), inner)
        ),
    )
)
def test_whatever_an_error_looks_like_it_is_said_in_one_short_line(told: object) -> None:
    message, code, request_id = said(json.dumps(told).encode())
    assert len(message) <= 500
    assert message.splitlines() in ([message], [])
    assert isinstance(code, str | None)
    assert isinstance(request_id, str | None)


@given(st.text(), st.text())
def test_a_wait_is_a_number_of_seconds_or_none(wait: str, date: str) -> None:
    seconds = retry_after_s({"retry-after": wait, "date": date})
    assert seconds is None or seconds >= 0


def test_a_fault_of_the_local_stack_means_the_same_to_both(stack: Served) -> None:
    spoken = wire.dialect(KNOWN.model("jina-embeddings-v3"), wire="api")
    request = Request(spoken.encode_request(EmbedRequest(items=("a",))), path=spoken.path)
    for kind, more, meant in (
        ("throttle", {}, errors.ThrottledError),
        ("error", {"status": 503}, errors.ModelUnavailableError),
        ("error", {}, errors.ModelFailedError),
        ("reset", {}, errors.ModelUnavailableError),
        ("truncate", {}, errors.ModelUnavailableError),
    ):
        local.fault(kind, "JinaEmbeddings", port=stack.port, count=2, **more)
        met = []
        for send in (on_threads, in_a_loop):
            with pytest.raises(meant) as caught:
                send(stack.url, request, api_key="any")
            met.append((type(caught.value), caught.value.status, caught.value.code, caught.value.target))
        assert met[0] == met[1]
    assert all(each["fired"] == 2 for each in local.list_faults(stack.port))
