"""
The typed client: texts in, NumPy out, however many requests that takes.

A thin driver of ``exchange``: it checks and packs what it is given, sends what the machine says on a few threads,
and hands back what came in the order given. Bytes are encoded and decoded outside the machine's lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from jina_sm import catalog, packing, retry, tokens, values, wire
from jina_sm.clock import Clock
from jina_sm.errors import InputError, JinaSMError, ProtocolError
from jina_sm.exchange import Call, Exchange, Send, Wake
from jina_sm.transport import Request, Transport
from jina_sm.values import Embeddings, EmbedRequest, Ranking, RerankRequest, Rows, Usage

_log = logging.getLogger(__name__)
IN_FLIGHT = 6
"""Requests in flight to one instance: a single instance is kept busy by 4 to 8, and more only lengthen the queue."""

_BYTES_A_NUMBER = {"A": 12.6, "B": 20.6}  # a v3 row of 1,024 numbers is 12.9 kB of JSON, one of v5 21 kB
_BYTES_A_CODED_NUMBER = 5.4
_BYTES_A_ROW = 120


@dataclass(frozen=True)
class _Job:
    """What the machine carries for a call: bytes for some of its items, and rows out of the answer."""

    encode: Callable[[Sequence[int]], bytes]
    decode: Callable[[Sequence[int], bytes], Rows]
    over: threading.Event = field(default_factory=threading.Event)


class Client:
    """Embeds and reranks with one model, in one region or several.

    ``Client("jina-embeddings-v3").embed(["a text"]).vectors`` finds the endpoint that ``jina-sm deploy`` made, in
    the regions given, else in those of ``JINA_SM_REGIONS``, else in the session's region. The first region is home;
    the others take over while it fails. Thread-safe; ``close()`` it or use it in a ``with`` statement.

    Raises InputError for what can be known beforehand, else InvocationError or AuthError, when called.
    """

    def __init__(
        self,
        model: str | catalog.Model,
        *,
        regions: Sequence[str] | None = None,
        name: str | None = None,
        session: Any = None,
        url: str | None = None,
        retry: retry.Policy = retry.Policy(),  # noqa: B008  a frozen value
        limits: packing.Limits = packing.Limits(),  # noqa: B008
        in_flight: int = IN_FLIGHT,
        clock: Clock = Clock(),  # noqa: B008
        transports: Sequence[Transport] | None = None,
        catalog_file: str | None = None,
    ) -> None:
        known = catalog.load(catalog_file)
        self.model = model if isinstance(model, catalog.Model) else known.model(model)
        if transports is None:
            from jina_sm.transport.sagemaker import SageMakerTransport

            endpoint, homes = catalog.endpoint_name(self.model, name), regions_of(regions, session)
            for region in homes:
                known.check_region(region)
            transports = [
                SageMakerTransport(endpoint, region, aws=session, url=url, connections=in_flight + 2)
                for region in homes
            ]
        self._transports = tuple(transports)
        if in_flight < 1 or not self._transports:
            raise InputError(f"a client needs a target and in_flight of 1 or more, not {in_flight!r}")
        self._limits = limits
        self._clock = clock
        self._exchange: Exchange[_Job] = Exchange(
            len(self._transports), policy=retry, in_flight=in_flight, random=clock.random
        )
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(in_flight * len(self._transports) + 1, thread_name_prefix="jina_sm")
        self._due: float | None = None
        self._timing = False
        self._closed = False

    @classmethod
    def sagemaker(
        cls, endpoint_name: str, *, model: str | catalog.Model, region: str | None = None, **settings: Any
    ) -> Self:
        """A client of an endpoint that this tool did not deploy. ``settings`` are the constructor's."""
        from jina_sm.transport.sagemaker import SageMakerTransport

        session = settings.get("session")
        (home,) = regions_of([region] if region else None, session)[:1]
        transport = SageMakerTransport(
            endpoint_name,
            home,
            aws=session,
            url=settings.get("url"),
            connections=settings.get("in_flight", IN_FLIGHT) + 2,
        )
        return cls(model, transports=[transport], **settings)

    @classmethod
    def local(
        cls,
        model: str | catalog.Model = "jina-embeddings-v3",
        *,
        regions: Sequence[str] = ("us-east-1",),
        **settings: Any,
    ) -> Self:
        """A client of the local stack (``jina-sm local up``), whatever AWS settings are around."""
        from jina_sm.transport.session import local_port, local_session

        found = regions_of(regions, None)
        url = f"http://127.0.0.1:{local_port()}"
        return cls(model, regions=found, session=local_session(found[0]), url=url, **settings)

    def embed(
        self,
        texts: Iterable[str],
        *,
        task: str | None = None,
        dimensions: int | None = None,
    ) -> Embeddings:
        """One vector a text, in the order given, however many requests that takes.

        >>> client.embed(["a red bicycle"], task="retrieval.passage", dimensions=256).vectors.shape
        (1, 256)

        ``task=None`` is the model's own default; ``dimensions=None`` its full length. Vectors come as the model gives
        them: those of v1, v2 and CLIP are not of unit length (``client.model.normalized``).
        """
        self._check_kind("embed", "embedding", "clip")
        self.model.check_task(task)
        self.model.check_dimensions(dimensions)
        speech = wire.dialect(self.model)
        given = values.texts_of(texts, call="embed", name="texts")
        asked = EmbedRequest(
            items=given,
            task=task or self.model.default_task,
            dimensions=dimensions,
            base64="base64" in speech.takes,
        )
        width = dimensions or self.model.dimensions
        number = _BYTES_A_CODED_NUMBER if asked.base64 else _BYTES_A_NUMBER[speech.generation]
        answered = int((width or 0) * number) + _BYTES_A_ROW

        def part(items: Sequence[int]) -> EmbedRequest:
            return replace(asked, items=tuple(given[item] for item in items))

        def decode(items: Sequence[int], body: bytes) -> Rows:
            rows: Rows = speech.decode_response(part(items), body)
            if width is not None and rows.values.shape[1] != width:
                raise ProtocolError(f"vectors of {rows.values.shape[1]} dimensions came, not of {width}")
            return rows

        sizes = [self._size(text, "texts", index, answered) for index, text in enumerate(given)]
        batches = packing.batches(sizes, self._limits, _weight(speech.encode_request(replace(asked, items=()))))
        call = self._run(_Job(lambda items: speech.encode_request(part(items)), decode), batches)
        return Embeddings(_in_order(call, len(given)), _usage(call), self.model.key)

    def rerank(self, query: str, documents: Iterable[str], *, top_n: int | None = None) -> Ranking:
        """The documents by falling relevance to the query, the best ``top_n`` of them.

        >>> client.rerank("pet food", ["tyres", "dog biscuits"], top_n=1)[0].document
        'dog biscuits'

        Many documents travel in several requests. That changes no score, except a little with v3 and v3.5, which
        weigh the documents of a request against each other.
        """
        self._check_kind("rerank", "reranker")
        values.check_text(query, "query")
        values.check_top_n(top_n)
        given = values.texts_of(documents, call="rerank", name="documents")
        asked = RerankRequest(query=query, documents=given)
        speech = wire.dialect(self.model)

        def part(items: Sequence[int]) -> RerankRequest:
            return replace(asked, documents=tuple(given[item] for item in items))

        sizes = [self._size(text, "documents", index, None, query) for index, text in enumerate(given)]
        batches = packing.batches(sizes, self._limits, _weight(speech.encode_request(replace(asked, documents=()))))
        job = _Job(
            lambda items: speech.encode_request(part(items)),
            lambda items, body: speech.decode_response(part(items), body),
        )
        call = self._run(job, batches)
        scores = _in_order(call, len(given))
        return Ranking.of(scores, given, top_n=top_n, usage=_usage(call), model=self.model.key)

    def close(self) -> None:
        """Ends the client's threads and connections. Calls under way are finished first."""
        with self._changed:
            self._closed = True
            while not self._exchange.idle:
                self._changed.wait()
        self._pool.shutdown()
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_kind(self, call: str, *kinds: str) -> None:
        if self.model.kind not in kinds:
            needed = " or ".join(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in kinds)
            raise InputError(f"{call}() needs {needed}, and {self.model.key} is a {self.model.kind} model")

    def _size(self, text: str, name: str, index: int, answered: int | None, query: str | None = None) -> packing.Size:
        beside = tokens.estimate(query) if query else 0
        if tokens.surely_more_than(self.model.max_tokens - beside, text):
            raise InputError(
                f"{name}[{index}] has about {tokens.estimate(text):,} tokens"
                + (f" and the query {beside:,}" if query else "")
                + f"; {self.model.key} reads {self.model.max_tokens:,}",
                cure="Split it.",
            )
        sent = wire.weight(text)
        if sent > self._limits.request_bytes:
            raise InputError(f"{name}[{index}] is larger than a request may be ({sent:,} bytes)", cure="Split it.")
        # A reranker echoes the document; an embedding's size is its numbers'.
        comes = sent + 2 * _BYTES_A_ROW if answered is None else answered
        return packing.Size(tokens=tokens.estimate(text) + beside, request_bytes=sent, response_bytes=comes)

    def _run(self, job: _Job, batches: Sequence[Sequence[int]]) -> Call[_Job]:
        """Hands a call to the machine and waits until it is over. Raises its error.

        The caller only waits: threads of the pool send, so an interrupt here upsets nobody else's call.
        """
        with self._changed:
            if self._closed:
                raise InputError("the client is closed")
            call = self._exchange.add(job, batches, self._clock.now())
        try:
            self._pool.submit(self._work)
            job.over.wait()
        except BaseException:
            with self._changed:
                self._exchange.abandon(call)
                self._changed.notify_all()
            raise
        if call.error is not None:
            raise call.error
        return call

    def _work(self) -> None:
        """Sends whatever may be sent, one after another, and calls another thread for what may go beside it."""
        while True:
            with self._changed:
                step = self._exchange.next(self._clock.now())
                if isinstance(step, Wake):
                    self._wake_at(step.at)
                if not isinstance(step, Send):
                    return
                with contextlib.suppress(RuntimeError):  # at the interpreter's end: this thread does it all
                    self._pool.submit(self._work)
            came = self._sent(step)
            with self._changed:
                if isinstance(came, Rows):
                    self._exchange.answered(step, came)
                else:
                    self._exchange.failed(step, came, self._clock.now())
                if step.call.over:
                    step.call.job.over.set()
                self._changed.notify_all()

    def _sent(self, send: Send[_Job]) -> Rows | JinaSMError:
        """What came of one request. Never raises: whoever waits must hear of it rather than wait for ever."""
        job, items, transport = send.call.job, send.piece.items, self._transports[send.target]
        try:
            response = transport.send(Request(job.encode(items)))
            _log.debug("%s items, target %s, request id %s", len(items), send.target, response.request_id)
            return job.decode(items, response.body)
        except JinaSMError as error:
            if isinstance(error, ProtocolError):
                error.target = getattr(transport, "endpoint_name", None)
                error.region = getattr(transport, "region", None)
            _log.debug("%s items, target %s: %s", len(items), send.target, error)
            return error
        except BaseException as error:
            broken = JinaSMError(f"unexpected {type(error).__name__}: {error}")
            broken.__cause__ = error
            return broken

    def _wake_at(self, at: float) -> None:
        """Sees to it that somebody works again at that time. A thread keeps time only while there is some to keep."""
        self._due = at
        if self._timing:
            self._changed.notify_all()
        else:
            self._timing = True
            threading.Thread(target=self._keep_time, name="jina_sm timer", daemon=True).start()

    def _keep_time(self) -> None:
        with self._changed:
            while self._due is not None:
                if (left := self._due - self._clock.now()) > 0:
                    self._clock.wait(self._changed, left)
                    continue
                self._due = None
                with contextlib.suppress(RuntimeError):
                    self._pool.submit(self._work)
            self._timing = False


