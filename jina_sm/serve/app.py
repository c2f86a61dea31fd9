"""
The server as a FastAPI app: the doors, the orchestrators' questions, and what holds them together.

    create_app(settings)                     loads what the settings name, while /live already answers
    create_app(settings, backend=backend)    around a backend that is there

What is added to the app (``app.get("/mine")``, ``app.include_router(...)``) stands behind the same gate: keys, limits
and time-outs are its too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from jina_sm import catalog, transport
from jina_sm.errors import InputError
from jina_sm.serve import openapi, standin
from jina_sm.serve.backend import Backend, Local, Refusal
from jina_sm.serve.batcher import Batcher, Limits
from jina_sm.serve.doors import Doors, Told
from jina_sm.serve.encoders import accelerated
from jina_sm.serve.encoders import load as load_files
from jina_sm.serve.engine import TURN_S, Engine
from jina_sm.serve.gate import Gate, refused_body, refused_headers
from jina_sm.serve.metrics import CONTENT_TYPE, Metrics
from jina_sm.serve.settings import STAND_IN, Settings

ON_GPU, ON_CPU, WINDOW = 8192, 1024, 8192
"""Padded tokens of a batch, and plain ones of a window, where none are set."""
PATHS = frozenset(
    {"/v1/embeddings", "/v1/rerank", "/v1/models", "/embed", "/invocations", "/health", "/live", "/ready", "/ping"}
    | {"/metrics", "/openapi.json"}
)
_log = logging.getLogger(__name__)


class Server:
    """One server's state: what is loading, what serves, and whether it is going down."""

    def __init__(self, settings: Settings, backend: Backend | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.keys = settings.keys()
        self.backend = backend
        self.doors: Doors | None = None
        self.failure: Exception | None = None
        self.on_loaded: Callable[[], object] = lambda: None
        self.draining = False
        if backend is not None:
            self._open(backend)

    @property
    def ready(self) -> bool:
        return self.doors is not None and self.backend is not None and self.backend.alive and not self.draining

    @property
    def alive(self) -> bool:
        return self.failure is None and (self.backend is None or self.backend.alive)

    def drain(self) -> None:
        """/ready turns red, and connections are closed after their answer; requests are still taken."""
        self.draining = True

    async def load(self) -> None:
        """Loads, in a thread. What goes wrong turns /live red and is ``failure``; ``on_loaded`` is told either way.

        Cancelled, it leaves the thread behind, which ends with the process: a download cannot be broken off.
        """
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Backend | Exception] = loop.create_future()

        def told(found: Backend | Exception) -> None:
            if not made.done():
                made.set_result(found)

        def run() -> None:
            found: Backend | Exception
            try:
                found = make_backend(self.settings, self.metrics)
            except Exception as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(told, found)

        threading.Thread(target=run, name="jina_sm loading", daemon=True).start()
        found = await made
        try:
            if isinstance(found, Exception):
                raise found
            self._open(found)
        except Exception as error:
            self.failure = error
        self.on_loaded()

    def _open(self, backend: Backend) -> None:
        settings = self.settings
        first, second = _names(settings.model), _names(settings.reranker)
        if settings.upstream:
            first = second = ()
        if backend.embedder is None:  # then --model is a reranker
            first, second = (), first + second
        self.backend = backend
        self.doors = Doors(backend, embeds=first, ranks=second, max_items=settings.max_items)
        if isinstance(backend, Local):
            batcher = backend.engine.batcher
            self.metrics.gauge("jina_sm_waiting_items", "Texts that wait.", lambda: batcher.waiting_items)
            self.metrics.gauge("jina_sm_waiting_tokens", "Tokens that wait.", lambda: batcher.waiting_tokens)
            self.metrics.gauge("jina_sm_open_requests", "Requests not yet answered.", lambda: batcher.waiting_requests)
            self.metrics.gauge("jina_sm_budget_tokens", "Padded tokens a batch may have now.", lambda: batcher.budget)
            self.metrics.gauge("jina_sm_tokens_per_second", "As measured of late.", lambda: batcher.rate)
            self.metrics.gauge("jina_sm_out_of_memory", "Batches that did not fit.", lambda: batcher.out_of_memory)
            self.metrics.gauge("jina_sm_bisections", "Failed batches that were halved.", lambda: batcher.bisections)
            deaths = backend.engine
            self.metrics.gauge("jina_sm_model_deaths", "Times the model's thread died.", lambda: deaths.deaths)


