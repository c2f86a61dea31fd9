"""
Answers held back until the profile says that they are done, by the event loop's clock.

Vectors are worked out while their time passes. An endpoint has as many instances as its config says, and sends a
request to the least busy one if the config says so, else to any, as AWS does.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from weakref import WeakKeyDictionary

from jina_sm.local.container import Broken
from jina_sm.local.models import Encoder, Rounds
from jina_sm.local.profile import Fleet, Profile
from jina_sm.local.state import Deployment
from jina_sm.values import Vectors

TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)


ASYNC_LIMIT_S = 900.0
"""How long an asynchronous invocation may take, unless it says."""


class Pace:
    """One endpoint's instances, as callers see them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def late(self, texts: int, counted: int) -> bool:
        """Returns when the answer is due, or when it is too late for one: True."""
        loop = asyncio.get_running_loop()
        self._tell()
        request = self._fleet.arrive(loop.time(), texts=texts, tokens=counted)
        told: asyncio.Future[bool] = loop.create_future()
        self._waiting[request] = told
        self._tell()
        try:
            return await told
        finally:
            self._waiting.pop(request, None)

    def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer:
            self._timer.cancel()
        for done in self._fleet.advance(loop.time()):
            told = self._waiting.get(done.request)
            if told and not told.done():
                told.set_result(done.late)
        at = self._fleet.next()
        self._timer = None if at is None else loop.call_at(at, self._tell)


class Paces:
    """The pace of every deployment; a new config begins anew."""

    def __init__(self, profile: Profile, instances: int | None) -> None:
        self._profile = profile
        self._instances = instances
        self._known: WeakKeyDictionary[Deployment, Pace] = WeakKeyDictionary()

    def of(self, deployment: Deployment) -> Pace:
        if deployment not in self._known:
            variant = deployment.params["ProductionVariants"][0]
            routing = variant.get("RoutingConfig", {}).get("RoutingStrategy", "RANDOM")
            instances = self._instances or variant.get("InitialInstanceCount", 1)
            chance = None if routing == "LEAST_OUTSTANDING_REQUESTS" else random.random
            profile = self._profile
            if "AsyncInferenceConfig" in deployment.params:
                profile = replace(profile, limit_s=ASYNC_LIMIT_S)
            self._known[deployment] = Pace(Fleet(profile, instances=instances, random=chance))
        return self._known[deployment]


class _Counted:
    """An encoder that counts each text of one request once: the container asks first, then the profile."""

    def __init__(self, encoder: Encoder) -> None:
        self.embed = encoder.embed
        self._count = functools.cache(encoder.tokens)

    def tokens(self, text: str) -> int:
        return self._count(text)


class Paced(Rounds):
    """The encoder as one endpoint has it: each answer comes at its time."""

    def __init__(self, rounds: Rounds, pace: Pace) -> None:
        self.encoder = _Counted(rounds.encoder)
        self._rounds = rounds
        self._pace = pace

    def submit(self, texts: Sequence[str]) -> Future[Vectors]:
        held = self._held(texts, self._rounds.submit(texts))
        return asyncio.run_coroutine_threadsafe(held, asyncio.get_running_loop())

    async def _held(self, texts: Sequence[str], vectors: Future[Vectors]) -> Vectors:
        counted = await asyncio.to_thread(lambda: sum(map(self.encoder.tokens, texts)))
        if await self._pace.late(len(texts), counted):
            raise Broken(0, TIMED_OUT)
        return await asyncio.wrap_future(vectors)