def regions_of(given: Sequence[str] | None, session: Any, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The argument's, else those of JINA_SM_REGIONS, else the session's."""
    if isinstance(given, str):
        raise InputError(f"regions is a list; for one, pass [{given!r}]")
    regions = list(given or []) or re.findall(r"[^\s,]+", environ.get("JINA_SM_REGIONS", ""))
    if not regions:
        from jina_sm.transport.session import session as default_session

        home = (session or default_session()).region_name
        regions = [home] if home else []
    if not regions:
        raise InputError("no region", cure='Pass regions=["us-east-1"], or set JINA_SM_REGIONS or AWS_REGION.')
    if len(set(regions)) < len(regions):
        raise InputError(f"a region is named twice in {', '.join(regions)}")
    return regions


def _weight(body: bytes) -> packing.Size:
    return packing.Size(tokens=0, request_bytes=len(body), response_bytes=300)


def _in_order(call: Call[_Job], count: int) -> values.Vectors:
    """The rows of all answers at the places of their items."""
    _, first = call.answers[0]
    whole = np.empty((count, *first.values.shape[1:]), dtype=np.float32)
    for items, rows in call.answers:
        whole[list(items)] = rows.values
    return whole


def _usage(call: Call[_Job]) -> Usage:
    return Usage(sum(rows.tokens for _, rows in call.answers), call.requests)
