"""
The client's machine against endpoints that exist only as a formula, in simulated time: hours pass in seconds.

What is measured is ``jina_sm.exchange`` and ``jina_sm.packing`` as they are, driven by a clock that jumps, against
``jina_sm.profile.Fleet``. Beside them, on the same endpoint and with the same luck: a pool of ten threads that
send 64 texts each, as a careful user would write it.

    make benchmark-simulated                    all of it:
    python benchmarks/simulated.py bulk         one instance, two, four; with faults
    python benchmarks/simulated.py random       60 endpoints drawn at random, others each time
    python benchmarks/simulated.py online       single queries, arriving at random
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jina_sm import errors, packing
from jina_sm.client import IN_FLIGHT
from jina_sm.exchange import Call, Exchange, Send, Wake, Work
from jina_sm.packing import Limits, Size, Sizes
from jina_sm.profile import PROFILES, Fleet, Profile
from jina_sm.retry import Policy

BYTES_A_ROW = 13_000
OVERHEAD = Size(tokens=0, request_bytes=100, response_bytes=300)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What is true of an endpoint, which no client is told. Rates are shares of requests."""

    profile: Profile = PROFILES["ml.g5.xlarge"]
    instances: int = 1
    pads: bool = False
    model_errors: float = 0.0
    throttles: float = 0.0
    stalls: float = 0.0
    stall_s: float = 30.0

    def tokens(self, texts: Sequence[int]) -> float:
        """What the GPU works through for texts of these lengths."""
        return float(max(texts) * len(texts) if self.pads else sum(texts))


@dataclass
class Outcome:
    """Of one run: simulated seconds, texts that got no vector, seconds of each request, requests sent."""

    seconds: float
    lost: int
    latencies: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def p99_s(self) -> float:
        return float(np.percentile(self.latencies, 99)) if self.latencies else 0.0


class World:
    """Time, and one endpoint in it. ``send`` tells what came of a request, when its time has come."""

    def __init__(self, endpoint: Endpoint, seed: int) -> None:
        self.now = 0.0
        self._endpoint = endpoint
        self._random = random.Random(seed)
        self._fleet = Fleet(endpoint.profile, instances=endpoint.instances)
        self._waiting: dict[int, tuple[float, bool, Callable[[errors.JinaSMError | None], None]]] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self.latencies: list[float] = []

    def at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._later, (max(when, self.now), next(self._number), act))

    def send(self, texts: Sequence[int], told: Callable[[errors.JinaSMError | None], None]) -> None:
        lot, endpoint, began = self._random.random(), self._endpoint, self.now
        if lot < endpoint.throttles:
            self.at(began + endpoint.profile.request_s, lambda: told(errors.ThrottledError("throttled")))
            return
        stalled = lot < endpoint.throttles + endpoint.stalls
        broken = not stalled and lot < endpoint.throttles + endpoint.stalls + endpoint.model_errors
        number = self._fleet.arrive(began, texts=len(texts), tokens=endpoint.tokens(texts))

        def answer(error: errors.JinaSMError | None) -> None:
            self.latencies.append(self.now - began)
            told(errors.ModelFailedError("500") if broken and error is None else error)

        self._waiting[number] = (began, stalled, answer)

    def run(self, over: Callable[[], bool]) -> None:
        while not over():
            times = [at for at in (self._fleet.next(), self._later[0][0] if self._later else None) if at is not None]
            assert times, "nothing is left to happen, and it is not over"
            self.now = max(self.now, min(times))
            for done in self._fleet.advance(self.now):
                began, stalled, answer = self._waiting.pop(done.request)
                if done.late:
                    answer(errors.ModelTimeoutError("60 s"))
                elif stalled and self.now - began + self._endpoint.stall_s > 60:
                    self.at(began + 60, lambda answer=answer: answer(errors.ModelTimeoutError("60 s")))
                elif stalled:
                    self.at(self.now + self._endpoint.stall_s, lambda answer=answer: answer(None))
                else:
                    answer(None)
            while self._later and self._later[0][0] <= self.now:
                heapq.heappop(self._later)[2]()


