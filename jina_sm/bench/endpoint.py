"""
One target as a run asks it: bytes made before the clock starts, sent as they are, read after it stopped.

Below the clients on purpose: nothing is shared, packed, retried, split or hedged, so that one request is one sample
of the endpoint, and not of the client.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jina_sm import wire
from jina_sm.catalog import Catalog, Model
from jina_sm.errors import InputError, ProtocolError
from jina_sm.transport import STAND_IN, Request, Response, Transport
from jina_sm.transport.target import Target, open_transport, parse
from jina_sm.values import EmbedRequest, Item, RerankRequest

_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)=([a-z-]+://.*)")
KINDS = ("embedding", "multi-vector", "clip", "reranker")


@dataclass(frozen=True, kw_only=True)
class Price:
    """USD an hour for as long as it stands, or for a million tokens; ``source`` says whose figure it is.

    ``unknown``: why there is none.
    """

    usd_per_hour: float | None = None
    usd_per_1m_tokens: float | None = None
    source: str | None = None
    unknown: str = ""

    @property
    def known(self) -> bool:
        return self.usd_per_hour is not None or self.usd_per_1m_tokens is not None


@dataclass(frozen=True)
class Letter:
    """A request as it goes, and what it asked."""

    request: Request
    asked: EmbedRequest | RerankRequest
    texts: int


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a server says of its own time, in seconds."""

    queue_s: float | None = None
    work_s: float | None = None
    total_s: float | None = None
    stand_in: bool = False
    """It is no model of Jina's that answered, as our own servers say."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A target with a name, a way there and a price. ``target`` is its string, which holds no secret."""

    name: str
    target: str
    kind: str
    model: Model
    transport: Transport
    price: Price = Price()
    task: str | None = None
    dimensions: int | None = None
    billed: bool = True
    """False of what is on this machine; its price is then for the cost of tokens alone."""
    time_scale: float = 1.0
    """It plays a slower endpoint this many times as fast; what is reported is in that one's time."""

    def __post_init__(self) -> None:
        if self.model.kind not in KINDS:
            raise InputError(f"{self.model.key} is a {self.model.kind}, and {', '.join(KINDS)} models are measured")
        if not 1e-6 <= self.time_scale <= 1e6:
            raise InputError(f"a time scale is from 0.000001 to 1000000, not {self.time_scale}")
        self.model.check_task(self.task)
        self.model.check_dimensions(self.dimensions)

    def letter(self, texts: Sequence[str]) -> Letter:
        """The request for some texts, as the client would put it."""
        speech = wire.dialect(self.model, wire=self.transport.wire)
        asked: EmbedRequest | RerankRequest
        items: tuple[Item, ...] = tuple(texts)
        if self.model.kind == "reranker":
            asked = RerankRequest(query=" ".join(texts[0].split()[:8]) or texts[0], documents=items)
        else:
            asked = EmbedRequest(
                items=items,
                task=self.task or self.model.default_task,
                dimensions=self.dimensions,
                base64="base64" in speech.takes and self.model.kind != "multi-vector",
            )
        return Letter(Request(speech.encode_request(asked), path=speech.path), asked, len(texts))

    def read(self, letter: Letter, response: Response) -> int:
        """Tokens that the endpoint says it read (0: it does not say). Raises ProtocolError for a wrong answer."""
        speech = wire.dialect(self.model, wire=self.transport.wire)
        try:
            return int(speech.decode_response(letter.asked, response.body).tokens)
        except ProtocolError as error:
            error.target, error.region = self.transport.name, self.transport.region
            raise

    def counts(self, text: str) -> int:
        """How many tokens the endpoint says a text is; 0: it does not say. Asks it."""
        letter = self.letter([text])
        tokens = self.read(letter, self.transport.send(letter.request))
        if self.model.kind == "reranker" and tokens:  # the query was read too, and that of two texts is the same
            again = self.letter([text, text])
            tokens = self.read(again, self.transport.send(again.request)) - tokens
        return tokens


def opened(
    target: str,
    known: Catalog,
    *,
    connections: int,
    price: Price | None = None,
    time_scale: float | None = None,
    task: str | None = None,
    dimensions: int | None = None,
    api_key: str | None = None,
    aws: Any = None,
    environ: Mapping[str, str] = os.environ,
) -> Endpoint:
    """The endpoint of ``[NAME=]TARGET``. Raises InputError; nothing is sent, but to a local stack for its time scale.

    ``time_scale=None``: what the local stack says, else 1. ``api_key``: that of a server of one's own.
    ``aws``: a boto3 session, else the environment's.
    """
    name, spelled = named(target)
    found = parse(spelled)
    model = known.model(found.model)
    actual = time_scale_of(found, environ)
    if time_scale is not None and actual is not None and time_scale != actual:
        raise InputError(
            f"the local stack behind {name or _short(found)} has the time scale {actual:g}, not {time_scale:g}",
            cure="Leave --time-scale out: the stack says what it is.",
        )
    transport = open_transport(
        found, aws=aws, connections=connections, api_key=api_key if found.kind == "http" else None, environ=environ
    )
    return Endpoint(
        name=name or _short(found),
        target=str(found),
        kind=found.kind,
        model=model,
        transport=transport,
        price=price if price is not None and price.known else published_price(found),
        task=task,
        dimensions=dimensions,
        billed=not _here(found, environ),
        time_scale=time_scale or actual or 1.0,
    )


