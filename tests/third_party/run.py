"""
Other people's clients, unmodified, against the local stack: `make third-party`.

Each client has a script here and, beside it, a file with the version it needs. It gets a virtualenv of its own under
.third-party/, made once, and a local stack of its own; jina_sm is in none of them. It is led to the stack by the
variables that `jina-sm local env` exports, and by nothing else. `python tests/third_party/run.py boto3` runs one.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from jina_sm import local

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".third-party"
HOST = "127.0.0.1"
LIMIT_S = 300
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is not there: what would leave this machine fails."""

V3, RERANKER = "jina-embeddings-v3", "jina-reranker-v2-base-multilingual"


@dataclass(frozen=True)
class Client:
    """A script and what must be there before it: models subscribed to, models deployed in us-east-1."""

    package: str
    script: str
    subscribed: tuple[str, ...] = ()
    deployed: tuple[str, ...] = ()


CLIENTS = (
    Client("boto3", "with_boto3.py"),
    Client("awscli", "with_aws_cli.sh", deployed=(V3,)),
    Client("jina-sagemaker", "with_jina_sagemaker.py", subscribed=(V3,), deployed=(RERANKER,)),
    Client("langchain-community", "with_langchain.py", deployed=(V3, RERANKER)),
    Client("llama-index-embeddings-sagemaker-endpoint", "with_llama_index.py", deployed=(V3,)),
)


@dataclass(frozen=True)
class Outcome:
    """One line of the table."""

    package: str
    version: str
    checks: int
    passed: bool
    seconds: float


def main(wanted: list[str]) -> int:
    known = [client.package for client in CLIENTS]
    if unknown := set(wanted) - set(known):
        print(f"no client {', '.join(sorted(unknown))}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    clients = [client for client in CLIENTS if not wanted or client.package in wanted]
    for client in clients:
        install(client)
    outcomes = [run(client) for client in clients]
    print(f"\n{'client':42} {'version':9} {'checks':>6}  {'result':6} {'seconds':>7}")
    for each in outcomes:
        result = "ok" if each.passed else "FAILED"
        print(f"{each.package:42} {each.version:9} {each.checks:6}  {result:6} {each.seconds:7.1f}")
    return 0 if all(each.passed for each in outcomes) else 1


def install(client: Client) -> None:
    """Makes the client's virtualenv, unless it is there with what its requirements name."""
    home, requirements = ENVIRONMENTS / client.package, requirements_of(client)
    done = home / "installed.txt"  # a copy of the requirements, written last
    if done.exists() and done.read_bytes() == requirements.read_bytes():
        return
    print(f"installing {client.package} (once)", flush=True)
    venv.create(home, clear=True, with_pip=True, symlinks=os.name == "posix")
    pip = [interpreter(client), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", requirements], check=True)
    done.write_bytes(requirements.read_bytes())


def run(client: Client) -> Outcome:
    """Runs the client's script on a stack of its own."""
    print(f"\n== {client.package} {version(client)}", flush=True)
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    env = environment(client, port)
    jina_sm(env, "local", "up", "--detach", "--port", str(port), "--ready-after", "1s")
    try:
        for model in (*client.subscribed, *client.deployed):
            jina_sm(env, "subscribe", model, "--yes")
        for model in client.deployed:
            jina_sm(env, "deploy", model, "--region", "us-east-1", "--yes")
        began = time.monotonic()
        code, said = watched([*shell(client), str(HERE / client.script)], env)
        passed = code == 0 and bool(said)
        return Outcome(client.package, version(client), len(said), passed, time.monotonic() - began)
    finally:
        jina_sm(env, "local", "down")


def watched(command: list[str], env: dict[str, str]) -> tuple[int, list[str]]:
    """Runs a script and shows what it says; its exit code and the rules that held."""
    # Not in the project's directory, where jina_sm could be imported without being installed.
    try:
        done = subprocess.run(command, cwd=HERE, env=env, stdout=subprocess.PIPE, check=False, timeout=LIMIT_S)
        code, said = done.returncode, done.stdout.decode()
    except subprocess.TimeoutExpired as late:
        code, said = 1, f"{(late.stdout or b'').decode()}FAIL still busy after {LIMIT_S} s\n"
    print(said, end="", flush=True)
    return code, re.findall("^ok .*", said, re.MULTILINE)


def environment(client: Client, port: int) -> dict[str, str]:
    """This process's environment without anyone's AWS settings, with the stack's, and with the client's programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "JINA_", "PYTHON"))}
    programs = str(interpreter(client).parent)
    return {
        **kept,
        **local.environment(port),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "PATH": os.pathsep.join((programs, os.environ["PATH"])),
        "HTTP_PROXY": NOWHERE,
        "HTTPS_PROXY": NOWHERE,
        "NO_PROXY": HOST,
    }


def jina_sm(env: dict[str, str], *words: str) -> None:
    """A command of ours, before or after the script. Its output is shown only if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "jina_sm", *words], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"$ jina-sm {shlex.join(words)}\n{done.stdout}{done.stderr}")


def shell(client: Client) -> list[str]:
    return ["sh"] if client.script.endswith(".sh") else [str(interpreter(client))]


def interpreter(client: Client) -> Path:
    return ENVIRONMENTS / client.package / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def requirements_of(client: Client) -> Path:
    return (HERE / client.script).with_suffix(".txt")


def version(client: Client) -> str:
    """The version pinned in the client's requirements."""
    (found,) = re.findall(rf"^{re.escape(client.package)}==(\S+)", requirements_of(client).read_text(), re.MULTILINE)
    return str(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
