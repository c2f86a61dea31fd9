"""
What exists on the local stack, by region; and what time has made of it.

Nothing runs in the background: an endpoint remembers what is under way and since when, and whoever looks at it works
out what has become of that. So a test with its own clock sees every state and waits for none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jina_sm.catalog import Catalog, Model
from jina_sm.clock import Clock
from jina_sm.errors import InputError
from jina_sm.local.faults import REASONS
from jina_sm.local.scenario import Scenario

DELETED_AFTER_S = 5.0
"""The longest that a deletion takes; less where endpoints come up quickly."""


def wall() -> float:
    """The time as AWS writes it: seconds since 1970, to the millisecond."""
    return round(time.time(), 3)


@dataclass
class Made:
    """A model or an endpoint config: what it was made from, and its tags."""

    name: str
    arn: str
    params: Mapping[str, Any]
    tags: dict[str, str]
    created: float = field(default_factory=wall)


@dataclass(frozen=True, eq=False)
class Deployment:
    """What an endpoint runs: its config, and the package of each model, as they were when it was deployed.

    AWS lets both be deleted afterwards, and the endpoint serves on. A package of None is someone's own container.
    ``types`` are the instance types that were to be had, by variant; where none was, the variant is not there.
    """

    config: str
    params: Mapping[str, Any]
    packages: Mapping[str, str | None]
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """Why it cannot come up for want of instances; "": it can."""
        return "" if len(self.types) == len(self.params["ProductionVariants"]) else REASONS["capacity"]


@dataclass(frozen=True)
class Fate:
    """What is decreed for an endpoint that is being made or changed: how long it takes, and how it fails."""

    lasts: float | None = None
    failure: str = ""


ORDINARY = Fate()


@dataclass
class Endpoint:
    """An endpoint. ``doing`` is what is under way, ``since`` a time of the clock; ``failure`` is how that ends.

    An update that fails leaves the endpoint in service, as it was. ``stands`` is what it has settled as, where that is
    neither InService nor Failed.
    """

    name: str
    arn: str
    tags: dict[str, str]
    since: float
    lasts: float
    coming: Deployment | None
    doing: str | None = "Creating"
    failure: str = ""
    serving: Deployment | None = None
    stands: str = ""
    created: float = field(default_factory=wall)
    modified: float = field(default_factory=wall)

    @property
    def status(self) -> str:
        return self.doing or self.stands or ("InService" if self.serving else "Failed")

    @property
    def resizing(self) -> bool:
        """Whether what is under way gives it more instances or fewer, and leaves its config."""
        return bool(self.serving and self.coming and self.coming.config == self.serving.config)

    def begin(
        self, doing: str, *, now: float, lasts: float, coming: Deployment | None = None, failure: str = ""
    ) -> None:
        self.doing, self.since, self.lasts, self.modified = doing, now, lasts, wall()
        self.coming, self.failure = coming, failure

    def settle(self, now: float) -> bool:
        """Takes in what has happened by now. False: it is gone."""
        if self.doing and now - self.since >= self.lasts:
            if self.doing == "Deleting":
                return False
            if not self.failure:
                self.serving, self.coming = self.coming, None
            elif self.serving:
                self.coming = None
            self.doing = None
            self.modified = round(self.modified + self.lasts, 3)
        return True


@dataclass
class Scaled:
    """A scaling target, its tags, and its policies by name."""

    params: dict[str, Any]
    tags: dict[str, str]
    arn: str
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: float = field(default_factory=wall)


@dataclass
class Schedule:
    """A schedule: what it was made from, and the time at which it acts, as AWS writes it; None: it is not one-time."""

    params: dict[str, Any]
    due: float | None
    created: float = field(default_factory=wall)


@dataclass
class Group:
    """A group of schedules, by their names."""

    name: str
    arn: str
    tags: dict[str, str] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    created: float = field(default_factory=wall)


class Region:
    """What one account has in one region."""

    def __init__(self, name: str, account: str, clock: Clock, ready_after_s: float) -> None:
        self.name = name
        self.account = account
        self.clock = clock
        self.ready_after_s = ready_after_s
        self.deleted_after_s = min(DELETED_AFTER_S, ready_after_s / 4)
        self.models: dict[str, Made] = {}
        self.configs: dict[str, Made] = {}
        self.quota_requests: list[dict[str, Any]] = []
        self.invocations: Counter[tuple[str, int]] = Counter()  # by endpoint and minute, until CloudWatch is asked
        self.targets: dict[tuple[str, str], Scaled] = {}
        usual = f"arn:aws:scheduler:{name}:{account}:schedule-group/default"
        self.groups: dict[str, Group] = {"default": Group("default", usual)}
        self._endpoints: dict[str, Endpoint] = {}

    def arn(self, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{self.name}:{self.account}:{kind}/{name}"

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Those that are still there."""
        now = self.clock.now()
        self._endpoints = {name: each for name, each in self._endpoints.items() if each.settle(now)}
        return self._endpoints


@dataclass
class Agreement:
    """A subscription of the account."""

    agreement_id: str
    model: Model
    offer_id: str
    trial: bool = False
    accepted: float = field(default_factory=wall)
    status: str = "ACTIVE"


@dataclass
class Request:
    """A request for an agreement. It is accepted once it has an ``agreement_id``."""

    request_id: str
    model: Model
    offer_id: str
    trial: bool
    approving: bool = False
    cancelled: bool = False
    agreement_id: str = ""


class State:
    """One AWS account, all regions of it."""

    def __init__(
        self, *, account: str, catalog: Catalog, clock: Clock, ready_after_s: float, scenario: Scenario | None = None
    ) -> None:
        self.account = account
        self._scenario = scenario or Scenario()
        self.catalog = catalog
        self.clock = clock
        self.ready_after_s = ready_after_s
        self.reset()

    def of_another(self, account: str) -> State:
        """An account with nothing yet, in the same circumstances."""
        return State(
            account=account,
            catalog=self.catalog,
            clock=self.clock,
            ready_after_s=self.ready_after_s,
            scenario=self.scenario,
        )

    def reset(self) -> None:
        self.regions: dict[str, Region] = {}
        self.agreements: dict[str, Agreement] = {}
        self.requests: dict[str, Request] = {}
        self.tried: set[str] = set()  # the models whose free trial is used
        self.client_tokens: dict[str, str] = {}
        self.scenario = self._scenario

    def region(self, name: str) -> Region:
        if name not in self.regions:
            self.regions[name] = Region(name, self.account, self.clock, self.ready_after_s)
        return self.regions[name]

    def offered(self) -> list[Model]:
        """The models that the Marketplace has a package of."""
        return [model for model in self.catalog.models.values() if model.package or model.arns]

    def packaged(self, arn: str, region: str) -> Model | None:
        """The model whose package that is, in that region."""
        for model in self.offered():
            try:
                if self.catalog.package_arn(model, region) == arn:
                    return model
            except InputError:  # there is none in this region
                continue
        return None

    def subscribed(self, model: Model) -> bool:
        """Whether the account is entitled to a model."""
        return self.agreement(model) is not None and not self.scenario.payment

    def agreement(self, model: Model) -> Agreement | None:
        """The active agreement for a model, whether it entitles or not."""
        for agreement in self.agreements.values():
            if agreement.model.key == model.key and agreement.status == "ACTIVE":
                return agreement
        return None
