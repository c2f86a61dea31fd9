"""
The seam: bytes to an endpoint and back.

``Transport.send(Request) -> Response`` is all that a network is to the rest. A transport answers what the model
answered, or raises one of our errors, translated by one table at its own edge. A fake is a class with that method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Request:
    """One body for the model's container."""

    body: bytes
    content_type: str = "application/json"
    accept: str = "application/json"


@dataclass(frozen=True)
class Response:
    """What the container answered."""

    body: bytes
    request_id: str | None = None


class Transport(Protocol):
    """Where requests go. ``send`` is called from several threads at once."""

    def send(self, request: Request) -> Response:
        """Raises InvocationError or AuthError."""

    def close(self) -> None: ...
