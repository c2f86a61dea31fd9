"""
The typed client: texts in, NumPy out, however many requests that takes.

``Client`` for threads and ``AsyncClient`` for an event loop make the same jobs (``calls``) for the same machine
(``exchange``); what differs is who waits (``driver``). A target is a SageMaker endpoint, Jina's hosted API or a
server of one's own; several targets are several places, the first of which is home.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from numbers import Integral, Real
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypedDict, TypeVar, Unpack

from jina_sm import calls, catalog, tokens
from jina_sm.calls import Job
from jina_sm.clock import Clock
from jina_sm.driver import Ticket
from jina_sm.errors import InputError
from jina_sm.exchange import Event, Exchange
from jina_sm.packing import Limits
from jina_sm.retry import Policy
from jina_sm.threads import Threads
from jina_sm.transport import AsyncTransport, Response, Transport
from jina_sm.transport.sagemaker import SageMakerTransport
from jina_sm.transport.target import Located, Target, checked_url, open_async, open_transport, parse
from jina_sm.values import Completion, Document, Embeddings, Item, Media, MultiVector, Ranking

IN_FLIGHT = 6
"""Requests in flight to one instance: a single instance is kept busy by 4 to 8, and more only lengthen the queue."""
if TYPE_CHECKING:  # asyncio takes as long to import as all of this
    from jina_sm.chunking import By
    from jina_sm.tasks import Tasks
    from jina_sm.wire.readers import Reading

_CONNECTIONS = 256  # kept open to a target at most; how many are used is for the machine to say

OnError = Literal["raise", "collect"]
_Result = TypeVar("_Result")
_Transport = TypeVar("_Transport", Transport, AsyncTransport)
_kept: ContextVar[list[Response] | None] = ContextVar("jina_sm_responses", default=None)


@contextlib.contextmanager
def raw_responses() -> Iterator[list[Response]]:
    """The answers, byte for byte, that the calls made inside the block are answered with.

    >>> with raw_responses() as responses:
    ...     client.embed(["a text"])
    >>> responses[0].request_id, responses[0].headers, responses[0].body
    """
    responses: list[Response] = []
    before = _kept.set(responses)
    try:
        yield responses
    finally:
        _kept.reset(before)


class Settings(TypedDict, total=False):
    """What the constructor takes beside the model and where it is."""

    retry: Policy
    limits: Limits
    in_flight: int
    instances: int | None
    coalesce: bool
    timeout_s: float | None
    tokenizer: str | os.PathLike[str] | None
    fetch_urls: bool
    on_event: Callable[[Event], object] | None
    clock: Clock
    catalog_file: str | None


class _Opening(Generic[_Transport]):
    """``model``: by its key; or what ``deploy`` returned, which then says where it is and on how many instances.

    ``regions``: where the endpoint is, else those of ``JINA_SM_REGIONS``, else the session's region. The first is
    home; the others take over while it fails. ``name``: the deployment's, if it was given one.

    ``retry``: the bounds of trying again, and whether a straggler is sent twice: not to Jina's API, unless asked to.
    ``limits``: what one request may hold. ``in_flight``: requests at once to an instance; ``instances``: how many
    there are, else DescribeEndpoint is asked beside the calls while all are busy, once a minute at most. ``coalesce``:
    calls made at the same time share requests. ``timeout_s``: for every call that brings no own. ``tokenizer``: the
    model's ``tokenizer.json``, for exact lengths (extra ``tokenizer``). ``fetch_urls``: media given as URLs are
    brought by the client, where the model itself cannot. ``on_event`` is told of every request, answer, retry, split,
    hedge and failover. ``session``: a boto3 session; ``url``: where AWS is, if elsewhere.

    Raises InputError for what can be known beforehand, else InvocationError or AuthError, when called.
    """

    def __init__(
        self,
        model: str | catalog.Model | Located,
        *,
        regions: Sequence[str] | None = None,
        name: str | None = None,
        session: Any = None,
        url: str | None = None,
        retry: Policy = Policy(),  # noqa: B008  a frozen value
        limits: Limits = Limits(),  # noqa: B008
        in_flight: int = IN_FLIGHT,
        instances: int | None = None,
        coalesce: bool = True,
        timeout_s: float | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        fetch_urls: bool = False,
        on_event: Callable[[Event], object] | None = None,
        clock: Clock = Clock(),  # noqa: B008
        transports: Sequence[_Transport] | None = None,
        catalog_file: str | None = None,
    ) -> None:
        known = catalog.load(catalog_file)
        counts: Sequence[int] = ()
        if not isinstance(model, str | catalog.Model) and isinstance(model, Located):
            if regions is not None or name is not None or transports is not None:
                raise InputError("a fleet says itself where it is", cure="Leave out regions and name.")
            if not model.targets:
                raise InputError(f"nothing of the fleet answers: {model}", cure="`jina-sm deploy` brings it up.")
            places = [parse(each) for each in model.targets]
            counts, transports = model.instances, self._open(places, aws=session, url=url)
            model, retry = model.model, _thrifty(retry, places)
        elif transports is not None:
            beside = {"regions": regions, "name": name, "session": session, "url": url}
            for argument, given in beside.items():
                if given is not None:
                    raise InputError(
                        f"{argument} is not looked at where the targets are given",
                        cure="Leave it out. Client.at(...) takes targets in several regions.",
                    )
        self.model = model if isinstance(model, catalog.Model) else known.model(model)
        for number in (in_flight, 1 if instances is None else instances):
            if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
                raise InputError(f"in_flight and instances are 1 or more, not {in_flight!r} and {instances!r}")
        if transports is None:
            endpoint, homes = catalog.endpoint_name(self.model, name), regions_of(regions, session)
            for region in homes:
                known.check_region(region)
            found = [Target("sagemaker", self.model.key, region=region, endpoint_name=endpoint) for region in homes]
            transports = self._open(found, aws=session, url=url)
        if not transports:
            raise InputError("a client needs a target")
        self._timeout_s = _seconds(timeout_s)
        self._fetch_urls = fetch_urls
        self._lengths = tokens.Lengths(tokenizer)
        self._asking = calls.Asking(
            model=self.model,
            wires=tuple(dict.fromkeys(each.wire for each in transports)),
            limits=limits,
            lengths=self._lengths,
            coalesce=coalesce,
        )
        exchange: Exchange[Ticket] = Exchange(
            [(each.name, each.region) for each in transports],
            policy=retry,
            limits=limits,
            in_flight=in_flight,
            random=clock.random,
            counting=instances is None,
        )
        for number in range(len(transports)):
            exchange.resize(number, instances or (counts[number] if counts else 0) or 1)
        self._driver = self._driven(
            transports,
            exchange,
            clock=clock,
            lengths=self._lengths,
            on_event=on_event,
        )

    @classmethod
    def sagemaker(
        cls,
        endpoint_name: str,
        *,
        model: str | catalog.Model,
        region: str | None = None,
        session: Any = None,
        url: str | None = None,
        **settings: Unpack[Settings],
    ) -> Self:
        """A client of an endpoint that this tool did not deploy. What else is taken is the constructor's."""
        (home,) = regions_of([region] if region else None, session)[:1]
        target = Target("sagemaker", _key(model), region=home, endpoint_name=endpoint_name)
        return cls._of([target], model, settings, session=session, url=url)

    @classmethod
    def jina_api(cls, model: str | catalog.Model, *, api_key: str | None = None, **settings: Unpack[Settings]) -> Self:
        """A client of Jina's hosted API. ``api_key=None``: that of ``JINA_API_KEY``."""
        return cls._of([Target("jina-api", _key(model))], model, settings, api_key=api_key)

    @classmethod
    def self_hosted(
        cls, url: str, *, model: str | catalog.Model, api_key: str | None = None, **settings: Unpack[Settings]
    ) -> Self:
        """A client of a server of one's own that speaks ``/v1/embeddings`` and ``/v1/rerank``."""
        return cls._of([Target("http", _key(model), url=checked_url(url))], model, settings, api_key=api_key)

    @classmethod
    def at(cls, *targets: str, session: Any = None, url: str | None = None, **settings: Unpack[Settings]) -> Self:
        """A client of targets named by strings, home first.

        ``sagemaker://us-east-1/my-endpoint?model=jina-embeddings-v3``, ``jina-api://?model=...`` or
        ``http://host:8080?model=...``; all of one model. ``session`` and ``url`` are for those of SageMaker.
        """
        parsed = [parse(target) for target in targets]
        if len({target.model for target in parsed}) != 1:
            raise InputError(f"a client has targets of one model, not {sorted({each.model for each in parsed})}")
        return cls._of(parsed, parsed[0].model, settings, session=session, url=url)

    @classmethod
    def from_env(cls, *, session: Any = None, url: str | None = None, **settings: Unpack[Settings]) -> Self:
        """A client of the targets in ``JINA_SM_TARGETS``, separated by blanks or commas, home first."""
        given = re.findall(r"[^\s,]+", os.environ.get("JINA_SM_TARGETS", ""))
        if not given:
            raise InputError(
                "JINA_SM_TARGETS names no target",
                cure="Set it, for instance to sagemaker://us-east-1/my-endpoint?model=jina-embeddings-v3.",
            )
        return cls.at(*given, session=session, url=url, **settings)

    @classmethod
    def local(
        cls,
        model: str | catalog.Model = "jina-embeddings-v3",
        *,
        regions: Sequence[str] = ("us-east-1",),
        name: str | None = None,
        **settings: Unpack[Settings],
    ) -> Self:
        """A client of the local stack (``jina-sm local up``), whatever AWS settings are around."""
        from jina_sm.transport.session import local_port, local_session

        found = regions_of(regions, None)
        url = f"http://127.0.0.1:{local_port()}"
        return cls(model, regions=found, name=name, session=local_session(found[0]), url=url, **settings)

    @classmethod
    def _of(
        cls,
        targets: Sequence[Target],
        model: str | catalog.Model,
        settings: Settings,
        *,
        session: Any = None,
        url: str | None = None,
        api_key: str | None = None,
    ) -> Self:
        settings["retry"] = _thrifty(settings.get("retry", Policy()), targets)
        transports = cls._open(targets, aws=session, url=url, api_key=api_key)
        return cls(model, transports=transports, **settings)

    def _within_s(self, timeout_s: float | None) -> float | None:
        """How long a call may take: what it says, else what the client does."""
        given_s = _seconds(timeout_s)
        return self._timeout_s if given_s is None else given_s

    def _brought(self, given: Iterable[Item], name: str) -> Iterable[Item]:
        """The items, those that are URLs fetched if that was asked for."""
        if not self._fetch_urls or isinstance(given, str | bytes):
            return given
        from jina_sm.transport.fetch import fetched

        return [
            fetched(item, f"{name}[{index}]") if isinstance(item, Media) else item for index, item in enumerate(given)
        ]

    @staticmethod
    def _open(targets: Sequence[Target], **how: Any) -> Sequence[_Transport]:
        raise NotImplementedError

    @staticmethod
    def _driven(transports: Sequence[_Transport], exchange: Exchange[Ticket], **how: Any) -> Any:
        raise NotImplementedError


