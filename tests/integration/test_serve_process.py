"""``jina-sm serve`` as a process: it comes up with no download, and goes down without losing what it accepted."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from jina_sm import Client
from jina_sm.errors import InputError
from jina_sm.serve import app
from jina_sm.serve.settings import Settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")
V3 = "jina-embeddings-v3"


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def ended(self) -> tuple[int, str]:
        """How it ended, and what it said."""
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@contextlib.contextmanager
def running(*flags: str, **variables: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "jina_sm", "serve", "--port", "0", "--json", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        url = json.loads("".join(lines))["url"]
        yield Running(process, int(url.rpartition(":")[2]))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Caller(threading.Thread):
    """One user behind a load balancer: asks again and again on a kept connection, until told that this server goes."""

    def __init__(self, port: int, texts: list[str]) -> None:
        super().__init__()
        self.port = port
        self.body = json.dumps({"input": texts}).encode()
        self.answers: list[int] = []
        self.wrong: list[str] = []
        self.begun = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            while len(self.answers) < 5000:
                connection.request("POST", "/v1/embeddings", self.body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                told = json.loads(answer.read())
                self.answers.append(answer.status)
                if answer.status != 200 or not told["data"]:
                    self.wrong.append(str(told)[:200])
                self.begun.set()
                if answer.getheader("connection") == "close":
                    return
        except OSError as error:
            self.wrong.append(repr(error))
        finally:
            connection.close()
            self.begun.set()


def test_a_signal_under_load_loses_nothing_that_was_accepted():
    with running("--drain-delay", "2s", "--no-access-log") as up:
        callers = [
            Caller(up.port, [f"caller {number} says something"] * (1 + 20 * (number % 2))) for number in range(12)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            assert caller.begun.wait(60)
        up.process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(60)
        code, said = up.ended()
    assert [caller.wrong for caller in callers] == [[]] * 12
    assert all(caller.answers[-1] == 200 for caller in callers)
    assert code == 0, said


def test_what_runs_when_the_signal_comes_is_still_answered():
    with running("--no-access-log") as up:
        body = json.dumps({"input": ["a sentence of some length, so that it takes a while"] * 1500}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=100)
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        while b"jina_sm_open_requests 1.0" not in _page(up.port, "/metrics"):
            pass  # the suite's own time-out bounds it
        up.process.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["data"]) == 1500
        connection.close()
        code, said = up.ended()
    assert code == 0, said


def test_what_cannot_be_answered_in_the_drain_is_told_so():
    with running("--drain", "0.2s", "--no-access-log") as up:
        body = json.dumps({"input": ["a sentence of some length, so that it takes a while " * 30] * 2000}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=100)
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        while b"jina_sm_open_requests 1.0" not in _page(up.port, "/metrics"):
            pass  # the suite's own time-out bounds it
        up.process.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (503, "shutting_down")
        connection.close()
        assert up.ended()[0] == 0


def test_ready_turns_red_first_and_the_port_stays_open_for_a_while():
    with running("--drain-delay", "60s", "--no-access-log") as up:
        assert up.get("/ready") == 200
        up.process.send_signal(signal.SIGTERM)
        while up.get("/ready") == 200:
            pass
        assert (up.get("/live"), up.get("/ping")) == (200, 503)
        with Client.self_hosted(f"http://127.0.0.1:{up.port}", model=V3) as client:
            assert client.embed(["still served"]).vectors.shape == (1, 1024)
        up.process.send_signal(signal.SIGTERM)  # enough
        up.ended()


def test_what_still_loads_is_not_waited_for(monkeypatch):
    loading, may_end = threading.Event(), threading.Event()

    def load(*_: Any) -> Any:
        loading.set()
        assert may_end.wait(60)
        raise InputError("too late")

    monkeypatch.setattr(app, "make_backend", load)
    made = app.create_app(Settings())

    async def live() -> None:
        async with made.router.lifespan_context(made):
            assert await asyncio.to_thread(loading.wait, 60)

    try:
        asyncio.run(live())
    finally:
        may_end.set()


def test_a_taken_port_is_said(taken_port):
    command = [sys.executable, "-m", "jina_sm", "serve", "--port", str(taken_port)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 2
    assert "cannot be listened on" in told.stderr


def test_a_model_that_cannot_be_loaded_ends_the_process_and_says_why():
    command = [sys.executable, "-m", "jina_sm", "serve", "--port", "0", "--model", "/nowhere/at-all"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode != 0
    assert "torch" in told.stderr or "/nowhere/at-all" in told.stderr
    assert "Traceback" not in told.stderr


def test_variables_set_what_flags_do():
    with running(
        JINA_SM_SERVE_SERVED_AS="jina-embeddings-v5-text-small", JINA_SM_SERVE_API_KEYS="a-secret-of-mine"
    ) as up:
        with Client.self_hosted(
            f"http://127.0.0.1:{up.port}", model="jina-embeddings-v5-text-small", api_key="a-secret-of-mine"
        ) as client:
            assert client.embed(["one"], dimensions=32).vectors.shape == (1, 32)
        up.process.send_signal(signal.SIGTERM)
        _, said = up.ended()
    assert "a-secret-of-mine" not in said
    line = json.loads(said.splitlines()[2])
    assert (line["path"], line["status"], line["caller"]) == ("/v1/embeddings", 200, "key 1")


def test_it_serves_https(tmp_path):
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", f"{tmp_path}/key.pem", "-out", f"{tmp_path}/cert.pem"),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("no openssl here")
    with running("--tls-cert", f"{tmp_path}/cert.pem", "--tls-key", f"{tmp_path}/key.pem") as up:
        trusting = ssl.create_default_context(cafile=f"{tmp_path}/cert.pem")
        with urllib.request.urlopen(f"https://127.0.0.1:{up.port}/ready", context=trusting) as answer:
            assert answer.status == 200


def _page(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.read()
