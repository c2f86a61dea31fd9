"""
Frames of application/vnd.amazon.eventstream, in which InvokeEndpointWithResponseStream answers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

CONTENT_TYPE = "application/vnd.amazon.eventstream"
PART = 16_384
"""Bytes of the container's answer in one frame."""
PIECE = 250
"""The same where the container answers in a stream of its own: an event or two, cut anywhere."""


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message; every header is a string (type 7)."""
    spelled = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(spelled) + len(payload), len(spelled))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    message = prelude + spelled + payload
    return message + struct.pack("!I", zlib.crc32(message))


def parts(body: bytes, size: int = PART) -> Iterator[bytes]:
    """The container's answer as payload parts of at most ``size`` bytes."""
    kind = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
    for start in range(0, len(body), size):
        yield frame(kind, body[start : start + size])


def exception(kind: str, payload: bytes) -> bytes:
    """An error after the stream has begun."""
    headers = {":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}
    return frame(headers, payload)
