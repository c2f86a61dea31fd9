"""
What stands behind the doors: requests as values in, rows out, or a refusal that says what to do.

``Local`` checks a request against the model's row, measures it, and has the engine answer it. What a door cannot know,
it asks here; what is wrong is refused before the model sees it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from jina_sm.catalog import Model
from jina_sm.errors import InputError
from jina_sm.serve.batcher import ClosedError, ExpiredError, FullError, ItemError, TooLargeError
from jina_sm.serve.encoders import CHARACTERS_A_TOKEN, Embedder, Encoder, Scorer, is_memory
from jina_sm.serve.engine import Answered, DeadError, Engine, Work
from jina_sm.values import EmbedRequest, Item, Media, RerankRequest, Rows, Vectors, normalized

SHORT = 20_000
"""Characters up to which lengths are taken on the event loop: to go to another thread and back would take longer."""
_EMBED, _LATE, _SCORE = "embed", "late", "score"
_Found = TypeVar("_Found")


class Refusal(Exception):
    """What a door answers instead. ``param`` is the place in the request that is to blame."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class TimedRows(Rows):
    """Rows, how long they waited for the model and were worked on, and whether it is the stand-in."""

    queue_s: float
    work_s: float
    stand_in: bool = False


class Backend(Protocol):
    """One model of vectors, one of scores, or both."""

    @property
    def embedder(self) -> Model | None: ...

    @property
    def scorer(self) -> Model | None: ...

    @property
    def alive(self) -> bool:
        """False: begin this process anew."""

    @property
    def idle(self) -> bool: ...

    async def embed(self, asked: EmbedRequest, *, caller: str, name: str = "input") -> Rows:
        """A vector an item. ``name`` is what the door calls the items. Raises Refusal."""

    async def rerank(self, asked: RerankRequest, *, caller: str) -> Rows:
        """A score a document, in the order given. Raises Refusal."""

    def look_after(self) -> None:
        """Called a few times a second."""

    def close(self) -> None:
        """Takes nothing more; what was accepted is still answered."""

    async def stop(self) -> None:
        """Ends; what is not answered by now is refused."""