class Ours:
    """``exchange`` with a clock that jumps."""

    def __init__(
        self,
        world: World,
        *,
        in_flight: int = IN_FLIGHT,
        instances: int = 1,
        policy: Policy = Policy(),  # noqa: B008
        limits: Limits = Limits(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        self._world = world
        self._limits = limits
        self.exchange: Exchange[Any] = Exchange(
            [("endpoint", None)], policy=policy, limits=limits, in_flight=in_flight, random=random.Random(seed).random
        )
        self.exchange.resize(0, instances)

    def call(self, believed: NDArray[np.int64], true: NDArray[np.int64], *, shared: bool = False) -> Call[Any]:
        size = np.full(len(believed), BYTES_A_ROW, dtype=np.int64)
        sizes = Sizes(tokens=believed, request_bytes=believed * 5, response_bytes=size)
        batches = packing.batches(sizes, self._limits, OVERHEAD)
        work = Work(sizes=sizes, overhead=OVERHEAD, batches=batches, key="same" if shared else None)
        call = self.exchange.add(true, work, self._world.now)
        self.step()
        return call

    def step(self) -> None:
        world, exchange = self._world, self.exchange
        while isinstance(step := exchange.next(world.now), Send):
            self._send(step)
        if isinstance(step, Wake):
            world.at(step.at, self.step)

    def _send(self, send: Send[Any]) -> None:
        texts = [int(piece.call.job[item]) for piece in send.pieces for item in piece.items]

        def told(error: errors.JinaSMError | None) -> None:
            if error is None:
                self.exchange.answered(send, np.zeros(len(texts)), sum(texts), self._world.now)
            else:
                self.exchange.failed(send, error, self._world.now)
            self.step()

        self._world.send(texts, told)


def ours(endpoint: Endpoint, true: NDArray[np.int64], believed: NDArray[np.int64], *, seed: int, **how: Any) -> Outcome:
    world = World(endpoint, seed)
    client = Ours(world, seed=seed, **how)
    call = client.call(believed, true)
    world.run(lambda: call.over)
    lost = len(true) - sum(len(answer.items) for answer in call.answers)
    return Outcome(world.now, lost, world.latencies)


def pool(endpoint: Endpoint, true: NDArray[np.int64], *, seed: int, threads: int = 10, batch: int = 64) -> Outcome:
    """Batches in the order given, from threads that wait for their answer; four attempts, none after a ModelError."""
    world = World(endpoint, seed)
    batches = [true[start : start + batch].tolist() for start in range(0, len(true), batch)]
    batches.reverse()
    lost = under_way = 0

    def work() -> None:
        nonlocal under_way
        if batches:
            under_way += 1
            attempt(batches.pop(), 1)

    def attempt(texts: list[int], number: int) -> None:
        def told(error: errors.JinaSMError | None) -> None:
            nonlocal lost, under_way
            if isinstance(error, errors.ThrottledError) and number < 4:
                world.at(world.now + 2.0 ** (number - 1), lambda: attempt(texts, number + 1))
                return
            lost += len(texts) if error else 0
            under_way -= 1
            work()

        world.send(texts, told)

    for _ in range(threads):
        work()
    world.run(lambda: not under_way and not batches)
    return Outcome(world.now, lost, world.latencies)


def bound_s(endpoint: Endpoint, true: NDArray[np.int64]) -> float:
    """The GPU's own time for them, in as few requests as the default limits allow."""
    limits, tokens = Limits(), float(true.sum())
    requests = max(len(true) / limits.items, tokens / limits.tokens, len(true) * BYTES_A_ROW / limits.response_bytes)
    profile = endpoint.profile
    return (requests * profile.step_s + tokens / profile.tokens_per_s) / endpoint.instances


def lengths(kind: str, number: int, seed: int) -> NDArray[np.int64]:
    """Tokens of texts: ``short``, about 50 each; ``long``, about 2,000; ``mixed``, a few of everything."""
    draw = np.random.default_rng(seed)
    means = {"short": (50, 0.5), "long": (2000, 0.6), "mixed": (150, 1.2)}
    mean, spread = means[kind]
    drawn = draw.lognormal(np.log(mean) - spread**2 / 2, spread, number)
    return np.clip(drawn, 3, 8000).astype(np.int64)


def misjudged(true: NDArray[np.int64], by: float, seed: int) -> NDArray[np.int64]:
    """What an estimate that is wrong by up to a share says of them."""
    wrong = np.random.default_rng(seed).uniform(1 - by, 1 + by, len(true))
    return np.maximum(1, true * wrong).astype(np.int64)


def bulk() -> None:
    faults = {"model_errors": 0.01, "throttles": 0.02, "stalls": 0.01}
    print(f"{'':44}{'bound s':>8}{'ours':>8}{'pool':>8}   lost by the pool")
    for name, kind, number, endpoint in (
        ("50,000 short texts", "short", 50_000, Endpoint()),
        ("  two instances", "short", 50_000, Endpoint(instances=2)),
        ("  four instances", "short", 50_000, Endpoint(instances=4)),
        ("  1 % ModelError, 2 % throttles, 1 % stalls", "short", 50_000, Endpoint(**faults)),
        ("2,000 long documents", "long", 2_000, Endpoint()),
    ):
        ratios, others, lost = [], [], []
        for seed in range(3):
            true = lengths(kind, number, seed)
            bound = bound_s(endpoint, true)
            mine = ours(endpoint, true, misjudged(true, 0.15, seed), seed=seed, instances=endpoint.instances)
            theirs = pool(endpoint, true, seed=seed)
            assert not mine.lost, f"{mine.lost} texts lost"
            ratios.append(mine.seconds / bound)
            others.append(theirs.seconds / bound)
            lost.append(theirs.lost)
        print(
            f"{name:44}{bound:8.1f}{statistics.median(ratios):7.2f}x{statistics.median(others):7.2f}x"
            f"   {statistics.median(lost):,.0f} of {number:,}"
        )


def drawn(seed: int) -> tuple[Endpoint, str, float]:
    """An endpoint at random: network, GPU, padding, fleet and faults; and by how much lengths are misjudged."""
    lot = random.Random(seed)
    profile = replace(
        Profile(),
        request_s=lot.uniform(0.02, 0.3),
        text_s=lot.uniform(0.0005, 0.005),
        step_s=lot.uniform(0.01, 0.1),
        tokens_per_s=10 ** lot.uniform(3.7, 5.0),
    )
    faulty = lot.random() < 0.5
    endpoint = Endpoint(
        profile=profile,
        instances=lot.choice([1, 1, 1, 2, 4]),
        pads=lot.random() < 0.3,
        model_errors=lot.uniform(0, 0.01) if faulty else 0.0,
        throttles=lot.uniform(0, 0.02) if faulty else 0.0,
        stalls=lot.uniform(0, 0.005) if faulty else 0.0,
    )
    return endpoint, lot.choice(["short", "mixed", "long"]), lot.uniform(0, 0.3)


def at_random(number: int, first: int) -> None:
    ratios: dict[bool, list[float]] = {True: [], False: []}
    against, worst, unfinished, lost_by_pool = [], 0.0, 0, 0
    for seed in range(first, first + number):
        endpoint, kind, wrong = drawn(seed)
        count_of = {"short": 20_000, "mixed": 8_000, "long": 800}[kind]
        true = lengths(kind, count_of, seed)
        mine = ours(endpoint, true, misjudged(true, wrong, seed), seed=seed, instances=endpoint.instances)
        theirs = pool(endpoint, true, seed=seed)
        unfinished += bool(mine.lost)
        lost_by_pool += bool(theirs.lost)
        padded = np.sort(true)  # a padding server's own time, if texts come in order of length
        whole = padded if not endpoint.pads else np.repeat(padded[63::64], 64)
        ratios[endpoint.pads].append(mine.seconds / bound_s(endpoint, whole))
        if not theirs.lost:
            against.append(theirs.seconds / mine.seconds)
        worst = max(worst, mine.p99_s)
    print(f"{number} endpoints, seeds {first}..{first + number - 1}: {number - unfinished} complete")
    print(f"  over the bound: {_summary(ratios[True] + ratios[False])}")
    print(f"  where the server does not pad ({len(ratios[False])}): {_summary(ratios[False])}")
    print(f"  worst p99 of a request in a run: {worst:.1f} s")
    print(f"  a pool of 10 x 64 lost texts in {lost_by_pool} runs; where not, it took as long: {_summary(against)}")


def _summary(ratios: Sequence[float]) -> str:
    return f"median {statistics.median(ratios):.2f}x, p90 {np.percentile(ratios, 90):.2f}x"


def online_once(rate: float, seconds: float, seed: int, *, coalesce: bool, endpoint: Endpoint) -> Outcome:
    """Queries of 12 tokens at a rate a second; direct: each is a request of its own, at once."""
    world = World(endpoint, seed)
    client = Ours(world, seed=seed)
    lot = random.Random(seed)
    calls: list[Call[Any]] = []
    direct: list[float] = []
    failed = arrived = 0
    one = np.array([12], dtype=np.int64)

    def arrive() -> None:
        nonlocal arrived
        arrived += 1
        if coalesce:
            calls.append(client.call(one, one, shared=True))
        else:
            began = world.now

            def told(error: errors.JinaSMError | None) -> None:
                nonlocal failed
                failed += error is not None
                direct.append(world.now - began)

            world.send([12], told)
        if world.now < seconds:
            world.at(world.now + lot.expovariate(rate), arrive)

    world.at(0.0, arrive)
    world.run(
        lambda: world.now >= seconds and (all(call.over for call in calls) if coalesce else len(direct) == arrived)
    )
    if coalesce:
        waits = [call.ended - call.began for call in calls if call.ended is not None]
        return Outcome(world.now, sum(call.error is not None for call in calls), waits=waits)
    return Outcome(world.now, failed, waits=direct)


def sustained(*, coalesce: bool, endpoint: Endpoint) -> int:
    """The highest rate, in queries a second, at which none fails and p99 stays under a second."""

    def holds(rate: int) -> bool:
        outcome = online_once(rate, 120, rate, coalesce=coalesce, endpoint=endpoint)
        return not outcome.lost and bool(np.percentile(outcome.waits, 99) < 1)

    low, high = 1, 2
    while holds(high):
        low, high = high, high * 2
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def online() -> None:
    print(f"{'offered':>10}   {'one by one':^26}   {'coalesced':^26}")
    print(f"{'q/s':>10}   {'p50 ms':>8}{'p99 ms':>9}{'failed':>9}   {'p50 ms':>8}{'p99 ms':>9}{'failed':>9}")
    endpoint = Endpoint()
    for rate in (2, 8, 14, 20, 100, 300):
        line = f"{rate:>10}"
        for coalesce in (False, True):
            outcome = online_once(rate, 120, 1, coalesce=coalesce, endpoint=endpoint)
            p50, p99 = (np.percentile(outcome.waits, at) * 1000 for at in (50, 99))
            line += f"   {p50:8.0f}{p99:9.0f}{outcome.lost / len(outcome.waits):9.1%}"
        print(line)
    alone, together = (sustained(coalesce=coalesce, endpoint=endpoint) for coalesce in (False, True))
    print(f"sustained with p99 under 1 s: {alone} q/s one by one, {together} q/s coalesced: {together / alone:.0f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bulk", "random", "online", "all"], nargs="?", default="all")
    parser.add_argument("--endpoints", type=int, default=60)
    parser.add_argument("--seed", type=int, help="Of the first endpoint; default: a new one each time.")
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    for what in ("bulk", "random", "online") if given.what == "all" else (given.what,):
        {"bulk": bulk, "random": lambda: at_random(given.endpoints, seed), "online": online}[what]()
        print()


if __name__ == "__main__":
    main()
