"""
No test leaves this machine, and none sees whoever runs it: no AWS settings, no profiles, loopback only.

And the local stack for tests: one server a session, emptied before each test, and boto3 clients that talk to it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import ipaddress
import itertools
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.config
import botocore.loaders
import numpy as np
import pytest
from hypothesis import settings

import jina_sm.cli
from jina_sm import catalog, local
from jina_sm.clock import Clock
from jina_sm.values import Vectors

settings.register_profile("suite", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("suite")

_LOCAL_NAMES = {"localhost", "", None}


def _refuse_the_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host in _LOCAL_NAMES:
        return
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise RuntimeError(f"a test tried to reach {host!r}")


sys.addaudithook(_refuse_the_network)


class _ReadOnce(botocore.loaders.JSONFileLoader):
    """botocore reads its descriptions of services anew for every session, which took half of these tests' time."""

    def load_file(self, file_path: str) -> Any:
        return _read(file_path)


@functools.cache
def _read(path: str) -> Any:
    return botocore.loaders.JSONFileLoader().load_file(path)


botocore.loaders.Loader.FILE_LOADER_CLASS = _ReadOnce


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "JINA_", "MOTO_", "BOTO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


Aws = Callable[..., Any]
_open_clients: list[Any] = []


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_for_the_next_module() -> Iterator[None]:
    """A connection that one module's tests forgot is not blamed on the test that happens to meet the collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(autouse=True, scope="session")
def _closed_at_the_end() -> Iterator[None]:
    """A client that is garbage before it is closed leaves its sockets to chance."""
    yield
    for client in _open_clients:
        client.close()


SLOW_S = 100_000.0


@dataclass
class Time:
    """A clock that moves when it is told to, and when someone sleeps."""

    seconds: float = 0.0

    def move(self, seconds: float) -> None:
        self.seconds += seconds

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.seconds, sleep=self.move, random=lambda: 0.5)


class Letters:
    """An encoder that needs no loading: how often each letter occurs, as a unit vector."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.full((len(texts), 512), 1e-3, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for letter in text:
                row[ord(letter) % 512] += 1
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def tokens(self, text: str) -> int:
        return len(text.split()) + 2


@dataclass(frozen=True)
class Served:
    """A stack and where it is served."""

    stack: local.Stack
    url: str
    clients: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def aws(self, service: str, region: str = "us-east-1", *, key: str = "local", **options: Any) -> Any:
        """A boto3 client of the stack, which does not retry."""
        once = botocore.config.Config(retries={"total_max_attempts": 1})
        named = (service, region, key)
        if options or named not in self.clients:
            session = boto3.session.Session(key, "local", region_name=region)
            client = session.client(service, endpoint_url=self.url, **{"config": once, **options})
            _open_clients.append(client)
            if options:
                return client
            self.clients[named] = client
        return self.clients[named]

    def quote(self, model: str = "jina-embeddings-v3", *, terms: int = 30) -> str:
        """A request for an agreement with the first of the offer's terms; its id."""
        discovery, row = self.aws("marketplace-discovery"), self.stack.state.catalog.model(model)
        listing = discovery.get_listing(listingId=local.listing_id(row))
        offer = discovery.get_offer(offerId=listing["associatedEntities"][0]["offer"]["offerId"])
        found = discovery.get_offer_terms(offerId=offer["offerId"])["offerTerms"]
        quote = self.aws("marketplace-agreement").create_agreement_request(
            intent="NEW",
            agreementProposalIdentifier=offer["agreementProposalId"],
            requestedTerms=[{"id": next(iter(term.values()))["id"]} for term in found[:terms]],
        )
        return str(quote["agreementRequestId"])

    def subscribe(self, model: str = "jina-embeddings-v3") -> str:
        """Subscribes to a model; the agreement's id."""
        accepted = self.aws("marketplace-agreement").accept_agreement_request(agreementRequestId=self.quote(model))
        return str(accepted["agreementId"])

    def deploy(
        self, model: str = "jina-embeddings-v3", *, name: str = "e", region: str = "us-east-1", instances: int = 1
    ) -> None:
        """A subscribed model behind an endpoint of that name; the model and the config have its name too."""
        row = self.stack.state.catalog.model(model)
        if not self.stack.state.subscribed(row):
            self.subscribe(model)
        sagemaker = self.aws("sagemaker", region)
        sagemaker.create_model(
            ModelName=name,
            PrimaryContainer={"ModelPackageName": self.stack.state.catalog.package_arn(row, region)},
            EnableNetworkIsolation=True,
        )
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[variant(name, InitialInstanceCount=instances)]
        )
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)


def variant(model: str, **more: Any) -> dict[str, Any]:
    """A production variant of one model."""
    return {
        "VariantName": "AllTraffic",
        "ModelName": model,
        "InstanceType": "ml.g5.xlarge",
        "InitialInstanceCount": 1,
        **more,
    }


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """One server for all tests; take ``stack``, which is this one, emptied."""
    stack = local.Stack(ready_after_s=0, catalog=catalog.load(environ={}))
    with local.serving(stack) as url:
        yield Served(stack, url)


@pytest.fixture
def stack(served: Served) -> Served:
    """The local stack as new. Endpoints are in service at once."""
    local.reset(served.port)
    return served


@pytest.fixture
def aws(stack: Served) -> Aws:
    """``aws(service, region="us-east-1", key="local", **options)``: a boto3 client of the stack."""
    return stack.aws


@pytest.fixture
def account(stack: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The stack as new, and the environment that leads boto3 and the command line to it."""
    for name, value in local.environment(stack.port).items():
        monkeypatch.setenv(name, value)
    return stack


@pytest.fixture(scope="session")
def _timed() -> Iterator[tuple[Served, Time]]:
    time = Time()
    stack = local.Stack(
        ready_after_s=SLOW_S,
        clock=time.clock,
        account="210987654321",
        disabled_regions=frozenset({"sa-east-1"}),
        catalog=catalog.load(environ={}),
        model=Letters(),
    )
    with local.serving(stack) as url:
        yield Served(stack, url), time


@pytest.fixture
def slow(_timed: tuple[Served, Time]) -> Served:
    """Another account, whose endpoints take ``SLOW_S`` by the clock of ``time``; sa-east-1 is not enabled in it."""
    local.reset(_timed[0].port)
    return _timed[0]


@pytest.fixture
def time(_timed: tuple[Served, Time]) -> Time:
    """The clock of ``slow``."""
    return _timed[1]


@pytest.fixture
def slow_account(slow: Served, time: Time, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """As ``account``, for ``slow``; its clock."""
    for name, value in local.environment(slow.port).items():
        monkeypatch.setenv(name, value)
    return time.clock


Told = tuple[int, str, str]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Told]:
    """``typed(*words)``: the command line's exit code, its stdout and its stderr."""

    def command(*words: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["jina-sm", *words])
        capfdbinary.readouterr()
        code = 0
        try:
            jina_sm.cli.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return command


_ports = itertools.count(20_000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))


@pytest.fixture
def free_port() -> int:
    """Below those that are given to whoever asks for any, so that nobody takes it before the test does."""
    for port in _ports:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])
