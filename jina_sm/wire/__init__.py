"""
Values to bytes and back, one module a family, no I/O. Containers speak their model's dialect, Jina's API its own.

Each dialect speaks both directions: ``encode_request`` and ``decode_response`` for a client, ``decode_request``
and ``encode_response`` for whoever answers, so one property test covers both ends. A decoder checks count and order
and never hands back a wrong row; an encoder refuses what the model could not be told, rather than leave it out.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import orjson

from jina_sm.errors import InputError, ProtocolError

if TYPE_CHECKING:
    from jina_sm.catalog import Model

_FAMILIES = {
    "embeddings-v2": "embeddings",
    "embeddings-v3": "embeddings",
    "embeddings-v4": "embeddings",
    "embeddings-v5": "embeddings",
    "embeddings-code": "embeddings",
    "clip-v1": "embeddings",
    "clip-v2": "embeddings",
    "colbert": "embeddings",
    "reranker-v2": "rerankers",
    "reranker-v3": "rerankers",
    "reranker-m0": "rerankers",
    "reader": "readers",
    "reader-v2": "readers",
}
WIRES = ("container", "api")
_Asked = TypeVar("_Asked")
_Told = TypeVar("_Told")


class Unacceptable(ValueError):
    """A request body of another family, or of none. ``detail`` is what the container's schema check answers."""

    def __init__(self, *path: str | int, message: str, kind: str = "value_error") -> None:
        super().__init__(message)
        self.detail = [{"loc": ["body", *path], "msg": message, "type": kind}]


class Dialect(Protocol, Generic[_Asked, _Told]):
    """What every dialect offers."""

    @property
    def generation(self) -> str:
        """Of the container: A is Jina's own server, B its OpenAI-like one (as is the API), C is vLLM."""

    @property
    def path(self) -> str:
        """Where an HTTP server takes such requests."""

    @property
    def takes(self) -> Mapping[str, str]:
        """The request's optional fields that the model can be told, each with its name on the wire."""

    def encode_request(self, request: _Asked) -> bytes:
        """Raises InputError for what cannot be said in this dialect."""

    def decode_request(self, body: bytes) -> _Asked:
        """Raises Unacceptable."""

    def encode_response(self, request: _Asked, told: _Told) -> bytes: ...

    def decode_response(self, request: _Asked, body: bytes) -> _Told:
        """Raises ProtocolError unless the body answers the request, item for item."""


def dialect(model: Model, *, wire: str = "container") -> Dialect[Any, Any]:
    """The dialect of the model's ``container``, or of Jina's ``api`` for it. Raises InputError where there is none."""
    if wire not in WIRES:
        raise InputError(f"a wire is {' or '.join(WIRES)}, not {wire!r}")
    if model.dialect not in _FAMILIES:
        raise InputError(
            f"{model.key} speaks the dialect {model.dialect!r}, which this version does not",
            cure=f"It speaks {', '.join(_FAMILIES)}. The model can be deployed all the same.",
        )
    family = importlib.import_module(f"jina_sm.wire.{'api' if wire == 'api' else _FAMILIES[model.dialect]}")
    if model.dialect not in family.DIALECTS:
        raise InputError(
            f"{model.key} is not to be had over Jina's API",
            cure=f"Deploy it (`jina-sm deploy {model.key}`) and ask its endpoint.",
        )
    spoken: Dialect[Any, Any] = dataclasses.replace(family.DIALECTS[model.dialect], model=model.key)
    return spoken


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
    return expect(asked, dict)


def named(asked: Mapping[str, Any], model: str) -> None:
    """Raises Unacceptable unless the request is for that model."""
    if asked.get("model") != model:
        raise Unacceptable("model", message=f"the model here is {model}, not {asked.get('model')!r}")


_Kind = TypeVar("_Kind", str, bool, dict[str, Any], list[Any])


def expect(given: Any, kind: type[_Kind], *path: str | int) -> _Kind:
    """What stands at a path of a request, if it is of that kind and not empty. Raises Unacceptable."""
    if given is None:
        raise Unacceptable(*path, message="field required", kind="value_error.missing")
    if not isinstance(given, kind):
        raise Unacceptable(*path, message=f"{kind.__name__} type expected", kind=f"type_error.{kind.__name__}")
    if given == []:
        raise Unacceptable(*path, message="ensure this value has at least 1 items", kind="value_error.list.min_items")
    return given


def whole(given: Any, *path: str | int) -> int:
    """A whole number in a request, also as 3.0. Raises Unacceptable."""
    if isinstance(given, bool) or not isinstance(given, int | float) or given % 1 != 0:
        raise Unacceptable(*path, message="value is not a valid integer", kind="type_error.integer")
    return int(given)