class Local:
    """The models served here."""

    def __init__(
        self,
        embedder: Embedder | None,
        scorer: Scorer | None,
        engine: Callable[[Work], Engine],
        *,
        timeout_s: float = 60.0,
        truncate: bool = False,
    ) -> None:
        if embedder is None and scorer is None:
            raise InputError("there is no model to serve")
        self._embedder = embedder
        self._scorer = scorer
        self._timeout_s = timeout_s
        self._truncate = truncate
        self.engine = engine(Work(run=self._work, probe=self.probe, release=self._release, is_memory=is_memory))

    @property
    def embedder(self) -> Model | None:
        return self._embedder.model if self._embedder else None

    @property
    def scorer(self) -> Model | None:
        return self._scorer.model if self._scorer else None

    @property
    def stand_in(self) -> bool:
        """Whether any of them only plays a model."""
        return any(encoder is not None and encoder.stand_in for encoder in (self._embedder, self._scorer))

    @property
    def alive(self) -> bool:
        return self.engine.alive

    @property
    def idle(self) -> bool:
        return self.engine.idle

    def look_after(self) -> None:
        self.engine.look_after()

    def close(self) -> None:
        self.engine.close()

    async def stop(self) -> None:
        await asyncio.to_thread(self.engine.stop, ClosedError("the server is going down"))

    async def embed(self, asked: EmbedRequest, *, caller: str, name: str = "input") -> Rows:
        encoder = self._embedder
        if encoder is None:
            raise _not_served("embeds")
        _check_parameters(encoder.model, asked)
        asked = dataclasses.replace(asked, task=asked.task or encoder.model.default_task)  # so that they share batches
        texts = _texts(asked.items, name)
        before = encoder.prompt_tokens(asked.task)
        sizes = [size + before for size in await _measured(encoder, texts)]
        if asked.late_chunking:
            return await self._late(encoder, asked, texts, sizes, caller, name)
        fitting = _fitting(encoder, sizes, name, cut=asked.truncate or self._truncate)
        most = CHARACTERS_A_TOKEN * encoder.max_tokens
        # The model cuts at a token; megabytes beyond that are not for its thread to read first.
        texts = [text[:most] if size > encoder.max_tokens else text for text, size in zip(texts, sizes, strict=True)]
        sizes = fitting
        found = await self._answered((_EMBED, asked.task), texts, sizes, caller, name)
        return _timed(_shaped(np.stack(found.rows), asked), sum(sizes) - before * len(sizes), found, encoder)

    async def rerank(self, asked: RerankRequest, *, caller: str) -> Rows:
        encoder = self._scorer
        if encoder is None:
            raise _not_served("reranks")
        documents = _texts(asked.documents, "documents")
        query, *lengths = await _measured(encoder, [*_texts([asked.query], "query"), *documents])
        sizes = [query + length for length in lengths]
        sizes = _fitting(encoder, sizes, "documents", cut=self._truncate)
        pairs = [(asked.query, document) for document in documents]
        found = await self._answered((_SCORE, None), pairs, sizes, caller, "documents")
        return _timed(np.array(found.rows, np.float32), query + sum(lengths), found, encoder)

    async def _late(
        self, encoder: Embedder, asked: EmbedRequest, texts: Sequence[str], sizes: Sequence[int], caller: str, name: str
    ) -> Rows:
        before = encoder.prompt_tokens(asked.task)  # once: they are read as one text
        size = sum(sizes) - before * (len(sizes) - 1)
        if size > encoder.max_tokens:
            raise _too_long(encoder, size, name, "the chunks of one document are")
        found = await self._answered((_LATE, asked.task), [tuple(texts)], [size], caller, name)
        (rows,) = found.rows
        return _timed(_shaped(rows, asked), size - before, found, encoder)

    async def _answered(
        self, group: Hashable, payloads: Sequence[Any], sizes: Sequence[int], caller: str, param: str
    ) -> Answered:
        try:
            return await self.engine.submit(group, payloads, sizes, caller=caller, timeout_s=self._timeout_s)
        except FullError as full:
            said = f"too many requests are waiting; try again in {full.retry_after_s:.0f} s"
            raise Refusal(429, said, code="overloaded", retry_after_s=full.retry_after_s) from None
        except TooLargeError as large:
            said = f"this takes about {large.seconds:.0f} s here, and a request has {self._timeout_s:g} s"
            raise Refusal(413, f"{said}: send fewer texts at once", code="too_much", param=param) from None
        except ClosedError:
            raise Refusal(503, "the server is going down", code="shutting_down", retry_after_s=1) from None
        except ExpiredError:
            raise Refusal(504, f"not answered within {self._timeout_s:g} s", code="timeout") from None
        except ItemError as wrong:
            raise _blamed(wrong, param, len(payloads)) from wrong
        except DeadError:
            raise Refusal(503, "the model is being restarted", code="model_down", retry_after_s=5) from None

    def _work(self, group: Hashable, payloads: Sequence[Any]) -> Sequence[Any]:
        what: str
        task: str | None
        what, task = group  # type: ignore[misc]  # ours: see _answered
        if what == _SCORE:
            assert self._scorer is not None
            return [float(score) for score in self._scorer.score(payloads)]
        assert self._embedder is not None
        if what == _LATE:
            return [_finite(self._embedder.embed_late(chunks, task)) for chunks in payloads]
        return list(_finite(self._embedder.embed(payloads, task)))

    def probe(self) -> None:
        """Asks each model something that it must be able to answer; the first time is the slowest."""
        if self._embedder is not None:
            self._embedder.embed(["ready"], None)
        if self._scorer is not None:
            self._scorer.score([("ready", "ready")])

    def _release(self) -> None:
        for encoder in (self._embedder, self._scorer):
            if encoder is not None:
                encoder.release()


