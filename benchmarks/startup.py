"""
How long one waits: `jina-sm --help` beside a bare click program's, and process start to the first vector beside
jina-sagemaker's, the same job on the same local stack, interleaved.

    make benchmark-startup
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import machine

from jina_sm import Spec, catalog, local
from jina_sm.deploy import run

MODEL, REGION = "jina-embeddings-v3", "us-east-1"
BARE = """
import click
@click.group()
def cli(): "A bare program."
@cli.command()
def one(): "One."
cli()
"""
OURS = f"""
from jina_sm import Client
print(Client({MODEL!r}).embed(["hello"]).vectors.shape)
"""
PEER = """
from jina_sagemaker import Client, Task
client = Client(region_name={region!r})
client.connect_to_endpoint({endpoint!r}, {arn!r})
print(len(client.embed(texts=["hello"], task_type=Task.TEXT_MATCHING)))
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--peer", metavar="PYTHON", help="An interpreter that has jina-sagemaker 0.0.48.")
    options.add_argument("--rounds", type=int, default=9)
    asked = options.parse_args()
    print(machine.line())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= local.environment(port)
    local.start_detached(port, ready_after_s=0)
    try:
        measure(asked.peer, asked.rounds)
    finally:
        local.stop(port)


def measure(peer: str | None, rounds: int) -> None:
    run.subscribe(MODEL)
    endpoint = run.deploy(Spec(model=MODEL, regions=(REGION,)))[REGION].name
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE)
        help_pages = {
            "bare click --help": [sys.executable, str(bare), "--help"],
            "jina-sm --help": [str(Path(sys.executable).with_name("jina-sm")), "--help"],
        }
        report(interleaved(help_pages, rounds))
    known = catalog.load()
    arn = known.package_arn(known.model(MODEL), REGION)
    jobs = {"jina_sm": [sys.executable, "-c", OURS]}
    if peer:
        jobs = {"jina-sagemaker": [peer, "-c", PEER.format(region=REGION, endpoint=endpoint, arn=arn)]} | jobs
    report(interleaved(jobs, rounds))


def interleaved(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, float]:
    """The median seconds of each, one of each in every round; a first round warms the disk's cache."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


def report(medians: Mapping[str, float]) -> None:
    base = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:<20} {1000 * median:7.0f} ms   {median / base:5.2f}x   (1/{base / median:.1f})")


if __name__ == "__main__":
    main()
