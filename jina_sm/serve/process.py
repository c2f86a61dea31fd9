"""
The server as a process: it listens while the model loads, and goes down without losing what it accepted.

On SIGTERM /ready turns red and, for as long as requests may still arrive, they are taken; then the port is closed,
what is under way is answered, and only then does the process end. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from jina_sm.errors import InputError, JinaSMError, MissingExtraError
from jina_sm.serve.settings import Settings

KEEP_ALIVE_S = 75
"""Longer than a load balancer keeps an idle connection (60 s), so that it is not closed as a request comes."""
_LAST_WORD_S = 3
"""After the drain's end, for the refusals to leave."""


def serve(settings: Settings, on_ready: Callable[[str], object] = lambda url: None) -> None:
    """Runs until SIGINT or SIGTERM. ``on_ready`` is told the URL once the model answers. Raises JinaSMError."""
    check(settings)
    # NumPy has small products to do: with a thread a core, OpenBLAS waits for them longer than it works. It looks when
    # NumPy is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import uvicorn

    from jina_sm.serve.app import Server, app_of

    _log_to_stderr()
    server = Server(settings)
    with _listening(settings) as listening:
        scheme = "https" if settings.tls_cert else "http"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"{scheme}://{host}:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            app_of(server),
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,  # whoever can reach the port could be anybody by a header
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(settings.drain_s) + _LAST_WORD_S,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        running = _running(config, server)

        def loaded() -> None:
            if server.failure is not None:
                running.should_exit = True
            else:
                on_ready(url)

        server.on_loaded = loaded
        running.run(sockets=[listening])
    if server.failure is not None:
        if isinstance(server.failure, JinaSMError):
            raise server.failure
        raise JinaSMError(f"the model could not be loaded: {server.failure!r}") from server.failure


def check(settings: Settings) -> None:
    """Raises InputError unless all is there that the settings need, the models aside."""
    needed = ("uvicorn", "fastapi", "prometheus_client") + (("aiohttp",) if settings.upstream else ())
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise MissingExtraError("jina-sm serve", "serve")
    if settings.tls_cert is not None:
        import ssl

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, password="")
        except OSError as error:
            raise InputError(f"--tls-cert and --tls-key are no certificate and its key: {error}") from None


def _running(config: Any, server: Any) -> Any:
    import uvicorn

    class Running(uvicorn.Server):
        """uvicorn, which goes down in two steps."""

        loop: asyncio.AbstractEventLoop | None = None
        ending: asyncio.Task[None] | None = None

        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            self.loop = asyncio.get_running_loop()
            await super().serve(sockets)

        def handle_exit(self, sig: int, frame: Any) -> None:
            if server.draining or self.loop is None:
                super().handle_exit(sig, frame)
                self.force_exit = self.force_exit or server.draining
                return
            server.drain()
            self.loop.call_soon_threadsafe(self._begin_to_end)

        def _begin_to_end(self) -> None:
            self.ending = asyncio.ensure_future(self._end())

        async def _end(self) -> None:
            await asyncio.sleep(server.settings.drain_delay_s)
            self.should_exit = True
            await asyncio.sleep(server.settings.drain_s)
            if server.backend is not None:  # so that whoever still waits is told, and not cut off
                await server.backend.stop()

    return Running(config)


def _listening(settings: Settings) -> socket.socket:
    """Raises InputError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Told to be TCP: asyncio turns Nagle's delay off only for what plainly is.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise InputError(
            f"{settings.host} port {settings.port} cannot be listened on: {error.strerror or error}",
            cure="Take another --port or --host.",
        ) from None
    return listening


def _log_to_stderr() -> None:
    """Requests as lines of JSON, and warnings; no line holds a text."""
    lines = logging.StreamHandler(sys.stderr)
    access = logging.getLogger("jina_sm.serve.access")
    access.handlers, access.propagate = [lines], False
    access.setLevel(logging.INFO)
    told = logging.StreamHandler(sys.stderr)
    told.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    for name in ("jina_sm.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [told], False
        logger.setLevel(logging.WARNING)