def named(text: str) -> tuple[str | None, str]:
    """``api=jina-api://?model=...``: the name and the target."""
    match = _NAMED.fullmatch(text)
    return (match[1], match[2]) if match else (None, text)


def distinct(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """The same with different names: a target given twice is told apart by a number."""
    seen: dict[str, int] = {}
    found = []
    for each in endpoints:
        seen[each.name] = seen.get(each.name, 0) + 1
        found.append(each if seen[each.name] == 1 else replace(each, name=f"{each.name} ({seen[each.name]})"))
    return found


def published_price(target: Target) -> Price:
    """That of the API, with its date; what an endpoint of SageMaker costs depends on what it is: see ``priced``."""
    if target.kind == "jina-api":
        from jina_sm.bench import published

        usd = published.figures()["summary"]["price_usd_per_1m_tokens"]["jina_api"]
        return Price(usd_per_1m_tokens=usd, source=f"published {published.figures()['date']}, the tier of 1B tokens")
    return Price()


def priced(endpoint: Endpoint, known: Catalog, *, aws: Any = None) -> Endpoint:
    """Of SageMaker, with the price of the instances that it has now and of their software, unless one was given.

    ``aws``: a boto3 session, else the environment's.
    """
    if endpoint.kind != "sagemaker" or endpoint.price.known:
        return endpoint
    from jina_sm.deploy import cost

    there = parse(endpoint.target)
    name, region = there.endpoint_name or "", there.region or ""
    found = cost.of_endpoint(region, name, endpoint.model.key, session=aws, known=known)
    parts, usd = [part for part in found.parts if part.count], found.usd_per_hour
    of = "; ".join(
        f"{part.count} x {part.instance_type}: instance {part.instance.source}, software {part.software.source}"
        for part in parts
    )
    if not usd:
        return replace(endpoint, price=Price(unknown=found.unknown or of or "it has no instance"))
    return replace(endpoint, price=Price(usd_per_hour=float(usd), source=of))


def address(target: Target, environ: Mapping[str, str] = os.environ) -> str | None:
    """The URL that requests to it go to; None: AWS's or Jina's own."""
    match target.kind:
        case "sagemaker":
            return environ.get("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME") or environ.get("AWS_ENDPOINT_URL")
        case "jina-api":
            return environ.get("JINA_API_URL")
    return target.url


def _here(target: Target, environ: Mapping[str, str]) -> bool:
    """Whether it is on this machine, where nothing is billed."""
    return urllib.parse.urlsplit(address(target, environ) or "").hostname in ("127.0.0.1", "::1", "localhost")


def time_scale_of(target: Target, environ: Mapping[str, str] = os.environ) -> float | None:
    """By how much a local stack shortens the times of its profile, which are SageMaker's; None: there is no profile."""
    url = address(target, environ) or ""
    if target.kind != "sagemaker" or not _here(target, environ) or (port := urllib.parse.urlsplit(url).port) is None:
        return None
    from jina_sm import local

    speed = local.running_as(port, local.Speed())
    return speed.time_scale if speed and speed.profile else None


_TIMING = re.compile(r"\s*([\w-]+)\s*((?:;[^;,]*)*)")
_QUEUE, _WORK, _TOTAL = ("queue",), ("inference", "model", "compute", "encode"), ("total", "server", "app")


def told(headers: Mapping[str, str]) -> Told:
    """What a response's headers say of the server's time.

    ``Server-Timing`` (W3C: milliseconds) with the names queue, inference (or model, compute, encode) and total; or
    ``x-queue-time``, ``x-inference-time`` and ``x-total-time`` in milliseconds, as Hugging Face's server says them.
    """
    said: dict[str, float] = {}
    for part in headers.get("server-timing", "").split(","):
        if (match := _TIMING.fullmatch(part)) and (took := re.search(r";\s*dur=([\d.]+)", match[2])):
            said.setdefault(match[1].lower(), _number(took[1]))
    for name in ("queue", "inference", "total"):
        if value := headers.get(f"x-{name}-time"):
            said.setdefault(name, _number(value))

    def of(names: tuple[str, ...]) -> float | None:
        found = [said[name] for name in names if name in said and said[name] >= 0]
        return found[0] / 1000 if found else None

    stand_in = headers.get(STAND_IN) == "true"
    return Told(queue_s=of(_QUEUE), work_s=of(_WORK), total_s=of(_TOTAL), stand_in=stand_in)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _short(target: Target) -> str:
    match target.kind:
        case "sagemaker":
            return f"{target.endpoint_name} {target.region}"
        case "jina-api":
            return "Jina API"
    return urllib.parse.urlsplit(target.url or "").netloc
