"""
What each method of a client asks, as a job: checked, measured and packed, with nothing sent.

A job knows its items, how a request for some of them is put, and what becomes of all the answers. Whoever sends it
need not know whether they are texts, documents or pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from jina_sm import packing, tokens, values, wire
from jina_sm.catalog import Model
from jina_sm.errors import InputError, JinaSMError, ProtocolError
from jina_sm.exchange import Answer, Send, Work
from jina_sm.packing import Limits, Size, Sizes
from jina_sm.transport import Request
from jina_sm.values import (
    Completion,
    Document,
    Embeddings,
    EmbedRequest,
    Item,
    Media,
    MultiVector,
    Ranking,
    ReadRequest,
    RerankRequest,
    Rows,
    Timings,
    Usage,
)

if TYPE_CHECKING:
    from jina_sm.chunking import By
    from jina_sm.wire.readers import Reading

_BYTES_A_NUMBER = {"A": 12.6, "B": 20.6}  # a v3 row of 1,024 numbers is 12.9 kB of JSON, one of v5 21 kB
_BYTES_A_CODED_NUMBER = 5.4
_BYTES_A_ROW = 120
_MEDIA_TOKENS = 1000
"""What an image, a page or a minute of sound is taken to weigh. Nobody publishes how the containers count them."""

_Result = TypeVar("_Result")
_Done = Callable[[Sequence[Answer], Mapping[int, JinaSMError], Usage, Timings], _Result]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job(Generic[_Result]):
    """``ask`` makes the request for some items, ``check`` refuses rows that cannot be theirs, ``done`` the result.

    ``named``: what the items are called in an error, as in ``texts[3]``.
    """

    model: Model
    named: str
    items: tuple[Any, ...]
    work: Work
    ask: Callable[[tuple[Any, ...]], Any]
    check: Callable[[Any], None]
    done: _Done[_Result]


@dataclass(frozen=True, eq=False)
class Letter:
    """A request about to be sent, and what was asked in it."""

    asked: Any
    request: Request


@dataclass(frozen=True, eq=False)
class Reply:
    """What an answer says, with the tokens it counts and the seconds it took to decode."""

    rows: Any
    tokens: int
    decode_s: float


def write(send: Send[Any], speaks: str) -> Letter:
    """The request that a Send asks for, in a target's wire. Raises InputError."""
    job: Job[Any] = send.pieces[0].call.job.job
    asked = job.ask(tuple(piece.call.job.job.items[item] for piece in send.pieces for item in piece.items))
    speech = wire.dialect(job.model, wire=speaks)
    return Letter(asked, Request(speech.encode_request(asked), path=speech.path))


