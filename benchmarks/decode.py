"""
What decoding an answer of 128 x 1024 takes, in time and in memory: json.loads and np.array beside ours, without the
extra [fast] and with it, and beside base64, which the v5 models can answer. Interleaved medians.

    make benchmark-decode
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np

from jina_sm import catalog, wire
from jina_sm.values import EmbedRequest, Rows, Vectors
from jina_sm.wire import rows

N, D = 128, 1024
LARGE = 4096
"""Rows of the answer with which resident memory is measured."""
KNOWN = catalog.load(environ={})


def plainly(body: bytes, n: int) -> Vectors:
    """What one writes first."""
    vectors = np.array([row["embedding"] for row in json.loads(body)["data"]], np.float32)
    assert len(vectors) == n
    return vectors


def ours(model: str, parser: Callable[[], rows.Parse]) -> Callable[[bytes, int], Vectors]:
    dialect = dataclasses.replace(wire.dialect(KNOWN.model(model)), parser=parser)  # type: ignore[type-var]

    def decode(body: bytes, n: int) -> Vectors:
        vectors: Vectors = dialect.decode_response(EmbedRequest(items=("a",) * n), body).values
        return vectors

    return decode


WAYS: dict[str, tuple[Callable[[bytes, int], Vectors], bool]] = {
    "json.loads + np.array": (plainly, False),
    "ours": (ours("jina-embeddings-v3", rows.plain), False),
    "ours, [fast]": (ours("jina-embeddings-v3", rows.simd), False),
    "ours, base64": (ours("jina-embeddings-v5-text-small", rows.plain), True),
}


def answer(n: int, *, base64: bool) -> tuple[bytes, Vectors]:
    """What a v3 or, with base64, a v5 container answers for n texts, and the unit vectors in it."""
    drawn = np.random.default_rng(0).standard_normal((n, D), np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    dialect = wire.dialect(KNOWN.model("jina-embeddings-v5-text-small" if base64 else "jina-embeddings-v3"))
    asked = EmbedRequest(items=tuple(f"text {place}" for place in range(n)), base64=base64)
    return dialect.encode_response(asked, Rows(drawn, 50 * n)), drawn


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--resident", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.resident:
        print(resident(WAYS[asked.resident[0]][0], Path(asked.resident[1]).read_bytes()))
        return
    print(machine.line())
    bodies = {base64: answer(N, base64=base64) for base64 in (False, True)}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(asked.rounds + 1):
        for name, (decode, base64) in WAYS.items():
            began = time.perf_counter()
            found = decode(bodies[base64][0], N)
            if number:
                seconds[name].append(time.perf_counter() - began)
            elif (exact := bodies[base64][1]).tobytes() != found.tobytes() or exact.dtype != found.dtype:
                sys.exit(f"{name} gives other numbers")
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"{N} x {D}, every float32 the same to the bit; peak memory beside the matrix, allocated and resident:")
    for name, (decode, base64) in WAYS.items():
        body, matrix = bodies[base64]
        ratio = next(iter(medians.values())) / medians[name]
        grown = f"{traced(decode, body) / matrix.nbytes:5.1f}x {apart(name) / (LARGE * D * 4):5.1f}x"
        print(f"{name:<22} {1000 * medians[name]:7.2f} ms  {ratio:5.1f}x as fast   {grown}")


def traced(decode: Callable[[bytes, int], Vectors], body: bytes) -> int:
    """Bytes allocated at most while it decodes, as Python and NumPy know them."""
    tracemalloc.start()
    decode(body, N)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def apart(way: str) -> int:
    """As ``resident``, in a process of its own, with the answer of LARGE rows."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(answer(LARGE, base64=WAYS[way][1])[0])
        file.flush()
        command = [sys.executable, __file__, "--resident", way, file.name]
        return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def resident(decode: Callable[[bytes, int], Vectors], body: bytes) -> int:
    """By how many bytes the process's greatest size grows while it decodes. Linux only."""
    decode(answer(N, base64=b'"embedding":"' in body[:400])[0], N)  # so that whatever is loaded late, is
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the greatest size so far, which getrusage does not
    decode(body, LARGE)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    (said,) = re.findall(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(said) * 1024


if __name__ == "__main__":
    main()
