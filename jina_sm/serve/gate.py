"""
What every request passes before it is read: who asks, how much they send, and how long they take to send it.

Nothing is parsed here. A request gets an id, a line in the log, and an answer whatever happens: one whose caller hangs
up is ended, and what nobody foresaw is a 500 that tells nothing of itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import orjson

from jina_sm.serve.backend import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health", "/live", "/ready", "/ping", "/metrics", "/openapi.json"})
"""What orchestrators ask, who have no key."""
PART = 64 * 1024
"""Bytes of an answer that are handed over at a time: what nobody reads is then not all in the socket's memory."""
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_access = logging.getLogger("jina_sm.serve.access")
_log = logging.getLogger(__name__)


class Keys:
    """The API keys, as digests. None: everybody may ask."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def caller(self, authorization: bytes, address: str) -> str | None:
        """Who asks: by their key, or by their address where there are none; None: nobody who may."""
        if not self._digests:
            return address
        scheme, _, key = authorization.partition(b" ")
        given = hashlib.sha256(key.strip()).digest()
        # Every key is compared, and whole, so that the time it takes says nothing of them.
        same = [hmac.compare_digest(given, digest) for digest in self._digests]
        return f"key {same.index(True) + 1}" if any(same) and scheme.lower() == b"bearer" else None


class Gate:
    """An ASGI app around another. ``draining()`` says whether connections are to be closed after their answer."""

    def __init__(
        self,
        app: App,
        *,
        keys: Sequence[str] = (),
        max_body_bytes: int = 8 * 1024 * 1024,
        max_open_bytes: int = 256 * 1024 * 1024,
        body_timeout_s: float = 20.0,
        access_log: bool = True,
        draining: Callable[[], bool] = lambda: False,
        on_request: Callable[[str, int, float], object] = lambda path, status, seconds: None,
        paths: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._keys = Keys(keys)
        self._max_body_bytes = max_body_bytes
        self._max_open_bytes = max_open_bytes
        self._body_timeout_s = body_timeout_s
        self._access_log = access_log
        self._draining = draining
        self._on_request = on_request
        self._paths = paths
        self.open_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none here, and one added to the app would pass unasked
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Passage(self, scope, receive, send).go()


class _Passage:
    """One request on its way."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate = gate
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: Mapping[bytes, bytes] = dict(scope["headers"])
        given = self._headers.get(b"x-request-id", b"")
        self._id = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        self._began = time.monotonic()
        self._read = 0
        self._held = 0
        self._wrote = 0
        self._whole = False
        self._status = 0
        self._caller = "-"

    async def go(self) -> None:
        gate, path = self._gate, self._scope["path"]
        try:
            try:
                await self._pass(path)
            except Refusal as refusal:
                await answer(self._told, refusal, self._id)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Where it was raised, and not its message, which may repeat a text.
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("request %s: %s\n%s", self._id, type(error).__name__, where)
            if not self._status:
                await answer(self._told, Refusal(500, "an error of this server's own", code="internal"), self._id)
        finally:
            gate.open_bytes -= self._held
            seconds = time.monotonic() - self._began
            known = path if path in gate._paths else "other"  # or anybody could make labels without end
            gate._on_request(known, self._status or 499, seconds)
            if gate._access_log and path not in OPEN_PATHS:
                self._note(path, seconds)

    async def _pass(self, path: str) -> None:
        gate = self._gate
        client = self._scope.get("client")
        caller = gate._keys.caller(self._headers.get(b"authorization", b""), client[0] if client else "")
        # Only to be looked at: whoever may post there without a key could fill the memory with bodies.
        is_open = path in OPEN_PATHS and self._scope["method"] in ("GET", "HEAD")
        if caller is None and not is_open:
            raise Refusal(401, "an API key is needed: Authorization: Bearer KEY", code="invalid_api_key")
        self._caller = caller or "-"
        self._scope.setdefault("state", {})
        self._scope["state"] |= {"caller": self._caller, "request_id": self._id}
        if self._scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await gate._app(self._scope, self._receive, self._told)
            return
        body = await self._body()
        self._scope["state"]["body"] = body
        self._began = time.monotonic()
        work = asyncio.ensure_future(gate._app(self._scope, _Once(body), self._told))
        hung_up = asyncio.ensure_future(self._hung_up())
        try:
            await asyncio.wait((work, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if work.done() or self._whole:  # what goes on after its answer is whole was meant to
                await work
        finally:
            for task in (work, hung_up):
                if not task.done():
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    async def _body(self) -> bytes:
        """All of it, within the limits. Raises Refusal."""
        most = self._gate._max_body_bytes
        said = self._headers.get(b"content-length", b"")
        if said.isdigit() and (len(said) > 18 or int(said) > most):
            raise _too_large(most)
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._gate._body_timeout_s):
                more = True
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the connection was closed before the body was whole", code="incomplete")
                    part = message.get("body", b"")
                    self._read += len(part)
                    if self._read > most:
                        raise _too_large(most)
                    self._hold(len(part))
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            seconds = self._gate._body_timeout_s
            raise Refusal(408, f"the body did not arrive within {seconds:g} s", code="body_timeout") from None
        return b"".join(parts)

    def _hold(self, size: int) -> None:
        gate = self._gate
        if gate.open_bytes and gate.open_bytes + size > gate._max_open_bytes:
            raise Refusal(429, "too many bodies are being worked on", code="overloaded", retry_after_s=1)
        gate.open_bytes += size
        self._held += size

    async def _hung_up(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _told(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self._id.encode())]
            if self._gate._draining() or self._status == 408:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
            await self._send(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        for start in range(0, max(1, len(body)), PART):
            part = body[start : start + PART]
            last = start + PART >= len(body)
            self._whole = last and not more
            self._wrote += len(part)
            async with asyncio.timeout(self._gate._body_timeout_s):  # whoever asks and never reads is not waited for
                await self._send({**message, "body": part, "more_body": more or not last})

    def _note(self, path: str, seconds: float) -> None:
        said = {
            "time": round(time.time(), 3),
            "request_id": self._id,
            "caller": self._caller,
            "method": self._scope["method"],
            "path": path[:200],
            "status": self._status or 499,  # the caller hung up
            "ms": round(seconds * 1000, 1),
            "bytes_in": self._read,
            "bytes_out": self._wrote,
        }
        _access.info("%s", orjson.dumps(said).decode())


class _Once:
    """A body that is there already, for whoever asks once more."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()  # who asks again waits to hear that the caller hung up; the gate sees to that
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def answer(send: Send, refusal: Refusal, request_id: str) -> None:
    """A refusal on its way out."""
    headers = [(b"content-type", b"application/json"), *refused_headers(refusal)]
    body = refused_body(refusal, request_id)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def refused_body(refusal: Refusal, request_id: str) -> bytes:
    """An error as OpenAI's clients read it, and as FastAPI's and Jina's do."""
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error"
    )
    error = {"message": refusal.message, "type": kind, "code": refusal.code, "param": refusal.param}
    return orjson.dumps({"error": error, "detail": refusal.message, "request_id": request_id})


def refused_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    headers = []
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, round(refusal.retry_after_s))).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"a body has at most {most} bytes here; send fewer texts at once", code="too_large")
