"""
The doors: bytes of a request to values, rows to bytes of an answer, in each of the wires that are spoken here.

    /v1/embeddings, /v1/rerank    OpenAI's and Jina's (``jina_sm.wire``, the dialect ``api``)
    /invocations                  a SageMaker container's, in the model's own dialect; raw .npy where it is accepted
    /embed                        texts in, vectors out, as the usual hand-made server has it

A door refuses what it does not understand, with the place in the request; it never guesses.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from jina_sm import wire
from jina_sm.catalog import Model
from jina_sm.errors import InputError
from jina_sm.serve.backend import Backend, Refusal, TimedRows, unnormalized
from jina_sm.values import EmbedRequest, RerankRequest, Rows
from jina_sm.wire import Unacceptable

JSON, NPY = "application/json", "application/x-npy"


@dataclass(frozen=True)
class Told:
    """An answer: its body, and the headers that go with it."""

    body: bytes
    content_type: str = JSON
    tokens: int = 0
    queue_s: float | None = None
    work_s: float | None = None
    stand_in: bool = False


class Doors:
    """The doors of one backend. ``embeds``, ``ranks``: what a request may call its models, beside their keys."""

    def __init__(
        self, backend: Backend, *, embeds: Sequence[str] = (), ranks: Sequence[str] = (), max_items: int = 2048
    ) -> None:
        self._backend = backend
        self._max_items = max_items
        self._embedder = _Spoken.of(backend.embedder, embeds)
        self._scorer = _Spoken.of(backend.scorer, ranks)

    async def embeddings(self, body: bytes, content_type: str, accept: str, caller: str) -> Told:
        spoken = _served(self._embedder, "embeds")
        asked = _parsed(body, content_type)
        spoken.check(asked.get("model"))
        _not_numbers(asked.get("input"))
        if (coding := asked.get("encoding_format")) not in (None, "float", "base64"):
            said = f"encoding_format is float or base64, not {str(coding)[:40]!r}"
            raise Refusal(422, said, code="invalid_request", param="encoding_format")
        self._count(asked.get("input"), "input")
        _not_taken(spoken.model, spoken.api, asked, "")
        request = _read(spoken.api, asked)
        return await self._embedded(spoken.api, request, accept, caller)

    async def rerank(self, body: bytes, content_type: str, accept: str, caller: str) -> Told:
        spoken = _served(self._scorer, "reranks")
        asked = _parsed(body, content_type)
        spoken.check(asked.get("model"))
        self._count(asked.get("documents"), "documents")
        return await self._ranked(spoken.api, _read(spoken.api, asked), caller)

    async def invocations(self, body: bytes, content_type: str, accept: str, caller: str) -> Told:
        asked = _parsed(body, content_type)
        data = asked.get("data")
        one = data[0] if isinstance(data, list) and len(data) == 1 else data
        ranks = isinstance(one, dict) and "query" in one
        spoken = (self._scorer if ranks else self._embedder) or self._embedder or self._scorer
        assert spoken is not None
        if spoken is self._scorer:
            self._count(one.get("documents") if isinstance(one, dict) else None, "data.documents")
            return await self._ranked(spoken.container, _read(spoken.container, asked), caller)
        self._count(data, "data")
        dialect = spoken.container
        if isinstance(parameters := asked.get("parameters"), dict):
            _not_taken(spoken.model, dialect, parameters, "parameters.")
        request = unnormalized(spoken.model, dialect.takes, _read(dialect, asked))
        return await self._embedded(dialect, request, accept, caller)

    async def embed(self, body: bytes, content_type: str, accept: str, caller: str) -> Told:
        spoken = _served(self._embedder, "embeds")
        asked = _parsed(body, content_type)
        spoken.check(asked.get("model"))
        if unknown := sorted(set(asked) - {"texts", "model", *_EMBED_TAKES}):
            said = f"{unknown[0]!r} is unknown here; known are texts, model, {', '.join(_EMBED_TAKES)}"
            raise Refusal(422, said, code="invalid_request", param=unknown[0][:100])
        self._count(asked.get("texts"), "texts")
        texts = asked.get("texts")
        texts = wire_read(wire.expect, [texts] if isinstance(texts, str) else texts, list, "texts")
        told: dict[str, Any] = {}
        for name, kind in _EMBED_TAKES.items():
            if asked.get(name) is not None:
                told[name] = wire_read(_as, asked[name], kind, name)
        items = tuple(wire_read(wire.expect, text, str, "texts", place) for place, text in enumerate(texts))
        request = EmbedRequest(items=items, **told)
        rows = await self._backend.embed(request, caller=caller, name="texts")
        if _wants_npy(accept):
            return _npy(rows)
        vectors = np.ascontiguousarray(rows.values)
        answer = {
            "model": spoken.model.key,
            "dimensions": vectors.shape[1],
            "usage": {"total_tokens": rows.tokens},
            "embeddings": vectors,
        }
        return _told(rows, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))

    def models(self) -> bytes:
        """``/v1/models``, which many tools ask before anything else."""
        known = [each.model.key for each in (self._embedder, self._scorer) if each is not None]
        data = [{"id": key, "object": "model", "created": 0, "owned_by": "jina_sm"} for key in known]
        return orjson.dumps({"object": "list", "data": data})

    async def _embedded(self, dialect: Any, request: EmbedRequest, accept: str, caller: str) -> Told:
        rows = await self._backend.embed(request, caller=caller, name="input" if dialect.flat else "data")
        if _wants_npy(accept):
            return _npy(rows)
        return _told(rows, dialect.encode_response(request, rows))

    async def _ranked(self, dialect: Any, request: RerankRequest, caller: str) -> Told:
        if request.top_n is not None and request.top_n < 1:
            raise Refusal(422, "top_n is 1 or more", code="invalid_parameter", param="top_n")
        rows = await self._backend.rerank(request, caller=caller)
        return _told(rows, dialect.encode_response(request, rows))

    def _count(self, items: Any, param: str) -> None:
        if isinstance(items, list) and len(items) > self._max_items:
            said = f"{len(items)} items in {param}, and a request has at most {self._max_items} here"
            raise Refusal(413, said, code="too_many_items", param=param)


_EMBED_TAKES: Mapping[str, type] = {
    "task": str,
    "dimensions": int,
    "normalized": bool,
    "late_chunking": bool,
    "truncate": bool,
}


@dataclass(frozen=True)
class _Spoken:
    """A model and how it is spoken to."""

    model: Model
    names: frozenset[str]
    api: Any
    container: Any

    @classmethod
    def of(cls, model: Model | None, names: Sequence[str]) -> _Spoken | None:
        if model is None:
            return None
        known = frozenset(name.lower() for name in (model.key, f"jinaai/{model.key}", *names))
        return cls(model, known, wire.dialect(model, wire="api"), wire.dialect(model))

    def check(self, model: Any) -> None:
        """Raises Refusal unless the request names this model, or none."""
        if model is None:
            return
        if not isinstance(model, str):
            raise Refusal(422, "model is a string", code="invalid_request", param="model")
        if model.lower() not in self.names:
            said = f"the model {model[:80]!r} is not served here; {self.model.key} is"
            raise Refusal(404, said, code="model_not_found", param="model")


def _served(spoken: _Spoken | None, does: str) -> _Spoken:
    if spoken is None:
        raise Refusal(404, f"no model that {does} is served here", code="model_not_found", param="model")
    return spoken


def _parsed(body: bytes, content_type: str) -> dict[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("", JSON):
        raise Refusal(415, f"a body is {JSON} here, not {kind[:80]}", code="unsupported_media_type")
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error.msg} at byte {error.pos}", code="invalid_json") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deep", code="invalid_json") from None
    if not isinstance(asked, dict):
        raise Refusal(422, "the body is a JSON object", code="invalid_request")
    return asked


def _read(dialect: Any, asked: Mapping[str, Any]) -> Any:
    try:
        return dialect.read_request(asked)
    except Unacceptable as error:
        raise _unacceptable(error) from None
    except InputError as error:
        raise Refusal(422, str(error), code="invalid_request") from None


def wire_read(read: Any, *given: Any) -> Any:
    """What a reader of ``wire`` says of it. Raises Refusal."""
    try:
        return read(*given)
    except Unacceptable as error:
        raise _unacceptable(error) from None


def _unacceptable(error: Unacceptable) -> Refusal:
    param = ""
    for step in error.detail[0]["loc"][1:]:
        param += f"[{step}]" if isinstance(step, int) else f".{step}" if param else str(step)
    return Refusal(422, f"{param}: {error}" if param else str(error), code="invalid_request", param=param or None)


_CHANGE_THE_VECTOR = ("task", "dimensions", "late_chunking", "return_multivector")


def _not_taken(model: Model, dialect: Any, parameters: Mapping[str, Any], where: str) -> None:
    """Refuses what would change the vector and is no parameter of this model's, instead of not heeding it."""
    for name in _CHANGE_THE_VECTOR:
        value = parameters.get(name)
        if name in dialect.takes.values() or value is None or value is False:
            continue
        if name != "dimensions" or value != model.dimensions:  # its own are what it gives anyway
            said = f"{where}{name}: {model.key} has no such parameter"
            raise Refusal(422, said, code="invalid_parameter", param=f"{where}{name}")


def _as(given: Any, kind: type, *path: str | int) -> Any:
    return wire.whole(given, *path) if kind is int else wire.expect(given, kind, *path)


def _not_numbers(given: Any) -> None:
    """OpenAI takes token numbers too, of its own tokenizers, which mean nothing to this model."""
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, int | list) and not isinstance(first, bool):
        said = "input: token numbers of OpenAI's tokenizers mean nothing to this model; send texts"
        said += " (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
        raise Refusal(422, said, code="tokens_not_taken", param="input")


def _wants_npy(accept: str) -> bool:
    return NPY in accept.lower()


def _told(rows: Rows, body: bytes, content_type: str = JSON) -> Told:
    """With the times of what was worked on here; a gateway's rows have none."""
    if isinstance(rows, TimedRows):
        return Told(body, content_type, rows.tokens, rows.queue_s, rows.work_s, rows.stand_in)
    return Told(body, content_type, rows.tokens)


def _npy(rows: Rows) -> Told:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(rows.values, dtype="<f4"), version=(1, 0), allow_pickle=False)
    return _told(rows, out.getvalue(), NPY)
