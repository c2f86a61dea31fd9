"""
How many vectors a second one process, and two, decode from v3's JSON: the ceiling of what a client takes in.

    make benchmark-ingest
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import machine
from decode import answer, ours, plainly

from jina_sm.values import Vectors
from jina_sm.wire import rows

N = 480
"""Texts in a request: what a client packs of short ones into an answer of less than 6 MiB."""
WAYS: dict[str, Callable[[bytes, int], Vectors]] = {
    "json.loads + np.array": plainly,
    "ours": ours("jina-embeddings-v3", rows.plain),
    "ours, [fast]": ours("jina-embeddings-v3", rows.simd),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=5)
    asked = options.parse_args()
    print(machine.line())
    for name in WAYS:
        told = [vectors_a_second(name, processes, asked.seconds) for processes in (1, 2)]
        print(f"{name:<22} {told[0]:>9,.0f} vectors/s   with 2 processes {told[1]:>9,.0f}")


def vectors_a_second(name: str, processes: int, seconds: float) -> float:
    apart = multiprocessing.get_context("spawn")
    ready, rates = apart.Barrier(processes), apart.SimpleQueue()
    running = [apart.Process(target=decoding, args=(name, seconds, ready, rates.put)) for _ in range(processes)]
    for process in running:
        process.start()
    total = sum(rates.get() for _ in running)
    for process in running:
        process.join()
    return float(total)


def decoding(name: str, seconds: float, ready: Barrier, tell: Callable[[float], None]) -> None:
    """Decodes the same answer over and over; tells how many vectors a second that made."""
    body = answer(N, base64=False)[0]
    WAYS[name](body, N)
    ready.wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        WAYS[name](body, N)
        count += 1
    tell(N * count / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
