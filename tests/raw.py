"""A server that says what it is told to, byte for byte, to see what a transport makes of it."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Asked:
    """One request as it came. Header names are lower case."""

    line: str
    headers: Mapping[str, str]
    body: bytes


Act = Callable[[socket.socket, threading.Event], None]


@dataclass
class Raw:
    """Where it listens, and what it was asked."""

    port: int
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def say(status: int = 200, body: bytes = b"{}", **headers: str) -> Act:
    """An answer. ``retry_after="1"`` is the header Retry-After."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    whole = "\r\n".join([*lines, "", ""]).encode() + body
    return lambda connection, over: connection.sendall(whole)


def hang(connection: socket.socket, over: threading.Event) -> None:
    """Says nothing, until the test is over."""
    over.wait()


def reset(connection: socket.socket, over: threading.Event) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # close() would wait for the file made of it


def cut(connection: socket.socket, over: threading.Event) -> None:
    """Ends within the body."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    connection.shutdown(socket.SHUT_RDWR)


def babble(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"I do not speak HTTP\r\n\r\n")
    connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def answering(*acts: Act, tls: ssl.SSLContext | None = None) -> Iterator[Raw]:
    """A server that does each act once, in order, and then the last one again and again."""
    over, todo = threading.Event(), list(acts)
    listening = socket.create_server(("127.0.0.1", 0))
    raw = Raw(listening.getsockname()[1])
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection = tls.wrap_socket(connection, server_side=True) if tls else connection
            with connection, connection.makefile("rb") as incoming:
                while line := incoming.readline():
                    headers: dict[str, str] = {}
                    while header := incoming.readline().decode("latin-1").strip():
                        name, _, value = header.partition(":")
                        headers[name.lower()] = value.strip()
                    body = incoming.read(int(headers.get("content-length", "0")))
                    raw.asked.append(Asked(line.decode("latin-1").strip(), headers, body))
                    (todo.pop(0) if len(todo) > 1 else todo[0])(connection, over)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connections.append(listening.accept()[0])
                threads.append(threading.Thread(target=serve, args=(connections[-1],), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield raw
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (accepting, *threads):
            thread.join()