class Client(_Opening[Transport]):
    """Embeds, reranks and reads with one model, in one place or several.

    ``Client("jina-embeddings-v3").embed(["a text"]).vectors`` finds the endpoint that ``jina-sm deploy`` made.
    Thread-safe; ``close()`` it or use it in a ``with`` statement. Its settings:
    """

    __doc__ = f"{__doc__}\n{_Opening.__doc__}"
    _driver: Threads

    def embed(
        self,
        texts: Iterable[Item],
        *,
        task: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        late_chunking: bool = False,
        truncate: bool = False,
        on_error: OnError = "raise",
        timeout_s: float | None = None,
    ) -> Embeddings:
        """One vector a text, in the order given, however many requests that takes.

        >>> client.embed(["a red bicycle"], task="retrieval.passage", dimensions=256).vectors.shape
        (1, 256)

        ``task=None`` is the model's own default; ``dimensions=None`` its full length. ``normalize``: vectors of unit
        length, also of a model that gives others (v1, v2, CLIP), so that a dot product is the cosine; False: as the
        model gives them. ``late_chunking``: the texts are the chunks of one document and are embedded together.
        ``truncate``: a text that is too long is cut by the model, not refused. Where the model takes them, images and
        other media may stand among the texts (``jina_sm.image(...)``); a PDF is asked alone and has a row a page.

        ``on_error="collect"``: an item that the model refuses is set down in ``.errors`` and the rest is embedded; so
        is what was not answered when the target failed for good or the time was up, unless nothing was.
        "raise": its error is raised, with its ``index``. ``timeout_s``: a DeadlineExceededError after so long.
        """
        job = self._asking.embed(
            self._brought(texts, "texts"),
            task=task,
            dimensions=dimensions,
            normalize=normalize,
            late_chunking=late_chunking,
            truncate=truncate,
        )
        return self._run(job, on_error, timeout_s)

    def embed_document(
        self,
        text: str,
        *,
        max_tokens: int = 512,
        overlap: int = 0,
        by: By = "sentence",
        task: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        late_chunking: bool = False,
        timeout_s: float | None = None,
    ) -> Document:
        """A long text as passages that know their places in it, one vector each.

        ``max_tokens``, ``overlap`` and ``by`` ("sentence", "tokens", "markdown") are ``chunk``'s. ``late_chunking``
        (v3, v4): each passage's vector is made with the others in sight, as many as the model reads at once (8,192
        tokens); a longer document has several such windows.
        """
        job = self._asking.document(
            text,
            max_tokens=max_tokens,
            overlap=overlap,
            by=by,
            task=task,
            dimensions=dimensions,
            normalize=normalize,
            late_chunking=late_chunking,
        )
        return self._run(job, "raise", timeout_s)

    def embed_multi(
        self,
        texts: Iterable[Item],
        *,
        task: str | None = None,
        dimensions: int | None = None,
        on_error: OnError = "raise",
        timeout_s: float | None = None,
    ) -> MultiVector:
        """One vector a token of each text: ColBERT (``task="query"`` or ``"document"``), or v4's many vectors.

        >>> passages.maxsim(client.embed_multi(["what do bees make?"], task="query"))
        """
        job = self._asking.embed_multi(self._brought(texts, "texts"), task=task, dimensions=dimensions)
        return self._run(job, on_error, timeout_s)

    def rerank(
        self,
        query: str,
        documents: Iterable[Item],
        *,
        top_n: int | None = None,
        on_error: OnError = "raise",
        timeout_s: float | None = None,
    ) -> Ranking:
        """The documents by falling relevance to the query, the best ``top_n`` of them.

        >>> client.rerank("pet food", ["tyres", "dog biscuits"], top_n=1)[0].document
        'dog biscuits'

        Many documents travel in several requests. That changes no score, except a little with v3 and v3.5, which
        weigh the documents of a request against each other.
        """
        job = self._asking.rerank(query, self._brought(documents, "documents"), top_n=top_n)
        return self._run(job, on_error, timeout_s)

    def read(
        self,
        html: str,
        *,
        instruction: str | None = None,
        schema: str | None = None,
        timeout_s: float | None = None,
    ) -> Completion:
        """A page as Markdown, or as the JSON that a schema asks for."""
        return self._run(self._asking.read(html, instruction=instruction, schema=schema), "raise", timeout_s)

    def read_stream(
        self,
        html: str,
        *,
        instruction: str | None = None,
        schema: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[str]:
        """The same as it is written, piece by piece, from home alone and without a second attempt.

        >>> for piece in client.read_stream(page):
        ...     print(piece, end="")

        Only a SageMaker endpoint streams; another target is an InputError. ``timeout_s`` counts from when the first
        piece is asked for: what has come is given, and then a DeadlineExceededError raised.
        """
        letter, reading = self._asking.stream(html, instruction=instruction, schema=schema)
        within_s = self._within_s(timeout_s)
        home = self._driver.home
        if not isinstance(home, SageMakerTransport):
            raise InputError(f"{home.name} does not stream", cure="Ask read().")
        return _pieces(self._driver.in_time(home.stream(letter.request), within_s), reading)

    def close(self) -> None:
        """Ends the client's connections. Calls under way are finished first."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, job: Job[_Result], on_error: OnError, timeout_s: float | None) -> _Result:
        _check_on_error(on_error)
        within_s, collect = self._within_s(timeout_s), on_error == "collect"
        call = self._driver.run(job, timeout_s=within_s, collect=collect, keep=_kept.get())
        result: _Result = calls.result(call)
        return result

    @staticmethod
    def _open(targets: Sequence[Target], **how: Any) -> Sequence[Transport]:
        return [open_transport(target, connections=_CONNECTIONS, **how) for target in targets]

    @staticmethod
    def _driven(transports: Sequence[Transport], exchange: Exchange[Ticket], **how: Any) -> Threads:
        return Threads(transports, exchange, **how)


class AsyncClient(_Opening[AsyncTransport]):
    """``Client`` for one event loop: the same settings, calls, results and errors. Needs the extra ``async``."""

    _driver: Tasks

    async def embed(
        self,
        texts: Iterable[Item],
        *,
        task: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        late_chunking: bool = False,
        truncate: bool = False,
        on_error: OnError = "raise",
        timeout_s: float | None = None,
    ) -> Embeddings:
        """As ``Client.embed``."""
        job = self._asking.embed(
            await self._brought_aside(texts, "texts"),
            task=task,
            dimensions=dimensions,
            normalize=normalize,
            late_chunking=late_chunking,
            truncate=truncate,
        )
        return await self._run(job, on_error, timeout_s)

    async def embed_document(
        self,
        text: str,
        *,
        max_tokens: int = 512,
        overlap: int = 0,
        by: By = "sentence",
        task: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        late_chunking: bool = False,
        timeout_s: float | None = None,
    ) -> Document:
        """As ``Client.embed_document``."""
        job = self._asking.document(
            text,
            max_tokens=max_tokens,
            overlap=overlap,
            by=by,
            task=task,
            dimensions=dimensions,
            normalize=normalize,
            late_chunking=late_chunking,
        )
        return await self._run(job, "raise", timeout_s)

    async def embed_multi(
        self,
        texts: Iterable[Item],
        *,
        task: str | None = None,
        dimensions: int | None = None,
        on_error: OnError = "raise",
        timeout_s: float | None = None,
    ) -> MultiVector:
        """As ``Client.embed_multi``."""
        brought = await self._brought_aside(texts, "texts")
        return await self._run(self._asking.embed_multi(brought, task=task, dimensions=dimensions), on_error, timeout_s)

    async def rerank(
        self,
        query: str,
        documents: Iterable[Item],
        *,
        top_n: int | None = None,
        on_error: OnError = "raise",
        timeout_s: float | None = None,
    ) -> Ranking:
        """As ``Client.rerank``."""
        brought = await self._brought_aside(documents, "documents")
        return await self._run(self._asking.rerank(query, brought, top_n=top_n), on_error, timeout_s)

    async def read(
        self,
        html: str,
        *,
        instruction: str | None = None,
        schema: str | None = None,
        timeout_s: float | None = None,
    ) -> Completion:
        """As ``Client.read``."""
        return await self._run(self._asking.read(html, instruction=instruction, schema=schema), "raise", timeout_s)

    def read_stream(
        self,
        html: str,
        *,
        instruction: str | None = None,
        schema: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[str, None]:
        """As ``Client.read_stream``, for ``async for``."""
        letter, reading = self._asking.stream(html, instruction=instruction, schema=schema)
        within_s = self._within_s(timeout_s)
        home = self._driver.home
        stream = getattr(home, "stream", None)  # by its name, since its module imports asyncio
        if stream is None:
            raise InputError(f"{home.name} does not stream", cure="Ask read().")
        return _pieces_of(self._driver.in_time(stream(letter.request), within_s), reading)

    async def close(self) -> None:
        """Ends the client's connections. Calls under way are finished first."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _brought_aside(self, given: Iterable[Item], name: str) -> Iterable[Item]:
        if not self._fetch_urls:
            return given
        import asyncio

        return await asyncio.to_thread(self._brought, given, name)

    async def _run(self, job: Job[_Result], on_error: OnError, timeout_s: float | None) -> _Result:
        _check_on_error(on_error)
        within_s, collect = self._within_s(timeout_s), on_error == "collect"
        call = await self._driver.run(job, timeout_s=within_s, collect=collect, keep=_kept.get())
        result: _Result = calls.result(call)
        return result

    @staticmethod
    def _open(targets: Sequence[Target], **how: Any) -> Sequence[AsyncTransport]:
        return [open_async(target, connections=_CONNECTIONS, **how) for target in targets]

    @staticmethod
    def _driven(transports: Sequence[AsyncTransport], exchange: Exchange[Ticket], **how: Any) -> Tasks:
        from jina_sm.tasks import Tasks

        return Tasks(transports, exchange, **how)


def _pieces(parts: Generator[bytes, None, None], reading: Reading) -> Iterator[str]:
    with contextlib.closing(parts):  # hung up, if whoever reads has had enough
        for part in parts:
            if piece := reading.feed(part):
                yield piece
        if rest := reading.end():
            yield rest


async def _pieces_of(parts: AsyncGenerator[bytes, None], reading: Reading) -> AsyncGenerator[str, None]:
    async with contextlib.aclosing(parts):
        async for part in parts:
            if piece := reading.feed(part):
                yield piece
        if rest := reading.end():
            yield rest


def _thrifty(policy: Policy, targets: Sequence[Target]) -> Policy:
    """Where tokens are paid for, nothing is sent twice unless that was asked for."""
    if policy.hedge_after is None and any(each.kind == "jina-api" for each in targets):
        return replace(policy, hedge_after=0.0)
    return policy


def _key(model: str | catalog.Model) -> str:
    return model if isinstance(model, str) else model.key


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "collect"):
        raise InputError(f"on_error is 'raise' or 'collect', not {on_error!r}")


def _seconds(timeout_s: Any) -> float | None:
    """As a float, whatever kind of number it is. Raises InputError."""
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, Real) or not float(timeout_s) > 0:
        raise InputError(f"timeout_s is more than 0, not {timeout_s!r}", cure="None: for as long as it takes.")
    return float(timeout_s)


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
