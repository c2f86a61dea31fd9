"""
AWS's wire, from botocore's own description of each service.

What a request must look like is read from the same model that boto3 makes its requests from, so a refusal here is
worded as AWS words it and no list of names or types is kept twice. JSON 1.0, JSON 1.1 and REST-JSON only.
"""

from __future__ import annotations

import base64
import functools
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import botocore
import botocore.loaders
import botocore.model
import orjson

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
Asked = dict[str, Any]
Answer = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    """One HTTP answer."""

    body: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An error as AWS answers it: its code, its words, its status, and members beside the message."""

    def __init__(self, code: str, message: str, *, status: int = 400, **members: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.members = members


def invalid(message: str, **members: Any) -> Refusal:
    """AWS's ValidationException, which stands for a dozen things; the message says which."""
    return Refusal("ValidationException", message, **members)


@functools.cache
def service(name: str) -> Any:
    """botocore's model of a service."""
    loader = botocore.loaders.create_loader()
    return botocore.model.ServiceModel(loader.load_service_model(name, "service-2"), name)


def answer(name: str, operation: str, body: bytes, operations: object) -> Reply:
    """One call of a service: read, checked, done, and answered, or refused in the service's own format.

    ``operations`` has the operations as its methods, named as boto3 names them.
    """
    try:
        act = getattr(operations, botocore.xform_name(operation), None)
        if act is None or operation not in service(name).operation_names:
            raise Refusal("UnknownOperationException", f"the local stack does not know {name} {operation}")
        asked = _read(body)
        check(service(name).operation_model(operation).input_shape, asked)
        return Reply(orjson.dumps(act(asked)), 200, _headers(name))
    except Refusal as error:
        return refused(name, error)
    except Exception as error:
        _log.exception("%s %s", name, operation)
        return refused(name, Refusal("InternalFailure", f"the local stack failed: {error!r}", status=500))


def refused(name: str, error: Refusal) -> Reply:
    """The error in the format of a service; one without a name is known by its status alone."""
    said = {"message": error.message, **error.members}
    if not error.code:
        return Reply(orjson.dumps(said), error.status, _headers(name))
    named = {"__type": error.code, **said}
    return Reply(orjson.dumps(named), error.status, {**_headers(name), "x-amzn-ErrorType": error.code})


def check(shape: Any, asked: Asked) -> None:
    """Raises the ValidationException that AWS raises for what does not satisfy its model."""
    found = list(_violations(shape, asked, ""))
    if found:
        plural = "error" if len(found) == 1 else "errors"
        raise invalid(f"{len(found)} validation {plural} detected: {'; '.join(found)}")


def page(
    items: Iterable[_Item],
    key: Callable[[_Item], list[Any]],
    asked: Asked,
    *,
    most: int,
    spelled: tuple[str, str] = ("nextToken", "maxResults"),
    descending: bool = False,
) -> tuple[list[_Item], Answer]:
    """The items after those already seen, in order of their keys, and the part of the answer that leads on.

    A token holds the last key, not a position: what is deleted between two pages moves nothing.
    """
    ordered = sorted(items, key=key, reverse=descending)
    if token := asked.get(spelled[0]):
        try:
            last = orjson.loads(base64.b64decode(token, validate=True))
            ordered = [item for item in ordered if (key(item) < last if descending else key(item) > last)]
        except (ValueError, TypeError):
            raise invalid("Invalid NextToken.") from None
    size = asked.get(spelled[1], most)
    if len(ordered) <= size:
        return ordered, {}
    return ordered[:size], {spelled[0]: base64.b64encode(orjson.dumps(key(ordered[size - 1]))).decode()}


def _headers(name: str) -> dict[str, str]:
    version = service(name).metadata.get("jsonVersion")
    kind = f"application/x-amz-json-{version}" if version else "application/json"
    return {"Content-Type": kind, "x-amzn-RequestId": str(uuid.uuid4())}


def _read(body: bytes) -> Asked:
    try:
        asked = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        asked = None
    if not isinstance(asked, dict):
        raise Refusal("SerializationException", "the request is not a JSON object")
    return asked


_TYPES: Mapping[str, Any] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "blob": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
}


def _violations(shape: Any, value: Any, path: str) -> Iterator[str]:
    kind = shape.type_name
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise Refusal("SerializationException", f"{type(value).__name__} at '{path}' can not be converted to a {kind}")
    if kind == "structure":
        for name in shape.required_members:
            if value.get(name) is None:
                yield f"Value null at '{_under(path, name)}' failed to satisfy constraint: Member must not be null"
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _violations(member, value[name], _under(path, name))
        return
    for rule in _unmet(shape, value):
        said = "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else value
        yield f"Value '{said}' at '{path}' failed to satisfy constraint: Member must {rule}"
    if kind == "list":
        for number, item in enumerate(value, 1):
            yield from _violations(shape.member, item, f"{path}.{number}.member")
    elif kind == "map":
        for name, item in value.items():
            yield from _violations(shape.key, name, f"{path}.key")
            yield from _violations(shape.value, item, f"{path}.{name}.member")


def _unmet(shape: Any, value: Any) -> Iterator[str]:
    facts = shape.metadata
    size, what = (value, "value") if isinstance(value, int | float) else (len(value), "length")
    if facts.get("enum") and value not in facts["enum"]:
        yield f"satisfy enum value set: [{', '.join(facts['enum'])}]"
    if "min" in facts and size < facts["min"]:
        yield f"have {what} greater than or equal to {facts['min']}"
    if "max" in facts and size > facts["max"]:
        yield f"have {what} less than or equal to {facts['max']}"
    if "pattern" in facts and (pattern := _pattern(facts["pattern"])) and not pattern.fullmatch(value):
        yield f"satisfy regular expression pattern: {facts['pattern']}"


_JAVA: Mapping[str, str] = {
    r"\p{L}": r"\w",
    r"\p{N}": r"\d",
    r"\p{Z}": r"\s",
    r"[\p{Print}]": "[ -~]",
    r"\p{ASCII}": r"[\x00-\x7f]",
    r"\z": r"\Z",
    r"\uD800\uDC00-\uDBFF\uDFFF": r"\U00010000-\U0010ffff",  # in two halves, as Java has them
}


@functools.cache
def _pattern(spelled: str) -> re.Pattern[str] | None:
    """AWS's patterns are Java's; None where Python has no such class."""
    for java, python in _JAVA.items():
        spelled = spelled.replace(java, python)
    return None if r"\p" in spelled else re.compile(spelled)


def _under(path: str, name: str) -> str:
    name = name[0].lower() + name[1:]
    return f"{path}.{name}" if path else name
