"""
How long an endpoint takes to answer: a queueing model of jina-embeddings-v3 on a GPU instance. No clock, no I/O.

    response time = F + p*n  (in parallel)  +  the wait for the one GPU worker, first come first served  +  s0 + T/R

for n texts of T tokens. An instance admits ten requests at once and the rest wait outside. Past 60 s the caller is
told that the invocation timed out; the work is done all the same, as AWS does not interrupt a container.

The numbers were fitted to Jina's published response times of 2025-01-31, where a "passage of 128 tokens" has 72 as
a tokenizer counts them: multiply published ("nominal") tokens by NOMINAL first. F and p hold the way to where the
publisher's client stood. The cap of ten is assumed. Singles and saturation are met within -15..+9 %; single batches
at concurrency 1 are published as up to six times slower than this, with 32 x 512 tokens slower than 32 x 1024.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

NOMINAL = 0.565
"""Tokens in one token of Jina's article."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The formula's constants, for one instance. Everything is multiplied by ``time_scale``, the limit too."""

    request_s: float = 0.140  # F
    text_s: float = 0.0042  # p
    step_s: float = 0.060  # s0
    tokens_per_s: float = 28_800  # R
    admitted: int = 10
    limit_s: float = 60.0
    time_scale: float = 1.0

    def before_s(self, texts: int) -> float:
        """From being admitted to asking for the GPU."""
        return (self.request_s + self.text_s * texts) * self.time_scale

    def work_s(self, tokens: float) -> float:
        """On the GPU."""
        return (self.step_s + tokens / self.tokens_per_s) * self.time_scale


PROFILES: Mapping[str, Profile] = {"ml.g5.xlarge": Profile()}


@dataclass(frozen=True)
class Done:
    """A caller has its answer. ``late``: that it took too long."""

    request: int
    at: float
    late: bool = False


@dataclass(eq=False)
class _Request:
    number: int
    texts: int
    tokens: float
    answered: bool = False


@dataclass(eq=False)
class _Instance:
    outside: deque[_Request] = field(default_factory=deque)
    inside: int = 0
    queue: deque[_Request] = field(default_factory=deque)
    busy: bool = False

    @property
    def outstanding(self) -> int:
        return len(self.outside) + self.inside


class Fleet:
    """The instances of one endpoint: arrivals go in, answers come out in the order of their times.

    ``random`` picks the instance, as AWS does unless the config says LEAST_OUTSTANDING_REQUESTS; None: the least
    busy one.

        fleet = Fleet(PROFILES["ml.g5.xlarge"], instances=2)
        fleet.arrive(0.0, texts=32, tokens=1600)
        for done in fleet.answers(): ...
    """

    def __init__(self, profile: Profile, *, instances: int = 1, random: Callable[[], float] | None = None) -> None:
        self._profile = profile
        self._instances = [_Instance() for _ in range(instances)]
        self._random = random
        self._events: list[tuple[float, int, Callable[[float], Done | None]]] = []
        self._arrived = 0
        self._numbered = 0

    def arrive(self, now: float, *, texts: int, tokens: float, since: float | None = None) -> int:
        """A request, whose number comes back. Times must not go back; ``now`` is never before the last ``advance``.

        ``since``: when it came, where that was known only later; its time runs from then. Its limit does not: on a
        small time scale what this machine needs is longer.
        """
        request = _Request(self._arrived, texts, tokens)
        self._arrived += 1
        self._at(now + self._profile.limit_s * self._profile.time_scale, partial(self._answer, request, late=True))
        instance = self._chosen()
        instance.outside.append(request)
        self._admit(instance, now, now if since is None else since)
        return request.number

    def next(self) -> float | None:
        """When something happens next; None: nothing is left to happen."""
        return self._events[0][0] if self._events else None

    def advance(self, now: float) -> list[Done]:
        """What was answered by now and has not been told."""
        done = []
        while self._events and self._events[0][0] <= now:
            at, _, act = heapq.heappop(self._events)
            if answered := act(at):
                done.append(answered)
        return done

    def answers(self) -> Iterator[Done]:
        """All that is to come if nothing more arrives; what arrives meanwhile is taken in."""
        while (at := self.next()) is not None:
            yield from self.advance(at)

    def _chosen(self) -> _Instance:
        if self._random:
            return self._instances[int(self._random() * len(self._instances))]
        return min(self._instances, key=lambda each: each.outstanding)

    def _admit(self, instance: _Instance, now: float, since: float) -> None:
        while instance.outside and instance.inside < self._profile.admitted:
            request = instance.outside.popleft()
            instance.inside += 1
            asks = max(now, since + self._profile.before_s(request.texts))
            self._at(asks, partial(self._ask, instance, request))

    def _ask(self, instance: _Instance, request: _Request, now: float) -> None:
        instance.queue.append(request)
        if not instance.busy:
            self._work(instance, now)

    def _work(self, instance: _Instance, now: float) -> None:
        instance.busy = bool(instance.queue)
        if instance.queue:
            request = instance.queue.popleft()
            self._at(now + self._profile.work_s(request.tokens), partial(self._finish, instance, request))

    def _finish(self, instance: _Instance, request: _Request, now: float) -> Done | None:
        instance.inside -= 1
        self._work(instance, now)
        self._admit(instance, now, now)
        return self._answer(request, now, late=False)

    def _answer(self, request: _Request, now: float, *, late: bool) -> Done | None:
        if request.answered:
            return None
        request.answered = True
        return Done(request.number, now, late)

    def _at(self, at: float, act: Callable[[float], Done | None]) -> None:
        self._numbered += 1
        heapq.heappush(self._events, (at, self._numbered, act))
