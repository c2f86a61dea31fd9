"""
A server over HTTP: Jina's API, or one of your own.

What its answers and its silence mean is said here once, for this transport on threads and for the one in ``aio``.
urllib3 comes with botocore. It neither retries nor follows redirects: the one retry loop is ours, and the key goes
to the server that was named and to no other.
"""

from __future__ import annotations

import os
import re
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from jina_sm import errors
from jina_sm.errors import InputError
from jina_sm.transport import Request, Response
from jina_sm.transport.session import line
from jina_sm.transport.target import checked_url
from jina_sm.wire import WIRES

if TYPE_CHECKING:
    import ssl

    import urllib3

READ_TIMEOUT_S = 70.0
CONNECT_TIMEOUT_S = 5.0
USER_AGENT = "jina_sm"
BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")

STATUS: Mapping[int, type[errors.InvocationError | errors.AuthError]] = {
    400: errors.BadRequestError,
    401: errors.AuthError,
    402: errors.AuthError,
    403: errors.AuthError,
    404: errors.EndpointNotFoundError,
    405: errors.EndpointNotFoundError,
    408: errors.ModelTimeoutError,
    413: errors.PayloadTooLargeError,
    422: errors.BadRequestError,
    429: errors.ThrottledError,
    500: errors.ModelFailedError,
    502: errors.ModelUnavailableError,
    503: errors.ModelUnavailableError,
    504: errors.ModelTimeoutError,
}