def read(send: Send[Any], speaks: str, letter: Letter, body: bytes) -> Reply:
    """What came back. Raises ProtocolError."""
    began = time.perf_counter()
    job: Job[Any] = send.pieces[0].call.job.job
    rows = wire.dialect(job.model, wire=speaks).decode_response(letter.asked, body)
    job.check(rows)
    counted = rows.prompt_tokens + rows.completion_tokens if isinstance(rows, Completion) else rows.tokens
    return Reply(rows, counted, time.perf_counter() - began)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What jobs are made for: a model, the wires of the client's targets, and what a request may hold."""

    model: Model
    wires: tuple[str, ...]
    limits: Limits
    lengths: tokens.Lengths
    coalesce: bool

    def embed(
        self,
        items: Iterable[Item],
        *,
        task: str | None,
        dimensions: int | None,
        normalize: bool,
        late_chunking: bool,
        truncate: bool,
        name: str = "texts",
        batches: Sequence[tuple[int, ...]] | None = None,
    ) -> Job[Embeddings]:
        """One vector an item. ``batches``: which items travel together, where that changes the vectors."""
        self._needs("embed", "embedding", "clip")
        if self.model.kind == "embedding" and self.model.dimensions is None:
            raise InputError(f"{self.model.key} gives many vectors an item", cure="Ask embed_multi().")
        given = values.items_of(items, call="embed", name=name)
        asked = self._embed_request(task, dimensions, normalize, late_chunking, truncate)
        width = dimensions or self.model.dimensions

        def check(rows: Rows) -> None:
            if width is not None and rows.values.shape[1] != width:
                raise ProtocolError(f"vectors of {rows.values.shape[1]} dimensions came, not of {width}")

        def done(
            answers: Sequence[Answer], failures: Mapping[int, JinaSMError], usage: Usage, timings: Timings
        ) -> Embeddings:
            if answers and _paged(given):
                vectors = answers[0].rows.values
            else:
                vectors = _rows_in_order(answers, len(given), (width,) if width else None)
            if normalize and not self.model.normalized:
                vectors = values.normalized(vectors)
            return Embeddings(vectors, usage, self.model.key, timings=timings, errors=failures)

        work = self._work(
            given,
            name,
            asked,
            answered=self._row_bytes(asked, width or 0),
            batches=[tuple(range(len(given)))] if late_chunking and batches is None else batches,
            cut=truncate,
        )
        for batch in work.batches if late_chunking else ():
            if not truncate and (together := work.sizes.of(batch).tokens) * self._surely > self.model.max_tokens:
                raise InputError(
                    f"{len(batch)} {name} have about {together:,} tokens together; {self.model.key} reads "
                    f"{self.model.max_tokens:,}",
                    cure="Use embed_document(), which cuts a long document into several windows.",
                )
        return self._job(name, given, work, asked, check, done)

    def document(
        self,
        text: str,
        *,
        max_tokens: int,
        overlap: int,
        by: By,
        task: str | None,
        dimensions: int | None,
        normalize: bool,
        late_chunking: bool,
    ) -> Job[Document]:
        """One vector a passage; with late chunking, the passages of a window travel together and with nothing else."""
        from jina_sm import chunking  # its tables of where a text may be cut take a while to make

        room = int(self.model.max_tokens * self._surely)  # so that a window that is longer than believed fits too
        if max_tokens > room:
            raise InputError(
                f"max_tokens={max_tokens} may be more than {self.model.key} reads ({self.model.max_tokens:,})",
                cure=f"Take {room:,} or fewer" + ("." if self.lengths.exact else ", or give the tokenizer."),
            )
        chunks = chunking.chunk(text, max_tokens=max_tokens, overlap=overlap, by=by, lengths=self.lengths.frozen())
        asked = self._embed_request(task, dimensions, normalize, late_chunking, False)
        rows = max(1, self.limits.response_bytes // self._row_bytes(asked, dimensions or self.model.dimensions or 0))
        batches = chunking.windows(chunks, max_tokens=room, max_chunks=rows) if late_chunking else None
        job = self.embed(
            [chunk.text for chunk in chunks],
            task=task,
            dimensions=dimensions,
            normalize=normalize,
            late_chunking=late_chunking,
            truncate=False,
            name="chunks",
            batches=None if batches is None else [tuple(batch) for batch in batches],
        )

        def done(
            answers: Sequence[Answer], failures: Mapping[int, JinaSMError], usage: Usage, timings: Timings
        ) -> Document:
            found = job.done(answers, failures, usage, timings)
            return Document(chunks, found.vectors, usage, self.model.key, timings)

        return Job(
            model=job.model,
            named=job.named,
            items=job.items,
            work=job.work,
            ask=job.ask,
            check=job.check,
            done=done,
        )

    def embed_multi(self, items: Iterable[Item], *, task: str | None, dimensions: int | None) -> Job[MultiVector]:
        """One vector a token."""
        self._needs("embed_multi", "multi-vector", "embedding")
        given = values.items_of(items, call="embed_multi", name="texts")
        asked = replace(
            self._embed_request(task, dimensions, True, False, False),
            multivector=self.model.kind == "embedding",
            base64=False,
        )

        def done(
            answers: Sequence[Answer], failures: Mapping[int, JinaSMError], usage: Usage, timings: Timings
        ) -> MultiVector:
            width = next((int(each.rows.values[each.start].shape[1]) for each in answers), 1)
            if answers and _paged(given):
                pages = tuple(answers[0].rows.values)
                return MultiVector(pages, usage, self.model.key, timings=timings, errors=failures)
            found: list[values.Vectors] = [np.full((1, width), np.nan, dtype=np.float32)] * len(given)
            for answer in answers:
                for place, item in enumerate(answer.items, answer.start):
                    found[item] = answer.rows.values[place]
            return MultiVector(tuple(found), usage, self.model.key, timings=timings, errors=failures)

        # A row a token, of which each weighs as a vector of its own.
        work = self._work(
            given, "texts", asked, answered=self._row_bytes(asked, self.model.dimensions or 128), each=True
        )
        return self._job("texts", given, work, asked, lambda rows: None, done)

    def rerank(self, query: str, documents: Iterable[Item], *, top_n: int | None) -> Job[Ranking]:
        """A score a document."""
        self._needs("rerank", "reranker")
        values.check_text(query, "query")
        values.check_top_n(top_n)
        given = values.items_of(documents, call="rerank", name="documents")
        asked = RerankRequest(query=query, documents=())

        def done(
            answers: Sequence[Answer], failures: Mapping[int, JinaSMError], usage: Usage, timings: Timings
        ) -> Ranking:
            scores = _rows_in_order(answers, len(given), ())
            return Ranking.of(
                scores, given, top_n=top_n, usage=usage, model=self.model.key, timings=timings, errors=failures
            )

        work = self._work(given, "documents", asked, query=query)
        if self.model.dialect == "reranker-v3":  # it weighs the documents of a request against each other
            work = replace(work, key=None)
        return self._job("documents", given, work, asked, lambda rows: None, done)

    def read(self, html: str, *, instruction: str | None, schema: str | None) -> Job[Completion]:
        """Markdown of a page, or JSON by a schema."""
        asked = self._read_request(html, instruction, schema)

        def done(
            answers: Sequence[Answer], failures: Mapping[int, JinaSMError], usage: Usage, timings: Timings
        ) -> Completion:
            written: Completion = answers[0].rows
            return replace(written, timings=timings)

        return Job(
            model=self.model,
            named="html",
            items=(html,),
            work=self._work((html,), "html", asked, whole=True),
            ask=lambda _: asked,
            check=lambda rows: None,
            done=done,
        )

    def stream(self, html: str, *, instruction: str | None, schema: str | None) -> tuple[Letter, Reading]:
        """The request for the same in pieces, and what reads them."""
        asked = replace(self._read_request(html, instruction, schema), stream=True)
        self._work((html,), "html", asked, whole=True)
        speech = wire.dialect(self.model)
        from jina_sm.wire.readers import Reader

        assert isinstance(speech, Reader)
        return Letter(asked, Request(speech.encode_request(asked), path=speech.path)), speech.reading(asked)

    def _read_request(self, html: str, instruction: str | None, schema: str | None) -> ReadRequest:
        self._needs("read", "reader")
        values.check_text(html, "html")
        return ReadRequest(html=html, instruction=instruction, schema=schema)

    def _job(
        self,
        named: str,
        given: tuple[Item, ...],
        work: Work,
        asked: EmbedRequest | RerankRequest,
        check: Callable[[Any], None],
        done: _Done[_Result],
    ) -> Job[_Result]:
        return Job(
            model=self.model,
            named=named,
            items=given,
            work=work,
            ask=lambda some: _with(asked, some),
            check=check,
            done=done,
        )

    def _needs(self, call: str, *kinds: str) -> None:
        if self.model.kind not in kinds:
            needed = " or ".join(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in kinds)
            raise InputError(f"{call}() needs {needed}, and {self.model.key} is a {self.model.kind} model")

    def _embed_request(
        self, task: str | None, dimensions: int | None, normalize: bool, late_chunking: bool, truncate: bool
    ) -> EmbedRequest:
        self.model.check_task(task)
        self.model.check_dimensions(dimensions)
        takes = set.intersection(*(set(wire.dialect(self.model, wire=each).takes) for each in self.wires))
        return EmbedRequest(
            items=(),
            task=task or self.model.default_task,
            dimensions=dimensions,
            late_chunking=late_chunking,
            normalized=normalize or "normalized" not in takes,
            truncate=truncate,
            base64="base64" in takes,
        )

    def _row_bytes(self, asked: EmbedRequest, width: int) -> int:
        generation = wire.dialect(self.model, wire=self.wires[0]).generation
        number = _BYTES_A_CODED_NUMBER if asked.base64 else _BYTES_A_NUMBER.get(generation, 20.6)
        return int(width * number) + _BYTES_A_ROW

    def _work(
        self,
        given: tuple[Item, ...],
        name: str,
        asked: EmbedRequest | RerankRequest | ReadRequest,
        *,
        query: str = "",
        answered: int | None = None,
        each: bool = False,
        whole: bool = False,
        batches: Sequence[tuple[int, ...]] | None = None,
        cut: bool = False,
    ) -> Work:
        """The items measured, refused if no request could hold one, and packed.

        ``answered``: bytes that come back for an item (with ``each``: for a token of it); None: about what was sent.
        """
        if "container" in self.wires:
            for index, item in enumerate(given):
                if isinstance(item, Media) and isinstance(item.source, str):
                    raise InputError(
                        f"{name}[{index}] is a URL, and the model's container has no network to fetch it",
                        cure="Pass its bytes, or make the client with fetch_urls=True.",
                    )
        speech = wire.dialect(self.model, wire=self.wires[0])
        bare = len(speech.encode_request(asked))  # and whatever cannot be told this model is refused here
        for other in self.wires[1:]:
            wire.dialect(self.model, wire=other).encode_request(asked)
        self._check_media(given, name, asked)
        beside = int(self.lengths.of([query])[0]) if query else 0
        weights = self._lengths(given)
        sent = np.fromiter((_weight(item) for item in given), dtype=np.int64, count=len(given))
        self._check(given, name, weights, sent, query, beside, cut)
        if answered is None:
            comes = sent + 2 * _BYTES_A_ROW
        else:
            comes = weights * answered if each else np.full(len(given), answered, dtype=np.int64)
        sizes = Sizes(tokens=weights + beside, request_bytes=sent, response_bytes=comes)
        overhead = Size(tokens=0, request_bytes=0 if whole else bare, response_bytes=300)
        return Work(
            sizes=sizes,
            overhead=overhead,
            batches=packing.batches(sizes, self.limits, overhead) if batches is None else batches,
            key=asked if self.coalesce and batches is None and not whole and not _paged(given) else None,
            whole=whole or batches is not None,
        )

    @property
    def _surely(self) -> float:
        """The share of a length that may be relied on: an estimate only as far as it has been seen to be right."""
        return 1.0 if self.lengths.exact else 1 - tokens.ERROR

    def _lengths(self, given: tuple[Item, ...]) -> NDArray[np.int64]:
        if all(isinstance(item, str) for item in given):
            return self.lengths.of(given)  # type: ignore[arg-type]
        texts = self.lengths.of([item if isinstance(item, str) else "" for item in given])
        media = np.fromiter((isinstance(item, Media) for item in given), dtype=bool, count=len(given))
        return np.where(media, min(_MEDIA_TOKENS, self.model.max_tokens), texts)

    def _check_media(self, given: tuple[Item, ...], name: str, asked: Any) -> None:
        """Refuses what the model has no word for here, where nobody else's request is spoilt by it."""
        kinds = {item.kind: index for index, item in reversed(list(enumerate(given))) if isinstance(item, Media)}
        for kind, index in kinds.items():
            beside = () if len(given) == 1 else ("a text",)
            for speaks in self.wires:
                try:
                    speech = wire.dialect(self.model, wire=speaks)
                    speech.encode_request(_with(asked, (Media(kind, b"."), *beside)))
                except InputError as error:
                    error.index, error.item = index, f"{name}[{index}]"
                    raise

    def _check(
        self,
        given: tuple[Item, ...],
        name: str,
        weights: NDArray[np.int64],
        sent: NDArray[np.int64],
        query: str,
        beside: int,
        cut: bool,
    ) -> None:
        for index in np.flatnonzero(sent > self.limits.request_bytes).tolist():
            raise _refused(f"{name}[{index}] is larger than a request may be ({int(sent[index]):,} bytes)", index)
        too_long = weights * self._surely > self.model.max_tokens - beside
        for index in () if cut else np.flatnonzero(too_long).tolist():
            about = "" if self.lengths.exact else "about "
            raise _refused(
                f"{name}[{index}] has {about}{int(weights[index]):,} tokens"
                + (f" and the query {beside:,}" if query else "")
                + f"; {self.model.key} reads {self.model.max_tokens:,}",
                index,
            )


def _refused(why: str, index: int) -> InputError:
    """An item that is too much for a request of its own."""
    error = InputError(why, cure="Split it.")
    error.index = index
    return error


def result(call: Any) -> Any:
    """What a call that is over comes to. Raises its error."""
    job: Job[Any] = call.job.job
    for index, error in call.failures.items():
        error.index, error.item = index, f"{job.named}[{index}]"
    if call.error is not None:
        if call.error.index is not None:
            call.error.item = f"{job.named}[{call.error.index}]"
        try:
            raise call.error
        finally:
            call.error = None  # else an error that is kept for a while keeps the call, which keeps the error
    usage = Usage(sum(answer.tokens for answer in call.answers), call.requests)
    return job.done(call.answers, dict(sorted(call.failures.items())), usage, timings(call))


def timings(call: Any) -> Timings:
    """Where the time of a call went."""
    ended, first = call.ended or call.began, call.first_sent or call.began
    return Timings(
        total_s=ended - call.began,
        queued_s=first - call.began,
        decode_s=call.job.decode_s,
        requests=call.requests,
        retries=call.retries,
        splits=call.splits,
        hedges=call.hedges,
    )


def _with(asked: EmbedRequest | RerankRequest, some: tuple[Item, ...]) -> EmbedRequest | RerankRequest:
    return replace(asked, items=some) if isinstance(asked, EmbedRequest) else replace(asked, documents=some)


def _paged(given: Sequence[Item]) -> bool:
    """Whether a row comes for each page of the one item."""
    return len(given) == 1 and isinstance(given[0], Media) and given[0].kind == "pdf"


def _weight(item: Item) -> int:
    if isinstance(item, str):
        return wire.weight(item)
    return len(item.source) * 4 // 3 + 64 if isinstance(item.source, bytes) else len(item.source) + 64


def _rows_in_order(answers: Sequence[Answer], count: int, shape: tuple[int, ...] | None) -> values.Vectors:
    """The rows of all answers at the places of their items; not a number where an item has none."""
    if shape is None:
        shape = answers[0].rows.values.shape[1:] if answers else (0,)
    if len(answers) == 1 and answers[0].items == tuple(range(count)) and answers[0].start == 0:
        rows: values.Vectors = answers[0].rows.values[:count]
        return rows if len(answers[0].rows) == count else rows.copy()
    whole = np.empty((count, *shape), dtype=np.float32)
    if sum(len(answer.items) for answer in answers) < count:
        whole.fill(np.nan)
    for answer in answers:
        whole[list(answer.items)] = answer.rows.values[answer.start : answer.start + len(answer.items)]
    return whole