def _check_parameters(model: Model, asked: EmbedRequest) -> None:
    for name, check in (("task", model.check_task), ("dimensions", model.check_dimensions)):
        try:
            check(getattr(asked, name))
        except InputError as error:
            raise Refusal(422, str(error), code="invalid_parameter", param=name) from None
    if asked.multivector:
        raise Refusal(422, "this server gives one vector an item", code="invalid_parameter", param="return_multivector")


def _texts(items: Sequence[Item], param: str) -> list[str]:
    for place, item in enumerate(items):
        where = f"{param}[{place}]" if len(items) > 1 or param != "query" else param
        if isinstance(item, Media):
            raise Refusal(422, f"{where}: this server takes texts, and no {item.kind}", code="not_a_text", param=where)
        if not item.strip():
            raise Refusal(422, f"{where} is empty", code="empty_text", param=where)
    return [item for item in items if isinstance(item, str)]


async def _measured(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    if sum(map(len, texts)) <= SHORT:
        return encoder.lengths(texts)
    return await asyncio.to_thread(encoder.lengths, texts)


def _fitting(encoder: Encoder, sizes: Sequence[int], param: str, *, cut: bool) -> list[int]:
    """The sizes as the model reads them. Raises Refusal."""
    for place, size in enumerate(sizes):
        if size > encoder.max_tokens and not cut:
            subject = "with the query it is" if param == "documents" else "it is"
            raise _too_long(encoder, size, f"{param}[{place}]", subject)
    return [min(size, encoder.max_tokens) for size in sizes]


def _too_long(encoder: Encoder, size: int, param: str, subject: str) -> Refusal:
    said = f"{param}: {subject} {size} tokens, and {encoder.model.key} takes {encoder.max_tokens}"
    return Refusal(400, said, code="INPUT_TOKEN_LIMIT_EXCEEDED", param=param)


def _blamed(wrong: ItemError, param: str, count: int) -> Refusal:
    where = f"{param}[{wrong.index}]" if count > 1 else param
    if wrong.memory:
        return Refusal(413, f"{where} alone is more than the device has memory for", code="out_of_memory", param=where)
    if isinstance(wrong.__cause__, DeadError):
        return Refusal(500, f"the model died of {where}", code="model_failed", param=where)
    if isinstance(wrong.__cause__, InputError):
        return Refusal(422, wrong.__cause__.message, code="invalid_item", param=where)
    why = type(wrong.__cause__).__name__
    return Refusal(500, f"the model failed on {where}: {why}", code="model_failed", param=where)


def _not_served(does: str) -> Refusal:
    return Refusal(404, f"no model that {does} is served here", code="model_not_found", param="model")


def _timed(values: Vectors, tokens: int, found: Answered, encoder: Encoder) -> TimedRows:
    return TimedRows(values, tokens, found.queue_s, found.work_s, encoder.stand_in)


def _shaped(rows: Any, asked: EmbedRequest) -> Any:
    """Cut to the dimensions asked for, and of unit length if that was asked for."""
    found = np.asarray(rows, np.float32)
    if asked.dimensions is not None:
        found = found[:, : asked.dimensions]
    return normalized(found) if asked.normalized else np.ascontiguousarray(found)


def _finite(rows: Any) -> Any:
    if not np.isfinite(rows).all():
        raise ValueError("a vector is not finite")  # one poisoned text makes a batch of half precision overflow
    return rows


def unnormalized(model: Model, takes: Mapping[str, str], asked: EmbedRequest) -> EmbedRequest:
    """A request to a container that cannot be told, and whose model gives no unit vectors."""
    if model.normalized is False and "normalized" not in takes:
        return dataclasses.replace(asked, normalized=False)
    return asked