@dataclass(frozen=True)
class Server:
    """A server as both transports know it: where it is, who asks, and what it means by its answers."""

    base_url: str
    wire: str = "api"
    api_key: str | None = field(default=None, repr=False)
    region: str | None = None
    read_timeout_s: float = READ_TIMEOUT_S

    def __post_init__(self) -> None:
        if self.wire not in WIRES:
            raise InputError(f"a wire is {' or '.join(WIRES)}, not {self.wire!r}")
        url = checked_url(self.base_url)
        # Addresses for OpenAI's client end in /v1, which here is the dialect's to say.
        object.__setattr__(self, "base_url", url.removesuffix("/v1") if self.wire == "api" else url)
        if self.api_key is not None:
            key = self.api_key.strip()
            if not re.fullmatch(r"[!-~]+", key):
                raise InputError("the API key is empty, or has characters that no key has", cure="Copy it again.")
            object.__setattr__(self, "api_key", key)

    @property
    def name(self) -> str:
        return self.base_url.partition("://")[2]

    @property
    def facts(self) -> dict[str, Any]:
        return {"target": self.name, "region": self.region}

    def headers(self, request: Request) -> dict[str, str]:
        said = {
            "Content-Type": request.content_type,
            "Accept": request.accept,
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
        }
        return said | ({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> Response:
        """The answer; its header names are lower case. Raises what another status than 2xx means."""
        if 200 <= status < 300:
            return Response(body, headers.get("x-request-id"), headers)
        message, code, request_id = said(body)
        if self.api_key:
            message = message.replace(self.api_key, "***")  # a refusal may repeat the key it refuses
        kind, cure = STATUS.get(status), None
        if kind is None:
            kind = errors.BadRequestError if status < 500 else errors.ModelUnavailableError
        if 300 <= status < 400:
            to = urllib.parse.urlsplit(headers.get("location", ""))
            message, cure = (
                f"a redirect to {to.hostname or 'another page'}",
                "Redirects aren't followed: name the server.",
            )
        elif status == 402:
            cure = "The key's balance is used up: https://jina.ai adds to it, or set another JINA_API_KEY."
        elif kind is errors.AuthError:
            cure = "Check JINA_API_KEY, or the api_key that was given; https://jina.ai gives keys."
        elif kind is errors.EndpointNotFoundError:
            cure = f"Check the address ({self.base_url}) and whether the model is served there."
        raise kind(
            f"the server answered: {message}".rstrip("."),
            cure=cure,
            status=status,
            code=code,
            request_id=headers.get("x-request-id") or request_id,
            retry_after_s=retry_after_s(headers),
            **self.facts,
        )


class HttpTransport:
    """One server. The connections are made when first needed and shared by all threads."""

    def __init__(
        self,
        base_url: str,
        *,
        wire: str = "api",
        api_key: str | None = None,
        region: str | None = None,
        connections: int = 10,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.server = Server(base_url, wire, api_key, region, read_timeout_s)
        self._connections = connections
        self._made: urllib3.PoolManager | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"HttpTransport({self.server.base_url!r})"

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def region(self) -> str | None:
        return self.server.region

    @property
    def wire(self) -> str:
        return self.server.wire

    def instances(self) -> None:
        """Nobody tells."""

    def send(self, request: Request) -> Response:
        import urllib3.exceptions

        server = self.server
        try:
            answer = self._pool().request(
                "POST",
                server.base_url + request.path,
                body=request.body,
                headers=server.headers(request),
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=server.read_timeout_s),
                redirect=False,
                retries=False,
            )
        except urllib3.exceptions.ReadTimeoutError as error:
            raise unanswered(server.read_timeout_s, **server.facts) from error
        except urllib3.exceptions.SSLError as error:
            raise untrusted(server.name, error, **server.facts) from error
        except urllib3.exceptions.HTTPError as error:
            raise unreachable(server.name, error, **server.facts) from error
        return server.answered(
            answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.data
        )

    def close(self) -> None:
        if self._made is not None:
            close(self._made)

    def _pool(self) -> urllib3.PoolManager:
        with self._lock:
            if self._made is None:
                self._made = pool(self.server.base_url, self._connections)
            return self._made


def pool(url: str, connections: int = 1) -> urllib3.PoolManager:
    """Connections towards a URL, through the proxy and with the certificates that the environment names."""
    import urllib3

    more: dict[str, Any] = {"ssl_context": trust()} if url.startswith("https:") else {}
    more |= {"maxsize": connections, "block": True}
    if proxy := proxy_of(url):
        user, _, _ = proxy.partition("://")[2].rpartition("@")
        told = urllib3.make_headers(proxy_basic_auth=urllib.parse.unquote(user)) if user else None
        return urllib3.ProxyManager(proxy.replace(f"{user}@", "", 1), proxy_headers=told, **more)
    return urllib3.PoolManager(**more)


def close(connections: urllib3.PoolManager) -> None:
    """Closes them all; clear() alone leaves that to the garbage collector."""
    for each in [connections.pools[key] for key in connections.pools.keys()]:  # noqa: SIM118  it is no dict
        each.close()
    connections.clear()


def said(body: bytes) -> tuple[str, str | None, str | None]:
    """An error's message, code and request id, in whatever shape the server says them."""
    try:
        told: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = re.sub(r"<[^>]*>", " ", body[:4000].decode(errors="replace"))  # a gateway's page
        return " ".join(text.split())[:500] or "no reason given", None, None
    outer = told if isinstance(told, dict) else {}
    detail = outer.get("detail") or outer.get("error") or outer.get("message") or told
    inner = detail if isinstance(detail, dict) else {}
    message: Any = inner.get("message") or detail
    wrong = outer.get("errors") or detail
    if isinstance(wrong, list) and wrong:
        each = "; ".join(_field(one) for one in wrong)
        message = f"{message}: {each}" if isinstance(message, str) else each
    text = message if isinstance(message, str) else orjson.dumps(message).decode()
    code, request_id = (inner.get(name, outer.get(name)) for name in ("code", "request_id"))
    return (
        line(text)[:500],
        code if isinstance(code, str) else None,
        request_id if isinstance(request_id, str) else None,
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by a Retry-After of seconds or of a date, which is measured from the server's own."""
    wait = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", wait):
        return float(wait)
    try:
        then, now = parsedate_to_datetime(wait), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return None


def unanswered(seconds: float, **facts: Any) -> errors.ModelTimeoutError:
    return errors.ModelTimeoutError(f"no answer within {seconds:g} s", **facts)


def unreachable(who: str, error: Exception, **facts: Any) -> errors.ModelUnavailableError:
    return errors.ModelUnavailableError(f"{who} could not be reached: {line(error)}", **facts)


def untrusted(who: str, error: Exception, **facts: Any) -> errors.ModelUnavailableError:
    cure = f"The certificate of an authority of your own goes into a file that {BUNDLES[-1]} names."
    return errors.ModelUnavailableError(f"no secure connection to {who}: {line(error)}", cure=cure, **facts)


def trust(bundle: str | None = None, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Who is believed: the authorities of a file or folder, else of the BUNDLES variables, else the system's."""
    import ssl

    bundle = bundle or next((environ[name] for name in BUNDLES if environ.get(name)), None)
    try:
        if bundle:
            folder = os.path.isdir(bundle)
            return ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
    except OSError as error:
        raise InputError(f"the certificates in {bundle!r} cannot be read: {error}") from None
    context = ssl.create_default_context()
    if not context.get_ca_certs():  # a Python that knows none of its system's
        import botocore.httpsession

        context.load_verify_locations(botocore.httpsession.get_cert_path(True))
    return context


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a server, with its user and password if any. Raises InputError."""
    from urllib.request import getproxies, proxy_bypass

    parts, proxies = urllib.parse.urlsplit(url), getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all")
    if not named or proxy_bypass(parts.netloc):
        return None
    scheme, _, rest = (named if "://" in named else f"http://{named}").partition("://")
    if scheme.lower() not in ("http", "https"):
        raise InputError(f"the environment names a {scheme} proxy, and only http(s) ones are spoken to")
    return f"{scheme.lower()}://{rest}"


def _field(wrong: Any) -> str:
    """One finding of a server's schema check."""
    if not isinstance(wrong, dict):
        return str(wrong)
    where = wrong.get("field") or wrong.get("loc") or ""
    where = ".".join(map(str, where)) if isinstance(where, list) else where
    what = wrong.get("message") or wrong.get("msg") or "wrong"
    return f"{where}: {what}" if where else str(what)
