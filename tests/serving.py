"""The server on a free port in a thread of the test, with a model that needs no loading and does as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI

from jina_sm import catalog
from jina_sm.serve.app import Server, app_of
from jina_sm.serve.backend import Backend, Local
from jina_sm.serve.batcher import Batcher, Limits
from jina_sm.serve.engine import Engine
from jina_sm.serve.settings import Settings
from jina_sm.values import Vectors

EMBEDS, RERANKS = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual"
LIMITS = Limits(padded_tokens=1024)


def vector(text: str, task: str | None = None, width: int = 1024) -> Vectors:
    """What the obedient model answers: the same for the same text and task, and no other."""
    seed = hashlib.sha256(f"{task} {text}".encode()).digest()
    drawn = np.random.default_rng(int.from_bytes(seed)).standard_normal(width).astype(np.float32)
    unit: Vectors = drawn / np.linalg.norm(drawn)
    return unit


class Obedient:
    """An embedding model and a reranker that fail, die, or wait when a text says so."""

    stand_in = True

    def __init__(self, *, memory: int = 10**9, model: str = EMBEDS, max_tokens: int = 8192) -> None:
        self.model = catalog.load().model(model)
        self.max_tokens = max_tokens
        self.memory = memory
        self.may_go = threading.Event()
        self.may_go.set()
        self.working = threading.Event()
        self.batches: list[list[str]] = []
        self.broken = False
        self.released = 0
        self.prompts: dict[str, int] = {}

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]

    def prompt_tokens(self, task: str | None) -> int:
        return self.prompts.get(task or "", 0)

    def embed(self, texts: Sequence[str], task: str | None) -> Vectors:
        self._do(texts)
        return np.stack([vector(text, task) for text in texts])

    def embed_late(self, chunks: Sequence[str], task: str | None) -> Vectors:
        self._do(chunks)
        return np.stack([vector(f"{chunk} in {len(chunks)}", task) for chunk in chunks])

    def score(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        self._do([document for _, document in pairs])
        return np.array([len(set(query.split()) & set(text.split())) for query, text in pairs], np.float32)

    def release(self) -> None:
        self.released += 1

    def _do(self, texts: Sequence[str]) -> None:
        self.batches.append(list(texts))
        self.working.set()
        assert self.may_go.wait(60), "the test forgot the model"
        if self.broken or any("poison" in text for text in texts):
            raise ValueError("it was poisoned by: " + " ".join(texts))
        if any("die" in text.split() for text in texts):
            raise SystemExit
        if max(self.lengths(texts)) * len(texts) > self.memory:
            raise MemoryError


@dataclass
class Served:
    """A server and its model, on a port."""

    server: Server
    model: Obedient
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, asked: Any = None, *, method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers (names in lower case) and the JSON of the answer, or its bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = asked if isinstance(asked, bytes) or asked is None else orjson.dumps(asked)
            told = {"Content-Type": "application/json"} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            connection.request(method, path, body, told)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = found.get("content-type", "").startswith("application/json")
        return answer.status, found, orjson.loads(content) if is_json and content else content

    def get(self, path: str) -> tuple[int, dict[str, str], Any]:
        return self.ask(path, method="GET")


@contextlib.contextmanager
def served(
    model: Obedient | None = None,
    /,
    *,
    backend: Callable[[], Backend] | None = None,
    limits: Limits = LIMITS,
    policy: str = "continuous",
    stuck_after_s: float = 300.0,
    add: Callable[[FastAPI], object] = lambda app: None,
    **settings: Any,
) -> Iterator[Served]:
    obedient = model or Obedient()
    told = Settings(**settings)
    if backend is None:
        reranks = Obedient(model=RERANKS, max_tokens=1024)
        reranks.__dict__ |= {"may_go": obedient.may_go, "working": obedient.working, "batches": obedient.batches}
        made: Backend = Local(
            obedient,
            reranks,
            lambda work: Engine(Batcher(limits, policy=policy), work, stuck_after_s=stuck_after_s),
            timeout_s=told.timeout_s,
            truncate=told.truncate,
        )
        assert isinstance(made, Local)
        made.engine.start()
    else:
        made = backend()
    server = Server(told, made)
    app = app_of(server)
    add(app)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(512)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="on", ws="none", timeout_graceful_shutdown=5
        )
        running = uvicorn.Server(config)
        up = threading.Event()
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, name="served")
        started = running.startup

        async def startup(sockets: list[socket.socket] | None = None) -> None:
            await started(sockets=sockets)
            up.set()

        running.startup = startup  # type: ignore[method-assign]
        thread.start()
        try:
            assert up.wait(30)
            yield Served(server, obedient, listening.getsockname()[1])
        finally:
            obedient.may_go.set()
            running.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
