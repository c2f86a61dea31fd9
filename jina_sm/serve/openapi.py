"""
What the doors accept, as OpenAPI, made from the models that are behind them.

It is held to be true by tests that send what it allows and what it does not (schemathesis).
"""

from __future__ import annotations

from typing import Any

from jina_sm import __version__
from jina_sm.catalog import Model
from jina_sm.serve.doors import JSON, NPY

_TEXT = {"type": "string", "minLength": 1, "pattern": r"\S"}
_REFUSED = {"$ref": "#/components/schemas/Error"}
_ERROR = {
    "type": "object",
    "required": ["error", "detail", "request_id"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "param"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": "string"},
                "param": {"type": ["string", "null"]},
            },
        },
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_STATUSES = {
    "400": "not JSON, or a text that is too long",
    "401": "no API key, or a wrong one",
    "404": "no such model here",
    "408": "the body took too long to arrive",
    "413": "too many bytes or items",
    "415": "not application/json",
    "422": "JSON of another shape; `error.param` is the place",
    "429": "too much is waiting; `Retry-After` says for how long",
    "500": "the model failed on an item; `error.param` is which",
    "502": "gateway: what stands behind it failed",
    "503": "loading, or going down",
    "504": "not answered in time",
}


def document(
    embedder: Model | None, scorer: Model | None, *, max_items: int, keys: bool, media: bool = False
) -> dict[str, Any]:
    """The whole of it. ``media``: the models take what else they take, as behind a gateway."""
    paths: dict[str, Any] = {
        "/health": _get("Whether it serves, and what.", {"type": "object"}, unready=True),
        "/live": _get("Whether the process is to go on.", {"type": "object"}, unready=True),
        "/ready": _get("Whether requests are to be sent here.", {"type": "object"}, unready=True),
        "/ping": _get("SageMaker's word for it.", {"type": "object"}, unready=True),
        "/v1/models": _get("The models served.", {"type": "object"}),
        "/metrics": _metrics(),
    }
    invocations: list[dict[str, Any]] = []
    if embedder is not None:
        paths["/v1/embeddings"] = _post(
            "Vectors, as OpenAI and Jina have it.", _embeddings(embedder, max_items, media=media), npy=True
        )
        paths["/embed"] = _post("Vectors, plainly.", _embed(embedder, max_items), npy=True)
        invocations.append(_container(embedder, max_items, media=media))
    if scorer is not None:
        paths["/v1/rerank"] = _post("Documents by relevance, as Jina has it.", _rerank(scorer, max_items, media=media))
        invocations.append(_ranking(scorer, max_items, media=media))
    body = invocations[0] if len(invocations) == 1 else {"oneOf": invocations}
    paths["/invocations"] = _post("As the SageMaker container of the model has it.", body, npy=embedder is not None)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "jina-sm serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }
    if keys:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in paths.items():
            if path not in ("/health", "/live", "/ready", "/ping", "/metrics"):
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return made


def _models(model: Model) -> dict[str, Any]:
    names = [model.key, f"jinaai/{model.key}"]
    return {"type": ["string", "null"], "enum": [*names, None], "description": "May be left out."}


def _task(model: Model) -> dict[str, Any]:
    default = f"Default: {model.default_task}." if model.default_task else ""
    return {"enum": [*model.tasks, None], "description": default}


def _dimensions(model: Model) -> dict[str, Any]:
    return {"enum": [*model.matryoshka, None], "description": f"Default: {model.dimensions}."}


def _no(model: Model, name: str) -> dict[str, Any]:
    """A parameter that the model does not have; its own dimensions may be said all the same."""
    own = [model.dimensions] if name == "dimensions" else []
    return {"enum": [*own, False, None], "description": "This model has no such parameter."}


_YES_OR_NO = {"type": ["boolean", "null"]}


