"""
Answers held back until the profile says that they are done, by the event loop's clock.

The whole answer is worked out while its time passes, which began when the request came: what this machine needs for
it shows only where the profile leaves less. An endpoint has as many instances as its config says, and sends a request
to the least busy one if the config says so, else to any, as AWS does.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from weakref import WeakKeyDictionary

from jina_sm.local.container import Broken
from jina_sm.local.models import Rounds
from jina_sm.local.state import Deployment
from jina_sm.profile import Fleet, Profile

TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)


ASYNC_LIMIT_S = 900.0
"""How long an asynchronous invocation may take."""


class Pace:
    """One endpoint's instances, as callers see them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def late(self, texts: int, counted: int, since: float) -> bool:
        """Returns when the answer to what came at ``since`` is due, or when it is too late for one: True."""
        loop = asyncio.get_running_loop()
        self._tell()
        request = self._fleet.arrive(loop.time(), texts=texts, tokens=counted, since=since)
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


class Paced(Rounds):
    """The encoder as one request to an endpoint has it, from when it came; the answer may go when it is due."""

    def __init__(self, rounds: Rounds, pace: Pace) -> None:
        self.encoder = rounds.encoder
        self.submit = rounds.submit  # type: ignore[method-assign]
        self._pace = pace
        self._since = asyncio.get_running_loop().time()
        self._late: asyncio.Task[bool] | None = None

    def begin(self, items: int, counted: int) -> None:
        self._late = asyncio.create_task(self._pace.late(items, counted, self._since))

    async def due(self) -> None:
        if self._late and await self._late:
            raise Broken(0, TIMED_OUT)
