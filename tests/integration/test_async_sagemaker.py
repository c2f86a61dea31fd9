"""A SageMaker endpoint from an event loop: what boto3 sends, and what boto3 would have raised."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.session
import pytest

from jina_sm import errors, local
from jina_sm.errors import InputError, MissingExtraError
from jina_sm.transport import Request, Response
from jina_sm.transport.aio import AsyncHttpTransport, AsyncSageMakerTransport
from jina_sm.transport.sagemaker import SageMakerTransport
from tests.conftest import Served
from tests.raw import answering, reset, say

REQUEST = Request(b'{"data": [{"text": "a"}]}')


def aws(key: str = "local", token: str | None = None) -> Any:
    return boto3.Session(key, "secret", token, region_name="us-east-1")


def in_a_loop(act: Callable[[AsyncSageMakerTransport], Awaitable[Any]], name: str = "e", **settings: Any) -> Any:
    async def acts() -> Any:
        transport = AsyncSageMakerTransport(name, "us-east-1", **settings)
        try:
            return await act(transport)
        finally:
            await transport.close()

    return asyncio.run(acts())


def sent(name: str = "e", **settings: Any) -> Response:
    response: Response = in_a_loop(lambda transport: transport.send(REQUEST), name, **settings)
    return response


def both(name: str = "e", **settings: Any) -> list[dict[str, Any]]:
    """What the two transports raise, with all their facts."""
    met = []
    with contextlib.closing(SageMakerTransport(name, "us-east-1", **settings)) as transport:
        for sends in (lambda: transport.send(REQUEST), lambda: sent(name, **settings)):
            with pytest.raises(errors.JinaSMError) as caught:
                sends()
            met.append({"kind": type(caught.value)} | vars(caught.value))
    return met


@pytest.fixture
def served_e(account: Served) -> Served:
    """The stack with an endpoint ``e``, and the environment that leads to it."""
    account.deploy()
    return account


@pytest.mark.usefixtures("served_e")
def test_the_answer_is_the_one_that_boto3_gives() -> None:
    with contextlib.closing(SageMakerTransport("e", "us-east-1")) as transport:
        known = transport.send(REQUEST)
    came = sent()
    assert came.body == known.body
    assert came.request_id == came.headers["x-amzn-requestid"]
    assert set(came.headers) == set(known.headers)


@pytest.mark.usefixtures("served_e")
def test_instances_are_counted() -> None:
    assert in_a_loop(lambda transport: transport.instances()) == 1
    assert in_a_loop(lambda transport: transport.instances(), "gone") is None


FAULTS: list[tuple[str, dict[str, Any], type[errors.JinaSMError]]] = [
    ("throttle", {}, errors.ThrottledError),
    ("error", {"status": 500}, errors.ModelUnavailableError),
    ("error", {"status": 503}, errors.ModelUnavailableError),
    ("error", {"status": 530}, errors.ModelUnavailableError),
    ("error", {"status": 429}, errors.ModelUnavailableError),
    ("model-error", {"status": 400}, errors.BadRequestError),
    ("model-error", {"status": 413}, errors.PayloadTooLargeError),
    ("model-error", {"status": 429, "reason": "slow down"}, errors.ThrottledError),
    ("model-error", {"status": 500}, errors.ModelFailedError),
    ("model-error", {"status": 503}, errors.ModelUnavailableError),
    ("reset", {}, errors.ModelUnavailableError),
    ("truncate", {}, errors.ModelUnavailableError),
]


@pytest.mark.parametrize(("kind", "facts", "meant"), FAULTS)
def test_a_fault_raises_the_same_as_through_boto3(
    served_e: Served, kind: str, facts: dict[str, Any], meant: type[errors.JinaSMError]
) -> None:
    local.fault(kind, "InvokeEndpoint", port=served_e.port, count=2, **facts)
    threads, loop = both()
    assert threads["kind"] is meant
    for name in ("request_id", *(["message"] if kind in ("reset", "truncate") else [])):  # each has its own
        threads.pop(name), loop.pop(name)
    assert loop == threads


@pytest.mark.parametrize(
    ("name", "settings", "meant"),
    [
        ("gone", {}, errors.EndpointNotFoundError),
        ("e", {"aws": aws("EXPIRED")}, errors.AuthError),
        ("e", {"aws": aws("DENIED")}, errors.AuthError),
    ],
)
@pytest.mark.usefixtures("served_e")
def test_a_refusal_of_awss_is_the_same(name: str, settings: dict[str, Any], meant: type[errors.JinaSMError]) -> None:
    threads, loop = both(name, **settings)
    assert threads["kind"] is meant
    threads.pop("request_id"), loop.pop("request_id")
    assert loop == threads


def test_nobodys_credentials_nobody_there_and_settings_that_cannot_be(free_port: int) -> None:
    threads, loop = both(url="http://127.0.0.1:1")
    assert threads == loop
    assert threads["kind"] is errors.AuthError
    threads, loop = both(aws=aws(), url=f"http://127.0.0.1:{free_port}")
    assert threads["kind"] is loop["kind"] is errors.ModelUnavailableError
    threads, loop = both(aws=aws(), url="no url")
    assert threads == loop
    assert threads["kind"] is InputError


def test_odd_answers_mean_the_same() -> None:
    odd = [
        say(status, body, x_amzn_RequestId="r-1", **headers)
        for status in (302, 400, 404, 408, 413, 429, 500, 502, 503, 504)
        for body in (b"", b"no json", b'{"message": null}', b'{"__type": "ThrottlingException"}')
        for headers in ({}, {"x_amzn_ErrorType": "InternalFailure:http://aws"}, {"Retry_After": "4"})
    ]

    async def all_of_them(transport: AsyncSageMakerTransport) -> list[dict[str, Any]]:
        met = []
        for _ in odd:
            with pytest.raises(errors.JinaSMError) as caught:
                await transport.send(REQUEST)
            met.append({"kind": type(caught.value)} | vars(caught.value))
        return met

    met = []
    with answering(*odd) as raw, contextlib.closing(SageMakerTransport("e", "us-east-1", aws=aws(), url=raw.url)) as by:
        for _ in odd:
            with pytest.raises(errors.JinaSMError) as caught:
                by.send(REQUEST)
            met.append({"kind": type(caught.value)} | vars(caught.value))
    with answering(*odd) as raw:
        assert in_a_loop(all_of_them, aws=aws(), url=raw.url) == met


def test_what_is_signed_is_what_is_sent() -> None:
    with answering(say()) as raw:
        for url in (raw.url, f"{raw.url}/prefix/"):
            sent("an-endpoint", aws=aws(token="t/+="), url=url)
    for asked in raw.asked:
        method, path, _ = asked.line.split()
        assert path.endswith("/endpoints/an-endpoint/invocations")
        signed = asked.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        assert {"accept", "content-type", "host", "x-amz-date", "x-amz-security-token"} == set(signed)
        request = botocore.awsrequest.AWSRequest(
            method, raw.url + path, {name: asked.headers[name] for name in signed}, asked.body
        )
        request.context["timestamp"] = asked.headers["x-amz-date"]
        signer = botocore.auth.SigV4Auth(aws(token="t/+=").get_credentials(), "sagemaker", "us-east-1")
        expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        assert asked.headers["authorization"].endswith(f"Signature={expected}")


SETTINGS = [
    {},
    {"AWS_USE_FIPS_ENDPOINT": "true"},
    {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
    {"AWS_ENDPOINT_URL": "http://127.0.0.1:1/aws/"},
    {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": "http://127.0.0.1:2"},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("region", ["us-east-1", "cn-north-1"])
def test_the_address_is_boto3s(region: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    urls = []

    def catch(request: Any, **_: Any) -> Any:
        urls.append(request.url)
        return botocore.awsrequest.AWSResponse(request.url, 503, {}, None)

    runtime = aws().client(
        "sagemaker-runtime", region, config=botocore.config.Config(retries={"total_max_attempts": 1})
    )
    runtime.meta.events.register("before-send", catch)
    with contextlib.suppress(Exception):
        runtime.invoke_endpoint(EndpointName="e", Body=b"")
    transport = AsyncSageMakerTransport("e", region, aws=aws())
    assert [f"{transport._learn().url}/endpoints/e/invocations"] == urls


class Keys(botocore.credentials.RefreshableCredentials):  # type: ignore[misc]
    """Credentials that last so long. New ones come when ``may_come`` is set."""

    def __init__(self, left_s: float) -> None:
        self.now = datetime.datetime.now(datetime.UTC)
        self.taken_in: list[str] = []
        self.may_come = threading.Event()
        super().__init__("old", "s", "t", self.now + datetime.timedelta(seconds=left_s), self.new, "test")

    def new(self) -> dict[str, str]:
        self.may_come.wait()
        until = self.now + datetime.timedelta(hours=1)
        return {"access_key": "new", "secret_key": "s", "token": "t", "expiry_time": until.isoformat()}

    def get_frozen_credentials(self) -> Any:
        self.taken_in.append(threading.current_thread().name)
        return super().get_frozen_credentials()

    @property
    def session(self) -> Any:
        made = botocore.session.get_session()
        made._credentials = self
        return boto3.Session(botocore_session=made, region_name="us-east-1")


def test_credentials_are_refreshed_once_for_all_and_in_a_thread() -> None:
    keys = Keys(left_s=1)

    async def many(transport: AsyncSageMakerTransport) -> None:
        waiting = [asyncio.create_task(transport.send(REQUEST)) for _ in range(5)]
        while not keys.taken_in:
            await asyncio.sleep(0)
        for _ in range(100):  # the others come as far as they can
            await asyncio.sleep(0)
        waiting[0].cancel()
        keys.may_come.set()
        await asyncio.gather(*waiting[1:])

    with answering(say()) as raw:
        in_a_loop(many, aws=keys.session, url=raw.url)
    used = {asked.headers["authorization"].partition("=")[2].partition("/")[0] for asked in raw.asked}
    assert (len(raw.asked), used) == (4, {"new"})
    assert len([name for name in keys.taken_in if name != threading.main_thread().name]) == 1


def test_credentials_that_last_take_no_thread() -> None:
    keys = Keys(left_s=7200)

    async def twice(transport: AsyncSageMakerTransport) -> None:
        await transport.send(REQUEST)
        # None can be had any more.
        asyncio.get_running_loop().run_in_executor = None  # type: ignore[method-assign,assignment]
        await transport.send(REQUEST)

    with answering(say()) as raw:
        in_a_loop(twice, aws=keys.session, url=raw.url)
        assert len(raw.asked) == 2
    assert set(keys.taken_in) == {threading.main_thread().name}


def test_who_gives_up_frees_the_connection(served_e: Served) -> None:
    async def gives_up(transport: AsyncSageMakerTransport) -> Response:
        leaving = asyncio.create_task(transport.send(REQUEST))
        while not local_waiting():
            await asyncio.sleep(0)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        return await transport.send(REQUEST)

    def local_waiting() -> int:
        return sum(each["waiting"] for each in local.list_faults(served_e.port))

    local.fault("stall", "InvokeEndpoint", port=served_e.port, seconds=600, count=1)
    assert in_a_loop(gives_up, connections=1).body


def test_a_transport_may_be_closed_unused_and_twice() -> None:
    async def closes() -> None:
        for transport in (AsyncSageMakerTransport("e", "us-east-1"), AsyncHttpTransport("http://a")):
            await transport.close()
            await transport.close()

    asyncio.run(closes())


def test_a_broken_connection_is_told_with_the_target() -> None:
    with answering(reset) as raw, pytest.raises(errors.ModelUnavailableError) as caught:
        sent(aws=aws(), url=raw.url)
    assert (caught.value.target, caught.value.region) == ("e", "us-east-1")
    assert caught.value.message.startswith("AWS could not be reached: ")


def test_without_aiohttp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    for makes in (lambda: AsyncHttpTransport("http://a"), lambda: AsyncSageMakerTransport("e", "us-east-1")):
        with pytest.raises(MissingExtraError, match=r"jina_sm\[async\]"):
            makes()
