"""
The seam: bytes to an endpoint and back.

``Transport.send(Request) -> Response`` is all that a network is to the rest. A transport answers what the model
answered, or raises one of our errors, translated by one table at its own edge. A fake is a class with that method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

STAND_IN = "x-jina-sm-stand-in"
"""The header by which our own servers say that it was no model of Jina's that answered."""


@dataclass(frozen=True)
class Request:
    """One body for the model. ``path`` is where an HTTP server takes it; SageMaker has no paths."""

    body: bytes
    content_type: str = "application/json"
    accept: str = "application/json"
    path: str = "/invocations"


@dataclass(frozen=True)
class Response:
    """What the model answered. Header names are lower case."""

    body: bytes
    request_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport(Protocol):
    """Where requests go. ``send`` is called from several threads at once.

    ``name`` is the target in an error or a log, ``region`` where it is, if it is anywhere. ``wire``: which dialects
    are spoken there, those of the model's ``container`` or that of Jina's public ``api``.
    """

    @property
    def name(self) -> str: ...

    @property
    def region(self) -> str | None: ...

    @property
    def wire(self) -> str: ...

    def send(self, request: Request) -> Response:
        """Raises InvocationError or AuthError."""

    def instances(self) -> int | None:
        """How many instances answer there; None where that cannot be known. Takes a request to find out."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same for one event loop."""

    @property
    def name(self) -> str: ...

    @property
    def region(self) -> str | None: ...

    @property
    def wire(self) -> str: ...

    async def send(self, request: Request) -> Response:
        """Raises InvocationError or AuthError."""

    async def instances(self) -> int | None: ...

    async def close(self) -> None: ...
