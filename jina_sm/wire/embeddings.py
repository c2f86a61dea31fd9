"""
The dialects of the embedding models: texts and media in, vectors out.

Containers of generation A (v2, v3, CLIP, ColBERT) answer with rows in the request's order, each with its usage, and
echo the parameters; those of generation B (v4, v5, code) answer as OpenAI's API does, with an index a row and one
usage. What else differs is said in DIALECTS. A decoder reads either.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from jina_sm.errors import InputError, ProtocolError
from jina_sm.values import EmbedRequest, Media, MultiRows, Rows, Vectors
from jina_sm.wire import Unacceptable, expect, items, named, parse, parse_request, rows, whole

_DEFAULTS = {each.name: each.default for each in dataclasses.fields(EmbedRequest) if each.name != "items"}
_IMAGE = {"image": "image"}
_PDF = {"pdf": "pdf"}
_TASK = {"task": "task", "dimensions": "dimensions"}


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """One dialect. ``bare``: a text is a string, not an object; ``several``: an item always has many vectors.

    ``flat``: the parameters stand beside the items and the model is named, as in Jina's API. ``parser`` makes what
    parses the numbers of one answer.
    """

    generation: str
    path: str = "/invocations"
    flat: bool = False
    takes: Mapping[str, str] = field(default_factory=dict)
    media: Mapping[str, str] = field(default_factory=dict)
    bare: bool = False
    several: bool = False
    usage: tuple[str, ...] = ("prompt_tokens", "total_tokens")
    model: str = ""
    parser: Callable[[], rows.Parse] = rows.best

    def encode_request(self, request: EmbedRequest) -> bytes:
        parameters = {}
        for name, default in _DEFAULTS.items():
            # The API's default of normalized is published as true and as false.
            always = self.flat and name == "normalized" and name in self.takes
            if (value := getattr(request, name)) != default or always:
                if name not in self.takes:
                    raise InputError(
                        f"{self.model} takes no {name}, and {name}={value!r} was given", cure="Leave it out."
                    )
                parameters[self.takes[name]] = "base64" if name == "base64" else value
        if len(request.items) > 1 and _paged(request):
            raise InputError("a PDF is sent alone: it becomes a row a page")
        # The API has been seen to take strings or objects, and not both in one request.
        bare = self.bare and (not self.flat or all(isinstance(item, str) for item in request.items))
        data: Any = [
            item if bare and isinstance(item, str) else items.encode(item, self.media) for item in request.items
        ]
        if self.flat:
            return orjson.dumps({"model": self.model, **parameters, "input": data})
        if _paged(request) and not self.bare:
            (data,) = data  # v4 has seen a PDF as an object only, v5 in a list
        return orjson.dumps({"data": data, "parameters": parameters} if self.takes else {"data": data})

    def decode_request(self, body: bytes) -> EmbedRequest:
        asked = parse_request(body)
        if self.flat:
            named(asked, self.model)
        return self.read_request(asked)

    def read_request(self, asked: Mapping[str, Any]) -> EmbedRequest:
        """The request, whichever model it names. Raises Unacceptable."""
        where = "input" if self.flat else "data"
        data = asked.get(where)
        data = expect([data] if isinstance(data, dict | str) else data, list, where)
        path: tuple[str, ...] = () if self.flat else ("parameters",)
        parameters: Mapping[str, Any]
        if self.flat:
            # OpenAI's word for it; its client sends it unasked.
            parameters = {"embedding_type": asked.get("encoding_format"), **asked}
        else:
            said = asked.get("parameters")
            parameters = expect({} if said is None else said, dict, *path)
        request = EmbedRequest(
            items=tuple(
                item
                if isinstance(item, str) and self.generation == "B"
                else items.decode(item, self.media, where, index)
                for index, item in enumerate(data)
            ),
            **{
                name: _READ[name](parameters[said], *path, said)
                for name, said in self.takes.items()
                if parameters.get(said) is not None
            },
        )
        if len(data) > 1 and _paged(request):
            raise Unacceptable(where, message="a PDF must be the only item")
        return request

    def encode_response(self, request: EmbedRequest, told: Rows | MultiRows) -> bytes:
        data: list[dict[str, Any]]
        name = "embeddings" if isinstance(told, MultiRows) else "embedding"
        numbers = [
            _coded(row) if request.base64 and row.ndim == 1 else np.ascontiguousarray(row) for row in told.values
        ]
        answer: dict[str, Any]
        if self.generation == "B":
            data = [{"object": name, "index": index, name: row} for index, row in enumerate(numbers)]
            usage = dict.fromkeys(self.usage, told.tokens)
            answer = {"object": "list", "model": self.model, "usage": usage, "data": data}
        else:
            # Tokens are said a row on the wire and summed by the client, so how they are shared out does not matter.
            share, rest = divmod(told.tokens, len(told))
            data = []
            for index, (item, row) in enumerate(zip(request.items, numbers, strict=True)):
                known = items.identity(index, item)
                data.append({"id": known, name: row, "usage": {"id": known, "total_tokens": share + (index < rest)}})
            answer = {"data": data, "parameters": {said: getattr(request, name) for name, said in self.takes.items()}}
            if request.dimensions is not None:
                answer["parameters"]["dimensions"] = float(request.dimensions)
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

    def decode_response(self, request: EmbedRequest, body: bytes) -> Rows | MultiRows:
        several = self.several or request.multivector
        if not several:
            with contextlib.suppress(rows.Surprise, ProtocolError, *_UNLIKE):
                answer = rows.cut(body)
                return _told(request, answer, lambda spans: rows.matrix(spans, self.parser()))
        # Whatever the quick way did not take is judged here, so nothing is refused for being unusual.
        answer = parse(body)
        try:
            with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, which is refused
                return _told(request, answer, None if several else _matrix)
        except _UNLIKE as error:
            raise ProtocolError(f"the answer has not the shape of an embedding's: {error!r}") from None


_UNLIKE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def _told(request: EmbedRequest, answer: Any, together: Callable[[list[Any]], Vectors] | None) -> Rows | MultiRows:
    """What the answer says, checked. ``together`` makes a matrix of the rows; None: each has many vectors."""
    data = _in_order(answer["data"])
    usage = [answer["usage"]] if answer.get("usage") else [row.get("usage") or {} for row in data]
    tokens = sum(int(each.get("total_tokens") or 0) for each in usage)
    if together is None:
        many = tuple(np.array(row.get("embeddings", row.get("embedding")), np.float32) for row in data)
        _check(request, many, 2, None)
        return MultiRows(many, tokens)
    vectors = together([row["embedding"] for row in data])
    _check(request, vectors, 1, request.dimensions)
    return Rows(vectors, tokens)


def _paged(request: EmbedRequest) -> bool:
    return any(isinstance(item, Media) and item.kind == "pdf" for item in request.items)


def _in_order(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows by index, where they have one. Raises ProtocolError for a place without a row, or with two."""
    if not any("index" in row for row in data):
        return data
    places = [row["index"] for row in data]
    if any(type(place) is not int for place in places) or sorted(places) != list(range(len(data))):
        raise ProtocolError(f"rows came with the indices {str(places)[:80]}, which are not one for each item")
    return sorted(data, key=lambda row: int(row["index"]))


