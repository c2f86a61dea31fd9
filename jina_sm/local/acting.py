"""
Faults, acted out on the wire. What strikes is decided in faults.py; here it waits, breaks and alters.

A paused call holds up nobody else. If its caller leaves before it has taken effect, it never does: so a run that is
ended there has ended just before that call.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from typing import Any

import orjson

from jina_sm.errors import InputError
from jina_sm.local import eventstream
from jina_sm.local.faults import Faults, Tally, told
from jina_sm.local.protocol import Receive, Refusal, Reply, Send, service
from jina_sm.local.visible import Visibility

# Errors that every service of AWS may answer with, beside those of its own; of any other status a nameless one.
_COMMON: Mapping[int, str] = {
    400: "ValidationException",
    403: "AccessDeniedException",
    429: "ThrottlingException",
    500: "InternalFailure",
    503: "ServiceUnavailable",
}


class Stage:
    """The faults of one stack, and who waits in them. ``operations``: all that there are to strike."""

    def __init__(self, operations: Callable[[], Set[str]]) -> None:
        self._operations = operations
        self.faults = Faults()
        self.visible = Visibility()
        self._held: dict[int, set[asyncio.Event]] = defaultdict(set)

    def door(self, method: str, path: str, body: bytes) -> Reply:
        """``/_jina/faults``, where faults are added, listed and cleared, and ``/_jina/release``."""
        match (method, path):
            case ("POST", "/_jina/faults"):
                try:
                    said: Any = {"id": self.faults.add(orjson.loads(body), self._operations())}
                except (InputError, TypeError, ValueError) as error:
                    return Reply(orjson.dumps({"message": str(error)}), 400)
            case ("GET", "/_jina/faults"):
                said = {"faults": [told(each, len(self._held[each.number])) for each in self.faults.tallies]}
            case ("DELETE", "/_jina/faults"):
                self.clear()
                said = {}
            case ("POST", "/_jina/release"):
                said = {"released": self.release()}
            case _:
                return Reply(b'{"message": "no such page"}', 404)
        return Reply(orjson.dumps(said))

    def release(self) -> int:
        """Lets every waiting call go on; how many there were."""
        held = [event for events in self._held.values() for event in events]
        for event in held:
            event.set()
        return len(held)

    def clear(self) -> None:
        self.faults.clear()
        self.visible.clear()
        self.release()

    async def before(self, firing: list[Tally], name: str, receive: Receive, send: Send) -> Reply | Refusal | None:
        """What a call to a service meets on its way in: an answer of its own, or ``GONE``; None: it goes on."""
        for tally in firing:
            fault = tally.fault
            match fault.kind:
                case "stall":
                    await self._wait(tally, receive, send, fault.seconds)
                case "pause" if fault.when == "before":
                    if not await self._wait(tally, receive, send, None):
                        return GONE
                case "reset":
                    await _break(send, receive)
                    return GONE
                case "throttle":
                    return _throttled(name, fault.status)
                case "error":
                    status = fault.status or 500
                    words = fault.reason or f"The local stack answers {status}, as it was asked to."
                    return Refusal(_code(name, status), words, status=status)
        return None

    async def after(self, firing: list[Tally], reply: Reply, receive: Receive, send: Send) -> Reply:
        """The answer as it goes out; or ``GONE``."""
        for tally in firing:
            kind = tally.fault.kind
            if kind == "pause" and tally.fault.when == "after":
                await self._wait(tally, receive, send, None)
            elif kind == "truncate":
                await sent(send, reply, part=len(reply.body) // 2)
                await _break(send, receive, politely=True)
                return GONE
        return reply

    async def _wait(self, tally: Tally, receive: Receive, send: Send, seconds: float | None) -> bool:
        """Until released, or so long. False: the caller has left."""
        released, left = asyncio.Event(), asyncio.ensure_future(receive())
        self._held[tally.number].add(released)
        waiting = asyncio.ensure_future(released.wait())
        try:
            await asyncio.wait({waiting, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return not left.done()
        except asyncio.CancelledError:  # the stack goes down; a stack that is gone answers nothing
            _abort(send)
            raise
        finally:
            waiting.cancel()
            left.cancel()
            self._held[tally.number].discard(released)


GONE = Reply(status=0)
"""Nobody is there to be answered."""


async def sent(send: Send, reply: Reply, *, part: int | None = None) -> None:
    """Sends an answer, or only so many bytes of it."""
    headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    if reply.headers.get("Content-Type") != eventstream.CONTENT_TYPE:  # a stream is sent in chunks, as it is by AWS
        headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body[:part], "more_body": part is not None})


async def _break(send: Send, receive: Receive, *, politely: bool = False) -> None:
    """Ends the connection: at once, with a TCP reset, or after what is already on its way."""
    if politely:
        _transport(send).close()
    else:
        _abort(send)
    while (await receive())["type"] != "http.disconnect":
        pass


def _abort(send: Send) -> None:
    transport = _transport(send)
    linger = struct.pack("ii", 1, 0)  # on, for no time: what is unsent is dropped, and the other side is told
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def _transport(send: Send) -> Any:
    # ASGI has no word for hanging up. uvicorn's send is a method of what holds the transport.
    return send.__self__.transport  # type: ignore[attr-defined]


def _throttled(name: str, status: int | None) -> Refusal:
    """What a service says to who asks too often; SageMaker's own models say nothing of it, and it is this."""
    found = {shape.error_code: shape for shape in service(name).error_shapes}
    code = next((each for each in ("ThrottlingException", "TooManyRequestsException") if each in found), None)
    modelled = found[code].metadata.get("error", {}).get("httpStatusCode") if code else None
    return Refusal(code or "ThrottlingException", "Rate exceeded", status=status or modelled or 400)


def _code(name: str, status: int) -> str:
    """What a service calls an error of that status."""
    if status == 403 and service(name).metadata["protocol"] == "query":
        return "AccessDenied"  # as IAM says, whose own description has other errors of that status
    for shape in service(name).error_shapes:
        if shape.metadata.get("error", {}).get("httpStatusCode") == status:
            return str(shape.error_code)
    return _COMMON.get(status, "")
