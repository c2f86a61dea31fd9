"""
Jina AI's search models on AWS SageMaker: deploy them, call them, tear them down. Names resolve when first used.

Deploying is in ``jina_sm.deploy.run``: ``deploy``, ``status``, ``subscribe``, ``teardown``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jina_sm.catalog import Model as Model
    from jina_sm.chunking import chunk as chunk
    from jina_sm.client import AsyncClient as AsyncClient
    from jina_sm.client import Client as Client
    from jina_sm.client import raw_responses as raw_responses
    from jina_sm.deploy.spec import Spec as Spec
    from jina_sm.exchange import Event as Event
    from jina_sm.fleet import Fleet as Fleet
    from jina_sm.packing import Limits as Limits
    from jina_sm.retry import Policy as Policy
    from jina_sm.values import Document as Document
    from jina_sm.values import Embeddings as Embeddings
    from jina_sm.values import MultiVector as MultiVector
    from jina_sm.values import Ranking as Ranking
    from jina_sm.values import audio as audio
    from jina_sm.values import image as image
    from jina_sm.values import pdf as pdf
    from jina_sm.values import video as video

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "Document": "values",
    "Embeddings": "values",
    "Event": "exchange",
    "Fleet": "fleet",
    "Limits": "packing",
    "Model": "catalog",
    "MultiVector": "values",
    "Policy": "retry",
    "Ranking": "values",
    "Spec": "deploy.spec",
    "audio": "values",
    "chunk": "chunking",
    "image": "values",
    "pdf": "values",
    "raw_responses": "client",
    "video": "values",
}
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  the names are strings


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'jina_sm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jina_sm.{_HOMES[name]}"), name)