def _check(request: EmbedRequest, vectors: Vectors | Sequence[Vectors], depth: int, width: int | None) -> None:
    """Raises ProtocolError unless there is one for each item (of a PDF: for each page), all alike and finite."""
    if len(vectors) != len(request.items) and not (_paged(request) and len(vectors) > 1):
        raise ProtocolError(f"{len(vectors)} vectors came for {len(request.items)} items")
    for each in vectors:
        if each.ndim != depth or not each.size or each.shape[-1] != (width or vectors[0].shape[-1]):
            raise ProtocolError(f"a vector of shape {each.shape} came where {width or 'like'} dimensions were asked")
    if not all(np.isfinite(part).all() for part in ([vectors] if isinstance(vectors, np.ndarray) else vectors)):
        raise ProtocolError("a vector is not finite")


def _coded(row: Vectors) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def _matrix(given: list[Any]) -> Vectors:
    return np.array([_numbers(row) for row in given], np.float32)


def _numbers(given: Any) -> Any:
    """A vector as it stands in JSON: numbers, or little-endian float32 as base64."""
    return np.frombuffer(base64.b64decode(given, validate=True), "<f4") if isinstance(given, str) else given


def _coding(given: Any, *path: str | int) -> bool:
    if given not in ("float", "base64"):
        raise Unacceptable(*path, message="unexpected value; permitted: 'float', 'base64'", kind="value_error.const")
    return bool(given == "base64")


def _length(given: Any, *path: str | int) -> int:
    # Jina's own example for CLIP v2 sends the number as a string.
    if isinstance(given, str) and len(given) < 10 and given.isascii() and given.isdigit():
        given = int(given)
    return whole(given, *path)


_READ: Mapping[str, Callable[..., Any]] = {
    "task": lambda given, *path: expect(given, str, *path),
    "dimensions": _length,
    "base64": _coding,
    **dict.fromkeys(
        ("late_chunking", "multivector", "normalized", "truncate"), lambda given, *path: expect(given, bool, *path)
    ),
}

DIALECTS: Mapping[str, Embeddings] = {
    "embeddings-v2": Embeddings(generation="A"),
    "embeddings-v3": Embeddings(generation="A", takes={**_TASK, "late_chunking": "late_chunking"}),
    "embeddings-v4": Embeddings(
        generation="B",
        takes={**_TASK, "late_chunking": "late_chunking", "multivector": "return_multivector"},
        media={**_IMAGE, **_PDF},
        usage=("total_tokens",),
    ),
    "embeddings-v5": Embeddings(
        generation="B",
        takes={**_TASK, "normalized": "normalized", "truncate": "truncate", "base64": "embedding_type"},
        media={**_IMAGE, "audio": "audio", "video": "video", **_PDF},
        bare=True,
    ),
    "embeddings-code": Embeddings(generation="B", takes=_TASK, bare=True),
    "clip-v1": Embeddings(generation="A", media={"url": "image", "bytes": "image"}),
    "clip-v2": Embeddings(generation="A", takes=_TASK, media={"url": "image", "bytes": "image"}),
    "colbert": Embeddings(generation="A", takes={"task": "input_type"}, several=True),
}