def _names(given: str | None) -> tuple[str, ...]:
    """What a model may be called that was named so on the command line."""
    return tuple(dict.fromkeys((given, given.rstrip("/").rpartition("/")[2]))) if given else ()


def make_backend(settings: Settings, metrics: Metrics | None = None) -> Backend:
    """What the settings name, loaded and begun. Raises JinaSMError."""
    if settings.upstream:
        from jina_sm.serve.gateway import Gateway

        return Gateway(settings.targets, timeout_s=settings.timeout_s, url_hosts=settings.url_hosts)
    known = catalog.load()
    from_files, scores_from_files = load_files(settings, known)
    embedder, scorer = standin.load(settings, known)
    gpu = accelerated(settings) if from_files or scores_from_files else False
    batcher = Batcher(limits(settings, gpu=gpu), policy=settings.batching)
    backend = Local(
        from_files or embedder,
        scores_from_files or scorer,
        lambda work: Engine(
            batcher,
            work,
            stuck_after_s=settings.stuck_after_s,
            on_batch=metrics.batch if metrics else lambda *_: None,
        ),
        timeout_s=settings.timeout_s,
        truncate=settings.truncate,
    )
    backend.probe()
    backend.engine.start()
    return backend


def limits(settings: Settings, *, gpu: bool) -> Limits:
    padded = settings.max_tokens or (ON_GPU if gpu else ON_CPU)
    return Limits(
        padded_tokens=padded,
        waiting_tokens=settings.max_waiting_tokens,
        waiting_items=settings.max_waiting_items,
        window_tokens=settings.max_tokens or WINDOW,
        window_s=2.0 if settings.max_wait_s is None else settings.max_wait_s,
    )


def create_app(settings: Settings, backend: Backend | None = None) -> FastAPI:
    """The whole server."""
    return app_of(Server(settings, backend))


