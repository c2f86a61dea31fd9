"""
Values to bytes and back, one module a dialect, no I/O.

Each dialect speaks both directions: ``encode_request`` and ``decode_response`` for a client, ``decode_request``
and ``encode_response`` for whoever answers, so one property test covers both ends. A decoder checks count and order
and never hands back a wrong row.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import orjson

from jina_sm.errors import InputError, ProtocolError

if TYPE_CHECKING:
    from jina_sm.catalog import Model
    from jina_sm.values import Rows

_MODULES = {"embeddings-v3": "embeddings_v3", "reranker-v2": "reranker_v2"}
_Asked = TypeVar("_Asked")


class Unacceptable(ValueError):
    """A request body of another family, or of none. ``detail`` is what the container's schema check answers."""

    def __init__(self, *path: str | int, message: str, kind: str = "value_error") -> None:
        super().__init__(message)
        self.detail = [{"loc": ["body", *path], "msg": message, "type": kind}]


class Dialect(Protocol, Generic[_Asked]):
    """What a dialect's module offers."""

    def encode_request(self, request: _Asked) -> bytes: ...

    def decode_request(self, body: bytes) -> _Asked:
        """Raises Unacceptable."""

    def encode_response(self, request: _Asked, rows: Rows) -> bytes: ...

    def decode_response(self, request: _Asked, body: bytes) -> Rows:
        """Raises ProtocolError unless the body answers the request, item for item."""


def dialect(model: Model) -> Dialect[Any]:
    """The module that speaks as the model does. Raises InputError for a dialect not yet spoken."""
    if model.dialect not in _MODULES:
        raise InputError(
            f"{model.key} speaks the dialect {model.dialect!r}, which this version does not",
            cure=f"It speaks {', '.join(_MODULES)}. The model can be deployed all the same.",
        )
    return importlib.import_module(f"jina_sm.wire.{_MODULES[model.dialect]}")


def weight(text: str) -> int:
    """Bytes that a text adds to a request of any dialect."""
    return len(orjson.dumps({"text": text})) + 1


def parse(body: bytes) -> Any:
    """The JSON in an answer. Raises ProtocolError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"the answer is not JSON ({error}; {len(body)} bytes, begins {body[:40]!r})") from None


def parse_request(body: bytes) -> dict[str, Any]:
    """The JSON object in a request. Raises Unacceptable."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unacceptable(message=str(error), kind="value_error.jsondecode") from None
    if not isinstance(asked, dict):
        raise Unacceptable(message="value is not a valid dict", kind="type_error.dict")
    return asked


def text_in(item: Any, *path: str | int) -> str:
    """The text of an item ``{"text": ...}`` of a request. Raises Unacceptable."""
    if not isinstance(item, dict):
        raise Unacceptable(*path, message="value is not a valid dict", kind="type_error.dict")
    text = item.get("text")
    if text is None:
        raise Unacceptable(*path, "text", message="field required", kind="value_error.missing")
    if not isinstance(text, str):
        raise Unacceptable(*path, "text", message="str type expected", kind="type_error.str")
    return text