def _several(item: dict[str, Any], max_items: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": max_items}


def _objects(dialect: Any, *, media: bool) -> list[dict[str, Any]]:
    """The shapes of an item that is an object: of a text, and of each of the media."""
    shapes = [{"type": "object", "required": ["text"], "properties": {"text": _TEXT}}]
    for name in dialect.media if media else ():
        source = {"type": "string", "minLength": 1, "description": "Base64, or a URL of a host that is allowed."}
        shapes.append({"type": "object", "required": [name], "properties": {name: source}})
    return shapes


def _embeddings(model: Model, max_items: int, *, media: bool) -> dict[str, Any]:
    from jina_sm import wire

    dialect = wire.dialect(model, wire="api")
    item = {"anyOf": [_TEXT, *_objects(dialect, media=media)]}
    properties = {
        "model": _models(model),
        "input": {"anyOf": [*item["anyOf"], _several(item, max_items)]},
        "encoding_format": {"enum": ["float", "base64", None], "description": "OpenAI's word for embedding_type."},
        "embedding_type": {"enum": ["float", "base64", None]},
        "task": _task(model),
        "dimensions": _dimensions(model),
        "normalized": {**_YES_OR_NO, "description": "Unit vectors. Default: true."},
        "truncate": {**_YES_OR_NO, "description": "Cut what is too long instead of refusing it."},
    }
    if model.dialect in ("embeddings-v3", "embeddings-v4"):
        properties["late_chunking"] = {
            **_YES_OR_NO,
            "description": "The input is the chunks of one document, which together fit the model.",
        }
    for name in ("task", "dimensions", "late_chunking", "return_multivector"):
        if name not in dialect.takes.values():
            properties[name] = _no(model, name)
    return {"type": "object", "required": ["input"], "properties": properties}


def _embed(model: Model, max_items: int) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["texts"],
        "additionalProperties": False,
        "properties": {
            "texts": {"anyOf": [_TEXT, _several(_TEXT, max_items)]},
            "model": _models(model),
            "task": _task(model),
            "dimensions": _dimensions(model),
            "normalized": _YES_OR_NO,
            "truncate": _YES_OR_NO,
            "late_chunking": _YES_OR_NO,
        },
    }


def _container(model: Model, max_items: int, *, media: bool) -> dict[str, Any]:
    from jina_sm import wire

    dialect = wire.dialect(model)
    objects = _objects(dialect, media=media)
    for each in objects:
        each["properties"]["query"] = False  # or it would be a reranker's
    item = {"anyOf": [_TEXT, *objects] if dialect.generation == "B" else objects}
    parameters: dict[str, Any] = {}
    shapes = {"task": _task(model), "dimensions": _dimensions(model), "base64": {"enum": ["float", "base64", None]}}
    for name, said in dialect.takes.items():
        parameters[said] = shapes.get(name, _YES_OR_NO)
    parameters.pop("return_multivector", None)
    for name in ("task", "dimensions", "late_chunking", "return_multivector"):
        parameters.setdefault(name, _no(model, name))
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {"anyOf": [item, _several(item, max_items)]},
            "parameters": {"type": ["object", "null"], "properties": parameters},
        },
    }


def _ranking(model: Model, max_items: int, *, media: bool) -> dict[str, Any]:
    from jina_sm import wire

    document = {"anyOf": _objects(wire.dialect(model), media=media)}
    data = {
        "type": "object",
        "required": ["query", "documents"],
        "properties": {"query": _TEXT, "documents": _several(document, max_items), "top_n": _top_n()},
    }
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def _rerank(model: Model, max_items: int, *, media: bool) -> dict[str, Any]:
    from jina_sm import wire

    document = {"anyOf": [_TEXT, *_objects(wire.dialect(model, wire="api"), media=media)]}
    return {
        "type": "object",
        "required": ["query", "documents"],
        "properties": {
            "model": _models(model),
            "query": _TEXT,
            "documents": _several(document, max_items),
            "top_n": _top_n(),
            "return_documents": {**_YES_OR_NO, "description": "Default: true."},
        },
    }


def _top_n() -> dict[str, Any]:
    return {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}


def _post(summary: str, body: dict[str, Any], *, npy: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": {"type": "object"}}}
    if npy:
        content[NPY] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
            "responses": {"200": {"description": "Answered.", "content": content}, **_refusals()},
        }
    }


def _get(summary: str, schema: dict[str, Any], *, unready: bool = False) -> dict[str, Any]:
    content = {JSON: {"schema": schema}}
    answers = {"200": {"description": "Yes.", "content": content}}
    if unready:
        answers["503"] = {"description": "No.", "content": content}
    else:
        answers |= {"401": {"description": _STATUSES["401"], "content": {JSON: {"schema": _REFUSED}}}}
    return {"get": {"summary": summary, "responses": answers}}


def _metrics() -> dict[str, Any]:
    told = {"text/plain": {"schema": {"type": "string"}}}
    answers = {"200": {"description": "As Prometheus reads it.", "content": told}}
    return {"get": {"summary": "Figures.", "responses": answers}}


def _refusals() -> dict[str, Any]:
    content = {JSON: {"schema": _REFUSED}}
    return {status: {"description": said, "content": content} for status, said in _STATUSES.items()}