def app_of(server: Server) -> FastAPI:
    """The app of a server whose state the caller keeps."""
    settings = server.settings

    def door(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def through(request: Request) -> Response:
            return await _through(server, name, request)

        return through

    async def live(request: Request) -> Response:
        return _said(200 if server.alive else 503, {"live": server.alive})

    async def ready(request: Request) -> Response:
        return _said(200 if server.ready else 503, {"ready": server.ready})

    async def health(request: Request) -> Response:
        return _said(200 if server.ready else 503, _health(server))

    async def metrics(request: Request) -> Response:
        return Response(server.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def models(request: Request) -> Response:
        if server.doors is None:
            return _refused(_loading(), request)
        return Response(server.doors.models(), media_type="application/json")

    async def described(request: Request) -> Response:
        backend = server.backend
        if backend is None:
            return _refused(_loading(), request)
        made = openapi.document(
            backend.embedder,
            backend.scorer,
            max_items=server.settings.max_items,
            keys=bool(server.keys),
            media=bool(server.settings.upstream),
        )
        return Response(orjson.dumps(made), media_type="application/json")

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        told = {404: f"there is nothing at {request.url.path[:80]}", 405: "another method is meant"}
        message, code = told.get(status, "refused"), {404: "no_such_path"}.get(status, "refused")
        detail = getattr(error, "detail", None)
        if detail and detail != HTTPStatus(status).phrase:  # a route of a team's own says what it means
            message, code = str(detail), "refused"
        refusal = Refusal(status, message, code=code)
        answer = _refused(refusal, request)
        for name, value in (getattr(error, "headers", None) or {}).items():
            answer.headers[name] = value
        return answer

    posted = {"/v1/embeddings": "embeddings", "/v1/rerank": "rerank", "/invocations": "invocations", "/embed": "embed"}
    asked = {"/live": live, "/ready": ready, "/ping": ready, "/health": health, "/metrics": metrics}
    asked |= {"/v1/models": models, "/openapi.json": described}
    app = FastAPI(
        lifespan=_life(server),
        exception_handlers={HTTPException: unknown},
        redirect_slashes=False,
        openapi_url=None,  # ours says what the dialects take; /docs would load scripts from elsewhere
    )
    # Plain routes: the doors read bodies themselves, by the model's dialect, and write vectors without JSON's encoder.
    for path, name in posted.items():
        app.add_route(path, door(name), methods=["POST"])
    for path, answer in asked.items():
        app.add_route(path, answer, methods=["GET"])
    app.add_middleware(
        Gate,
        keys=server.keys,
        max_body_bytes=settings.max_body_bytes,
        max_open_bytes=settings.max_open_bytes,
        body_timeout_s=settings.body_timeout_s,
        access_log=settings.access_log,
        draining=lambda: server.draining,
        on_request=server.metrics.request,
        paths=PATHS,
    )
    return app


async def _through(server: Server, name: str, request: Request) -> Response:
    state = request.scope["state"]
    if server.doors is None:
        return _refused(_loading(), request)
    headers = request.headers
    began = time.perf_counter()
    try:
        told: Told = await getattr(server.doors, name)(
            state["body"], headers.get("content-type", ""), headers.get("accept", ""), state["caller"]
        )
    except Refusal as refusal:
        return _refused(refusal, request)
    return Response(
        told.body,
        headers={
            "Content-Type": told.content_type,
            "x-total-tokens": str(told.tokens),
            "Server-Timing": _timing(told, time.perf_counter() - began),
            **({transport.STAND_IN: "true"} if told.stand_in else {}),
        },
    )


def _timing(told: Told, total_s: float) -> str:
    """The wait for the model, its work, and all from the body's last byte to the answer's first (W3C: milliseconds)."""
    spent = (("queue", told.queue_s), ("inference", told.work_s), ("total", total_s))
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in spent if seconds is not None)


def _life(server: Server) -> Callable[[Any], Any]:
    @contextlib.asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        loading = asyncio.create_task(server.load()) if server.backend is None else None
        looking = asyncio.create_task(_look_after(server))
        try:
            yield
        finally:
            if loading is not None:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
            await _drained(server)
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    return life


async def _look_after(server: Server) -> None:
    while True:
        await asyncio.sleep(TURN_S)
        if server.backend is not None:
            try:
                server.backend.look_after()
            except Exception:
                _log.exception("looking after the model")


async def _drained(server: Server) -> None:
    """What was accepted is answered, or the time for it is up."""
    backend = server.backend
    if backend is None:
        return
    backend.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(server.settings.drain_s):
            while not backend.idle:
                await asyncio.sleep(0.02)
    await backend.stop()


def _health(server: Server) -> dict[str, Any]:
    backend = server.backend
    told: dict[str, Any] = {"status": "ok" if server.ready else "draining" if server.draining else "loading"}
    if not server.alive:
        told["status"] = "failed"
    if backend is not None:
        known = (backend.embedder, backend.scorer)
        told["models"] = [model.key for model in known if model is not None]
        told["stand_in"] = isinstance(backend, Local) and backend.stand_in
    return told


def _loading() -> Refusal:
    return Refusal(503, "the model is loading", code="loading", retry_after_s=2)


def _said(status: int, told: dict[str, Any]) -> Response:
    return Response(orjson.dumps(told), status, media_type="application/json")


def _refused(refusal: Refusal, request: Request) -> Response:
    headers = {name.decode(): value.decode() for name, value in refused_headers(refusal)}
    body = refused_body(refusal, request.scope["state"]["request_id"])
    return Response(body, refusal.status, headers=headers, media_type="application/json")


def check(settings: Settings) -> list[str]:
    """What would be served, line by line, without loading a model. Raises InputError for what could not be."""
    known = catalog.load()
    if settings.upstream:
        rows = [known.model(target.model) for target in settings.targets]
        for each in rows:
            _has_a_door(each)
        keys = sorted({each.key for each in rows})
        return [f"upstream: {target}" for target in settings.targets] + [f"models: {', '.join(keys)}"]
    from jina_sm.serve.encoders import check_kind, named

    said = []
    alone = settings.model == STAND_IN and settings.served_as is None
    beside = settings.reranker or (STAND_IN if alone else None)
    for option, name in (("model", settings.model), ("reranker", beside)):
        if name is None:
            continue
        row = named(name, settings.served_as if option == "model" else None, known) if name != STAND_IN else None
        if name == STAND_IN:
            default = standin.EMBEDS if option == "model" else standin.RERANKS
            row = known.model((settings.served_as if option == "model" else None) or default)
        if row is not None and name != STAND_IN:
            check_kind(row)
        elif row is not None and row.kind not in ("embedding", "reranker"):
            raise InputError(f"{row.key} is a {row.kind} model, and this server has embedding models and rerankers")
        said.append(f"{option}: {name}" + (f" as {row.key}" if row else " (not in the catalogue)"))
    bounds = limits(settings, gpu=accelerated(settings) if settings._loaded else False)
    said.append(f"batching: {settings.batching}, {bounds.padded_tokens} tokens a batch")
    return said


def _has_a_door(row: catalog.Model) -> None:
    if row.kind in ("reader", "multi-vector"):
        raise InputError(f"{row.key} is a {row.kind} model, which has no door here")
