"""
Where a model is, as one string:

    sagemaker://REGION/ENDPOINT?model=KEY       an endpoint of SageMaker
    jina-api://?model=KEY                       Jina's hosted API; its key is JINA_API_KEY, never part of the string
    http(s)://HOST[:PORT][/PREFIX]?model=KEY    a server of your own that speaks as Jina's API does

An error repeats nothing of what was given: it may hold a password.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jina_sm.errors import InputError
from jina_sm.transport import AsyncTransport, Transport

FORMS = "sagemaker://REGION/ENDPOINT?model=KEY, jina-api://?model=KEY or http(s)://HOST[:PORT]?model=KEY"
JINA_API = "https://api.jina.ai"
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
_ENDPOINT = re.compile(r"(?=.{1,63}$)[a-zA-Z0-9](-*[a-zA-Z0-9])*")


@dataclass(frozen=True)
class Target:
    """One place where a model answers. ``kind``: sagemaker, jina-api or http; the rest is that kind's, else None."""

    kind: str
    model: str
    region: str | None = None
    endpoint_name: str | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        there = (self.region is not None, self.endpoint_name is not None, self.url is not None)
        match self.kind:
            case "sagemaker" if there == (True, True, False):
                if not _REGION.fullmatch(self.region or ""):
                    raise _wrong("its region is not one such as us-east-1")
                if not _ENDPOINT.fullmatch(self.endpoint_name or ""):
                    raise _wrong("its endpoint has not the name of one (letters, digits and hyphens, 63 at most)")
            case "jina-api" if there == (False, False, False):
                pass
            case "http" if there == (False, False, True):
                object.__setattr__(self, "url", checked_url(self.url or ""))
            case "sagemaker" | "jina-api" | "http":
                raise _wrong(f"{self.kind} has more or less than it should")
            case _:
                raise _wrong("its kind is none of sagemaker, jina-api and http")
        if not self.model.strip() or not self.model.isprintable():
            raise _wrong("it names no model")

    def __str__(self) -> str:
        where = {
            "sagemaker": f"sagemaker://{self.region}/{self.endpoint_name}",
            "jina-api": "jina-api://",
            "http": self.url,
        }[self.kind]
        return f"{where}?model={urllib.parse.quote(self.model, safe='')}"


@runtime_checkable
class Located(Protocol):
    """What knows where a model is: its targets, home first, and how many instances each has (0: not known)."""

    @property
    def model(self) -> str: ...
    @property
    def targets(self) -> Sequence[str]: ...
    @property
    def instances(self) -> Sequence[int]: ...


def parse(text: str) -> Target:
    """The target of a string. Raises InputError, which says what is wrong and shows the forms."""
    if not isinstance(text, str) or not re.fullmatch(r"[!-~]+", text):
        raise _wrong("it is not a string of printable ASCII without spaces")
    before, _, query = text.partition("?")
    scheme, separator, rest = before.partition("://")
    if not separator:
        raise _wrong("it has no ://")
    _check_secrets(rest)
    model = _model(query)
    match scheme.lower():
        case "sagemaker":
            region, slash, endpoint = rest.partition("/")
            if not slash:
                raise _wrong("it names no endpoint")
            return Target("sagemaker", model, region=region, endpoint_name=endpoint)
        case "jina-api":
            if rest.strip("/"):
                raise _wrong("a jina-api has no host; JINA_API_URL leads elsewhere")
            return Target("jina-api", model)
        case "http" | "https":
            return Target("http", model, url=before)
    raise _wrong("it begins with none of sagemaker, jina-api, http and https")


def checked_url(url: str, name: str = "the address") -> str:
    """The http(s) URL of a server, without a slash at its end. Raises InputError, which repeats no part of it."""
    if not re.fullmatch(r"[!-~]+", url) or not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{name} is not an http(s) URL", cure="It looks like https://host:8080/prefix.")
    scheme, _, rest = url.partition("://")
    _check_secrets(rest, name)
    if "?" in rest or "#" in rest:
        raise InputError(f"{name} has a query or a fragment", cure="Leave it out.")
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"{name} has no such host or port: a port is from 1 to 65535") from None
    if not host or port == 0 or "\\" in rest:
        raise InputError(f"{name} has no host, or port 0")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def open_transport(
    target: Target,
    *,
    aws: Any = None,
    url: str | None = None,
    api_key: str | None = None,
    connections: int = 10,
    environ: Mapping[str, str] = os.environ,
) -> Transport:
    """The transport to a target. ``aws`` and ``url`` are SageMaker's session and endpoint; ``api_key`` is any server's.

    Jina's own key is never sent to another server: without ``api_key``, one of your own is asked without a key.
    """
    if target.kind == "sagemaker":
        from jina_sm.transport.sagemaker import SageMakerTransport

        return SageMakerTransport(*_endpoint(target), aws=aws, url=url, connections=connections)
    from jina_sm.transport.http import HttpTransport

    address, key = _server(target, api_key, environ)
    return HttpTransport(address, api_key=key, connections=connections)


def open_async(
    target: Target,
    *,
    aws: Any = None,
    url: str | None = None,
    api_key: str | None = None,
    connections: int = 10,
    environ: Mapping[str, str] = os.environ,
) -> AsyncTransport:
    """As ``open_transport``, for one event loop. Raises MissingExtraError without aiohttp."""
    from jina_sm.transport.aio import AsyncHttpTransport, AsyncSageMakerTransport

    if target.kind == "sagemaker":
        return AsyncSageMakerTransport(*_endpoint(target), aws=aws, url=url, connections=connections)
    address, key = _server(target, api_key, environ)
    return AsyncHttpTransport(address, api_key=key, connections=connections)


def _endpoint(target: Target) -> tuple[str, str]:
    assert target.endpoint_name is not None
    assert target.region is not None
    return target.endpoint_name, target.region


def _server(target: Target, api_key: str | None, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """A server's address and the key for it."""
    if target.url is not None:
        return target.url, api_key
    key = api_key or environ.get("JINA_API_KEY")
    if not key:
        raise InputError("JINA_API_KEY is not set", cure="https://jina.ai gives keys: export JINA_API_KEY=jina_...")
    return checked_url(environ.get("JINA_API_URL") or JINA_API, "JINA_API_URL"), key


def _model(query: str) -> str:
    said = urllib.parse.parse_qsl(query, keep_blank_values=True)
    if {name for name, _ in said} - {"model"}:
        raise _wrong("it has more after the ? than model=KEY")
    if len(said) != 1:
        raise _wrong("it names no model" if not said else "it names more than one model")
    return said[0][1]


def _check_secrets(rest: str, name: str = "a target") -> None:
    if "@" in rest:
        raise InputError(
            f"{name} holds no user and password", cure="Take out what stands before the @, and change that password."
        )


def _wrong(why: str) -> InputError:
    return InputError(f"this is no target: {why}", cure=f"A target is {FORMS}.")
